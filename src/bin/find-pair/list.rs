//! A price list in a file or in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::row::Fault;

/// Length of the block that a reader holds of a list.
const BLOCK_BYTES: usize = 256 << 10;

/// Longest line, as a part of a block, so that a block is loaded for many lines.
const LINES_PER_BLOCK_MIN: usize = 8;

/// Rows `name, price`, sorted by price.
#[derive(Debug)]
pub(crate) struct List {
    input: Input,
    pub(crate) bytes: usize,
    pub(crate) block_bytes: usize,
}

#[derive(Debug)]
enum Input {
    File(File),
    Memory(Vec<u8>),
}

/// Why a search stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Some line is bad; a search does not know its number, nor whether it is the first.
    #[error(transparent)]
    BadLine(#[from] Fault),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Lines are counted from 1.
    #[error("line {line}: {fault}")]
    BadLine { line: u64, fault: Fault },
}

impl List {
    /// Opens the list at `path`. A regular file stays where it is and must not change meanwhile; a
    /// pipe or a terminal can be read only once and from its beginning, so it is read into memory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Self::read(file);
        }
        let bytes = usize::try_from(metadata.len()).map_err(io::Error::other)?;
        Ok(Self::new(Input::File(file), bytes))
    }

    /// Reads a list into memory, to its end.
    pub(crate) fn read(mut reader: impl Read) -> io::Result<Self> {
        let mut text = Vec::new();
        let bytes = reader.read_to_end(&mut text)?;
        Ok(Self::new(Input::Memory(text), bytes))
    }

    fn new(input: Input, bytes: usize) -> Self {
        Self {
            input,
            bytes,
            block_bytes: BLOCK_BYTES,
        }
    }

    /// Length of the longest line, without its newline.
    pub(crate) fn line_bytes_max(&self) -> usize {
        self.block_bytes / LINES_PER_BLOCK_MIN
    }

    /// Fills `buffer` with the bytes from `start` on.
    pub(crate) fn read_at(&self, start: usize, buffer: &mut [u8]) -> io::Result<()> {
        match &self.input {
            Input::File(file) => file.read_exact_at(buffer, start as u64),
            Input::Memory(text) => {
                let mut rest = text.get(start..).ok_or(io::ErrorKind::UnexpectedEof)?;
                rest.read_exact(buffer)
            }
        }
    }
}

/// The error for a line that is not what it was when it was read before.
pub(crate) fn changed() -> io::Error {
    io::Error::other("the list changed while it was read")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::search;

    /// Small enough for a short list to have many.
    pub(crate) const SMALL_BLOCK_BYTES: usize = 256;

    pub(crate) fn list(text: &str) -> List {
        List::read(text.as_bytes()).unwrap()
    }

    pub(crate) fn small_blocks(text: &str) -> List {
        List {
            block_bytes: SMALL_BLOCK_BYTES,
            ..list(text)
        }
    }

    /// What both searches say about a list that they must refuse alike.
    fn refusal(list: &List) -> (u64, Fault) {
        let [pair, triple] = [
            search::pair(list, 9, &|_| ()),
            search::triple(list, 9, &|_| ()),
        ]
        .map(|result| match result.unwrap_err() {
            ListError::BadLine { line, fault } => (line, fault),
            ListError::Read(error) => panic!("{error}"),
        });
        assert_eq!(pair, triple);
        pair
    }

    #[test]
    fn a_bad_row_is_refused_with_its_line_wherever_it_stands() {
        for (row, fault) in [
            ("bad", Fault::Column),
            (", 500", Fault::Name),
            ("bad, five", Fault::Price),
            ("bad, 0", Fault::Price),
            ("bad, -500", Fault::Price),
            ("bad, 18446744073709551616", Fault::LargePrice),
            ("bad\0, 500", Fault::Control('\0')),
            ("bad, 500\rbad, 600", Fault::Control('\r')),
            ("bad, 500\r\r", Fault::Control('\r')),
            (" \u{feff}bad, 500", Fault::Control('\u{feff}')),
            ("bad\tbad, 500", Fault::Control('\t')),
            ("\u{c}", Fault::Control('\u{c}')),
            ("one name that is longer than a line, 500", Fault::Long),
        ] {
            for number in 1..=50 {
                let list = small_blocks(&rows_with(number, row));
                // A blank line after every row.
                assert_eq!(refusal(&list), (2 * number - 1, fault), "{row} in {number}");
            }
        }
    }

    #[test]
    fn a_lower_price_is_refused_with_its_line_wherever_it_stands() {
        for number in 1..=50 {
            if number > 1 {
                let list = small_blocks(&rows_with(number, "low, 1"));
                assert_eq!(refusal(&list), (2 * number - 1, Fault::Order), "{number}");
            }
            if number < 50 {
                let list = small_blocks(&rows_with(number, "high, 9000"));
                assert_eq!(refusal(&list), (2 * number + 1, Fault::Order), "{number}");
            }
        }
    }

    #[test]
    fn a_bad_row_among_many_alike_is_refused_with_its_line() {
        for (row, fault) in [
            ("gift 1500", Fault::Column),
            (", 11500", Fault::Name),
            (" , 11500", Fault::Name),
            ("gift, 1150x", Fault::Price),
            ("gift, x1500", Fault::Price),
            ("gift, 1 500", Fault::Price),
            ("gift, 00000", Fault::Price),
            ("gift, 11500,", Fault::Price),
            ("gift, 10000", Fault::Order),
            ("gift, 99999", Fault::Order),
        ] {
            for number in (2..700).step_by(23) {
                let text = (1..=700).fold(String::new(), |mut text, each| {
                    if each == number {
                        writeln!(text, "{row}").unwrap();
                    } else {
                        writeln!(text, "gift {each}, {}", 10_100 + each).unwrap();
                    }
                    text
                });
                let line = number + u64::from(row.ends_with("99999"));
                for list in [list(&text), small_blocks(&text)] {
                    assert_eq!(refusal(&list), (line, fault), "{row} in {number}");
                }
            }
        }
    }

    #[test]
    fn of_several_bad_rows_the_first_is_named() {
        let list = list("a, 1\nb, x\nc, 3\nd\n");
        assert_eq!(refusal(&list), (2, Fault::Price));
    }

    #[test]
    fn a_line_longer_than_a_block_is_refused() {
        let long = "x".repeat(3 * SMALL_BLOCK_BYTES);
        for text in [format!("a, 1\n{long}, 2\nc, 3"), format!("a, 1\n{long}")] {
            assert_eq!(refusal(&small_blocks(&text)), (2, Fault::Long));
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_is_said() {
        let line_bytes_max = list("").line_bytes_max();
        for (line_bytes, fits) in [(line_bytes_max, true), (line_bytes_max + 1, false)] {
            let name = "x".repeat(line_bytes - 3);
            let list = list(&format!("{name}, 1\n").repeat(9));
            // The lower pointer passes all lines, or the higher one.
            for balance in [2, 1] {
                let result = search::pair(&list, balance, &|_| ());
                assert_eq!(result.is_ok(), fits, "{line_bytes}");
            }
        }
    }

    /// Fifty rows that cost from 1010 to 1500, each with a blank line after it, and `row` in place
    /// of number `number`.
    fn rows_with(number: u64, row: &str) -> String {
        (1..=50).fold(String::new(), |mut text, each| {
            if each == number {
                writeln!(text, "{row}\n").unwrap();
            } else {
                writeln!(text, "gift {each}, {}\n", 1000 + 10 * each).unwrap();
            }
            text
        })
    }
}
