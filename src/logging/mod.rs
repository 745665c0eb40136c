//! Logs: one line per event and one line per request, to standard error or to a file that is rotated
//! by size. Standard output is for results.
//!
//! A line goes into a queue in memory; one thread writes what has accumulated there, many lines with
//! one system call. When the queue is full because the output has stalled, lines are dropped and
//! counted. The lines of requests bypass `tracing`, which takes longer for one than all the rest of a
//! look-up: they are assembled from parts, without an allocation. This room does not know what is
//! logged: it refuses to interpret an event, and of a request it knows the fields of [`AccessLine`].
//!
//! **Invariants:** logging never blocks its caller. No text of a message reaches a log, and a digest
//! only with its first eight digits, which is what its `Debug` form prints. Of a token that was given where a
//! path belongs, say, an event has no more than that it is one.

mod access_line;
mod compression;
mod file;
mod old_files;
mod output;
mod queue;
mod terminal;

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tracing::error;
use tracing::level_filters::LevelFilter;

pub use self::access_line::AccessLine;
use self::access_line::with_line;
use self::file::LogFile;
use self::output::{Output, StandardError};
use self::queue::{Queue, Urgency};
use self::terminal::{EventFormat, request_line};
use crate::access::tokens::{self, without_tokens};
use crate::config::{LogConfig, LogFormat};

/// How long a stop waits for the last lines: a terminal takes them immediately, and an output that
/// has not taken them by then is not expected to.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log, for lines that are not events.
#[derive(Clone, Debug)]
pub struct Logs {
    queue: Arc<Queue>,
    format: LogFormat,
    /// Whether lines for a terminal have colours.
    has_colors: bool,
    /// Requests of this level are logged.
    requests: LevelFilter,
}

impl Logs {
    /// A log that discards everything.
    #[must_use]
    pub fn none() -> Self {
        Self {
            queue: Arc::new(Queue::default()),
            format: LogFormat::Text,
            has_colors: false,
            requests: LevelFilter::OFF,
        }
    }

    /// Logs a finished request; never waits.
    pub fn log_request(&self, request: &AccessLine<'_>) {
        if !self.has_requests(request.is_quiet) {
            return;
        }
        let push = |line: &[u8]| self.queue.push(line, Urgency::Whenever);
        match self.format {
            LogFormat::Terminal => push(&request_line(request, self.has_colors)),
            LogFormat::Text => with_line::<false>(request, push),
            LogFormat::Json => with_line::<true>(request, push),
        }
    }

    /// Whether requests are logged, those that only ask for the state of the service or all others.
    #[must_use]
    pub fn has_requests(&self, quiet: bool) -> bool {
        access_line::level(quiet) <= self.requests
    }

    /// Lines that were dropped because they could not be written.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.queue.lines_dropped()
    }

    /// Reopens the file, after it has been moved away.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Blocks until everything so far is written, or for a second.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// Starts logging events and requests as configured; a panic is logged as one line as well.
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
        LogFormat::Terminal
    } else {
        LogFormat::Json
    });
    let writing = Arc::clone(&queue);
    thread::Builder::new()
        .name("log".into())
        .spawn(move || writing.write_to(output))
        .context("cannot start a thread")?;
    let has_colors = config.colors.unwrap_or(is_terminal);
    subscribe(&queue, config.level, format, has_colors);
    panic::set_hook(Box::new(|panic| {
        // Without the panic's own text, which may quote the data it worked on.
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
        has_colors,
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
        // By default a line that cannot be written causes a panic.
        .log_internal_errors(false)
        .with_ansi(ansi)
        .with_writer(move || Event(Arc::clone(&queue)));
    // Fails if a subscriber is set already, which then stays.
    let _ = match format {
        LogFormat::Terminal => {
            let format = EventFormat { has_colors: ansi };
            subscriber.event_format(format).try_init()
        }
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

/// Receives an event, whose line is written in one piece.
struct Event(Arc<Queue>);

impl Write for Event {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match str::from_utf8(line) {
            Ok(text) if text.contains(tokens::PREFIX) => {
                self.0.push(without_tokens(text).as_bytes(), Urgency::Now);
            }
            _ => self.0.push(line, Urgency::Now),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
