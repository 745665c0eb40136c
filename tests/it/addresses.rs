//! The other names of a message.

use crate::support::{Ask, FOO, TestServer};

const NI: &str = "/.well-known/ni/sha-256/LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564";
const SRI: &str = "/messages/sha256-LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=";

fn names() -> [String; 15] {
    [
        NI.into(),
        SRI.into(),
        format!("/messages/sha256:{FOO}"),
        format!("/messages/sha256:{}", FOO.to_uppercase()),
        // As generated clients escape them.
        "/messages/sha256-LCa0a2j%2Fxo%2F5m0U8HTBBNBNCLXBkg7%2Bg%2BYpeiGJm564%3D".into(),
        "/messages/sha256-LCa0a2j%2fxo%2f5m0U8HTBBNBNCLXBkg7%2bg%2bYpeiGJm564%3d".into(),
        SRI.replace('+', "%2B"),
        SRI.replace('L', "%4C"),
        format!("/messages/sha256%3A{FOO}"),
        format!("/messages/sha256%3a{}", FOO.to_uppercase()),
        format!("/messages/%32{}", &FOO[1..]),
        // Without padding, and in the alphabet for addresses.
        SRI.replace('=', ""),
        "/messages/sha256-LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564".into(),
        "/messages/sha256-LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564=".into(),
        NI.replace('_', "%5F"),
    ]
}

#[tokio::test]
async fn a_message_is_found_by_its_other_names_and_its_path_is_named() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for name in names() {
        for (method, accept) in [("GET", "*/*"), ("HEAD", "*/*"), ("GET", "text/plain")] {
            let ask = |path: &str| Ask::new(method, path).field("accept", accept);
            let answer = server.ask(&ask(&name)).await;
            assert_eq!(answer.status, 200, "{name}");
            assert_eq!(answer.field("content-location"), Some(&*path));
            let canonical = server.ask(&ask(&path)).await;
            assert_eq!(canonical.field("content-location"), None);
            assert_eq!(answer.body, canonical.body);
            assert_eq!(answer.field("etag"), canonical.field("etag"));
        }
        let unchanged = Ask::get(&name).field("if-none-match", "*");
        let answer = server.ask(&unchanged).await;
        assert_eq!(answer.status, 304);
        assert_eq!(answer.field("content-location"), Some(&*path));
    }
}

#[tokio::test]
async fn a_name_of_no_message_is_not_found() {
    let server = TestServer::start();
    for name in names() {
        let answer = server.ask(&Ask::get(&name)).await;
        assert_eq!(
            (answer.status, &*answer.error()),
            (404, "Message not found.")
        );
        assert_eq!(answer.field("content-location"), None);
    }
    server.publish("foo").await;
    for name in [
        &NI[..NI.len() - 1],
        &format!("{NI}="),
        &format!("{NI}/"),
        &NI.replace("sha-256", "sha-512"),
        &NI.replace("sha-256", "sha-256-32"),
        "/.well-known/ni/sha-256/",
        "/.well-known/ni",
        "/.well-known",
        &SRI[..SRI.len() - 2],
        &SRI.replace("j/x", "j%252Fx"),
        &SRI.replace("j/x", "j%2x"),
        &SRI.replace("j/x", "j%x"),
        &SRI.replace("j/x", "j%2Gx"),
        &SRI.replace("j/x", "j%20x"),
        &SRI.replace('+', "%20"),
        &format!("{SRI}%"),
        &format!("{SRI}%00"),
        &SRI.replace("j/x", "j_x"),
        &format!("{SRI}="),
        &NI.replace('_', "%2F"),
        &format!("/messages/sha256:{FOO}%2F"),
        &format!("/messages/{FOO}%2F"),
        &format!("/messages%2Fsha256:{FOO}"),
        &format!("/messages/SHA256:{FOO}"),
        &format!("/messages/sha512:{FOO}"),
        &format!("/messages/sha256-{FOO}"),
    ] {
        assert_eq!(server.ask(&Ask::get(name)).await.status, 404, "{name}");
    }
}

#[tokio::test]
async fn under_other_names_nothing_is_put() {
    let server = TestServer::start();
    let answer = server.ask(&Ask::put(NI, "foo")).await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.field("allow"), Some("GET, HEAD, DELETE"));
    for name in names().iter().filter(|name| !name.contains("/%32")) {
        let answer = server.ask(&Ask::put(name, "foo")).await;
        assert_eq!(answer.status, 405, "{name}");
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn an_escaped_digit_is_that_digit_for_a_put_too() {
    let server = TestServer::start();
    let escaped = format!("/messages/%32{}", &FOO[1..]);
    let answer = server.ask(&Ask::put(&escaped, "foo")).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.field("location"), Some(&*format!("/messages/{FOO}")));
    assert_eq!(server.ask(&Ask::put(&escaped, "bar")).await.status, 422);
    let none = format!("/messages/%3{}", &FOO[1..]);
    assert_eq!(server.ask(&Ask::put(none, "foo")).await.status, 404);
}
