//! A text as it comes from a server, in pieces of one size.
//!
//! **Invariant:** it takes as much memory as it has bytes, and a piece. One buffer that grows would take three times
//! that while it is copied.

use crate::digest::Digest;

/// Size of a piece.
const BYTES: usize = 1 << 20;

/// Bytes that came.
#[derive(Debug, Default)]
pub struct Pieces {
    /// All but the last are full.
    pieces: Vec<Vec<u8>>,
}

impl Pieces {
    /// Adds what came next.
    pub(super) fn append(&mut self, mut more: &[u8]) {
        while !more.is_empty() {
            // Most texts are short.
            let room = match &*self.pieces {
                [] => more.len().min(BYTES),
                _ => BYTES,
            };
            match self.pieces.last_mut().filter(|last| last.len() < BYTES) {
                Some(last) => {
                    let (part, rest) = more.split_at(more.len().min(BYTES - last.len()));
                    last.extend_from_slice(part);
                    more = rest;
                }
                None => self.pieces.push(Vec::with_capacity(room)),
            }
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of_pieces(self.iter())
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_take_no_more_memory_than_they_have_bytes_and_a_piece() {
        for (size, count) in [(1, 3_000_000), (8192, 400), (3 << 20, 3), (BYTES, 2)] {
            let mut pieces = Pieces::default();
            let mut expected = Vec::new();
            for number in 0..count {
                let more = vec![u8::try_from(number % 251).unwrap(); size];
                pieces.append(&more);
                expected.extend_from_slice(&more);
            }
            assert_eq!(pieces.digest(), Digest::of(&expected));
            assert_eq!(pieces.iter().collect::<Vec<_>>().concat(), expected);
            let capacity: usize = pieces.pieces.iter().map(Vec::capacity).sum();
            assert!(capacity <= expected.len() + BYTES, "{size}: {capacity}");
        }
    }
}
