//! The pages from outside: who gets which, how they are kept, and that nothing in them needs or
//! trusts anything else. What they do in a browser is in `browser`.

use std::fs;
use std::sync::Arc;

use digestd::access::{Access, Settings};
use digestd::digest::Digest;
use digestd::store::{Fault, StoreError};
use serde_json::{Value, json};

use crate::support::{Ask, TestServer};

/// What Chromium sends.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,\
                       image/apng,*/*;q=0.8";

const HTML: &str = "text/html; charset=utf-8";

fn browse(path: &str) -> Ask {
    Ask::get(path).field("accept", BROWSER)
}

async fn figures(server: &TestServer) -> Value {
    let ask = Ask::get("/").field("accept", "application/json");
    let answer = server.ask(&ask).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    let value: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.text(), format!("{value:#}\n"));
    value
}

/// The values of `attribute` in `html`.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let rest = html.split(&*start).skip(1);
    rest.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn a_browser_gets_a_page_and_curl_gets_help_from_the_same_path() {
    let server = TestServer::start();
    let page = server.ask(&browse("/")).await;
    assert_eq!(page.field("content-type"), Some(HTML));
    let help = server.ask(&Ask::get("/").field("accept", "*/*")).await;
    assert_eq!(
        help.field("content-type"),
        Some("text/plain; charset=utf-8")
    );
    for answer in [page, help] {
        assert_eq!(answer.field("vary"), Some("accept"));
    }
}

#[tokio::test]
async fn the_figures_say_how_many_messages_there_are_and_what_does_not_work() {
    let server = TestServer::starting(|_| {});
    let reason = "the service is starting";
    let starting = json!({ "reads": false, "writes": false, "reason": reason });
    assert_eq!(figures(&server).await, starting);

    server.service.start(server.store.clone());
    server.publish("foo").await;
    let ready = json!({ "reads": true, "writes": true, "messages": 1, "disk_bytes": 0 });
    assert_eq!(figures(&server).await, ready);

    server.store.set_fault(Some(Fault::Puts(StoreError::Full)));
    let full = figures(&server).await;
    assert_eq!(
        (&full["reads"], &full["writes"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(full["reason"], "the disk is full");
}

#[tokio::test]
async fn a_page_is_kept_and_asked_about_each_time() {
    let server = TestServer::start();
    for path in [
        "/",
        "/docs",
        "/openapi.json",
        "/openapi.yaml",
        "/pages/home.js",
    ] {
        let page = server.ask(&browse(path)).await;
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.field("cache-control"), Some("no-cache"), "{path}");
        let tag = page.field("etag").unwrap();
        let known = server.ask(&browse(path).field("if-none-match", tag)).await;
        assert_eq!(known.status, 304, "{path}");
        for name in ["cache-control", "content-security-policy", "etag", "vary"] {
            assert_eq!(known.field(name), page.field(name), "{path}");
        }
        let other = browse(path).field("if-none-match", "\"other\"");
        assert_eq!(server.ask(&other).await.status, 200, "{path}");
    }
}

/// The path to which an address leads that stands in a page, which is right below the root of the service. It is
/// relative, so that it leads there wherever the service is.
fn below(address: &str) -> String {
    let address = address.strip_prefix("./").unwrap_or(address);
    assert!(
        !address.starts_with(['/', '.']) && !address.contains(':'),
        "{address}"
    );
    format!("/{address}")
}

#[tokio::test]
async fn nothing_in_a_page_says_where_the_service_is() {
    let server = TestServer::start();
    for path in [
        "/",
        "/docs",
        "/pages/common.js",
        "/pages/docs.css",
        "/pages/docs.js",
        "/pages/examples.js",
        "/pages/home.js",
        "/pages/request.js",
        "/pages/spec.js",
        "/pages/style.css",
        "/pages/token.js",
    ] {
        let page = server.ask(&browse(path)).await;
        for word in [
            "localhost",
            "8080",
            "<base",
            "'/pages",
            "\"/pages",
            "fetch('",
            "url(/",
        ] {
            assert!(!page.text().contains(word), "{path}: {word}");
        }
    }
}

#[tokio::test]
async fn all_that_a_page_uses_is_there() {
    let server = TestServer::start();
    for path in ["/", "/docs"] {
        let page = server.ask(&browse(path)).await;
        let html = page.text();
        let used = [values(html, "src"), values(html, "href")].concat();
        assert!(used.len() >= 3, "{used:?}");
        for used in used {
            let used = below(used);
            assert_eq!(server.ask(&browse(&used)).await.status, 200, "{used}");
        }
        for script in values(html, "src") {
            let answer = server.ask(&Ask::get(below(script))).await;
            for import in answer.text().split(" from '").skip(1) {
                let import = import.split('\'').next().unwrap();
                let import = format!("/pages/{}", import.strip_prefix("./").expect(import));
                let imported = server.ask(&Ask::get(&import)).await;
                let kind = imported.field("content-type");
                assert_eq!(kind, Some("text/javascript; charset=utf-8"), "{import}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_may_use_nothing_from_elsewhere_and_run_nothing_inline() {
    let server = TestServer::start();
    for path in ["/", "/docs"] {
        let page = server.ask(&browse(path)).await;
        let policy = page.field("content-security-policy").unwrap();
        let rules: Vec<_> = policy.split("; ").collect();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(rules.contains(&rule), "{rule}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let html = page.text();
        for forbidden in ["<script>", "<style", " style=", " onclick=", " onload="] {
            assert!(!html.contains(forbidden), "{path}: {forbidden}");
        }
    }
}

#[tokio::test]
async fn only_the_files_of_the_pages_are_there() {
    let server = TestServer::start();
    for path in [
        "/pages/",
        "/pages/home.html",
        "/pages/../docs",
        "/pages//home.js",
        "/pages/home.js/",
        "/pages/HOME.JS",
        "/docs/",
        "/openapi.yml",
    ] {
        assert_eq!(server.ask(&browse(path)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_figures_say_what_a_token_allows() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(
        &tokens,
        format!("ci write,delete {}\n", Digest::of(b"secret")),
    )
    .unwrap();
    let settings = Settings {
        tokens: Some(tokens),
        ..Settings::default()
    };
    let server = TestServer::guarded(&Arc::new(Access::new(settings).unwrap()));
    for (field, expected) in [
        ("Bearer secret", json!(["write", "delete"])),
        ("Bearer other", json!([])),
        ("Basic secret", json!([])),
    ] {
        let ask = Ask::get("/").field("accept", "application/json");
        let answer = server.ask(&ask.field("authorization", field)).await;
        let figures: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(figures["token_allows"], expected, "{field}");
    }
}

#[tokio::test]
async fn curl_lines_have_a_token_where_one_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, format!("ci read {}\n", Digest::of(b"secret"))).unwrap();
    for (has_tokens, public_read, expected) in [
        (false, false, [false, false, false]),
        (true, true, [true, true, false]),
        (true, false, [true, true, true]),
    ] {
        let settings = Settings {
            tokens: has_tokens.then(|| tokens.clone()),
            public_read,
            ..Settings::default()
        };
        let server = TestServer::guarded(&Arc::new(Access::new(settings).unwrap()));
        let help = server.ask(&Ask::get("/").field("accept", "*/*")).await;
        let lines = help
            .text()
            .lines()
            .filter(|line| line.starts_with("  curl "));
        let lines: Vec<_> = lines.collect();
        let has_token = |line: &&str| line.contains("-H \"Authorization: Bearer $TOKEN\" ");
        assert_eq!(lines.iter().map(has_token).collect::<Vec<_>>(), expected);
        let scopes = ["write", "write", "read"].into_iter().zip(expected);
        let mut scopes: Vec<_> = scopes.filter(|(_, is)| *is).map(|(name, _)| name).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let figures = figures(&server).await;
        if scopes.is_empty() {
            assert!(figures.get("needs_token").is_none(), "{figures}");
        } else {
            assert_eq!(figures["needs_token"], json!(scopes));
        }
        assert!(figures.get("token_allows").is_none(), "{figures}");
    }
}
