//! A load generator: many connections, one thread, and what came back.
//!
//! It drives the rows of the load bench, and any server that `--url` names (see `args`). It knows when
//! requests are due, and leaves what they mean to [`workload`] and how they are sent to `link`.
//!
//! *Closed loop*: each connection sends its next request when it has the answer to the last.
//! *Open loop*: requests are due at fixed times, whatever the answers do. One that finds every
//! connection busy counts from when it was due, not from when it could be sent at last; a server
//! that pauses for a second is charged for every request that would have come meanwhile
//! (coordinated omission).
//!
//! **Invariant:** a run ends: after its time or its number of requests, each connection waits for one
//! answer at most, and not for ever.

pub(crate) mod args;
mod link;
pub(crate) mod workload;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::header::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::link::Link;
pub(crate) use self::link::Tls;
use self::workload::Requests;

/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that store what is asked for later: enough to share syncs.
const PREPARING_CONNECTIONS: usize = 64;

/// What is sent, where, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) address: SocketAddr,
    /// What it wants to see as `Authorization`; marked as secret, so that nothing prints it.
    pub(crate) authorization: Option<HeaderValue>,
    /// TLS, if it wants to be spoken to so.
    pub(crate) tls: Option<Tls>,
    /// HTTP/2 instead of HTTP/1.1, with one stream a connection at a time.
    pub(crate) http2: bool,
    /// Connections, each with one request under way.
    pub(crate) connections: usize,
    /// When to stop.
    pub(crate) until: Until,
    /// Requests a second, all connections together; as fast as they are answered without.
    pub(crate) rate: Option<f64>,
}

/// The end of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// No request is begun after this time.
    Time(Duration),
    /// This many requests are sent.
    Requests(u64),
}

/// A request, as much of one as is needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// With this method.
    pub(crate) method: &'static str,
    /// For this path.
    pub(crate) path: String,
    /// With these fields; Host and Content-Length are added.
    pub(crate) fields: Vec<(&'static str, String)>,
    /// With this body.
    pub(crate) body: Bytes,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Of each answer, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub(crate) unanswered: u64,
}

impl Outcome {
    /// Answers.
    #[must_use]
    pub(crate) fn answers(&self) -> u64 {
        self.latencies.len()
    }

    /// Refusals are not what was to be measured.
    fn check_admitted(&self) -> io::Result<()> {
        let refused = self
            .statuses
            .keys()
            .find(|status| matches!(status, 401 | 403));
        let Some(status) = refused else { return Ok(()) };
        Err(io::Error::other(format!(
            "it answered {status}: if it was started with --tokens, name the file of one that allows \
             `read` and `write` with --token-file"
        )))
    }

    /// Answers a second.
    #[must_use]
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52")]
        let answers = self.answers() as f64;
        answers / self.elapsed.as_secs_f64()
    }

    /// The latency that this part of the answers did not exceed.
    #[must_use]
    pub(crate) fn latency_at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(quantile))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |quantile| self.latency_at(quantile).as_secs_f64() * 1e3;
        write!(
            formatter,
            "{:.0} requests/s; milliseconds: p50 {:.3}, p99 {:.3}, p99.9 {:.3}, longest {:.3};",
            self.rate(),
            milliseconds(0.5),
            milliseconds(0.99),
            milliseconds(0.999),
            milliseconds(1.0),
        )?;
        for (status, answers) in &self.statuses {
            write!(formatter, " {answers} answers {status},")?;
        }
        write!(formatter, " {} unanswered", self.unanswered)
    }
}

impl Outcome {
    /// The figures for programs; times in seconds.
    #[must_use]
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let seconds = |quantile| self.latency_at(quantile).as_secs_f64();
        serde_json::json!({
            "requests_per_second": self.rate(),
            "seconds": self.elapsed.as_secs_f64(),
            "latency": {
                "p50": seconds(0.5), "p99": seconds(0.99), "p99.9": seconds(0.999), "max": seconds(1.0),
            },
            "answers": self.statuses,
            "unanswered": self.unanswered,
        })
    }
}

/// Sends what `request` makes of the numbers from 0 on, on the thread that calls.
///
/// # Errors
/// If a connection cannot be made. One that breaks later costs its request and is made again.
pub(crate) async fn run(
    plan: &Plan,
    request: impl FnMut(u64) -> Request + 'static,
) -> io::Result<Outcome> {
    let mut links = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        links.push(Link::connect(plan).await?);
    }
    let latency_max = 2 * u64::try_from(ANSWER_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
    let latencies = Histogram::new_with_bounds(1, latency_max, 3).map_err(io::Error::other)?;
    let started = Instant::now();
    let run = Rc::new(RefCell::new(Run {
        request,
        sent: 0,
        started,
        until: plan.until,
        rate: plan.rate,
        latencies,
        statuses: BTreeMap::new(),
        unanswered: 0,
    }));
    let tasks = tokio::task::LocalSet::new();
    let mut connections = JoinSet::new();
    for link in links {
        connections.spawn_local_on(drive(link, plan.clone(), Rc::clone(&run)), &tasks);
    }
    tasks
        .run_until(async { while connections.join_next().await.is_some() {} })
        .await;
    let run = run.borrow();
    Ok(Outcome {
        elapsed: started.elapsed(),
        latencies: run.latencies.clone(),
        statuses: run.statuses.clone(),
        unanswered: run.unanswered,
    })
}

/// Stores the messages that `requests` asks for, then sends them as planned.
///
/// # Errors
/// If a connection cannot be made, a message is not stored, or requests are refused.
pub(crate) async fn prepare_and_run(plan: &Plan, requests: &Requests) -> io::Result<Outcome> {
    if requests.workload.needs_messages() {
        let preparing = Plan {
            http2: false,
            connections: PREPARING_CONNECTIONS,
            until: Until::Requests(requests.messages),
            rate: None,
            ..plan.clone()
        };
        let setup = requests.clone();
        let outcome = run(&preparing, move |number| setup.setup(number)).await?;
        outcome.check_admitted()?;
        if outcome.statuses.get(&201) != Some(&requests.messages) {
            return Err(io::Error::other(
                "the server does not take the messages to ask for",
            ));
        }
    }
    let requests = requests.clone();
    let outcome = run(plan, move |number| requests.request(number)).await?;
    outcome.check_admitted()?;
    Ok(outcome)
}

/// What the connections of a run share.
struct Run<F> {
    request: F,
    sent: u64,
    started: Instant,
    until: Until,
    rate: Option<f64>,
    latencies: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    unanswered: u64,
}

impl<F: FnMut(u64) -> Request> Run<F> {
    /// The next request and when it is due, unless the run is over.
    fn next(&mut self) -> Option<(Request, Instant)> {
        let now = Instant::now();
        let due = match self.rate {
            #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52")]
            Some(rate) => self.started + Duration::from_secs_f64(self.sent as f64 / rate),
            None => now,
        };
        let is_over = match self.until {
            Until::Time(time) => due.max(now) >= self.started + time,
            Until::Requests(number) => self.sent >= number,
        };
        if is_over {
            return None;
        }
        let request = (self.request)(self.sent);
        self.sent += 1;
        Some((request, due))
    }

    fn note(&mut self, status: u16, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds.max(1));
        *self.statuses.entry(status).or_default() += 1;
    }
}

/// What one connection does.
async fn drive<F: FnMut(u64) -> Request>(mut link: Link, plan: Plan, run: Rc<RefCell<Run<F>>>) {
    loop {
        // Not in the loop's head, where the borrow would last.
        let next = run.borrow_mut().next();
        let Some((request, due)) = next else { return };
        let sent = if due > Instant::now() {
            sleep_until(due).await;
            // The timer's lateness is ours, not the server's.
            Instant::now()
        } else if plan.rate.is_some() {
            due
        } else {
            Instant::now()
        };
        let authorization = plan.authorization.as_ref();
        match timeout(ANSWER_TIMEOUT, link.ask(request, authorization)).await {
            Ok(Ok(answer)) => {
                run.borrow_mut().note(answer.status, sent.elapsed());
                if !answer.is_last {
                    continue;
                }
            }
            Ok(Err(_)) | Err(_) => run.borrow_mut().unanswered += 1,
        }
        match Link::connect(&plan).await {
            Ok(next) => link = next,
            // The others go on; the request that comes next is theirs.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "a bench has `cfg(test)` too, but no tests"
)]
mod tests {
    use std::future::Future;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    fn get() -> Request {
        Request {
            method: "GET",
            path: "/".into(),
            ..Request::default()
        }
    }

    fn plan(address: SocketAddr, until: Until) -> Plan {
        Plan {
            address,
            authorization: None,
            tls: None,
            http2: false,
            connections: 2,
            until,
            rate: None,
        }
    }

    /// A server that answers every read like this.
    async fn serve<A>(answer: impl Fn() -> A + Copy + Send + 'static) -> SocketAddr
    where
        A: Future<Output = &'static [u8]> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        if stream.write_all(answer().await).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn as_many_requests_are_sent_as_were_asked_for() {
        let address = serve(async || ANSWER).await;
        let plan = plan(address, Until::Requests(101));
        let outcome = run(&plan, |_| get()).await.unwrap();
        assert_eq!(outcome.statuses, BTreeMap::from([(200, 101)]));
        assert_eq!((outcome.answers(), outcome.unanswered), (101, 0));
    }

    #[tokio::test]
    async fn a_connection_that_the_server_ends_is_made_again() {
        let address = serve(async || {
            &b"HTTP/1.1 404 Not Found\r\nConnection: close\r\ncontent-length: 0\r\n\r\n"[..]
        })
        .await;
        let plan = plan(address, Until::Requests(10));
        let outcome = run(&plan, |_| get()).await.unwrap();
        assert_eq!(outcome.statuses, BTreeMap::from([(404, 10)]));
    }

    #[tokio::test]
    async fn rubbish_is_no_answer() {
        let address = serve(async || &b"rubbish\r\n\r\n"[..]).await;
        let plan = plan(address, Until::Requests(3));
        let outcome = run(&plan, |_| get()).await.unwrap();
        assert_eq!((outcome.answers(), outcome.unanswered), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_had_to_wait_counts_from_when_it_was_due() {
        // Ten are due within a second, two at once are possible, and an answer takes a second.
        let address = serve(async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ANSWER
        })
        .await;
        let mut plan = plan(address, Until::Requests(10));
        plan.rate = Some(10.0);
        let outcome = run(&plan, |_| get()).await.unwrap();
        assert_eq!(outcome.answers(), 10);
        let longest = outcome.latency_at(1.0);
        assert!(longest > Duration::from_secs(4), "{longest:?}");
        assert!(outcome.latency_at(0.1) < Duration::from_secs(2));
    }
}
