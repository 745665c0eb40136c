//! What is scarce and shared: who waits for it, who gives way, and who never has to.

use tokio::time::sleep;

use crate::admission::counted;
use crate::batch::publish;
use crate::http2::{
    AUTHORITY, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame,
    literal, path, streams,
};
use crate::limits::{is_refused, little_room, post};
use crate::support::{Ask, PATIENCE, Protocol, Raw, TestServer, connect_from, milliseconds};

#[tokio::test]
async fn slow_bodies_take_room_by_what_has_come() {
    let server = TestServer::with(little_room);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect_raw().await;
        client.send(post(80_000) + "a").await;
        slow.push(client);
    }
    server.has_seen_all().await;
    let large = Ask::publish("b".repeat(60_000));
    assert_eq!(server.ask(&large).await.status, 201);
    is_refused(&server, 80_000).await;
    for client in &mut slow {
        client.send("a".repeat(79_999)).await;
        assert_eq!(client.answer().await.status, 201);
    }
}

/// Room for two bodies of 80,000 bytes of two clients, with the buffer that each has before the last; a third
/// waits when it comes to that.
const ROOM_OF_TWO: usize = 240_000;

/// A client at another address that has begun to send a large body, of which `bytes` bytes have come.
async fn begin_from(last: u8, server: &TestServer, bytes: usize) -> Raw {
    let mut client = connect_from([127, 0, 0, last], server.address).await;
    client.send(post(80_000) + &"a".repeat(bytes)).await;
    server.has_seen_all().await;
    client
}

#[tokio::test]
async fn a_body_waits_for_room_that_others_have() {
    let server = TestServer::with(|limits| {
        little_room(limits);
        limits.body.all_large_bytes_max = ROOM_OF_TWO;
        limits.room_timeout = PATIENCE;
    });
    for protocol in Protocol::ALL {
        let mut others = [
            begin_from(2, &server, 79_999).await,
            begin_from(3, &server, 79_999).await,
        ];
        let mut client = server.connect(protocol).await;
        let waiting = client.begin(&Ask::publish(""));
        waiting.send("b".repeat(79_999));
        server.has_seen_all().await;
        for client in &mut others {
            client.send("a").await;
            assert_eq!(client.answer().await.status, 201);
        }
        waiting.send("b");
        assert_eq!(waiting.finish().await.status, 201, "{protocol:?}");
    }
}

#[tokio::test]
async fn time_in_which_a_body_is_not_read_does_not_count_against_its_client() {
    let server = TestServer::with(|limits| {
        little_room(limits);
        limits.body.all_large_bytes_max = ROOM_OF_TWO;
        limits.room_timeout = PATIENCE;
        limits.body.stall_timeout = milliseconds(500);
        limits.body.rate_min = 1 << 20;
    });
    let mut others = [
        begin_from(2, &server, 79_999).await,
        begin_from(3, &server, 79_999).await,
    ];
    let mut waiting = begin_from(4, &server, 40_000).await;
    // Others go on for long, which their rate does not allow either, and it waits.
    sleep(milliseconds(450)).await;
    others[1].send("a").await;
    assert_eq!(others[1].answer().await.status, 201);
    waiting.send("b".repeat(40_000)).await;
    assert_eq!(waiting.answer().await.status, 201);
}

/// What was ended for others so far, of those that had a part of `room`.
async fn ended(server: &TestServer, room: &str) -> u64 {
    let series = format!("digestd_ended_for_others_total{{room=\"{room}\"}}");
    counted(server.address, &series).await
}

#[tokio::test]
async fn what_who_has_most_began_last_gives_way_to_another_client() {
    let server = TestServer::with(|limits| {
        little_room(limits);
        limits.body.all_large_bytes_max = 500_000;
        limits.room_timeout = PATIENCE;
    });
    let mut first = begin_from(2, &server, 79_999).await;
    let mut last = begin_from(2, &server, 79_999).await;
    let mut others = Vec::new();
    for address in 3..6 {
        others.push(begin_from(address, &server, 79_999).await);
    }
    let large = Ask::publish("b".repeat(80_000));
    assert_eq!(server.ask_over(Protocol::Http1, &large).await.status, 201);
    let answer = last.answer().await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.error(),
        "Other clients need room, and this one has more than they; what it began last was ended. Try again soon."
    );
    for client in others.iter_mut().chain([&mut first]) {
        client.send("a").await;
        assert_eq!(client.answer().await.status, 201);
    }
    assert_eq!(ended(&server, "bodies").await, 1);
}

#[tokio::test]
async fn what_comes_first_grows_to_its_end_however_little_room_there_is() {
    let server = TestServer::with(|limits| {
        little_room(limits);
        limits.body.all_large_bytes_max = 100_000;
        limits.room_timeout = PATIENCE;
    });
    // Room for 4 · 12,500 of each, which fills it.
    let mut first = begin_from(2, &server, 12_500).await;
    let mut second = begin_from(3, &server, 12_500).await;
    for client in [&mut second, &mut first] {
        client.send("a".repeat(67_500)).await;
    }
    assert_eq!(first.answer().await.status, 201);
    assert_eq!(second.answer().await.status, 201);
}

#[tokio::test]
async fn what_is_not_read_by_who_has_most_gives_way_to_the_answer_of_another() {
    const BYTES: usize = 1 << 20;
    // Room for 15 of them with their streams, and not for one more.
    let server = TestServer::with(|limits| limits.answers_bytes_max = 16 * BYTES - BYTES / 8);
    let large = server.publish(&"x".repeat(BYTES)).await;
    let mut greedy = Vec::new();
    for address in 2..5 {
        let mut client = connect_from([127, 0, 0, address], server.address).await;
        // The window of its streams is empty.
        client.send(PREFACE).await;
        client
            .send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
            .await;
        let head = [b"\x82\x86", &*path(&large), &literal(AUTHORITY, "x")].concat();
        for stream in [1, 3, 5, 7, 9] {
            client
                .send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &head))
                .await;
            while !streams(HEADERS, client.unread()).contains(&stream) {
                client.read_more().await.unwrap();
            }
        }
        greedy.push(client);
    }
    let get = Ask::get(large).field("accept", "text/plain");
    for protocol in Protocol::ALL {
        let answer = server.ask_over(protocol, &get).await;
        assert_eq!((answer.status, answer.body.len()), (200, BYTES));
    }
    // One had to go, the last of its client, whose others stay.
    let mut reset = 0;
    for client in &mut greedy {
        client.send(frame(PING, 0, 0, &[0; 8])).await;
        while streams(PING, client.unread()).is_empty() {
            client.read_more().await.unwrap();
        }
        let of_client = streams(RST_STREAM, client.unread());
        assert!(of_client.iter().all(|&stream| stream == 9), "{of_client:?}");
        reset += of_client.len();
    }
    assert_eq!(reset, 1);
    assert_eq!(ended(&server, "answers").await, 1);
}

#[tokio::test]
async fn a_batch_gives_way_to_another_client_and_says_so() {
    let server = TestServer::with(|limits| limits.batch.batches_max = 3);
    let mut client = server.connect(Protocol::Http2).await;
    let mut batches = Vec::new();
    for _ in 0..2 {
        let mut batch = client.begin_lines(&publish(""));
        batch.send("{\"message\": \"a\"}\n");
        assert!(batch.line().await.is_some());
        batches.push(batch);
    }
    let head = "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    // One that goes on, and one that needs a place.
    let mut goes_on = connect_from([127, 0, 0, 2], server.address).await;
    let line = "14\r\n{\"message\": \"other\"}\r\n";
    goes_on.send(head.to_owned() + line).await;
    goes_on.head().await;
    let mut newcomer = connect_from([127, 0, 0, 3], server.address).await;
    newcomer.send(head.to_owned() + "0\r\n\r\n").await;
    assert_eq!(newcomer.status().await.unwrap(), 200);
    let last = batches[1].line().await.unwrap();
    assert!(last.contains("what it began last was ended"), "{last}");
    assert!(
        last.ends_with("\"line\": 2, \"status\": 503, \"retry_after\": 1}"),
        "{last}"
    );
    assert_eq!(batches[1].line().await, None);
    batches[0].send("{\"message\": \"b\"}\n");
    assert!(batches[0].line().await.is_some());
    goes_on.send("0\r\n\r\n").await;
    assert_eq!(ended(&server, "batches").await, 1);
}

#[tokio::test]
async fn an_export_waits_for_its_turn() {
    let server = TestServer::exporting_with(|limits| limits.exports_max = 2).started();
    for number in 0..100 {
        server
            .publish(&format!("{number}{}", "x".repeat(100_000)))
            .await;
    }
    let get = "GET /messages HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut others = Vec::new();
    for address in [2, 3] {
        let mut other = connect_from([127, 0, 0, address], server.address).await;
        other.send(get).await;
        other.head().await;
        others.push(other);
    }
    let mut waiting = server.connect_raw().await;
    waiting
        .send("GET /messages?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    server.has_seen_all().await;
    others.clear();
    assert_eq!(waiting.status().await.unwrap(), 200);
}

#[tokio::test]
async fn a_message_is_answered_once_its_client_has_read_others() {
    // More than a client over HTTP/2 is sent before it reads.
    const BYTES: usize = 8 << 20;
    let server = TestServer::with(|limits| {
        limits.body.bytes_max = BYTES as u64;
        limits.room_timeout = PATIENCE;
        // Two of them for a client.
        limits.answers_bytes_max = 4 * BYTES + (64 << 10);
    });
    let get = Ask::get(server.publish(&"x".repeat(BYTES)).await).field("accept", "text/plain");
    for protocol in Protocol::ALL {
        let mut clients = Vec::new();
        let mut unread = Vec::new();
        for _ in 0..2 {
            let mut client = server.connect(Protocol::Http2).await;
            unread.push(client.begin_reading(&get).await);
            clients.push(client);
        }
        let mut waiting = server.connect(protocol).await;
        let reading = async {
            server.has_seen_all().await;
            for answer in unread {
                assert_eq!(answer.collect().await.unwrap().body.len(), BYTES);
            }
        };
        let (answer, ()) = tokio::join!(waiting.ask(&get), reading);
        assert_eq!((answer.status, answer.body.len()), (200, BYTES));
    }
}
