//! A store where nothing can be written, and one of another user: what can still be read, and what is said.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson;
use rustix::process::getuid;

use crate::disk::BadDisk;
use crate::failure::inject;
use crate::full::as_root;
use crate::process::{Digestd, Launch, Outcome, PATIENCE, digestd, run};
use crate::store_support::{Data, close, delete, put, put_all, text_of, texts};

/// A command line of the binary as a user whom permissions bind: root without what lets it pass them.
fn bound() -> Command {
    if !getuid().is_root() {
        return digestd();
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-dac_override,-dac_read_search,-fowner",
        "--",
    ]);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"DIGESTD_") {
            command.env_remove(name);
        }
    }
    command.arg(env!("CARGO_BIN_EXE_digestd"));
    command
}

/// Takes the right to write away, from all users and of everything in a directory; gives it back at the end.
struct Sealed<'a>(&'a Path);

impl<'a> Sealed<'a> {
    fn new(path: &'a Path) -> Self {
        Self::set(path, 0o500, 0o400);
        Self(path)
    }

    fn set(path: &Path, directory: u32, file: u32) {
        if path.is_dir() {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            for entry in fs::read_dir(path).unwrap() {
                Self::set(&entry.unwrap().path(), directory, file);
            }
        }
        let mode = if path.is_dir() { directory } else { file };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        Self::set(self.0, 0o700, 0o600);
    }
}

/// Every file below a directory and when it was changed last.
fn state(path: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut all = vec![(
        path.to_owned(),
        fs::metadata(path).unwrap().modified().unwrap(),
    )];
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            all.extend(state(&entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

fn verb(mut command: Command, words: &[&str], data_dir: &Path) -> Outcome {
    run(command.args(words).arg("--data-dir").arg(data_dir), b"")
}

/// What a store has, as an export of it.
fn lines_of(texts: &[String]) -> Vec<u8> {
    let mut messages: Vec<_> = texts
        .iter()
        .map(|text| Message::new(text.as_str()))
        .collect();
    messages.sort_by_key(Message::digest);
    let mut lines = Vec::new();
    for message in &messages {
        ndjson::write(&mut lines, message);
    }
    lines
}

/// A store with messages, some of which were deleted, and some of those put again; and what it has.
fn store() -> (Data, Vec<String>) {
    let mut texts = texts(0..500);
    let data = Data::with(&texts);
    let store = data.open();
    for text in texts.drain(..100).collect::<Vec<_>>() {
        assert!(delete(&store, &text).unwrap());
    }
    let again = text_of(5, 50);
    put(&store, &again).unwrap();
    texts.push(again);
    let more = crate::store_support::texts(500..600);
    put_all(&store, &more);
    texts.extend(more);
    close(store);
    (data, texts)
}

/// Verifies and exports what is at `path`, in which nothing can be written.
fn assert_readable(command: &dyn Fn() -> Command, path: &Path, texts: &[String], has_index: bool) {
    let before = state(path);
    let outcome = verb(command(), &["verify"], path);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let said = String::from_utf8(outcome.stdout).unwrap();
    assert!(said.contains("0 findings"), "{said}");
    assert_eq!(said.contains("the index was not read"), has_index, "{said}");
    let lines = lines_of(texts);
    let outcome = verb(command(), &["export"], path);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout == lines);
    let after = Digest::of(texts[7].as_bytes()).to_string();
    let outcome = verb(command(), &["export", "--after", &after], path);
    let rest = String::from_utf8(lines.clone()).unwrap();
    let (_, rest) = rest.split_once(&after).unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    assert!(outcome.stdout == rest.as_bytes());
    let outcome = verb(command(), &["export", "--format", "tar"], path);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(state(path), before);
    // What writes says that it cannot.
    let outcome = verb(command(), &["compact"], path);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(state(path), before);
}

fn backup(source: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut command = digestd();
    command.arg("backup").arg(directory.path());
    let outcome = run(command.arg("--data-dir").arg(source), b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    directory
}

#[test]
fn a_store_is_verified_and_exported_where_nothing_can_be_written() {
    let (data, texts) = store();
    let copy = backup(data.path());
    for (path, has_index) in [(data.path(), true), (copy.path(), false)] {
        let _sealed = Sealed::new(path);
        assert_readable(&bound, path, &texts, has_index);
        // A copy of it can be made as well.
        let other = tempfile::tempdir().unwrap();
        let mut command = bound();
        command.arg("backup").arg(other.path());
        let outcome = run(command.arg("--data-dir").arg(path), b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    // Without its lock, too.
    fs::remove_file(copy.path().join("LOCK")).unwrap();
    let _sealed = Sealed::new(copy.path());
    assert_readable(&bound, copy.path(), &texts, false);
}

#[test]
#[ignore = "needs root, who mounts a file system"]
fn a_store_is_verified_and_exported_on_a_read_only_mount() {
    let (data, texts) = store();
    let copy = backup(data.path());
    let mounted = tempfile::tempdir().unwrap();
    for (path, has_index) in [(data.path(), true), (copy.path(), false)] {
        as_root("mount", &["--bind", path.to_str().unwrap()], mounted.path());
        as_root("mount", &["-o", "remount,ro,bind"], mounted.path());
        let outcome = std::panic::catch_unwind(|| {
            assert_readable(&digestd, mounted.path(), &texts, has_index);
        });
        as_root("umount", &["-l"], mounted.path());
        outcome.unwrap();
    }
}

#[test]
fn damage_is_found_where_nothing_can_be_written() {
    let texts = texts(0..200);
    let data = Data::with(&texts);
    let record = data.record_of(&texts[50]);
    data.flip(&record.file, record.body().start * 8);
    let _sealed = Sealed::new(data.path());
    let digest = Digest::of(texts[50].as_bytes()).to_string();
    let outcome = verb(bound(), &["verify"], data.path());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(String::from_utf8(outcome.stdout).unwrap().contains(&digest));
    let outcome = verb(bound(), &["export"], data.path());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains(&digest), "{outcome:?}");
    let others: Vec<_> = texts
        .iter()
        .filter(|text| **text != texts[50])
        .cloned()
        .collect();
    assert!(outcome.stdout == lines_of(&others));
}

#[test]
fn what_may_not_be_read_is_no_damage() {
    let (data, _) = store();
    for name in ["checkpoint", "log"] {
        let _sealed = Sealed::new(data.path());
        let path = data.path().join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        let outcome = verb(bound(), &["verify"], data.path());
        assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
        let said = format!("the {name}");
        assert!(outcome.stderr.contains(&said), "{name}: {outcome:?}");
        assert!(
            outcome.stderr.contains("ermission denied"),
            "{name}: {outcome:?}"
        );
    }
}

#[test]
fn a_store_that_is_served_is_not_read_beside_the_server() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let sealed = Sealed::new(data.path());
    for words in ["verify", "export"] {
        let outcome = verb(bound(), &[words], data.path());
        assert_eq!(outcome.code, Some(4), "{outcome:?}");
        let holder = format!("pid {}", server.pid());
        assert!(outcome.stderr.contains(&holder), "{outcome:?}");
    }
    drop(sealed);
    // A lock that may not be read may be held by anybody.
    let lock = data.path().join("LOCK");
    fs::set_permissions(&lock, Permissions::from_mode(0o000)).unwrap();
    for words in ["verify", "export"] {
        let outcome = verb(bound(), &[words], data.path());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("cannot lock"), "{outcome:?}");
    }
    server.stop();
}

#[test]
#[ignore = "needs root, who gives files away"]
fn a_data_directory_of_another_user_says_whose_it_is_and_what_mends_it() {
    let (data, _) = store();
    let (above, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in [data.path(), above.path(), fresh.path()] {
        as_root("chown", &["-R", "12345:12345"], path);
    }
    let missing = above.path().join("data/store");
    let directory = tempfile::tempdir().unwrap();
    let lines = directory.path().join("lines");
    fs::write(&lines, lines_of(&texts(0..1))).unwrap();
    let import = ["import", lines.to_str().unwrap()];
    for (path, mends) in [
        (data.path(), "`chown -R 0 "),
        (fresh.path(), "`chown -R 0 "),
        (&missing, "`chown 0 "),
    ] {
        for words in [&["serve", "--listen", "127.0.0.1:0"][..], &import] {
            let outcome = verb(bound(), words, path);
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            for part in ["belongs to user 12345, and this process is user 0", mends] {
                assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
            }
        }
    }
    for words in [&["verify"][..], &["export"], &["compact"]] {
        let outcome = verb(bound(), words, data.path());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(
            outcome.stderr.contains("belongs to user 12345"),
            "{outcome:?}"
        );
    }
    // One file of root in a directory of the user's own, as after `sudo digestd`.
    as_root("chown", &["-R", "0:0"], data.path());
    as_root("chown", &["12345"], &data.path().join("LOCK"));
    let outcome = verb(bound(), &["compact"], data.path());
    assert!(
        outcome.stderr.contains("LOCK belongs to user 12345"),
        "{outcome:?}"
    );
    as_root("chown", &["0"], &data.path().join("LOCK"));
}

#[test]
fn a_new_store_that_would_never_take_a_message_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    for floor in ["1000PiB", "8EiB"] {
        let launch = Launch::new(&directory.path().join(floor)).option("--free-min", floor);
        let outcome = run(&mut launch.command(), b"");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("--free-min"), "{outcome:?}");
    }
    // An old one is served: its messages can be read.
    let data = directory.path().join("old");
    Launch::new(&data).start().stop();
    let server = Launch::new(&data).option("--free-min", "8EiB").start();
    assert_eq!(server.client().post("foo").unwrap().status, 507);
    server.stop();
}

#[test]
fn a_file_system_that_does_not_sync_directories_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let disk = BadDisk::default().without_directory_sync();
    let data = directory.path().join("data");
    let source = Data::with(&texts(0..3));
    let destination = directory.path().join("copy");
    let backup = ["backup", destination.to_str().unwrap()];
    let lines = directory.path().join("lines");
    fs::write(&lines, lines_of(&texts(0..1))).unwrap();
    let import = ["import", lines.to_str().unwrap()];
    for (words, path) in [
        (&["serve", "--listen", "127.0.0.1:0"][..], &*data),
        (&import, &data),
        (&backup, source.path()),
    ] {
        let outcome = verb(disk.digestd(), words, path);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        for part in [
            "the file system of ",
            "does not make the names of files durable",
            "digestd doctor",
        ] {
            assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
        }
    }
}

/// It shows when a segment is made, and the free space says nothing of it.
#[test]
#[ignore = "needs strace"]
fn a_quota_that_is_used_up_refuses_new_messages_and_is_named() {
    let data = tempfile::tempdir().unwrap();
    let server = inject(data.path(), "fallocate", "error=EDQUOT:when=3..6").start();
    let mut client = server.client();
    let mut post = |number: usize| {
        let text = format!("{number} {}", "x".repeat(20_000));
        client.post(&text).unwrap().status
    };
    let full = (0..200).find(|number| post(*number) == 507);
    let full = full.expect("nothing is refused");
    let line = server.wait_for("the quota of this user");
    assert!(line.contains("WARN"), "{line}");
    let missing = Digest::of(b"missing");
    assert_eq!(server.client().get(&missing).unwrap().status, 404);
    server.wait_for("the disk has room again");
    assert_eq!(post(full), 201);
    let log = server.stop();
    assert!(
        !log.contains("ERROR") && !log.contains("nearly full"),
        "{log}"
    );
    // Free space that is nobody's to take is no reason to say so again every second.
    assert_eq!(log.matches("the quota of this user").count(), 1, "{log}");
}

/// As on file systems that copy what is written over, and over NFS: a group is refused whose first write finds no
/// room, and the store goes on when there is.
#[test]
#[ignore = "needs strace"]
fn a_write_into_the_log_that_finds_no_room_refuses_its_messages_and_nothing_else() {
    for (error, is_refused) in [("EDQUOT", true), ("ENOSPC", true), ("EIO", false)] {
        let data = tempfile::tempdir().unwrap();
        let server = inject(
            data.path(),
            "pwrite64",
            &format!("error={error}:when=20..23"),
        )
        .through(["-P", data.path().join("log/00000001.log").to_str().unwrap()])
        .start();
        let mut client = server.client();
        let (mut acked, mut refused) = (Vec::new(), Vec::new());
        for number in 0..60 {
            let text = format!("{error} {number}");
            match client.post(&text).unwrap().status {
                201 => acked.push(text),
                507 if is_refused => refused.push(text),
                503 if !is_refused => refused.push(text),
                status => panic!("{error}: {status}"),
            }
        }
        assert!(!acked.is_empty() && !refused.is_empty(), "{error}");
        if is_refused {
            server.wait_for("the disk has room again");
        }
        for text in &acked {
            let digest = Digest::of(text.as_bytes());
            assert_eq!(client.fetch(&digest).as_ref(), Some(text));
        }
        for text in &refused {
            let started = Instant::now();
            let mut post = || client.post(text).unwrap().status;
            let mut status = post();
            while status == 507 && started.elapsed() < PATIENCE {
                status = post();
            }
            assert_eq!(status, if is_refused { 201 } else { 503 }, "{error}");
        }
        assert_eq!(server.log().contains("ERROR"), !is_refused, "{error}");
        server.kill();
        let outcome = run(
            digestd().arg("verify").arg("--data-dir").arg(data.path()),
            b"",
        );
        assert_eq!(outcome.code, Some(0), "{error}: {outcome:?}");
    }
}

/// Under `ulimit -f` a write beyond it would end the process by a signal.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_with_a_text() {
    let (data, _) = store();
    let directory = tempfile::tempdir().unwrap();
    let export = directory.path().join("export");
    let copy = directory.path().join("copy");
    let new = directory.path().join("new");
    fs::write(&export, lines_of(&texts(0..10))).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    for words in [
        vec![
            "export".into(),
            "-o".into(),
            path(&directory.path().join("all")),
            "--data-dir".into(),
            path(data.path()),
        ],
        vec![
            "backup".into(),
            path(&copy),
            "--data-dir".into(),
            path(data.path()),
        ],
        vec![
            "import".into(),
            path(&export),
            "--data-dir".into(),
            path(&new),
        ],
        vec![
            "serve".into(),
            "--listen".into(),
            "127.0.0.1:0".into(),
            "--data-dir".into(),
            path(&new),
        ],
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f 8; exec \"$@\"", "sh"]);
        command.arg(env!("CARGO_BIN_EXE_digestd")).args(&words);
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(1), "{words:?}: {outcome:?}");
        assert!(
            outcome.stderr.contains("File too large"),
            "{words:?}: {outcome:?}"
        );
    }
}

/// `verify` opens the index, and the engine of the index writes to do so.
#[test]
fn a_write_that_verify_may_not_make_is_an_error_and_no_finding() {
    let (data, _) = store();
    for blocks in ["1", "8", "64", "400"] {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f \"$1\"; shift; exec \"$@\"", "sh", blocks]);
        command.arg(env!("CARGO_BIN_EXE_digestd"));
        command.args(["verify", "--data-dir"]).arg(data.path());
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(1), "{blocks}: {outcome:?}");
        assert_eq!(outcome.stdout, b"", "{blocks}: {outcome:?}");
        assert!(
            outcome.stderr.contains("cannot use the index")
                && outcome.stderr.contains("File too large"),
            "{blocks}: {outcome:?}"
        );
    }
    // It did no harm.
    let outcome = run(
        digestd().arg("verify").arg("--data-dir").arg(data.path()),
        b"",
    );
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}
