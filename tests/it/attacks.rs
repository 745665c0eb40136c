//! Clients that take what belongs to others: each attack comes from one address while a healthy client at another
//! asks for everything that the service does.
//!
//! The attacks last a second here; `DIGESTD_TEST_ATTACK_SECONDS` says how long else.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::http2::{
    ACCEPT, END_HEADERS, END_STREAM, HEADERS, PREFACE, RANGE, SETTINGS, frame, literal, path,
};
use crate::memory::raise_descriptor_limit;
use crate::process::{Client, Digestd, Launch};
use crate::store_support::text_of;
use crate::support::Raw;

const ATTACKER: &str = "127.0.0.1";
const HEALTHY: &str = "127.0.0.2";

/// As many as one client may have, but for a few.
const CONNECTIONS: usize = 250;
/// As many as a connection may have.
const STREAMS: u32 = 64;

/// What an attack may add to the memory of the process.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// After this, nothing of an attack is left.
const RECOVERY: Duration = Duration::from_secs(5);

fn duration() -> Duration {
    let seconds = env::var("DIGESTD_TEST_ATTACK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(1, |seconds| seconds.parse().unwrap()))
}

async fn connect(from: &str, server: SocketAddr) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    socket.bind(from).unwrap();
    Raw::new(socket.connect(server).await.unwrap())
}

/// Connects over HTTP/2 with windows of `window` bytes for answers.
async fn connect_h2(server: SocketAddr, window: u32) -> Raw {
    let mut client = connect(ATTACKER, server).await;
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat();
    client.send(start).await;
    client
}

/// A `GET` of the `number`th request of a connection.
fn get(number: u32, target: &str, fields: &[u8]) -> Vec<u8> {
    let head = [b"\x82\x86", &*path(target), fields].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &head)
}

/// What the healthy client asks for again and again.
struct Healthy {
    is_over: Arc<AtomicBool>,
    asking: JoinSet<(usize, Vec<String>)>,
}

impl Healthy {
    fn start(server: &Digestd) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut asking = JoinSet::new();
        let large = "h".repeat(900 << 10);
        let small = store(server, "healthy");
        let stored = store(server, &large);
        let post = |kind: &str, target: &str, body: &str| {
            let length = body.len();
            format!(
                "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
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
        for request in requests {
            asking.spawn(ask_again_and_again(
                server.address(),
                request,
                Arc::clone(&is_over),
            ));
        }
        Self { is_over, asking }
    }

    /// At most one in a hundred of its requests was refused.
    async fn was_served(self) {
        self.is_over.store(true, Relaxed);
        let (mut asked, mut refused) = (0, Vec::new());
        for (number, failures) in self.asking.join_all().await {
            asked += number;
            refused.extend(failures);
        }
        println!("  {} of {asked} refused", refused.len());
        assert!(
            refused.len() * 100 <= asked,
            "{} of {asked}: {refused:?}",
            refused.len()
        );
    }
}

async fn ask_again_and_again(
    server: SocketAddr,
    request: String,
    is_over: Arc<AtomicBool>,
) -> (usize, Vec<String>) {
    let mut client = connect(HEALTHY, server).await;
    let (mut asked, mut refused) = (0, Vec::new());
    while !is_over.load(Relaxed) {
        asked += 1;
        client.send(&request).await;
        let answer = client.status().await;
        if !matches!(answer, Ok(200 | 201)) {
            let line = request.lines().next().unwrap();
            refused.push(format!("{line}: {answer:?}"));
            client = connect(HEALTHY, server).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    (asked, refused)
}

/// Stores a text; returns its path.
fn store(server: &Digestd, text: &str) -> String {
    let mut client = Client::connect(server.address()).unwrap();
    let fields = [("Content-Type", "text/plain")];
    let answer = client.ask("POST", "/messages", &fields, text.as_bytes());
    assert_eq!(answer.unwrap().status, 201);
    format!("/messages/{}", Digest::of(text.as_bytes()))
}

fn memory_bytes(server: &Digestd) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kibibytes << 10
}

/// Lets `attack` take what it can from a server with default limits, and checks what that did to others. The attack
/// is over when what it returned is dropped.
async fn survive<A>(
    prepare: impl FnOnce(&Digestd) -> Vec<String>,
    attack: impl AsyncFnOnce(SocketAddr, Vec<String>) -> A,
) {
    raise_descriptor_limit();
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--cache", "64MiB")
        .option("--segment-size", "64MiB")
        .start();
    let prepared = prepare(&server);
    let healthy = Healthy::start(&server);
    // So that what the healthy client takes is there already.
    sleep(Duration::from_millis(500)).await;
    let before = memory_bytes(&server);
    let mut most = before;
    let started = Instant::now();
    let attacker = attack(server.address(), prepared).await;
    while started.elapsed() < duration() {
        most = most.max(memory_bytes(&server));
        sleep(Duration::from_millis(50)).await;
    }
    most = most.max(memory_bytes(&server));
    healthy.was_served().await;
    drop(attacker);
    println!(
        "  {} MiB, {} MiB more at the peak",
        before >> 20,
        (most - before) >> 20
    );
    let over = Instant::now();
    let is_gone = async || loop {
        let rest = memory_bytes(&server).saturating_sub(before);
        if over.elapsed() > RECOVERY {
            return rest;
        }
        sleep(Duration::from_millis(100)).await;
    };
    let rest = is_gone().await;
    println!("  {} MiB left after {:?}", rest >> 20, over.elapsed());
    assert!(
        most - before <= GROWTH_BYTES_MAX,
        "{} MiB more",
        (most - before) >> 20
    );
    server.stop();
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn answers_that_nobody_reads_take_their_room_and_no_more() {
    let prepare = |server: &Digestd| vec![store(server, &text_of(1, 65_500))];
    survive(prepare, async |server, paths| {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = connect_h2(server, 0).await;
            let gets: Vec<u8> = (0..STREAMS)
                .flat_map(|stream| get(stream, &paths[0], &[]))
                .collect();
            client.send(gets).await;
            held.push(client);
        }
        held
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn small_answers_that_nobody_reads_take_their_room_and_no_more() {
    let prepare = |server: &Digestd| vec![store(server, &text_of(1, 4000))];
    survive(prepare, async |server, paths| {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = connect_h2(server, 0).await;
            let gets: Vec<u8> = (0..STREAMS)
                .flat_map(|stream| get(stream, &paths[0], &[]))
                .collect();
            client.send(gets).await;
            held.push(client);
        }
        held
    })
    .await;
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn ranges_of_large_texts_keep_none_of_the_rest() {
    const TEXTS: usize = 200;
    let prepare = |server: &Digestd| {
        (0..TEXTS)
            .map(|number| store(server, &text_of(number, 1_000_000)))
            .collect()
    };
    survive(prepare, async |server, paths: Vec<String>| {
        let mut held = Vec::new();
        let fields = [literal(ACCEPT, "text/plain"), literal(RANGE, "bytes=0-0")].concat();
        for connection in 0..CONNECTIONS {
            let mut client = connect_h2(server, 0).await;
            let gets: Vec<u8> = (0..STREAMS)
                .flat_map(|stream| {
                    get(
                        stream,
                        &paths[(connection * 7 + stream as usize) % TEXTS],
                        &fields,
                    )
                })
                .collect();
            client.send(gets).await;
            held.push(client);
        }
        held
    })
    .await;
}
