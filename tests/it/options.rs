//! OPTIONS: what load balancers ask to see whether a server is there, and browsers before they send something.

use std::fs;
use std::sync::Arc;

use digestd::access::{Access, Settings};
use digestd::digest::Digest;

use crate::process::{Client, Launch, address_in};
use crate::support::{Ask, FOO, Protocol, TestServer};

const PATHS: [(&str, &str); 13] = [
    ("/", "GET, HEAD, POST, OPTIONS"),
    ("/messages", "POST, OPTIONS"),
    ("/messages/", "POST, OPTIONS"),
    ("/messages/lookup", "POST, OPTIONS"),
    ("/messages/batch", "POST, OPTIONS"),
    ("/messages/foo", "GET, HEAD, PUT, DELETE, OPTIONS"),
    ("/messages/sha256:foo", "GET, HEAD, DELETE, OPTIONS"),
    ("/.well-known/ni/sha-256/foo", "GET, HEAD, DELETE, OPTIONS"),
    ("/livez", "GET, HEAD, OPTIONS"),
    ("/readyz/write?verbose", "GET, HEAD, OPTIONS"),
    ("/metrics", "GET, HEAD, OPTIONS"),
    ("/docs", "GET, HEAD, OPTIONS"),
    ("/pages/home.js", "GET, HEAD, OPTIONS"),
];

/// Sends lines over HTTP/1; the status of the answer, and its `Allow`.
async fn ask_raw(server: &TestServer, head: &str) -> (u16, Option<String>) {
    let mut client = server.connect_raw().await;
    client.send(format!("{head}\r\n\r\n")).await;
    let answer = client.bare_answer().await;
    assert!(answer.status != 204 || answer.body.is_empty(), "{answer:?}");
    (answer.status, answer.field("allow").map(str::to_owned))
}

#[tokio::test]
async fn every_path_tells_its_methods() {
    let server = TestServer::start();
    for (path, allowed) in PATHS {
        let answer = server.ask(&Ask::new("OPTIONS", path)).await;
        assert_eq!((answer.status, answer.text()), (204, ""), "{path}");
        assert_eq!(answer.field("allow"), Some(allowed), "{path}");
        assert_eq!(answer.field("access-control-allow-origin"), None);
    }
    let exporting = TestServer::exporting();
    let answer = exporting.ask(&Ask::new("OPTIONS", "/messages")).await;
    assert_eq!(answer.field("allow"), Some("GET, HEAD, POST, OPTIONS"));
    for path in ["/nowhere", "/livez/", "//"] {
        assert_eq!(server.ask(&Ask::new("OPTIONS", path)).await.status, 404);
    }
}

#[tokio::test]
async fn the_default_checks_of_balancers_are_answered() {
    let server = TestServer::start();
    for (head, allowed) in [
        // `option httpchk` of HAProxy without arguments.
        ("OPTIONS / HTTP/1.0", "GET, HEAD, POST, OPTIONS"),
        ("OPTIONS / HTTP/1.1\r\nHost: a", "GET, HEAD, POST, OPTIONS"),
        (
            "OPTIONS http://a/ HTTP/1.1\r\nHost: a",
            "GET, HEAD, POST, OPTIONS",
        ),
        (
            "OPTIONS * HTTP/1.0",
            "GET, HEAD, POST, PUT, DELETE, OPTIONS",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a",
            "GET, HEAD, POST, PUT, DELETE, OPTIONS",
        ),
    ] {
        let answer = ask_raw(&server, head).await;
        assert_eq!(answer, (204, Some(allowed.to_owned())), "{head}");
    }
    // It is no path of anything else.
    for method in ["GET", "DELETE"] {
        let (status, _) = ask_raw(&server, &format!("{method} * HTTP/1.1\r\nHost: a")).await;
        assert!([400, 404].contains(&status), "{method}: {status}");
    }
}

#[tokio::test]
async fn no_token_is_asked_for_and_nothing_is_told_of_what_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, format!("a write {}\n", Digest::of(b"a"))).unwrap();
    let settings = Settings {
        tokens: Some(tokens),
        ..Settings::default()
    };
    let access = Arc::new(Access::new(settings).unwrap());
    let server = TestServer::guarded(&access);
    let message = digestd::message::Message::new("foo");
    server.service.publish(message).await.unwrap();
    let stored = server
        .ask(&Ask::new("OPTIONS", format!("/messages/{FOO}")))
        .await;
    assert_eq!(stored.status, 204);
    for name in [&"a".repeat(64), "foo"] {
        let other = server
            .ask(&Ask::new("OPTIONS", format!("/messages/{name}")))
            .await;
        assert_eq!(other.status, 204, "{name}");
        assert_eq!(other.lasting_fields(), stored.lasting_fields(), "{name}");
    }
    for (path, _) in PATHS {
        let answer = server.ask(&Ask::new("OPTIONS", path)).await;
        assert_eq!(answer.status, 204, "{path}");
    }
    // What is not there is not told apart from what is, as with any other method.
    assert_eq!(
        server.ask(&Ask::new("OPTIONS", "/nowhere")).await.status,
        401
    );
    // A server that is starting does not let it wait.
    let server = TestServer::starting(|_| {});
    for path in ["/", "/messages", &format!("/messages/{FOO}")] {
        let answer = server.ask(&Ask::new("OPTIONS", path)).await;
        assert_eq!(answer.status, 204, "{path}");
    }
}

#[tokio::test]
async fn checks_have_no_rate_and_all_else_is_a_read() {
    let rates = |read_rate: &str, write_rate: &str| {
        let settings = Settings {
            read_rate: Some(read_rate.parse().unwrap()),
            write_rate: Some(write_rate.parse().unwrap()),
            ..Settings::default()
        };
        TestServer::guarded(&Arc::new(Access::new(settings).unwrap()))
    };
    let server = rates("1/h", "1/h");
    let mut client = server.connect(Protocol::Http1).await;
    for _ in 0..3 {
        for path in ["/", "*"] {
            let answer = client.ask(&Ask::new("OPTIONS", path)).await;
            assert_eq!(answer.status, 204, "{path}");
        }
    }
    let mut statuses = Vec::new();
    for path in ["/messages", "/docs", "/messages/foo"] {
        statuses.push(client.ask(&Ask::new("OPTIONS", path)).await.status);
    }
    assert_eq!(statuses, [204, 429, 429]);
    assert_eq!(client.ask(&Ask::publish("foo")).await.status, 201);
}

#[test]
fn the_service_as_a_whole_is_there_on_every_listener_and_its_checks_fill_no_log() {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).option("--admin-listen", "127.0.0.1:0");
    let server = launch.start();
    let address = address_in(&server.wait_for("metrics on http://"));
    let mut client = Client::connect(address).unwrap();
    for (path, status) in [("*", 204), ("/metrics", 204), ("/readyz", 204), ("/", 404)] {
        let answer = client.ask("OPTIONS", path, &[], b"").unwrap();
        assert_eq!(answer.status, status, "{path}");
    }
    let log = server.stop();
    assert!(log.contains("OPTIONS") && !log.contains('*'), "{log}");
}
