//! The other names of a message.

use crate::support::{Ask, FOO, TestServer};

const NI: &str = "/.well-known/ni/sha-256/LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564";
const SRI: &str = "/messages/sha256-LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=";

fn names() -> [String; 4] {
    [
        NI.into(),
        SRI.into(),
        format!("/messages/sha256:{FOO}"),
        format!("/messages/sha256:{}", FOO.to_uppercase()),
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
        &SRI[..SRI.len() - 1],
        &SRI.replace("j/x", "j%2Fx"),
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
    assert_eq!(server.ask(&Ask::put(SRI, "foo")).await.status, 405);
    assert_eq!(server.store.writes(), 0);
}
