//! The load generator of the bench `load`: its own tests, and what it does to the real binary.
//!
//! Benches without a harness run no tests, so its files are read here a second time. What the bench does
//! with them beyond the command line is not tested here. **Invariant:** it is called as the bench calls it
//! for `--url`, only not with the environment.

use std::net::TcpListener;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches};

use crate::process::Digestd;

use self::generator::args::{LoadArgs, exit_code};

#[expect(dead_code, reason = "TLS is for rows of the bench, not for `--url`")]
#[path = "../../benches/load/loadgen/mod.rs"]
mod generator;

/// What `cargo bench --bench load --` prints with these words; or its error, and its exit code.
pub(crate) fn loadgen(words: &[&str]) -> Result<String, (String, u8)> {
    let command = LoadArgs::command().mut_args(|argument| argument.env(Resettable::Reset));
    let matches = command.try_get_matches_from([&["loadgen"], words].concat());
    let arguments = LoadArgs::from_arg_matches(&matches.unwrap()).unwrap();
    let report = arguments.report();
    report.map_err(|error| (format!("{error:#}"), exit_code(&error)))
}

#[test]
fn it_prints_what_a_server_answered() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    for (workload, statuses) in [
        ("hit", &["200"][..]),
        ("miss", &["404"]),
        ("not-modified", &["304"]),
        ("post", &["201"]),
        ("known", &["201"]),
        ("mixed", &["200", "201"]),
    ] {
        for more in [&[][..], &["--http2"], &["--rate", "1000"], &["--zipf"]] {
            let url = server.url();
            let run = |duration| {
                let words = [
                    workload,
                    "--duration",
                    duration,
                    "--messages",
                    "10",
                    "--json",
                ];
                let target = ["--connections", "4", "--url", &url];
                let report = loadgen(&[&words, more, &target].concat()).unwrap();
                serde_json::from_str::<serde_json::Value>(&report).unwrap()
            };
            // A busy machine may have no time for a request of every kind in the first one.
            let mut reports = ["50ms", "1s", "10s"].into_iter().map(run);
            let report = reports.find(|report| {
                let answers = report["answers"].as_object().unwrap();
                let answered: Vec<_> = answers.keys().map(String::as_str).collect();
                let known = answered.iter().all(|status| statuses.contains(status));
                assert!(known, "{workload} {more:?}: {report}");
                assert_eq!(report["unanswered"], 0);
                answered == statuses
            });
            let rate = report.expect(workload)["requests_per_second"].as_f64();
            assert!(rate.unwrap() > 0.0);
        }
    }
    let line = loadgen(&["miss", "--duration", "50ms", "--url", &server.url()]).unwrap();
    assert!(line.ends_with(" answers 404, 0 unanswered\n"), "{line}");
    server.stop();
}

#[test]
fn it_says_when_no_server_is_there_or_the_address_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (error, code) = loadgen(&["miss", "--url", &url]).unwrap_err();
    assert!(error.contains("cannot reach 127.0.0.1:"), "{error}");
    assert_eq!(code, 7);
    let (error, code) = loadgen(&["miss", "--url", "ftp://localhost"]).unwrap_err();
    assert!(error.contains("is not the address of a server"), "{error}");
    assert_eq!(code, 2);
}

#[test]
fn what_it_is_told_by_the_environment_is_what_the_verbs_are() {
    let command = LoadArgs::command();
    let mut names: Vec<_> = command
        .get_arguments()
        .filter_map(|a| a.get_env())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["DIGESTD_CACERT", "DIGESTD_TOKEN_FILE", "DIGESTD_URL"]
    );
}
