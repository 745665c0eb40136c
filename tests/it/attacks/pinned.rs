//! A few bytes that would keep the buffer they came in: over HTTP/2 what comes next fills it, and is soon done with.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::attacker::{ATTACKER, preface};
use crate::http2::{
    AUTHORITY, CONTENT_TYPE, DATA, END_HEADERS, END_STREAM, HEADERS, frame, literal, literal_named,
    path, streams,
};
use crate::process::{Digestd, Launch};
use crate::support::{Raw, connect_from, until};

/// A read buffer of HTTP/2 has 8 KiB at least.
const BUFFER_BYTES: usize = 8 << 10;

/// Requests that each fill a buffer, before their answers are waited for.
const AT_ONCE: usize = 16;

/// A connection, and requests on it that fill its buffers and are answered at once.
struct Client {
    raw: Raw,
    streams: u32,
    answers: usize,
}

impl Client {
    /// A client that takes heads of answers, and no more.
    async fn connect(server: &Digestd) -> Self {
        let mut raw = connect_from(ATTACKER, server.address()).await;
        raw.send(preface(0)).await;
        Self {
            raw,
            streams: 0,
            answers: 0,
        }
    }

    fn next_stream(&mut self) -> u32 {
        self.streams += 1;
        2 * self.streams - 1
    }

    /// A `HEAD` of what has no body.
    fn filling(&mut self, target: &[u8]) -> Vec<u8> {
        let value = "v".repeat(120);
        let filler = (0..BUFFER_BYTES / value.len()).flat_map(|_| literal_named("x-fill", &value));
        let method = literal(2, "HEAD");
        let authority = literal(AUTHORITY, "localhost");
        let mut head = [&*method, b"\x86", target, &authority].concat();
        head.extend(filler);
        frame(HEADERS, END_STREAM | END_HEADERS, self.next_stream(), &head)
    }

    /// Sends `frames`, each before a request that fills a buffer.
    async fn send_between(&mut self, frames: &[Vec<u8>]) {
        for some in frames.chunks(AT_ONCE) {
            let mut bytes = Vec::new();
            for frame in some {
                bytes.extend(frame);
                bytes.extend(self.filling(&path("/livez")));
            }
            self.send(&bytes, some.len()).await;
        }
    }

    /// Sends requests, and waits for so many answers more.
    async fn send(&mut self, bytes: &[u8], answers: usize) {
        self.raw.send(bytes).await;
        self.answers += answers;
        while streams(HEADERS, self.raw.unread()).len() < self.answers {
            self.raw.read_more().await.expect("an answer");
        }
    }
}

fn head_of_post(stream: u32, target: &str, media_type: &str) -> Vec<u8> {
    let authority = literal(AUTHORITY, "localhost");
    let kind = literal(CONTENT_TYPE, media_type);
    let head = [b"\x83\x86", &*path(target), &authority, &kind].concat();
    frame(HEADERS, END_HEADERS, stream, &head)
}

fn start(data: &TempDir) -> Digestd {
    Launch::new(data.path()).option("--cache", "16MiB").start()
}

fn check_growth(server: &Digestd, before: u64, bytes_max: u64) {
    let growth = server.resident_bytes().saturating_sub(before);
    println!("{} KiB more", growth >> 10);
    assert!(growth < bytes_max, "{growth} bytes");
}

/// A client with a look-up of which no more is read, since its answers are not taken; and its stream.
async fn look_up_unread(server: &Digestd) -> (Client, u32) {
    let digest = server.client().publish(&"x".repeat(500_000)).unwrap();
    let mut client = Client::connect(server).await;
    let stream = client.next_stream();
    let mut bytes = head_of_post(stream, "/messages/lookup", "application/x-ndjson");
    let lines = format!("{{\"digest\": \"{digest}\"}}\n").repeat(50);
    bytes.extend(frame(DATA, 0, stream, lines.as_bytes()));
    client.send(&bytes, 1).await;
    until("the rest of the server", async || {
        let spent = server.processor_time();
        sleep(Duration::from_millis(50)).await;
        server.processor_time() == spent
    })
    .await;
    (client, stream)
}

#[tokio::test]
async fn small_parts_of_bodies_that_are_not_read_keep_no_buffers() {
    // As many look-ups as one client may have.
    const LOOK_UPS: usize = 2;
    const PARTS: usize = 500;
    let data = tempfile::tempdir().unwrap();
    let server = start(&data);
    let mut look_ups = Vec::new();
    for _ in 0..LOOK_UPS {
        look_ups.push(look_up_unread(&server).await);
    }
    let before = server.resident_bytes();
    for (client, stream) in &mut look_ups {
        let part = frame(DATA, 0, *stream, &[b'x'; 100]);
        client.send_between(&vec![part; PARTS]).await;
        // As of a client that sends what it is given byte by byte: it is borne.
        client
            .raw
            .send(frame(DATA, 0, *stream, b"x").repeat(10_000))
            .await;
        client.send_between(&[Vec::new()]).await;
    }
    // With their buffers they would take 4 MiB at least.
    check_growth(&server, before, 3 << 20);
    server.kill();
}

#[tokio::test]
async fn targets_that_a_connection_remembers_keep_no_buffers() {
    const CONNECTIONS: usize = 16;
    /// So many fit into the table.
    const TARGETS: usize = 64;
    let data = tempfile::tempdir().unwrap();
    let server = start(&data);
    let before = server.resident_bytes();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(&server).await;
        for round in 0..TARGETS / AT_ONCE {
            let mut bytes = Vec::new();
            for number in 0..AT_ONCE {
                let mut target = path(&format!("/livez?{round}-{number}"));
                // It goes into the table (RFC 7541, 6.2.1).
                target[0] |= 0x40;
                bytes.extend(client.filling(&target));
            }
            client.send(&bytes, AT_ONCE).await;
        }
        held.push(client);
    }
    // With their buffers they would take 16 MiB.
    check_growth(&server, before, 8 << 20);
    server.kill();
}
