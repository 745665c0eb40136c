//! What clients may take of memory, time and descriptors, by what takes it.
//!
//! Everything has a limit; tests lower them to see both sides.

use std::num::NonZeroU16;
use std::time::Duration;

/// Default of [`BodyLimits::bytes_max`]: far above any message meant to be read by people, small
/// enough that a few dozen at once do not matter.
pub const BODY_BYTES_MAX: u64 = 1 << 20;

/// Default of [`BatchLimits::bytes_max`]: two million lines of text. It is not memory, only what is
/// lost of a batch that is refused.
pub const BATCH_BYTES_MAX: u64 = 256 << 20;

/// Default of [`ConnectionLimits::client_connections_max`]: 256, more than any browser or pool of connections
/// opens.
pub const CLIENT_CONNECTIONS_MAX: NonZeroU16 = NonZeroU16::MIN.saturating_add(255);

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
    /// Answers larger than 64 KiB that clients have not taken yet, all connections together, in bytes.
    pub answers_bytes_max: usize,
    /// Writes at once, from the end of their body to their answer.
    pub writes_max: usize,
    /// Exports at once.
    pub exports_max: usize,
    /// A request for messages may wait this long for the store to open.
    pub opening_timeout: Duration,
}

/// What connections may take.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at once, those of operators not among them.
    pub connections_max: usize,
    /// Connections at once of one client: an IPv4 address, an IPv6 /64 network.
    pub client_connections_max: usize,
    /// Connections at once of one IPv6 /48 network; no less than a client may have.
    pub network_connections_max: usize,
    /// Connections at once to the addresses for operators.
    pub admin_connections_max: usize,
    /// Requests on one connection.
    pub requests_max: u64,
    /// A connection may live this long.
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
    /// Batches at once.
    pub batches_max: usize,
    /// Lines of one batch on their way to the disk at once; so many of [`Limits::writes_max`] a batch of
    /// messages takes for itself.
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
            // A few million messages; half of what many clients wait for an answer.
            opening_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            // About 40 KiB each at the worst.
            connections_max: 8192,
            client_connections_max: CLIENT_CONNECTIONS_MAX.get().into(),
            network_connections_max: NETWORK_CONNECTIONS_MAX,
            admin_connections_max: ADMIN_CONNECTIONS_MAX,
            requests_max: 10_000,
            // So that load balancers spread again, and no client holds a slot without end.
            age_max: Duration::from_hours(1),
            // Longer than the pause between two clicks, shorter than most proxies keep theirs.
            idle_timeout: Duration::from_mins(1),
            head_timeout: Duration::from_secs(10),
            // Twice what browsers with full cookie jars send.
            head_bytes_max: 16 << 10,
            head_fields_max: 64,
            write_stall_timeout: Duration::from_secs(30),
            drain_delay: DRAIN_DELAY,
            // What supervisors allow between SIGTERM and SIGKILL, with room for the last sync.
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl ConnectionLimits {
    /// Connections at once, whoever has them.
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
            // Long enough for a lost packet's third retry, on a bad line.
            stall_timeout: Duration::from_secs(30),
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

impl Limits {
    /// What connections without TLS, bodies and large answers can take at the very most, in bytes.
    #[must_use]
    pub fn memory_bytes_max(&self) -> usize {
        // Read buffer, write buffer, and about 8 KiB of state for each connection.
        let connection = 2 * self.connection.head_bytes_max + (8 << 10);
        let bodies = self.body.all_large_bytes_max + self.body.all_small_bytes_max;
        self.connection
            .all_connections_max()
            .saturating_mul(connection)
            .saturating_add(bodies + self.answers_bytes_max)
    }
}
