//! Deletions in the store: what was deleted is gone, from look-ups at once and from the disk soon, and
//! stays gone through kills, replays and redraws; what was put again stays.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::store::{
    Compacted, Durability, EmbeddedStore, Finding, Method, Options, Store, StoreError, back_up,
    compact, keep_scrubbing, verify,
};

use crate::process::PATIENCE;
use crate::store_support::{
    DAMAGED, Data, Dice, Record, assert_heard_nothing_of_damage, assert_holds, assert_holds_only,
    assert_text, close, delete, get, heard, listen, options, put, put_all, text_of, texts, wait,
};

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Nothing is wrong with the store, says who reads all of it.
fn assert_no_findings(data: &Data) {
    assert_eq!(data.findings(), []);
}

/// Opens the store in several ways, each of which finds `texts` and nothing wrong.
fn assert_sound_however_opened(data: &Data, texts: &[String]) {
    assert_no_findings(data);
    data.assert_sound(texts);
    data.remove("index");
    data.assert_sound(texts);
    data.leave_only_the_log();
    data.assert_sound(texts);
    assert_no_findings(data);
}

#[test]
fn a_deleted_message_is_not_found_at_once_and_after_every_start() {
    let mut texts = texts(0..100);
    let data = Data::with(&texts);
    let store = data.open();
    let gone: Vec<_> = texts.extract_if(.., |text| text.contains('3')).collect();
    for text in &gone {
        assert_eq!(delete(&store, text), Ok(true));
        assert_text(&store, text, &Ok(None));
        assert_eq!(store.holds(&Digest::of(text.as_bytes())), Ok(false));
        assert_eq!(delete(&store, text), Ok(false));
    }
    assert_holds_only(&store, &texts);
    let killed = data.copy();
    close(store);
    for data in [killed, data] {
        assert_sound_however_opened(&data, &texts);
        let store = data.open();
        for text in &gone {
            assert_text(&store, text, &Ok(None));
        }
        close(store);
    }
}

#[test]
fn the_answer_says_what_the_deletion_survives() {
    for durability in [Durability::Disk, Durability::Os] {
        let data = Data::new();
        let store = data.open_with(Options {
            durability,
            ..options()
        });
        put(&store, "foo").unwrap();
        let deleted = wait(store.delete(&Digest::of(b"foo"))).unwrap().unwrap();
        assert_eq!(deleted.durability(), durability);
        close(store);
    }
}

#[test]
fn what_is_put_again_stays_and_is_deleted_again() {
    let data = Data::new();
    let store = data.open();
    for _ in 0..3 {
        put(&store, "foo").unwrap();
        assert_eq!(delete(&store, "foo"), Ok(true));
    }
    assert_text(&store, "foo", &Ok(None));
    let receipt = put(&store, "foo").unwrap();
    assert!(!receipt.is_known());
    let killed = data.copy();
    close(store);
    for data in [killed, data] {
        assert_sound_however_opened(&data, &["foo".into()]);
        let store = data.open();
        assert_eq!(delete(&store, "foo"), Ok(true));
        close(store);
        assert_sound_however_opened(&data, &[]);
    }
}

/// In one group, or in a few: nobody waits for the one before.
#[test]
fn puts_and_deletions_at_once_keep_their_order() {
    let data = Data::new();
    let store = data.open();
    let message = |text| Message::new(text);
    let (foo, bar) = (Digest::of(b"foo"), Digest::of(b"bar"));
    let first = store.put(message("first in the queue"));
    let puts = [store.put(message("foo")), store.put(message("bar"))];
    let deletions = [store.delete(&foo), store.delete(&foo), store.delete(&bar)];
    let again = store.put(message("foo"));
    for put in puts.into_iter().chain([first, again]) {
        wait(put).unwrap();
    }
    let deleted = deletions.map(|deletion| wait(deletion).unwrap().is_some());
    assert_eq!(deleted, [true, false, true]);
    assert_text(&store, "bar", &Ok(None));
    assert_holds_only(&store, &["first in the queue".into(), "foo".into()]);
    let killed = data.copy();
    close(store);
    for data in [killed, data] {
        assert_sound_however_opened(&data, &["first in the queue".into(), "foo".into()]);
        // Of the first of the two.
        let bodies: Vec<_> = data
            .records_of("foo")
            .iter()
            .map(|record| data.body(record))
            .collect();
        assert!(
            is_zero(&bodies[0]) && bodies.last().unwrap() == b"foo",
            "{bodies:?}"
        );
    }
}

#[test]
fn where_no_more_messages_are_taken_they_can_still_be_deleted() {
    let texts = texts(0..50);
    let data = Data::with(&texts);
    let store = data.open_with(Options {
        free_bytes_min: Some(u64::MAX),
        ..options()
    });
    assert_eq!(put(&store, "foo").unwrap_err(), StoreError::Full);
    for text in &texts {
        assert_eq!(delete(&store, text), Ok(true));
    }
    close(store);
    assert_sound_however_opened(&data, &[]);
}

#[test]
fn a_closed_store_deletes_nothing() {
    let texts = texts(0..5);
    let data = Data::with(&texts);
    let store = data.open();
    store.close().unwrap();
    assert_eq!(delete(&store, &texts[0]), Err(StoreError::Closed));
    assert_holds_only(&store, &texts);
}

// What is on the disk.

#[test]
fn the_body_becomes_zeros_soon_and_its_header_and_the_rest_stay() {
    for durability in [Durability::Disk, Durability::Os] {
        let data = Data::new();
        let options = || Options {
            durability,
            ..options()
        };
        let store = data.open_with(options());
        let mut texts = texts(0..100);
        texts.push(text_of(100, 40_000));
        put_all(&store, &texts);
        let before = data.records();
        for text in ["message 000007", "100 x"] {
            let at = texts
                .iter()
                .position(|other| other.starts_with(text))
                .unwrap();
            let text = texts.remove(at);
            delete(&store, &text).unwrap();
            let record = data.record_of(&text);
            wait_until("the body is still there", || is_zero(&data.body(&record)));
        }
        let after = data.records();
        let places = |records: &[Record]| -> Vec<_> {
            let places = records
                .iter()
                .map(|record| (record.position(), record.length));
            places.collect()
        };
        assert_eq!(places(&after[..before.len()]), places(&before));
        let deletions = after[before.len()..].iter();
        assert!(
            deletions
                .map(|record| record.kind)
                .eq([Record::DELETION; 2])
        );
        assert_holds_only(&store, &texts);
        close(store);
        assert_sound_however_opened(&data, &texts);
    }
}

#[test]
fn a_closed_store_has_erased_everything() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let store = data.open();
    for text in &texts {
        delete(&store, text).unwrap();
    }
    close(store);
    for text in &texts {
        assert!(is_zero(&data.body(&data.record_of(text))), "{text}");
    }
}

#[test]
fn a_start_erases_what_a_kill_left() {
    let texts = texts(0..200);
    let data = Data::with(&texts);
    let untouched = data.copy();
    let store = data.open();
    delete(&store, &texts[50]).unwrap();
    close(store);
    // As if neither the erasure nor the checkpoint had come to the disk, but the index had: all that
    // stands of the deletion is its record.
    let record = data.record_of(&texts[50]);
    for name in ["as it is", "index", "checkpoint"] {
        data.take("checkpoint", &untouched);
        let body = untouched.body(&record);
        data.edit(&record.file, |bytes| {
            bytes[record.body()].copy_from_slice(&body);
        });
        data.remove(name);
        let (store, lines) = data.open_and_listen();
        assert_heard_nothing_of_damage(&lines);
        assert_eq!(heard(&lines, "redrawn"), name != "as it is", "{lines:?}");
        assert!(is_zero(&data.body(&record)), "{name}");
        assert_text(&store, &texts[50], &Ok(None));
        assert_eq!(store.messages(), 199);
        close(store);
    }
}

/// Wherever the kill falls: before the erasure, between it and the checkpoint, or later.
#[test]
fn a_start_after_a_kill_leaves_no_deleted_body() {
    let data = Data::new();
    let store = data.open();
    for round in 0..15 {
        // So large that a segment is begun, which has the keeper erase and write a checkpoint now.
        for number in 0..3 {
            let text = text_of(round * 3 + number, 20_000);
            put(&store, &text).unwrap();
            assert_eq!(delete(&store, &text), Ok(true));
        }
        let killed = data.copy();
        let (served, lines) = killed.open_and_listen();
        assert_heard_nothing_of_damage(&lines);
        assert_eq!(served.messages(), 0);
        close(served);
        let records = killed.records();
        let messages = records
            .iter()
            .filter(|record| record.kind == Record::MESSAGE);
        for message in messages {
            assert!(is_zero(&killed.body(message)), "{message:?}");
        }
    }
    close(store);
}

#[test]
fn replaying_a_deletion_again_and_again_spares_what_was_put_since() {
    let data = Data::new();
    let store = data.open();
    put(&store, "foo").unwrap();
    close(store);
    let before = data.copy();
    let store = data.open();
    delete(&store, "foo").unwrap();
    put(&store, "foo").unwrap();
    close(store);
    for _ in 0..3 {
        // The index is as far as it can be, or as old as it may be.
        data.take("checkpoint", &before);
        data.assert_sound(&["foo".into()]);
        data.take("checkpoint", &before);
        data.take("index", &before);
        data.assert_sound(&["foo".into()]);
        // Killed between the checkpoints of its parts; its first has the message.
        for part in ["index/0", "index/1"] {
            data.take("checkpoint", &before);
            data.take(part, &before);
            data.assert_sound(&["foo".into()]);
        }
    }
    assert_sound_however_opened(&data, &["foo".into()]);
}

#[test]
fn an_index_that_lost_messages_is_redrawn_though_it_is_ahead_of_deletions() {
    let texts = texts(0..20);
    let data = Data::with(&texts);
    let before = data.copy();
    let store = data.open();
    delete(&store, &texts[0]).unwrap();
    close(store);
    data.change_index(|index| {
        let digest = Digest::of(texts[1].as_bytes());
        let place = index.get(&digest).unwrap().unwrap();
        assert!(index.remove(&digest, place).unwrap());
    });
    data.take("checkpoint", &before);
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, "behind the checkpoint"), "{lines:?}");
    assert_holds_only(&store, &texts[1..]);
    close(store);
}

// Damage.

#[test]
fn a_damaged_deletion_is_named_and_hides_no_more_than_it_has_to() {
    let mut texts = texts(0..40);
    let data = Data::with(&texts);
    let store = data.open();
    let gone = texts.remove(7);
    delete(&store, &gone).unwrap();
    put(&store, "behind it").unwrap();
    texts.push("behind it".into());
    close(store);
    let deletion = data.records_of(&gone).pop().unwrap();
    data.flip(&deletion.file, deletion.offset * 8 + 130);
    data.leave_only_the_log();
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, DAMAGED), "{lines:?}");
    // Its body is not there any more, and nothing says why.
    assert_text(&store, &gone, &Err(StoreError::Damaged));
    assert_holds(&store, &texts);
    assert_eq!(delete(&store, &gone), Ok(true));
    assert_text(&store, &gone, &Ok(None));
    assert_holds_only(&store, &texts);
    close(store);
}

#[test]
fn a_damaged_message_can_be_deleted_and_is_no_finding_then() {
    let mut texts = texts(0..40);
    let data = Data::with(&texts);
    let gone = texts.remove(7);
    let record = data.record_of(&gone);
    data.flip(&record.file, record.body().start * 8);
    let store = data.open();
    assert_text(&store, &gone, &Err(StoreError::Damaged));
    assert_eq!(delete(&store, &gone), Ok(true));
    assert_text(&store, &gone, &Ok(None));
    close(store);
    assert_sound_however_opened(&data, &texts);
    assert!(is_zero(&data.body(&record)));
}

#[test]
fn damage_behind_a_deletion_is_not_explained_by_it() {
    let texts = texts(0..40);
    let data = Data::with(&texts);
    let store = data.open();
    delete(&store, &texts[7]).unwrap();
    put(&store, &texts[7]).unwrap();
    put(&store, "behind it").unwrap();
    close(store);
    let record = data.records_of(&texts[7]).pop().unwrap();
    data.flip(&record.file, record.body().start * 8);
    data.leave_only_the_log();
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, DAMAGED), "{lines:?}");
    assert_text(&store, &texts[7], &Err(StoreError::Damaged));
    close(store);
}

#[test]
fn an_index_that_has_a_deleted_message_is_a_finding() {
    let texts = texts(0..40);
    let data = Data::with(&texts);
    let before = data.copy();
    let store = data.open();
    delete(&store, &texts[7]).unwrap();
    close(store);
    let after = data.copy();
    data.take("index", &before);
    data.change_index(|index| {
        let position = digestd::store::Position {
            segment: 2,
            offset: 0,
        };
        let messages = 39;
        index
            .checkpoint(digestd::store::index::Checkpoint { position, messages })
            .unwrap();
    });
    data.take("checkpoint", &after);
    let directory = data.claim_again().unwrap();
    let mut findings = Vec::new();
    verify(&directory, 1 << 20, &|_, _| (), |finding| {
        findings.push(finding.clone());
    })
    .unwrap();
    let digest = Digest::of(texts[7].as_bytes());
    assert!(
        matches!(findings[..], [Finding::NotDeleted { digest: named, .. }] if named == digest),
        "{findings:?}"
    );
}

// Copies.

#[test]
fn a_compacted_log_has_neither_the_message_nor_its_deletion() {
    let mut texts = texts(0..300);
    let data = Data::with(&texts);
    let store = data.open();
    let gone: Vec<_> = texts.drain(100..200).collect();
    for text in &gone {
        delete(&store, text).unwrap();
    }
    put(&store, &gone[0]).unwrap();
    texts.push(gone[0].clone());
    close(store);
    let directory = data.claim_again().unwrap();
    let done = compact(&directory, 1 << 20, &|_, _| (), |finding| {
        panic!("{finding}")
    })
    .unwrap();
    drop(directory);
    let Compacted {
        messages,
        damaged: _,
        bytes_before,
        bytes_after,
    } = done;
    assert_eq!(messages, 201);
    assert!(bytes_after < bytes_before, "{done:?}");
    let records = data.records();
    assert!(records.iter().all(|record| record.kind != Record::DELETION));
    for text in &gone[1..] {
        assert!(!records.iter().any(|record| record.is_of(text)));
    }
    assert_sound_however_opened(&data, &texts);
}

fn backed_up(source: &Data, copy: &Data, method: Method) {
    // Another test may be starting a process, which holds the copy's lock for a moment.
    wait_until("the copy is in use", || {
        back_up(source.path(), copy.path(), method, &|_, _| ()).is_ok()
    });
}

#[test]
fn a_backup_from_before_a_deletion_is_sound_and_brought_up_to_date_has_the_deletion() {
    for method in [Method::Copy, Method::HardLink] {
        let all = texts(0..1000);
        let data = Data::with(&all);
        let copy = Data::new();
        backed_up(&data, &copy, method);
        let store = data.open();
        delete(&store, &all[10]).unwrap();
        close(store);
        let served = copy.copy();
        served.assert_sound(&all);
        assert_no_findings(&copy);

        backed_up(&data, &copy, method);
        assert_no_findings(&copy);
        let mut rest = all.clone();
        let gone = rest.remove(10);
        let linked = fs::metadata(copy.path().join("log/00000001.log")).unwrap();
        let is_linked = std::os::unix::fs::MetadataExt::nlink(&linked) > 1;
        assert_eq!(is_linked, method == Method::HardLink);
        // What is shared is erased in neither.
        let erased = is_zero(&data.body(&data.record_of(&gone)));
        assert_eq!(erased, !is_linked);
        copy.assert_sound(&rest);
        let erased = is_zero(&copy.body(&copy.record_of(&gone)));
        assert_eq!(erased, !is_linked);
        data.assert_sound(&rest);
    }
}

#[test]
fn a_copy_taken_while_messages_are_deleted_has_no_findings() {
    let data = Data::new();
    let store = data.open();
    // Three a segment, so that checkpoints follow each other closely.
    let text = |number: usize| text_of(number, 20_000);
    put_all(&store, &(0..30).map(text).collect::<Vec<_>>());
    let over = AtomicBool::new(false);
    let deleted = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                put(&store, &text(number + 30)).unwrap();
                assert_eq!(delete(&store, &text(number)), Ok(true));
                deleted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        // On a slow disk, deletions take longer than backups.
        let mut backups = 0;
        while backups < 10 || deleted.load(Ordering::Relaxed) <= 10 {
            backups += 1;
            let copy = Data::new();
            let before = deleted.load(Ordering::Relaxed);
            backed_up(&data, &copy, Method::Copy);
            // One may be under way on either side.
            let meanwhile = deleted.load(Ordering::Relaxed) - before + 1;
            assert_no_findings(&copy);
            let (served, lines) = copy.open_and_listen();
            assert_heard_nothing_of_damage(&lines);
            assert!(served.messages() + meanwhile as u64 >= 30);
            close(served);
        }
        over.store(true, Ordering::Relaxed);
    });
    close(store);
}

#[test]
fn a_scrub_while_messages_are_deleted_finds_nothing() {
    let texts = texts(0..1000);
    let data = Data::with(&texts);
    let store = data.open();
    thread::scope(|scope| {
        let deleter = scope.spawn(|| {
            for text in &texts {
                assert_eq!(delete(&store, text), Ok(true));
            }
        });
        while !deleter.is_finished() {
            let (stop, stopped) = mpsc::channel();
            stop.send(()).unwrap();
            let ((), lines) = listen(|| keep_scrubbing(&store, Duration::from_hours(1), &stopped));
            assert!(heard(&lines, "findings=0"), "{lines:?}");
        }
    });
    assert_eq!(store.messages(), 0);
    close(store);
}

#[test]
fn a_page_leaves_out_what_was_deleted() {
    let texts = texts(0..50);
    let data = Data::with(&texts);
    let store = data.open();
    delete(&store, &texts[0]).unwrap();
    let page = store.page(None, 100).unwrap();
    assert_eq!(page.len(), 49);
    assert!(page.iter().all(|(_, message)| message.is_ok()));
    close(store);
}

// Races.

/// What a thread did to a message, and when it began and ended, in steps of a clock that all share.
#[derive(Clone, Copy, Debug)]
struct Act {
    began: usize,
    ended: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// And whether it was known.
    Put(bool),
    /// And whether it was there.
    Delete(bool),
    Get(bool),
}

impl Kind {
    /// What comes of a message that is there or not, if this may be the answer.
    fn apply(self, is_there: bool) -> Option<bool> {
        match self {
            // A put that is told apart from one that waits writes it once more.
            Self::Put(false) => Some(true),
            Self::Put(true) => is_there.then_some(true),
            Self::Delete(found) => (found == is_there).then_some(false),
            Self::Get(found) => (found == is_there).then_some(is_there),
        }
    }
}

/// Whether there is an order in which one after the other could have given these answers, and in which
/// nothing comes before what had ended when it began (Wing and Gong).
fn is_linearizable(acts: &[Act]) -> bool {
    assert!(acts.len() <= 64);
    let all = u64::MAX >> (64 - acts.len());
    let mut states = vec![(0_u64, false)];
    let mut seen = std::collections::HashSet::from([(0, false)]);
    while let Some((done, is_there)) = states.pop() {
        if done == all {
            return true;
        }
        let open = || (0..acts.len()).filter(|number| done & 1 << number == 0);
        let first_end = open().map(|number| acts[number].ended).min().unwrap();
        for number in open().filter(|&number| acts[number].began < first_end) {
            if let Some(is_there) = acts[number].kind.apply(is_there) {
                let state = (done | 1 << number, is_there);
                if seen.insert(state) {
                    states.push(state);
                }
            }
        }
    }
    false
}

#[test]
fn the_checker_tells_orders_that_can_be_from_those_that_cannot() {
    let act = |began, ended, kind| Act { began, ended, kind };
    let put = act(0, 1, Kind::Put(false));
    let gone = act(2, 3, Kind::Delete(true));
    assert!(is_linearizable(&[put, gone, act(4, 5, Kind::Get(false))]));
    assert!(!is_linearizable(&[put, gone, act(4, 5, Kind::Get(true))]));
    assert!(is_linearizable(&[
        put,
        act(2, 6, Kind::Delete(true)),
        act(4, 5, Kind::Get(true))
    ]));
    assert!(!is_linearizable(&[put, gone, act(4, 5, Kind::Put(true))]));
    assert!(!is_linearizable(&[
        put,
        gone,
        act(4, 5, Kind::Delete(true))
    ]));
}

const THREADS: usize = 4;
const ACTS: usize = 14;
const TEXTS: usize = 3;

/// What the threads did to each text.
fn race(
    store: &EmbeddedStore,
    texts: &[String],
    seed: usize,
    clock: &AtomicUsize,
) -> Vec<Vec<Act>> {
    let tick = || clock.fetch_add(1, Ordering::SeqCst);
    let act = |dice: &mut Dice| {
        let number = dice.below(texts.len());
        let text = &texts[number];
        let began = tick();
        let kind = match dice.below(5) {
            0 => Kind::Put(put(store, text).unwrap().is_known()),
            1 => Kind::Delete(delete(store, text).unwrap()),
            _ => Kind::Get(
                get(store, text)
                    .unwrap()
                    .inspect(|found| assert!(found == text))
                    .is_some(),
            ),
        };
        let ended = tick();
        (number, Act { began, ended, kind })
    };
    let acts: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let mut dice = Dice((seed * THREADS + number) as u64);
                scope.spawn(move || (0..ACTS).map(|_| act(&mut dice)).collect::<Vec<_>>())
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let of = |number| acts.iter().filter(move |(other, _)| *other == number);
    (0..texts.len())
        .map(|number| of(number).map(|(_, act)| *act).collect())
        .collect()
}

#[test]
fn puts_deletions_and_look_ups_that_race_could_have_come_one_after_the_other() {
    for (durability, rounds, bytes) in [
        (Durability::Disk, 40, 100),
        (Durability::Os, 150, 100),
        // So large that checkpoints, and with them erasures, follow each other closely.
        (Durability::Os, 60, 30_000),
    ] {
        let data = Data::in_memory();
        let store = data.open_with(Options {
            durability,
            message_cache_bytes: 1 << 20,
            ..options()
        });
        let clock = AtomicUsize::new(0);
        let mut left = Vec::new();
        for round in 0..rounds {
            let texts: Vec<_> = (0..TEXTS)
                .map(|number| text_of(round * TEXTS + number, bytes))
                .collect();
            let mut histories = race(&store, &texts, round, &clock);
            for (text, acts) in texts.into_iter().zip(&mut histories) {
                let began = clock.fetch_add(2, Ordering::SeqCst);
                let is_there = get(&store, &text).unwrap().is_some();
                acts.push(Act {
                    began,
                    ended: began + 1,
                    kind: Kind::Get(is_there),
                });
                acts.sort_by_key(|act| act.began);
                assert!(is_linearizable(acts), "{acts:#?}");
                left.extend(is_there.then_some(text));
            }
        }
        assert_eq!(store.stats().integrity_failures, 0);
        assert_holds_only(&store, &left);
        let killed = data.copy();
        close(store);
        killed.assert_sound(&left);
        assert_sound_however_opened(&data, &left);
    }
}

// Every record of a text.

/// Puts the same texts by many at once; each ends up with one record that is not erased.
#[test]
fn a_text_that_many_put_at_once_is_erased_with_its_deletion() {
    const CLIENTS: usize = 32;
    let texts = texts(0..300);
    for durability in [Durability::Disk, Durability::Os] {
        let data = Data::in_memory();
        let store = data.open_with(Options {
            durability,
            ..options()
        });
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (store, texts) = (&store, &texts);
                scope.spawn(move || {
                    // Not all in the same order.
                    for text in texts.iter().cycle().skip(client * 7).take(texts.len()) {
                        let receipt = put(store, text).unwrap();
                        assert_eq!(receipt.digest(), Digest::of(text.as_bytes()));
                    }
                });
            }
        });
        assert_holds_only(&store, &texts);
        for text in &texts {
            assert_eq!(delete(&store, text), Ok(true));
            assert_eq!(get(&store, text), Ok(None));
        }
        close(store);
        for text in &texts {
            assert!(!data.has_in_log(text), "{durability:?}: {text}");
        }
        assert_sound_however_opened(&data, &[]);
    }
}

#[test]
fn a_text_that_is_known_by_the_time_it_would_be_written_is_not_written_again() {
    let texts = texts(0..200);
    let data = Data::new();
    let store = data.open();
    thread::scope(|scope| {
        // As many as may wait.
        for _ in 0..5 {
            scope.spawn(|| put_all(&store, &texts));
        }
    });
    close(store);
    assert_eq!(data.records().len(), texts.len());
}

#[test]
fn a_damaged_record_is_erased_once_its_text_was_posted_again() {
    let texts = texts(0..100);
    let data = Data::with(&texts);
    for (text, in_header) in [(&texts[10], false), (&texts[20], true)] {
        let record = data.record_of(text);
        let at = if in_header {
            record.offset
        } else {
            record.body().start
        };
        let store = data.open();
        data.flip(&record.file, at * 8);
        put(&store, text).unwrap();
        close(store);
        assert!(is_zero(&data.body(&record)), "in the header: {in_header}");
        let store = data.open();
        assert_holds_only(&store, &texts);
        // A kill right after it costs no redraw either.
        let (killed, lines) = data.copy().open_and_listen();
        assert!(!heard(&lines, "redrawn"), "{lines:?}");
        drop(killed);
        close(store);
    }
    assert_no_findings_but(&data, 1);
    for text in &texts {
        let store = data.open();
        assert_eq!(delete(&store, text), Ok(true));
        close(store);
    }
    for text in &texts {
        assert!(!data.has_in_log(text), "{text}");
    }
}

/// What a header held that is damaged is not known.
fn assert_no_findings_but(data: &Data, unknown: usize) {
    let findings = data.findings();
    assert_eq!(findings.len(), unknown, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.digest().is_none()));
}

/// The records that version 0.1.0 wrote twice are found when the index is drawn again.
#[test]
fn the_second_record_of_a_text_is_erased_when_the_index_is_drawn() {
    let data = Data::of_0_1_0("data");
    data.remove("index");
    close(data.open());
    let doubles = |data: &Data| {
        let records = data.records().into_iter();
        let whole =
            records.filter(|record| record.kind == Record::MESSAGE && !is_zero(&data.body(record)));
        let mut digests: Vec<_> = whole.map(|record| record.digest).collect();
        let all = digests.len();
        digests.sort_unstable();
        digests.dedup();
        all - digests.len()
    };
    assert!(doubles(&Data::of_0_1_0("data")) > 10);
    assert_eq!(doubles(&data), 0);
    assert_no_findings(&data);
}
