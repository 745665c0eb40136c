//! Who may come in, over sockets: tokens for every route, networks, proxies and rates. Each answer is checked
//! as all are, see [`support`](crate::support).

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use digestd::access::hosts::Hosts;
use digestd::access::networks::{Client, Network};
use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::message::Message;
use serde_json::Value;

use crate::support::{Answer, Ask, FOO, Protocol, TestServer, connect_from, milliseconds};

const TOKENS: [(&str, &str); 5] = [
    ("reader", "read"),
    ("writer", "write"),
    ("deleter", "delete"),
    ("exporter", "export"),
    ("watcher", "metrics"),
];

/// Settings with a token for each scope, which is its name.
pub(crate) fn with_tokens(settings: Settings) -> Arc<Access> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let line =
        |(name, scope): (&str, &str)| format!("{name} {scope} {}\n", Digest::of(name.as_bytes()));
    fs::write(&path, TOKENS.map(line).concat()).unwrap();
    open(Settings {
        tokens: Some(path),
        ..settings
    })
}

fn open(settings: Settings) -> Arc<Access> {
    Arc::new(Access::new(settings).unwrap())
}

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Settings that believe this machine when it says for whom it speaks.
fn behind_a_proxy() -> Settings {
    Settings {
        trusted_proxies: networks(&["127.0.0.1"]),
        ..Settings::default()
    }
}

fn bearer(ask: Ask, token: &str) -> Ask {
    ask.field("authorization", &format!("Bearer {token}"))
}

const GET_FOO: &str = "GET /messages/2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae \
                       HTTP/1.1\r\nHost: a\r\n";

// Tokens.

/// A kind of request: its method and path, the token it needs, and its answer if it has that.
struct Route {
    method: &'static str,
    path: String,
    needs: Option<&'static str>,
    status: u16,
}

fn routes() -> Vec<Route> {
    let message = format!("/messages/{FOO}");
    let by_algorithm = format!("/messages/sha256:{FOO}");
    let by_name = "/.well-known/ni/sha-256/LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564".to_owned();
    let missing = format!("/messages/{}", Digest::of(b"missing"));
    [
        ("GET", "/livez", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/readyz/write", None, 200),
        ("GET", "/healthz", None, 200),
        ("HEAD", "/healthz", None, 200),
        ("GET", "/", None, 200),
        ("HEAD", "/", None, 200),
        ("GET", &message, Some("reader"), 200),
        ("HEAD", &message, Some("reader"), 200),
        ("GET", &missing, Some("reader"), 404),
        ("GET", "/nothing", Some("reader"), 404),
        ("POST", "/messages", Some("writer"), 201),
        ("POST", "/messages/", Some("writer"), 201),
        ("POST", "/", Some("writer"), 201),
        ("POST", "/nothing", Some("writer"), 404),
        ("PATCH", "/messages", Some("writer"), 405),
        ("GET", "/metrics", Some("watcher"), 200),
        ("GET", "/messages", Some("exporter"), 405),
        ("DELETE", "/nothing", Some("writer"), 404),
        ("DELETE", "/messages", Some("writer"), 405),
        ("DELETE", "/messages/lookup", Some("writer"), 405),
        ("DELETE", &message, Some("deleter"), 204),
        ("DELETE", &by_algorithm, Some("deleter"), 204),
        ("DELETE", &by_name, Some("deleter"), 204),
        ("DELETE", &missing, Some("deleter"), 404),
        ("DELETE", "/messages/foo", Some("deleter"), 404),
    ]
    .map(|(method, path, needs, status)| Route {
        method,
        path: path.to_owned(),
        needs,
        status,
    })
    .into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    On,
    PublicRead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credential {
    None,
    Wrong,
    /// Good for anything but this.
    Other,
    Right,
}

fn expected(route: &Route, mode: Mode, credential: Credential) -> u16 {
    let is_open = match (mode, route.needs) {
        // Nobody was ever given leave to delete.
        (Mode::Off, Some("deleter")) => return 403,
        (_, None) | (Mode::Off, Some(_)) | (Mode::PublicRead, Some("reader")) => true,
        _ => false,
    };
    match credential {
        _ if is_open => route.status,
        Credential::None | Credential::Wrong => 401,
        Credential::Other => 403,
        Credential::Right => route.status,
    }
}

#[tokio::test]
async fn every_route_asks_for_the_token_it_needs_and_does_nothing_without() {
    let public = Settings {
        public_read: true,
        ..Settings::default()
    };
    for (mode, access) in [
        (Mode::Off, open(Settings::default())),
        (Mode::On, with_tokens(Settings::default())),
        (Mode::PublicRead, with_tokens(public)),
    ] {
        let server = TestServer::guarded(&access);
        store_foo(&server).await;
        for route in routes() {
            for credential in [
                Credential::None,
                Credential::Wrong,
                Credential::Other,
                Credential::Right,
            ] {
                let case = format!("{} {} {mode:?} {credential:?}", route.method, route.path);
                check_case(&server, &route, mode, credential, &case).await;
            }
        }
    }
}

async fn store_foo(server: &TestServer) {
    let message = digestd::message::Message::new("foo");
    server.service.publish(message).await.unwrap();
}

async fn check_case(
    server: &TestServer,
    route: &Route,
    mode: Mode,
    credential: Credential,
    case: &str,
) {
    let is_post = route.method == "POST";
    let mut ask = Ask::new(route.method, &route.path);
    if is_post {
        // A text of its own, so that storing it shows.
        ask = ask.field("content-type", "text/plain").body(case);
    }
    let right = route.needs.unwrap_or("reader");
    let mut names = TOKENS.map(|(name, _)| name).into_iter();
    let other = names.rfind(|name| *name != right).unwrap();
    ask = match credential {
        Credential::None => ask,
        Credential::Wrong => bearer(ask, "wrong"),
        Credential::Other => bearer(ask, other),
        Credential::Right => bearer(ask, right),
    };
    let is_deletion = route.method == "DELETE";
    let answer = if route.path == "/metrics" || is_deletion {
        // It counts the requests, or has nothing to delete any more: no two answers are the same.
        server.ask_over(Protocol::Http1, &ask).await
    } else {
        server.ask(&ask).await
    };
    assert_eq!(answer.status, expected(route, mode, credential), "{case}");
    let challenge = answer.field("www-authenticate").map(str::to_owned);
    let expected_challenge = match (answer.status, credential) {
        (401, Credential::None) => Some("Bearer realm=\"digestd\"".to_owned()),
        (401, _) => Some("Bearer realm=\"digestd\", error=\"invalid_token\"".to_owned()),
        (403, _) if mode != Mode::Off => {
            let (_, scope) = TOKENS.iter().find(|(name, _)| *name == right).unwrap();
            Some(format!(
                "Bearer realm=\"digestd\", error=\"insufficient_scope\", scope=\"{scope}\""
            ))
        }
        _ => None,
    };
    assert_eq!(challenge, expected_challenge, "{case}");

    let holds = |text: &str| server.service.holds(&Digest::of(text.as_bytes())).unwrap();
    assert_eq!(holds(case), is_post && answer.status == 201, "{case}");
    let is_deleted = is_deletion && answer.status == 204;
    assert_eq!(holds("foo"), !is_deleted, "{case}");
    if is_deleted {
        store_foo(server).await;
    }
}

#[tokio::test]
async fn two_tokens_or_another_scheme_are_no_token() {
    let server = TestServer::guarded(&with_tokens(Settings::default()));
    let get = || Ask::get(format!("/messages/{FOO}"));
    for ask in [
        bearer(bearer(get(), "reader"), "reader"),
        get().field("authorization", "Basic cmVhZGVy"),
        get().field("authorization", "reader"),
        get().field("authorization", "Bearer"),
        get().field("x-authorization", "Bearer reader"),
        Ask::get(format!("/messages/{FOO}?access_token=reader")),
    ] {
        assert_eq!(server.ask(&ask).await.status, 401, "{ask:?}");
    }
    assert_eq!(server.ask(&bearer(get(), "reader")).await.status, 404);
}

#[tokio::test]
async fn a_refused_write_keeps_its_connection_unless_its_body_is_large_or_was_not_sent() {
    let access = with_tokens(Settings::default());
    let server = TestServer::guarded_with(&access, |limits| limits.body.small_bytes_max = 100);
    for (bytes, expects, is_kept) in [
        (0, false, true),
        (100, false, true),
        (101, false, false),
        (100, true, false),
    ] {
        let mut client = server.connect(Protocol::Http1).await;
        let mut ask = Ask::publish("x".repeat(bytes));
        if expects {
            ask = ask.field("expect", "100-continue");
        }
        let answer = client.ask(&ask).await;
        assert_eq!(answer.status, 401);
        let close = answer.field("connection");
        assert_eq!(close, (!is_kept).then_some("close"), "{bytes} {expects}");
        if is_kept {
            assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
        }
    }
}

/// A POST without a token, cut in two.
fn cut_post(spaces: usize, body: &str, cut: usize) -> (String, String) {
    let length = body.len();
    let spaces = " ".repeat(spaces);
    let head = format!("POST /messages HTTP/1.1\r\nHost:{spaces}a\r\nContent-Length: {length}\r\n");
    let post = format!("{head}\r\n{body}");
    let (start, end) = post.split_at(cut.min(post.len()));
    (start.to_owned(), end.to_owned())
}

#[tokio::test]
async fn a_refused_body_is_told_from_the_next_request_however_it_comes() {
    const NEXT: &str = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    let server = TestServer::guarded(&with_tokens(Settings::default()));
    let body = NEXT;
    let (whole, _) = cut_post(1, body, usize::MAX);
    let head_bytes = whole.len() - body.len();
    // In one piece, without its body, with half of it, without its end; with more spaces or none.
    for cut in [
        usize::MAX,
        head_bytes,
        head_bytes + 9,
        whole.len() - 1,
        whole.len(),
        10,
    ] {
        // With as many as the body is long, what came is as long as a request with its body.
        for spaces in [0, 1, 5, 1 + body.len()] {
            let mut client = server.connect_raw().await;
            for _ in 0..2 {
                let (start, end) = cut_post(spaces, body, cut);
                client.send(start).await;
                if !end.is_empty() {
                    server.has_seen_all().await;
                    client.send(end).await;
                }
                assert_eq!(client.answer().await.status, 401, "{cut} {spaces}");
            }
            // Two at once, and one behind them.
            client.send([&*whole, &whole, NEXT].concat()).await;
            for status in [401, 401, 200] {
                assert_eq!(client.answer().await.status, status, "{cut} {spaces}");
            }
        }
    }
}

#[tokio::test]
async fn figures_are_for_those_who_may_read_or_watch_and_state_is_for_everybody() {
    let settings = |public_read| Settings {
        public_read,
        ..Settings::default()
    };
    for (access, token, expected) in [
        (open(settings(false)), None, true),
        (with_tokens(settings(false)), None, false),
        (with_tokens(settings(false)), Some("wrong"), false),
        (with_tokens(settings(false)), Some("writer"), false),
        (with_tokens(settings(false)), Some("exporter"), false),
        (with_tokens(settings(false)), Some("reader"), true),
        (with_tokens(settings(false)), Some("watcher"), true),
        (with_tokens(settings(true)), None, true),
        (with_tokens(settings(true)), Some("wrong"), true),
    ] {
        let server = TestServer::guarded(&access);
        store_foo(&server).await;
        let mut ask = Ask::get("/").field("accept", "application/json");
        if let Some(token) = token {
            ask = bearer(ask, token);
        }
        let answer = server.ask(&ask).await;
        let figures: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let said = format!("{token:?} {}", answer.text());
        assert_eq!(figures["reads"], true, "{said}");
        assert_eq!(figures.get("messages").is_some(), expected, "{said}");
        assert_eq!(figures.get("disk_bytes").is_some(), expected, "{said}");
    }
}

#[tokio::test]
async fn a_verbose_probe_names_what_was_found_damaged_to_those_who_may_see_figures() {
    let server = TestServer::on_disk_guarded(&with_tokens(Settings::default()));
    let message = digestd::message::Message::new("known");
    let digest = server.service.publish(message).await.unwrap().digest();
    server.damage("known");
    let get = bearer(Ask::get(format!("/messages/{digest}")), "reader");
    assert_eq!(server.ask(&get).await.status, 500);
    for path in [
        "/readyz?verbose",
        "/readyz/write?verbose",
        "/healthz?verbose",
    ] {
        let answer = server.ask(&Ask::get(path)).await;
        assert_eq!(answer.text(), "[+] reads\n[+] writes\nready\n", "{path}");
        for (token, expected) in [("writer", false), ("reader", true), ("watcher", true)] {
            let answer = server.ask(&bearer(Ask::get(path), token)).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.text().contains("[!] "), expected, "{path} {token}");
        }
    }
}

#[tokio::test]
async fn a_refused_body_that_does_not_come_ends_its_connection_and_the_answer_says_so() {
    let access = with_tokens(Settings::default());
    let server = TestServer::guarded_with(&access, |limits| {
        limits.body.stall_timeout = milliseconds(50);
    });
    let body = "x".repeat(20);
    for missing in [1, 20] {
        // What came is as long as a head with its body, or is not.
        for spaces in [0, missing, 1 + missing] {
            let (whole, _) = cut_post(spaces, &body, usize::MAX);
            let (start, _) = cut_post(spaces, &body, whole.len() - missing);
            let mut client = server.connect_raw().await;
            client.send(start).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 401, "{missing} {spaces}");
            assert_eq!(
                answer.field("connection"),
                Some("close"),
                "{missing} {spaces}"
            );
        }
    }
}

// Networks.

#[tokio::test]
async fn a_connection_of_a_network_that_is_not_let_in_is_closed_before_a_byte_is_read() {
    let access = open(Settings {
        allow: networks(&["127.0.0.0/24"]),
        deny: networks(&["127.0.0.2"]),
        ..Settings::default()
    });
    let server = TestServer::guarded(&access);
    for (source, is_let_in) in [
        ([127, 0, 0, 1], true),
        ([127, 0, 0, 2], false),
        ([127, 0, 0, 3], true),
        ([127, 0, 1, 1], false),
    ] {
        let mut client = connect_from(source, server.address).await;
        let sent = client.try_send(format!("{GET_FOO}\r\n").as_bytes()).await;
        if is_let_in {
            sent.unwrap();
            assert_eq!(client.answer().await.status, 404, "{source:?}");
        } else {
            assert_eq!(client.rest().await.bytes, b"", "{source:?}");
        }
    }
    let metrics = server
        .ask_over(Protocol::Http1, &Ask::get("/metrics"))
        .await;
    let denied = "\ndigestd_connections_refused_total{cause=\"denied\"} 2\n";
    assert!(metrics.text().contains(denied), "{}", metrics.text());
}

#[tokio::test]
async fn a_connection_that_was_let_in_is_not_served_any_more_once_its_network_is_denied() {
    let directory = tempfile::tempdir().unwrap();
    let list_file = directory.path().join("list");
    fs::write(&list_file, "# nobody\n").unwrap();
    let access = open(Settings {
        list_file: Some(list_file.clone()),
        ..Settings::default()
    });
    let server = TestServer::guarded(&access);
    let mut client = server.connect(Protocol::Http1).await;
    assert_eq!(client.ask(&Ask::get("/")).await.status, 200);
    fs::write(&list_file, "deny 127.0.0.1\n").unwrap();
    access.reload().unwrap();
    assert_eq!(client.ask(&Ask::get("/")).await.status, 403);
    // This machine may always ask how it is.
    assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);

    fs::write(&list_file, "deny 127.0.0.1/8\n").unwrap();
    let error = access.reload().unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
    assert_eq!(client.ask(&Ask::get("/")).await.status, 403);
}

/// An HTTP/1.1 request of a program at `source`: its status, `None` if the connection ends without an answer.
async fn status_from(server: &TestServer, source: [u8; 4], request: &[u8]) -> Option<u16> {
    let mut client = connect_from(source, server.address).await;
    let _ = client.try_send(request).await;
    let rest = client.rest().await;
    let status = rest.bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    str::from_utf8(status).unwrap().parse().ok()
}

/// The head of a request that closes its connection.
fn request(line: &str, host: &str, field: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\n{field}Connection: close\r\n\r\n").into_bytes()
}

/// Settings that keep out who has no token, is of this machine, or asks for another host.
fn closed_to_this_machine() -> Settings {
    Settings {
        deny: networks(&["127.0.0.0/8"]),
        hosts: Hosts::new(vec!["digests.example".parse().unwrap()], None),
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_program_of_this_machine_may_always_ask_for_health_and_for_nothing_else() {
    let server = TestServer::guarded(&with_tokens(closed_to_this_machine()));
    let forwarded = "Forwarded: for=127.0.0.1\r\n";
    let x_forwarded_for = "X-Forwarded-For: 127.0.0.1\r\n";
    let token = "Authorization: Bearer reader\r\n";
    for source in [[127, 0, 0, 1], [127, 9, 9, 9]] {
        for (line, host, field, expected) in [
            ("GET /livez", "localhost", "", Some(200)),
            ("GET /readyz", "digests.example", "", Some(200)),
            // A page whose name leads here gets no further than elsewhere.
            ("GET /readyz", "other.example", "", Some(421)),
            ("GET /readyz/write", "127.0.0.1:1", "", Some(200)),
            ("HEAD /healthz", "LOCALHOST", token, Some(200)),
            ("GET /readyz", "[::1]", "", Some(200)),
            ("GET /readyz", "a b", "", Some(400)),
            ("GET /readyz?verbose", "localhost", "", None),
            ("GET /readyz?", "localhost", "", None),
            ("POST /livez", "localhost", "", None),
            ("GET /livez", "localhost", forwarded, None),
            ("GET /livez", "localhost", x_forwarded_for, None),
            ("GET /metrics", "localhost", token, None),
            ("GET /", "digests.example", token, None),
            ("GET /nothing", "localhost", "", None),
        ] {
            let status = status_from(&server, source, &request(line, host, field)).await;
            assert_eq!(status, expected, "{source:?} {line} {host} {field}");
        }
    }
    // Over HTTP/2 as well, and the connection ends all the same.
    let mut client = server.connect(Protocol::Http2).await;
    assert_eq!(client.ask(&Ask::get("/readyz")).await.status, 200);
    client.try_ask_unchecked(&Ask::get("/")).await.unwrap_err();
    client.closed().await;
}

#[tokio::test]
async fn a_health_check_that_a_trusted_proxy_passes_on_is_none_of_this_machine() {
    let access = open(Settings {
        trusted_proxies: networks(&["127.0.0.9", "127.0.0.8"]),
        ..closed_to_this_machine()
    });
    let server = TestServer::guarded(&access);
    let plain = request("GET /livez", "localhost", "");
    let of_this_machine = request("GET /livez", "localhost", "X-Forwarded-For: 127.0.0.1\r\n");
    for proxy in [[127, 0, 0, 9], [127, 0, 0, 8]] {
        // A probe beside the proxy says nothing of others.
        assert_eq!(status_from(&server, proxy, &plain).await, Some(200));
        let status = status_from(&server, proxy, &of_this_machine).await;
        assert_eq!(status, Some(403));
        for preamble in preambles("127.0.0.1") {
            let request = [&preamble[..], &plain].concat();
            assert_eq!(status_from(&server, proxy, &request).await, None);
        }
    }
}

#[tokio::test]
async fn a_client_gets_as_many_connections_as_it_may_have_and_a_proxy_all() {
    let one_connection = |settings| {
        let access = open(settings);
        TestServer::guarded_with(&access, |limits| {
            limits.connection.client_connections_max = 1;
        })
    };
    let server = one_connection(Settings::default());
    let mut first = server.connect(Protocol::Http1).await;
    assert_eq!(first.ask(&Ask::get("/livez")).await.status, 200);
    let mut second = server.connect_raw().await;
    assert_eq!(second.rest().await.bytes, b"");

    let server = one_connection(behind_a_proxy());
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect(Protocol::Http1).await;
        assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
        held.push(client);
    }
    let preamble = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = server.connect_raw().await;
    first.send(preamble).await;
    assert_eq!(first.answer().await.status, 200);
    let mut second = server.connect_raw().await;
    second.send(preamble).await;
    assert_eq!(second.rest().await.bytes, b"");
}

// Proxies.

/// Whether a client with this address is let in, where only 192.0.2.1 is.
async fn is_let_in(server: &TestServer, field: &str, value: &str) -> bool {
    let ask = Ask::get("/docs").field(field, value);
    let status = server.ask(&ask).await.status;
    assert!([200, 403].contains(&status), "{status}");
    status == 200
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let access = open(Settings {
        allow: networks(&["192.0.2.1"]),
        ..behind_a_proxy()
    });
    let server = TestServer::guarded(&access);
    for (field, value, expected) in [
        ("x-forwarded-for", "192.0.2.1", true),
        ("x-forwarded-for", "203.0.113.1, 192.0.2.1", true),
        ("x-forwarded-for", "192.0.2.1, 203.0.113.1", false),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1", true),
        ("forwarded", "for=192.0.2.1", true),
        (
            "forwarded",
            "for=192.0.2.1;host=\"x,for=203.0.113.1\"",
            true,
        ),
        (
            "forwarded",
            "for=203.0.113.1;host=\"x,for=192.0.2.1\"",
            false,
        ),
    ] {
        let is_let_in = is_let_in(&server, field, value).await;
        assert_eq!(is_let_in, expected, "{field}: {value}");
    }
    assert!(!is_let_in(&server, "x-other", "192.0.2.1").await);

    let contradiction = Ask::get("/livez")
        .field("forwarded", "for=192.0.2.1")
        .field("x-forwarded-for", "203.0.113.1");
    assert_eq!(server.ask(&contradiction).await.status, 400);
    let malformed = Ask::get("/livez").field("forwarded", "for=\"192.0.2.1");
    assert_eq!(server.ask(&malformed).await.status, 400);
}

#[tokio::test]
async fn nobody_else_s_word_changes_anything() {
    let access = open(Settings {
        deny: networks(&["192.0.2.1"]),
        trusted_proxies: networks(&["127.0.0.9"]),
        read_rate: Some("1/h".parse().unwrap()),
        ..Settings::default()
    });
    let server = TestServer::guarded(&access);
    let path = format!("/messages/{FOO}");
    let mut client = server.connect(Protocol::Http1).await;
    let mut statuses = Vec::new();
    for address in ["192.0.2.1", "203.0.113.1", "127.0.0.9"] {
        let ask = Ask::get(&path)
            .field("x-forwarded-for", address)
            .field("forwarded", "for=\"");
        statuses.push(client.ask(&ask).await.status);
    }
    assert_eq!(
        statuses,
        [404, 429, 429],
        "one client, and not a denied one"
    );
    assert_eq!(access.limited_clients(), 1);
}

fn preambles(address: &str) -> [Vec<u8>; 2] {
    let address: IpAddr = address.parse().unwrap();
    let IpAddr::V4(v4) = address else { panic!() };
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend(v4.octets());
    second.extend([127, 0, 0, 1, 0, 1, 0, 2]);
    let first = format!("PROXY TCP4 {address} 127.0.0.1 1 2\r\n");
    [first.into(), second]
}

#[tokio::test]
async fn a_trusted_proxy_may_begin_with_a_preamble_in_one_piece_or_many() {
    let access = open(Settings {
        deny: networks(&["192.0.2.9"]),
        ..behind_a_proxy()
    });
    let server = TestServer::guarded(&access);
    let request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    for preamble in preambles("192.0.2.1") {
        let mut client = server.connect_raw().await;
        client.send([&preamble[..], request].concat()).await;
        assert_eq!(client.answer().await.status, 200);
        client.send(request).await;
        assert_eq!(client.answer().await.status, 200);

        let mut client = server.connect_raw().await;
        for byte in &preamble {
            client.send([*byte]).await;
            server.has_seen_all().await;
        }
        client.send(request).await;
        assert_eq!(client.answer().await.status, 200);
    }
    for preamble in preambles("192.0.2.9") {
        let mut client = server.connect_raw().await;
        client.send([&preamble[..], request].concat()).await;
        assert_eq!(client.rest().await.bytes, b"");
    }
    // None at all is fine too.
    assert_eq!(server.ask(&Ask::get("/livez")).await.status, 200);
}

#[tokio::test]
async fn the_client_behind_a_preamble_is_no_proxy() {
    let access = open(Settings {
        deny: networks(&["192.0.2.9"]),
        ..behind_a_proxy()
    });
    let server = TestServer::guarded(&access);
    let request = "GET /livez HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
    for preamble in preambles("192.0.2.1") {
        let mut client = server.connect_raw().await;
        client.send([&preamble, request.as_bytes()].concat()).await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_preamble_of_anybody_else_is_a_bad_request() {
    let server = TestServer::start();
    for preamble in preambles("192.0.2.1") {
        let mut client = server.connect_raw().await;
        let request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send([&preamble[..], request].concat()).await;
        assert_eq!(client.bare_answer().await.status, 400);
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_finish_its_preamble_is_not_waited_for_for_ever() {
    let access = open(behind_a_proxy());
    let server = TestServer::guarded_with(&access, |limits| {
        limits.connection.head_timeout = milliseconds(50);
    });
    for begun in ["", "PROXY TCP4 "] {
        let mut client = server.connect_raw().await;
        client.send(begun).await;
        assert_eq!(client.rest().await.bytes, b"");
    }
}

// Rates.

#[tokio::test]
async fn reads_and_writes_have_rates_of_their_own_and_probes_have_none() {
    let access = open(Settings {
        read_rate: Some("1/h".parse().unwrap()),
        write_rate: Some("8/h".parse().unwrap()),
        ..Settings::default()
    });
    let server = TestServer::guarded(&access);
    let mut client = server.connect(Protocol::Http2).await;
    let get = Ask::get(format!("/messages/{FOO}"));
    let post = Ask::publish("foo");
    let mut statuses = Vec::new();
    for ask in [&post, &get, &get, &post, &post] {
        statuses.push(client.ask(ask).await.status);
    }
    assert_eq!(statuses, [201, 200, 429, 201, 429]);
    for _ in 0..3 {
        assert_eq!(client.ask(&Ask::get("/livez")).await.status, 200);
    }
    let wait = |answer: &Answer| answer.field("retry-after").unwrap().parse::<u32>().unwrap();
    let refused = client.ask(&get).await;
    assert!((3590..=3600).contains(&wait(&refused)), "{refused:?}");
    let refused = client.ask(&post).await;
    assert!((440..=450).contains(&wait(&refused)), "{refused:?}");
}

#[tokio::test]
async fn all_clients_of_an_ipv6_network_of_48_bits_have_sixteen_times_the_rate() {
    let access = open(Settings {
        read_rate: Some("1/h".parse().unwrap()),
        ..behind_a_proxy()
    });
    let server = TestServer::guarded(&access);
    let mut proxy = server.connect(Protocol::Http1).await;
    let mut passed = 0;
    for number in 0..40 {
        let client = format!("2001:db8:1:{number:x}::1");
        let ask = Ask::get("/nothing").field("x-forwarded-for", &client);
        let answer = proxy.ask(&ask).await;
        assert!([404, 429].contains(&answer.status));
        passed += u32::from(answer.status == 404);
    }
    assert_eq!(passed, 16);
    for client in ["2001:db8:2::1", "192.0.2.1"] {
        let ask = Ask::get("/nothing").field("x-forwarded-for", client);
        assert_eq!(proxy.ask(&ask).await.status, 404, "{client}");
    }
}

#[tokio::test]
async fn each_client_behind_a_proxy_has_its_own_rate() {
    let access = open(Settings {
        read_rate: Some("1/h".parse().unwrap()),
        ..behind_a_proxy()
    });
    let server = TestServer::guarded(&access);
    let mut client = server.connect(Protocol::Http1).await;
    let mut status = async |address: &str| {
        let ask = Ask::get(format!("/messages/{FOO}")).field("x-forwarded-for", address);
        client.ask(&ask).await.status
    };
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
        assert_eq!(status(address).await, 404, "{address}");
        assert_eq!(status(address).await, 429, "{address}");
    }
    assert_eq!(status("2001:db8::2").await, 429, "the same network");
}

#[test]
fn a_hundred_thousand_clients_of_a_proxy_leave_the_table_within_its_bound() {
    let access = open(Settings {
        read_rate: Some("1/h".parse().unwrap()),
        write_rate: Some("1/h".parse().unwrap()),
        ..behind_a_proxy()
    });
    let proxy = access.peer(Ipv4Addr::LOCALHOST.into());
    for number in 0..100_000_u32 {
        let field = Ipv4Addr::from_bits(0xc000_0000 + number).to_string();
        let values = || [field.as_bytes()].into_iter();
        let nothing = || [].into_iter();
        let client = access.client(proxy, nothing, values).unwrap();
        assert_eq!(client.to_string(), field);
        for is_write in [false, true] {
            assert_eq!(access.check_rate(Client::of(client), is_write), Ok(()));
        }
    }
    let bound = digestd::access::rates::CLIENTS_MAX;
    let remembered = access.limited_clients();
    assert!(remembered <= 2 * bound, "{remembered}");
    assert!(
        remembered > bound,
        "the bound is what held them: {remembered}"
    );
}

/// A batch with so many lines, and a blank one before each.
fn batch(path: &str, line: &str, count: usize) -> Ask {
    Ask::post(path)
        .field("content-type", "application/x-ndjson")
        .body(format!("\n{line}\n").repeat(count))
}

#[tokio::test]
async fn each_line_of_a_batch_counts_as_a_request_and_the_batch_ends_where_the_rate_does() {
    let rate = || Some("16/h".parse().unwrap());
    let message = "{\"message\": \"foo\"}";
    let digest = format!("\"{FOO}\"");
    for (path, line, one) in [
        ("/messages", message, Ask::publish("foo")),
        (
            "/messages/lookup",
            &digest,
            Ask::get(format!("/messages/{FOO}")),
        ),
        ("/messages/lookup?missing", &digest, Ask::get("/messages")),
    ] {
        let access = open(Settings {
            read_rate: rate(),
            write_rate: rate(),
            ..Settings::default()
        });
        let server = TestServer::guarded(&access);
        server.service.publish(Message::new("foo")).await.unwrap();
        let mut client = server.connect(Protocol::Http2).await;
        // Four may come at once. Of an empty one the request is one.
        for (lines, answered) in [(0, 0), (1, 1), (3, 2)] {
            let answer = client.ask(&batch(path, line, lines)).await;
            assert_eq!(answer.status, 200);
            let mut answers: Vec<_> = answer.text().lines().collect();
            if lines > answered {
                let last: Value = serde_json::from_str(answers.pop().unwrap()).unwrap();
                assert_eq!(last["line"], 6, "{path}: {last}");
                assert_eq!(last["status"], 429);
                let seconds = last["retry_after"].as_u64().unwrap();
                assert!((200..=225).contains(&seconds), "{last}");
                let text =
                    format!("Too many lines; wait {seconds} seconds and go on with this one.");
                assert_eq!(last["error"], text);
            }
            let is_answered = !path.ends_with("missing");
            assert_eq!(answers.len(), if is_answered { answered } else { 0 });
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.contains(FOO) || *answer == message)
            );
        }
        for ask in [one, batch(path, line, 1)] {
            assert_eq!(client.ask(&ask).await.status, 429, "{path}");
        }
    }
}

#[tokio::test]
async fn lines_before_the_end_of_a_rate_are_answered_before_it_and_stored_and_none_after() {
    let access = open(Settings {
        write_rate: Some("8/h".parse().unwrap()),
        ..Settings::default()
    });
    let server = TestServer::guarded(&access);
    let lines = ["a", "b", "c", "d"].map(|text| format!("{{\"message\": \"{text}\"}}\n"));
    let ask = batch("/messages", lines.concat().trim(), 1);
    let answer = server.ask_over(Protocol::Http1, &ask).await;
    let answers: Vec<_> = answer.text().lines().collect();
    assert_eq!(answers.len(), 3, "{answers:?}");
    for (text, answer) in ["a", "b"].iter().zip(&answers) {
        let digest = Digest::of(text.as_bytes());
        assert_eq!(*answer, format!("{{\"digest\": \"{digest}\"}}"));
    }
    assert!(
        answers[2].contains("\"line\": 4, \"status\": 429"),
        "{answers:?}"
    );
    for (text, expected) in [("a", true), ("b", true), ("c", false), ("d", false)] {
        let digest = Digest::of(text.as_bytes());
        assert_eq!(server.service.holds(&digest).unwrap(), expected, "{text}");
    }
    let ask = Ask::get("/metrics");
    let metrics = server.ask_over(Protocol::Http1, &ask).await;
    let series = "\ndigestd_requests_refused_total{cause=\"rate\"} 1\n";
    assert!(metrics.text().contains(series), "{}", metrics.text());
}
