//! Connections that are used again: by load balancers at the end of their idle time, and across the age at which
//! a connection ends. No request is lost, however unlucky its moment.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use h2::Reason;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::process::{Client, Launch};
use crate::support::{Ask, Protocol, TestServer, milliseconds, until, within};

const CONNECTIONS: u64 = 200;

const GET: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// The idle time of a load balancer, in seconds; that of the server is longer by a quarter, as 75 s are than 60.
fn idle_seconds() -> u64 {
    let seconds = std::env::var("DIGESTD_TEST_IDLE_SECONDS").ok();
    seconds.map_or(4, |seconds| seconds.parse().unwrap())
}

fn wait_for(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

#[test]
#[ignore = "needs the idle time of a load balancer: 4 s, in .ci/long a minute"]
fn connections_used_again_at_the_idle_time_of_a_load_balancer_lose_no_request() {
    let data = tempfile::tempdir().unwrap();
    let seconds = idle_seconds();
    let mut launch = Launch::new(data.path()).option("--access-log", "off");
    // A minute is what the default is for.
    if seconds != 60 {
        let idle_timeout = format!("{}s", seconds + seconds / 4);
        launch = launch.option("--idle-timeout", idle_timeout);
    }
    let server = launch.start();
    let address = server.address();
    let use_again = |number: u64| -> io::Result<u16> {
        let mut client = Client::connect(address)?;
        client.ask("GET", "/livez", &[], b"")?;
        wait_for(Instant::now() + Duration::from_secs(seconds));
        Ok(client.post(&format!("text {number}"))?.status)
    };
    let statuses: Vec<_> = thread::scope(|scope| {
        let uses: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || use_again(number)))
            .collect();
        uses.into_iter().map(|used| used.join().unwrap()).collect()
    });
    let lost: Vec<_> = statuses
        .iter()
        .filter(|status| !matches!(status, Ok(201)))
        .collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
}

#[test]
#[ignore = "needs some seconds of 200 clients"]
fn connections_that_grow_old_in_the_hands_of_a_load_balancer_lose_no_request() {
    const AGE: Duration = Duration::from_secs(2);
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--access-log", "off")
        .option("--connection-age-max", "2s")
        .start();
    let address = server.address();
    // Each asks at its own pace for three ages, and takes a new connection when it is told to.
    let use_for_long = |number: u64| -> io::Result<u64> {
        let begun = Instant::now();
        let (mut client, mut renewals) = (Client::connect(address)?, 0);
        for step in 1.. {
            wait_for(begun + step * Duration::from_millis(50 + number * 7));
            let answer = client.post(&format!("text {number}"))?;
            assert_eq!(answer.status, 201);
            if answer
                .fields
                .get("connection")
                .is_some_and(|value| value == "close")
            {
                client = Client::connect(address)?;
                renewals += 1;
            }
            if begun.elapsed() > 3 * AGE {
                break;
            }
        }
        Ok(renewals)
    };
    let renewals: Vec<_> = thread::scope(|scope| {
        let uses: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || use_for_long(number)))
            .collect();
        uses.into_iter().map(|used| used.join().unwrap()).collect()
    });
    for renewed in &renewals {
        assert!(
            *renewed.as_ref().expect("no request is lost") >= 1,
            "{renewals:?}"
        );
    }
}

#[tokio::test]
async fn an_old_connection_is_told_so_with_its_next_answer_and_not_closed_before() {
    let age = milliseconds(300);
    let server = TestServer::with(|limits| {
        limits.connection.age_max = age;
        // How often a connection is looked at follows from the other limits: four times.
        limits.connection.write_stall_timeout = age;
    });
    let mut clients = Vec::new();
    let begun = Instant::now();
    // With one request before, with several, and in the middle of a head.
    for (before, start) in [(1, 0), (5, 0), (1, 10)] {
        let mut client = server.connect_raw().await;
        for _ in 0..before {
            client.send(GET).await;
            assert_eq!(client.answer().await.field("connection"), None);
        }
        client.send(&GET[..start]).await;
        clients.push((client, start));
    }
    let mut http2 = server.connect(Protocol::Http2).await;
    http2.ask(&Ask::get("/livez")).await;
    until("more than the age", async || begun.elapsed() > 3 * age).await;
    assert!(!http2.is_closed());
    let answer = http2.ask(&Ask::get("/livez")).await;
    assert_eq!((answer.status, answer.field("connection")), (200, None));
    http2.closed().await;
    for (mut client, start) in clients {
        client.send(&GET[start..]).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.field("connection")),
            (200, Some("close"))
        );
        let rest = client.rest().await;
        assert!(rest.bytes.is_empty() && !rest.was_reset, "{rest:?}");
    }
}

#[tokio::test]
async fn connections_that_are_busy_when_they_grow_old_lose_no_request() {
    let age = milliseconds(400);
    let server = TestServer::with(|limits| {
        limits.connection.age_max = age;
        limits.connection.write_stall_timeout = age;
        limits.connection.client_connections_max = 1000;
    });
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let begun = Instant::now();
        let mut client = server.connect_raw().await;
        clients.spawn(async move {
            let mut pace = interval(milliseconds(10 + number));
            loop {
                pace.tick().await;
                client.send(GET).await;
                let answer = client.answer().await;
                assert_eq!(answer.status, 200);
                if answer.field("connection") == Some("close") {
                    return begun.elapsed();
                }
            }
        });
    }
    while let Some(lived) = clients.join_next().await {
        assert!(lived.unwrap() >= age);
    }
}

/// Whether the server says of a request that it did nothing with it, so that it can be sent again (RFC 9113, 6.8 and 8.7).
fn is_untouched(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|it| it.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        let is_after_the_last = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        error.is_remote() && (is_after_the_last || error.reason() == Some(Reason::REFUSED_STREAM))
    })
}

/// Publishes again and again on one HTTP/2 connection, several texts at a time, until the client says that no more can be
/// begun; returns the texts that the server says it did nothing with.
async fn publish_until_told_to_go(address: SocketAddr, client: u64) -> Vec<String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for stream in 0..8 {
        let mut sender = sender.clone();
        streams.spawn(async move {
            let mut pace = interval(milliseconds(1 + client));
            for number in 0.. {
                pace.tick().await;
                if sender.ready().await.is_err() {
                    break;
                }
                let text = format!("{client} {stream} {number}");
                let request = Request::post(format!("http://{address}/messages"))
                    .header("content-type", "text/plain")
                    .body(text.clone())
                    .unwrap();
                match sender.try_send_request(request).await {
                    Ok(answer) => assert_eq!(answer.status(), 201),
                    // It was given back.
                    Err(error) if error.message().is_some() => break,
                    Err(error) => {
                        let error = error.into_error();
                        assert!(is_untouched(&error), "{error:?}");
                        return Some(text);
                    }
                }
            }
            None
        });
    }
    drop(sender);
    let untouched = within("the last answers", streams.join_all()).await;
    let _ = within("the end of the connection", connection).await;
    untouched.into_iter().flatten().collect()
}

#[tokio::test]
async fn http2_connections_that_are_busy_when_they_grow_old_lose_no_request() {
    let age = milliseconds(400);
    let server = TestServer::with(|limits| {
        limits.connection.age_max = age;
        limits.connection.write_stall_timeout = age;
    });
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..25 {
        clients.spawn(publish_until_told_to_go(server.address, client));
    }
    let untouched = within("all clients", clients.join_all()).await;
    for text in untouched.into_iter().flatten() {
        let is_stored = server.service.holds(&Digest::of(text.as_bytes())).unwrap();
        assert!(!is_stored, "{text}");
    }
    assert!(begun.elapsed() >= age);
}
