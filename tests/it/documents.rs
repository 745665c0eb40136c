//! The pages in `docs/` say what the source says, and what they tell others to do works.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use digestd::config::Limits;
use digestd::digest::Digest;

use crate::process::{Client, Launch, PATIENCE, Process, run, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The rows of docs/limits.md that name something in the source: its name, and what the page says it is.
fn rows() -> Vec<(String, String)> {
    let page = fs::read_to_string(format!("{ROOT}/docs/limits.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(cells);
    let named = rows.filter_map(|cells| {
        assert_eq!(cells.len(), 7, "{cells:?}");
        let name = cells[5].strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), cells[2].clone()))
    });
    named.collect()
}

/// A number, of bytes, seconds or things, with the words after it left out.
fn number(text: &str) -> u64 {
    let mut words = text.split([' ', ';']);
    let number: u64 = words.next().unwrap().replace(',', "").parse().unwrap();
    number
        * match words.next().map(|unit| unit.trim_end_matches(',')) {
            Some("KiB") => 1 << 10,
            Some("MiB") => 1 << 20,
            Some("GiB") => 1 << 30,
            Some("h") => 3600,
            _ => 1,
        }
}

/// The default of each limit, by its name, with that of its group where another has the same.
fn defaults() -> BTreeMap<String, u64> {
    let mut defaults = BTreeMap::new();
    let mut group = String::new();
    for line in format!("{:#?}", Limits::default()).lines() {
        let line = line.trim().trim_end_matches(',');
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        if value.ends_with('{') {
            name.clone_into(&mut group);
            continue;
        }
        let value = value.strip_suffix("ns").unwrap_or(value);
        let value = value.strip_suffix('s').unwrap_or(value);
        let name = if name == "bytes_max" {
            format!("{group}.{name}")
        } else {
            name.to_owned()
        };
        let known = defaults.insert(name, value.parse().unwrap());
        assert_eq!(known, None, "two limits of the same name");
    }
    defaults
}

/// The value of a constant like `server/stream: LINGER_BYTES_MAX`.
fn constant(name: &str) -> u64 {
    let (file, name) = name.split_once(": ").expect(name);
    let source = fs::read_to_string(format!("{ROOT}/src/{file}.rs")).unwrap();
    let start = format!("const {name}: ");
    let line = source.lines().find_map(|line| line.split_once(&start));
    let (_, line) = line.unwrap_or_else(|| panic!("no {name} in {file}"));
    let (_, value) = line.split_once(" = ").unwrap();
    let value = value.trim_end_matches(';').replace('_', "");
    let time = |unit, seconds| {
        let value = value.strip_prefix(unit)?.strip_suffix(')')?;
        Some(value.parse::<u64>().unwrap() * seconds)
    };
    let times = time("Duration::fromsecs(", 1)
        .or_else(|| time("Duration::frommins(", 60))
        .or_else(|| time("Duration::fromhours(", 3600));
    times.unwrap_or_else(|| match value.split_once(" << ") {
        Some((number, shift)) => number.parse::<u64>().unwrap() << shift.parse::<u32>().unwrap(),
        None => value.parse().unwrap(),
    })
}

#[test]
fn every_limit_is_on_its_page_with_its_default() {
    let defaults = defaults();
    assert!(defaults.len() > 20, "{defaults:?}");
    let rows = rows();
    for (name, said) in &rows {
        let value = defaults.get(name).copied();
        let value = value.unwrap_or_else(|| constant(name));
        assert_eq!(number(said), value, "{name}");
    }
    for name in defaults.keys() {
        let is_there = rows.iter().any(|(known, _)| known == name);
        assert!(is_there, "docs/limits.md lacks {name}");
    }
}

/// Lets a proxy as `configure` makes it of its file in `deploy`, listening at a socket, stand in front of a server. The
/// proxy is to say that it speaks for 192.0.2.7, if it says so. `passes_on` is whether it passes on a line of a batch, and
/// its answer, before the next one comes. Returns the line of a request in the log.
fn try_proxy(
    proxy: &str,
    passes_on: bool,
    configure: impl Fn(&str, &Path) -> String,
    command: impl Fn(&Path) -> Command,
) -> String {
    let directory = tempfile::tempdir().unwrap();
    let server = Launch::new(&directory.path().join("data"))
        .option("--trusted-proxy", "127.0.0.1")
        .option("--body-max", "8KiB")
        .start();
    let example = fs::read_to_string(format!("{ROOT}/deploy/{proxy}")).unwrap();
    let example = example.replace("127.0.0.1:8080", &server.address().to_string());
    let file = directory.path().join("configuration");
    fs::write(&file, configure(&example, directory.path())).unwrap();
    let child = command(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _process = Process(child.unwrap());
    let socket = directory.path().join("socket");
    let ask = |method: &str, path: &str, fields: &[_], body: &[u8]| {
        Client::connect_local(&socket).and_then(|mut client| client.ask(method, path, fields, body))
    };
    wait_until(proxy, || {
        ask("GET", "/livez", &[], b"").is_ok_and(|answer| answer.status == 200)
    });

    // A client that says it is another one.
    let fields = [
        ("Forwarded", "for=203.0.113.9"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Request-Id", "of-a-client"),
    ];
    let answer = ask("GET", "/messages/foo", &fields, b"").unwrap();
    assert_eq!(answer.status, 404, "{answer:?}");

    // A page of this very host, and a batch that is answered while it is sent.
    let mut stream = BufReader::new(UnixStream::connect(&socket).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /messages HTTP/1.1\r\nHost: localhost:8443\r\nOrigin: https://localhost:8443\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let lines = ["foo", "bar"].map(|text| format!("{{\"message\": \"{text}\"}}\n"));
    let digests = ["foo", "bar"].map(|text| Digest::of(text.as_bytes()).to_string());
    let mut read = String::new();
    let mut read_until = |stream: &mut BufReader<UnixStream>, text: &str| {
        while !read.contains(text) {
            let length = stream.read_line(&mut read).unwrap();
            assert_ne!(length, 0, "{read}");
        }
        assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
    };
    for (line, digest) in lines.iter().zip(&digests) {
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        stream.get_mut().write_all(chunk.as_bytes()).unwrap();
        if passes_on {
            read_until(&mut stream, digest);
        }
    }
    stream.get_mut().write_all(b"0\r\n\r\n").unwrap();
    read_until(&mut stream, &digests[1]);
    drop(stream);
    assert_eq!(ask("GET", "/metrics", &[], b"").unwrap().status, 404);
    sees_early_answers(&socket);
    let log = server.stop();
    assert!(!log.contains("203.0.113.9"), "{log}");
    let line = log.lines().find(|line| line.contains("of-a-client"));
    line.unwrap().to_owned()
}

/// What is answered before a body was read comes through.
fn sees_early_answers(socket: &Path) {
    for (status, path, kind) in [
        ("404", "/nothing", "text/plain"),
        ("405", "/docs", "text/plain"),
        ("413", "/messages", "text/plain"),
        ("415", "/messages", "image/png"),
    ] {
        for bytes in [16_000, 1_000_000] {
            let mut command = Command::new("curl");
            command.args([
                "--silent",
                "--show-error",
                "--output",
                "/dev/null",
                "--unix-socket",
            ]);
            command
                .arg(socket)
                .args(["--write-out", "%{http_code}", "--data-binary", "@-"]);
            command.args(["--header", &format!("Content-Type: {kind}")]);
            command.arg(format!("http://localhost{path}"));
            let outcome = run(&mut command, &vec![b'a'; bytes]);
            assert_eq!(
                outcome.stdout,
                status.as_bytes(),
                "{bytes} bytes: {outcome:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs nginx"]
fn nginx_as_its_example_says_passes_on_clients_hosts_and_batches() {
    let configure = |example: &str, directory: &Path| {
        let path = directory.display();
        let lines = example
            .lines()
            .filter(|line| !line.contains("ssl_certificate"));
        let lines = lines.collect::<Vec<_>>().join("\n");
        let of_its_own = format!(
            "http {{\nclient_body_temp_path {path}/bodies; proxy_temp_path {path}/answers; access_log off;
             fastcgi_temp_path {path}/1; uwsgi_temp_path {path}/2; scgi_temp_path {path}/3;"
        );
        let lines = lines
            .replace("http {", &of_its_own)
            .replace(
                "listen 443 ssl http2",
                &format!("listen unix:{path}/socket"),
            )
            .replace("$remote_addr", "192.0.2.7");
        format!("daemon off; master_process off; pid {path}/pid; error_log stderr;\n{lines}")
    };
    let command = |file: &Path| {
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(file);
        command
    };
    let line = try_proxy("nginx.conf", true, configure, command);
    assert!(line.contains("192.0.2.7"), "{line}");
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_as_its_example_says_passes_on_clients_hosts_and_batches() {
    let configure = |example: &str, directory: &Path| {
        let directory = directory.display();
        example
            .replace("bind :443", &format!("bind {directory}/socket\n#"))
            .replace("bind :8443", &format!("bind {directory}/bytes"))
            .replace("%[src]", "192.0.2.7")
    };
    let command = |file: &Path| {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(file);
        command
    };
    let line = try_proxy("haproxy.cfg", true, configure, command);
    assert!(line.contains("192.0.2.7"), "{line}");
}

#[test]
#[ignore = "needs caddy"]
fn caddy_as_its_example_says_passes_on_hosts_and_batches() {
    let configure = |example: &str, directory: &Path| {
        let bind = format!("http:// {{\nbind unix/{}/socket", directory.display());
        let site = example.replace("digests.example {", &bind);
        format!("{{\nadmin off\n}}\n{site}")
    };
    let command = |file: &Path| {
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]);
        command.arg(file).env("HOME", file.parent().unwrap());
        command
    };
    // It reads a request to its end by itself, and through a socket it has no address of a client to pass on.
    try_proxy("Caddyfile", false, configure, command);
}
