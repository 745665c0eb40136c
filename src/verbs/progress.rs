//! A bar on standard error for who waits at a terminal; nobody else sees anything of it.

use indicatif::{ProgressBar, ProgressStyle};

/// How far a verb is, in bytes.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Nothing of `bytes` done yet.
    pub(super) fn of_bytes(bytes: u64) -> Self {
        Self::new(
            bytes,
            "{bar:30} {percent:>3} %  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
    }

    fn new(length: u64, template: &str) -> Self {
        let bar = ProgressBar::new(length);
        // A template that does not parse would only cost the looks.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So much is done.
    pub(super) fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    /// So much will be done in all.
    pub(super) fn set_total(&self, total: u64) {
        self.0.set_length(total);
    }

    /// Does what writes to the terminal, with the bar out of its way.
    pub(super) fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        self.0.suspend(act)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
