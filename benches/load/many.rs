//! Many messages at once: batches, a large set, and all of it as an export.
//!
//! It knows nothing of single requests but the rows that it compares with. **Invariant:** every message
//! that was sent was stored, or the bench ends.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::loadgen::workload::{Popularity, Requests, Workload, Zipf};
use tempfile::TempDir;

use crate::common;
use crate::measure::{LINE, MEBIBYTE, ROUNDS, Writers, measure, plan, posts, requests};
use crate::report::Bar;
use crate::servers::{Server, service_command};
use crate::suite::Bench;

/// Lines of a batch.
const BATCH_LINES: u64 = 100_000;

/// Messages of the large set, or `DIGESTD_BENCH_MESSAGES`.
const MANY: u64 = 1_000_000;

/// Length of a message of the large set, in bytes.
const LONG: usize = 100;

/// How long writers fill the caches of a server before its memory is looked at.
const FILLING: Duration = Duration::from_secs(15);

impl Bench {
    /// Batches and single messages in turns. A line comes as its own row: it has no latency to speak of.
    pub(crate) fn batches(&mut self, service: &Server) {
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

    /// A large set: what it takes, how it is read, how long a start takes with it.
    pub(crate) fn many(&mut self, floor: &Server) {
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
