//! A bar on standard error that shows an operator at a terminal how far a command is.
//!
//! It refuses to know what is being done. **Invariant:** without a terminal that can move its cursor nothing is
//! written.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::color::is_terminal_dumb;
use crate::digest::Digest;

/// Messages between two looks at the clock.
const STEP_MESSAGES: u64 = 256;

/// How far a command is.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

/// How far a pass over all messages is, in the order of their digests. Digests are spread evenly, so
/// that the last one says how much is done, whatever their number.
#[derive(Debug)]
pub(super) struct MessageBar {
    bar: Bar,
    started: Instant,
    messages: u64,
}

impl MessageBar {
    pub(super) fn new() -> Self {
        Self {
            bar: Bar::new(
                u64::from(u32::MAX),
                "{bar:30} {percent:>3} %  {msg}, {eta} left",
            ),
            started: Instant::now(),
            messages: 0,
        }
    }

    /// Counts a message.
    pub(super) fn pass(&mut self, digest: &Digest) {
        self.messages += 1;
        if !self.messages.is_multiple_of(STEP_MESSAGES) {
            return;
        }
        let [first, second, third, fourth, ..] = *digest.as_bytes();
        let position = u32::from_be_bytes([first, second, third, fourth]);
        let rate = u128::from(self.messages) * 1000 / self.started.elapsed().as_millis().max(1);
        let bar = &self.bar.0;
        bar.set_message(format!("{} messages, {rate}/s", self.messages));
        bar.set_position(u64::from(position));
    }

    /// Messages so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Does what writes to the terminal, with the bar out of its way.
    pub(super) fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        self.bar.aside(act)
    }
}

impl Bar {
    /// Nothing done yet of a number of bytes.
    pub(super) fn of_bytes() -> Self {
        Self::new(
            0,
            "{bar:30} {percent:>3} %  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
    }

    /// Nothing done yet of an input of `bytes`; shows nothing without them.
    pub(super) fn of_input(bytes: Option<u64>) -> Self {
        let Some(bytes) = bytes else {
            return Self(ProgressBar::hidden());
        };
        let bar = Self::of_bytes();
        bar.0.set_length(bytes);
        bar
    }

    /// Nothing done yet of a number of segments.
    pub(super) fn of_segments() -> Self {
        Self::new(
            0,
            "{bar:30} {percent:>3} %  segment {pos} of {len}, {eta} left",
        )
    }

    fn new(length: u64, template: &str) -> Self {
        if is_terminal_dumb() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(length);
        // A template that does not parse would only cost the looks.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So much is done of so much.
    pub(super) fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// So much is done.
    pub(super) fn set_done(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Does what writes to the terminal, with the bar out of its way.
    pub(super) fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        self.0.suspend(act)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
