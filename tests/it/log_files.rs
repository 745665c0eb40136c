//! Where the log file may be, and what becomes of it when a start fails.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use digestd::store::is_own_name;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::process::{Client, Launch, Outcome, Process, address_in, digestd, run};
use crate::store_support::{Data, texts};

/// Starts a server in `directory`, which must fail.
fn fail(directory: &Path, options: &[&str]) -> Outcome {
    let mut command = digestd();
    command
        .current_dir(directory)
        .args(["serve", "--listen", "127.0.0.1:0"]);
    run(command.args(options), b"")
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

#[test]
fn a_log_file_is_never_what_the_store_has_for_itself() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    symlink("store", at("link")).unwrap();
    symlink("store/checkpoint", at("dangling.log")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let before = names(directory.path());
    for (data, log) in [
        ("store", "store/FORMAT"),
        ("store", "./store/../store/LOCK"),
        ("store", "store/log"),
        ("store", "store/log/server.log"),
        ("./store", "store/index/0/server.log"),
        ("store", "store/note"),
        ("store", "store/reserve.new"),
        ("store", "link/checkpoint"),
        ("link", "store/DURABILITY"),
        ("store", "dangling.log"),
        ("store", "store/localhost.key"),
        ("store", "store/localhost.crt"),
        ("store", "store"),
        ("store/in/it", "store"),
        ("store.1/in/it", "store"),
    ] {
        let outcome = fail(directory.path(), &["--data-dir", data, "--log-file", log]);
        assert_eq!(outcome.code, Some(2), "{log}: {outcome:?}");
        let said = format!("--log-file {log} is, or becomes");
        assert!(outcome.stderr.contains(&said), "{outcome:?}");
        assert_eq!(names(directory.path()), before, "{log}");
    }
    let listen = ["--data-dir", "store", "--listen", "unix:store/NOTE"];
    let outcome = fail(directory.path(), &listen);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    let outcome = fail(
        directory.path(),
        &["--data-dir", "store", "--log-file", "loop"],
    );
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
}

/// Where a part of the store has another place, by a link.
#[test]
fn a_log_file_is_not_where_a_link_of_the_store_leads() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), directory.path().join("index")).unwrap();
    let log = elsewhere.path().join("server.log");
    let log = ["--data-dir", ".", "--log-file", log.to_str().unwrap()];
    let outcome = fail(directory.path(), &log);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(names(elsewhere.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_log_file_is_no_other_file_of_the_server_and_never_becomes_one() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("rules"), "precious").unwrap();
    fs::hard_link(
        directory.path().join("rules"),
        directory.path().join("same"),
    )
    .unwrap();
    for (log, options) in [
        ("./rules", ["--tokens", "rules"]),
        ("same", ["--tokens", "rules"]),
        ("rules", ["--tokens", "rules.1"]),
        ("rules", ["--list-file", "rules.12.gz"]),
        ("rules", ["--list-file", "rules.gz.part"]),
        ("rules", ["--listen", "unix:rules.2"]),
        ("rules", ["--listen", "unix:rules"]),
    ] {
        let options = [&options[..], &["--data-dir", "store", "--log-file", log]].concat();
        let outcome = fail(directory.path(), &options);
        assert_eq!(outcome.code, Some(2), "{options:?}: {outcome:?}");
        assert!(
            outcome
                .stderr
                .contains(&format!("the file of {}", options[0])),
            "{outcome:?}"
        );
    }
    let tls = "--tls-listen 127.0.0.1:0 --data-dir store --log-file rules --tls-cert";
    for files in ["rules --tls-key key", "certificate --tls-key rules.3"] {
        let options = format!("{tls} {files}");
        let outcome = fail(directory.path(), &options.split(' ').collect::<Vec<_>>());
        assert_eq!(outcome.code, Some(2), "{options}: {outcome:?}");
    }
    assert_eq!(
        fs::read(directory.path().join("rules")).unwrap(),
        b"precious"
    );
    assert!(!directory.path().join("store").exists());
    // Names that only look alike.
    let outcome = fail(
        directory.path(),
        &[
            "--tokens",
            "rules.old",
            "--data-dir",
            "store",
            "--log-file",
            "rules",
        ],
    );
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
}

/// Names of the operator's own choice in the data directory, before there is a store and after.
#[test]
fn a_log_file_and_a_socket_of_other_names_may_be_in_the_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("logs/server.log");
    let socket = format!(
        "127.0.0.1:0,unix:{}",
        data.path().join("http.sock").display()
    );
    let launch = Launch::new(data.path())
        .option("--log-file", &file)
        .option("--listen", socket);
    for _ in 0..2 {
        launch.start_elsewhere(&file).stop();
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn what_is_no_file_is_named_and_a_pipe_without_a_reader_keeps_no_start_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fifo(&at("pipe"));
    fs::create_dir(at("logs")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for (log, reason) in [
        ("pipe", "it is a pipe that nobody reads"),
        ("logs", "it is a directory"),
        ("socket", "it is a socket"),
    ] {
        let outcome = fail(
            directory.path(),
            &["--data-dir", "store", "--log-file", log],
        );
        assert_eq!(outcome.code, Some(1), "{log}: {outcome:?}");
        let said = format!("cannot write to the log file {log}: {reason}");
        assert!(outcome.stderr.contains(&said), "{outcome:?}");
        assert!(!at("store").exists());
    }
}

/// It gets every line, more than a file may have, and loses its reader without harm.
#[test]
fn a_pipe_with_a_reader_is_a_log_that_is_not_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    fifo(&pipe);
    let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut seen = String::new();
    let mut read_until = |text: &str| {
        while !seen.contains(text) {
            let mut bytes = [0; 4096];
            let length = reader.read(&mut bytes).unwrap();
            seen.push_str(str::from_utf8(&bytes[..length]).unwrap());
        }
        let line = seen.lines().find(|line| line.contains(text));
        line.unwrap().to_owned()
    };
    let command = Launch::new(&directory.path().join("store"))
        .option("--log-file", &pipe)
        .option("--log-max-size", "1KiB")
        .command()
        .spawn();
    let mut server = Process(command.unwrap());
    let mut client = Client::connect(address_in(&read_until("listening on"))).unwrap();
    for number in 0..20 {
        let id = format!("id{number}end");
        let fields = [("X-Request-Id", &*id)];
        assert_eq!(
            client
                .ask("GET", "/messages/0", &fields, b"")
                .unwrap()
                .status,
            404
        );
        read_until(&id);
    }
    drop(reader);
    for _ in 0..20 {
        assert_eq!(
            client.ask("GET", "/messages/0", &[], b"").unwrap().status,
            404
        );
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(
        names(directory.path()),
        [pipe, directory.path().join("store")]
    );
}

fn fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RWXU).unwrap();
}

#[test]
fn all_that_a_store_makes_has_names_of_its_own() {
    let data = Data::with(&texts(0..30));
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("copy");
    let mut backup = digestd();
    backup
        .arg("backup")
        .arg(&copied)
        .arg("--data-dir")
        .arg(data.path());
    assert_eq!(run(&mut backup, b"").code, Some(0));
    Launch::new(data.path())
        .option("--body-max", "32KiB")
        .start()
        .stop();
    for path in names(data.path()).into_iter().chain(names(&copied)) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(is_own_name(name), "{name}");
    }
}
