//! What a command prints: results on standard output, reports and trouble on standard error.
//!
//! It refuses to know what a command does. **Invariants:** a result that cannot be written is an error, unless
//! its reader is gone; a report that cannot be written is not; nothing that a terminal obeys is in a report.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context;

use crate::access::tokens::without_tokens;

/// Findings, which were reported one by one.
#[derive(Debug, thiserror::Error)]
#[error("{}", plural(*.0, "finding"))]
pub(super) struct IntegrityError(pub(super) u64);

impl IntegrityError {
    /// An error if there are any findings.
    pub(super) fn if_any(count: u64) -> Result<(), Self> {
        if count == 0 { Ok(()) } else { Err(Self(count)) }
    }
}

/// Standard output has no reader any more, as in `digestd export | head`. That is no failure, and there is
/// nothing to say.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the result is gone")]
pub(super) struct ReaderGone;

/// What it means that a result was written, or not.
///
/// # Errors
/// [`ReaderGone`], or that it cannot be written.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        result => result.context("cannot write the result"),
    }
}

/// Lets a command finish its work also if its results are not read.
///
/// # Errors
/// If a result cannot be written though its reader is there.
pub(super) fn unless_gone(result: io::Result<()>) -> anyhow::Result<()> {
    written(result).or_else(|error| error.downcast::<ReaderGone>().map(drop))
}

/// Prints a result.
pub(super) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    written(output.write_all(bytes).and_then(|()| output.flush()))
}

/// Prints a result that is a line.
pub(super) fn print_line(line: &impl fmt::Display) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Reports something to the operator beside the result, in one line. What a server said may be in it.
pub(super) fn say(text: &str) {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(
        io::stderr(),
        "digestd: {}",
        printable(&without_tokens(text))
    );
}

/// The text with everything escaped that a terminal obeys, or that makes the rest look as if it said
/// something else.
fn printable(text: &str) -> String {
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

/// `1 finding`, `2 findings`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
