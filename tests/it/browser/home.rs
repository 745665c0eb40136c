//! The page of messages: tokens, files, several digests, what is copied, deleted and remembered.

use std::fs;

use digestd::digest::Digest;
use serde_json::{Value, json};

use super::{Browser, CONTROL_ENTER, ENTER, start};
use crate::process::{Launch, wait_until};

/// Drops files on the page, as a person does: of each, its name and its bytes.
fn drop_files(browser: &Browser, files: &[(&str, &[u8])]) {
    let script = format!(
        "(() => {{
            const dataTransfer = new DataTransfer();
            for (const [name, bytes] of {}) dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
            const bubbles = {{ bubbles: true, cancelable: true, dataTransfer }};
            const at = document.getElementById('message');
            at.dispatchEvent(new DragEvent('dragover', bubbles));
            return !at.dispatchEvent(new DragEvent('drop', bubbles));
        }})()",
        json!(files)
    );
    // Otherwise the browser would go to the file.
    assert_eq!(browser.ask(&script), true);
}

fn is_shown(browser: &Browser, element: &str) -> bool {
    let script = format!("document.querySelector('{element}')?.checkVisibility() ?? false");
    browser.ask(&script) == true
}

/// Puts text into a field without typing it.
fn fill(browser: &Browser, element: &str, text: &str) {
    let text = Value::from(text);
    browser.ask(&format!(
        "(() => {{
            const field = document.querySelector('{element}');
            field.value = {text};
            field.dispatchEvent(new Event('input'));
            field.focus();
        }})()"
    ));
}

fn store(browser: &Browser, text: &str) {
    fill(browser, "#message", text);
    browser.press(CONTROL_ENTER);
}

fn look_up(browser: &Browser, digests: &str) {
    fill(browser, "#wanted", digests);
    browser.press(ENTER);
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_token_is_asked_for_kept_for_the_tab_and_used() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    let line =
        |name, secret: &str| format!("{name} read,write {}\n", Digest::of(secret.as_bytes()));
    fs::write(&tokens, line("ci", "open-sesame")).unwrap();
    let server = Launch::new(&directory.path().join("data"))
        .option("--tokens", &tokens)
        .start();
    let browser = Browser::start();
    browser.open(&server, "/");
    browser.until_shown("#token-status", "Needed to read and write.");
    // The page begins with the message all the same.
    assert_eq!(browser.ask("document.activeElement.id"), "message");
    store(&browser, "foo");
    browser.until_shown("#stored.error", "token");

    fill(&browser, "#token", "another");
    browser.press(ENTER);
    browser.until_shown("#token-status", "does not know this token");
    fill(&browser, "#token", "not a token");
    browser.press(ENTER);
    browser.until_shown("#token-status", "A token is one word");
    fill(&browser, "#token", " Bearer open-sesame ");
    browser.press(ENTER);
    browser.until_shown("#token-status", "It allows read, write.");
    browser.until_shown("#state", "0 messages");
    store(&browser, "foo");
    browser.until_shown("#stored.good", "Stored;");
    browser.until_shown("#store-curl", "-H \"Authorization: Bearer $TOKEN\" ");
    look_up(&browser, &Digest::of(b"foo").to_string());
    browser.until_shown("#found", "foo");
    // With this token nobody deletes.
    assert!(!is_shown(&browser, ".delete"));

    let url = browser.ask("location.href");
    assert!(!url.as_str().unwrap().contains("sesame"), "{url}");
    assert_eq!(browser.ask("document.cookie"), "");
    let text = browser.ask("document.documentElement.outerHTML");
    assert!(!text.as_str().unwrap().contains("sesame"));
    browser.open(&server, "/");
    browser.until_shown("#token-status", "It allows read, write.");
    browser.ask("document.getElementById('forget-token').click()");
    browser.until_shown("#token-status", "Needed to read and write.");
    look_up(&browser, &Digest::of(b"foo").to_string());
    browser.until_shown("#found-status.error", "token");
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_message_is_stored_copied_downloaded_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(
        &tokens,
        format!("ci read,write,delete {}\n", Digest::of(b"x")),
    )
    .unwrap();
    let server = Launch::new(&directory.path().join("data"))
        .option("--tokens", &tokens)
        .start();
    let browser = Browser::start();
    browser.open(&server, "/");
    browser.until_shown("#token-status", "Needed");
    fill(&browser, "#token", "x");
    browser.press(ENTER);
    browser.until_shown("#token-status", "It allows read, write, delete.");
    let permissions = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.develop("Browser.grantPermissions", &permissions);
    let downloads = directory.path().join("downloads");
    let to = json!({ "behavior": "allow", "downloadPath": downloads });
    browser.develop("Browser.setDownloadBehavior", &to);

    let text = "one\ttwo 'three'";
    let digest = Digest::of(text.as_bytes()).to_string();
    store(&browser, text);
    browser.until_shown("#stored.good", "Stored; it survives a power cut.");
    store(&browser, text);
    browser.until_shown("#stored.good", "It was stored already.");
    browser.until_shown("#recent", &digest[..16]);
    browser.ask("document.querySelector('#recent a').click()");
    browser.until_shown("#found pre", text);

    let copied = |button: &str| {
        browser.ask("void navigator.clipboard.writeText('')");
        browser.ask(&format!(
            "document.querySelector('#found button[aria-label=\"Copy {button}\"]').click()"
        ));
        browser.until_shown("#found .actions [role=status]", "Copied.");
        let read =
            json!({ "script": "navigator.clipboard.readText().then(arguments[0])", "args": [] });
        let text = browser.tell("/execute/async", &read);
        text.as_str().unwrap().to_owned()
    };
    assert_eq!(copied("message"), text);
    assert_eq!(copied("digest"), digest);
    assert_eq!(copied("link"), format!("{}/#{digest}", server.url()));
    assert!(copied("curl line").ends_with(&format!("'{}/messages/{digest}'", server.url())));

    let press = |label: &str| {
        browser.ask(&format!(
            "[...document.querySelectorAll('#found button')].find((one) => one.textContent === '{label}').click()"
        ));
    };
    press("Download");
    let file = downloads.join(format!("{}.txt", &digest[..16]));
    wait_until("a file", || {
        fs::read_to_string(&file).is_ok_and(|read| read == text)
    });

    press("Delete");
    // Once is not enough.
    look_up(&browser, &digest);
    browser.until_shown("#found pre", text);
    press("Delete");
    press("Delete for everybody?");
    browser.until_shown("#found", "Deleted.");
    browser.until_shown("#state", "0 messages");
    assert!(!is_shown(&browser, "#recent-section"));
    look_up(&browser, &digest);
    browser.until_shown("#found-status.error", "Message not found.");
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_file_is_stored_byte_for_byte() {
    let (_data, server, browser) = start();
    browser.open(&server, "/");
    let text = "\u{feff}one\r\ntwo\r\n";
    let digest = Digest::of(text.as_bytes()).to_string();
    drop_files(&browser, &[("notes 1.txt", text.as_bytes())]);
    browser.until_shown("#file-name", "The file notes 1.txt, byte for byte.");
    browser.until_shown("#digest", &digest);
    browser.until_shown("#store-curl", "--data-binary '@notes 1.txt'");
    browser.ask("document.getElementById('store-button').click()");
    browser.until_shown("#stored.good", &digest);
    assert_eq!(
        server
            .client()
            .fetch(&Digest::of(text.as_bytes()))
            .as_deref(),
        Some(text)
    );
    for (files, words) in [
        (
            &[("a.png", &b"\x89PNG"[..])][..],
            "a.png is not UTF-8: a message is a text.",
        ),
        (&[("a", b"a"), ("b", b"b")], "One file at a time"),
    ] {
        drop_files(&browser, files);
        browser.until_shown("#stored.error", words);
        // The one before is still there.
        browser.until_shown("#digest", &digest);
    }
    browser.ask("document.getElementById('drop-file').click()");
    store(&browser, "typed");
    browser.until_shown("#stored.good", &Digest::of(b"typed").to_string());
}

#[test]
#[ignore = "needs chromium-driver"]
fn what_is_shown_is_what_was_asked_for_last() {
    let (_data, server, browser) = start();
    let mut client = server.client();
    let [one, two] = ["one", "two"].map(|text| client.publish(text).unwrap());
    browser.open(&server, "/");
    // One behind the other, before the first one is answered.
    browser.ask(&format!(
        "(() => {{
            for (const digest of ['{two}', '{one}']) {{
                location.hash = digest;
                dispatchEvent(new Event('hashchange'));
            }}
        }})()"
    ));
    browser.until_shown("#found pre", "one");
    let wanted = browser.ask("document.getElementById('wanted').value");
    assert_eq!(wanted, one.to_string());
    // A link to what the address names already.
    look_up(&browser, &two.to_string());
    browser.until_shown("#found pre", "two");
    browser.ask(&format!(
        "(() => {{
            const link = document.createElement('a');
            link.href = '#{one}';
            document.body.append(link);
            link.click();
        }})()"
    ));
    browser.until_shown("#found pre", "one");
}

#[test]
#[ignore = "needs chromium-driver"]
fn several_digests_are_looked_up_at_once() {
    let (_data, server, browser) = start();
    let mut client = server.client();
    let one = client.publish("one").unwrap();
    let two = client.publish("two\nlines").unwrap();
    let none = Digest::of(b"none");
    browser.open(&server, "/");
    look_up(&browser, &format!("{one}\n{none}  file\n\n{two}"));
    browser.until_shown("#found-status.error", "Found 2 of 3.");
    for (place, text) in [(1, "one"), (2, "not found"), (3, "two\nlines")] {
        browser.until_shown(&format!("#found li:nth-child({place})"), text);
    }
    look_up(&browser, &format!("{one} {two}"));
    browser.until_shown("#found-status.good", "Found 2 of 2.");
    look_up(&browser, &format!("\n{one}\n\nabc"));
    browser.until_shown(
        "#found-status.error",
        "Line 4: A digest has 64 digits, and this has 3.",
    );
    look_up(&browser, &format!("{one}\n").repeat(101));
    browser.until_shown("#found-status.error", "100 digests at a time");
    look_up(&browser, &format!("{one}\n").repeat(100));
    browser.until_shown("#found-status.good", "Found 100 of 100.");
}
