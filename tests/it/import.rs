//! `digestd import`: what an export has is stored, and nothing that is not what it says it is.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson;
use flate2::write::GzEncoder;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

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
fn an_import_says_how_many_messages_were_known() {
    let lines = lines_of(&texts(0..500));
    let data = empty();
    for (input, said) in [
        (
            &lines_of(&texts(0..200)),
            "200 messages stored: 200 new, 0 known",
        ),
        (&lines, "500 messages stored: 300 new, 200 known"),
        (&lines, "500 messages stored: 0 new, 500 known"),
    ] {
        let outcome = import(data.path(), &[], input);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
}

#[test]
fn a_compressed_export_is_made_by_its_name_and_recognised_by_its_content() {
    let data = Data::with(&texts(0..2000));
    let directory = tempfile::tempdir().unwrap();
    for format in ["ndjson", "tar"] {
        let plain = export(data.path(), format);
        for (ending, magic) in [("gz", &b"\x1f\x8b"[..]), ("zst", b"\x28\xb5\x2f\xfd")] {
            let file = directory.path().join(format!("{format}.{ending}"));
            // What an interrupted one left is no start.
            fs::write(
                directory.path().join(format!("{format}.{ending}.part")),
                magic,
            )
            .unwrap();
            let mut command = digestd();
            command
                .args(["export", "--format", format, "--data-dir"])
                .arg(data.path());
            let outcome = run(command.arg("-o").arg(&file), b"");
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            let archive = fs::read(&file).unwrap();
            assert!(archive.starts_with(magic) && archive.len() < plain.len() * 9 / 10);
            let anonymous = directory.path().join("archive");
            fs::write(&anonymous, &archive).unwrap();
            for (options, input) in [
                (&[anonymous.to_str().unwrap()][..], &b""[..]),
                (&[], &archive),
            ] {
                let copy = empty();
                let outcome = import(copy.path(), options, input);
                assert_eq!(outcome.code, Some(0), "{format}.{ending}: {outcome:?}");
                assert!(export(copy.path(), format) == plain);
            }
            let cut = import(empty().path(), &[], &archive[..archive.len() / 2]);
            assert_eq!(cut.code, Some(1), "{format}.{ending}: {cut:?}");
            assert!(cut.stderr.contains("stopped behind"), "{cut:?}");
        }
    }
}

/// A gigabyte that a few kilobytes stand for, as one line and as the content of a message.
#[test]
fn a_bomb_is_one_message_that_is_too_large() {
    let mut bomb = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    bomb.write_all(b"{\"digest\": \"").unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..512 {
        bomb.write_all(&piece).unwrap();
    }
    bomb.write_all(b"\n").unwrap();
    bomb.write_all(&lines_of(&["the next one".into()])).unwrap();
    let data = empty();
    let mut command = digestd();
    command
        .args(["import", "--keep-going", "--data-dir"])
        .arg(data.path());
    let outcome = run(&mut command, &bomb.finish().unwrap());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("line 1: larger than"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("1 message stored"), "{outcome:?}");
}

#[test]
fn what_is_no_export_is_told_so_and_makes_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").unwrap();
    let gzip = gzip.finish().unwrap();
    for input in [&b"hello, world\n"[..], b"[]", b"\x7fELF", &gzip] {
        let outcome = import(&store, &[], input);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(
            outcome.stderr.contains("neither NDJSON nor tar"),
            "{outcome:?}"
        );
    }
    for (input, said) in [
        (&b"PK\x03\x04"[..], "compressed with zip"),
        (
            b"\xfd7zXZ\0",
            "compressed with xz, which is not read; `xz -dc FILE | digestd import`",
        ),
        (b"BZh91AY", "bzip2 -dc"),
        (b"\x04\x22\x4d\x18", "lz4 -dc"),
    ] {
        let outcome = import(&store, &[], input);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
    let outcome = import(&store, &[], b"{\"message\": \"foo\"}\n");
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("`digestd put --batch` takes lines"),
        "{outcome:?}"
    );
    // Nor does one without a message, or whose first one is wrong.
    let wrong = b"{\"digest\": \"foo\"}\n";
    for (input, code) in [(&b""[..], 0), (b"\n \n", 0), (&[0; 1024], 1), (wrong, 3)] {
        let outcome = import(&store, &[], input);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(
            outcome.stderr.contains("0 messages stored: 0 new, 0 known"),
            "{outcome:?}"
        );
    }
    assert!(!store.exists());
    let outcome = import(&store, &[], &lines_of(&texts(0..1)));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(store.exists());
}

#[test]
fn a_person_at_a_terminal_is_told_what_is_read_and_ends_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Launch::new(&directory.path().join("server")).start();
    let url = server.url();
    let store = directory.path().join("store");
    for (words, said) in [
        (
            &["import", "--data-dir", store.to_str().unwrap()][..],
            "reading an export",
        ),
        (&["lookup", "--url", &url], "reading digests"),
        (&["put", "--batch", "-", "--url", &url], "reading messages"),
    ] {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let mut far_end = OpenOptions::new();
        let far_end = far_end
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        // Ctrl-D.
        rustix::io::write(&terminal, b"\x04").unwrap();
        let mut command = digestd();
        command.args(words).stdin(far_end).stderr(Stdio::piped());
        let mut child = Process(command.spawn().unwrap());
        assert_eq!(child.wait().code(), Some(0), "{words:?}");
        let mut stderr = String::new();
        child
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert!(
            stderr.contains(said) && stderr.contains("Ctrl-D"),
            "{stderr}"
        );
    }
    server.stop();
}

#[test]
fn a_store_in_use_is_said_to_be_asked_through_its_server() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    for verb in ["verify", "export", "import"] {
        let outcome = run(digestd().args([verb, "--data-dir"]).arg(data.path()), b"");
        assert_eq!(outcome.code, Some(4), "{outcome:?}");
        let said = format!("`digestd {verb} --url {}`", server.url());
        assert!(outcome.stderr.contains(&said), "{outcome:?}");
        assert!(outcome.stderr.contains(" is in use by pid "), "{outcome:?}");
    }
    let outcome = run(
        digestd().args(["compact", "--data-dir"]).arg(data.path()),
        b"",
    );
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stderr.contains("stop it first"), "{outcome:?}");
    server.stop();
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

/// Wherever it is cut: between two entries, too, where nothing in it is damaged.
#[test]
fn a_tar_that_ends_early_is_told_as_cut_and_what_was_stored_is_said() {
    let data = Data::with(&["one", "two", "three"].map(String::from));
    let archive = export(data.path(), "tar");
    // Three files of two blocks, the sums, and the zeros of which one block is enough.
    assert_eq!(archive.len(), 10 * 512);
    for (blocks, stored) in [
        (1, 0),
        (2, 1),
        (4, 2),
        (5, 2),
        (6, 3),
        (7, 3),
        (8, 3),
        (9, 3),
    ] {
        let directory = empty();
        let cut = &archive[..blocks * 512];
        let outcome = import(directory.path(), &[], cut);
        let expected = i32::from(blocks != 9);
        assert_eq!(outcome.code, Some(expected), "{blocks}: {outcome:?}");
        let said = format!("{stored} message");
        assert!(outcome.stderr.contains(&said), "{outcome:?}");
        let is_cut = outcome.stderr.contains("it was cut, or is not finished");
        assert_eq!(is_cut, blocks != 9, "{blocks}: {outcome:?}");
    }
    for length in [511, 513, 600, 1030] {
        let outcome = import(
            empty().path(),
            &[],
            &[&archive[..1024], &archive[1024..][..length]].concat(),
        );
        assert_eq!(outcome.code, Some(1), "{length}: {outcome:?}");
        assert!(
            outcome.stderr.contains("it was cut"),
            "{length}: {outcome:?}"
        );
    }
}

#[test]
fn what_comes_after_the_end_of_a_tar_and_zeros_alone_are_no_success() {
    let data = Data::with(&["one", "two", "three"].map(String::from));
    let archive = export(data.path(), "tar");
    let mut hole = archive.clone();
    hole[1024..2048].fill(0);
    let mut padded = archive.clone();
    padded.resize(20 << 10, 0);
    for (input, code, said) in [
        (padded, 0, "3 messages stored: 3 new"),
        (
            [&archive[..], &archive].concat(),
            1,
            "entry 5: there is more after the zeros",
        ),
        (hole, 1, "entry 2: there is more after the zeros"),
        (vec![0; 10 << 10], 1, "it is zeros"),
        // An export of an empty store.
        (
            Vec::new(),
            0,
            "there is no message in the input; 0 messages stored",
        ),
        (
            b"\xef\xbb\xbf".to_vec(),
            0,
            "there is no message in the input",
        ),
    ] {
        let outcome = import(empty().path(), &[], &input);
        assert_eq!(outcome.code, Some(code), "{said}: {outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
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
