//! The service end to end over loopback: `cargo bench --bench load`.
//!
//! The release binary serves on a free port, from a scratch directory; this process drives it with the
//! load generator of `digestd bench`, some seconds a row. Two figures make rows comparable between
//! machines: **F** (see `common`) for durable writes, and the **floor**, a responder that does one
//! read, one write and no parsing, for reads. The floor runs as a process of its own, answers as
//! many bytes as the service does, and is measured in turns with it.
//!
//! * `cargo bench --bench load` measures every row, and leaves `target/load/report.{json,html}`;
//!   words after `--` select the rows that have them all in their names (`-- POST 90`).
//! * `cargo bench --bench load -- --sweep workers` measures worker threads against connections.
//! * `cargo bench --bench load -- access` compares reads of a service that asks who comes in with those
//!   of one that does not, and with refused ones.
//! * `DIGESTD_BENCH_SECONDS` is the time of one measurement, `DIGESTD_BENCH_MESSAGES` the size of the
//!   large set, 1,000,000 by default.

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
mod report;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use digestd::load::workload::{Popularity, Requests, Workload, Zipf};
use digestd::load::{self, Outcome, Plan, Until};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tempfile::TempDir;

use self::report::{Report, Row};

/// Seconds of one measurement, or `DIGESTD_BENCH_SECONDS`.
const SECONDS: u64 = 3;

/// Seconds before each measurement that do not count.
const WARM_UP: Duration = Duration::from_millis(300);

/// Measurements of the floor and of reads, in turns: what else the machine does meets both.
const ROUNDS: usize = 3;

/// Lines of a batch.
const BATCH_LINES: u64 = 100_000;

/// Messages of the small set, which any cache holds.
const HOT: u64 = 1000;

/// Messages of the large set, or `DIGESTD_BENCH_MESSAGES`.
const MANY: u64 = 1_000_000;

/// Length of the usual message, in bytes.
const LINE: usize = common::MESSAGE_BYTES;

fn main() {
    let words: Vec<_> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", bytes] => floor(bytes.parse().unwrap()),
        ["--sweep", "workers"] => sweep_workers(),
        ["access"] => compare_access(),
        _ => measure_rows(&words),
    }
}

fn measure_rows(words: &[String]) {
    let directory = common::scratch();
    let service = Server::start(&mut service_command(&directory, &[]));
    let mut bench = Bench::new(words, directory);
    let hot = requests(Workload::Hit, HOT, LINE);
    store(&service, &hot);
    let floor = Server::start(&mut floor_command(answer_bytes(&service, &hot)));

    for connections in [1, 8, 64, 256] {
        bench.reads(&service, &floor, connections, &hot);
    }
    for (name, workload) in [
        ("GET miss", Workload::Miss),
        ("GET not modified", Workload::NotModified),
    ] {
        bench.row(name, &service, 64, &requests(workload, HOT, LINE));
    }
    for connections in [1, 8, 64, 256] {
        bench.row("POST unique 90 B", &service, connections, &posts(LINE));
    }
    for (name, bytes) in [
        ("1 KiB", 1 << 10),
        ("16 KiB", 16 << 10),
        ("256 KiB", 256 << 10),
    ] {
        bench.row(&format!("POST unique {name}"), &service, 64, &posts(bytes));
    }
    bench.row(
        "POST known 90 B",
        &service,
        64,
        &requests(Workload::Known, HOT, LINE),
    );
    bench.row(
        "95/5 mixed",
        &service,
        64,
        &requests(Workload::Mixed, HOT, LINE),
    );
    bench.batches(&service);
    bench.http2(&service, &hot);
    bench.open_loop(&service, &hot);

    let many = env::var("DIGESTD_BENCH_MESSAGES").map_or(MANY, |number| number.parse().unwrap());
    let mut uniform = requests(Workload::Hit, many, LINE);
    uniform.set = "many".into();
    let mut zipf = uniform.clone();
    zipf.popularity = Popularity::Zipf(Zipf::new(many));
    if bench.wants("GET of many") {
        store(&service, &uniform);
        bench.row("GET of many, uniformly", &service, 64, &uniform);
        bench.row("GET of many, zipf", &service, 64, &zipf);
    }
    bench.finish();
}

/// Worker threads × connections: what the default should be.
fn sweep_workers() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut workers: Vec<_> = [1, cores / 2, cores, 2 * cores, 4 * cores].into();
    workers.retain(|&workers| workers > 0);
    workers.sort_unstable();
    workers.dedup();
    let mut best = (0.0, 0, 0);
    println!("requests/s of GET hits + durable POSTs, by workers and connections");
    for &workers in &workers {
        let directory = common::scratch();
        let workers_option = workers.to_string();
        let arguments = ["--workers", &workers_option];
        let service = Server::start(&mut service_command(&directory, &arguments));
        let hot = requests(Workload::Hit, HOT, LINE);
        store(&service, &hot);
        for connections in [1, 8, 64, 256] {
            let gets = measure(&service, &plan(connections), &hot).outcome.rate();
            let posts = measure(&service, &plan(connections), &posts(LINE))
                .outcome
                .rate();
            println!(
                "{workers:>3} workers, {connections:>3} connections: {gets:>8.0} + {posts:>7.0}"
            );
            // A POST costs several GETs: a rate of each weighs the same.
            let score = gets * posts;
            if score > best.0 {
                best = (score, workers, connections);
            }
        }
    }
    println!(
        "best: {} workers with {} connections, on {cores} cores that the generator uses too",
        best.1, best.2
    );
}

/// Reads of a service that lets everybody in, of one that asks all it can, and of one that refuses
/// them for being too many, in turns.
fn compare_access() {
    let directory = common::scratch();
    let rules = Rules::write(&directory);
    let directories = [(); 3].map(|()| common::scratch());
    let start = |number: usize, arguments: &[&str]| {
        Server::start(&mut service_command(&directories[number], arguments))
    };
    let hot = requests(Workload::Hit, HOT, LINE);
    let rates = [
        "--read-rate",
        "1000000000/s",
        "--write-rate",
        "1000000000/s",
    ];
    let rows = [
        ("open", start(0, &[]), 200),
        (
            "asking",
            start(1, &[&rules.arguments()[..], &rates].concat()),
            200,
        ),
        ("refusing", start(2, &["--read-rate", "1/h"]), 429),
    ];
    let drive = |address, until, shows, request: fn(&Requests, u64) -> load::Request| {
        let plan = Plan {
            address,
            until,
            ..plan(64)
        };
        let (hot, authorization) = (hot.clone(), rules.authorization());
        let run = load::run(&plan, move |number| {
            let mut request = request(&hot, number);
            if shows {
                request.fields.push(authorization.clone());
            }
            request
        });
        runtime().block_on(run).unwrap()
    };
    for (_, server, _) in &rows {
        let stored = drive(server.address, Until::Requests(HOT), true, Requests::setup);
        assert_eq!(stored.statuses[&201], HOT);
    }
    let mut totals = [(0.0, 0); 3];
    for _ in 0..ROUNDS {
        for ((name, server, status), total) in rows.iter().zip(&mut totals) {
            let cpu = server.cpu_seconds();
            let shows = *name == "asking";
            let outcome = drive(server.address, plan(64).until, shows, Requests::request);
            // The first may pass where the others are too many.
            assert!(
                outcome.statuses[status] + 1 >= outcome.answers(),
                "{outcome}"
            );
            total.0 += server.cpu_seconds() - cpu;
            total.1 += outcome.answers();
        }
    }
    let each = totals.map(|(seconds, answers)| seconds * 1e6 / answers as f64);
    for ((name, ..), cpu) in rows.iter().zip(each) {
        println!(
            "{name:<9} {cpu:>6.2} µs of CPU a request, {:.3} of open",
            cpu / each[0]
        );
    }
}

/// Ten tokens and a thousand networks.
struct Rules {
    tokens: String,
    list: String,
    token: String,
}

impl Rules {
    fn write(directory: &TempDir) -> Self {
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let token = |number| common::message("token", number).digest().to_string();
        let hash = |number| Digest::of(token(number).as_bytes());
        let line = |number| format!("t{number} read,write {}\n", hash(number));
        let network = |number| format!("deny 10.{}.{}.0/24\n", number / 256, number % 256);
        let (tokens, list) = (path("tokens"), path("list"));
        fs::write(&tokens, (0..10).map(line).collect::<String>()).unwrap();
        fs::write(&list, (0..1000).map(network).collect::<String>()).unwrap();
        Self {
            tokens,
            list,
            token: token(9),
        }
    }

    fn authorization(&self) -> (&'static str, String) {
        ("Authorization", format!("Bearer {}", self.token))
    }

    fn arguments(&self) -> [&str; 8] {
        let Self { tokens, list, .. } = self;
        [
            "--tokens",
            tokens,
            "--list-file",
            list,
            "--allow",
            "127.0.0.0/8",
            "--trusted-proxy",
            "192.0.2.0/24",
        ]
    }
}

fn requests(workload: Workload, messages: u64, message_bytes: usize) -> Requests {
    Requests {
        workload,
        set: "hot".into(),
        messages,
        new_set: String::new(),
        message_bytes,
        popularity: Popularity::Uniform,
    }
}

fn posts(message_bytes: usize) -> Requests {
    requests(Workload::Post, HOT, message_bytes)
}

fn plan(connections: usize) -> Plan {
    let seconds =
        env::var("DIGESTD_BENCH_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    Plan {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        authorization: None,
        tls: None,
        http2: false,
        connections,
        until: Until::Time(Duration::from_secs(seconds)),
        rate: None,
    }
}

/// What one measurement gave.
struct Sample {
    outcome: Outcome,
    /// Processor time of the server, user and system.
    cpu_seconds: f64,
}

impl Sample {
    fn add(&mut self, other: &Self) {
        self.outcome
            .latencies
            .add(&other.outcome.latencies)
            .unwrap();
        self.outcome.elapsed += other.outcome.elapsed;
        self.cpu_seconds += other.cpu_seconds;
    }

    /// Server CPU a request, in microseconds.
    fn cpu_each(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.outcome.answers() as f64
    }
}

/// Drives a server from this thread; every request must be answered as it should be.
fn measure(server: &Server, plan: &Plan, requests: &Requests) -> Sample {
    let mut plan = plan.clone();
    plan.address = server.address;
    let mut warm_up = plan.clone();
    warm_up.until = Until::Time(WARM_UP);
    drive(&warm_up, requests);
    let cpu = server.cpu_seconds();
    let outcome = drive(&plan, requests);
    Sample {
        cpu_seconds: server.cpu_seconds() - cpu,
        outcome,
    }
}

/// Stores the messages that `requests` asks for.
fn store(service: &Server, requests: &Requests) {
    let mut plan = plan(64);
    plan.address = service.address;
    plan.until = Until::Requests(requests.messages);
    let setup = requests.clone();
    let stored = runtime().block_on(load::run(&plan, move |number| setup.setup(number)));
    assert_eq!(stored.unwrap().statuses[&201], requests.messages);
}

fn drive(plan: &Plan, requests: &Requests) -> Outcome {
    let mut requests = requests.clone();
    // Unique stays unique over all rows and rounds.
    requests.new_set = common::fresh_name();
    let expected: &[u16] = match requests.workload {
        Workload::Hit => &[200],
        Workload::Miss => &[404],
        Workload::NotModified => &[304],
        Workload::Post | Workload::Known => &[201],
        Workload::Mixed => &[200, 201],
    };
    let outcome = runtime()
        .block_on(load::run(plan, move |number| requests.request(number)))
        .unwrap();
    let is_expected = outcome
        .statuses
        .keys()
        .all(|status| expected.contains(status));
    assert!(is_expected && outcome.unanswered == 0, "{outcome}");
    outcome
}

/// Stores a batch on a connection of its own, reading while it writes; returns how long it took.
fn send_batch(address: SocketAddr) -> Duration {
    let set = common::fresh_name();
    let mut lines = Vec::new();
    for number in 0..BATCH_LINES {
        let message = common::message(&set, number);
        writeln!(lines, "{{\"message\": \"{}\"}}", message.text()).unwrap();
    }
    let head = format!(
        // Version 1.0 has no chunks to take apart.
        "POST /messages HTTP/1.0\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        lines.len()
    );
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(head.as_bytes()).unwrap();
        writer.write_all(&lines).unwrap();
    });
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let elapsed = start.elapsed();
    writing.join().unwrap();
    assert_eq!(answer.matches("{\"digest\": ").count() as u64, BATCH_LINES);
    elapsed
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Measures rows, and prints each when it is there.
struct Bench {
    words: Vec<String>,
    directory: TempDir,
    report: Report,
}

impl Bench {
    fn new(words: &[String], directory: TempDir) -> Self {
        let f = common::sync_rate(&directory);
        let report = Report::new(f);
        Self {
            words: words.to_vec(),
            directory,
            report,
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.words.iter().all(|word| name.contains(word))
    }

    fn row(&mut self, name: &str, service: &Server, connections: usize, requests: &Requests) {
        self.planned_row(name, service, &plan(connections), requests);
    }

    fn planned_row(&mut self, name: &str, service: &Server, plan: &Plan, requests: &Requests) {
        let row = Row::named(name, plan.connections);
        if self.wants(&row.name) {
            let sample = measure(service, plan, requests);
            let writes = requests.workload == Workload::Post && plan.rate.is_none();
            self.report.add(&row, &sample, None, writes);
        }
    }

    fn reads(&mut self, service: &Server, floor: &Server, connections: usize, hot: &Requests) {
        let (bare, hits) = (
            Row::named("floor", connections),
            Row::named("GET hit", connections),
        );
        if !self.wants(&hits.name) {
            return;
        }
        let plan = plan(connections);
        let mut samples = [measure(floor, &plan, hot), measure(service, &plan, hot)];
        for _ in 1..ROUNDS {
            samples[0].add(&measure(floor, &plan, hot));
            samples[1].add(&measure(service, &plan, hot));
        }
        let [floor, service] = samples;
        self.report.add(&bare, &floor, None, false);
        self.report
            .add(&hits, &service, Some(floor.cpu_each()), false);
    }

    /// Batches and single messages in turns. A line comes as its own row: it has no latency to speak of.
    fn batches(&self, service: &Server) {
        let name = "POST batch of 100,000 × 90 B, 1 connection";
        if !self.wants(name) {
            return;
        }
        let (mut singles_rate, mut seconds, mut cpu_seconds) = (0.0, 0.0, 0.0);
        let mut growth_bytes = 0;
        for _ in 0..ROUNDS {
            let singles = measure(service, &plan(64), &posts(LINE));
            singles_rate += singles.outcome.rate() / ROUNDS as f64;
            let before = (service.memory_bytes(), service.cpu_seconds());
            seconds += send_batch(service.address).as_secs_f64();
            growth_bytes = service
                .memory_bytes()
                .saturating_sub(before.0)
                .max(growth_bytes);
            cpu_seconds += service.cpu_seconds() - before.1;
        }
        let lines = (BATCH_LINES * ROUNDS as u64) as f64;
        let rate = lines / seconds;
        println!(
            "{name:<48} {rate:>10.0} {:>36.2}   {:.2} × POST of 64 connections, {:.1} MiB more memory",
            cpu_seconds * 1e6 / lines,
            rate / singles_rate,
            growth_bytes as f64 / 1_048_576.0
        );
    }

    fn http2(&mut self, service: &Server, hot: &Requests) {
        let mut plan = plan(64);
        plan.http2 = true;
        self.planned_row("GET hit, HTTP/2", service, &plan, hot);
        self.planned_row("POST unique 90 B, HTTP/2", service, &plan, &posts(LINE));
    }

    /// At a rate that any machine bears: what is left are the latencies.
    fn open_loop(&mut self, service: &Server, hot: &Requests) {
        let mut plan = plan(64);
        plan.rate = Some(5000.0);
        self.planned_row("GET hit, open loop at 5,000/s", service, &plan, hot);
        let name = "POST unique 90 B, open loop at 5,000/s";
        self.planned_row(name, service, &plan, &posts(LINE));
    }

    fn finish(self) {
        println!("F = {:.0}/s afterwards", common::sync_rate(&self.directory));
        // Cargo's own place for files of a bench is target/tmp.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let directory = target.join("load");
        self.report.write(&directory);
        println!(
            "written to {}/report.html and report.json",
            directory.display()
        );
    }
}

fn service_command(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_digestd"));
    command
        .arg("--data-dir")
        .arg(directory.path().join("store"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--cache",
            "512MiB",
            "--free-min",
            "0B",
            "--log-format",
            "text",
        ])
        .args(arguments);
    command
}

fn floor_command(answer_bytes: usize) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["floor", &answer_bytes.to_string()]);
    command
}

fn answer_bytes(server: &Server, requests: &Requests) -> usize {
    let path = requests.request(0).path;
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read(&mut [0; 4096]).unwrap()
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
        let address = line.rsplit("http://").next().unwrap();
        let address = address.trim().parse().unwrap();
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

impl Server {
    /// The most memory the process has had so far.
    fn memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kibibytes.parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The floor: whatever comes is a request, and every request has the same answer.
fn floor(bytes: usize) {
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
