//! Memory for the bodies of requests.
//!
//! Room is taken by what has come: a body in several pieces has up to four times of that, and no more than its
//! length. What comes before there is room for it lies in what was read ahead from its connection.
//!
//! **Invariant:** every byte of a body in memory is covered by a [`Reservation`], which lives as long as what
//! is kept of the body does: in the queue of the store too, when the client has gone away.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{Budget, NoRoom, Requester, Reservation, Waits};
use super::covered::covered;
use super::ending::EndSignal;
use crate::access::networks::Client;
use crate::config::BodyLimits;

/// A body takes so many times the room of what has come, so that it asks a few times and not for every piece …
const GROWTH: usize = 4;

/// … and at least this, in bytes, once it is known to come in several pieces.
const GROWTH_BYTES_MIN: usize = 4 << 10;

/// Texts that are decoded at once into buffers that nothing covers: more than a gigabyte a second.
const SPARES_MAX: usize = 2;

/// A text up to this is copied by the thread that reads it, in bytes.
const SPARE_BYTES_MIN: usize = 64 << 10;

/// Memory for bodies in flight, in two parts, so that however many large bodies are on their way,
/// small ones pass.
#[derive(Debug)]
pub(super) struct BodyBudget {
    small: Budget,
    large: Budget,
    small_body_bytes_max: usize,
    spares: Arc<Semaphore>,
}

impl BodyBudget {
    pub(super) fn new(limits: &BodyLimits, waits: &Arc<Waits>) -> Self {
        Self {
            small: Budget::waiting(limits.all_small_bytes_max, waits),
            large: Budget::waiting(limits.all_large_bytes_max, waits),
            small_body_bytes_max: limits.small_bytes_max,
            spares: Arc::new(Semaphore::new(SPARES_MAX)),
        }
    }

    /// How many bodies and batches were told to end so far.
    pub(super) fn ended(&self) -> u64 {
        self.small.ended() + self.large.ended()
    }

    /// Covers a body that came at once; never waits.
    pub(super) fn reserve(&self, client: Client, bytes: usize) -> Result<Reservation, NoRoom> {
        self.part(self.is_small(bytes)).reserve(client, bytes)
    }

    /// What the text of `json` is decoded into, if it is long and has escapes: to be asked for by the thread that
    /// serves the request. What a thread for blocking work allocates and another frees comes back late: 200
    /// texts of 1 MB, one after the other, left 90 MiB and leave 40. Waits while others decode theirs.
    pub(super) async fn spare(&self, json: &CoveredBytes) -> Spare {
        let bytes = json.bytes.len();
        if bytes <= SPARE_BYTES_MIN || !json.bytes.contains(&b'\\') {
            return Spare::default();
        }
        let turn = Arc::clone(&self.spares).acquire_owned().await;
        Spare {
            buffer: Vec::with_capacity(bytes),
            // It is never closed.
            _turn: turn.ok(),
        }
    }

    fn is_small(&self, bytes: usize) -> bool {
        bytes <= self.small_body_bytes_max
    }

    /// Where bodies are counted that are small, or are not.
    fn part(&self, is_small: bool) -> &Budget {
        if is_small { &self.small } else { &self.large }
    }

    /// Sets aside room for a batch that `told` ends: a line that is gathered, half of it again while its buffer
    /// grows, and as much as `texts` of the largest texts.
    pub(super) async fn begin_batch(
        &self,
        requester: &Requester,
        limits: &BodyLimits,
        texts: usize,
        array_bytes: usize,
        told: &Arc<EndSignal>,
    ) -> Result<Reservation, NoRoom> {
        let text = usize::try_from(limits.bytes_max).unwrap_or(usize::MAX);
        let bytes = text.saturating_add(text / 2);
        let bytes = bytes.saturating_add(text.saturating_mul(texts));
        // Where one line may take all of a share, it does, but for what the array has of it.
        let bytes = bytes.min(self.large.share_max().saturating_sub(array_bytes));
        let beginning = self.large.begin(requester, bytes, Arc::clone(told) as _);
        beginning.await
    }
}

/// A buffer for a text that is decoded, and the right to have it.
#[derive(Debug, Default)]
pub(super) struct Spare {
    buffer: Vec<u8>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Bytes of a body, with what covers them.
#[derive(Debug)]
pub(super) struct CoveredBytes {
    bytes: Bytes,
    /// They have a buffer of their own, of their size. Otherwise they are part of what was read from the
    /// connection.
    is_gathered: bool,
    reservation: Arc<Reservation>,
}

impl CoveredBytes {
    /// Bytes that are part of what was read from the connection.
    pub(super) fn piece(bytes: Bytes, reservation: Arc<Reservation>) -> Self {
        Self {
            bytes,
            is_gathered: false,
            reservation,
        }
    }

    /// Bytes in a buffer of their own.
    pub(super) fn gathered(bytes: Bytes, reservation: Arc<Reservation>) -> Self {
        Self {
            bytes: covered(bytes, Arc::clone(&reservation)),
            is_gathered: true,
            reservation,
        }
    }

    /// The bytes, covered only as long as this is there.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Lets go of everything but `text`, a part of these bytes or made from them. It is copied, into `spare` if
    /// it fits, unless it is at least half of a buffer of its own, and covered for as long as it is anywhere.
    pub(super) fn into_text(self, text: ByteString, spare: Spare) -> ByteString {
        let mut spare = spare.buffer;
        let Self {
            bytes,
            is_gathered,
            reservation,
        } = self;
        let is_part = bytes.as_ptr_range().contains(&text.as_ptr());
        if is_part && is_gathered && text.len() >= bytes.len() / 2 {
            return text;
        }
        let mut kept = text.len();
        let copy = if kept <= spare.capacity() {
            spare.extend_from_slice(text.as_bytes());
            if kept < spare.capacity() / 2 {
                spare.shrink_to_fit();
            }
            kept = spare.capacity();
            spare.into()
        } else if is_part {
            Bytes::copy_from_slice(text.as_bytes())
        } else {
            text.clone().into_bytes()
        };
        drop((text, bytes));
        let text = match Arc::try_unwrap(reservation) {
            Ok(mut reservation) => {
                reservation.shrink_to(kept);
                covered(copy, reservation)
            }
            // One for all lines of a batch.
            Err(shared) => covered(copy, shared),
        };
        ByteString::try_from(text).unwrap_or_else(|_| unreachable!("it was a text before"))
    }
}

/// Where a body is gathered that comes in several pieces.
pub(super) struct BodyBuffer<'a> {
    budget: &'a BodyBudget,
    requester: Requester,
    /// Ends it.
    told: Arc<EndSignal>,
    bytes_max: usize,
    /// Where the head says it.
    length: Option<usize>,
    text: BytesMut,
    /// Covers the buffer, once there is one.
    reservation: Option<Reservation>,
    /// Where that is.
    is_small: bool,
}

impl<'a> BodyBuffer<'a> {
    pub(super) fn new(
        limits: &BodyLimits,
        budget: &'a BodyBudget,
        requester: &Requester,
        length: Option<u64>,
    ) -> Self {
        Self {
            budget,
            requester: requester.clone(),
            told: Arc::default(),
            bytes_max: usize::try_from(limits.bytes_max).unwrap_or(usize::MAX),
            length: length.and_then(|bytes| usize::try_from(bytes).ok()),
            text: BytesMut::new(),
            reservation: None,
            is_small: false,
        }
    }

    /// Told when it is to end.
    pub(super) fn told(&self) -> Arc<EndSignal> {
        Arc::clone(&self.told)
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Sets aside the first of its room, before anything came.
    pub(super) async fn begin(&mut self) -> Result<(), NoRoom> {
        self.make_room(1).await
    }

    pub(super) async fn add(&mut self, data: &Bytes) -> Result<(), NoRoom> {
        self.make_room(self.text.len() + data.len()).await?;
        self.text.extend_from_slice(data);
        Ok(())
    }

    /// Sees that `bytes` bytes fit, and some more.
    async fn make_room(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes <= self.text.capacity() {
            return Ok(());
        }
        let most = self.length.unwrap_or(self.bytes_max);
        let wanted = bytes.saturating_mul(GROWTH).max(GROWTH_BYTES_MIN);
        let wanted = wanted.min(most).max(bytes);
        // One of unknown length is small until it is not.
        let is_small = self.budget.is_small(self.length.unwrap_or(wanted));
        match &mut self.reservation {
            Some(reservation) if is_small == self.is_small => {
                let whole = if is_small {
                    most.min(self.budget.small_body_bytes_max)
                } else {
                    most
                };
                let granted = reservation.grow(&self.requester, wanted, whole).await?;
                self.text = copy_into(granted, &self.text);
                reservation.shrink_to(granted);
            }
            before => {
                let part = self.budget.part(is_small);
                let told = Arc::clone(&self.told) as _;
                let reservation = part.begin_growing(&self.requester, wanted, told).await?;
                self.text = copy_into(wanted, &self.text);
                // What was there is covered until now.
                *before = Some(reservation);
                self.is_small = is_small;
            }
        }
        Ok(())
    }

    /// Whether other clients wait while its own has more than its part.
    pub(super) fn is_crowding(&self) -> bool {
        let reservation = self.reservation.as_ref();
        reservation.is_some_and(Reservation::is_crowding)
    }

    /// All that came.
    pub(super) fn finish(self) -> Result<CoveredBytes, NoRoom> {
        let mut reservation = match self.reservation {
            Some(mut reservation) => {
                reservation.settle();
                reservation
            }
            // Nothing came.
            None => self.budget.small.reserve(self.requester.client, 0)?,
        };
        let mut text = self.text;
        if text.len() < text.capacity() / 2 {
            text = copy_into(text.len(), &text);
            reservation.shrink_to(text.len());
        }
        Ok(CoveredBytes::gathered(text.freeze(), reservation.into()))
    }
}

/// A buffer for `bytes` bytes that begins with `text`.
fn copy_into(bytes: usize, text: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(bytes);
    buffer.extend_from_slice(text);
    buffer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget() -> BodyBudget {
        let limits = BodyLimits {
            all_small_bytes_max: 100_000,
            all_large_bytes_max: 1_000_000,
            small_bytes_max: 10_000,
            ..BodyLimits::default()
        };
        let waits = Waits::new(&Budget::new(0), Duration::ZERO);
        BodyBudget::new(&limits, &Arc::new(waits))
    }

    fn requester() -> Requester {
        Requester {
            client: Client::of([10, 0, 0, 1].into()),
            h2: None,
        }
    }

    /// A body of this length, if that is said, that may have 400,000 bytes.
    fn buffer(budget: &BodyBudget, length: Option<u64>) -> BodyBuffer<'_> {
        let limits = BodyLimits {
            bytes_max: 400_000,
            ..BodyLimits::default()
        };
        BodyBuffer::new(&limits, budget, &requester(), length)
    }

    fn taken(buffer: &BodyBuffer) -> (bool, usize) {
        let reservation = buffer.reservation.as_ref().unwrap();
        assert_eq!(reservation.units(), buffer.text.capacity());
        (buffer.is_small, reservation.units())
    }

    /// What is kept of `text`, in a body of `bytes` bytes that has it at its start if it is a part.
    async fn kept(text: &str, bytes: usize, is_part: bool) -> usize {
        let budget = budget();
        let client = requester().client;
        let whole = text.to_owned() + &"\\".repeat(bytes - text.len());
        let reservation = budget.part(false).reserve(client, 400_000).unwrap();
        let whole = CoveredBytes::gathered(whole.into(), reservation.into());
        let text = if is_part {
            ByteString::try_from(whole.bytes().slice(..text.len())).unwrap()
        } else {
            text.into()
        };
        let spare = budget.spare(&whole).await;
        let _kept = whole.into_text(text, spare);
        let free = (1..500_000)
            .rev()
            .find(|&bytes| budget.part(false).reserve(client, bytes).is_ok());
        500_000 - free.unwrap()
    }

    #[tokio::test]
    async fn of_a_body_the_text_is_kept_and_what_it_is_a_part_of_only_if_that_is_hardly_more() {
        let text = "x".repeat(100_000);
        // All of what was set aside for it, since it is in there.
        assert_eq!(kept(&text, 200_000, true).await, 400_000);
        // In a buffer of the size of the body, or of its own.
        assert_eq!(kept(&text, 200_000, false).await, 200_000);
        assert_eq!(kept(&text, 200_002, false).await, 100_000);
        assert_eq!(kept(&text, 200_002, true).await, 100_000);
        assert_eq!(kept("x", 10_000, false).await, 1);
        assert_eq!(kept("x", 10_000, true).await, 1);
    }

    #[tokio::test]
    async fn so_many_texts_are_decoded_at_once_and_not_one_more() {
        let budget = budget();
        let json = "\\".repeat(SPARE_BYTES_MIN + 1);
        let reservation = budget.reserve(requester().client, json.len()).unwrap();
        let json = CoveredBytes::gathered(json.into(), reservation.into());
        let mut spares = Vec::new();
        for _ in 0..SPARES_MAX {
            spares.push(budget.spare(&json).await);
        }
        let waits = tokio::time::timeout(Duration::ZERO, budget.spare(&json)).await;
        assert!(waits.is_err());
        spares.pop();
        budget.spare(&json).await;
    }

    #[test]
    fn large_bodies_never_keep_small_ones_out() {
        let budget = budget();
        let client = requester().client;
        let _large = budget.part(false).reserve(client, 500_000).unwrap();
        let small: Vec<_> = (0..5)
            .map(|_| budget.part(true).reserve(client, 10_000).unwrap())
            .collect();
        budget.part(true).reserve(client, 10_000).unwrap_err();
        budget.part(false).reserve(client, 10_001).unwrap_err();
        drop(small);
        budget.part(true).reserve(client, 50_000).unwrap();
    }

    #[tokio::test]
    async fn a_body_takes_room_by_what_has_come_and_no_more_than_its_length() {
        let budget = budget();
        let mut body = buffer(&budget, Some(300_000));
        let piece = Bytes::from(vec![b'x'; 50_000]);
        for takes in [200, 200, 200, 200, 300, 300] {
            body.add(&piece).await.unwrap();
            assert_eq!(taken(&body), (false, takes * 1000));
        }
        let whole = body.finish().unwrap();
        assert_eq!(whole.bytes().len(), 300_000);
        let client = requester().client;
        budget.part(false).reserve(client, 200_001).unwrap_err();
        drop(whole);
        budget.part(false).reserve(client, 500_000).unwrap();
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_small_until_it_is_not() {
        let budget = budget();
        let mut body = buffer(&budget, None);
        for (bytes, takes) in [(1, (true, GROWTH_BYTES_MIN)), (300_000, (false, 400_000))] {
            body.add(&Bytes::from(vec![b'x'; bytes])).await.unwrap();
            assert_eq!(taken(&body), takes);
        }
    }
}
