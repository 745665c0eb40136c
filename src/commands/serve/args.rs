//! Options of `digestd serve`, and their one conversion into checked settings.
//!
//! Every option is flag, then environment (`DIGESTD_…`, from its name: see `environment`), then default. A
//! `bool` is a switch. A group of the help is a struct. This
//! file refuses to know the world: it opens no file and no socket. **Invariant:** an option of the
//! store is in this file, in [`Options`], which has its default, and where it is used.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use clap::{ArgAction, Args};
use tracing::level_filters::LevelFilter;

use super::connection_args::ConnectionArgs;
use super::tls_args::TlsArgs;
use crate::access;
use crate::access::base_path::BasePath;
use crate::access::hosts::{HostName, HostPattern, Hosts};
use crate::access::networks::Network;
use crate::access::origins::SitePattern;
use crate::access::rates::Rate;
use crate::commands::addresses::{Address, Endpoint, Mode, Port};
use crate::commands::options::{List, UsageError, one_of, switch};
use crate::commands::values::{Size, any_time, number};
use crate::config::{self, Config, Limits, LogConfig, LogFileConfig, LogFormat};
use crate::http::is_own_path;
use crate::store::is_segment_size;
use crate::store::{Durability, Options};

const OWN_BASE_PATH: &str =
    "--base-path must not begin like a path of the service itself, as /messages or /docs";

/// With a few kilobytes the index cannot be opened.
const CACHE_BYTES_MIN: u64 = 1 << 20;

const WRONG_SEGMENT_SIZE: &str =
    "--segment-size must be between 64KiB and 1GiB and a multiple of 4KiB";

/// Options of `serve`, in the order of the help.
#[derive(Debug, Args)]
pub(in crate::commands) struct ServeArgs {
    #[command(flatten)]
    listening: ListeningArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    connections: ConnectionArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    operation: OperationArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
struct ListeningArgs {
    /// Address to listen on, like 127.0.0.1:8080, localhost:8080, :8080 for all addresses, or 8080 for this machine;
    /// or `unix:/path` for a socket file; may be given several times [default: 127.0.0.1:8080, or all addresses at $PORT
    /// if that is set]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<List<Endpoint>>,

    /// Port to listen on, for this machine: short for --listen 127.0.0.1:N
    #[arg(long, short, value_name = "N")]
    port: Option<Port>,

    /// Permissions of socket files, which say who may connect
    #[arg(long, value_name = "MODE", default_value_t = Mode(config::SOCKET_MODE))]
    socket_mode: Mode,

    /// Serve /metrics, and the health paths, on this address instead of where messages are; may be
    /// given several times
    #[arg(long, value_name = "ADDR")]
    admin_listen: Vec<List<Address>>,

    /// Path below which clients find the service, like /digestd, where a proxy has it below one; requests may
    /// come with it or without. A trusted proxy may say another one with X-Forwarded-Prefix
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/",
        hide_default_value = true
    )]
    base_path: BasePath,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
struct StorageArgs {
    /// Directory of the store; made if it is not there
    #[arg(long, value_name = "DIR", default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// What a stored message survives: loss of power (disk), or the death of the process only (os)
    #[arg(long, default_value = Durability::Disk.name(),
        value_parser = one_of([Durability::Disk, Durability::Os].map(|it| (it.name(), it))))]
    durability: Durability,

    /// Memory for caches [default: a quarter of the memory limit]
    #[arg(long, value_name = "SIZE")]
    cache: Option<Size>,

    /// Size of the log segments of a new store; an old one keeps its own
    #[arg(long, value_name = "SIZE", default_value_t = Size(config::SEGMENT_BYTES.into()))]
    segment_size: Size,

    /// Refuse new messages while less than this is free on the disk [default: 256 MiB or 2 %,
    /// whichever is more]
    #[arg(long, value_name = "SIZE")]
    free_min: Option<Size>,

    /// Read and check everything that is stored, slowly, and again after this time: 7d, 12h [default:
    /// never]
    #[arg(long, value_name = "TIME", value_parser = any_time())]
    scrub_interval: Option<humantime::Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Largest request body
    #[arg(long, value_name = "SIZE", default_value_t = Size(config::BODY_BYTES_MAX))]
    body_max: Size,

    /// Largest batch; each of its lines is limited like a request body
    #[arg(long, value_name = "SIZE", default_value_t = Size(config::BATCH_BYTES_MAX))]
    batch_max: Size,

    /// Requests that read, and lines of look-ups, for each client (an IPv4 address, an IPv6 /64 network), like
    /// 100/s, 100/m or 100/h; all clients of a /48 network have 16 times as many [default: no limit]
    #[arg(long, value_name = "RATE")]
    read_rate: Option<Rate>,

    /// The same for requests that write, and lines of batches
    #[arg(long, value_name = "RATE")]
    write_rate: Option<Rate>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
struct AccessArgs {
    /// Ask for a token of this file, with a line `name scope[,scope] sha256-of-token` for each; read
    /// again on SIGHUP. Scopes are read, write, delete, export and metrics; write alone also tells whether
    /// a digest is stored
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// Let everybody read messages all the same
    #[arg(long)]
    public_read: bool,

    /// Let everybody who can connect have all messages: GET /messages?after=DIGEST&limit=N
    #[arg(long)]
    allow_export: bool,

    /// Let in only this network; may be given several times
    #[arg(long, value_name = "CIDR")]
    allow: Vec<List<Network>>,

    /// Do not let in this network, whatever is allowed; may be given several times
    #[arg(long, value_name = "CIDR")]
    deny: Vec<List<Network>>,

    /// More of both, with a line `allow CIDR` or `deny CIDR` for each; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    list_file: Option<PathBuf>,

    /// Believe a proxy of this network when it says, with Forwarded, X-Forwarded-For or the PROXY
    /// protocol, for whom it speaks; with unix one that connects to a socket file. May be given several times
    #[arg(long, value_name = "CIDR")]
    trusted_proxy: Vec<List<Proxy>>,

    /// Answer only to requests for this host name, or with * for any; may be given several times.
    /// Addresses, localhost and the name of this machine always pass [default: any; where listening on
    /// loopback and no token is needed, none but those]
    #[arg(long, value_name = "NAME")]
    host: Vec<List<HostPattern>>,

    /// Let pages of this site, as `https://app.example`, use the service; may be given several times. With * pages
    /// of any site may read what needs no token, and nothing else
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<List<SitePattern>>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
struct LogArgs {
    /// How lines of the log look: for people, in 100 columns (terminal), or with all that is known of a request
    /// (text, json) [default: terminal on a terminal, json otherwise]
    #[arg(long,
        value_parser = one_of([("terminal", LogFormat::Terminal), ("text", LogFormat::Text),
            ("json", LogFormat::Json)]))]
    log_format: Option<LogFormat>,

    /// What is logged: this and everything more serious
    #[arg(long, default_value_t = LevelFilter::INFO,
        value_parser = one_of([("error", LevelFilter::ERROR), ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO), ("debug", LevelFilter::DEBUG), ("trace", LevelFilter::TRACE)]))]
    log_level: LevelFilter,

    /// Log a line for every request, at its end; those for health and metrics at debug only
    #[arg(long, default_value = "on", action = ArgAction::Set,
        value_parser = switch())]
    access_log: bool,

    /// Log to this file, for nobody else to read, instead of standard error (`-`); SIGHUP opens it again. Its
    /// directory is made if it is not there
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,

    /// Rotate the log file before it grows beyond this
    #[arg(long, value_name = "SIZE", default_value_t = Size(config::LOG_FILE_BYTES_MAX))]
    log_max_size: Size,

    /// Old log files that are kept, compressed or not: PATH.1 is the newest of them
    #[arg(long, value_name = "N",
        default_value_t = config::LOG_FILES_MAX, value_parser = number(1..=1000))]
    log_max_files: u32,

    /// Compress old log files: PATH.1.gz
    #[arg(long)]
    log_compress: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Operation")]
struct OperationArgs {
    /// Threads that serve requests [default: one a core]
    #[arg(long, value_name = "N", value_parser = number(1..=u16::MAX.into()))]
    workers: Option<u32>,

    /// End with exit code 1 when the store fails, for a supervisor to start it again; otherwise
    /// reads go on
    #[arg(long)]
    exit_on_failure: bool,
}

impl ServeArgs {
    /// The settings these arguments stand for. Addresses that are not given are left out.
    ///
    /// # Errors
    /// On the first argument that makes no sense.
    pub(super) fn into_config(self) -> Result<Config, UsageError> {
        let segment_bytes = u32::try_from(self.storage.segment_size.0).unwrap_or(u32::MAX);
        let scrub_interval = self.storage.scrub_interval.map(Duration::from);
        let is_scrub_zero = scrub_interval == Some(Duration::ZERO);
        let is_public_for_nothing = self.access.public_read && self.access.tokens.is_none();
        let is_own_path = is_own_path(&self.listening.base_path);
        let cache = self.storage.cache;
        let is_cache_small = cache.is_some_and(|cache| cache.0 < CACHE_BYTES_MIN);
        for (makes_no_sense, error) in [
            (is_own_path, OWN_BASE_PATH),
            (!is_segment_size(segment_bytes), WRONG_SEGMENT_SIZE),
            (self.limits.body_max.0 == 0, "--body-max must not be zero"),
            (self.limits.batch_max.0 == 0, "--batch-max must not be zero"),
            (is_cache_small, "--cache must be at least 1MiB"),
            (is_scrub_zero, "--scrub-interval must not be zero"),
            (
                self.log.log_max_size.0 == 0,
                "--log-max-size must not be zero",
            ),
            (
                is_public_for_nothing,
                "--public-read is of no use without --tokens",
            ),
        ] {
            if makes_no_sense {
                return Err(UsageError(error.into()));
            }
        }
        let (read_rate, write_rate) = (self.limits.read_rate, self.limits.write_rate);
        let tls = self.tls.into_config()?;
        let mut limits = self.limits.into_limits();
        let connections_ordered = self.connections.set(&mut limits)?;
        limits.fit_into(config::memory_limit_bytes(), tls.is_some());
        let (mut listen, socket_files) = Endpoint::join(self.listening.listen);
        listen.extend(self.listening.port.map(Port::address));
        let storage = &self.storage;
        let cache_bytes = storage.cache.map(|size| size.0);
        let cache_bytes = cache_bytes.unwrap_or_else(config::default_cache_bytes);
        // Most look-ups of a message that is not read often end in the index; most of the memory is
        // best spent there.
        let message_cache_bytes = cache_bytes / 4;
        let store = Options {
            durability: storage.durability,
            message_cache_bytes,
            free_bytes_min: storage.free_min.map(|size| size.0),
            ..Options::new(cache_bytes - message_cache_bytes, limits.body.bytes_max)
        };
        Ok(Config {
            tls,
            listen,
            socket_files,
            socket_mode: self.listening.socket_mode.0,
            admin_listen: Address::join(self.listening.admin_listen),
            base_path: self.listening.base_path,
            data_dir: self.storage.data_dir,
            store,
            segment_bytes,
            scrub_interval,
            allow_export: self.access.allow_export,
            access: self.access.into_settings(read_rate, write_rate),
            log: self.log.into_config(),
            workers: self.operation.workers.map_or_else(cores, |workers| {
                usize::try_from(workers).unwrap_or(usize::MAX)
            }),
            exit_on_failure: self.operation.exit_on_failure,
            limits,
            connections_ordered,
        })
    }
}

impl LimitArgs {
    fn into_limits(self) -> Limits {
        let mut limits = Limits::default();
        limits.body.bytes_max = self.body_max.0;
        limits.batch.bytes_max = self.batch_max.0;
        limits
    }
}

impl AccessArgs {
    fn into_settings(self, read_rate: Option<Rate>, write_rate: Option<Rate>) -> access::Settings {
        let proxies = List::join(self.trusted_proxy);
        access::Settings {
            tokens: self.tokens,
            public_read: self.public_read,
            allow: List::join(self.allow),
            deny: List::join(self.deny),
            list_file: self.list_file,
            trusts_socket_files: proxies.contains(&Proxy::OnSocketFile),
            trusted_proxies: proxies.into_iter().filter_map(Proxy::network).collect(),
            hosts: Hosts::new(List::join(self.host), machine_name()),
            sites: List::join(self.cors_origin),
            read_rate,
            write_rate,
        }
    }
}

impl LogArgs {
    fn into_config(self) -> LogConfig {
        LogConfig {
            format: self.log_format,
            level: self.log_level,
            requests: self.access_log,
            file: self
                .log_file
                .filter(|path| path != Path::new("-"))
                .map(|path| LogFileConfig {
                    path,
                    bytes_max: self.log_max_size.0,
                    files_max: self.log_max_files,
                    compress: self.log_compress,
                }),
            colors: None,
        }
    }
}

/// A proxy that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    Of(Network),
    OnSocketFile,
}

impl Proxy {
    fn network(self) -> Option<Network> {
        match self {
            Self::Of(network) => Some(network),
            Self::OnSocketFile => None,
        }
    }
}

impl FromStr for Proxy {
    type Err = <Network as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "unix" => Ok(Self::OnSocketFile),
            network => network.parse().map(Self::Of),
        }
    }
}

/// The name of this machine; `None` if it is no host name.
fn machine_name() -> Option<HostName> {
    rustix::system::uname()
        .nodename()
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;
    use crate::commands::environment::with_variables;
    use crate::config::CertificateConfig;

    fn serve(arguments: &[&str]) -> anyhow::Result<Config> {
        let command = with_variables(ServeArgs::augment_args(Command::new("digestd")));
        let matches = command.try_get_matches_from([&["digestd"], arguments].concat())?;
        Ok(ServeArgs::from_arg_matches(&matches)?.into_config()?)
    }

    #[test]
    fn a_switch_has_many_spellings_and_no_others() {
        for (words, expected) in [
            (["1", "true", "TRUE", "yes", "On", "t", "Y"], true),
            (["0", "false", "False", "no", "OFF", "f", "n"], false),
        ] {
            for word in words {
                let export = format!("--allow-export={word}");
                let config = serve(&[&export, "--access-log", word]).unwrap();
                assert_eq!(
                    (config.allow_export, config.log.requests),
                    (expected, expected)
                );
            }
        }
        assert!(serve(&["--exit-on-failure"]).unwrap().exit_on_failure);
        assert!(!serve(&[]).unwrap().exit_on_failure);
        for word in ["", "2", "maybe", "onn", "truefalse"] {
            assert!(
                serve(&[&format!("--allow-export={word}")]).is_err(),
                "{word}"
            );
            assert!(serve(&["--access-log", word]).is_err(), "{word}");
        }
    }

    #[test]
    fn names_are_read_in_any_case() {
        let config = serve(&["--log-level", "DEBUG", "--log-format", "Json"]).unwrap();
        assert_eq!(config.log.level, LevelFilter::DEBUG);
        assert_eq!(config.log.format, Some(LogFormat::Json));
        let config = serve(&["--durability", "OS"]).unwrap();
        assert_eq!(config.store.durability, Durability::Os);
        assert!(serve(&["--log-level", "loud"]).is_err());
    }

    #[test]
    fn a_list_is_one_option_or_many() {
        for arguments in [
            &["--allow", "10.0.0.0/8,192.0.2.1"][..],
            &["--allow", "10.0.0.0/8", "--allow", "192.0.2.1"],
            &["--allow", "10.0.0.0/8, 192.0.2.1,"],
            &["--allow", "10.0.0.0/8\n192.0.2.1\n"],
        ] {
            assert_eq!(
                serve(arguments).unwrap().access.allow.len(),
                2,
                "{arguments:?}"
            );
        }
        // That would let everybody in.
        assert!(serve(&["--allow", ""]).is_err());
    }

    #[test]
    fn no_arguments_mean_the_default_addresses_and_a_store_below_data() {
        let config = serve(&[]).unwrap();
        assert_eq!(config.listen, []);
        assert_eq!(config.data_dir, Path::new("data/store"));
        assert_eq!(config.store.durability, Durability::Disk);
        assert_eq!(config.limits.body.bytes_max, config::BODY_BYTES_MAX);
        assert_eq!(config.segment_bytes, config::SEGMENT_BYTES);
        assert_eq!(config.limits.batch.bytes_max, config::BATCH_BYTES_MAX);
    }

    #[test]
    fn a_scrub_is_ordered_in_units_of_time_and_never_without_a_pause() {
        assert_eq!(serve(&[]).unwrap().scrub_interval, None);
        let week = serve(&["--scrub-interval", "7d"]).unwrap();
        assert_eq!(week.scrub_interval, Some(Duration::from_hours(7 * 24)));
        assert!(serve(&["--scrub-interval", "0s"]).is_err());
    }

    #[test]
    fn sizes_carry_units() {
        let config = serve(&["--body-max", "2MiB", "--cache", "64MB"]).unwrap();
        assert_eq!(config.limits.body.bytes_max, 2 << 20);
        assert_eq!(config.cache_bytes(), 64_000_000);
    }

    #[test]
    fn a_body_larger_than_the_budget_raises_the_budget() {
        let config = serve(&["--body-max", "63MiB"]).unwrap();
        assert_eq!(config.limits.body.all_large_bytes_max, 3 * (63 << 20));
    }

    #[test]
    fn segments_out_of_range_are_refused() {
        for size in ["63KiB", "1025MiB", "100000"] {
            assert!(serve(&["--segment-size", size]).is_err(), "{size}");
        }
        for size in ["64KiB", "1GiB"] {
            serve(&["--segment-size", size]).unwrap();
        }
    }

    #[test]
    fn tls_is_instead_of_plain_http_unless_that_is_asked_for_too() {
        let tls = ["--tls-listen", "127.0.0.1:1", "--tls-self-signed"];
        let config = serve(&tls).unwrap();
        assert_eq!(config.listen, []);
        let tls_config = config.tls.unwrap();
        assert_eq!(tls_config.certificate, CertificateConfig::SelfSigned);
        let config = serve(&[&tls[..], &["--listen", "127.0.0.1:2"]].concat()).unwrap();
        assert_eq!(config.listen.len(), 1);
    }

    #[test]
    fn a_larger_head_leaves_fewer_connections_and_an_order_is_remembered() {
        let small = serve(&["--head-max", "8KiB", "--connections-max", "1048576"]).unwrap();
        let large = serve(&["--head-max", "1MiB", "--connections-max", "1048576"]).unwrap();
        assert_eq!(small.connections_ordered, Some(1 << 20));
        let connections = |config: &Config| config.limits.connection.connections_max;
        assert!(connections(&large) < connections(&small));
        assert_eq!(serve(&[]).unwrap().connections_ordered, None);
    }

    #[test]
    fn requests_are_logged_unless_told_otherwise() {
        let log = serve(&[]).unwrap().log;
        assert!(log.requests && log.file.is_none() && log.format.is_none());
        assert_eq!(log.level, LevelFilter::INFO);
        let log = serve(&["--access-log", "off", "--log-file", "x"])
            .unwrap()
            .log;
        assert!(!log.requests);
        let file = log.file.unwrap();
        assert_eq!((file.bytes_max, file.files_max), (10 << 20, 3));
        assert_eq!(serve(&["--log-file", "-"]).unwrap().log.file, None);
    }

    #[test]
    fn a_base_path_is_a_path_that_is_none_of_the_service() {
        assert!(serve(&[]).unwrap().base_path.is_root());
        for (path, expected) in [("/", ""), ("/digestd/", "/digestd"), ("/a/b", "/a/b")] {
            let config = serve(&["--base-path", path]).unwrap();
            assert_eq!(config.base_path.as_str(), expected);
        }
        for path in ["digestd", "//x", "/a/../b", "/a\tb", "/a?b", "https://x/a"] {
            let error = serve(&["--base-path", path]).unwrap_err().to_string();
            assert!(error.contains("one path like /digestd"), "{error}");
        }
        for path in ["/messages", "/docs/", "/pages/x", "/.well-known"] {
            let error = serve(&["--base-path", path]).unwrap_err();
            assert_eq!(error.to_string(), OWN_BASE_PATH);
        }
    }

    #[test]
    fn several_addresses_may_be_given() {
        let config = serve(&["--listen", "127.0.0.1:1", "--listen", "[::1]:2", "-p3"]).unwrap();
        let addresses = ["127.0.0.1:1", "[::1]:2", "127.0.0.1:3"];
        assert_eq!(config.listen, addresses.map(|it| it.parse().unwrap()));
    }
}
