//! `digestd import`: what an export has is stored, and nothing that is not what it says it is.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson;
use rustix::process::Signal;

use crate::disk::BadDisk;
use crate::process::{Launch, Outcome, Process, digestd, run};
use crate::store_support::{Data, MESSAGE_BYTES_MAX, texts};

fn lines_of(texts: &[String]) -> Vec<u8> {
    let mut lines = Vec::new();
    for text in texts {
        ndjson::write(&mut lines, &Message::new(text.as_str()));
    }
    lines
}

fn export(data_dir: &Path, format: &str) -> Vec<u8> {
    let mut command = digestd();
    command.arg("export").arg("--data-dir").arg(data_dir);
    let outcome = run(command.args(["--format", format]), b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

/// Imports what is on standard input.
fn import(data_dir: &Path, options: &[&str], input: &[u8]) -> Outcome {
    let mut command = digestd();
    command.arg("import").arg("--data-dir").arg(data_dir);
    run(command.args(options), input)
}

/// A directory for a new store, of small segments.
fn empty() -> Data {
    let data = Data::new();
    data.write("FORMAT", "digestd store 1\nsegment-size 65536\n");
    data
}

#[test]
fn what_was_exported_is_imported_in_both_forms_and_comes_out_the_same() {
    let data = Data::with(&texts(0..500));
    for format in ["ndjson", "tar"] {
        let archive = export(data.path(), format);
        let file = data.path().join(format);
        fs::write(&file, &archive).unwrap();
        for (options, input) in [
            (&[file.to_str().unwrap()][..], &b""[..]),
            (&[], &archive),
            (&["-"], &archive),
        ] {
            let copy = empty();
            let outcome = import(copy.path(), options, input);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            assert!(outcome.stderr.contains("500 messages stored"));
            assert!(export(copy.path(), format) == archive);
        }
    }
}

#[test]
fn many_messages_of_an_import_share_a_sync() {
    let data = Data::new();
    // All in one segment: what making others takes is not asked here.
    data.write("FORMAT", "digestd store 1\nsegment-size 4194304\n");
    // So long that even a slow machine reads hundreds of messages during a sync, and tens are asked for.
    let mut command = BadDisk::default().slow(".log", 100).digestd();
    command.arg("import").arg("--data-dir").arg(data.path());
    let outcome = run(&mut command, &lines_of(&texts(0..5000)));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let records = data.records();
    assert!(records.len() >= 5000);
    let groups: HashSet<_> = records.into_iter().map(|record| record.group).collect();
    // A group is what one sync made durable.
    assert!(groups.len() <= 5000 / 50, "{} groups", groups.len());
}

#[test]
fn a_wrong_line_is_named_and_ends_the_import_behind_what_was_right() {
    let texts = texts(0..1000);
    let mut lines = lines_of(&texts[..500]);
    lines.extend_from_slice(b"{\"digest\": \"secret\"}\n");
    lines.extend(lines_of(&texts[500..]));
    let data = empty();
    let outcome = import(data.path(), &[], &lines);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("line 501: "), "{outcome:?}");
    assert!(
        outcome.stderr.contains("500 messages stored"),
        "{outcome:?}"
    );
    assert!(!outcome.stderr.contains("secret"), "{outcome:?}");
    assert_eq!(count(&export(data.path(), "ndjson")), 500);
}

fn count(lines: &[u8]) -> usize {
    lines.split_inclusive(|&byte| byte == b'\n').count()
}

#[test]
fn with_keep_going_every_wrong_line_is_named_and_the_rest_is_stored() {
    let good = texts(0..1000);
    let foo = Digest::of(b"foo");
    let mut lines = lines_of(&good[..10]);
    lines.extend(format!("{{\"digest\":\"{foo}\",\"message\":\"fop\"}}\n").bytes());
    lines.extend(lines_of(&good[10..20]));
    ndjson::write_missing(&mut lines, &foo, "damaged");
    lines.extend(b"\n\xff\n[]\n");
    lines.extend(lines_of(&good[20..]));
    lines.extend(b"{\"digest\":");
    let data = empty();
    let outcome = import(data.path(), &["--keep-going"], &lines);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    for number in [11, 22, 24, 25, 1006] {
        let named = format!("line {number}: ");
        assert!(outcome.stderr.contains(&named), "{number}: {outcome:?}");
    }
    assert!(outcome.stderr.contains("5 findings"), "{outcome:?}");
    assert_eq!(count(&export(data.path(), "ndjson")), 1000);
}

#[test]
fn a_file_of_a_tar_that_is_not_what_it_is_called_is_refused() {
    let data = Data::with(&texts(0..100));
    let mut archive = export(data.path(), "tar");
    // The content of the first file; its name is in the block before.
    archive[512] ^= 1;
    let copy = empty();
    let outcome = import(copy.path(), &["--keep-going"], &archive);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("entry 1: "), "{outcome:?}");
    assert_eq!(count(&export(copy.path(), "ndjson")), 99);

    // Half a tar is no whole one, whatever could be read of it.
    let outcome = import(
        copy.path(),
        &["--keep-going"],
        &archive[..archive.len() / 2],
    );
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("stopped behind entry"),
        "{outcome:?}"
    );
}

/// As large as the store could hold and a byte more, with letters that take one byte of a line and six.
#[test]
fn a_message_that_no_segment_can_hold_is_named_and_what_can_be_said_of_it() {
    let data = Data::with(&[]);
    for symbol in ["x", "\0"] {
        let texts = [0, 1, 300_000].map(|more| symbol.repeat(MESSAGE_BYTES_MAX + more));
        let mut lines = lines_of(&texts);
        lines.extend(lines_of(&["the next one".into()]));
        let outcome = import(data.path(), &["--keep-going"], &lines);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        for number in [2, 3] {
            let said = format!(
                "line {number}: larger than {MESSAGE_BYTES_MAX} bytes, the most that can be stored there"
            );
            assert!(outcome.stderr.contains(&said), "{outcome:?}");
        }
        assert!(outcome.stderr.contains("2 messages stored"), "{outcome:?}");
    }
}

#[test]
fn an_interrupted_import_says_how_far_it_came_and_is_gone_on_with() {
    let texts = texts(0..3000);
    let lines = lines_of(&texts);
    for signal in [Signal::INT, Signal::KILL] {
        let data = empty();
        let child = digestd()
            .args(["import", "--data-dir"])
            .arg(data.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Process(child);
        let mut input = child.0.stdin.take().unwrap();
        input.write_all(&lines[..lines.len() / 2]).unwrap();
        // Those that are in the log may be in the index or not.
        let log = data.path().join("log/00000001.log");
        while !fs::read(&log).is_ok_and(|log| log.starts_with(b"\xffdg1")) {
            thread::yield_now();
        }
        child.signal(signal);
        if signal == Signal::INT {
            // It reads on until it looks up.
            let _ = input.write_all(&lines[lines.len() / 2..]);
        }
        drop(input);
        let status = child.wait();
        let mut stderr = String::new();
        let mut pipe = child.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut pipe, &mut stderr).unwrap();
        assert!(!status.success());
        if signal == Signal::INT {
            assert_eq!(status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("run it again to go on"), "{stderr}");
        }
        let outcome = import(data.path(), &[], &lines);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(count(&export(data.path(), "ndjson")), 3000);
    }
}

#[test]
fn an_import_goes_to_a_server_too() {
    let texts = texts(0..2000);
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--body-max", "1KiB")
        .start();
    let mut lines = lines_of(&texts[..1000]);
    lines.extend(lines_of(&["x".repeat(1025)]));
    lines.extend(lines_of(&texts[1000..]));
    let outcome = run(
        digestd().args(["import", "--keep-going", "--url", &server.url()]),
        &lines,
    );
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("line 1001: "), "{outcome:?}");
    assert!(outcome.stderr.contains("413"), "{outcome:?}");
    assert!(
        outcome.stderr.contains("2000 messages stored"),
        "{outcome:?}"
    );
    let mut client = server.client();
    for text in &texts {
        let found = client.fetch(&Digest::of(text.as_bytes()));
        assert_eq!(found.as_ref(), Some(text));
    }
    server.stop();
}

#[test]
fn an_import_to_a_server_that_goes_away_ends() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    let url = server.url();
    server.kill();
    let outcome = run(
        digestd().args(["import", "--url", &url]),
        &lines_of(&texts(0..2000)),
    );
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
}

/// What Windows' editors and shells make of an export that was opened and saved, or sent through `>`.
#[test]
fn an_export_may_begin_with_a_byte_order_mark_and_one_in_utf_16_is_named() {
    let mut texts = texts(0..3);
    texts.sort_by_key(|text| Digest::of(text.as_bytes()));
    let lines = lines_of(&texts);
    let text = str::from_utf8(&lines).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    for content in [format!("\u{feff}{text}"), format!("\u{feff}\n{text}")] {
        fs::write(&file, &content).unwrap();
        for (options, input) in [
            (&[file.to_str().unwrap()][..], ""),
            (&["-"], content.as_str()),
        ] {
            let copy = empty();
            let outcome = import(copy.path(), options, input.as_bytes());
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            assert!(export(copy.path(), "ndjson") == lines);
        }
    }
    let in_the_middle = format!("{text}\u{feff}{text}");
    let outcome = import(empty().path(), &[], in_the_middle.as_bytes());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let sentence = "line 4: begins with a byte order mark (U+FEFF)";
    assert!(outcome.stderr.contains(sentence), "{outcome:?}");
    let twice = format!("\u{feff}\u{feff}{text}");
    let outcome = import(empty().path(), &[], twice.as_bytes());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("line 1: begins with"),
        "{outcome:?}"
    );
    for mark in ["\u{feff}", ""] {
        for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let units = mark.encode_utf16().chain(text.encode_utf16());
            let bytes: Vec<_> = units.flat_map(to_bytes).collect();
            let outcome = import(empty().path(), &[], &bytes);
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            assert!(
                outcome.stderr.contains("UTF-16 instead of UTF-8"),
                "{outcome:?}"
            );
        }
    }
}
