//! An export as a tar: the only room that knows the format.
//!
//! Files are named by their digests and hold the texts as they are. Last comes `SHA256SUMS`, so that
//! `tar -x` and `sha256sum -c SHA256SUMS` prove an export without digestd.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::str;

use bytes::Bytes;
use tar::{Archive, Builder, Entry, Header};

use super::item::{Item, Wrong};
use crate::digest::Digest;
use crate::message::Message;

const SUMS_NAME: &str = "SHA256SUMS";

/// Files in a tar start at multiples of this.
const BLOCK_BYTES: u64 = 512;

/// Two digests, two spaces, and the end of the line.
const SUM_LINE_BYTES: u64 = 64 + 2 + 64 + 1;

/// Reading it is for everybody who has the file.
const FILE_MODE: u32 = 0o644;

/// Writes a tar. Keeps 32 bytes a file, for the sums at its end.
pub(in crate::commands) struct TarWriter<W: Write> {
    builder: Builder<W>,
    digests: Vec<Digest>,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(output: W, digests: Vec<Digest>) -> Self {
        let builder = Builder::new(output);
        Self { builder, digests }
    }

    pub(super) fn append(&mut self, message: &Message) -> io::Result<()> {
        let content = message.as_bytes();
        let digest = message.digest();
        let mut header = header(content.len() as u64);
        self.builder
            .append_data(&mut header, digest.to_string(), &content[..])?;
        self.digests.push(digest);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        let bytes = SUM_LINE_BYTES * self.digests.len() as u64;
        // The header now, the content by hand: it need not be in memory all at once.
        self.builder
            .append_data(&mut header(bytes), SUMS_NAME, io::empty())?;
        let output = self.builder.get_mut();
        for digest in &self.digests {
            writeln!(output, "{digest}  {digest}")?;
        }
        let padding = bytes.next_multiple_of(BLOCK_BYTES) - bytes;
        io::copy(&mut io::repeat(0).take(padding), output)?;
        self.builder.into_inner()
    }
}

/// The same for the same content, whenever it is written.
fn header(bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(FILE_MODE);
    header.set_mtime(0);
    header
}

pub(super) fn read(
    input: impl Read,
    file_bytes_max: usize,
    mut each: impl FnMut(Item) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(input);
    for (number, entry) in (1..).zip(archive.entries()?) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        let name = entry.path_bytes().into_owned();
        let name = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if kind.is_dir() || name == SUMS_NAME.as_bytes() {
            continue;
        }
        let end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK_BYTES);
        let content = if kind.is_file() {
            read_file(&mut entry, name, file_bytes_max)?
        } else {
            Err(Wrong::Kind)
        };
        let item = Item {
            number,
            content,
            end: Some(end),
        };
        if each(item).is_break() {
            break;
        }
    }
    Ok(())
}

fn read_file<R: Read>(
    entry: &mut Entry<'_, R>,
    name: &[u8],
    file_bytes_max: usize,
) -> io::Result<Result<Message, Wrong>> {
    let name = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let Some(stated): Option<Digest> = name else {
        return Ok(Err(Wrong::Name));
    };
    let bytes = entry.size();
    if bytes > file_bytes_max as u64 {
        return Ok(Err(Wrong::TooLarge(file_bytes_max)));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    if (content.len() as u64) < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let actual = Digest::of(&content);
    if actual != stated {
        return Ok(Err(Wrong::Content { stated, actual }));
    }
    Ok(Message::verified(Bytes::from(content), stated).ok_or(Wrong::NotText))
}
