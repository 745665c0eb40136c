//! The healthy client: it asks for everything again and again, and keeps what became of it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::attacker::runtime;
use super::is_long;
use crate::process::Digestd;
use crate::support::{Raw, connect_from};

pub(super) const HEALTHY: [u8; 4] = [127, 0, 0, 2];

/// A pause after each answer.
const PAUSE: Duration = Duration::from_millis(20);

/// An answer that takes longer is none.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// What an attack may do to the time that 99 of 100 answers take at most …
const LATENCY_FACTOR_MAX: f64 = 5.0;
/// … where that is not less than the clock of a shared machine shows.
const LATENCY_MIN: Duration = Duration::from_millis(1);

/// What is asked again and again, on a connection that is kept or each time on a new one.
pub(super) struct Question {
    name: &'static str,
    server: SocketAddr,
    request: String,
    is_kept: bool,
}

impl Question {
    pub(super) fn get(name: &'static str, server: SocketAddr, target: &str) -> Self {
        Self {
            name,
            server,
            request: format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
            ),
            is_kept: true,
        }
    }

    pub(super) fn post(
        name: &'static str,
        server: SocketAddr,
        target: &str,
        kind: &str,
        body: &str,
    ) -> Self {
        let length = body.len();
        Self {
            name,
            server,
            request: format!(
                "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            ),
            is_kept: true,
        }
    }

    /// On a connection of its own each time, as probes do.
    pub(super) fn probe(name: &'static str, server: SocketAddr, target: &str) -> Self {
        Self {
            is_kept: false,
            ..Self::get(name, server, target)
        }
    }

    /// Asks once; the status of the answer.
    pub(super) async fn ask(&self, client: &mut Raw) -> io::Result<u16> {
        let asking = async {
            client.try_send(self.request.as_bytes()).await?;
            client.status().await
        };
        let status = timeout(ANSWER_MAX, asking).await;
        status.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }
}

/// What everybody asks of the service.
pub(super) fn questions(server: &Digestd) -> Vec<Question> {
    const PLAIN: &str = "text/plain";
    const LINES: &str = "application/x-ndjson";
    let address = server.address();
    let large = "h".repeat(900 << 10);
    let mut client = server.client();
    let small = client.publish("healthy").unwrap();
    let stored = client.publish(&large).unwrap();
    let batch = "{\"message\": \"a line\"}\n".repeat(10);
    let lines = format!("\"{small}\"\n");
    let get = |name, digest| Question::get(name, address, &format!("/messages/{digest}"));
    vec![
        Question::post("small POST", address, "/messages", PLAIN, "small"),
        Question::post("large POST", address, "/messages", PLAIN, &large),
        Question::post("batch", address, "/messages", LINES, &batch),
        Question::post("look-up", address, "/messages/lookup", LINES, &lines),
        get("small GET", small),
        get("large GET", stored),
        Question::get("/livez", address, "/livez"),
        Question::probe("probe of /livez", address, "/livez"),
    ]
}

/// When a question was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    Before,
    /// An attack.
    During,
    After,
    /// Something that burns as much.
    Beside,
    Over,
}

impl Phase {
    const ALL: [Self; 5] = [
        Self::Before,
        Self::During,
        Self::After,
        Self::Beside,
        Self::Over,
    ];
}

/// A client in a thread of its own.
pub(super) struct Healthy {
    phase: Arc<AtomicU8>,
    thread: JoinHandle<Vec<Asked>>,
}

/// What became of a question.
struct Asked {
    name: &'static str,
    phase: Phase,
    took: Duration,
    /// What was wrong with the answer.
    failure: Option<String>,
}

impl Healthy {
    pub(super) fn start(questions: Vec<Question>) -> Self {
        let phase = Arc::new(AtomicU8::new(Phase::Before as u8));
        let of_client = Arc::clone(&phase);
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let asking = questions
                    .into_iter()
                    .map(|question| ask(question, Arc::clone(&of_client)));
                let asking: JoinSet<_> = asking.collect();
                asking.join_all().await.into_iter().flatten().collect()
            })
        });
        Self { phase, thread }
    }

    pub(super) fn begin(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn end(self) -> Answers {
        self.begin(Phase::Over);
        Answers(self.thread.join().unwrap())
    }
}

async fn ask(question: Question, phase: Arc<AtomicU8>) -> Vec<Asked> {
    let mut kept = None;
    let mut all = Vec::new();
    loop {
        let phase = Phase::ALL[usize::from(phase.load(Relaxed))];
        if phase == Phase::Over {
            return all;
        }
        let started = Instant::now();
        let mut client = match kept.take() {
            Some(client) => client,
            None => connect_from(HEALTHY, question.server).await,
        };
        let status = question.ask(&mut client).await;
        let is_fine = matches!(status, Ok(200 | 201));
        all.push(Asked {
            name: question.name,
            phase,
            took: started.elapsed(),
            failure: (!is_fine).then(|| format!("{}: {status:?}", question.name)),
        });
        kept = (is_fine && question.is_kept).then_some(client);
        sleep(PAUSE).await;
    }
}

/// What became of all questions.
pub(super) struct Answers(Vec<Asked>);

impl Answers {
    fn in_phase(&self, phase: Phase) -> impl Iterator<Item = &Asked> {
        self.0.iter().filter(move |asked| asked.phase == phase)
    }

    /// How often each went wrong.
    fn failures(&self) -> BTreeMap<&str, usize> {
        let mut failures = BTreeMap::new();
        for failure in self.0.iter().filter_map(|asked| asked.failure.as_ref()) {
            *failures.entry(&**failure).or_default() += 1;
        }
        failures
    }

    /// By question, what 99 of 100 answers took at most.
    fn p99(&self, phase: Phase) -> BTreeMap<&'static str, Duration> {
        let mut times: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for asked in self.in_phase(phase) {
            times.entry(asked.name).or_default().push(asked.took);
        }
        let p99 = |mut times: Vec<Duration>| {
            times.sort();
            times[times.len() * 99 / 100]
        };
        let times = times.into_iter();
        times.map(|(name, times)| (name, p99(times))).collect()
    }

    /// What they are compared with: with nothing beside them in the short form.
    fn usual(&self) -> BTreeMap<&'static str, Duration> {
        self.p99(if is_long() {
            Phase::Beside
        } else {
            Phase::Before
        })
    }

    pub(super) fn print(&self) {
        let (during, usual) = (self.p99(Phase::During), self.usual());
        let asked = self.in_phase(Phase::During).count();
        let failures = self.failures();
        let count: usize = failures.values().sum();
        println!("  {count} of {asked} refused {failures:?}");
        for (name, during) in during {
            println!(
                "  {name:>16}: p99 {during:8.1?}, {:8.1?} without, x {:.1}",
                usual[name],
                factor(during, usual[name])
            );
        }
    }

    /// At most one in a hundred was refused, and 99 of 100 answers take no longer than they may.
    pub(super) fn check(&self) {
        let failures = self.failures();
        let asked = self.in_phase(Phase::During).count();
        let count: usize = failures.values().sum();
        assert!(count * 100 <= asked, "{count} of {asked}: {failures:?}");
        for (name, usual) in self.p99(Phase::Beside) {
            let during = self.p99(Phase::During)[name];
            assert!(
                factor(during, usual) <= LATENCY_FACTOR_MAX,
                "{name}: {during:?} instead of {usual:?}"
            );
        }
    }
}

fn factor(during: Duration, usual: Duration) -> f64 {
    during.as_secs_f64() / usual.max(LATENCY_MIN).as_secs_f64()
}
