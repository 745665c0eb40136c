//! `digestd compact`: what can be left out is, nothing else is, and a crash at any point costs nothing.

use std::collections::HashSet;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use digestd::store::{CompactError, Compacted, Store, StoreError, compact};
use rustix::process::Signal;

use crate::process::{Process, digestd, run};
use crate::store_support::{
    Data, Dice, Record, assert_holds, assert_text, close, put, put_all, texts,
};

const CACHE_BYTES: u64 = 1 << 20;

fn compacted(data: &Data) -> Result<Compacted, CompactError> {
    let directory = data.claim_again().unwrap();
    compact(&directory, CACHE_BYTES, &|_, _| (), |_| ())
}

/// Every tenth message was damaged and posted again.
fn healed(texts: &[String]) -> Data {
    let data = Data::with(texts);
    let store = data.open();
    let some: Vec<_> = texts.iter().step_by(10).cloned().collect();
    for text in &some {
        let record = data.record_of(text);
        data.flip(&record.file, record.body().start * 8);
    }
    put_all(&store, &some);
    close(store);
    data
}

/// The good records of messages, each message once.
fn assert_compact(data: &Data, texts: &[String]) {
    data.assert_sound(texts);
    assert_eq!(data.findings(), []);
    let records = data.records();
    let messages = records.iter().filter(|record| record.kind == 1);
    let digests: Vec<_> = messages.map(|record| record.digest).collect();
    assert_eq!(digests.len(), texts.len());
    assert_eq!(
        digests.into_iter().collect::<HashSet<_>>().len(),
        texts.len()
    );
}

#[test]
fn records_that_were_mended_are_left_out() {
    let texts = texts(0..1000);
    let data = healed(&texts);
    let done = compacted(&data).unwrap();
    assert_eq!(done.messages, 1000);
    assert!(done.bytes_after < done.bytes_before, "{done:?}");
    assert_compact(&data, &texts);
    assert!(!data.has("log.new"));
    let again = compacted(&data).unwrap();
    assert_eq!(again.bytes_before, done.bytes_after);
    assert_eq!(again.bytes_after, done.bytes_after);
    // It is a store like any other.
    let store = data.open();
    put(&store, "and goes on").unwrap();
    assert_holds(&store, &texts);
    close(store);
}

#[test]
fn a_store_with_nothing_to_leave_out_is_left_as_it_is() {
    let texts = texts(0..1000);
    let data = Data::with(&texts);
    let before = data.log();
    let done = compacted(&data).unwrap();
    assert_eq!(done.bytes_before, done.bytes_after);
    assert!(data.log() == before);
    assert_compact(&data, &texts);
}

/// One whose text is damaged, one whose header is: both are known to the index.
#[test]
fn what_is_damaged_is_taken_along_and_still_answers_with_an_error() {
    let texts = texts(0..1000);
    let data = healed(&texts);
    let [body, header, gone] = [5, 6, 7].map(|number| data.record_of(&texts[number]));
    data.flip(&body.file, body.body().start * 8);
    data.flip(&header.file, header.offset * 8);
    // Of a third nothing is left.
    data.edit(&gone.file, |content| {
        content[gone.offset..gone.end()].fill(0);
    });

    let mut command = digestd();
    command.arg("compact").arg("--data-dir").arg(data.path());
    let outcome = run(&mut command, b"");
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    for record in [&body, &header, &gone] {
        assert!(outcome.stderr.contains(&record.digest.to_string()));
    }
    assert!(outcome.stderr.contains("post it again"), "{outcome:?}");

    for lost in ["index.none", "index", "checkpoint"] {
        println!("without {lost}");
        let copy = data.copy();
        copy.remove(lost);
        let store = copy.open();
        // The text behind the damaged header was whole.
        for (text, whole) in [(&texts[5], false), (&texts[6], true), (&texts[7], false)] {
            let expected = if whole {
                Ok(Some(text.clone()))
            } else {
                Err(StoreError::Damaged)
            };
            assert_text(&store, text, &expected);
        }
        assert_holds(&store, &texts[..5]);
        assert_holds(&store, &texts[8..]);
        assert_eq!(store.messages(), 1000);
        put_all(&store, &texts);
        close(store);
        compacted(&copy).unwrap();
        assert_compact(&copy, &texts);
    }
}

#[test]
fn files_that_are_no_part_of_the_log_are_not_removed_with_it() {
    let texts = texts(0..100);
    let data = healed(&texts);
    for name in ["log/notes.txt", "log/00002026.log", "log/notes.new"] {
        data.write(name, "not ours");
        let error = compacted(&data).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert_eq!(data.read(name), b"not ours");
        data.remove(name);
    }
    compacted(&data).unwrap();
    assert_compact(&data, &texts);
}

#[test]
fn damage_that_names_no_message_is_left_out_once_the_message_is_there_again() {
    let texts = texts(0..1000);
    let data = Data::with(&texts);
    let record = data.record_of(&texts[5]);
    data.flip(&record.file, record.offset * 8);
    let store = data.open();
    put(&store, &texts[5]).unwrap();
    close(store);
    assert_eq!(data.findings().len(), 1);
    compacted(&data).unwrap();
    assert_compact(&data, &texts);
}

#[test]
fn a_crash_between_any_two_steps_costs_nothing() {
    let texts = texts(0..1000);
    let before = healed(&texts);
    let after = before.copy();
    compacted(&after).unwrap();
    let state = |index_of: Option<&Data>, log: &Data, aside: Option<&Data>| {
        let data = Data::new();
        data.take("FORMAT", &before);
        data.take("log", log);
        if let Some(aside) = aside {
            data.take("log", aside);
            fs::rename(data.path().join("log"), data.path().join("log.new")).unwrap();
            data.take("log", log);
        }
        if let Some(whole) = index_of {
            data.take("index", whole);
            data.take("checkpoint", whole);
        }
        data
    };
    let half = after.copy();
    half.remove("log/00000003.log");
    let states = [
        (
            "while the log is written",
            state(Some(&before), &before, Some(&half)),
        ),
        (
            "when it is written",
            state(Some(&before), &before, Some(&after)),
        ),
        ("without a checkpoint", {
            let data = state(Some(&before), &before, Some(&after));
            data.remove("checkpoint");
            data
        }),
        ("without an index", state(None, &before, Some(&after))),
        ("after the exchange", state(None, &after, Some(&before))),
        (
            "after the redraw",
            state(Some(&after), &after, Some(&before)),
        ),
    ];
    for (when, data) in states {
        // Whether the next thing is a start or another try.
        let started = data.copy();
        let store = started.open();
        assert_holds(&store, &texts);
        assert_eq!(store.messages(), 1000, "{when}");
        close(store);
        compacted(&data).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_compact(&data, &texts);
        assert!(!data.has("log.new"), "{when}");
    }
}

#[test]
fn a_compaction_killed_at_any_moment_costs_nothing() {
    let texts = texts(0..1000);
    let data = healed(&texts);
    let mut dice = Dice(7);
    for _ in 0..10 {
        let copy = data.copy();
        let child = digestd()
            .args(["compact", "--data-dir"])
            .arg(copy.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Process(child);
        thread::sleep(Duration::from_millis(dice.below(150) as u64));
        // It may be over already.
        child.signal(Signal::KILL);
        child.wait();
        let store = copy.open();
        assert_holds(&store, &texts);
        assert_eq!(store.messages(), 1000);
        close(store);
        compacted(&copy).unwrap();
        assert_compact(&copy, &texts);
    }
}

/// The index points at the first of two records, which is damaged; the second is whole.
#[test]
fn a_good_second_record_of_a_damaged_text_is_the_one_that_is_kept() {
    let data = Data::of_0_1_0("data");
    let records = data.records();
    let is_double = |record: &&Record| {
        let same = records.iter().filter(|it| it.digest == record.digest);
        same.filter(|it| it.kind == Record::MESSAGE).count() > 1
            && !records
                .iter()
                .any(|it| it.digest == record.digest && it.kind == Record::DELETION)
    };
    let first = records.iter().find(is_double).unwrap();
    data.flip(&first.file, first.body().start * 8);
    let done = compacted(&data).unwrap();
    assert_eq!((done.messages, done.damaged), (389, 0));
    assert_eq!(data.findings(), []);
    let store = data.open();
    assert!(store.get(&first.digest).unwrap().is_some());
}
