//! Problem documents (RFC 9457).

use serde_json::Value;

use crate::support::{Ask, FOO, TestServer};

async fn problem(server: &TestServer, ask: &Ask) -> Value {
    let ask = ask.clone().field("accept", "application/problem+json");
    let answer = server.ask(&ask).await;
    assert_eq!(
        answer.field("content-type"),
        Some("application/problem+json")
    );
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    let members: Vec<_> = problem.as_object().unwrap().keys().collect();
    assert_eq!(members, ["detail", "status", "title", "type"]);
    assert_eq!(problem["status"], answer.status);
    problem
}

#[tokio::test]
async fn each_cause_has_a_type_of_its_own() {
    let server = TestServer::start();
    let path = format!("/messages/{FOO}");
    for (ask, name) in [
        (Ask::get(&path), "no-such-message"),
        (Ask::get("/nowhere"), "no-such-path"),
        (Ask::new("PATCH", &path), "method-not-allowed"),
        (Ask::publish("foo").field("origin", "null"), "other-site"),
        (Ask::new("DELETE", &path), "closed"),
        (Ask::put(&path, "bar"), "other-digest"),
        (Ask::publish_json("{"), "not-json"),
        (Ask::publish_json("[]"), "not-a-message"),
        (Ask::publish(b"\xff"), "not-utf-8"),
        (Ask::publish("x".repeat(2 << 20)), "body-too-large"),
        (
            Ask::publish("foo").field("content-digest", "sha-256"),
            "digest-field",
        ),
        (
            Ask::publish("foo").field("content-encoding", "gzip"),
            "content-encoding",
        ),
    ] {
        let problem = problem(&server, &ask).await;
        let kind = format!("/openapi.yaml#/x-problems/{name}");
        assert_eq!(problem["type"], kind, "{ask:?}");
    }
}

#[tokio::test]
async fn a_problem_says_in_detail_what_the_plain_error_says() {
    let server = TestServer::start();
    let ask = Ask::publish_json("[]");
    let error = server.ask(&ask).await.error();
    assert_eq!(problem(&server, &ask).await["detail"], error);
}

#[tokio::test]
async fn a_problem_is_laid_out_for_people() {
    let server = TestServer::start();
    let ask = Ask::get("/messages/foo").field("accept", "application/problem+json");
    assert_eq!(
        server.ask(&ask).await.text(),
        "{\n  \"type\": \"/openapi.yaml#/x-problems/no-such-message\",\n  \
         \"title\": \"Message not found\",\n  \"detail\": \"Message not found.\",\n  \
         \"status\": 404\n}\n"
    );
}

#[tokio::test]
async fn what_is_no_error_is_no_problem() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    let ask = Ask::get(path).field("accept", "application/problem+json");
    let answer = server.ask(&ask).await;
    assert_eq!(answer.field("content-type"), Some("application/json"));
}
