//! The disk under the real binary breaks: no acknowledgement follows, everything acknowledged before is
//! there, and the operator is told.
//!
//! Without a tool, writes fail beyond a limit on file sizes. With strace, any system call does, or
//! never returns.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::process::{Digestd, Launch, PATIENCE, digestd, run};
use crate::trace::{Call, calls};

/// What the log says once.
const FAILED: &str = "the store failed: no more writes";

fn launch(data: &Path) -> Launch {
    Launch::new(data)
        .option("--body-max", "32KiB")
        .option("--segment-size", "64KiB")
}

fn text(number: usize) -> String {
    format!("<{number}>").repeat(200)
}

/// Lets every write beyond the first byte of a file fail from now on.
fn break_the_disk(server: &Digestd) {
    let none = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    let pid = i32::try_from(server.pid()).unwrap();
    prlimit(Pid::from_raw(pid), Resource::Fsize, none).unwrap();
}

/// Without the signal that comes with the limit and would end the process.
fn launch_unbroken(data: &Path) -> Launch {
    launch(data).through(["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
}

/// Stores texts until one is refused, and returns those that were acknowledged.
fn publish_until_failure(server: &Digestd) -> Vec<String> {
    let mut client = server.client();
    let started = Instant::now();
    let mut acked = Vec::new();
    for text in (0..).map(text) {
        assert!(started.elapsed() < PATIENCE, "nothing fails");
        let answer = client.post(&text).unwrap();
        if answer.status != 201 {
            assert_eq!(answer.status, 503, "{}", answer.text());
            break;
        }
        acked.push(text);
    }
    acked
}

/// Refuses new messages, serves those that were acknowledged, and says so.
fn assert_failed(server: &Digestd, acked: &[String]) {
    let mut client = server.client();
    for number in 0..5 {
        let answer = client.post(&format!("too late {number}")).unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.fields.contains_key("retry-after"));
    }
    let mut status = |path| client.ask("GET", path, &[], b"").unwrap().status;
    assert_eq!(status("/readyz/write"), 503);
    assert_eq!(status("/livez"), 200);
    assert_eq!(status("/readyz"), 200);
    for text in acked {
        let digest = ::digestd::digest::Digest::of(text.as_bytes());
        assert_eq!(client.fetch(&digest).as_ref(), Some(text));
        // It is known, and on the disk.
        client.publish(text).unwrap();
    }
    server.wait_for(FAILED);
    let log = server.log();
    assert_eq!(log.matches(FAILED).count(), 1, "{log}");
}

fn assert_all_there(launch: &Launch, acked: &[String]) {
    let server = launch.start();
    let mut client = server.client();
    for text in acked {
        let digest = ::digestd::digest::Digest::of(text.as_bytes());
        assert_eq!(client.fetch(&digest).as_ref(), Some(text));
    }
    client.publish("after the restart").unwrap();
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_failed_store_takes_no_more_writes_and_reads_go_on() {
    let data = tempfile::tempdir().unwrap();
    let server = launch_unbroken(data.path()).start();
    let mut client = server.client();
    let acked: Vec<_> = (10_000..10_100).map(text).collect();
    for text in &acked {
        client.publish(text).unwrap();
    }
    break_the_disk(&server);
    assert_eq!(publish_until_failure(&server), Vec::<String>::new());
    assert_failed(&server, &acked);
    server.kill();
    assert_all_there(&launch(data.path()), &acked);
}

#[test]
fn a_store_that_failed_ends_the_process_if_that_is_wished() {
    let data = tempfile::tempdir().unwrap();
    let server = launch_unbroken(data.path())
        .env("DIGESTD_EXIT_ON_FAILURE", "true")
        .start();
    let kept = text(10_000);
    server.client().publish(&kept).unwrap();
    break_the_disk(&server);
    assert_eq!(publish_until_failure(&server), Vec::<String>::new());
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("digestd: the store failed"), "{log}");
    assert_all_there(&launch(data.path()), &[kept]);
}

/// Through strace, which lets one call of each thread fail or wait.
pub(crate) fn inject(data: &Path, call: &str, what: &str) -> Launch {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:{what}");
    launch(data)
        .through(["strace", "-D", "-f", "-q", "-o", "/dev/null"])
        .through(["-e", &trace, "-e", &inject])
}

/// Each call at twenty places in its thread's life.
const PLACES: usize = 20;

#[test]
#[ignore = "needs strace"]
fn no_ack_follows_a_failed_fdatasync() {
    fail_one_by_one("fdatasync");
}

#[test]
#[ignore = "needs strace"]
fn no_ack_follows_a_failed_write() {
    fail_one_by_one("pwrite64");
}

#[test]
#[ignore = "needs strace"]
fn no_ack_follows_a_failed_fsync() {
    fail_one_by_one("fsync");
}

fn fail_one_by_one(call: &str) {
    let mut starts = 0;
    for place in 1..=PLACES {
        let data = tempfile::tempdir().unwrap();
        let earlier: Vec<_> = (10_000..10_020).map(text).collect();
        let server = launch(data.path()).start();
        let mut client = server.client();
        for text in &earlier {
            client.publish(text).unwrap();
        }
        server.kill();

        let server = inject(data.path(), call, &format!("error=EIO:when={place}")).start_unready();
        let mut acked = earlier;
        if is_ready(&server) {
            acked.extend(publish_until_failure(&server));
            println!("{call} {place}: failed after {} messages", acked.len());
            assert_failed(&server, &acked);
            server.kill();
            starts += 1;
        } else {
            let (status, log) = server.wait();
            println!("{call} {place}: no start");
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(log.contains("digestd: cannot"), "{log}");
        }
        assert_all_there(&launch(data.path()), &acked);
    }
    assert!(starts >= PLACES / 2, "{starts}");
}

/// Waits until it serves messages, or has given up.
fn is_ready(server: &Digestd) -> bool {
    let started = Instant::now();
    loop {
        let log = server.log();
        if log.contains(" ready ") || log.contains("digestd: ") {
            return log.contains(" ready ");
        }
        assert!(
            started.elapsed() < PATIENCE,
            "neither ready nor over: {log}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// The last sync may have failed, and the kernel may take the pages for written since.
#[test]
#[ignore = "needs strace"]
fn what_was_not_covered_by_a_checkpoint_is_written_again_before_it_is_served() {
    let (data, text) = (0..1000)
        .map(|number| {
            let data = tempfile::tempdir().unwrap();
            let server = launch(data.path()).start();
            server.client().publish(&text(number)).unwrap();
            server.kill();
            (data, text(number))
        })
        .find(|(data, _)| {
            // Hardly ever, there was one between the answer and the kill.
            let checkpoint = fs::read_to_string(data.path().join("checkpoint"));
            checkpoint.unwrap().contains("messages 0")
        })
        .unwrap();
    let trace = data.path().join("trace");
    let server = launch(data.path())
        .through(["strace", "-D", "-f", "-q", "-y", "-s", "1000000"])
        .through(["-e", "trace=pwrite64,fdatasync", "-o"])
        .through([trace.as_os_str()])
        .start();
    let calls = calls(&fs::read_to_string(&trace).unwrap());
    let write = calls.iter().find(|call| call.arguments.contains(&text));
    let write = write.expect("the text is written");
    let is_sync = |call: &&Call| call.name == "fdatasync" && call.path() == write.path();
    let mut syncs = calls.iter().filter(is_sync);
    assert!(syncs.any(|sync| sync.began > write.ended), "{calls:?}");
    server.stop();
}

#[test]
#[ignore = "needs strace"]
fn a_sync_that_does_not_return_makes_it_unready_and_then_ends_it() {
    let data = tempfile::tempdir().unwrap();
    // Longer than it lives. Not by much: strace lets go of a thread only when its time is over. And by no
    // call of the thread that opens the store, which makes fewer.
    let delay = "delay_enter=36000000:when=20";
    let server = inject(data.path(), "fdatasync", delay).start();
    let mut client = server.client();
    let started = Instant::now();
    let waiting = {
        let mut client = server.client();
        let mut texts = (0..1000).map(text);
        thread::spawn(move || texts.find(|text| client.publish(text).is_err()))
    };
    while client.ask("GET", "/readyz", &[], b"").unwrap().status == 200 {
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(100));
    }
    let late = started.elapsed();
    assert!(late > Duration::from_secs(8), "{late:?}");
    let answer = client.ask("GET", "/readyz?verbose", &[], b"").unwrap();
    assert!(
        answer
            .text()
            .starts_with("[-] reads: the disk does not answer")
    );
    assert_eq!(client.ask("GET", "/livez", &[], b"").unwrap().status, 200);

    let (status, log) = server.wait();
    println!(
        "not ready after {late:?}, ended after {:?}",
        started.elapsed()
    );
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{log}");
    assert!(log.contains("the disk does not answer: ending"), "{log}");
    let unanswered = waiting.join().unwrap();
    let is_acked = |text: &String| Some(text) != unanswered.as_ref();
    let acked: Vec<_> = (0..1000).map(text).take_while(is_acked).collect();
    assert_all_there(&launch(data.path()), &acked);
}

/// The sector of a deleted body may be the reason why it was deleted.
#[test]
#[ignore = "needs strace"]
fn a_body_that_cannot_be_erased_stops_neither_the_store_nor_a_start() {
    let data = tempfile::tempdir().unwrap();
    let tokens = data.path().with_extension("tokens");
    let line = format!(
        "all read,write,delete {}\n",
        ::digestd::digest::Digest::of(b"all")
    );
    fs::write(&tokens, line).unwrap();
    let ask = |server: &Digestd, method: &str, path: &str, body: &str| {
        let fields = [
            ("Authorization", "Bearer all"),
            ("Content-Type", "text/plain"),
        ];
        let answer = server.client().ask(method, path, &fields, body.as_bytes());
        answer.unwrap().status
    };
    let path = |text: &str| {
        format!(
            "/messages/{}",
            ::digestd::digest::Digest::of(text.as_bytes())
        )
    };
    // Segments and the reserve are there then: all that is left to fallocate are holes.
    let server = launch(data.path()).option("--tokens", &tokens).start();
    for number in 0..20 {
        assert_eq!(ask(&server, "POST", "/messages", &text(number)), 201);
    }
    server.stop();
    for round in 0..2 {
        let server = inject(data.path(), "fallocate", "error=EIO")
            .option("--tokens", &tokens)
            .start();
        for number in 0..round {
            assert_eq!(ask(&server, "GET", &path(&text(number)), ""), 404);
        }
        assert_eq!(ask(&server, "DELETE", &path(&text(round)), ""), 204);
        server.wait_for("the disk did not erase them");
        assert_eq!(ask(&server, "POST", "/messages", "goes on"), 201);
        assert_eq!(ask(&server, "GET", "/readyz/write", ""), 200);
        assert_eq!(ask(&server, "GET", &path(&text(round)), ""), 404);
        // With its deletion alone in the log, as after a kill.
        let log = if round == 0 {
            server.kill()
        } else {
            server.stop()
        };
        assert!(!log.contains("ERROR"), "{log}");
    }
    let outcome = run(
        digestd().arg("verify").arg("--data-dir").arg(data.path()),
        b"",
    );
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
#[ignore = "needs strace"]
fn a_compaction_that_the_file_system_does_not_allow_is_refused_before_anything_is_done() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let digest = server.client().publish("kept").unwrap();
    server.stop();
    let files = ["checkpoint", "index/0/db", "log/00000001.log", "log/ID"];
    let content = || files.map(|name| fs::read(data.path().join(name)).unwrap());
    let before = content();
    let mut command = std::process::Command::new("strace");
    command
        .args(["-f", "-q", "-o", "/dev/null", "-e", "trace=renameat2"])
        .args(["-e", "inject=renameat2:error=EINVAL"])
        .arg(env!("CARGO_BIN_EXE_digestd"));
    command.arg("compact").arg("--data-dir").arg(data.path());
    let outcome = run(&mut command, b"");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("exchange two directories"),
        "{outcome:?}"
    );
    assert!(content() == before);
    let mut names: Vec<_> = fs::read_dir(data.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "DURABILITY",
            "FORMAT",
            "LOCK",
            "NOTE",
            "checkpoint",
            "index",
            "log",
            "reserve"
        ]
    );
    let server = launch(data.path()).start();
    assert_eq!(server.client().fetch(&digest), Some("kept".into()));
    server.stop();
}
