//! The command line of the generator, and what it prints: the bench with `--url`.
//!
//! It knows nothing of the rows of the bench. **Invariant:** a server on another machine is loaded only
//! with `--yes`, and nothing that is printed holds the token.

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Parser;
use digestd::client::{InvalidUrl, Unreachable};
use digestd::commands::ServerArgs;
use hyper::header::HeaderValue;

use super::workload::{Popularity, Requests, Workload, Zipf};
use super::{Outcome, Plan, Until, prepare_and_run};

/// Most connections: what a server lets one client have, by default.
const CONNECTIONS_MAX: u16 = 256;

/// Longest run.
const TIME_MAX: Duration = Duration::from_mins(10);

/// Most messages that are stored beforehand.
const MESSAGES_MAX: u64 = 10_000_000;

const NOTES: &str = "\
Without --url the bench starts servers of its own and measures its rows; words select those that have
them all in their names.

Exit codes: 0 done, 1 failure, 2 usage, 7 server unreachable.";

/// Loads a server and prints how fast it answered
#[derive(Debug, Parser)]
#[command(name = "loadgen", bin_name = "cargo bench --bench load --", after_help = NOTES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct LoadArgs {
    /// What to ask for. Messages that are stored for it, or by it, stay on the server
    #[arg(value_enum, default_value = "hit")]
    workload: Workload,

    /// The server to load.
    #[command(flatten)]
    server: ServerArgs,

    /// Connections, each with one request under way
    #[arg(long, value_name = "N", default_value = "64",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: u16,

    /// How long, up to ten minutes
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    duration: Duration,

    /// Requests a second, whatever the answers do; latencies count from when a request was due.
    /// Without it, each connection sends its next request when it has an answer
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Length of a message
    #[arg(long, value_name = "SIZE", default_value = "90B")]
    message_size: ByteSize,

    /// Messages that are asked for; stored beforehand
    #[arg(long, value_name = "N", default_value = "1000",
        value_parser = clap::value_parser!(u64).range(1..=MESSAGES_MAX))]
    messages: u64,

    /// Ask for few of them often (Zipf's law) instead of for all alike
    #[arg(long)]
    zipf: bool,

    /// Speak HTTP/2
    #[arg(long)]
    http2: bool,

    /// Load a server that is not on this machine
    #[arg(long)]
    yes: bool,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// The server is another machine, and nobody said `--yes`.
#[derive(Debug, thiserror::Error)]
#[error("the server is not on this machine: loading it needs --yes")]
struct Elsewhere;

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() || time > TIME_MAX {
        return Err("it must be more than nothing and at most 10m".into());
    }
    Ok(time)
}

/// Whether these words are for the generator, and do not select rows.
pub(crate) fn is_meant(words: &[OsString]) -> bool {
    let is_option = |word: &OsString| {
        let word = word.as_encoded_bytes();
        matches!(word, b"--url" | b"--help" | b"-h") || word.starts_with(b"--url=")
    };
    words.iter().any(is_option)
}

/// Loads the server that `words` name, and prints what it answered.
pub(crate) fn main(words: &[OsString]) -> ExitCode {
    let name = OsString::from("loadgen");
    let arguments = LoadArgs::parse_from([&name].into_iter().chain(words));
    let Err(error) = arguments.report().and_then(|report| print(&report)) else {
        return ExitCode::SUCCESS;
    };
    // Nobody may be reading any more; the exit code says it too.
    let _ = writeln!(io::stderr(), "loadgen: {error:#}");
    exit_code(&error).into()
}

/// See `--help`.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Elsewhere>() || error.is::<InvalidUrl>() {
        2
    } else if error.is::<Unreachable>() {
        7
    } else {
        1
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write the result")
}

impl LoadArgs {
    /// Loads the server; returns what is to be printed.
    ///
    /// # Errors
    /// See [`exit_code`].
    pub(crate) fn report(self) -> anyhow::Result<String> {
        let json = self.json;
        let outcome = self.run()?;
        Ok(if json {
            format!("{}\n", outcome.to_json())
        } else {
            format!("{outcome}\n")
        })
    }

    fn run(self) -> anyhow::Result<Outcome> {
        let client = self.server.client()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start")?;
        runtime.block_on(async {
            let authorization = client.authorization().cloned();
            let (plan, requests) = self.into_plan(client.address().await?, authorization)?;
            let outcome = prepare_and_run(&plan, &requests).await;
            outcome.with_context(|| format!("cannot load {}", plan.address))
        })
    }

    /// What is to be sent to the server at `address`, with `authorization` in each request.
    ///
    /// # Errors
    /// If that is another machine and nobody said `--yes`.
    fn into_plan(
        self,
        address: SocketAddr,
        authorization: Option<HeaderValue>,
    ) -> Result<(Plan, Requests), Elsewhere> {
        if !address.ip().is_loopback() && !self.yes {
            return Err(Elsewhere);
        }
        let plan = Plan {
            address,
            authorization,
            tls: None,
            http2: self.http2,
            connections: self.connections.into(),
            until: Until::Time(self.duration),
            rate: self.rate.map(f64::from),
        };
        let requests = Requests {
            workload: self.workload,
            set: "loadgen".into(),
            messages: self.messages,
            // So that what one run stores is new in the next.
            new_set: format!("loadgen {:x}", RandomState::new().hash_one(())),
            message_bytes: usize::try_from(self.message_size.as_u64()).unwrap_or(usize::MAX),
            popularity: if self.zipf {
                Popularity::Zipf(Zipf::new(self.messages))
            } else {
                Popularity::Uniform
            },
        };
        Ok((plan, requests))
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "a bench has `cfg(test)` too, but no tests"
)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<LoadArgs, clap::Error> {
        LoadArgs::try_parse_from([&["loadgen"], arguments].concat())
    }

    #[test]
    fn the_command_line_is_consistent() {
        LoadArgs::command().debug_assert();
    }

    #[test]
    fn a_run_is_bounded() {
        for (option, most, more) in [
            ("--connections", "256", "257"),
            ("--duration", "10m", "601s"),
            ("--messages", "10000000", "10000001"),
        ] {
            parse(&[option, most]).unwrap();
            assert!(parse(&[option, more]).is_err(), "{option}");
            assert!(parse(&[option, "0"]).is_err(), "{option}");
        }
    }

    #[test]
    fn other_machines_are_loaded_only_with_a_yes() {
        let here = "127.0.0.1:8080".parse().unwrap();
        let elsewhere = "192.0.2.1:8080".parse().unwrap();
        let plan = |arguments: &[&str], address| parse(arguments).unwrap().into_plan(address, None);
        assert!(plan(&[], here).is_ok());
        assert_eq!(exit_code(&plan(&[], elsewhere).unwrap_err().into()), 2);
        assert!(plan(&["--yes"], elsewhere).is_ok());
    }

    #[test]
    fn words_without_an_address_are_for_the_rows() {
        let is_meant = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            super::is_meant(&words)
        };
        for words in [&[][..], &["POST", "90"], &["--sweep", "workers"]] {
            assert!(!is_meant(words), "{words:?}");
        }
        for words in [
            &["mixed", "--url", "http://127.0.0.1:1"][..],
            &["--url=http://127.0.0.1:1"],
            &["--help"],
        ] {
            assert!(is_meant(words), "{words:?}");
        }
    }
}
