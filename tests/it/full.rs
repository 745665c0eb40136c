//! A file system that is full, from the first message refused to a restart with room again.
//!
//! One of memory, so small that it takes a moment to fill.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::getuid;

use crate::process::{Client, Digestd, Launch, PATIENCE, digestd, run};

/// A file system of 64 MiB, gone when dropped.
struct FileSystem(tempfile::TempDir);

impl FileSystem {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=64m,mode=1777", "digestd"];
        as_root("mount", &options, directory.path());
        Self(directory)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn launch(&self, free_min: &str) -> Launch {
        Launch::new(&self.data())
            .option("--free-min", free_min)
            .option("--segment-size", "2MiB")
            .option("--cache", "1MiB")
    }

    /// Takes this much of it, or all that is left.
    fn take(&self, bytes: Option<u64>) -> Taken {
        let path = self.0.path().join("taken");
        let mut file = File::create(&path).unwrap();
        match bytes {
            Some(bytes) => fallocate(&file, FallocateFlags::empty(), 0, bytes).unwrap(),
            None => while file.write_all(&[0; 4096]).is_ok() {},
        }
        Taken(path)
    }
}

pub(crate) fn as_root(program: &str, options: &[&str], path: &Path) {
    let sudo: &[&str] = if getuid().is_root() {
        &[]
    } else {
        &["sudo", "-n"]
    };
    let words = [sudo, &[program], options].concat();
    let status = Command::new(words[0]).args(&words[1..]).arg(path).status();
    assert!(status.unwrap().success(), "{words:?}");
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left may still be there.
        as_root("umount", &["-l"], self.0.path());
    }
}

/// Room that others took.
struct Taken(PathBuf);

impl Taken {
    fn give_back(self) {
        fs::remove_file(self.0).unwrap();
    }
}

fn text(number: usize) -> String {
    format!("<{number}>").repeat(8000)
}

/// Stores texts until one is refused as there is no room.
fn publish_until_full(client: &mut Client, from: usize) -> Vec<String> {
    let mut acked = Vec::new();
    for text in (from..).map(text) {
        let answer = client.post(&text).unwrap();
        if answer.status != 201 {
            assert_eq!(answer.status, 507, "{}", answer.text());
            assert!(answer.fields.contains_key("retry-after"));
            break;
        }
        acked.push(text);
    }
    acked
}

fn assert_all_there(client: &mut Client, acked: &[String]) {
    for text in acked {
        let digest = Digest::of(text.as_bytes());
        assert!(client.fetch(&digest).as_ref() == Some(text));
    }
}

/// New messages are refused, and nothing else.
fn assert_full(client: &mut Client, acked: &[String]) {
    for number in 0..5 {
        assert_eq!(
            client.post(&format!("no room {number}")).unwrap().status,
            507
        );
    }
    let mut status = |path| client.ask("GET", path, &[], b"").unwrap().status;
    assert_eq!(status("/livez"), 200);
    assert_eq!(status("/readyz"), 200);
    assert_eq!(status("/readyz/write"), 503);
    assert_all_there(client, acked);
    for text in &acked[..acked.len().min(20)] {
        client.publish(text).unwrap();
    }
}

/// Waits until new messages are taken again.
fn wait_for_room(client: &mut Client) {
    let started = Instant::now();
    while client.post("room again").unwrap().status != 201 {
        assert!(started.elapsed() < PATIENCE, "no room");
    }
}

fn count(log: &str, line: &str) -> usize {
    log.lines().filter(|other| other.contains(line)).count()
}

#[test]
#[ignore = "needs root for a file system of its own"]
fn below_the_floor_new_messages_are_refused_until_there_is_room() {
    let system = FileSystem::mount();
    let launch = system.launch("8MiB");
    let server = launch.start();
    let taken = system.take(Some(20 << 20));
    let mut client = server.client();
    let mut acked = publish_until_full(&mut client, 0);
    assert_full(&mut client, &acked);
    taken.give_back();
    wait_for_room(&mut client);
    server.wait_for("the disk has room again");
    let log = server.log();
    for line in ["the disk is nearly full", "the disk has room again"] {
        assert_eq!(count(&log, line), 1, "{log}");
    }

    acked.extend(publish_until_full(&mut client, acked.len()));
    assert_full(&mut client, &acked);
    server.kill();
    let server = launch.start();
    assert_full(&mut server.client(), &acked);
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
#[ignore = "needs root for a file system of its own"]
fn a_disk_filled_to_the_last_block_opens_for_reading_and_later_for_writing() {
    let system = FileSystem::mount();
    let launch = system.launch("0B");
    let server = launch.start();
    let mut client = server.client();
    let mut acked = publish_until_full(&mut client, 0);
    assert!(acked.len() > 100);
    assert_full(&mut client, &acked);
    let taken = system.take(None);
    server.kill();

    let server = launch.start();
    server.wait_for("the reserve was given up");
    assert_full(&mut server.client(), &acked);
    server.kill();
    // And once more, in the room that the reserve left.
    let server = launch.start();
    assert_full(&mut server.client(), &acked);
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");

    make_room(taken, &system);
    let server = launch.start();
    let mut client = server.client();
    assert_all_there(&mut client, &acked);
    wait_for_room(&mut client);
    acked.push("room again".into());
    server.kill();
    assert_all_there(&mut launch.start().client(), &acked);
}

/// The messages took nearly all of it, so there is only more room in a larger file system.
fn make_room(taken: Taken, system: &FileSystem) {
    taken.give_back();
    as_root("mount", &["-o", "remount,size=128m"], system.0.path());
}

#[test]
#[ignore = "needs root for a file system of its own"]
fn a_disk_that_is_full_all_of_a_sudden_costs_nothing_that_was_acked() {
    let system = FileSystem::mount();
    let launch = system.launch("0B");
    let server = launch.start();
    let mut client = server.client();
    let mut acked: Vec<_> = (0..50).map(text).collect();
    for text in &acked {
        client.publish(text).unwrap();
    }
    let taken = system.take(None);
    let started = Instant::now();
    let refused = (50..).map(text).find_map(|text| {
        assert!(started.elapsed() < PATIENCE, "nothing is refused");
        let status = client.post(&text).unwrap().status;
        acked.extend((status == 201).then_some(text));
        (status != 201).then_some(status)
    });
    // No room for a segment, or none for the index, which is a failure.
    assert!([Some(507), Some(503)].contains(&refused), "{refused:?}");
    assert_reads(&server, &acked, refused == Some(503));
    server.kill();
    taken.give_back();
    let server = launch.start();
    let mut client = server.client();
    assert_all_there(&mut client, &acked);
    wait_for_room(&mut client);
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
#[ignore = "needs root for a file system of its own"]
fn on_a_full_disk_messages_can_be_deleted_which_gives_their_room_back() {
    for free_min in ["16MiB", "0B"] {
        let system = FileSystem::mount();
        let tokens = system.0.path().join("tokens");
        let token = format!("all read,write,delete {}\n", Digest::of(b"all"));
        fs::write(&tokens, token).unwrap();
        let launch = system
            .launch(free_min)
            .env("DIGESTD_TOKENS", tokens.to_str().unwrap());
        let server = launch.start();
        let mut client = server.client();
        let change = |client: &mut Client, method, text: &str| {
            let fields = [
                ("Authorization", "Bearer all"),
                ("Content-Type", "text/plain"),
            ];
            let path = format!("/messages/{}", Digest::of(text.as_bytes()));
            let (path, body) = match method {
                "POST" => ("/messages", text),
                _ => (&*path, ""),
            };
            client
                .ask(method, path, &fields, body.as_bytes())
                .unwrap()
                .status
        };
        let is_taken = |text: &String| {
            // Not so fast that the floor is seen too late.
            thread::sleep(Duration::from_millis(4));
            change(&mut client, "POST", text) == 201
        };
        // More than there is room for.
        let acked: Vec<_> = (0..10_000).map(text).take_while(is_taken).collect();
        assert!(acked.len() > 100);
        let mut server = server;
        if free_min == "0B" {
            // To the last block: then it is the reserve that makes it possible.
            let _taken = system.take(None);
            server.kill();
            server = launch.start();
        }
        let mut client = server.client();
        assert_eq!(change(&mut client, "POST", "no room"), 507);
        for (number, text) in acked.iter().enumerate() {
            let status = change(&mut client, "DELETE", text);
            assert_eq!(status, 204, "{free_min}: {number} of {}", acked.len());
        }
        let started = Instant::now();
        while change(&mut client, "POST", "room again") != 201 {
            assert!(started.elapsed() < PATIENCE, "no room");
        }
        server.kill();
        let server = launch.start();
        let mut client = server.client();
        assert_eq!(change(&mut client, "GET", "room again"), 200);
        for text in &acked {
            assert_eq!(change(&mut client, "GET", text), 404);
        }
        let log = server.stop();
        assert!(!log.contains("ERROR"), "{log}");
    }
}

/// What was acked is there, and new messages are not taken. An index that failed for want of room may
/// say so of a look-up as well; it never says that a message is not there.
fn assert_reads(server: &Digestd, acked: &[String], has_failed: bool) {
    let mut client = server.client();
    for text in acked {
        let path = format!("/messages/{}", Digest::of(text.as_bytes()));
        let fields = [("Accept", "text/plain")];
        let answer = client.ask("GET", &path, &fields, b"").unwrap();
        let is_there = answer.status == 200 && answer.body == text.as_bytes();
        assert!(is_there || has_failed && answer.status == 503, "{answer:?}");
    }
    let ready = client.ask("GET", "/readyz/write", &[], b"").unwrap();
    assert_eq!(ready.status, 503);
}

/// A store with half of its texts deleted, and room for little more.
#[test]
#[ignore = "needs root"]
fn a_compaction_without_room_leaves_the_disk_as_it_was() {
    let file_system = FileSystem::mount();
    let server = file_system.launch("0B").start();
    let mut client = server.client();
    let acked: Vec<_> = (0..400).map(text).collect();
    for text in &acked {
        client.publish(text).unwrap();
    }
    server.stop();
    // A record that was damaged and posted again is something to leave out.
    let log = file_system.data().join("log/00000001.log");
    let flip = |path: &Path| {
        let mut content = fs::read(path).unwrap();
        content[100] ^= 1;
        fs::write(path, content).unwrap();
    };
    flip(&log);
    let server = file_system.launch("0B").start();
    server.client().publish(&acked[0]).unwrap();
    server.stop();
    let room = |taken: u64| {
        let space = rustix::fs::statvfs(file_system.0.path()).unwrap();
        space.f_bavail * space.f_frsize - taken
    };
    let taken = file_system.take(Some(room(6 << 20)));
    let before = room(0);
    let outcome = run(
        digestd()
            .arg("compact")
            .arg("--data-dir")
            .arg(file_system.data()),
        b"",
    );
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
    assert!(!file_system.data().join("log.new").exists());
    assert!(room(0) + (1 << 20) > before, "{} {before}", room(0));
    let server = file_system.launch("0B").start();
    let mut client = server.client();
    assert_all_there(&mut client, &acked);
    client.publish("there is room as before").unwrap();
    server.stop();
    taken.give_back();
}

/// The engine of the index writes to open it, and what it lacks is no fault of the store.
#[test]
#[ignore = "needs root"]
fn a_store_on_a_full_disk_is_verified() {
    let file_system = FileSystem::mount();
    let fill = |numbers: Range<usize>| {
        let server = file_system.launch("0B").start();
        for number in numbers {
            server.client().publish(&text(number)).unwrap();
        }
        server.kill();
    };
    fill(0..100);
    let verify = || {
        let mut command = digestd();
        let outcome = run(
            command
                .arg("verify")
                .arg("--data-dir")
                .arg(file_system.data()),
            b"",
        );
        assert!(!file_system.data().join("index.old").exists());
        outcome
    };
    let taken = file_system.take(None);
    let outcome = verify();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    taken.give_back();
    // Without the reserve nothing can be said, which is not the same as that something is wrong.
    fill(100..120);
    fs::remove_file(file_system.data().join("reserve")).unwrap();
    let taken = file_system.take(None);
    let outcome = verify();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("room on the disk"), "{outcome:?}");
    taken.give_back();
    let outcome = verify();
    assert_eq!(
        outcome.code,
        Some(0),
        "{}",
        String::from_utf8_lossy(&outcome.stdout)
    );
}
