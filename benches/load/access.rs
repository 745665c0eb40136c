//! What it costs to ask who comes in, and to refuse: `-- access`.
//!
//! It knows no store and no rows of the suite. **Invariant:** the three servers are measured in turns.

use std::fs;

use crate::loadgen::workload::{Requests, Workload};
use crate::loadgen::{self, Plan, Until};
use digestd::digest::Digest;
use hyper::header::HeaderValue;
use tempfile::TempDir;

use crate::common;
use crate::measure::{HOT, LINE, ROUNDS, Sample, plan_for, requests, runtime};
use crate::servers::{Server, service_command};

/// Reads of a service that lets everybody in and of one that asks all it can, and requests that are
/// refused for being too many, in turns.
pub(crate) fn compare_access() {
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
    let drive = |plan: &Plan, request: fn(&Requests, u64) -> loadgen::Request| {
        let hot = hot.clone();
        let run = loadgen::run(plan, move |number| request(&hot, number));
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
