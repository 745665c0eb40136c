//! Programs of other people that look for faults: in the description, in what is answered to it, and
//! in the fields of answers.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use digestd::digest::Digest;
use serde_json::json;

use crate::process::{Launch, run};

const OPENAPI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi.yaml");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
const LINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/lint.py");

/// What the linter says of any 400, whoever's fault it is.
const OF_ANY_400: &str = "The server didn't understand the request.";

/// Requests that schemathesis is to make at least.
const REQUESTS_MIN: u32 = 20_000;

/// Cases that it makes for an operation and chains that it makes of links, so that it comes to
/// [`REQUESTS_MIN`]: not all operations have so many different cases.
const CASES_MAX: &str = "850";

#[test]
#[ignore = "needs openapi-spec-validator"]
fn the_description_is_valid_openapi() {
    let output = Command::new("openapi-spec-validator").arg(OPENAPI).output();
    passed(&output.unwrap());
}

#[test]
#[ignore = "needs schemathesis, and takes minutes"]
fn thousands_of_requests_made_from_the_description_find_no_fault() {
    let directory = tempfile::tempdir().unwrap();
    // With a token for everything: without tokens nobody may delete.
    let tokens = directory.path().join("tokens");
    let scopes = "read,write,delete,export,metrics";
    let line = format!("all {scopes} {}\n", Digest::of(b"all"));
    fs::write(&tokens, line).unwrap();
    let server = Launch::new(&directory.path().join("data"))
        .env("DIGESTD_TOKENS", tokens.to_str().unwrap())
        .start();
    let output = Command::new("schemathesis")
        .env("PYTHONPATH", TESTS)
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .args([
            "--config-file",
            &format!("{TESTS}/schemathesis.toml"),
            "run",
        ])
        .arg(format!("{}/openapi.json", server.url()))
        // It does not understand that the description says where it is relative to itself.
        .args(["--url", &server.url()])
        .args(["--checks", "all", "--max-examples", CASES_MAX])
        .args(["--header", "Authorization: Bearer all"])
        .args(["--generation-database", "none", "--no-color"])
        .current_dir(directory.path())
        .output();
    let report = passed(&output.unwrap());
    let (before, _) = report.split_once(" generated").expect(&report);
    let count = before.rsplit(char::is_whitespace).next().unwrap();
    let count: u32 = count.replace(',', "").parse().unwrap();
    assert!(count >= REQUESTS_MIN, "{report}");
    let log = server.stop();
    let mut lines = log.lines();
    // Some of them are made without the token, or with another.
    let is_fine = |line: &str| line.contains("access refused") || !line.contains("WARN");
    assert!(
        lines.all(|line| is_fine(line) && !line.contains("ERROR")),
        "{log}"
    );
}

#[test]
#[ignore = "needs httplint"]
fn a_linter_has_nothing_to_say_against_the_fields_of_answers() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    let digest = server.client().publish("foo").unwrap();
    let message = format!("/messages/{digest}");
    let text = json!({ "Accept": "text/plain" });
    let page = json!({ "Accept": "text/html" });
    let known = json!({ "If-None-Match": format!("\"{digest}-json\"") });
    let part = json!({ "Accept": "text/plain", "Range": "bytes=1-" });
    let no_part = json!({ "Accept": "text/plain", "Range": "bytes=3-" });
    let lines = json!({ "Content-Type": "application/x-ndjson" });
    let none = json!({});
    let plain = json!({ "Content-Type": "text/plain" });
    let requests = [
        json!(["GET", message, none, null]),
        json!(["GET", message, text, null]),
        json!(["GET", message, known, null]),
        json!(["GET", message, part, null]),
        json!(["GET", message, no_part, null]),
        json!(["GET", format!("/messages/sha256:{digest}"), none, null]),
        json!(["HEAD", message, none, null]),
        json!(["HEAD", message, known, null]),
        json!(["GET", "/messages/foo", none, null]),
        json!(["HEAD", "/messages/foo", none, null]),
        json!(["POST", "/messages", plain, "foo"]),
        json!(["POST", "/messages", none, "foo"]),
        json!(["POST", "/messages", lines, "{\"message\": \"foo\"}\n"]),
        json!(["PUT", message, plain, "foo"]),
        json!(["PUT", message, plain, "bar"]),
        json!(["PATCH", "/messages", none, null]),
        json!(["GET", "/", none, null]),
        json!(["GET", "/", page, null]),
        json!(["GET", "/docs", page, null]),
        json!(["GET", "/openapi.json", none, null]),
        json!(["GET", "/openapi.yaml", none, null]),
        json!(["GET", "/pages/home.js", none, null]),
        json!(["GET", "/pages/icon.svg", none, null]),
        json!(["GET", "/pages/style.css", { "If-None-Match": "*" }, null]),
        json!(["GET", "/readyz", none, null]),
        json!(["GET", "/metrics", none, null]),
    ];
    let input: Vec<_> = requests.iter().map(ToString::to_string).collect();
    let mut command = Command::new("python3");
    command.arg(LINT).arg(server.address().to_string());
    let outcome = run(&mut command, input.join("\n").as_bytes());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let answers = String::from_utf8(outcome.stdout).unwrap();
    assert_eq!(answers.lines().count(), requests.len());
    let mut statuses = BTreeSet::new();
    for (request, answer) in requests.iter().zip(answers.lines()) {
        let (status, notes): (u16, Vec<(String, String)>) = serde_json::from_str(answer).unwrap();
        statuses.insert(status);
        assert!(!notes.is_empty(), "{request}");
        for (level, summary) in notes {
            let is_fine = ["GOOD", "INFO"].contains(&&*level) || summary == OF_ANY_400;
            assert!(is_fine, "{request}: {level} {summary}");
        }
    }
    assert_eq!(
        statuses,
        BTreeSet::from([200, 201, 206, 304, 400, 404, 405, 416, 422])
    );
}

/// What a program that must have succeeded has written.
fn passed(output: &Output) -> String {
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}\n{errors}");
    report
}
