//! `PUT /messages/<digest>`: storing under an address that the client knows.

use digestd::digest::Digest;

use crate::support::{Ask, FOO, Protocol, TestServer};

fn path() -> String {
    format!("/messages/{FOO}")
}

#[tokio::test]
async fn a_message_is_put_where_its_digest_says() {
    let server = TestServer::start();
    let json = Ask::new("PUT", path())
        .field("content-type", "application/json")
        .body(r#"{"message": "foo"}"#);
    for ask in [Ask::put(path(), "foo"), json] {
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.text(), format!("{{\n  \"digest\": \"{FOO}\"\n}}\n"));
        assert_eq!(answer.field("location"), Some(&*path()));
        assert!(answer.field("durability").is_some());
    }
    assert_eq!(server.store.writes(), 1);
    let upper_case = format!("/messages/{}", FOO.to_uppercase());
    assert_eq!(server.ask(&Ask::put(upper_case, "foo")).await.status, 201);
}

#[tokio::test]
async fn a_message_with_another_digest_is_refused_with_both_and_not_stored() {
    let server = TestServer::start();
    let answer = server.ask(&Ask::put(path(), "bar")).await;
    assert_eq!(answer.status, 422);
    let error = answer.error();
    assert!(error.contains(FOO), "{error}");
    assert!(error.contains(&Digest::of(b"bar").to_string()), "{error}");
    let answer = server.ask(&Ask::put(path(), "foo\n")).await;
    assert_eq!(answer.status, 422);
    let hint = "Your digest is that of the message without the newline at its end.";
    assert!(answer.error().ends_with(hint), "{answer:?}");
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn nothing_is_put_where_no_digest_is() {
    let server = TestServer::start();
    for path in ["/messages/foo", &path()[..72], &format!("{}0", path())] {
        assert_eq!(
            server.ask(&Ask::put(path, "foo")).await.status,
            404,
            "{path}"
        );
    }
    assert_eq!(server.ask(&Ask::put("/messages", "foo")).await.status, 405);
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn a_body_is_read_as_with_post() {
    let server = TestServer::start();
    for (ask, status) in [
        (Ask::put(path(), b"\xff"), 400),
        (Ask::new("PUT", path()).body("foo"), 400),
        (Ask::put(path(), "x".repeat((1 << 20) + 1)), 413),
        (
            Ask::new("PUT", path()).field("content-type", "image/png"),
            415,
        ),
    ] {
        assert_eq!(server.ask(&ask).await.status, status, "{ask:?}");
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn a_message_that_must_not_be_there_yet_is_put_once() {
    let server = TestServer::start();
    let etag = format!("\"{FOO}-json\"");
    for protocol in Protocol::ALL {
        for condition in ["*", &etag] {
            let ask = Ask::put(path(), "foo").field("if-none-match", condition);
            let first = server.ask_over(protocol, &ask).await;
            let is_first = protocol == Protocol::Http1 && condition == "*";
            assert_eq!(first.status, if is_first { 201 } else { 412 });
        }
    }
    let ask = Ask::put(path(), "foo").field("if-none-match", "\"other\"");
    assert_eq!(server.ask(&ask).await.status, 201);
}

fn head(fields: &str) -> String {
    format!(
        "PUT {} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
         Expect: 100-continue\r\n{fields}\r\n",
        path()
    )
}

#[tokio::test]
async fn a_body_that_is_needed_is_asked_for() {
    let server = TestServer::start();
    let mut client = server.connect_raw().await;
    client.send(head("Content-Length: 3\r\n")).await;
    client.continue_line().await;
    client.send("foo").await;
    assert_eq!(client.answer().await.status, 201);
}

#[tokio::test]
async fn a_body_that_is_known_refused_or_too_large_is_not_asked_for() {
    let server = TestServer::start();
    server.publish("foo").await;
    for (fields, status) in [
        ("Content-Length: 3\r\n", 201),
        ("Transfer-Encoding: chunked\r\n", 201),
        ("Content-Length: 1048577\r\n", 413),
        ("Content-Length: 3\r\nContent-Encoding: gzip\r\n", 415),
        ("Content-Length: 3\r\nIf-None-Match: *\r\n", 412),
    ] {
        let mut client = server.connect_raw().await;
        client.send(head(fields)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{fields}");
        // What comes next could be the body.
        assert_eq!(answer.field("connection"), Some("close"), "{fields}");
    }
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn a_damaged_message_is_mended_by_the_body() {
    let server = TestServer::on_disk();
    server.publish("foo").await;
    server.damage("foo");
    let mut client = server.connect_raw().await;
    client.send(head("Content-Length: 3\r\n")).await;
    client.continue_line().await;
    client.send("foo").await;
    assert_eq!(client.answer().await.status, 201);
    let answer = server.ask(&Ask::get(path())).await;
    assert_eq!(answer.status, 200);
}
