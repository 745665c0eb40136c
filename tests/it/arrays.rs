//! The JSON form of batches and look-ups: an array of strings in, an array of results out.

use std::sync::Arc;

use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use serde_json::{Value, json};

use crate::support::{Answer, Ask, Protocol, TestServer, milliseconds, until};

const ELEMENTS_MAX: usize = 10_000;

fn post(path: &str, body: &Value) -> Ask {
    Ask::post(path)
        .field("content-type", "application/json")
        .body(body.to_string())
}

fn publish(texts: &[impl AsRef<str>]) -> Ask {
    let texts: Vec<_> = texts.iter().map(AsRef::as_ref).collect();
    post("/messages/batch", &json!({ "messages": texts }))
}

fn look_up(digests: &[String]) -> Ask {
    post("/messages/lookup", &json!({ "digests": digests }))
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn results(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    // As people read it.
    assert!(
        answer.is_laid_out_like(&format!("{body:#}\n")),
        "{answer:?}"
    );
    assert_eq!(body.as_object().unwrap().len(), 1);
    body["results"].as_array().unwrap().clone()
}

#[tokio::test]
async fn messages_are_stored_and_found_again_in_their_order() {
    let server = TestServer::start();
    let texts: Vec<_> = (0..1000)
        .map(|number| format!("\"\u{e9}\" {number}\n"))
        .collect();
    let digests: Vec<_> = texts.iter().map(|text| digest(text)).collect();
    let stored: Vec<_> = digests
        .iter()
        .map(|digest| json!({ "digest": digest }))
        .collect();
    let found: Vec<_> = texts
        .iter()
        .map(|text| json!({ "message": text }))
        .collect();
    for body in [json!({ "messages": texts }), json!(texts)] {
        let answer = server.ask(&post("/messages/batch", &body)).await;
        assert_eq!(results(&answer), stored);
        assert_eq!(answer.field("durability"), Some("os"));
    }
    assert_eq!(server.store.writes(), 1000);
    for body in [json!({ "digests": digests, "x": [] }), json!(digests)] {
        let answer = server.ask(&post("/messages/lookup", &body)).await;
        assert_eq!(results(&answer), found);
        assert_eq!(answer.field("durability"), None);
    }
    for path in [
        "/messages/batch",
        "/messages/lookup",
        "/messages/lookup?missing",
    ] {
        assert_eq!(results(&server.ask(&post(path, &json!([]))).await).len(), 0);
    }
    // Without a type, as curl does.
    let body = json!({ "messages": ["a"] }).to_string();
    let form =
        Ask::post("/messages/batch").field("content-type", "application/x-www-form-urlencoded");
    for ask in [Ask::post("/messages/batch"), form] {
        assert_eq!(results(&server.ask(&ask.body(&body)).await).len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_its_place() {
    let server = TestServer::start();
    server.publish("a").await;
    let digests = [
        digest("a"),
        digest("b"),
        "foo".into(),
        digest("a").to_uppercase(),
    ];
    let missing = |index: usize| json!({ "error": "Message not found.", "type": "no-such-message", "index": index });
    let found = json!({ "message": "a" });
    let no_digest = |index: usize| json!({ "error": "This is no digest, which has 64 hexadecimal digits and nothing else.", "type": "no-such-message", "index": index });
    let answer = server.ask(&look_up(&digests)).await;
    assert_eq!(
        results(&answer),
        [found.clone(), missing(1), no_digest(2), found]
    );
    let ask = post("/messages/lookup?missing", &json!({ "digests": digests }));
    let expected = [json!({ "digest": digest("b") }), no_digest(2)];
    assert_eq!(results(&server.ask(&ask).await), expected);
}

#[tokio::test]
async fn a_body_that_is_no_array_of_strings_is_refused_and_nothing_is_done() {
    let server = TestServer::start();
    for body in [
        json!({ "messages": ["a", 1] }),
        json!({ "messages": "a" }),
        json!({ "message": "a" }),
        json!({ "digests": ["a"] }),
        json!([["a"]]),
        json!([{ "message": "a" }]),
        json!("a"),
    ] {
        let answer = server.ask(&post("/messages/batch", &body)).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    for body in ["[\"a\"", "[\"a\"] x", "[\"\\ud83d\"]", "\u{feff}[\"a\"]x"] {
        let ask = Ask::post("/messages/batch").field("content-type", "application/json");
        assert_eq!(server.ask(&ask.body(body)).await.status, 400, "{body}");
    }
    // There, an array is no message.
    for path in ["/messages", "/"] {
        for body in [json!(["a"]), json!({ "messages": ["a"] })] {
            let answer = server.ask(&post(path, &body)).await;
            assert_eq!(answer.status, 400, "{path}");
            let is_pointed = answer.error().contains("are for /messages/batch");
            assert_eq!(is_pointed, body.is_array(), "{answer:?}");
        }
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn an_array_has_so_many_elements_and_bytes_and_not_one_more() {
    let server = TestServer::start();
    let texts = vec!["a"; ELEMENTS_MAX + 1];
    let answer = server.ask(&publish(&texts[1..])).await;
    assert_eq!(results(&answer).len(), ELEMENTS_MAX);
    let answer = server.ask(&publish(&texts)).await;
    assert_eq!(answer.status, 413);
    assert!(
        answer.error().contains("more than 10000 elements"),
        "{answer:?}"
    );

    let server = TestServer::with(|limits| limits.body.bytes_max = 100);
    for (path, bytes) in [("/messages/batch", 96), ("/messages/lookup", 96)] {
        let ask = |bytes: usize| post(path, &json!(["x".repeat(bytes)]));
        assert_eq!(results(&server.ask(&ask(bytes)).await).len(), 1, "{path}");
        let refused = server.ask(&ask(bytes + 1)).await;
        assert_eq!(refused.status, 413, "{path}");
        for part in ["--body-max", "application/x-ndjson"] {
            assert!(refused.error().contains(part), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_stated_digest_is_checked_before_anything_is_stored() {
    let server = TestServer::start();
    let field = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let answer = server
        .ask(&publish(&["a"]).field("content-digest", field))
        .await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(server.store.writes(), 0);
    let field = "sha-256=:T1PNoYwrqgwDVLtfmj7L5e0Sq02OEbqHPC8RFhICuUU=:";
    let right = post("/messages/batch", &json!([])).field("content-digest", field);
    assert_eq!(results(&server.ask(&right).await).len(), 0);
}

#[tokio::test]
async fn each_element_counts_as_a_request_and_the_results_end_where_the_rate_does() {
    let rate = || Some("16/h".parse().unwrap());
    for (path, one) in [
        ("/messages/batch", Ask::publish("a")),
        (
            "/messages/lookup",
            Ask::get(format!("/messages/{}", digest("a"))),
        ),
    ] {
        let access = Settings {
            read_rate: rate(),
            write_rate: rate(),
            ..Settings::default()
        };
        let server = TestServer::guarded(&Arc::new(Access::new(access).unwrap()));
        let mut client = server.connect(Protocol::Http2).await;
        // Four may come at once. Of an empty one the request is one.
        for (elements, answered) in [(0, 0), (1, 1), (3, 2)] {
            let ask = post(path, &json!(vec!["a"; elements]));
            let mut results = results(&client.ask(&ask).await);
            if elements > answered {
                let last = results.pop().unwrap();
                assert_eq!(
                    (&last["type"], &last["status"]),
                    (&json!("rate"), &json!(429))
                );
                assert_eq!(last["index"], 2);
                let seconds = last["retry_after"].as_u64().unwrap();
                assert!((200..=225).contains(&seconds), "{last}");
            }
            assert_eq!(results.len(), answered, "{path}");
        }
        for ask in [one, post(path, &json!(["a"]))] {
            assert_eq!(client.ask(&ask).await.status, 429, "{path}");
        }
    }
}

#[tokio::test]
async fn large_messages_are_answered_within_the_room_of_a_batch() {
    let server = TestServer::with(|limits| limits.batch.answer_bytes_max = 64 << 10);
    let text = "\u{1}".repeat(1 << 17);
    let answer = server.ask(&publish(&[&text])).await;
    assert_eq!(results(&answer).len(), 1);
    let answer = server.ask(&look_up(&vec![digest(&text); 20])).await;
    let results = results(&answer);
    assert!(results.len() == 20 && results.iter().all(|result| result["message"] == text));
}

#[tokio::test]
async fn an_array_fits_beside_its_batch_however_little_room_a_client_has() {
    // A share is half of that.
    let server = TestServer::with(|limits| {
        limits.body.bytes_max = 1 << 20;
        limits.body.all_large_bytes_max = 3 << 20;
        limits.room_timeout = milliseconds(100);
    });
    let texts: Vec<_> = (0..100)
        .map(|number| format!("{number} {}", "x".repeat(10_000)))
        .collect();
    let digests: Vec<_> = texts.iter().map(|text| digest(text)).collect();
    for _ in 0..3 {
        assert_eq!(results(&server.ask(&publish(&texts)).await).len(), 100);
        // Ten times what one client has room for.
        let many: Vec<_> = digests.iter().cycle().take(1000).cloned().collect();
        let answer = server.ask(&look_up(&many)).await;
        assert_eq!(results(&answer).len(), many.len());
    }
}

#[tokio::test]
async fn arrays_and_lines_share_the_slots_of_batches() {
    let server = TestServer::with(|limits| {
        limits.batch.batches_max = 3;
        limits.room_timeout = milliseconds(100);
    });
    let mut client = server.connect(Protocol::Http2).await;
    let mut batches = Vec::new();
    for _ in 0..2 {
        let mut batch = client.begin_lines(&crate::batch::publish(""));
        batch.send("{\"message\": \"a\"}\n");
        assert!(batch.line().await.is_some());
        batches.push(batch);
    }
    assert_eq!(server.ask(&publish(&["b"])).await.status, 503);
    batches.clear();
    until("the end of a batch", async || {
        server.ask(&publish(&["b"])).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn the_path_of_batches_takes_lines_too_and_is_no_message() {
    let server = TestServer::start();
    let lines = Ask::post("/messages/batch")
        .field("content-type", "application/x-ndjson")
        .body("{\"message\": \"a\"}\n");
    let answer = server.ask(&lines).await;
    assert_eq!(
        answer.text(),
        format!("{{\"digest\": \"{}\"}}\n", digest("a"))
    );
    for method in ["GET", "PUT", "DELETE"] {
        let answer = server.ask(&Ask::new(method, "/messages/batch")).await;
        assert_eq!(answer.field("allow"), Some("POST"), "{method}");
    }
}
