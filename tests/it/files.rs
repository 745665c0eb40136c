//! Who may read and write the files that the program makes, and that it never writes through a link.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use digestd::digest::Digest;
use flate2::write::GzEncoder;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::process::{Digestd, Launch, Outcome, digestd, run};
use crate::store_support::{Data, assert_holds, close, texts};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| {
        let inside = if path.is_dir() {
            walk(&path)
        } else {
            Vec::new()
        };
        [vec![path], inside].concat()
    };
    paths.flat_map(below).collect()
}

/// Runs the program where every file may be read and written by everybody, unless it says otherwise.
fn run_openly<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Outcome {
    let mut command = Command::new("sh");
    command.args(OPENLY).arg(digestd().get_program());
    run(command.args(words), b"")
}

const OPENLY: [&str; 2] = ["-c", "umask 0; exec \"$0\" \"$@\""];

#[test]
fn nothing_that_is_made_is_for_others_wherever_it_is_made() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| place.path().join(name);
    let data = at("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let server = Launch::new(&data)
        .through([&["sh"], &OPENLY[..]].concat())
        .option("--log-file", at("server.log"))
        .option("--log-max-size", "1KiB")
        .start_elsewhere(&at("server.log"));
    let mut client = server.client();
    for number in 0..20 {
        client.publish(&format!("message {number}")).unwrap();
    }
    server.stop();
    assert!(at("server.log.1").exists());
    for (verb, rest) in [
        ("backup", vec![at("copy")]),
        ("verify", vec![]),
        ("export", vec!["-o".into(), at("all.ndjson")]),
        (
            "export",
            vec!["-o".into(), at("all.tar"), "--format=tar".into()],
        ),
        ("compact", vec![]),
    ] {
        let words = [&[verb.into(), "--data-dir".into(), data.clone()], &*rest].concat();
        let outcome = run_openly(&words);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let paths = walk(place.path());
    assert!(paths.iter().any(|path| path.ends_with("data/index/0/db")));
    for path in paths.iter().filter(|path| **path != data) {
        assert_eq!(mode(path) & 0o077, 0, "{}", path.display());
    }
}

/// Version 0.1.0 left that to the umask.
#[test]
fn an_index_that_others_could_look_into_is_shut() {
    let data = Data::with(&texts(0..30));
    let part = data.path().join("index/2");
    fs::set_permissions(&part, Permissions::from_mode(0o755)).unwrap();
    close(data.open());
    assert_eq!(mode(&part), 0o700);
}

#[test]
fn a_segment_or_a_part_of_the_index_that_is_a_link_is_not_followed() {
    let texts = texts(0..300);
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    for verb in ["export", "verify", "compact", "serve"] {
        let data = Data::with(&texts);
        let segment = data.path().join("log/00000001.log");
        fs::rename(&segment, &target).unwrap();
        symlink(&target, &segment).unwrap();
        let before = fs::read(&target).unwrap();
        let mut command = digestd();
        command.arg(verb).arg("--data-dir").arg(data.path());
        if verb == "serve" {
            command.args(["--listen", "127.0.0.1:0", "--body-max", "32KiB"]);
        }
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(1), "{verb}: {outcome:?}");
        let named = "00000001.log is a symbolic link";
        assert!(outcome.stderr.contains(named), "{verb}: {outcome:?}");
        assert!(fs::read(&target).unwrap() == before, "{verb}");
    }
    for name in [
        "index/1",
        "index/3/db",
        "index/0/conf",
        "index/2/snap.00000000000000AB",
    ] {
        let data = Data::with(&texts);
        let link = data.path().join(name);
        if link.is_dir() {
            fs::remove_dir_all(&link).unwrap();
        } else if link.exists() {
            fs::remove_file(&link).unwrap();
        }
        fs::write(&target, "precious").unwrap();
        symlink(&target, &link).unwrap();
        let store = data.open();
        assert_holds(&store, &texts);
        close(store);
        assert_eq!(fs::read(&target).unwrap(), b"precious", "{name}");
        assert!(!link.is_symlink(), "{name}");
    }
}

#[test]
fn a_file_that_has_another_name_is_not_emptied() {
    let texts = texts(0..30);
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    for (name, verb) in [
        ("LOCK", "verify"),
        ("LOCK", "compact"),
        ("checkpoint.new", "export"),
        ("DURABILITY.new", "import"),
    ] {
        let data = Data::with(&texts);
        data.remove(name);
        data.remove("DURABILITY");
        fs::write(&victim, "precious").unwrap();
        fs::hard_link(&victim, data.path().join(name)).unwrap();
        let mut command = digestd();
        let outcome = run(command.arg(verb).arg("--data-dir").arg(data.path()), b"");
        assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
        let said = format!("{name} is a file that has another name too");
        assert!(outcome.stderr.contains(&said), "{name}: {outcome:?}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
    }
}

/// Exports a few messages to `all` in `directory`, in both forms.
fn export(directory: &Path, data: &Data, format: &str) -> Outcome {
    let mut command = digestd();
    command.args(["export", "--format", format, "--data-dir"]);
    command
        .arg(data.path())
        .arg("--output")
        .arg(directory.join("all"));
    run(&mut command, b"")
}

#[test]
fn an_export_is_not_written_through_what_others_left_in_its_place() {
    let data = Data::with(&texts(0..30));
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    let part = directory.path().join("all.part");
    let kinds: [(&str, &dyn Fn()); 5] = [
        ("a link", &|| symlink(&victim, &part).unwrap()),
        ("a link to nothing", &|| symlink("nothing", &part).unwrap()),
        ("another name of a file", &|| {
            fs::hard_link(&victim, &part).unwrap();
        }),
        ("a pipe", &|| mkfifoat(CWD, &part, Mode::RWXU).unwrap()),
        ("a directory", &|| fs::create_dir(&part).unwrap()),
    ];
    for (what, make) in kinds {
        for format in ["ndjson", "tar"] {
            fs::write(&victim, "precious").unwrap();
            make();
            let outcome = export(directory.path(), &data, format);
            assert_eq!(outcome.code, Some(1), "{what}: {outcome:?}");
            let said = "all.part: what is there is a link, no file, or another user's";
            assert!(outcome.stderr.contains(said), "{what}: {outcome:?}");
            assert_eq!(fs::read(&victim).unwrap(), b"precious", "{what}");
            assert!(!directory.path().join("nothing").exists());
            let is_directory = part.is_dir();
            let removed = if is_directory {
                fs::remove_dir(&part)
            } else {
                fs::remove_file(&part)
            };
            removed.unwrap();
        }
    }
}

/// Downloads that are under way are called so, too.
#[test]
fn a_file_of_the_same_name_that_is_no_export_is_left_alone() {
    let data = Data::with(&texts(0..30));
    let directory = tempfile::tempdir().unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"somebody's own").unwrap();
    let gzip = gzip.finish().unwrap();
    let sums = format!("{}  a file\n", Digest::of(b"a file"));
    for name in ["all", "all.gz", "all.zst"] {
        let part = directory.path().join(format!("{name}.part"));
        for content in [&b"precious"[..], b"{\"key\": 1}\n", sums.as_bytes(), &gzip] {
            fs::write(&part, content).unwrap();
            let mut command = digestd();
            command
                .args(["export", "--data-dir"])
                .arg(data.path())
                .arg("-o");
            let outcome = run(command.arg(directory.path().join(name)), b"");
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            let said = format!("{}: what is there is not an export", part.display());
            assert!(outcome.stderr.contains(&said), "{outcome:?}");
            assert_eq!(fs::read(&part).unwrap(), content);
        }
    }
}

#[test]
fn what_an_export_is_written_to_is_a_file_of_a_kind_that_is_written() {
    let data = Data::with(&texts(0..3));
    let directory = tempfile::tempdir().unwrap();
    for (name, code, said) in [
        ("all.xz", 2, "name it .gz or .zst"),
        ("all.tar.BZ2", 2, "name it .gz or .zst"),
        ("all.tgz", 2, "name it .gz or .zst"),
        (
            "/dev/null",
            1,
            "/dev/null is no file; -o - writes to standard output",
        ),
        (".", 1, ". is a directory; name a file in it"),
    ] {
        let mut command = digestd();
        command
            .current_dir(directory.path())
            .args(["export", "--data-dir"]);
        let outcome = run(command.arg(data.path()).args(["-o", name]), b"");
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn an_export_that_was_refused_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let data = Data::with(&texts(0..30));
    let held = Digestd::start(&directory.path().join("held"));
    let nowhere = directory.path().join("nowhere");
    let out = directory.path().join("out");
    fs::create_dir(&out).unwrap();
    for (option, source) in [
        ("--data-dir", nowhere.to_str().unwrap()),
        (
            "--data-dir",
            directory.path().join("held").to_str().unwrap(),
        ),
        ("--url", &held.url()),
        ("--url", "http://127.0.0.1:1"),
    ] {
        for name in ["all", "all.gz", "all.zst"] {
            let mut command = digestd();
            command.args(["export", option, source, "-o"]);
            let outcome = run(command.arg(out.join(name)), b"");
            assert_ne!(outcome.code, Some(0), "{outcome:?}");
            assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{outcome:?}");
        }
    }
    // What there is of an earlier one stays.
    let mut whole = digestd();
    let whole = run(whole.args(["export", "--data-dir"]).arg(data.path()), b"").stdout;
    let part = out.join("all.part");
    fs::write(&part, &whole).unwrap();
    let mut command = digestd();
    command.args(["export", "--url", &held.url(), "-o"]);
    assert_eq!(run(command.arg(out.join("all")), b"").code, Some(1));
    assert!(fs::read(&part).unwrap() == whole);
}

#[test]
fn an_interrupted_export_of_an_earlier_version_is_shut_before_it_is_gone_on_with() {
    let data = Data::with(&texts(0..30));
    let directory = tempfile::tempdir().unwrap();
    let part = directory.path().join("all.part");
    fs::write(&part, "").unwrap();
    fs::set_permissions(&part, Permissions::from_mode(0o644)).unwrap();
    let outcome = export(directory.path(), &data, "ndjson");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(mode(&directory.path().join("all")), 0o600);
}

#[test]
#[ignore = "needs root"]
fn an_interrupted_export_of_another_user_is_not_gone_on_with() {
    let data = Data::with(&texts(0..30));
    let directory = tempfile::tempdir().unwrap();
    let part = directory.path().join("all.part");
    fs::write(&part, "their lines\n").unwrap();
    crate::full::as_root("chown", &["12345"], &part);
    let outcome = export(directory.path(), &data, "ndjson");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("another user's"), "{outcome:?}");
    assert_eq!(fs::read(&part).unwrap(), b"their lines\n");
}

#[test]
fn a_core_dump_would_hold_messages_and_there_is_none() {
    let data = tempfile::tempdir().unwrap();
    let words = "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"";
    let server = Launch::new(data.path())
        .through(["sh", "-c", words])
        .start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let numbers: Vec<_> = line.unwrap().split_whitespace().skip(4).take(2).collect();
    assert_eq!(numbers, ["0", "0"]);
    server.stop();
}

#[test]
fn a_start_and_every_reload_warn_of_what_others_may_write_or_must_not_read() {
    let place = tempfile::tempdir().unwrap();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    set_mode(place.path(), 0o755);
    let at = |name: &str| place.path().join(name);
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(at("localhost.crt"), cert.pem()).unwrap();
    fs::write(at("localhost.key"), signing_key.serialize_pem()).unwrap();
    fs::create_dir(at("data")).unwrap();
    let token = format!("ci read {}\n", "ab".repeat(32));
    fs::write(at("tokens"), token).unwrap();
    fs::write(at("list"), "").unwrap();
    let modes = [
        ("data", 0o777),
        ("tokens", 0o646),
        ("list", 0o644),
        ("localhost.key", 0o644),
    ];
    for (name, mode) in modes {
        set_mode(&at(name), mode);
    }
    let server = Launch::new(&at("data"))
        .option("--tls-listen", "127.0.0.1:0")
        .option("--tokens", at("tokens"))
        .option("--list-file", at("list"))
        .option("--tls-cert", at("localhost.crt"))
        .option("--tls-key", at("localhost.key"))
        .start();
    let key = "localhost.key has mode 0644: others may read it; mend that with chmod o-r ";
    for said in [
        "data has mode 0777: others may write it",
        "tokens has mode 0646: others",
        key,
    ] {
        let line = server.wait_for(said);
        assert!(line.contains("WARN"), "{line}");
    }
    set_mode(&at("data"), 0o755);
    set_mode(&at("list"), 0o666);
    server.signal(Signal::HUP);
    server.wait_for_times("tokens has mode 0646", 2);
    server.wait_for_times(key, 2);
    server.wait_for("list has mode 0666: others may write it");
    // As a new certificate is put there, without a signal.
    set_mode(&at("tokens"), 0o644);
    set_mode(&at("list"), 0o600);
    fs::copy(at("localhost.key"), at("new.key")).unwrap();
    fs::rename(at("new.key"), at("localhost.key")).unwrap();
    server.wait_for_times(key, 3);
    let log = server.stop();
    assert_eq!(log.matches(" has mode ").count(), 7, "{log}");
}

#[test]
fn a_start_warns_of_a_key_of_its_own_that_others_may_read() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let launch = Launch::new(place.path())
        .option("--tls-listen", "127.0.0.1:0")
        .env("DIGESTD_TLS_SELF_SIGNED", "on");
    let log = launch.start().stop();
    assert!(!log.contains("localhost.key"), "{log}");
    let key = place.path().join("localhost.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let server = launch.start();
    server.wait_for("localhost.key has mode 0644: others may read it");
    server.stop();
}

#[test]
fn a_start_warns_once_of_each_file_that_can_be_replaced_in_a_directory_above() {
    let place = tempfile::tempdir().unwrap();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    set_mode(place.path(), 0o755);
    let shared = place.path().join("shared");
    let [data, tokens, list] = ["data", "tokens", "list"].map(|name| shared.join(name));
    fs::create_dir_all(&data).unwrap();
    fs::write(&tokens, format!("ci read {}\n", "ab".repeat(32))).unwrap();
    fs::write(&list, "").unwrap();
    for path in [&tokens, &list] {
        set_mode(path, 0o600);
    }
    set_mode(&shared, 0o777);
    let server = Launch::new(&data)
        .option("--tokens", &tokens)
        .option("--list-file", &list)
        .start();
    let said = |path: &Path| {
        let (path, shared) = (path.display(), shared.display());
        format!(
            "{path} can be replaced: {shared} has mode 0777: others may write it; mend that with chmod o-w {shared}"
        )
    };
    for path in [&data, &tokens, &list] {
        assert!(server.wait_for(&said(path)).contains("WARN"));
    }
    // As /tmp is, where nobody removes what is of others.
    set_mode(&shared, 0o1777);
    server.signal(Signal::HUP);
    server.wait_for("were read again");
    let log = server.stop();
    assert_eq!(log.matches(" can be replaced: ").count(), 3, "{log}");
}

#[test]
#[ignore = "needs root, who gives away a directory"]
fn a_group_that_this_process_is_not_in_should_not_write() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o770)).unwrap();
    let doctor = || run(digestd().arg("doctor").arg(directory.path()), b"");
    let said = "its group may write it; mend that with chmod g-w ";
    assert!(!String::from_utf8(doctor().stdout).unwrap().contains(said));
    crate::full::as_root("chgrp", &["12345"], directory.path());
    assert!(String::from_utf8(doctor().stdout).unwrap().contains(said));
}

/// As systemd, Kubernetes and Docker mount secrets.
#[test]
#[ignore = "needs root, who mounts a file system"]
fn a_secret_that_is_mounted_from_memory_for_reading_is_for_nobody_else() {
    const MOUNT: &str = "mount -t tmpfs -o mode=755 tmpfs \"$0\" && echo digestd_0 >\"$0/token\" \
                         && chmod 644 \"$0/token\" && mount -o \"remount,$1\" \"$0\" \
                         && exec \"$2\" get \"$3\" --url http://127.0.0.1:1 --token-file \"$0/token\"";
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    for (option, is_said) in [("rw", true), ("ro", false)] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNT]);
        command.arg(directory.path()).arg(option);
        let digest = "0".repeat(64);
        let outcome = run(command.arg(digestd().get_program()).arg(digest), b"");
        assert_eq!(outcome.code, Some(7), "{outcome:?}");
        let said = outcome
            .stderr
            .contains("token has mode 0644: others may read it");
        assert_eq!(said, is_said, "{option}: {outcome:?}");
    }
}
