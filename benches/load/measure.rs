//! One measurement: what is sent, for how long, and what it cost the server that answered.
//!
//! It knows no rows and no targets. **Invariant:** an answer that is not as expected ends the bench; no
//! figure is that of a run which was partly refused.

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::loadgen::workload::{Popularity, Requests, Workload};
use crate::loadgen::{self, Outcome, Plan, Until};
use tokio::sync::oneshot;

use crate::common;
use crate::servers::Server;

/// Seconds of one measurement, or `DIGESTD_BENCH_SECONDS`.
const SECONDS: u64 = 3;

/// Seconds before each measurement that do not count.
const WARM_UP: Duration = Duration::from_millis(300);

/// Measurements of the floor and of reads, in turns: what else the machine does meets both.
pub(crate) const ROUNDS: usize = 3;

/// Messages of the small set, which any cache holds.
pub(crate) const HOT: u64 = 1000;

/// Length of the usual message, in bytes.
pub(crate) const LINE: usize = common::MESSAGE_BYTES;

pub(crate) const MEBIBYTE: f64 = 1_048_576.0;

pub(crate) fn requests(workload: Workload, messages: u64, message_bytes: usize) -> Requests {
    Requests {
        workload,
        set: "hot".into(),
        messages,
        new_set: String::new(),
        message_bytes,
        popularity: Popularity::Uniform,
    }
}

pub(crate) fn posts(message_bytes: usize) -> Requests {
    requests(Workload::Post, HOT, message_bytes)
}

pub(crate) fn plan(connections: usize) -> Plan {
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
pub(crate) fn plan_for(server: &Server, connections: usize) -> Plan {
    Plan {
        address: server.address,
        ..plan(connections)
    }
}

/// What one measurement gave.
pub(crate) struct Sample {
    pub(crate) outcome: Outcome,
    /// Processor time of the server, user and system.
    pub(crate) cpu_seconds: f64,
}

impl Sample {
    /// What `drive` gives, and what it costs `server`.
    pub(crate) fn of(server: &Server, drive: impl FnOnce() -> Outcome) -> Self {
        let cpu = server.cpu_seconds();
        let outcome = drive();
        Self {
            cpu_seconds: server.cpu_seconds() - cpu,
            outcome,
        }
    }

    pub(crate) fn add_to(total: &mut Option<Self>, other: Self) {
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
    pub(crate) fn cpu_each(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.outcome.answers() as f64
    }
}

/// Drives a server from this thread; every request must be answered as it should be.
pub(crate) fn measure(server: &Server, plan: &Plan, requests: &Requests) -> Sample {
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

/// Measures two servers one after the other, and again, so that what else the machine does meets both.
pub(crate) fn in_turns(
    servers: [&Server; 2],
    plans: [&Plan; 2],
    requests: [&Requests; 2],
) -> [Sample; 2] {
    let mut totals = [None, None];
    for _ in 0..ROUNDS {
        for (turn, total) in totals.iter_mut().enumerate() {
            Sample::add_to(total, measure(servers[turn], plans[turn], requests[turn]));
        }
    }
    totals.map(Option::unwrap)
}

/// Stores the messages that `requests` asks for.
pub(crate) fn store(service: &Server, requests: &Requests) {
    let mut plan = plan_for(service, 64);
    plan.until = Until::Requests(requests.messages);
    let setup = requests.clone();
    let stored = runtime().block_on(loadgen::run(&plan, move |number| setup.setup(number)));
    assert_eq!(stored.unwrap().statuses[&201], requests.messages);
}

pub(crate) fn drive(plan: &Plan, requests: &Requests) -> Outcome {
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
        .block_on(loadgen::run(plan, move |number| requests.request(number)))
        .unwrap();
    let is_expected = outcome
        .statuses
        .keys()
        .all(|status| expected.contains(status));
    assert!(is_expected && outcome.unanswered == 0, "{outcome}");
    outcome
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Connections that store new messages until they are dropped.
pub(crate) struct Writers {
    address: SocketAddr,
    stored_before: u64,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writers {
    pub(crate) fn start(address: SocketAddr, connections: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let mut plan = plan(connections);
        plan.address = address;
        plan.until = Until::Requests(u64::MAX);
        let mut requests = posts(LINE);
        requests.new_set = common::fresh_name();
        let write = move || {
            // They keep their connections: to make sixty-four takes long enough to be seen.
            runtime().block_on(async {
                let writing = loadgen::run(&plan, move |number| requests.request(number));
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
