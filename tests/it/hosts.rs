//! Which hosts the service answers to: what a page can do that has a name of its own lead here, and what an
//! operator can list. The grammar of a Host is tested where it is read.

use std::path::PathBuf;
use std::sync::Arc;

use digestd::access::hosts::Hosts;
use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::message::Message;

use crate::process::{Client, Digestd, Launch, address_in};
use crate::support::{Answer, Ask, FOO, Protocol, TestServer};

const REFUSAL: &str = "The request is for the host evil.example, which this service does not answer to; \
    --host NAME makes it answer.";

/// Answers to the `listed` names, or on loopback to few.
fn answering_to(listed: &[&str], settings: Settings) -> TestServer {
    let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
    let hosts = Hosts::new(listed, Some("machine".parse().unwrap()));
    let settings = Settings { hosts, ..settings };
    TestServer::guarded(&Arc::new(Access::new(settings).unwrap()))
}

/// As a browser asks for a page of `evil.example`, which has that name lead here.
fn rebound(server: &TestServer, ask: Ask) -> Ask {
    let host = format!("evil.example:{}", server.address.port());
    ask.host(&host)
        .field("origin", &format!("http://{host}"))
        .field("sec-fetch-site", "same-origin")
}

#[tokio::test]
async fn a_page_that_has_its_name_lead_to_loopback_reads_and_writes_nothing() {
    let server = answering_to(&[], Settings::default());
    server.service.publish(Message::new("foo")).await.unwrap();
    let message = format!("/messages/{FOO}");
    let writes = server.store.writes();
    for ask in [
        Ask::publish("bar"),
        Ask::publish_json("{\"message\": \"bar\"}"),
        Ask::put(&message, "foo"),
        Ask::new("DELETE", &message),
        Ask::get(&message),
        Ask::head(&message),
        Ask::get("/messages"),
        Ask::post("/messages/lookup").body(format!("\"{FOO}\"\n")),
        Ask::get("/"),
        Ask::get("/docs"),
        Ask::get("/metrics"),
        Ask::get("/livez"),
        Ask::get("/readyz?verbose"),
        Ask::get("/nothing"),
        Ask::new("OPTIONS", "/messages").field("access-control-request-method", "POST"),
        Ask::new("PATCH", "/"),
    ] {
        let answer = server.ask(&rebound(&server, ask.clone())).await;
        assert_eq!(answer.status, 421, "{ask:?}");
        if !answer.body.is_empty() {
            assert_eq!(answer.error(), REFUSAL, "{ask:?}");
        }
    }
    assert_eq!(server.store.writes(), writes);
    assert!(!server.service.holds(&Digest::of(b"bar")).unwrap());
    // What it may not do under its name it could do under none.
    assert_eq!(server.ask(&Ask::get(&message)).await.status, 200);
}

#[tokio::test]
async fn a_refused_write_with_a_small_body_keeps_its_connection() {
    let server = answering_to(&[], Settings::default());
    let mut client = server.connect(Protocol::Http1).await;
    let refused = rebound(&server, Ask::publish("bar"));
    assert_eq!(client.ask(&refused).await.status, 421);
    assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
}

#[tokio::test]
async fn names_that_no_page_can_have_lead_here_are_answered_to_with_any_port() {
    let server = answering_to(&[], Settings::default());
    for host in [
        "localhost",
        "LocalHost:1",
        "localhost.:8080",
        "service.localhost",
        "127.0.0.1:65535",
        "192.0.2.1",
        "[::1]:443",
        "machine",
        "MACHINE.:80",
    ] {
        let ask = Ask::get("/livez").host(host);
        assert_eq!(server.ask(&ask).await.status, 200, "{host}");
    }
    for host in [
        "machine.evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
    ] {
        let ask = Ask::get("/livez").host(host);
        assert_eq!(server.ask(&ask).await.status, 421, "{host}");
    }
}

#[tokio::test]
async fn a_listed_name_is_answered_to_and_with_a_star_every_one() {
    for (listed, host, status) in [
        (&["digests.example", "wiki"][..], "digests.example", 200),
        (&["digests.example", "wiki"], "WIKI.:8080", 200),
        (&["digests.example"], "localhost", 200),
        (&["digests.example"], "192.0.2.1:80", 200),
        (&["digests.example"], "evil.example", 421),
        (&["*"], "evil.example", 200),
        (&["digests.example", "*"], "evil.example", 200),
    ] {
        let server = answering_to(listed, Settings::default());
        let ask = Ask::get("/livez").host(host);
        assert_eq!(server.ask(&ask).await.status, status, "{listed:?} {host}");
    }
}

fn with_tokens(public_read: bool) -> (tempfile::TempDir, Settings) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("tokens");
    let line = format!("reader read {}\n", Digest::of(b"reader"));
    std::fs::write(&path, line).unwrap();
    let settings = Settings {
        tokens: Some(path),
        public_read,
        ..Settings::default()
    };
    (directory, settings)
}

#[tokio::test]
async fn where_everything_needs_a_token_any_host_passes_unless_some_are_listed() {
    for (listed, public_read, status) in [
        (&[][..], false, 404),
        (&[], true, 421),
        (&["digests.example"], false, 421),
    ] {
        let (_directory, settings) = with_tokens(public_read);
        let server = answering_to(listed, settings);
        let ask = Ask::get(format!("/messages/{FOO}"))
            .host("evil.example")
            .field("authorization", "Bearer reader");
        assert_eq!(server.ask(&ask).await.status, status, "{listed:?}");
    }
}

#[tokio::test]
async fn a_proxy_on_loopback_is_asked_like_a_browser() {
    let settings = Settings {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..Settings::default()
    };
    let server = answering_to(&[], settings);
    let ask = Ask::get("/livez").field("x-forwarded-for", "192.0.2.1");
    assert_eq!(server.ask(&ask).await.status, 200);
    assert_eq!(server.ask(&ask.host("evil.example")).await.status, 421);
}

/// Sends the head of a request over HTTP/1.
async fn ask_raw(server: &TestServer, head: &str) -> Answer {
    let mut client = server.connect_raw().await;
    client.send(format!("{head}\r\n\r\n")).await;
    client.answer().await
}

#[tokio::test]
async fn the_host_of_an_absolute_target_counts_and_not_the_field() {
    let server = answering_to(&[], Settings::default());
    for (head, status) in [
        (
            "GET http://evil.example/livez HTTP/1.1\r\nHost: localhost",
            421,
        ),
        (
            "GET http://localhost/livez HTTP/1.1\r\nHost: evil.example",
            200,
        ),
        ("GET http://localhost/livez HTTP/1.1\r\nHost: a b", 400),
        (
            "GET http://user@localhost/livez HTTP/1.1\r\nHost: localhost",
            400,
        ),
    ] {
        assert_eq!(ask_raw(&server, head).await.status, status, "{head}");
    }
}

#[tokio::test]
async fn a_request_that_names_no_host_is_answered() {
    let server = answering_to(&["digests.example"], Settings::default());
    for head in [
        "GET /livez HTTP/1.0",
        "GET /livez HTTP/1.1\r\nHost:",
        "GET /livez HTTP/1.1\r\nHost: :8080",
    ] {
        assert_eq!(ask_raw(&server, head).await.status, 200, "{head}");
    }
}

#[tokio::test]
async fn a_host_that_is_none_is_refused_wherever_it_stands_and_not_repeated() {
    // Any name passes here, and no path or token is looked at before.
    let (_directory, settings) = with_tokens(false);
    let server = TestServer::guarded(&Arc::new(Access::new(settings).unwrap()));
    for host in ["a b", "user@localhost", "a:b", "[::1", "::1", "a/b", "ä"] {
        for line in ["GET /livez HTTP/1.1", "POST /messages HTTP/1.0"] {
            let answer = ask_raw(&server, &format!("{line}\r\nHost: {host}")).await;
            assert_eq!(answer.status, 400, "{host}");
            let error = "The Host is not a name or an address, perhaps with a port.";
            assert_eq!(answer.error(), error, "{host}");
        }
    }
    for host in ["my_service:8080", "[::1]", "xn--bcher-kva.example"] {
        let answer = ask_raw(&server, &format!("GET /livez HTTP/1.1\r\nHost: {host}")).await;
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[tokio::test]
async fn in_http_2_the_two_places_of_a_host_agree() {
    let server = TestServer::start();
    for (authority, host, status) in [
        ("a", "a", 200),
        ("a:80", "A:80", 200),
        ("a", "evil", 400),
        ("a:80", "a:81", 400),
        ("a", "", 400),
        ("user@a", "a", 400),
    ] {
        let ask = Ask::get("/livez").host(authority).field("host", host);
        let answer = server.ask_over(Protocol::Http2, &ask).await;
        assert_eq!(answer.status, status, "{authority} {host}");
    }
}

// The real binary.

/// The status of a request for this host.
fn status_for(client: &mut Client, path: &str, host: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.send(request.as_bytes()).unwrap();
    client.answer().unwrap().status
}

fn statuses(server: &Digestd, hosts: &[&str]) -> Vec<u16> {
    let mut client = server.client();
    let status = |host: &&str| status_for(&mut client, "/livez", host);
    hosts.iter().map(status).collect()
}

#[test]
fn without_options_a_server_answers_to_localhost_addresses_and_its_machine() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path()).option("--admin-listen", "127.0.0.1:0");
    let server = launch.start();
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_str().unwrap();
    let hosts = ["localhost:1", "10.1.2.3", machine, "evil.example"];
    assert_eq!(statuses(&server, &hosts), [200, 200, 200, 421]);
    let admin = address_in(&server.wait_for("metrics on http://"));
    let mut admin = Client::connect(admin).unwrap();
    for (host, status) in [("localhost", 200), ("evil.example", 421)] {
        assert_eq!(status_for(&mut admin, "/metrics", host), status, "{host}");
    }
}

#[test]
fn a_server_that_others_reach_answers_to_any_name_unless_some_are_listed() {
    let hosts = ["digests.example", "wiki", "evil.example", "192.0.2.1"];
    for (listen, listed, expected) in [
        ("0.0.0.0:0", None, [200, 200, 200, 200]),
        (
            "0.0.0.0:0",
            Some("digests.example,wiki"),
            [200, 200, 421, 200],
        ),
        (
            "127.0.0.1:0",
            Some("digests.example,wiki"),
            [200, 200, 421, 200],
        ),
        ("127.0.0.1:0", Some("*"), [200, 200, 200, 200]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut launch = Launch::new(directory.path()).option("--listen", listen);
        if let Some(listed) = listed {
            launch = launch.env("DIGESTD_HOST", listed);
        }
        let server = launch.start();
        assert_eq!(statuses(&server, &hosts), expected, "{listen} {listed:?}");
    }
}

#[test]
fn what_is_no_host_name_is_an_error_of_usage() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Launch::new(directory.path())
        .option("--host", "http://a")
        .command();
    let outcome = crate::process::run(&mut command, b"");
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("without scheme and port"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_refused_host_is_named_in_the_answer_and_in_the_log() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--log-format", "json")
        .start();
    let endless = "a".repeat(300);
    let cut = format!("{}…", "a".repeat(255));
    for (host, shown) in [
        ("evil.example", "evil.example"),
        ("Evil.example:81", "Evil.example"),
        ("a'b;$(x)%41", "a%27b%3B%24%28x%29%2541"),
        (&endless, &cut),
    ] {
        let mut client = server.client();
        let request = format!("GET /messages HTTP/1.1\r\nHost: {host}\r\n\r\n");
        client.send(request.as_bytes()).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 421, "{host}");
        let json: serde_json::Value = serde_json::from_str(answer.text()).unwrap();
        let said = format!("The request is for the host {shown}, which");
        assert!(json["error"].as_str().unwrap().starts_with(&said), "{json}");
        let line = server.wait_for("\"status\":421");
        assert!(!line.is_empty());
    }
    server.client().get(&Digest::of(b"none")).unwrap();
    let log = server.stop();
    for line in log.lines().filter(|line| line.contains("\"status\":")) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["status"] == 421, line["host"].is_string(), "{line}");
    }
    assert!(log.contains("\"host\":\"evil.example\""), "{log}");
    assert!(log.contains(&format!("\"host\":\"{cut}\"")), "{log}");
}
