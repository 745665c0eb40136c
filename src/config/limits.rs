//! What clients may take of memory, time and descriptors, by what takes it.
//!
//! Everything has a limit; tests lower them to see both sides.

use std::time::Duration;

/// Default of [`BodyLimits::bytes_max`]: far above any message meant to be read by people, small
/// enough that a few dozen at once do not matter.
pub const BODY_BYTES_MAX: u64 = 1 << 20;

/// Default of [`BatchLimits::bytes_max`]: two million lines of text. It is not memory, only what is
/// lost of a batch that is refused.
pub const BATCH_BYTES_MAX: u64 = 256 << 20;

/// Default of [`ConnectionLimits::connections_max`]: about 40 KiB each at the worst.
pub const CONNECTIONS_MAX: usize = 8192;

/// Default of [`ConnectionLimits::client_connections_max`]: more than any browser or pool of connections opens.
pub const CLIENT_CONNECTIONS_MAX: usize = 256;

/// Default of [`ConnectionLimits::age_max`]: load balancers spread again, and no client holds a slot without end.
pub const AGE_MAX: Duration = Duration::from_hours(1);

/// Default of [`ConnectionLimits::idle_timeout`]: longer than the 60 s after which most load balancers and proxies
/// give up a connection. The side that sends requests has to close first: one that is sent into a close is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Default of [`ConnectionLimits::head_timeout`]: a few round trips on a bad line.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of [`ConnectionLimits::head_bytes_max`]: twice what browsers with full cookie jars send.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// Default of [`BodyLimits::stall_timeout`]: long enough for a lost packet's third retry, on a bad line.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Default of [`ConnectionLimits::drain_timeout`]: what supervisors allow between SIGTERM and SIGKILL, with room for
/// the last sync.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of [`ConnectionLimits::admin_connections_max`]: 256, which leaves clients what they had; a few
/// programs that scrape, with room for those that never close a connection.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Default of [`ConnectionLimits::network_connections_max`]: 1,024, an eighth of all. An IPv6 /48 network is
/// one site with 65,536 clients; four of them may have all that a client may have.
const NETWORK_CONNECTIONS_MAX: usize = 1024;

/// Default of [`ConnectionLimits::drain_delay`]: an operator with a load balancer that has to see it first
/// knows how long that takes.
pub const DRAIN_DELAY: Duration = Duration::ZERO;

/// What clients may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of connections.
    pub connection: ConnectionLimits,
    /// Of the bodies of requests.
    pub body: BodyLimits,
    /// Of batches.
    pub batch: BatchLimits,
    /// Answers above 4 KiB and streams of HTTP/2 that clients have not taken yet, all connections together, in bytes.
    pub answers_bytes_max: usize,
    /// Writes at once, from the end of their body to their answer, beside lines of batches.
    pub writes_max: usize,
    /// Exports at once.
    pub exports_max: usize,
    /// A request may wait this long for room that others have.
    pub room_timeout: Duration,
    /// A request for messages may wait this long for the store to open.
    pub opening_timeout: Duration,
}

/// What connections may take.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at once, those of operators not among them.
    pub connections_max: usize,
    /// Connections at once of one client, an IPv4 address or an IPv6 /64 network; no more than half of all.
    pub client_connections_max: usize,
    /// Connections at once of one IPv6 /48 network; no less than a client may have, no more than half of all.
    pub network_connections_max: usize,
    /// Connections at once to the addresses for operators.
    pub admin_connections_max: usize,
    /// Requests on one connection.
    pub requests_max: u64,
    /// A connection of this age ends with its next answer.
    pub age_max: Duration,
    /// A connection may be silent this long between requests.
    pub idle_timeout: Duration,
    /// From the start of a connection to the end of its first request head, and from the first byte
    /// of a later head to its last.
    pub head_timeout: Duration,
    /// A request head, in bytes.
    pub head_bytes_max: usize,
    /// Fields of a request head.
    pub head_fields_max: usize,
    /// A client may leave an answer unread this long.
    pub write_stall_timeout: Duration,
    /// Connections are still accepted this long after the order to stop, while the service says that
    /// it is not ready.
    pub drain_delay: Duration,
    /// Requests may go on this long after the order to stop.
    pub drain_timeout: Duration,
}

/// What the bodies of requests may take.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    /// A body, in bytes.
    pub bytes_max: u64,
    /// A body up to this size is small, in bytes.
    pub small_bytes_max: usize,
    /// Bodies that are not small in memory at once, all connections together, in bytes.
    pub all_large_bytes_max: usize,
    /// The same for small ones, so that large bodies never keep them out.
    pub all_small_bytes_max: usize,
    /// A body may pause this long.
    pub stall_timeout: Duration,
    /// What a body must bring on average once it took longer than a pause, in bytes a second.
    pub rate_min: u64,
}

/// What batches may take.
#[derive(Clone, Debug)]
pub struct BatchLimits {
    /// The body of a batch, in bytes. Each of its lines is limited like a body.
    pub bytes_max: u64,
    /// Batches of messages at once.
    pub batches_max: usize,
    /// Look-ups at once.
    pub look_ups_max: usize,
    /// Lines of one batch on their way to the disk at once.
    pub lines_max: u32,
    /// Lines of one batch that fail before it ends.
    pub errors_max: u32,
    /// Answers of one batch that its client has not taken yet, in bytes; a batch with more waits.
    pub answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connection: ConnectionLimits::default(),
            body: BodyLimits::default(),
            batch: BatchLimits::default(),
            // 64 of the largest messages at once.
            answers_bytes_max: 64 << 20,
            writes_max: 1024,
            // Each keeps up to half a core busy that others could use.
            exports_max: 2,
            // A sixth of what a body may pause, and far below what clients wait for an answer.
            room_timeout: Duration::from_secs(5),
            // A few million messages; half of what many clients wait for an answer.
            opening_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            client_connections_max: CLIENT_CONNECTIONS_MAX,
            network_connections_max: NETWORK_CONNECTIONS_MAX,
            admin_connections_max: ADMIN_CONNECTIONS_MAX,
            requests_max: 10_000,
            age_max: AGE_MAX,
            idle_timeout: IDLE_TIMEOUT,
            head_timeout: HEAD_TIMEOUT,
            head_bytes_max: HEAD_BYTES_MAX,
            head_fields_max: 64,
            write_stall_timeout: Duration::from_secs(30),
            drain_delay: DRAIN_DELAY,
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}

impl ConnectionLimits {
    /// Connections at once, of all clients.
    #[must_use]
    pub fn all_connections_max(&self) -> usize {
        self.connections_max
            .saturating_add(self.admin_connections_max)
    }
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            bytes_max: BODY_BYTES_MAX,
            // A page of text as JSON with every character escaped.
            small_bytes_max: 16 << 10,
            // Together 48 MiB: 32 of the largest bodies, and a thousand small ones beside them.
            all_large_bytes_max: 32 << 20,
            all_small_bytes_max: 16 << 20,
            stall_timeout: BODY_TIMEOUT,
            // A modem of 1990; a client below it holds memory and sends nothing.
            rate_min: 1024,
        }
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            bytes_max: BATCH_BYTES_MAX,
            // Together three quarters of the writes, so that single messages pass beside them.
            batches_max: 3,
            // As many, in slots of their own: who may only read keeps nobody from writing.
            look_ups_max: 3,
            // While one group is synced, the next is read; four times as many as 64 clients have.
            lines_max: 256,
            // More than anybody reads, in a megabyte; a wrong line may be one byte, and its answer is a hundred.
            errors_max: 10_000,
            // The digests of 100,000 lines that are sent at once, 58,000 that are sent one by one: so many
            // before the first answer is read.
            answer_bytes_max: 8 << 20,
        }
    }
}

/// What a connection takes at most, in bytes, beside what is counted for its requests: buffers for what it
/// read and for what it writes, a small answer, about 8 KiB of state.
const fn connection_bytes(head_bytes_max: usize) -> usize {
    2 * head_bytes_max + (4 << 10) + (8 << 10)
}

/// What rustls keeps of a connection at most, in bytes: two records that came, and what it takes ahead of a
/// client that does not read.
const TLS_BYTES: usize = 2 * (16 << 10) + (64 << 10);

/// What a byte of a text takes as JSON at most: `\u0001`.
pub const ESCAPED_BYTES_MAX: usize = 6;

/// What a text takes while it is decoded, in its own size: a buffer that was doubled, what comes out of it, and
/// where that is kept.
const DECODED_FACTOR: usize = 4;

/// This part of the room for answers may be taken beyond it, by what is told to end.
pub const LEAVING_PART: usize = 8;

/// Connections get this part of the memory, and so do bodies and answers together; the rest is for caches and
/// the process itself.
const MEMORY_SHARE: u64 = 4;

/// Connections at the least, however little memory there is: a proxy and those who look after the service.
const CONNECTIONS_MIN: usize = 64;

/// Buffers that a body of the largest size may take while it grows, and the same for its client's share.
const BODY_BUFFERS: usize = 3;

/// The part of the room for answers that the largest answer is counted with.
const ANSWER_PARTS: usize = 4;

impl Limits {
    /// Takes no more than fits into `memory` bytes, if that is known; in any case a body of the largest size
    /// can pass, and a client can have two answers of that size.
    pub fn fit_into(&mut self, memory: Option<u64>, has_tls: bool) {
        let body_bytes_max = usize::try_from(self.body.bytes_max).unwrap_or(usize::MAX);
        let uncounted = self.uncounted_bytes_max();
        let body = &mut self.body;
        let rooms = [
            &mut body.all_large_bytes_max,
            &mut body.all_small_bytes_max,
            &mut self.answers_bytes_max,
        ];
        if let Some(share) = memory.map(|bytes| u128::from(bytes / MEMORY_SHARE)) {
            let for_rooms = share.saturating_sub(uncounted as u128);
            let all = rooms.iter().map(|bytes| **bytes as u128).sum::<u128>();
            for bytes in rooms {
                let fitting = *bytes as u128 * for_rooms.min(all) / all.max(1);
                *bytes = usize::try_from(fitting).unwrap_or(usize::MAX);
            }
            let fitting = share / self.connection_bytes(has_tls) as u128;
            let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
            let connections_max = &mut self.connection.connections_max;
            *connections_max =
                fitting.clamp(CONNECTIONS_MIN.min(*connections_max), *connections_max);
        }
        let body = &mut self.body;
        let large_min = body_bytes_max.saturating_mul(BODY_BUFFERS);
        body.all_large_bytes_max = body.all_large_bytes_max.max(large_min);
        body.all_small_bytes_max = body.all_small_bytes_max.max(2 * body.small_bytes_max);
        let answers_min = body_bytes_max.saturating_mul(ANSWER_PARTS);
        self.answers_bytes_max = self.answers_bytes_max.max(answers_min);
    }

    /// What connections, bodies and answers can take at the very most, in bytes.
    #[must_use]
    pub fn memory_bytes_max(&self, has_tls: bool) -> usize {
        let bodies = self.body.all_large_bytes_max + self.body.all_small_bytes_max;
        self.connection
            .all_connections_max()
            .saturating_mul(self.connection_bytes(has_tls))
            .saturating_add(bodies)
            .saturating_add(self.uncounted_bytes_max())
            .saturating_add(self.answers_bytes_max)
    }

    /// What the rooms do not count: the first body may need more than there is, two texts are decoded at once,
    /// what is told to end may count as free, and answers larger than the largest part of the room count as that.
    fn uncounted_bytes_max(&self) -> usize {
        let body = usize::try_from(self.body.bytes_max).unwrap_or(usize::MAX);
        let answer = body.saturating_mul(ESCAPED_BYTES_MAX);
        let counted = self.answers_bytes_max / ANSWER_PARTS;
        let answers = answer.saturating_sub(counted).saturating_mul(ANSWER_PARTS);
        body.saturating_mul(1 + 2 * DECODED_FACTOR)
            .saturating_add(self.answers_bytes_max / LEAVING_PART)
            .saturating_add(answers)
    }

    fn connection_bytes(&self, has_tls: bool) -> usize {
        let tls = if has_tls { TLS_BYTES } else { 0 };
        connection_bytes(self.connection.head_bytes_max) + tls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitting(memory: u64, has_tls: bool, body_bytes_max: u64) -> Limits {
        let mut limits = Limits::default();
        limits.body.bytes_max = body_bytes_max;
        limits.fit_into(Some(memory), has_tls);
        limits
    }

    fn rooms(limits: &Limits) -> usize {
        let body = &limits.body;
        body.all_large_bytes_max + body.all_small_bytes_max + limits.answers_bytes_max
    }

    #[test]
    fn the_queue_of_the_store_has_room_for_all_writes_and_lines() {
        let limits = Limits::default();
        let lines = limits.batch.batches_max * limits.batch.lines_max as usize;
        assert!(limits.writes_max + lines <= crate::store::QUEUE_ENTRIES_MAX);
    }

    #[test]
    fn a_machine_with_memory_has_all_the_room_and_all_connections() {
        for has_tls in [false, true] {
            let limits = fitting(24 << 30, has_tls, BODY_BYTES_MAX);
            assert_eq!(rooms(&limits), 112 << 20);
            assert_eq!(limits.connection.connections_max, 8192);
        }
    }

    #[test]
    fn half_of_a_small_memory_is_for_clients() {
        for memory in [256 << 20, 512 << 20, 1 << 30] {
            for has_tls in [false, true] {
                let limits = fitting(memory, has_tls, BODY_BYTES_MAX);
                // The addresses for operators come on top.
                let operators = 256 * limits.connection_bytes(has_tls);
                let most = limits.memory_bytes_max(has_tls) - operators;
                assert!(most as u64 <= memory / 2, "{memory}: {most}");
                assert!(most as u64 > memory / 3, "{memory}: {most}");
            }
        }
    }

    #[test]
    fn the_largest_body_passes_however_little_memory_there_is() {
        let limits = fitting(1 << 20, true, 8 << 20);
        assert_eq!(limits.body.all_large_bytes_max, 24 << 20);
        assert_eq!(limits.answers_bytes_max, 32 << 20);
        assert_eq!(limits.connection.connections_max, CONNECTIONS_MIN);
    }

    #[test]
    fn what_the_rooms_do_not_count_is_in_the_sum_all_the_same() {
        let mut limits = Limits::default();
        let counted = |limits: &Limits| {
            let connections = limits.connection.all_connections_max();
            rooms(limits) + connections * limits.connection_bytes(false)
        };
        assert_eq!(
            limits.memory_bytes_max(false),
            counted(&limits) + (9 << 20) + (8 << 20)
        );
        // As JSON, 48 MiB of which 16 are counted.
        limits.body.bytes_max = 8 << 20;
        let uncounted = 9 * (8 << 20) + (8 << 20) + 4 * (32 << 20);
        assert_eq!(limits.memory_bytes_max(false), counted(&limits) + uncounted);
    }

    #[test]
    fn where_the_memory_is_not_known_there_are_the_defaults() {
        let mut limits = Limits::default();
        limits.fit_into(None, false);
        assert_eq!(rooms(&limits), rooms(&Limits::default()));
    }
}
