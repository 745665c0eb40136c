//! Real input: the sample messages through the command line, a restart, and back.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use crate::process::{Digestd, Outcome, digestd, run};

#[test]
fn every_sample_message_survives_a_restart() {
    let texts = samples();
    assert!(texts.len() > 300, "a few hundred samples");
    let directory = tempfile::tempdir().unwrap();
    let digests = sha256sums(&texts, directory.path());
    let data = tempfile::tempdir().unwrap();

    let server = Digestd::start(data.path());
    side_by_side(texts.len(), |number| {
        let text = &texts[number];
        let url = server.url();
        let put = run(digestd().args(["put", "-", "--url", &url]), text.as_bytes());
        let digest = text_of_success(put);
        assert_eq!(digest, format!("{}\n", digests[number]), "{text:?}");
    });
    server.stop();

    let server = Digestd::start(data.path());
    side_by_side(texts.len(), |number| {
        let url = server.url();
        let get = run(
            digestd().args(["get", &digests[number], "--url", &url]),
            b"",
        );
        assert_eq!(text_of_success(get), texts[number]);
    });
    server.stop();
}

fn samples() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/messages.ndjson");
    let lines = fs::read_to_string(path).unwrap();
    let text = |line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["message"].as_str().unwrap().to_owned()
    };
    lines.lines().map(text).collect()
}

/// The digests of texts as somebody else computes them.
fn sha256sums(texts: &[String], directory: &Path) -> Vec<String> {
    let names: Vec<_> = (0..texts.len()).map(|number| number.to_string()).collect();
    for (text, name) in texts.iter().zip(&names) {
        fs::write(directory.join(name), text).unwrap();
    }
    let sums = run(
        Command::new("sha256sum")
            .args(&names)
            .current_dir(directory),
        b"",
    );
    let digests: Vec<_> = text_of_success(sums)
        .lines()
        .map(|line| line.split_once(' ').unwrap().0.to_owned())
        .collect();
    assert_eq!(digests.len(), texts.len());
    digests
}

fn text_of_success(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    String::from_utf8(outcome.stdout).unwrap()
}

/// Calls `work` for each number below `end`, a few at a time.
fn side_by_side(end: usize, work: impl Fn(usize) + Sync) {
    let numbers = Mutex::new(0..end);
    let next = || numbers.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(number) = next() {
                    work(number);
                }
            });
        }
    });
}
