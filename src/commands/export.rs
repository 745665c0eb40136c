//! `digestd export`: all messages of a store, in the order of their digests.
//!
//! A file is called `….part` until everything is in it and on the disk. An unfinished one is read
//! again, cut after its last good message, and continued there; one that is compressed is written from its start. It refuses to know
//! the forms of an archive. **Invariants:** a file with its final name is whole and on the disk; what was made
//! by somebody else is never written to.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::fs::OFlags;
use rustix::process::geteuid;

use super::archive::{self, Compression, Compressor, Form, Writer, decompressed};
use super::in_use::{Instead, or_ask};
use super::options::{CredentialArgs, DataArgs, UsageError};
use super::output::{IntegrityError, plural, say, written};
use super::progress::MessageBar;
use super::server_messages::read_server;
use super::setup::open;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{Readable, Store};

/// Messages asked for at once.
const PAGE_MESSAGES_MAX: usize = 1024;

/// Bytes handed to the system at once.
const BUFFER_BYTES: usize = 1 << 20;

/// No message is larger than a segment, and no segment than this.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Permissions of an export: it has all messages.
const FILE_MODE: u32 = 0o600;

/// What stands where an unfinished export belongs, and what to do.
const NOT_OURS: &str = "what is there is a link, no file, or another user's, and not an export that was \
                        interrupted; remove it, or write to another directory";

/// The same of a file.
const NO_EXPORT: &str =
    "what is there is not an export that was interrupted; remove it, or write to another name";

/// Options of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The store.
    #[command(flatten)]
    data: DataArgs,

    /// Ask this server instead, which must have been started with --allow-export, or with --tokens
    /// and see one that allows export
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// What it wants to see.
    #[command(flatten)]
    credential: CredentialArgs,

    /// What to write: lines of JSON, or a tar of files named by their digests with SHA256SUMS
    #[arg(long, value_enum, default_value = "ndjson")]
    pub(crate) format: Form,

    /// Where to write, for nobody else to read. Written to FILE.part and renamed when complete; a partial file
    /// is resumed; `-` is standard output. A name that ends in .gz or .zst is that of a compressed file, which begins
    /// again after an interruption [default: -]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Begin behind this digest
    #[arg(long, value_name = "DIGEST")]
    after: Option<crate::digest::Digest>,
}

/// Writes all messages of a store or a server.
///
/// # Errors
/// [`IntegrityError`] if messages were left out because they are damaged; else what kept it from going on.
pub(super) fn run(arguments: &ExportArgs) -> anyhow::Result<()> {
    let form = arguments.format;
    let file = arguments.output.as_deref();
    let Some(path) = file.filter(|path| *path != Path::new("-")) else {
        let output = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
        let output = Compressor::new(Compression::None, output);
        let writer = Writer::new(form, output, Vec::new());
        let mut walk = MessageBar::new();
        let exported = write_all(arguments, arguments.after, writer, &mut walk);
        drop(walk);
        return report(exported?);
    };
    if arguments.after.is_some() {
        return Err(UsageError(
            "--after does not go with --output FILE, which knows where to continue".into(),
        )
        .into());
    }
    let compression = Compression::of_name(path);
    if compression == Compression::None && archive::is_name_of_another_compression(path) {
        let error = "--output has the name of a compressed file of a kind that is not written; name it .gz or .zst, or \
                     write to `-` and compress that";
        return Err(UsageError(error.into()).into());
    }
    let unfinished = Unfinished::open(path, form, compression)?;
    let after = unfinished.digests.last().copied();
    if after.is_some() {
        let messages = unfinished.digests.len() as u64;
        say(&format!("going on behind {}", plural(messages, "message")));
    }
    let output = BufWriter::with_capacity(BUFFER_BYTES, &unfinished.file);
    let output = Compressor::new(compression, output);
    let writer = Writer::new(form, output, unfinished.digests);
    let mut walk = MessageBar::new();
    let exported = write_all(arguments, after, writer, &mut walk);
    if exported.is_err() && after.is_none() && walk.messages() == 0 {
        // There is nothing to go on with. What stays is no obstacle.
        let _ = fs::remove_file(part(path));
    }
    drop(walk);
    let exported = exported?;
    finish(&unfinished.file, path).with_context(|| format!("cannot finish {}", path.display()))?;
    report(exported)
}

/// Reports how many messages were written, and how many were left out.
fn report((written, damaged): (u64, u64)) -> anyhow::Result<()> {
    say(&format!("{} written", plural(written, "message")));
    Ok(IntegrityError::if_any(damaged)?)
}

/// Writes all messages after `after`; returns what to [`report`].
fn write_all(
    arguments: &ExportArgs,
    after: Option<Digest>,
    mut writer: Writer<Compressor<impl Write>>,
    walk: &mut MessageBar,
) -> anyhow::Result<(u64, u64)> {
    let mut damaged = 0;
    let mut each = |digest: &Digest, message: Option<&Message>| {
        let Some(message) = message else {
            damaged += 1;
            walk.aside(|| say(&format!("message {digest} is damaged and left out")));
            return Ok(());
        };
        walk.pass(digest);
        written(writer.append(message))
    };
    match &arguments.url {
        Some(url) => read_server(&arguments.credential.client(url)?, after, each)?,
        None => read_store(&arguments.data.data_dir, after, &mut each)?,
    }
    written(writer.finish().and_then(Compressor::finish))?;
    Ok((walk.messages(), damaged))
}

/// Takes a message, or the digest of one that is damaged.
type Each<'a> = &'a mut dyn FnMut(&Digest, Option<&Message>) -> anyhow::Result<()>;

fn read_store(data_dir: &Path, mut after: Option<Digest>, each: Each<'_>) -> anyhow::Result<()> {
    let instead = Instead::Ask(
        "export",
        "have been started with --allow-export or --tokens",
    );
    let store = match or_ask(Readable::claim(data_dir), data_dir, instead)? {
        Readable::Held(directory) => open(directory)?,
        Readable::ReadOnly(directory) => return directory.read_all(after, each),
    };
    loop {
        let page = store.page(after.as_ref(), PAGE_MESSAGES_MAX)?;
        let Some((last, _)) = page.last() else {
            return Ok(store.close()?);
        };
        after = Some(*last);
        for (digest, message) in &page {
            each(digest, message.as_ref().ok())?;
        }
    }
}

/// A file that is being written, from its last good message on.
struct Unfinished {
    file: File,
    /// What it has.
    digests: Vec<Digest>,
}

impl Unfinished {
    /// Opens what becomes `path`, or makes it.
    fn open(path: &Path, form: Form, compression: Compression) -> anyhow::Result<Self> {
        if let Ok(there) = fs::metadata(path) {
            let what = if there.is_file() {
                "is there already; remove it, or write to another name"
            } else if there.is_dir() {
                "is a directory; name a file in it"
            } else {
                "is no file; -o - writes to standard output"
            };
            bail!("{} {what}", path.display());
        }
        let part = part(path);
        let context = || format!("cannot write {}", part.display());
        let mut file = open_part(&part).with_context(context)?;
        file.try_lock().with_context(context)?;
        let is_begun = is_begun(&file).with_context(context)?;
        ensure!(is_begun, "cannot write {}: {NO_EXPORT}", part.display());
        file.rewind().with_context(context)?;
        let (digests, end) = match compression {
            Compression::None => read_unfinished(&file, form).with_context(context)?,
            // Where a message ends in it cannot be seen.
            _ => (Vec::new(), 0),
        };
        file.set_len(end).with_context(context)?;
        file.seek(SeekFrom::End(0)).with_context(context)?;
        Ok(Self { file, digests })
    }
}

/// Opens what an interrupted export left, or makes it, for nobody else to read. The directory may be one in
/// which others make files too: what is no file of this user alone is not written to.
fn open_part(path: &Path) -> anyhow::Result<File> {
    #[expect(clippy::cast_possible_wrap, reason = "a pattern of bits")]
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(flags)
        .open(path);
    let file = match opened {
        // A link, a socket, a directory.
        Err(_) if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) => {
            bail!(NOT_OURS)
        }
        opened => opened?,
    };
    let metadata = file.metadata()?;
    let is_ours =
        metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == geteuid().as_raw();
    ensure!(is_ours, NOT_OURS);
    // An earlier version made it.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Whether `file` is empty, or may be what an export left, in whatever form and compression.
fn is_begun(file: &File) -> io::Result<bool> {
    let mut start = Vec::new();
    match decompressed(file.try_clone()?)?
        .take(archive::START_BYTES)
        .read_to_end(&mut start)
    {
        // One that is compressed ends anywhere.
        Err(error) if !is_torn(&error) => Err(error),
        _ => Ok(Form::is_begun(&start)),
    }
}

/// The good messages at the start of an export, and where they end.
fn read_unfinished(file: &File, form: Form) -> io::Result<(Vec<Digest>, u64)> {
    let length = file.metadata()?.len();
    let (mut digests, mut good) = (Vec::new(), 0);
    let result = archive::read(form, BufReader::new(file), MESSAGE_BYTES_MAX, |item| {
        let end = item.end.filter(|&end| end <= length);
        let (Ok(message), Some(end)) = (item.content, end) else {
            return ControlFlow::Break(());
        };
        if digests.last().is_some_and(|last| message.digest() <= *last) {
            return ControlFlow::Break(());
        }
        digests.push(message.digest());
        good = end;
        ControlFlow::Continue(())
    });
    match result {
        // A tar that ends early, or in the middle of a header, is what is expected here.
        Err(error) if is_torn(&error) => Ok(()),
        other => other,
    }?;
    Ok((digests, good))
}

/// Whether the error is the archive's own, not the disk's.
fn is_torn(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

/// The file is whole: makes it durable and gives it its name.
fn finish(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(part(path), path)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}
