//! HTTP/2 clients that mean no good, frame by frame (RFC 9113).

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::sleep;

use crate::support::{Ask, Protocol, Raw, TestServer, until};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// More than any flood may bring.
const BYTES_MAX: usize = 64 << 20;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Names of fields in the static table of HPACK (RFC 7541, appendix A).
pub(crate) const AUTHORITY: u8 = 1;
pub(crate) const ACCEPT: u8 = 19;
pub(crate) const CONTENT_LENGTH: u8 = 28;
pub(crate) const CONTENT_TYPE: u8 = 31;
pub(crate) const RANGE: u8 = 50;

/// `GET / HTTP/2`, from the static table of HPACK.
const GET: &[u8] = b"\x82\x86\x84\x41\x01x";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field whose name is in the static table, and which is not kept (RFC 7541, 6.2.2).
pub(crate) fn literal(name: u8, value: &str) -> Vec<u8> {
    let name = match name.checked_sub(15) {
        None => vec![name],
        Some(rest) => vec![15, rest],
    };
    let length = u8::try_from(value.len()).unwrap();
    assert!(length < 127, "longer lengths take several bytes");
    [&*name, &[length], value.as_bytes()].concat()
}

/// A field with a name of its own, which is not kept.
pub(crate) fn literal_named(name: &str, value: &str) -> Vec<u8> {
    [
        &[0, u8::try_from(name.len()).unwrap()],
        name.as_bytes(),
        &literal(0, value)[1..],
    ]
    .concat()
}

/// The pseudo-header field `:path`.
pub(crate) fn path(path: &str) -> Vec<u8> {
    literal(4, path)
}

pub(crate) async fn connect(server: &TestServer) -> Raw {
    let mut client = server.connect_raw().await;
    client.send(PREFACE).await;
    client.send(frame(SETTINGS, 0, 0, &[])).await;
    client
}

/// Splits what came into frames: kind and payload.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
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

/// The streams of the frames of this kind that came.
pub(crate) fn streams(kind: u8, mut bytes: &[u8]) -> Vec<u32> {
    let mut streams = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(rest) = rest.get(length..) else {
            break;
        };
        if head[3] == kind {
            streams.push(u32::from_be_bytes(head[5..].try_into().unwrap()));
        }
        bytes = rest;
    }
    streams
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
    let answers = streams(HEADERS, &client.rest().await.bytes).len();
    assert!(answers < 1500, "{answers}");
    is_served(&server).await;
    is_counted_as_flood(&server).await;
}

/// Whether the end of the connection from `client` was sent, behind what the client has not taken yet (FIN-WAIT-1).
fn is_ended(server: SocketAddr, client: SocketAddr) -> bool {
    let of = |address: SocketAddr| format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let mut is = |end: &str| words.next().is_some_and(|word| word.ends_with(end));
        is(&of(server)) && is(&of(client)) && is("04")
    })
}

/// Bytes that come to a closed socket would end it with a reset, and what is still in it would be lost.
#[tokio::test]
async fn an_answer_that_is_read_slowly_is_whole_though_the_connection_ends_behind_it() {
    const BYTES: usize = 100_000;
    let server = TestServer::start();
    let target = path(&server.publish(&"x".repeat(BYTES)).await);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let address = stream.local_addr().unwrap();
    let mut client = Raw::new(stream);
    let enlarge = || frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes());
    let window = [&[0, 4][..], &(1_u32 << 20).to_be_bytes()].concat();
    let head = [
        b"\x82\x86",
        &*target,
        &literal(AUTHORITY, "x"),
        &literal(ACCEPT, "text/plain"),
    ]
    .concat();
    let request = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &window),
        &enlarge(),
        &frame(HEADERS, END_STREAM | END_HEADERS, 1, &head),
        &frame(GOAWAY, 0, 0, &[0; 8]),
    ];
    client.send(request.concat()).await;
    until("the end", async || is_ended(server.address, address)).await;
    client.send(enlarge()).await;
    let rest = client.rest().await;
    let data = frames(&rest.bytes)
        .into_iter()
        .filter(|(kind, _)| *kind == DATA);
    assert_eq!(data.map(|(_, text)| text.len()).sum::<usize>(), BYTES);
    assert!(!rest.was_reset);
}

/// A head that waited in h2 would be counted by nobody.
#[tokio::test]
async fn a_request_is_taken_before_what_follows_it_is_read() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    let mut requests = Vec::new();
    for stream in (1..800).step_by(2) {
        requests.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
        requests.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    requests.extend(frame(HEADERS, END_STREAM | END_HEADERS, 801, GET));
    client.send(requests).await;
    while !streams(HEADERS, client.unread()).contains(&801) {
        client.read_more().await.expect("an answer");
    }
}

/// As one that downloads slowly: its answer would come behind all that lies in its socket.
#[tokio::test]
#[ignore = "takes 45 seconds"]
async fn a_client_that_answers_no_ping_is_served() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    client.send(frame(HEADERS, END_HEADERS, 1, &post())).await;
    for _ in 0..9 {
        client.send(frame(DATA, 0, 1, b"a")).await;
        sleep(Duration::from_secs(5)).await;
    }
    client.send(frame(DATA, END_STREAM, 1, b"a")).await;
    while !streams(HEADERS, client.unread()).contains(&1) {
        client.read_more().await.expect("an answer");
    }
    assert_eq!(streams(PING, client.unread()), [0; 0]);
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
async fn trailers_of_more_than_a_kibibyte_end_their_stream_alone() {
    // Listed with 32 bytes more than it has.
    const FIELD_BYTES: usize = 32 + 1 + 93;
    let field = literal_named("a", &"v".repeat(93));
    let server = TestServer::start();
    let mut client = connect(&server).await;
    for (stream, fields, kind) in [(1, 8, HEADERS), (3, 9, RST_STREAM), (5, 1, HEADERS)] {
        assert_eq!(fields * FIELD_BYTES > 1024, kind == RST_STREAM);
        client
            .send(frame(HEADERS, END_HEADERS, stream, &post()))
            .await;
        client.send(frame(DATA, 0, stream, b"foo")).await;
        let flags = END_STREAM | END_HEADERS;
        client
            .send(frame(HEADERS, flags, stream, &field.repeat(fields)))
            .await;
        while !streams(kind, client.unread()).contains(&stream) {
            client.read_more().await.expect("an answer");
        }
    }
}

/// `POST /messages HTTP/2` with a text.
fn post() -> Vec<u8> {
    let mut head = b"\x83\x86\x41\x01x\x04\x09/messages".to_vec();
    head.extend(b"\x0f\x10\x0atext/plain");
    head
}

/// A GET of the text at `path`.
fn get_text(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let mut head = b"\x82\x86\x41\x01x\x04".to_vec();
    head.push(length);
    head.extend(path.as_bytes());
    head.extend(b"\x0f\x04\x0atext/plain");
    head
}

/// It is counted about when its end is seen.
async fn is_counted_as_flood(server: &TestServer) {
    until("a flood", async || floods(server).await == "1").await;
}

/// Connections that were ended for a flood so far.
async fn floods(server: &TestServer) -> String {
    let get = Ask::get("/metrics");
    let metrics = server.ask_over(Protocol::Http1, &get).await;
    let series = "digestd_connections_ended_total{cause=\"flood\"} ";
    let value = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(series));
    value.expect(series).to_owned()
}

/// Frames that serve no purpose by themselves.
fn control_frames() -> Vec<Vec<u8>> {
    vec![
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]),
        frame(0xfe, 0, 0, &[0; 7]),
    ]
}

/// A client of which a request runs, and that has sent as many of these frames as fit into so many bytes.
async fn flood_beside_a_request(server: &TestServer, control: &[u8], bytes: usize) -> Raw {
    let mut client = connect(server).await;
    client.send(frame(HEADERS, END_HEADERS, 1, &post())).await;
    client.send(frame(DATA, 0, 1, b"f")).await;
    // What is left of it may be closed.
    let _ = client
        .try_send(&control.repeat(bytes / control.len()))
        .await;
    client
}

#[tokio::test]
async fn control_frames_are_taken_within_their_allowance_whatever_runs() {
    let server = TestServer::start();
    for control in control_frames() {
        let mut client = flood_beside_a_request(&server, &control, 64_000).await;
        client.send(frame(DATA, END_STREAM, 1, b"oo")).await;
        let is_answer = |&(kind, _): &(u8, &[u8])| kind == HEADERS;
        while !frames(client.unread()).iter().any(is_answer) {
            client.read_more().await.expect("an answer");
        }
    }
    assert_eq!(floods(&server).await, "0");
}

#[tokio::test]
async fn a_flood_of_control_frames_ends_the_connection_whatever_runs() {
    let server = TestServer::start();
    let floods_of = control_frames();
    for control in &floods_of {
        let mut client = flood_beside_a_request(&server, control, 68_000).await;
        client.rest().await;
    }
    assert_eq!(floods(&server).await, floods_of.len().to_string());
    is_served(&server).await;
}

#[tokio::test]
async fn heads_of_streams_that_are_refused_end_the_connection() {
    let server = TestServer::start();
    let mut client = connect(&server).await;
    let head = |number: u32| frame(HEADERS, END_HEADERS, 2 * number + 1, &post());
    for number in 0..64 {
        client.send(head(number)).await;
    }
    server.has_seen_all().await;
    let many: Vec<_> = (64..1000).flat_map(head).collect();
    let _ = client.try_send(&many).await;
    client.rest().await;
    is_served(&server).await;
    is_counted_as_flood(&server).await;
}

/// As of a client that opens a stream too many now and then, which is not ended for it; and one more.
#[tokio::test]
async fn a_connection_bears_256_streams_too_many_and_not_one_more() {
    const STREAMS: u32 = 64;
    const TOO_MANY: u32 = 256;
    const REFUSED_STREAM: [u8; 4] = 7_u32.to_be_bytes();
    let server = TestServer::start();
    let mut client = connect(&server).await;
    let mut numbers = 0..;
    let mut head = || {
        frame(
            HEADERS,
            END_HEADERS,
            2 * numbers.next().unwrap() + 1,
            &post(),
        )
    };
    for _ in 0..STREAMS {
        client.send(head()).await;
    }
    let count = |bytes: &[u8], wanted: u8| {
        let frames = frames(bytes).into_iter();
        frames.filter(|&(kind, _)| kind == wanted).count()
    };
    for number in 1..=TOO_MANY {
        client.send(head()).await;
        while count(client.unread(), RST_STREAM) < number as usize {
            client.read_more().await.expect("a refusal");
        }
    }
    let refusals = frames(client.unread()).into_iter();
    let mut refusals = refusals.filter(|&(kind, _)| kind == RST_STREAM);
    assert!(refusals.all(|(_, reason)| reason == REFUSED_STREAM));
    // What was open goes on, and when one ends another may begin.
    client.send(frame(DATA, END_STREAM, 1, b"foo")).await;
    while count(client.unread(), HEADERS) == 0 {
        client.read_more().await.expect("an answer");
    }
    client.send(head()).await;
    let last = 2 * (STREAMS + TOO_MANY) + 1;
    client.send(frame(DATA, END_STREAM, last, b"bar")).await;
    while count(client.unread(), HEADERS) == 1 {
        client.read_more().await.expect("another answer");
    }
    assert_eq!(count(client.unread(), RST_STREAM), TOO_MANY as usize);
    for _ in 0..2 {
        client.send(head()).await;
    }
    let rest = client.rest().await.bytes;
    let mut rest = frames(&rest).into_iter();
    let (_, goaway) = rest.find(|&(kind, _)| kind == GOAWAY).unwrap();
    // ENHANCE_YOUR_CALM.
    assert_eq!(goaway[4..8], 11_u32.to_be_bytes());
    is_served(&server).await;
}

#[tokio::test]
async fn bodies_in_frames_without_data_end_the_connection() {
    let server = TestServer::start();
    // There is nothing in the second but padding.
    for empty in [frame(DATA, 0, 1, &[]), frame(DATA, 8, 1, &[0])] {
        let mut client = flood_beside_a_request(&server, &empty, 64_000).await;
        client.rest().await;
    }
    is_served(&server).await;
}

#[tokio::test]
async fn a_download_may_enlarge_its_windows_for_every_4_kib() {
    const TEXT_BYTES: usize = 1 << 20;
    let server = TestServer::start();
    let path = server.publish(&"a".repeat(TEXT_BYTES)).await;
    let mut client = connect(&server).await;
    let mut seen = 0;
    for number in 0..70 {
        let stream = 2 * number + 1;
        let flags = END_STREAM | END_HEADERS;
        let get = frame(HEADERS, flags, stream, &get_text(&path));
        client.send(get).await;
        let mut taken = 0;
        while taken < TEXT_BYTES {
            client.read_more().await.expect("more of the answer");
            let (mut came, mut length) = (0, 0);
            for (kind, payload) in frames(&client.unread()[seen..]) {
                length += 9 + payload.len();
                came += if kind == DATA { payload.len() } else { 0 };
            }
            seen += length;
            let before = taken / 4096;
            taken += came;
            let pieces = taken / 4096 - before;
            let enlarge = |stream| frame(WINDOW_UPDATE, 0, stream, &4096_u32.to_be_bytes());
            let both = [enlarge(0), enlarge(stream)].concat();
            client.send(both.repeat(pieces)).await;
        }
    }
    assert_eq!(floods(&server).await, "0");
}

#[tokio::test]
async fn bodies_under_way_to_requests_that_are_refused_are_no_flood() {
    let server = TestServer::with(|limits| limits.body.bytes_max = 1000);
    let mut client = server.connect(Protocol::Http2).await;
    let large = "a".repeat(1 << 20);
    for _ in 0..100 {
        let begun = client.begin(&Ask::publish(""));
        begun.send(&large);
        assert_eq!(begun.finish().await.status, 413);
    }
    assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
    assert_eq!(floods(&server).await, "0");
}
