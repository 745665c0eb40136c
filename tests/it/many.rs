//! The verbs that ask for many messages at once, and batches that one request does not take: the real binary and
//! a real server, with a bad line between them where that matters.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson;

use crate::process::{Digestd, Launch, Outcome, digestd, run};

/// Lines for `put --batch`, and what it prints.
fn numbered(count: u32, padding: usize) -> (String, String) {
    let (mut lines, mut digests) = (String::new(), String::new());
    for number in 0..count {
        let text = format!("{number} {}", "x".repeat(padding));
        writeln!(lines, "{{\"message\": \"{text}\"}}").unwrap();
        writeln!(digests, "{}", Digest::of(text.as_bytes())).unwrap();
    }
    (lines, digests)
}

fn ask(url: &str, words: &[&str], input: &str) -> Outcome {
    run(digestd().args(words).args(["--url", url]), input.as_bytes())
}

fn text(outcome: &Outcome) -> &str {
    std::str::from_utf8(&outcome.stdout).unwrap()
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn export_line(text: &str) -> String {
    let mut line = Vec::new();
    ndjson::write(&mut line, &Message::new(text));
    String::from_utf8(line).unwrap()
}

/// A server with the messages `a` and `b`.
fn server(directory: &Path) -> Digestd {
    let server = Digestd::start(directory);
    for text in ["a", "b\n"] {
        assert_eq!(ask(&server.url(), &["put", text], "").code, Some(0));
    }
    server
}

/// Passes on what comes, but ends each connection after it gave its client so many bytes; of those after the
/// first `breaks`, none. Returns where it is, and how many there were.
fn cutting(server: SocketAddr, bytes: u64, breaks: u32) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let is_cut = counted.fetch_add(1, Relaxed) < breaks;
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            thread::spawn(move || {
                let bytes = if is_cut { bytes } else { u64::MAX };
                let _ = io::copy(&mut Read::by_ref(&mut server).take(bytes), &mut client);
                let _ = client.flush();
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    (url, count)
}

#[test]
fn a_batch_larger_than_the_server_takes_at_once_is_stored_whole() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path());
    let launch = launch
        .option("--batch-max", "256KiB")
        .option("--body-max", "64KiB");
    let server = launch.start();
    let (lines, digests) = numbered(3000, 500);
    assert!(lines.len() > 1_500_000);
    let outcome = ask(&server.url(), &["put", "--batch", "-"], &lines);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(text(&outcome), digests);
    assert_eq!(outcome.stderr, "");
    // A line that is too large for any request fails, and it alone.
    let long = format!("{{\"message\": \"{}\"}}\n", "y".repeat(70_000));
    let outcome = ask(&server.url(), &["put", "--batch", "-"], &(long + &lines));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(text(&outcome), digests);
    assert!(
        outcome.stderr.starts_with("digestd: line 1: "),
        "{outcome:?}"
    );
}

#[test]
fn a_batch_goes_on_after_broken_connections_and_prints_each_digest_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Digestd::start(directory.path());
    let (lines, digests) = numbered(5000, 20);
    // Somewhere in a line; before the first answer; within the head.
    for (bytes, breaks) in [(5_000, 6), (40_001, 3), (200, 2), (20, 2), (0, 2)] {
        let (url, connections) = cutting(server.address(), bytes, breaks);
        let outcome = ask(&url, &["put", "--batch", "-"], &lines);
        assert_eq!(outcome.code, Some(0), "{bytes}: {}", outcome.stderr);
        assert_eq!(text(&outcome), digests, "{bytes}");
        assert_eq!(connections.load(Relaxed), breaks + 1, "{bytes}");
    }
    // The same for look-ups.
    let (url, connections) = cutting(server.address(), 5_000, 4);
    let outcome = ask(&url, &["lookup"], &digests);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let found: Vec<_> = text(&outcome).lines().collect();
    assert_eq!(found.len(), 5000);
    for (line, digest) in found.iter().zip(digests.lines()) {
        let message = ndjson::read(line.as_bytes()).unwrap();
        assert_eq!(message.digest().to_string(), digest);
    }
    assert_eq!(connections.load(Relaxed), 5);
}

#[test]
fn a_batch_goes_on_with_a_server_that_was_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Digestd::start(&data);
    let address = server.address();
    let (lines, digests) = numbered(2, 20);
    let (first, second) = lines.split_at(lines.find('\n').unwrap() + 1);
    let mut command = digestd();
    command.args(["put", "--batch", "-", "--url", &server.url()]);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    input.write_all(first.as_bytes()).unwrap();
    let mut printed = vec![0; 65];
    output.read_exact(&mut printed).unwrap();
    server.signal(rustix::process::Signal::KILL);
    server.wait();
    let again = Launch::new(&data).option("--listen", address.to_string());
    let again = again.start();
    input.write_all(second.as_bytes()).unwrap();
    drop(input);
    output.read_to_end(&mut printed).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(String::from_utf8(printed).unwrap(), digests);
    again.stop();
}

#[test]
fn has_says_which_messages_are_missing() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    let url = server.url();
    let (a, b, c, d) = (digest("a"), digest("b\n"), digest("c"), digest("d"));
    let outcome = ask(&url, &["has", &a, &b.to_uppercase(), &a], "");
    assert_eq!((outcome.code, text(&outcome)), (Some(0), ""), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    let outcome = ask(&url, &["has", &c], "");
    assert_eq!(outcome.code, Some(6));
    assert_eq!(text(&outcome), format!("{c}\n"));
    assert_eq!(outcome.stderr, "digestd: message not found\n");
    let outcome = ask(&url, &["has", &c, &a, &d, &c], "");
    assert_eq!(outcome.code, Some(6));
    assert_eq!(text(&outcome), format!("{c}\n{d}\n{c}\n"));
    assert_eq!(outcome.stderr, "digestd: 3 of 4 messages not found\n");
    // More than are asked for at once.
    let (_, digests) = numbered(600, 0);
    let many: Vec<_> = ["has", &a].into_iter().chain(digests.lines()).collect();
    let outcome = ask(&url, &many, "");
    assert_eq!((outcome.code, text(&outcome)), (Some(6), &*digests));
    for (words, code) in [(&["has"][..], 2), (&["has", &a[1..]], 2)] {
        assert_eq!(ask(&url, words, "").code, Some(code), "{words:?}");
    }
    assert_eq!(ask("http://127.0.0.1:1", &["has", &a], "").code, Some(7));
}

#[test]
fn has_waits_where_there_is_a_rate_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path()).option("--read-rate", "100/s");
    let server = launch.start();
    let (_, digests) = numbered(150, 0);
    let many: Vec<_> = ["has"].into_iter().chain(digests.lines()).collect();
    let outcome = ask(&server.url(), &many, "");
    assert_eq!((outcome.code, text(&outcome)), (Some(6), &*digests));
}

#[test]
fn several_messages_are_printed_as_in_an_export_or_written_into_files() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory.path().join("data"));
    let url = server.url();
    let (a, b, c) = (digest("a"), digest("b\n"), digest("c"));
    let both = export_line("b\n") + &export_line("a");
    let outcome = ask(&url, &["get", &b, &a], "");
    assert_eq!((outcome.code, text(&outcome)), (Some(0), &*both));
    let outcome = ask(&url, &["get", &b, &c, &a], "");
    assert_eq!((outcome.code, text(&outcome)), (Some(6), &*both));
    let said = format!("digestd: {c}: message not found\ndigestd: 1 of 3 messages not found\n");
    assert_eq!(outcome.stderr, said);

    let texts = directory.path().join("new/texts");
    let texts = texts.to_str().unwrap();
    for words in [
        &["get", "--output-dir", texts, &b, &a][..],
        &["get", "--output-dir", texts, &b],
    ] {
        let outcome = ask(&url, words, "");
        assert_eq!((outcome.code, text(&outcome)), (Some(0), ""), "{outcome:?}");
    }
    let path = Path::new(texts).join(&b);
    assert_eq!(fs::read(&path).unwrap(), b"b\n");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(texts).unwrap().count(), 2);
    // What is there is replaced: a link, and what an interrupted run left.
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    for name in [b.clone(), format!("{b}.part")] {
        let path = Path::new(texts).join(name);
        let _ = fs::remove_file(&path);
        symlink(&elsewhere, &path).unwrap();
    }
    assert_eq!(
        ask(&url, &["get", &b, "--output-dir", texts], "").code,
        Some(0)
    );
    assert_eq!(fs::read(&path).unwrap(), b"b\n");
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
    assert_eq!(fs::read_dir(texts).unwrap().count(), 2);
    let file = elsewhere.to_str().unwrap();
    let outcome = ask(&url, &["get", &b, "--output-dir", file], "");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("cannot make "), "{outcome:?}");
}

#[test]
fn lookup_reads_digests_as_other_commands_print_them() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory.path().join("data"));
    let url = server.url();
    let (a, b, c) = (digest("a"), digest("b\n"), digest("c"));
    let input = format!(
        "\u{feff}{a}\n\r\n\"{b}\"\r\n{}{{\"digest\": \"{c}\"}}\nnonsense\n{b}",
        export_line("a")
    );
    let file = directory.path().join("digests");
    fs::write(&file, &input).unwrap();
    let expected = [
        export_line("a"),
        export_line("b\n"),
        export_line("a"),
        export_line("b\n"),
    ];
    for (words, input) in [
        (&["lookup", file.to_str().unwrap()][..], ""),
        (&["lookup", "-"], &input),
        (&["lookup"], &input),
    ] {
        let outcome = ask(&url, words, input);
        assert_eq!(
            (outcome.code, text(&outcome)),
            (Some(1), &*expected.concat())
        );
        let mut said = outcome.stderr.lines();
        assert_eq!(
            said.next().unwrap(),
            format!("digestd: {c}: message not found")
        );
        let wrong = said.next().unwrap();
        assert!(wrong.starts_with("digestd: line 6: "), "{wrong}");
        assert!(wrong.contains("neither a digest"), "{wrong}");
        assert_eq!(
            said.next(),
            Some("digestd: 1 of 6 digests were not looked up")
        );
    }
    let outcome = ask(&url, &["lookup"], "");
    assert_eq!((outcome.code, text(&outcome)), (Some(0), ""), "{outcome:?}");
    let summed = format!("{a}  a name\n{a} *name\n\\{a}  a\\nname\n");
    let outcome = ask(&url, &["lookup"], &summed);
    assert_eq!(text(&outcome), export_line("a").repeat(3), "{outcome:?}");
    // What it prints can be imported.
    let found = ask(&url, &["lookup"], &format!("{a}\n{b}\n"));
    let other = Digestd::start(&directory.path().join("other"));
    let outcome = ask(&other.url(), &["import"], text(&found));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(ask(&other.url(), &["has", &a, &b], "").code, Some(0));
}

#[test]
fn delete_says_what_it_deleted_and_what_was_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let token = |scope: &str| {
        let made = run(digestd().args(["token", "new", "x", "--scope", scope]), b"");
        let file = directory.path().join(scope);
        fs::write(&file, &made.stdout).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        (file, made.stderr)
    };
    let ((all, first), (reader, second)) = (token("read,write,delete"), token("read"));
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, first + &second.replace("x ", "y ")).unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data).option("--tokens", &tokens).start();
    let ask = |file: &Path, words: &[&str]| {
        let words = [words, &["--token-file", file.to_str().unwrap()]].concat();
        ask(&server.url(), &words, "")
    };
    let (a, b, c) = (digest("a"), digest("b"), digest("c"));
    for text in ["a", "b"] {
        assert_eq!(ask(&all, &["put", text]).code, Some(0));
    }
    let outcome = ask(&reader, &["delete", &a]);
    assert_eq!((outcome.code, text(&outcome)), (Some(1), ""));
    for part in ["403", "`delete`", "--token-file"] {
        assert!(outcome.stderr.contains(part), "{outcome:?}");
    }
    let outcome = ask(&all, &["delete", &a, &c, &b, &a]);
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
    assert_eq!(text(&outcome), format!("{a}\n{b}\n"));
    let said = format!(
        "digestd: {c}: message not found\ndigestd: {a}: message not found\n\
         digestd: 2 of 4 messages not found\n"
    );
    assert_eq!(outcome.stderr, said);
    assert_eq!(ask(&all, &["has", &a, &b]).code, Some(6));
    // Without tokens nobody may.
    let open = Digestd::start(&directory.path().join("open"));
    let outcome = crate::many::ask(&open.url(), &["delete", &a], "");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("--tokens"), "{outcome:?}");
}
