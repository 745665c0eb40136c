//! Clients that take what belongs to others: each attack comes from one address while a healthy client at another
//! asks for everything that the service does.
//!
//! The attacks last two seconds; `DIGESTD_TEST_ATTACK_SECONDS` says how long else. From ten seconds on the time
//! that answers take is compared with what it is beside a thread that merely burns a processor.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::disk::BadDisk;
use crate::http2::{
    ACCEPT, AUTHORITY, CONTENT_LENGTH, CONTENT_TYPE, DATA, END_HEADERS, END_STREAM, HEADERS,
    PREFACE, RANGE, SETTINGS, frame, literal, literal_named, path,
};
use crate::memory::raise_descriptor_limit;
use crate::process::{Client, Digestd, Launch};
use crate::store_support::text_of;
use crate::support::{Raw, connect_from};

const ATTACKER: [u8; 4] = [127, 0, 0, 1];
const HEALTHY: [u8; 4] = [127, 0, 0, 2];

/// As many as one client may have, but for a few.
const CONNECTIONS: usize = 250;
/// As many as a connection may have.
const STREAMS: u32 = 64;

/// What an attack may add to the memory of the process.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// After this, nothing of an attack is left …
const RECOVERY: Duration = Duration::from_secs(5);
/// … but what the cache of messages has, a quarter of `--cache`, and what an allocator keeps.
const REST_BYTES_MAX: u64 = (16 << 20) + (16 << 20);

/// What an attack may do to the time that 99 of 100 answers take at most.
const LATENCY_FACTOR_MAX: u32 = 5;

fn is_long() -> bool {
    duration() >= Duration::from_secs(10)
}

fn duration() -> Duration {
    let seconds = env::var("DIGESTD_TEST_ATTACK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(2, |seconds| seconds.parse().unwrap()))
}

/// Connects over HTTP/2 with windows of `window` bytes for answers.
async fn connect_h2(server: SocketAddr, window: u32) -> Raw {
    let mut client = connect_from(ATTACKER, server).await;
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat();
    client.send(start).await;
    client
}

/// A `GET` of the `number`th request of a connection.
fn get(number: u32, target: &str, fields: &[u8]) -> Vec<u8> {
    let authority = literal(AUTHORITY, "localhost");
    let head = [b"\x82\x86", &*path(target), &authority, fields].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &head)
}

/// What the healthy client asks for again and again, and how long it waited for answers.
struct Healthy {
    phase: Arc<AtomicU8>,
    asking: JoinSet<Vec<Asked>>,
}

/// When a request was sent, how long its answer took, and what was wrong with it.
struct Asked {
    phase: u8,
    took: Duration,
    failure: Option<String>,
}

/// Before the attack, during it, and after the healthy client.
const BEFORE: u8 = 0;
const DURING: u8 = 1;
const AFTER: u8 = 2;
const OVER: u8 = 3;

impl Healthy {
    fn start(server: &Digestd) -> Self {
        let large = "h".repeat(900 << 10);
        let small = store(server, "healthy");
        let stored = store(server, &large);
        let post = |kind: &str, target: &str, body: &str| {
            let length = body.len();
            format!(
                "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
        };
        let get = |target: &str| {
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n")
        };
        let lines = format!("\"{}\"\n", small.rsplit('/').next().unwrap());
        let batch = "{\"message\": \"a line\"}\n".repeat(10);
        let requests = [
            post("text/plain", "/messages", "small"),
            post("text/plain", "/messages", &large),
            post("application/x-ndjson", "/messages", &batch),
            post("application/x-ndjson", "/messages/lookup", &lines),
            get(&small),
            get(&stored),
            get("/livez"),
        ];
        let phase = Arc::new(AtomicU8::new(BEFORE));
        let mut asking = JoinSet::new();
        for request in requests {
            asking.spawn(ask_again_and_again(
                server.address(),
                request,
                Arc::clone(&phase),
            ));
        }
        Self { phase, asking }
    }

    fn begin(&self, phase: u8) {
        self.phase.store(phase, Relaxed);
    }

    /// At most one in a hundred of its requests was refused.
    async fn was_served(self) {
        self.begin(OVER);
        let all: Vec<_> = self.asking.join_all().await.into_iter().flatten().collect();
        let during = all.iter().filter(|asked| asked.phase == DURING);
        let refused: Vec<_> = all
            .iter()
            .filter_map(|asked| asked.failure.as_ref())
            .collect();
        println!(
            "  {} of {} refused; p99 {:?} before, {:?} during",
            refused.len(),
            during.count(),
            p99(&all, BEFORE),
            p99(&all, DURING),
        );
        assert!(
            refused.len() * 100 <= all.len(),
            "{} of {}: {refused:?}",
            refused.len(),
            all.len(),
        );
        let (before, during) = (p99(&all, BEFORE), p99(&all, DURING));
        assert!(
            !is_long() || during <= LATENCY_FACTOR_MAX * before,
            "{during:?} instead of {before:?}"
        );
    }
}

fn p99(all: &[Asked], phase: u8) -> Duration {
    let asked = all.iter().filter(|asked| asked.phase == phase);
    let mut took: Vec<_> = asked.map(|asked| asked.took).collect();
    took.sort();
    took[took.len() * 99 / 100]
}

async fn ask_again_and_again(
    server: SocketAddr,
    request: String,
    phase: Arc<AtomicU8>,
) -> Vec<Asked> {
    let mut client = connect_from(HEALTHY, server).await;
    let mut all = Vec::new();
    loop {
        let phase = phase.load(Relaxed);
        if phase == OVER {
            return all;
        }
        let started = Instant::now();
        let sent = client.try_send(request.as_bytes()).await;
        let status = match sent {
            Ok(()) => client.status().await,
            Err(error) => Err(error),
        };
        let mut failure = None;
        if !matches!(status, Ok(200 | 201)) {
            let line = request.lines().next().unwrap();
            failure = Some(format!("{line}: {status:?}"));
            client = connect_from(HEALTHY, server).await;
        }
        all.push(Asked {
            phase,
            took: started.elapsed(),
            failure,
        });
        sleep(Duration::from_millis(20)).await;
    }
}

/// A thread that burns a processor until it is dropped.
struct Burner(Arc<AtomicBool>);

impl Burner {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let burner = Self(Arc::clone(&is_over));
        thread::spawn(move || while !is_over.load(Relaxed) {});
        burner
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Stores a text; returns its path.
fn store(server: &Digestd, text: &str) -> String {
    let mut client = Client::connect(server.address()).unwrap();
    let fields = [("Content-Type", "text/plain")];
    let answer = client.ask("POST", "/messages", &fields, text.as_bytes());
    assert_eq!(answer.unwrap().status, 201);
    format!("/messages/{}", Digest::of(text.as_bytes()))
}

/// A server with default limits, and everything that an attack may ask for.
fn launch(data: &Path) -> Launch {
    Launch::new(data)
        .option("--cache", "64MiB")
        .option("--segment-size", "64MiB")
}

/// Lets `attack` take what it can, and checks what that does to others. It holds what it took until what it
/// returned is dropped.
async fn survive<A>(server: Digestd, attack: impl AsyncFnOnce(SocketAddr) -> A) {
    raise_descriptor_limit();
    let healthy = Healthy::start(&server);
    // So that what the healthy client takes is there already.
    let burner = is_long().then(Burner::start);
    sleep(duration()).await;
    drop(burner);
    let before = server.resident_bytes();
    let mut most = before;
    healthy.begin(DURING);
    let started = Instant::now();
    let attacker = attack(server.address()).await;
    println!("  under way after {:?}", started.elapsed());
    let started = Instant::now();
    while started.elapsed() < duration() {
        most = most.max(server.resident_bytes());
        sleep(Duration::from_millis(50)).await;
    }
    healthy.begin(AFTER);
    drop(attacker);
    sleep(RECOVERY).await;
    let rest = server.resident_bytes().saturating_sub(before);
    let growth = most - before;
    println!(
        "  {} MiB, {} more at the peak, {} afterwards",
        before >> 20,
        growth >> 20,
        rest >> 20,
    );
    healthy.was_served().await;
    assert!(growth <= GROWTH_BYTES_MAX, "{} MiB more", growth >> 20);
    assert!(rest <= REST_BYTES_MAX, "{} MiB are left", rest >> 20);
    server.stop();
}

/// Opens all streams of many connections that take no byte of an answer, each for what `request` makes of the
/// numbers of its connection and of itself on it.
async fn fill_streams(
    server: SocketAddr,
    connections: usize,
    window: u32,
    request: impl Fn(usize, u32) -> Vec<u8>,
) -> Vec<Raw> {
    let mut held = Vec::new();
    for connection in 0..connections {
        let mut client = connect_h2(server, window).await;
        let requests: Vec<_> = (0..STREAMS)
            .flat_map(|number| request(connection, number))
            .collect();
        // It may be refused in the middle.
        let _ = client.try_send(&requests).await;
        held.push(client);
    }
    held
}

/// The beginning of a `POST` with this many bytes, of which one comes.
fn post(number: u32, bytes: usize, fields: &[u8]) -> Vec<u8> {
    let stream = 2 * number + 1;
    let length = literal(CONTENT_LENGTH, &bytes.to_string());
    let kind = literal(CONTENT_TYPE, "text/plain");
    let authority = literal(AUTHORITY, "localhost");
    let path = path("/messages");
    let head = [b"\x83\x86", &*path, &authority, &length, &kind, fields].concat();
    let mut frames = frame(HEADERS, END_HEADERS, stream, &head);
    frames.extend(frame(DATA, 0, stream, b"x"));
    frames
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn answers_that_nobody_reads_take_their_room_and_no_more() {
    for bytes in [4000, 65_500] {
        let data = tempfile::tempdir().unwrap();
        let server = launch(data.path()).start();
        let path = store(&server, &text_of(1, bytes));
        let request = |_, number| get(number, &path, &[]);
        survive(server, async |server| {
            fill_streams(server, CONNECTIONS, 0, request).await
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn ranges_of_large_texts_keep_none_of_the_rest() {
    const TEXTS: usize = 200;
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let paths: Vec<_> = (0..TEXTS)
        .map(|number| store(&server, &text_of(number, 1_000_000)))
        .collect();
    let fields = [literal(ACCEPT, "text/plain"), literal(RANGE, "bytes=0-0")].concat();
    let request = |connection: usize, number: u32| {
        let path = &paths[(connection * 7 + number as usize) % TEXTS];
        get(number, path, &fields)
    };
    // Each request hashes a megabyte: more connections would take the processor, which is another matter.
    survive(server, async |server| {
        fill_streams(server, 6, 0, request).await
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn large_answers_that_are_taken_slowly_leave_room_for_others() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let path = store(&server, &text_of(1, 1_000_000));
    let request = |_, number| get(number, &path, &literal(ACCEPT, "text/plain"));
    survive(server, async |server| {
        fill_streams(server, 4, 64 << 10, request).await
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn bodies_of_which_little_comes_leave_room_for_others() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let request = |_, number| post(number, 16 << 10, &[]);
    survive(server, async |server| {
        fill_streams(server, CONNECTIONS, 0, request).await
    })
    .await;

    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    survive(server, async |server| {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = connect_from(ATTACKER, server).await;
            let start =
                "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\nx";
            client.send(start).await;
            held.push(client);
        }
        held
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn heads_of_bodies_that_do_not_come_take_their_room_and_no_more() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    // Near the limit of 16 KiB as HTTP/2 lists it.
    let fields: Vec<_> = (0..50)
        .flat_map(|number| literal_named(&format!("x-{number}"), &"v".repeat(120)))
        .collect();
    let request = |_, number| post(number, 16 << 10, &fields);
    survive(server, async |server| {
        fill_streams(server, CONNECTIONS, 0, request).await
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn batches_look_ups_and_exports_that_go_on_for_ever_leave_some_to_others() {
    let data = tempfile::tempdir().unwrap();
    let server = launch(data.path()).start();
    let batch = |target: &str, line: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{line}\r\n",
            line.len()
        )
    };
    let digest = Digest::of(b"foo");
    let requests = [
        batch("/messages", "{\"message\": \"foo\"}\n"),
        batch("/messages/lookup", &format!("\"{digest}\"\n")),
    ];
    survive(server, async |server| {
        let mut held = Vec::new();
        for _ in 0..20 {
            for request in &requests {
                let mut client = connect_from(ATTACKER, server).await;
                client.send(request).await;
                held.push(client);
            }
        }
        held
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn messages_that_wait_for_a_slow_disk_keep_no_bodies() {
    let data = tempfile::tempdir().unwrap();
    let disk = BadDisk::default().slow("/log/", 3000);
    let server = disk
        .launch(launch(data.path()))
        .option("--durability", "disk")
        .start();
    let bodies = (0..400).map(|number| {
        let rest = "r".repeat(1_000_000);
        format!("{{\"message\": \"{number}\", \"rest\": \"{rest}\"}}")
    });
    let bodies: Vec<_> = bodies.collect();
    let before = server.resident_bytes();
    let mut most = before;
    for body in &bodies {
        let mut client = connect_from(ATTACKER, server.address()).await;
        let length = body.len();
        let head = format!(
            "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        // Refused ones are closed before they are sent.
        let _ = client.try_send((head + body).as_bytes()).await;
        client.reset();
        most = most.max(server.resident_bytes());
    }
    let growth = most - before;
    println!("{} MiB more", growth >> 20);
    assert!(growth <= GROWTH_BYTES_MAX, "{} MiB more", growth >> 20);
    server.kill();
}
