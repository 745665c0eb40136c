//! Servers that lie: what the verbs print of what they say, and keep of what they send.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson;

use crate::process::{Outcome, digestd, run};

/// Obeyed by a terminal, or hidden from who looks at it: a title, an empty screen, a line of its own, letters
/// from right to left.
const SPELL: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[2J\r\ndigestd: 9 messages stored \u{9b}1m\u{202e}gnol";

/// How it looks.
const SPELLED: &str =
    "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\r\\ndigestd: 9 messages stored \\u{9b}1m\\u{202e}gnol";

/// A server that reads what it gets and lets `answer` write to it; returns its address.
fn serve(answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + 'static) -> String {
    serve_target(move |_, stream| answer(stream))
}

/// The same for an answer that depends on the target of the request.
fn serve_target(
    answer: impl Fn(&str, &mut TcpStream) -> io::Result<()> + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head);
            let target = head.split(' ').nth(1).unwrap_or_default();
            // The client may have had enough.
            let _ = answer(target, &mut stream)
                .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    url
}

fn serve_answer(status: &str, body: &str) -> String {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    serve(move |stream| stream.write_all(answer.as_bytes()))
}

/// Runs a verb that asks the server at `url`.
fn ask(words: &[&str], url: &str) -> Outcome {
    let mut lines = b"{\"message\": \"foo\"}\n".to_vec();
    if words[0] == "import" {
        lines.clear();
        ndjson::write(&mut lines, &Message::new("foo"));
    }
    run(digestd().args(words).args(["--url", url]), &lines)
}

fn foo() -> String {
    Digest::of(b"foo").to_string()
}

/// Nothing but text, each line one of ours.
fn assert_harmless(outcome: &Outcome) {
    assert!(outcome.stderr.contains(SPELLED), "{outcome:?}");
    for line in outcome.stderr.lines() {
        assert!(line.starts_with("digestd: "), "{outcome:?}");
        assert!(!line.starts_with("digestd: 9"), "{outcome:?}");
        let obeyed = |symbol: char| symbol.is_control() || symbol == '\u{202e}';
        assert!(!line.contains(obeyed), "{outcome:?}");
    }
}

#[test]
fn what_a_server_says_is_printed_as_text() {
    let error = serde_json::json!({ "error": SPELL }).to_string();
    let foo = foo();
    for status in [
        "500 Internal Server Error",
        "409 Conflict",
        "401 Unauthorized",
    ] {
        let url = serve_answer(status, &error);
        for words in [
            ["put", "foo"].as_slice(),
            &["get", &foo],
            &["get", &foo, &foo],
            &["has", &foo],
            &["lookup"],
            &["delete", &foo],
            &["put", "--batch", "-"],
            &["import"],
            &["export"],
            &["verify"],
            &["healthcheck"],
        ] {
            let outcome = ask(words, &url);
            println!("{status} {words:?}");
            assert_ne!(outcome.code, Some(0), "{outcome:?}");
            assert_harmless(&outcome);
        }
    }
    let url = serve_answer("200 OK", &format!("{error}\n"));
    for words in [
        ["put", "--batch", "-"].as_slice(),
        &["lookup"],
        &["has", &foo],
    ] {
        let outcome = ask(words, &url);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_harmless(&outcome);
    }
}

/// What a client sees of a server that broke off, through a proxy that speaks HTTP/1.0 to it.
#[test]
fn an_export_that_seems_to_end_is_gone_on_with_until_nothing_is_left() {
    let mut messages = ["one", "two", "three", "four", "five"].map(Message::new);
    messages.sort_by_key(Message::digest);
    let served = messages.clone();
    let url = serve_target(move |target, stream| {
        let after = target
            .split_once("after=")
            .map(|(_, after)| after.to_owned());
        let left = served.iter().filter(|message| {
            after
                .as_ref()
                .is_none_or(|after| message.digest().to_string() > *after)
        });
        let mut lines = Vec::new();
        left.take(2)
            .for_each(|message| ndjson::write(&mut lines, message));
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        stream.write_all(&lines)
    });
    let outcome = run(digestd().args(["export", "--url", &url]), b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut all = Vec::new();
    for message in &messages {
        ndjson::write(&mut all, message);
    }
    assert_eq!(outcome.stdout, all);
    let outcome = run(digestd().args(["verify", "--url", &url]), b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        String::from_utf8_lossy(&outcome.stdout).contains('5'),
        "{outcome:?}"
    );
}

#[test]
fn only_the_type_of_a_problem_says_that_a_message_is_not_there() {
    let foo = foo();
    let told =
        r#"{"type": "/digests/openapi.yaml#/x-problems/no-such-message", "detail": "Gone."}"#;
    let other =
        r#"{"type": "/openapi.yaml#/x-problems/no-such-path", "detail": "Message not found."}"#;
    let line = |kind| {
        format!("{{\"error\": \"Message not found.\", \"type\": \"{kind}\", \"line\": 1}}\n")
    };
    let (told_line, other_line) = (line("no-such-message"), line("damaged"));
    for (words, status, body, code) in [
        (["get", &foo].as_slice(), "404 Not Found", told, 6),
        (&["get", &foo], "404 Not Found", other, 1),
        (
            &["get", &foo],
            "404 Not Found",
            r#"{"error": "Message not found."}"#,
            1,
        ),
        (&["get", &foo], "500 Internal Server Error", told, 1),
        (&["delete", &foo], "404 Not Found", told, 6),
        (&["delete", &foo], "404 Not Found", other, 1),
        (
            &["get", &foo, "--output-dir", "/tmp"],
            "200 OK",
            &told_line,
            6,
        ),
        (
            &["get", &foo, "--output-dir", "/tmp"],
            "200 OK",
            &other_line,
            1,
        ),
    ] {
        let outcome = ask(words, &serve_answer(status, body));
        assert_eq!(outcome.code, Some(code), "{words:?} {body}: {outcome:?}");
        assert_eq!(outcome.stdout, b"", "{outcome:?}");
    }
}

#[test]
fn a_text_with_another_digest_is_not_printed() {
    let foo = foo();
    let line = "{\"message\": \"bar\"}\n";
    for (words, body) in [
        (["get", foo.as_str()].as_slice(), "bar"),
        (&["get", &foo, &foo], line),
    ] {
        let outcome = ask(words, &serve_answer("200 OK", body));
        assert_eq!((outcome.code, &*outcome.stdout), (Some(1), &b""[..]));
        assert!(
            outcome.stderr.contains("a text with another digest"),
            "{outcome:?}"
        );
    }
    let url = serve_answer(
        "200 OK",
        &format!("{{\"digest\": \"{}\"}}\n", "a".repeat(64)),
    );
    let outcome = ask(&["has", &foo], &url);
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(1), &b""[..]),
        "{outcome:?}"
    );
}

#[test]
fn a_server_that_holds_everything_up_is_given_up_after_ten_waits() {
    let line = |seconds| {
        format!(
            "{{\"error\": \"Wait.\", \"line\": 1, \"status\": 429, \"retry_after\": {seconds}}}\n"
        )
    };
    let foo = foo();
    for (words, status, seconds, expected) in [
        (["put", "--batch", "-"].as_slice(), "200 OK", 0, 11),
        (&["put", "--batch", "-"], "200 OK", 3601, 1),
        (&["put", "--batch", "-"], "429 Too Many Requests", 0, 11),
        (&["has", &foo], "200 OK", 0, 11),
        (&["has", &foo], "429 Too Many Requests", 3601, 1),
        (&["lookup"], "429 Too Many Requests", 0, 11),
        (&["delete", &foo], "429 Too Many Requests", 0, 12),
        // Half as much each time, down to 32 KiB.
        (&["put", "--batch", "-"], "413 Payload Too Large", 0, 12),
        // Once beside others, then alone.
        (&["import"], "429 Too Many Requests", 0, 12),
        (&["import"], "429 Too Many Requests", 3601, 2),
    ] {
        let (asked, line) = (Arc::new(AtomicU32::new(0)), line(seconds));
        let count = Arc::clone(&asked);
        let url = serve(move |stream| {
            count.fetch_add(1, Relaxed);
            let length = line.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nRetry-After: {seconds}\r\nContent-Length: {length}\r\n\r\n{line}"
            )
        });
        let outcome = ask(words, &url);
        assert_eq!(outcome.code, Some(1), "{words:?} {status}: {outcome:?}");
        assert!(outcome.stderr.contains("Wait."), "{outcome:?}");
        assert_eq!(
            asked.load(Relaxed),
            expected,
            "{words:?} {status} {seconds}"
        );
    }
}

#[test]
fn an_answer_that_is_announced_as_too_large_is_not_waited_for() {
    let foo = foo();
    for (words, status, bytes) in [
        (["get", foo.as_str()], "200 OK", (1_u64 << 30) + 1),
        (["get", &foo], "404 Not Found", (64 << 10) + 1),
        (["put", "foo"], "201 Created", (64 << 10) + 1),
    ] {
        let url = serve(move |stream| {
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\n\r\n"
            )?;
            // Until the client has gone.
            io::copy(stream, &mut io::sink()).map(|_| ())
        });
        let outcome = ask(&words, &url);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let said = format!(
            "the server answered {status} with more than {} bytes",
            bytes - 1
        );
        assert!(outcome.stderr.contains(&said), "{outcome:?}");
    }
}

#[test]
fn an_answer_without_an_end_is_not_kept() {
    let foo = foo();
    for (words, status) in [
        (["put", "foo"].as_slice(), "201 Created"),
        (&["get", &foo], "503 Service Unavailable"),
        (&["export"], "403 Forbidden"),
        (&["put", "--batch", "-"], "429 Too Many Requests"),
        (&["put", "--batch", "-"], "200 OK"),
        (&["import"], "413 Payload Too Large"),
        (&["healthcheck"], "200 OK"),
    ] {
        let url = serve(move |stream| {
            write!(stream, "HTTP/1.1 {status}\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 8192])?;
            }
        });
        let outcome = ask(words, &url);
        println!("{status} {words:?}");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let said = "more than 65536 bytes, the most that there can be";
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
}
