//! Charsets and byte order marks: how the bytes of a body become text.
//!
//! There is one charset, UTF-8, under the names that it and its subset have; a label of anything else is refused
//! before the body is read. A byte order mark is no part of JSON (RFC 8259, 8.1), and one of a plain text is part
//! of the message, whose digest is that of all its bytes.

use bytes::Bytes;
use bytestring::ByteString;

use crate::text::Encoding;

/// Labels of UTF-8 (Encoding standard, 4.2).
const UTF_8: [&str; 6] = [
    "utf-8",
    "utf8",
    "unicode-1-1-utf-8",
    "unicode11utf8",
    "unicode20utf8",
    "x-unicode20utf8",
];

/// Names of US-ASCII in the registry of IANA, and the one that everybody uses. The Encoding standard takes them for
/// Windows-1252.
const ASCII: [&str; 11] = [
    "us-ascii",
    "ascii",
    "ansi_x3.4-1968",
    "ansi_x3.4-1986",
    "cp367",
    "csascii",
    "ibm367",
    "iso-ir-6",
    "iso646-us",
    "iso_646.irv:1991",
    "us",
];

/// What a body is said to be written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Charset {
    #[default]
    Utf8,
    /// The same characters as in UTF-8, as long as there are no others. Where there are, nobody knows what was
    /// meant.
    Ascii,
}

/// Why bytes are not the text that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TextError {
    #[error("is not UTF-8: invalid byte at offset {0}")]
    NotUtf8(usize),
    #[error(
        "is not UTF-8 but {0}, as its first bytes say; convert it (iconv -f {0} -t UTF-8, or in PowerShell \
         Out-File -Encoding utf8 instead of >): invalid byte at offset 0"
    )]
    Encoding(Encoding),
    #[error(
        "has a byte at offset {0} that is not ASCII, as its charset says it is; send UTF-8 and say charset=utf-8, \
         or no charset"
    )]
    NotAscii(usize),
}

impl Charset {
    /// Reads a label, whatever its case and the space around it.
    pub(super) fn of(label: &str) -> Option<Self> {
        let label = label.trim_ascii();
        let is = |name: &&str| label.eq_ignore_ascii_case(name);
        if UTF_8.iter().any(is) {
            Some(Self::Utf8)
        } else {
            ASCII.iter().any(is).then_some(Self::Ascii)
        }
    }

    /// The text of a body, or of a line of one. Copies nothing.
    pub(super) fn text(self, bytes: &Bytes) -> Result<ByteString, TextError> {
        if self == Self::Ascii
            && let Some(offset) = bytes.iter().position(|byte| !byte.is_ascii())
        {
            return Err(TextError::NotAscii(offset));
        }
        ByteString::try_from(bytes.clone()).map_err(|error| {
            // Its zeros alone prove nothing: a plain text may have some.
            let has_mark = matches!(
                **bytes,
                [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 0, 0xfe, 0xff, ..]
            );
            let encoding = Encoding::of(bytes).filter(|_| has_mark);
            encoding.map_or_else(
                || TextError::NotUtf8(error.valid_up_to()),
                TextError::Encoding,
            )
        })
    }
}

/// A text of JSON without the byte order mark that editors put in front of it.
pub(super) fn without_mark(text: ByteString) -> ByteString {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => text.slice_ref(rest),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_8_has_the_labels_that_browsers_know() {
        for label in UTF_8
            .into_iter()
            .chain(["UTF-8", "Utf8", " utf-8\t", "UNICODE-1-1-UTF-8"])
        {
            assert_eq!(Charset::of(label), Some(Charset::Utf8), "{label}");
        }
        for label in ASCII.into_iter().chain(["US-ASCII", "Ascii"]) {
            assert_eq!(Charset::of(label), Some(Charset::Ascii), "{label}");
        }
        for label in [
            "",
            "utf",
            "utf-7",
            "utf-16",
            "utf16le",
            "utf-32",
            "utf 8",
            "utf_8",
            "utf-8-sig",
            "'utf-8'",
            "latin1",
            "iso-8859-1",
            "windows-1252",
            "ascii8",
            "cesu-8",
            "binary",
            "unicode",
        ] {
            assert_eq!(Charset::of(label), None, "{label}");
        }
    }

    fn text(charset: Charset, bytes: &[u8]) -> Result<String, TextError> {
        let text = charset.text(&Bytes::copy_from_slice(bytes))?;
        Ok(text.to_string())
    }

    #[test]
    fn what_is_said_to_be_ascii_is() {
        assert_eq!(text(Charset::Ascii, b"foo\0\x7f").unwrap(), "foo\0\u{7f}");
        for (bytes, offset) in [("b\u{fc}", 1), ("\u{feff}{}", 0)] {
            let refused = text(Charset::Ascii, bytes.as_bytes());
            assert_eq!(refused, Err(TextError::NotAscii(offset)));
            assert_eq!(text(Charset::Utf8, bytes.as_bytes()).unwrap(), bytes);
        }
    }

    #[test]
    fn utf_16_is_named_where_its_mark_begins_a_body() {
        use Encoding::{Utf16, Utf32};
        for (bytes, error) in [
            (&b"\xff\xfe{\0"[..], TextError::Encoding(Utf16)),
            (b"\xfe\xff\0{", TextError::Encoding(Utf16)),
            (b"\xff\xfe", TextError::Encoding(Utf16)),
            (b"\xff\xfe\0\0{\0\0\0", TextError::Encoding(Utf32)),
            (b"\0\0\xfe\xff\0\0\0{", TextError::Encoding(Utf32)),
            (b"\xff", TextError::NotUtf8(0)),
            (b"a\xff\xfe", TextError::NotUtf8(1)),
            (b"a\0\xff", TextError::NotUtf8(2)),
        ] {
            assert_eq!(
                text(Charset::Utf8, bytes),
                Err(error),
                "{}",
                bytes.escape_ascii()
            );
        }
        // Zeros are characters.
        assert_eq!(text(Charset::Utf8, b"a\0b\0").unwrap(), "a\0b\0");
    }

    #[test]
    fn one_mark_at_the_beginning_is_no_part_of_json() {
        for (bytes, rest) in [
            ("\u{feff}{}", "{}"),
            ("\u{feff}\u{feff}{}", "\u{feff}{}"),
            (" \u{feff}{}", " \u{feff}{}"),
            ("\u{feff}", ""),
            ("{}", "{}"),
        ] {
            assert_eq!(without_mark(bytes.into()), rest);
        }
    }
}
