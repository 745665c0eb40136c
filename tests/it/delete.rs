//! `DELETE` over sockets: what it answers, and what is there afterwards.

use std::fs;
use std::sync::Arc;

use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::message::Message;
use digestd::store::{Fault, Store, StoreError};
use rustix::process::Signal;

use crate::process::{Client, Digestd, Launch};
use crate::support::{Answer, Ask, FOO, Protocol, TestServer};

const NI: &str = "/.well-known/ni/sha-256/LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564";
const SRI: &str = "/messages/sha256-LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=";

fn tokens() -> String {
    let line = |name: &str, scope| format!("{name} {scope} {}\n", Digest::of(name.as_bytes()));
    line("all", "read,write,delete")
}

fn access() -> Arc<Access> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    fs::write(&path, tokens()).unwrap();
    let settings = Settings {
        tokens: Some(path),
        ..Settings::default()
    };
    Arc::new(Access::new(settings).unwrap())
}

fn with_token(ask: Ask) -> Ask {
    ask.field("authorization", "Bearer all")
}

fn delete(path: impl Into<String>) -> Ask {
    with_token(Ask::new("DELETE", path))
}

async fn store_foo(server: &TestServer) {
    server.service.publish(Message::new("foo")).await.unwrap();
}

async fn ask(server: &TestServer, ask: &Ask) -> Answer {
    server.ask_over(Protocol::Http1, ask).await
}

#[tokio::test]
async fn a_deleted_message_is_not_found_until_it_is_stored_again() {
    let server = TestServer::guarded(&access());
    let path = format!("/messages/{FOO}");
    for protocol in [Protocol::Http1, Protocol::Http2] {
        store_foo(&server).await;
        let answer = server.ask_over(protocol, &delete(&path)).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.body.len(), 0);
        assert_eq!(answer.field("durability"), Some("os"));
        assert_eq!(answer.field("content-length"), None);
        let get = with_token(Ask::get(&path));
        assert_eq!(server.ask(&get).await.status, 404);
        let answer = server.ask_over(protocol, &delete(&path)).await;
        assert_eq!(
            (answer.status, &*answer.error()),
            (404, "Message not found.")
        );
        // A page or a cache that has it may say so, and is told that it is gone.
        let known = get.field("if-none-match", "*");
        assert_eq!(server.ask(&known).await.status, 404);
    }
}

#[tokio::test]
async fn every_name_that_is_found_is_deleted() {
    let server = TestServer::guarded(&access());
    for name in [
        NI.to_owned(),
        SRI.to_owned(),
        format!("/messages/{}", FOO.to_uppercase()),
        format!("/messages/sha256:{FOO}"),
        format!("/messages/{FOO}?query"),
    ] {
        store_foo(&server).await;
        assert_eq!(ask(&server, &delete(&name)).await.status, 204, "{name}");
        assert_eq!(server.store.holds(&Digest::of(b"foo")), Ok(false), "{name}");
    }
}

#[tokio::test]
async fn what_is_no_name_of_a_message_is_not_found_and_nothing_is_deleted() {
    let server = TestServer::guarded(&access());
    store_foo(&server).await;
    for name in [
        "/messages/foo",
        &format!("/messages/{}", &FOO[1..]),
        &format!("/messages/{FOO}0"),
        &format!("/messages/{FOO}/"),
        "/messages/sha256:foo",
        "/messages/sha256-foo",
        "/.well-known/ni/sha-256/foo",
        &format!("{NI}="),
    ] {
        let answer = ask(&server, &delete(name)).await;
        assert_eq!(
            (answer.status, &*answer.error()),
            (404, "Message not found."),
            "{name}"
        );
    }
    assert_eq!(server.store.holds(&Digest::of(b"foo")), Ok(true));
}

#[tokio::test]
async fn without_tokens_nobody_may() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for path in [&*path, NI, SRI] {
        let answer = server.ask(&Ask::new("DELETE", path)).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.error().contains("--tokens"), "{path}");
    }
    assert_eq!(server.ask(&Ask::get(&path)).await.status, 200);
}

#[tokio::test]
async fn a_body_means_nothing() {
    let server = TestServer::guarded(&access());
    store_foo(&server).await;
    let ask = delete(format!("/messages/{FOO}")).body("bar");
    assert_eq!(server.ask_over(Protocol::Http2, &ask).await.status, 204);
}

#[tokio::test]
async fn a_failure_says_when_to_try_again_and_that_it_is_not_deleted() {
    let server = TestServer::guarded(&access());
    store_foo(&server).await;
    for (error, status, text) in [
        (StoreError::Busy, 503, "the message was not deleted"),
        (StoreError::Closed, 503, "the message was not deleted"),
        (StoreError::Failed, 503, "may or may not be deleted"),
        (StoreError::Full, 507, "The message was not deleted"),
    ] {
        server.store.set_fault(Some(Fault::Puts(error)));
        let answer = server.ask(&delete(format!("/messages/{FOO}"))).await;
        assert_eq!(answer.status, status);
        assert!(answer.field("retry-after").is_some());
        assert!(answer.error().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_preflight_is_told_that_there_is_delete() {
    let settings = Settings {
        sites: vec!["https://app.example".parse().unwrap()],
        ..Settings::default()
    };
    let server = TestServer::guarded(&Arc::new(Access::new(settings).unwrap()));
    let preflight = Ask::new("OPTIONS", format!("/messages/{FOO}"))
        .field("access-control-request-method", "DELETE")
        .field("origin", "https://app.example");
    let answer = server.ask(&preflight).await;
    let methods = answer.field("access-control-allow-methods").unwrap();
    assert!(methods.split(", ").any(|method| method == "DELETE"));
}

// The real binary.

struct Guarded {
    _directory: tempfile::TempDir,
    launch: Launch,
}

fn guarded() -> Guarded {
    let directory = tempfile::tempdir().unwrap();
    let tokens_path = directory.path().join("tokens");
    fs::write(&tokens_path, tokens()).unwrap();
    let launch = Launch::new(&directory.path().join("data"))
        .env("DIGESTD_TOKENS", tokens_path.to_str().unwrap());
    Guarded {
        _directory: directory,
        launch,
    }
}

fn status(client: &mut Client, method: &str, text: &str) -> u16 {
    let fields = [
        ("Authorization", "Bearer all"),
        ("Content-Type", "text/plain"),
    ];
    let path = match method {
        "POST" => "/messages".to_owned(),
        _ => format!("/messages/{}", Digest::of(text.as_bytes())),
    };
    let body = if method == "POST" { text } else { "" };
    let answer = client.ask(method, &path, &fields, body.as_bytes());
    answer.unwrap().status
}

fn kill(server: Digestd) {
    server.signal(Signal::KILL);
    let log = server.kill();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_deleted_message_stays_deleted_after_a_kill_and_one_stored_again_stays() {
    let guarded = guarded();
    let mut server = guarded.launch.start();
    for round in 0..5 {
        let mut client = server.client();
        let text = |number| format!("{round} {number}");
        for number in 0..20 {
            assert_eq!(status(&mut client, "POST", &text(number)), 201);
        }
        for number in 0..15 {
            assert_eq!(status(&mut client, "DELETE", &text(number)), 204);
        }
        for number in 0..5 {
            assert_eq!(status(&mut client, "POST", &text(number)), 201);
        }
        drop(client);
        kill(server);
        server = guarded.launch.start();
        let mut client = server.client();
        for number in 0..20 {
            let expected = if (5..15).contains(&number) { 404 } else { 200 };
            assert_eq!(status(&mut client, "GET", &text(number)), expected);
        }
    }
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}
