//! What a client sends over HTTP/2, thrown at what counts its frames; see [`crate::fuzz`].

use super::frames::FrameCounter;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A byte that says how long a piece is, and what follows the preface, or stands in its place.
pub fn frames(bytes: &[u8]) {
    let [piece, rest @ ..] = bytes else {
        return;
    };
    let begun = [PREFACE, rest].concat();
    let (charged, data, resets) = charge(rest);
    let expected = format!("charged_bytes: {charged}, data_bytes: {data}, resets: {resets} ");
    for bytes in [rest, &begun] {
        let mut counter = FrameCounter::new();
        let whole = counter.read(bytes).map(|frames| format!("{frames:?}"));
        let mut counter = FrameCounter::new();
        for piece in bytes.chunks(usize::from(*piece) + 1) {
            let frames = counter.read(piece);
            // Who asks and sends enough may send all of them.
            assert!(frames.is_none_or(|frames| !frames.are_too_many(u64::MAX, 0)));
        }
        let in_pieces = counter.read(&[]).map(|frames| format!("{frames:?}"));
        assert_eq!(in_pieces, whole);
        if bytes == begun {
            let whole = whole.unwrap_or_default();
            assert!(whole.contains(&expected), "{whole}: {expected}");
        }
    }
}

/// What frames are charged, the data in them, and how many of them are resets, read as RFC 9113 has them (4.1).
fn charge(mut bytes: &[u8]) -> (usize, usize, usize) {
    let (mut charged, mut data, mut resets) = (0, 0, 0);
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        match kind {
            0 if length > 0 => data += length,
            1 | 9 => {}
            _ => {
                charged += 9 + length;
                resets += usize::from(*kind == 3);
            }
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    (charged, data, resets)
}
