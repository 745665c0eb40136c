//! An entry of the index: its key and its value, as bytes.
//!
//! It refuses to know where entries are kept. **Invariant:** what is encoded decodes to the same, and bytes of
//! another size are an error.

use super::super::record::{Place, Position};
use super::error::IndexError;
use crate::digest::{DIGEST_BYTES, Digest};

/// Bytes of a digest that are a key.
pub(super) const KEY_BYTES: usize = 22;

/// Bytes of a digest that are not.
const REST_BYTES: usize = DIGEST_BYTES - KEY_BYTES;

/// Bytes of a value before the length: the rest of a digest, position.
const LENGTH_AT: usize = REST_BYTES + 8;

/// Bytes of a value.
const VALUE_BYTES: usize = LENGTH_AT + 4;

pub(in crate::store::embedded) type Key = [u8; KEY_BYTES];

/// The prefix of a digest.
pub(in crate::store::embedded) fn key(digest: &Digest) -> Key {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&digest.as_bytes()[..KEY_BYTES]);
    key
}

pub(super) fn encode(digest: &Digest, place: Place) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    value[..REST_BYTES].copy_from_slice(&digest.as_bytes()[KEY_BYTES..]);
    value[REST_BYTES..LENGTH_AT].copy_from_slice(&place.at.to_u64().to_le_bytes());
    value[LENGTH_AT..].copy_from_slice(&place.length.to_le_bytes());
    value
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(Digest, Place), IndexError> {
    let key = <&Key>::try_from(key).map_err(|_| wrong_size())?;
    let value = <&[u8; VALUE_BYTES]>::try_from(value).map_err(|_| wrong_size())?;
    let mut digest = [0; DIGEST_BYTES];
    digest[..KEY_BYTES].copy_from_slice(key);
    digest[KEY_BYTES..].copy_from_slice(&value[..REST_BYTES]);
    let (mut at, mut length) = ([0; 8], [0; 4]);
    at.copy_from_slice(&value[REST_BYTES..LENGTH_AT]);
    length.copy_from_slice(&value[LENGTH_AT..]);
    let place = Place {
        at: Position::from_u64(u64::from_le_bytes(at)),
        length: u32::from_le_bytes(length),
    };
    Ok((Digest::from_bytes(digest), place))
}

pub(super) fn wrong_size() -> IndexError {
    IndexError::new("an entry has the wrong size")
}
