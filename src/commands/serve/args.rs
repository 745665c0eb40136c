//! Options of `digestd serve`, and their one conversion into checked settings.
//!
//! Every option is flag, then environment (`DIGESTD_…`), then default.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};
use tracing::level_filters::LevelFilter;

use crate::access;
use crate::access::networks::Network;
use crate::access::origins::Site;
use crate::access::rates::Rate;
use crate::commands::addresses::default_listen;
use crate::commands::options::{UsageError, check, one_of};
use crate::config::{
    self, CertificateConfig, Config, Limits, LogConfig, LogFileConfig, LogFormat, TlsConfig,
};
use crate::store::Durability;
use crate::store::log::is_segment_size;

/// Options of `serve`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::commands) struct ServeArgs {
    /// Address to listen on; may be given several times [default: 127.0.0.1:8080, or all
    /// addresses at $PORT if that is set]
    #[arg(
        long,
        value_name = "ADDR",
        env = "DIGESTD_LISTEN",
        value_delimiter = ','
    )]
    listen: Vec<SocketAddr>,

    /// Directory of the store; made if it is not there
    #[arg(
        long,
        value_name = "DIR",
        env = "DIGESTD_DATA_DIR",
        default_value = "data/store"
    )]
    data_dir: PathBuf,

    /// What a stored message survives: loss of power (disk), or the death of the process only (os)
    #[arg(long, env = "DIGESTD_DURABILITY", default_value = "disk",
        value_parser = one_of([("disk", Durability::Disk), ("os", Durability::Os)]))]
    durability: Durability,

    /// Largest request body
    #[arg(
        long,
        value_name = "SIZE",
        env = "DIGESTD_BODY_MAX",
        default_value = "1MiB"
    )]
    body_max: ByteSize,

    /// Memory for caches [default: a quarter of the memory limit]
    #[arg(long, value_name = "SIZE", env = "DIGESTD_CACHE")]
    cache: Option<ByteSize>,

    /// Threads that serve requests [default: one a core]
    #[arg(long, value_name = "N", env = "DIGESTD_WORKERS")]
    workers: Option<u16>,

    /// Size of the log segments of a new store; an old one keeps its own
    #[arg(
        long,
        value_name = "SIZE",
        env = "DIGESTD_SEGMENT_SIZE",
        default_value = "64MiB"
    )]
    segment_size: ByteSize,

    /// Refuse new messages while less than this is free on the disk [default: 256 MiB or 2 %,
    /// whichever is more]
    #[arg(long, value_name = "SIZE", env = "DIGESTD_FREE_MIN")]
    free_min: Option<ByteSize>,

    /// Largest batch; each of its lines is limited like a request body
    #[arg(
        long,
        value_name = "SIZE",
        env = "DIGESTD_BATCH_MAX",
        default_value = "256MiB"
    )]
    batch_max: ByteSize,

    /// End with exit code 1 when the store fails, for a supervisor to start it again; otherwise
    /// reads go on
    #[arg(long, env = "DIGESTD_EXIT_ON_FAILURE")]
    exit_on_failure: bool,

    /// Let everybody who can connect have all messages: GET /messages?after=DIGEST&limit=N
    #[arg(long, env = "DIGESTD_ALLOW_EXPORT")]
    allow_export: bool,

    /// Read and check everything that is stored, slowly, and again after this time: 7d, 12h [default:
    /// never]
    #[arg(long, value_name = "TIME", env = "DIGESTD_SCRUB_INTERVAL",
        value_parser = humantime::parse_duration)]
    scrub_interval: Option<Duration>,

    /// Serve /metrics, and the health paths, on this address instead of where messages are; may be
    /// given several times
    #[arg(
        long,
        value_name = "ADDR",
        env = "DIGESTD_ADMIN_LISTEN",
        value_delimiter = ','
    )]
    admin_listen: Vec<SocketAddr>,

    /// How lines of the log look [default: text on a terminal, json otherwise]
    #[arg(long, env = "DIGESTD_LOG_FORMAT",
        value_parser = one_of([("text", LogFormat::Text), ("json", LogFormat::Json)]))]
    log_format: Option<LogFormat>,

    /// What is logged: this and everything more serious
    #[arg(long, env = "DIGESTD_LOG_LEVEL", default_value = "info",
        value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
            .try_map(|level| level.parse::<LevelFilter>()))]
    log_level: LevelFilter,

    /// Log a line for every request, at its end; those for health and metrics at debug only
    #[arg(long, env = "DIGESTD_ACCESS_LOG", default_value = "on", action = ArgAction::Set,
        value_parser = one_of([("on", true), ("off", false)]))]
    access_log: bool,

    /// Log to this file instead of standard error; SIGHUP opens it anew
    #[arg(long, value_name = "PATH", env = "DIGESTD_LOG_FILE")]
    log_file: Option<PathBuf>,

    /// Turn the log file over before it grows beyond this
    #[arg(
        long,
        value_name = "SIZE",
        env = "DIGESTD_LOG_MAX_SIZE",
        default_value = "10MiB"
    )]
    log_max_size: ByteSize,

    /// Old log files that are kept: PATH.1 is the newest of them
    #[arg(
        long,
        value_name = "N",
        env = "DIGESTD_LOG_MAX_FILES",
        default_value = "3",
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    log_max_files: u32,

    /// Address to listen on for HTTPS; may be given several times. Without --listen there is no
    /// plain HTTP then
    #[arg(
        long,
        value_name = "ADDR",
        env = "DIGESTD_TLS_LISTEN",
        value_delimiter = ','
    )]
    tls_listen: Vec<SocketAddr>,

    /// Certificate, and those between it and a root, in PEM; read again on SIGHUP and when it changes
    #[arg(long, value_name = "PATH", env = "DIGESTD_TLS_CERT")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "PATH", env = "DIGESTD_TLS_KEY")]
    tls_key: Option<PathBuf>,

    /// Make a certificate for this machine once, as localhost.crt in the data directory
    #[arg(long, env = "DIGESTD_TLS_SELF_SIGNED", value_parser = clap::builder::BoolishValueParser::new())]
    tls_self_signed: bool,

    /// Go on accepting connections this long after SIGTERM, while /readyz says 503
    #[arg(
        long,
        value_name = "TIME",
        env = "DIGESTD_DRAIN_DELAY",
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    drain_delay: Duration,

    #[command(flatten)]
    access: AccessArgs,
}

impl ServeArgs {
    /// The settings these arguments stand for.
    ///
    /// # Errors
    /// On the first argument that makes no sense.
    pub(super) fn into_config(self) -> Result<Config, UsageError> {
        let segment_bytes = u32::try_from(self.segment_size.as_u64()).unwrap_or(u32::MAX);
        check(
            is_segment_size(segment_bytes),
            "--segment-size must be between 64KiB and 1GiB and a multiple of 4KiB",
        )?;
        check(self.body_max.as_u64() > 0, "--body-max must not be zero")?;
        check(self.batch_max.as_u64() > 0, "--batch-max must not be zero")?;
        check(self.workers != Some(0), "--workers must not be zero")?;
        check(
            self.scrub_interval != Some(Duration::ZERO),
            "--scrub-interval must not be zero",
        )?;
        check(
            self.log_max_size.as_u64() > 0,
            "--log-max-size must not be zero",
        )?;
        let certificate = certificate(self.tls_cert, self.tls_key, self.tls_self_signed)?;
        let tls = tls(self.tls_listen, certificate)?;
        let listen = if self.listen.is_empty() {
            default_listen(tls.is_some())?
        } else {
            self.listen
        };
        let mut limits = Limits::default();
        limits.body.bytes_max = self.body_max.as_u64();
        limits.batch.bytes_max = self.batch_max.as_u64();
        limits.connection.drain_delay = self.drain_delay;
        limits.connection.client_connections_max =
            usize::from(self.access.client_connections_max.get());
        // One body of the largest size must always be able to pass.
        let body_bytes_max = usize::try_from(limits.body.bytes_max).unwrap_or(usize::MAX);
        limits.body.all_large_bytes_max = limits.body.all_large_bytes_max.max(body_bytes_max);
        Ok(Config {
            listen,
            data_dir: self.data_dir,
            durability: self.durability,
            cache_bytes: self
                .cache
                .map_or_else(config::default_cache_bytes, |size| size.as_u64()),
            segment_bytes,
            free_bytes_min: self.free_min.map(|size| size.as_u64()),
            workers: self.workers.map_or_else(cores, usize::from),
            limits,
            exit_on_failure: self.exit_on_failure,
            allow_export: self.allow_export,
            scrub_interval: self.scrub_interval,
            admin_listen: self.admin_listen,
            log: LogConfig {
                format: self.log_format,
                level: self.log_level,
                requests: self.access_log,
                file: self.log_file.map(|path| LogFileConfig {
                    path,
                    bytes_max: self.log_max_size.as_u64(),
                    files_max: self.log_max_files,
                }),
            },
            tls,
            access: self.access.into_settings()?,
        })
    }
}

fn certificate(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    self_signed: bool,
) -> Result<Option<CertificateConfig>, UsageError> {
    match (certificate, key, self_signed) {
        (None, None, false) => Ok(None),
        (None, None, true) => Ok(Some(CertificateConfig::SelfSigned)),
        (Some(certificate), Some(key), false) => {
            Ok(Some(CertificateConfig::Files { certificate, key }))
        }
        (_, _, true) => Err(UsageError(
            "--tls-self-signed makes a certificate; it does not go with --tls-cert and --tls-key",
        )),
        _ => Err(UsageError("--tls-cert and --tls-key go together")),
    }
}

fn tls(
    listen: Vec<SocketAddr>,
    certificate: Option<CertificateConfig>,
) -> Result<Option<TlsConfig>, UsageError> {
    match (listen.is_empty(), certificate) {
        (true, None) => Ok(None),
        (false, Some(certificate)) => Ok(Some(TlsConfig {
            listen,
            certificate,
        })),
        (true, Some(_)) => Err(UsageError(
            "a certificate is of no use without --tls-listen",
        )),
        (false, None) => Err(UsageError(
            "--tls-listen needs --tls-cert and --tls-key, or --tls-self-signed",
        )),
    }
}

/// Options of `serve` about who may come in.
#[derive(Debug, Args)]
struct AccessArgs {
    /// Ask for a token of this file, with a line `name scope[,scope] sha256-of-token` for each; read
    /// again on SIGHUP. Scopes are read, write, delete, export and metrics
    #[arg(long, value_name = "FILE", env = "DIGESTD_TOKENS")]
    tokens: Option<PathBuf>,

    /// Let everybody read messages all the same
    #[arg(long, env = "DIGESTD_PUBLIC_READ", value_parser = clap::builder::BoolishValueParser::new())]
    public_read: bool,

    /// Let in only this network; may be given several times
    #[arg(
        long,
        value_name = "CIDR",
        env = "DIGESTD_ALLOW",
        value_delimiter = ','
    )]
    allow: Vec<Network>,

    /// Do not let in this network, whatever is allowed; may be given several times
    #[arg(long, value_name = "CIDR", env = "DIGESTD_DENY", value_delimiter = ',')]
    deny: Vec<Network>,

    /// More of both, with a line `allow CIDR` or `deny CIDR` for each; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "DIGESTD_LIST_FILE")]
    list_file: Option<PathBuf>,

    /// Believe a proxy of this network when it says, with Forwarded, X-Forwarded-For or the PROXY
    /// protocol, for whom it speaks; may be given several times
    #[arg(
        long,
        value_name = "CIDR",
        env = "DIGESTD_TRUSTED_PROXY",
        value_delimiter = ','
    )]
    trusted_proxy: Vec<Network>,

    /// Requests that read, for each client (an IPv4 address, an IPv6 /64 network), like 100/s, 100/m
    /// or 100/h [default: no limit]
    #[arg(long, value_name = "RATE", env = "DIGESTD_READ_RATE")]
    read_rate: Option<Rate>,

    /// The same for requests that write
    #[arg(long, value_name = "RATE", env = "DIGESTD_WRITE_RATE")]
    write_rate: Option<Rate>,

    /// Connections of each client at once
    #[arg(
        long,
        value_name = "N",
        env = "DIGESTD_CLIENT_CONNECTIONS_MAX",
        default_value = "256"
    )]
    client_connections_max: NonZeroU16,

    /// Let pages of this site, as `https://app.example`, use the service; may be given several times
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "DIGESTD_CORS_ORIGIN",
        value_delimiter = ','
    )]
    cors_origin: Vec<Site>,
}

impl AccessArgs {
    fn into_settings(self) -> Result<access::Settings, UsageError> {
        check(
            !self.public_read || self.tokens.is_some(),
            "--public-read is of no use without --tokens",
        )?;
        Ok(access::Settings {
            tokens: self.tokens,
            public_read: self.public_read,
            allow: self.allow,
            deny: self.deny,
            list_file: self.list_file,
            trusted_proxies: self.trusted_proxy,
            sites: self.cors_origin,
            read_rate: self.read_rate,
            write_rate: self.write_rate,
        })
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn serve(arguments: &[&str]) -> anyhow::Result<Config> {
        let cli = Cli::try_parse_from([&["digestd"], arguments].concat())?;
        Ok(cli.serve.into_config()?)
    }

    #[test]
    fn no_arguments_mean_serve_on_loopback_with_a_store_below_data() {
        let config = serve(&[]).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(config.data_dir, Path::new("data/store"));
        assert_eq!(config.durability, Durability::Disk);
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
        assert_eq!(config.cache_bytes, 64_000_000);
    }

    #[test]
    fn a_body_larger_than_the_budget_raises_the_budget() {
        let config = serve(&["--body-max", "63MiB"]).unwrap();
        assert_eq!(config.limits.body.all_large_bytes_max, 63 << 20);
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
    fn tls_has_no_spelling_without_a_certificate_or_without_an_address() {
        for arguments in [
            &["--tls-listen", "127.0.0.1:1"][..],
            &["--tls-self-signed"],
            &["--tls-cert", "a", "--tls-key", "b"],
            &["--tls-listen", "127.0.0.1:1", "--tls-cert", "a"],
            &["--tls-listen", "127.0.0.1:1", "--tls-key", "b"],
            &[
                "--tls-listen",
                "127.0.0.1:1",
                "--tls-self-signed",
                "--tls-key",
                "b",
            ],
        ] {
            assert!(serve(arguments).is_err(), "{arguments:?}");
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
    fn durations_carry_units() {
        let config = serve(&["--drain-delay", "1m 500ms"]).unwrap();
        assert_eq!(
            config.limits.connection.drain_delay,
            Duration::from_millis(60_500)
        );
        assert!(serve(&["--drain-delay", "5"]).is_err());
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
    }

    #[test]
    fn several_addresses_may_be_given() {
        let config = serve(&["--listen", "127.0.0.1:1", "--listen", "[::1]:2"]).unwrap();
        assert_eq!(config.listen.len(), 2);
    }
}
