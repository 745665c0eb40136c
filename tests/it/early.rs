//! Answers over HTTP/2 that come before the body of their request has: clients see them, and what still comes of
//! the body is taken for a while.

mod clients;

use std::time::{Duration, Instant};

use digestd::access::Settings;

use crate::access::with_tokens;
use crate::http2::{
    CONTENT_LENGTH, CONTENT_TYPE, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM,
    WINDOW_UPDATE, connect, frame, frames, literal, literal_named, path, streams,
};
use crate::support::{Raw, TestServer};

/// What is sent of a body in one frame, the most that is allowed (RFC 9113, 4.2).
const PIECE_BYTES: usize = 16 << 10;

/// What a stream takes before it has to be told to go on.
const WINDOW_BYTES: usize = 64 << 10;

/// How long they are taken.
const TIMEOUT: Duration = Duration::from_secs(2);

const NO_ERROR: [u8; 4] = 0_u32.to_be_bytes();

/// The head of a POST, with these fields.
fn post(to: &str, kind: &str, fields: &[u8]) -> Vec<u8> {
    let kind = literal(CONTENT_TYPE, kind);
    [b"\x83\x86\x41\x01x", &*path(to), &kind, fields].concat()
}

fn text() -> Vec<u8> {
    post("/messages", "text/plain", b"")
}

async fn begin(client: &mut Raw, stream: u32, head: &[u8]) {
    client.send(frame(HEADERS, END_HEADERS, stream, head)).await;
}

async fn send(client: &mut Raw, stream: u32, flags: u8, body: &[u8]) {
    client.send(frame(DATA, flags, stream, body)).await;
}

/// Reads until everything came that is sent for what was sent so far.
async fn settle(client: &mut Raw) {
    let before = streams(PING, client.unread()).len();
    client.send(frame(PING, 0, 0, &[0; 8])).await;
    while streams(PING, client.unread()).len() == before {
        client.read_more().await.unwrap();
    }
}

/// Reads to the end of the answer on a stream.
async fn read_answer(client: &mut Raw, stream: u32) {
    while !has_ended(client.unread(), stream) {
        client.read_more().await.expect("an answer");
    }
}

fn has_ended(mut bytes: &[u8], stream: u32) -> bool {
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(rest) = rest.get(length..) else {
            return false;
        };
        let is_of_answer = matches!(head[3], DATA | HEADERS) && head[5..] == stream.to_be_bytes();
        if is_of_answer && head[4] & END_STREAM != 0 {
            return true;
        }
        bytes = rest;
    }
    false
}

/// The first stream that is reset, and why.
async fn first_reset(client: &mut Raw) -> (u32, [u8; 4]) {
    while streams(RST_STREAM, client.unread()).is_empty() {
        client.read_more().await.expect("a reset");
    }
    let mut frames = frames(client.unread()).into_iter();
    let (_, reason) = frames.find(|&(kind, _)| kind == RST_STREAM).unwrap();
    let stream = streams(RST_STREAM, client.unread())[0];
    (stream, reason.try_into().unwrap())
}

/// How much the window of a stream was enlarged.
fn enlarged(bytes: &[u8], stream: u32) -> usize {
    let of = streams(WINDOW_UPDATE, bytes);
    let by = frames(bytes).into_iter();
    let by = by.filter(|&(kind, _)| kind == WINDOW_UPDATE);
    let by = by.map(|(_, by)| u32::from_be_bytes(by.try_into().unwrap()) as usize);
    let all = of.into_iter().zip(by);
    all.filter_map(|(of, by)| (of == stream).then_some(by))
        .sum()
}

/// Sends so much more of the body on a stream, of which `sent` went before, as fast as is allowed, unless it is reset
/// before.
async fn upload(client: &mut Raw, stream: u32, sent: &mut usize, bytes: usize) {
    let end = *sent + bytes;
    while *sent < end {
        let is_allowed = |client: &Raw| {
            // A first piece came before.
            let allowed = WINDOW_BYTES - PIECE_BYTES + enlarged(client.unread(), stream);
            *sent + PIECE_BYTES <= allowed
        };
        while !is_allowed(client) {
            if streams(RST_STREAM, client.unread()).contains(&stream) {
                return;
            }
            client.read_more().await.unwrap();
        }
        send(client, stream, 0, &[b'a'; PIECE_BYTES]).await;
        *sent += PIECE_BYTES;
    }
}

/// A request that is answered early is neither reset before its body has come, nor after.
async fn is_answered_and_not_reset(server: &TestServer, head: &[u8], first: &[u8]) {
    let mut client = connect(server).await;
    begin(&mut client, 1, head).await;
    send(&mut client, 1, 0, first).await;
    read_answer(&mut client, 1).await;
    settle(&mut client).await;
    assert_eq!(streams(RST_STREAM, client.unread()), [0; 0]);
    // More than fits into its window.
    upload(&mut client, 1, &mut 0, 4 * WINDOW_BYTES).await;
    send(&mut client, 1, END_STREAM, b"a").await;
    settle(&mut client).await;
    assert_eq!(streams(RST_STREAM, client.unread()), [0; 0]);
}

#[tokio::test]
async fn an_answer_that_comes_before_its_body_does_not_reset_the_stream() {
    let server = TestServer::with(|limits| limits.body.bytes_max = 1000);
    let length = |bytes: &str| literal(CONTENT_LENGTH, bytes);
    for head in [
        post("/nothing", "text/plain", b""),
        post("/docs", "text/plain", b""),
        post("/messages", "image/png", b""),
        post("/messages", "text/plain", &length("262146")),
        post("/messages", "text/plain", &literal_named("origin", "null")),
        post("/messages/lookup", "text/plain", b""),
    ] {
        is_answered_and_not_reset(&server, &head, b"a").await;
    }
    // While it is read.
    is_answered_and_not_reset(&server, &text(), &[b'a'; 1001]).await;
    let json = post("/messages", "application/json", b"");
    is_answered_and_not_reset(&server, &json, &[b'['; 1001]).await;
}

#[tokio::test]
async fn a_refusal_that_comes_before_its_body_does_not_reset_the_stream() {
    let server = TestServer::guarded(&with_tokens(Settings::default()));
    is_answered_and_not_reset(&server, &text(), b"").await;
    let unknown = literal_named("authorization", "Bearer digestd_unknown");
    let head = post("/messages", "application/json", &unknown);
    is_answered_and_not_reset(&server, &head, b"{").await;
}

#[tokio::test]
async fn a_batch_that_is_too_long_is_answered_to_its_last_line() {
    let server = TestServer::with(|limits| limits.batch.bytes_max = 100_000);
    for target in ["/messages", "/messages/lookup"] {
        let mut client = connect(&server).await;
        begin(&mut client, 1, &post(target, "application/x-ndjson", b"")).await;
        upload(&mut client, 1, &mut 0, 8 * WINDOW_BYTES).await;
        read_answer(&mut client, 1).await;
        send(&mut client, 1, END_STREAM, b"a").await;
        settle(&mut client).await;
        assert_eq!(streams(RST_STREAM, client.unread()), [0; 0]);
        let answer = String::from_utf8_lossy(client.unread());
        assert!(answer.contains("larger than 100000 bytes"), "{answer}");
    }
}

#[tokio::test]
async fn so_much_is_taken_of_the_bodies_of_a_connection_and_no_more() {
    const BYTES_MAX: usize = 16 << 20;
    let server = TestServer::with(|limits| limits.body.bytes_max = 1000);
    let mut client = connect(&server).await;
    let started = Instant::now();
    for stream in [1, 3] {
        begin(&mut client, stream, &post("/nothing", "text/plain", b"")).await;
        read_answer(&mut client, stream).await;
    }
    let mut of_third = 0;
    upload(&mut client, 1, &mut 0, BYTES_MAX / 2).await;
    upload(&mut client, 3, &mut of_third, BYTES_MAX / 2 - PIECE_BYTES).await;
    settle(&mut client).await;
    assert_eq!(streams(RST_STREAM, client.unread()), [0; 0]);
    // Beyond, no more is read, until the time is over.
    upload(&mut client, 3, &mut of_third, 16 * WINDOW_BYTES).await;
    let taken = enlarged(client.unread(), 1) + enlarged(client.unread(), 3);
    assert!(taken <= BYTES_MAX + WINDOW_BYTES, "{taken}");
    while streams(RST_STREAM, client.unread()).len() < 2 {
        client.read_more().await.expect("the ends of the streams");
    }
    assert!(started.elapsed() >= TIMEOUT);
    let resets = frames(client.unread()).into_iter();
    let mut resets = resets.filter(|&(kind, _)| kind == RST_STREAM);
    assert!(resets.all(|(_, reason)| reason == NO_ERROR));
    // The connection goes on.
    begin(&mut client, 5, &text()).await;
    send(&mut client, 5, END_STREAM, b"foo").await;
    read_answer(&mut client, 5).await;
}

#[tokio::test]
async fn so_long_a_body_is_taken_and_no_longer() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    let started = Instant::now();
    begin(&mut client, 1, &post("/nothing", "text/plain", b"")).await;
    read_answer(&mut client, 1).await;
    while streams(RST_STREAM, client.unread()) != [1] {
        client.read_more().await.expect("the end of the stream");
    }
    assert!(started.elapsed() >= TIMEOUT);
}

#[tokio::test]
async fn bodies_that_are_taken_count_as_streams() {
    const STREAMS: u32 = 64;
    const REFUSED_STREAM: [u8; 4] = 7_u32.to_be_bytes();
    let server = TestServer::start();
    let mut client = connect(&server).await;
    for number in 0..STREAMS {
        let stream = 2 * number + 1;
        begin(&mut client, stream, &post("/nothing", "text/plain", b"")).await;
        read_answer(&mut client, stream).await;
    }
    let one_more = 2 * STREAMS + 1;
    begin(&mut client, one_more, &text()).await;
    assert_eq!(first_reset(&mut client).await, (one_more, REFUSED_STREAM));
    send(&mut client, 1, END_STREAM, b"a").await;
    begin(&mut client, one_more + 2, &text()).await;
    send(&mut client, one_more + 2, END_STREAM, b"a").await;
    read_answer(&mut client, one_more + 2).await;
}

#[tokio::test]
async fn bodies_that_are_taken_have_the_room_of_their_streams_and_are_reset_without() {
    const STREAM_BYTES: usize = 8 << 10;
    // Room for four streams of this client, and for the head of one more.
    let server =
        TestServer::with(|limits| limits.answers_bytes_max = 2 * (4 * STREAM_BYTES + 2048));
    let mut client = connect(&server).await;
    for stream in [1, 3, 5] {
        begin(&mut client, stream, &post("/nothing", "text/plain", b"")).await;
        read_answer(&mut client, stream).await;
    }
    settle(&mut client).await;
    assert_eq!(streams(RST_STREAM, client.unread()), [0; 0]);
    begin(&mut client, 7, &post("/nothing", "text/plain", b"")).await;
    read_answer(&mut client, 7).await;
    assert_eq!(first_reset(&mut client).await, (7, NO_ERROR));
}
