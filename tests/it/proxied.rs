//! Behind a proxy, below a path, under another name: the addresses in answers, and what people are shown.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Client, Digestd, Launch, Process, digestd, run, wait_until};
use crate::support::{Ask, FOO, TestServer};

/// Believes this machine when it says what it was asked, or nobody.
fn believing(is_trusted: bool) -> Arc<Access> {
    let proxies = is_trusted.then(|| "127.0.0.1".parse().unwrap());
    let settings = Settings {
        trusted_proxies: proxies.into_iter().collect(),
        ..Settings::default()
    };
    Arc::new(Access::new(settings).unwrap())
}

const PREFIX: &str = "x-forwarded-prefix";

/// Whether all addresses in answers begin with `prefix`, for requests that `change` makes.
async fn check_addresses(server: &TestServer, prefix: &str, change: impl Fn(Ask) -> Ask) {
    let message = format!("{prefix}/messages/{FOO}");
    for path in ["/messages", "/messages/", "/"] {
        let ask = Ask::post(path)
            .field("content-type", "text/plain")
            .body("foo");
        let answer = server.ask(&change(ask)).await;
        assert_eq!(answer.status, 201, "{path}");
        assert_eq!(answer.field("location"), Some(&*message), "{path}");
    }
    let answer = server
        .ask(&change(Ask::put(format!("/messages/{FOO}"), "foo")))
        .await;
    assert_eq!(answer.field("location"), Some(&*message));
    for name in [
        format!("/messages/sha256:{FOO}"),
        "/messages/sha256-LCa0a2j%2Fxo%2F5m0U8HTBBNBNCLXBkg7%2Bg%2BYpeiGJm564%3D".into(),
        "/.well-known/ni/sha-256/LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564".into(),
    ] {
        for ask in [Ask::get(&name), Ask::get(&name).field("if-none-match", "*")] {
            let answer = server.ask(&change(ask)).await;
            assert_eq!(answer.field("content-location"), Some(&*message), "{name}");
        }
    }
    let problem = Ask::get("/messages/x").field("accept", "application/problem+json");
    let answer = server.ask(&change(problem)).await;
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    let kind = format!("{prefix}/openapi.yaml#/x-problems/no-such-message");
    assert_eq!(problem["type"], kind);
    let help = server.ask(&change(Ask::get("/").host("a.example"))).await;
    for path in [
        "/messages'",
        "/docs",
        "/openapi.yaml",
        &format!("/messages/{FOO}'"),
    ] {
        let address = format!("http://a.example{prefix}{path}");
        assert!(help.text().contains(&address), "{address}: {}", help.text());
    }
}

#[tokio::test]
async fn addresses_begin_with_the_prefix_that_a_trusted_proxy_took_away() {
    let server = TestServer::guarded(&believing(true));
    for (field, prefix) in [
        ("/digestd", "/digestd"),
        ("/tools/digests/", "/tools/digests"),
        ("/v1.0/a%20b", "/v1.0/a%20b"),
        ("/", ""),
        ("", ""),
    ] {
        check_addresses(&server, prefix, |ask| ask.field(PREFIX, field)).await;
    }
    check_addresses(&server, "", |ask| ask).await;
    // Paths of requests are as the proxy sends them.
    let answer = server
        .ask(&Ask::get("/digestd/livez").field(PREFIX, "/digestd"))
        .await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn the_prefix_of_anybody_else_changes_nothing() {
    let server = TestServer::guarded(&believing(false));
    for field in ["/digestd", "//evil.example", "/a/../b", "x"] {
        check_addresses(&server, "", |ask| ask.field(PREFIX, field)).await;
    }
}

#[tokio::test]
async fn a_prefix_that_is_not_one_path_is_refused() {
    let server = TestServer::guarded(&believing(true));
    let long = format!("/{}", "a".repeat(256));
    for prefix in [
        "//evil.example",
        "https://evil.example",
        "digestd",
        "/a//b",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a\tb",
        "/a b",
        "/a'b",
        "/a, /b",
        "/a,/b",
        &long,
    ] {
        for ask in [
            Ask::get("/livez"),
            Ask::publish("foo"),
            Ask::new("OPTIONS", "*"),
        ] {
            let ask = ask.field(PREFIX, prefix);
            let answer = server.ask_over(crate::support::Protocol::Http1, &ask).await;
            assert_eq!(answer.status, 400, "{ask:?}");
            let error = answer.error();
            assert!(
                error.contains("X-Forwarded-Prefix") && error.contains("/digestd"),
                "{error}"
            );
            assert!(!error.contains("evil"), "{error}");
        }
    }
    let twice = Ask::get("/livez").field(PREFIX, "/a").field(PREFIX, "/a");
    assert_eq!(server.ask(&twice).await.status, 400);
    let longest = &long[..256];
    let answer = server
        .ask(&Ask::publish("foo").field(PREFIX, longest))
        .await;
    assert_eq!(
        answer.field("location"),
        Some(&*format!("{longest}/messages/{FOO}"))
    );
    assert_eq!(server.store.writes(), 1);
}

#[tokio::test]
async fn a_service_below_a_base_path_is_asked_with_it_or_without() {
    for base_path in ["/digestd", "/tools/v1.0", "/a%20b"] {
        let server = TestServer::below(base_path, &believing(false));
        check_addresses(&server, base_path, |ask| ask).await;
        check_addresses(&server, base_path, |ask| ask.below(base_path)).await;
        for (path, status) in [
            ("/livez", 200),
            ("/docs", 200),
            ("/pages/home.js", 200),
            ("/openapi.json", 200),
            ("/metrics", 200),
            ("/nowhere", 404),
        ] {
            for ask in [Ask::get(path), Ask::get(path).below(base_path)] {
                let answer = server.ask_over(crate::support::Protocol::Http1, &ask).await;
                assert_eq!(answer.status, status, "{ask:?}");
            }
        }
        // Only the whole of it, and once.
        for path in [
            format!("{base_path}{base_path}/livez"),
            format!("{base_path}x/livez"),
            format!("{base_path}%2Flivez"),
            format!("/x{base_path}/livez"),
            base_path[..base_path.len() - 1].to_owned() + "/livez",
        ] {
            assert_eq!(server.ask(&Ask::get(&path)).await.status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn a_page_is_right_below_the_base_path_and_nowhere_else() {
    let server = TestServer::below("/digestd", &believing(true));
    let page = |path: &str| Ask::get(path).field("accept", "text/html");
    for path in ["/digestd/", "/"] {
        let answer = server.ask(&page(path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.text().contains(" src=\"pages/home.js\""), "{path}");
    }
    // Without the slash its addresses would lead elsewhere.
    let answer = server.ask(&page("/digestd")).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.field("location"), Some("/digestd/"));
    let answer = server.ask(&page("/digestd").field(PREFIX, "/other")).await;
    assert_eq!(answer.field("location"), Some("/other/"));
    for query in ["", "x", "x=1&y=%20", "https://evil.example/", "a?b"] {
        let answer = server.ask(&page(&format!("/digestd?{query}"))).await;
        assert_eq!(answer.status, 308);
        let expected = format!("/digestd/?{query}");
        assert_eq!(answer.field("location"), Some(&*expected));
    }
    // Everything else is the root of the service.
    let help = server.ask(&Ask::get("/digestd")).await;
    assert!(help.text().contains("curl "), "{help:?}");
    let post = Ask::post("/digestd").field("content-type", "text/plain");
    assert_eq!(server.ask(&post.body("foo")).await.status, 201);
    let options = server.ask(&Ask::new("OPTIONS", "/digestd")).await;
    assert_eq!(options.field("allow"), Some("GET, HEAD, POST, OPTIONS"));
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_a_request_goes_before_the_option() {
    let server = TestServer::below("/digestd", &believing(true));
    check_addresses(&server, "/other", |ask| ask.field(PREFIX, "/other")).await;
    check_addresses(&server, "", |ask| ask.field(PREFIX, "/")).await;
    check_addresses(&server, "/digestd", |ask| ask).await;
}

/// The address of the service in its help.
async fn shown(server: &TestServer, host: &str, fields: &[(&str, &str)]) -> String {
    let ask = Ask::get("/").host(host);
    let ask = fields
        .iter()
        .fold(ask, |ask, (name, value)| ask.field(name, value));
    let answer = server.ask(&ask).await;
    assert_eq!(answer.status, 200, "{ask:?}");
    let (_, rest) = answer.text().split_once("--data-binary @FILE '").unwrap();
    rest.split_once("/messages'").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_help_shows_the_address_that_was_asked_and_nothing_that_a_shell_would_run() {
    let server = TestServer::guarded(&believing(false));
    for (host, expected) in [
        ("127.0.0.1:18087", "http://127.0.0.1:18087"),
        ("digests.example", "http://digests.example"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("a$(reboot)", "http://localhost:8080"),
        ("a';reboot;'", "http://localhost:8080"),
        ("a&b", "http://localhost:8080"),
    ] {
        assert_eq!(shown(&server, host, &[]).await, expected, "{host}");
    }
    let forwarded = [("x-forwarded-host", "b"), ("x-forwarded-proto", "https")];
    assert_eq!(shown(&server, "a", &forwarded).await, "http://a");
    let mut client = server.connect_raw().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(
        answer.text().contains("'http://localhost:8080/messages'"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn the_help_shows_the_address_that_a_trusted_proxy_was_asked() {
    let server = TestServer::guarded(&believing(true));
    for (fields, expected) in [
        (&[("x-forwarded-proto", "https")][..], "https://inner:81"),
        (&[("x-forwarded-proto", "HTTPS")], "https://inner:81"),
        (&[("x-forwarded-proto", "http, https")], "https://inner:81"),
        (&[("x-forwarded-proto", "javascript")], "http://inner:81"),
        (
            &[("x-forwarded-host", "public.example")],
            "http://public.example",
        ),
        (&[("x-forwarded-host", "$(reboot)")], "http://inner:81"),
        (&[("x-forwarded-host", "a/b")], "http://inner:81"),
        (
            &[("forwarded", "for=192.0.2.1;host=public.example;proto=https")],
            "https://public.example",
        ),
        (
            &[
                ("x-forwarded-host", "public.example:8443"),
                (PREFIX, "/digestd/"),
            ],
            "http://public.example:8443/digestd",
        ),
    ] {
        assert_eq!(
            shown(&server, "inner:81", fields).await,
            expected,
            "{fields:?}"
        );
    }
}

#[test]
#[ignore = "needs curl"]
fn the_curl_lines_of_the_help_work() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--base-path", "/digestd")
        .start();
    let mut command = Command::new("curl");
    let help = run(command.arg(format!("{}/digestd/", server.url())), b"").stdout;
    let help = String::from_utf8(help).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("FILE"), "two\nlines\n").unwrap();
    let lines = help.lines().filter(|line| line.starts_with("  curl "));
    let said = lines.map(|line| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(directory.path());
        String::from_utf8(run(&mut command, b"").stdout).unwrap()
    });
    let digest = Digest::of(b"two\nlines\n").to_string();
    let [json, text, found] = said.collect::<Vec<_>>().try_into().unwrap();
    assert!(json.contains(FOO), "{json}");
    assert!(text.contains(&digest), "{text}");
    assert_eq!(found, "{\n  \"message\": \"foo\"\n}\n");
}

#[test]
fn a_base_path_is_an_option_and_a_wrong_one_an_error_of_usage() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--base-path", "/digestd/")
        .start();
    let mut client = Client::connect(server.address()).unwrap();
    let fields = [("Content-Type", "text/plain")];
    for path in ["/digestd/messages", "/messages"] {
        let answer = client.ask("POST", path, &fields, b"foo").unwrap();
        assert_eq!(answer.status, 201, "{path}");
        let location = format!("/digestd/messages/{}", Digest::of(b"foo"));
        assert_eq!(answer.fields.get("location"), Some(&location), "{path}");
    }
    server.stop();
    for path in ["digestd", "//a", "/a/..", "/messages/x"] {
        let data = tempfile::tempdir().unwrap();
        let mut command = digestd();
        command
            .args(["--base-path", path, "--data-dir"])
            .arg(data.path());
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(2), "{path}: {outcome:?}");
        assert!(outcome.stderr.contains("base-path"), "{path}: {outcome:?}");
    }
}

// Real proxies.

/// A proxy as `configuration` says, in front of a server that is started with `options`.
pub(crate) struct Front {
    _proxy: Process,
    pub(crate) server: Digestd,
    pub(crate) socket: PathBuf,
    _directory: TempDir,
}

impl Front {
    /// The configuration may name `SOCKET`, where the proxy listens, `SERVER`, the address of the server, and
    /// `DIRECTORY`, which is for the proxy alone.
    fn start(options: &[(&'static str, &str)], configuration: &str, command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let launch = Launch::new(&directory.path().join("data"));
        let launch = options
            .iter()
            .fold(launch, |launch, (name, value)| launch.option(name, value));
        let server = launch.start();
        let path = directory.path().join("proxy");
        fs::create_dir(&path).unwrap();
        let socket = path.join("socket");
        let configuration = configuration
            .replace("SOCKET", socket.to_str().unwrap())
            .replace("SERVER", &server.address().to_string())
            .replace("DIRECTORY", path.to_str().unwrap());
        let file = path.join("configuration");
        fs::write(&file, configuration).unwrap();
        let (program, arguments) = command.split_first().unwrap();
        let child = Command::new(program)
            .args(arguments)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let front = Self {
            _proxy: Process(child.unwrap()),
            server,
            socket,
            _directory: directory,
        };
        wait_until(program, || Client::connect_local(&front.socket).is_ok());
        front
    }

    /// nginx with these locations.
    pub(crate) fn nginx(options: &[(&'static str, &str)], locations: &str) -> Self {
        let configuration = format!(
            "daemon off; master_process off; pid DIRECTORY/pid; error_log stderr; events {{}} http {{
               access_log off; client_body_temp_path DIRECTORY/1; proxy_temp_path DIRECTORY/2;
               fastcgi_temp_path DIRECTORY/3; uwsgi_temp_path DIRECTORY/4; scgi_temp_path DIRECTORY/5;
               server {{ listen unix:SOCKET; {locations} }} }}"
        );
        Self::start(options, &configuration, &["nginx", "-e", "stderr", "-c"])
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> process::Answer {
        let mut client = Client::connect_local(&self.socket).unwrap();
        client.ask(method, path, fields, body).unwrap()
    }

    /// Stores a message as a page at `origin` does.
    fn store(&self, path: &str, origin: &str, fields: &[(&str, &str)]) -> process::Answer {
        let own = [("Origin", origin), ("Content-Type", "text/plain")];
        self.ask("POST", path, &[&own, fields].concat(), b"foo")
    }
}

const SAME: (&str, &str) = ("Sec-Fetch-Site", "same-origin");
const CROSS: (&str, &str) = ("Sec-Fetch-Site", "cross-site");
const OWN: (&str, &str) = ("X-Digestd-Page", "1");

#[test]
#[ignore = "needs nginx"]
fn the_pages_write_behind_nginx_with_nothing_but_proxy_pass() {
    let public = ("--host", "digests.example");
    for (options, location, origin) in [
        (&[][..], "", "http://127.0.0.1:18101"),
        (
            &[],
            "proxy_set_header Host $host;",
            "http://localhost:18102",
        ),
        (
            &[public],
            "proxy_set_header Host $host;",
            "https://digests.example:8443",
        ),
        (
            &[public],
            "proxy_set_header Host $host;",
            "https://localhost",
        ),
    ] {
        let location = format!("location / {{ proxy_pass http://SERVER; {location} }}");
        let front = Front::nginx(options, &location);
        for (fields, status) in [
            (&[SAME][..], 201),
            (&[OWN], 201),
            (&[CROSS], 403),
            (&[CROSS, OWN], 403),
        ] {
            let answer = front.store("/messages", origin, fields);
            assert_eq!(
                answer.status,
                status,
                "{location} {fields:?}: {}",
                answer.text()
            );
        }
        let answer = front.store("/messages", "https://evil.example", &[]);
        assert_eq!(answer.status, 403, "{location}");
        assert!(answer.text().contains("evil.example"), "{}", answer.text());
    }
    // A public name that nobody listed is a page's that leads it here.
    let location = "location / { proxy_pass http://SERVER; proxy_set_header Host evil.example; }";
    let front = Front::nginx(&[], location);
    let answer = front.store("/messages", "http://evil.example", &[SAME]);
    assert_eq!(answer.status, 421);
}

#[test]
#[ignore = "needs nginx"]
fn below_a_path_nginx_may_take_it_away_or_leave_it() {
    let base_path = ("--base-path", "/digestd");
    let trusted = ("--trusted-proxy", "127.0.0.1");
    for (options, rest) in [
        (&[base_path][..], "/;"),
        (&[base_path], ";"),
        (
            &[trusted],
            "/; proxy_set_header X-Forwarded-Prefix /digestd;",
        ),
    ] {
        let location = format!("location /digestd/ {{ proxy_pass http://SERVER{rest} }}");
        let front = Front::nginx(options, &location);
        let answer = front.store("/digestd/messages", "http://localhost", &[SAME]);
        assert_eq!(answer.status, 201, "{location}: {}", answer.text());
        let message = answer.fields.get("location").unwrap();
        assert_eq!(message, &format!("/digestd/messages/{FOO}"), "{location}");
        let found = front.ask("GET", message, &[("Accept", "text/plain")], b"");
        assert_eq!((found.status, found.text()), (200, "foo"), "{location}");
        // nginx decodes the path where it takes something away from it.
        for name in [
            format!("sha256%3A{FOO}"),
            "sha256-LCa0a2j%2Fxo%2F5m0U8HTBBNBNCLXBkg7%2Bg%2BYpeiGJm564%3D".to_owned(),
        ] {
            let found = front.ask("GET", &format!("/digestd/messages/{name}"), &[], b"");
            assert_eq!(found.status, 200, "{location} {name}");
            assert_eq!(found.fields.get("content-location"), Some(message));
        }
        let moved = front.ask("GET", "/digestd", &[("Accept", "text/html")], b"");
        assert_eq!(moved.status, 301, "{location}");
        let page = front.ask("GET", "/digestd/", &[("Accept", "text/html")], b"");
        assert!(page.text().contains(" src=\"pages/home.js\""), "{location}");
        for path in [
            "/digestd/pages/home.js",
            "/digestd/docs",
            "/digestd/openapi.json",
        ] {
            assert_eq!(front.ask("GET", path, &[], b"").status, 200, "{path}");
        }
        // Checks need not know the path.
        assert_eq!(
            front
                .server
                .client()
                .ask("GET", "/readyz", &[], b"")
                .unwrap()
                .status,
            200
        );
    }
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_keeps_a_server_that_it_checks_without_being_told_how() {
    for check in ["option httpchk", "option httpchk OPTIONS *"] {
        let configuration = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             frontend all\n bind SOCKET\n default_backend digestd\n\
             backend digestd\n {check}\n \
             server one SERVER check inter 20ms fall 1 rise 1 init-addr last\n"
        );
        let options = [("--log-level", "debug")];
        let front = Front::start(&options, &configuration, &["haproxy", "-db", "-f"]);
        // Several checks, each of which would end it.
        front.server.wait_for_times("OPTIONS", 5);
        assert_eq!(front.ask("GET", "/livez", &[], b"").status, 200, "{check}");
        let log = front.server.log();
        let checks = log.lines().filter(|line| line.contains("OPTIONS"));
        assert!(checks.clone().all(|line| line.contains("204")), "{log}");
    }
}
