//! Digest fields (RFC 9530), in both directions.

use crate::support::{Answer, Ask, FOO, Protocol, TestServer};

/// Of `foo`.
const FOO_256: &str = "sha-256=:LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=:";
const FOO_512: &str = "sha-512=:9/u6bgY2+JDlb7vzKD5STG+jIErimDgtYkdB0NxmODJuKCxBvl5CVNiCB3LFUYosWowMf37aGVlKfrU5RT4e1w==:";

/// Of `bar`.
const BAR_256: &str = "sha-256=:/N4rLtula/QIYB+3If6bXDONEO5CnqBPrlURto+/j7k=:";

#[tokio::test]
async fn a_body_with_the_digest_that_is_stated_is_stored() {
    let server = TestServer::start();
    for name in ["content-digest", "repr-digest"] {
        for value in [FOO_256, FOO_512, "md5=:AAAA:"] {
            let answer = server.ask(&Ask::publish("foo").field(name, value)).await;
            assert_eq!(answer.status, 201, "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn a_body_with_another_digest_is_refused_with_both_and_not_stored() {
    let server = TestServer::start();
    for name in ["content-digest", "repr-digest"] {
        for ask in [
            Ask::publish("bar"),
            Ask::put(
                "/messages/fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
                "bar",
            ),
        ] {
            let answer = server.ask(&ask.field(name, FOO_256)).await;
            assert_eq!(answer.status, 400, "{answer:?}");
            let error = answer.error();
            assert!(error.contains(FOO_256), "{error}");
            assert!(error.contains(BAR_256), "{error}");
        }
        let answer = server.ask(&Ask::publish("bar").field(name, FOO_512)).await;
        assert!(answer.error().contains(FOO_512), "{answer:?}");
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn every_digest_that_is_stated_has_to_be_right() {
    let server = TestServer::start();
    let ask = Ask::publish("foo").field("content-digest", FOO_256);
    assert_eq!(server.ask(&ask).await.status, 201);
    let ask = ask.field("repr-digest", BAR_256);
    assert_eq!(server.ask(&ask).await.status, 400);
}

#[tokio::test]
async fn the_digest_is_that_of_the_body_whatever_the_body_is() {
    let server = TestServer::start();
    let body = r#"{"message": "foo"}"#;
    let of_body = "sha-256=:amB3Me+eehLosoydBmF43klCfczMC3t20gQ1y7kCJpM=:";
    for (digest, status) in [(of_body, 201), (FOO_256, 400)] {
        let ask = Ask::publish_json(body).field("content-digest", digest);
        assert_eq!(server.ask(&ask).await.status, status);
    }
}

#[tokio::test]
async fn a_newline_too_many_is_recognised() {
    let server = TestServer::start();
    let answer = server
        .ask(&Ask::publish("foo\n").field("content-digest", FOO_256))
        .await;
    assert_eq!(answer.status, 400);
    let error = answer.error();
    let hint = "Your digest is that of the message without the newline at its end.";
    assert!(error.ends_with(hint), "{error}");
}

#[tokio::test]
async fn a_digest_field_that_cannot_be_read_is_refused() {
    let server = TestServer::start();
    for value in ["sha-256", "sha-256=:AAAA:", "sha-256=:", FOO] {
        let ask = Ask::publish("foo").field("repr-digest", value);
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, 400, "{value}");
        assert!(answer.error().contains("Repr-Digest"), "{answer:?}");
    }
    assert_eq!(server.store.writes(), 0);
}

async fn publish_with_trailer(server: &TestServer, protocol: Protocol, value: &str) -> Answer {
    let mut client = server.connect(protocol).await;
    let ask = Ask::publish("").field("trailer", "content-digest");
    let mut begun = client.begin(&ask);
    begun.send("fo");
    begun.send("o");
    begun.end_with("content-digest", value);
    begun.finish().await
}

#[tokio::test]
async fn a_digest_may_come_behind_the_body() {
    for protocol in Protocol::ALL {
        let server = TestServer::start();
        for (value, error) in [(BAR_256, BAR_256), ("sha-256", "Content-Digest")] {
            let answer = publish_with_trailer(&server, protocol, value).await;
            assert_eq!(answer.status, 400, "{protocol:?}");
            assert!(answer.error().contains(error), "{answer:?}");
            assert_eq!(server.store.writes(), 0);
        }
        let answer = publish_with_trailer(&server, protocol, FOO_256).await;
        assert_eq!(answer.status, 201, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_text_comes_with_its_digest() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for ask in [Ask::get(&path), Ask::head(&path)] {
        let text = server.ask(&ask.clone().field("accept", "text/plain")).await;
        assert_eq!(text.field("repr-digest"), Some(FOO_256));
        assert_eq!(server.ask(&ask).await.field("repr-digest"), None);
    }
}

#[tokio::test]
async fn an_answer_has_the_digests_that_are_wanted() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let text = Ask::get(&path).field("accept", "text/plain");
    let answer = server
        .ask(
            &text
                .clone()
                .field("want-repr-digest", "sha-512=10, sha-256=1"),
        )
        .await;
    assert_eq!(answer.field("repr-digest"), Some(FOO_512));
    let answer = server
        .ask(&text.field("want-content-digest", "sha-256=1"))
        .await;
    assert_eq!(answer.field("content-digest"), Some(FOO_256));

    for ask in [
        Ask::get(&path),
        Ask::publish("foo"),
        Ask::get("/messages/foo"),
        Ask::get("/livez"),
    ] {
        let ask = ask
            .field("want-repr-digest", "sha-256=1")
            .field("want-content-digest", "sha-256=1");
        let answer = server.ask(&ask).await;
        let digest = answer.field("repr-digest").unwrap();
        assert_eq!(answer.field("content-digest"), Some(digest));
        // It is right if it is taken for what it is.
        let echo = Ask::publish(&answer.body).field("content-digest", digest);
        assert_eq!(server.ask(&echo).await.status, 201, "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_to_head_has_the_digests_of_the_answer_to_get() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let wish = |ask: Ask| ask.field("want-repr-digest", "sha-256=1");
    let get = server.ask(&wish(Ask::get(&path))).await;
    let head = server.ask(&wish(Ask::head(&path))).await;
    assert_eq!(head.lasting_fields(), get.lasting_fields());
    let etag = get.field("etag").unwrap();
    let unchanged = wish(Ask::get(&path)).field("if-none-match", etag);
    assert_eq!(server.ask(&unchanged).await.field("repr-digest"), None);
}

#[tokio::test]
async fn a_wish_that_cannot_be_read_or_met_is_no_mistake() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for value in ["md5=10", "sha-256=0", "sha-256", "?", ""] {
        let answer = server
            .ask(&Ask::get(&path).field("want-repr-digest", value))
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("repr-digest"), None, "{value}");
    }
}
