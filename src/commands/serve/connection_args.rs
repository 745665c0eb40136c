//! Options of `digestd serve` about connections: how many, for how long, and how a stop ends them.
//!
//! It refuses to know how much memory there is. **Invariant:** a value out of its range, or one that contradicts
//! another option, is an error that names the option and what is possible.

use std::time::Duration;

use clap::Args;

use crate::commands::options::UsageError;
use crate::commands::values::{Size, number, size, time};
use crate::config::{self, Limits};

/// Shorter, a connection ends while a distant client still answers.
const TIME_MIN: Duration = Duration::from_secs(1);

/// The longest time of a head, a body, or a stop: beyond it, it was meant to be another unit.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// The same for connections that do nothing. The longest of the known load balancers is about an hour.
const IDLE_MAX: Duration = Duration::from_hours(24);

/// The same for the age of a connection.
const AGE_MAX: Duration = Duration::from_hours(30 * 24);

/// Fewer connections leave too little for one client beside another.
const CONNECTIONS_MIN: u32 = 16;

/// More than any limit on open files.
const CONNECTIONS_MAX: u32 = 1 << 20;

/// The least that hyper allows, and what every client may expect (RFC 9112, 3).
const HEAD_BYTES_MIN: u64 = 8 << 10;

/// Each connection may take twice as much memory.
const HEAD_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
pub(super) struct ConnectionArgs {
    /// Close a connection on which nothing was asked for so long. A proxy or load balancer has to close first: set
    /// more than its own idle time, which is 60s for most and 600s for Google's
    #[arg(long, value_name = "TIME")]
    #[arg(default_value = "75s", value_parser = time(TIME_MIN..=IDLE_MAX))]
    idle_timeout: humantime::Duration,

    /// Time for the head of a request; for the first one, TLS handshake and PROXY protocol included
    #[arg(long, value_name = "TIME")]
    #[arg(default_value_t = config::HEAD_TIMEOUT.into(), value_parser = time(TIME_MIN..=WAIT_MAX))]
    head_timeout: humantime::Duration,

    /// Give up a body of which nothing has come for so long
    #[arg(long, value_name = "TIME")]
    #[arg(default_value_t = config::BODY_TIMEOUT.into(), value_parser = time(TIME_MIN..=WAIT_MAX))]
    body_timeout: humantime::Duration,

    /// From this age on, a connection ends with its next answer, which says so
    #[arg(long, value_name = "TIME")]
    #[arg(default_value_t = config::AGE_MAX.into(), value_parser = time(TIME_MIN..=AGE_MAX))]
    connection_age_max: humantime::Duration,

    /// Go on accepting connections this long after SIGTERM, while /readyz says 503
    #[arg(long, value_name = "TIME")]
    #[arg(default_value_t = config::DRAIN_DELAY.into(), value_parser = time(Duration::ZERO..=WAIT_MAX))]
    drain_delay: humantime::Duration,

    /// Time after that for running requests
    #[arg(long, value_name = "TIME")]
    #[arg(default_value_t = config::DRAIN_TIMEOUT.into(), value_parser = time(Duration::ZERO..=WAIT_MAX))]
    drain_timeout: humantime::Duration,

    /// Connections of all clients at once; fewer where memory or the limit on open files does not suffice [default:
    /// 8192]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = number(CONNECTIONS_MIN..=CONNECTIONS_MAX))]
    connections_max: Option<u32>,

    /// Connections of each client at once; never more than half of all [default: 256]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = number(1..=CONNECTIONS_MAX))]
    client_connections_max: Option<u32>,

    /// Largest head of a request; each connection may take twice as much memory
    #[arg(long, value_name = "SIZE")]
    #[arg(default_value_t = Size(config::HEAD_BYTES_MAX as u64), value_parser = size(HEAD_BYTES_MIN..=HEAD_BYTES_MAX))]
    head_max: Size,
}

impl ConnectionArgs {
    /// Sets in `limits` what is ordered here. Returns the connections of all clients, if they are ordered.
    ///
    /// # Errors
    /// If two options contradict each other.
    pub(super) fn set(self, limits: &mut Limits) -> Result<Option<usize>, UsageError> {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let all = self.connections_max.map(count);
        let of_client = self.client_connections_max.map(count);
        if let (Some(all), Some(of_client)) = (all, of_client)
            && of_client > all / 2
        {
            return Err(UsageError(
                "--client-connections-max is more than half of --connections-max, which no client gets; behind a \
                 proxy, --trusted-proxy counts its clients instead"
                    .into(),
            ));
        }
        let connection = &mut limits.connection;
        connection.idle_timeout = self.idle_timeout.into();
        connection.head_timeout = self.head_timeout.into();
        connection.age_max = self.connection_age_max.into();
        connection.drain_delay = self.drain_delay.into();
        connection.drain_timeout = self.drain_timeout.into();
        connection.connections_max = all.unwrap_or(connection.connections_max);
        connection.client_connections_max = of_client.unwrap_or(connection.client_connections_max);
        connection.head_bytes_max = usize::try_from(self.head_max.0).unwrap_or(usize::MAX);
        limits.body.stall_timeout = self.body_timeout.into();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        connections: ConnectionArgs,
    }

    fn limits(arguments: &[&str]) -> anyhow::Result<Limits> {
        let cli = Cli::try_parse_from([&["digestd"], arguments].concat())?;
        let mut limits = Limits::default();
        cli.connections.set(&mut limits)?;
        Ok(limits)
    }

    #[test]
    fn nothing_ordered_means_the_defaults() {
        let [ordered, default] = [limits(&[]).unwrap(), Limits::default()];
        assert_eq!(format!("{ordered:?}"), format!("{default:?}"));
        assert_eq!(ordered.connection.idle_timeout, Duration::from_secs(75));
        // Where the help cannot take them from the source.
        let help = Cli::command().render_long_help().to_string();
        for number in [config::CONNECTIONS_MAX, config::CLIENT_CONNECTIONS_MAX] {
            assert!(help.contains(&format!("[default: {number}]")), "{help}");
        }
    }

    #[test]
    fn each_option_sets_its_limit() {
        let limits = limits(&[
            "--idle-timeout=620s",
            "--head-timeout=5s",
            "--body-timeout=2m",
            "--connection-age-max=1day",
            "--drain-delay=1m 500ms",
            "--drain-timeout=0s",
            "--connections-max=1000",
            "--client-connections-max=500",
            "--head-max=64KiB",
        ])
        .unwrap();
        let connection = &limits.connection;
        for (found, expected) in [
            (connection.idle_timeout, 620_000),
            (connection.head_timeout, 5000),
            (limits.body.stall_timeout, 120_000),
            (connection.age_max, 86_400_000),
            (connection.drain_delay, 60_500),
            (connection.drain_timeout, 0),
        ] {
            assert_eq!(found, Duration::from_millis(expected));
        }
        assert_eq!(connection.connections_max, 1000);
        assert_eq!(connection.client_connections_max, 500);
        assert_eq!(connection.head_bytes_max, 64 << 10);
    }

    #[test]
    fn a_value_out_of_its_range_is_refused_with_the_option_and_the_range() {
        for (option, good, bad, said) in [
            ("--idle-timeout", ["1s", "1day"], ["999ms", "25h"], "1day"),
            ("--head-timeout", ["1s", "1h"], ["0s", "61m"], "1h"),
            ("--body-timeout", ["1s", "1h"], ["0s", "1day"], "1h"),
            (
                "--connection-age-max",
                ["1s", "30days"],
                ["0s", "31days"],
                "30days",
            ),
            ("--drain-delay", ["0s", "1h"], ["-1s", "2h"], "a time|1h"),
            ("--drain-timeout", ["0s", "1h"], ["5", "2h"], "a time|1h"),
            (
                "--connections-max",
                ["16", "1048576"],
                ["15", "1048577"],
                "1048576",
            ),
            (
                "--client-connections-max",
                ["1", "1048576"],
                ["0", "many"],
                "1048576|a whole number",
            ),
            ("--head-max", ["8KiB", "1MiB"], ["8191B", "1025KiB"], "1MiB"),
        ] {
            for value in good {
                let argument = format!("{option}={value}");
                limits(&[&argument]).unwrap_or_else(|error| panic!("{argument}: {error}"));
            }
            for value in bad {
                let argument = format!("{option}={value}");
                let error = limits(&[&argument]).expect_err(&argument).to_string();
                let mut said = said.split('|');
                assert!(error.contains(option), "{error}");
                assert!(said.any(|part| error.contains(part)), "{argument}: {error}");
            }
        }
    }

    #[test]
    fn a_client_is_not_promised_more_than_half_of_the_connections_that_are_ordered() {
        for (all, of_client, is_possible) in [
            (100, 50, true),
            (100, 51, false),
            (17, 8, true),
            (256, 256, false),
        ] {
            let all = format!("--connections-max={all}");
            let of_client = format!("--client-connections-max={of_client}");
            let both = limits(&[&all, &of_client]);
            assert_eq!(both.is_ok(), is_possible, "{all} {of_client}");
        }
        // Where one of them is the default, it gives way.
        limits(&["--connections-max=100"]).unwrap();
        limits(&["--client-connections-max=8000"]).unwrap();
    }
}
