//! HTTP/2 clients that mean no good, frame by frame (RFC 9113).

use crate::support::{Ask, Protocol, Raw, TestServer};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// More than any flood may bring.
const BYTES_MAX: usize = 64 << 20;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET / HTTP/2`, from the static table of HPACK.
const GET: &[u8] = b"\x82\x86\x84\x41\x01x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn connect(server: &TestServer) -> Raw {
    let mut client = server.connect_raw().await;
    client.send(PREFACE).await;
    client.send(frame(SETTINGS, 0, 0, &[])).await;
    client
}

/// Splits what came into frames: kind and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while bytes.len() >= 9 {
        let length = usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let kind = bytes[3];
        let Some(payload) = bytes.get(9..9 + length) else {
            break;
        };
        frames.push((kind, payload));
        bytes = &bytes[9 + length..];
    }
    frames
}

async fn is_served(server: &TestServer) {
    let answer = server.ask_over(Protocol::Http2, &Ask::get("/livez")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_limits_of_a_connection_are_announced() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    client.send(frame(GOAWAY, 0, 0, &[0; 8])).await;
    client.finish_sending().await;
    let rest = client.rest().await.bytes;
    let (_, settings) = frames(&rest)
        .into_iter()
        .find(|&(kind, payload)| kind == SETTINGS && !payload.is_empty())
        .unwrap();
    let settings: Vec<_> = settings
        .chunks(6)
        .map(|setting| {
            let value = setting[2..].try_into().unwrap();
            (setting[1], u32::from_be_bytes(value))
        })
        .collect();
    // Streams at once, the window of each, and its header list.
    for setting in [(3, 64), (4, 64 << 10), (6, 16 << 10)] {
        assert!(settings.contains(&setting), "{settings:?}");
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    let mut resets = Vec::new();
    for number in 0..10_000 {
        let stream = 2 * number + 1;
        resets.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
        resets.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    client.flood(&resets, resets.len()).await;
    let rest = client.rest().await.bytes;
    let (_, goaway) = frames(&rest)
        .into_iter()
        .find(|&(kind, _)| kind == GOAWAY)
        .expect("a farewell");
    // ENHANCE_YOUR_CALM.
    assert_eq!(goaway[4..8], 11_u32.to_be_bytes());
    is_served(&server).await;
}

#[tokio::test]
async fn a_head_without_an_end_ends_the_connection() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    client.send(frame(HEADERS, END_STREAM, 1, GET)).await;
    // A literal field, again and again.
    let field = b"\x00\x01a\x01b".repeat(100);
    let more = frame(CONTINUATION, 0, 1, &field);
    // More is read, and thrown away, only so that the client can see why it ended.
    let sent = client.flood(&more.repeat(100), BYTES_MAX).await;
    assert!(sent < BYTES_MAX);
    let rest = client.rest().await.bytes;
    assert!(frames(&rest).iter().any(|&(kind, _)| kind == GOAWAY));
    is_served(&server).await;
}

#[tokio::test]
async fn a_flood_of_control_frames_ends_the_connection() {
    let server = TestServer::start();
    for (kind, payload, with_request) in [(PING, &[0; 8][..], false), (SETTINGS, &[], true)] {
        let mut client = connect(&server).await;
        if with_request {
            let get = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
            client.send(get).await;
        }
        let many = frame(kind, 0, 0, payload).repeat(1000);
        assert!(client.flood(&many, BYTES_MAX).await < BYTES_MAX);
    }
    is_served(&server).await;
}
