//! The pages in a real browser, driven over `WebDriver` (a W3C standard: JSON over HTTP).

mod home;

use std::io::{self, BufRead, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Client, Digestd, Launch, PATIENCE, Process};
use crate::proxied::Front;

mod accessibility;
mod docs;

/// Keys that are no characters, as `WebDriver` writes them.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SPACE: &str = " ";
const CONTROL_ENTER: &str = "\u{e009}\u{e007}";

/// A text that takes over any page which takes it for markup.
const HOSTILE: &str = "</pre><script>document.title = 'taken over'</script>\
                       <img src=x onerror=\"document.title = 'taken over'\">";

/// Chromium, without a window.
struct Browser {
    driver: Process,
    address: SocketAddr,
    session: String,
}

impl Browser {
    fn start() -> Self {
        // It takes a port that is free for one protocol, and ends if it is not for the other.
        let driver = (0..10).find_map(|_| start_driver());
        let (driver, port) = driver.expect("a driver that starts");
        let mut browser = Self {
            driver,
            address: ([127, 0, 0, 1], port).into(),
            session: String::new(),
        };
        let options = json!({
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu"]
        });
        let capabilities = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let wanted = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let session = browser.call("POST", "/session", &wanted);
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let mut client = Client::connect(self.address).unwrap();
        let answer = client.ask(method, path, &[], &body_of(body)).unwrap();
        let mut value: Value = serde_json::from_slice(&answer.body).unwrap();
        let value = value["value"].take();
        if answer.status == 200 {
            Ok(value)
        } else {
            Err(value)
        }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Does something within the session.
    fn tell(&self, command: &str, body: &Value) -> Value {
        self.call("POST", &format!("{}{command}", self.session), body)
    }

    fn open(&self, server: &Digestd, path: &str) {
        self.open_url(&format!("{}{path}", server.url()));
    }

    fn open_url(&self, url: &str) {
        self.tell("/url", &json!({ "url": url }));
    }

    /// Does what is for developers (Chrome `DevTools` protocol).
    fn develop(&self, command: &str, parameters: &Value) {
        let command = json!({ "cmd": command, "params": parameters });
        self.tell("/goog/cdp/execute", &command);
    }

    /// What a script says.
    fn ask(&self, script: &str) -> Value {
        let script = format!("return {script}");
        self.tell("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until a script says yes.
    fn until(&self, script: &str) {
        let started = Instant::now();
        while self.ask(script) != true {
            let text = self.ask("document.querySelector('main')?.innerText.slice(0, 2000)");
            assert!(started.elapsed() < PATIENCE, "{script}\n{text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until an element has `text` in it.
    fn until_shown(&self, element: &str, text: &str) {
        let text = Value::from(text);
        self.until(&format!(
            "document.querySelector('{element}')?.textContent.includes({text}) ?? false"
        ));
    }

    /// Presses keys, wherever the focus is.
    fn press(&self, keys: &str) {
        let active = format!("{}/element/active", self.session);
        let active = self.call("GET", &active, &Value::Null);
        let id = active.as_object().unwrap().values().next().unwrap();
        let command = format!("/element/{}/value", id.as_str().unwrap());
        self.tell(&command, &json!({ "text": keys }));
    }

    /// Presses the tabulator until the focus is on an element.
    fn go_to(&self, element: &str) {
        let script = format!("document.activeElement.matches('{element}')");
        for _ in 0..60 {
            if self.ask(&script) == true {
                return;
            }
            self.press(TAB);
        }
        panic!("the keyboard does not lead to {element}");
    }
}

/// The driver, and its port.
fn start_driver() -> Option<(Process, u16)> {
    let child = Command::new("chromedriver")
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut driver = Process(child.unwrap());
    let mut lines = BufReader::new(driver.0.stdout.take().unwrap()).lines();
    let port = lines.find_map(|line| {
        let line = line.unwrap();
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    })?;
    // Whatever else it has to say is read and dropped.
    thread::spawn(move || lines.for_each(drop));
    Some((driver, port))
}

fn body_of(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => Vec::new(),
        value => value.to_string().into(),
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Otherwise the browser outlives its driver.
        if let Ok(mut client) = Client::connect(self.address) {
            let _ = client.ask("DELETE", &self.session, &[], b"");
        }
        self.driver.signal(Signal::TERM);
    }
}

fn start() -> (TempDir, Digestd, Browser) {
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).env("DIGESTD_ALLOW_EXPORT", "true");
    (data, launch.start(), Browser::start())
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_message_is_stored_and_looked_up_with_the_keyboard_alone() {
    let (_data, server, browser) = start();
    browser.open(&server, "/");
    browser.until_shown("#state", "Ready · 0 messages");
    browser.go_to("#message");
    browser.press("two");
    browser.press(ENTER);
    browser.press("lines");
    let text = "two\nlines";
    let digest = Digest::of(text.as_bytes()).to_string();
    // As it is typed.
    browser.until_shown("#digest", &digest);
    browser.press(CONTROL_ENTER);
    browser.until_shown("#stored", "Stored; it survives a power cut.");
    browser.until_shown("#state", "Ready · 1 message ·");
    assert_eq!(
        server
            .client()
            .fetch(&Digest::of(text.as_bytes()))
            .as_deref(),
        Some(text)
    );

    browser.go_to("#stored a");
    browser.press(ENTER);
    browser.until_shown("#found", text);
    browser.until_shown("#found-status", "Found, 9 bytes. Its digest is right.");

    browser.open(&server, "/");
    browser.go_to("#wanted");
    browser.press(&digest);
    browser.press(ENTER);
    browser.until_shown("#found", text);
    browser.go_to("#look-up ~ details summary");
    browser.press(SPACE);
    browser.until("document.querySelector('#look-up ~ details').open");
    browser.go_to("#copy-look-up");
    browser.press(ENTER);
    browser.until("document.querySelector('#copy-look-up + span').textContent !== ''");
}

#[test]
#[ignore = "needs chromium-driver"]
fn the_curl_line_is_one_whatever_the_message_is() {
    let (_data, server, browser) = start();
    browser.open(&server, "/");
    browser.go_to("#message");
    let text = "@it's \"$HOME\" `x` \\ 'quoted'";
    browser.press(text);
    let digest = Digest::of(text.as_bytes());
    browser.until_shown("#digest", &digest.to_string());
    let line = browser.ask("document.getElementById('store-curl').textContent");
    let output = Command::new("sh")
        .args(["-c", line.as_str().unwrap()])
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(output.contains(&digest.to_string()), "{line}: {output}");
}

#[test]
#[ignore = "needs chromium-driver"]
fn what_goes_wrong_is_said_in_words() {
    let (_data, server, browser) = start();
    browser.open(&server, "/");
    let look_up = |digest: &str| {
        browser.ask(&format!(
            "document.getElementById('wanted').value = '{digest}'"
        ));
        browser.go_to("#wanted");
        browser.press(ENTER);
    };
    for (digest, words) in [
        ("", "Which one?"),
        ("abc", "A digest has 64 digits, and this has 3."),
        ("sha256:abc", "only the digits 0 to 9 and a to f"),
        (&Digest::of(b"nothing").to_string(), "Message not found."),
    ] {
        look_up(digest);
        browser.until_shown("#found-status.error", words);
    }
    // Larger than a message may be.
    browser.ask("document.getElementById('message').value = 'a'.repeat(2 ** 20 + 1)");
    browser.go_to("#store-button");
    browser.press(ENTER);
    browser.until_shown("#stored.error", "The body is larger than 1048576 bytes.");
    browser.ask("void (document.getElementById('message').value = '\\ud800')");
    browser.press(ENTER);
    browser.until_shown("#stored.error", "half a character");

    server.stop();
    look_up(&Digest::of(b"nothing").to_string());
    browser.until_shown("#found-status.error", "The service cannot be reached.");
    browser.until_shown("#state.error", "The service cannot be reached.");
}

/// Passes on connections to a socket in the file system, which browsers do not open.
fn relay(socket: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = UnixStream::connect(&socket) else {
                continue;
            };
            let (from, to): (TcpStream, _) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut &from, &mut &to);
                let _ = to.shutdown(Shutdown::Write);
            });
            thread::spawn(move || {
                let _ = io::copy(&mut &server, &mut &client);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// Stores and looks up on both pages at an address, which ends with a slash.
fn use_pages_at(browser: &Browser, url: &str) {
    browser.open_url(url);
    browser.until_shown("#state", "Ready");
    browser.go_to("#message");
    browser.press("foo");
    let here = Value::from(format!("'{url}messages'"));
    browser.until(&format!(
        "document.querySelector('#store-curl').textContent.endsWith({here})"
    ));
    browser.press(CONTROL_ENTER);
    browser.until_shown("#stored", "tored");
    browser.go_to("#stored a");
    browser.press(ENTER);
    browser.until_shown("#found-status", "Found, 3 bytes. Its digest is right.");
    browser.ask("document.querySelector('footer a').click()");
    browser.until("document.querySelector('#publish .try') !== null");
    assert_eq!(browser.ask("location.href"), format!("{url}docs"));
    for operation in ["publish", "fetch", "put"] {
        browser.ask(&format!(
            "document.querySelector('#{operation} .try .main').click()"
        ));
        browser.until_shown(&format!("#{operation} .result .answer.good"), "20");
        let line = format!("document.querySelector('#{operation}-program').textContent");
        let line = browser.ask(&line);
        assert!(
            line.as_str().unwrap().contains(&format!("'{url}messages")),
            "{line}"
        );
    }
    browser.ask("document.querySelector('h1 a').click()");
    browser.until_shown("#state", "Ready");
    assert_eq!(browser.ask("location.href"), url);
}

#[test]
#[ignore = "needs chromium-driver"]
fn the_pages_work_below_a_base_path() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--base-path", "/a/digestd")
        .start();
    let browser = Browser::start();
    use_pages_at(&browser, &format!("{}/a/digestd/", server.url()));
    use_pages_at(&browser, &format!("{}/", server.url()));
    // Without the slash at its end.
    browser.open(&server, "/a/digestd");
    assert_eq!(browser.ask("location.pathname"), "/a/digestd/");
}

#[test]
#[ignore = "needs chromium-driver and nginx"]
fn the_pages_work_behind_nginx() {
    let browser = Browser::start();
    let base_path = ("--base-path", "/digestd");
    let trusted = ("--trusted-proxy", "127.0.0.1");
    let prefix = "/; proxy_set_header X-Forwarded-Prefix /digestd;";
    // As older browsers and those that are not on this machine do.
    let bare = "; proxy_set_header Sec-Fetch-Site '';";
    for (options, path, rest) in [
        (&[][..], "/", ";"),
        (&[], "/", "; proxy_set_header Host $host;"),
        (&[], "/", bare),
        (&[base_path], "/digestd/", ";"),
        (&[base_path], "/digestd/", "/;"),
        (&[trusted], "/digestd/", prefix),
    ] {
        let location = format!("location {path} {{ proxy_pass http://SERVER{rest} }}");
        let front = Front::nginx(options, &location);
        let address = relay(front.socket.clone());
        use_pages_at(&browser, &format!("http://{address}{path}"));
    }
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_page_of_another_site_reads_what_a_star_permits_and_writes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--cors-origin", "*")
        .start();
    let digest = server.client().publish("foo").unwrap();
    let other = tempfile::tempdir().unwrap();
    // What it shows has no policy of its own.
    let other = Launch::new(other.path()).start();
    let browser = Browser::start();
    browser.open(&other, "/livez");
    let url = server.url().replace("127.0.0.1", "localhost");
    let attempt = |options: &str, path: &str| {
        let script = format!(
            "const done = arguments[0];
             fetch('{url}{path}', {options}).then((answer) => answer.text(), () => 'refused').then(done)"
        );
        let script = json!({ "script": script, "args": [] });
        browser.tell("/execute/async", &script)
    };
    let text = "{ headers: { Accept: 'text/plain', Range: 'bytes=0-1', traceparent: 'x' } }";
    assert_eq!(attempt(text, &format!("/messages/{digest}")), "fo");
    let lines = format!(
        "{{ method: 'POST', headers: {{ 'Content-Type': 'application/x-ndjson' }}, body: '\"{digest}\"' }}"
    );
    let found = attempt(&lines, "/messages/lookup");
    assert_eq!(found, "{\"message\": \"foo\"}\n");
    for options in [
        "{ method: 'POST', body: 'bar' }",
        "{ method: 'POST', body: 'bar', headers: { 'X-Digestd-Page': '1' } }",
        "{ method: 'POST', body: 'bar', mode: 'no-cors' }",
        "{ method: 'PUT', body: 'bar' }",
        "{ headers: { Authorization: 'Bearer x' } }",
    ] {
        let said = attempt(options, "/messages");
        assert!(said == "refused" || said == "", "{options}: {said}");
    }
    assert_eq!(server.client().fetch(&Digest::of(b"bar")), None);
}

#[test]
#[ignore = "needs chromium-driver"]
fn a_script_in_a_message_never_runs() {
    let (_data, server, browser) = start();
    let digest = server.client().publish(HOSTILE).unwrap();
    let quiet = || {
        assert_ne!(browser.ask("document.title"), "taken over");
        assert_eq!(
            browser.ask("document.querySelectorAll('img[src=x]').length"),
            0
        );
    };

    browser.open(&server, &format!("/#{digest}"));
    browser.until_shown("#found", HOSTILE);
    quiet();
    browser.ask("document.getElementById('message').focus()");
    browser.press(HOSTILE);
    browser.press(CONTROL_ENTER);
    browser.until_shown("#stored", &digest.to_string());
    quiet();

    // The page of all requests shows it as well.
    browser.open(&server, "/docs#fetch");
    browser.until("document.querySelector('#fetch .try input') !== null");
    browser.ask(&format!(
        "document.querySelector('#fetch .try input').value = '{digest}'"
    ));
    browser.ask("document.querySelector('#fetch .try select').value = 'text/plain'");
    browser.ask("document.querySelector('#fetch .try .main').click()");
    browser.until_shown("#fetch .result", HOSTILE);
    quiet();

    // And by itself, as the browser shows what it is given.
    browser.open(&server, &format!("/messages/{digest}"));
    browser.until("document.body.innerText.includes('script')");
    quiet();
    assert_eq!(browser.ask("document.scripts.length"), 0);
}

#[test]
#[ignore = "needs chromium-driver"]
fn every_control_has_a_name_and_everything_fits_a_phone() {
    let (_data, server, browser) = start();
    let phone = json!({ "width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": true });
    browser.develop("Emulation.setDeviceMetricsOverride", &phone);
    for path in ["/", "/docs"] {
        browser.open(&server, path);
        browser.until("document.querySelectorAll('pre').length > 0");
        browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
        browser.ask("document.querySelector('[aria-expanded=false]')?.click()");
        let width = browser.ask("document.documentElement.scrollWidth");
        assert!(width.as_u64().unwrap() <= 320, "{path}: {width}");
        let controls = json!({ "using": "css selector", "value": ":is(a, button, input, select, summary, textarea):not([hidden])" });
        let controls = browser.tell("/elements", &controls);
        let controls = controls.as_array().unwrap();
        assert!(controls.len() >= 10, "{controls:?}");
        for control in controls {
            // What is hidden has none.
            let is_shown =
                json!({ "script": "return arguments[0].checkVisibility()", "args": [control] });
            if browser.tell("/execute/sync", &is_shown) == false {
                continue;
            }
            let id = control.as_object().unwrap().values().next().unwrap();
            let element = format!("{}/element/{}", browser.session, id.as_str().unwrap());
            let name = browser.call("GET", &format!("{element}/computedlabel"), &Value::Null);
            assert_ne!(name, "", "{path}: {element}");
        }
    }
}
