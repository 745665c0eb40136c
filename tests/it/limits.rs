//! Every limit of [`Limits`](digestd::config::Limits) from both sides, lowered so that the time to
//! reach it is short.
//!
//! Where time passes, it passes because a client is slow, or because a connection is given the time
//! to be closed; nothing is inferred from a pause. Times are checked from below exactly, and from
//! above by patience only: the machine may be busy.

use std::time::Instant;

use digestd::config::Limits;
use digestd::message::Message;
use digestd::store::{Fault, Store};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use crate::admission::{GET, is_served};
use crate::support::{Ask, Protocol, Raw, TestServer, connect_from, milliseconds, until};

/// The head of a POST of a text of `bytes` bytes.
pub(crate) fn post(bytes: usize) -> String {
    format!(
        "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
         Content-Length: {bytes}\r\n\r\n"
    )
}

// The head.

#[tokio::test]
async fn a_connection_that_does_not_begin_a_request_is_closed_at_the_head_timeout() {
    let timeout = milliseconds(300);
    let server = TestServer::with(|limits| limits.connection.head_timeout = timeout);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let empty_settings = "\0\0\0\x04\0\0\0\0\0";
    let http2 = format!("{preface}{empty_settings}");
    let mut closing = JoinSet::new();
    for start in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        preface,
        &http2,
        "G",
        "GET /livez HTTP/1.1\r\nHost: x\r\n",
        "\r\n\r\n",
    ] {
        let started = Instant::now();
        let mut client = server.connect_raw().await;
        client.send(start).await;
        let start = start.to_owned();
        closing.spawn(async move {
            let rest = client.rest().await;
            (start, rest, started.elapsed())
        });
    }
    while let Some(closed) = closing.join_next().await {
        let (start, rest, open_for) = closed.unwrap();
        assert!(open_for >= timeout, "{start:?}: {open_for:?}");
        assert!(!rest.text().contains("HTTP/1.1"), "{start:?}: {rest:?}");
    }
}

#[tokio::test]
async fn a_head_that_trickles_is_given_up_at_the_head_timeout() {
    let timeout = milliseconds(500);
    let server = TestServer::with(|limits| limits.connection.head_timeout = timeout);
    for before in ["", GET] {
        let mut client = server.connect_raw().await;
        let started = Instant::now();
        client.send(before).await;
        if !before.is_empty() {
            assert_eq!(client.answer().await.status, 200);
        }
        client.send("GET /livez HTTP/1.1\r\nHost: x\r\nX: ").await;
        let mut pace = interval(milliseconds(20));
        until("the end of the connection", async || {
            pace.tick().await;
            client.try_send(b"a").await.is_err()
        })
        .await;
        assert!(started.elapsed() >= timeout);
        assert!(client.rest().await.bytes.is_empty());
    }
}

#[tokio::test]
async fn a_head_that_comes_in_time_is_answered_however_many_pieces_it_has() {
    let server = TestServer::with(|limits| limits.connection.head_timeout = milliseconds(2000));
    let mut client = server.connect_raw().await;
    for _ in 0..3 {
        for piece in GET.as_bytes().chunks(5) {
            client.send(piece).await;
            server.has_seen_all().await;
        }
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn the_time_between_requests_is_not_that_of_a_head() {
    let server = TestServer::with(|limits| limits.connection.head_timeout = milliseconds(400));
    let mut first = server.connect(Protocol::Http1).await;
    let mut second = server.connect(Protocol::Http2).await;
    first.ask(&Ask::get("/livez")).await;
    second.ask(&Ask::get("/livez")).await;
    let mut silent = server.connect_raw().await;
    assert!(silent.rest().await.bytes.is_empty());
    first.ask(&Ask::get("/livez")).await;
    second.ask(&Ask::get("/livez")).await;
}

/// A GET whose head has `bytes` bytes.
fn get_of(bytes: usize) -> String {
    let rest = "GET /livez HTTP/1.1\r\nHost: x\r\nX: \r\n\r\n";
    rest.replace("X: ", &format!("X: {}", "a".repeat(bytes - rest.len())))
}

#[tokio::test]
async fn a_head_of_the_largest_size_is_read_and_a_larger_one_is_refused() {
    // The least that hyper allows.
    let bytes_max = 8192;
    let server = TestServer::with(|limits| limits.connection.head_bytes_max = bytes_max);
    for bytes in [bytes_max - 1, bytes_max] {
        let mut client = server.connect_raw().await;
        client.send(get_of(bytes)).await;
        assert_eq!(client.answer().await.status, 200, "{bytes}");
        client.send(get_of(bytes)).await;
        assert_eq!(client.answer().await.status, 200, "{bytes}");
    }
    for head in [
        // hyper reads a little more than its limit at once.
        get_of(3 * bytes_max),
        get_of(20 * bytes_max),
        format!("GET /{}", "a".repeat(3 * bytes_max)),
        "a".repeat(3 * bytes_max),
    ] {
        let mut client = server.connect_raw().await;
        let (start, rest) = head.split_at(2 * bytes_max);
        client.send(start).await;
        // It is refused by now, and goes on all the same.
        for piece in rest.as_bytes().chunks(bytes_max) {
            server.has_seen_all().await;
            client.send(piece).await;
        }
        let answer = client.bare_answer().await;
        assert!([400, 414, 431].contains(&answer.status), "{answer:?}");
        client.finish_sending().await;
        let rest = client.rest().await;
        assert!(rest.bytes.is_empty() && !rest.was_reset, "{rest:?}");
    }
}

#[tokio::test]
async fn an_http2_head_is_limited_like_any_other() {
    let server = TestServer::with(|limits| limits.connection.head_bytes_max = 8192);
    let mut client = server.connect(Protocol::Http2).await;
    let ask = |bytes| Ask::get("/livez").field("x", &"a".repeat(bytes));
    assert_eq!(client.ask(&ask(7500)).await.status, 200);
    if let Ok(answer) = client.try_ask_unchecked(&ask(8500)).await {
        assert_eq!(answer.status, 431);
    }
}

#[tokio::test]
async fn a_head_has_its_fields_and_not_one_more() {
    let fields_max = 16;
    let server = TestServer::with(|limits| limits.connection.head_fields_max = fields_max);
    let head = |fields| {
        let more = "X: y\r\n".repeat(fields - 1);
        format!("GET /livez HTTP/1.1\r\nHost: x\r\n{more}\r\n")
    };
    let mut client = server.connect_raw().await;
    client.send(head(fields_max)).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(head(fields_max + 1)).await;
    let answer = client.bare_answer().await;
    assert!([400, 431].contains(&answer.status), "{answer:?}");
    assert!(client.rest().await.bytes.is_empty());
}

#[tokio::test]
async fn an_http2_head_has_its_fields_and_not_one_more() {
    let fields_max = 16;
    let server = TestServer::with(|limits| limits.connection.head_fields_max = fields_max);
    let ask = |fields| (0..fields).fold(Ask::get("/livez"), |ask, _| ask.field("x", "y"));
    let within = server.ask_over(Protocol::Http2, &ask(fields_max)).await;
    assert_eq!(within.status, 200);
    let mut client = server.connect(Protocol::Http2).await;
    if let Ok(answer) = client.try_ask_unchecked(&ask(fields_max + 1)).await {
        assert!([400, 431].contains(&answer.status), "{answer:?}");
    }
}

// Between requests.

#[tokio::test]
async fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
    let timeout = milliseconds(700);
    let server = TestServer::with(|limits| limits.connection.idle_timeout = timeout);
    server.store.set_fault(Some(Fault::Stall));
    let mut waiting = server.connect_raw().await;
    waiting.send(post(3) + "foo").await;
    let mut chatting = server.connect(Protocol::Http1).await;
    let mut silent = server.connect_raw().await;
    let silent_http2 = {
        let mut client = server.connect(Protocol::Http2).await;
        client.ask(&Ask::get("/livez")).await;
        client
    };
    let started = Instant::now();
    silent.send(GET).await;
    silent.answer().await;
    silent.send(GET).await;
    silent.answer().await;

    let closing = async {
        assert!(silent.rest().await.bytes.is_empty());
        assert!(started.elapsed() >= timeout);
        silent_http2.closed().await;
        // A connection that was closed late is no proof that the others would not have been.
        until("twice the timeout", async || {
            started.elapsed() >= 2 * timeout
        })
        .await;
    };
    let mut closing = std::pin::pin!(closing);
    let mut pace = interval(milliseconds(50));
    loop {
        tokio::select! {
            () = &mut closing => break,
            _ = pace.tick() => {
                chatting.ask(&Ask::get("/livez")).await;
            }
        }
    }
    chatting.ask(&Ask::get("/livez")).await;
    assert_eq!(server.store.stalled(), 1);
    server.store.set_fault(None);
    assert_eq!(waiting.answer().await.status, 503);
    waiting.send(GET).await;
    assert_eq!(waiting.answer().await.status, 200);
}

#[tokio::test]
async fn a_connection_has_its_requests_and_is_told_at_the_last() {
    let server = TestServer::with(|limits| limits.connection.requests_max = 3);
    let mut client = server.connect_raw().await;
    // One more than is served, and all at once.
    client.send(GET.repeat(4)).await;
    for _ in 0..2 {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (200, None));
    }
    let last = client.answer().await;
    assert_eq!(
        (last.status, last.field("connection")),
        (200, Some("close"))
    );
    assert!(client.rest().await.bytes.is_empty());
}

#[tokio::test]
async fn an_http2_connection_has_its_requests_too() {
    let server = TestServer::with(|limits| {
        limits.connection.requests_max = 3;
        limits.connection.head_timeout = milliseconds(400);
    });
    let mut client = server.connect(Protocol::Http2).await;
    let waiting = client.begin(&Ask::publish("").field("content-length", "3"));
    for _ in 0..2 {
        assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
    }
    // What was begun is finished, and nothing is begun any more.
    until("the end of new requests", async || {
        client.try_ask(&Ask::get("/livez")).await.is_err()
    })
    .await;
    waiting.send("foo");
    assert_eq!(waiting.finish().await.status, 201);
    client.closed().await;
}

#[tokio::test]
async fn an_old_connection_ends_after_what_it_is_doing_and_a_young_one_goes_on() {
    let age = milliseconds(600);
    let server = TestServer::with(|limits| {
        limits.connection.age_max = age;
        // How often a connection is looked at follows from the other limits.
        limits.connection.head_timeout = milliseconds(400);
    });
    for protocol in Protocol::ALL {
        let started = Instant::now();
        let mut client = server.connect(protocol).await;
        let mut busy = server.connect(protocol).await;
        let waiting = busy.begin(&Ask::publish("").field("content-length", "3"));
        let mut answered = 0;
        until("the end of new requests", async || {
            let answer = client.try_ask(&Ask::get("/livez")).await;
            answered += usize::from(answer.is_ok());
            answer.is_err()
        })
        .await;
        assert!(started.elapsed() >= age, "{protocol:?}");
        assert!(answered > 1, "{protocol:?}");

        until("old age", async || {
            started.elapsed() >= age + milliseconds(100)
        })
        .await;
        assert!(!busy.is_closed());
        waiting.send("foo");
        assert_eq!(waiting.finish().await.status, 201, "{protocol:?}");
        busy.closed().await;
    }
}

// Bodies.

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let timeout = milliseconds(300);
    let server = TestServer::with(|limits| limits.body.stall_timeout = timeout);
    for piece in ["", "f"] {
        let started = Instant::now();
        let mut client = server.connect_raw().await;
        client.send(post(3) + piece).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 408);
        assert_eq!(answer.error(), "The body came too slowly.");
        assert!(started.elapsed() >= timeout);
        client.finish_sending().await;
        assert!(client.rest().await.bytes.is_empty());
    }
    let mut client = server.connect(Protocol::Http2).await;
    let mut begun = client.begin(&Ask::publish(""));
    begun.send("f");
    assert_eq!(begun.answer().await.status, 408);
    assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn a_body_that_pauses_is_read_to_its_end() {
    let timeout = milliseconds(900);
    let server = TestServer::with(|limits| {
        limits.body.stall_timeout = timeout;
        limits.body.rate_min = 1;
    });
    let mut bodies = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        bodies.push(client.begin(&Ask::publish("")));
    }
    let started = Instant::now();
    let mut pace = interval(milliseconds(100));
    until("more than one pause", async || {
        pace.tick().await;
        for body in &bodies {
            body.send("a");
        }
        started.elapsed() > timeout
    })
    .await;
    for body in bodies {
        assert_eq!(body.finish().await.status, 201);
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_once_it_is_behind_its_rate() {
    let server = TestServer::with(|limits| {
        limits.body.stall_timeout = milliseconds(900);
        limits.body.rate_min = 1000;
    });
    let ask = Ask::publish("");
    let mut slow = server.connect(Protocol::Http1).await.begin(&ask);
    let mut slow_http2 = server.connect(Protocol::Http2).await.begin(&ask);
    let fast = server.connect(Protocol::Http1).await.begin(&ask);
    let mut pace = interval(milliseconds(50));
    until("the end of patience with the slow ones", async || {
        pace.tick().await;
        slow.send("a");
        slow_http2.send("a");
        // Twice as much as is due, however late the ticks come: they are made up for.
        fast.send("a".repeat(100));
        slow.is_answered() && slow_http2.is_answered()
    })
    .await;
    assert_eq!(slow.answer().await.status, 408);
    assert_eq!(slow_http2.answer().await.status, 408);
    assert_eq!(fast.finish().await.status, 201);
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn the_body_of_a_client_that_goes_away_is_not_stored() {
    let server = TestServer::with(|limits| {
        // Room for one body of a client, so that the next shows that its room is free again.
        limits.body.all_large_bytes_max = 200_000;
        limits.body.bytes_max = 100_000;
        limits.room_timeout = milliseconds(100);
    });
    let text = "a".repeat(100_000);
    for reset in [false, true] {
        let mut client = server.connect_raw().await;
        client.send(post(100_000) + &text[1..]).await;
        server.has_seen_all().await;
        assert_eq!(server.ask(&Ask::publish(&text)).await.status, 503);
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        until("the room for a body", async || {
            has_room(&server, &text).await
        })
        .await;
    }
    let mut client = server.connect(Protocol::Http2).await;
    let begun = client.begin(&Ask::publish("").field("content-length", "100000"));
    begun.send(&text[1..]);
    until("the body to have its room", async || {
        !has_room(&server, &text).await
    })
    .await;
    begun.abandon().await;
    until("the room for a body", async || {
        has_room(&server, &text).await
    })
    .await;
    // The one whole body.
    assert_eq!(server.store.writes(), 1);
}

async fn has_room(server: &TestServer, text: &str) -> bool {
    let answer = server.ask_over(Protocol::Http1, &Ask::publish(text)).await;
    assert!([201, 503].contains(&answer.status), "{answer:?}");
    answer.status == 201
}

/// Room for one large body and four small ones of each of two clients, for which nobody waits long.
pub(crate) fn little_room(limits: &mut Limits) {
    limits.body.bytes_max = 80_000;
    limits.body.small_bytes_max = 1000;
    limits.body.all_large_bytes_max = 200_000;
    limits.body.all_small_bytes_max = 8000;
    limits.room_timeout = milliseconds(100);
}

/// A client that has begun to send a body of `bytes` bytes, of which all but one have come.
async fn begin_body(server: &TestServer, bytes: usize) -> Raw {
    let mut client = server.connect_raw().await;
    let head = post(bytes);
    let head = head.replace("Host: x", "Host: x\r\nExpect: 100-continue");
    client.send(head).await;
    client.continue_line().await;
    client.send("a".repeat(bytes - 1)).await;
    server.has_seen_all().await;
    client
}

/// Asks for what is refused for lack of room.
pub(crate) async fn is_refused(server: &TestServer, bytes: usize) {
    let answer = server.ask(&Ask::publish("b".repeat(bytes))).await;
    assert_eq!(answer.status, 503, "{bytes}");
    assert_eq!(answer.field("retry-after"), Some("1"));
}

#[tokio::test]
async fn slow_large_bodies_keep_out_large_ones_and_not_small_ones() {
    let server = TestServer::with(little_room);
    let mut slow = begin_body(&server, 80_000).await;
    for large in [20_001, 80_000] {
        is_refused(&server, large).await;
    }
    for fitting in [20_000, 1001, 1000, 0] {
        let answer = server.ask(&Ask::publish("b".repeat(fitting))).await;
        assert_eq!(answer.status, 201, "{fitting}");
    }
    slow.send("a").await;
    assert_eq!(slow.answer().await.status, 201);
    let answer = server.ask(&Ask::publish("b".repeat(80_000))).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn slow_small_bodies_keep_out_small_ones_and_not_large_ones() {
    let server = TestServer::with(little_room);
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(begin_body(&server, 1000).await);
    }
    is_refused(&server, 1).await;
    let large = Ask::publish("b".repeat(1001));
    assert_eq!(server.ask(&large).await.status, 201);
    slow.pop();
    until("room for a small body", async || {
        has_room(&server, &"b".repeat(1000)).await
    })
    .await;
}

#[tokio::test]
async fn a_body_without_a_length_takes_room_as_it_grows() {
    let server = TestServer::with(little_room);
    let mut slow = begin_body(&server, 80_000).await;
    for protocol in Protocol::ALL {
        let small = server.connect(protocol).await.begin(&Ask::publish(""));
        small.send("c".repeat(500));
        assert_eq!(small.finish().await.status, 201, "{protocol:?}");

        let mut large = server.connect(protocol).await.begin(&Ask::publish(""));
        large.send("c".repeat(500));
        large.send("c".repeat(20_001));
        assert_eq!(large.answer().await.status, 503, "{protocol:?}");
    }
    slow.send("a").await;
    assert_eq!(slow.answer().await.status, 201);
    // All of it was given back.
    let largest = Ask::publish("c".repeat(80_000));
    assert_eq!(server.ask(&largest).await.status, 201);
}

#[tokio::test]
async fn writes_of_a_client_beyond_half_of_all_are_refused_while_reads_and_others_go_on() {
    let server = TestServer::with(|limits| {
        limits.writes_max = 4;
        limits.room_timeout = milliseconds(100);
    });
    let known = server.publish("known").await;
    server.store.set_fault(Some(Fault::Stall));
    let mut waiting = Vec::new();
    for text in ["first", "second"] {
        let mut client = server.connect_raw().await;
        client.send(post(text.len()) + text).await;
        waiting.push(client);
    }
    until("two writes", async || server.store.stalled() == 2).await;

    let answer = server.ask(&Ask::publish("third")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(server.ask(&Ask::get(&known)).await.status, 200);
    let mut other = connect_from([127, 0, 0, 2], server.address).await;
    other.send(post(5) + "other").await;
    until("the write of another", async || server.store.stalled() == 3).await;
    waiting.push(other);

    server.store.set_fault(None);
    for mut client in waiting {
        assert_eq!(client.answer().await.status, 503);
    }
    assert_eq!(server.ask(&Ask::publish("third")).await.status, 201);
}

#[tokio::test]
async fn a_write_waits_for_those_of_its_client_to_end() {
    let server = TestServer::with(|limits| limits.writes_max = 2);
    server.store.set_fault(Some(Fault::Stall));
    let mut first = server.connect_raw().await;
    first.send(post(5) + "first").await;
    until("a write", async || server.store.stalled() == 1).await;
    let mut second = server.connect_raw().await;
    second.send(post(6) + "second").await;
    server.has_seen_all().await;
    server.store.set_fault(None);
    assert_eq!(first.answer().await.status, 503);
    assert_eq!(second.answer().await.status, 201);
}

#[tokio::test]
async fn bodies_on_their_way_are_not_writes() {
    let server = TestServer::with(|limits| limits.writes_max = 1);
    let mut slow = begin_body(&server, 3).await;
    let mut slower = begin_body(&server, 3).await;
    assert_eq!(server.ask(&Ask::publish("foo")).await.status, 201);
    for client in [&mut slow, &mut slower] {
        client.send("bc").await;
        assert_eq!(client.answer().await.status, 201);
    }
}

// Answers.

/// A client with little room for answers.
async fn connect_with_little_room(server: &TestServer) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    Raw::new(socket.connect(server.address).await.unwrap())
}

/// More than any socket takes at once: the answers to many requests for one text.
async fn ask_for_megabytes(client: &mut Raw, server: &TestServer) -> usize {
    let text = Message::new("a".repeat(1 << 20));
    let path = format!("/messages/{}", text.digest());
    server.store.put(text).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n");
    let requests = 16;
    client.send(get.repeat(requests)).await;
    requests
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped() {
    let timeout = milliseconds(300);
    let server = TestServer::with(|limits| {
        limits.connection.write_stall_timeout = timeout;
        limits.connection.client_connections_max = 1;
    });
    let mut client = connect_with_little_room(&server).await;
    let started = Instant::now();
    let requests = ask_for_megabytes(&mut client, &server).await;
    // Its connection is free for another.
    until("the end of the connection", async || {
        is_served([127, 0, 0, 1], &server).await
    })
    .await;
    assert!(started.elapsed() >= timeout);
    let rest = client.rest().await;
    assert!(rest.bytes.len() < requests << 20);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() {
    let timeout = milliseconds(1200);
    let server = TestServer::with(|limits| limits.connection.write_stall_timeout = timeout);
    let mut client = connect_with_little_room(&server).await;
    let started = Instant::now();
    let requests = ask_for_megabytes(&mut client, &server).await;
    for _ in 0..requests {
        // Slower than the server would like, for longer than it waits for one that reads nothing.
        if started.elapsed() < timeout {
            sleep(milliseconds(100)).await;
        }
        assert_eq!(client.answer().await.body.len(), 1 << 20);
    }
    assert!(started.elapsed() >= timeout);
}

#[tokio::test]
async fn an_http2_client_that_leaves_an_answer_unread_loses_that_stream_and_nothing_else() {
    let timeout = milliseconds(300);
    let server = TestServer::with(|limits| limits.connection.write_stall_timeout = timeout);
    // More than the client's window, so that most of it stays with the server.
    let text = Message::new("a".repeat(4 << 20));
    let path = format!("/messages/{}", text.digest());
    server.store.put(text).await.unwrap();
    let mut client = server.connect(Protocol::Http2).await;
    let ask = Ask::get(path).field("accept", "text/plain");
    let started = Instant::now();
    let unread = client.begin_reading(&ask).await;
    let mut pace = interval(milliseconds(20));
    // What else the client does on the connection does not excuse it.
    while started.elapsed() < 3 * timeout {
        pace.tick().await;
        assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
    }
    let answer = unread.collect().await;
    assert!(started.elapsed() >= timeout);
    assert!(answer.is_err(), "all of it was kept: {answer:?}");
}

#[tokio::test]
async fn large_answers_are_given_while_there_is_room_for_them_and_refused_beyond_it() {
    // More than a client over HTTP/2 is sent before it reads.
    const BYTES: usize = 8 << 20;
    let server = TestServer::with(|limits| {
        limits.body.bytes_max = BYTES as u64;
        limits.room_timeout = milliseconds(100);
        // Two of them for a client, each counted as half of what it may have but for what its stream takes.
        limits.answers_bytes_max = 4 * BYTES + (64 << 10);
    });
    let large = server.publish(&"x".repeat(BYTES)).await;
    let small = server.publish("small").await;
    let [get, get_small] = [large, small].map(|path| Ask::get(path).field("accept", "text/plain"));
    let mut clients = Vec::new();
    let mut unread = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect(Protocol::Http2).await;
        unread.push(client.begin_reading(&get).await);
        clients.push(client);
    }
    let refused = server.ask(&get).await;
    assert_eq!(
        (refused.status, refused.field("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(
        refused.error(),
        "Too many large answers are on their way at the moment. Try again soon."
    );
    assert_eq!(server.ask(&get_small).await.status, 200);

    for answer in unread {
        assert_eq!(answer.collect().await.unwrap().body.len(), BYTES);
    }
    let mut client = server.connect(Protocol::Http1).await;
    until("room for another", async || {
        client.ask(&get).await.status == 200
    })
    .await;
}
