//! The order to stop: SIGINT from a terminal, SIGTERM from a supervisor. And SIGHUP, the order to look
//! again at what lies on the disk.

use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// Exit status after a second signal: not a clean stop.
const EXIT_IMPATIENT: i32 = 1;

/// Every SIGHUP.
///
/// # Errors
/// If the signal cannot be listened for.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Waits for the order to stop.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on the signals do not end the process.
    ///
    /// # Errors
    /// If they cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Done at the first signal. A second one ends the process at once, after `last_words`: whatever was
    /// acknowledged is on the disk anyway.
    pub async fn first(mut self, last_words: impl FnOnce() + Send + 'static) {
        let name = self.next().await;
        info!(signal = name, "stopping; a second signal ends at once");
        tokio::spawn(async move {
            let name = self.next().await;
            warn!(signal = name, "stopped without waiting");
            last_words();
            process::exit(EXIT_IMPATIENT);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
