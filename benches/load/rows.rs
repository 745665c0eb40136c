//! Rows that need more than a plan: a server of their own, another protocol, writers beside them,
//! requests that are meant to be expensive.
//!
//! They know one small set of messages; see `many` for large ones. **Invariant:** each server they start
//! is stopped before the next row.

use std::time::Duration;

use crate::loadgen::workload::Requests;
use crate::loadgen::{self, Tls};

use crate::common;
use crate::measure::{
    LINE, ROUNDS, Sample, Writers, measure, plan, plan_for, posts, runtime, store,
};
use crate::report::{Bar, Row};
use crate::servers::{Server, bare_command, go_command, service_command};
use crate::suite::Bench;

/// Bytes of a request that is meant to be expensive: the largest that is taken.
const HOSTILE: usize = 1 << 20;

/// How long an idle server is watched.
const IDLE: Duration = Duration::from_secs(10);

impl Bench {
    /// Reads that leave no line in the log.
    pub(crate) fn unlogged(&mut self, floor: &Server, hot: &Requests) {
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
    pub(crate) fn bare_hyper(&mut self, answer_bytes: usize, floor: &Server, hot: &Requests) {
        let name = "GET, bare hyper";
        if self.wants(&Row::named(name, 64).name) {
            let hyper = Server::start(&mut bare_command("hyper", answer_bytes));
            self.reads(name, &hyper, floor, 64, hot);
        }
    }

    /// Writes in turns with those of a server in Go that keeps them in memory.
    pub(crate) fn beside_go(&mut self, service: &Server) {
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

    /// Through TLS, HTTP/2, and both.
    pub(crate) fn encrypted(&mut self, service: &Server, tls: &Tls, hot: &Requests) {
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
    pub(crate) fn open_loop(&mut self, service: &Server, hot: &Requests) {
        let mut plan = plan(64);
        plan.rate = Some(5000.0);
        self.row("GET hit, open loop at 5,000/s", service, &plan, hot);
        let name = "POST unique 90 B, open loop at 5,000/s";
        self.row(name, service, &plan, &posts(LINE));
    }

    /// Reads while nothing else happens, and while 64 writers have all they can get.
    pub(crate) fn beside_writers(&mut self, service: &Server, hot: &Requests) {
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
    pub(crate) fn hostile(&mut self, service: &Server) {
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
            let request = move |_| loadgen::Request {
                method: "POST",
                path: "/messages".into(),
                fields: vec![("Content-Type", "application/json".into())],
                body: body.clone(),
            };
            let plan = plan_for(service, 8);
            let sample = Sample::of(service, || {
                runtime().block_on(loadgen::run(&plan, request)).unwrap()
            });
            let statuses: Vec<_> = sample.outcome.statuses.keys().collect();
            assert_eq!(statuses, [&status]);
            self.report.add(&row, &sample, None, None);
        }
    }

    /// What a server does that nobody asks anything.
    pub(crate) fn idle(&mut self, service: &Server) {
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
}

/// An object whose message comes last of as many members as there is room for.
fn members(bytes: usize) -> String {
    let member = "\"\": [{}], ";
    let members = member.repeat((bytes - 20) / member.len());
    format!("{{{members}\"message\": \"x\"}}")
}
