//! What a client sends over HTTP/2 beside requests and their bodies: control frames, told by their heads.
//!
//! h2 answers pings and settings without end, whatever else a connection does. So the heads of all frames,
//! nine bytes each (RFC 9113, 4.1), are read as they pass, and control frames are charged in full. Requests
//! pay for them, and bytes that are sent either way, so that a client may say what belongs to those; beyond
//! that a connection has an allowance. Resets are counted as well, since a request that is given up costs the server
//! as much as another (CVE-2023-44487). HEADERS, CONTINUATION and DATA with something in it are not charged,
//! whichever stream they are for: h2 counts the streams that it refuses or resets, those beyond the open ones
//! among them, and ends the connection after 256 (`H2_LOCAL_RESETS_MAX`); time and size limit the others.
//!
//! It refuses to know what a frame means or whether it is a right one: that is for h2 to say. **Invariant:** the
//! charge is the same wherever the bytes are cut.

/// What HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection may bring for nothing: settings, windows and priorities at its start, and a ping a second
/// for an hour.
const ALLOWANCE_BYTES: u64 = 64 << 10;

/// What a request adds to that. A client that gives it a priority (23), enlarges two windows (26), sends a ping
/// to measure the line (17), ends its body with an empty frame (9) and gives it up (13) takes 88.
const REQUEST_ALLOWANCE_BYTES: u64 = 128;

/// So many bytes that are sent, either way, add one. The most talkative client known, that of Go, enlarges
/// two windows for each 4 KiB if it is read in such pieces: 26 bytes, one for 157.
const SENT_BYTES_PER_ALLOWANCE: u64 = 128;

/// A client may give up every second request, one for so many bytes that are sent either way, and some more:
/// rapid reset is requests given up before anything is sent, one after the other. Envoy has the same bounds
/// (`overload.premature_reset_total_stream_count`).
const RESETS: u64 = 500;
const REQUESTS_PER_RESET: u64 = 2;
const SENT_BYTES_PER_RESET: u64 = 4 << 10;

const HEAD_BYTES: usize = 9;
/// Of a head, its length and type.
const NAMED_BYTES: usize = 4;

// Types of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Whether a connection has frames, and which came.
#[derive(Debug)]
pub(super) enum FrameCounter {
    /// So many bytes of the preface came.
    Beginning(usize),
    /// HTTP/1.1 has none.
    Http1,
    Http2(Frames),
}

/// The frames that came so far.
#[derive(Debug)]
pub(super) struct Frames {
    part: Part,
    charged_bytes: u64,
    data_bytes: u64,
    resets: u64,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// A head, of which so many bytes came.
    Head { named: u64, came: usize },
    /// A payload, of which so many bytes are missing.
    Payload(u64),
}

impl FrameCounter {
    pub(super) fn new() -> Self {
        Self::Beginning(0)
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Reads what came next; returns all frames so far, unless there are none.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<&Frames> {
        let mut bytes = bytes;
        if let Self::Beginning(came) = *self {
            let missing = PREFACE.get(came..).unwrap_or_default();
            let (start, rest) = bytes.split_at(bytes.len().min(missing.len()));
            *self = match missing.strip_prefix(start) {
                None => Self::Http1,
                Some([]) => Self::Http2(Frames::new()),
                Some(_) => Self::Beginning(came + start.len()),
            };
            bytes = rest;
        }
        match self {
            Self::Beginning(_) | Self::Http1 => None,
            Self::Http2(frames) => {
                frames.read(bytes);
                Some(frames)
            }
        }
    }
}

impl Frames {
    fn new() -> Self {
        Self {
            part: Part::HEAD,
            charged_bytes: 0,
            data_bytes: 0,
            resets: 0,
        }
    }

    /// Whether it is more than goes with so many requests and so many bytes of answers.
    pub(super) fn are_too_many(&self, requests: u64, written_bytes: u64) -> bool {
        let sent_bytes = self.data_bytes.saturating_add(written_bytes);
        let allowed = ALLOWANCE_BYTES
            .saturating_add(REQUEST_ALLOWANCE_BYTES.saturating_mul(requests))
            .saturating_add(sent_bytes / SENT_BYTES_PER_ALLOWANCE);
        let resets_allowed =
            RESETS + requests / REQUESTS_PER_RESET + sent_bytes / SENT_BYTES_PER_RESET;
        self.charged_bytes > allowed || self.resets > resets_allowed
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while let [first, after_first @ ..] = bytes {
            (self.part, bytes) = match self.part {
                Part::Head { named, came } => {
                    let named = if came < NAMED_BYTES {
                        named << 8 | u64::from(*first)
                    } else {
                        named
                    };
                    let part = match came + 1 {
                        HEAD_BYTES => self.begin(named),
                        came => Part::Head { named, came },
                    };
                    (part, after_first)
                }
                Part::Payload(missing) => {
                    let missing_here = usize::try_from(missing).unwrap_or(usize::MAX);
                    let (came, rest) = bytes.split_at(bytes.len().min(missing_here));
                    (Part::payload(missing - came.len() as u64), rest)
                }
            };
        }
    }

    /// Begins the frame with this length and type.
    fn begin(&mut self, named: u64) -> Part {
        let [.., a, b, c, kind] = named.to_be_bytes();
        let length = u64::from(a) << 16 | u64::from(b) << 8 | u64::from(c);
        match kind {
            DATA if length > 0 => self.data_bytes = self.data_bytes.saturating_add(length),
            HEADERS | CONTINUATION => {}
            _ => {
                let bytes = HEAD_BYTES as u64 + length;
                self.charged_bytes = self.charged_bytes.saturating_add(bytes);
                self.resets += u64::from(kind == RST_STREAM);
            }
        }
        Part::payload(length)
    }
}

impl Part {
    const HEAD: Self = Self::Head { named: 0, came: 0 };

    fn payload(missing: u64) -> Self {
        match missing {
            0 => Self::HEAD,
            missing => Self::Payload(missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const UNKNOWN: u8 = 0xfe;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What is charged for `frames`, the data in them, and the resets.
    fn counted(frames: &[Vec<u8>]) -> (u64, u64, u64) {
        let mut counter = FrameCounter::new();
        let bytes = [PREFACE, &frames.concat()].concat();
        let frames = counter.read(&bytes).unwrap();
        (frames.charged_bytes, frames.data_bytes, frames.resets)
    }

    #[test]
    fn control_frames_are_charged_and_requests_and_data_are_not() {
        for kind in [
            2,
            RST_STREAM,
            SETTINGS,
            5,
            PING,
            7,
            WINDOW_UPDATE,
            16,
            UNKNOWN,
        ] {
            let resets = u64::from(kind == RST_STREAM);
            assert_eq!(
                counted(&[frame(kind, 0, &[0; 8])]),
                (17, 0, resets),
                "{kind}"
            );
        }
        assert_eq!(counted(&[frame(SETTINGS, 0, &[])]), (9, 0, 0));
        let request = [
            frame(HEADERS, 0, &[0; 16_000]),
            frame(CONTINUATION, 4, &[0; 16_000]),
            frame(DATA, 1, &[0; 16_000]),
        ];
        assert_eq!(counted(&request), (0, 16_000, 0));
        assert_eq!(counted(&[frame(DATA, 1, &[])]), (9, 0, 0));
    }

    #[test]
    fn what_is_not_http2_has_no_frames() {
        for start in [
            "GET / HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r\n",
        ] {
            for cut in 0..start.len() {
                let mut counter = FrameCounter::new();
                let (before, after) = start.as_bytes().split_at(cut);
                assert!(counter.read(before).is_none());
                assert!(counter.read(after).is_none());
                assert!(matches!(counter, FrameCounter::Http1), "{start:?} {cut}");
                assert!(counter.read(&frame(PING, 0, &[0; 8])).is_none());
            }
        }
    }

    #[test]
    fn a_connection_has_an_allowance_which_requests_and_data_enlarge() {
        let of = |charged_bytes, data_bytes| Frames {
            charged_bytes,
            data_bytes,
            ..Frames::new()
        };
        assert!(!of(64 << 10, 0).are_too_many(0, 0));
        assert!(of((64 << 10) + 1, 0).are_too_many(0, 127));
        assert!(!of((64 << 10) + 1, 0).are_too_many(0, 128));
        assert!(!of((64 << 10) + 1, 64).are_too_many(0, 64));
        assert!(!of((64 << 10) + 128, 0).are_too_many(1, 0));
        assert!(of((64 << 10) + 129, 0).are_too_many(1, 0));
    }

    /// What a client sends for a request that it gives up, with the windows enlarged for 100 bytes of answer.
    fn talkative_request() -> Vec<u8> {
        [
            frame(HEADERS, 5, &[0; 300]),
            frame(16, 0, &[0; 14]),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
            frame(PING, 0, &[0; 8]),
            frame(DATA, 1, &[]),
        ]
        .concat()
    }

    fn reset() -> Vec<u8> {
        frame(RST_STREAM, 0, &[0; 4])
    }

    #[test]
    fn ten_thousand_requests_of_a_talkative_client_are_within_their_allowance() {
        let mut counter = FrameCounter::new();
        counter.read(PREFACE);
        for number in 1..=10_000 {
            let mut frames = counter.read(&talkative_request()).unwrap();
            if number % 2 == 0 {
                frames = counter.read(&reset()).unwrap();
            }
            assert!(!frames.are_too_many(number, number * 100), "{number}");
        }
    }

    /// How many requests a client may give up in a row, each after so many bytes of its answer.
    fn given_up_in_a_row(sent_bytes: u64) -> Option<u64> {
        let mut counter = FrameCounter::new();
        counter.read(PREFACE);
        (1..10_000).find(|&number| {
            let given_up = [talkative_request(), reset()].concat();
            let frames = counter.read(&given_up).unwrap();
            frames.are_too_many(number, sent_bytes * number)
        })
    }

    #[test]
    fn requests_that_are_given_up_one_after_the_other_are_a_flood() {
        assert_eq!(given_up_in_a_row(0), Some(1001));
        assert_eq!(given_up_in_a_row(40), Some(1019));
        assert_eq!(given_up_in_a_row(2048), None);
    }

    #[test]
    fn a_download_read_in_small_pieces_is_within_its_allowance() {
        let mut counter = FrameCounter::new();
        counter.read(PREFACE);
        let windows = frame(WINDOW_UPDATE, 0, &[0; 4]).repeat(2);
        for piece in 1..=(1 << 30) / 4096 {
            let frames = counter.read(&windows).unwrap();
            assert!(!frames.are_too_many(1, piece * 4096), "{piece}");
        }
    }

    proptest! {
        #[test]
        fn the_charge_is_the_same_wherever_the_bytes_are_cut(
            frames in prop::collection::vec(
                (
                    prop::sample::select(vec![DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION, UNKNOWN]),
                    any::<u8>(),
                    prop::collection::vec(any::<u8>(), 0..40),
                ),
                0..20,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let frames: Vec<_> = frames
                .iter()
                .map(|(kind, flags, payload)| frame(*kind, *flags, payload))
                .collect();
            let whole = counted(&frames);
            // Each by itself makes the sum of all.
            let sum = frames.iter().fold((0, 0, 0), |(charged, data, resets), one| {
                let one = counted(std::slice::from_ref(one));
                (charged + one.0, data + one.1, resets + one.2)
            });
            prop_assert_eq!(whole, sum);
            let bytes = [PREFACE, &frames.concat()].concat();
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let mut counter = FrameCounter::new();
            let mut start = 0;
            for end in ends {
                counter.read(&bytes[start..end]);
                start = end;
            }
            let FrameCounter::Http2(cut) = counter else {
                panic!("the preface was not seen");
            };
            prop_assert_eq!((cut.charged_bytes, cut.data_bytes, cut.resets), whole);
        }
    }
}
