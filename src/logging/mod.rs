//! Logs: one line an event and one line a request, to standard error or to a file that is turned over
//! by size. Standard output is for results.
//!
//! No text of a message ever reaches a log; a digest only with its first eight digits, which is what
//! its `Debug` form prints.
//!
//! Nobody waits for a log. A line goes into a queue in memory; one thread writes what has come
//! together there, many lines with one system call. When the queue is full, because what it is
//! written to has stopped taking, lines are dropped and counted. The lines of requests do not go
//! through `tracing`, which takes longer for one than all the rest of a look-up: they are put
//! together from parts, without an allocation.

mod access;
mod file;
mod queue;

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tracing::error;
use tracing::level_filters::LevelFilter;

pub use self::access::Access;
use self::file::LogFile;
use self::queue::{Queue, Urgency};
use crate::config::{LogConfig, LogFormat};

/// A stop waits this long for the last lines: a terminal takes them at once, and what has not taken
/// them by then never will.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log, for whoever has lines that are not events.
#[derive(Clone, Debug)]
pub struct Logs {
    queue: Arc<Queue>,
    format: LogFormat,
    /// Requests of this level are logged.
    requests: LevelFilter,
}

impl Logs {
    /// A log that nothing gets into.
    #[must_use]
    pub fn none() -> Self {
        Self {
            queue: Arc::new(Queue::default()),
            format: LogFormat::Text,
            requests: LevelFilter::OFF,
        }
    }

    /// Logs a request that is over; never waits.
    pub fn access(&self, access: &Access<'_>) {
        let level = access.level();
        if level > self.requests {
            return;
        }
        access::with_line(access, self.format, |line| {
            self.queue.push(line, Urgency::Whenever);
        });
    }

    /// Lines that were not written because nobody took them.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.queue.lines_dropped()
    }

    /// Opens the file anew, after somebody has moved it away.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Waits until everything so far is written, or a second. Blocks.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// Logs events and requests as `config` says from now on, and makes panics one line like any other.
///
/// # Errors
/// If the file cannot be opened.
pub fn init(config: &LogConfig) -> anyhow::Result<Logs> {
    let output: Box<dyn Output> = match &config.file {
        Some(file) => Box::new(
            LogFile::open(file)
                .with_context(|| format!("cannot write to the log file {}", file.path.display()))?,
        ),
        None => Box::new(StandardError),
    };
    let queue = Arc::new(Queue::default());
    let is_terminal = config.file.is_none() && io::stderr().is_terminal();
    let format = config.format.unwrap_or(if is_terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let writing = Arc::clone(&queue);
    thread::Builder::new()
        .name("log".into())
        .spawn(move || writing.write_to(output))
        .context("cannot start a thread")?;
    subscribe(&queue, config.level, format, is_terminal);
    panic::set_hook(Box::new(|panic| {
        // Without the panic's own text, which may quote what it worked on.
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        error!(thread, place, "a panic was caught");
    }));
    Ok(Logs {
        queue,
        format,
        requests: if config.requests {
            config.level
        } else {
            LevelFilter::OFF
        },
    })
}

fn subscribe(queue: &Arc<Queue>, level: LevelFilter, format: LogFormat, ansi: bool) {
    let queue = Arc::clone(queue);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        // By default a line that cannot be written is reported with a panic.
        .log_internal_errors(false)
        .with_ansi(ansi)
        .with_writer(move || Event(Arc::clone(&queue)));
    // Fails if there is one already, which then does.
    let _ = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

/// Takes an event, which comes in one piece.
struct Event(Arc<Queue>);

impl Write for Event {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line, Urgency::Now);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines end up.
trait Output: Send {
    /// Writes whole lines. Returns how many of them could not be written.
    fn write_lines(&mut self, lines: &[u8]) -> u64;

    /// Opens anew what may have been moved away.
    fn reopen(&mut self);
}

struct StandardError;

impl Output for StandardError {
    fn write_lines(&mut self, lines: &[u8]) -> u64 {
        match io::stderr().write_all(lines) {
            Ok(()) => 0,
            Err(_) => count_lines(lines),
        }
    }

    fn reopen(&mut self) {}
}

/// The number of `lines`, of which each has its end.
fn count_lines(lines: &[u8]) -> u64 {
    lines.split_inclusive(|&byte| byte == b'\n').count() as u64
}
