//! The command line: verbs, options, exit codes, signals, and what a log tells.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use rustix::process::Signal;
use tokio::net::TcpSocket;

use crate::process::{Client, Digestd, Launch, Outcome, Process, digestd, run, run_without_reader};
use crate::writers::Round;

const FOO: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Texts that something on their way might spoil.
const AWKWARD: [&str; 8] = [
    "",
    "\n",
    "one\ntwo\r\n\r\n",
    " \t ",
    "\u{feff}begins with a byte order mark",
    "\0\u{1}\u{7f}\u{85}\u{2028}\u{ffff}\u{10ffff}",
    "{\"message\": \"\\u0000\"}",
    "--help",
];

#[test]
fn a_value_of_a_switch_that_stands_alone_is_explained() {
    for words in [
        &["serve", "--log-compress", "on"][..],
        &["--allow-export", "False"],
    ] {
        let outcome = run(digestd().args(words), b"");
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("comes after `=`"), "{outcome:?}");
    }
    let outcome = run(digestd().args(["serve", "elsewhere"]), b"");
    assert!(!outcome.stderr.contains("comes after"), "{outcome:?}");
}

#[test]
fn hash_prints_the_digest_of_an_argument() {
    for (text, digest) in [("foo", FOO), ("", NOTHING)] {
        let outcome = run(digestd().args(["hash", text]), b"not this");
        assert_eq!(result(&outcome), format!("{digest}\n"));
    }
}

#[test]
fn hash_prints_the_digest_of_standard_input() {
    for arguments in [&["hash"][..], &["hash", "-"]] {
        let outcome = run(digestd().args(arguments), b"foo");
        assert_eq!(result(&outcome), format!("{FOO}\n"));
    }
}

#[test]
fn hash_prints_the_digest_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    fs::write(&path, "foo").unwrap();
    let outcome = run(digestd().args(["hash", "--file"]).arg(&path), b"not this");
    assert_eq!(result(&outcome), format!("{FOO}\n"));
}

#[test]
fn hash_takes_every_byte_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    for text in AWKWARD {
        let expected = format!("{}\n", Digest::of(text.as_bytes()));
        let outcome = run(digestd().args(["hash", "-"]), text.as_bytes());
        assert_eq!(result(&outcome), expected, "{text:?} from standard input");
        fs::write(&path, text).unwrap();
        let outcome = run(digestd().args(["hash", "-f"]).arg(&path), b"");
        assert_eq!(result(&outcome), expected, "{text:?} from a file");
        if !text.contains('\0') {
            let outcome = run(digestd().args(["hash", "--", text]), b"");
            assert_eq!(result(&outcome), expected, "{text:?} as an argument");
        }
    }
}

#[test]
fn a_text_that_is_not_utf_8_is_refused_by_every_verb() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    fs::write(&path, b"12\xff").unwrap();
    // Nobody is asked to store it.
    for verb in [&["hash"][..], &["put", "--url", "http://127.0.0.1:1"]] {
        let command = || {
            let mut command = digestd();
            command.args(verb);
            command
        };
        let argument = OsStr::from_bytes(b"12\xff");
        for outcome in [
            run(&mut command(), b"12\xff"),
            run(command().arg(argument), b""),
            run(command().arg("--file").arg(&path), b""),
        ] {
            let error = failure(&outcome, 1);
            assert!(
                error.contains("not UTF-8: invalid byte at offset 2"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_text_in_utf_16_is_refused_by_its_name_and_a_mark_in_utf_8_is_part_of_it() {
    for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        for text in ["\u{feff}foo", "\u{feff}\u{e4}\r\n"] {
            let bytes: Vec<_> = text.encode_utf16().flat_map(to_bytes).collect();
            let error = failure(&run(digestd().arg("hash"), &bytes), 1);
            assert!(error.contains("UTF-16 instead of UTF-8"), "{error}");
        }
    }
    let text = "\u{feff}foo";
    let outcome = run(digestd().arg("hash"), text.as_bytes());
    assert_eq!(
        result(&outcome),
        format!("{}\n", Digest::of(text.as_bytes()))
    );
}

#[test]
fn lines_of_put_may_begin_with_a_byte_order_mark() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let url = server.url();
    let put = |input: &[u8]| {
        run(
            digestd().args(["put", "--batch", "-", "--url", &url]),
            input,
        )
    };
    for lines in [
        "\u{feff}{\"message\": \"foo\"}\n",
        "\u{feff}\n{\"message\": \"foo\"}",
        "{\"message\":\"foo\"}",
    ] {
        assert_eq!(
            result(&put(lines.as_bytes())),
            format!("{FOO}\n"),
            "{lines:?}"
        );
        let bytes: Vec<_> = lines.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = failure(&put(&bytes), 1);
        assert!(error.contains("UTF-16 instead of UTF-8"), "{error}");
    }
    assert_eq!(result(&put("\u{feff}".as_bytes())), "");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for verb in ["hash", "put"] {
        let outcome = run(digestd().args([verb, "--file", "/nowhere/at-all"]), b"");
        let error = failure(&outcome, 1);
        assert!(error.contains("/nowhere/at-all"), "{error}");
    }
}

#[test]
fn what_is_put_is_got_byte_for_byte() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let path = data.path().join("text");
    let put = |arguments: &[&OsStr], input: &str| {
        let mut command = digestd();
        command
            .args(["put", "--url", &server.url()])
            .args(arguments);
        result(&run(&mut command, input.as_bytes()))
    };
    let longest = "ä".repeat(1 << 19);
    for text in AWKWARD.into_iter().chain([longest.as_str()]) {
        let digest = format!("{}\n", Digest::of(text.as_bytes()));
        assert_eq!(put(&["-".as_ref()], text), digest);
        fs::write(&path, text).unwrap();
        assert_eq!(put(&["--file".as_ref(), path.as_ref()], ""), digest);
        if !text.contains('\0') && text.len() < 100 {
            assert_eq!(put(&["--".as_ref(), text.as_ref()], ""), digest);
        }
        for digest in [digest.trim_end(), digest.trim_end().to_uppercase().as_str()] {
            let outcome = get(&server.url(), digest);
            assert_eq!(result(&outcome), text);
        }
    }
    server.stop();
}

#[test]
fn the_server_s_address_may_come_from_the_environment() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let outcome = run(
        digestd()
            .args(["put", "foo"])
            .env("DIGESTD_URL", server.url()),
        b"",
    );
    assert_eq!(result(&outcome), format!("{FOO}\n"));
    let outcome = run(
        digestd()
            .args(["get", FOO, "--url", &server.url()])
            .env("DIGESTD_URL", "http://127.0.0.1:1"),
        b"",
    );
    assert_eq!(result(&outcome), "foo");
}

#[test]
fn what_the_server_refuses_is_passed_on_in_a_sentence() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).option("--body-max", "10B").start();
    let outcome = run(
        digestd().args(["put", "eleven chars", "--url", &server.url()]),
        b"",
    );
    let error = failure(&outcome, 1);
    assert!(error.contains("413"), "{error}");
    assert!(error.contains("larger than 10 bytes"), "{error}");
}

#[test]
fn a_message_that_is_not_there_ends_with_6() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    failure(&get(&server.url(), FOO), 6);
}

#[test]
fn a_server_that_is_not_there_ends_with_7() {
    // A port that is taken, so that nobody else can, and does not listen.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let url = format!("http://{address}");
    for outcome in [
        get(&url, FOO),
        run(digestd().args(["put", "foo", "--url", &url]), b""),
    ] {
        let error = failure(&outcome, 7);
        assert!(error.contains(&address.to_string()), "{error}");
    }
}

#[test]
fn arguments_that_mean_nothing_end_with_2() {
    let uses: [&[&str]; 19] = [
        &["hash", "--version"],
        &["hash", "-5"],
        &["put", "--stdin"],
        &["put", "--dry-run"],
        &["put", "-n", "foo"],
        &["put", "foo", "--json"],
        &["get", FOO, "--raw"],
        &["token", "new", "--name"],
        &["--nonsense"],
        &["nonsense"],
        &["--listen", "here"],
        &["--durability", "maybe"],
        &["--body-max", "much"],
        &["--workers", "-1"],
        &["hash", "foo", "bar"],
        &["hash", "foo", "--file", "bar"],
        &["get"],
        &["get", "2c26b46b"],
        &["--workers", "1", "hash", "foo"],
    ];
    for arguments in uses {
        let outcome = run(digestd().args(arguments), b"");
        let error = checked_failure(&outcome, 2);
        // As a comment where it may go into the file of tokens.
        let error = error.strip_prefix("# ").unwrap_or(&error);
        assert!(error.starts_with("error: "), "{arguments:?}: {error}");
    }
}

/// A flag that is not known is no text, and what was given for a secret is not shown.
#[test]
fn a_token_in_the_wrong_place_is_not_shown() {
    let token = format!("digestd_{}", "0f".repeat(32));
    let option = format!("--token={token}");
    for (arguments, code) in [
        (&["put", option.as_str()][..], 2),
        (&["put", "--token", &token], 2),
        (&["put", "foo", &token], 2),
        (&["put", &format!("--json={token}")], 2),
        (&["put", &format!("-{token}")], 2),
        (&["get", &token], 2),
        (&["get", FOO, "--url", &token], 2),
        (&["token", "new", &token], 2),
        (&[&token], 2),
        (&[&option], 2),
        (&["--durability", &token], 2),
        (&["get", FOO, "--token-file", &token], 1),
        (&["export", &format!("--after={token}")], 2),
    ] {
        let outcome = run(digestd().args(arguments), b"a text");
        let error = checked_failure(&outcome, code);
        assert!(!error.contains("0f0f"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_text_of_several_words_without_quotes_is_refused_and_not_shown() {
    for words in [
        &["hello", "wombat"][..],
        &["--", "hello", "-wombat"],
        &["-", "wombat"],
        &["hello", "big", "wombat"],
    ] {
        for verb in ["hash", "put"] {
            let outcome = run(digestd().arg(verb).args(words), b"");
            let error = checked_failure(&outcome, 2);
            assert!(!error.contains("wombat"), "{error}");
        }
        let outcome = run(digestd().arg("hash").args(words), b"");
        assert!(outcome.stderr.contains("quotes"), "{outcome:?}");
    }
}

#[test]
fn a_text_that_begins_with_a_minus_comes_after_two() {
    for text in ["--stdin", "-5", "-", "--", "-h"] {
        let outcome = run(digestd().args(["hash", "--", text]), b"");
        let expected = if text == "-" { b"" } else { text.as_bytes() };
        assert_eq!(
            result(&outcome),
            format!("{}\n", Digest::of(expected)),
            "{text}"
        );
    }
    let error = checked_failure(&run(digestd().args(["hash", "-5"]), b""), 2);
    assert!(error.contains("-- -5"), "{error}");
}

#[test]
fn a_minus_as_a_file_is_standard_input() {
    for option in ["--file", "-f"] {
        let outcome = run(digestd().args(["hash", option, "-"]), b"foo");
        assert_eq!(result(&outcome), format!("{FOO}\n"));
    }
}

/// Variables of a server that stand in the environment of everything, as in a container.
#[test]
fn only_serve_reads_the_variables_of_serve() {
    let data = tempfile::tempdir().unwrap();
    let wrong = [
        ("DIGESTD_ALLOW_EXPORT", "maybe"),
        ("DIGESTD_BODY_MAX", "much"),
        ("DIGESTD_WORKERS", "-1"),
        ("DIGESTD_ALLOW", "everybody"),
        ("DIGESTD_LOG_LEVEL", "loud"),
    ];
    for (name, value) in wrong {
        let outcome = run(digestd().args(["hash", "foo"]).env(name, value), b"");
        assert_eq!(result(&outcome), format!("{FOO}\n"));
        for words in [
            &["token", "new", "x"][..],
            &["--version"],
            &["put", "--help"],
        ] {
            let outcome = run(digestd().args(words).env(name, value), b"");
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        }
        for command in [
            Launch::new(data.path()).command(),
            serve_by_name(data.path()),
        ] {
            let mut command = command;
            checked_failure(&run(command.env(name, value), b""), 2);
        }
    }
}

/// `digestd serve`, with the command named.
fn serve_by_name(data_dir: &Path) -> Command {
    let mut command = digestd();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(data_dir);
    command
}

#[test]
fn every_switch_is_read_in_every_spelling_from_the_environment() {
    let data = tempfile::tempdir().unwrap();
    for (on, off) in [("1", "0"), ("True", "FALSE"), ("yes", "no"), ("ON", "off")] {
        let launch = Launch::new(data.path())
            .env("DIGESTD_ALLOW_EXPORT", on)
            .env("DIGESTD_EXIT_ON_FAILURE", on)
            .env("DIGESTD_PUBLIC_READ", off)
            .env("DIGESTD_TLS_SELF_SIGNED", off)
            .env("DIGESTD_ACCESS_LOG", off)
            .env("DIGESTD_LOG_LEVEL", "INFO");
        let server = launch.start();
        let answer = server.client().ask("GET", "/messages", &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{on}");
        let log = server.stop();
        assert!(!log.contains("/messages"), "{log}");
        // The command line has the last word.
        let server = launch
            .through(["sh", "-c", "exec \"$@\" --allow-export=no", "sh"])
            .start();
        let answer = server.client().ask("GET", "/messages", &[], b"").unwrap();
        assert_eq!(answer.status, 405, "{on}");
        server.stop();
    }
}

#[test]
fn serve_warns_of_variables_that_it_does_not_use_and_shows_no_value() {
    let data = tempfile::tempdir().unwrap();
    let launch = || Launch::new(data.path());
    for (name, words) in [
        ("DIGESTD_TOKEN", "nobody is asked for a token"),
        ("DIGESTD_ALLOWED", "did you mean DIGESTD_ALLOW?"),
        ("DIGESTD_URL", "not used by serve"),
        ("DIGESTD_PORT", "PORT or DIGESTD_LISTEN"),
        ("DIGESTD_SERVICE_HOST", "Kubernetes"),
    ] {
        let server = launch().env(name, "s3cret").start();
        let line = server.wait_for(name);
        assert!(line.contains("WARN") && line.contains(words), "{line}");
        let log = server.stop();
        assert!(!log.contains("s3cret"), "{log}");
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
    }
    let launch = launch().env("DIGESTD_PORT", "tcp://10.0.0.1:8080").start();
    let log = launch.stop();
    assert!(
        log.contains("DIGESTD_PORT") && !log.contains("10.0.0.1"),
        "{log}"
    );
}

#[test]
fn settings_that_make_no_sense_end_with_2_too() {
    let data = tempfile::tempdir().unwrap();
    let launch = || Launch::new(data.path());
    for command in [
        launch().option("--segment-size", "1KiB").command(),
        launch().option("--segment-size", "100000").command(),
        launch().option("--body-max", "0B").command(),
        launch().option("--workers", "0").command(),
        launch().option("--cache", "64B").command(),
        launch().option("--cache", "1023KiB").command(),
        launch().option("--batch-max", "0B").command(),
        launch().without("--listen").env("PORT", "99999").command(),
    ] {
        let mut command = command;
        checked_failure(&run(&mut command, b""), 2);
    }
    for url in [
        "http://a b",
        "ftp://x",
        "http://localhost/?x",
        "http://me@localhost",
    ] {
        checked_failure(&get(url, FOO), 2);
    }
}

#[test]
fn a_second_process_on_a_data_directory_ends_with_4_and_names_the_first() {
    let data = tempfile::tempdir().unwrap();
    let first = Digestd::start(data.path());
    let digest = first.client().publish("foo").unwrap();

    let second = run(&mut Launch::new(data.path()).command(), b"");
    let error = failure(&second, 4);
    assert!(error.contains(&format!("pid {}", first.pid())), "{error}");
    assert!(error.contains(&*data.path().to_string_lossy()), "{error}");

    assert_eq!(first.client().fetch(&digest).as_deref(), Some("foo"));
    first.client().publish("bar").unwrap();
    first.stop();
    // The file stays; what counts is the lock.
    let third = Digestd::start(data.path());
    assert_eq!(third.client().fetch(&digest).as_deref(), Some("foo"));
}

#[test]
fn a_port_that_is_taken_ends_with_5_and_a_sentence() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let store = data.path().join("a/store");
    let launch = Launch::new(&store)
        .option("--listen", &address)
        .option("--log-file", data.path().join("logs/digestd.log"));
    let error = failure(&run(&mut launch.command(), b""), 5);
    assert!(error.contains(&address), "{error}");
    assert!(error.contains("--port or --listen"), "{error}");
    // Nothing was made.
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    // A store that is there is as it was.
    Digestd::start(&store).stop();
    let files = || fs::read_dir(&store).unwrap().count();
    let before = files();
    failure(&run(&mut launch.command(), b""), 5);
    assert_eq!(files(), before);
}

#[test]
fn an_address_may_be_a_port_and_a_machine_or_one_of_them() {
    let data = tempfile::tempdir().unwrap();
    for (option, value, expected) in [
        ("--listen", "0", "http://127.0.0.1:"),
        ("--listen", "localhost:0", "http://127.0.0.1:"),
        ("--listen", ":0", "http://[::]:"),
        ("--port", "0", "http://127.0.0.1:"),
        ("-p", "0", "http://127.0.0.1:"),
    ] {
        let launch = Launch::new(data.path()).without("--listen");
        let server = launch.option(option, value).start();
        let line = server.wait_for("listening on");
        assert!(line.contains(expected), "{option} {value}: {line}");
        assert_eq!(server.client().fetch(&Digest::of(b"")), None);
        server.stop();
    }
    for (option, value, words) in [
        ("--listen", "127.0.0.1", "the port is missing"),
        ("--listen", "http://127.0.0.1:0", "without http://"),
        ("--listen", "example.com:80", "names are not looked up"),
        ("--listen", "127.0.0.1:0,::1:0:x", "brackets"),
        ("--admin-listen", "localhost:99999", "up to 65535"),
        ("--tls-listen", "x", "8080 for all addresses"),
        ("--port", "http", "up to 65535"),
    ] {
        let launch = Launch::new(data.path()).option(option, value);
        let outcome = run(&mut launch.command(), b"");
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_ends_with_1_and_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [&*file, &file.join("store"), Path::new("/proc/store")] {
        let outcome = run(&mut Launch::new(path).command(), b"");
        let error = failure(&outcome, 1);
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
    }
}

#[test]
fn a_newer_format_is_refused_with_a_sentence_and_left_as_it_is() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let digest = server.client().publish("foo").unwrap();
    server.stop();

    let path = data.path().join("FORMAT");
    let ours = fs::read_to_string(&path).unwrap();
    let newer = ours.replacen("store 1\n", "store 2\n", 1);
    assert_ne!(newer, ours);
    fs::write(&path, &newer).unwrap();
    let outcome = run(&mut Launch::new(data.path()).command(), b"");
    let error = failure(&outcome, 1);
    assert!(error.contains("has format 2"), "{error}");
    assert!(error.contains("up to 1"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);

    fs::write(&path, ours).unwrap();
    let server = Digestd::start(data.path());
    assert_eq!(server.client().fetch(&digest).as_deref(), Some("foo"));
}

#[test]
fn a_directory_of_somebody_else_is_refused_with_a_sentence() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("FORMAT"), "PNG\n").unwrap();
    let outcome = run(&mut Launch::new(data.path()).command(), b"");
    let error = failure(&outcome, 1);
    assert!(error.contains("not a digestd data directory"), "{error}");
}

#[test]
fn an_error_tells_its_cause_once() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let port = Launch::new(data.path()).option("--listen", address);
    for mut command in [
        port.command(),
        Launch::new("/proc/store".as_ref()).command(),
    ] {
        let error = run(&mut command, b"").stderr;
        assert_eq!(error.matches("(os error").count(), 1, "{error}");
    }
}

#[test]
fn help_names_every_core_option_and_every_exit_code() {
    let help = result(&run(digestd().arg("--help"), b""));
    for option in [
        "--listen",
        "--data-dir",
        "--durability",
        "--body-max",
        "--cache",
        "--workers",
        "--segment-size",
        "--free-min",
        "--batch-max",
        "--admin-listen",
        "--log-format",
        "--log-level",
        "--access-log",
        "--log-file",
        "--log-max-size",
        "--log-max-files",
        "--tls-listen",
        "--tls-cert",
        "--tls-key",
        "--drain-delay",
        "--tokens",
        "--allow",
        "--deny",
        "--list-file",
        "--trusted-proxy",
        "--read-rate",
        "--write-rate",
        "--client-connections-max",
        "--cors-origin",
    ] {
        assert!(help.contains(&format!("{option} <")), "{option}\n{help}");
        let variable = option
            .trim_start_matches('-')
            .replace('-', "_")
            .to_uppercase();
        assert!(
            help.contains(&format!("[env: DIGESTD_{variable}")),
            "{variable}\n{help}"
        );
    }
    for text in ["PORT", "127.0.0.1:8080", "data/store", "1MiB", "disk, os"] {
        assert!(help.contains(text), "{text}\n{help}");
    }
    for verb in ["serve", "hash", "put", "get"] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}\n{help}");
    }
    let (_, codes) = help.split_once("Exit codes:").unwrap();
    for code in [0, 1, 2, 4, 5, 6, 7] {
        let named = codes
            .split([',', '\n'])
            .any(|part| part.trim().starts_with(&format!("{code} ")));
        assert!(named, "{code}\n{help}");
    }
}

#[test]
fn version_prints_the_version() {
    const VERSION: &str = concat!("digestd ", env!("CARGO_PKG_VERSION"));
    let short = run(digestd().arg("-V"), b"");
    assert_eq!(result(&short), format!("{VERSION}\n"));
    // And for what it was built, and of which commit where that is known.
    let long = run(digestd().arg("--version"), b"");
    let long = result(&long);
    let rest = long.strip_prefix(VERSION).unwrap();
    assert!(rest.contains(std::env::consts::ARCH), "{rest}");
}

#[test]
fn port_in_the_environment_means_all_addresses_at_that_port() {
    let data = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = Launch::new(data.path())
        .without("--listen")
        .env("PORT", port.to_string())
        .start();
    assert_eq!(server.address().port(), port);
    assert!(server.address().ip().is_unspecified());
    for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let mut client = Client::connect((ip, port).into()).unwrap();
        client.publish("foo").unwrap();
    }
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let mut client = Client::connect((Ipv6Addr::LOCALHOST, port).into()).unwrap();
        client.publish("foo").unwrap();
    }
    server.stop();
}

#[test]
fn a_server_that_is_open_to_anybody_warns_of_it_and_one_on_loopback_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, format!("reader read {}\n", Digest::of(b"reader"))).unwrap();
    let data = directory.path().join("data");
    let open = || Launch::new(&data).option("--listen", "0.0.0.0:0");
    for (launch, warnings) in [
        (Launch::new(&data), 0),
        (open(), 1),
        (open().option("--deny", "192.0.2.0/24"), 1),
        (open().option("--allow", "127.0.0.0/8"), 0),
        (open().option("--tokens", &tokens), 0),
        (Launch::new(&data).option("--admin-listen", "0.0.0.0:0"), 0),
    ] {
        let log = launch.start().stop();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(lines.len(), warnings, "{launch:?}\n{log}");
        for line in lines {
            assert!(line.contains("--tokens FILE"), "{line}");
            assert!(line.contains("anybody who reaches 0.0.0.0:"), "{line}");
        }
    }
}

#[test]
fn an_empty_port_in_the_environment_means_none() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).env("PORT", "").start();
    assert!(server.address().ip().is_loopback());
}

#[test]
fn digestd_listen_wins_over_port() {
    let data = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = Launch::new(data.path())
        .without("--listen")
        .env("DIGESTD_LISTEN", "127.0.0.2:0")
        .env("PORT", port.to_string())
        .start();
    assert_eq!(server.address().ip(), Ipv4Addr::new(127, 0, 0, 2));
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
}

#[test]
fn an_option_wins_over_the_environment_and_that_over_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let (flag, variable) = (
        directory.path().join("flag"),
        directory.path().join("variable"),
    );
    let durability = |server: &Digestd| {
        let answer = server.client().post("foo").unwrap();
        answer.fields["durability"].clone()
    };

    let launch = Launch::new(&flag)
        .option("--listen", "127.0.0.3:0")
        .env("DIGESTD_LISTEN", "127.0.0.2:0")
        .env("DIGESTD_DATA_DIR", &variable)
        .env("DIGESTD_DURABILITY", "os");
    let server = launch.start();
    assert_eq!(server.address().ip(), Ipv4Addr::new(127, 0, 0, 3));
    assert!(flag.exists() && !variable.exists());
    assert_eq!(durability(&server), "os");
    server.stop();

    let server = launch.option("--durability", "disk").start();
    assert_eq!(durability(&server), "disk");
    server.stop();

    let server = Launch::new(&flag).start();
    assert_eq!(durability(&server), "disk");
}

#[test]
fn several_addresses_are_all_listened_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--listen", "127.0.0.1:0,127.0.0.2:0")
        .start();
    let line = server.wait_for("listening on http://127.0.0.2:");
    let (_, second) = line.split_once("http://").unwrap();
    let digest = server.client().publish("foo").unwrap();
    let mut client = Client::connect(second.parse().unwrap()).unwrap();
    assert_eq!(client.fetch(&digest).as_deref(), Some("foo"));
}

#[test]
fn a_signal_in_the_middle_of_writes_ends_with_0_and_everything_is_there() {
    let data = tempfile::tempdir().unwrap();
    for (number, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let server = Digestd::start(data.path());
        let round = Round::write(&server, number, 16, 200, || server.signal(signal));
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{status}\n{log}");

        let server = Digestd::start(data.path());
        round.check(&server);
        // What is acknowledged and nothing else: all writes had their answer.
        let log = server.stop();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
}

#[test]
fn a_request_in_flight_is_finished_after_the_signal() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let mut client = held_request(&server);
    server.signal(Signal::TERM);
    server.wait_for("stopping");
    client.send(b"56789").unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 201);
    assert!(client.answer().is_err(), "the connection is closed");
    drop(client);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");

    let server = Digestd::start(data.path());
    let found = server.client().fetch(&Digest::of(b"0123456789"));
    assert_eq!(found.as_deref(), Some("0123456789"));
}

#[test]
fn a_second_signal_ends_at_once_with_1() {
    let data = tempfile::tempdir().unwrap();
    for [first, second] in [
        [Signal::TERM, Signal::TERM],
        [Signal::INT, Signal::INT],
        [Signal::INT, Signal::TERM],
    ] {
        let server = Digestd::start(data.path());
        let digest = server.client().publish("acknowledged").unwrap();
        let _client = held_request(&server);
        server.signal(first);
        server.wait_for("stopping");
        let started = Instant::now();
        server.signal(second);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(1), "{status}\n{log}");
        // Far below the time that the request has to finish.
        assert!(started.elapsed() < Duration::from_secs(5));

        let server = Digestd::start(data.path());
        let found = server.client().fetch(&digest);
        assert_eq!(found.as_deref(), Some("acknowledged"));
    }
}

/// A request whose body lacks its last five bytes, `56789`, and which the server is waiting for.
fn held_request(server: &Digestd) -> Client {
    let mut client = server.client();
    client
        .send(
            b"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
              Content-Length: 10\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    // Sent when somebody begins to read the body.
    assert_eq!(client.line().unwrap(), "HTTP/1.1 100 Continue");
    assert_eq!(client.line().unwrap(), "");
    client.send(b"01234").unwrap();
    client
}

#[test]
fn a_signal_right_after_the_port_is_open_is_an_order_to_stop_as_well() {
    let data = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        Launch::new(data.path()).start_unready().stop();
    }
    Digestd::start(data.path()).stop();
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let data = tempfile::tempdir().unwrap();
    let child = Launch::new(data.path())
        .command()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut server = Process(child);
    let mut log = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let mut address: Option<SocketAddr> = None;
    for line in log.by_ref() {
        let line = line.unwrap();
        if let Some((_, found)) = line.split_once("listening on http://") {
            address = Some(found.parse().unwrap());
        }
        if line.contains("ready") {
            break;
        }
    }
    // Like `digestd 2>&1 | head`.
    drop(log);
    let mut client = Client::connect(address.unwrap()).unwrap();
    let digest = client.publish("foo").unwrap();
    server.signal(Signal::TERM);
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{status}");

    let server = Digestd::start(data.path());
    assert_eq!(server.client().fetch(&digest).as_deref(), Some("foo"));
}

#[test]
fn an_error_that_cannot_be_written_has_its_exit_code_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not-there");
    let outcome = run(
        Command::new("sh")
            .args(["-c", "exec \"$0\" hash --file \"$1\" 2>/dev/full"])
            .arg(digestd().get_program())
            .arg(path),
        b"",
    );
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_log_never_holds_the_text_of_a_message_or_a_whole_digest() {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).option("--body-max", "1KiB");
    let texts = ["quokka", "wombat", "bandicoot"];
    let server = launch.start();
    let mut client = server.client();
    let [damaged, whole, missing] = texts.map(|text| Digest::of(text.as_bytes()));
    client.publish("quokka").unwrap();
    client.publish("quokka").unwrap();
    client.publish("wombat").unwrap();
    client.fetch(&whole).unwrap();
    assert_eq!(client.fetch(&missing), None);
    let json = [("Content-Type", "application/json")];
    for (body, status) in [
        ("{\"message\": \"wombat\"}".to_owned(), 201),
        ("{\"message\": \"bandicoot\", }".to_owned(), 400),
        ("bandicoot".to_owned(), 400),
        ("bandicoot".repeat(1000), 413),
    ] {
        let answer = client.ask("POST", "/messages", &json, body.as_bytes());
        assert_eq!(answer.unwrap().status, status);
        if status == 413 {
            client = server.client();
        }
    }
    drop(client);
    let log = [server.stop(), after_damage(&launch, &damaged, &whole)].concat();

    // What it is for: somebody can find out what went wrong where.
    assert!(log.contains(&format!("trace_id=\"{TRACE_ID}\"")), "{log}");
    // The first digits are there, so the log is one that could have held more.
    assert!(log.contains(&damaged.to_string()[..8]), "{log}");
    for digest in [damaged, whole, missing] {
        assert!(!log.contains(&digest.to_string()[..9]), "{log}");
    }
    for text in texts {
        assert!(!log.contains(text), "{log}");
    }
}

/// Spoils the text "quokka" on the disk, asks for it, and returns the log.
fn after_damage(launch: &Launch, damaged: &Digest, whole: &Digest) -> String {
    let path = launch.data_dir().join("log/00000001.log");
    let mut segment = fs::read(&path).unwrap();
    let at = segment
        .windows(6)
        .position(|bytes| bytes == b"quokka")
        .unwrap();
    segment[at] ^= 1;
    fs::write(&path, segment).unwrap();
    let server = launch.start();
    let mut client = server.client();
    let path = format!("/messages/{damaged}");
    let parent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    let answer = client.ask("GET", &path, &[("Traceparent", &parent)], b"");
    assert_eq!(answer.unwrap().status, 500);
    assert_eq!(client.get(whole).unwrap().status, 200);
    drop(client);
    server.stop()
}

fn get(url: &str, digest: &str) -> Outcome {
    run(digestd().args(["get", digest, "--url", url]), b"")
}

/// The result of a command that must have succeeded and have nothing else to say.
fn result(outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    String::from_utf8(outcome.stdout.clone()).unwrap()
}

/// The sentence of a command that must have failed with `code`.
fn failure(outcome: &Outcome, code: i32) -> String {
    let error = checked_failure(outcome, code);
    let sentence = error.strip_prefix("digestd: ").expect(&error);
    let sentence = sentence.strip_suffix('\n').expect(&error);
    assert!(!sentence.contains('\n'), "{error}");
    sentence.to_owned()
}

/// What a command that must have failed with `code` said, for a person to read.
fn checked_failure(outcome: &Outcome, code: i32) -> String {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert_eq!(outcome.stdout, b"", "{outcome:?}");
    let error = outcome.stderr.clone();
    assert!(!error.is_empty());
    for noise in ["panicked", "backtrace", "thread '", "Error {", "src/"] {
        assert!(!error.contains(noise), "{error}");
    }
    error
}

/// A port that nobody has, outside of the range from which the kernel gives ports to connections.
fn free_port() -> u16 {
    let first = 20_000 + std::process::id() % 10_000;
    (first..32_000)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|&port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
        .unwrap()
}

/// `digestd serve` with one variable; what it says.
fn with_variable(name: &str, value: impl AsRef<OsStr>) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut command = digestd();
    command
        .arg("serve")
        .current_dir(directory.path())
        .env(name, value);
    let outcome = run(&mut command, b"");
    assert_eq!(outcome.code, Some(2), "{name}: {outcome:?}");
    outcome.stderr
}

#[test]
fn what_is_wrong_with_a_variable_is_said_of_the_variable() {
    for (name, value, said) in [
        ("DIGESTD_DURABILITY", "x", "[possible values: disk, os]"),
        (
            "DIGESTD_ALLOW_EXPORT",
            "maybe",
            "[possible values: on, off]",
        ),
        ("DIGESTD_ACCESS_LOG", "", "none was supplied"),
        (
            "DIGESTD_BODY_MAX",
            "1x",
            "a size is a number and a unit, like 64MiB",
        ),
        (
            "DIGESTD_FREE_MIN",
            "many",
            "a size is a number and a unit, like 64MiB",
        ),
        ("DIGESTD_HEAD_MAX", "1", "between 8KiB and 1MiB"),
        (
            "DIGESTD_IDLE_TIMEOUT",
            "75",
            "a time is a number and a unit, like 90s or 7d",
        ),
        (
            "DIGESTD_SCRUB_INTERVAL",
            "soon",
            "a time is a number and a unit, like 90s or 7d",
        ),
        ("DIGESTD_WORKERS", "0", "between 1 and 65535"),
        ("DIGESTD_LOG_MAX_FILES", "x", "a whole number"),
        ("DIGESTD_ALLOW", "1.2.3.4/99", "a network is an address"),
        ("DIGESTD_PUBLIC_READ", "1", "of no use without --tokens"),
        ("DIGESTD_TLS_KEY", "x", "go together"),
    ] {
        let error = with_variable(name, value);
        assert!(
            error.contains(name) && error.contains(said),
            "{name}: {error}"
        );
    }
    for name in [
        "DIGESTD_DURABILITY",
        "DIGESTD_CACHE",
        "DIGESTD_ALLOW",
        "DIGESTD_PUBLIC_READ",
    ] {
        let error = with_variable(name, OsStr::from_bytes(b"a\xff"));
        let said = format!("the value of {name} is not UTF-8");
        assert!(error.contains(&said), "{name}: {error}");
    }
    for (arguments, name, value, said) in [
        (
            &["put", "--insecure", "x"][..],
            "DIGESTD_CACERT",
            "x",
            "DIGESTD_CACERT",
        ),
        (
            &["put", "x"],
            "DIGESTD_URL",
            "a b",
            "DIGESTD_URL sets --url",
        ),
        // What is on the command line counts, and is named.
        (
            &["--body-max=1x"],
            "DIGESTD_BODY_MAX",
            "1MiB",
            "'--body-max <SIZE>'",
        ),
        (
            &["--body-max", "1x"],
            "DIGESTD_BODY_MAX",
            "1MiB",
            "'--body-max <SIZE>'",
        ),
    ] {
        let outcome = run(digestd().args(arguments).env(name, value), b"");
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains(said), "{arguments:?}: {outcome:?}");
    }
    for words in [&[&b"--cache"[..], b"\xff"][..], &[b"--cache=\xff"]] {
        let words = words.iter().map(|word| OsStr::from_bytes(word));
        let outcome = run(digestd().args(words), b"");
        assert!(
            outcome.stderr.contains("the value of --cache is not UTF-8"),
            "{outcome:?}"
        );
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error_unless_nobody_reads_it() {
    for arguments in [
        &["--help"][..],
        &["help"],
        &["put", "--help"],
        &["--version"],
    ] {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "exec \"$@\" >/dev/full",
            "sh",
            env!("CARGO_BIN_EXE_digestd"),
        ]);
        let outcome = run(command.args(arguments), b"");
        assert_eq!(outcome.code, Some(1), "{arguments:?}");
        assert!(
            outcome.stderr.contains("cannot write the result: "),
            "{}",
            outcome.stderr
        );
        let outcome = run_without_reader(digestd().args(arguments), b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_token_that_is_taken_for_a_path_is_shown_neither_by_doctor_nor_by_the_log() {
    let token = format!("digestd_{}", "0f".repeat(32));
    let directory = tempfile::tempdir().unwrap();
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(directory.path().join(&token)).unwrap();
        }
        let mut command = digestd();
        command
            .arg("doctor")
            .arg(&token)
            .current_dir(directory.path());
        let outcome = run(&mut command, b"");
        let said = String::from_utf8(outcome.stdout).unwrap() + &outcome.stderr;
        assert!(
            !said.contains("0f0f") && said.contains("digestd_…"),
            "{said}"
        );
    }
    for format in ["text", "json"] {
        let server = Launch::new(&directory.path().join(format).join(&token))
            .option("--log-format", format)
            .start();
        let log = server.stop();
        assert!(!log.contains("0f0f") && log.contains("digestd_…"), "{log}");
    }
}

#[test]
fn allow_export_beside_tokens_is_said_to_be_of_no_use() {
    let files = tempfile::tempdir().unwrap();
    let tokens = files.path().join("tokens");
    fs::write(&tokens, format!("ci read {}\n", Digest::of(b"secret"))).unwrap();
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).option("--tokens", &tokens);
    let sentence = "--allow-export is of no use with --tokens";
    let log = launch.start().stop();
    assert!(!log.contains(sentence), "{log}");
    let log = launch.env("DIGESTD_ALLOW_EXPORT", "1").start().stop();
    assert!(log.contains(sentence), "{log}");
}
