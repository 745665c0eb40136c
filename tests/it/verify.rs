//! `digestd verify`: what is not as promised is named, and what is, is not.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use digestd::digest::Digest;
use digestd::store::index::Checkpoint;
use digestd::store::{Finding, OpenError, Verified, verify};
use digestd::store::{Place, Position};
use serde_json::Value;

use crate::process::{Digestd, Launch, Outcome, digestd, run};
use crate::store_support::{
    Data, Record, SEGMENT_BYTES, assert_holds_only, assert_text, close, delete, heard, put,
    put_all, texts,
};

const CACHE_BYTES: u64 = 1 << 20;

/// Verifies a directory; returns what was read and every finding.
fn verified(data: &Data) -> (Verified, Vec<Finding>) {
    let directory = data.claim_again().unwrap();
    let mut findings = Vec::new();
    let verified = verify(&directory, CACHE_BYTES, &|_, _| (), |finding| {
        findings.push(finding.clone());
    })
    .unwrap();
    assert_eq!(verified.findings, findings.len() as u64);
    (verified, findings)
}

fn sound(records: usize, indexed: Option<usize>) -> Verified {
    Verified {
        records: records as u64,
        indexed: indexed.map(|messages| messages as u64),
        ..Verified::default()
    }
}

fn at(record: &Record) -> Position {
    let segment = u32::try_from(record.position() >> 32).unwrap();
    let offset = u32::try_from(record.offset).unwrap();
    Position { segment, offset }
}

fn place(record: &Record) -> Place {
    let length = u32::try_from(record.length).unwrap();
    Place {
        at: at(record),
        length,
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

#[test]
fn a_sound_store_has_no_findings_closed_or_killed() {
    let texts = texts(0..1000);
    let data = Data::with(&texts);
    assert!(data.log().len() > 2, "more than one segment is in use");
    assert_eq!(verified(&data), (sound(1000, Some(1000)), vec![]));

    let store = data.open();
    put(&store, "not in the index when the next start begins").unwrap();
    let killed = data.copy();
    close(store);
    let (verified, findings) = verified(&killed);
    assert_eq!(findings, []);
    assert_eq!(verified.records, 1001);
}

#[test]
fn progress_counts_what_is_used_of_the_log_and_not_what_is_reserved() {
    let data = Data::with(&texts(0..1000));
    let end = data.records().iter().map(at).max().unwrap();
    let used = u64::from(SEGMENT_BYTES) * u64::from(end.segment - 1) + u64::from(end.offset);
    let reserved = u64::from(SEGMENT_BYTES) * data.log().len() as u64;
    let told = |data: &Data| {
        let told = RefCell::new(Vec::new());
        let tell = |done, total| told.borrow_mut().push((done, total));
        verify(&data.claim_again().unwrap(), CACHE_BYTES, &tell, |_| ()).unwrap();
        let told = told.into_inner();
        assert!(told.iter().all(|(done, total)| done <= total));
        let last = *told.last().unwrap();
        assert_eq!(last.0, last.1);
        last.1
    };
    let total = told(&data);
    assert!(
        (used..used + 1024).contains(&total),
        "{total} of {used}, {reserved}"
    );
    // Where that is not known before, it is at most what there is.
    data.leave_only_the_log();
    assert!((used..=reserved).contains(&told(&data)));
}

#[test]
fn an_empty_store_has_no_findings() {
    let data = Data::with(&[]);
    assert_eq!(verified(&data), (sound(0, Some(0)), vec![]));
}

#[test]
fn a_copy_of_the_log_alone_is_verified_without_an_index() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    data.leave_only_the_log();
    assert_eq!(verified(&data), (sound(300, None), vec![]));
    assert!(!data.has("index") && !data.has("checkpoint"));
}

#[test]
fn the_log_and_the_checkpoint_are_not_touched() {
    let data = Data::with(&texts(0..300));
    let record = data.record_of(&texts(0..300)[7]);
    data.flip(&record.file, record.body().start * 8);
    let before = (data.log(), data.read("checkpoint"), data.read("FORMAT"));
    verified(&data);
    let after = (data.log(), data.read("checkpoint"), data.read("FORMAT"));
    assert!(before == after);
}

#[test]
fn a_damaged_body_is_named_until_its_message_is_posted_again() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    // Without a checkpoint, damage in the last group cannot be told from a torn one.
    let store = data.open();
    put(&store, "the last group").unwrap();
    close(store);
    let record = data.record_of(&texts[100]);
    data.flip(&record.file, (record.body().start + 3) * 8);
    let to = Position {
        offset: u32::try_from(record.end()).unwrap(),
        ..at(&record)
    };
    let damaged = Finding::Damaged {
        from: at(&record),
        to,
        digest: Some(record.digest),
    };
    assert_eq!(verified(&data).1, std::slice::from_ref(&damaged));
    // The same without an index: a backup.
    let backup = data.copy();
    backup.leave_only_the_log();
    assert_eq!(verified(&backup).1, [damaged]);

    let store = data.open();
    put(&store, &texts[100]).unwrap();
    close(store);
    let healed = Verified {
        healed: 1,
        ..sound(301, Some(301))
    };
    assert_eq!(verified(&data), (healed, vec![]));
    data.leave_only_the_log();
    let healed = Verified {
        healed: 1,
        ..sound(301, None)
    };
    assert_eq!(verified(&data), (healed, vec![]));
}

#[test]
fn a_damaged_header_is_found_from_both_sides() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let record = data.record_of(&texts[100]);
    data.flip(&record.file, (record.offset + 20) * 8);
    let (verified, findings) = verified(&data);
    assert_eq!(verified.records, 299);
    let kinds: Vec<_> = findings.iter().map(Finding::kind).collect();
    assert_eq!(kinds, ["damaged", "not-in-log"]);
    assert_eq!(findings[0].at(), Some(at(&record)));
    assert_eq!(findings[0].digest(), None);
    assert_eq!(findings[1].at(), Some(at(&record)));
    assert_eq!(findings[1].digest(), Some(record.digest));
}

#[test]
fn a_missing_segment_is_named() {
    let texts = texts(0..1000);
    let data = Data::with(&texts);
    data.remove("log/00000001.log");
    let (verified, findings) = verified(&data);
    let whole = Finding::Damaged {
        from: Position::START,
        to: Position {
            segment: 1,
            offset: SEGMENT_BYTES,
        },
        digest: None,
    };
    assert_eq!(findings[0], whole);
    let not_in_log = findings.len() as u64 - 1;
    assert_eq!(verified.records + not_in_log, 1000);
    assert!(not_in_log > 0);
}

#[test]
fn a_checkpoint_ahead_of_the_log_is_damage() {
    let texts = texts(0..100);
    let data = Data::with(&texts);
    let last = data.record_of(&texts[99]);
    data.edit(&last.file, |content| content.truncate(last.offset));
    let (verified, findings) = verified(&data);
    assert_eq!(verified.records, 99);
    assert_eq!(findings[0].kind(), "damaged");
    assert_eq!(findings[0].at(), Some(at(&last)));
}

#[test]
fn an_index_that_misses_a_message_or_makes_one_up_is_found_out() {
    let texts = texts(0..100);
    let data = Data::with(&texts);
    let records = data.records();
    let end = Position {
        offset: u32::try_from(records[99].end()).unwrap(),
        ..at(&records[99])
    };
    data.remove("index");
    let made_up = digest("never stored");
    data.change_index(|index| {
        for record in &records[1..] {
            index.put(&record.digest, None, place(record)).unwrap();
        }
        // Where another message is.
        index.put(&made_up, None, place(&records[5])).unwrap();
        let checkpoint = Checkpoint {
            position: end,
            messages: 100,
        };
        index.checkpoint(checkpoint).unwrap();
    });
    let missed = Finding::NotInIndex {
        digest: records[0].digest,
        at: at(&records[0]),
    };
    let made_up = Finding::NotInLog {
        digest: made_up,
        at: at(&records[5]),
    };
    assert_eq!(verified(&data).1, [missed, made_up]);
}

#[test]
fn an_index_that_cannot_be_used_is_a_finding_and_the_log_is_read_all_the_same() {
    let texts = texts(0..100);
    let older = Data::with(&texts[..50]);
    let data = older.copy();
    let store = data.open();
    put_all(&store, &texts[50..]);
    close(store);
    let acts: [fn(&Data, &Data); 2] = [
        |data, older| data.take("index", older),
        |data, _| data.write("index/1/db", "rubbish"),
    ];
    for act in acts {
        let copy = data.copy();
        act(&copy, &older);
        let (verified, findings) = verified(&copy);
        assert_eq!(verified.records, 100);
        assert_eq!(verified.indexed, None);
        assert!(matches!(findings[..], [Finding::Index(_)]), "{findings:?}");
    }
}

#[test]
fn a_checkpoint_that_makes_no_sense_is_a_finding() {
    let data = Data::with(&texts(0..100));
    data.write("checkpoint", "rubbish");
    assert_eq!(
        verified(&data),
        (
            Verified {
                findings: 1,
                ..sound(100, None)
            },
            vec![Finding::Checkpoint]
        )
    );
}

/// What only reads the store leaves it as it is; the next writer says that earlier backups are of no use.
#[test]
fn an_identity_that_was_lost_is_a_finding_until_the_next_start() {
    let texts = texts(0..30);
    let good = Data::with(&texts).read("log/ID");
    for content in [Some("rubbish"), Some(""), Some("\0\0\0\0"), None] {
        let data = Data::with(&texts);
        match content {
            Some(content) => data.write("log/ID", content),
            None => data.remove("log/ID"),
        }
        let (verified, findings) = verified(&data);
        assert_eq!((verified.records, findings), (30, vec![Finding::Identity]));
        let mut export = digestd();
        let outcome = run(export.arg("export").arg("--data-dir").arg(data.path()), b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let is_warned = outcome.stderr.contains("log/ID is damaged");
        assert_eq!(is_warned, content.is_some(), "{outcome:?}");
        assert_eq!(data.findings(), [Finding::Identity]);
        let (store, lines) = data.open_and_listen();
        assert!(heard(&lines, "WARN log/ID was "), "{lines:?}");
        assert!(
            heard(&lines, "earlier backups cannot be brought up to date"),
            "{lines:?}"
        );
        close(store);
        assert_eq!(data.findings(), []);
        assert_ne!(data.read("log/ID"), good);
    }
}

#[test]
fn what_is_no_data_directory_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let refused = digestd::store::DataDirectory::claim_existing(directory.path());
    assert!(matches!(refused, Err(OpenError::Foreign { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let outcome = verify_command(&directory.path().join("nowhere"), &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(!directory.path().join("nowhere").exists());
}

// The command.

fn verify_command(data_dir: &Path, options: &[&str]) -> Outcome {
    let mut command = digestd();
    command.arg("verify").arg("--data-dir").arg(data_dir);
    run(command.args(options), b"")
}

fn lines(outcome: &Outcome) -> Vec<&str> {
    let text = std::str::from_utf8(&outcome.stdout).unwrap();
    text.lines().collect()
}

#[test]
fn verify_ends_with_0_on_a_sound_store_and_with_3_on_findings() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let outcome = verify_command(data.path(), &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(
        lines(&outcome),
        ["300 good records in the log; 300 messages in the index; 0 findings"]
    );
    assert_eq!(outcome.stderr, "");

    let record = data.record_of(&texts[0]);
    data.flip(&record.file, record.body().start * 8);
    let outcome = verify_command(data.path(), &[]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let lines = lines(&outcome);
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("log/00000001.log at 0: damaged"),
        "{lines:?}"
    );
    assert!(lines[0].ends_with(&record.digest.to_string()), "{lines:?}");
    assert!(lines[1].ends_with("; 1 finding"), "{lines:?}");
}

#[test]
fn verify_speaks_json_one_object_a_line() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let record = data.record_of(&texts[0]);
    data.flip(&record.file, record.body().start * 8);
    let outcome = verify_command(data.path(), &["--json"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let objects: Vec<Value> = lines(&outcome)
        .into_iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0]["finding"], "damaged");
    assert_eq!(objects[0]["file"], "log/00000001.log");
    assert_eq!(objects[0]["offset"], 0);
    assert_eq!(objects[0]["digest"], record.digest.to_string());
    assert_eq!(objects[1]["records"], 299);
    assert_eq!(objects[1]["indexed"], 300);
    assert_eq!(objects[1]["findings"], 1);
}

#[test]
fn verify_leaves_a_store_that_is_served_alone() {
    let data = tempfile::tempdir().unwrap();
    let server: Digestd = Launch::new(data.path()).start();
    let outcome = verify_command(data.path(), &[]);
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stderr.contains(&server.pid().to_string()));
    server.stop();
}

#[test]
fn what_a_server_has_is_verified_from_outside() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let record = data.record_of(&texts[0]);
    let verify_server = || {
        let server = Launch::new(data.path())
            .option("--body-max", "60KiB")
            .env("DIGESTD_ALLOW_EXPORT", "true")
            .start();
        let outcome = run(digestd().args(["verify", "--url", &server.url()]), b"");
        server.stop();
        outcome
    };
    let outcome = verify_server();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(lines(&outcome)[0].ends_with("0 findings"), "{outcome:?}");

    data.flip(&record.file, record.body().start * 8);
    let outcome = verify_server();
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_eq!(
        lines(&outcome)[0],
        format!("message {} is damaged", record.digest)
    );
}

// Copies that broke off, and what is no finding.

#[test]
fn a_copy_whose_last_segments_are_missing_is_found_out() {
    let texts = texts(0..2000);
    let data = Data::with(&texts);
    let last = data.records().pop().unwrap();
    let segments = usize::try_from(last.position() >> 32).unwrap();
    assert!(segments > 7);
    for (kept, index) in [
        (segments - 1, false),
        (segments - 1, true),
        (segments - 5, false),
        (1, true),
        (0, false),
    ] {
        println!("{kept} of {segments}, index kept: {index}");
        let copy = data.copy();
        for name in copy.files("log") {
            let is_kept = name.ends_with("ID") || name <= format!("log/{kept:08}.log");
            if !is_kept {
                copy.remove(&name);
            }
        }
        if !index {
            copy.remove("index");
        }
        let outcome = verify_command(copy.path(), &[]);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        let lines = lines(&outcome);
        let names_end = |line: &&&str| line.contains("the log ends here");
        assert_eq!(lines.iter().filter(names_end).count(), 1, "{lines:?}");
    }
    // More are missing than a log may lack.
    let far = Data::with(&texts[..10]);
    let content = format!("position {} 800\nmessages 10\n", 1 << 20);
    let checksum = crc32c::crc32c(content.as_bytes());
    far.write("checkpoint", format!("{content}crc32c {checksum:08x}\n"));
    let (_, findings) = verified(&far);
    assert_eq!(findings[0].kind(), "ends-early");
    let (store, lines) = far.open_and_listen();
    assert!(heard(&lines, "is ahead of the log"), "{lines:?}");
    put_all(&store, &texts[10..20]);
    close(store);
    let store = far.open();
    assert_holds_only(&store, &texts[..20]);
}

/// As a kill leaves it: the next start begins again, and nothing is lost.
#[test]
fn an_index_that_is_half_drawn_or_half_removed_is_no_finding() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let records = data.records();
    let half_drawn = data.copy();
    half_drawn.remove("index");
    half_drawn.change_index(|index| {
        for record in &records[..100] {
            index.put(&record.digest, None, place(record)).unwrap();
        }
    });
    let half_removed = data.copy();
    let index = |name: &str| half_removed.path().join(name);
    fs::rename(index("index"), index("index.old")).unwrap();
    half_removed.remove("index.old/2");
    for copy in [half_drawn, half_removed] {
        let outcome = verify_command(copy.path(), &[]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        copy.assert_sound(&texts);
        assert!(!copy.has("index.old"));
    }
}

#[test]
fn damaged_positions_of_a_deletion_are_named_and_the_deletion_holds() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let before = data.copy();
    let store = data.open();
    assert!(delete(&store, &texts[100]).unwrap());
    put(&store, "the last group").unwrap();
    close(store);
    let of_deletion = |record: &Record| record.kind == Record::DELETION;
    let deletion = data.records().into_iter().find(of_deletion).unwrap();
    for bit in [0, 13, 40] {
        let copy = data.copy();
        copy.flip(&deletion.file, deletion.body().start * 8 + bit);
        let (verified, findings) = verified(&copy);
        assert_eq!(verified.deletions, 1);
        let kinds: Vec<_> = findings.iter().map(Finding::kind).collect();
        assert_eq!(kinds, ["damaged"]);
        assert_eq!(findings[0].at(), Some(at(&deletion)));

        // The erasure is done from what the index knows.
        let record = before.record_of(&texts[100]);
        let body = before.body(&record);
        copy.edit(&record.file, |content| {
            content[record.body()].copy_from_slice(&body);
        });
        copy.take("index", &before);
        copy.take("checkpoint", &before);
        let (store, lines) = copy.open_and_listen();
        assert!(heard(&lines, "the log is damaged"), "{lines:?}");
        assert_text(&store, &texts[100], &Ok(None));
        close(store);
        assert!(copy.body(&record).iter().all(|&byte| byte == 0));
    }
}
