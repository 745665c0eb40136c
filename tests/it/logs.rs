//! What is logged, where to, and that logging delays no request.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use digestd::digest::Digest;
use flate2::read::GzDecoder;
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Client, Launch, PATIENCE, Process, digestd, on_a_terminal, run, wait_until};

/// The lines of requests, as objects, in a log in JSON.
fn requests(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")))
        .filter(|line| line["message"] == "request")
        .collect()
}

/// Asks with an id.
fn ask(client: &mut Client, id: &str, path: &str) -> u16 {
    let answer = client.ask("GET", path, &[("X-Request-Id", id)], b"");
    answer.unwrap().status
}

#[test]
fn every_request_leaves_a_line_with_all_that_is_known_of_it() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("digestd.log");
    let server = Launch::new(&data.path().join("store"))
        .option("--log-format", "json")
        .option("--log-file", &file)
        .start_elsewhere(&file);
    let mut client = server.client();
    let fields = [
        ("Content-Type", "text/plain"),
        ("X-Request-Id", "put"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let answer = client.ask("POST", "/messages", &fields, b"quokka").unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(ask(&mut client, "miss", "/messages/wombat"), 404);
    assert_eq!(ask(&mut client, "nowhere", "/wombat"), 404);
    for probe in ["/livez", "/readyz", "/readyz/write", "/healthz", "/metrics"] {
        assert_eq!(ask(&mut client, "probe", probe), 200);
    }
    drop(client);
    server.stop();

    let log = fs::read_to_string(&file).unwrap();
    let requests = requests(&log);
    let essence: Vec<_> = requests
        .iter()
        .map(|line| {
            let part = |name: &str| line[name].to_string().trim_matches('"').to_owned();
            ["id", "method", "route", "status", "bytes_in"]
                .map(part)
                .join(" ")
        })
        .collect();
    assert_eq!(
        essence,
        [
            "put POST /messages 201 6",
            "miss GET /messages/{digest} 404 0",
            "nowhere GET none 404 0"
        ]
    );
    assert_eq!(requests[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert!(requests[1].get("trace_id").is_none());
    for line in &requests {
        assert_eq!(line["level"], "INFO");
        let time = line["timestamp"].as_str().unwrap();
        humantime::parse_rfc3339(time).unwrap();
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
        assert!(line["bytes_out"].as_u64().unwrap() > 0);
        let peer = line["peer"].as_str().unwrap();
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    }
    assert!(!log.contains("quokka") && !log.contains("wombat"), "{log}");
}

#[test]
fn a_line_of_a_request_names_its_token_its_digest_and_its_client() {
    let data = tempfile::tempdir().unwrap();
    let outcome = run(
        digestd().args(["token", "new", "ci", "--scope", "read,write"]),
        b"",
    );
    let secret = String::from_utf8(outcome.stdout).unwrap();
    let tokens = data.path().join("tokens");
    let line = outcome.stderr.lines().find(|line| line.starts_with("ci "));
    fs::write(&tokens, line.unwrap()).unwrap();
    let file = data.path().join("digestd.log");
    let launch = Launch::new(&data.path().join("store"))
        .option("--log-format", "json")
        .option("--tokens", &tokens)
        .option("--log-file", &file);
    let server = launch.start_elsewhere(&file);
    let mut client = server.client();
    let bearer = format!("Bearer {}", secret.trim());
    let digest = Digest::of(b"quokka").to_string();
    let path = format!("/messages/{digest}");
    let base64 = "/messages/sha256:".to_owned() + &digest;
    let missing = format!("/messages/{}", Digest::of(b"wombat"));
    let lengthy = "n".repeat(129);
    let agent = "an \"agent\\\u{e4}";
    for (method, path, bearer, agent, status) in [
        ("POST", "/messages", &*bearer, agent, 201),
        ("PUT", &path, &bearer, "", 201),
        ("GET", &path, &bearer, &lengthy, 200),
        ("GET", &base64, &bearer, &lengthy[1..], 200),
        ("GET", &missing, &bearer, "x", 404),
        ("GET", "/messages/quokka", &bearer, "x", 404),
        ("DELETE", &path, &bearer, "x", 403),
        ("GET", &path, "Bearer other", "x", 401),
        ("GET", "/", &bearer, "x", 200),
    ] {
        let fields = [
            ("Content-Type", "text/plain"),
            ("Authorization", bearer),
            ("User-Agent", agent),
        ];
        let body: &[u8] = if method.starts_with('P') {
            b"quokka"
        } else {
            b""
        };
        let answer = client.ask(method, path, &fields, body).unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
    }
    assert_eq!(client.ask("GET", &path, &[], b"").unwrap().status, 401);
    drop(client);
    server.stop();

    let log = fs::read_to_string(&file).unwrap();
    let (first, other) = (&digest[..8], &missing["/messages/".len()..][..8]);
    let said: Vec<_> = requests(&log)
        .iter()
        .map(|line| ["token", "digest", "user_agent"].map(|name| line[name].clone()))
        .collect();
    let none = Value::Null;
    let said_first = |agent: &str| [Value::from("ci"), first.into(), agent.into()];
    let utf8_as_latin1 = "an \"agent\\\u{c3}\u{a4}";
    assert_eq!(
        said,
        [
            said_first(utf8_as_latin1),
            said_first(""),
            said_first(&lengthy[1..]),
            said_first(&lengthy[1..]),
            ["ci".into(), other.into(), "x".into()],
            ["ci".into(), none.clone(), "x".into()],
            said_first("x"),
            [none.clone(), first.into(), "x".into()],
            // It needs none.
            [none.clone(), none.clone(), "x".into()],
            [none.clone(), first.into(), none],
        ]
    );
    for secret in ["quokka", &digest, secret.trim()] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn on_a_terminal_a_line_has_the_local_time_the_status_in_colour_and_a_hundred_columns() {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).env("TZ", "<+05>-05");
    let server = launch.on_a_terminal().start();
    let mut client = server.client();
    let agent = [("User-Agent", &*"a/1 ".repeat(30))];
    let fields = [("Content-Type", "text/plain"), agent[0]];
    let answer = client.ask("POST", "/messages", &fields, b"quokka").unwrap();
    assert_eq!(answer.status, 201);
    let digest = Digest::of(b"quokka").to_string();
    assert_eq!(ask(&mut client, "miss", "/messages/wombat"), 404);
    drop(client);
    let line = server.wait_for("POST");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 5 * 3600;
    let (time, rest) = line.split_once(' ').unwrap();
    let parts: Vec<u64> = time.split(':').map(|part| part.parse().unwrap()).collect();
    let second = (parts[0] * 60 + parts[1]) * 60 + parts[2];
    assert!((now - second) % 86_400 < PATIENCE.as_secs(), "{line}");
    assert!(
        rest.starts_with("\u{1b}[32m201\u{1b}[0m   POST    /messages "),
        "{line}"
    );
    assert!(
        rest.contains(&digest[..8]) && rest.contains(" a/1 a/1"),
        "{line}"
    );
    assert!(
        server
            .wait_for("GET")
            .contains("\u{1b}[33m404\u{1b}[0m   GET ")
    );
    let log = server.stop();
    assert!(
        log.contains("\u{1b}[32mINFO\u{1b}[0m  digestd starts; "),
        "{log}"
    );
    // A path is a word.
    let log = log.replace(data.path().to_str().unwrap(), "PATH");
    for line in log.lines() {
        let plain = line.replace("\u{1b}[32m", "").replace("\u{1b}[33m", "");
        let plain = plain.replace("\u{1b}[0m", "");
        assert!(plain.chars().count() <= 100, "{plain}");
        assert!(
            !plain.contains('\u{1b}') && !plain.contains(&digest),
            "{plain}"
        );
    }
}

#[test]
fn a_terminal_that_shows_no_colours_gets_none() {
    for (name, value, option, is_colored) in [
        ("NO_COLOR", "1", "auto", false),
        ("TERM", "dumb", "auto", false),
        ("TERM", "xterm", "never", false),
        ("NO_COLOR", "1", "always", true),
        ("NO_COLOR", "", "auto", true),
    ] {
        let data = tempfile::tempdir().unwrap();
        let launch = Launch::new(data.path()).on_a_terminal();
        let server = launch.env(name, value).option("--color", option).start();
        assert_eq!(ask(&mut server.client(), "miss", "/messages/0"), 404);
        server.wait_for("GET");
        let log = server.stop();
        assert_eq!(
            log.contains('\u{1b}'),
            is_colored,
            "{name}={value} {option}: {log}"
        );
    }
}

#[test]
fn a_bar_is_for_terminals_that_can_move_their_cursor() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    server.client().publish("quokka").unwrap();
    server.stop();
    let verify = || {
        let mut command = digestd();
        command.args(["verify", "--data-dir"]).arg(data.path());
        command
    };
    assert!(on_a_terminal(&mut verify(), "xterm").contains(" %"));
    let plain = on_a_terminal(&mut verify(), "dumb");
    assert!(
        !plain.contains('\u{1b}') && !plain.contains(" %"),
        "{plain}"
    );
}

#[test]
fn the_lines_for_a_terminal_may_go_elsewhere() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--log-format", "terminal")
        .start();
    assert_eq!(ask(&mut server.client(), "miss", "/messages/0"), 404);
    let line = server.wait_for("GET");
    assert!(
        line[9..].starts_with("404   GET     /messages/{digest} "),
        "{line}"
    );
}

#[test]
fn probes_are_logged_at_debug() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--log-level", "debug")
        .start();
    assert_eq!(ask(&mut server.client(), "probe", "/livez"), 200);
    server.wait_for("DEBUG request id=probe method=GET route=/livez status=200");
}

#[test]
fn a_log_without_requests_has_the_rest() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--access-log", "off")
        .start();
    assert_eq!(ask(&mut server.client(), "quiet", "/messages/0"), 404);
    let log = server.stop();
    assert!(!log.contains("quiet") && log.contains("ready"), "{log}");
}

#[test]
fn a_log_of_trouble_is_empty_while_there_is_none() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("digestd.log");
    let launch = Launch::new(&data.path().join("store")).option("--log-level", "warn");
    let launch = launch
        .option("--log-file", &file)
        .option("--listen", "127.0.0.1:0");
    let mut server = Process(launch.command().spawn().unwrap());
    // There is nothing that says when it is open.
    let store = data.path().join("store/checkpoint");
    wait_until("the store", || store.exists());
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(fs::read_to_string(file).unwrap(), "");
}

#[test]
fn a_log_that_no_terminal_shows_is_json_line_by_line() {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).without("--log-format");
    let server = launch.start();
    assert_eq!(ask(&mut server.client(), "one", "/messages/0"), 404);
    let log = server.stop();
    assert_eq!(requests(&log).len(), 1);
    let ready = log.lines().find(|line| line.contains("\"ready\"")).unwrap();
    let ready: Value = serde_json::from_str(ready).unwrap();
    assert_eq!(
        (&ready["messages"], &ready["level"]),
        (&0.into(), &"INFO".into())
    );
}

#[test]
fn the_first_lines_say_what_an_operator_looks_for() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).start();
    let line = server.wait_for("digestd starts");
    for text in [
        concat!("version=\"", env!("CARGO_PKG_VERSION")),
        &format!("data_dir={}", data.path().display()),
        "durability=\"disk\"",
        "open_files_at_most=",
        "tls=false",
        "anybody who can connect may read and write",
    ] {
        assert!(line.contains(text), "{text}\n{line}");
    }
}

#[test]
fn a_log_file_that_cannot_be_rotated_is_said_once_and_has_every_line() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("digestd.log");
    fs::create_dir(data.path().join("digestd.log.1")).unwrap();
    let server = Launch::new(&data.path().join("store"))
        .option("--log-format", "json")
        .option("--log-file", &file)
        .option("--log-max-size", "1KiB")
        .start_elsewhere(&file);
    let mut client = server.client();
    for number in 0..20 {
        assert_eq!(ask(&mut client, &number.to_string(), "/messages/0"), 404);
    }
    let line = server.wait_for("cannot rotate");
    assert!(line.contains("digestd.log.1 is no file"), "{line}");
    drop(client);
    let said = server.stop();
    assert_eq!(said.matches("cannot rotate").count(), 1, "{said}");
    let log = fs::read_to_string(&file).unwrap();
    assert_eq!(requests(&log).len(), 20);
}

#[test]
fn a_log_file_is_rotated_by_size_and_no_line_is_lost_or_torn() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("logs/digestd.log");
    let server = Launch::new(&data.path().join("store"))
        .option("--log-format", "json")
        .option("--log-file", &file)
        .option("--log-max-size", "1KiB")
        .option("--log-max-files", "3")
        .start_elsewhere(&file);
    let mut client = server.client();
    for number in 0..300 {
        assert_eq!(ask(&mut client, &number.to_string(), "/messages/0"), 404);
    }
    drop(client);
    server.stop();

    let mut files: BTreeMap<_, _> = fs::read_dir(file.parent().unwrap())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
        })
        .collect();
    let names: Vec<_> = files.keys().cloned().collect();
    assert_eq!(
        names,
        [
            "digestd.log",
            "digestd.log.1",
            "digestd.log.2",
            "digestd.log.3"
        ]
    );
    for (name, text) in &files {
        assert!(text.len() <= 1024 && text.ends_with('\n'), "{name}: {text}");
    }
    let live = files.remove("digestd.log").unwrap();
    let log: String = files.into_values().rev().chain([live]).collect();
    let ids: Vec<u32> = requests(&log)
        .iter()
        .map(|line| line["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids.last(), Some(&299));
    assert!(ids.len() > 5, "{ids:?}");
    assert!(ids.is_sorted_by(|one, next| one + 1 == *next), "{ids:?}");
}

/// The name and the text of each file of a log, decompressed, by their number; 0 is the live one.
fn rotated(directory: &Path) -> BTreeMap<u32, (String, String)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut files = BTreeMap::new();
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        let Ok(bytes) = fs::read(entry.path()) else {
            // It has another name by now.
            continue;
        };
        let mut text = String::new();
        match name.strip_suffix(".gz") {
            Some(_) => GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap(),
            None if name.contains(".gz.") => continue,
            None => (&*bytes).read_to_string(&mut text).unwrap(),
        };
        let number = name.trim_end_matches(".gz").rsplit('.').next().unwrap();
        files.insert(number.parse().unwrap_or(0), (name, text));
    }
    files
}

#[test]
fn old_log_files_are_compressed_and_no_line_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("store/logs/digestd.log");
    let directory = file.parent().unwrap();
    let server = Launch::new(&data.path().join("store"))
        .option("--log-format", "json")
        .option("--log-file", &file)
        .option("--log-max-size", "1KiB")
        .env("DIGESTD_LOG_COMPRESS", "on")
        .start_elsewhere(&file);
    let mut client = server.client();
    for number in 0..50 {
        assert_eq!(ask(&mut client, &number.to_string(), "/messages/0"), 404);
    }
    let names = || -> Vec<_> {
        let files = rotated(directory);
        files.into_values().map(|(name, _)| name).collect()
    };
    wait_until("the compression", || {
        let expected = [
            "digestd.log",
            "digestd.log.1.gz",
            "digestd.log.2.gz",
            "digestd.log.3.gz",
        ];
        names() == expected
    });
    drop(client);
    server.stop();
    let files = rotated(directory);
    let log: String = files.into_values().rev().map(|(_, text)| text).collect();
    let ids: Vec<u32> = requests(&log)
        .iter()
        .map(|line| line["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids.last(), Some(&49));
    assert!(ids.is_sorted_by(|one, next| one + 1 == *next), "{ids:?}");
    let mode = fs::metadata(directory.join("digestd.log.1.gz"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_compressed_log_file_is_whole_whenever_the_server_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("logs/digestd.log");
    let directory = file.parent().unwrap();
    fs::create_dir(directory).unwrap();
    // As a kill leaves it: one half made, and one whole beside what it was made of.
    fs::write(directory.join("digestd.log.gz.part"), b"\x1f\x8b").unwrap();
    fs::write(directory.join("digestd.log.1"), "first\n").unwrap();
    fs::write(directory.join("digestd.log.1.gz"), b"").unwrap();
    let launch = Launch::new(&data.path().join("store"))
        .option("--log-file", &file)
        .option("--log-max-files", "1000")
        .option("--log-max-size", "4KiB")
        .env("DIGESTD_LOG_COMPRESS", "on");
    let first = || -> Vec<String> {
        let files = rotated(directory);
        let texts = files.into_values().map(|(_, text)| text);
        texts.filter(|text| text == "first\n").collect()
    };
    for round in 0..5 {
        let server = launch.start_elsewhere(&file);
        let mut client = server.client();
        for number in 0..200 * (round + 1) {
            assert_eq!(
                ask(&mut client, &format!("{round}-{number}"), "/messages/0"),
                404
            );
        }
        drop(client);
        server.kill();
        // Each that is called so is read to its end.
        assert_eq!(first().len(), 1, "round {round}");
        // The next start finds its own lines. In the middle of a rotation there is no such file.
        let _ = fs::remove_file(&file);
    }
    let server = launch.start_elsewhere(&file);
    wait_until("the compression", || {
        let files = rotated(directory);
        let mut old = files.iter().filter(|(number, _)| **number > 0);
        old.all(|(_, (name, _))| name.strip_suffix(".gz").is_some()) && first().len() == 1
    });
    assert!(!directory.join("digestd.log.gz.part").exists());
    server.stop();
}

#[test]
fn a_log_file_that_was_moved_away_is_created_again_on_sighup() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("digestd.log");
    let server = Launch::new(&data.path().join("store"))
        .option("--log-file", &file)
        .start_elsewhere(&file);
    let moved = data.path().join("yesterday.log");
    fs::rename(&file, &moved).unwrap();
    let mut client = server.client();
    assert_eq!(ask(&mut client, "before", "/messages/0"), 404);
    server.signal(Signal::HUP);
    let reopened = || fs::read_to_string(&file).is_ok_and(|log| log.contains("SIGHUP"));
    wait_until("the new file", reopened);
    assert_eq!(ask(&mut client, "after", "/messages/0"), 404);
    drop(client);
    server.stop();
    let old = fs::read_to_string(moved).unwrap();
    let new = fs::read_to_string(file).unwrap();
    assert!(new.contains("id=after"), "{new}");
    // A line that was under way is in one of the two.
    let both = format!("{old}{new}");
    assert_eq!(both.matches("id=before").count(), 1, "{both}");
}

#[test]
fn a_log_file_that_cannot_be_written_ends_the_start_with_a_sentence() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("nowhere"), "").unwrap();
    let file = data.path().join("nowhere/digestd.log");
    let launch = Launch::new(&data.path().join("store")).option("--log-file", &file);
    let outcome = run(&mut launch.command(), b"");
    assert_eq!(outcome.code, Some(1));
    let name = file.display().to_string();
    assert!(outcome.stderr.contains(&name), "{}", outcome.stderr);
}

#[test]
fn a_log_that_nobody_reads_keeps_no_request_waiting_and_the_lost_lines_are_counted() {
    let data = tempfile::tempdir().unwrap();
    let child = Launch::new(data.path())
        .command()
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Process(child.unwrap());
    let mut log = BufReader::new(server.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on http://") {
        line.clear();
        log.read_line(&mut line).unwrap();
    }
    let (_, address) = line.trim().split_once("http://").unwrap();
    let mut client = Client::connect(address.parse().unwrap()).unwrap();
    // From here on nobody reads. A pipe takes 64 KiB, the queue 4 MiB, a line has 300 bytes.
    let id = "x".repeat(128);
    let request =
        format!("GET /messages/0 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\n\r\n");
    let batch = request.repeat(50);
    for count in 0..400 {
        if count % 190 == 0 {
            // A connection has its number of requests.
            client = Client::connect(address.parse().unwrap()).unwrap();
        }
        client.send(batch.as_bytes()).unwrap();
        for _ in 0..50 {
            assert!([404, 503].contains(&client.answer().unwrap().status));
        }
    }
    let answer = client.ask("GET", "/metrics", &[], b"").unwrap();
    let text = answer.text();
    let dropped = text
        .lines()
        .find_map(|line| line.strip_prefix("digestd_log_lines_dropped_total "))
        .unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 1000, "{dropped}");
    // Nor does the stop wait for it.
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_reason_of_a_failed_start_is_in_the_log_file() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("photo"), "").unwrap();
    let new = directory.path().join("new");
    for (number, (data, options, reason)) in [
        (&new, ["--listen", &address], "in use"),
        (&foreign, ["--listen", "127.0.0.1:0"], "it holds photo"),
        (&new, ["--tokens", "/nowhere/tokens"], "/nowhere/tokens"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = directory.path().join(format!("log-{number}"));
        let mut command = digestd();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data);
        command.arg("--log-file").arg(&file).args(options);
        let outcome = run(&mut command, b"");
        assert!([Some(1), Some(5)].contains(&outcome.code), "{outcome:?}");
        let log = fs::read_to_string(&file).unwrap();
        let line = log.lines().find(|line| line.contains("ERROR"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(reason), "{line}");
        assert!(outcome.stderr.contains(reason), "{outcome:?}");
    }
}
