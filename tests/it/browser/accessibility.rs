//! What axe finds on the pages: nothing, whatever is open, in either colour scheme and at either width.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::{Browser, start};

/// The text of axe, which a package of Python brings.
fn axe() -> String {
    let find = "import importlib.util as util
print(util.find_spec('axe_playwright_python').submodule_search_locations[0])";
    let output = Command::new("python3").args(["-c", find]).output().unwrap();
    let directory = String::from_utf8(output.stdout).unwrap();
    fs::read_to_string(format!("{}/axe.min.js", directory.trim_end())).unwrap()
}

fn show_as(browser: &Browser, width: u32, scheme: &str) {
    let screen =
        json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
    let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
    for (command, params) in [
        ("setDeviceMetricsOverride", screen),
        ("setEmulatedMedia", media),
    ] {
        browser.develop(&format!("Emulation.{command}"), &params);
    }
}

#[test]
#[ignore = "needs chromium-driver and axe-playwright-python"]
fn axe_finds_nothing_on_either_page() {
    let axe = axe();
    let (_data, server, browser) = start();
    let digest = server.client().publish("foo").unwrap();
    let run = "const done = arguments[0];
        axe.run(document, { resultTypes: ['violations'] }).then(({ violations, passes }) => done([
            passes.length,
            ...violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}`)),
        ]))";
    for (page, ready) in [
        (
            format!("/#{digest}"),
            "document.querySelector('#found pre')?.textContent === 'foo'",
        ),
        (
            "/docs".into(),
            "document.querySelector('#errors table') !== null",
        ),
    ] {
        for (width, scheme) in [
            (1280, "light"),
            (1280, "dark"),
            (390, "light"),
            (390, "dark"),
        ] {
            show_as(&browser, width, scheme);
            // The same address with another fragment would be the same document.
            browser.open_url("about:blank");
            browser.open(&server, &page);
            browser.until(ready);
            // What is sent shows more, on /docs.
            browser.ask("document.querySelector('#publish .try .main')?.click()");
            browser.until("!document.querySelector('#publish .result') || document.querySelector('#publish .answer.good') !== null");
            browser
                .ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
            browser.ask(
                "document.querySelectorAll('[aria-expanded=false]').forEach((one) => one.click())",
            );
            let script = json!({ "script": axe, "args": [] });
            browser.tell("/execute/sync", &script);
            let script = json!({ "script": run, "args": [] });
            let found = browser.tell("/execute/async", &script);
            let found = found.as_array().unwrap();
            assert!(found[0].as_u64().unwrap() > 20, "{found:?}");
            assert!(found.len() == 1, "{page} {width} {scheme}: {found:?}");
        }
    }
}
