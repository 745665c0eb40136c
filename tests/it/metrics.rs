//! What `/metrics` tells, and where.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use digestd::access::hosts::Hosts;
use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::store::{Fault, StoreError};

use crate::process::{Client, Digestd, Launch, address_in};
use crate::support::{Ask, FOO, Protocol, TestServer, until};

/// The value of a series as it is printed, if there is one.
fn printed<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

/// The whole part of the value of a series, 0 while there is none.
fn value(text: &str, series: &str) -> u64 {
    let whole = printed(text, series).and_then(|value| value.split('.').next());
    whole.map_or(0, |value| value.parse().unwrap())
}

fn requests(method: &str, route: &str, status: u16) -> String {
    format!(
        "http_server_request_duration_seconds_count{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
    )
}

fn size_sum(direction: &str, method: &str, route: &str, status: u16) -> String {
    format!(
        "http_server_{direction}_body_size_bytes_sum{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
    )
}

async fn scrape(server: &TestServer) -> String {
    let answer = server
        .ask_over(Protocol::Http1, &Ask::get("/metrics"))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.field("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    answer.text().to_owned()
}

#[tokio::test]
async fn requests_are_counted_by_method_route_and_status() {
    let server = TestServer::start();
    let path = server.publish("foo").await;
    for _ in 0..2 {
        server.ask_over(Protocol::Http1, &Ask::get(&path)).await;
    }
    server.ask_over(Protocol::Http2, &Ask::head(&path)).await;
    server
        .ask_over(Protocol::Http1, &Ask::get("/messages/quokka"))
        .await;
    server.ask_over(Protocol::Http1, &Ask::get("/quokka")).await;
    server
        .ask_over(Protocol::Http1, &Ask::new("BREW", "/quokka"))
        .await;
    let text = scrape(&server).await;
    for (method, route, status, count) in [
        ("POST", "/messages", 201, 1),
        ("GET", "/messages/{digest}", 200, 2),
        ("HEAD", "/messages/{digest}", 200, 1),
        ("GET", "/messages/{digest}", 404, 1),
        ("GET", "none", 404, 1),
        ("_OTHER", "none", 404, 1),
    ] {
        let series = requests(method, route, status);
        assert_eq!(value(&text, &series), count, "{series}\n{text}");
    }
    // What a client sends never becomes a label.
    assert!(!text.contains("quokka") && !text.contains("BREW"), "{text}");
    assert_eq!(
        value(&text, &size_sum("request", "POST", "/messages", 201)),
        3
    );
    let answer = "{\n  \"digest\": \"\"\n}\n".len() + 64;
    let answered = value(&text, &size_sum("response", "POST", "/messages", 201));
    assert_eq!(answered, answer as u64);
}

#[tokio::test]
async fn every_path_is_counted_under_one_of_few_names() {
    let server = TestServer::start();
    let names = [
        ("PUT", "/messages/quokka", "/messages/{digest}", 404),
        ("POST", "/messages/lookup", "/messages/lookup", 400),
        ("POST", "/messages/batch", "/messages/batch", 400),
        (
            "GET",
            "/.well-known/ni/sha-256/quokka",
            "/.well-known/ni/sha-256/{digest}",
            404,
        ),
        ("GET", "/docs", "/docs", 200),
        ("GET", "/openapi.json", "/openapi.{format}", 200),
        ("GET", "/pages/quokka", "/pages/{name}", 404),
        ("GET", "/", "/", 200),
        ("GET", "/healthz", "/readyz", 200),
    ];
    for (method, path, _, status) in names {
        let answer = server
            .ask_over(Protocol::Http1, &Ask::new(method, path))
            .await;
        assert_eq!(answer.status, status, "{path}");
    }
    let text = scrape(&server).await;
    for (method, _, route, status) in names {
        assert_eq!(value(&text, &requests(method, route, status)), 1, "{text}");
    }
    assert!(!text.contains("quokka"), "{text}");
}

#[tokio::test]
async fn a_batch_is_one_request_with_all_its_bytes_and_as_many_puts_as_lines() {
    let server = TestServer::start();
    let batch = "{\"message\": \"foo\"}\n{\"message\": \"foo\"}\n{\"text\": \"bar\"}\n";
    let ask = Ask::new("POST", "/messages").field("content-type", "application/x-ndjson");
    let answer = server.ask_over(Protocol::Http1, &ask.body(batch)).await;
    let text = scrape(&server).await;
    for (direction, bytes) in [("request", batch.len()), ("response", answer.body.len())] {
        let series = size_sum(direction, "POST", "/messages", 200);
        assert_eq!(value(&text, &series), bytes as u64, "{text}");
    }
    for (result, count) in [("stored", 1), ("known", 1)] {
        let series = format!("digestd_puts_total{{result=\"{result}\"}}");
        assert_eq!(value(&text, &series), count, "{text}");
    }
}

#[tokio::test]
async fn an_export_is_one_request_with_all_its_bytes() {
    let server = TestServer::exporting().started();
    for text in ["foo", "bar"] {
        server.publish(text).await;
    }
    let answer = server
        .ask_over(Protocol::Http1, &Ask::get("/messages"))
        .await;
    assert_eq!(answer.text().lines().count(), 2);
    let text = scrape(&server).await;
    let series = size_sum("response", "GET", "/messages", 200);
    assert_eq!(value(&text, &series), answer.body.len() as u64, "{text}");
}

#[tokio::test]
async fn requests_under_way_are_counted_until_they_end() {
    let active = "http_server_active_requests";
    let server = TestServer::start();
    let mut client = server.connect(Protocol::Http1).await;
    let begun = client.begin(&Ask::publish("").field("content-length", "3"));
    begun.send("f");
    server.has_seen_all().await;
    // The scrape is one itself.
    assert_eq!(value(&scrape(&server).await, active), 2);
    begun.send("oo");
    assert_eq!(begun.finish().await.status, 201);
    assert_eq!(value(&scrape(&server).await, active), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_before_its_answer_is_counted_apart() {
    let server = TestServer::start();
    server.store.set_fault(Some(Fault::Stall));
    for protocol in Protocol::ALL {
        let mut client = server.connect(protocol).await;
        let mut begun = client.begin(&Ask::publish(""));
        begun.send("foo");
        begun.end();
        until("the write", async || server.store.stalled() == 1).await;
        begun.abandon().await;
        drop(client);
        until("the end of the request", async || {
            let text = scrape(&server).await;
            value(&text, "http_server_active_requests") == 1
        })
        .await;
        server.store.set_fault(Some(Fault::Stall));
    }
    let text = scrape(&server).await;
    assert_eq!(value(&text, &requests("POST", "/messages", 499)), 2);
}

#[tokio::test]
async fn puts_are_counted_by_how_they_ended() {
    let server = TestServer::start();
    for text in ["foo", "foo", "bar"] {
        server.publish(text).await;
    }
    let text = scrape(&server).await;
    assert_eq!(value(&text, "digestd_puts_total{result=\"stored\"}"), 2);
    assert_eq!(value(&text, "digestd_puts_total{result=\"known\"}"), 1);
    assert_eq!(value(&text, "digestd_store_messages"), 2);
    assert_eq!(value(&text, "digestd_ready{scope=\"write\"}"), 1);
}

#[tokio::test]
async fn metrics_are_there_before_the_store_is() {
    let server = TestServer::starting(|_| {});
    let text = scrape(&server).await;
    assert!(text.contains("digestd_ready{scope=\"read\"} 0\n"), "{text}");
    assert!(!text.contains("digestd_store_messages"), "{text}");
}

/// How many requests were refused for this cause.
async fn refused(server: &TestServer, cause: &str) -> u64 {
    let series = format!("digestd_requests_refused_total{{cause=\"{cause}\"}}");
    let text = scrape(server).await;
    assert!(printed(&text, &series).is_some(), "{cause}\n{text}");
    value(&text, &series)
}

/// Asks, and looks whether that was counted under this cause, once.
async fn is_refused(server: &TestServer, ask: &Ask, status: u16, cause: &str) {
    assert_eq!(refused(server, cause).await, 0, "{cause}");
    let answer = server.ask_over(Protocol::Http1, ask).await;
    assert_eq!(answer.status, status, "{cause}: {answer:?}");
    assert_eq!(refused(server, cause).await, 1, "{cause}");
}

fn lines(path: &str) -> Ask {
    Ask::post(path).field("content-type", "application/x-ndjson")
}

#[tokio::test]
async fn requests_of_clients_that_are_kept_out_are_counted_by_cause() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    let line = |name: &str, scope| format!("{name} {scope} {}\n", Digest::of(name.as_bytes()));
    std::fs::write(&tokens, [line("r", "read"), line("m", "metrics")].concat()).unwrap();
    let guarded = |settings| TestServer::guarded(&Arc::new(Access::new(settings).unwrap()));
    let server = guarded(Settings {
        deny: vec!["192.0.2.1".parse().unwrap()],
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        hosts: Hosts::new(vec!["localhost".parse().unwrap()], None),
        write_rate: Some("8/h".parse().unwrap()),
        ..Settings::default()
    });
    let get = || Ask::get(format!("/messages/{FOO}"));
    let unclear = get().field("forwarded", "for=\"");
    let network = get().field("x-forwarded-for", "192.0.2.1");
    let other_site = Ask::publish("foo").field("origin", "null");
    let delete = Ask::new("DELETE", format!("/messages/{FOO}"));
    for (ask, status, cause) in [
        (unclear, 400, "unclear-client"),
        (network, 403, "network"),
        (other_site, 403, "other-site"),
        (delete.clone(), 403, "closed"),
        (Ask::publish("foo"), 429, "rate"),
        (get().host("evil.example"), 421, "other-host"),
    ] {
        is_refused(&server, &ask, status, cause).await;
    }

    let server = guarded(Settings {
        tokens: Some(tokens),
        ..Settings::default()
    });
    let with = |ask: Ask, token: &str| ask.field("authorization", &format!("Bearer {token}"));
    for ask in [get(), with(get(), "x"), with(delete, "r")] {
        server.ask_over(Protocol::Http1, &ask).await;
    }
    let scrape = with(Ask::get("/metrics"), "m");
    let answer = server.ask_over(Protocol::Http1, &scrape).await;
    for cause in ["no-token", "unknown-token", "scope"] {
        let series = format!("digestd_requests_refused_total{{cause=\"{cause}\"}}");
        assert_eq!(printed(answer.text(), &series), Some("1"), "{cause}");
    }
}

#[tokio::test]
async fn requests_for_which_there_is_no_room_are_counted_by_what_there_was_none_of() {
    let server = TestServer::with(|limits| {
        limits.body.all_small_bytes_max = 0;
        limits.batch.batches_max = 0;
        limits.batch.look_ups_max = 0;
        limits.room_timeout = Duration::ZERO;
    });
    for (ask, cause) in [
        (Ask::publish("foo"), "body-room"),
        (lines("/messages"), "batch-room"),
        (lines("/messages/lookup"), "look-up-room"),
    ] {
        is_refused(&server, &ask, 503, cause).await;
    }

    // A stream fits into the half of it that one client may have, but neither a large answer beside it nor a
    // stream with a large head.
    let server = TestServer::with(|limits| {
        limits.answers_bytes_max = 32_000;
        limits.room_timeout = Duration::ZERO;
    });
    let path = server.publish(&"x".repeat(60_000)).await;
    let answer = server.ask_over(Protocol::Http2, &Ask::get(path)).await;
    assert_eq!(answer.status, 503);
    assert_eq!(refused(&server, "answer-room").await, 1);
    let large = Ask::get("/livez").field("x-large", &"x".repeat(15_000));
    let mut client = server.connect(Protocol::Http2).await;
    client.try_ask(&large).await.unwrap_err();
    assert_eq!(refused(&server, "stream-room").await, 1);

    let server = TestServer::exporting_with(|limits| {
        limits.exports_max = 0;
        limits.room_timeout = Duration::ZERO;
    })
    .started();
    is_refused(&server, &Ask::get("/messages"), 503, "export-room").await;
}

#[tokio::test]
async fn requests_that_the_store_does_not_take_are_counted_by_why() {
    let server = TestServer::start();
    for (error, status, cause) in [
        (StoreError::Busy, 503, "write-room"),
        (StoreError::Full, 507, "disk-full"),
        (StoreError::Failed, 503, "store-failed"),
    ] {
        server.store.set_fault(Some(Fault::Puts(error)));
        is_refused(&server, &Ask::publish(cause), status, cause).await;
    }
    let server = TestServer::with(|limits| {
        limits.writes_max = 0;
        limits.room_timeout = Duration::ZERO;
    });
    is_refused(&server, &Ask::publish("foo"), 503, "write-room").await;
    let server = TestServer::starting(|limits| limits.opening_timeout = Duration::ZERO);
    is_refused(&server, &Ask::publish("foo"), 503, "not-ready").await;
}

#[tokio::test]
async fn requests_that_are_wrong_are_not_counted_as_refused() {
    let server = TestServer::start();
    for ask in [
        Ask::get("/nowhere"),
        Ask::get(format!("/messages/{FOO}")),
        Ask::publish_json("{"),
        Ask::put(format!("/messages/{FOO}"), "bar"),
    ] {
        server.ask_over(Protocol::Http1, &ask).await;
    }
    let text = scrape(&server).await;
    let mut series = text
        .lines()
        .filter(|line| line.starts_with("digestd_requests_refused_total"));
    assert!(series.all(|line| line.ends_with(" 0")), "{text}");
}

fn metrics(client: &mut Client) -> String {
    let answer = client.ask("GET", "/metrics", &[], b"").unwrap();
    assert_eq!(answer.status, 200);
    answer.text().to_owned()
}

#[test]
fn commits_the_disk_and_the_process_are_told_of() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let mut client = server.client();
    client.publish("foo").unwrap();
    let text = metrics(&mut client);
    for series in [
        "digestd_commit_group_size_count",
        "digestd_sync_duration_seconds_count",
        "digestd_store_messages",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "digestd_disk_free_bytes",
        "digestd_store_disk_bytes",
        concat!(
            "digestd_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"}"
        ),
    ] {
        let value = printed(&text, series).expect(series);
        assert!(value.parse::<f64>().unwrap() > 0.0, "{series}\n{text}");
    }
    assert_eq!(value(&text, "digestd_commit_bytes_total"), 3);
    for series in [
        "digestd_integrity_failures_total 0",
        "digestd_log_lines_dropped_total 0",
        "digestd_limited_clients 0",
        "digestd_ended_for_others_total{room=\"answers\"} 0",
    ] {
        assert!(text.contains(&format!("\n{series}\n")), "{series}\n{text}");
    }
}

#[test]
fn an_address_for_metrics_takes_them_from_where_messages_are() {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).option("--admin-listen", "127.0.0.1:0");
    let server = launch.start();
    let line = server.wait_for("metrics on http://");
    let mut admin = Client::connect(address_in(&line)).unwrap();
    let mut public = server.client();
    let digest = public.publish("foo").unwrap();
    assert_eq!(value(&metrics(&mut admin), "digestd_store_messages"), 1);
    assert_eq!(public.ask("GET", "/metrics", &[], b"").unwrap().status, 404);
    for path in ["/livez", "/readyz", "/readyz/write", "/healthz"] {
        for client in [&mut admin, &mut public] {
            assert_eq!(client.ask("GET", path, &[], b"").unwrap().status, 200);
        }
    }
    assert_eq!(admin.get(&digest).unwrap().status, 404);
    assert_eq!(admin.post("bar").unwrap().status, 404);
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--tls-listen", "127.0.0.1:0")
        .env("DIGESTD_TLS_SELF_SIGNED", "true")
        .start();
    let mut client = server.client();
    client.publish("foo").unwrap();
    let text = metrics(&mut client);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
#[ignore = "needs promtool"]
fn the_alert_rules_do_what_their_tests_say() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(&deploy)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_there_are() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let mut client = server.client();
    client.publish("foo").unwrap();
    let text = metrics(&mut client);
    let mut named = 0;
    for file in ["alerts.yaml", "dashboard.json"] {
        let rules = std::fs::read_to_string(deploy.join(file)).unwrap();
        let words = rules.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
        for word in words {
            let is_metric = ["digestd_", "http_server_", "process_"]
                .iter()
                .any(|start| word.starts_with(start));
            // There is one only where there is TLS.
            if is_metric && !word.starts_with("digestd_tls_") {
                named += 1;
                let is_there = |line: &str| {
                    line.strip_prefix(word)
                        .is_some_and(|rest| rest.starts_with(['{', ' ']))
                };
                assert!(text.lines().any(is_there), "{word} in {file}");
            }
        }
    }
    assert!(named > 10, "only {named} names found");
}
