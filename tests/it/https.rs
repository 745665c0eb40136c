//! The commands that talk to a server, over HTTPS: whom they trust, and what they say where they do not.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use digestd::digest::Digest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::process::{Digestd, Launch, Outcome, digestd, run};
use crate::support::FOO;
use crate::tls::https_address;

/// A certificate in PEM, and its key.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// A certificate that signs itself, as `adjust` changes it.
fn pair(directory: &Path, name: &str, adjust: impl FnOnce(&mut CertificateParams)) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).unwrap();
    adjust(&mut params);
    let pair = Pair {
        certificate: directory.join(name).with_extension("crt"),
        key: directory.join(name).with_extension("key"),
    };
    fs::write(&pair.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&pair.key, key.serialize_pem()).unwrap();
    pair
}

struct Server {
    digestd: Digestd,
    address: SocketAddr,
    _data: TempDir,
}

impl Server {
    fn with(pair: &Pair, adjust: impl FnOnce(Launch) -> Launch) -> Self {
        let data = tempfile::tempdir().unwrap();
        let launch = Launch::new(data.path())
            .option("--tls-listen", "127.0.0.1:0")
            .option("--tls-cert", &pair.certificate)
            .option("--tls-key", &pair.key);
        let digestd = adjust(launch).start();
        Self {
            address: https_address(&digestd),
            digestd,
            _data: data,
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

fn put(words: &[&str]) -> Outcome {
    run(digestd().args(["put", "foo"]).args(words), b"")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_command_that_asks_a_server_asks_over_https() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let token = directory.path().join("token");
    let tokens = directory.path().join("tokens");
    let made = run(
        digestd().args(["token", "new", "all", "--scope", "read,write,export,delete"]),
        b"",
    );
    fs::write(&token, &made.stdout).unwrap();
    fs::write(&tokens, &made.stderr).unwrap();
    let server = Launch::new(&data)
        .option("--tls-listen", "127.0.0.1:0")
        .env("DIGESTD_TLS_SELF_SIGNED", "on")
        .option("--tokens", &tokens)
        .env("DIGESTD_ALLOW_EXPORT", "on")
        .start();
    let port = https_address(&server).port();
    let certificate = data.join("localhost.crt");
    let export = directory.path().join("all.ndjson");
    let command = |words: &[&str], input: &str| {
        let url = format!("https://localhost:{port}");
        let mut command = digestd();
        command
            .args(words)
            .args(["--url", &url, "--cacert", text(&certificate)]);
        if words != ["healthcheck"] {
            command.args(["--token-file", text(&token)]);
        }
        let outcome = run(&mut command, input.as_bytes());
        assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
        String::from_utf8(outcome.stdout).unwrap()
    };
    command(&["healthcheck"], "");
    assert_eq!(command(&["put", "foo"], ""), format!("{FOO}\n"));
    assert_eq!(command(&["get", FOO], ""), "foo");
    let printed = command(&["put", "--batch", "-"], "{\"message\": \"foo\"}\n");
    assert_eq!(printed, format!("{FOO}\n"));
    assert_eq!(command(&["has", FOO], ""), "");
    let line = format!("{{\"digest\":\"{FOO}\",\"message\":\"foo\"}}\n");
    assert_eq!(command(&["lookup"], FOO), line);
    assert_eq!(command(&["delete", FOO], ""), format!("{FOO}\n"));
    command(&["put", "foo"], "");
    let line = format!(
        "{{\"digest\": \"{}\", \"message\": \"bar\"}}\n",
        Digest::of(b"bar")
    );
    command(&["import", "-"], &line);
    command(&["export", "--output", text(&export)], "");
    assert_eq!(fs::read_to_string(&export).unwrap().lines().count(), 2);
    command(&["verify"], "");
    server.stop();
}

#[test]
fn a_server_that_does_not_prove_who_it_is_is_sent_nothing_and_told_of_in_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let day = Duration::days(1);
    let now = OffsetDateTime::now_utc();
    let good = pair(path, "good", |_| {});
    let other = pair(path, "other", |_| {});
    for (name, adjust, trusted, reason) in [
        (
            "good",
            &(|_: &mut CertificateParams| {}) as &dyn Fn(&mut CertificateParams),
            &other,
            "no authority that is trusted here",
        ),
        (
            "expired",
            &|params| {
                params.not_before = now - 2 * day;
                params.not_after = now - day;
            },
            &good,
            "has expired",
        ),
        (
            "authority",
            &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            &good,
            "is that of an authority",
        ),
        (
            "early",
            &|params| params.not_before = now + day,
            &good,
            "is not valid yet",
        ),
        (
            "elsewhere",
            &|params| *params = CertificateParams::new(["example.org".into()]).unwrap(),
            &good,
            "is not for 127.0.0.1:",
        ),
    ] {
        let shown = pair(path, name, adjust);
        // Of its own authority, unless that is what is wrong.
        let trusted = if name == "good" { trusted } else { &shown };
        let server = Server::with(&shown, |launch| launch);
        let outcome = put(&[
            "--url",
            &server.url(),
            "--cacert",
            text(&trusted.certificate),
        ]);
        assert_eq!(outcome.code, Some(7), "{name}: {outcome:?}");
        let start = format!("digestd: cannot reach {}: its certificate ", server.address);
        assert!(outcome.stderr.starts_with(&start), "{name}: {outcome:?}");
        assert!(outcome.stderr.contains(reason), "{name}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        // None of the system's authorities signed it either.
        let outcome = put(&["--url", &server.url()]);
        assert_eq!(outcome.code, Some(7), "{name}: {outcome:?}");
        assert_eq!(server.digestd.messages(), 0);
        let outcome = put(&["--url", &server.url(), "--insecure"]);
        assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        assert!(
            outcome.stderr.contains("--insecure: it may be any server"),
            "{outcome:?}"
        );
        server.digestd.stop();
    }
}

#[test]
fn the_wrong_scheme_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let pair = pair(directory.path(), "good", |_| {});
    let server = Server::with(&pair, |launch| launch);
    let plain = server.digestd.address();
    let cacert = ["--cacert", text(&pair.certificate)];
    let secure_to_plain = format!("https://{plain}");
    let outcome = put(&["--url", &secure_to_plain, cacert[0], cacert[1]]);
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    assert!(
        outcome.stderr.contains(&format!("try http://{plain}")),
        "{outcome:?}"
    );
    let plain_to_secure = format!("http://{}", server.address);
    let outcome = put(&["--url", &plain_to_secure]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("HTTPS"), "{outcome:?}");
    // Without one it is told which.
    let outcome = put(&["--url", &plain.to_string()]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, format!("digestd: asking http://{plain}\n"));
    server.digestd.stop();
}

#[test]
fn authorities_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let pair = pair(directory.path(), "good", |_| {});
    let [empty, der, indented, cut, letters, short] =
        ["empty", "der", "indented", "cut", "letters", "short"].map(|it| directory.path().join(it));
    fs::write(&empty, "").unwrap();
    let pem = fs::read_to_string(&pair.certificate).unwrap();
    let bytes = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    fs::write(&der, &bytes).unwrap();
    fs::write(&short, &bytes[..bytes.len() - 9]).unwrap();
    fs::write(
        &indented,
        pem.replace('\n', "\n  ").replace("CERT", "X509 CERT"),
    )
    .unwrap();
    fs::write(&cut, &pem[..pem.len() / 2]).unwrap();
    fs::write(&letters, pem.replacen("\nMI", "\n!!", 1)).unwrap();
    for file in [&der, &indented] {
        let outcome = put(&["--url", "https://localhost:1", "--cacert", text(file)]);
        assert_eq!(outcome.code, Some(7), "{outcome:?}");
    }
    for (file, reason) in [
        (&directory.path().join("missing"), "cannot read "),
        (&empty, "has no certificate"),
        (&pair.key, "what is in it is something else"),
        (&cut, "cut short"),
        (&letters, "not Base64"),
        (&short, "damaged or cut short"),
    ] {
        let outcome = put(&["--url", "https://localhost:1", "--cacert", text(file)]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(text(file)), "{outcome:?}");
        assert!(outcome.stderr.contains(reason), "{outcome:?}");
    }
}

#[test]
fn a_token_in_the_clear_to_another_machine_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data).start();
    let token = directory.path().join("token");
    fs::write(&token, format!("digestd_{}\n", "0".repeat(64))).unwrap();
    let port = server.address().port();
    for (host, is_warned_of) in [
        ("0.0.0.0", true),
        ("127.0.0.1", false),
        ("localhost", false),
    ] {
        let url = format!("http://{host}:{port}");
        let outcome = put(&["--url", &url, "--token-file", text(&token)]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let is_said = outcome.stderr.contains("the token is sent over plain HTTP");
        assert_eq!(is_said, is_warned_of, "{host}: {outcome:?}");
    }
    server.stop();
}

#[test]
fn where_no_server_is_there_it_is_said_how_to_start_one() {
    let outcome = put(&["--url", "http://127.0.0.1:1"]);
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    assert!(
        outcome.stderr.contains("start it with `digestd serve`"),
        "{outcome:?}"
    );
}

#[test]
fn a_path_that_is_not_that_of_the_service_is_no_missing_message() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    for (path, code, said) in [("", 6, "message not found"), ("/nowhere", 1, "404")] {
        let url = server.url() + path;
        let outcome = run(digestd().args(["get", FOO, "--url", &url]), b"");
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
    server.stop();
}
