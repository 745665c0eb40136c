//! Cuts a body that comes in pieces into lines. A byte order mark before the first one is no part of it.
//!
//! **Invariant:** what is held of a line that has not ended is never more than the line may have, and half of
//! that while its buffer grows; the rest of a longer one is skipped as it comes.

use bytes::{Buf, Bytes, BytesMut};

use crate::text::skip_mark;

/// Gathers what comes into lines.
#[derive(Debug)]
pub(super) struct LineSplitter {
    bytes_max: usize,
    /// What came and was not cut yet.
    rest: Bytes,
    /// The beginning of a line that did not end in an earlier piece.
    begun: BytesMut,
    /// In the middle of a line that is too long.
    is_skipping: bool,
    /// No line has ended yet.
    is_first: bool,
}

/// A line without its end.
#[derive(Debug)]
pub(super) enum BodyLine {
    /// Part of what was fed.
    Part(Bytes),
    /// In a buffer of its own.
    Gathered(Bytes),
    TooLong,
}

impl BodyLine {
    /// Whether it has nothing but white space.
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Self::Part(line) | Self::Gathered(line) => line.trim_ascii().is_empty(),
            Self::TooLong => false,
        }
    }
}

impl LineSplitter {
    /// For lines of `bytes_max` bytes at most.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            rest: Bytes::new(),
            begun: BytesMut::new(),
            is_skipping: false,
            is_first: true,
        }
    }

    /// Takes the next piece, once [`LineSplitter::next`] has said that it needs one.
    pub(super) fn feed(&mut self, piece: Bytes) {
        debug_assert!(
            self.rest.is_empty(),
            "the last piece was not cut to its end"
        );
        self.rest = piece;
    }

    /// Forgets what was not cut yet.
    pub(super) fn discard(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Whether the next piece is needed.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes held of the line that has not ended yet.
    pub(super) fn begun_bytes(&self) -> usize {
        self.begun.len()
    }

    /// The next line that has ended. It is copied only if it came in several pieces.
    pub(super) fn next(&mut self) -> Option<BodyLine> {
        let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') else {
            let rest = std::mem::take(&mut self.rest);
            self.gather(&rest);
            return None;
        };
        let line = self.rest.split_to(end);
        self.rest.advance(1);
        if self.begun.is_empty() && !self.is_skipping && line.len() <= self.bytes_max {
            return Some(BodyLine::Part(self.unmarked(line)));
        }
        self.gather(&line);
        Some(self.take_begun())
    }

    /// The last line, if no line end follows it.
    pub(super) fn end(&mut self) -> Option<BodyLine> {
        (self.is_skipping || !self.begun.is_empty()).then(|| self.take_begun())
    }

    fn gather(&mut self, part: &[u8]) {
        let bytes = self.begun.len() + part.len();
        if self.is_skipping || bytes > self.bytes_max {
            self.is_skipping = true;
            self.begun = BytesMut::new();
            return;
        }
        if bytes > self.begun.capacity() {
            // No larger than the line may become.
            let mut larger = BytesMut::with_capacity((2 * bytes).min(self.bytes_max));
            larger.extend_from_slice(&self.begun);
            self.begun = larger;
        }
        self.begun.extend_from_slice(part);
    }

    fn take_begun(&mut self) -> BodyLine {
        if std::mem::take(&mut self.is_skipping) {
            self.is_first = false;
            BodyLine::TooLong
        } else {
            let line = std::mem::take(&mut self.begun).freeze();
            BodyLine::Gathered(self.unmarked(line))
        }
    }

    fn unmarked(&mut self, line: Bytes) -> Bytes {
        if std::mem::take(&mut self.is_first) {
            line.slice_ref(skip_mark(&line))
        } else {
            line
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stands for a line that is too long.
    const TOO_LONG: &str = "(too long)";

    /// The lines of a body that comes in these pieces.
    fn cut(bytes_max: usize, pieces: &[&[u8]]) -> Vec<BodyLine> {
        let mut lines = LineSplitter::new(bytes_max);
        let mut all = Vec::new();
        for piece in pieces {
            lines.feed(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next() {
                all.push(line);
            }
            assert!(lines.is_empty());
            assert!(lines.begun_bytes() <= lines.begun.capacity());
            assert!(lines.begun.capacity() <= bytes_max);
        }
        all.extend(lines.end());
        all
    }

    /// They are equal to their texts.
    impl PartialEq<&str> for BodyLine {
        fn eq(&self, text: &&str) -> bool {
            match self {
                Self::Part(line) | Self::Gathered(line) => line == text,
                Self::TooLong => *text == TOO_LONG,
            }
        }
    }

    #[test]
    fn a_line_ends_at_its_newline_or_at_the_end_of_all() {
        assert_eq!(cut(9, &[b"a\nbc\n"]), ["a", "bc"]);
        assert_eq!(cut(9, &[b"a\n\nbc"]), ["a", "", "bc"]);
        assert_eq!(cut(9, &[b""]), [""; 0]);
        assert_eq!(cut(9, &[b"\n"]), [""]);
    }

    #[test]
    fn a_blank_line_has_white_space_and_nothing_else() {
        let lines = cut(9, &[b"\n\r\n \n\t \r\n\r\r\n\r"]);
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().all(BodyLine::is_blank));
        let lines = cut(2, &[b" 0\n\0\n\xc2\xa0\n0\nlong"]);
        assert_eq!(lines.len(), 5);
        assert!(!lines.iter().any(BodyLine::is_blank));
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_is_no_part_of_it() {
        let body = "\u{feff}a\n\u{feff}b\n".as_bytes();
        for size in 1..=body.len() {
            let pieces: Vec<_> = body.chunks(size).collect();
            assert_eq!(cut(9, &pieces), ["a", "\u{feff}b"]);
        }
        for blank in ["\u{feff}", "\u{feff}\n", "\u{feff}\r\n"] {
            let lines = cut(9, &[blank.as_bytes()]);
            assert!(lines.len() == 1 && lines[0].is_blank(), "{blank:?}");
        }
        assert_eq!(cut(3, &[b"long\n\xef\xbb\xbf\n"]), [TOO_LONG, "\u{feff}"]);
        assert_eq!(cut(9, &[b"\xef\xbb\n"]).len(), 1);
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        assert_eq!(cut(9, &[b"a", b"b\nc", b"\n"]), ["ab", "c"]);
        assert_eq!(cut(9, &[b"a", b"\n", b"b"]), ["a", "b"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_it_alone() {
        assert_eq!(cut(2, &[b"ab\nabc\nab\n"]), ["ab", TOO_LONG, "ab"]);
        assert_eq!(
            cut(2, &[b"ab", b"c", b"defg", b"h\na", b"b\n", b"abc"]),
            [TOO_LONG, "ab", TOO_LONG]
        );
    }

    proptest! {
        #[test]
        fn where_the_pieces_end_does_not_matter(
            body in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..40),
            size in 1..10_usize,
        ) {
            let pieces: Vec<_> = body.chunks(size).collect();
            let whole = cut(3, &[&body]);
            let texts = whole.iter().map(|line| match line {
                BodyLine::Part(line) | BodyLine::Gathered(line) => str::from_utf8(line).unwrap(),
                BodyLine::TooLong => TOO_LONG,
            });
            prop_assert_eq!(cut(3, &pieces), texts.collect::<Vec<_>>());
        }
    }
}
