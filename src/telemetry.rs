//! Logs: one line an event on standard error. Standard output is for results.
//!
//! No text of a message ever reaches a log; a digest only with its first eight digits, which is what
//! its `Debug` form prints.

use std::io::{self, IsTerminal};
use std::panic;

use tracing::{Level, error};

/// Sends events of level info and above to standard error, in colour on a terminal, and makes panics
/// one line like any other.
pub fn init() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::INFO)
        .with_target(false)
        // By default a line that cannot be written is reported with a panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // Fails if there is one already, which then does.
    let _ = subscriber.try_init();
    // Without the panic's own text, which may quote what it worked on.
    panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        error!(thread, place, "a panic was caught");
    }));
}
