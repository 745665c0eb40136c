//! Which directories a store refuses: those of others, of a newer version, of another process, and
//! those whose segments are too small. A refused directory is left as it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use digestd::store::{OpenError, Options};

use crate::full::as_root;
use crate::process::{Launch, digestd, run};
use crate::store_support::{
    Data, MESSAGE_BYTES_MAX, SEGMENT_BYTES, assert_holds, close, delete, options, text_of, texts,
};

#[test]
fn a_newer_format_is_refused() {
    let data = Data::with(&texts(0..3));
    data.write("FORMAT", "digestd store 2\nsomething new\n");
    let error = data.claim().unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }));
    assert!(error.to_string().contains("has format 2"));
}

#[test]
fn a_directory_whose_format_is_not_ours_is_refused_and_left_alone() {
    for format in [
        "",
        "rubbish",
        "digestd store\n",
        "digestd store 0\nsegment-size 65536\n",
        "digestd store 1\n",
        "digestd store 1\nsegment-size many\n",
        "digestd store -1\nsegment-size 65536\n",
    ] {
        let data = Data::with(&texts(0..3));
        let log = data.log();
        data.write("FORMAT", format);
        let error = data.claim().unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{format:?}");
        assert_eq!(data.read("FORMAT"), format.as_bytes());
        assert!(data.log() == log);
    }
}

#[test]
fn a_log_without_a_format_is_refused() {
    let data = Data::with(&texts(0..3));
    data.remove("FORMAT");
    let error = data.claim().unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }));
    assert!(!data.has("FORMAT"));
}

/// One flipped bit turns 65536 into another number of five digits.
#[test]
fn a_segment_size_that_was_changed_costs_no_message() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    for (index, size) in [
        (true, "25536"),
        (false, "25536"),
        (true, "65537"),
        (false, "65537"),
    ] {
        println!("{size}, index kept: {index}");
        let copy = data.copy();
        copy.write("FORMAT", format!("digestd store 1\nsegment-size {size}\n"));
        if !index {
            copy.leave_only_the_log();
        }
        let small = Options {
            message_bytes_max: 10_000,
            ..options()
        };
        // Refusing it is as good as working with it.
        let _ = copy.try_open(small);
        copy.take("FORMAT", &data);
        let store = copy.open();
        assert_holds(&store, &texts);
    }
}

#[test]
fn a_directory_is_held_by_one_store_at_a_time() {
    let data = Data::new();
    let store = data.open();
    let error = data.claim().unwrap_err();
    let OpenError::Held { holder, .. } = &error else {
        panic!("{error}");
    };
    let pid = format!("pid {},", std::process::id());
    assert!(holder.starts_with(&pid), "{holder}");
    assert!(error.to_string().contains(&pid));
    close(store);
    data.claim().unwrap();
}

#[test]
fn a_limit_that_no_segment_can_hold_is_refused() {
    let data = Data::with(&texts(0..3));
    let larger = Options {
        message_bytes_max: MESSAGE_BYTES_MAX as u64 + 1,
        ..options()
    };
    let error = data.try_open(larger).unwrap_err();
    assert!(matches!(
        error,
        OpenError::SegmentTooSmall {
            segment_bytes: SEGMENT_BYTES,
            ..
        }
    ));
    data.assert_sound(&texts(0..3));
}

/// Whatever is in a directory without `FORMAT`, it is somebody's.
#[test]
fn a_directory_with_something_of_others_is_refused_and_left_as_it_is() {
    let foreign: [(&str, &[&str]); 10] = [
        ("notes on backups", &["BACKUP"]),
        ("an index of something else", &["index/rows"]),
        ("an index with a data file", &["index/db"]),
        ("a lock of something else", &["LOCK"]),
        ("a checkpoint", &["checkpoint"]),
        ("a reserve", &["reserve"]),
        ("notes", &["notes.txt"]),
        ("a format in the making", &["FORMAT.new"]),
        ("a log in the making", &["log.new/00000001.log"]),
        (
            "hidden files and more",
            &[".git/HEAD", "LOCK", "index/rows"],
        ),
    ];
    for (what, names) in foreign {
        println!("{what}");
        let data = Data::new();
        for name in names {
            let path = data.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            data.write(name, "not ours");
        }
        let entries = || walk(data.path());
        let before = entries();
        for verb in ["serve", "import", "verify", "export", "compact"] {
            let mut command = digestd();
            command.arg(verb).arg("--data-dir").arg(data.path());
            if verb == "serve" {
                command.args(["--listen", "127.0.0.1:0"]);
            }
            let outcome = run(&mut command, b"");
            assert_eq!(outcome.code, Some(1), "{verb}: {outcome:?}");
            assert!(outcome.stderr.contains("FORMAT"), "{verb}: {outcome:?}");
        }
        let source = Data::with(&texts(0..3));
        let mut command = digestd();
        command.arg("backup").arg(data.path());
        let outcome = run(command.arg("--data-dir").arg(source.path()), b"");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(entries(), before);
        for name in names {
            assert_eq!(data.read(name), b"not ours");
        }
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(walk(&path));
        }
        paths.push(path);
    }
    paths.sort();
    paths
}

#[test]
fn what_a_file_system_a_killed_start_or_the_server_itself_left_is_no_obstacle() {
    let data = Data::new();
    for name in ["lost+found", "index", "index/lost+found"] {
        fs::create_dir(data.path().join(name)).unwrap();
    }
    data.write("LOCK", "pid 1\nstarted Thu, 01 Jan 1970 00:00:00 GMT\n");
    data.write("FORMAT.new", "digestd store 1\nsegme");
    data.write("localhost.crt", "a certificate");
    data.write("server.log.1", "an old log");
    let launch = Launch::new(data.path()).option("--log-file", data.path().join("server.log"));
    let server = launch
        .without("--log-format")
        .start_elsewhere(&data.path().join("server.log"));
    let mut client = server.client();
    let digest = client.publish("kept").unwrap();
    assert_eq!(client.fetch(&digest), Some("kept".into()));
    server.stop();
    assert_eq!(data.read("localhost.crt"), b"a certificate");
    assert!(data.has("lost+found"));
}

/// What a link points to is another's, and so is what is no file at all.
#[test]
fn links_are_neither_read_nor_written_through() {
    let texts = texts(0..30);
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    for name in ["LOCK", "FORMAT", "checkpoint.new"] {
        for content in ["precious", "digestd store 1\nsegment-size 65536\n"] {
            let data = Data::with(&texts);
            data.remove(name);
            fs::write(&target, content).unwrap();
            symlink(&target, data.path().join(name)).unwrap();
            let mut command = digestd();
            command.args(["serve", "--listen", "127.0.0.1:0", "--body-max", "32KiB"]);
            let outcome = run(command.arg("--data-dir").arg(data.path()), b"");
            assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
            assert!(outcome.stderr.contains("symbolic link"), "{outcome:?}");
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
    }
}

/// An index on a disk of its own, by a link or a mount, stays there when it is drawn again.
#[test]
fn an_index_in_another_place_is_drawn_there_again() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("lost+found")).unwrap();
    data.remove("index");
    symlink(elsewhere.path(), data.path().join("index")).unwrap();
    data.assert_sound(&texts);
    fs::write(elsewhere.path().join("1/db"), "rubbish").unwrap();
    data.assert_sound(&texts);
    // What is beside it there is another's.
    fs::create_dir(elsewhere.path().join("photos")).unwrap();
    fs::write(elsewhere.path().join("diary.txt"), "precious").unwrap();
    fs::write(elsewhere.path().join("2/db"), "rubbish").unwrap();
    data.assert_sound(&texts);
    let diary = fs::read(elsewhere.path().join("diary.txt")).unwrap();
    assert!(diary == b"precious" && elsewhere.path().join("photos").exists());
    assert!(data.path().join("index").is_symlink());
    assert!(elsewhere.path().join("lost+found").exists());
    assert!(elsewhere.path().join("1/db").exists());
}

#[test]
#[ignore = "needs root, who mounts a file system"]
fn an_index_on_a_file_system_of_its_own_is_drawn_again() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    data.remove("index");
    let index = data.path().join("index");
    fs::create_dir(&index).unwrap();
    as_root(
        "mount",
        &["-t", "tmpfs", "-o", "size=32m,mode=1777", "digestd"],
        &index,
    );
    for _ in 0..2 {
        data.assert_sound(&texts);
        data.write("index/1/db", "rubbish");
    }
    as_root("umount", &["-l"], &index);
}

/// The user of a service does not exist while it is stopped, so it is root who runs the verbs then.
#[test]
#[ignore = "needs root"]
fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    const USER: u32 = 12_345;
    let texts = texts(0..300);
    let data = Data::with(&texts);
    data.remove("index");
    let file = data.path().with_extension("ndjson");
    fs::write(&file, "{\"message\": \"imported\"}\n").unwrap();
    as_root("chown", &["-R", "12345:12346"], data.path());
    let record = data.record_of(&texts[5]);
    data.flip(&record.file, record.body().start * 8);
    for words in [
        ["export"].as_slice(),
        &["verify"],
        &["import", file.to_str().unwrap()],
        &["compact"],
        &["verify"],
    ] {
        let mut command = digestd();
        let outcome = run(command.args(words).arg("--data-dir").arg(data.path()), b"");
        assert!([Some(0), Some(3)].contains(&outcome.code), "{outcome:?}");
        for path in walk(data.path()) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let owner = (metadata.uid(), metadata.gid());
            assert_eq!(owner, (USER, USER + 1), "{words:?}: {}", path.display());
        }
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn what_a_killed_compaction_left_is_removed_by_the_next_start() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    for name in ["log.new", "index.old"] {
        fs::create_dir_all(data.path().join(name).join("0")).unwrap();
        data.write(&format!("{name}/00000001.log"), [1; 1000]);
    }
    let server = Launch::new(data.path())
        .option("--body-max", "32KiB")
        .start();
    assert!(!data.has("log.new") && !data.has("index.old"));
    server.stop();
    data.assert_sound(&texts);
}

/// A segment is a descriptor. The soft limit is what programs of another time can cope with; the hard one
/// is enough for one log, but not for two.
#[test]
fn verbs_need_as_many_descriptors_as_there_are_segments() {
    let texts: Vec<_> = (0..200).map(|number| text_of(number, 60_000)).collect();
    let data = Data::with(&texts);
    let store = data.open();
    assert!(delete(&store, &texts[5]).unwrap());
    close(store);
    let copy = Data::new();
    for (limits, words) in [
        ("ulimit -S -n 64", ["verify"].as_slice()),
        ("ulimit -S -n 64", &["export", "-o", "all"]),
        ("ulimit -n 300", &["backup", "COPY"]),
        ("ulimit -S -n 64", &["backup", "COPY"]),
        ("ulimit -S -n 64", &["compact"]),
    ] {
        let mut command = Command::new("sh");
        command.arg("-c");
        command.arg(format!("{limits} && exec \"$0\" \"$@\""));
        command.arg(env!("CARGO_BIN_EXE_digestd"));
        for word in words {
            match *word {
                "COPY" => command.arg(copy.path()),
                "all" => command.arg(data.path().with_extension("all")),
                word => command.arg(word),
            };
        }
        let outcome = run(command.arg("--data-dir").arg(data.path()), b"");
        assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
    }
    fs::remove_file(data.path().with_extension("all")).unwrap();
}

#[test]
fn a_failed_start_leaves_nothing_in_a_new_directory() {
    let above = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let empty = above.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let missing = above.path().join("not/there");
    for options in [
        ["--listen", &address],
        ["--free-min", "1000TB"],
        ["--tokens", "/nowhere/tokens"],
        ["--body-max", "1GiB"],
    ] {
        for directory in [&empty, &missing] {
            let mut command = digestd();
            command
                .args(["serve", "--segment-size", "64KiB", "--data-dir"])
                .arg(directory);
            if options[0] != "--listen" {
                command.args(["--listen", "127.0.0.1:0"]);
            }
            command.args(["--tls-listen", "127.0.0.1:0", "--tls-self-signed"]);
            let outcome = run(command.args(options), b"");
            assert!([Some(1), Some(5)].contains(&outcome.code), "{outcome:?}");
            let left = fs::read_dir(above.path()).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["empty"], "{options:?}");
            assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "{options:?}");
        }
    }
    // What was there stays.
    fs::write(empty.join("localhost.crt"), "of before").unwrap();
    let mut command = digestd();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--free-min", "1000TB"])
        .arg("--data-dir")
        .arg(&empty);
    assert_eq!(run(&mut command, b"").code, Some(1));
    let certificate = fs::read(empty.join("localhost.crt")).unwrap();
    assert_eq!(certificate, b"of before");
    let server = Launch::new(&empty).start();
    let digest = server.client().publish("kept").unwrap();
    server.stop();
    let mut command = digestd();
    command
        .args(["serve", "--listen", &address, "--data-dir"])
        .arg(&empty);
    assert_eq!(run(&mut command, b"").code, Some(5));
    let server = Launch::new(&empty).start();
    assert_eq!(server.client().fetch(&digest), Some("kept".into()));
}
