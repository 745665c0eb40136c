//! The service end to end over loopback: `cargo bench --bench load`.
//!
//! The release binary serves on a free port, from a scratch directory; this process drives it with the
//! load generator of `digestd bench`, some seconds a row. Four things make rows comparable between
//! machines, measured in the same run and, where it matters, in turns: **F** (see `common`) for
//! durable writes; the **floor**, a responder that does one read, one write and no parsing and
//! answers as many bytes, for reads, and hyper with one answer for everything, the least that a service
//! on top of it costs; and, where Go is installed, a server as people write it for the
//! exercise, which keeps its messages in memory. At the end stand the ratios that the design has
//! targets for.
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

#[path = "../common/mod.rs"]
mod common;
mod report;
mod servers;

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use digestd::load::workload::{Popularity, Requests, Workload, Zipf};
use digestd::load::{self, Outcome, Plan, Tls, Until};
use hyper::header::HeaderValue;
use tempfile::TempDir;
use tokio::sync::oneshot;

use self::report::{Bar, Report, Row};
use self::servers::{
    Server, answer_bytes, bare_command, go_command, run_floor, run_hyper, service_command,
};

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

/// Length of a message of the large set, in bytes.
const LONG: usize = 100;

const MEBIBYTE: f64 = 1_048_576.0;

/// Bytes of a request that is meant to be expensive: the largest that is taken.
const HOSTILE: usize = 1 << 20;

/// How long writers fill the caches of a server before its memory is looked at.
const FILLING: Duration = Duration::from_secs(15);

/// How long an idle server is watched.
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    let words: Vec<_> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", bytes] => run_floor(bytes.parse().unwrap()),
        ["hyper", bytes] => run_hyper(bytes.parse().unwrap()),
        ["--sweep", "workers"] => sweep_workers(),
        ["access"] => compare_access(),
        _ => measure_rows(&words),
    }
}

fn measure_rows(words: &[String]) {
    let directory = common::scratch();
    let tls = ["--tls-listen", "127.0.0.1:0", "--tls-self-signed"];
    let service = Server::start(&mut service_command(&directory, &tls));
    let certificate = directory.path().join("store/localhost.crt");
    let tls = Tls::trusting(&certificate, "localhost").unwrap();
    let mut bench = Bench::new(words, directory);
    let hot = requests(Workload::Hit, HOT, LINE);
    store(&service, &hot);
    let answer_bytes = answer_bytes(&service, &hot.request(0).path);
    let floor = Server::start(&mut bare_command("floor", answer_bytes));

    bench.idle(&service);
    for connections in [1, 8, 64, 256] {
        let to_floor = bench.reads("GET hit", &service, &floor, connections, &hot);
        if connections == 64 {
            bench.bar("GET hit / floor, CPU", to_floor, Bar::AtMost(1.6));
        }
    }
    bench.unlogged(&floor, &hot);
    bench.bare_hyper(answer_bytes, &floor, &hot);
    let known = requests(Workload::Known, HOT, LINE);
    for (name, requests) in [
        ("GET miss", &requests(Workload::Miss, HOT, LINE)),
        (
            "GET not modified",
            &requests(Workload::NotModified, HOT, LINE),
        ),
        ("95/5 mixed", &requests(Workload::Mixed, HOT, LINE)),
    ] {
        bench.row(name, &service, &plan(64), requests);
    }
    bench.pair(
        ["GET hit beside it", "POST known 90 B"],
        [&service; 2],
        [&plan(64); 2],
        [&hot, &known],
        |[get, post]| {
            vec![(
                "POST known / GET hit, CPU",
                post.cpu_each() / get.cpu_each(),
                Bar::AtMost(1.5),
            )]
        },
    );
    for (connections, bar) in [(1, Some(0.4)), (8, None), (64, Some(6.0)), (256, None)] {
        bench.writes(&service, connections, bar);
    }
    for (name, bytes) in [
        ("1 KiB", 1 << 10),
        ("16 KiB", 16 << 10),
        ("256 KiB", 256 << 10),
    ] {
        bench.row(
            &format!("POST unique {name}"),
            &service,
            &plan(64),
            &posts(bytes),
        );
    }
    bench.beside_go(&service);
    bench.batches(&service);
    bench.encrypted(&service, &tls, &hot);
    bench.open_loop(&service, &hot);
    bench.beside_writers(&service, &hot);
    bench.hostile(&service);
    bench.many(&floor);
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

/// Reads of a service that lets everybody in and of one that asks all it can, and requests that are
/// refused for being too many, in turns.
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
    let open = start(0, &[]);
    let asking = start(1, &[&rules.arguments()[..], &rates].concat());
    let refusing = start(2, &["--read-rate", "1/h", "--write-rate", "1/h"]);
    let drive = |plan: &Plan, request: fn(&Requests, u64) -> load::Request| {
        let hot = hot.clone();
        let run = load::run(plan, move |number| request(&hot, number));
        runtime().block_on(run).unwrap()
    };
    let plans = [&open, &asking, &refusing].map(|server| plan_for(server, 64));
    let [open_plan, mut asking_plan, refusing_plan] = plans;
    asking_plan.authorization = Some(rules.authorization());
    for plan in [&open_plan, &asking_plan] {
        let mut plan = plan.clone();
        plan.until = Until::Requests(HOT);
        assert_eq!(drive(&plan, Requests::setup).statuses[&201], HOT);
    }
    let get = Requests::request as fn(&_, _) -> _;
    let rows = [
        ("open", &open, &open_plan, 200, get),
        ("asking", &asking, &asking_plan, 200, get),
        ("refused GET", &refusing, &refusing_plan, 429, get),
        (
            "refused POST",
            &refusing,
            &refusing_plan,
            429,
            Requests::setup,
        ),
    ];
    let mut totals = [None, None, None, None];
    for _ in 0..ROUNDS {
        for ((_, server, plan, status, request), total) in rows.iter().zip(&mut totals) {
            let sample = Sample::of(server, || drive(plan, *request));
            let outcome = &sample.outcome;
            // The first may pass where the others are too many.
            assert!(
                outcome.statuses[status] + 1 >= outcome.answers(),
                "{outcome}"
            );
            Sample::add_to(total, sample);
        }
    }
    let each = totals.map(|total: Option<Sample>| total.unwrap().cpu_each());
    for ((name, ..), cpu) in rows.iter().zip(each) {
        println!(
            "{name:<12} {cpu:>6.2} µs of CPU a request, {:.3} of open",
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

    fn authorization(&self) -> HeaderValue {
        format!("Bearer {}", self.token).try_into().unwrap()
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

/// The same, for what can be asked of any server.
fn plan_for(server: &Server, connections: usize) -> Plan {
    Plan {
        address: server.address,
        ..plan(connections)
    }
}

/// What one measurement gave.
struct Sample {
    outcome: Outcome,
    /// Processor time of the server, user and system.
    cpu_seconds: f64,
}

impl Sample {
    /// What `drive` gives, and what it costs `server`.
    fn of(server: &Server, drive: impl FnOnce() -> Outcome) -> Self {
        let cpu = server.cpu_seconds();
        let outcome = drive();
        Self {
            cpu_seconds: server.cpu_seconds() - cpu,
            outcome,
        }
    }

    fn add_to(total: &mut Option<Self>, other: Self) {
        let Some(total) = total else {
            *total = Some(other);
            return;
        };
        let latencies = &mut total.outcome.latencies;
        latencies.add(&other.outcome.latencies).unwrap();
        total.outcome.elapsed += other.outcome.elapsed;
        total.cpu_seconds += other.cpu_seconds;
    }

    /// Server CPU a request, in microseconds.
    fn cpu_each(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.outcome.answers() as f64
    }
}

/// Drives a server from this thread; every request must be answered as it should be.
fn measure(server: &Server, plan: &Plan, requests: &Requests) -> Sample {
    let mut plan = plan.clone();
    plan.address = match plan.tls {
        None => server.address,
        Some(_) => server.tls_address.unwrap(),
    };
    let mut warm_up = plan.clone();
    warm_up.until = Until::Time(WARM_UP);
    drive(&warm_up, requests);
    Sample::of(server, || drive(&plan, requests))
}

/// Stores the messages that `requests` asks for.
fn store(service: &Server, requests: &Requests) {
    let mut plan = plan_for(service, 64);
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

/// Stores messages of a set as a batch on a connection of its own, reading while it writes; returns
/// how long it took.
fn send_batch(address: SocketAddr, requests: &Requests, numbers: Range<u64>) -> Duration {
    let mut lines = Vec::new();
    let messages = numbers.end - numbers.start;
    for number in numbers {
        lines.extend_from_slice(&requests.setup(number).body);
        lines.push(b'\n');
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
    assert_eq!(answer.matches("{\"digest\": ").count() as u64, messages);
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

    fn f(&self) -> f64 {
        self.report.f
    }

    fn wants(&self, name: &str) -> bool {
        self.words.iter().all(|word| name.contains(word))
    }

    /// A ratio that the design has a target for, if it was measured.
    fn bar(&mut self, name: &str, value: Option<f64>, bar: Bar) {
        if let Some(value) = value {
            self.report.add_bar(name, value, bar);
        }
    }

    /// Measures one row.
    fn row(&mut self, name: &str, service: &Server, plan: &Plan, requests: &Requests) {
        let row = Row::named(name, plan.connections);
        if !self.wants(&row.name) {
            return;
        }
        let sample = measure(service, plan, requests);
        let writes = requests.workload == Workload::Post && plan.rate.is_none();
        let to_f = writes.then(|| sample.outcome.rate() / self.f());
        self.report.add(&row, &sample, None, to_f);
    }

    /// Durable writes of the usual message in turns with F; what counts is the median of their ratios.
    fn writes(&mut self, service: &Server, connections: usize, bar: Option<f64>) {
        let row = Row::named("POST unique 90 B", connections);
        if !self.wants(&row.name) {
            return;
        }
        let (mut total, mut ratios) = (None, Vec::new());
        for _ in 0..ROUNDS {
            let f = common::sync_rate(&self.directory);
            let sample = measure(service, &plan(connections), &posts(LINE));
            ratios.push(sample.outcome.rate() / f);
            Sample::add_to(&mut total, sample);
        }
        ratios.sort_by(f64::total_cmp);
        let to_f = ratios[ROUNDS / 2];
        self.report.add(&row, &total.unwrap(), None, Some(to_f));
        if let Some(bar) = bar {
            let name = format!("durable POST, {connections} connections / F");
            self.report.add_bar(&name, to_f, Bar::AtLeast(bar));
        }
    }

    /// Measures two rows in turns, and what their ratios say.
    fn pair(
        &mut self,
        names: [&str; 2],
        servers: [&Server; 2],
        plans: [&Plan; 2],
        requests: [&Requests; 2],
        bars: impl FnOnce(&[Sample; 2]) -> Vec<(&'static str, f64, Bar)>,
    ) {
        let rows = [0, 1].map(|row| Row::named(names[row], plans[row].connections));
        if !rows.iter().any(|row| self.wants(&row.name)) {
            return;
        }
        let samples = in_turns(servers, plans, requests);
        for (row, sample) in rows.iter().zip(&samples) {
            self.report.add(row, sample, None, None);
        }
        for (name, value, bar) in bars(&samples) {
            self.report.add_bar(name, value, bar);
        }
    }

    /// Reads in turns with the floor; returns how many times its CPU they cost.
    fn reads(
        &mut self,
        name: &str,
        service: &Server,
        floor: &Server,
        connections: usize,
        requests: &Requests,
    ) -> Option<f64> {
        let (bare, row) = (
            Row::named("floor", connections),
            Row::named(name, connections),
        );
        if !self.wants(&row.name) {
            return None;
        }
        let plan = plan(connections);
        let [floor, service] = in_turns([floor, service], [&plan; 2], [requests; 2]);
        let floor_cpu = floor.cpu_each();
        self.report.add(&bare, &floor, None, None);
        self.report.add(&row, &service, Some(floor_cpu), None);
        Some(service.cpu_each() / floor_cpu)
    }

    /// Reads that leave no line in the log.
    fn unlogged(&mut self, floor: &Server, hot: &Requests) {
        let name = "GET hit, no access log";
        if self.wants(&Row::named(name, 64).name) {
            let directory = common::scratch();
            let service = Server::start(&mut service_command(&directory, &["--access-log", "off"]));
            store(&service, hot);
            let to_floor = self.reads(name, &service, floor, 64, hot);
            self.bar(
                "GET hit without access log / floor, CPU",
                to_floor,
                Bar::AtMost(1.35),
            );
        }
    }

    /// What of the cost of a read is that of hyper, which has no target.
    fn bare_hyper(&mut self, answer_bytes: usize, floor: &Server, hot: &Requests) {
        let name = "GET, bare hyper";
        if self.wants(&Row::named(name, 64).name) {
            let hyper = Server::start(&mut bare_command("hyper", answer_bytes));
            self.reads(name, &hyper, floor, 64, hot);
        }
    }

    /// Writes in turns with those of a server in Go that keeps them in memory.
    fn beside_go(&mut self, service: &Server) {
        let names = [
            "POST unique 90 B, Go in memory",
            "POST unique 90 B, beside Go",
        ];
        if !names
            .iter()
            .any(|name| self.wants(&Row::named(name, 64).name))
        {
            return;
        }
        let directory = common::scratch();
        let Some(mut command) = go_command(&directory) else {
            println!("Go is not installed: nothing to compare with");
            return;
        };
        let go = Server::start(&mut command);
        self.pair(
            names,
            [&go, service],
            [&plan(64); 2],
            [&posts(LINE); 2],
            |[go, service]| {
                let rate = service.outcome.rate() / go.outcome.rate();
                let cpu = service.cpu_each() / go.cpu_each();
                vec![
                    ("durable POST / Go in memory, rate", rate, Bar::AtLeast(1.2)),
                    ("durable POST / Go in memory, CPU", cpu, Bar::AtMost(0.75)),
                ]
            },
        );
    }

    /// Batches and single messages in turns. A line comes as its own row: it has no latency to speak of.
    fn batches(&mut self, service: &Server) {
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
            let mut requests = posts(LINE);
            requests.set = common::fresh_name();
            seconds += send_batch(service.address, &requests, 0..BATCH_LINES).as_secs_f64();
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
            growth_bytes as f64 / MEBIBYTE
        );
        let f = self.f();
        self.report
            .add_bar("lines of a batch / F", rate / f, Bar::AtLeast(12.0));
    }

    /// Through TLS, HTTP/2, and both.
    fn encrypted(&mut self, service: &Server, tls: &Tls, hot: &Requests) {
        let plain = plan(64);
        let mut encrypted = plain.clone();
        encrypted.tls = Some(tls.clone());
        self.pair(
            ["GET hit beside TLS", "GET hit, TLS"],
            [service; 2],
            [&plain, &encrypted],
            [hot; 2],
            |[plain, tls]| {
                let cpu = tls.cpu_each() / plain.cpu_each();
                vec![("GET hit, TLS / plain, CPU", cpu, Bar::AtMost(1.6))]
            },
        );
        self.row("POST unique 90 B, TLS", service, &encrypted, &posts(LINE));
        for (name, mut plan) in [("HTTP/2", plain), ("HTTP/2 and TLS", encrypted)] {
            plan.http2 = true;
            self.row(&format!("GET hit, {name}"), service, &plan, hot);
            let posts = posts(LINE);
            self.row(&format!("POST unique 90 B, {name}"), service, &plan, &posts);
        }
    }

    /// At a rate that any machine bears: what is left are the latencies.
    fn open_loop(&mut self, service: &Server, hot: &Requests) {
        let mut plan = plan(64);
        plan.rate = Some(5000.0);
        self.row("GET hit, open loop at 5,000/s", service, &plan, hot);
        let name = "POST unique 90 B, open loop at 5,000/s";
        self.row(name, service, &plan, &posts(LINE));
    }

    /// Reads while nothing else happens, and while 64 writers have all they can get.
    fn beside_writers(&mut self, service: &Server, hot: &Requests) {
        let mut reads = plan(4);
        reads.rate = Some(1000.0);
        let rows = ["GET hit at 1,000/s", "GET hit at 1,000/s beside 64 writers"]
            .map(|name| Row::named(name, reads.connections));
        if !rows.iter().any(|row| self.wants(&row.name)) {
            return;
        }
        let mut totals: [Option<Sample>; 2] = [None, None];
        for _ in 0..ROUNDS {
            let idle = measure(service, &reads, hot);
            let writers = Writers::start(service.address, 64);
            let busy = measure(service, &reads, hot);
            drop(writers);
            for (total, sample) in totals.iter_mut().zip([idle, busy]) {
                Sample::add_to(total, sample);
            }
        }
        let samples = totals.map(Option::unwrap);
        for (row, sample) in rows.iter().zip(&samples) {
            self.report.add(row, sample, None, None);
        }
        let [idle, busy] = samples.map(|sample| sample.outcome.latency_at(0.99).as_secs_f64());
        let name = "GET p99 beside 64 writers / idle";
        self.report.add_bar(name, busy / idle, Bar::AtMost(3.0));
    }

    /// What a request of the largest size can cost.
    fn hostile(&mut self, service: &Server) {
        let message = |text: String| format!("{{\"message\": \"{text}\"}}");
        let letters = "x".repeat(HOSTILE - 100);
        for (name, body, status) in [
            ("1 MiB of letters, known", message(letters), 201),
            (
                "1 MiB of escapes, known",
                message("\\n".repeat(HOSTILE / 2 - 50)),
                201,
            ),
            (
                "1 MiB of long escapes, known",
                message("\\u00e9".repeat(HOSTILE / 6 - 50)),
                201,
            ),
            ("1 MiB of [", "[".repeat(HOSTILE), 400),
            ("1 MiB of members", members(HOSTILE), 201),
        ] {
            let row = Row::named(&format!("POST {name}"), 8);
            if !self.wants(&row.name) {
                continue;
            }
            let body = bytes::Bytes::from(body);
            let request = move |_| load::Request {
                method: "POST",
                path: "/messages".into(),
                fields: vec![("Content-Type", "application/json".into())],
                body: body.clone(),
            };
            let plan = plan_for(service, 8);
            let sample = Sample::of(service, || {
                runtime().block_on(load::run(&plan, request)).unwrap()
            });
            let statuses: Vec<_> = sample.outcome.statuses.keys().collect();
            assert_eq!(statuses, [&status]);
            self.report.add(&row, &sample, None, None);
        }
    }

    /// What a server does that nobody asks anything.
    fn idle(&mut self, service: &Server) {
        let name = "idle";
        if self.wants(name) {
            let before = service.activity();
            std::thread::sleep(IDLE);
            let after = service.activity();
            let cpu = (after.0 - before.0) / IDLE.as_secs_f64();
            let wakeups = (after.1 - before.1) as f64 / IDLE.as_secs_f64();
            println!(
                "{name:<48} {:.3} % of a core, {wakeups:.1} wake-ups/s",
                cpu * 100.0
            );
            self.report
                .add_bar("idle, % of a core", cpu * 100.0, Bar::AtMost(0.1));
        }
    }

    /// A large set: what it takes, how it is read, how long a start takes with it.
    fn many(&mut self, floor: &Server) {
        if !self.wants("many") {
            return;
        }
        let many =
            env::var("DIGESTD_BENCH_MESSAGES").map_or(MANY, |number| number.parse().unwrap());
        let mut uniform = requests(Workload::Hit, many, LONG);
        uniform.set = "many".into();
        let mut zipf = uniform.clone();
        zipf.popularity = Popularity::Zipf(Zipf::new(many));

        let directory = common::scratch();
        let small = || Server::start(&mut service_command(&directory, &["--cache", "64MiB"]));
        let service = small();
        let start = Instant::now();
        for first in (0..many).step_by(BATCH_LINES as usize) {
            let lines = first..many.min(first + BATCH_LINES);
            send_batch(service.address, &uniform, lines);
        }
        let seconds = start.elapsed().as_secs_f64();
        let memory = service.memory_bytes() as f64;
        println!(
            "{:<48} {:>10.0}",
            "many, stored in batches, a second",
            many as f64 / seconds
        );
        self.report.add_bar(
            "many, 64 MiB cache: resident, MB",
            memory / 1e6,
            Bar::AtMost(300.0),
        );
        drop(service);
        let mut start = |name, bar| {
            let start = Instant::now();
            let service = small();
            self.report
                .add_bar(name, start.elapsed().as_secs_f64(), Bar::AtMost(bar));
            drop(service);
        };
        start("many, ready after kill -9, s", 1.0);
        fs::remove_dir_all(directory.path().join("store/index")).unwrap();
        start("many, ready with the index redrawn, s", 45.0);

        self.row(
            "POST unique 90 B, many stored",
            &small(),
            &plan(64),
            &posts(LINE),
        );
        let service = Server::start(&mut service_command(&directory, &[]));
        for (name, requests) in [
            ("GET hit of many, uniformly", &uniform),
            ("GET hit of many, zipf", &zipf),
        ] {
            let to_floor = self.reads(name, &service, floor, 64, requests);
            self.bar(&format!("{name} / floor, CPU"), to_floor, Bar::AtMost(2.2));
        }
        drop(service);
        self.exported(&directory, &uniform);
        for part in ["log", "index"] {
            let bytes = disk_bytes(&directory.path().join("store").join(part)) as f64;
            println!(
                "{:<48} {:>10.0}",
                format!("many, bytes of the {part} a message"),
                bytes / many as f64
            );
        }
    }

    /// All of a large set leaves while 16 writers go on, and comes into another store.
    fn exported(&mut self, directory: &TempDir, uniform: &Requests) {
        let arguments = ["--allow-export", "--cache", "64MiB"];
        let service = Server::start(&mut service_command(directory, &arguments));
        let mut gets = plan(4);
        gets.rate = Some(1000.0);
        let p99 = || {
            let sample = measure(&service, &gets, uniform);
            sample.outcome.latency_at(0.99).as_secs_f64()
        };
        let idle = p99();
        let writers = Writers::start(service.address, 16);
        let beside_writers = p99();
        // They fill caches, which is not the export's doing.
        std::thread::sleep(FILLING);
        let file = directory.path().join("export");
        let before = service.resident_bytes();
        let start = Instant::now();
        let (mut busy, mut growth) = (Vec::new(), 0);
        let lines = std::thread::scope(|scope| {
            let export = scope.spawn(|| receive_export(service.address, &file));
            while !export.is_finished() {
                busy.push(p99());
                growth = growth.max(service.resident_bytes().saturating_sub(before));
            }
            export.join().unwrap()
        });
        let seconds = start.elapsed().as_secs_f64();
        drop(writers);
        println!(
            "{:<48} {:>10.0}",
            "export of many beside 16 writers, lines/s",
            lines as f64 / seconds
        );
        busy.sort_by(f64::total_cmp);
        let busy = busy[busy.len() / 2];
        let mebibytes = growth as f64 / MEBIBYTE;
        let bars = [
            (
                "GET p99 beside 16 writers / idle",
                beside_writers / idle,
                3.0,
            ),
            ("GET p99 beside an export too / idle", busy / idle, 3.0),
            ("export: memory more, MiB", mebibytes, 64.0),
        ];
        for (name, value, bar) in bars {
            self.report.add_bar(name, value, Bar::AtMost(bar));
        }
        let singles = measure(&service, &plan(64), &posts(LINE)).outcome.rate();
        drop(service);
        let start = Instant::now();
        let imported = Command::new(env!("CARGO_BIN_EXE_digestd"))
            .arg("import")
            .arg("--data-dir")
            .arg(directory.path().join("imported"))
            .arg(&file)
            .stderr(Stdio::null())
            .status();
        assert!(imported.unwrap().success());
        let rate = lines as f64 / start.elapsed().as_secs_f64();
        self.report.add_bar(
            "import / POSTs of 64 connections",
            rate / singles,
            Bar::AtLeast(3.0),
        );
    }

    fn finish(self) {
        println!("F = {:.0}/s afterwards", common::sync_rate(&self.directory));
        // Cargo's own place for files of a bench is target/tmp.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let directory = target.join("load");
        self.report.finish(&directory);
        println!(
            "written to {}/report.html and report.json",
            directory.display()
        );
    }
}

/// Connections that store new messages until they are dropped.
struct Writers {
    address: SocketAddr,
    stored_before: u64,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writers {
    fn start(address: SocketAddr, connections: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let mut plan = plan(connections);
        plan.address = address;
        plan.until = Until::Requests(u64::MAX);
        let mut requests = posts(LINE);
        requests.new_set = common::fresh_name();
        let write = move || {
            // They keep their connections: to make sixty-four takes long enough to be seen.
            runtime().block_on(async {
                let writing = load::run(&plan, move |number| requests.request(number));
                tokio::select! {
                    outcome = writing => panic!("the writers ended: {outcome:?}"),
                    _ = stopped => {}
                }
            });
        };
        Self {
            address,
            stored_before: stored(address),
            stop: Some(stop),
            thread: Some(std::thread::spawn(write)),
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(stored(self.address) > self.stored_before, "all is refused");
        }
    }
}

/// Messages that a service has stored since its start.
fn stored(address: SocketAddr) -> u64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    let name = "digestd_puts_total{result=\"stored\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Writes an export to a file; returns its lines.
fn receive_export(address: SocketAddr, file: &Path) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /messages HTTP/1.0\r\n\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    let mut file = BufWriter::new(File::create(file).unwrap());
    let mut lines = 0;
    loop {
        let bytes = stream.fill_buf().unwrap();
        if bytes.is_empty() {
            file.flush().unwrap();
            return lines;
        }
        lines += memchr::memchr_iter(b'\n', bytes).count();
        file.write_all(bytes).unwrap();
        let read = bytes.len();
        stream.consume(read);
    }
}

/// Measures two servers one after the other, and again, so that what else the machine does meets both.
fn in_turns(servers: [&Server; 2], plans: [&Plan; 2], requests: [&Requests; 2]) -> [Sample; 2] {
    let mut totals = [None, None];
    for _ in 0..ROUNDS {
        for (turn, total) in totals.iter_mut().enumerate() {
            Sample::add_to(total, measure(servers[turn], plans[turn], requests[turn]));
        }
    }
    totals.map(Option::unwrap)
}

/// An object whose message comes last of as many members as there is room for.
fn members(bytes: usize) -> String {
    let member = "\"\": [{}], ";
    let members = member.repeat((bytes - 20) / member.len());
    format!("{{{members}\"message\": \"x\"}}")
}

/// Room that a directory takes on the disk.
fn disk_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => disk_bytes(&entry.path()),
            metadata => metadata.blocks() * 512,
        })
        .sum()
}
