//! The scan: a segment read from one good record to the next, and what is between them.
//!
//! It knows what is broken and refuses to know what that means: whether it was ever acknowledged is the business of
//! `recovery`. **Invariants:** what the disk cannot read is broken and passes neither for zeros nor for a record;
//! every byte up to the last header that fits is in one stretch.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk;
use super::record::{
    Content, HEADER_BYTES, Header, MAGIC, Place, Position, RECORD_ALIGNMENT, record_bytes,
};
use super::segments::Log;
use crate::digest::Digest;

/// How much of a segment is read at once.
pub(super) const WINDOW_BYTES: u32 = 1 << 20;

/// Zeros are stepped over in steps of this: the unwritten rest of a segment is most of what a start
/// looks at.
const BLANK_STEP_BYTES: u32 = 4096;

/// A stretch of the log that was acknowledged and cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where it starts.
    pub(super) from: Position,
    /// Where the next good record, or the segment's end, is.
    pub(super) to: Position,
    /// The message that is lost, where the record still says so.
    pub(super) message: Option<(Digest, Place)>,
}

impl Damage {
    /// What it held is not known.
    pub(super) fn unnamed(from: Position, to: Position) -> Self {
        let message = None;
        Self { from, to, message }
    }
}

/// The position behind a record.
pub(super) fn after(at: Position, length: u32) -> Position {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the scan only yields records inside a segment"
    )]
    Position {
        segment: at.segment,
        offset: at.offset + record_bytes(length) as u32,
    }
}

/// A stretch without good records; `blank` if no byte of it is set.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) damage: Damage,
    pub(super) blank: bool,
    /// Something of it cannot be read.
    pub(super) is_unreadable: bool,
}

impl Broken {
    pub(super) fn missing(log: &Log, segment: u32) -> Self {
        let from = Position::start_of(segment);
        let to = Position {
            segment,
            offset: log.segment_bytes(),
        };
        Self {
            damage: Damage::unnamed(from, to),
            blank: false,
            is_unreadable: false,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.damage.to.offset - self.damage.from.offset)
    }
}

/// One step of a [`Scan`].
#[derive(Debug)]
pub(super) enum Stretch {
    /// A record with a good header; with a fault if its body is not what the header says.
    Record {
        at: Position,
        header: Header,
        fault: Option<Fault>,
    },
    Broken(Broken),
}

/// What is wrong with a body.
#[derive(Debug)]
pub(super) struct Fault {
    /// See [`Broken`].
    pub(super) is_unreadable: bool,
}

/// Walks through one segment.
pub(super) struct Scan<'a> {
    window: Window<'a>,
    segment_bytes: u32,
    /// Where the next stretch starts.
    pub(super) at: Position,
}

impl<'a> Scan<'a> {
    pub(super) fn new(file: &'a Arc<File>, segment_bytes: u32, from: Position) -> Self {
        Self {
            window: Window::of(file),
            segment_bytes,
            at: from,
        }
    }

    /// The next stretch, `None` at the end of the segment. A rest shorter than a header belongs to
    /// no stretch.
    pub(super) fn next(&mut self) -> io::Result<Option<Stretch>> {
        if self.segment_bytes.saturating_sub(self.at.offset) < HEADER_BYTES {
            return Ok(None);
        }
        let at = self.at;
        let Some(header) = self.header(at.offset)? else {
            return self.broken(at).map(Some);
        };
        let is_good = match header.content {
            Content::Filler => true,
            Content::Message(_) | Content::Deletion(_) => {
                let body = self
                    .window
                    .at(self.at.offset + HEADER_BYTES, header.length as usize)?;
                header.covers(body)
            }
        };
        let to = after(at, header.length);
        let fault = (!is_good).then(|| Fault {
            is_unreadable: self.window.is_unreadable(at.offset..to.offset),
        });
        self.at = to;
        Ok(Some(Stretch::Record { at, header, fault }))
    }

    /// The good header at `offset`, if there is one and its record fits where it stands.
    fn header(&mut self, offset: u32) -> io::Result<Option<Header>> {
        let Some(header) = Header::decode(self.window.at(offset, HEADER_BYTES as usize)?) else {
            return Ok(None);
        };
        let fits = u64::from(offset) + record_bytes(header.length) <= u64::from(self.segment_bytes);
        let at = Position { offset, ..self.at };
        Ok((fits && header.group <= at).then_some(header))
    }

    /// Steps over everything up to the next good header or the end of the segment.
    fn broken(&mut self, from: Position) -> io::Result<Stretch> {
        let mut blank = true;
        let mut is_unreadable = false;
        loop {
            if self.segment_bytes - self.at.offset > BLANK_STEP_BYTES + HEADER_BYTES {
                let step = self.window.at(self.at.offset, BLANK_STEP_BYTES as usize)?;
                if step.iter().all(|&byte| byte == 0) {
                    self.at.offset += BLANK_STEP_BYTES;
                    continue;
                }
            }
            let word = self.window.at(self.at.offset, RECORD_ALIGNMENT as usize)?;
            let is_magic = word.starts_with(&MAGIC);
            blank &= word.iter().all(|&byte| byte == 0);
            let word = self.at.offset..self.at.offset + RECORD_ALIGNMENT;
            is_unreadable |= self.window.is_unreadable(word);
            if is_magic && self.at.offset > from.offset && self.header(self.at.offset)?.is_some() {
                break;
            }
            self.at.offset += RECORD_ALIGNMENT;
            if self.segment_bytes - self.at.offset < HEADER_BYTES {
                self.at.offset = self.segment_bytes;
                break;
            }
        }
        Ok(Stretch::Broken(Broken {
            damage: Damage::unnamed(from, self.at),
            blank,
            is_unreadable,
        }))
    }
}

/// A part of a file in memory. What is past the end of the file reads as zeros, what the disk cannot
/// read as [`UNREADABLE`].
pub(super) struct Window<'a> {
    file: &'a File,
    start: u32,
    bytes: Vec<u8>,
    /// Parts of `bytes`, in ascending order.
    unreadable: Vec<Range<usize>>,
}

/// No zero, since zeros were never written, and no start of a header.
const UNREADABLE: u8 = 0xee;

impl<'a> Window<'a> {
    pub(super) fn of(file: &'a File) -> Self {
        Self {
            file,
            start: 0,
            bytes: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// The `length` bytes at `offset`.
    #[expect(
        clippy::indexing_slicing,
        reason = "a record that is not there must not pass for one that is"
    )]
    fn at(&mut self, offset: u32, length: usize) -> io::Result<&[u8]> {
        let inside = |start: u32, bytes: &[u8]| {
            let from = offset.checked_sub(start)? as usize;
            (from + length <= bytes.len()).then_some(from)
        };
        let from = if let Some(from) = inside(self.start, &self.bytes) {
            from
        } else {
            self.load(offset, length.max(WINDOW_BYTES as usize))?;
            0
        };
        Ok(&self.bytes[from..from + length])
    }

    /// Reads the `length` bytes at `offset`, and nothing else.
    #[expect(
        clippy::indexing_slicing,
        reason = "the ranges are parts of the buffer that was read into; what cannot be read must not pass for zeros, which are written over"
    )]
    pub(super) fn load(&mut self, offset: u32, length: usize) -> io::Result<()> {
        self.bytes = vec![0; length];
        self.start = offset;
        self.unreadable = disk::read_around(self.file, &mut self.bytes, offset.into())?;
        for range in &self.unreadable {
            self.bytes[range.clone()].fill(UNREADABLE);
        }
        Ok(())
    }

    /// Whether something between these offsets cannot be read, as far as they were read.
    fn is_unreadable(&self, offsets: Range<u32>) -> bool {
        let start = u64::from(self.start);
        let overlaps = |range: &Range<usize>| {
            start + (range.start as u64) < u64::from(offsets.end)
                && u64::from(offsets.start) < start + range.end as u64
        };
        self.unreadable.iter().any(overlaps)
    }

    /// What could be read, piece by piece, each with its offset in the file.
    #[expect(
        clippy::indexing_slicing,
        reason = "the pieces between ascending parts of the buffer; one that is left out would not be written again, and be taken for durable"
    )]
    pub(super) fn readable(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let starts = std::iter::once(0).chain(self.unreadable.iter().map(|range| range.end));
        let ends = self.unreadable.iter().map(|range| range.start);
        let pieces = starts.zip(ends.chain([self.bytes.len()]));
        pieces.map(|(from, to)| {
            let at = u64::from(self.start) + from as u64;
            (at, &self.bytes[from..to])
        })
    }
}
