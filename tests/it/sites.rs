//! Pages in browsers: which may write, also where a proxy in front puts its own name into Host, and what a browser
//! is told that asks for a page of another site. Which headers decide is tested where they are read, too.

use std::fs;
use std::sync::Arc;

use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::message::Message;

use crate::support::{Answer, Ask, FOO, TestServer};

fn open(settings: Settings) -> Arc<Access> {
    Arc::new(Access::new(settings).unwrap())
}

/// Lets pages of these sites use a service, which believes this machine when it says what it was asked.
fn listing(sites: &[&str]) -> Settings {
    Settings {
        sites: sites.iter().map(|site| site.parse().unwrap()).collect(),
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..Settings::default()
    }
}

/// With a token that may do anything but export.
fn with_token(settings: Settings) -> Arc<Access> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let line = format!("all read,write,delete {}\n", Digest::of(b"all"));
    fs::write(&path, line).unwrap();
    open(Settings {
        tokens: Some(path),
        ..settings
    })
}

async fn store_foo(server: &TestServer) {
    server.service.publish(Message::new("foo")).await.unwrap();
}

fn with_fields(ask: Ask, fields: &[(&str, &str)]) -> Ask {
    let fields = fields.iter();
    fields.fold(ask, |ask, (name, value)| ask.field(name, value))
}

// Writing.

#[tokio::test]
async fn a_page_of_another_site_may_read_and_not_write() {
    let server = TestServer::start();
    store_foo(&server).await;
    let path = format!("/messages/{FOO}");
    let here = format!("http://{}", server.address);
    let cross = ("sec-fetch-site", "cross-site");
    let neighbour = ("sec-fetch-site", "same-site");
    let same = ("sec-fetch-site", "same-origin");
    let own = ("x-digestd-page", "1");
    let evil = ("origin", "https://evil.example");
    for (fields, may_write) in [
        (&[evil][..], false),
        (&[("origin", "null")], false),
        (&[("origin", &*here)], true),
        (&[cross], false),
        (&[cross, ("origin", &*here)], false),
        (&[cross, own], false),
        (&[neighbour], false),
        (&[neighbour, evil], false),
        (&[neighbour, ("origin", "null")], false),
        (&[neighbour, ("origin", &*here)], true),
        (&[neighbour, own], true),
        (&[same], true),
        (&[same, evil], true),
        (&[("sec-fetch-site", "none")], true),
        (&[("sec-fetch-site", "none"), evil], true),
        (&[own], true),
        (&[own, evil], true),
        (&[], true),
        // From here nobody is a proxy that is trusted.
        (&[evil, ("x-forwarded-host", "evil.example")], false),
        (&[evil, ("forwarded", "host=evil.example")], false),
    ] {
        let text = format!("{fields:?}");
        let post = with_fields(Ask::publish(&text), fields);
        let status = if may_write { 201 } else { 403 };
        assert_eq!(server.ask(&post).await.status, status, "{text}");
        let digest = Digest::of(text.as_bytes());
        assert_eq!(server.service.holds(&digest).unwrap(), may_write, "{text}");
        let get = with_fields(Ask::get(&path), fields);
        let answer = server.ask(&get).await;
        assert_eq!(answer.status, 200, "{text}");
        assert_eq!(answer.field("access-control-allow-origin"), None);
        assert_eq!(answer.field("vary"), Some("accept"));
    }
}

#[tokio::test]
async fn what_is_refused_to_pages_is_refused_for_every_write() {
    let server = TestServer::start();
    let path = format!("/messages/{FOO}");
    for ask in [
        Ask::post("/messages"),
        Ask::post("/"),
        Ask::post("/messages/lookup"),
        Ask::put(&path, "foo"),
        Ask::new("DELETE", &path),
        Ask::new("PATCH", "/docs"),
    ] {
        for fields in [
            &[("origin", "https://evil.example")][..],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            // Of two, none is believed.
            &[
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            let answer = server.ask(&with_fields(ask.clone(), fields)).await;
            assert_eq!(answer.status, 403, "{ask:?} {fields:?}");
            assert!(
                answer.error().starts_with("A page of another site"),
                "{answer:?}"
            );
        }
    }
    assert_eq!(server.store.writes(), 0);
}

#[tokio::test]
async fn a_refusal_names_both_hosts_and_nothing_that_is_none() {
    let server = TestServer::guarded(&open(listing(&[])));
    let here = server.address.to_string();
    for (fields, of_page, asked) in [
        (
            &[("origin", "https://evil.example:81")][..],
            "evil.example:81",
            &*here,
        ),
        (&[("origin", "http://[::1]:1")], "[::1]:1", &here),
        (&[("origin", "null")], "a host without a name", &here),
        (
            &[("origin", "https://a'b;reboot")],
            "a host without a name",
            &here,
        ),
        (
            &[("origin", "https://<script>")],
            "a host without a name",
            &here,
        ),
        (
            &[("sec-fetch-site", "cross-site")],
            "a host without a name",
            &here,
        ),
        (
            &[
                ("origin", "http://a"),
                ("x-forwarded-host", "public.example:8443"),
            ],
            "a",
            &format!("{here} and public.example:8443"),
        ),
        (
            &[("origin", "http://a"), ("x-forwarded-host", "$(b)")],
            "a",
            &here,
        ),
    ] {
        let post = with_fields(Ask::publish("foo"), fields);
        let answer = server
            .ask_over(crate::support::Protocol::Http1, &post)
            .await;
        assert_eq!(answer.status, 403, "{fields:?}");
        let expected = format!("the page is of {of_page}, the request is for {asked}.");
        let error = answer.error();
        assert!(error.contains(&expected), "{fields:?}: {error}");
        let is_certain = fields.iter().any(|(name, _)| *name == "sec-fetch-site");
        let is_about_proxies = error.contains("Host") && error.contains("--trusted-proxy");
        assert_eq!(is_about_proxies, !is_certain, "{error}");
    }
}

#[tokio::test]
async fn the_host_that_a_trusted_proxy_was_asked_for_is_that_of_the_page_too() {
    let server = TestServer::guarded(&open(listing(&[])));
    // As nginx passes a request on unless told otherwise.
    let behind = |origin: &'static str, fields: &[(&'static str, &'static str)]| {
        let ask = Ask::publish("foo").host("127.0.0.1:18082");
        with_fields(ask.field("origin", origin), fields)
    };
    for (origin, fields, status) in [
        (
            "https://public.example",
            &[("x-forwarded-host", "public.example")][..],
            201,
        ),
        (
            "http://public.example:81",
            &[("x-forwarded-host", "public.example:81")],
            201,
        ),
        (
            "https://public.example",
            &[("forwarded", "for=192.0.2.1;host=public.example")],
            201,
        ),
        (
            "http://[::1]:8080",
            &[("forwarded", "host=\"[::1]:8080\"")],
            201,
        ),
        (
            "https://public.example",
            &[("x-forwarded-host", "evil.example, public.example")],
            201,
        ),
        (
            "https://evil.example",
            &[("x-forwarded-host", "evil.example, public.example")],
            403,
        ),
        (
            "https://evil.example",
            &[("x-forwarded-host", "public.example")],
            403,
        ),
        (
            "https://public.example:81",
            &[("x-forwarded-host", "public.example")],
            403,
        ),
        (
            "https://public.example",
            &[("x-forwarded-server", "public.example")],
            403,
        ),
        (
            "https://public.example",
            &[("x-forwarded-host", "user@public.example")],
            403,
        ),
        ("http://127.0.0.1:18082", &[], 201),
        (
            "http://127.0.0.1:18101",
            &[("sec-fetch-site", "same-origin")],
            201,
        ),
        (
            "http://127.0.0.1:18101",
            &[("sec-fetch-site", "cross-site")],
            403,
        ),
        ("http://127.0.0.1:18101", &[("x-digestd-page", "1")], 201),
        ("http://127.0.0.1:18101", &[], 403),
    ] {
        let answer = server.ask(&behind(origin, fields)).await;
        assert_eq!(answer.status, status, "{origin} {fields:?}");
    }
}

// What browsers are told.

fn allowed(answer: &Answer) -> Option<&str> {
    answer.field("access-control-allow-origin")
}

/// The names that a field lists.
fn listed<'a>(answer: &'a Answer, field: &str) -> Vec<&'a str> {
    let value = answer.field(field).unwrap_or_default();
    value.split(", ").filter(|name| !name.is_empty()).collect()
}

/// As a browser asks before it sends `method` for a page of `origin`.
fn preflight(path: &str, origin: &str, method: &str, fields: &str) -> Ask {
    Ask::new("OPTIONS", path)
        .field("origin", origin)
        .field("sec-fetch-site", "cross-site")
        .field("access-control-request-method", method)
        .field("access-control-request-headers", fields)
}

const APP: &str = "https://app.example";

const OTHER: &str = "https://other.example";

#[tokio::test]
async fn a_page_of_a_listed_site_may_do_what_others_may() {
    let server = TestServer::guarded(&with_token(listing(&[APP])));
    let from = |ask: Ask, origin| {
        ask.field("origin", origin)
            .field("sec-fetch-site", "cross-site")
    };
    let ask = preflight("/messages", APP, "POST", "authorization");
    let answer = server.ask(&ask).await;
    assert_eq!((answer.status, allowed(&answer)), (204, Some(APP)));
    assert_eq!(answer.field("allow"), None);
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE"];
    assert_eq!(listed(&answer, "access-control-allow-methods"), methods);
    // All others are told what the path has, and nothing of pages.
    let answer = server.ask(&preflight("/messages", OTHER, "POST", "")).await;
    assert_eq!((answer.status, allowed(&answer)), (204, None));
    assert_eq!(answer.field("allow"), Some("POST, OPTIONS"));
    assert_eq!(answer.field("access-control-allow-headers"), None);

    let post = Ask::publish("foo").field("authorization", "Bearer all");
    let answer = server.ask(&from(post.clone(), APP)).await;
    assert_eq!((answer.status, allowed(&answer)), (201, Some(APP)));
    assert_eq!(answer.field("vary"), Some("accept, origin"));
    assert_eq!(answer.field("access-control-allow-credentials"), None);
    let answer = server.ask(&from(post, OTHER)).await;
    assert_eq!((answer.status, allowed(&answer)), (403, None));

    // It is told why it is refused, too.
    let answer = server.ask(&from(Ask::publish("foo"), APP)).await;
    assert_eq!((answer.status, allowed(&answer)), (401, Some(APP)));
    assert_eq!(answer.field("vary"), Some("origin"));
}

#[tokio::test]
async fn a_listed_site_may_send_every_field_that_means_something_and_none_of_the_service_itself() {
    let server = TestServer::guarded(&open(listing(&[APP])));
    for path in ["/messages", "/", "/messages/foo"] {
        let answer = server
            .ask(&preflight(path, APP, "GET", "traceparent"))
            .await;
        let fields = listed(&answer, "access-control-allow-headers");
        for name in [
            "traceparent",
            "tracestate",
            "baggage",
            "if-range",
            "range",
            "if-none-match",
            "accept",
            "authorization",
            "content-type",
            "content-digest",
            "repr-digest",
            "want-content-digest",
            "want-repr-digest",
            "x-request-id",
        ] {
            assert!(fields.contains(&name), "{path} {name}: {fields:?}");
        }
        let forbidden = |name: &&str| name.contains("forwarded") || name.starts_with("x-digestd");
        assert!(!fields.iter().any(forbidden), "{fields:?}");
        assert!(!fields.contains(&"*"), "{fields:?}");
    }
}

#[tokio::test]
async fn a_listed_site_sees_what_an_answer_tells() {
    let server = TestServer::guarded(&open(listing(&[APP])));
    store_foo(&server).await;
    let path = format!("/messages/sha256:{FOO}");
    for ask in [
        Ask::get(&path)
            .field("accept", "text/plain")
            .field("range", "bytes=0-1"),
        Ask::publish("bar"),
        Ask::new("PATCH", "/messages"),
    ] {
        let answer = server.ask(&ask.field("origin", APP)).await;
        let exposed = listed(&answer, "access-control-expose-headers");
        let is_told = |name: &str| {
            // What a page sees anyway (Fetch standard, 2.2.2), and what is for others.
            let safe = ["cache-control", "content-length", "content-type"];
            let of_browsers =
                name.starts_with("access-control-") || name == "vary" || name == "date";
            let protects = name == "x-content-type-options" || name == "content-security-policy";
            !safe.contains(&name) && !of_browsers && !protects
        };
        for name in answer.fields.keys().map(hyper::header::HeaderName::as_str) {
            assert!(
                !is_told(name) || exposed.contains(&name),
                "{name}: {exposed:?}"
            );
        }
        for name in [
            "content-range",
            "accept-ranges",
            "content-location",
            "location",
            "etag",
        ] {
            assert!(exposed.contains(&name), "{name}: {exposed:?}");
        }
    }
}

#[tokio::test]
async fn with_a_star_every_page_may_read_and_none_may_write_or_show_a_token() {
    let settings = Settings {
        public_read: true,
        ..listing(&["*"])
    };
    let server = TestServer::guarded(&with_token(settings));
    store_foo(&server).await;
    let path = format!("/messages/{FOO}");
    let lookup = || {
        Ask::post("/messages/lookup")
            .field("content-type", "application/x-ndjson")
            .body(format!("\"{FOO}\"\n"))
    };
    let from = |ask: Ask, site| ask.field("origin", OTHER).field("sec-fetch-site", site);
    for site in ["cross-site", "same-site"] {
        for (ask, status) in [
            (Ask::get(&path), 200),
            (Ask::head(&path), 200),
            (Ask::get("/messages/foo"), 404),
            (Ask::get("/"), 200),
            (Ask::get("/metrics"), 401),
            (lookup(), 200),
        ] {
            let answer = server.ask(&from(ask.clone(), site)).await;
            assert_eq!(
                (answer.status, allowed(&answer)),
                (status, Some("*")),
                "{ask:?}"
            );
            assert_eq!(answer.field("access-control-allow-credentials"), None);
            // The same to everybody.
            assert!(!answer.field("vary").unwrap_or_default().contains("origin"));
        }
        for ask in [
            Ask::publish("bar"),
            Ask::publish("bar").field("authorization", "Bearer all"),
            Ask::post("/"),
            Ask::put(&path, "foo"),
            Ask::new("DELETE", &path).field("authorization", "Bearer all"),
        ] {
            let answer = server.ask(&from(ask.clone(), site)).await;
            assert_eq!((answer.status, allowed(&answer)), (403, None), "{ask:?}");
        }
    }
    assert!(!server.service.holds(&Digest::of(b"bar")).unwrap());
    for (path, method, methods) in [
        ("/messages/foo", "GET", Some(&["GET", "HEAD"][..])),
        ("/messages/foo", "HEAD", Some(&["GET", "HEAD"])),
        ("/messages/lookup", "POST", Some(&["POST"])),
        ("/messages", "POST", None),
        ("/", "POST", None),
        ("/messages/foo", "PUT", None),
        ("/messages/foo", "DELETE", None),
        ("/messages/lookup", "PUT", None),
        ("/messages/foo", "get", None),
    ] {
        let answer = server.ask(&preflight(path, OTHER, method, "range")).await;
        assert_eq!(answer.status, 204, "{method} {path}");
        let said = listed(&answer, "access-control-allow-methods");
        assert_eq!(said, methods.unwrap_or_default(), "{method} {path}");
        assert_eq!(allowed(&answer), methods.map(|_| "*"), "{method} {path}");
        let fields = listed(&answer, "access-control-allow-headers");
        assert_eq!(fields.contains(&"range"), methods.is_some());
        for name in ["authorization", "x-digestd-page", "x-forwarded-host", "*"] {
            assert!(!fields.contains(&name), "{name}");
        }
    }
}

#[tokio::test]
async fn a_site_that_is_listed_beside_a_star_may_do_everything() {
    let server = TestServer::guarded(&open(listing(&["*", APP])));
    for (origin, status, told) in [(APP, 201, Some(APP)), (OTHER, 403, None)] {
        let answer = server
            .ask(&Ask::publish("foo").field("origin", origin))
            .await;
        assert_eq!(
            (answer.status, allowed(&answer)),
            (status, told),
            "{origin}"
        );
        let answer = server
            .ask(&Ask::get("/messages/foo").field("origin", origin))
            .await;
        assert_eq!(allowed(&answer), told.or(Some("*")), "{origin}");
        // Now it depends on who asks.
        assert_eq!(answer.field("vary"), Some("origin"));
        let answer = server
            .ask(&preflight("/messages", origin, "POST", "authorization"))
            .await;
        assert_eq!(allowed(&answer), told, "{origin}");
    }
    // Without `*`, nobody else is told anything, whatever is asked.
    let server = TestServer::guarded(&open(listing(&[APP])));
    for ask in [
        Ask::get("/"),
        preflight("/messages/lookup", OTHER, "POST", ""),
    ] {
        assert_eq!(allowed(&server.ask(&ask).await), None);
    }
}

#[tokio::test]
async fn what_a_proxy_may_have_to_do_with_it_is_said_where_the_browser_does_not_know_better() {
    let server = TestServer::start();
    for (site, is_about_proxies) in [
        (None, true),
        (Some("cross-site"), false),
        (Some("same-site"), false),
    ] {
        let mut ask = Ask::publish("foo").field("origin", "https://elsewhere.example");
        if let Some(site) = site {
            ask = ask.field("sec-fetch-site", site);
        }
        let answer = server.ask(&ask).await;
        assert_eq!(answer.status, 403, "{site:?}");
        let error = answer.error();
        assert_eq!(
            error.contains("A proxy in front"),
            is_about_proxies,
            "{error}"
        );
        assert!(error.contains("elsewhere.example"), "{error}");
        assert!(
            error.ends_with(" --cors-origin lists other sites."),
            "{error}"
        );
    }
}
