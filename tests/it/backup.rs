//! `digestd backup`: a copy is a store that has everything acknowledged before it was begun, whatever
//! goes on meanwhile.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use digestd::store::{
    BackedUp, DataDirectory, EmbeddedStore, Finding, Method, OpenError, back_up, compact, verify,
};
use rustix::process::Signal;

use crate::disk::BadDisk;
use crate::full::as_root;
use crate::process::{Launch, Outcome, Process, digestd, run, wait_until};
use crate::store_support::{
    Data, assert_holds, close, delete, heard, options, put, put_all, text_of, texts,
};

fn backed_up(source: &Data, copy: &Data, method: Method) -> BackedUp {
    try_back_up(source, copy, method).unwrap_or_else(|error| panic!("{error}"))
}

fn try_back_up(source: &Data, copy: &Data, method: Method) -> Result<BackedUp, OpenError> {
    // Another test may be starting a process, which holds the copy's lock for a moment.
    loop {
        match back_up(source.path(), copy.path(), method, &|_, _| ()) {
            Err(OpenError::Held { .. }) => thread::yield_now(),
            result => return result,
        }
    }
}

/// The copy has no findings; returns the number of its records.
fn verified(copy: &Data) -> u64 {
    let directory = copy.claim_again().unwrap();
    let verified = verify(&directory, 1 << 20, &|_, _| (), |finding| {
        panic!("{finding}")
    })
    .unwrap();
    assert_eq!(verified.torn_bytes, 0);
    verified.records
}

#[test]
fn a_copy_is_sound_and_can_be_served() {
    let texts = texts(0..1000);
    for method in [Method::Copy, Method::HardLink] {
        let (data, copy) = (Data::with(&texts), Data::new());
        let done = backed_up(&data, &copy, method);
        assert!(done.taken > 2 && done.kept == 0, "{done:?}");
        assert_eq!(verified(&copy), 1000);
        let before = data.log();

        let store = copy.open();
        assert_holds(&store, &texts);
        put_all(&store, &["only in the copy".into()]);
        close(store);
        assert!(data.log() == before, "{method:?}");
        data.assert_sound(&texts);
    }
}

#[test]
fn a_copy_taken_while_messages_come_has_all_that_were_acknowledged_before() {
    let data = Data::new();
    let store = data.open();
    let (before, after) = (texts(0..2000), texts(2000..40_000));
    put_all(&store, &before);
    let over = AtomicBool::new(false);
    let copies = thread::scope(|scope| {
        scope.spawn(|| {
            for some in after.chunks(100).take_while(|_| !over.load(Relaxed)) {
                put_all(&store, some);
            }
        });
        let copies: Vec<_> = (0..10)
            .map(|_| {
                let copy = Data::new();
                backed_up(&data, &copy, Method::Copy);
                copy
            })
            .collect();
        over.store(true, Relaxed);
        copies
    });
    close(store);
    for copy in copies {
        // A group that was on its way may be in it in part; that is for the next start.
        let directory = copy.claim_again().unwrap();
        verify(&directory, 1 << 20, &|_, _| (), |finding| {
            panic!("{finding}")
        })
        .unwrap();
        drop(directory);
        let store = copy.open();
        assert_holds(&store, &before);
        close(store);
    }
}

#[test]
fn a_copy_is_brought_up_to_date_without_copying_what_is_there() {
    let texts = texts(0..3000);
    for method in [Method::Copy, Method::HardLink] {
        let (data, copy) = (Data::with(&texts[..1000]), Data::new());
        // What the last group reaches into is copied again: a small one.
        let put_last = |texts: &[String], last: &str| {
            let store = data.open();
            put_all(&store, texts);
            put_all(&store, &[last.into()]);
            close(store);
        };
        put_last(&[], "the first end");
        let first = backed_up(&data, &copy, method);
        let old = |copy: &Data| {
            let kept = copy.path().join("log/00000001.log");
            let metadata = fs::metadata(kept).unwrap();
            (metadata.ino(), metadata.mtime_nsec())
        };
        let before = old(&copy);
        for some in texts[1000..].chunks(1000) {
            put_last(some, &some[0].to_uppercase());
            let next = backed_up(&data, &copy, method);
            assert!(next.kept + 1 >= first.end.segment, "{first:?} {next:?}");
            assert!(next.end > first.end);
        }
        assert_eq!(old(&copy), before);
        assert_eq!(verified(&copy), 3003);
        let again = backed_up(&data, &copy, method);
        assert!(again.taken <= 2, "{again:?}");
        assert_eq!(verified(&copy), 3003);
    }
}

#[test]
fn linked_segments_take_no_room_and_the_last_one_is_never_linked() {
    let (data, copy) = (Data::with(&texts(0..1000)), Data::new());
    let store = data.open();
    put_all(&store, &["the last group".into()]);
    close(store);
    let done = backed_up(&data, &copy, Method::HardLink);
    let inode = |data: &Data, segment: u32| {
        let path = data.path().join(format!("log/{segment:08}.log"));
        fs::metadata(path).unwrap().ino()
    };
    for segment in 1..done.end.segment {
        assert_eq!(inode(&data, segment), inode(&copy, segment));
    }
    let last = done.end.segment;
    assert_ne!(inode(&data, last), inode(&copy, last));
}

#[test]
fn an_interrupted_backup_is_gone_on_with() {
    let (data, copy) = (Data::with(&texts(0..1000)), Data::new());
    backed_up(&data, &copy, Method::Copy);
    // As it is when the third segment is being copied.
    for name in copy.files("log").split_off(2) {
        if name != "log/ID" {
            copy.remove(&name);
        }
    }
    copy.remove("checkpoint");
    copy.write("log/00000003.new", "rubbish");
    backed_up(&data, &copy, Method::Copy);
    assert_eq!(verified(&copy), 1000);
    assert!(!copy.has("log/00000003.new"));
}

#[test]
fn what_is_not_a_copy_of_the_store_is_not_written_over() {
    let data = Data::with(&texts(0..1000));
    let foreign = |copy: &Data| {
        let before = copy.log();
        let refused = try_back_up(&data, copy, Method::Copy);
        assert!(
            matches!(refused, Err(OpenError::NotItsBackup { .. })),
            "{refused:?}"
        );
        assert!(copy.log() == before);
    };
    // Another store.
    let other = Data::with(&texts(5000..6000));
    other.remove("index");
    foreign(&other);
    // A copy that was served since.
    let served = Data::new();
    backed_up(&data, &served, Method::Copy);
    close(served.open());
    foreign(&served);
    // A copy of a later state.
    let later = data.copy();
    let store = later.open();
    put_all(&store, &texts(1000..1010));
    close(store);
    later.remove("index");
    foreign(&later);
    // Segments of another size.
    let larger = Data::new();
    larger.write("FORMAT", "digestd store 1\nsegment-size 131072\n");
    fs::create_dir(larger.path().join("log")).unwrap();
    foreign(&larger);
    // Nothing to copy.
    let nothing = back_up(Path::new("/nowhere"), data.path(), Method::Copy, &|_, _| ());
    assert!(matches!(nothing, Err(OpenError::Foreign { .. })));
}

#[test]
fn damage_is_copied_as_it_is_and_found_in_the_copy() {
    let texts = texts(0..1000);
    let (data, copy) = (Data::with(&texts), Data::new());
    let record = data.record_of(&texts[100]);
    data.flip(&record.file, record.body().start * 8);
    backed_up(&data, &copy, Method::Copy);
    let mut found = Vec::new();
    let directory = copy.claim_again().unwrap();
    verify(&directory, 1 << 20, &|_, _| (), |finding| {
        found.push(finding.digest());
    })
    .unwrap();
    assert_eq!(found, [Some(record.digest)]);
}

// The command.

fn backup(data_dir: &Path, destination: &Path) -> Outcome {
    let mut command = digestd();
    command.arg("backup").arg(destination);
    run(command.arg("--data-dir").arg(data_dir), b"")
}

#[test]
fn a_store_that_is_served_is_backed_up_and_restored_by_serving_the_copy() {
    let data = tempfile::tempdir().unwrap();
    let copy = data.path().join("copy");
    let source = data.path().join("source");
    let server = Launch::new(&source).start();
    let digest = server.client().publish("kept").unwrap();
    let outcome = backup(&source, &copy);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stderr.contains("1 segment taken, 0 kept"),
        "{outcome:?}"
    );
    server.kill();
    let restored = Launch::new(&copy).start();
    let log = restored.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert_eq!(restored.client().fetch(&digest), Some("kept".into()));
    let held = backup(&source, &copy);
    assert_eq!(held.code, Some(4), "{held:?}");
    restored.stop();
}

// What is not the copy of this log.

/// Tries a backup that has to fail with this in its sentence, and to leave the copy as it is.
fn assert_refused(source: &Data, copy: &Data, sentence: &str) {
    let before = copy.log();
    let outcome = backup(source.path(), copy.path());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains(sentence), "{outcome:?}");
    assert!(copy.log() == before);
}

fn compact_all(data: &Data) {
    let directory = data.claim_again().unwrap();
    compact(&directory, 1 << 20, &|_, _| (), |finding| {
        panic!("{finding}")
    })
    .unwrap();
}

#[test]
fn a_copy_from_before_a_compaction_is_not_brought_up_to_date() {
    let texts = texts(0..1000);
    for deleted in [5, 995] {
        let (data, copy) = (Data::with(&texts), Data::new());
        backed_up(&data, &copy, Method::Copy);
        let store = data.open();
        for text in &texts[deleted..deleted + 5] {
            assert!(delete(&store, text).unwrap());
        }
        close(store);
        compact_all(&data);
        let store = data.open();
        put_all(
            &store,
            &(0..2000)
                .map(|number| format!("later {number}"))
                .collect::<Vec<_>>(),
        );
        close(store);
        assert_refused(&data, &copy, "before it was compacted");
        assert_eq!(verified(&copy), 1000);
    }
}

#[test]
fn the_copy_of_another_store_is_left_alone() {
    // The first segments are the same, or there is nothing at all to compare.
    for (one, other) in [(0..900, 0..300), (0..300, 300..310), (0..300, 0..0)] {
        let texts = texts(other);
        let (data, others, copy) = (
            Data::with(&self::texts(one)),
            Data::with(&texts),
            Data::new(),
        );
        backed_up(&others, &copy, Method::Copy);
        assert_refused(&data, &copy, "of another store");
        copy.assert_sound(&texts);
    }
}

#[test]
fn a_copy_that_was_served_goes_its_own_way() {
    let texts = texts(0..300);
    let (data, copy) = (Data::with(&texts), Data::new());
    backed_up(&data, &copy, Method::Copy);
    let restored = Launch::new(copy.path())
        .option("--body-max", "60KiB")
        .start();
    let own = restored.client().publish("its own").unwrap();
    restored.stop();
    let store = data.open();
    put_all(&store, &self::texts(300..600));
    close(store);
    // Whatever an operator tidies up.
    for name in ["nothing", "index", "checkpoint"] {
        copy.remove(name);
        assert_refused(&data, &copy, "it was served since");
    }
    let restored = Launch::new(copy.path())
        .option("--body-max", "60KiB")
        .start();
    assert_eq!(restored.client().fetch(&own), Some("its own".into()));
    restored.stop();
}

/// A store that was restored from an early backup has the identity of the later ones.
#[test]
fn a_later_copy_is_not_brought_up_to_date_from_an_earlier_one_that_was_served() {
    let (data, early, late) = (Data::with(&texts(0..600)), Data::new(), Data::new());
    backed_up(&data, &early, Method::Copy);
    let store = data.open();
    put_all(&store, &texts(600..1200));
    put(&store, "the last group").unwrap();
    close(store);
    backed_up(&data, &late, Method::Copy);
    let store = early.open();
    put_all(&store, &texts(5000..5100));
    close(store);
    assert_refused(&early, &late, "it is longer");
    let store = early.open();
    put_all(&store, &texts(5100..8000));
    close(store);
    assert_refused(&early, &late, "it holds other messages");
    assert_eq!(verified(&late), 1201);
}

#[test]
fn a_copy_stays_one_when_it_is_read() {
    let texts = texts(0..1000);
    let (data, copy) = (Data::with(&texts[..500]), Data::new());
    backed_up(&data, &copy, Method::Copy);
    for verb in ["verify", "export"] {
        let mut command = digestd();
        let outcome = run(command.arg(verb).arg("--data-dir").arg(copy.path()), b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let store = data.open();
    put_all(&store, &texts[500..]);
    assert!(delete(&store, &texts[10]).unwrap());
    close(store);
    let outcome = backup(data.path(), copy.path());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let (store, lines) = copy.open_and_listen();
    assert!(!heard(&lines, "behind the checkpoint"), "{lines:?}");
    assert_holds(&store, &texts[11..]);
    assert_eq!(store.messages(), 999);
}

#[test]
fn logs_without_an_identity_are_refused_with_what_to_do() {
    let (data, old) = (Data::of_0_1_0("data"), Data::of_0_1_0("backup"));
    let outcome = backup(data.path(), Data::new().path());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("start this version of digestd on it once"),
        "{outcome:?}"
    );
    close(data.open());
    assert_refused(&data, &old, "make a new one");
    let copy = Data::new();
    backed_up(&data, &copy, Method::Copy);
    verified(&copy);
}

#[test]
fn a_damaged_identity_costs_a_new_backup_and_no_message() {
    let texts = texts(0..300);
    let (data, copy) = (Data::with(&texts), Data::new());
    backed_up(&data, &copy, Method::Copy);
    for content in ["", "rubbish", "0123456789abcdef0123456789abcdeF\n"] {
        data.write("log/ID", content);
        data.assert_sound(&texts);
        assert_eq!(data.read("log/ID").len(), 33);
        assert_refused(&data, &copy, "make a new one");
    }
}

#[test]
fn a_copy_whose_identity_cannot_be_read_is_not_taken_for_a_new_one() {
    let (data, other, copy) = (
        Data::with(&texts(0..1000)),
        Data::with(&texts(0..10)),
        Data::new(),
    );
    backed_up(&data, &copy, Method::Copy);
    for content in [Some("rubbish"), None] {
        match content {
            Some(content) => copy.write("log/ID", content),
            None => copy.remove("log/ID"),
        }
        assert_refused(&other, &copy, "identity cannot be read");
        assert_eq!(copy.findings(), [Finding::Identity]);
    }
}

#[test]
fn a_backup_into_the_store_itself_is_refused() {
    let data = Data::with(&texts(0..10));
    let before = data.log();
    for inside in ["", "copy", "log/copy", "index/a/b"] {
        let destination = data.path().join(inside);
        let outcome = backup(data.path(), &destination);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("into itself"), "{outcome:?}");
        assert!(inside.is_empty() || !destination.exists());
    }
    // Under other names: through a link, and past a directory that is not there yet.
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    symlink(data.path(), &link).unwrap();
    let name = data.path().file_name().unwrap();
    let past = data.path().join("../missing/..").join(name).join("copy");
    for destination in [&*link, &link.join("copy"), &link.join("log/copy"), &past] {
        let outcome = backup(data.path(), destination);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
    }
    assert!(!data.path().with_file_name("missing").exists());
    assert!(!data.has("copy") && !data.has("log/copy"));
    assert!(data.log() == before);
}

/// A directory that is not empty and no backup of this store.
#[test]
fn a_backup_into_a_directory_with_anything_else_is_refused() {
    let data = Data::with(&texts(0..10));
    let other = Data::with(&texts(5..15));
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("notes.txt"), "notes").unwrap();
    let above = tempfile::tempdir().unwrap();
    fs::create_dir(above.path().join("photos")).unwrap();
    for destination in [other.path(), files.path(), above.path()] {
        let outcome = backup(data.path(), destination);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(!destination.join("BACKUP").exists());
    }
    assert_eq!(fs::read(files.path().join("notes.txt")).unwrap(), b"notes");
    other.assert_sound(&texts(5..15));
}

#[test]
#[ignore = "needs root, who mounts a file system"]
fn a_backup_into_the_store_through_a_mount_is_refused() {
    let data = Data::with(&texts(0..10));
    let mounted = tempfile::tempdir().unwrap();
    as_root(
        "mount",
        &["--bind", data.path().to_str().unwrap()],
        mounted.path(),
    );
    let outcome = backup(data.path(), &mounted.path().join("copy"));
    as_root("umount", &["-l"], mounted.path());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("into itself") && !data.has("copy"),
        "{outcome:?}"
    );
}

#[test]
fn a_copy_with_a_segment_that_was_cut_is_brought_up_to_date() {
    let texts = texts(0..1000);
    let (data, copy) = (Data::with(&texts), Data::new());
    backed_up(&data, &copy, Method::Copy);
    for length in [0, 30_000] {
        copy.edit("log/00000001.log", |content| content.truncate(length));
        backed_up(&data, &copy, Method::Copy);
        assert_eq!(verified(&copy), 1000);
    }
}

/// Whatever else is there of it already: nothing, say.
#[test]
fn a_backup_that_was_killed_at_once_is_not_finished() {
    let (data, copy) = (Data::with(&texts(0..1000)), Data::new());
    backed_up(&data, &copy, Method::Copy);
    let finished = copy.read("BACKUP");
    copy.write(
        "BACKUP",
        "This is a backup that is not finished: run \"digestd backup\" again before it is used.\n",
    );
    copy.remove("checkpoint");
    for name in copy.files("log") {
        if name != "log/ID" {
            copy.remove(&name);
        }
    }
    let mut command = digestd();
    let outcome = run(
        command.arg("verify").arg("--data-dir").arg(copy.path()),
        b"",
    );
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    backed_up(&data, &copy, Method::Copy);
    assert_eq!(verified(&copy), 1000);
    assert_eq!(copy.read("BACKUP"), finished);
}

#[test]
fn a_first_backup_that_was_interrupted_is_known_for_what_it_is() {
    let texts = texts(0..1000);
    let (data, copy) = (Data::with(&texts), Data::new());
    backed_up(&data, &copy, Method::Copy);
    let whole = copy.log();
    for kept in 0..whole.len() - 1 {
        for number in kept + 1..=whole.len() {
            copy.remove(&format!("log/{number:08}.log"));
        }
        let mut command = digestd();
        let outcome = run(
            command.arg("verify").arg("--data-dir").arg(copy.path()),
            b"",
        );
        assert_eq!(
            outcome.code,
            Some(3),
            "{kept} of {}: {outcome:?}",
            whole.len()
        );
        backed_up(&data, &copy, Method::Copy);
        assert!(copy.log() == whole);
    }
}

/// Stops a backup in the middle, compacts the store, and lets the backup continue; returns whether it was still
/// copying when it was stopped.
fn compact_beside_a_backup(method: Option<&str>) -> bool {
    let texts: Vec<_> = (0..40).map(|number| text_of(number, 30_000)).collect();
    let data = Data::with(&texts);
    let store = data.open();
    // So little that the new log has as many segments.
    assert!(delete(&store, &texts[2]).unwrap());
    close(store);
    // Of some twenty.
    let late = "log/00000009.log";
    assert!(data.has(late));
    let copy = Data::new();
    // Between the third segment and the ninth there is time to stop it.
    let disk = BadDisk::default().slow_to_name("/log/0000000", 50);
    let child = disk
        .digestd()
        .arg("backup")
        .args(method)
        .arg(copy.path())
        .arg("--data-dir")
        .arg(data.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Process(child);
    wait_until("it copies", || copy.has("log/00000003.log"));
    child.signal(Signal::STOP);
    if copy.has(late) {
        child.signal(Signal::CONT);
        child.wait();
        return false;
    }
    compact_all(&data);
    child.signal(Signal::CONT);
    assert_eq!(child.wait().code(), Some(1));
    let outcome = backup(data.path(), copy.path());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let again = Data::new();
    backed_up(&data, &again, Method::Copy);
    verified(&again);
    true
}

#[test]
fn a_backup_of_a_store_that_is_compacted_meanwhile_fails() {
    for method in [None, Some("--hard-link")] {
        // On a busy machine one may end before it is stopped.
        assert!((0..20).any(|_| compact_beside_a_backup(method)));
    }
}

// Deletions meanwhile.

/// Messages live for a second; backups are made all the time. `DIGESTD_TEST_BACKUPS` says how many.
#[test]
#[ignore = "takes a quarter of a minute"]
fn a_backup_ends_however_fast_messages_are_deleted() {
    const WRITERS: usize = 8;
    let count = std::env::var("DIGESTD_TEST_BACKUPS").ok();
    let count: usize = count.map_or(5, |count| count.parse().unwrap());
    let data = Data::new();
    // As a rule, most of what lives for a second is in one segment.
    let directory = DataDirectory::claim(data.path(), 8 << 20).unwrap();
    let store = EmbeddedStore::open(directory, options(), &|_| ()).unwrap();
    let over = AtomicBool::new(false);
    // The texts that were acknowledged and whose deletion was not begun.
    let there = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, over, there) = (&store, &over, &there);
            scope.spawn(move || {
                let mut live = VecDeque::new();
                for number in (0..).take_while(|_| !over.load(Relaxed)) {
                    let text = text_of(number, 2000) + &writer.to_string();
                    put(store, &text).unwrap();
                    there.lock().unwrap().insert(text.clone());
                    live.push_back((Instant::now(), text));
                    while live
                        .front()
                        .is_some_and(|(put, _)| put.elapsed() > Duration::from_secs(1))
                    {
                        let (_, text) = live.pop_front().unwrap();
                        there.lock().unwrap().remove(&text);
                        assert!(delete(store, &text).unwrap());
                    }
                    // Fifty a second.
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        wait_until("there are deletions", || store.messages() > 300);
        for round in 0..count {
            let copy = Data::new();
            let before = there.lock().unwrap().clone();
            let started = Instant::now();
            let done = backed_up(&data, &copy, Method::Copy);
            let took = started.elapsed();
            let after = there.lock().unwrap().clone();
            let kept: Vec<_> = before.intersection(&after).cloned().collect();
            verified(&copy);
            let (store, lines) = copy.open_and_listen();
            assert!(!heard(&lines, "damaged"), "{lines:?}");
            assert_holds(&store, &kept);
            println!(
                "{round}: {} segments in {took:?}, {} texts",
                done.taken,
                kept.len()
            );
            close(store);
            thread::sleep(Duration::from_millis(300));
        }
        over.store(true, Relaxed);
    });
}

#[test]
fn a_backup_of_another_store_is_not_said_to_be_no_data_directory() {
    let (data, others, copy) = (
        Data::with(&texts(0..10)),
        Data::with(&texts(5..10)),
        Data::new(),
    );
    backed_up(&others, &copy, Method::Copy);
    let own = format!(
        "{} cannot be the backup of this store: ",
        copy.path().display()
    );
    assert_refused(&data, &copy, &own);
    assert_refused(&data, &others, "it was served since, or never was a backup");
    // A log of version 0.1.0.
    data.remove("log/ID");
    let outcome = backup(data.path(), copy.path());
    assert!(
        outcome.stderr.contains("its log has no identity, or")
            && !outcome.stderr.contains("not a digestd data directory"),
        "{outcome:?}"
    );
}

#[test]
fn no_backup_is_made_inside_a_store_or_another_backup() {
    let (data, other) = (Data::with(&texts(0..10)), Data::with(&texts(5..10)));
    let copy = tempfile::tempdir().unwrap();
    let robbed = copy.path().join("rob");
    assert_eq!(backup(other.path(), &robbed).code, Some(0));
    let link = copy.path().join("link");
    symlink(&robbed, &link).unwrap();
    let files = |directory: &Path| fs::read_dir(directory).unwrap().count();
    for (destination, into) in [
        (robbed.join("sub"), &robbed),
        (robbed.join("log/sub"), &robbed),
        (link.join("sub/deep"), &robbed),
        (other.path().join("sub"), &other.path().to_owned()),
    ] {
        let before = files(into);
        let outcome = backup(data.path(), &destination);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let sentence = format!(
            "cannot back up into {}",
            into.canonicalize().unwrap().display()
        );
        assert!(outcome.stderr.contains(&sentence), "{outcome:?}");
        assert_eq!(files(into), before);
    }
    let outcome = backup(data.path(), &data.path().join("log/sub"));
    assert!(outcome.stderr.contains("into itself"), "{outcome:?}");
    // Again, and beside.
    assert_eq!(backup(other.path(), &robbed).code, Some(0));
    assert_eq!(backup(data.path(), &copy.path().join("sub")).code, Some(0));
}

#[test]
fn an_identity_that_cannot_be_read_is_named_with_its_file() {
    let (data, copy) = (Data::with(&texts(0..10)), Data::new());
    backed_up(&data, &copy, Method::Copy);
    for (store, reason) in [(&copy, "is no regular file"), (&data, "valid UTF-8")] {
        store.remove("log/ID");
        if reason == "is no regular file" {
            fs::create_dir(store.path().join("log/ID")).unwrap();
        } else {
            fs::write(store.path().join("log/ID"), b"\xff").unwrap();
        }
        let outcome = backup(data.path(), copy.path());
        let sentence = format!("cannot read {}: ", store.path().join("log/ID").display());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(
            outcome.stderr.contains(&sentence) && outcome.stderr.contains(reason),
            "{outcome:?}"
        );
    }
}
