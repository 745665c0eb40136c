//! An export as a tar: the only room that knows the format.
//!
//! Files are named by their digests and hold the texts as they are. Last comes `SHA256SUMS`, so that
//! `tar -x` and `sha256sum -c SHA256SUMS` prove an export without digestd. Other programs may have written the
//! one that is read. **Invariant:** what a header says of a length decides about no memory before it was held
//! against a limit.

use std::io::{self, Read, Write};
use std::mem;
use std::ops::ControlFlow;
use std::str;

use bytes::Bytes;
use tar::{Archive, Builder, Entry, Header, PaxExtensions};

use super::item::{Item, Wrong};
use crate::digest::{DIGEST_DIGITS, Digest};
use crate::message::Message;

const SUMS_NAME: &str = "SHA256SUMS";

/// Files in a tar start at multiples of this.
pub(super) const BLOCK_BYTES: u64 = 512;

/// A header has a block.
const HEADER_BYTES: usize = 512;

/// Two digests, two spaces, and the end of the line.
const SUM_LINE_BYTES: u64 = 64 + 2 + 64 + 1;

/// A header that says something of the next file, in bytes: longer than any path that a system takes.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Such headers before one file: its name, the target of a link, and all the rest.
const EXTENSIONS_MAX: u32 = 3;

/// Bytes of the rest of a tar that are read at once.
const REST_BYTES: usize = 64 << 10;

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

/// Whether `start` begins with a header, by its sum, or with zeros, as a tar ends.
pub(super) fn is_header(start: &[u8]) -> bool {
    let Some((block, _)) = start.split_first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    let header = Header::from_byte_slice(block);
    // The sum counts itself as eight spaces.
    let bytes = block.iter().enumerate();
    let sum = bytes.map(|(place, &byte)| match place {
        148..156 => u32::from(b' '),
        _ => u32::from(byte),
    });
    block.iter().all(|&byte| byte == 0)
        || header
            .cksum()
            .is_ok_and(|stated| stated == sum.sum::<u32>())
}

/// Whether `start` may be the start of a tar that was written here: the name of its first file is a digest, or that of
/// the sums.
pub(super) fn is_begun(start: &[u8]) -> bool {
    let sums = SUMS_NAME.as_bytes();
    let (name, rest) = start.split_at(start.len().min(DIGEST_DIGITS));
    let is_of_digest = name
        .iter()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_of_digest && rest.first().is_none_or(|&byte| byte == 0)
        || start.starts_with(sums)
        || sums.starts_with(start)
}

/// Reads a tar to its end: zeros, of which one block is enough, and nothing after them. What ends before is not whole,
/// also where a header would be: programs that read such a tar silently lose what is missing.
pub(super) fn read(
    input: impl Read,
    file_bytes_max: usize,
    each: impl FnMut(Item) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(Input {
        input,
        is_at_end: false,
    });
    let mut number = 1;
    let read = read_entries(&mut archive, &mut number, file_bytes_max, each);
    let mut input = archive.into_inner();
    match read {
        Ok(ControlFlow::Break(())) => Ok(()),
        Ok(ControlFlow::Continue(())) if !input.is_at_end => {
            if number == 1 {
                return Err(wrong(
                    "it is zeros, which a tar without any file is, or a file that was damaged",
                ));
            }
            input.require_zeros().map_err(|error| at(number, error))
        }
        Err(error) if !input.is_at_end => Err(error),
        _ => Err(at(
            number,
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the tar ends here, without the zeros that end one: it was cut, or is not finished",
            ),
        )),
    }
}

/// What a tar is read from.
struct Input<R> {
    input: R,
    /// Nothing more came.
    is_at_end: bool,
}

impl<R: Read> Input<R> {
    /// Reads the rest, which says nothing.
    fn require_zeros(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; REST_BYTES];
        while !self.is_at_end {
            let length = self.read(&mut buffer)?;
            if buffer.iter().take(length).any(|&byte| byte != 0) {
                return Err(wrong(
                    "there is more after the zeros that end the tar: another tar, which is read from a file of its own, \
                     or damage",
                ));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.is_at_end |= length == 0 && !buffer.is_empty();
        Ok(length)
    }
}

/// Reads what comes before the end; `number` becomes that of the entry after the last one.
fn read_entries<R: Read>(
    archive: &mut Archive<R>,
    number: &mut u64,
    file_bytes_max: usize,
    mut each: impl FnMut(Item) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let mut extension = Extension::default();
    // Raw: the crate would read into memory whatever a header says about the next file.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        if extension
            .take(&mut entry)
            .map_err(|error| at(*number, error))?
        {
            continue;
        }
        let Extension { name, bytes, .. } = mem::take(&mut extension);
        if bytes.is_some_and(|bytes| bytes != entry.size()) {
            return Err(at(*number, wrong("its length is stated twice")));
        }
        let kind = entry.header().entry_type();
        let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        let name = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if !kind.is_dir() && name != SUMS_NAME.as_bytes() {
            let end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK_BYTES);
            let content = if kind.is_file() {
                read_file(&mut entry, name, file_bytes_max)?
            } else {
                Err(Wrong::Kind)
            };
            let item = Item {
                number: *number,
                content,
                end: Some(end),
            };
            if each(item).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        *number += 1;
    }
    if extension.headers > 0 {
        return Err(at(
            *number,
            wrong("there is no file after the headers for it"),
        ));
    }
    Ok(ControlFlow::Continue(()))
}

/// What headers before that of a file say of it.
#[derive(Default)]
struct Extension {
    /// How many there were.
    headers: u32,
    name: Option<Vec<u8>>,
    bytes: Option<u64>,
}

impl Extension {
    /// Takes in what an entry says of the next file; returns whether it was one that does.
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<bool> {
        let kind = entry.header().entry_type();
        // What is said of all files is nothing that a message is known by.
        let is_of_all = kind.is_pax_global_extensions();
        let is_pax = kind.is_pax_local_extensions();
        if !is_of_all && !is_pax && !kind.is_gnu_longname() && !kind.is_gnu_longlink() {
            return Ok(false);
        }
        let bytes = entry.size();
        if bytes > EXTENSION_BYTES_MAX {
            return Err(wrong(&format!(
                "a header before it has {bytes} bytes, more than {EXTENSION_BYTES_MAX}; digestd writes none that large"
            )));
        }
        if is_of_all {
            return Ok(true);
        }
        self.headers += 1;
        if self.headers > EXTENSIONS_MAX {
            return Err(wrong("there are too many headers before it"));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if (content.len() as u64) < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if kind.is_gnu_longname() {
            let end = content.iter().position(|&byte| byte == 0);
            content.truncate(end.unwrap_or(content.len()));
            self.name = Some(content);
        } else if is_pax {
            self.take_pax(&content)?;
        }
        Ok(true)
    }

    fn take_pax(&mut self, content: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(content) {
            let record = record?;
            match record.key_bytes() {
                b"path" => self.name = Some(record.value_bytes().to_owned()),
                b"size" => {
                    let bytes = record.value().ok().and_then(|value| value.parse().ok());
                    self.bytes = Some(bytes.ok_or_else(|| wrong("its length is no number"))?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Says which entry it is that is wrong, unless it is the disk.
fn at(number: u64, error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    io::Error::new(error.kind(), format!("entry {number}: {error}"))
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

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;

    /// Headers that say something of a file, then the file.
    fn archive(before: &[(EntryType, &[u8])], name: &str, text: &str) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, content) in before {
            let mut header = header(content.len() as u64);
            header.set_entry_type(*kind);
            builder.append_data(&mut header, "about", *content).unwrap();
        }
        let mut header = header(text.len() as u64);
        builder
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
        builder.into_inner().unwrap()
    }

    /// The items, and how it ended, where a file may have a thousand bytes.
    fn contents(archive: &[u8]) -> (Vec<Result<Message, Wrong>>, Result<(), String>) {
        let mut contents = Vec::new();
        let result = read(archive, 1000, |item| {
            contents.push(item.content);
            ControlFlow::Continue(())
        });
        (contents, result.map_err(|error| error.to_string()))
    }

    fn pax(key: &str, value: &str) -> String {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        format!("{length}{rest}")
    }

    fn foo() -> (String, Vec<Result<Message, Wrong>>) {
        let message = Message::new("foo");
        (message.digest().to_string(), vec![Ok(message)])
    }

    #[test]
    fn names_may_stand_in_headers_of_their_own() {
        let (digest, _) = foo();
        let long = format!("{}/{digest}", "directory/".repeat(100));
        let with_end = format!("{long}\0");
        let path = pax("mtime", "1.5") + &pax("path", &long) + &pax("size", "3");
        for before in [
            vec![(EntryType::GNULongName, with_end.as_bytes())],
            vec![(EntryType::XHeader, path.as_bytes())],
            vec![
                (EntryType::XGlobalHeader, path.as_bytes()),
                (EntryType::GNULongLink, b"elsewhere"),
                (EntryType::GNULongName, long.as_bytes()),
            ],
        ] {
            assert_eq!(
                contents(&archive(&before, "short", "foo")),
                (foo().1, Ok(()))
            );
        }
    }

    #[test]
    fn a_header_before_a_file_is_read_up_to_its_limit_and_never_beyond() {
        let (digest, _) = foo();
        let limit = usize::try_from(EXTENSION_BYTES_MAX).unwrap();
        for kind in [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let mut content = match kind {
                EntryType::GNULongName => format!("{}/{digest}", "x".repeat(limit - 65)),
                EntryType::GNULongLink => "x".repeat(limit),
                _ => pax("comment", &"x".repeat(limit - 15)),
            };
            assert_eq!(content.len(), limit, "{kind:?}");
            let fitting = archive(&[(kind, content.as_bytes())], &digest, "foo");
            assert_eq!(contents(&fitting), (foo().1, Ok(())), "{kind:?}");
            content.push('x');
            let beyond = archive(&[(kind, content.as_bytes())], &digest, "foo");
            let (read, result) = contents(&beyond);
            let error = result.unwrap_err();
            let said = "entry 1: a header before it has 65537 bytes";
            assert!(error.starts_with(said), "{error}");
            assert_eq!(read, []);
        }
    }

    #[test]
    fn headers_that_are_many_or_rubbish_or_say_another_length_are_refused() {
        let (digest, _) = foo();
        let (other, no_number) = (pax("size", "4"), pax("size", "many"));
        let link = (EntryType::GNULongLink, b"x".as_slice());
        for (before, said) in [
            (vec![link; 4], "entry 1: there are too many headers"),
            (vec![(EntryType::XHeader, other.as_bytes())], "stated twice"),
            (
                vec![(EntryType::XHeader, no_number.as_bytes())],
                "no number",
            ),
            (vec![(EntryType::XHeader, b"rubbish")], "entry 1: "),
        ] {
            let (read, result) = contents(&archive(&before, &digest, "foo"));
            let error = result.unwrap_err();
            assert!(error.contains(said), "{error}");
            assert_eq!(read, []);
        }
        let three = archive(&[link; 3], &digest, "foo");
        assert_eq!(contents(&three), (foo().1, Ok(())));
    }

    #[test]
    fn a_header_before_no_file_is_a_tar_that_ends_early() {
        let mut archive = archive(&[(EntryType::GNULongLink, b"x")], "y", "");
        archive.truncate(1024);
        assert!(contents(&archive).1.unwrap_err().starts_with("entry 1: "));
    }

    #[test]
    fn a_file_may_be_as_large_as_its_limit() {
        for bytes in [1000, 1001] {
            let message = Message::new("x".repeat(bytes));
            let name = message.digest().to_string();
            let archive = archive(&[], &name, &"x".repeat(bytes));
            let expected = match bytes {
                1000 => Ok(message),
                _ => Err(Wrong::TooLarge(1000)),
            };
            assert_eq!(contents(&archive), (vec![expected], Ok(())));
        }
    }
}
