//! The watchdog: a call that does not return from the disk makes the store unready, and then ends the
//! process, so that a supervisor can start another where the disk answers.
//!
//! Nothing can be done for a thread inside a system call, and no deadline can be put on one. So calls
//! only say that they begin and end, and a thread of its own looks now and then whether an old one is
//! still there. It does not know what a call does. Time is counted in looks: when the whole process
//! stood still, in a debugger or a paused machine, nothing was late.
//!
//! **Cost:** two atomic additions a call.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{array, io};

use tracing::{error, info};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Looks after which a call is late: 10 s, a hundred times what a busy disk takes.
const LATE_TICKS: u32 = 10;

/// Looks after which a call is taken to be stuck for ever: 30 s, what the kernel gives a disk before it
/// tries to reset it.
const STUCK_TICKS: u32 = 30;

/// Ticks whose calls are counted apart. A power of two beyond [`STUCK_TICKS`].
const SLOTS: u32 = 64;

/// The process ends so long after it says why: other threads may have to write that down, and the disk
/// that they write to may be the one that does not answer.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// Counts the calls under way by the tick in which they began.
#[derive(Debug)]
pub(super) struct Watchdog {
    now: AtomicU32,
    calls: [AtomicUsize; SLOTS as usize],
    late: AtomicBool,
}

/// A call under way, until dropped.
#[derive(Debug)]
#[must_use = "the call ends when this is dropped"]
pub(super) struct Call<'a>(&'a AtomicUsize);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a look found of the oldest call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Young,
    Late,
    Stuck,
}

impl Watchdog {
    pub(super) fn new() -> Self {
        Self {
            now: AtomicU32::new(0),
            calls: array::from_fn(|_| AtomicUsize::new(0)),
            late: AtomicBool::new(false),
        }
    }

    /// Begins a call.
    pub(super) fn watch(&self) -> Call<'_> {
        let calls = self.slot(self.now.load(Ordering::Relaxed));
        calls.fetch_add(1, Ordering::Relaxed);
        Call(calls)
    }

    /// Whether a call is late at the moment.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Counts a tick, and looks for calls from long before it.
    fn tick(&self) -> Age {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let is_under_way =
            |age: &u32| self.slot(now.wrapping_sub(*age)).load(Ordering::Relaxed) > 0;
        let age = match (LATE_TICKS..SLOTS).rev().find(is_under_way) {
            None => Age::Young,
            Some(age) if age < STUCK_TICKS => Age::Late,
            Some(_) => Age::Stuck,
        };
        self.late.store(age != Age::Young, Ordering::Relaxed);
        age
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a remainder of the number of slots; a call without one would not be watched"
    )]
    fn slot(&self, tick: u32) -> &AtomicUsize {
        &self.calls[(tick % SLOTS) as usize]
    }

    /// Looks every second until `stop` is gone; ends the process if a call is stuck.
    fn run(&self, stop: &mpsc::Receiver<()>) {
        let mut last = Age::Young;
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let age = self.tick();
            match age {
                Age::Stuck => {
                    error!("the disk does not answer: ending the process");
                    thread::sleep(LAST_WORDS_TIME);
                    process::abort();
                }
                Age::Late if last == Age::Young => {
                    error!("the disk has not answered for ten seconds: not ready until it does");
                }
                Age::Young if last == Age::Late => info!("the disk answers again"),
                Age::Late | Age::Young => {}
            }
            last = age;
        }
    }
}

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Patrol {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Patrol {
    pub(super) fn start(watchdog: Arc<Watchdog>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watchdog.run(&stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Patrol {
    fn drop(&mut self) {
        self.stop.take();
        // It cannot panic in a way that matters any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ages(watchdog: &Watchdog, ticks: u32) -> Vec<Age> {
        (0..ticks).map(|_| watchdog.tick()).collect()
    }

    #[test]
    fn a_call_is_late_after_ten_ticks_and_stuck_after_thirty() {
        let watchdog = Watchdog::new();
        ages(&watchdog, 1000);
        let call = watchdog.watch();
        let ages = ages(&watchdog, 30);
        let count = |age| ages.iter().filter(|other| **other == age).count();
        assert_eq!((count(Age::Young), count(Age::Late)), (9, 20), "{ages:?}");
        assert_eq!(ages.last(), Some(&Age::Stuck));
        assert!(watchdog.is_late());
        drop(call);
        assert_eq!(watchdog.tick(), Age::Young);
        assert!(!watchdog.is_late());
    }

    #[test]
    fn many_calls_that_end_are_never_late() {
        let watchdog = Watchdog::new();
        for _ in 0..200 {
            let calls = [watchdog.watch(), watchdog.watch()];
            assert_eq!(ages(&watchdog, 9), [Age::Young; 9]);
            drop(calls);
        }
    }

    #[test]
    fn one_late_call_is_seen_among_many_that_end() {
        let watchdog = Watchdog::new();
        let late = watchdog.watch();
        for _ in 0..LATE_TICKS {
            drop(watchdog.watch());
            watchdog.tick();
        }
        assert!(watchdog.is_late());
        drop(late);
        watchdog.tick();
        assert!(!watchdog.is_late());
    }
}
