//! Lines that wait to be written: bounded, taken out all at once. Does not know where they are written
//! to, nor what a line says.
//!
//! **Invariant:** adding a line never waits for the output; a line is queued whole or not at all, and
//! every line that is not is counted.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::output::Output;

/// Lines that wait, in bytes: as many as the fastest reads produce in a fifth of a second.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Lines of requests wait this long for others, so that many of them cost one system call and one
/// wake-up.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// … or until there are so many of them, in bytes.
const GATHER_BYTES: usize = 256 << 10;

/// When a line has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// With others, soon.
    Whenever,
    /// Immediately.
    Now,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    written: Condvar,
    lines_dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Write immediately.
    hurry: bool,
    reopen: bool,
    /// Lines were taken out and are being written.
    is_writing: bool,
}

impl Queue {
    /// Adds a line, with its line break; never waits for it to be written.
    pub(super) fn push(&self, line: &[u8], urgency: Urgency) {
        let mut waiting = self.lock();
        let before = waiting.lines.len();
        if before + line.len() > QUEUE_BYTES_MAX {
            drop(waiting);
            self.lines_dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        let many = waiting.lines.len() >= GATHER_BYTES;
        let hurry = !waiting.hurry && (many || urgency == Urgency::Now);
        waiting.hurry |= hurry;
        drop(waiting);
        if before == 0 || hurry {
            self.arrived.notify_one();
        }
    }

    pub(super) fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Relaxed)
    }

    /// Has the output reopened before the next line.
    pub(super) fn reopen(&self) {
        let mut waiting = self.lock();
        waiting.reopen = true;
        waiting.hurry = true;
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until everything so far is written, or for `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let mut waiting = self.lock();
        waiting.hurry = true;
        self.arrived.notify_one();
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        let _ = self.written.wait_timeout_while(waiting, timeout, is_busy);
    }

    /// Writes lines as they arrive; never returns.
    pub(super) fn write_to(&self, mut output: Box<dyn Output>) {
        let mut lines = Vec::new();
        loop {
            let reopen = self.take(&mut lines);
            if reopen {
                output.reopen();
            }
            let dropped = output.write_lines(&lines);
            self.lines_dropped.fetch_add(dropped, Relaxed);
            lines.clear();
            self.lock().is_writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for lines and exchanges them for the empty buffer `lines`. Returns whether the output is
    /// to be reopened.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let nothing = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.reopen;
        let waiting = self
            .arrived
            .wait_while(self.lock(), nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .arrived
            .wait_timeout_while(waiting, GATHER_TIME, |waiting| !waiting.hurry)
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut waiting.lines, lines);
        waiting.hurry = false;
        waiting.is_writing = true;
        mem::take(&mut waiting.reopen)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    /// Takes a batch when it is allowed to.
    struct Slow {
        allowed: mpsc::Receiver<()>,
        batches: mpsc::Sender<Vec<u8>>,
    }

    impl Output for Slow {
        fn write_lines(&mut self, lines: &[u8]) -> u64 {
            // Both fail once the test is over.
            let _ = self.batches.send(lines.to_vec());
            let _ = self.allowed.recv();
            0
        }

        fn reopen(&mut self) {}
    }

    #[test]
    fn lines_beyond_the_limit_are_dropped_and_counted_without_waiting() {
        let queue = Arc::new(Queue::default());
        let (allow, allowed) = mpsc::channel();
        let (batches, taken) = mpsc::channel();
        let output = Box::new(Slow { allowed, batches });
        let writing = Arc::clone(&queue);
        thread::spawn(move || writing.write_to(output));
        queue.push(b"first\n", Urgency::Now);
        assert_eq!(taken.recv().unwrap(), b"first\n");

        // The output has stalled.
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let fitting = QUEUE_BYTES_MAX / line.len();
        for _ in 0..fitting {
            queue.push(&line, Urgency::Whenever);
        }
        assert_eq!(queue.lines_dropped(), 0);
        queue.push(b"\n", Urgency::Now);
        assert_eq!(queue.lines_dropped(), 1);
        queue.flush(Duration::from_millis(1));

        allow.send(()).unwrap();
        assert_eq!(taken.recv().unwrap().len(), fitting * line.len());
        queue.push(b"again\n", Urgency::Whenever);
        allow.send(()).unwrap();
        assert_eq!(taken.recv().unwrap(), b"again\n");
        assert_eq!(queue.lines_dropped(), 1);
    }

    #[test]
    fn a_flush_returns_when_everything_is_written() {
        let queue = Arc::new(Queue::default());
        let (allow, allowed) = mpsc::channel();
        let (batches, taken) = mpsc::channel();
        drop(allow);
        let writing = Arc::clone(&queue);
        let output = Box::new(Slow { allowed, batches });
        thread::spawn(move || writing.write_to(output));
        for _ in 0..100 {
            queue.push(b"line\n", Urgency::Whenever);
            queue.flush(Duration::from_secs(10));
            assert_eq!(taken.try_recv().unwrap(), b"line\n");
        }
    }
}
