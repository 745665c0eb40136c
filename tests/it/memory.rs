//! What a server takes when clients misbehave: memory, descriptors, processor time.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream as BlockingStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use digestd::config::Limits;
use digestd::digest::Digest;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::process::{Client, Digestd, Launch, PATIENCE};
use crate::support::stream_from;

const CLIENTS: usize = 1000;
const BODY_BYTES: usize = 1 << 20;
const JSON_START: &str = "{\"message\": \"";
const JSON_END: &str = "\"}";
const PIECE_BYTES: usize = 16 << 10;
const PIECES: usize = BODY_BYTES / PIECE_BYTES;
/// A body takes two seconds, so that none is over before all of them are under way.
const PIECE_PAUSE: Duration = Duration::from_millis(31);
const RSS_BYTES_MAX: u64 = 150_000_000;

/// Between the requests of a healthy client: what is stored is cached, and not what is measured here.
const HEALTHY_PAUSE: Duration = Duration::from_millis(5);

#[test]
fn slow_and_broken_large_bodies_do_not_take_the_memory() {
    raise_descriptor_limit();
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path()).option("--cache", "64MiB").start();
    let over = Over::default();
    thread::scope(|scope| {
        let healthy: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let (server, over) = (&server, &over);
                    move || stay_healthy(server, number, over)
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.is_set() {
                check_memory(server.resident_bytes());
                thread::sleep(Duration::from_millis(50));
            }
        });
        let over = over.when_dropped();
        for wave in [Wave::Broken, Wave::Slow, Wave::Mixed] {
            send_and_check(&server, wave);
        }
        drop(over);
        for client in healthy {
            let rounds = client.join().unwrap();
            assert!(
                rounds >= 100,
                "a healthy client was served {rounds} times only"
            );
        }
    });
    println!("{} bytes at the peak", check_memory(server.peak_bytes()));
    server.stop();
}

/// Sends a wave of large bodies, and checks what became of them.
fn send_and_check(server: &Digestd, wave: Wave) {
    let bodies = send_bodies(server.address(), wave);
    let (stored, dropped) = (bodies.stored.len(), bodies.dropped.len());
    let numbers = format!("{wave:?}: {stored} stored, {dropped} dropped, of {CLIENTS}");
    println!("{numbers}");
    // The pressure was there: the room was taken, and there was more than could wait for it.
    let taken = stored + dropped;
    let least = if wave == Wave::Mixed {
        10
    } else {
        room() * 3 / 4
    };
    assert!((least..CLIENTS).contains(&taken), "{numbers}");

    let mut client = server.client();
    for body in bodies.dropped.iter().take(10) {
        for text in [body.text(), body.content(PIECES / 2)] {
            assert_eq!(client.fetch(&Digest::of(text.as_bytes())), None);
        }
    }
    for body in bodies.stored.iter().take(5) {
        let text = body.text();
        let found = client.fetch(&Digest::of(text.as_bytes()));
        assert!(found == Some(text), "{body:?} is not there as it was");
    }
    let started = Instant::now();
    while !has_room_for_all(server) {
        let waited = started.elapsed();
        assert!(waited < PATIENCE, "the room for bodies is not given back");
    }
}

/// How many of the largest bodies the server has room for, of one client.
fn room() -> usize {
    Limits::default().body.all_large_bytes_max / 2 / BODY_BYTES
}

/// Whether as many of the largest bodies as there is room for can be begun at once.
fn has_room_for_all(server: &Digestd) -> bool {
    let head = format!(
        "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES}\r\n\
         Expect: 100-continue\r\n\r\n"
    );
    let mut clients: Vec<_> = (0..room()).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(head.as_bytes()).unwrap();
    }
    // It asks for the body when it has room for it.
    let mut lines = clients.iter_mut().map(|client| client.line().unwrap());
    lines.all(|line| line == "HTTP/1.1 100 Continue")
}

/// Stores and reads small messages until it is over; every one must be served.
fn stay_healthy(server: &Digestd, number: usize, over: &Over) -> usize {
    let mut rounds = 0;
    while !over.is_set() {
        let mut client = server.client();
        for _ in 0..100 {
            let text = format!("healthy {number} {rounds}");
            let digest = client.publish(&text).unwrap();
            assert_eq!(client.fetch(&digest), Some(text));
            rounds += 1;
            thread::sleep(HEALTHY_PAUSE);
        }
    }
    rounds
}

/// Tells threads when it is over, also by a panic.
#[derive(Debug, Default)]
struct Over(AtomicBool);

impl Over {
    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    fn when_dropped(&self) -> SetWhenDropped<'_> {
        SetWhenDropped(self)
    }
}

struct SetWhenDropped<'a>(&'a Over);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

/// What became of the large bodies that were not refused.
#[derive(Debug, Default)]
struct Bodies {
    stored: Vec<LargeBody>,
    /// Half of each was sent, and the server was waiting for more, or for room for it.
    dropped: Vec<LargeBody>,
}

/// Sends a large body from each client at the same time.
#[tokio::main(flavor = "current_thread")]
async fn send_bodies(address: SocketAddr, wave: Wave) -> Bodies {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let body = LargeBody { wave, client };
        clients.spawn(async move { (body, body.send(address).await) });
    }
    let mut bodies = Bodies::default();
    while let Some(ended) = clients.join_next().await {
        match ended.unwrap() {
            (body, End::Stored) => bodies.stored.push(body),
            (body, End::Dropped) => bodies.dropped.push(body),
            (_, End::Refused) => {}
        }
    }
    bodies
}

/// How the sending of a body ended.
enum End {
    Stored,
    Dropped,
    /// By an early answer, or cut off while the client was still sending.
    Refused,
}

/// What clients do at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wave {
    /// All drop their body half-way.
    Broken,
    /// All send their body to its end. It is JSON with an escape, so it is decoded into another
    /// megabyte, and all that the server had room for end together.
    Slow,
    /// Something of everything, in chunks too.
    Mixed,
}

/// A body that nobody else sends.
#[derive(Clone, Copy, Debug)]
struct LargeBody {
    wave: Wave,
    client: usize,
}

impl LargeBody {
    fn is_dropped(self) -> bool {
        match self.wave {
            Wave::Broken => true,
            Wave::Slow => false,
            Wave::Mixed => self.client % 4 < 2,
        }
    }

    fn is_chunked(self) -> bool {
        self.wave == Wave::Mixed && self.client.is_multiple_of(3)
    }

    fn is_json(self) -> bool {
        self.wave == Wave::Slow || self.client.is_multiple_of(2)
    }

    /// What is sent in the end, piece by piece; most clients never get so far.
    fn piece(self, number: usize) -> Vec<u8> {
        let (start, tab, end) = if self.is_json() {
            (JSON_START, "\\t", JSON_END)
        } else {
            ("", "\t", "")
        };
        let mut piece = vec![b'x'; PIECE_BYTES];
        if number == 0 {
            let start = format!("{start}large{tab}{:?} {} ", self.wave, self.client);
            piece[..start.len()].copy_from_slice(start.as_bytes());
        }
        if number == PIECES - 1 {
            piece[PIECE_BYTES - end.len()..].copy_from_slice(end.as_bytes());
        }
        piece
    }

    /// The first pieces together.
    fn content(self, pieces: usize) -> String {
        let bytes = (0..pieces).flat_map(|number| self.piece(number)).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// The text that is stored if the whole body comes.
    fn text(self) -> String {
        let content = self.content(PIECES);
        let text = content.strip_prefix(JSON_START).unwrap_or(&content);
        let text = text.strip_suffix(JSON_END).unwrap_or(text);
        text.replacen("\\t", "\t", 1)
    }

    /// Sends it piece by piece, and does not stop because it was refused.
    async fn send(self, address: SocketAddr) -> End {
        // 256 connections is what one address may have.
        let source = [127, 0, 0, u8::try_from(2 + self.client % 8).unwrap()];
        let stream = stream_from(source, address).await;
        if self.send_pieces(&stream).await.is_err() {
            return End::Refused;
        }
        let mut start = [0; 12];
        if self.is_dropped() {
            return match stream.try_read(&mut start) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => End::Dropped,
                _ => End::Refused,
            };
        }
        let answer = async {
            loop {
                stream.readable().await?;
                match stream.try_read(&mut start) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        };
        let answer = timeout(PATIENCE, answer).await;
        match answer.expect("no answer to a whole body") {
            Ok(12) if start == *b"HTTP/1.1 201" => End::Stored,
            Ok(12) if start != *b"HTTP/1.1 503" => panic!("{}", start.escape_ascii()),
            _ => End::Refused,
        }
    }

    async fn send_pieces(self, stream: &TcpStream) -> io::Result<()> {
        let kind = if self.is_json() {
            "application/json"
        } else {
            "text/plain"
        };
        let length = if self.is_chunked() {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {BODY_BYTES}")
        };
        let head = format!(
            "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{length}\r\n\r\n"
        );
        send(stream, head.as_bytes()).await?;
        let pieces = if self.is_dropped() {
            PIECES / 2
        } else {
            PIECES
        };
        for number in 0..pieces {
            let piece = self.piece(number);
            if self.is_chunked() {
                let size = format!("{PIECE_BYTES:x}\r\n");
                send(stream, &[size.as_bytes(), &piece, b"\r\n"].concat()).await?;
            } else {
                send(stream, &piece).await?;
            }
            sleep(PIECE_PAUSE).await;
        }
        if self.is_chunked() && !self.is_dropped() {
            send(stream, b"0\r\n\r\n").await?;
        }
        Ok(())
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Checks that a figure of its memory is within the limit.
fn check_memory(bytes: u64) -> u64 {
    assert!(bytes < RSS_BYTES_MAX, "{bytes} bytes");
    bytes
}

pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    assert!(
        limit
            .maximum
            .is_none_or(|maximum| maximum >= 2 * CLIENTS as u64),
        "the test needs a connection for each client: ulimit -Hn is {limit:?}"
    );
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all).unwrap();
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let (mut early, crowd) = crowd(&server);

    let before = server.processor_time();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        assert_eq!(early.ask("GET", "/livez", &[], b"").unwrap().status, 200);
        thread::sleep(Duration::from_millis(50));
    }
    let spent = server.processor_time().saturating_sub(before);
    assert!(spent < started.elapsed() / 4, "it span: {spent:?}");

    drop((crowd, early));
    server.client().publish("foo").unwrap();
    let log = server.stop();
    assert!(log.lines().count() < 20, "{log}");
}

#[test]
fn running_out_of_descriptors_does_not_end_writes() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let (mut early, crowd) = crowd(&server);
    // Longer than the time between two checkpoints.
    let started = Instant::now();
    for number in 0.. {
        let answer = early.post(&format!("message {number}")).unwrap();
        assert_eq!(answer.status, 201, "{}\n{}", answer.text(), server.log());
        if started.elapsed() > Duration::from_secs(3) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    drop((crowd, early));
    server.client().publish("foo").unwrap();
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn the_limit_on_descriptors_is_raised_as_far_as_it_goes_and_reported() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .through([
            "sh",
            "-c",
            "ulimit -S -n 128; ulimit -H -n 999; exec \"$0\" \"$@\"",
        ])
        .start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = files.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["999", "999"]);
    let log = server.stop();
    assert!(log.contains("open_files_at_most=999"), "{log}");
}

/// A client that was let in, and more connections behind it than the server has descriptors for:
/// they are complete, but wait in its backlog.
fn crowd(server: &Digestd) -> (Client, Vec<BlockingStream>) {
    let mut early = server.client();
    early.publish("early").unwrap();
    forbid_new_descriptors(server);
    let crowd = (0..20)
        .map(|_| BlockingStream::connect(server.address()).unwrap())
        .collect();
    server.wait_for("cannot accept connections");
    (early, crowd)
}

/// Leaves the server the descriptors it has: the next would get the lowest free number.
fn forbid_new_descriptors(server: &Digestd) {
    let open = format!("/proc/{}/fd", server.pid());
    let free = (0..=10_000).find(|number| !fs::exists(format!("{open}/{number}")).unwrap());
    let limit = Rlimit {
        current: free,
        maximum: free,
    };
    let pid = i32::try_from(server.pid()).unwrap();
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
}
