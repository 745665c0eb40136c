//! Settings after every check: what the rest of the program can rely on.
//!
//! Options are in `commands/serve`, their defaults and all limits here; each has its reason.

mod limits;
mod memory;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

pub use self::limits::{
    AGE_MAX, BATCH_BYTES_MAX, BODY_BYTES_MAX, BODY_TIMEOUT, BatchLimits, BodyLimits,
    CLIENT_CONNECTIONS_MAX, CONNECTIONS_MAX, ConnectionLimits, DRAIN_DELAY, DRAIN_TIMEOUT,
    ESCAPED_BYTES_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT, IDLE_TIMEOUT, LEAVING_PART, Limits,
};
pub use self::memory::{default_cache_bytes, memory_limit_bytes};
use crate::access;
use crate::access::base_path::BasePath;
use crate::store;

/// Where a server listens, and is looked for, by default: only its own machine reaches it.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Default of [`Config::socket_mode`]: for nobody but the user of the server.
pub const SOCKET_MODE: u32 = 0o600;

/// Longest path of a socket file, in bytes: the kernel's, with a zero at its end (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Default of [`Config::data_dir`].
pub const DATA_DIR: &str = "data/store";

/// Default of [`LogFileConfig::bytes_max`]: some 50,000 requests.
pub const LOG_FILE_BYTES_MAX: u64 = 10 << 20;

/// Default of [`LogFileConfig::files_max`].
pub const LOG_FILES_MAX: u32 = 3;

/// Default of [`Config::segment_bytes`]: making one takes milliseconds, and a terabyte is 16,384
/// descriptors.
pub const SEGMENT_BYTES: u32 = 64 << 20;

/// Settings of `digestd serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on for plain HTTP, as they were given; the run of `serve` adds the default.
    pub listen: Vec<SocketAddr>,
    /// Socket files to listen on for plain HTTP.
    pub socket_files: Vec<PathBuf>,
    /// Permissions of these.
    pub socket_mode: u32,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// How the store is opened; without an observer.
    pub store: store::Options,
    /// Size of the segments of a new store, in bytes.
    pub segment_bytes: u32,
    /// Threads that serve requests.
    pub workers: usize,
    /// What clients may take.
    pub limits: Limits,
    /// Connections of all clients as they were ordered; `limits` has those that memory and descriptors allow.
    pub connections_ordered: Option<usize>,
    /// Whether the process ends when the store fails, instead of going on with reads.
    pub exit_on_failure: bool,
    /// Whether who may read a message may have all of them.
    pub allow_export: bool,
    /// How often everything stored is read and checked; `None` for never.
    pub scrub_interval: Option<Duration>,
    /// Addresses that `/metrics` is moved to; none to leave it where messages are.
    pub admin_listen: Vec<SocketAddr>,
    /// Where clients find the service.
    pub base_path: BasePath,
    /// What is logged, how, and where.
    pub log: LogConfig,
    /// Serving over TLS, beside or instead of plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Who is admitted.
    pub access: access::Settings,
}

/// What the process takes for itself, in bytes: the program, its threads, what the store is writing, the
/// pages of exports, and what a request takes while it is worked on.
const PROCESS_BYTES: u64 = 48 << 20;

impl Config {
    /// Memory for caches, in bytes.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.store.index_cache_bytes + self.store.message_cache_bytes
    }

    /// The memory that the process takes at the very most, in bytes. It holds for what is kept for clients,
    /// whatever they do; caches may take a few per cent more than they were given.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let clients = self.limits.memory_bytes_max(self.tls.is_some());
        (clients as u64).saturating_add(self.cache_bytes() + PROCESS_BYTES)
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
    /// `None`: for a terminal where that is one, JSON otherwise.
    pub format: Option<LogFormat>,
    /// Events of this level and above.
    pub level: LevelFilter,
    /// Whether requests are logged.
    pub requests: bool,
    /// Instead of standard error.
    pub file: Option<LogFileConfig>,
    /// Whether lines for people have colours. `None`: on a terminal.
    pub colors: Option<bool>,
}

/// For people, to standard error, and no requests.
impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: Some(LogFormat::Text),
            level: LevelFilter::INFO,
            requests: false,
            file: None,
            colors: None,
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, without what they seldom need.
    Terminal,
    /// Fields as `name=value`.
    Text,
    /// One object a line.
    Json,
}

/// A log file that is rotated by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFileConfig {
    /// The one that is written to.
    pub path: PathBuf,
    /// A file is rotated before it grows beyond this, in bytes.
    pub bytes_max: u64,
    /// Old files that are kept beside it.
    pub files_max: u32,
    /// Whether they are compressed.
    pub compress: bool,
}
