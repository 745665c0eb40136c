//! How an embedded store is opened: its options, and what each is by default.

use std::sync::Arc;

use crate::store::{Durability, Observer};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// What an acknowledged put survives.
    pub durability: Durability,
    /// Memory for the pages of the index, in bytes.
    pub index_cache_bytes: u64,
    /// Memory for the texts of messages that are read often, in bytes.
    pub message_cache_bytes: u64,
    /// Largest message that will be put, in bytes of text.
    pub message_bytes_max: u64,
    /// Writes are refused while less than this is free on the disk, in bytes. `None`: 256 MiB or
    /// 2 % of the disk, whichever is more.
    pub free_bytes_min: Option<u64>,
    /// Told of every group that was committed.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Options {
    /// Every put survives a power cut, and no message is kept in memory; all else is the default.
    #[must_use]
    pub fn new(index_cache_bytes: u64, message_bytes_max: u64) -> Self {
        Self {
            durability: Durability::Disk,
            index_cache_bytes,
            message_cache_bytes: 0,
            message_bytes_max,
            free_bytes_min: None,
            observer: None,
        }
    }
}
