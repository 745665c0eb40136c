//! A load generator: many connections, one thread, and what came back.
//!
//! It speaks just enough HTTP/1.1 to be cheap beside the server it measures, HTTP/2 through hyper, and
//! either of them through TLS if it is told whom to trust. It knows what requests look like and nothing of what they mean; see [`workload`] for that.
//!
//! *Closed loop*: each connection sends its next request when it has the answer to the last.
//! *Open loop*: requests are due at fixed times, whatever the answers do. One that finds every
//! connection busy counts from when it was due, not from when it could be sent at last; a server
//! that pauses for a second is charged for every request that would have come meanwhile
//! (coordinated omission).
//!
//! **Invariant:** a run ends: after its time or its number of requests, each connection waits for one
//! answer at most, and not for ever.

pub mod workload;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::workload::Requests;

/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that store what is asked for later: enough to share syncs.
const PREPARING_CONNECTIONS: usize = 64;

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Fields of the head of an answer.
const FIELDS_MAX: usize = 64;

/// What is sent, where, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// What it wants to see as `Authorization`; marked as secret, so that nothing prints it.
    pub authorization: Option<HeaderValue>,
    /// TLS, if it wants to be spoken to so.
    pub tls: Option<Tls>,
    /// HTTP/2 instead of HTTP/1.1, with one stream a connection at a time.
    pub http2: bool,
    /// Connections, each with one request under way.
    pub connections: usize,
    /// When to stop.
    pub until: Until,
    /// Requests a second, all connections together; as fast as they are answered without.
    pub rate: Option<f64>,
}

/// Whom to trust.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts servers that show a certificate for the address or name `server`, signed by one of
    /// those in the PEM file at `authorities`.
    ///
    /// # Errors
    /// If there is none in it, or `server` is neither.
    pub fn trusting(authorities: &Path, server: &str) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).map_err(io::Error::other)? {
            let certificate = certificate.map_err(io::Error::other)?;
            roots.add(certificate).map_err(io::Error::other)?;
        }
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(server).map_err(io::Error::other)?;
        Ok(Self {
            config: config.into(),
            name: name.to_owned(),
        })
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        http2: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(self.name.clone(), stream).await
    }
}

/// The end of a run.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// No request is begun after this time.
    Time(Duration),
    /// This many requests are sent.
    Requests(u64),
}

/// A request, as much of one as is needed.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// With this method.
    pub method: &'static str,
    /// For this path.
    pub path: String,
    /// With these fields; Host and Content-Length are added.
    pub fields: Vec<(&'static str, String)>,
    /// With this body.
    pub body: Bytes,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of each answer, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
}

impl Outcome {
    /// Answers.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.latencies.len()
    }

    /// Refusals are not what was to be measured.
    fn check_let_in(&self) -> io::Result<()> {
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
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52")]
        let answers = self.answers() as f64;
        answers / self.elapsed.as_secs_f64()
    }

    /// The latency that this part of the answers did not exceed.
    #[must_use]
    pub fn latency_at(&self, quantile: f64) -> Duration {
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
    pub fn to_json(&self) -> serde_json::Value {
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
pub async fn run(
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
pub async fn prepare_and_run(plan: &Plan, requests: &Requests) -> io::Result<Outcome> {
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
        outcome.check_let_in()?;
        if outcome.statuses.get(&201) != Some(&requests.messages) {
            return Err(io::Error::other(
                "the server does not take the messages to ask for",
            ));
        }
    }
    let requests = requests.clone();
    let outcome = run(plan, move |number| requests.request(number)).await?;
    outcome.check_let_in()?;
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

/// What is read of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// The server closes the connection behind it.
    is_last: bool,
}

/// A connection.
enum Link {
    Http1 { stream: Stream, buffer: BytesMut },
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What a connection speaks through.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Link {
    async fn connect(plan: &Plan) -> io::Result<Self> {
        let stream = TcpStream::connect(plan.address).await?;
        stream.set_nodelay(true)?;
        let stream = match &plan.tls {
            None => Stream::Plain(stream),
            Some(tls) => Stream::Tls(tls.shake_hands(stream, plan.http2).await?.into()),
        };
        match stream {
            stream if !plan.http2 => {
                let buffer = BytesMut::with_capacity(HEAD_BYTES_MAX);
                Ok(Self::Http1 { stream, buffer })
            }
            Stream::Plain(stream) => Self::http2(stream).await,
            Stream::Tls(stream) => Self::http2(stream).await,
        }
    }

    async fn http2(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    async fn ask(
        &mut self,
        request: Request,
        authorization: Option<&HeaderValue>,
    ) -> io::Result<Answer> {
        match self {
            Self::Http1 { stream, buffer } => {
                let request = request.to_http1(authorization);
                match stream {
                    Stream::Plain(stream) => exchange(stream, &request, buffer).await,
                    Stream::Tls(stream) => exchange(stream, &request, buffer).await,
                }
            }
            Self::Http2(sender) => {
                let request = request.into_http2(authorization);
                let request = request.map_err(io::Error::other)?;
                sender.ready().await.map_err(io::Error::other)?;
                let answer = sender.send_request(request).await;
                let (head, body) = answer.map_err(io::Error::other)?.into_parts();
                body.collect().await.map_err(io::Error::other)?;
                Ok(Answer {
                    status: head.status.as_u16(),
                    is_last: false,
                })
            }
        }
    }
}

impl Request {
    fn to_http1(&self, authorization: Option<&HeaderValue>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.body.len());
        for part in [
            self.method,
            " ",
            &self.path,
            " HTTP/1.1\r\nHost: localhost\r\n",
        ] {
            bytes.extend_from_slice(part.as_bytes());
        }
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| (*name, value.as_bytes()));
        let authorization = authorization.map(|value| ("Authorization", value.as_bytes()));
        for (name, value) in fields.chain(authorization) {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        if self.method != "GET" {
            let length = format!("Content-Length: {}\r\n", self.body.len());
            bytes.extend_from_slice(length.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn into_http2(
        self,
        authorization: Option<&HeaderValue>,
    ) -> Result<hyper::Request<Full<Bytes>>, hyper::http::Error> {
        let uri = format!("http://localhost{}", self.path);
        let mut request = hyper::Request::builder().method(self.method).uri(uri);
        for (name, value) in &self.fields {
            request = request.header(*name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(self.body))
    }
}

/// Sends a request, reads the answer and drops its body.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    buffer: &mut BytesMut,
) -> io::Result<Answer> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let (answer, mut missing) = loop {
        if let Some((answer, head_bytes, body_bytes)) = read_head(buffer)? {
            let bytes = head_bytes.saturating_add(body_bytes);
            let read = bytes.min(buffer.len());
            let _ = buffer.split_to(read);
            break (answer, bytes - read);
        }
        if buffer.len() >= HEAD_BYTES_MAX {
            return Err(invalid("the head of an answer is too large"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    while missing > 0 {
        buffer.clear();
        buffer.reserve(HEAD_BYTES_MAX);
        let read = stream.read_buf(buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let of_body = read.min(missing);
        let _ = buffer.split_to(of_body);
        missing -= of_body;
    }
    buffer.reserve(HEAD_BYTES_MAX);
    Ok(answer)
}

/// The answer at the start of `bytes` with the lengths of its head and its body, once its head is
/// complete.
fn read_head(bytes: &[u8]) -> io::Result<Option<(Answer, usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    let status = head.code.unwrap_or_default();
    let field = |name: &str| {
        let mut fields = head.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let is_last = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let body_bytes = match field("content-length") {
        // It has none, whatever it says (RFC 9112, 6.3).
        _ if status == 304 => 0,
        Some(length) => length.parse().map_err(io::Error::other)?,
        None => return Err(invalid("an answer does not say how long it is")),
    };
    let answer = Answer { status, is_last };
    Ok(Some((answer, head_bytes, body_bytes)))
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::future::Future;

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

    #[test]
    fn a_head_says_how_long_its_body_is() {
        assert!(read_head(&ANSWER[..20]).unwrap().is_none());
        let answer = Answer {
            status: 200,
            is_last: false,
        };
        let head_bytes = ANSWER.len() - 5;
        assert_eq!(read_head(ANSWER).unwrap(), Some((answer, head_bytes, 5)));
        let (answer, _, body_bytes) =
            read_head(b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n")
                .unwrap()
                .unwrap();
        assert_eq!((answer.status, answer.is_last, body_bytes), (304, true, 0));
        assert!(read_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
