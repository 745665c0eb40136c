//! Real caches in front of the real binary: what may be kept is served by them, also while the
//! service is away, and what may change is not kept.
//!
//! They listen on sockets in a directory of the test, so that no port can be taken by somebody else.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Answer, Client, Digestd, Launch, PATIENCE, Process};

/// A cache in front of a server.
struct Front {
    server: Option<Digestd>,
    process: Process,
    socket: PathBuf,
    /// Its last owner, after the processes that write into it.
    _directory: TempDir,
}

impl Front {
    fn varnish() -> Self {
        Self::start(|directory, server| {
            let configuration = format!(
                "vcl 4.1;\nbackend service {{ .host = \"{}\"; .port = \"{}\"; }}\n",
                server.address().ip(),
                server.address().port()
            );
            let path = directory.join("varnish.vcl");
            fs::write(&path, configuration).unwrap();
            let mut command = Command::new("varnishd");
            command
                .args(["-F", "-j", "none", "-s", "malloc,16m", "-f"])
                .arg(path)
                .arg("-n")
                .arg(directory.join("varnish"))
                .arg("-a")
                .arg(directory.join("socket"));
            command
        })
    }

    /// With `directives` for the place in which the service is.
    fn nginx(directives: &str) -> Self {
        Self::start(|directory, server| {
            let path = directory.display();
            let configuration = format!(
                "daemon off; master_process off; pid {path}/pid; error_log stderr;
                 events {{}}
                 http {{
                   access_log off;
                   client_body_temp_path {path}/bodies;
                   proxy_temp_path {path}/answers;
                   fastcgi_temp_path {path}/1; uwsgi_temp_path {path}/2; scgi_temp_path {path}/3;
                   proxy_cache_path {path}/cache keys_zone=messages:1m;
                   server {{
                     listen unix:{path}/socket;
                     location / {{
                       proxy_pass {};
                       proxy_cache messages;
                       {directives}
                     }}
                   }}
                 }}",
                server.url()
            );
            let file = directory.join("nginx.conf");
            fs::write(&file, configuration).unwrap();
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-p"]).arg(directory);
            command.arg("-c").arg(file);
            command
        })
    }

    fn start(command: impl FnOnce(&Path, &Digestd) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Launch::new(&directory.path().join("data")).start();
        let child = command(directory.path(), &server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let front = Self {
            server: Some(server),
            process: Process(child),
            socket: directory.path().join("socket"),
            _directory: directory,
        };
        front.wait_until_it_answers();
        front
    }

    fn wait_until_it_answers(&self) {
        let started = Instant::now();
        loop {
            let answer = Client::connect_local(&self.socket)
                .and_then(|mut client| client.ask("GET", "/livez", &[], b""));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the cache does not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn client(&self) -> Client<UnixStream> {
        Client::connect_local(&self.socket).unwrap()
    }

    fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.client().ask(method, path, fields, body).unwrap()
    }

    /// Takes the service away.
    fn cut_off(&mut self) {
        self.server.take().unwrap().stop();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // So that it ends its own children, too.
        self.process.signal(Signal::TERM);
        self.process.wait();
    }
}

fn path_of(text: &str) -> String {
    format!("/messages/{}", Digest::of(text.as_bytes()))
}

/// What holds for every cache.
fn check(mut front: Front) {
    let path = path_of("foo");
    let as_text = [("Accept", "text/plain")];

    // A miss is asked for again, and is a hit as soon as there is something.
    for _ in 0..2 {
        assert_eq!(front.ask("GET", &path, &[], b"").status, 404);
    }
    assert_eq!(front.client().publish("foo").unwrap(), Digest::of(b"foo"));
    let json = front.ask("GET", &path, &[], b"");
    assert_eq!(json.text(), "{\n  \"message\": \"foo\"\n}\n");
    let text = front.ask("GET", &path, &as_text, b"");
    assert_eq!(text.text(), "foo");

    // The answer to the same question is the one that is kept.
    for (first, fields) in [(&json, &[][..]), (&text, &as_text)] {
        let again = front.ask("GET", &path, fields, b"");
        assert_eq!(again.body, first.body);
        assert_eq!(again.fields["x-request-id"], first.fields["x-request-id"]);
    }

    // So it is without the service, and so is the answer that it is still the same.
    front.cut_off();
    for (first, fields) in [(&json, &[][..]), (&text, &as_text)] {
        let kept = front.ask("GET", &path, fields, b"");
        assert_eq!((kept.status, &kept.body), (200, &first.body));
        let tag = [("If-None-Match", &*first.fields["etag"])];
        let known = front.ask("GET", &path, &[fields, &tag].concat(), b"");
        assert_eq!(known.status, 304, "{known:?}");
        assert_eq!(known.fields["etag"], first.fields["etag"]);
    }
    let missing = front.ask("GET", &path_of("bar"), &[], b"");
    assert!([502, 503].contains(&missing.status), "{missing:?}");
}

#[test]
#[ignore = "needs varnish"]
fn varnish_keeps_messages_and_no_misses() {
    check(Front::varnish());
}

#[test]
#[ignore = "needs nginx"]
fn nginx_keeps_messages_and_no_misses() {
    check(Front::nginx(""));
}

#[test]
#[ignore = "needs nginx"]
fn an_upload_on_a_connection_to_be_closed_passes_through_nginx() {
    // By itself nginx reads the body first; without buffering it passes on what it has.
    for buffering in ["on", "off"] {
        let directives = format!(
            "client_max_body_size 0; proxy_request_buffering {buffering};
             proxy_set_header Connection close;"
        );
        let front = Front::nginx(&directives);
        let text = "a".repeat(1 << 20);
        let fields = [("Content-Type", "text/plain"), ("Connection", "close")];
        let answer = front.ask("POST", "/messages", &fields, text.as_bytes());
        assert_eq!(answer.status, 201, "{buffering}");
        assert_eq!(front.ask("GET", &path_of(&text), &[], b"").status, 200);

        // Refused before it was read: the client learns why, and not that something broke.
        let mut client = front.client();
        let length = 64 << 20;
        let head = format!(
            "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
             Connection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        client.send(head.as_bytes()).unwrap();
        // It may close once it has answered.
        let _ = client.send(&vec![b'a'; length]);
        assert_eq!(client.answer().unwrap().status, 413, "{buffering}");
    }
}
