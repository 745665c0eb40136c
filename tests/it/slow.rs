//! A disk that is slow and answers every call: nothing that has time makes anything else wait.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;

use crate::disk::BadDisk;
use crate::process::{Digestd, Launch, PATIENCE, wait_until};
use crate::store_support::{Data, close, put_all, text_of};

/// Clients that delete.
const CLIENTS: usize = 16;

/// How long a sync takes, in milliseconds, and segments with something to erase, unless
/// `DIGESTD_TEST_SEGMENTS` says how many: together more than a call may take.
const SYNC_MILLISECONDS: u32 = 100;
const SEGMENTS: u32 = 200;

/// What may pass before a put that was answered is being synced, with `--durability os`, beside the syncs
/// before it: the pause between two rounds of them, and time to run.
const UNSYNCED_MAX: Duration = Duration::from_millis(250);

/// Syncs that may come before that of a put: a round under way when it was written, and the first of its
/// own round. A round syncs two files if the log has gone on to the next segment.
const SYNCS_BEFORE_MAX: u32 = 3;

const AUTHORIZED: (&str, &str) = ("Authorization", "Bearer all");

fn segments() -> u32 {
    let count = env::var("DIGESTD_TEST_SEGMENTS").ok();
    count.map_or(SEGMENTS, |count| count.parse().unwrap())
}

/// A text that has a segment for itself.
fn large(number: usize) -> String {
    text_of(number, 60_000)
}

fn launch(data: &Path, disk: &BadDisk, durability: &str) -> Launch {
    let tokens = data.with_extension("tokens");
    fs::write(
        &tokens,
        format!("all read,write,delete {}\n", Digest::of(b"all")),
    )
    .unwrap();
    disk.launch(Launch::new(data))
        .option("--segment-size", "64KiB")
        .option("--body-max", "60KiB")
        .option("--durability", durability)
        .option("--tokens", tokens)
}

fn publish(server: &Digestd, text: &str) -> Duration {
    let started = Instant::now();
    let fields = [AUTHORIZED, ("Content-Type", "text/plain")];
    let answer = server
        .client()
        .ask("POST", "/messages", &fields, text.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    started.elapsed()
}

fn delete_all(server: &Digestd, texts: &[String]) {
    thread::scope(|scope| {
        for some in texts.chunks(texts.len().div_ceil(CLIENTS)) {
            let mut client = server.client();
            scope.spawn(move || {
                for text in some {
                    let path = format!("/messages/{}", Digest::of(text.as_bytes()));
                    let answer = client.ask("DELETE", &path, &[AUTHORIZED], b"").unwrap();
                    assert_eq!(answer.status, 204);
                }
            });
        }
    });
}

/// Deletes a message in each of many segments, and stays ready until all are erased; puts go on meanwhile.
fn erase_slowly(durability: &str, trace: Option<&Path>) -> Data {
    let texts: Vec<_> = (0..segments() as usize).map(large).collect();
    let data = Data::with(&texts);
    let records: Vec<_> = texts.iter().map(|text| data.record_of(text)).collect();
    let mut disk = BadDisk::default().slow("/log/", SYNC_MILLISECONDS);
    if let Some(trace) = trace {
        disk = disk.traced(trace);
    }
    let server = launch(data.path(), &disk, durability).start();
    delete_all(&server, &texts);
    let started = Instant::now();
    let is_erased = |record| data.body(record).iter().all(|&byte| byte == 0);
    let mut rest = records.iter();
    let mut number = 0;
    while let Some(next) = rest.clone().next() {
        if is_erased(next) {
            rest.next();
            continue;
        }
        let patience = PATIENCE + 2 * segments() * Duration::from_millis(SYNC_MILLISECONDS.into());
        assert!(started.elapsed() < patience, "it is not erased");
        let answer = server.client().ask("GET", "/readyz", &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{:?}", started.elapsed());
        let took = publish(&server, &format!("meanwhile {number}"));
        assert!(took < Duration::from_secs(3), "{took:?}");
        number += 1;
    }
    println!("{:?} and {number} puts", started.elapsed());
    let log = server.stop();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    data
}

#[test]
#[ignore = "takes half a minute"]
fn deletions_in_many_segments_never_make_it_unready() {
    erase_slowly("disk", None);
}

#[test]
#[ignore = "takes half a minute"]
fn what_was_answered_is_synced_soon_whatever_is_to_be_erased() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let data = erase_slowly("os", Some(&trace));
    let trace = fs::read_to_string(&trace).unwrap();
    let (mut writes, mut syncs) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    let mut longest = 0_u64;
    for line in trace.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [name, path, offset, began, ended] = words[..] else {
            panic!("{line}");
        };
        let (began, ended): (u64, u64) = (began.parse().unwrap(), ended.parse().unwrap());
        if !path.starts_with(data.path().join("log").to_str().unwrap()) {
            continue;
        }
        if name == "sync" {
            longest = longest.max(ended - began);
            syncs.entry(path).or_default().push(began);
        } else {
            writes.push((path, offset, ended));
        }
    }
    assert!(writes.len() > 20, "{}", writes.len());
    let mut worst = 0;
    for (path, offset, written) in writes {
        let sync = syncs[path].iter().filter(|began| **began >= written).min();
        let sync = sync.unwrap_or_else(|| panic!("{path} at {offset} is never synced"));
        worst = worst.max(sync - written);
    }
    let limit = UNSYNCED_MAX + SYNCS_BEFORE_MAX * Duration::from_nanos(longest);
    println!("unsynced for {:?}", Duration::from_nanos(worst));
    assert!(Duration::from_nanos(worst) < limit, "{worst} ns");
}

/// How long a sync takes that is not to be waited for, in milliseconds, and a put beside it at most: there is
/// room between for a busy machine.
const LONG_SYNC_MILLISECONDS: u32 = 20_000;
const BESIDE_LONG_SYNC_MAX: Duration = Duration::from_secs(10);

#[test]
fn a_group_does_not_wait_for_the_making_of_a_segment_that_it_does_not_need() {
    let data = Data::new();
    let disk = BadDisk::default().slow("/00000003.new", LONG_SYNC_MILLISECONDS);
    let server = launch(data.path(), &disk, "disk").start();
    // The second segment is begun, so the third is made.
    for number in 0..2 {
        publish(&server, &large(number));
    }
    for number in 0..20 {
        let took = publish(&server, &format!("small {number}"));
        assert!(took < BESIDE_LONG_SYNC_MAX, "{number}: {took:?}");
    }
    server.kill();
}

#[test]
fn with_os_no_answer_waits_for_a_sync_that_is_under_way() {
    let data = Data::new();
    let started = data.path().with_extension("started");
    let disk = BadDisk::default()
        .slow("/log/", LONG_SYNC_MILLISECONDS)
        .while_there(&started);
    let server = launch(data.path(), &disk, "os").start();
    fs::write(&started, "").unwrap();
    for number in 0..20 {
        let took = publish(&server, &format!("small {number}"));
        assert!(took < BESIDE_LONG_SYNC_MAX, "{number}: {took:?}");
        // So that a sync begins meanwhile.
        thread::sleep(Duration::from_millis(50));
    }
    server.kill();
    fs::remove_file(started).unwrap();
}

#[test]
fn a_closed_store_does_not_wait_for_a_slow_disk_to_erase_everything() {
    const TEXTS: u32 = 60;
    const SYNC_MILLISECONDS: u32 = 500;
    let texts: Vec<_> = (0..TEXTS as usize).map(large).collect();
    let data = Data::with(&texts);
    let deleted = data.path().with_extension("deleted");
    let disk = BadDisk::default()
        .slow("/log/", SYNC_MILLISECONDS)
        .while_there(&deleted);
    let server = launch(data.path(), &disk, "disk").start();
    delete_all(&server, &texts);
    fs::write(&deleted, "").unwrap();
    let started = Instant::now();
    server.stop();
    fs::remove_file(deleted).unwrap();
    let everything = Duration::from_millis(SYNC_MILLISECONDS.into()) * TEXTS;
    let took = started.elapsed();
    assert!(took < everything / 2, "{took:?}");
    // The next start takes it up.
    let store = data.open();
    assert_eq!(store.messages(), 0);
    let records: Vec<_> = texts.iter().map(|text| data.record_of(text)).collect();
    wait_until("everything is erased", || {
        let mut bodies = records.iter().map(|record| data.body(record));
        bodies.all(|body| body.iter().all(|&byte| byte == 0))
    });
    put_all(&store, &texts[..1]);
    close(store);
}
