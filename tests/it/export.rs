//! `GET /messages` and `digestd export`: everything that is stored, in the order of its digests, however
//! often it is interrupted.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson::{self, LineError};
use digestd::store::{PAGE_BYTES_MAX, Store};

use crate::process::{Client, Digestd, Launch, Outcome, digestd, run, run_without_reader};
use crate::store_support::{Data, close, put_all, text_of, texts};

fn sorted(texts: &[String]) -> Vec<Message> {
    let mut messages: Vec<_> = texts
        .iter()
        .map(|text| Message::new(text.as_str()))
        .collect();
    messages.sort_by_key(Message::digest);
    messages
}

fn lines_of(messages: &[Message]) -> String {
    let mut lines = Vec::new();
    for message in messages {
        ndjson::write(&mut lines, message);
    }
    String::from_utf8(lines).unwrap()
}

// Over HTTP.

/// A server that may be exported from.
fn generous(data_dir: &Path) -> Launch {
    Launch::new(data_dir).env("DIGESTD_ALLOW_EXPORT", "true")
}

fn ask(client: &mut Client, query: &str) -> (u16, String) {
    let answer = client
        .ask("GET", &format!("/messages{query}"), &[], b"")
        .unwrap();
    (answer.status, answer.text().to_owned())
}

#[test]
fn nobody_has_all_messages_unless_it_is_allowed() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    let mut client = server.client();
    let answer = client.ask("GET", "/messages", &[], b"").unwrap();
    assert_eq!(answer.status, 405);
    assert_eq!(answer.fields["allow"], "POST");
    let url = server.url();
    let after = "0".repeat(64);
    let mut verify = digestd();
    for outcome in [
        export(&["--url", &url]),
        export(&["--url", &url, "--after", &after]),
        export(&["--url", &url, "--format", "tar"]),
        run(verify.args(["verify", "--url", &url]), b""),
    ] {
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let said = "was not started with --allow-export\n";
        assert!(outcome.stderr.ends_with(said), "{outcome:?}");
    }
    server.stop();
}

#[test]
fn a_minus_as_the_output_is_standard_output() {
    let data = Data::with(&texts(0..10));
    let directory = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let digest = sorted(&texts(0..10))[4].digest().to_string();
    for options in [&[][..], &["--format", "tar"], &["--after", &digest]] {
        let plain = export(&[&["--data-dir", path], options].concat());
        for output in [["-o", "-"], ["--output", "-"]] {
            let mut command = digestd();
            command.args(["export", "--data-dir", path]).args(options);
            let outcome = run(command.args(output).current_dir(&directory), b"");
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            assert!(outcome.stdout == plain.stdout && !plain.stdout.is_empty());
        }
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    let outcome = export(&["--data-dir", path, "-o", "file", "--after", &digest]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    let outcome = run(digestd().args(["backup", "-", "--data-dir", path]), b"");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

/// As in `digestd export | head`. A token that nobody reads is no success: see `tokens`.
#[test]
fn a_reader_that_goes_away_ends_every_command_silently() {
    let data = Data::with(&texts(0..3000));
    let other = Data::with(&texts(0..3000));
    let server = serve(&other);
    let (url, path) = (server.url(), data.path().to_str().unwrap());
    let digest = server.client().publish("foo").unwrap().to_string();
    let lines = "{\"message\": \"batch\"}\n".repeat(2000) + "{\"message\": \"the last\"}\n";
    for words in [
        &["hash", "foo"][..],
        &["put", "foo", "--url", &url],
        &["get", &digest, "--url", &url],
        &["put", "--batch", "-", "--url", &url],
        &["verify", "--data-dir", path],
        &["verify", "--json", "--data-dir", path],
        &["verify", "--url", &url],
        &["export", "--data-dir", path],
        &["export", "--data-dir", path, "--format", "tar"],
        &["export", "--url", &url],
        &["doctor", path],
        &["--help"],
        &["--version"],
    ] {
        let outcome = run_without_reader(digestd().args(words), lines.as_bytes());
        assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
        assert!(outcome.stderr.is_empty(), "{words:?}: {outcome:?}");
    }
    // What was to be stored is stored all the same.
    let digest = Digest::of(b"the last");
    assert_eq!(server.client().fetch(&digest).as_deref(), Some("the last"));
    server.stop();
    let damaged = Data::with(&texts(0..10));
    let record = damaged.record_of(&texts(0..10)[5]);
    damaged.flip(&record.file, record.body().start * 8);
    let outcome = run_without_reader(
        digestd().args(["verify", "--data-dir"]).arg(damaged.path()),
        b"",
    );
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
}

#[test]
fn all_messages_come_one_a_line_in_the_order_of_their_digests() {
    let texts = texts(0..1000);
    let data = Data::with(&texts);
    let server = serve(&data);
    let mut client = server.client();
    let answer = client.ask("GET", "/messages", &[], b"").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.fields["content-type"], "application/x-ndjson");
    assert_eq!(answer.fields["cache-control"], "no-store");
    let messages = sorted(&texts);
    assert!(answer.text() == lines_of(&messages));

    let behind = messages[500].digest();
    let (_, rest) = ask(&mut client, &format!("?after={behind}"));
    assert!(rest == lines_of(&messages[501..]));
    let (_, some) = ask(&mut client, &format!("?after={behind}&limit=300"));
    assert!(some == lines_of(&messages[501..801]));
    let (status, none) = ask(&mut client, &format!("?after={}", "f".repeat(64)));
    assert_eq!((status, none.as_str()), (200, ""));
    server.stop();
}

/// Serves a directory of small segments.
fn serve(data: &Data) -> Digestd {
    generous(data.path()).option("--body-max", "60KiB").start()
}

#[test]
fn a_wrong_query_or_method_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = generous(data.path()).start();
    let mut client = server.client();
    for query in ["?after=foo", "?limit=0", "?before=1"] {
        let (status, error) = ask(&mut client, query);
        assert_eq!(status, 400, "{query}: {error}");
    }
    let answer = client.ask("DELETE", "/messages", &[], b"").unwrap();
    assert_eq!(answer.status, 405);
    assert_eq!(answer.fields["allow"], "GET, HEAD, POST");
    server.stop();
}

#[test]
fn a_client_that_does_not_take_its_export_has_no_second_one_before_it_is_gone() {
    let data = tempfile::tempdir().unwrap();
    let server = generous(data.path()).start();
    let mut client = server.client();
    // More than sockets buffer.
    for number in 0..24 {
        client
            .publish(&format!("{number}{}", "x".repeat(1_000_000)))
            .unwrap();
    }
    let request = b"GET /messages HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut slow = server.client();
    slow.send(request).unwrap();
    assert_eq!(slow.line().unwrap(), "HTTP/1.1 200 OK");
    let answer = client.ask("GET", "/messages", &[], b"").unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.fields["retry-after"], "1");
    client.publish("others are served").unwrap();
    drop(slow);
    while client
        .ask("GET", "/messages?limit=1", &[], b"")
        .unwrap()
        .status
        == 503
    {
        thread::yield_now();
    }
    server.stop();
}

#[test]
fn a_page_ends_when_its_texts_pass_the_limit() {
    let data = Data::new();
    let store = data.open();
    let large: Vec<_> = (0..10).map(|number| text_of(number, 60_000)).collect();
    put_all(&store, &large);
    let page = store.page(None, 100).unwrap();
    let fitting = PAGE_BYTES_MAX / 60_000;
    assert_eq!(page.len(), fitting + 1);
    assert_eq!(store.page(None, fitting).unwrap().len(), fitting);
    let (last, _) = page.last().unwrap();
    assert_eq!(store.page(Some(last), 100).unwrap().len(), 10 - page.len());
}

// While messages come, of which a million were measured by hand.

const WRITERS: usize = 16;
const BEFORE: usize = 20_000;
const GROWTH_BYTES_MAX: u64 = 64 << 20;

#[test]
fn an_export_while_messages_come_has_everything_that_was_there_before() {
    let data = tempfile::tempdir().unwrap();
    let before: Vec<_> = (0..BEFORE)
        .map(|number| Message::new(format!("before {number} {}", "x".repeat(60))))
        .collect();
    let mut command = digestd();
    command.arg("import").arg("--data-dir").arg(data.path());
    let outcome = run(&mut command, lines_of(&before).as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let before: Vec<_> = before.iter().map(Message::digest).collect();
    let server = generous(data.path()).option("--cache", "16MiB").start();
    let resident = server.resident_bytes();
    let over = AtomicBool::new(false);
    let (archive, during) = thread::scope(|scope| {
        let during = scope.spawn(|| write(&server, &over));
        let path = data.path().join("all.ndjson");
        let outcome = export(&["--url", &server.url(), "--output", path.to_str().unwrap()]);
        over.store(true, Relaxed);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        (fs::read(path).unwrap(), during.join().unwrap())
    });
    let growth = server.resident_bytes().saturating_sub(resident);
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes more");

    let lines = archive.split_inclusive(|&byte| byte == b'\n');
    let exported: Vec<_> = lines
        .map(|line| ndjson::read(line).unwrap().digest())
        .collect();
    assert!(exported.is_sorted(), "in the order of digests, each once");
    let exported: HashSet<_> = exported.into_iter().collect();
    assert!(before.iter().all(|digest| exported.contains(digest)));
    let known: HashSet<_> = before.into_iter().chain(during).collect();
    assert!(exported.is_subset(&known));
    server.stop();
}

/// Writes from many connections until it is over; returns what was acknowledged.
fn write(server: &Digestd, over: &AtomicBool) -> Vec<Digest> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut client = server.client();
                    let mut digests = Vec::new();
                    while !over.load(Relaxed) {
                        let text = format!("during {writer} {} {}", digests.len(), "x".repeat(60));
                        digests.push(client.publish(&text).unwrap());
                    }
                    digests
                })
            })
            .collect();
        let digests = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap());
        digests.collect()
    })
}

// The command.

fn export(options: &[&str]) -> Outcome {
    run(digestd().arg("export").args(options), b"")
}

/// Exports a directory that nobody serves.
fn export_data(data: &Data, options: &[&str]) -> Outcome {
    let data_dir = data.path().to_str().unwrap();
    export(&[&["--data-dir", data_dir], options].concat())
}

#[test]
fn an_export_of_a_server_and_of_its_directory_are_the_same() {
    let texts = texts(0..3000);
    let data = Data::with(&texts);
    let server = serve(&data);
    let online = export(&["--url", &server.url()]);
    assert_eq!(online.code, Some(0), "{online:?}");
    let held = export_data(&data, &[]);
    assert_eq!(held.code, Some(4), "{held:?}");
    server.stop();
    let offline = export_data(&data, &[]);
    assert_eq!(offline.code, Some(0), "{offline:?}");
    assert!(offline.stderr.contains("3000 messages written"));
    let messages = sorted(&texts);
    assert!(offline.stdout == lines_of(&messages).into_bytes());
    assert!(offline.stdout == online.stdout);

    let behind = messages[2000].digest().to_string();
    let rest = export_data(&data, &["--after", &behind]);
    assert!(rest.stdout == lines_of(&messages[2001..]).into_bytes());
}

#[test]
fn an_interrupted_export_is_gone_on_with_and_comes_out_the_same() {
    let data = Data::with(&texts(0..300));
    for format in ["ndjson", "tar"] {
        let whole = export_data(&data, &["--format", format]).stdout;
        let path = data.path().join(format);
        let part = data.path().join(format!("{format}.part"));
        let options = ["--format", format, "--output", path.to_str().unwrap()];
        for cut in [0, 1, 100, 512, 10_000, whole.len() / 2, whole.len()] {
            fs::write(&part, &whole[..cut]).unwrap();
            let outcome = export_data(&data, &options);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            assert!(fs::read(&path).unwrap() == whole, "{format} cut at {cut}");
            assert!(!part.exists());
            fs::remove_file(&path).unwrap();
        }
        // What a power cut may leave: zeros in the middle.
        let mut torn = whole.clone();
        torn[5000..9000].fill(0);
        fs::write(&part, torn).unwrap();
        assert_eq!(export_data(&data, &options).code, Some(0));
        assert!(fs::read(&path).unwrap() == whole, "{format} torn");
        // Nothing that is whole is written over.
        let outcome = export_data(&data, &options);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("is there already"), "{outcome:?}");
    }
}

#[test]
fn a_damaged_message_is_named_and_left_out() {
    let texts = texts(0..100);
    let data = Data::with(&texts);
    let store = data.open();
    put_all(&store, &["the last group".into()]);
    close(store);
    let record = data.record_of(&texts[50]);
    data.flip(&record.file, record.body().start * 8);
    let mut rest = texts.clone();
    rest[50] = "the last group".into();
    let rest = lines_of(&sorted(&rest)).into_bytes();

    let offline = export_data(&data, &[]);
    let server = serve(&data);
    let online = export(&["--url", &server.url()]);
    for outcome in [offline, online] {
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        let named = format!("message {} is damaged and left out", record.digest);
        assert!(outcome.stderr.contains(&named), "{outcome:?}");
        assert!(outcome.stdout == rest);
    }
    let (_, lines) = ask(&mut server.client(), "");
    let wrong: Vec<_> = lines
        .lines()
        .filter_map(|line| ndjson::read(line.as_bytes()).err())
        .collect();
    let digest = record.digest;
    assert_eq!(wrong, [LineError::Missing { digest }]);
    server.stop();
}

#[test]
#[ignore = "needs tar and sha256sum"]
fn tar_and_sha256sum_prove_an_export_without_us() {
    let data = Data::with(&texts(0..300));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.tar");
    let options = ["--format", "tar", "--output", path.to_str().unwrap()];
    assert_eq!(export_data(&data, &options).code, Some(0));
    let prove = "tar -xf all.tar && test $(ls | wc -l) = 302 && sha256sum -c --quiet SHA256SUMS";
    let prove = || {
        Command::new("sh")
            .args(["-c", prove])
            .current_dir(directory.path())
            .status()
            .unwrap()
    };
    assert!(prove().success());
    // And the proof can fail.
    let first = fs::read_to_string(directory.path().join("SHA256SUMS")).unwrap();
    fs::remove_file(directory.path().join(&first[..64])).unwrap();
    let check = Command::new("sha256sum")
        .args(["-c", "--quiet", "SHA256SUMS"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(!check.status.success());
}
