//! A log of version 0.1.0 made one of this version: records of a text that were written more than once are erased, and
//! the log gets an identity.
//!
//! It knows which records nobody can ask for; how they are erased is the business of `eraser`. **Invariant:** of the
//! records of a message that is there, one that is whole stays.

use std::collections::HashMap;

use tracing::{info, warn};

use super::directory::OpenError;
use super::eraser::Eraser;
use super::erasures::Erasure;
use super::index::Index;
use super::record::{Place, Position};
use super::recovery::{self, Kind, Record};
use super::replay::ReplayError;
use super::segments::Log;
use super::state::Shared;
use crate::digest::Digest;

/// What is said of a log that gets an identity.
const NEW_IDENTITY: &str =
    "the log has an identity now: earlier backups cannot be brought up to date, make new ones";

impl Shared {
    /// Makes a log of version 0.1.0 one of this: what it has twice is erased, and then it gets an identity, so
    /// that this is done once. One that lost its identity may be one in which this was interrupted.
    pub(super) fn take_over(
        &self,
        eraser: &mut Eraser,
        is_lost: bool,
        progress: &(dyn Fn(String) + Sync),
    ) -> Result<(), OpenError> {
        progress("looking for texts that an earlier version stored twice".into());
        let end = self.indexed().position;
        let doubles = find_doubles(&self.index, &self.log, end)?;
        let count = doubles.len();
        self.erasures.add(doubles);
        eraser.erase_all();
        self.log
            .identify()
            .map_err(OpenError::io("give the log an identity"))?;
        if count > 0 {
            info!(texts = count, "erased what an earlier version stored twice");
        }
        if is_lost {
            warn!("log/ID was missing: {NEW_IDENTITY}");
        } else {
            info!("{NEW_IDENTITY}");
        }
        Ok(())
    }

    /// Gives a log whose identity was damaged another one.
    pub(super) fn identify_again(&self) -> Result<(), OpenError> {
        self.log
            .identify()
            .map_err(OpenError::io("give the log an identity"))?;
        warn!("log/ID was damaged: {NEW_IDENTITY}");
        Ok(())
    }
}

/// Whole records before `end` that nobody can ask for: version 0.1.0 wrote a text as often as it came at once,
/// and erased one record of it with its deletion. Reads the log, and asks the index for each record.
fn find_doubles(index: &Index, log: &Log, end: Position) -> Result<Vec<Erasure>, ReplayError> {
    let mut doubles = Vec::new();
    // Records of messages that the index does not have, unless a deletion comes they are not to be touched.
    let mut unknown = HashMap::<_, Vec<_>>::new();
    recovery::survey_before(log, end, |record| {
        let Record { digest, place, .. } = record;
        let erasure = |place: Place| Erasure {
            digest,
            place,
            reason: place.at,
        };
        match record.kind {
            Kind::Deletion => {
                let deleted = unknown.remove(&digest).into_iter().flatten();
                doubles.extend(deleted.map(erasure));
            }
            Kind::Message => match index.get(&digest)? {
                Some(indexed) if indexed == place => {}
                Some(indexed) => {
                    let is_whole = |body: Vec<u8>| Digest::of(&body) == digest;
                    // Otherwise this is the better one.
                    if log.read(indexed).is_ok_and(is_whole) {
                        doubles.push(erasure(place));
                    }
                }
                None => unknown.entry(digest).or_default().push(place),
            },
        }
        Ok::<_, ReplayError>(())
    })?;
    Ok(doubles)
}
