//! The page of all requests: the list, the token, the forms, the programs.

use std::path::Path;
use std::process::{Command, Output};
use std::{fs, iter};

use digestd::digest::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Browser, ENTER, TAB, start};
use crate::process::{Digestd, Launch};

/// A token that allows to read and write, but not to delete.
const TOKEN: &str = "a-token-of-this-test";

/// Texts that end a string in one language or another.
const TEXTS: [&str; 4] = [
    "it's \"$HOME\" `x` ${x} %s",
    "@two\nlines\n",
    "\"\"\"three\"\"\"\n'''\\n` ${'\n\"",
    "für \u{1f980} \u{feff}\u{2028}\t\u{7f}",
];

/// A server that asks for tokens.
fn start_with_tokens() -> (TempDir, Digestd, Browser) {
    let data = tempfile::tempdir().unwrap();
    let tokens = data.path().join("tokens");
    let line = format!("tester read,write {}\n", Digest::of(TOKEN.as_bytes()));
    fs::write(&tokens, line).unwrap();
    let store = data.path().join("store");
    let server = Launch::new(&store).option("--tokens", &tokens).start();
    (data, server, Browser::start())
}

impl Browser {
    fn open_docs(&self, server: &Digestd, fragment: &str) {
        self.open_url("about:blank");
        self.open(server, &format!("/docs{fragment}"));
        self.until("document.querySelector('#errors table') !== null");
    }

    /// Sends the form of an operation.
    fn send(&self, operation: &str) {
        let button = format!("document.querySelector('#{operation} .try .main')");
        self.ask(&format!("{button}.closest('details').open = true"));
        self.ask(&format!("{button}.click()"));
    }

    /// The program of an operation in a language.
    fn program(&self, operation: &str, language: &str) -> String {
        self.ask(&format!(
            "document.querySelector('#{operation}-{language}').click()"
        ));
        let text = self.ask(&format!(
            "document.querySelector('#{operation}-program').textContent"
        ));
        text.as_str().unwrap().to_owned()
    }

    /// Writes into a control of an operation's form.
    fn write(&self, operation: &str, control: &str, text: &str) {
        let text = Value::from(text);
        self.ask(&format!(
            "(() => {{
                const control = document.querySelector('#{operation} .try {control}');
                control.value = {text};
                control.dispatchEvent(new Event('change', {{ bubbles: true }}));
                control.dispatchEvent(new Event('input', {{ bubbles: true }}));
            }})()"
        ));
    }
}

#[test]
#[ignore = "needs chromium-driver"]
fn every_request_can_be_sent_from_the_page_of_all_requests() {
    let (_data, server, browser) = start();
    server.client().publish("foo").unwrap();
    browser.open_docs(&server, "");
    let send = "[...document.querySelectorAll('.operation')].map((operation) => {
        operation.querySelector('.try .main').click();
        return operation.id;
    })";
    let operations = browser.ask(send);
    let operations = operations.as_array().unwrap();
    assert_eq!(operations.len(), 27, "{operations:?}");
    for operation in operations {
        let operation = operation.as_str().unwrap();
        let (kind, status) = if operation.starts_with("delete") {
            // There are no tokens.
            ("error", "403")
        } else if operation.starts_with('p') && !["pagePart", "publishAll"].contains(&operation) {
            ("good", "201")
        } else {
            ("good", "200")
        };
        let answer = format!("#{operation} .result .answer.{kind}");
        browser.until_shown(&answer, status);
        // As the example of the answer says, if there is one.
        let said = format!("document.querySelector('#{operation} .sample b').textContent");
        let said = browser.ask(&said);
        assert!(said == status || said == "", "{operation}: {said}");
    }
}

#[test]
#[ignore = "needs chromium-driver"]
fn the_answer_that_is_shown_is_that_of_the_request() {
    let (_data, server, browser) = start();
    browser.open_docs(&server, "");
    let shown = |operation: &str| {
        let sample = format!("document.querySelector('#{operation} .sample')");
        let text = browser.ask(&format!(
            "{sample}.checkVisibility() ? {sample}.textContent : ''"
        ));
        text.as_str().unwrap().to_owned()
    };
    let stored = "201 application/json{\n  \"digest\": \"2c26b46b";
    assert!(shown("publish").starts_with(stored), "{}", shown("publish"));
    browser.write("publish", "select:nth-of-type(2)", "application/x-ndjson");
    assert!(shown("publish").contains("\"line\": 2"));
    // No example has the digest of this one in JSON.
    browser.write("publish", "select:nth-of-type(2)", "text/plain");
    assert_eq!(shown("publish"), "");
    browser.write("publish", "select", "text/plain");
    assert!(shown("publish").starts_with("201 text/plain3cd2b845"));
    assert!(shown("lookUp").contains("\"line\": 2"));
    browser.write("lookUp", "select", "application/json");
    assert!(shown("lookUp").contains("\"index\": 1"));
    assert_eq!(shown("home"), "");
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_token_is_entered_once_and_used_by_every_form_of_the_tab() {
    let (_data, server, browser) = start_with_tokens();
    browser.open_docs(&server, "");
    browser.until_shown("#asked", "Asked for to read and write.");
    browser.send("publish");
    browser.until_shown("#publish .answer.error", "401");
    // Which leads to where it is entered.
    browser.ask("document.querySelector('#publish .result button').focus()");
    browser.press(ENTER);
    browser.until("document.activeElement.id === 'token'");
    browser.press("wrong");
    browser.send("publish");
    browser.until_shown("#publish .result button", "Enter another token");
    browser.go_to("#forget");
    browser.press(ENTER);
    browser.press(TOKEN);
    for (operation, status) in [("publish", "201"), ("fetch", "200"), ("fetchByName", "200")] {
        browser.send(operation);
        browser.until_shown(&format!("#{operation} .answer.good"), status);
    }
    browser.send("delete");
    browser.until_shown("#delete .answer.error", "403");

    // It is nowhere but in the control and in what is kept for the tab.
    for language in ["curl", "Python", "JavaScript", "Go"] {
        let program = browser.program("publish", language);
        assert!(
            program.contains("TOKEN") && !program.contains(TOKEN),
            "{program}"
        );
    }
    let page = browser.ask("document.documentElement.outerHTML + location.href + document.cookie");
    assert!(!page.as_str().unwrap().contains(TOKEN));
    browser.tell("/refresh", &json!({}));
    browser.until("document.querySelector('#errors table') !== null");
    assert_eq!(browser.ask("document.getElementById('token').value"), TOKEN);
    browser.send("look");
    browser.until_shown("#look .answer.good", "200");

    browser.go_to("#forget");
    browser.press(ENTER);
    browser.send("look");
    browser.until_shown("#look .answer.error", "401");
    assert_eq!(browser.ask("sessionStorage.length"), 0);
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_program_has_a_token_where_one_is_asked_for_or_was_entered() {
    let (_data, server, browser) = start();
    browser.open_docs(&server, "");
    let has_token = |operation| browser.program(operation, "curl").contains("Bearer $TOKEN");
    assert!(!has_token("publish") && !has_token("export") && has_token("delete"));
    browser.go_to("#token");
    browser.press("x");
    assert!(has_token("publish") && has_token("export") && has_token("live"));
}

#[test]
#[ignore = "needs chromium-driver"]
fn what_a_query_says_is_in_the_request() {
    let (_data, server, browser) = start();
    browser.open_docs(&server, "");
    for (operation, typed, query) in [
        ("export", &["", "1"][..], "/messages?limit=1'"),
        ("export", &["a b", "1"], "/messages?after=a%20b&limit=1'"),
        ("lookUp", &["x"], "/messages/lookup?missing'"),
        ("lookUp", &[""], "/messages/lookup'"),
    ] {
        for (index, text) in iter::zip(1.., typed) {
            browser.write(operation, &format!("input:nth-of-type({index})"), text);
        }
        let line = browser.program(operation, "curl");
        assert!(line.contains(query), "{line}");
    }
}

#[test]
#[ignore = "needs chromium-driver"]
fn the_list_is_filtered_and_leads_to_a_request_with_the_keyboard_alone() {
    let (_data, server, browser) = start();
    let shown = "[...document.querySelectorAll('#groups a')].filter((link) => link.checkVisibility()).length";
    for width in [1280, 390] {
        let screen =
            json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
        browser.develop("Emulation.setDeviceMetricsOverride", &screen);
        browser.open_docs(&server, "");
        let is_narrow = width == 390;
        assert_eq!(
            browser.ask("document.querySelector('#menu').checkVisibility()"),
            is_narrow
        );
        // The first request is on the first screen.
        let bottom = browser
            .ask("document.querySelector('#publish-program').getBoundingClientRect().bottom");
        assert!(bottom.as_f64().unwrap() < 800.0, "{width}: {bottom}");
        if is_narrow {
            assert_eq!(browser.ask(shown), 0);
            browser.go_to("#menu");
            browser.press(ENTER);
        }
        assert_eq!(browser.ask(shown), 20);
        browser.go_to("#filter");
        browser.press("none of them");
        browser.until_shown("#filtered", "0 requests found");
        assert_eq!(browser.ask(shown), 0);
        browser.ask("document.getElementById('filter').select()");
        // Also by an alias.
        browser.press("well-known get");
        browser.until_shown("#filtered", "1 request found");
        assert_eq!(browser.ask(shown), 1);
        browser.press(TAB);
        browser.press(ENTER);
        browser.until("location.hash === '#fetch'");
        let top = "document.querySelector('#fetch-title').getBoundingClientRect().top";
        browser.until(&format!("{top} >= 0 && {top} < 200"));
        if is_narrow {
            assert_eq!(browser.ask(shown), 0);
        }
    }
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_link_opens_what_it_names() {
    let (_data, server, browser) = start();
    for name in ["fetchByAlgorithm", "publishAtRoot", "put", "error-not-json"] {
        browser.open_docs(&server, &format!("#{name}"));
        let top = format!("document.getElementById('{name}').getBoundingClientRect().top");
        browser.until(&format!(
            "document.getElementById('{name}').checkVisibility() && {top} < 800"
        ));
    }
    let link = browser.ask("document.querySelector('#put .anchor').href");
    assert_eq!(link, format!("{}/docs#put", server.url()));
}

#[test]
#[ignore = "needs chromium-driver"]
fn the_language_is_one_for_all_requests_and_kept() {
    let (_data, server, browser) = start();
    browser.open_docs(&server, "");
    browser.go_to("#publish [role=tab]");
    // To the left of the first is the last.
    browser.press("\u{e012}");
    browser.until("document.activeElement.id === 'publish-Go'");
    browser.tell("/refresh", &json!({}));
    browser.until("document.querySelector('#errors table') !== null");
    browser.until_shown("#metrics-program", "package main");
    browser.until("document.querySelectorAll('[role=tab][aria-selected=true]').length === 27");
}

/// Runs a program in a language.
fn run(directory: &Path, language: &str, program: &str) -> Output {
    let file = directory.join("program.go");
    let mut command = match language {
        "curl" => Command::new("sh"),
        "Python" => Command::new("python3"),
        "JavaScript" => Command::new("node"),
        _ => Command::new("go"),
    };
    match language {
        "curl" | "Python" => command.args(["-c", program]),
        "JavaScript" => command.args(["--input-type=module", "--eval", program]),
        _ => {
            fs::write(&file, format!("{program}\n")).unwrap();
            let format = Command::new("gofmt").arg("-l").arg(&file).output();
            assert_eq!(format.unwrap().stdout, b"", "{program}");
            command.arg("run").arg(&file)
        }
    };
    command.env("TOKEN", TOKEN).output().unwrap()
}

#[test]
#[ignore = "needs chromium-driver, curl, nodejs, python3 and golang-go"]
fn the_programs_do_what_the_form_does() {
    let (_data, server, browser) = start_with_tokens();
    let directory = tempfile::tempdir().unwrap();
    browser.open_docs(&server, "");
    browser.until_shown("#asked", "Asked for");
    let check = |operation: &str, language: &str, expected: &str| {
        let program = browser.program(operation, language);
        let output = run(directory.path(), language, &program);
        let answer = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(answer.contains(expected), "{program}\n{answer}\n{error}");
    };
    let foo = Digest::of(b"foo").to_string();
    for language in ["curl", "Python", "JavaScript", "Go"] {
        check("publish", language, &foo);
        check("fetch", language, "\"message\": \"foo\"");
        check("fetchByIntegrity", language, "\"message\": \"foo\"");
        check("put", language, &foo);
        check("lookUp", language, "\"line\": 2");
        check("publishAll", language, "\"results\"");
    }
    browser.write("publish", "select:nth-of-type(2)", "text/plain");
    browser.write("fetch", "select", "text/plain");
    for text in TEXTS {
        browser.write("publish", "textarea", text);
        let digest = Digest::of(text.as_bytes()).to_string();
        browser.write("fetch", "input", &digest);
        for language in ["curl", "Python", "JavaScript", "Go"] {
            check("publish", language, &digest);
            check("fetch", language, text);
        }
    }
}
