//! Messages as lines: the form in which they leave a store and come into another.
//!
//! A line is `{"digest":"<64 digits>","message":"<text>"}`. Whoever reads one believes nothing: the
//! text must have the digest that the line says. This room knows no files and no sockets; errors never
//! quote a text.

use std::borrow::Cow;

use serde::Deserialize;

use crate::digest::Digest;
use crate::message::Message;
use crate::text;

/// What a line begins with.
pub const START: &[u8] = b"{\"digest\":\"";

/// Appends the line of a message.
pub fn write(lines: &mut Vec<u8>, message: &Message) {
    write_line(lines, &message.digest(), "message", message.text());
}

/// Appends the line of a message whose text cannot be read. It is no message, and is refused when read.
pub fn write_missing(lines: &mut Vec<u8>, digest: &Digest, reason: &str) {
    write_line(lines, digest, "error", reason);
}

fn write_line(lines: &mut Vec<u8>, digest: &Digest, name: &str, text: &str) {
    lines.extend_from_slice(START);
    lines.extend_from_slice(&digest.to_hex());
    lines.extend_from_slice(b"\",\"");
    lines.extend_from_slice(name.as_bytes());
    lines.extend_from_slice(b"\":");
    write_string(lines, text);
    lines.extend_from_slice(b"}\n");
}

/// Appends a text as JSON. Few texts have anything to escape, and to see that is cheap.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a string is always JSON, a vector always takes more; half a text must not leave a store"
)]
pub fn write_string(bytes: &mut Vec<u8>, text: &str) {
    let is_plain = |byte| byte >= b' ' && byte != b'"' && byte != b'\\';
    // Without a way out of the loop, the compiler takes many bytes at once.
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        bytes.push(b'"');
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'"');
    } else {
        serde_json::to_writer(bytes, text).expect("a string is JSON");
    }
}

/// Why a line is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is not JSON.
    #[error("not JSON at column {column}")]
    Syntax {
        /// Where reading stopped.
        column: usize,
    },
    /// It begins with a byte order mark, which is invisible.
    #[error(
        "begins with a byte order mark (U+FEFF), which may stand once, at the very start, and nowhere else"
    )]
    Mark,
    /// It has another form.
    #[error("not an object with the strings \"digest\" and \"message\"")]
    Form,
    /// Its digest is not one.
    #[error("its \"digest\" is not 64 hexadecimal digits")]
    Digest,
    /// Its text has another digest.
    #[error("its message has the digest {actual}, not {stated}")]
    Mismatch {
        /// What the line says.
        stated: Digest,
        /// What is so.
        actual: Digest,
    },
    /// The message could not be had where the line was written.
    #[error("message {digest} was missing where this was exported from")]
    Missing {
        /// The message.
        digest: Digest,
    },
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    digest: Cow<'a, str>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
}

/// The message of a line, with its end or without. Unknown members are ignored.
///
/// # Errors
/// See [`LineError`].
pub fn read(line: &[u8]) -> Result<Message, LineError> {
    if text::skip_mark(line).len() < line.len() {
        return Err(LineError::Mark);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| {
        if error.is_data() {
            LineError::Form
        } else {
            LineError::Syntax {
                column: error.column(),
            }
        }
    })?;
    let stated: Digest = line.digest.parse().map_err(|_| LineError::Digest)?;
    let text = match (line.message, line.error) {
        (Some(text), _) => text,
        (None, Some(_)) => return Err(LineError::Missing { digest: stated }),
        (None, None) => return Err(LineError::Form),
    };
    let message = Message::new(text.into_owned());
    let actual = message.digest();
    if actual == stated {
        Ok(message)
    } else {
        Err(LineError::Mismatch { stated, actual })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOO: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    fn line(message: &Message) -> Vec<u8> {
        let mut line = Vec::new();
        write(&mut line, message);
        line
    }

    #[test]
    fn a_line_is_an_object_without_spaces() {
        let line = String::from_utf8(line(&Message::new("foo"))).unwrap();
        assert_eq!(
            line,
            format!("{{\"digest\":\"{FOO}\",\"message\":\"foo\"}}\n")
        );
    }

    #[test]
    fn every_character_is_written_as_by_everybody() {
        for character in (0..0x250).chain([0x2028, 0xffff, 0x1_f600]) {
            let text = format!("a{}z", char::from_u32(character).unwrap());
            let mut bytes = Vec::new();
            write_string(&mut bytes, &text);
            assert_eq!(bytes, serde_json::to_vec(&text).unwrap(), "{text:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_refused_without_quoting_it() {
        let other = Digest::of(b"secret");
        for (line, error) in [
            ("secret".to_owned(), LineError::Syntax { column: 1 }),
            ("\"secret\"".into(), LineError::Form),
            ("{}".into(), LineError::Form),
            (format!("{{\"digest\":\"{FOO}\"}}"), LineError::Form),
            (
                format!("{{\"digest\":\"{FOO}\",\"message\":4711}}"),
                LineError::Form,
            ),
            (
                "{\"digest\":\"secret\",\"message\":\"\"}".into(),
                LineError::Digest,
            ),
            (
                format!("{{\"digest\":\"{FOO}\",\"message\":\"secret\"}}"),
                LineError::Mismatch {
                    stated: Digest::of(b"foo"),
                    actual: other,
                },
            ),
        ] {
            let refused = read(line.as_bytes()).unwrap_err();
            assert_eq!(refused, error, "{line}");
            let text = refused.to_string();
            assert!(!text.contains("secret") && !text.contains("4711"), "{text}");
        }
    }

    #[test]
    fn a_message_that_could_not_be_had_says_so_when_read() {
        let digest = Digest::of(b"foo");
        let mut line = Vec::new();
        write_missing(&mut line, &digest, "damaged");
        assert_eq!(read(&line), Err(LineError::Missing { digest }));
    }

    #[test]
    fn two_messages_in_a_line_are_refused() {
        let twice = format!("{{\"digest\":\"{FOO}\",\"message\":\"foo\",\"message\":\"foo\"}}");
        assert_eq!(read(twice.as_bytes()), Err(LineError::Form));
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text: String) {
            let message = Message::new(text);
            let line = line(&message);
            prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
            prop_assert_eq!(read(&line), Ok(message));
        }
    }
}
