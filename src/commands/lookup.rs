//! `digestd lookup`: the messages with the digests of a file.
//!
//! It refuses to know the protocol, which is the client's. **Invariants:** what is printed or written has its digest,
//! in the order of the file; a file with the name of a digest is whole.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, StdoutLock, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::options::ServerArgs;
use super::output::{say, written};
use super::setup::{block_on, open_input, skip_mark, tell_who_types};
use crate::client::{Client, LineAnswer, LineRefusal, NotFound};
use crate::message::Message;
use crate::ndjson;

/// Options of `lookup`.
#[derive(Debug, Args)]
pub(super) struct LookUpArgs {
    /// The digests, one a line: bare, as `sha256sum` prints them, in quotes, or an object with one as "digest", as in an
    /// export; `-`, or nothing at all, reads standard input
    #[arg(value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the messages go.
    #[command(flatten)]
    output: OutputArgs,
    /// The server to ask.
    #[command(flatten)]
    server: ServerArgs,
}

/// Where messages go.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Write each text, exactly as it was stored, into a file in this directory that is called like its digest; the
    /// directory is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(super) output_dir: Option<PathBuf>,
}

/// Looks up the digests of a file, and prints a line for each message as `export` does, or writes it into a file.
///
/// # Errors
/// [`NotFound`] if some are not there; else what kept it from going on.
pub(super) fn run(arguments: &LookUpArgs) -> anyhow::Result<()> {
    let client = arguments.server.client()?;
    let path = arguments.input.as_deref().unwrap_or(Path::new("-"));
    tell_who_types(path, "digests, one a line,");
    let unreadable = || format!("cannot read {}", path.display());
    let (input, _) = open_input(path).with_context(unreadable)?;
    let input = skip_mark(input).with_context(unreadable)?;
    look_up(&client, input, &arguments.output)
}

/// Looks up the digests in `input`, one a line. What is not there is named, and the rest goes on.
///
/// # Errors
/// See [`run`].
pub(super) fn look_up(
    client: &Client,
    input: impl Read + Send + 'static,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let mut target = Target::new(output)?;
    let (mut asked, mut missing, mut refused) = (0, 0, 0_u64);
    let each = |answer: LineAnswer<Message>| {
        asked += 1;
        match &answer.outcome {
            Ok(message) => target.take(message)?,
            Err(refusal) => {
                missing += usize::from(*refusal == LineRefusal::NotFound);
                refused += u64::from(*refusal != LineRefusal::NotFound);
                match answer.digest {
                    Some(digest) => say(&format!("{digest}: {refusal}")),
                    None => say(&format!("line {}: {refusal}", answer.number)),
                }
            }
        }
        if answer.has_next {
            Ok(())
        } else {
            target.flush()
        }
    };
    block_on(client.look_up(input, each))?;
    target.flush()?;
    if refused > 0 {
        bail!("{refused} of {asked} digests were not looked up");
    }
    if missing > 0 {
        return Err(NotFound { missing, of: asked }.into());
    }
    Ok(())
}

/// Takes messages in turn.
enum Target<'a> {
    Lines {
        output: BufWriter<StdoutLock<'static>>,
        line: Vec<u8>,
    },
    Directory(&'a Path),
}

impl<'a> Target<'a> {
    fn new(arguments: &'a OutputArgs) -> anyhow::Result<Self> {
        let Some(directory) = &arguments.output_dir else {
            return Ok(Self::Lines {
                output: BufWriter::new(io::stdout().lock()),
                line: Vec::new(),
            });
        };
        let made = fs::create_dir_all(directory);
        made.with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self::Directory(directory))
    }

    fn take(&mut self, message: &Message) -> anyhow::Result<()> {
        match self {
            Self::Lines { output, line } => {
                line.clear();
                ndjson::write(line, message);
                written(output.write_all(line))
            }
            Self::Directory(directory) => {
                let path = directory.join(message.digest().to_string());
                let result = write_file(&path, message.as_bytes());
                result.with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Lines { output, .. } => written(output.flush()),
            Self::Directory(_) => Ok(()),
        }
    }
}

/// Writes a file under another name first. A link at either name is replaced, not followed.
fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("part");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&partial)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&partial, path)
}

/// Permissions of a message in a file: what is stored is not for everybody.
const FILE_MODE: u32 = 0o600;
