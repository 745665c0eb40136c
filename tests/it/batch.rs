//! Batches: many lines in, a line out for each, over sockets and from the command line.

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use digestd::digest::Digest;
use digestd::store::{Fault, StoreError};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::process::{self, Digestd, Launch, digestd, run};
use crate::support::{Ask, Protocol, TestServer, milliseconds, until};

const LINES: &str = "application/x-ndjson";

pub(crate) fn publish(lines: impl AsRef<[u8]>) -> Ask {
    Ask::post("/messages")
        .field("content-type", LINES)
        .body(lines)
}

fn look_up(path: &str, lines: impl AsRef<[u8]>) -> Ask {
    Ask::post(path).field("content-type", LINES).body(lines)
}

fn digest_line(text: &str) -> String {
    format!("{{\"digest\": \"{}\"}}\n", Digest::of(text.as_bytes()))
}

/// The answer to a digest of no message.
fn missing_line(number: usize) -> String {
    format!(
        "{{\"error\": \"Message not found.\", \"type\": \"no-such-message\", \"line\": {number}}}"
    )
}

/// The answer to what is no digest.
fn no_digest_line(number: usize) -> String {
    let text = "This is no digest, which has 64 hexadecimal digits and nothing else.";
    format!("{{\"error\": \"{text}\", \"type\": \"no-such-message\", \"line\": {number}}}")
}

/// The lines of messages `numbers`, and the answers to them.
fn numbered(numbers: std::ops::Range<u32>) -> (String, String) {
    let (mut lines, mut answers) = (String::new(), String::new());
    for number in numbers {
        writeln!(lines, "{{\"message\": \"number {number}\"}}").unwrap();
        answers += &digest_line(&format!("number {number}"));
    }
    (lines, answers)
}

// Messages.

#[tokio::test]
async fn every_line_is_stored_and_answered_in_its_place() {
    let server = TestServer::start();
    let (lines, answers) = numbered(0..1000);
    let answer = server.ask(&publish(lines)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-type"), Some(LINES));
    assert_eq!(answer.field("durability"), Some("os"));
    assert_eq!(answer.text(), answers);
    assert_eq!(server.store.writes(), 1000);
}

#[tokio::test]
async fn the_last_line_may_end_without_a_newline_and_lines_may_end_with_crlf() {
    let server = TestServer::start();
    let answer = server
        .ask(&publish("{\"message\": \"a\"}\r\n{\"message\": \"b\"}"))
        .await;
    assert_eq!(answer.text(), digest_line("a") + &digest_line("b"));
    assert_eq!(server.ask(&publish("")).await.text(), "");
}

#[tokio::test]
async fn a_broken_line_fails_alone_and_with_its_number() {
    let server = TestServer::with(|limits| limits.body.bytes_max = 100);
    let long = format!("{{\"message\": \"{}\"}}", "x".repeat(85));
    let too_long = format!("{{\"message\": \"{}\"}}", "x".repeat(86));
    assert_eq!(long.len(), 100);
    let lines: [&[u8]; 9] = [
        b"{\"message\": \"a\"}",
        b"not json",
        b",",
        b"{\"message\": \"\xff\"}",
        b"[\"message\"]",
        long.as_bytes(),
        too_long.as_bytes(),
        b"{\"message\": 1}",
        b"{\"message\": \"b\"}",
    ];
    let answer = server.ask(&publish(lines.join(&b'\n'))).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers.len(), lines.len());
    assert_eq!(answers[0], digest_line("a").trim_end());
    assert_eq!(answers[5], digest_line(&"x".repeat(85)).trim_end());
    assert_eq!(answers[8], digest_line("b").trim_end());
    for (index, reason, kind) in [
        (1, "column 2", "not-json"),
        (2, "column 1", "not-json"),
        (3, "not UTF-8: invalid byte at offset 13", "not-utf-8"),
        (4, "must be a JSON object", "not-a-message"),
        (6, "larger than 100 bytes", "body-too-large"),
        (7, "must be a string", "not-a-message"),
    ] {
        let line: serde_json::Value = serde_json::from_str(answers[index]).unwrap();
        assert_eq!(
            (&line["line"], &line["type"]),
            (&(index + 1).into(), &kind.into())
        );
        // None of them ends the batch.
        assert_eq!(line.get("status"), None);
        let error = line["error"].as_str().unwrap();
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("line 1"), "{error}");
    }
    assert_eq!(server.store.writes(), 3);
}

#[tokio::test]
async fn blank_lines_count_and_have_no_answers() {
    let server = TestServer::start();
    let lines = "\n{\"message\": \"a\"}\n\r\n\nfoo\n\n{\"message\": \"b\"}\n\n\r";
    let answer = server.ask(&publish(lines)).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(answers[0], digest_line("a").trim_end());
    assert!(answers[1].ends_with(", \"line\": 5}"), "{answers:?}");
    assert_eq!(answers[2], digest_line("b").trim_end());
    let answer = server.ask(&publish("\n".repeat(100_000))).await;
    assert_eq!(answer.text(), "");
    let lines = format!("\n{}\r\n\"foo\"\n", digest_line("a"));
    let answer = server.ask(&look_up("/messages/lookup", lines)).await;
    let expected = format!("{{\"message\": \"a\"}}\n{}\n", no_digest_line(4));
    assert_eq!(answer.text(), expected);
    let lines = format!("\r\n\n{}\n[\n\r", digest_line("missing"));
    let answer = server
        .ask(&look_up("/messages/lookup?missing", lines))
        .await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers[0], digest_line("missing").trim_end());
    assert!(
        answers.len() == 2 && answers[1].ends_with("\"line\": 5}"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_byte_order_mark_before_the_first_line_is_skipped_and_no_other() {
    let server = TestServer::start();
    let mark = "\u{feff}";
    let (a, b) = ("{\"message\": \"a\"}", "{\"message\": \"b\"}");
    for (lines, answers) in [
        (
            format!("{mark}{a}\n{b}\n"),
            digest_line("a") + &digest_line("b"),
        ),
        (format!("{mark}\r\n{a}"), digest_line("a")),
        (format!("{mark}{a}"), digest_line("a")),
        (mark.to_owned(), String::new()),
    ] {
        assert_eq!(
            server.ask(&publish(&lines)).await.text(),
            answers,
            "{lines:?}"
        );
    }
    let sentence = "begins with a byte order mark (U+FEFF), which may stand once";
    for (lines, number) in [
        (format!("{a}\n{mark}{b}\n"), 2),
        (format!("{mark}{mark}{b}\n"), 1),
        (format!("{mark}\n{mark}{b}"), 2),
    ] {
        let answer = server.ask(&publish(&lines)).await;
        let last = answer.text().lines().last().unwrap();
        let place = format!("\"line\": {number}}}");
        assert!(last.contains(sentence) && last.ends_with(&place), "{last}");
    }
    let answer = server
        .ask(&look_up(
            "/messages/lookup",
            format!("\n{mark}{}", digest_line("a")),
        ))
        .await;
    assert!(answer.text().contains(sentence), "{answer:?}");

    let digest = digest_line("a");
    let answer = server
        .ask(&look_up("/messages/lookup", format!("{mark}{digest}")))
        .await;
    assert_eq!(answer.text(), "{\"message\": \"a\"}\n");
    let answer = server
        .ask(&look_up(
            "/messages/lookup?missing",
            format!("{mark}{digest}\n"),
        ))
        .await;
    assert_eq!(answer.text(), "");
}

/// Lines of one batch that may fail.
const ERRORS_MAX: usize = 10_000;

#[tokio::test]
async fn a_batch_ends_with_the_line_after_so_many_that_failed() {
    let server = TestServer::start();
    let stored = "{\"message\": \"a\"}\n";
    // One more may be right or blank, but not be there.
    let wrong = "[\n".repeat(ERRORS_MAX);
    let answer = server.ask(&publish(format!("{stored}{wrong}\n\n"))).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers.len(), 1 + ERRORS_MAX);
    assert!(answers[ERRORS_MAX].contains("not what it should be"));

    let lines = format!("{stored}{wrong}\n{{\"message\": \"b\"}}\n").repeat(2);
    let answer = server.ask(&publish(lines)).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers.len(), 1 + ERRORS_MAX + 1);
    let last = format!(
        "{{\"error\": \"{ERRORS_MAX} lines before this one failed; the batch ends here.\", \
         \"type\": \"too-many-errors\", \"line\": {}, \"status\": 400}}",
        ERRORS_MAX + 3
    );
    assert_eq!(answers[ERRORS_MAX + 1], last);
    assert!(!server.service.holds(&Digest::of(b"b")).unwrap());
}

#[tokio::test]
async fn lines_that_the_store_refuses_count_as_failed_and_digests_of_no_message_do_not() {
    let server = TestServer::with(|limits| limits.batch.errors_max = 10);
    let missing: String = (0..100).map(|it| digest_line(&it.to_string())).collect();
    let answer = server.ask(&look_up("/messages/lookup", missing)).await;
    assert_eq!(answer.text().lines().count(), 100);
    assert!(!answer.text().contains("ends here"));

    server.store.set_fault(Some(Fault::Puts(StoreError::Full)));
    let mut client = server.connect(Protocol::Http1).await;
    let mut batch = client.begin_lines(&publish(""));
    for number in 0..10 {
        batch.send(format!("{{\"message\": \"{number}\"}}\n"));
        assert!(batch.line().await.unwrap().contains("disk is full"));
    }
    batch.send("{\"message\": \"eleventh\"}\n");
    assert!(batch.line().await.unwrap().contains("the batch ends here"));
    assert_eq!(batch.line().await, None);
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_fails_alone() {
    let server = TestServer::start();
    server.publish("known").await;
    server.store.set_fault(Some(Fault::Puts(StoreError::Full)));
    let answer = server
        .ask(&publish(
            "{\"message\": \"new\"}\n{\"message\": \"known\"}\n",
        ))
        .await;
    let (first, second) = answer.text().split_once('\n').unwrap();
    assert!(first.contains("The disk is full"), "{first}");
    assert!(first.ends_with(", \"line\": 1}"), "{first}");
    assert_eq!(second, digest_line("known"));
}

#[tokio::test]
async fn a_line_is_answered_before_the_next_is_sent() {
    let server = TestServer::start();
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut batch = client.begin_lines(&publish(""));
        for text in ["a", "b"] {
            batch.send(format!("{{\"message\": \"{text}\"}}\n"));
            let line = batch.line().await.unwrap();
            assert_eq!(line, digest_line(text).trim_end());
        }
        batch.end();
        assert_eq!(batch.line().await, None);
    }
}

#[tokio::test]
async fn an_answer_waits_for_its_message_to_be_durable() {
    let server = TestServer::start();
    server.publish("known").await;
    server.store.set_fault(Some(Fault::Stall));
    let mut client = server.connect(Protocol::Http1).await;
    let mut batch = client.begin_lines(&publish(""));
    batch.send("{\"message\": \"new\"}\n{\"message\": \"known\"}\n");
    until("the first line's turn", async || {
        server.store.stalled() == 1
    })
    .await;
    // Refused when it is over, and only then is the second line, done long ago, answered.
    server.store.set_fault(None);
    assert!(batch.line().await.unwrap().contains("\"line\": 1"));
    assert_eq!(batch.line().await.unwrap(), digest_line("known").trim_end());
}

#[tokio::test]
async fn all_lines_may_be_sent_before_an_answer_is_read() {
    let server = TestServer::start();
    let (lines, answers) = numbered(0..40_000);
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut batch = client.begin_lines(&publish(""));
        batch.send(&lines);
        batch.end();
        until("all to be stored", async || server.store.writes() == 40_000).await;
        for answer in answers.lines() {
            assert_eq!(batch.line().await.unwrap(), answer);
        }
        assert_eq!(batch.line().await, None);
    }
}

#[tokio::test]
async fn a_batch_takes_its_time_as_long_as_its_lines_keep_coming() {
    // A slow machine takes a part of it to connect.
    let limit = milliseconds(500);
    let server = TestServer::with(|limits| {
        limits.connection.head_timeout = limit;
        limits.connection.idle_timeout = limit;
    });
    let [first, second] = Protocol::ALL.map(async |protocol| {
        let started = Instant::now();
        let mut client = server.connect(protocol).await;
        let mut batch = client.begin_lines(&publish(""));
        while started.elapsed() < 3 * limit {
            batch.send("{\"message\": \"a\"}\n");
            assert!(batch.line().await.is_some());
            sleep(limit / 2).await;
        }
        batch.end();
        assert_eq!(batch.line().await, None);
    });
    tokio::join!(first, second);
}

#[tokio::test]
async fn lines_that_stop_coming_end_the_batch_with_a_word() {
    let server = TestServer::with(|limits| limits.body.stall_timeout = milliseconds(150));
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut batch = client.begin_lines(&publish(""));
        batch.send("{\"message\": \"a\"}\n{\"message\": \"b");
        assert_eq!(batch.line().await.unwrap(), digest_line("a").trim_end());
        let last = batch.line().await.unwrap();
        assert!(last.contains("too slowly"), "{last}");
        let rest = "\"type\": \"body-too-slow\", \"line\": 2, \"status\": 408}";
        assert!(last.ends_with(rest), "{last}");
        assert_eq!(batch.line().await, None);
    }
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn a_client_that_takes_no_answers_loses_its_batch() {
    let timeout = milliseconds(300);
    let server = TestServer::with(|limits| {
        limits.connection.write_stall_timeout = timeout;
        limits.batch.answer_bytes_max = 4 << 10;
        limits.batch.batches_max = 1;
    });
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut batch = client.begin_lines(&publish(""));
        // More answers than windows and sockets take.
        batch.send("{\"message\":\"\"}\n".repeat(150_000));
        batch.end();
        let started = Instant::now();
        until("room for another batch", async || {
            let answer = server.ask_over(Protocol::Http1, &publish("")).await;
            answer.status == 200
        })
        .await;
        assert!(started.elapsed() >= timeout, "{protocol:?}");
        let mut answered = 0;
        while batch.line().await.is_some() {
            answered += 1;
        }
        assert!(answered < 150_000, "{protocol:?}");
        assert!(batch.is_broken_off, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_batch_of_the_largest_size_is_taken_and_one_byte_more_is_not() {
    let server = TestServer::with(|limits| limits.batch.bytes_max = 34);
    let lines = "{\"message\": \"a\"}\n{\"message\": \"b\"}\n";
    assert_eq!(lines.len(), 34);
    let answer = server.ask(&publish(lines)).await;
    assert_eq!(answer.text(), digest_line("a") + &digest_line("b"));
    let answer = server.ask(&publish(format!("{lines} "))).await;
    assert_eq!(answer.status, 413);

    // Without a length, it is found out on the way.
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut batch = client.begin_lines(&publish(""));
        batch.send("{\"message\": \"c\"}\n");
        assert_eq!(batch.line().await.unwrap(), digest_line("c").trim_end());
        batch.send("{\"message\": \"too late\"}\n");
        let last = batch.line().await.unwrap();
        assert!(last.contains("larger than 34 bytes"), "{last}");
        let rest = "\"type\": \"body-too-large\", \"line\": 2, \"status\": 413}";
        assert!(last.ends_with(rest), "{last}");
        assert_eq!(batch.line().await, None);
    }
    assert_eq!(server.store.writes(), 3);
}

#[tokio::test]
async fn there_are_so_many_batches_and_not_one_more() {
    // Of three slots a client may have two.
    let server = TestServer::with(|limits| {
        limits.batch.batches_max = 3;
        limits.room_timeout = milliseconds(100);
    });
    let mut client = server.connect(Protocol::Http2).await;
    let mut batches = Vec::new();
    for _ in 0..2 {
        let mut batch = client.begin_lines(&publish(""));
        batch.send("{\"message\": \"a\"}\n");
        assert!(batch.line().await.is_some());
        batches.push(batch);
    }
    let lines = publish("{\"message\": \"b\"}");
    assert_eq!(server.ask(&lines).await.status, 503);
    // Single messages pass all the same, and look-ups.
    server.publish("c").await;
    let answer = server.ask(&look_up("/messages/lookup", "\"a\"")).await;
    assert_eq!(answer.status, 200);
    batches.clear();
    until("the end of a batch", async || {
        server.ask(&lines).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn lines_of_a_batch_take_no_writes_of_others() {
    let server = TestServer::with(|limits| {
        limits.writes_max = 1;
        limits.batch.lines_max = 2;
    });
    server.store.set_fault(Some(Fault::Stall));
    let mut client = server.connect(Protocol::Http1).await;
    let batch = client.begin_lines(&publish(""));
    batch.send(numbered(0..10).0);
    until("the lines", async || server.store.stalled() == 2).await;
    let mut single = server.connect(Protocol::Http1).await;
    let mut single = single.begin(&Ask::publish("foo"));
    single.end();
    until("the single message", async || server.store.stalled() == 3).await;
    let answer = server.ask(&look_up("/messages/lookup", "\"a\"")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_body_of_a_batch_is_asked_for() {
    let server = TestServer::start();
    let mut client = server.connect_raw().await;
    client
        .send(
            "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
             Expect: 100-continue\r\nContent-Length: 16\r\n\r\n",
        )
        .await;
    client.continue_line().await;
    client.send("{\"message\": \"a\"}").await;
    until("the message", async || server.store.writes() == 1).await;
}

#[tokio::test]
async fn what_cannot_be_a_batch_is_refused_as_a_whole() {
    let server = TestServer::start();
    let path = format!("/messages/{}", Digest::of(b"a"));
    let sha = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    for (ask, status) in [
        (publish("").field("content-digest", sha), 400),
        (publish("").field("content-encoding", "gzip"), 415),
        (Ask::new("PUT", path).field("content-type", LINES), 415),
        (Ask::post("/messages/lookup").body("\"a\""), 400),
        (
            look_up("/messages/lookup", "").field("content-type", "text/plain"),
            415,
        ),
    ] {
        assert_eq!(server.ask(&ask).await.status, status, "{ask:?}");
    }
    let starting = TestServer::starting(|limits| limits.opening_timeout = Duration::ZERO);
    assert_eq!(starting.ask(&publish("")).await.status, 503);
}

// Digests.

#[tokio::test]
async fn digests_are_answered_with_their_messages() {
    let server = TestServer::start();
    let (lines, digests) = numbered(0..1000);
    server.ask(&publish(&lines)).await;
    let answer = server.ask(&look_up("/messages/lookup", digests)).await;
    assert_eq!(answer.text(), lines);
    assert_eq!(answer.field("durability"), None);
    let bare = format!("\"{}\"\n", Digest::of(b"number 7"));
    let answer = server.ask(&look_up("/messages/lookup", bare)).await;
    assert_eq!(answer.text(), "{\"message\": \"number 7\"}\n");
}

#[tokio::test]
async fn a_digest_of_no_message_is_answered_in_its_place() {
    let server = TestServer::start();
    server.publish("a\n").await;
    let lines = digest_line("b") + &digest_line("a\n") + "\"foo\"\n1\n";
    let answer = server.ask(&look_up("/messages/lookup", lines)).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers[0], missing_line(1));
    assert_eq!(answers[1], "{\"message\": \"a\\n\"}");
    assert_eq!(answers[2], no_digest_line(3));
    assert!(answers[3].contains("must be a digest"), "{answers:?}");
    assert_eq!(answers.len(), 4);
}

#[tokio::test]
async fn bare_digests_are_looked_up_also_those_that_are_numbers_in_json() {
    let server = TestServer::start();
    server.publish("a").await;
    let stored = Digest::of(b"a").to_string();
    let decimal = "1234567890".repeat(7)[..64].to_owned();
    let exponent = format!("1e{}", "0".repeat(62));
    let lines = format!(
        "{stored}\n {} \r\n{decimal}\n{exponent}\n\"{decimal}\"\n",
        stored.to_uppercase()
    );
    let answer = server.ask(&look_up("/messages/lookup", &lines)).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers[..2], ["{\"message\": \"a\"}"; 2]);
    for line in 3..=5 {
        assert_eq!(answers[line - 1], missing_line(line));
    }
    let answer = server
        .ask(&look_up("/messages/lookup?missing", &lines))
        .await;
    let missing: String = [&decimal, &exponent, &decimal]
        .map(|digest| format!("{{\"digest\": \"{digest}\"}}\n"))
        .concat();
    assert_eq!(answer.text(), missing);
}

#[tokio::test]
async fn a_line_that_is_neither_a_bare_digest_nor_json_is_told_so() {
    let server = TestServer::start();
    let digest = Digest::of(b"a").to_string();
    let (short, long) = (&digest[..63], format!("{digest}0"));
    let no_hex = format!("{short}g");
    for line in [short, &long, &no_hex, "a b", "sha256:", "{", "\"a"] {
        let answer = server.ask(&look_up("/messages/lookup", line)).await;
        let said = "The line is neither a digest of 64 hexadecimal digits nor JSON: ";
        assert!(answer.text().contains(said), "{line}: {}", answer.text());
        assert!(!answer.text().contains(short), "{line}");
    }
    // Another number of digits, all of them decimal, is a number.
    for line in ["1".repeat(63), "1".repeat(65), "{}".into(), "[]".into()] {
        let answer = server.ask(&look_up("/messages/lookup", &line)).await;
        let error = answer.text();
        assert!(error.contains("not what it should be"), "{line}: {error}");
    }
}

#[tokio::test]
async fn only_what_is_missing_is_answered_to_those_who_ask_that() {
    let server = TestServer::start();
    server.publish("a").await;
    let lines = digest_line("a") + &digest_line("b") + &digest_line("c") + "{}\n";
    for path in ["/messages/lookup?missing", "/messages/lookup?x=y&missing"] {
        let answer = server.ask(&look_up(path, &lines)).await;
        let (digests, error) = answer.text().split_at(2 * digest_line("b").len());
        assert_eq!(digests, digest_line("b") + &digest_line("c"));
        assert!(error.ends_with("\"line\": 4}\n"), "{error}");
    }
}

#[tokio::test]
async fn large_messages_are_looked_up_within_the_limits_of_a_batch() {
    let server = TestServer::with(|limits| limits.batch.answer_bytes_max = 64 << 10);
    let text = "x".repeat(1 << 20);
    server.publish(&text).await;
    let lines = digest_line(&text).repeat(20);
    let answer = server.ask(&look_up("/messages/lookup", lines)).await;
    assert_eq!(answer.text().lines().count(), 20);
    assert_eq!(answer.body.len(), 20 * (text.len() + 16));
}

#[tokio::test]
async fn the_path_of_lookups_is_no_message() {
    let server = TestServer::start();
    for method in ["GET", "PUT", "DELETE"] {
        let answer = server.ask(&Ask::new(method, "/messages/lookup")).await;
        assert_eq!(answer.field("allow"), Some("POST"), "{method}");
    }
}

// The command line.

fn put_batch(server: &Digestd, file: &std::path::Path, input: &[u8]) -> process::Outcome {
    let url = server.url();
    let mut command = digestd();
    command.args(["put", "--url", &url, "--batch"]).arg(file);
    run(&mut command, input)
}

#[test]
fn put_prints_the_digests_of_a_batch_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Digestd::start(&directory.path().join("data"));
    let file = directory.path().join("lines");
    let (lines, digests) = numbered(0..5000);
    fs::write(&file, &lines).unwrap();
    let bare = digests.replace("{\"digest\": \"", "").replace("\"}", "");
    for (file, input) in [(&*file, ""), ("-".as_ref(), &*lines)] {
        let outcome = put_batch(&server, file, input.as_bytes());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert_eq!(String::from_utf8(outcome.stdout).unwrap(), bare);
        // No progress where nobody looks.
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn put_names_the_lines_of_a_batch_that_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Digestd::start(directory.path());
    let lines = b"{\"message\": \"a\"}\nfoo\n{\"message\": \"b\"}\n";
    let outcome = put_batch(&server, "-".as_ref(), lines);
    assert_eq!(outcome.code, Some(1));
    let digests = format!("{}\n{}\n", Digest::of(b"a"), Digest::of(b"b"));
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), digests);
    let mut said = outcome.stderr.lines();
    assert!(said.next().unwrap().starts_with("digestd: line 2: "));
    assert!(said.next().unwrap().contains("1 lines were refused"));
    let lines = b"\n{\"message\": \"a\"}\r\n\r\n\nfoo\n\n{\"message\": \"b\"}\n\n\n";
    let outcome = put_batch(&server, "-".as_ref(), lines);
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), digests);
    let said = &outcome.stderr;
    assert!(said.starts_with("digestd: line 5: "), "{said}");
    let outcome = put_batch(&server, "-".as_ref(), &b"foo\n".repeat(ERRORS_MAX + 2));
    let mut said = outcome.stderr.lines().skip(ERRORS_MAX);
    assert!(
        said.next()
            .unwrap()
            .starts_with("digestd: line 10001: 10000 lines")
    );
    assert!(
        said.next()
            .unwrap()
            .contains("up to line 10001 and no more")
    );
    let outcome = put_batch(&server, "/nowhere".as_ref(), b"");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_long_batch_takes_little_memory_even_if_it_is_read_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    // What the index may keep is not what the batch takes.
    let launch = Launch::new(directory.path()).option("--cache", "8MiB");
    let server = launch.start();
    let before = server.peak_bytes();
    let (lines, answers) = numbered(0..100_000);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let head = format!(
        "POST /messages HTTP/1.0\r\nContent-Type: {LINES}\r\nContent-Length: {}\r\n\r\n",
        lines.len()
    );
    stream.write_all((head + &lines).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&answers));
    let growth = server.peak_bytes() - before;
    assert!(growth < 64 << 20, "{growth}");
}

#[test]
fn receipts_of_a_batch_that_was_cut_are_true() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path());
    for round in 0..2_u32 {
        let server = launch.start();
        let first = 100_000 * round;
        let (lines, _) = numbered(first..first + 50_000);
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            let head = format!(
                "POST /messages HTTP/1.0\r\nContent-Type: {LINES}\r\nContent-Length: {}\r\n\r\n",
                lines.len()
            );
            // All but the end of the last line: however fast the server is, it is cut.
            let _ = writer.write_all((head + lines.trim_end()).as_bytes());
        });
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while answer.len() < 20_000 * (round as usize + 1) {
            let bytes = stream.read(&mut buffer).unwrap();
            assert_ne!(bytes, 0);
            answer.extend_from_slice(&buffer[..bytes]);
        }
        server.signal(Signal::KILL);
        let _ = BufReader::new(stream).read_to_end(&mut answer);
        server.kill();
        writing.join().unwrap();

        let server = launch.start();
        let mut client = server.client();
        let mut receipts = 0;
        let complete = answer.iter().rposition(|&byte| byte == b'\n').unwrap();
        for line in answer[..complete].lines() {
            let line = line.unwrap();
            if let Some(digest) = line.strip_prefix("{\"digest\": \"") {
                let text = format!("number {}", first + receipts);
                let digest: Digest = digest.strip_suffix("\"}").unwrap().parse().unwrap();
                assert_eq!(digest, Digest::of(text.as_bytes()));
                assert_eq!(client.fetch(&digest), Some(text));
                receipts += 1;
            }
        }
        assert!((100..50_000).contains(&receipts), "{receipts}");
        server.kill();
    }
}

#[tokio::test]
async fn lines_of_white_space_alone_are_passed_over_and_count() {
    let server = TestServer::start();
    let a = "{\"message\": \"a\"}";
    for blank in [" ", "\t", " \t \r", "\r", "\x0c"] {
        let lines = format!("{blank}\n{a}\n{blank}\n{blank}\nwrong\n{blank}");
        let answer = server.ask(&publish(&lines)).await;
        let answers: Vec<_> = answer.text().lines().collect();
        assert_eq!(answers.len(), 2, "{blank:?}: {answers:?}");
        assert_eq!(answers[0].to_owned() + "\n", digest_line("a"));
        assert!(answers[1].ends_with("\"line\": 5}"), "{answers:?}");
        let lines = format!("{blank}\n{}{blank}", digest_line("a"));
        let answer = server.ask(&look_up("/messages/lookup", lines)).await;
        assert_eq!(answer.text(), "{\"message\": \"a\"}\n", "{blank:?}");
    }
}
