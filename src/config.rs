//! Settings after every check: what the rest of the program can rely on.
//!
//! Limits are here because everything has one. Each default is a named constant with its reason;
//! tests lower them to see both sides.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::access;
use crate::store::Durability;

/// Default of [`Limits::body_bytes_max`]: far above any message meant to be read by people, small
/// enough that a few dozen at once do not matter.
pub const BODY_BYTES_MAX: u64 = 1 << 20;

/// Default of [`Limits::batch_bytes_max`]: two million lines of text. It is not memory, only what is
/// lost of a batch that is refused.
pub const BATCH_BYTES_MAX: u64 = 256 << 20;

/// Default of [`Config::segment_bytes`]: making one takes milliseconds, and a terabyte is 16,384
/// descriptors.
pub const SEGMENT_BYTES: u32 = 64 << 20;

/// The part of the memory limit that caches get unless told otherwise.
const CACHE_SHARE: u64 = 4;

/// Caches where the memory limit cannot be found out.
const CACHE_BYTES_FALLBACK: u64 = 256 << 20;

/// Settings of `digestd serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// What an acknowledged message survives.
    pub durability: Durability,
    /// Memory for caches, in bytes.
    pub cache_bytes: u64,
    /// Size of the segments of a new store, in bytes.
    pub segment_bytes: u32,
    /// Room on the disk below which writes are refused; `None` for the store's default.
    pub free_bytes_min: Option<u64>,
    /// Threads that serve requests.
    pub workers: usize,
    /// What clients may take.
    pub limits: Limits,
    /// Whether the process ends when the store fails, instead of going on with reads.
    pub exit_on_failure: bool,
    /// Whether who may read a message may have all of them.
    pub allow_export: bool,
    /// How often everything stored is read and checked; `None` for never.
    pub scrub_interval: Option<Duration>,
    /// Addresses that `/metrics` is moved to; none to leave it where messages are.
    pub admin_listen: Vec<SocketAddr>,
    /// What is logged, how, and where.
    pub log: LogConfig,
    /// Serving over TLS, beside or instead of plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Who may come in.
    pub access: access::Settings,
}

/// What rustls keeps of a connection at most: two records that came, and what it takes ahead of a
/// client that does not read.
const TLS_CONNECTION_BYTES: usize = (2 * (16 << 10)) + (64 << 10);

impl Config {
    /// What connections, bodies and large answers can take at the very most, in bytes. Caches come on
    /// top.
    #[must_use]
    pub fn memory_bytes_max(&self) -> usize {
        let tls = match self.tls {
            Some(_) => TLS_CONNECTION_BYTES.saturating_mul(self.limits.connections_max),
            None => 0,
        };
        self.limits.memory_bytes_max().saturating_add(tls)
    }
}

/// Serving over TLS.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// What the server proves to be itself with.
    pub certificate: CertificateConfig,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateConfig {
    /// Two files in PEM, kept by the operator.
    Files {
        /// The certificate and those between it and a root.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Made once, and kept in the data directory.
    SelfSigned,
}

/// What is logged, how, and where.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `None`: text on a terminal, JSON otherwise.
    pub format: Option<LogFormat>,
    /// Events of this level and above.
    pub level: LevelFilter,
    /// Whether requests are logged.
    pub requests: bool,
    /// Instead of standard error.
    pub file: Option<LogFileConfig>,
}

/// For people, to standard error, and no requests.
impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: Some(LogFormat::Text),
            level: LevelFilter::INFO,
            requests: false,
            file: None,
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A log file that is turned over by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFileConfig {
    /// The one that is written to.
    pub path: PathBuf,
    /// A file is turned over before it grows beyond this, in bytes.
    pub bytes_max: u64,
    /// Old files that are kept beside it.
    pub files_max: u32,
}

/// What clients may take of memory, time and descriptors.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A request body, in bytes.
    pub body_bytes_max: u64,
    /// Request bodies larger than [`Limits::small_body_bytes_max`] in memory at once, all
    /// connections together, in bytes.
    pub large_bodies_bytes_max: usize,
    /// The same for the others, so that large bodies never keep small ones out.
    pub small_bodies_bytes_max: usize,
    /// A body up to this size is small, in bytes.
    pub small_body_bytes_max: usize,
    /// Answers larger than 64 KiB that clients have not taken yet, all connections together, in bytes.
    pub answers_bytes_max: usize,
    /// A body may pause this long.
    pub body_stall_timeout: Duration,
    /// What a body must bring on average once it took longer than a pause, in bytes a second.
    pub body_rate_min: u64,
    /// From the start of a connection to the end of its first request head, and from the first byte
    /// of a later head to its last.
    pub head_timeout: Duration,
    /// A request head, in bytes.
    pub head_bytes_max: usize,
    /// Fields of a request head.
    pub head_fields_max: usize,
    /// A client may leave an answer unread this long.
    pub write_stall_timeout: Duration,
    /// A connection may be silent this long between requests.
    pub idle_timeout: Duration,
    /// A connection may live this long.
    pub age_max: Duration,
    /// Requests on one connection.
    pub connection_requests_max: u64,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once of one client: an IPv4 address, an IPv6 /64 network.
    pub client_connections_max: usize,
    /// Writes at once, from the end of their body to their answer.
    pub writes_max: usize,
    /// Exports at once.
    pub exports_max: usize,
    /// A request for messages may wait this long for the store to open.
    pub opening_timeout: Duration,
    /// Requests may go on this long after the order to stop.
    pub drain_timeout: Duration,
    /// The body of a batch, in bytes. Each of its lines is limited like a body.
    pub batch_bytes_max: u64,
    /// Batches at once.
    pub batches_max: usize,
    /// Lines of one batch on their way to the disk at once; so many of [`Limits::writes_max`] a batch of
    /// messages takes for itself.
    pub batch_lines_max: u32,
    /// Answers of one batch that its client has not taken yet, in bytes; a batch with more waits.
    pub batch_answer_bytes_max: usize,
    /// Connections are still accepted this long after the order to stop, while the service says that
    /// it is not ready.
    pub drain_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_MAX,
            // Together 48 MiB: 32 of the largest bodies, and a thousand small ones beside them.
            large_bodies_bytes_max: 32 << 20,
            small_bodies_bytes_max: 16 << 20,
            // A page of text as JSON with every character escaped.
            small_body_bytes_max: 16 << 10,
            // 64 of the largest messages at once.
            answers_bytes_max: 64 << 20,
            // Long enough for a lost packet's third retry, on a bad line.
            body_stall_timeout: Duration::from_secs(30),
            // A modem of 1990; a client below it holds memory and sends nothing.
            body_rate_min: 1024,
            head_timeout: Duration::from_secs(10),
            // Twice what browsers with full cookie jars send.
            head_bytes_max: 16 << 10,
            head_fields_max: 64,
            write_stall_timeout: Duration::from_secs(30),
            // Longer than the pause between two clicks, shorter than most proxies keep theirs.
            idle_timeout: Duration::from_mins(1),
            // So that load balancers spread again, and no client holds a slot for ever.
            age_max: Duration::from_hours(1),
            connection_requests_max: 10_000,
            // About 40 KiB each at the worst.
            connections_max: 8192,
            client_connections_max: 256,
            writes_max: 1024,
            // Each keeps up to half a core busy that others could use.
            exports_max: 2,
            // A few million messages; half of what many clients wait for an answer.
            opening_timeout: Duration::from_secs(5),
            // What supervisors allow between SIGTERM and SIGKILL, with room for the last sync.
            drain_timeout: Duration::from_secs(10),
            batch_bytes_max: BATCH_BYTES_MAX,
            // Together three quarters of the writes, so that single messages pass beside them.
            batches_max: 3,
            // While one group is synced, the next is read; four times as many as 64 clients have.
            batch_lines_max: 256,
            // The digests of 100,000 lines: so many may be sent before the first answer is read.
            batch_answer_bytes_max: 8 << 20,
            // Whoever has a load balancer that has to see it first knows how long that takes.
            drain_delay: Duration::ZERO,
        }
    }
}

impl Limits {
    /// What connections without TLS, bodies and large answers can take at the very most, in bytes.
    #[must_use]
    pub fn memory_bytes_max(&self) -> usize {
        // Read buffer, write buffer, and about 8 KiB of state for each connection.
        let connection = 2 * self.head_bytes_max + (8 << 10);
        let bodies = self.large_bodies_bytes_max + self.small_bodies_bytes_max;
        self.connections_max
            .saturating_mul(connection)
            .saturating_add(bodies + self.answers_bytes_max)
    }
}

/// A quarter of the memory this process may use: of its control group, or of the machine.
#[must_use]
pub fn default_cache_bytes() -> u64 {
    memory_limit_bytes().map_or(CACHE_BYTES_FALLBACK, |bytes| bytes / CACHE_SHARE)
}

fn memory_limit_bytes() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|groups| group_limit_bytes(Path::new("/sys/fs/cgroup"), &groups));
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_memory_bytes(&text));
    group.into_iter().chain(machine).min()
}

/// The lowest memory limit of the control groups below `mount` that a process with these `groups` is
/// in. A limit holds for all groups below, so all on the way to the root count; in a container these
/// may be names of the host which are not there, and the root is its own.
///
/// `groups` reads as in cgroups(7); limits are found by versions 1 and 2 of control groups.
fn group_limit_bytes(mount: &Path, groups: &str) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (root, files, group) = match (parts.next(), parts.next()) {
            (Some(""), Some(group)) => (mount.into(), &["memory.max", "memory.high"][..], group),
            (Some(kinds), Some(group)) if kinds.split(',').any(|kind| kind == "memory") => {
                (mount.join("memory"), &["memory.limit_in_bytes"][..], group)
            }
            _ => continue,
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let group = root.join(group);
            limits.extend(
                files
                    .iter()
                    .filter_map(|file| read_number(&group.join(file))),
            );
        }
    }
    limits.into_iter().min()
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn total_memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       24626856 kB\nMemFree:        1 kB\n";
        assert_eq!(total_memory_bytes(meminfo), Some(24_626_856 * 1024));
        assert_eq!(total_memory_bytes("nothing"), None);
    }

    /// The limit of a process in `groups`, when these are the files below the mount point.
    fn group_limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let mount = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        group_limit_bytes(mount.path(), groups)
    }

    #[test]
    fn the_lowest_limit_of_the_groups_above_a_process_counts() {
        let files = [
            ("memory.max", "max\n"),
            ("system.slice/memory.max", "3000\n"),
            ("system.slice/digestd.service/memory.max", "5000\n"),
            ("system.slice/other.service/memory.max", "1000\n"),
        ];
        let groups = "0::/system.slice/digestd.service\n";
        assert_eq!(group_limit(groups, &files), Some(3000));
        let throttled = ("system.slice/digestd.service/memory.high", "2000\n");
        let files = [&files[..], &[throttled]].concat();
        assert_eq!(group_limit(groups, &files), Some(2000));
    }

    #[test]
    fn a_container_finds_its_limit_at_the_root() {
        assert_eq!(group_limit("0::/\n", &[("memory.max", "7\n")]), Some(7));
        let groups = "5:cpu,cpuacct:/docker/c1\n4:memory:/docker/c1\n0::/docker/c1\n";
        let file = ("memory/memory.limit_in_bytes", "7\n");
        assert_eq!(group_limit(groups, &[file]), Some(7));
    }

    #[test]
    fn a_group_without_a_limit_has_none() {
        let groups = "0::/a\n";
        for files in [&[][..], &[("a/memory.max", "max\n")]] {
            assert_eq!(group_limit(groups, files), None);
        }
        let other = "1:cpu:/a\nnonsense\n";
        assert_eq!(group_limit(other, &[("memory.max", "7\n")]), None);
    }
}
