//! The service end to end over loopback: `cargo bench --bench load`.
//!
//! The release binary serves on a free port, from a scratch directory; this process drives it with
//! plain sockets and epoll, closed loop, some seconds a row. Two figures make the rows comparable
//! between machines: **F** (see `common`) for durable writes, and the **floor**, a responder that
//! does one read, one write and no parsing, for reads. The floor runs as a process of its own and
//! answers as many bytes as the service does.

#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench that fails may panic, and its figures are small"
)]

mod common;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// Seconds of one measurement, or `DIGESTD_BENCH_SECONDS`.
const SECONDS: u64 = 3;

/// Measurements of each of two rows that are compared.
const ROUNDS: usize = 3;

/// Messages that the reads ask for.
const HOT: u64 = 1000;

fn main() {
    match env::args().nth(1).as_deref() {
        Some("floor") => floor(),
        _ => report(),
    }
}

fn report() {
    let directory = common::scratch();
    let f = common::sync_rate(&directory);
    println!("F = {f:.0}/s");
    println!(
        "{:<32} {:>11} {:>9} {:>9} {:>12} {:>8} {:>7}",
        "", "requests/s", "p50 µs", "p99 µs", "CPU µs each", "/ floor", "F"
    );

    let service = Server::start(
        Command::new(env!("CARGO_BIN_EXE_digestd"))
            .arg("--data-dir")
            .arg(directory.path().join("store"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--cache",
                "256MiB",
                "--free-min",
                "0B",
            ]),
    );
    let posts: Vec<_> = (0..HOT).map(|number| post("hot", number)).collect();
    drive(service.address, 8, Stop::After(HOT), |number| {
        posts[(number % HOT) as usize].clone()
    });
    let gets: Vec<_> = (0..HOT).map(|number| get("hot", number)).collect();
    let mut get_hot = |number: u64| gets[(number % HOT) as usize].clone();
    let answer = answer_bytes(service.address, &get_hot(0));

    let floor = Server::start(
        Command::new(env::current_exe().unwrap()).args(["floor", &answer.to_string()]),
    );
    for connections in [64, 8] {
        // In turns, so that what else the machine does meets both.
        let (mut bare, mut hits) = (Sample::default(), Sample::default());
        for _ in 0..ROUNDS {
            bare.add(measure(&floor, connections, &mut get_hot));
            hits.add(measure(&service, connections, &mut get_hot));
        }
        let floor_cpu = Some(bare.cpu_each());
        bare.print(&format!("floor, {connections} connections"), None, None);
        hits.print(
            &format!("GET hit, {connections} connections"),
            floor_cpu,
            None,
        );
    }
    let mut unique = |number| post("unique", number);
    for connections in [64, 1, 128] {
        let name = format!("POST unique 90 B, {connections} connections");
        measure(&service, connections, &mut unique).print(&name, None, Some(f));
    }
    let mut known = |number: u64| posts[(number % HOT) as usize].clone();
    measure(&service, 64, &mut known).print("POST known 90 B, 64 connections", None, None);
    println!("F = {:.0}/s afterwards", common::sync_rate(&directory));
}

/// What some seconds of requests gave.
#[derive(Default)]
struct Sample {
    /// Of each request, in nanoseconds.
    latencies: Vec<u64>,
    seconds: f64,
    /// Processor time of the server, user and system.
    cpu_seconds: f64,
}

impl Sample {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.seconds += other.seconds;
        self.cpu_seconds += other.cpu_seconds;
    }

    /// Server CPU a request, in seconds.
    fn cpu_each(&self) -> f64 {
        self.cpu_seconds / self.latencies.len() as f64
    }

    fn print(mut self, name: &str, floor_cpu: Option<f64>, f: Option<f64>) {
        self.latencies.sort_unstable();
        let rate = self.latencies.len() as f64 / self.seconds;
        let percentile = |part| self.latencies[self.latencies.len() * part / 100] as f64 / 1e3;
        let ratio = |value: Option<f64>| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
        };
        println!(
            "{name:<32} {rate:>11.0} {:>9.0} {:>9.0} {:>12.2} {:>8} {:>7}",
            percentile(50),
            percentile(99),
            self.cpu_each() * 1e6,
            ratio(floor_cpu.map(|floor| self.cpu_each() / floor)),
            ratio(f.map(|f| rate / f)),
        );
    }
}

/// Sends requests for some seconds.
fn measure(server: &Server, connections: usize, request: &mut dyn FnMut(u64) -> Vec<u8>) -> Sample {
    let seconds =
        env::var("DIGESTD_BENCH_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    // Numbers go on where the last run stopped, so that unique stays unique.
    let first = NEXT.load(Ordering::Relaxed);
    let warm_up = Stop::In(Duration::from_millis(300));
    drive(server.address, connections, warm_up, |number| {
        request(first + number)
    });
    let first = first + (1 << 32);
    NEXT.store(first + (1 << 32), Ordering::Relaxed);
    let cpu = server.cpu_seconds();
    let start = Instant::now();
    let stop = Stop::In(Duration::from_secs(seconds));
    let latencies = drive(server.address, connections, stop, |number| {
        request(first + number)
    });
    Sample {
        latencies,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: server.cpu_seconds() - cpu,
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

fn post(set: &str, number: u64) -> Vec<u8> {
    let body = format!(
        "{{\"message\": \"{}\"}}",
        common::message(set, number).text()
    );
    format!(
        "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn get(set: &str, number: u64) -> Vec<u8> {
    let digest = common::message(set, number).digest();
    format!("GET /messages/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// A process that serves, and says where in a line with `http://`.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let line = lines.find(|line| line.contains("http://")).unwrap();
        let address = line
            .rsplit("http://")
            .next()
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        lines.find(|line| line.contains("ready")).unwrap();
        // Whatever else it says goes nowhere, but must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// Processor time of the process so far, user and system.
    fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// When a run ends.
#[derive(Clone, Copy)]
enum Stop {
    After(u64),
    In(Duration),
}

/// Sends requests on `connections` connections, each the next one once its answer is there. Returns
/// the latency of each in nanoseconds.
fn drive(
    address: SocketAddr,
    connections: usize,
    stop: Stop,
    mut request: impl FnMut(u64) -> Vec<u8>,
) -> Vec<u64> {
    let start = Instant::now();
    let mut latencies = Vec::new();
    let mut sent = 0;
    let poll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let connect = |index: usize| Connection::new(&poll, address, index);
    let mut open: Vec<_> = (0..connections).map(connect).collect();
    for connection in &mut open {
        connection.send(&request(sent));
        sent += 1;
    }
    let mut running = connections;
    let mut events = Vec::with_capacity(connections);
    while running > 0 {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        let is_over = match stop {
            Stop::After(number) => sent >= number,
            Stop::In(time) => start.elapsed() >= time,
        };
        for event in &events {
            let Event { data, .. } = *event;
            let connection = &mut open[data.u64() as usize];
            match connection.receive() {
                Received::Part => continue,
                Received::Answer => {}
                Received::LastAnswer => {
                    *connection = Connection::new(&poll, address, data.u64() as usize);
                }
            }
            latencies.push(
                connection
                    .sent_at
                    .map_or(0, |sent_at| sent_at.elapsed().as_nanos() as u64),
            );
            if is_over {
                running -= 1;
            } else {
                connection.send(&request(sent));
                sent += 1;
            }
        }
    }
    latencies
}

fn answer_bytes(address: SocketAddr, request: &[u8]) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    stream.read(&mut [0; 4096]).unwrap()
}

struct Connection {
    stream: TcpStream,
    sent_at: Option<Instant>,
    answer: Vec<u8>,
}

enum Received {
    Part,
    Answer,
    /// The server closes the connection after it.
    LastAnswer,
}

impl Connection {
    fn new(poll: &OwnedFd, address: SocketAddr, index: usize) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        epoll::add(
            poll,
            &stream,
            EventData::new_u64(index as u64),
            EventFlags::IN,
        )
        .unwrap();
        Self {
            stream,
            sent_at: None,
            answer: Vec::with_capacity(4096),
        }
    }

    fn send(&mut self, request: &[u8]) {
        self.answer.clear();
        self.sent_at = Some(Instant::now());
        self.stream.write_all(request).unwrap();
    }

    fn receive(&mut self) -> Received {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(bytes) => self.answer.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Part,
            Err(error) => panic!("{error}"),
        }
        let Some(head) = self
            .answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            return Received::Part;
        };
        let head_text = std::str::from_utf8(&self.answer[..head]).unwrap();
        assert!(head_text.starts_with("HTTP/1.1 20"), "{head_text}");
        let length = head_text.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if self.answer.len() < head + 4 + length {
            Received::Part
        } else if head_text.contains("connection: close") {
            Received::LastAnswer
        } else {
            Received::Answer
        }
    }
}

/// The floor: whatever comes is a request, and every request has the same answer.
fn floor() {
    let bytes: usize = env::args().nth(2).unwrap().parse().unwrap();
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length:04}\r\n\r\n");
    let length = bytes - head(0).len();
    let answer = head(length) + &"x".repeat(length);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    eprintln!("floor on http://{}", listener.local_addr().unwrap());
    eprintln!("ready");
    listener.set_nonblocking(true).unwrap();
    let poll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(
        &poll,
        &listener,
        EventData::new_u64(u64::MAX),
        EventFlags::IN,
    )
    .unwrap();
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut buffer = [0; 4096];
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in &events {
            let Event { data, .. } = *event;
            if data.u64() == u64::MAX {
                let (stream, _) = listener.accept().unwrap();
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                epoll::add(
                    &poll,
                    &stream,
                    EventData::new_u64(streams.len() as u64),
                    EventFlags::IN,
                )
                .unwrap();
                streams.push(Some(stream));
                continue;
            }
            let slot = &mut streams[data.u64() as usize];
            let Some(stream) = slot else { continue };
            match stream.read(&mut buffer) {
                Ok(bytes) if bytes > 0 => stream.write_all(answer.as_bytes()).unwrap(),
                // Dropping it takes it out of the poll.
                _ => *slot = None,
            }
        }
    }
}
