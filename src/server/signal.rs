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

/// Done at the first signal. A second one ends the process at once, after `last_words`: whatever was
/// acknowledged is on the disk anyway.
///
/// # Errors
/// If the signals cannot be listened for.
pub fn stop_signal(
    last_words: impl FnOnce() + Send + 'static,
) -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let mut next = async move || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let name = next().await;
        info!(signal = name, "stopping; a second signal ends at once");
        tokio::spawn(async move {
            let name = next().await;
            warn!(signal = name, "stopped without waiting");
            last_words();
            process::exit(EXIT_IMPATIENT);
        });
    })
}
