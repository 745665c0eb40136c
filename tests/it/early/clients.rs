//! The same with clients of other people, over TLS and without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use digestd::digest::Digest;
use tempfile::TempDir;

use crate::process::{Digestd, Launch, run};
use crate::tls;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/early");

/// How much of a body there is: less than a window, a little more, and as much as a connection takes at once.
const BYTES: [u32; 3] = [16_000, 100_000, 1_000_000];

/// A request, and how it is answered before its body was read.
#[derive(Clone, Copy)]
struct Case {
    path: &'static str,
    kind: &'static str,
    site: &'static str,
    status: u16,
    /// What the answer has.
    text: &'static str,
}

const fn case(status: u16, text: &'static str) -> Case {
    Case {
        path: "/messages",
        kind: "text/plain",
        site: "none",
        status,
        text,
    }
}

/// What one with small limits refuses.
const OF_SMALL: [Case; 6] = [
    Case {
        site: "cross-site",
        ..case(403, "another site")
    },
    Case {
        path: "/nothing",
        ..case(404, "path")
    },
    Case {
        path: "/docs",
        ..case(405, "method")
    },
    case(413, "large"),
    Case {
        kind: "image/png",
        ..case(415, "Content-Type must be")
    },
    Case {
        kind: "application/x-ndjson",
        ..case(200, "larger than 8192 bytes")
    },
];

/// A server that refuses something, and what.
struct Server {
    digestd: Digestd,
    certificate: PathBuf,
    cases: Vec<Case>,
}

impl Server {
    fn start(directory: &TempDir, name: &str, adjust: impl Fn(Launch) -> Launch) -> Self {
        let data = directory.path().join(name);
        let launch = Launch::new(&data)
            .option("--tls-listen", "127.0.0.1:0")
            .env("DIGESTD_TLS_SELF_SIGNED", "1");
        Self {
            digestd: adjust(launch).start(),
            certificate: data.join("localhost.crt"),
            cases: Vec::new(),
        }
    }

    fn refusing(self, cases: &[Case]) -> Self {
        Self {
            cases: cases.to_vec(),
            ..self
        }
    }
}

fn servers(directory: &TempDir) -> Vec<Server> {
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, format!("all read,write {}\n", Digest::of(b"all"))).unwrap();
    Server::start(directory, "full", |launch| launch)
        .digestd
        .stop();
    let start = |name, adjust: &dyn Fn(Launch) -> Launch| Server::start(directory, name, adjust);
    let small = start("small", &|launch| launch.option("--body-max", "8KiB"));
    let asking = start("asking", &|launch| launch.option("--tokens", &tokens));
    let slow = start("slow", &|launch| launch.option("--write-rate", "1/h"));
    slow.digestd.client().publish("foo").unwrap();
    let full = start("full", &|launch| {
        launch.without("--free-min").option("--free-min", "1PiB")
    });
    vec![
        small.refusing(&OF_SMALL),
        asking.refusing(&[case(401, "needs a token")]),
        slow.refusing(&[case(429, "Too many requests")]),
        full.refusing(&[case(507, "disk")]),
    ]
}

/// Whether what a client printed, a line with status and text for each request, is what should be.
fn check(asked: &[(Case, u32)], printed: &str) {
    let answers: Vec<_> = printed.lines().collect();
    assert_eq!(answers.len(), asked.len(), "{printed}");
    for ((case, bytes), answer) in asked.iter().zip(answers) {
        let is_right =
            answer.starts_with(&format!("{} ", case.status)) && answer.contains(case.text);
        assert!(is_right, "{bytes} bytes to get {}: {answer}", case.status);
    }
}

/// Lets a client, a command that takes an address and a certificate, ask everything.
fn ask_with(client: impl Fn(&str, &Path) -> Command) {
    let directory = tempfile::tempdir().unwrap();
    for server in servers(&directory) {
        let url = format!("https://{}", tls::https_address(&server.digestd));
        let cases = server.cases.iter();
        let asked: Vec<_> = cases
            .flat_map(|case| BYTES.map(|bytes| (*case, bytes)))
            .collect();
        let lines = asked.iter().map(|(case, bytes)| {
            let Case {
                path, kind, site, ..
            } = case;
            format!("{path} {kind} {site} {bytes}\n")
        });
        let lines: String = lines.collect();
        let outcome = run(&mut client(&url, &server.certificate), lines.as_bytes());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        check(&asked, str::from_utf8(&outcome.stdout).unwrap());
        server.digestd.stop();
    }
}

fn script(program: &str, name: &str, url: &str, certificate: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(format!("{SCRIPTS}/{name}"))
        .arg(url)
        .arg(certificate);
    command
}

#[test]
#[ignore = "needs httpx"]
fn httpx_sees_each_early_answer() {
    ask_with(|url, certificate| script("python", "ask.py", url, certificate));
}

#[test]
#[ignore = "needs node"]
fn node_sees_each_early_answer() {
    ask_with(|url, certificate| script("node", "ask.mjs", url, certificate));
}

#[test]
#[ignore = "needs java"]
fn java_sees_each_early_answer() {
    ask_with(|url, certificate| script("java", "Ask.java", url, certificate));
}

/// Asks once with curl and these options; status and text.
fn curl(case: &Case, bytes: u32, url: &str, options: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--write-out",
        "\\n%{http_code} ",
    ]);
    command.args(options).args(["--data-binary", "@-"]);
    command.args(["--header", &format!("Content-Type: {}", case.kind)]);
    command.args(["--header", &format!("Sec-Fetch-Site: {}", case.site)]);
    command.arg(format!("{url}{}", case.path));
    let outcome = run(&mut command, &vec![b'a'; bytes as usize]);
    assert_eq!(
        outcome.code,
        Some(0),
        "{bytes} bytes to get {}: {outcome:?}",
        case.status
    );
    let printed = String::from_utf8(outcome.stdout).unwrap();
    let (text, status) = printed.rsplit_once('\n').unwrap();
    format!("{status}{}", text.replace('\n', " "))
}

#[test]
#[ignore = "needs curl"]
fn curl_sees_each_early_answer() {
    const TIMES: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    for server in servers(&directory) {
        let secure = format!("https://{}", tls::https_address(&server.digestd));
        let plain = server.digestd.url();
        let certificate = server.certificate.to_str().unwrap();
        for (url, options) in [
            (&secure, &["--http2", "--cacert", certificate][..]),
            (&plain, &["--http2-prior-knowledge"]),
            (&plain, &["--http1.1"]),
        ] {
            for case in &server.cases {
                for bytes in BYTES.into_iter().flat_map(|bytes| [bytes; TIMES]) {
                    check(&[(*case, bytes)], &curl(case, bytes, url, options));
                }
            }
        }
        server.digestd.stop();
    }
}
