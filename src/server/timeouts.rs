//! How long a connection may take for what it does.
//!
//! hyper has no time limit on a client that sends nothing, reads nothing or keeps a connection for days, and
//! its one for request heads costs a timer a request. So a connection counts what it does
//! ([`ConnectionProgress`], a few relaxed atomics), and [`IdlePolicy`] looks at the counts now and then: limits
//! on time hold within a quarter of the shortest of them, and cost a request nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::ConnectionLimits;
use crate::http::{DeliveryProgress, Discards, End, Ending};

/// Answers that are remembered between two looks, before those that were taken are forgotten: twice as many as
/// there are streams.
const ANSWERS_MAX: usize = 128;

/// What a connection did so far.
#[derive(Debug)]
pub(super) struct ConnectionProgress {
    pub(super) started: Instant,
    /// Since when it does what it does, in milliseconds after its start, or [`NEW_STATE`].
    pub(super) state_since: AtomicU64,
    /// What runs it, once that is there.
    pub(super) task: OnceLock<AbortHandle>,
    /// Bytes read since the last request began: a head in the making, if none is running.
    pub(super) head_bytes: AtomicUsize,
    pub(super) written_bytes: AtomicU64,
    /// The client takes nothing at the moment.
    pub(super) write_blocked: AtomicBool,
    pub(super) running: AtomicUsize,
    pub(super) requests: AtomicU64,
    pub(super) is_h2: AtomicBool,
    /// Answers that the policy does not know yet.
    answers: Mutex<Vec<Unread>>,
    /// An answer was given before its request had ended.
    pub(super) body_unread: AtomicBool,
    /// Its last answer was given: it has had its requests, or is old.
    pub(super) retire: AtomicBool,
    /// It was ended for what it sent beside requests.
    pub(super) has_flooded: AtomicBool,
    /// What comes of bodies that are not read.
    pub(super) discards: Discards,
}

/// A request began after the policy last looked.
const NEW_STATE: u64 = u64::MAX;

impl ConnectionProgress {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            state_since: AtomicU64::new(0),
            task: OnceLock::new(),
            head_bytes: AtomicUsize::new(0),
            written_bytes: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            is_h2: AtomicBool::new(false),
            answers: Mutex::default(),
            body_unread: AtomicBool::new(false),
            retire: AtomicBool::new(false),
            has_flooded: AtomicBool::new(false),
            discards: Discards::default(),
        }
    }

    /// Lets [`Self::end`] end `task`.
    pub(super) fn runs_in(&self, task: AbortHandle) {
        // There is only one.
        let _ = self.task.set(task);
    }

    /// Whether [`Self::end`] would end it.
    pub(super) fn can_end(&self) -> bool {
        self.task.get().is_some()
    }

    /// Whether a request is being answered, or its answer taken.
    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Relaxed) > 0 || self.write_blocked.load(Relaxed)
    }

    pub(super) fn has_had_requests(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// How long it has been idle, or busy without progress, as far as the policy saw.
    pub(super) fn state_lasts_for(&self, now: Instant) -> Duration {
        match self.state_since.load(Relaxed) {
            NEW_STATE => Duration::ZERO,
            since => (now - self.started).saturating_sub(Duration::from_millis(since)),
        }
    }

    pub(super) fn set_state_since(&self, since: Instant) {
        let since = (since - self.started).as_millis();
        let since = u64::try_from(since).unwrap_or(NEW_STATE);
        self.state_since.store(since, Relaxed);
    }

    /// Lets the policy look after an answer, on a stream that `stream` ends.
    pub(super) fn follow(&self, delivery: DeliveryProgress, stream: Option<Ending>) {
        let mut answers = self.answers();
        // A fast client takes thousands between two looks.
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|answer| answer.delivery.pieces().is_some());
        }
        answers.push(Unread {
            delivery,
            stream,
            pieces: 0,
            since: Instant::now(),
        });
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Unread>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client may be sending at the moment: a body, or a head that hyper refused.
    pub(super) fn is_interrupted(&self) -> bool {
        let in_head = !self.is_h2.load(Relaxed) && self.head_bytes.load(Relaxed) > 0;
        in_head || self.body_unread.load(Relaxed)
    }
}

impl End for ConnectionProgress {
    /// Ends the connection, whatever it does.
    fn end(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// A request being answered, until the answer is there, or over if it is made while it is sent.
pub(super) struct Running(pub(super) Arc<ConnectionProgress>);

impl Running {
    /// Counts a request; returns its number on the connection, from 1.
    pub(super) fn start(progress: Arc<ConnectionProgress>, is_h2: bool) -> (Self, u64) {
        progress.head_bytes.store(0, Relaxed);
        progress.is_h2.store(is_h2, Relaxed);
        progress.state_since.store(NEW_STATE, Relaxed);
        progress.running.fetch_add(1, Relaxed);
        let number = progress.requests.fetch_add(1, Relaxed) + 1;
        (Self(progress), number)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
        self.0.head_bytes.store(0, Relaxed);
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Go,
    /// Finish what was begun, then close.
    Retire,
    /// Close now.
    End,
}

/// Looks at a connection now and then, and knows since when it has been doing what it does.
#[derive(Debug)]
pub(super) struct IdlePolicy {
    tick: Duration,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_stall_timeout: Duration,
    state: State,
    since: Instant,
    retired: bool,
    answers: Vec<Unread>,
}

/// An answer that was not taken to its end when it was last looked at.
#[derive(Debug)]
struct Unread {
    delivery: DeliveryProgress,
    /// Ends its stream, if it has one for itself.
    stream: Option<Ending>,
    pieces: usize,
    /// When a piece of it was last taken, or could not be sent since others came first.
    since: Instant,
}

/// What a connection is doing, as far as its time is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing came yet, or not yet a whole request.
    First,
    /// Part of a later head came.
    Head,
    /// Requests are running, or answers are being taken; what was written so far.
    Busy { written_bytes: u64 },
    /// The client takes nothing; what was written before.
    Blocked { written_bytes: u64 },
    /// Nothing to do; requests so far and bytes written.
    Idle { requests: u64, written_bytes: u64 },
}

impl IdlePolicy {
    pub(super) fn new(limits: &ConnectionLimits, started: Instant) -> Self {
        let shortest = limits
            .head_timeout
            .min(limits.idle_timeout)
            .min(limits.write_stall_timeout);
        Self {
            tick: shortest / 4,
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            write_stall_timeout: limits.write_stall_timeout,
            state: State::First,
            since: started,
            retired: false,
            answers: Vec::new(),
        }
    }

    /// How often to look.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// What is to become of a connection that did this so far.
    pub(super) fn look(&mut self, progress: &ConnectionProgress) -> Action {
        if self.has_stalled_answer(progress) {
            return Action::End;
        }
        let state = State::of(progress);
        if state != self.state {
            self.state = state;
            self.since = Instant::now();
        }
        progress.set_state_since(self.since);
        let lasting = self.since.elapsed();
        let is_over = match state {
            State::First | State::Head => lasting >= self.head_timeout,
            State::Blocked { .. } => lasting >= self.write_stall_timeout,
            // Told to go, and still there: HTTP/2 with answers that the client does not take.
            State::Idle { .. } if self.retired => lasting >= self.write_stall_timeout,
            State::Idle { .. } => lasting >= self.idle_timeout,
            State::Busy { .. } => false,
        };
        let is_told = progress.retire.load(Relaxed);
        match state {
            // There is nobody to say goodbye to.
            State::First | State::Head | State::Blocked { .. } if is_over => Action::End,
            State::Idle { .. } if is_over && self.retired => Action::End,
            _ if (is_over || is_told) && !self.retired => {
                self.retired = true;
                self.since = Instant::now();
                Action::Retire
            }
            _ => Action::Go,
        }
    }

    /// Whether an answer lies there untaken although it could be sent. On a stream of its own it is ended alone,
    /// however busy the connection is with others.
    fn has_stalled_answer(&mut self, progress: &ConnectionProgress) -> bool {
        let now = Instant::now();
        // A slow line: the answers take turns, and `State::Blocked` says how long nothing may be taken at all.
        let is_blocked = progress.write_blocked.load(Relaxed);
        self.answers.append(&mut progress.answers());
        let mut is_stalled = false;
        self.answers.retain_mut(|answer| {
            let Some(pieces) = answer.delivery.pieces() else {
                return false;
            };
            if pieces != answer.pieces || is_blocked {
                answer.pieces = pieces;
                answer.since = now;
            }
            if now - answer.since < self.write_stall_timeout {
                return true;
            }
            match &answer.stream {
                Some(stream) => stream.end(),
                None => is_stalled = true,
            }
            false
        });
        is_stalled
    }
}

impl State {
    fn of(progress: &ConnectionProgress) -> Self {
        let requests = progress.requests.load(Relaxed);
        let is_h2 = progress.is_h2.load(Relaxed);
        let written_bytes = progress.written_bytes.load(Relaxed);
        // HTTP/2 pings are written whatever the client does; they are small.
        let written_bytes = if is_h2 {
            written_bytes >> 12
        } else {
            written_bytes
        };
        if progress.write_blocked.load(Relaxed) {
            Self::Blocked {
                written_bytes: progress.written_bytes.load(Relaxed),
            }
        } else if requests == 0 {
            Self::First
        } else if progress.running.load(Relaxed) > 0 {
            Self::Busy { written_bytes }
        } else if !is_h2 && progress.head_bytes.load(Relaxed) > 0 {
            Self::Head
        } else {
            Self::Idle {
                requests,
                written_bytes,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::http::EndSignal;

    fn policy() -> (IdlePolicy, Arc<ConnectionProgress>, ConnectionLimits) {
        let limits = ConnectionLimits::default();
        (
            IdlePolicy::new(&limits, Instant::now()),
            Arc::new(ConnectionProgress::new(Instant::now())),
            limits,
        )
    }

    async fn pass(time: Duration) {
        advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_after_the_head_timeout() {
        let (mut policy, progress, limits) = policy();
        pass(
            limits
                .head_timeout
                .checked_sub(Duration::from_millis(1))
                .unwrap(),
        )
        .await;
        progress.head_bytes.store(1, Relaxed);
        assert_eq!(policy.look(&progress), Action::Go);
        pass(Duration::from_millis(1)).await;
        assert_eq!(policy.look(&progress), Action::End);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_retired_after_the_idle_timeout() {
        let (mut policy, progress, limits) = policy();
        drop(Running::start(Arc::clone(&progress), false));
        assert_eq!(policy.look(&progress), Action::Go);
        pass(
            limits
                .idle_timeout
                .checked_sub(Duration::from_millis(1))
                .unwrap(),
        )
        .await;
        assert_eq!(policy.look(&progress), Action::Go);
        pass(Duration::from_millis(1)).await;
        assert_eq!(policy.look(&progress), Action::Retire);
        assert_eq!(policy.look(&progress), Action::Go);
        pass(limits.write_stall_timeout).await;
        assert_eq!(policy.look(&progress), Action::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_knows_how_long_it_has_been_idle() {
        let (mut policy, progress, _) = policy();
        let second = Duration::from_secs(1);
        let lasts = || progress.state_lasts_for(Instant::now());
        pass(second).await;
        policy.look(&progress);
        assert_eq!(lasts(), second);
        drop(Running::start(Arc::clone(&progress), false));
        // Nobody has looked since.
        pass(second).await;
        assert_eq!(lasts(), Duration::ZERO);
        policy.look(&progress);
        pass(2 * second).await;
        policy.look(&progress);
        assert_eq!(lasts(), 2 * second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_that_does_not_end_is_not_idle() {
        let (mut policy, progress, limits) = policy();
        drop(Running::start(Arc::clone(&progress), false));
        policy.look(&progress);
        progress.head_bytes.store(1, Relaxed);
        policy.look(&progress);
        pass(limits.head_timeout).await;
        assert_eq!(policy.look(&progress), Action::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_request_may_take_its_time() {
        let (mut policy, progress, limits) = policy();
        let _running = Running::start(Arc::clone(&progress), false);
        policy.look(&progress);
        pass(limits.idle_timeout * 10).await;
        assert_eq!(policy.look(&progress), Action::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_dropped_and_a_slow_one_is_not() {
        let (mut policy, progress, limits) = policy();
        drop(Running::start(Arc::clone(&progress), false));
        progress.write_blocked.store(true, Relaxed);
        for _ in 0..10 {
            progress.written_bytes.fetch_add(1, Relaxed);
            assert_eq!(policy.look(&progress), Action::Go);
            pass(
                limits
                    .write_stall_timeout
                    .checked_sub(Duration::from_millis(1))
                    .unwrap(),
            )
            .await;
        }
        pass(Duration::from_millis(1)).await;
        assert_eq!(policy.look(&progress), Action::End);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_could_be_sent_and_is_not_taken_is_ended() {
        let (mut policy, progress, limits) = policy();
        let _running = Running::start(Arc::clone(&progress), true);
        let (of_stream, answer) = (DeliveryProgress::default(), DeliveryProgress::default());
        let stream = Arc::<EndSignal>::default();
        progress.follow(of_stream.clone(), Some(Arc::clone(&stream) as _));
        // A slow line takes others, a little at a time.
        progress.write_blocked.store(true, Relaxed);
        for _ in 0..10 {
            assert_eq!(policy.look(&progress), Action::Go);
            pass(limits.write_stall_timeout).await;
            progress.written_bytes.fetch_add(1, Relaxed);
        }
        policy.look(&progress);
        progress.write_blocked.store(false, Relaxed);
        pass(
            limits
                .write_stall_timeout
                .checked_sub(Duration::from_millis(1))
                .unwrap(),
        )
        .await;
        progress.written_bytes.fetch_add(1 << 20, Relaxed);
        assert_eq!(policy.look(&progress), Action::Go);
        pass(Duration::from_millis(1)).await;
        assert_eq!(policy.look(&progress), Action::Go);
        tokio::time::timeout(Duration::ZERO, stream.ended())
            .await
            .expect("the stream is told to end");
        // That of a connection without streams ends with it.
        progress.follow(answer.clone(), None);
        assert_eq!(policy.look(&progress), Action::Go);
        pass(limits.write_stall_timeout).await;
        assert_eq!(policy.look(&progress), Action::End);
    }

    #[test]
    fn answers_that_were_taken_are_forgotten() {
        let progress = ConnectionProgress::new(Instant::now());
        let waiting = DeliveryProgress::default();
        progress.follow(waiting.clone(), None);
        for _ in 0..10 * ANSWERS_MAX {
            progress.follow(DeliveryProgress::default(), None);
        }
        let answers = progress.answers();
        assert!(answers.len() <= ANSWERS_MAX);
        assert!(
            answers
                .iter()
                .any(|answer| answer.delivery.pieces().is_some())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_retired_once_its_last_answer_was_given() {
        let (mut policy, progress, limits) = policy();
        let _running = Running::start(Arc::clone(&progress), true);
        // However old it is: the next request may be under way already.
        pass(limits.age_max).await;
        assert_eq!(policy.look(&progress), Action::Go);
        progress.retire.store(true, Relaxed);
        assert_eq!(policy.look(&progress), Action::Retire);
        assert_eq!(policy.look(&progress), Action::Go);
    }
}
