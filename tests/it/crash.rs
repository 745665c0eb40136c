//! The binary killed, many times: what it acknowledged is there afterwards.
//!
//! `kill -9` shows that nothing acknowledged is still in the process. That nothing acknowledged is
//! still in the machine's memory only cutting the power would show; the order of system calls, which
//! comes to the same, is asserted with strace.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use rustix::process::Signal;

use crate::process::Launch;
use crate::trace::{Call, calls};
use crate::writers::Round;

/// A start after a kill takes tens of milliseconds; this is for machines that are busy with other
/// tests.
const START_MAX: Duration = Duration::from_secs(10);

/// What a start may take where nothing else goes on.
const START_MAX_ALONE: Duration = Duration::from_secs(1);

#[test]
fn every_acked_message_survives_a_kill() {
    kill_while_writing("disk", 15, START_MAX);
}

#[test]
#[ignore = "needs a minute of the machine for itself"]
fn every_acked_message_survives_a_hundred_kills() {
    kill_while_writing("disk", 100, START_MAX_ALONE);
}

#[test]
fn with_durability_os_every_acked_message_survives_a_kill_too() {
    kill_while_writing("os", 3, START_MAX);
}

fn kill_while_writing(durability: &str, rounds: usize, start_max: Duration) {
    let data = tempfile::tempdir().unwrap();
    // Small segments, so that there are many.
    let launch = Launch::new(data.path())
        .option("--durability", durability)
        .option("--body-max", "512KiB")
        .option("--segment-size", "1MiB");
    let mut server = launch.start();
    let mut past: Vec<Round> = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..rounds {
        let enough = any(50..600) as usize;
        let round = Round::write(&server, number, 64, enough, || {
            thread::sleep(Duration::from_micros(any(0..3000).into()));
            server.signal(Signal::KILL);
        });
        check_log(&server.kill());

        let started = Instant::now();
        server = launch.start();
        slowest = slowest.max(started.elapsed());
        assert!(slowest < start_max, "{slowest:?}");
        round.check(&server);
        for earlier in &past {
            earlier.check_sample(&server);
        }
        past.push(round);
        let acked: usize = past.iter().map(Round::acked).sum();
        let sent: usize = past.iter().map(Round::sent).sum();
        let found = usize::try_from(server.messages()).unwrap();
        assert!((acked..=sent).contains(&found), "{found} messages");
    }
    println!("{slowest:?} at most from a start to ready");
    for round in &past {
        round.check(&server);
    }
    check_log(&server.stop());
}

#[test]
fn a_kill_while_the_index_is_redrawn_costs_nothing() {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path());
    let server = launch.start();
    let round = Round::write(&server, 0, 64, 3000, || server.signal(Signal::KILL));
    server.kill();
    remove_index(data.path());
    let started = Instant::now();
    launch.start().kill();
    let redraw = started.elapsed();

    let mut unfinished = 0;
    // Ten times, and until one start was not over before its kill.
    for number in 0..100 {
        if number >= 10 && unfinished > 0 {
            break;
        }
        // Otherwise the start finds the index that the last one may not have finished.
        if number % 2 == 0 {
            remove_index(data.path());
        }
        let server = launch.start_unready();
        if number % 2 == 0 {
            server.wait_for("redrawn");
        }
        thread::sleep(redraw * any(0..number % 10 * 10 + 1) / 100);
        let log = server.kill();
        unfinished += usize::from(!log.contains("ready"));
        check_log(&log);
    }
    assert!(unfinished > 0, "every start was over before the kill");
    let server = launch.start();
    round.check(&server);
    check_log(&server.stop());
}

fn remove_index(data_dir: &Path) {
    match fs::remove_dir_all(data_dir.join("index")) {
        // The last start was killed before it made a new one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.unwrap(),
    }
}

/// A kill damages nothing, so no start may say so. Redrawing the index is a warning and allowed.
fn check_log(log: &str) {
    assert!(!log.contains("ERROR"), "{log}");
}

/// Some number of `range`: there is no seed that would make a kill happen twice.
fn any(range: Range<u32>) -> u32 {
    let random = RandomState::new().hash_one(()) % u64::from(range.end - range.start);
    range.start + u32::try_from(random).unwrap()
}

#[test]
#[ignore = "needs strace"]
fn no_answer_leaves_before_its_group_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let (data, trace) = (
        directory.path().join("data"),
        directory.path().join("trace"),
    );
    // Detached, so that the server is our own child. Small segments, so that groups cross them.
    let server = Launch::new(&data)
        .option("--body-max", "32KiB")
        .option("--segment-size", "64KiB")
        .through(["strace", "-D", "-f", "-q", "-y", "-s", "1000000", "-o"])
        .through([trace.as_os_str()])
        .through(["-e", "trace=/^p?writev?(64)?$|send|sync|^rename"])
        .start();
    let texts: Vec<Vec<String>> = (0..8).map(texts_of).collect();
    thread::scope(|scope| {
        for texts in &texts {
            let mut client = server.client();
            scope.spawn(move || {
                for text in texts {
                    client.publish(text).unwrap();
                }
            });
        }
    });
    server.stop();

    let calls = calls(&fs::read_to_string(&trace).unwrap());
    let texts: HashMap<_, _> = texts
        .iter()
        .flatten()
        .map(|text| (Digest::of(text.as_bytes()).to_string(), text))
        .collect();
    let mut answers = 0;
    let mut segments = 0;
    for answer in calls.iter().filter(|call| is_answer(call)) {
        let (_, location) = answer.arguments.split_once("/messages/").unwrap();
        let text = texts[&location[..64]];
        let segment = synced_before(&calls, answer, text)
            .unwrap_or_else(|| panic!("answered too early: {text}\n{answer:?}"));
        segments = segments.max(segment);
        answers += 1;
    }
    assert_eq!(
        answers,
        texts.len(),
        "one answer a message, each written at once"
    );
    assert!(segments > 2, "the texts were meant to fill some segments");
}

/// What one connection posts: each text is found nowhere else in the trace.
fn texts_of(writer: usize) -> Vec<String> {
    (0..50)
        .map(|number| format!("<text {writer} {number}>").repeat(1 + number * 5))
        .collect()
}

/// The number of the segment in which `text` was durable when `answer` began to be written.
fn synced_before(calls: &[Call], answer: &Call, text: &str) -> Option<u32> {
    let done = |call: &&Call| call.ended < answer.began && call.result >= 0;
    let write = calls
        .iter()
        .filter(done)
        .find(|call| call.name == "pwrite64" && call.arguments.contains(text))?;
    let segment = write.path();
    let is_sync = |call: &&Call| call.name == "fdatasync" && call.path() == segment;
    calls
        .iter()
        .filter(done)
        .find(|call| is_sync(call) && call.began > write.ended)?;

    // That a power cut does not take the whole file.
    let entry = calls
        .iter()
        .filter(done)
        .find(|call| call.name.starts_with("rename") && call.arguments.contains(segment))?;
    let (log, name) = segment.rsplit_once('/')?;
    let is_entry_sync = |call: &&Call| call.name == "fsync" && call.path() == log;
    calls
        .iter()
        .filter(done)
        .find(|call| is_entry_sync(call) && call.began > entry.ended && call.ended < write.began)?;
    name.strip_suffix(".log")?.parse().ok()
}

fn is_answer(call: &Call) -> bool {
    !call.name.starts_with('p') && call.arguments.contains("HTTP/1.1 201")
}
