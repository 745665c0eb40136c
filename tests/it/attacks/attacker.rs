//! The other side: a thread that attacks, and what attacks are made of.

use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::http2::{
    AUTHORITY, CONTENT_LENGTH, CONTENT_TYPE, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE,
    SETTINGS, frame, literal, path,
};
use crate::process::{Digestd, PATIENCE, processor_time};
use crate::support::{Raw, connect_from};

pub(super) const ATTACKER: [u8; 4] = [127, 0, 0, 1];

/// As many as one client may have, but for a few.
pub(super) const CONNECTIONS: usize = 250;
/// As many as a connection may have.
pub(super) const STREAMS: u32 = 64;

/// Requests that are sent in one step where each takes little.
pub(super) const AT_ONCE: usize = 8;

/// The next piece of a body is sent, and what was ended begins again, after this.
const TRICKLE: Duration = Duration::from_secs(1);

/// Between two steps of an attack.
const STEP: Duration = Duration::from_millis(1);

/// A share of a processor is taken of so much time.
const SLICE: Duration = Duration::from_millis(20);

pub(super) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Time that processors spent on the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// A server, and what an attack may take of the processors with it.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pid: u32,
    /// The part of a processor that it takes without the attack.
    usual: f64,
    started: Instant,
    spent: Duration,
    /// When the next step is due.
    due: Mutex<tokio::time::Instant>,
}

impl Target {
    pub(super) fn new(server: &Digestd, usual: f64) -> Self {
        Self {
            address: server.address(),
            pid: server.pid(),
            usual,
            started: Instant::now(),
            spent: server.processor_time(),
            due: Mutex::new(tokio::time::Instant::now()),
        }
    }

    /// The part of a processor that the attack took so far, in this thread and in the server.
    fn share(&self) -> f64 {
        let elapsed = self.started.elapsed().as_secs_f64();
        let server = processor_time(self.pid).saturating_sub(self.spent);
        let of_attack = server.as_secs_f64() - self.usual * elapsed;
        (of_attack.max(0.0) + thread_time().as_secs_f64()) / elapsed
    }

    /// Waits until the attack has taken less than may be taken, which leaves a processor to others. What a
    /// step takes is seen a little later, so they come one by one.
    pub(super) async fn pace(&self) {
        let processors = thread::available_parallelism().unwrap().get();
        let most = f64::from(u32::try_from(processors).unwrap() - 1).max(0.5);
        let mut due = self.due.lock().await;
        // Timers are late by up to a step; the next one is not.
        sleep_until(*due).await;
        while self.share() > most {
            sleep(STEP).await;
        }
        if due.elapsed() > 10 * STEP {
            *due = tokio::time::Instant::now();
        }
        *due += STEP;
    }

    /// Connects as the attacker.
    pub(super) async fn connect(&self) -> Raw {
        self.pace().await;
        connect_from(ATTACKER, self.address).await
    }

    /// Connects over HTTP/2 with windows of `window` bytes for answers.
    pub(super) async fn connect_h2(&self, window: u32) -> Raw {
        let mut client = self.connect().await;
        client.send(preface(window)).await;
        client
    }

    /// Opens all streams of many connections that take no byte of an answer beyond `window`, each for what
    /// `request` makes of the numbers of its connection and of itself on it, and so many at once.
    pub(super) async fn fill_streams(
        &self,
        connections: usize,
        window: u32,
        at_once: usize,
        request: impl Fn(usize, u32) -> Vec<u8>,
    ) -> Vec<Raw> {
        let mut held = Vec::new();
        for connection in 0..connections {
            let mut client = self.connect_h2(window).await;
            for requests in requests_on(at_once, |number| request(connection, number)) {
                self.pace().await;
                // It may be refused in the middle.
                let _ = client.try_send(&requests).await;
            }
            held.push(client);
        }
        held
    }
}

/// Connections from `address` that begin with `start`, go on with `more` each second, and begin again where
/// the server ends them.
pub(super) async fn trickle(
    target: &Arc<Target>,
    address: [u8; 4],
    connections: usize,
    start: &str,
    more: &str,
) -> JoinSet<()> {
    let (start, more): (Arc<str>, Arc<str>) = (start.into(), more.into());
    let mut held = JoinSet::new();
    for _ in 0..connections {
        target.pace().await;
        let mut client = connect_from(address, target.address).await;
        let _ = client.try_send(start.as_bytes()).await;
        let (target, start, more) = (Arc::clone(target), Arc::clone(&start), Arc::clone(&more));
        held.spawn(async move {
            loop {
                sleep(TRICKLE).await;
                if client.try_send(more.as_bytes()).await.is_err() {
                    target.pace().await;
                    client = connect_from(address, target.address).await;
                    let _ = client.try_send(start.as_bytes()).await;
                }
            }
        });
    }
    held
}

/// The beginning of a connection over HTTP/2, with windows of `window` bytes for answers.
pub(super) fn preface(window: u32) -> Vec<u8> {
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat()
}

/// All requests of a connection, some at a time.
pub(super) fn requests_on(
    at_once: usize,
    request: impl Fn(u32) -> Vec<u8>,
) -> impl Iterator<Item = Vec<u8>> {
    let mut numbers = (0..STREAMS).peekable();
    iter::from_fn(move || {
        numbers.peek()?;
        Some(numbers.by_ref().take(at_once).flat_map(&request).collect())
    })
}

/// A `GET` of the `number`th request of a connection.
pub(super) fn get(number: u32, target: &str, fields: &[u8]) -> Vec<u8> {
    let authority = literal(AUTHORITY, "localhost");
    let head = [b"\x82\x86", &*path(target), &authority, fields].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &head)
}

/// The beginning of a `POST` with this many bytes, of which one comes.
pub(super) fn post(number: u32, bytes: usize, fields: &[u8]) -> Vec<u8> {
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

/// An attack, in a thread of its own: the healthy client does not wait for it.
pub(super) struct Attacker {
    under_way: mpsc::Receiver<Duration>,
    over: oneshot::Sender<()>,
    thread: JoinHandle<f64>,
}

impl Attacker {
    pub(super) fn start<A>(
        target: Target,
        attack: impl AsyncFnOnce(Arc<Target>) -> A + Send + 'static,
    ) -> Self {
        let (begun, under_way) = mpsc::channel();
        let (over, is_over) = oneshot::channel();
        let attacking = async move || {
            let target = Arc::new(target);
            let _held = attack(Arc::clone(&target)).await;
            // Nobody may want to know.
            let _ = begun.send(target.started.elapsed());
            let _ = is_over.await;
            target.share()
        };
        let thread = thread::spawn(move || runtime().block_on(attacking()));
        Self {
            under_way,
            over,
            thread,
        }
    }

    /// Waits until it is under way; returns how long that took.
    pub(super) fn is_under_way(&self) -> Duration {
        let under_way = self.under_way.recv_timeout(2 * PATIENCE);
        under_way.expect("an attack that is under way")
    }

    /// Ends it; returns the part of a processor that it took.
    pub(super) fn end(self) -> f64 {
        let _ = self.over.send(());
        self.thread.join().unwrap()
    }
}

/// Threads that burn so much of processors until this is dropped.
pub(super) struct Burner(Arc<AtomicBool>);

impl Burner {
    pub(super) fn start(share: f64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let burner = Self(Arc::clone(&is_over));
        let mut rest = share;
        while rest > 0.0 {
            let busy = SLICE.mul_f64(rest.min(1.0));
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                while !is_over.load(Relaxed) {
                    let started = Instant::now();
                    while started.elapsed() < busy {}
                    thread::sleep(SLICE.saturating_sub(busy));
                }
            });
            rest -= 1.0;
        }
        burner
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
