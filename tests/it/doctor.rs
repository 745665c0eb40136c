//! `digestd doctor`: what it says of a directory, and that it leaves nothing there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::process::{Outcome, digestd, run};

fn doctor(directory: &Path, options: &[&str]) -> Outcome {
    run(
        digestd()
            .args(["doctor", "--data-dir"])
            .arg(directory)
            .args(options),
        b"",
    )
}

/// The mark of a check, `ok`, `warn` or `fail`, and what is said of it.
fn line<'a>(outcome: &'a Outcome, what: &str) -> (&'a str, &'a str) {
    let text = std::str::from_utf8(&outcome.stdout).unwrap();
    let line = text.lines().find(|line| line[6..].starts_with(what));
    let line = line.unwrap_or_else(|| panic!("no line about {what}: {text}"));
    (line[..5].trim_end(), &line[19..])
}

#[test]
fn every_check_of_a_usable_directory_is_a_line_and_nothing_stays_behind() {
    let directory = tempfile::tempdir().unwrap();
    let outcome = doctor(directory.path(), &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for what in [
        "directory",
        "clock",
        "descriptors",
        "file system",
        "free space",
    ] {
        assert_ne!(line(&outcome, what).0, "fail", "{outcome:?}");
    }
    let (_, syncs) = line(&outcome, "fdatasync");
    assert!(syncs.starts_with("median of 200: "), "{syncs}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_others_can_write_to_is_doubtful() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(line(&doctor(directory.path(), &[]), "directory").0, "ok");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let outcome = doctor(directory.path(), &[]);
    assert_eq!(line(&outcome, "directory").0, "warn");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn what_is_no_directory_fails_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, words) in [
        (file, "is not a directory"),
        (
            directory.path().join("nowhere"),
            "in which it is to be made",
        ),
    ] {
        let outcome = doctor(&path, &["--crash-test"]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let (mark, text) = line(&outcome, "directory");
        assert_eq!(mark, "fail");
        assert!(text.contains(words), "{text}");
        let text = str::from_utf8(&outcome.stdout).unwrap();
        assert_eq!(text.matches("fail").count(), 1, "{text}");
        assert_eq!(outcome.stderr, "digestd: 1 check failed\n");
    }
}

#[test]
fn the_directory_is_named_like_that_of_other_commands_or_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("data/store")).unwrap();
    let path = directory.path().join("data");
    let elsewhere = directory.path().join("nowhere");
    for (command, expected) in [
        (digestd().arg("doctor"), Path::new("data/store")),
        (
            digestd().arg("doctor").env("DIGESTD_DATA_DIR", &path),
            &path,
        ),
        (
            digestd()
                .arg("doctor")
                .arg(&path)
                .env("DIGESTD_DATA_DIR", elsewhere),
            &path,
        ),
    ] {
        let outcome = run(command.current_dir(directory.path()), b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let (_, text) = line(&outcome, "directory");
        assert!(text.starts_with(&*expected.to_string_lossy()), "{text}");
    }
}

#[test]
fn a_crash_test_kills_writers_and_finds_everything_they_were_promised() {
    let directory = tempfile::tempdir().unwrap();
    let outcome = doctor(directory.path(), &["--crash-test"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let (mark, text) = line(&outcome, "crash test");
    assert_eq!(mark, "ok");
    assert!(text.starts_with("20 writers killed, "), "{text}");
    assert!(text.ends_with(" messages promised, none lost"), "{text}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
