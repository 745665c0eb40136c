//! The stop: what was begun is finished, nothing is begun any more, and it does not take for ever.

use std::time::{Duration, Instant};

use digestd::store::Fault;

use crate::support::{Ask, Protocol, TestServer, milliseconds, until};

/// A server whose limits on time end nothing while a test lasts: what does not stop at once never stops.
fn patient() -> TestServer {
    const HOUR: Duration = Duration::from_hours(1);
    TestServer::with(|limits| {
        let connection = &mut limits.connection;
        connection.head_timeout = HOUR;
        connection.idle_timeout = HOUR;
        connection.write_stall_timeout = HOUR;
        connection.drain_timeout = HOUR;
        limits.body.stall_timeout = HOUR;
    })
}

#[tokio::test]
async fn a_body_under_way_is_taken_after_the_order_to_stop() {
    let mut server = TestServer::start();
    let mut clients = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let begun = client.begin(&Ask::publish("").field("content-length", "3"));
        begun.send("f");
        clients.push((client, begun));
    }
    server.has_seen_all().await;
    server.stop();
    server.is_closed_to_new_clients().await;
    for (client, begun) in clients {
        begun.send("oo");
        assert_eq!(begun.finish().await.status, 201);
        client.closed().await;
    }
    server.stopped().await;
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn a_write_that_waits_for_the_store_is_answered_after_the_order_to_stop() {
    let mut server = TestServer::start();
    server.store.set_fault(Some(Fault::Stall));
    let mut waiting = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut begun = client.begin(&Ask::publish(""));
        begun.send("foo");
        begun.end();
        waiting.push((client, begun));
    }
    until("two writes", async || server.store.stalled() == 2).await;
    server.stop();
    server.is_closed_to_new_clients().await;
    server.store.set_fault(None);
    for (client, mut begun) in waiting {
        assert_eq!(begun.answer().await.status, 503);
        client.closed().await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn the_last_answer_says_that_the_connection_ends() {
    let mut server = TestServer::start();
    let mut client = server.connect_raw().await;
    let head = "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
        Content-Length: 3\r\n\r\nf";
    client.send(head).await;
    server.has_seen_all().await;
    server.stop();
    server.is_closed_to_new_clients().await;
    // Another request behind it comes too late.
    client
        .send("ooGET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.field("connection")),
        (201, Some("close"))
    );
    client.finish_sending().await;
    assert!(client.rest().await.bytes.is_empty());
    server.stopped().await;
}

#[tokio::test]
async fn a_request_that_was_begun_learns_that_the_server_is_not_ready_any_more() {
    for path in ["/readyz", "/readyz/write", "/healthz"] {
        let mut server = TestServer::start();
        let mut client = server.connect_raw().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: ")).await;
        server.has_seen_all().await;
        server.stop();
        server.is_closed_to_new_clients().await;
        client.send("x\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 503, "{path}");
        assert_eq!(answer.error(), "Not ready: the service is stopping.");
        assert_eq!(answer.field("connection"), Some("close"));
        drop(client);
        server.stopped().await;
    }
}

#[tokio::test]
async fn a_server_with_nothing_to_do_stops_at_once() {
    let mut server = patient();
    let mut clients = Vec::new();
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        client.ask(&Ask::publish("foo")).await;
        clients.push(client);
    }
    server.stop();
    server.stopped().await;
    for client in clients {
        client.closed().await;
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_up_the_stop() {
    let mut server = patient();
    let mut answered = server.connect_raw().await;
    answered
        .send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    answered.answer().await;
    let mut silent = server.connect_raw().await;
    let mut starting = server.connect_raw().await;
    starting.send("P").await;
    server.has_seen_all().await;

    server.stop();
    // None of them closes its side.
    server.stopped().await;
    for client in [&mut answered, &mut silent, &mut starting] {
        assert!(client.rest().await.bytes.is_empty());
    }
}

#[tokio::test]
async fn what_hangs_is_ended_when_the_time_to_finish_is_over() {
    let drain_timeout = milliseconds(400);
    let mut server = TestServer::with(|limits| limits.connection.drain_timeout = drain_timeout);
    server.store.set_fault(Some(Fault::Stall));
    let mut hanging = Vec::new();
    for protocol in Protocol::ALL {
        // One waits for the store, one for its client.
        for is_whole in [true, false] {
            let mut client = server.connect(protocol).await;
            let mut begun = client.begin(&Ask::publish(""));
            begun.send("foo");
            if is_whole {
                begun.end();
            }
            hanging.push((client, begun));
        }
    }
    until("two writes", async || server.store.stalled() == 2).await;
    server.has_seen_all().await;

    let started = Instant::now();
    server.stop();
    server.stopped().await;
    assert!(started.elapsed() >= drain_timeout);
    assert!(started.elapsed() < 10 * drain_timeout);
    for (client, begun) in hanging {
        begun.ends_unanswered().await;
        client.closed().await;
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn the_stop_does_not_wait_longer_than_the_last_request() {
    let mut server = patient();
    let mut client = server.connect(Protocol::Http1).await;
    let begun = client.begin(&Ask::publish("").field("content-length", "3"));
    begun.send("f");
    server.has_seen_all().await;
    server.stop();
    server.is_closed_to_new_clients().await;
    begun.send("oo");
    assert_eq!(begun.finish().await.status, 201);
    server.stopped().await;
}
