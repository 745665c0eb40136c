//! Rates of the real binary, in real time: how many requests pass, when the next one does, and how
//! many clients are remembered.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use digestd::access::rates::CLIENTS_MAX;
use digestd::digest::Digest;
use digestd::message::Message;
use digestd::ndjson;

use crate::process::{Answer, Client, Digestd, Launch, digestd, run};

/// A server with these rates; no line for each request.
fn server(data_dir: &Path, read_rate: &str, write_rate: &str) -> Launch {
    Launch::new(data_dir)
        .option("--read-rate", read_rate)
        .option("--write-rate", write_rate)
        .option("--access-log", "off")
}

/// Asks for a message that is not there.
fn get(client: &mut Client) -> Answer {
    client.get(&Digest::of(b"missing")).unwrap()
}

#[test]
fn who_waits_as_long_as_the_answer_says_is_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "1/s", "1/s").start();
    let post = |client: &mut Client| client.post("foo").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| wait_as_told(server.client(), get));
        scope.spawn(|| wait_as_told(server.client(), post));
    });
}

fn wait_as_told(mut client: Client, ask: impl Fn(&mut Client) -> Answer) {
    let mut answers = (0..1000).map(|_| ask(&mut client));
    let refused = answers.find(|answer| answer.status == 429);
    let wait = refused.unwrap().fields["retry-after"].parse().unwrap();
    assert_eq!(wait, 1);
    thread::sleep(Duration::from_secs(wait));
    assert_ne!(ask(&mut client).status, 429);
}

/// Fifteen more lines than may come at once: they are held up unless the others take a second and a half.
const RATE: &str = "600/m";
const LINES: usize = 165;

#[test]
fn a_batch_goes_on_where_the_rate_ended_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "1000/s", RATE).start();
    let texts: Vec<_> = (0..LINES).map(|number| format!("put {number}")).collect();
    let line = |text: &String| format!("\n{{\"message\": \"{text}\"}}\n");
    let lines: String = texts.iter().map(line).collect();
    let arguments = ["put", "--batch", "-", "--url", &server.url()];
    let outcome = run(digestd().args(arguments), lines.as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let digest = |text: &String| format!("{}\n", Digest::of(text.as_bytes()));
    let digests: String = texts.iter().map(digest).collect();
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), digests);
    assert_held_up(&server);
}

#[test]
fn an_import_goes_on_where_the_rate_ended_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "1000/s", RATE).start();
    let mut lines = Vec::new();
    for number in 0..LINES {
        ndjson::write(&mut lines, &Message::new(format!("import {number}")));
    }
    let outcome = run(digestd().args(["import", "--url", &server.url()]), &lines);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_held_up(&server);
}

/// All lines were stored, and some had to wait.
fn assert_held_up(server: &Digestd) {
    let metrics = server.client().ask("GET", "/metrics", &[], b"").unwrap();
    let stored = format!("\ndigestd_store_messages {LINES}\n");
    assert!(metrics.text().contains(&stored), "{}", metrics.text());
    let held = "\ndigestd_requests_refused_total{cause=\"rate\"} ";
    let (_, held) = metrics.text().split_once(held).unwrap();
    assert!(!held.starts_with("0\n"), "nothing was held up");
}

const SECONDS: u32 = 10;

/// How often as much as the rate is asked for.
const EXCESS: u32 = 10;

/// Asks ten times as often as `rate` a second for ten seconds; what passes is that, within 5 %.
fn hold(server: &Digestd, rate: u32, mut ask: impl FnMut(&mut Client) -> Answer) {
    let mut client = Some(server.client());
    let (mut passed, mut asked) = (0_u32, 0_u32);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(SECONDS.into()) {
        let due = started + Duration::from_secs(1) * asked / (EXCESS * rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A connection has its last request.
        let connection = client.get_or_insert_with(|| server.client());
        let answer = ask(connection);
        if answer.fields.contains_key("connection") {
            client = None;
        }
        asked += 1;
        passed += u32::from(answer.status != 429);
    }
    let seconds = started.elapsed().as_secs_f64();
    let due = f64::from(rate) * seconds;
    let said = format!("{passed} of {asked} passed in {seconds} s at {rate}/s");
    println!("{said}");
    assert!(f64::from(passed) <= 1.05 * due, "{said}");
    // Unless the machine was too busy to ask that often.
    if f64::from(asked) >= 0.9 * f64::from(EXCESS) * due {
        assert!(f64::from(passed) >= 0.95 * due, "{said}");
    }
}

#[test]
#[ignore = "needs ten seconds"]
fn ten_times_the_rate_for_ten_seconds_gets_the_rate_within_five_percent() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "200/s", "100/s").start();
    thread::scope(|scope| {
        scope.spawn(|| hold(&server, 200, get));
        scope.spawn(|| hold(&server, 100, |client| client.post("foo").unwrap()));
    });
}

/// Clients behind a proxy: more than are remembered.
const CLIENTS: u32 = 100_000;

/// Requests that a proxy sends before it reads the answers to them.
const AT_ONCE: u32 = 100;

/// What all that are remembered may take, "some 10 MB", and what the allocator has beside it.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

#[test]
#[ignore = "needs half a minute"]
fn a_hundred_thousand_clients_of_a_proxy_take_no_more_memory_than_those_that_are_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "1/h", "1/h")
        .option("--trusted-proxy", "127.0.0.1/32")
        .start();
    // Memory that is taken once, whoever asks.
    ask_for_all(&server, 2 * CLIENTS..2 * CLIENTS + AT_ONCE);
    let before = server.resident_bytes();
    for clients in [0..CLIENTS, CLIENTS..CLIENTS / 2 * 3] {
        ask_for_all(&server, clients);
        let remembered = limited_clients(&server);
        let grown = server.resident_bytes().saturating_sub(before);
        println!("{remembered} clients remembered, {grown} bytes more than before");
        assert!(remembered <= CLIENTS_MAX, "{remembered}");
        assert!(remembered >= CLIENTS_MAX / 10 * 9, "{remembered}");
        assert!(grown <= GROWTH_BYTES_MAX, "{grown}");
    }
}

/// Lets each client ask once, for the first time: all may, however many there are.
fn ask_for_all(server: &Digestd, clients: Range<u32>) {
    let missing = Digest::of(b"missing");
    let clients: Vec<_> = clients.collect();
    for (number, some) in clients.chunks(AT_ONCE as usize).enumerate() {
        let request = |client: &u32| {
            let address = Ipv4Addr::from_bits(0xb000_0000 + client);
            let field = match number % 2 {
                0 => format!("X-Forwarded-For: {address}"),
                _ => format!("Forwarded: for={address}"),
            };
            format!("GET /messages/{missing} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n")
        };
        let requests: String = some.iter().map(request).collect();
        let mut proxy = server.client();
        proxy.send(requests.as_bytes()).unwrap();
        for _ in some {
            assert_eq!(proxy.answer().unwrap().status, 404);
        }
    }
}

fn limited_clients(server: &Digestd) -> usize {
    let metrics = server.client().ask("GET", "/metrics", &[], b"").unwrap();
    let mut lines = metrics.text().lines();
    let value = lines.find_map(|line| line.strip_prefix("digestd_limited_clients "));
    value.unwrap().parse().unwrap()
}
