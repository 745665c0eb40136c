//! What a batch does, and what it takes for itself: a slot, and memory for its lines.
//!
//! **Invariant:** all of it is set aside before the first line is read, and given back when the last of them is dropped.

use std::sync::Arc;

use super::app::App;
use super::budget::{NoRoom, Requester, Reservation};
use super::ending::EndSignal;
use super::error::HttpError;
use super::request::BodyError;
use crate::config::ESCAPED_BYTES_MAX;

/// What is done with each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchOperation {
    /// It has a message, which is stored.
    Publish,
    /// It has a digest, whose message is answered.
    LookUp,
    /// It has a digest, which is answered if it is that of no message.
    FindMissing,
}

impl BatchOperation {
    /// The member of a JSON object that has the array of what it is done with.
    pub(super) fn member(self) -> &'static str {
        match self {
            Self::Publish => "messages",
            Self::LookUp | Self::FindMissing => "digests",
        }
    }
}

/// What a batch takes for itself while it runs.
#[derive(Debug)]
pub(super) struct Shares {
    _slot: Reservation,
    /// Ends it when others need what it has.
    pub(super) told: Arc<EndSignal>,
    /// Shared with the lines on their way to the disk, which go on when the client has gone away.
    pub(super) memory: Arc<Reservation>,
}

impl Shares {
    /// Beside an array of `array_bytes`, which has room of its own.
    pub(super) async fn take(
        app: &App,
        requester: &Requester,
        operation: BatchOperation,
        array_bytes: usize,
    ) -> Result<Self, HttpError> {
        let (slots, no_room) = match operation {
            BatchOperation::Publish => (&app.batches, HttpError::NoRoomForBatch),
            BatchOperation::LookUp | BatchOperation::FindMissing => {
                (&app.look_ups, HttpError::NoRoomForLookUp)
            }
        };
        let told = Arc::new(EndSignal::default());
        let slot = slots.begin(requester, 1, Arc::clone(&told) as _).await;
        let slot = slot.map_err(|NoRoom| no_room)?;
        let texts = match operation {
            // A line on its way to the disk.
            BatchOperation::Publish => 1,
            // One that was read, and is written with an escape for each of its bytes.
            BatchOperation::LookUp => 1 + ESCAPED_BYTES_MAX,
            BatchOperation::FindMissing => 0,
        };
        let memory = app
            .bodies
            .begin_batch(requester, &app.limits.body, texts, array_bytes, &told);
        let memory = tokio::select! {
            biased;
            () = told.ended() => Err(BodyError::GaveWay),
            memory = memory => memory.map_err(BodyError::from),
        };
        Ok(Self {
            memory: memory?.into(),
            told,
            _slot: slot,
        })
    }
}
