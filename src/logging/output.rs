//! Where lines end up. Does not know who wrote a line, nor which have been dropped before.
//!
//! **Invariant:** every line that could not be written is reported to the caller, by number.

use std::io::{self, Write};

/// Takes lines, on the one thread that writes.
pub(super) trait Output: Send {
    /// Writes whole lines. Returns how many of them could not be written.
    fn write_lines(&mut self, lines: &[u8]) -> u64;

    /// Reopens what may have been moved away.
    fn reopen(&mut self);
}

pub(super) struct StandardError;

impl Output for StandardError {
    fn write_lines(&mut self, lines: &[u8]) -> u64 {
        match io::stderr().write_all(lines) {
            Ok(()) => 0,
            Err(_) => count_lines(lines),
        }
    }

    fn reopen(&mut self) {}
}

/// The number of `lines`, each with its line break.
pub(super) fn count_lines(lines: &[u8]) -> u64 {
    lines.split_inclusive(|&byte| byte == b'\n').count() as u64
}
