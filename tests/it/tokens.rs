//! Tokens and lists of the real binary: made, kept secret, and replaced while it serves.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use digestd::digest::Digest;
use rustix::process::Signal;

use crate::loadgen::loadgen;
use crate::process::{
    Client, Digestd, Launch, Outcome, PATIENCE, digestd, run, run_without_reader,
};

/// Said once the new rules hold.
const RELOADED: &str = "tokens and lists were read again, and hold";

/// Makes a token; returns it and its line.
fn new_token(arguments: &[&str]) -> (String, String) {
    let outcome = run(digestd().args(["token", "new"]).args(arguments), b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let token = String::from_utf8(outcome.stdout).unwrap();
    (token.strip_suffix('\n').unwrap().to_owned(), outcome.stderr)
}

/// The status of a request for a message that is not there.
fn get_status(client: &mut Client, token: &str) -> u16 {
    let path = format!("/messages/{}", Digest::of(b"missing"));
    let authorization = format!("Bearer {token}");
    let fields = [("Authorization", authorization.as_str())];
    client.ask("GET", &path, &fields, b"").unwrap().status
}

/// Does `once` again and again until it is over.
fn load(server: &Digestd, is_over: &AtomicBool, mut once: impl FnMut(&mut Client)) {
    while !is_over.load(Relaxed) {
        // A connection has an end after so many requests; this one comes before.
        let mut client = server.client();
        for _ in 0..1000 {
            if !is_over.load(Relaxed) {
                once(&mut client);
            }
        }
    }
}

/// Ends the load, also when a test fails in the middle of it.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Waits until `counter` has grown by `growth`.
fn wait_for_growth(counter: &AtomicU64, growth: u64) {
    let (started, goal) = (Instant::now(), counter.load(Relaxed) + growth);
    while counter.load(Relaxed) < goal {
        assert!(started.elapsed() < PATIENCE);
        thread::yield_now();
    }
}

fn reload(server: &Digestd, times: usize) {
    server.signal(Signal::HUP);
    server.wait_for_times(RELOADED, times);
}

#[test]
fn a_new_token_opens_what_its_line_allows() {
    let directory = tempfile::tempdir().unwrap();
    let (token, line) = new_token(&["ci"]);
    let digest = Digest::of(token.as_bytes());
    assert_eq!(line, format!("ci read,write {digest}\n"));
    assert!(
        token.starts_with("digestd_") && token.len() == 72,
        "{token}"
    );
    assert_ne!(new_token(&["ci"]).0, token);
    let (reader, second) = new_token(&["reader", "--scope", "read"]);

    let tokens = directory.path().join("tokens");
    fs::write(&tokens, line + &second).unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data).option("--tokens", &tokens).start();
    let put = |token: Option<&str>| put(&server, directory.path(), token);
    assert_eq!(put(Some(&token)).code, Some(0));
    for (token, status) in [
        (None, "401"),
        (Some("other"), "401"),
        (Some(&*reader), "403"),
    ] {
        let outcome = put(token);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(status), "{outcome:?}");
    }
}

/// `digestd put`, which shows the token of a file.
fn put(server: &Digestd, directory: &Path, token: Option<&str>) -> Outcome {
    let mut command = digestd();
    command.args(["put", "foo", "--url", &server.url()]);
    if let Some(token) = token {
        command.arg("--token-file").arg(secret(directory, token));
    }
    run(&mut command, b"")
}

/// A file with `token`, for nobody else to read.
fn secret(directory: &Path, token: &str) -> PathBuf {
    let path = directory.join("token");
    fs::write(&path, format!("{token}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn every_verb_shows_a_server_its_token_and_says_which_one_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let [
        (reader, first),
        (writer, second),
        (exporter, third),
        (both, fourth),
    ] = ["read", "write", "export", "read,write"]
        .map(|scope| new_token(&[&scope.replace(',', "-"), "--scope", scope]));
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, first + &second + &third + &fourth).unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data).option("--tokens", &tokens).start();
    let lines = directory.path().join("lines");
    let foo = Digest::of(b"foo").to_string();
    let line = format!("{{\"digest\": \"{foo}\", \"message\": \"foo\"}}\n");
    fs::write(&lines, line).unwrap();
    let lines = lines.to_str().unwrap();

    for (arguments, right, wrong, needed) in [
        (&["put", "foo"][..], &writer, &reader, "`write`"),
        (&["put", "--batch", lines], &writer, &reader, "`write`"),
        (&["get", &foo], &reader, &writer, "`read`"),
        (&["has", &foo], &reader, &writer, "`read`"),
        (&["get", &foo, &foo], &reader, &writer, "`read`"),
        (&["lookup", lines], &reader, &writer, "`read`"),
        (&["import", lines], &writer, &reader, "`write`"),
        (&["export"], &exporter, &both, "`export`"),
        (&["verify"], &exporter, &both, "`export`"),
    ] {
        let ask = |token: Option<&String>, by_environment: bool| {
            let mut command = digestd();
            command.args(arguments).args(["--url", &server.url()]);
            match token.map(|token| secret(directory.path(), token)) {
                None => &mut command,
                Some(path) if by_environment => command.env("DIGESTD_TOKEN_FILE", path),
                Some(path) => command.arg("--token-file").arg(path),
            };
            run(&mut command, b"")
        };
        for by_environment in [false, true] {
            let outcome = ask(Some(right), by_environment);
            assert_eq!(outcome.code, Some(0), "{arguments:?} {outcome:?}");
            assert!(!outcome.stderr.contains("can read"), "{outcome:?}");
        }
        for (token, status) in [(None, "401"), (Some(wrong), "403")] {
            let Outcome { code, stderr, .. } = ask(token, false);
            assert_eq!(code, Some(1), "{arguments:?} {stderr}");
            for part in [status, needed, "--token-file"] {
                assert!(stderr.contains(part), "{arguments:?} {part} {stderr}");
            }
            assert!(!stderr.contains(&wrong[8..]), "{arguments:?} {stderr}");
        }
    }
}

#[test]
fn the_load_generator_shows_a_server_its_token_and_says_which_one_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let [(reader, first), (writer, second), (both, third)] = ["read", "write", "read,write"]
        .map(|scope| new_token(&[&scope.replace(',', "-"), "--scope", scope]));
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, first + &second + &third).unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data).option("--tokens", &tokens).start();
    for (words, right, wrong) in [
        (&["--messages", "10"][..], &both, &reader),
        (&["miss", "--http2"], &reader, &writer),
    ] {
        let ask = |token: Option<&String>| {
            let (url, file) = (
                server.url(),
                token.map(|token| secret(directory.path(), token)),
            );
            let mut words = [words, &["--duration", "50ms", "--url", &url]].concat();
            if let Some(file) = &file {
                words.extend(["--token-file", file.to_str().unwrap()]);
            }
            loadgen(&words)
        };
        ask(Some(right)).unwrap();
        for (token, status) in [(None, "401"), (Some(wrong), "403")] {
            let (error, code) = ask(token).unwrap_err();
            assert_eq!(code, 1, "{words:?} {error}");
            for part in [status, "`read` and `write`", "--token-file"] {
                assert!(error.contains(part), "{words:?} {part} {error}");
            }
            assert!(!error.contains(&wrong[8..]), "{words:?} {error}");
        }
    }
}

#[test]
fn a_file_of_a_token_that_everybody_can_read_or_that_holds_none_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let server = Digestd::start(&directory.path().join("data"));
    let path = secret(directory.path(), "digestd_0123");
    // A directory that others may pass through.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let mut command = digestd();
    command.args(["put", "foo", "--url", &server.url(), "--token-file"]);
    command.arg(&path);
    for (mode, is_said) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let said = outcome
            .stderr
            .contains("token has mode 0644: others may read it");
        assert_eq!(said, is_said, "{outcome:?}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for content in [
        "\u{feff}digestd_0123",
        "\u{feff}digestd_0123\r\n",
        "\u{feff} digestd_0123\n",
    ] {
        fs::write(&path, content).unwrap();
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let content = content.encode_utf16().flat_map(u16::to_le_bytes);
        fs::write(&path, content.collect::<Vec<_>>()).unwrap();
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(
            outcome.stderr.contains("UTF-16 instead of UTF-8"),
            "{outcome:?}"
        );
    }
    for content in ["", "two words", "\u{e9}"] {
        fs::write(&path, content).unwrap();
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("does not hold a token"));
    }
}

#[test]
fn a_directory_or_a_pipe_without_content_in_the_place_of_a_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    let launch = || Launch::new(&data_dir);
    let tls = |name, path: &Path| {
        let secure = launch().without("--listen");
        let secure = secure.option("--tls-listen", "127.0.0.1:0");
        let other = ["--tls-cert", "--tls-key"].map(|it| (it, Path::new("localhost.crt")));
        let secure = secure
            .option(other[0].0, other[0].1)
            .option(other[1].0, other[1].1);
        secure.option(name, path).command()
    };
    let client = |name: &str, path: &Path| {
        let mut command = digestd();
        command.args(["put", "foo", "--url", "https://localhost:1", name]);
        command.arg(path);
        command
    };
    for (path, is) in [
        (directory.path(), "it is a directory"),
        (
            "/dev/stdin".as_ref(),
            "it is a pipe that ended without a byte",
        ),
    ] {
        let commands = [
            launch().option("--tokens", path).command(),
            launch().option("--list-file", path).command(),
            tls("--tls-cert", path),
            client("--token-file", path),
            client("--cacert", path),
        ];
        for mut command in commands {
            command.stdin(reader.try_clone().unwrap());
            let output = command.output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{command:?} {stderr}");
            assert!(stderr.contains(is), "{command:?} {stderr}");
        }
    }
}

#[test]
fn a_pipe_of_a_shell_is_as_good_as_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let (token, line) = new_token(&["ci"]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(line.as_bytes()).unwrap();
    drop(writer);
    let launch = Launch::new(&directory.path().join("data")).option("--tokens", "/dev/stdin");
    let words = ["sh", "-c", "exec \"$@\" <\"$0\""].map(PathBuf::from);
    let pipe = format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd());
    let server = launch
        .through(words.into_iter().chain([pipe.into()]))
        .start();
    assert_eq!(get_status(&mut server.client(), &token), 404);
    // It is empty now.
    server.signal(Signal::HUP);
    server.wait_for("tokens and lists stay as they were");
    assert_eq!(get_status(&mut server.client(), &token), 404);
}

/// Standard error is the file of tokens.
#[test]
fn a_token_that_cannot_be_shown_leaves_no_line() {
    let mut to_full = digestd();
    to_full.args(["token", "new", "ci"]).stderr(Stdio::piped());
    to_full.stdout(File::options().write(true).open("/dev/full").unwrap());
    let full = to_full.output().unwrap();
    let unread = run_without_reader(digestd().args(["token", "new", "ci"]), b"");
    for (code, stderr) in [
        (full.status.code(), String::from_utf8(full.stderr).unwrap()),
        (unread.code, unread.stderr),
    ] {
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.starts_with("# digestd: no token was made: it cannot be shown: "),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_token_needs_a_name_and_scopes_that_exist() {
    for arguments in [
        &["token"][..],
        &["token", "new"],
        &["token", "new", "a b"],
        &["token", "new", "a/b"],
        &["token", "new", ""],
        &["token", "new", "a", "--scope", "everything"],
        &["token", "new", "a", "--scope", ""],
        &["--color", "never", "token", "new", "a", "on"],
    ] {
        let outcome = run(digestd().args(arguments), b"");
        assert_eq!(outcome.code, Some(2), "{arguments:?} {outcome:?}");
        assert_eq!(outcome.stdout, b"");
        // It may be appended to the file of tokens.
        let mut lines = outcome.stderr.lines();
        assert!(lines.all(|line| line.starts_with('#')), "{outcome:?}");
    }
}

#[test]
fn start_up_says_who_may_do_what() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, new_token(&["a"]).1).unwrap();
    let data = directory.path().join("data");
    let open = Launch::new(&data);
    for (launch, sentence) in [
        (&open, "anybody who can connect may read and write; nobody"),
        (
            &Launch::new(&data).env("DIGESTD_ALLOW_EXPORT", "yes"),
            "anybody who can connect may read, write and export; nobody may delete",
        ),
        (
            &Launch::new(&data).option("--tokens", &tokens),
            "messages and metrics need a token",
        ),
        (
            &Launch::new(&data)
                .option("--tokens", &tokens)
                .env("DIGESTD_PUBLIC_READ", "true"),
            "anybody who can connect may read; all else needs a token",
        ),
    ] {
        let server = launch.start();
        server.wait_for(sentence);
        server.stop();
    }
}

#[test]
fn a_file_that_makes_no_sense_stops_the_start_and_is_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let (token, line) = new_token(&["a"]);
    let path = directory.path().join("rules");
    for (option, text, place) in [
        ("--tokens", format!("{line}{token} read x\n"), "line 2"),
        ("--tokens", format!("{line}b {token} x\n"), "line 2"),
        ("--tokens", format!("{line}b read {token}\n"), "line 2"),
        ("--tokens", String::new(), "there is no token"),
        ("--list-file", "allow everybody\n".into(), "line 1"),
    ] {
        fs::write(&path, text).unwrap();
        let data = directory.path().join("data");
        let outcome = run(&mut Launch::new(&data).option(option, &path).command(), b"");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(place), "{outcome:?}");
        assert!(outcome.stderr.contains("rules"), "{outcome:?}");
        assert!(!outcome.stderr.contains(&token[8..]), "{outcome:?}");
    }
    for arguments in [
        &["--public-read"][..],
        &["--allow", "10.0.0.1/8"],
        &["--read-rate", "fast"],
        &["--cors-origin", "*.example.org"],
        &["--client-connections-max", "0"],
    ] {
        let outcome = run(digestd().args(arguments), b"");
        assert_eq!(outcome.code, Some(2), "{arguments:?} {outcome:?}");
    }
}

#[test]
fn tokens_are_replaced_under_load_and_none_passes_that_should_fail() {
    const ROUNDS: usize = 6;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let (always, always_line) = new_token(&["always"]);
    let (odd, odd_line) = new_token(&["odd"]);
    let (even, even_line) = new_token(&["even"]);
    let write = |line: &String| fs::write(&path, format!("{always_line}{line}")).unwrap();
    write(&even_line);
    let data = directory.path().join("data");
    let server = Launch::new(&data).option("--tokens", &path).start();
    let (is_over, passed) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                load(&server, &is_over, |client| {
                    assert_eq!(get_status(client, &always), 404);
                    passed.fetch_add(1, Relaxed);
                });
            });
        }
        let _over = Over(&is_over);
        // On connections that were there before.
        let mut client = server.client();
        assert_eq!(get_status(&mut client, &even), 404);
        for round in 1..=ROUNDS {
            let is_odd = round % 2 == 1;
            write(if is_odd { &odd_line } else { &even_line });
            reload(&server, round);
            let statuses = [
                get_status(&mut client, &odd),
                get_status(&mut client, &even),
            ];
            let expected = if is_odd { [404, 401] } else { [401, 404] };
            assert_eq!(statuses, expected, "{round}");
            // There was load.
            wait_for_growth(&passed, 8);
        }
    });

    // A file that is cut short changes nothing.
    fs::write(&path, &always_line[..always_line.len() - 10]).unwrap();
    server.signal(Signal::HUP);
    server.wait_for("tokens and lists stay as they were");
    assert_eq!(get_status(&mut server.client(), &always), 404);
    assert_eq!(get_status(&mut server.client(), &even), 404);
}

#[test]
fn lists_are_replaced_under_load_and_nobody_passes_who_should_not() {
    const ROUNDS: usize = 6;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    let write = |denied: &str| fs::write(&path, format!("deny {denied}\n")).unwrap();
    write("192.0.2.2");
    let data = directory.path().join("data");
    let server = Launch::new(&data)
        .option("--list-file", &path)
        .option("--trusted-proxy", "127.0.0.1")
        .start();
    let status = |client: &mut Client, address: &str| {
        let fields = [("X-Forwarded-For", address)];
        client.ask("GET", "/livez", &fields, b"").unwrap().status
    };
    let (is_over, passed) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                load(&server, &is_over, |client| {
                    assert_eq!(status(client, "192.0.2.9"), 200);
                    passed.fetch_add(1, Relaxed);
                });
            });
        }
        let _over = Over(&is_over);
        let mut client = server.client();
        for round in 1..=ROUNDS {
            let is_odd = round % 2 == 1;
            write(if is_odd { "192.0.2.1" } else { "192.0.2.2" });
            reload(&server, round);
            let statuses = ["192.0.2.1", "192.0.2.2"].map(|address| status(&mut client, address));
            let expected = if is_odd { [403, 200] } else { [200, 403] };
            assert_eq!(statuses, expected, "{round}");
            wait_for_growth(&passed, 8);
        }
    });
}

#[test]
fn a_refusal_has_one_line_with_the_client_and_without_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let (token, line) = new_token(&["reader", "--scope", "read"]);
    fs::write(&path, line).unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data)
        .option("--tokens", &path)
        .option("--trusted-proxy", "127.0.0.1")
        .option("--log-level", "trace")
        .start();
    let mut client = server.client();
    let wrong = "digestd_0123456789abcdef";
    let authorization = |token: &str| format!("Bearer {token}");
    for (token, status) in [(None, 401), (Some(wrong), 401), (Some(&*token), 403)] {
        let value = token.map(authorization).unwrap_or_default();
        let mut fields = vec![("X-Forwarded-For", "192.0.2.7")];
        if token.is_some() {
            fields.push(("Authorization", &value));
        }
        let answer = client.ask("PATCH", "/messages", &fields, b"").unwrap();
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains(wrong));
    }
    assert_eq!(get_status(&mut client, &token), 404);
    // Over HTTP/2, whose crate tells what it reads.
    for token in [wrong, &token] {
        let (url, file) = (server.url(), secret(directory.path(), token));
        let target = ["--url", &url, "--token-file", file.to_str().unwrap()];
        let words = [
            "miss",
            "--http2",
            "--connections",
            "1",
            "--duration",
            "10ms",
        ];
        let outcome = loadgen(&[&words, &target[..]].concat());
        assert_eq!(outcome.is_err(), token == wrong, "{outcome:?}");
    }
    server.wait_for("TRACE");
    drop(client);
    let cmdline = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
    let log = server.stop();
    for line in [
        "access refused client=192.0.2.7 reason=\"no-token\" needs=\"write\" token=\"-\"",
        "access refused client=192.0.2.7 reason=\"unknown-token\" needs=\"write\" token=\"-\"",
        "access refused client=192.0.2.7 reason=\"scope\" needs=\"write\" token=\"reader\"",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line}\n{log}");
    }
    let help = run(digestd().arg("--help"), b"").stdout;
    for place in [
        &log,
        &*String::from_utf8_lossy(&cmdline),
        &*String::from_utf8_lossy(&help),
    ] {
        for secret in [wrong, &token] {
            assert!(!place.contains(&secret[8..]), "{place}");
        }
    }
}

#[test]
fn lines_about_refusals_have_a_limit_and_tell_how_many_are_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    fs::write(&path, new_token(&["a"]).1).unwrap();
    let data = directory.path().join("data");
    let server = Launch::new(&data)
        .option("--tokens", &path)
        .option("--access-log", "off")
        .start();
    let mut client = server.client();
    let mut asked = 0_usize;
    // Until one was left out and the next said so; at most a hundred a second have a line.
    while !server
        .log()
        .lines()
        .any(|line| line.contains("access refused") && !line.contains("unsaid=0"))
    {
        asked += 1;
        assert!(asked < 100_000);
        assert_eq!(get_status(&mut client, "wrong"), 401);
    }
    let lines = server.log().matches("access refused").count();
    assert!(lines < asked, "{lines} {asked}");
}
