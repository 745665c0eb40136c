//! Everything at once for a long time: clients that store, read and delete, slow ones and ones that go away,
//! rules that are read again, and a scrub that never pauses.
//!
//! Each text belongs to one client, so that what it was told last is what the server must have. It takes half
//! a minute; `DIGESTD_TEST_SOAK_SECONDS` says how long else.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use rustix::process::Signal;

use crate::process::{Answer, Client, Digestd, Launch, digestd, run};
use crate::store_support::{Dice, text_of};

/// Clients that do one thing after the other.
const BUSY: usize = 6;
/// Clients that take their time, or go away in the middle.
const SLOW: usize = 4;
/// Texts of each.
const TEXTS: usize = 100;

/// Lines of a batch.
const LINES: usize = 10;

/// So that the log does not grow faster than it can be read.
const PAUSE: Duration = Duration::from_millis(4);

/// What is sent at once by those that take their time, and how long they wait then.
const PIECES: usize = 8;
const PIECE_PAUSE: Duration = Duration::from_millis(50);

const RELOAD_PAUSE: Duration = Duration::from_millis(500);
const SAMPLE_PAUSE: Duration = Duration::from_millis(200);

/// What memory may be more in the last third than in the middle one: what an allocator needs for one more of
/// the largest things, or a part of it all.
const GROWTH_BYTES_MAX: u64 = 4 << 20;
const GROWTH_PART_MAX: u64 = 20;

/// A body that was sent to its end has been stored, or has not, after this.
const SETTLED: Duration = Duration::from_secs(5);

const AUTHORIZED: (&str, &str) = ("Authorization", "Bearer all");

fn duration() -> Duration {
    let seconds = env::var("DIGESTD_TEST_SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(30, |seconds| seconds.parse().unwrap()))
}

/// What a client knows of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Stored,
    /// It never was, or it was deleted.
    Missing,
    /// It was sent whole and not answered, so it may be stored at any time.
    Sent,
    /// Its deletion was not answered.
    Deleting,
}

/// A client with its texts.
struct Owner {
    number: usize,
    server: SocketAddr,
    client: Client,
    dice: Dice,
    known: Vec<Known>,
    /// When one was sent and the answer not waited for.
    given_up: HashMap<usize, Instant>,
    counts: BTreeMap<&'static str, usize>,
}

/// The connection is gone.
type Gone = io::Error;

impl Owner {
    fn new(number: usize, server: SocketAddr) -> Self {
        Self {
            number,
            server,
            client: Client::connect(server).unwrap(),
            dice: Dice(number as u64),
            known: vec![Known::Missing; TEXTS],
            given_up: HashMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// From 90 bytes to 300 KB, mostly short.
    fn text(&self, number: usize) -> String {
        let bytes = match number % 20 {
            0 => 300_000,
            1..4 => 20_000,
            _ => 90,
        };
        text_of(self.number * TEXTS + number, bytes)
    }

    fn path(&self, number: usize) -> String {
        format!("/messages/{}", Digest::of(self.text(number).as_bytes()))
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Asks; `None` if the server has no room at the moment, and has done nothing.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Option<Answer>, Gone> {
        let fields = [fields, &[AUTHORIZED]].concat();
        let answer = self.client.ask(method, path, &fields, body)?;
        // It has had its number of requests, or its body was not read.
        if answer.fields.contains_key("connection") {
            self.client = Client::connect(self.server)?;
        }
        if answer.status == 503 {
            self.count("refused");
            return Ok(None);
        }
        Ok(Some(answer))
    }

    fn post(&mut self, number: usize) -> Result<(), Gone> {
        let before = self.known[number];
        self.known[number] = Known::Sent;
        let text = self.text(number);
        let fields = [("Content-Type", "text/plain")];
        self.known[number] = match self.ask("POST", "/messages", &fields, text.as_bytes())? {
            None => before,
            Some(answer) => {
                assert_eq!(answer.status, 201, "{answer:?}");
                Known::Stored
            }
        };
        self.count("POST");
        Ok(())
    }

    fn get(&mut self, number: usize) -> Result<(), Gone> {
        let path = self.path(number);
        let answer = self.ask("GET", &path, &[("Accept", "text/plain")], b"")?;
        if let Some(answer) = answer {
            self.check(number, answer.status, answer.text());
        }
        self.count("GET");
        Ok(())
    }

    /// Whether this is an answer for a text.
    fn check(&self, number: usize, status: u16, text: &str) {
        let known = self.known[number];
        let said = format!("text {number} of {}, {known:?}: {status}", self.number);
        match status {
            200 => assert!(
                known != Known::Missing && text == self.text(number),
                "{said}"
            ),
            404 => assert!(known != Known::Stored, "{said}"),
            _ => panic!("{said}: {text}"),
        }
    }

    fn delete(&mut self, number: usize) -> Result<(), Gone> {
        let before = self.known[number];
        // It could be stored after it was deleted.
        let given_up = self.given_up.get(&number);
        if given_up.is_some_and(|since| since.elapsed() < SETTLED) {
            return Ok(());
        }
        self.known[number] = Known::Deleting;
        let path = self.path(number);
        self.known[number] = match self.ask("DELETE", &path, &[], b"")? {
            None => before,
            Some(answer) => {
                let is_fine = match before {
                    Known::Stored => answer.status == 204,
                    Known::Missing => answer.status == 404,
                    _ => matches!(answer.status, 204 | 404),
                };
                assert!(is_fine, "{before:?}: {answer:?}");
                Known::Missing
            }
        };
        self.count("DELETE");
        Ok(())
    }

    fn some(&mut self) -> Vec<usize> {
        let first = self.dice.below(TEXTS - LINES);
        (first..first + LINES).collect()
    }

    fn post_batch(&mut self) -> Result<(), Gone> {
        let numbers = self.some();
        let mut lines = String::new();
        let before = self.known.clone();
        for &number in &numbers {
            writeln!(lines, "{{\"message\": \"{}\"}}", self.text(number)).unwrap();
            self.known[number] = Known::Sent;
        }
        let fields = [("Content-Type", "application/x-ndjson")];
        match self.ask("POST", "/messages", &fields, lines.as_bytes())? {
            None => self.known = before,
            Some(answer) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                let mut answers = answer.text().lines();
                for &number in &numbers {
                    let digest = Digest::of(self.text(number).as_bytes()).to_string();
                    let line = answers.next().unwrap();
                    assert!(line.contains(&digest), "{line}");
                    self.known[number] = Known::Stored;
                }
            }
        }
        self.count("batch");
        Ok(())
    }

    fn look_up(&mut self) -> Result<(), Gone> {
        let numbers = self.some();
        let digest = |&number: &usize| Digest::of(self.text(number).as_bytes());
        let lines = numbers
            .iter()
            .map(|number| format!("\"{}\"\n", digest(number)));
        let lines: String = lines.collect();
        let fields = [("Content-Type", "application/x-ndjson")];
        let answer = self.ask("POST", "/messages/lookup", &fields, lines.as_bytes())?;
        if let Some(answer) = answer {
            assert_eq!(answer.status, 200, "{answer:?}");
            for (&number, line) in numbers.iter().zip(answer.text().lines()) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                match line["message"].as_str() {
                    Some(text) => self.check(number, 200, text),
                    None => self.check(number, 404, ""),
                }
            }
        }
        self.count("look-up");
        Ok(())
    }

    /// Something that a usual client does.
    fn act(&mut self) -> Result<(), Gone> {
        let number = self.dice.below(TEXTS);
        match self.dice.below(20) {
            0..6 => self.post(number)?,
            6..14 => self.get(number)?,
            14..17 => self.delete(number)?,
            17 => self.post_batch()?,
            18 => self.look_up()?,
            _ => self.client = Client::connect(self.server)?,
        }
        thread::sleep(PAUSE);
        Ok(())
    }

    /// Something that takes its time.
    fn act_slowly(&mut self) -> Result<(), Gone> {
        let number = self.dice.below(TEXTS);
        match self.dice.below(8) {
            0 => self.delete(number),
            1 => self.get(number),
            2 => self.read_slowly(number),
            3 => self.post_slowly(number, PIECES / 2, false),
            4 => self.post_slowly(number, PIECES, false),
            _ => self.post_slowly(number, PIECES, true),
        }
    }

    /// Sends so many of all pieces of a text, and goes away unless `waits` for the answer.
    fn post_slowly(&mut self, number: usize, pieces: usize, waits: bool) -> Result<(), Gone> {
        let text = self.text(number);
        let mut client = Client::connect(self.server)?;
        let before = self.known[number];
        if pieces == PIECES {
            self.known[number] = Known::Sent;
        }
        let (name, value) = AUTHORIZED;
        let length = text.len();
        let head = format!(
            "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             {name}: {value}\r\nContent-Length: {length}\r\n\r\n"
        );
        client.send(head.as_bytes())?;
        let piece = text.len().div_ceil(PIECES);
        for piece in text.as_bytes().chunks(piece).take(pieces) {
            // It may be refused in the middle; the answer says so.
            if client.send(piece).is_err() {
                break;
            }
            thread::sleep(PIECE_PAUSE);
        }
        if !waits {
            self.given_up.insert(number, Instant::now());
            self.count("POST given up");
            return Ok(());
        }
        let answer = client.answer()?;
        self.known[number] = match answer.status {
            201 => Known::Stored,
            503 => before,
            _ => panic!("{answer:?}"),
        };
        self.count("slow POST");
        Ok(())
    }

    /// Asks for a text and goes away while it comes.
    fn read_slowly(&mut self, number: usize) -> Result<(), Gone> {
        let mut client = Client::connect(self.server)?;
        let (name, value) = AUTHORIZED;
        let path = self.path(number);
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{name}: {value}\r\n\r\n");
        client.send(head.as_bytes())?;
        for _ in 0..PIECES {
            client.line()?;
            thread::sleep(PIECE_PAUSE);
        }
        self.count("GET given up");
        Ok(())
    }

    /// Compares everything with a server.
    fn check_all(&mut self, server: &Digestd) {
        (self.server, self.client) = (server.address(), server.client());
        for number in 0..TEXTS {
            self.get(number).unwrap();
        }
    }
}

/// What the process had at a time.
struct Sample {
    bytes: u64,
    descriptors: u64,
}

impl Sample {
    fn take(server: &Digestd) -> Self {
        let directory = format!("/proc/{}/fd", server.pid());
        let open = fs::read_dir(directory).unwrap().filter(|entry| {
            // The log has one a segment, and it grows.
            let target = fs::read_link(entry.as_ref().unwrap().path());
            target.is_ok_and(|target| !target.to_string_lossy().ends_with(".log"))
        });
        Self {
            bytes: server.resident_bytes(),
            descriptors: open.count() as u64,
        }
    }
}

/// The means of a figure in the second and the last third.
fn thirds(samples: &[Sample], figure: impl Fn(&Sample) -> u64) -> [u64; 2] {
    let third = samples.len() / 3;
    [third, 2 * third].map(|start| {
        let samples = &samples[start..start + third];
        samples.iter().map(&figure).sum::<u64>() / third as u64
    })
}

fn integrity_failures(server: &Digestd) -> String {
    let answer = server.client().ask("GET", "/metrics", &[AUTHORIZED], b"");
    let answer = answer.unwrap();
    let name = "\ndigestd_integrity_failures_total ";
    let (_, rest) = answer.text().split_once(name).unwrap();
    rest.lines().next().unwrap().to_owned()
}

#[test]
#[ignore = "takes half a minute"]
fn nothing_is_lost_and_nothing_grows_while_everything_goes_on_at_once() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = directory.path().join("data");
    let [tokens, new_tokens] = ["tokens", "tokens.new"].map(|name| directory.path().join(name));
    let scopes = "read,write,delete,export,metrics";
    let line = format!("all {scopes} {}\n", Digest::of(b"all"));
    fs::write(&tokens, &line).unwrap();
    let launch = Launch::new(&data)
        .option("--tokens", &tokens)
        .option("--cache", "64MiB")
        .option("--segment-size", "16MiB")
        .option("--scrub-interval", "1ms")
        .option("--access-log", "off");
    let server = launch.start();

    let is_over = AtomicBool::new(false);
    let reloads = AtomicU64::new(0);
    let (mut owners, samples) = thread::scope(|scope| {
        let owners: Vec<_> = (0..BUSY + SLOW)
            .map(|number| {
                let mut owner = Owner::new(number, server.address());
                let is_over = &is_over;
                scope.spawn(move || {
                    // To the end of the server.
                    let act = if number < BUSY {
                        Owner::act
                    } else {
                        Owner::act_slowly
                    };
                    let gone = loop {
                        if let Err(gone) = act(&mut owner) {
                            break gone;
                        }
                    };
                    assert!(is_over.load(Relaxed), "{}: {gone}", owner.number);
                    owner
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let number = reloads.fetch_add(1, Relaxed);
                fs::write(&new_tokens, format!("# {number}\n{line}")).unwrap();
                fs::rename(&new_tokens, &tokens).unwrap();
                server.signal(Signal::HUP);
                thread::sleep(RELOAD_PAUSE);
            }
        });
        let started = Instant::now();
        let mut samples = Vec::new();
        while started.elapsed() < duration() {
            thread::sleep(SAMPLE_PAUSE);
            samples.push(Sample::take(&server));
        }
        assert_eq!(integrity_failures(&server), "0");
        is_over.store(true, Relaxed);
        server.signal(Signal::KILL);
        let owners = owners.into_iter().map(|owner| owner.join().unwrap());
        (owners.collect::<Vec<_>>(), samples)
    });
    let log = server.kill();
    let scrubs = log
        .matches("everything stored was read and checked")
        .count();
    let mut counts = BTreeMap::<_, usize>::new();
    for owner in &owners {
        for (&what, count) in &owner.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("\n  {counts:?}, {scrubs} scrubs, {reloads:?} reloads");
    let stored = owners.iter().flat_map(|owner| &owner.known);
    let stored = stored.filter(|known| **known == Known::Stored).count();
    println!("  {stored} texts stored of {}", owners.len() * TEXTS);
    let [before, bytes] = thirds(&samples, |sample| sample.bytes);
    println!("  {} KiB, then {}", before >> 10, bytes >> 10);
    let [descriptors_before, descriptors] = thirds(&samples, |sample| sample.descriptors);
    println!("  {descriptors_before} descriptors, then {descriptors}");

    let server = launch.start();
    for owner in &mut owners {
        owner.check_all(&server);
    }
    assert_eq!(integrity_failures(&server), "0");
    let log_after = server.stop();
    let outcome = run(digestd().arg("verify").arg("--data-dir").arg(&data), b"");
    println!("  {}", String::from_utf8_lossy(&outcome.stdout).trim_end());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for line in [log, log_after].concat().lines() {
        assert!(!line.contains("ERROR"), "{line}");
    }
    assert!(scrubs > 0, "no scrub came to its end");
    let most = GROWTH_BYTES_MAX.max(before / GROWTH_PART_MAX);
    assert!(bytes <= before + most, "{before} bytes, then {bytes}");
    assert!(
        descriptors <= descriptors_before + 2,
        "{descriptors_before} descriptors, then {descriptors}"
    );
}
