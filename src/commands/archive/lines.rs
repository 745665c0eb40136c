//! Reads an export in the form of JSON lines.
//!
//! What a line means is for `ndjson`. **Invariant:** a line that is too long is skipped alone, and takes no
//! more memory than the longest line that a message can have.

use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;

use super::item::{Item, Wrong};
use crate::ndjson;

/// Bytes of a line besides the text of its message: names, digest, and members that are ignored.
const FRAME_BYTES_MAX: usize = 4096;

/// Bytes that an escape sequence adds to a line at most: `\u0000` has six bytes and stands for one.
const ESCAPE_BYTES_MAX: usize = 5;

/// Bytes of a line that are read before its length is checked again.
const PIECE_BYTES: u64 = 64 << 10;

pub(super) fn read(
    mut input: impl BufRead,
    message_bytes_max: usize,
    mut each: impl FnMut(Item) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut offset = 0;
    for number in 1.. {
        line.clear();
        let is_long = read_line(&mut input, message_bytes_max, &mut line)?;
        if line.is_empty() {
            break;
        }
        offset += line.len() as u64;
        let mut is_whole = line.ends_with(b"\n");
        // Counts, so that a number is what an editor says.
        if !is_long && line.trim_ascii().is_empty() {
            continue;
        }
        let content = if is_long {
            let skipped = input.skip_until(b'\n')?;
            offset += skipped as u64;
            is_whole = skipped > 0;
            Err(Wrong::TooLarge(message_bytes_max))
        } else {
            ndjson::read(&line).map_err(Wrong::from)
        };
        let content = content.and_then(|message| {
            if message.as_bytes().len() <= message_bytes_max {
                Ok(message)
            } else {
                Err(Wrong::TooLarge(message_bytes_max))
            }
        });
        let end = is_whole.then_some(offset);
        if each(Item {
            number,
            content,
            end,
        })
        .is_break()
        {
            break;
        }
    }
    Ok(())
}

/// Reads a line, with its newline, into `line`. Returns `true` if it stopped earlier, because the line is
/// longer than that of any message of `message_bytes_max` bytes, however it is escaped.
fn read_line(
    input: &mut impl BufRead,
    message_bytes_max: usize,
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut escapes = 0;
    loop {
        let start = line.len();
        let read = input.take(PIECE_BYTES).read_until(b'\n', line)?;
        if read == 0 || line.ends_with(b"\n") {
            return Ok(false);
        }
        let piece = line.get(start..).unwrap_or_default();
        #[expect(
            clippy::naive_bytecount,
            reason = "most lines are shorter than a piece"
        )]
        let more = piece.iter().filter(|&&byte| byte == b'\\').count();
        escapes += more;
        let text_bytes_min = line.len().saturating_sub(ESCAPE_BYTES_MAX * escapes);
        // That is too low where backslashes are escaped: each `\\` counts as two escapes.
        let line_bytes_max = (1 + ESCAPE_BYTES_MAX) * message_bytes_max + FRAME_BYTES_MAX;
        if text_bytes_min > message_bytes_max + FRAME_BYTES_MAX || line.len() > line_bytes_max {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn items(input: impl BufRead, message_bytes_max: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let result = read(input, message_bytes_max, |item| {
            items.push(item);
            ControlFlow::Continue(())
        });
        result.unwrap();
        items
    }

    #[test]
    fn a_line_with_too_large_a_message_is_refused_and_the_next_one_is_read() {
        const MAX: usize = 100_000;
        // Each character of the second and third takes six bytes of a line.
        for symbol in ["x", "\u{1}", "\u{0}"] {
            let mut lines = Vec::new();
            for bytes in [MAX, MAX + 1, 5 * MAX, 1] {
                ndjson::write(&mut lines, &Message::new(symbol.repeat(bytes)));
            }
            let items = items(lines.as_slice(), MAX);
            assert!(items[0].content.is_ok(), "{symbol:?}");
            assert_eq!(items[1].content, Err(Wrong::TooLarge(MAX)));
            assert_eq!(items[2].content, Err(Wrong::TooLarge(MAX)));
            assert!(items[3].content.is_ok());
            assert_eq!(items[3].end, Some(lines.len() as u64));
            assert_eq!(items.len(), 4);
        }
    }

    #[test]
    fn blank_lines_are_skipped_but_counted() {
        let mut lines = b"\n \t\r\n".to_vec();
        ndjson::write(&mut lines, &Message::new("foo"));
        lines.extend(b"\n\x0c\n");
        ndjson::write(&mut lines, &Message::new("bar"));
        lines.extend(b"\n\n");
        let items = items(lines.as_slice(), 100);
        let numbers: Vec<_> = items.iter().map(|item| item.number).collect();
        assert_eq!(numbers, [3, 6]);
        assert!(items.iter().all(|item| item.content.is_ok()));
        assert_eq!(items[1].end, Some(lines.len() as u64 - 2));
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        for (byte, times) in [(b'x', 1), (b'\\', 1 + ESCAPE_BYTES_MAX)] {
            let mut line = Vec::new();
            let mut endless = io::BufReader::new(io::repeat(byte).take(16 << 20));
            assert!(read_line(&mut endless, 1 << 20, &mut line).unwrap());
            assert!(
                line.len() <= times * (1 << 20) + (128 << 10),
                "{}",
                line.len()
            );
        }
    }
}
