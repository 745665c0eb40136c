//! The contract, line by line: what is asked over HTTP/1.1 and over HTTP/2 gets the same answer,
//! byte for byte. What only one of them can say is said on a socket.

use std::time::Duration;

use digestd::digest::Digest;
use digestd::store::{Fault, StoreError};
use rustix::time::{ClockId, clock_gettime};

use crate::support::{Ask, FOO, Protocol, TestServer, until};

/// Stands in bodies that are refused, and must not come back.
const SECRET: &str = "SECRET";

/// The published digest of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn path_of(text: impl AsRef<[u8]>) -> String {
    format!("/messages/{}", Digest::of(text.as_ref()))
}

/// Asks for something that is refused without a trace; returns why.
async fn refused(server: &TestServer, ask: &Ask, status: u16) -> String {
    let before = server.store.writes();
    let answer = server.ask(ask).await;
    assert_eq!(answer.status, status, "{ask:?}: {answer:?}");
    assert_eq!(server.store.writes(), before, "{ask:?}");
    assert!(!answer.text().contains(SECRET), "{answer:?}");
    answer.error()
}

// Publishing.

#[tokio::test]
async fn a_published_message_is_answered_with_its_digest_and_its_place() {
    let server = TestServer::start();
    let answer = server
        .ask(&Ask::publish_json(r#"{"message": "foo"}"#))
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.text(), format!("{{\n  \"digest\": \"{FOO}\"\n}}\n"));
    let location = format!("/messages/{FOO}");
    assert_eq!(answer.field("location"), Some(&*location));
    assert_eq!(answer.field("content-type"), Some("application/json"));
    assert_eq!(answer.field("vary"), Some("accept"));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_known_message_is_answered_like_a_new_one_and_written_once() {
    let server = TestServer::start();
    let new = server.ask_over(Protocol::Http1, &Ask::publish("foo")).await;
    let known = server.ask_over(Protocol::Http1, &Ask::publish("foo")).await;
    assert_eq!(new.status, 201);
    assert_eq!(known.status, 201);
    assert_eq!(new.body, known.body);
    assert_eq!(new.lasting_fields(), known.lasting_fields());
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn the_answer_names_what_the_message_survives() {
    let memory = TestServer::start();
    let answer = memory.ask(&Ask::publish("foo")).await;
    assert_eq!(answer.field("durability"), Some("os"));
    let disk = TestServer::on_disk();
    let answer = disk.ask(&Ask::publish("foo")).await;
    assert_eq!(answer.field("durability"), Some("disk"));
}

#[tokio::test]
async fn messages_are_taken_at_three_paths() {
    let server = TestServer::start();
    for path in ["/messages", "/messages/", "/", "/messages?a=b", "/?a"] {
        let ask = Ask::post(path).body(format!(r#"{{"message": "to {path}"}}"#));
        assert_eq!(server.ask(&ask).await.status, 201, "{path}");
        let stored = server.ask(&Ask::get(path_of(format!("to {path}")))).await;
        assert_eq!(stored.status, 200, "{path}");
    }
}

#[tokio::test]
async fn whoever_prefers_text_gets_the_bare_digest() {
    let server = TestServer::start();
    let ask = Ask::publish("foo").field("accept", "text/plain");
    let answer = server.ask(&ask).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.text(), format!("{FOO}\n"));
    assert_eq!(
        answer.field("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let location = format!("/messages/{FOO}");
    assert_eq!(answer.field("location"), Some(&*location));
}

#[tokio::test]
async fn a_plain_text_is_stored_byte_for_byte() {
    let server = TestServer::start();
    for text in [
        "foo",
        " foo ",
        "foo\n",
        "foo\r\n",
        "\r\n\r\n",
        "\n",
        "\t",
        "\0",
        "a\0b",
        "\u{feff}foo",
        "\u{1}\u{7f}\u{85}\u{2028}",
        "é is not e\u{301}",
        "😀",
        r#"{"message": "foo"}"#,
        r#""foo""#,
        r"\u0041",
        "<script>",
    ] {
        let answer = server.ask(&Ask::publish(text)).await;
        assert_eq!(answer.status, 201, "{text:?}");
        let path = path_of(text);
        assert_eq!(answer.field("location"), Some(&*path), "{text:?}");
        let stored = server
            .ask(&Ask::get(path).field("accept", "text/plain"))
            .await;
        assert_eq!(stored.text(), text);
        assert_eq!(
            stored.field("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
}

#[tokio::test]
async fn a_message_in_json_comes_back_as_json_with_the_same_text() {
    let server = TestServer::start();
    for (sent, text, received) in [
        (r#""foo""#, "foo", r#""foo""#),
        (r#"" foo\n""#, " foo\n", r#"" foo\n""#),
        (r#""\u0066oo\/""#, "foo/", r#""foo/""#),
        (r#""é\u00e9""#, "éé", r#""éé""#),
        (r#""\ud83d\ude00😀""#, "😀😀", r#""😀😀""#),
        (
            r#""\u0000\u001f\u007f""#,
            "\0\u{1f}\u{7f}",
            "\"\\u0000\\u001f\u{7f}\"",
        ),
        (
            r#""\"\\\b\f\n\r\t""#,
            "\"\\\u{8}\u{c}\n\r\t",
            r#""\"\\\b\f\n\r\t""#,
        ),
        (
            "\"\u{feff}\u{2028}\"",
            "\u{feff}\u{2028}",
            "\"\u{feff}\u{2028}\"",
        ),
    ] {
        let body = format!(r#"{{"message":{sent}}}"#);
        let answer = server.ask(&Ask::publish_json(body)).await;
        assert_eq!(answer.status, 201, "{sent}");
        let path = path_of(text);
        assert_eq!(answer.field("location"), Some(&*path), "{sent}");
        let stored = server.ask(&Ask::get(path)).await;
        assert_eq!(stored.status, 200);
        assert_eq!(
            stored.text(),
            format!("{{\n  \"message\": {received}\n}}\n")
        );
        assert_eq!(stored.field("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn nothing_at_all_is_a_message_too() {
    let server = TestServer::start();
    for ask in [Ask::publish(""), Ask::publish_json(r#"{"message": ""}"#)] {
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, 201);
        let location = format!("/messages/{EMPTY}");
        assert_eq!(answer.field("location"), Some(&*location));
    }
    let stored = server.ask(&Ask::get(format!("/messages/{EMPTY}"))).await;
    assert_eq!(stored.text(), "{\n  \"message\": \"\"\n}\n");
}

#[tokio::test]
async fn an_empty_text_has_a_length_like_any_other() {
    let server = TestServer::start();
    let path = server.publish("").await;
    let answer = server
        .ask(&Ask::get(path).field("accept", "text/plain"))
        .await;
    assert_eq!((answer.status, answer.text()), (200, ""));
    assert_eq!(answer.field("content-length"), Some("0"));
}

#[tokio::test]
async fn unknown_members_are_ignored() {
    let server = TestServer::start();
    for body in [
        r#"{"message": "foo", "more": "bar"}"#,
        r#"{"more": {"message": 1}, "message": "foo"}"#,
        r#"{"a": 1, "a": [-2.5e3, true, null], "": {}, "message": "foo", "Message": "bar"}"#,
        " \n\t\r{ \"message\" : \"foo\" } \n\t\r",
        r#"{"mess\u0061ge": "foo"}"#,
    ] {
        let answer = server.ask(&Ask::publish_json(body)).await;
        assert_eq!(answer.status, 201, "{body}");
        assert!(answer.text().contains(FOO), "{body}");
    }
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn json_is_read_under_every_name_it_goes_by() {
    let server = TestServer::start();
    for kind in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
        "application/problem+json",
        "application/vnd.example+json; version=1",
        "application/x-www-form-urlencoded",
    ] {
        let ask = Ask::post("/messages")
            .field("content-type", kind)
            .body(r#"{"message": "foo"}"#);
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, 201, "{kind}");
        assert!(answer.text().contains(FOO), "{kind}");
    }
    let untyped = Ask::post("/messages").body(r#"{"message": "foo"}"#);
    assert!(server.ask(&untyped).await.text().contains(FOO));
}

#[tokio::test]
async fn text_is_read_under_every_name_it_goes_by() {
    let server = TestServer::start();
    for kind in [
        "text/plain",
        "TEXT/plain",
        "text/plain;charset=utf-8",
        "text/plain; charset=\"UTF-8\"; format=flowed",
    ] {
        let ask = Ask::post("/").field("content-type", kind).body("foo");
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, 201, "{kind}");
        assert!(answer.text().contains(FOO), "{kind}");
    }
}

// Bodies that are refused.

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_with_the_place_of_the_mistake() {
    let server = TestServer::start();
    for (body, place) in [
        ("", "line 1 column 0"),
        (" \n", "line 2 column 0"),
        ("SECRET", "line 1 column 1"),
        ("{", "line 1 column 1"),
        (r#"{"message": "SECRET""#, "line 1 column 20"),
        (r#"{"message": "SECRET"#, "line 1 column 19"),
        (r#"{"message": "SECRET",}"#, "line 1 column 22"),
        (r#"{"message": "SECRET"} x"#, "line 1 column 23"),
        (r#"{"message": "SECRET"}{}"#, "line 1 column 22"),
        ("{\"message\": \"SECRET\"}\n\0", "line 2 column 1"),
        ("{'message': 'SECRET'}", "line 1 column 2"),
        ("{\"message\": \"SECRET\nSECRET\"}", "line 2 column 0"),
        (r#"{"message": "SECRET\x"}"#, "line 1 column 21"),
        (r#"{"message": "SECRET\u12g4"}"#, "line 1 column "),
        (r#"{"message": "SECRET", "n": 01}"#, "line 1 column 29"),
        (r#"{"message": "SECRET", "n": NaN}"#, "line 1 column 28"),
        (r#"{"message": "SECRET", "n": tru}"#, "line 1 column "),
        ("{\"message\": \"SECRET\", \"n\": \"\t\"}", "line 1 column "),
        (r#"{"message" "SECRET"}"#, "line 1 column 12"),
        (r#"{"message": "SECRET"; "n": 1}"#, "line 1 column 21"),
        ("{\"message\": \u{feff}\"SECRET\"}", "line 1 column "),
        (
            "\u{feff}\u{feff}{\"message\": \"SECRET\"}",
            "it begins with a byte order mark (U+FEFF)",
        ),
        ("{/* SECRET */ \"message\": \"SECRET\"}", "line 1 column 2"),
    ] {
        let error = refused(&server, &Ask::publish_json(body), 400).await;
        assert!(error.starts_with("The body is not valid JSON: "), "{error}");
        assert!(error.contains(place), "{body:?}: {error}");
    }
}

#[tokio::test]
async fn json_that_is_no_message_is_refused() {
    let server = TestServer::start();
    for (body, what) in [
        (r#""SECRET""#, "must be a JSON object"),
        ("4711", "must be a JSON object"),
        ("-1.5", "must be a JSON object"),
        ("true", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        (r#"["SECRET"]"#, "must be a JSON object"),
        (r#"[{"message": "SECRET"}]"#, "must be a JSON object"),
        ("{}", "\"message\" is missing"),
        (r#"{"Message": "SECRET"}"#, "\"message\" is missing"),
        (r#"{"messages": "SECRET"}"#, "\"message\" is missing"),
        (
            r#"{"SECRET": {"message": "SECRET"}}"#,
            "\"message\" is missing",
        ),
        (r#"{"message": 4711}"#, "\"message\" must be a string"),
        (r#"{"message": null}"#, "\"message\" must be a string"),
        (r#"{"message": false}"#, "\"message\" must be a string"),
        (r#"{"message": ["SECRET"]}"#, "\"message\" must be a string"),
        (
            r#"{"message": {"a": "SECRET"}}"#,
            "\"message\" must be a string",
        ),
        (
            r#"{"message": "SECRET", "message": "SECRET"}"#,
            "\"message\" is there twice",
        ),
        (
            r#"{"message": "SECRET", "m\u0065ssage": "b"}"#,
            "\"message\" is there twice",
        ),
        (
            r#"{"message": "SECRET", "message": 1}"#,
            "\"message\" must be a string",
        ),
        (
            r#"{"message": null, "message": "SECRET"}"#,
            "\"message\" must be a string",
        ),
    ] {
        let error = refused(&server, &Ask::publish_json(body), 400).await;
        assert!(error.starts_with("The body is not a message: "), "{error}");
        assert!(error.contains(what), "{body}: {error}");
        assert!(!error.contains("4711"), "{error}");
    }
}

#[tokio::test]
async fn lone_surrogates_are_refused_wherever_they_stand() {
    let server = TestServer::start();
    for body in [
        r#"{"message": "SECRET\ud83d"}"#,
        r#"{"message": "\ude00SECRET"}"#,
        r#"{"message": "\ud83dSECRET"}"#,
        r#"{"message": "\ud83d\ud83d"}"#,
        r#"{"message": "\ude00\ud83d"}"#,
        r#"{"message": "SECRET", "other": "\ud83d"}"#,
        r#"{"other": [{"a": "\ude00"}], "message": "SECRET"}"#,
        r#"{"message": "SECRET", "\ud83d": 1}"#,
        r#"{"message": "SECRET", "other": {"\udfff": 1}}"#,
    ] {
        refused(&server, &Ask::publish_json(body), 400).await;
    }
}

#[tokio::test]
async fn what_is_not_utf_8_is_refused_wherever_it_stands() {
    let server = TestServer::start();
    for (start, bytes, end) in [
        (r#"{"message": "SECRET"#, &b"\xff"[..], r#""}"#),
        (r#"{"message": ""#, b"\xc3", r#""}"#),
        (r#"{"message": ""#, b"\xc0\xaf", r#""}"#),
        (r#"{"message": ""#, b"\xed\xa0\x80", r#""}"#),
        (r#"{"message": ""#, b"\xf4\x90\x80\x80", r#""}"#),
        (r#"{"message": "SECRET", "other": ""#, b"\xe9", r#""}"#),
        (r#"{"message": "SECRET", ""#, b"\xe9", r#"": 1}"#),
        (r#"{"message": "SECRET"} "#, b"\xff", ""),
        ("", b"\xff\xfe{\0}\0", ""),
    ] {
        let body = [start.as_bytes(), bytes, end.as_bytes()].concat();
        let error = refused(&server, &Ask::publish_json(body.clone()), 400).await;
        let offset = format!("invalid byte at offset {}.", start.len());
        assert!(error.contains(&offset), "{error}");
        let error = refused(&server, &Ask::publish(body), 400).await;
        assert!(error.contains(&offset), "{error}");
    }
}

/// What this thread has worked so far, which is the server's too, however busy the machine is.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

#[tokio::test]
async fn a_hundred_thousand_brackets_are_refused_at_once() {
    let server = TestServer::start();
    let nested = |open: &str, close: &str| {
        let (open, close) = (open.repeat(100_000), close.repeat(100_000));
        format!(r#"{{"message": "SECRET", "other": {open}{close}}}"#)
    };
    for body in [
        nested("[", "]"),
        nested(r#"{"a":"#, "}").replace(":}", ":1}"),
        nested("[", ""),
        nested(r#"{"a":"#, ""),
        "[".repeat(100_000),
        "]".repeat(100_000),
        r#"{"a":"#.repeat(100_000),
    ] {
        let before = processor_time();
        refused(&server, &Ask::publish_json(body), 400).await;
        let took = processor_time().checked_sub(before).unwrap();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let shallow = format!(
        r#"{{"message": "foo", "other": {}{}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    assert_eq!(server.ask(&Ask::publish_json(shallow)).await.status, 201);
}

#[tokio::test]
async fn a_form_that_is_not_json_is_told_what_curl_should_have_said() {
    let server = TestServer::start();
    let form = |body: &'static str| {
        Ask::post("/messages")
            .field("content-type", "application/x-www-form-urlencoded")
            .body(body)
    };
    for body in ["message=SECRET", "{message: SECRET}", ""] {
        let error = refused(&server, &form(body), 400).await;
        assert!(error.contains("not valid JSON"), "{error}");
        assert!(error.contains("-H 'Content-Type: "), "{error}");
        assert!(error.contains("--data-binary"), "{error}");
    }
    let error = refused(&server, &Ask::publish_json("message=SECRET"), 400).await;
    assert!(!error.contains("curl"), "{error}");
}

#[tokio::test]
async fn other_formats_are_refused() {
    let server = TestServer::start();
    for kind in [
        "application/jsonx",
        "application/jso",
        "application/x-json",
        "application/json+xml",
        "text/json",
        "text/html",
        "text/plain+xml",
        "text/plain; charset=iso-8859-1",
        "application/json; charset=utf-16",
        "application/json, text/plain",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/xml",
        "text/*",
        "*/*",
        "json",
        "application/",
    ] {
        let ask = Ask::post("/messages").field("content-type", kind);
        let error = refused(&server, &ask.body(r#"{"message": "SECRET"}"#), 415).await;
        assert!(error.contains("application/json or text/plain"), "{error}");
    }
    let twice = Ask::publish_json(r#"{"message": "SECRET"}"#).field("content-type", "text/plain");
    refused(&server, &twice, 415).await;
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let server = TestServer::start();
    for coding in ["gzip", "br", "zstd", "x", "identity, gzip"] {
        let ask = Ask::publish(SECRET).field("content-encoding", coding);
        let error = refused(&server, &ask, 415).await;
        assert!(error.contains("Content-Encoding"), "{error}");
    }
    for coding in ["identity", "Identity", "identity, identity", ""] {
        let ask = Ask::publish(coding).field("content-encoding", coding);
        assert_eq!(server.ask(&ask).await.status, 201, "{coding}");
    }
}

/// A body under a content type, at each place that takes it.
fn of_type(kind: &str, body: &[u8]) -> [Ask; 2] {
    let digest = Digest::of(b"foo");
    let ask = |ask: Ask| ask.field("content-type", kind).body(body);
    [
        Ask::post("/messages"),
        Ask::new("PUT", format!("/messages/{digest}")),
    ]
    .map(ask)
}

#[tokio::test]
async fn utf_8_is_taken_under_all_its_names() {
    let server = TestServer::start();
    for charset in [
        "utf8",
        "UTF8",
        "\"utf-8\"",
        "unicode-1-1-utf-8",
        "us-ascii",
        "ASCII",
    ] {
        for (kind, body) in [
            ("application/json", r#"{"message": "foo"}"#),
            ("application/vnd.api+json", r#"{"message": "foo"}"#),
            ("text/plain", "foo"),
        ] {
            let kind = format!("{kind}; charset={charset}");
            for ask in of_type(&kind, body.as_bytes()) {
                let answer = server.ask(&ask).await;
                assert_eq!(
                    (answer.status, answer.text().contains(FOO)),
                    (201, true),
                    "{ask:?}"
                );
            }
        }
        let kind = format!("application/x-ndjson; charset={charset}");
        for (path, line) in [
            ("/messages", r#"{"message": "foo"}"#.to_owned()),
            ("/messages/lookup", format!("\"{FOO}\"")),
        ] {
            let ask = Ask::post(path).field("content-type", &kind).body(line);
            let answer = server.ask(&ask).await;
            assert_eq!(answer.status, 200, "{ask:?}");
            assert!(!answer.text().contains("error"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn another_charset_is_refused_with_what_to_do_and_ascii_that_is_none_with_its_place() {
    let server = TestServer::start();
    for charset in [
        "iso-8859-1",
        "windows-1252",
        "UTF-16LE",
        "\"latin1\"",
        "utf-7",
    ] {
        for kind in ["application/json", "text/plain", "application/x-ndjson"] {
            let kind = format!("{kind}; charset={charset}");
            let ask = Ask::post("/messages").field("content-type", &kind);
            let error = refused(&server, &ask.body(SECRET), 415).await;
            assert!(
                error.contains("iconv") && error.contains("charset=utf-8"),
                "{error}"
            );
        }
    }
    for (kind, body, offset) in [
        (
            "application/json; charset=us-ascii",
            "{\"message\": \"SECRET\u{e9}\"}",
            19,
        ),
        ("text/plain; charset=ascii", "\u{e9}SECRET", 0),
        ("text/plain; charset=\"US-ASCII\"", "SECRET\u{20ac}", 6),
    ] {
        let ask = Ask::post("/messages").field("content-type", kind);
        let error = refused(&server, &ask.body(body), 400).await;
        let place = format!("at offset {offset} that is not ASCII");
        assert!(error.contains(&place), "{error}");
    }
    let lines = "{\"message\": \"foo\"}\n{\"message\": \"SECRET\u{e9}\"}\n";
    let ask = Ask::post("/messages").field("content-type", "application/x-ndjson; charset=ascii");
    let answer = server.ask(&ask.body(lines)).await;
    assert!(
        answer.text().contains(FOO) && answer.text().contains("not ASCII"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_json_and_part_of_a_text() {
    let server = TestServer::start();
    for body in [
        "\u{feff}{\"message\": \"foo\"}",
        "\u{feff} \r\n{\"message\": \"foo\"}\r\n",
        "\u{feff}{\"message\": \"f\\u006fo\"}",
    ] {
        let put = Ask::new("PUT", format!("/messages/{FOO}"));
        for ask in [
            Ask::publish_json(body),
            Ask::post("/").body(body),
            put.field("content-type", "application/json").body(body),
        ] {
            let answer = server.ask(&ask).await;
            assert_eq!(
                (answer.status, answer.text().contains(FOO)),
                (201, true),
                "{ask:?}"
            );
        }
    }
    for text in ["\u{feff}foo", "\u{feff}", "\u{feff}{\"message\": \"foo\"}"] {
        let path = server.publish(text).await;
        assert_eq!(path, path_of(text));
        let ask = Ask::get(path).field("accept", "text/plain");
        assert_eq!(server.ask(&ask).await.text(), text);
    }
    // It is one of JSON, not of the message.
    let answer = server
        .ask(&Ask::publish_json("{\"message\": \"\u{feff}foo\"}"))
        .await;
    assert_eq!(answer.field("location"), Some(&*path_of("\u{feff}foo")));
}

#[tokio::test]
async fn a_body_in_utf_16_is_told_so() {
    let server = TestServer::start();
    let json = "\u{feff}{\"message\": \"SECRET\"}";
    for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        for text in [json, "\u{feff}SECRET", "\u{feff}"] {
            let bytes: Vec<_> = text.encode_utf16().flat_map(to_bytes).collect();
            for ask in [Ask::publish_json(&bytes), Ask::publish(&bytes)] {
                let error = refused(&server, &ask, 400).await;
                assert!(
                    error.contains("UTF-16") && error.contains("PowerShell"),
                    "{error}"
                );
            }
            let lines = Ask::post("/messages").field("content-type", "application/x-ndjson");
            let answer = server.ask(&lines.body(&bytes)).await;
            let first = answer.text().lines().next().unwrap();
            assert!(
                first.contains("UTF-16") && first.contains("\"line\": 1"),
                "{first}"
            );
        }
    }
}

#[tokio::test]
async fn an_empty_content_type_is_as_good_as_none() {
    let server = TestServer::start();
    for kind in ["", " ", "\t"] {
        for ask in of_type(kind, br#"{"message": "foo"}"#) {
            assert_eq!(server.ask(&ask).await.status, 201, "{ask:?}");
        }
        let text = Ask::post("/messages")
            .field("content-type", kind)
            .body("SECRET");
        let error = refused(&server, &text, 400).await;
        assert!(error.contains("not valid JSON"), "{error}");
    }
}

// Large bodies.

#[tokio::test]
async fn a_body_of_the_largest_size_is_taken_and_one_byte_more_is_not() {
    let server = TestServer::start();
    let largest = "a".repeat(1 << 20);
    let path = server.ask(&Ask::publish(largest.clone())).await;
    assert_eq!(path.status, 201);
    let ask = Ask::get(path.field("location").unwrap()).field("accept", "text/plain");
    assert!(server.ask(&ask).await.text() == largest);

    let error = refused(&server, &Ask::publish(largest + "a"), 413).await;
    assert_eq!(error, "The body is larger than 1048576 bytes.");
}

#[tokio::test]
async fn the_size_of_a_body_without_a_length_is_limited_too() {
    let server = TestServer::with(|limits| limits.body.bytes_max = 1000);
    for protocol in Protocol::ALL {
        let ask = Ask::publish("");
        let largest = server.connect(protocol).await.begin(&ask);
        largest.send("a".repeat(999));
        largest.send("a");
        assert_eq!(largest.finish().await.status, 201, "{protocol:?}");

        // Refused while more could come.
        let mut larger = server.connect(protocol).await.begin(&ask);
        larger.send("a".repeat(1000));
        larger.send("a");
        let answer = larger.answer().await;
        assert_eq!(answer.status, 413, "{protocol:?}");
        assert_eq!(answer.error(), "The body is larger than 1000 bytes.");
    }
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let server = TestServer::start();
    for expectation in ["", "Expect: 100-continue\r\n"] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "POST /messages HTTP/1.1\r\nHost: x\r\n{expectation}Content-Length: 1048577\r\n\r\n"
            ))
            .await;
        // Not 100, for whoever waits for that.
        assert_eq!(client.answer().await.status, 413);
    }
    let mut client = server.connect(Protocol::Http2).await;
    let mut begun = client.begin(&Ask::publish("").field("content-length", "1048577"));
    assert_eq!(begun.answer().await.status, 413);
}

#[tokio::test]
async fn a_body_that_is_announced_and_fits_is_asked_for() {
    let server = TestServer::start();
    let mut client = server.connect_raw().await;
    let head = "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
        Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    for _ in 0..2 {
        client.send(head).await;
        client.continue_line().await;
        client.send("foo").await;
        assert_eq!(client.answer().await.status, 201);
    }
}

#[tokio::test]
async fn a_body_that_would_be_refused_anyway_is_not_asked_for() {
    let server = TestServer::start();
    for (line, status) in [
        ("POST /messages HTTP/1.1\r\nContent-Type: image/png", 415),
        ("POST /messages HTTP/1.1\r\nContent-Encoding: gzip", 415),
        ("POST /nowhere HTTP/1.1", 404),
        ("PATCH /messages HTTP/1.1", 405),
        ("POST /messages HTTP/1.1\r\nHost: y", 400),
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "{line}\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, status, "{line}");
    }
}

#[tokio::test]
async fn whoever_sends_all_of_a_body_that_is_too_large_still_reads_why_it_was_refused() {
    let server = TestServer::start();
    for length in [
        "Content-Length: 2097152\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: x\r\n{length}\r\n"))
            .await;
        if length.starts_with("Transfer") {
            client.send("200000\r\n").await;
        }
        for _ in 0..8 {
            client.send("a".repeat(256 << 10)).await;
            // It is refused by now, and goes on all the same.
            server.has_seen_all().await;
        }
        assert_eq!(client.answer().await.status, 413);
        client.finish_sending().await;
        let rest = client.rest().await;
        assert!(rest.bytes.is_empty() && !rest.was_reset, "{rest:?}");
    }
}

#[tokio::test]
async fn whoever_is_answered_before_its_body_has_ended_is_told_that_the_connection_ends() {
    let server = TestServer::start();
    for (fields, status) in [
        ("Content-Length: 1048577", 413),
        ("Content-Type: image/png\r\nContent-Length: 5", 415),
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\nfoo"))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status);
        // It does end. A client that was not told may send its next request into the void.
        client.finish_sending().await;
        assert!(client.rest().await.bytes.is_empty());
        assert_eq!(answer.field("connection"), Some("close"));
    }
}

#[tokio::test]
async fn refused_bodies_do_not_use_up_an_http2_connection() {
    let server = TestServer::start();
    let mut client = server.connect(Protocol::Http2).await;
    for _ in 0..4 {
        let answer = client.ask(&Ask::publish("a".repeat(2 << 20))).await;
        assert_eq!(answer.status, 413);
    }
    let answer = client.ask(&Ask::publish("a".repeat(1 << 20))).await;
    assert_eq!(answer.status, 201);
}

// Fetching.

#[tokio::test]
async fn a_message_is_found_by_its_digest_in_either_case() {
    let server = TestServer::start();
    server.publish("foo").await;
    for digest in [FOO.to_owned(), FOO.to_uppercase()] {
        let answer = server.ask(&Ask::get(format!("/messages/{digest}"))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), "{\n  \"message\": \"foo\"\n}\n");
        assert_eq!(answer.field("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn text_is_fetched_by_those_who_prefer_it() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let json = "{\n  \"message\": \"foo\"\n}\n";
    for (accept, body) in [
        ("text/plain", "foo"),
        ("text/*", "foo"),
        ("text/plain, application/json;q=0.5", "foo"),
        ("application/json", json),
        ("*/*", json),
        ("text/html,application/xhtml+xml,*/*;q=0.8", json),
        ("application/json, text/plain", json),
        ("image/png", json),
        ("", json),
    ] {
        let answer = server.ask(&Ask::get(&path).field("accept", accept)).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{accept}");
        assert_eq!(answer.field("vary"), Some("accept"));
    }
}

#[tokio::test]
async fn what_is_not_the_whole_digest_of_a_message_is_not_found() {
    let server = TestServer::start();
    server.publish("foo").await;
    let unknown = Digest::of(b"bar").to_string();
    let signed = format!("+{}", &FOO[1..]);
    let foreign = format!("g{}", &FOO[1..]);
    let longer = format!("{FOO}0");
    let twice = format!("{FOO}{FOO}");
    let named = format!("sha512:{FOO}");
    let dotted = format!("{FOO}.json");
    for word in [
        &*unknown,
        &FOO[..63],
        &FOO[1..],
        &FOO[..8],
        &longer,
        &twice,
        &signed,
        &foreign,
        &named,
        &dotted,
        "foo",
        "0",
        "-",
        "..",
        "*",
        "null",
    ] {
        let answer = server.ask(&Ask::get(format!("/messages/{word}"))).await;
        assert_eq!(answer.status, 404, "{word}");
        assert_eq!(
            answer.text(),
            "{\n  \"error\": \"Message not found.\"\n}\n",
            "{word}"
        );
    }
}

#[tokio::test]
async fn a_digest_with_a_slash_behind_it_is_not_found() {
    let server = TestServer::start();
    server.publish("foo").await;
    let answer = server.ask(&Ask::get(format!("/messages/{FOO}/"))).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.error(), "Message not found.");
}

#[tokio::test]
async fn a_path_is_taken_as_it_was_sent() {
    let server = TestServer::start();
    server.publish("foo").await;
    for path in [
        format!("/messages/%2532{}", &FOO[1..]),
        format!("/messages%2f{FOO}"),
        format!("/%6dessages/{FOO}"),
        format!("/Messages/{FOO}"),
        format!("//messages/{FOO}"),
        format!("/messages//{FOO}"),
        format!("/./messages/{FOO}"),
        format!("/x/../messages/{FOO}"),
        format!("/{FOO}"),
        format!("/messages;a/{FOO}"),
    ] {
        assert_eq!(server.ask(&Ask::get(&path)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_query_is_ignored() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for path in [
        format!("{path}?"),
        format!("{path}?a=b&c"),
        format!("{path}?/x"),
        "/livez?x".into(),
    ] {
        assert_eq!(server.ask(&Ask::get(&path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_hit_may_be_kept_for_ever_and_cannot_do_anything_in_a_browser() {
    let server = TestServer::start();
    let path = server.publish("<script>alert(1)</script>").await;
    for accept in ["application/json", "text/plain", "text/html"] {
        let answer = server.ask(&Ask::get(&path).field("accept", accept)).await;
        assert_eq!(
            answer.field("cache-control"),
            Some("max-age=31536000, immutable")
        );
        assert_eq!(
            answer.field("content-security-policy"),
            Some("default-src 'none'; sandbox")
        );
    }
}

#[tokio::test]
async fn what_may_change_is_not_kept() {
    let server = TestServer::start();
    // Errors are checked by the client, every time.
    for path in ["/livez", "/readyz", "/readyz/write", "/healthz", "/"] {
        let answer = server.ask(&Ask::get(path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.field("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.field("etag"), None, "{path}");
    }
    let missing = server.ask(&Ask::get(path_of("missing"))).await;
    assert_eq!(missing.field("cache-control"), Some("no-store"));
    assert_eq!(missing.field("etag"), None);
}

#[tokio::test]
async fn each_form_of_a_message_has_a_tag_of_its_own() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let other = server.publish("bar").await;
    let mut tags = Vec::new();
    for path in [&path, &other] {
        for accept in ["application/json", "text/plain"] {
            let ask = Ask::get(path).field("accept", accept);
            let first = server.ask(&ask).await.field("etag").unwrap().to_owned();
            assert!(first.starts_with('"') && first.ends_with('"'), "{first}");
            assert!(!tags.contains(&first), "{first}");
            tags.push(first);
        }
    }
}

#[tokio::test]
async fn a_message_that_the_client_has_is_not_sent_again() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for (accept, other) in [
        ("application/json", "text/plain"),
        ("text/plain", "application/json"),
    ] {
        let get = Ask::get(&path).field("accept", accept);
        let hit = server.ask(&get).await;
        let tag = hit.field("etag").unwrap();
        let tags = [
            tag.to_owned(),
            format!("W/{tag}"),
            format!("\"x\" , {tag}"),
            "*".into(),
        ];
        for tags in tags {
            let answer = server.ask(&get.clone().field("if-none-match", &tags)).await;
            assert_eq!(answer.status, 304, "{tags}");
            for field in ["etag", "cache-control", "vary"] {
                assert_eq!(answer.field(field), hit.field(field), "{field}");
            }
        }
        for tags in ["\"x\"", "", &tag[1..tag.len() - 1], &tag.to_uppercase()] {
            let answer = server.ask(&get.clone().field("if-none-match", tags)).await;
            assert_eq!(answer.status, 200, "{tags}");
        }
        let other = Ask::get(&path).field("accept", other);
        let answer = server.ask(&other.field("if-none-match", tag)).await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn nobody_has_a_message_that_is_not_there() {
    let server = TestServer::start();
    let path = path_of("missing");
    let tag = format!("\"{}-json\"", Digest::of(b"missing"));
    for tag in [&*tag, "*"] {
        let answer = server
            .ask(&Ask::get(&path).field("if-none-match", tag))
            .await;
        assert_eq!(answer.status, 404);
    }
    // It would have been the right one.
    server.publish("missing").await;
    let answer = server
        .ask(&Ask::get(&path).field("if-none-match", &tag))
        .await;
    assert_eq!(answer.status, 304);
}

#[tokio::test]
async fn whether_the_client_has_a_message_is_answered_without_reading_it() {
    let server = TestServer::on_disk();
    let text = "a message that is damaged later";
    let path = server.publish(text).await;
    let hit = server.ask(&Ask::get(&path)).await;
    server.damage(text);
    // So reading it would have shown.
    assert_eq!(server.ask(&Ask::get(&path)).await.status, 500);
    let tag = hit.field("etag").unwrap();
    let answer = server
        .ask(&Ask::get(&path).field("if-none-match", tag))
        .await;
    assert_eq!(answer.status, 304);
}

#[tokio::test]
async fn a_damaged_message_is_an_error_until_it_is_stored_again() {
    let server = TestServer::on_disk();
    let text = "a message that is damaged later";
    let path = server.publish(text).await;
    let other = server.publish("another message").await;
    server.damage(text);
    let answer = server.ask(&Ask::get(&path)).await;
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("damaged"), "{answer:?}");
    assert_eq!(server.ask(&Ask::get(&other)).await.status, 200);
    assert_eq!(server.ask(&Ask::get("/readyz/write")).await.status, 200);

    server.publish(text).await;
    let answer = server
        .ask(&Ask::get(&path).field("accept", "text/plain"))
        .await;
    assert_eq!((answer.status, answer.text()), (200, text));
}

#[tokio::test]
async fn an_answer_to_head_is_that_to_get_without_its_body() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let missing = path_of("missing");
    for path in [
        &*path,
        &missing,
        "/messages/foo",
        "/messages",
        "/livez",
        "/readyz",
        "/readyz/write",
        "/healthz",
        "/",
        "/docs",
        "/openapi.json",
        "/openapi.yaml",
        "/pages/home.js",
        "/pages/nowhere",
        "/nowhere",
    ] {
        for accept in ["*/*", "text/plain", "text/html"] {
            let get = server.ask(&Ask::get(path).field("accept", accept)).await;
            let head = server.ask(&Ask::head(path).field("accept", accept)).await;
            assert_eq!(head.status, get.status, "{path}");
            assert_eq!(head.lasting_fields(), get.lasting_fields(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_head_for_what_the_client_has_is_answered_like_a_get() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let get = server
        .ask(&Ask::get(&path).field("if-none-match", "*"))
        .await;
    let head = server
        .ask(&Ask::head(&path).field("if-none-match", "*"))
        .await;
    assert_eq!((get.status, head.status), (304, 304));
    assert_eq!(head.lasting_fields(), get.lasting_fields());
}

#[tokio::test]
async fn nothing_follows_the_head_of_an_answer_to_head() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let mut client = server.connect_raw().await;
    client
        .send(format!(
            "HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n\
             GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let text = client.rest().await.text().into_owned();
    let (_, second) = text.split_once("\r\n\r\n").unwrap();
    assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(second.ends_with("\r\n\r\nok\n"), "{text}");
}

// Methods and paths.

#[tokio::test]
async fn a_path_names_the_methods_it_has() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let methods = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "options", "get", "FOO",
    ];
    for (path, allowed) in [
        ("/", "GET, HEAD, POST"),
        ("/messages", "POST"),
        ("/messages/", "POST"),
        (&*path, "GET, HEAD, PUT, DELETE"),
        ("/messages/foo", "GET, HEAD, PUT, DELETE"),
        ("/messages/lookup", "POST"),
        ("/messages/sha256:foo", "GET, HEAD, DELETE"),
        ("/messages/sha256-foo", "GET, HEAD, DELETE"),
        ("/.well-known/ni/sha-256/foo", "GET, HEAD, DELETE"),
        ("/livez", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/readyz/write", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/openapi.yaml", "GET, HEAD"),
        ("/pages/home.js", "GET, HEAD"),
    ] {
        for method in methods {
            let answer = server.ask(&Ask::new(method, path)).await;
            if allowed.split(", ").any(|allowed| allowed == method) {
                assert_ne!(answer.status, 405, "{method} {path}");
                // Nobody may delete, where there are no tokens.
                let is_closed = method == "DELETE";
                assert_eq!(answer.status == 403, is_closed, "{method} {path}");
            } else {
                assert_eq!(answer.status, 405, "{method} {path}");
                assert_eq!(answer.field("allow"), Some(allowed), "{method} {path}");
            }
        }
        let answer = server.ask(&Ask::new("OPTIONS", path)).await;
        assert_eq!((answer.status, answer.text()), (204, ""), "{path}");
        let allowed = format!("{allowed}, OPTIONS");
        assert_eq!(answer.field("allow"), Some(&*allowed), "{path}");
    }
}

#[tokio::test]
async fn there_is_nothing_at_unknown_paths() {
    let server = TestServer::start();
    for path in [
        "/nowhere",
        "/message",
        "/messagesx",
        "/livez/",
        "/livez/x",
        "/readyz/",
        "/readyz/read",
        "/readyz/write/",
        "/healthz/x",
        "//",
        "/favicon.ico",
        "/robots.txt",
        "/.git/config",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let answer = server.ask(&Ask::new(method, path)).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.error(), "There is nothing at this path.");
        }
    }
}

#[tokio::test]
async fn a_target_that_is_no_path_is_not_one_of_ours() {
    let server = TestServer::start();
    for line in ["GET *", "POST *", "GET example.org", "POST example.org:80"] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "{line} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                 Content-Length: 6\r\n\r\nSECRET"
            ))
            .await;
        let answer = client.bare_answer().await;
        assert!([400, 404].contains(&answer.status), "{line}: {answer:?}");
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn a_target_with_a_host_is_read_as_its_path() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for target in [format!("http://example.org{path}"), "http://x".into()] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "GET {target} HTTP/1.1\r\nHost: example.org\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn trace_and_connect_are_not_honoured() {
    let server = TestServer::start();
    for line in [
        "TRACE / HTTP/1.1",
        "TRACE /livez HTTP/1.1",
        "CONNECT example.org:443 HTTP/1.1",
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!("{line}\r\nHost: x\r\nX-Secret: {SECRET}\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert!([400, 404, 405, 501].contains(&answer.status), "{answer:?}");
        assert!(!answer.text().contains(SECRET));
    }
}

#[tokio::test]
async fn the_method_is_the_one_in_the_first_line() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for name in [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
    ] {
        let get = server.ask(&Ask::get(&path).field(name, "DELETE")).await;
        assert_eq!(get.status, 200, "{name}");
        let post = server.ask(&Ask::post(&path).field(name, "GET")).await;
        assert_eq!(post.status, 405, "{name}");
    }
}

#[tokio::test]
async fn no_other_protocol_is_switched_to() {
    let server = TestServer::start();
    for protocol in ["websocket", "h2c", "TLS/1.2"] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, "ok\n"), "{protocol}");
    }
}

#[tokio::test]
async fn there_must_be_exactly_one_host() {
    let server = TestServer::start();
    for (head, status) in [
        ("GET /livez HTTP/1.1\r\nHost: x\r\n", 200),
        ("GET /livez HTTP/1.1\r\n", 400),
        ("GET http://x/livez HTTP/1.1\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nhost: y\r\n", 400),
        ("GET /livez HTTP/1.0\r\n", 200),
        ("GET /livez HTTP/1.0\r\nHost: x\r\nHost: y\r\n", 400),
    ] {
        let mut client = server.connect_raw().await;
        client.send(format!("{head}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{head}");
        if status == 400 {
            assert_eq!(answer.error(), "There must be exactly one Host field.");
        }
    }
    let ask = Ask::get("/livez").host("x").field("host", "x");
    assert_eq!(server.ask_over(Protocol::Http2, &ask).await.status, 200);
    let ask = ask.field("host", "y");
    assert_eq!(server.ask_over(Protocol::Http2, &ask).await.status, 400);
}

#[tokio::test]
async fn a_request_keeps_the_name_it_came_with() {
    let server = TestServer::start();
    let longest = "a".repeat(128);
    for id in ["a", "00-4bf92f35-01", "user@host:1/2+3=4_5.6", &*longest] {
        for path in ["/livez", "/nowhere", "/messages/foo"] {
            let answer = server.ask(&Ask::get(path).field("x-request-id", id)).await;
            assert_eq!(answer.field("x-request-id"), Some(id));
        }
    }
}

#[tokio::test]
async fn a_request_without_a_sane_name_gets_one() {
    let server = TestServer::start();
    let longer = "a".repeat(129);
    let mut names = vec![String::new()];
    let asks = ["", "a b", "<b>", "a;b", "a\tb", &*longer]
        .map(|id| Ask::get("/livez").field("x-request-id", id));
    let twice = Ask::get("/livez")
        .field("x-request-id", "a")
        .field("x-request-id", "a");
    for ask in asks.into_iter().chain([twice, Ask::get("/livez")]) {
        for protocol in Protocol::ALL {
            let answer = server.ask_over(protocol, &ask).await;
            let name = answer.field("x-request-id").unwrap().to_owned();
            assert_eq!(name.len(), 16, "{ask:?}");
            assert!(!names.contains(&name), "{name}");
            names.push(name);
        }
    }
}

// Health.

/// The statuses of the four probes, of a known message fetched and stored, of a new one stored.
async fn statuses(server: &TestServer, known: &str) -> [u16; 7] {
    let mut statuses = [0; 7];
    let probes = ["/livez", "/readyz", "/healthz", "/readyz/write"];
    for (status, path) in statuses.iter_mut().zip(probes) {
        let answer = server.ask(&Ask::get(path)).await;
        *status = answer.status;
        if *status == 200 {
            assert_eq!(answer.text(), "ok\n", "{path}");
        }
    }
    statuses[4] = server.ask(&Ask::get(known)).await.status;
    statuses[5] = server.ask(&Ask::publish("known")).await.status;
    statuses[6] = server.ask(&Ask::publish("new")).await.status;
    statuses
}

#[tokio::test]
async fn probes_tell_what_works() {
    let server = TestServer::start();
    let known = server.publish("known").await;
    for (fault, statuses_then) in [
        (
            Some(Fault::Puts(StoreError::Full)),
            [200, 200, 200, 503, 200, 201, 507],
        ),
        (
            Some(Fault::Puts(StoreError::Failed)),
            [200, 200, 200, 503, 200, 201, 503],
        ),
        (
            Some(Fault::Gets(StoreError::Failed)),
            [200, 503, 503, 503, 503, 201, 201],
        ),
        (None, [200, 200, 200, 200, 200, 201, 201]),
    ] {
        server.store.set_fault(fault);
        assert_eq!(statuses(&server, &known).await, statuses_then, "{fault:?}");
    }
}

#[tokio::test]
async fn a_starting_server_lives_and_is_not_ready() {
    let server = TestServer::starting(|limits| limits.opening_timeout = Duration::ZERO);
    server.service.set_stage("reading the log".into());
    let known = path_of("known");
    assert_eq!(
        statuses(&server, &known).await,
        [200, 503, 503, 503, 503, 503, 503]
    );
    let answer = server.ask(&Ask::get("/readyz")).await;
    assert_eq!(
        answer.error(),
        "Not ready: the service is starting: reading the log."
    );
    assert_eq!(answer.field("retry-after"), Some("1"));
    let answer = server.ask(&Ask::publish("known")).await;
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(server.ask(&Ask::get("/")).await.status, 200);

    server.service.start(server.store.clone());
    assert_eq!(
        statuses(&server, &known).await,
        [200, 200, 200, 200, 404, 201, 201]
    );
}

#[tokio::test]
async fn a_verbose_probe_lists_the_checks() {
    let server = TestServer::start();
    for path in [
        "/readyz?verbose",
        "/healthz?verbose",
        "/readyz/write?verbose",
    ] {
        let answer = server.ask(&Ask::get(path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.field("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.text(), "[+] reads\n[+] writes\nready\n", "{path}");
    }
    server.store.set_fault(Some(Fault::Puts(StoreError::Full)));
    let checks = "[+] reads\n[-] writes: the disk is full\n";
    let answer = server.ask(&Ask::get("/readyz?verbose")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), format!("{checks}ready\n"));
    let answer = server.ask(&Ask::get("/readyz/write?verbose")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(answer.text(), format!("{checks}not ready\n"));
}

#[tokio::test]
async fn a_verbose_probe_names_what_was_found_damaged() {
    let server = TestServer::on_disk();
    let known = server.publish("known").await;
    server.damage("known");
    assert_eq!(server.ask(&Ask::get(&known)).await.status, 500);
    let answer = server.ask(&Ask::get("/readyz?verbose")).await;
    assert_eq!(answer.status, 200);
    let found = "[!] stored messages found damaged since the start: ";
    assert!(answer.text().contains(found), "{}", answer.text());
}

#[tokio::test]
async fn a_request_for_messages_waits_for_a_short_start_and_a_probe_does_not() {
    let server = TestServer::starting(|_| {});
    let probe_then_start = async {
        assert_eq!(server.ask(&Ask::get("/readyz")).await.status, 503);
        server.service.start(server.store.clone());
    };
    let (get, post) = (Ask::get(path_of("foo")), Ask::publish("bar"));
    let (found, stored, ()) = tokio::join!(server.ask(&get), server.ask(&post), probe_then_start);
    assert_eq!((found.status, stored.status), (404, 201));
}

#[tokio::test]
async fn a_stopping_server_is_not_ready_and_finishes_what_comes() {
    let server = TestServer::start();
    let known = server.publish("known").await;
    server.service.stop();
    assert_eq!(
        statuses(&server, &known).await,
        [200, 503, 503, 503, 200, 201, 201]
    );
    let answer = server.ask(&Ask::get("/readyz")).await;
    assert_eq!(answer.error(), "Not ready: the service is stopping.");
}

#[tokio::test]
async fn the_first_page_says_how_to_use_curl() {
    let server = TestServer::start();
    let answer = server.ask(&Ask::get("/")).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .text()
            .contains("curl -H 'Content-Type: application/json' -d ")
    );
    assert!(answer.text().contains(" --data-binary @FILE "));
    assert!(answer.text().ends_with('\n'));
}

// Failures of the store.

#[tokio::test]
async fn a_failing_write_is_told_apart_by_status_and_does_not_stop_the_rest() {
    let server = TestServer::start();
    let known = server.publish("known").await;
    for (error, status, retry_after) in [
        (StoreError::Busy, 503, Some("1")),
        (StoreError::Closed, 503, Some("1")),
        (StoreError::Failed, 503, Some("30")),
        (StoreError::Full, 507, Some("30")),
        (StoreError::TooLarge, 413, None),
        (StoreError::PrefixTaken, 409, None),
    ] {
        server.store.set_fault(Some(Fault::Puts(error)));
        let answer = server.ask(&Ask::publish("new")).await;
        assert_eq!(answer.status, status, "{error:?}");
        assert_eq!(answer.field("retry-after"), retry_after, "{error:?}");
        assert_eq!(answer.field("location"), None);

        assert_eq!(server.ask(&Ask::get(&known)).await.status, 200);
        assert_eq!(server.ask(&Ask::publish("known")).await.status, 201);
        assert_eq!(server.ask(&Ask::get(path_of("new"))).await.status, 404);
        assert_eq!(server.store.writes(), 1);
    }
    server.store.set_fault(None);
    assert_eq!(server.ask(&Ask::publish("new")).await.status, 201);
}

#[tokio::test]
async fn a_failing_read_is_not_a_missing_message() {
    let server = TestServer::start();
    let known = server.publish("known").await;
    for (error, status, retry_after) in [
        (StoreError::Failed, 503, Some("30")),
        (StoreError::Damaged, 500, None),
    ] {
        server.store.set_fault(Some(Fault::Gets(error)));
        for ask in [
            Ask::get(&known),
            Ask::get(&known).field("if-none-match", "*"),
        ] {
            let answer = server.ask(&ask).await;
            assert_eq!(answer.status, status, "{error:?}");
            assert_eq!(answer.field("retry-after"), retry_after, "{error:?}");
        }
    }
    server.store.set_fault(None);
    assert_eq!(server.ask(&Ask::get(&known)).await.status, 200);
}

// Many requests on one connection.

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = TestServer::start();
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        for number in 0..20 {
            let text = format!("message {number}");
            let answer = client.ask(&Ask::publish(text.clone())).await;
            assert_eq!(answer.status, 201);
            assert_eq!(answer.field("connection"), None);
            let ask = Ask::get(path_of(&text)).field("accept", "text/plain");
            assert_eq!(client.ask(&ask).await.text(), text);
        }
    }
}

#[tokio::test]
async fn a_client_that_wants_to_leave_after_a_request_may() {
    let server = TestServer::start();
    for head in [
        "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.0\r\n\r\n",
    ] {
        let mut client = server.connect_raw().await;
        client.send(head).await;
        assert_eq!(client.answer().await.status, 200);
        assert!(client.rest().await.bytes.is_empty());
    }
}

#[tokio::test]
async fn requests_sent_together_are_answered_in_their_order() {
    let server = TestServer::start();
    let mut client = server.connect_raw().await;
    let texts = ["first", "second", "third"];
    let requests = texts.map(|text| {
        let (bytes, path) = (text.len(), path_of(text));
        format!(
            "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
             Content-Length: {bytes}\r\n\r\n{text}\
             GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"
        )
    });
    client.send(requests.concat()).await;
    for text in texts {
        let answer = client.answer().await;
        assert_eq!(answer.field("location"), Some(&*path_of(text)));
        assert_eq!(client.answer().await.text(), text);
    }
}

#[tokio::test]
async fn a_request_behind_one_that_waits_waits_too() {
    let server = TestServer::start();
    server.store.set_fault(Some(Fault::Stall));
    let mut client = server.connect_raw().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{\"message\":\"foo\"}\
             GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .await;
    server.has_seen_all().await;
    assert_eq!(server.store.stalled(), 1);
    server.store.set_fault(None);
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(client.answer().await.text(), "ok\n");
}

#[tokio::test]
async fn requests_of_one_http2_connection_do_not_wait_for_each_other() {
    let server = TestServer::start();
    server.store.set_fault(Some(Fault::Stall));
    let mut client = server.connect(Protocol::Http2).await;
    let mut waiting = client.begin(&Ask::publish(""));
    waiting.send("foo");
    waiting.end();
    until("the write", async || server.store.stalled() == 1).await;
    assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
    server.store.set_fault(None);
    assert_eq!(waiting.answer().await.status, 503);
}

#[tokio::test]
async fn a_request_in_the_body_of_another_is_not_answered() {
    let server = TestServer::start();
    let inner = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = inner.len();
    for (head, status) in [
        ("POST /messages HTTP/1.1\r\nContent-Type: text/plain", 201),
        ("POST /messages HTTP/1.1", 400),
        ("POST /messages HTTP/1.1\r\nContent-Type: image/png", 415),
        ("POST /nowhere HTTP/1.1", 404),
        ("DELETE /messages HTTP/1.1", 405),
        ("GET /readyz HTTP/1.1", 200),
        ("HEAD /messages/foo HTTP/1.1", 404),
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "{head}\r\nHost: x\r\nContent-Length: {length}\r\nX-Request-Id: outer\r\n\r\n{inner}"
            ))
            .await;
        client.finish_sending().await;
        let text = client.rest().await.text().into_owned();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{head}: {text}");
        assert!(text.contains("x-request-id: outer\r\n"), "{text}");
    }
}

#[tokio::test]
async fn a_body_whose_end_is_disputed_never_yields_a_second_answer() {
    let server = TestServer::start();
    let inner = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let all = 5 + inner.len();
    for fields in [
        format!("Content-Length: {all}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {all}"),
        "Content-Length: 5\r\nTransfer-Encoding: chunked".into(),
        format!("Content-Length: 5\r\nContent-Length: {all}"),
        format!("Content-Length: 5, {all}"),
        "Content-Length: +5".into(),
        "Content-Length: 0x5".into(),
        "Content-Length: 5 5".into(),
        "Content-Length: -5".into(),
        "Content-Length: 18446744073709551621".into(),
        "Content-Length : 5".into(),
        "Transfer-Encoding : chunked".into(),
        "Transfer-Encoding: xchunked".into(),
        "Transfer-Encoding: chunked, identity".into(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".into(),
        "Transfer-Encoding: \x0bchunked".into(),
        "Transfer-Encoding:\r\n chunked".into(),
        "X: y\r\n Content-Length: 5".into(),
        "Content-Length\0: 5".into(),
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "POST /messages HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n{inner}"
            ))
            .await;
        // The connection ends by itself: nobody knows where the next request begins.
        let text = client.rest().await.text().into_owned();
        assert!(text.starts_with("HTTP/1.1 400 "), "{fields}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{fields}: {text}");
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn broken_chunks_end_the_connection_and_store_nothing() {
    let server = TestServer::start();
    for body in [
        "x\r\nfoo\r\n0\r\n\r\n",
        "+3\r\nfoo\r\n0\r\n\r\n",
        "-3\r\nfoo\r\n0\r\n\r\n",
        "0x3\r\nfoo\r\n0\r\n\r\n",
        "3\r\nfooo\r\n0\r\n\r\n",
        "3\r\nfoo0\r\n\r\n",
        "\r\n3\r\nfoo\r\n0\r\n\r\n",
        "10000000000000003\r\nfoo\r\n0\r\n\r\n",
    ] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                 Transfer-Encoding: chunked\r\n\r\n{body}GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
            ))
            .await;
        let text = client.rest().await.text().into_owned();
        assert!(!text.contains("\r\n\r\nok\n"), "{body:?}: {text}");
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 4"),
            "{body:?}: {text}"
        );
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn a_body_in_chunks_is_put_together_and_its_other_trailers_are_dropped() {
    let server = TestServer::start();
    let mut client = server.connect_raw().await;
    let request = "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
        Transfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n\
        1;a=b\r\nf\r\n2\r\noo\r\n0\r\nX-A: b\r\nContent-Type: image/png\r\n\r\n";
    for _ in 0..2 {
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.field("location"), Some(&*path_of("foo")));
    }
}

#[tokio::test]
async fn a_transfer_coding_beside_chunked_is_refused() {
    let server = TestServer::start();
    for coding in ["gzip, chunked", "x, chunked", "chunked, chunked"] {
        let mut client = server.connect_raw().await;
        client
            .send(format!(
                "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                 Transfer-Encoding: {coding}\r\n\r\n3\r\nfoo\r\n0\r\n\r\n"
            ))
            .await;
        let answer = client.bare_answer().await;
        assert!(
            [400, 415, 501].contains(&answer.status),
            "{coding}: {answer:?}"
        );
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn what_was_stored_over_one_protocol_is_found_over_the_other() {
    let server = TestServer::on_disk();
    for (first, second) in [
        (Protocol::Http1, Protocol::Http2),
        (Protocol::Http2, Protocol::Http1),
    ] {
        let text = format!("stored over {first:?}");
        server.ask_over(first, &Ask::publish(text.clone())).await;
        let ask = Ask::get(path_of(&text)).field("accept", "text/plain");
        assert_eq!(server.ask_over(second, &ask).await.text(), text);
    }
    assert_eq!(server.store.messages(), 2);
}
