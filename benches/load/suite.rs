//! The rows in the order in which they are measured, and the ways to measure one.
//!
//! What a row has to start, send and compare beyond that is in `rows` and in `many`. **Invariant:** a row
//! is measured only if its name has all the words of the command line, and what is compared is measured
//! in turns.

use std::path::Path;

use crate::loadgen::workload::{Requests, Workload};
use crate::loadgen::{Plan, Tls};
use tempfile::TempDir;

use crate::common;
use crate::measure::{HOT, LINE, ROUNDS, Sample, in_turns, measure, plan, posts, requests, store};
use crate::report::{Bar, Report, Row};
use crate::servers::{Server, answer_bytes, bare_command, service_command};

pub(crate) fn measure_rows(words: &[String]) {
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

/// Measures rows, and prints each when it is there.
pub(crate) struct Bench {
    words: Vec<String>,
    pub(crate) directory: TempDir,
    pub(crate) report: Report,
}

impl Bench {
    pub(crate) fn new(words: &[String], directory: TempDir) -> Self {
        let f = common::sync_rate(&directory);
        let report = Report::new(f);
        Self {
            words: words.to_vec(),
            directory,
            report,
        }
    }

    pub(crate) fn f(&self) -> f64 {
        self.report.f
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.words.iter().all(|word| name.contains(word))
    }

    /// A ratio that the design has a target for, if it was measured.
    pub(crate) fn bar(&mut self, name: &str, value: Option<f64>, bar: Bar) {
        if let Some(value) = value {
            self.report.add_bar(name, value, bar);
        }
    }

    /// Measures one row.
    pub(crate) fn row(&mut self, name: &str, service: &Server, plan: &Plan, requests: &Requests) {
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
    pub(crate) fn writes(&mut self, service: &Server, connections: usize, bar: Option<f64>) {
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
    pub(crate) fn pair(
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
    pub(crate) fn reads(
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

    pub(crate) fn finish(self) {
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
