//! The two forms in which a store is exported, written and read back: lines of JSON, and a tar of
//! files that are named by their digests, with the sums that `sha256sum -c` checks.
//!
//! Both are believed nothing when they are read: what is handed on is a [`Message`], or why it is
//! none. This room refuses to know stores and servers.

mod compression;
mod item;
mod lines;
mod tarball;

use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;

use clap::ValueEnum;

pub(in crate::commands) use self::compression::{
    Compression, Compressor, decompressed, is_name_of_another_compression, other_compression,
};
pub(in crate::commands) use self::item::Item;
use self::tarball::TarWriter;
use crate::digest::Digest;
use crate::message::Message;
use crate::ndjson;

/// What an archive looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// One JSON object a line.
    #[value(name = "ndjson")]
    Lines,
    /// A tar.
    Tar,
}

impl Form {
    /// What an archive that begins with `start`, [`START_BYTES`] of it unless it is shorter, looks like: lines begin
    /// with an object, a tar with a header that has its sum, or with the zeros at its end.
    pub(in crate::commands) fn of(start: &[u8]) -> Option<Self> {
        match start.trim_ascii_start() {
            [] | [b'{', ..] => Some(Self::Lines),
            _ if tarball::is_header(start) => Some(Self::Tar),
            _ => None,
        }
    }

    /// Whether a file that begins with `start`, [`START_BYTES`] of it unless it is shorter, may be an archive, of either
    /// form, that this program began. Zeros are what a power cut leaves.
    pub(in crate::commands) fn is_begun(start: &[u8]) -> bool {
        let is_line = start.starts_with(ndjson::START) || ndjson::START.starts_with(start);
        is_line || tarball::is_begun(start) || start.iter().all(|&byte| byte == 0)
    }

    /// Whether the name of a file in a tar may begin with `byte`.
    pub(in crate::commands) fn is_start_of_name(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || byte == b'.'
    }

    /// What an item is called.
    pub(in crate::commands) fn item(self) -> &'static str {
        match self {
            Self::Lines => "line",
            Self::Tar => "entry",
        }
    }
}

/// Bytes by which a form is known: a header of a tar, but not of blank lines.
pub(in crate::commands) const START_BYTES: u64 = tarball::BLOCK_BYTES;

/// Reads an archive to its end, or until `each` has enough. No message in it is larger than
/// `message_bytes_max`, or it is none.
///
/// # Errors
/// If `input` cannot be read, a tar ends before it says so, or says of a file more than there is to say.
pub(in crate::commands) fn read(
    form: Form,
    input: impl BufRead,
    message_bytes_max: usize,
    each: impl FnMut(Item) -> ControlFlow<()>,
) -> io::Result<()> {
    match form {
        Form::Lines => lines::read(input, message_bytes_max, each),
        Form::Tar => tarball::read(input, message_bytes_max, each),
    }
}

/// Writes an archive.
pub(in crate::commands) enum Writer<W: Write> {
    Lines { output: W, line: Vec<u8> },
    Tar(TarWriter<W>),
}

impl<W: Write> Writer<W> {
    /// Goes on with an archive that has `written` already, in this order.
    pub(in crate::commands) fn new(form: Form, output: W, written: Vec<Digest>) -> Self {
        match form {
            Form::Lines => Self::Lines {
                output,
                line: Vec::new(),
            },
            Form::Tar => Self::Tar(TarWriter::new(output, written)),
        }
    }

    pub(in crate::commands) fn append(&mut self, message: &Message) -> io::Result<()> {
        match self {
            Self::Lines { output, line } => {
                line.clear();
                ndjson::write(line, message);
                output.write_all(line)
            }
            Self::Tar(tar) => tar.append(message),
        }
    }

    /// Writes what comes last, and gives back where to.
    pub(in crate::commands) fn finish(self) -> io::Result<W> {
        let mut output = match self {
            Self::Lines { output, .. } => output,
            Self::Tar(tar) => tar.finish()?,
        };
        output.flush()?;
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Form; 2] = [Form::Lines, Form::Tar];

    fn messages() -> Vec<Message> {
        ["", "foo", "two\nlines\n", "\u{0}\u{10ffff}"]
            .into_iter()
            .map(Message::new)
            .chain([Message::new("x".repeat(100_000))])
            .collect()
    }

    fn write(form: Form, messages: &[Message]) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut writer = Writer::new(form, &mut archive, Vec::new());
        for message in messages {
            writer.append(message).unwrap();
        }
        writer.finish().unwrap();
        archive
    }

    fn items(form: Form, archive: &[u8]) -> (Vec<Item>, io::Result<()>) {
        let mut items = Vec::new();
        let result = read(form, archive, 100_000, |item| {
            items.push(item);
            ControlFlow::Continue(())
        });
        (items, result)
    }

    #[test]
    fn what_is_written_is_read_back_in_both_forms() {
        for form in FORMS {
            let archive = write(form, &messages());
            assert_eq!(Form::of(&archive), Some(form));
            let (items, result) = items(form, &archive);
            result.unwrap();
            let numbers: Vec<_> = items.iter().map(|item| item.number).collect();
            assert_eq!(numbers, [1, 2, 3, 4, 5]);
            let read: Vec<_> = items
                .into_iter()
                .map(|item| item.content.unwrap())
                .collect();
            assert_eq!(read, messages());
        }
    }

    #[test]
    fn what_is_neither_lines_nor_a_tar_is_told() {
        let mut almost = write(Form::Tar, &messages());
        almost[0] ^= 1;
        for start in [
            &b"hello"[..],
            b"[]",
            b"\"foo\"",
            b"\xff",
            b"PK\x03\x04",
            &[b'a'; 512],
            &almost,
            &almost[..100],
        ] {
            assert_eq!(Form::of(start), None, "{:?}", &start[..start.len().min(8)]);
        }
        for start in [&b""[..], b" \n\r\n", b"\n {", b"{"] {
            assert_eq!(Form::of(start), Some(Form::Lines), "{start:?}");
        }
        assert_eq!(Form::of(&[0; 1024]), Some(Form::Tar));
    }

    #[test]
    fn an_empty_archive_has_no_items() {
        for form in FORMS {
            let (items, result) = items(form, &write(form, &[]));
            result.unwrap();
            assert!(items.is_empty());
        }
    }

    #[test]
    fn an_archive_cut_anywhere_gives_what_is_whole_and_no_wrong_place_to_go_on() {
        let messages = &messages()[..4];
        for form in FORMS {
            let archive = write(form, messages);
            let (whole, _) = items(form, &archive);
            for length in 0..archive.len() {
                let (items, _) = items(form, &archive[..length]);
                let ends = items.iter().filter_map(|item| {
                    let end = item.end.filter(|&end| end <= length as u64)?;
                    item.content.is_ok().then_some((item.number, end))
                });
                let last = ends.last();
                let expected = whole
                    .iter()
                    .map(|item| (item.number, item.end.unwrap()))
                    .rfind(|(_, end)| *end <= length as u64);
                assert_eq!(last, expected, "{form:?} cut at {length}");
            }
        }
    }

    #[test]
    fn what_goes_on_behind_a_cut_is_as_if_nothing_had_been_cut() {
        let messages = messages();
        for form in FORMS {
            let archive = write(form, &messages);
            let (items, _) = items(form, &archive);
            let cut = usize::try_from(items[1].end.unwrap()).unwrap();
            let mut again = archive[..cut].to_vec();
            let written = messages[..2].iter().map(Message::digest).collect();
            let mut writer = Writer::new(form, &mut again, written);
            for message in &messages[2..] {
                writer.append(message).unwrap();
            }
            writer.finish().unwrap();
            assert!(again == archive, "{form:?}");
        }
    }
}
