//! What a command sets up before its work: a log, a runtime, its input, a store.
//!
//! It refuses to know what the work is. **Invariant:** what a store reports while it is opened is written
//! before the command ends.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::Context;
use tokio::runtime::Builder;

use super::archive::Form;
use super::color::Color;
use super::output::say;
use crate::config::{self, LogConfig, LogFormat};
use crate::logging;
use crate::store::{DataDirectory, EmbeddedStore, OpenError, Options};
use crate::text::{self, Encoding, NotUtf8};

/// Runs a command that opens a store, which logs what it finds.
pub(super) fn with_log(
    color: Color,
    command: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let format = if io::stderr().is_terminal() {
        LogFormat::Terminal
    } else {
        LogFormat::Text
    };
    let logs = logging::init(&LogConfig {
        format: Some(format),
        colors: color.is_wanted(),
        ..LogConfig::default()
    })?;
    let result = command();
    logs.flush();
    result
}

/// Waits for what is asked of a server.
pub(super) fn block_on<T>(answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(answer)
}

/// Opens what a command reads, and says how long it is if that is known; `-` is standard input.
pub(super) fn open_input(path: &Path) -> io::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(EndsOnce(Some(io::stdin()))), None));
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((Box::new(file), Some(bytes)))
}

/// Input that is not read any more once it has ended: a terminal would go on, and want to be ended again.
struct EndsOnce<R>(Option<R>);

impl<R: Read> Read for EndsOnce<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(input) = &mut self.0 else {
            return Ok(0);
        };
        let read = input.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.0 = None;
        }
        Ok(read)
    }
}

/// The start of `input`, of up to `bytes`, and all of it.
pub(super) fn peek(mut input: impl Read, bytes: u64) -> io::Result<(Vec<u8>, impl Read)> {
    let mut start = Vec::new();
    input.by_ref().take(bytes).read_to_end(&mut start)?;
    Ok((start.clone(), io::Cursor::new(start).chain(input)))
}

/// Says that what a person types is read, as the text of `what`.
pub(super) fn tell_who_types(path: &Path, what: &str) {
    if path == Path::new("-") && io::stdin().is_terminal() {
        say(&format!(
            "reading {what} from standard input; Ctrl-D on a line of its own ends it"
        ));
    }
}

/// Skips a byte order mark at the start of `input`, which is text, or a tar: that begins with a name.
///
/// # Errors
/// If it is text in another encoding than UTF-8, or cannot be read.
pub(super) fn skip_mark(mut input: impl Read) -> io::Result<impl Read> {
    let mut start = Vec::new();
    input.by_ref().take(START_BYTES).read_to_end(&mut start)?;
    let is_name = start.first().copied().is_some_and(Form::is_start_of_name);
    if let Some(encoding) = Encoding::of(&start).filter(|_| !is_name) {
        let error = NotUtf8::Encoding(encoding).to_string();
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let start = text::skip_mark(&start).to_vec();
    Ok(io::Cursor::new(start).chain(input))
}

/// Bytes that tell an encoding.
const START_BYTES: u64 = 4;

/// Opens a store for work on all of it.
pub(super) fn open(directory: DataDirectory) -> Result<EmbeddedStore, OpenError> {
    // Nothing is read twice.
    let options = Options::new(config::default_cache_bytes(), directory.message_bytes_max());
    EmbeddedStore::open(directory, options, &|_| ())
}
