//! Parts of a text.

use crate::support::{Answer, Ask, TestServer};

const TEXT: &str = "0123456789";

async fn ask(server: &TestServer, range: &str) -> Answer {
    let path = server.publish(TEXT).await;
    let ask = Ask::get(path)
        .field("accept", "text/plain")
        .field("range", range);
    server.ask(&ask).await
}

#[tokio::test]
async fn a_part_of_a_text_is_sent_and_named() {
    let server = TestServer::start();
    for (range, part, content_range) in [
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=8-", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=-100", TEXT, "bytes 0-9/10"),
    ] {
        let answer = ask(&server, range).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.text(), part, "{range}");
        assert_eq!(answer.field("content-range"), Some(content_range));
    }
}

#[tokio::test]
async fn a_part_has_all_that_the_whole_has() {
    let server = TestServer::start();
    let whole = ask(&server, "bytes=0-1,3-4").await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.text(), TEXT);
    assert_eq!(whole.field("accept-ranges"), Some("bytes"));
    let part = ask(&server, "bytes=2-5").await;
    for name in [
        "accept-ranges",
        "cache-control",
        "content-security-policy",
        "content-type",
        "etag",
        "repr-digest",
        "vary",
    ] {
        assert!(part.field(name).is_some(), "{name}");
        assert_eq!(part.field(name), whole.field(name), "{name}");
    }
}

#[tokio::test]
async fn the_digest_of_a_part_is_that_of_its_content() {
    let server = TestServer::start();
    let path = server.publish("foo bar").await;
    let ask = Ask::get(path)
        .field("accept", "text/plain")
        .field("range", "bytes=0-2")
        .field("want-content-digest", "sha-256=1")
        .field("want-repr-digest", "sha-512=1");
    let answer = server.ask(&ask).await;
    let foo = "sha-256=:LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=:";
    assert_eq!(answer.field("content-digest"), Some(foo));
    let whole = answer.field("repr-digest").unwrap();
    assert!(whole.starts_with("sha-256=:") && whole != foo, "{whole}");
}

#[tokio::test]
async fn a_range_behind_the_end_is_refused_with_the_size() {
    let server = TestServer::start();
    for range in ["bytes=10-", "bytes=-0"] {
        let answer = ask(&server, range).await;
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.field("content-range"), Some("bytes */10"));
    }
}

#[tokio::test]
async fn the_last_bytes_of_nothing_are_all_of_it() {
    let server = TestServer::start();
    let path = server.publish("").await;
    for (range, status) in [
        ("bytes=-5", 200),
        ("bytes=-1", 200),
        ("bytes=-99999999999999999999", 200),
        ("bytes=-0", 416),
        ("bytes=0-", 416),
        ("bytes=0-0", 416),
    ] {
        let ask = Ask::get(&path)
            .field("accept", "text/plain")
            .field("range", range);
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, status, "{range}");
        let expected = (status == 416).then_some("bytes */0");
        assert_eq!(answer.field("content-range"), expected, "{range}");
        assert!(status == 416 || answer.body.is_empty(), "{range}");
    }
}

#[tokio::test]
async fn a_part_is_sent_only_of_the_version_that_is_meant() {
    let server = TestServer::start();
    let path = server.publish(TEXT).await;
    let etag = format!("\"{}\"", path.strip_prefix("/messages/").unwrap());
    let json = etag.replace('"', "") + "-json";
    for (condition, status) in [
        (&*etag, 206),
        (&format!("\"{json}\""), 200),
        (&format!("W/{etag}"), 200),
        ("Sat, 29 Oct 1994 19:43:31 GMT", 200),
    ] {
        let ask = Ask::get(&path)
            .field("accept", "text/plain")
            .field("range", "bytes=0-0")
            .field("if-range", condition);
        assert_eq!(server.ask(&ask).await.status, status, "{condition}");
    }
    let unchanged = Ask::get(&path)
        .field("accept", "text/plain")
        .field("range", "bytes=0-0")
        .field("if-none-match", &etag);
    assert_eq!(server.ask(&unchanged).await.status, 304);
}

#[tokio::test]
async fn other_forms_and_methods_have_no_parts() {
    let server = TestServer::start();
    let path = server.publish(TEXT).await;
    let json = server
        .ask(&Ask::get(&path).field("range", "bytes=0-1"))
        .await;
    assert_eq!(json.status, 200);
    assert_eq!(json.field("accept-ranges"), None);
    let head = Ask::head(&path)
        .field("accept", "text/plain")
        .field("range", "bytes=0-1");
    let head = server.ask(&head).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.field("content-length"), Some("10"));
}
