//! `digestd backup`: a copy is a store that has everything acknowledged before it was begun, whatever
//! goes on meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use digestd::store::{BackedUp, Method, OpenError, back_up, verify};

use crate::process::{Launch, Outcome, digestd, run};
use crate::store_support::{Data, assert_holds, close, put_all, texts};

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
        copy.remove(&name);
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
            matches!(refused, Err(OpenError::Foreign { .. })),
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
    assert_eq!(restored.client().fetch(&digest), Some("kept".into()));
    let held = backup(&source, &copy);
    assert_eq!(held.code, Some(4), "{held:?}");
    restored.stop();
}
