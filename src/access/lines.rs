//! Files of lines, in which blank ones and comments mean nothing.

/// The lines of a file that are not empty and no comments, with their numbers from 1.
pub(super) fn content_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = (1..).zip(text.lines().map(str::trim_ascii));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// What is wrong with a line, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {problem}")]
pub struct LineError<E> {
    /// The number of the line, from 1.
    pub number: usize,
    /// What is wrong with it.
    pub problem: E,
}
