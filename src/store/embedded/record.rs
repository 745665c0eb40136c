//! A record of the log: its bytes, its place, and the format of the log, which is all that a reader needs.
//!
//! It refuses to know files, and who writes or reads them. **Invariant:** a header reads back as it was written,
//! and one with a flipped bit is none.
//!
//! # Format
//!
//! `log/00000001.log`, `log/00000002.log`, … are segments, all of the size that `FORMAT` names in
//! bytes. A segment is filled with records from its first byte on; what is not written yet is zero.
//! A record starts at an offset divisible by 8 and never crosses a segment. Integers are
//! little-endian.
//!
//! | offset | bytes | field | |
//! |---:|---:|---|---|
//! | 0 | 4 | magic | `ff 64 67 31`; the first byte never occurs in UTF-8, so no text holds a header |
//! | 4 | 1 | kind | 1 message · 2 deletion · 3 filler |
//! | 5 | 3 | note | of a message: 1 if it replaces a damaged record of the same text, else 0; of a deletion: the low 24 bits of the CRC-32C of its body, or 0, which says nothing; of a filler: 0 |
//! | 8 | 8 | group | position at which this record's group starts, never behind the record |
//! | 16 | 32 | digest | SHA-256 of the body; of a deletion, the message's; zero in a filler |
//! | 48 | 4 | length | of the body, in bytes |
//! | 52 | 4 | checksum | CRC-32C (Castagnoli) of the bytes 0 to 51 |
//! | 56 | length | body | the text of a message, UTF-8; of a deletion, positions, 8 bytes each; a filler's means nothing |
//! | … | 0–7 | padding | zeros up to the next offset divisible by 8 |
//!
//! A *position* is `segment number << 32 | offset in the segment`; positions grow along the log. A
//! record that does not fit into the rest of a segment goes into the next one; the rest is covered
//! by a filler, or left alone where it is shorter than a header (56 bytes). Names are the decimal
//! numbers of positions, with eight digits or more. `log/ID` is the identity of the log, 32 hexadecimal
//! digits and a newline; other files are not part of the log.
//!
//! To list a log: walk every segment in numeric order from offset 0, skip fillers, and step over
//! `56 + length` rounded up to 8. Where magic, checksum or kind is wrong, or the record would leave its
//! segment, look for the next good header at the offsets divisible by 8; without one the segment is
//! over, and the next one follows. A body that does not hash to its digest is damaged or was never
//! acknowledged. A digest may occur more than once; any record whose body hashes to it counts, unless
//! a deletion of that digest stands behind it. A message that one stands behind is gone: its body is
//! zeros, or will be, and is not damage.
//!
//! The positions in a deletion are those of the records whose bodies it turns into zeros. Version 0.1.0 left
//! the note zero in all records: a reader that follows a position makes sure that the record there has that
//! digest and comes before the deletion.

use std::fmt;

use crate::digest::{DIGEST_BYTES, Digest};

/// Length of a record's header.
pub(super) const HEADER_BYTES: u32 = 56;

/// Records start at multiples of this, so that a search for the next good header after a broken
/// one looks at one offset in eight.
pub(super) const RECORD_ALIGNMENT: u32 = 8;

pub(super) const MAGIC: [u8; 4] = [0xff, b'd', b'g', b'1'];
const KIND_MESSAGE: u8 = 1;
const KIND_DELETION: u8 = 2;
const KIND_FILLER: u8 = 3;

/// A point in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Offset in the segment, in bytes.
    pub offset: u32,
}

impl Position {
    /// The first position of the first segment.
    pub const START: Self = Self::start_of(1);

    /// The first position of a segment.
    pub(super) const fn start_of(segment: u32) -> Self {
        Self { segment, offset: 0 }
    }

    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }

    pub(super) fn from_u64(value: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the value"
        )]
        Self {
            segment: (value >> 32) as u32,
            offset: value as u32,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "segment {}, offset {}",
            self.segment, self.offset
        )
    }
}

/// Where the body of a message lies: what the index keeps for each digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Position of the record.
    pub at: Position,
    /// Length of its body in bytes.
    pub length: u32,
}

/// What a good header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) content: Content,
    /// Of a deletion, the [`checksum`] of its body, or 0 if there is none; of a message, [`HEALS`] or 0.
    pub(super) note: u32,
    pub(super) group: Position,
    pub(super) length: u32,
}

/// The note of a message that replaces a damaged record.
pub(super) const HEALS: u32 = 1;

/// What the body of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The text with this digest.
    Message(Digest),
    /// Where messages with this digest stand, which are gone.
    Deletion(Digest),
    /// Nothing.
    Filler,
}

/// The checksum of the positions in a deletion: 24 bits.
pub(super) fn checksum(positions: &[u8]) -> u32 {
    crc32c::crc32c(positions) & 0x00ff_ffff
}

impl Header {
    /// That of a record which means nothing.
    pub(super) fn filler(group: Position, length: u32) -> Self {
        Self {
            content: Content::Filler,
            note: 0,
            group,
            length,
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let (kind, digest) = match self.content {
            Content::Message(digest) => (KIND_MESSAGE, *digest.as_bytes()),
            Content::Deletion(digest) => (KIND_DELETION, *digest.as_bytes()),
            Content::Filler => (KIND_FILLER, [0; DIGEST_BYTES]),
        };
        let [note @ .., _] = self.note.to_le_bytes();
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[5..8].copy_from_slice(&note);
        bytes[8..16].copy_from_slice(&self.group.to_u64().to_le_bytes());
        bytes[16..48].copy_from_slice(&digest);
        bytes[48..52].copy_from_slice(&self.length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..52]);
        bytes[52..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header from the front of `bytes`; `None` if there is no good one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&magic, _) = bytes.split_first_chunk::<4>()?;
        if magic != MAGIC {
            return None;
        }
        let (fields, rest) = bytes.split_at_checked(HEADER_BYTES as usize - 4)?;
        let (&checksum, _) = rest.split_first_chunk::<4>()?;
        if crc32c::crc32c(fields) != u32::from_le_bytes(checksum) {
            return None;
        }
        let (&[kind, n0, n1, n2], rest) = fields.get(4..)?.split_first_chunk::<4>()?;
        let (&group, rest) = rest.split_first_chunk::<8>()?;
        let (&digest, rest) = rest.split_first_chunk::<DIGEST_BYTES>()?;
        let (&length, _) = rest.split_first_chunk::<4>()?;
        let content = match kind {
            KIND_MESSAGE => Content::Message(Digest::from_bytes(digest)),
            KIND_DELETION => Content::Deletion(Digest::from_bytes(digest)),
            KIND_FILLER => Content::Filler,
            _ => return None,
        };
        Some(Self {
            content,
            note: u32::from_le_bytes([n0, n1, n2, 0]),
            group: Position::from_u64(u64::from_le_bytes(group)),
            length: u32::from_le_bytes(length),
        })
    }

    /// Whether `body` is what this header says, as far as it says something.
    pub(super) fn covers(&self, body: &[u8]) -> bool {
        match self.content {
            Content::Message(digest) => Digest::of(body) == digest,
            Content::Deletion(_) => self.note == 0 || checksum(body) == self.note,
            Content::Filler => true,
        }
    }
}

/// Bytes that a record with a body of `length` bytes takes in a segment; with a length from outside,
/// which may be anything, no more than there are.
pub(super) fn record_bytes(length: impl Into<u64>) -> u64 {
    length
        .into()
        .saturating_add(u64::from(HEADER_BYTES))
        .checked_next_multiple_of(u64::from(RECORD_ALIGNMENT))
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_any_flipped_bit_is_seen() {
        let header = Header {
            content: Content::Message(Digest::of(b"foo")),
            note: HEALS,
            group: Position {
                segment: 7,
                offset: 4096,
            },
            length: 3,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_header_cut_short_is_none() {
        let header = Header {
            content: Content::Filler,
            note: 0,
            group: Position::START,
            length: 0,
        };
        assert_eq!(Header::decode(&header.encode()[..55]), None);
    }
}
