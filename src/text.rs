//! Texts as editors and other programs write them: byte order marks, and encodings other than UTF-8; and what of
//! a text may be shown on a terminal.
//!
//! One place for everything that is read as text: files of tokens and networks, exports, bodies of requests.
//! A message itself is no such text: every byte of it counts, a mark too. **Invariant:** a mark is skipped at
//! the very start and nowhere else, and nothing is ever converted.

use std::fmt;

/// U+FEFF in UTF-8, which some programs put at the start of a text (RFC 3629, section 6).
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What follows a byte order mark at the start of `bytes`; all of them if there is none.
#[must_use]
pub fn skip_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// An encoding of Unicode that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Two bytes for most characters: what Windows calls Unicode.
    Utf16,
    /// Four bytes for each character.
    Utf32,
}

impl Encoding {
    /// The encoding of a text that begins with `bytes`, by its mark or by the zeros in its first character.
    /// `None` may be UTF-8 or anything else. Of no use for a text that may have U+0000 there. Looks at four
    /// bytes; RFC 4627, section 3, has the patterns.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xfe, 0, 0, ..]
            | [0, 0, 0xfe, 0xff, ..]
            | [1..=255, 0, 0, 0, ..]
            | [0, 0, 0, 1..=255, ..] => Some(Self::Utf32),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [1..=255, 0, ..] | [0, 1..=255, ..] => {
                Some(Self::Utf16)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Utf16 => "UTF-16",
            Self::Utf32 => "UTF-32",
        })
    }
}

/// Why bytes are no text. What they are is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUtf8 {
    /// They have another encoding.
    #[error("{0} instead of UTF-8: save it as UTF-8")]
    Encoding(Encoding),
    /// They have none that can be told.
    #[error("not UTF-8: invalid byte at offset {offset}")]
    Byte {
        /// Where the first byte is that cannot be, from 0.
        offset: usize,
    },
}

impl NotUtf8 {
    /// What is wrong with `bytes`, which are not UTF-8 from `offset` on.
    #[must_use]
    pub fn new(bytes: &[u8], offset: usize) -> Self {
        Encoding::of(bytes).map_or(Self::Byte { offset }, Self::Encoding)
    }
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// If it is not UTF-8. Offsets count the mark.
pub fn read(bytes: &[u8]) -> Result<&str, NotUtf8> {
    if let Some(encoding) = Encoding::of(bytes) {
        return Err(NotUtf8::Encoding(encoding));
    }
    let text = skip_mark(bytes);
    str::from_utf8(text).map_err(|error| NotUtf8::Byte {
        offset: bytes.len() - text.len() + error.valid_up_to(),
    })
}

/// The text with everything escaped that a terminal obeys, or that makes the rest look as if it said
/// something else.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for symbol in text.chars() {
        if is_printable(symbol) {
            printable.push(symbol);
        } else {
            printable.extend(symbol.escape_default());
        }
    }
    printable
}

/// Neither a control character, a line break among them, nor one that is invisible or turns the direction of
/// writing.
fn is_printable(symbol: char) -> bool {
    let is_hidden = matches!(
        symbol,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    );
    !symbol.is_control() && !is_hidden
}

/// The sections of PEM (RFC 7468) in a text, with line ends where they belong, and with the labels of today: what
/// stands in one line, is indented, or has `\n` written out, as values of variables and of YAML are, is the same.
/// One with fields before its content, or without an end, is left out.
#[must_use]
pub fn tidy_pem(text: &str) -> String {
    const LINE_BYTES: usize = 64;
    let mut tidy = String::new();
    let mut rest = text;
    while let Some((label, begun)) = next_pem_label(rest) {
        rest = begun;
        let Some((content, after)) = begun.split_once(&format!("-----END {label}-----")) else {
            continue;
        };
        rest = after;
        let content = content.replace("\\r", "").replace("\\n", "");
        let symbols: Vec<_> = content
            .chars()
            .filter(|it| !it.is_ascii_whitespace())
            .collect();
        if symbols.contains(&':') {
            continue;
        }
        let label = match label {
            "X509 CERTIFICATE" | "X.509 CERTIFICATE" => "CERTIFICATE",
            label => label,
        };
        tidy.extend(["-----BEGIN ", label, "-----\n"]);
        for line in symbols.chunks(LINE_BYTES) {
            tidy.extend(line);
            tidy.push('\n');
        }
        tidy.extend(["-----END ", label, "-----\n"]);
    }
    tidy
}

/// The labels of the sections that begin in a text.
pub fn pem_labels(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (label, begun) = next_pem_label(rest)?;
        rest = begun;
        Some(label)
    })
}

/// The label of the section that begins next, and what follows it.
fn next_pem_label(text: &str) -> Option<(&str, &str)> {
    let (_, begun) = text.split_once("-----BEGIN ")?;
    begun.split_once("-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_its_lines_however_it_came() {
        let base64 = "QUJD".repeat(20);
        let lines = format!("{}\n{}\n", &base64[..64], &base64[64..]);
        let expected = format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n");
        for label in ["CERTIFICATE", "X509 CERTIFICATE", "X.509 CERTIFICATE"] {
            let (begin, end) = (
                format!("-----BEGIN {label}-----"),
                format!("-----END {label}-----"),
            );
            for text in [
                format!("{begin}\n{lines}{end}"),
                format!("{begin}{base64}{end}"),
                format!("\"{begin} {base64} {end}\""),
                format!("Bag Attributes\r\n  {begin}\r\n\t{base64}\r\n  {end}\r\n"),
                format!("{begin}\\n{base64}\\r\\n{end}\\n"),
                // What has no end, or fields, is none.
                format!("{begin}\nA: b\n\nQUJD\n{end}\n{begin}{base64}{end}\n{begin}\nQUJD"),
            ] {
                assert_eq!(tidy_pem(&text), expected, "{text:?}");
            }
        }
        for text in [
            "",
            "QUJD",
            "-----BEGIN A",
            "-----BEGIN A-----\nQUJD\n-----END B-----",
        ] {
            assert_eq!(tidy_pem(text), "", "{text:?}");
        }
        let both = "-----BEGIN A----------END A----------BEGIN B-----";
        assert_eq!(pem_labels(both).collect::<Vec<_>>(), ["A", "B"]);
    }

    fn utf_16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    }

    fn utf_32(text: &str, to_bytes: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let symbols = text.chars().map(u32::from);
        symbols.flat_map(to_bytes).collect()
    }

    #[test]
    fn a_byte_order_mark_is_skipped_once_and_at_the_start_alone() {
        for (bytes, text) in [
            ("", ""),
            ("\u{feff}", ""),
            ("\u{feff}foo", "foo"),
            ("\u{feff}\u{feff}foo", "\u{feff}foo"),
            (" \u{feff}foo", " \u{feff}foo"),
        ] {
            assert_eq!(read(bytes.as_bytes()), Ok(text));
        }
        assert_eq!(read(b"\xef\xbb"), Err(NotUtf8::Byte { offset: 0 }));
    }

    #[test]
    fn other_encodings_are_named_with_a_mark_or_without() {
        for text in [
            "{",
            "{}",
            "a read 0123",
            "\u{feff}{}",
            "\u{feff}a",
            "\u{feff}",
        ] {
            for bytes in [
                utf_16(text, u16::to_le_bytes),
                utf_16(text, u16::to_be_bytes),
            ] {
                assert_eq!(
                    read(&bytes),
                    Err(NotUtf8::Encoding(Encoding::Utf16)),
                    "{text:?}"
                );
            }
            for bytes in [
                utf_32(text, u32::to_le_bytes),
                utf_32(text, u32::to_be_bytes),
            ] {
                assert_eq!(
                    read(&bytes),
                    Err(NotUtf8::Encoding(Encoding::Utf32)),
                    "{text:?}"
                );
            }
        }
    }

    #[test]
    fn offsets_count_the_mark() {
        for (bytes, offset) in [(&b"12\xff"[..], 2), (b"\xef\xbb\xbf12\xff", 5)] {
            assert_eq!(read(bytes), Err(NotUtf8::Byte { offset }));
        }
    }

    #[test]
    fn any_other_utf_8_is_what_it_is() {
        for text in ["foo", "\u{e4}", "ab\0", "\0\0\0\0", "#\n", "\u{10ffff}"] {
            assert_eq!(read(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        for (text, expected) in [
            ("\u{1b}[31mred\u{7}", "\\u{1b}[31mred\\u{7}"),
            ("one\r\ndigestd: two\t3", "one\\r\\ndigestd: two\\t3"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            (
                "\u{202e}dab\u{2066}\u{200f}",
                "\\u{202e}dab\\u{2066}\\u{200f}",
            ),
            (
                "\u{feff}a\u{200b}\u{2028}b\u{e0041}",
                "\\u{feff}a\\u{200b}\\u{2028}b\\u{e0041}",
            ),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn words_of_any_language_stay_as_they_are() {
        for text in [
            "",
            "it's \"C:\\\"",
            "Gr\u{fc}\u{df}e",
            "e\u{301}",
            "\u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
            "\u{1f600}",
        ] {
            assert_eq!(printable(text), text);
        }
    }
}
