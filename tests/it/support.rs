//! A server for each test, and clients that believe nothing.
//!
//! A [`TestServer`] has a port and, if it needs one, a directory of its own, runs on the thread of
//! its test and ends with it. Every answer that a [`Client`] or a [`Raw`] socket hands out was
//! checked for what all answers have in common, see [`check`]. Everything that waits is guarded by
//! [`PATIENCE`], so that a test fails where it would otherwise hang.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use digestd::access::Access;
use digestd::config::Limits;
use digestd::http::App;
use digestd::server;
use digestd::service::Service;
use digestd::store::{DataDirectory, EmbeddedStore, MemoryStore, Options, Store};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tempfile::TempDir;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The published digest of `foo`.
pub(crate) const FOO: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

/// No single step takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Every field an answer may have.
const FIELDS: [&str; 26] = [
    "accept-ranges",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "connection",
    "content-digest",
    "content-length",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "durability",
    "etag",
    "location",
    "repr-digest",
    "retry-after",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-request-id",
];

/// Every type an answer may have.
const KINDS: [&str; 9] = [
    "application/json",
    "application/problem+json",
    "application/yaml",
    "image/svg+xml",
    "text/css; charset=utf-8",
    "text/html; charset=utf-8",
    "text/javascript; charset=utf-8",
    "text/plain; charset=utf-8",
    digestd::metrics::CONTENT_TYPE,
];

pub(crate) fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// What `future` gives, if it does so in time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let value = timeout(PATIENCE, future).await;
    value.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// Waits until `is_so` says yes.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !is_so().await {
            sleep(milliseconds(2)).await;
        }
    };
    within(what, polling).await;
}

/// A connection from this address of the loopback network.
pub(crate) async fn connect_from(address: [u8; 4], server: SocketAddr) -> Raw {
    Raw::new(stream_from(address, server).await)
}

/// The same with nothing around it.
pub(crate) async fn stream_from(address: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    within("connecting", socket.connect(server)).await.unwrap()
}

/// A server that lives as long as its test.
pub(crate) struct TestServer<S: Store + 'static = MemoryStore> {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Service>,
    pub(crate) store: Arc<S>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    directory: Option<TempDir>,
}

impl TestServer {
    /// Serves an empty store in memory within the default limits.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// Serves an empty store in memory within the default limits as changed by `adjust`.
    pub(crate) fn with(adjust: impl FnOnce(&mut Limits)) -> Self {
        Self::starting(adjust).started()
    }

    /// Serves those whom `access` lets in.
    pub(crate) fn guarded(access: &Arc<Access>) -> Self {
        Self::guarded_with(access, |_| {})
    }

    /// The same within the default limits as changed by `adjust`.
    pub(crate) fn guarded_with(access: &Arc<Access>, adjust: impl FnOnce(&mut Limits)) -> Self {
        let access = Arc::clone(access);
        let server = Self::run(MemoryStore::default(), None, adjust, |app| {
            app.guarded_by(access)
        });
        server
            .service
            .start(Arc::<MemoryStore>::clone(&server.store));
        server
    }

    /// Serves those whom `access` admits, below a path.
    pub(crate) fn below(path: &str, access: &Arc<Access>) -> Self {
        let (path, access) = (path.parse().unwrap(), Arc::clone(access));
        let server = Self::run(
            MemoryStore::default(),
            None,
            |_| {},
            |app| app.guarded_by(access).below(path),
        );
        server.started()
    }

    /// Serves no store yet, and lets nobody wait for it, and in only those whom `access` does.
    pub(crate) fn guarded_starting(access: &Arc<Access>) -> Self {
        let access = Arc::clone(access);
        let no_waiting = |limits: &mut Limits| limits.opening_timeout = Duration::ZERO;
        Self::run(MemoryStore::default(), None, no_waiting, |app| {
            app.guarded_by(access)
        })
    }

    /// Serves no store yet.
    pub(crate) fn starting(adjust: impl FnOnce(&mut Limits)) -> Self {
        Self::run(MemoryStore::default(), None, adjust, |app| app)
    }

    /// Serves no store yet, and lets nobody wait for it; everybody may have all messages.
    pub(crate) fn exporting() -> Self {
        Self::exporting_with(|_| {})
    }

    /// The same within the default limits as changed by `adjust`.
    pub(crate) fn exporting_with(adjust: impl FnOnce(&mut Limits)) -> Self {
        let no_waiting = |limits: &mut Limits| {
            limits.opening_timeout = Duration::ZERO;
            adjust(limits);
        };
        Self::run(MemoryStore::default(), None, no_waiting, App::allow_export)
    }

    /// Serves its store from now on.
    pub(crate) fn started(self) -> Self {
        self.service.start(Arc::<MemoryStore>::clone(&self.store));
        self
    }
}

impl TestServer<EmbeddedStore> {
    /// Serves an empty store on the disk, which keeps no message in memory.
    pub(crate) fn on_disk() -> Self {
        Self::on_disk_guarded(&Arc::default())
    }

    /// The same for those whom `access` lets in.
    pub(crate) fn on_disk_guarded(access: &Arc<Access>) -> Self {
        let limits = Limits::default();
        let directory = tempfile::tempdir().unwrap();
        let claimed = DataDirectory::claim(&directory.path().join("store"), 2 << 20).unwrap();
        let options = Options {
            free_bytes_min: Some(0),
            ..Options::new(1 << 20, limits.body.bytes_max)
        };
        let store = EmbeddedStore::open(claimed, options, &|_| {}).unwrap();
        let access = Arc::clone(access);
        let server = Self::run(store, Some(directory), |_| {}, |app| app.guarded_by(access));
        server
            .service
            .start(Arc::<EmbeddedStore>::clone(&server.store));
        server
    }

    /// Changes one byte of the stored `text` behind the back of the store.
    pub(crate) fn damage(&self, text: &str) {
        let directory = self.directory.as_ref().unwrap().path();
        let path = directory.join("store/log/00000001.log");
        let content = fs::read(&path).unwrap();
        let offset = content
            .windows(text.len())
            .position(|bytes| bytes == text.as_bytes())
            .expect("the text is in the log");
        let file = fs::File::options().write(true).open(&path).unwrap();
        let changed = [content[offset] ^ 1];
        file.write_all_at(&changed, offset as u64).unwrap();
    }
}

impl<S: Store + 'static> TestServer<S> {
    fn run(
        store: S,
        directory: Option<TempDir>,
        adjust: impl FnOnce(&mut Limits),
        configure: impl FnOnce(App) -> App,
    ) -> Self {
        let mut limits = Limits::default();
        adjust(&mut limits);
        let listeners = server::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let service = Arc::new(Service::default());
        let of_connections = limits.connection.clone();
        let app = App::new(Arc::clone(&service), limits);
        let app = Arc::new(configure(app));
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server::run(listeners, app, of_connections, async {
            let _ = stopped.await;
        }));
        Self {
            address,
            service,
            store: Arc::new(store),
            stop: Some(stop),
            running,
            directory,
        }
    }

    /// Asks over HTTP/1.1 and over HTTP/2, on new connections; the answers must agree.
    pub(crate) async fn ask(&self, ask: &Ask) -> Answer {
        let first = self.ask_over(Protocol::Http1, ask).await;
        let second = self.ask_over(Protocol::Http2, ask).await;
        assert_eq!(first.essence(), second.essence(), "{ask:?}");
        second
    }

    /// Asks on a new connection.
    pub(crate) async fn ask_over(&self, protocol: Protocol, ask: &Ask) -> Answer {
        self.connect(protocol).await.ask(ask).await
    }

    /// Stores `text`; returns the path to it.
    pub(crate) async fn publish(&self, text: &str) -> String {
        let answer = self.ask_over(Protocol::Http1, &Ask::publish(text)).await;
        assert_eq!(answer.status, 201);
        answer.field("location").unwrap().to_owned()
    }

    pub(crate) async fn connect(&self, protocol: Protocol) -> Client {
        within("connecting", Client::connect(self.address, protocol)).await
    }

    pub(crate) async fn connect_raw(&self) -> Raw {
        let stream = within("connecting", TcpStream::connect(self.address)).await;
        Raw::new(stream.unwrap())
    }

    /// Waits until the server has read what was sent on other connections so far. One thread runs
    /// the server and the test, and runs tasks in the order in which they were woken: what came
    /// earlier has been seen when what came later is answered.
    pub(crate) async fn has_seen_all(&self) {
        let mut client = self.connect(Protocol::Http1).await;
        for _ in 0..2 {
            client.ask(&Ask::get("/livez")).await;
        }
    }

    /// Gives the order to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has stopped.
    pub(crate) async fn stopped(&mut self) {
        within("stopping", &mut self.running).await.unwrap();
    }

    /// Waits until new connections are refused.
    pub(crate) async fn is_closed_to_new_clients(&self) {
        until("the end of accepting", async || {
            let refused = TcpStream::connect(self.address).await;
            refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        })
        .await;
    }
}

impl<S: Store + 'static> Drop for TestServer<S> {
    fn drop(&mut self) {
        self.running.abort();
        // Before its directory goes.
        let _ = self.store.close();
    }
}

/// Versions of HTTP, both without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

/// A request in the making.
#[derive(Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    /// Its Host or `:authority`, if that is not where it is sent.
    host: Option<String>,
    fields: Vec<(String, String)>,
    body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        Self {
            method: method.parse().unwrap(),
            path: path.into(),
            host: None,
            fields: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn head(path: impl Into<String>) -> Self {
        Self::new("HEAD", path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new("POST", path)
    }

    /// Stores `text`, sent as it is.
    pub(crate) fn publish(text: impl AsRef<[u8]>) -> Self {
        Self::post("/messages")
            .field("content-type", "text/plain")
            .body(text)
    }

    /// Stores `text` under `path`.
    pub(crate) fn put(path: impl Into<String>, text: impl AsRef<[u8]>) -> Self {
        Self::new("PUT", path)
            .field("content-type", "text/plain")
            .body(text)
    }

    /// Stores the message of a JSON body.
    pub(crate) fn publish_json(body: impl AsRef<[u8]>) -> Self {
        Self::post("/messages")
            .field("content-type", "application/json")
            .body(body)
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.into());
        self
    }

    /// The same below a path.
    pub(crate) fn below(mut self, path: &str) -> Self {
        self.path.insert_str(0, path);
        self
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Bytes::copy_from_slice(body.as_ref());
        self
    }

    fn request(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        body: SentBody,
    ) -> Request<SentBody> {
        let host = self.host.clone().unwrap_or_else(|| address.to_string());
        let mut request = Request::builder().method(&self.method);
        request = match protocol {
            Protocol::Http1 => request.uri(&self.path).header("host", host),
            Protocol::Http2 => request.uri(format!("http://{host}{}", self.path)),
        };
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        request.body(body).unwrap()
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { method, path, .. }, fields) = (self, &self.fields);
        write!(
            formatter,
            "{method} {path} {fields:?} {}",
            start_of(&self.body)
        )
    }
}

/// As much of a body as a person reads.
fn start_of(body: &[u8]) -> String {
    const SHOWN: usize = 200;
    let start = &body[..body.len().min(SHOWN)];
    format!("{} bytes: {}", body.len(), start.escape_ascii())
}

type SentBody = UnsyncBoxBody<Bytes, Infallible>;

/// A body that comes in pieces, when the test sends them.
struct Pieces(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(Ok))
    }
}

/// One connection.
pub(crate) struct Client {
    address: SocketAddr,
    sender: Sender,
    connection: JoinHandle<()>,
}

enum Sender {
    Http1(http1::SendRequest<SentBody>),
    Http2(http2::SendRequest<SentBody>),
}

type Responding = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

impl Client {
    async fn connect(address: SocketAddr, protocol: Protocol) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        // How a connection ends shows in the answers, or in their absence.
        let (sender, connection) = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                let connection = tokio::spawn(async { drop(connection.await) });
                (Sender::Http1(sender), connection)
            }
            Protocol::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), stream);
                let (sender, connection) = handshake.await.unwrap();
                let connection = tokio::spawn(async { drop(connection.await) });
                (Sender::Http2(sender), connection)
            }
        };
        Self {
            address,
            sender,
            connection,
        }
    }

    pub(crate) async fn ask(&mut self, ask: &Ask) -> Answer {
        let answer = self.try_ask(ask).await;
        answer.unwrap_or_else(|error| panic!("no answer to {ask:?}: {error:?}"))
    }

    /// Asks on a connection that may be closed.
    pub(crate) async fn try_ask(&mut self, ask: &Ask) -> hyper::Result<Answer> {
        let answer = self.try_ask_unchecked(ask).await?;
        answer.check(&ask.method);
        Ok(answer)
    }

    /// Asks for what a part below the router answers, which does not know how all answers look.
    pub(crate) async fn try_ask_unchecked(&mut self, ask: &Ask) -> hyper::Result<Answer> {
        let responding = async {
            match &mut self.sender {
                Sender::Http1(sender) => sender.ready().await?,
                Sender::Http2(sender) => sender.ready().await?,
            }
            let response = self.send(ask, Full::new(ask.body.clone()).boxed_unsync());
            Answer::collect(response.await?).await
        };
        within("the answer", responding).await
    }

    /// Asks, and does not read the answer but for its head.
    pub(crate) async fn begin_reading(&mut self, ask: &Ask) -> Unread {
        let response = self.send(ask, Full::new(ask.body.clone()).boxed_unsync());
        Unread(within("the answer", response).await.unwrap())
    }

    /// Begins a request whose body comes later.
    pub(crate) fn begin(&mut self, ask: &Ask) -> Begun {
        let (pieces, receiver) = mpsc::unbounded_channel();
        let response = self.send(ask, Pieces(receiver).boxed_unsync());
        let method = ask.method.clone();
        let answer = tokio::spawn(async move {
            let answer = Answer::collect(response.await?).await?;
            answer.check(&method);
            Ok(answer)
        });
        let pieces = Some(pieces);
        Begun { pieces, answer }
    }

    /// Begins a request whose body comes later, and whose answer is read line by line.
    pub(crate) fn begin_lines(&mut self, ask: &Ask) -> Conversation {
        let (pieces, receiver) = mpsc::unbounded_channel();
        let responding = self.send(ask, Pieces(receiver).boxed_unsync());
        Conversation {
            pieces: Some(pieces),
            responding: Some(responding),
            body: None,
            begun: Vec::new(),
            is_broken_off: false,
        }
    }

    fn send(&mut self, ask: &Ask, body: SentBody) -> Responding {
        match &mut self.sender {
            Sender::Http1(sender) => {
                let request = ask.request(self.address, Protocol::Http1, body);
                Box::pin(sender.send_request(request))
            }
            Sender::Http2(sender) => {
                let request = ask.request(self.address, Protocol::Http2, body);
                Box::pin(sender.send_request(request))
            }
        }
    }

    /// Waits until the server has closed the connection.
    pub(crate) async fn closed(mut self) {
        within("the end of the connection", &mut self.connection)
            .await
            .unwrap();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

/// An answer whose body was not read yet.
pub(crate) struct Unread(Response<Incoming>);

impl Unread {
    pub(crate) async fn collect(self) -> hyper::Result<Answer> {
        within("the rest of the answer", Answer::collect(self.0)).await
    }
}

/// A request and an answer that are both under way.
pub(crate) struct Conversation {
    pieces: Option<mpsc::UnboundedSender<Frame<Bytes>>>,
    responding: Option<Responding>,
    body: Option<Incoming>,
    begun: Vec<u8>,
    /// The answer ended before it was whole.
    pub(crate) is_broken_off: bool,
}

impl Conversation {
    pub(crate) fn send(&self, piece: impl AsRef<[u8]>) {
        let pieces = self.pieces.as_ref().expect("a body that has not ended");
        let _ = pieces.send(Frame::data(Bytes::copy_from_slice(piece.as_ref())));
    }

    /// Ends the body of the request.
    pub(crate) fn end(&mut self) {
        self.pieces = None;
    }

    /// The next line of the answer, without its end; `None` at the end, however it comes.
    pub(crate) async fn line(&mut self) -> Option<String> {
        within("a line", self.next_line()).await
    }

    async fn next_line(&mut self) -> Option<String> {
        if let Some(responding) = self.responding.take() {
            let response = responding.await.ok()?;
            assert_eq!(response.status(), 200);
            self.body = Some(response.into_body());
        }
        loop {
            if let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
                let line = self.begun.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let Ok(frame) = self.body.as_mut()?.frame().await? else {
                self.is_broken_off = true;
                return None;
            };
            self.begun.extend_from_slice(&frame.into_data().unwrap());
        }
    }
}

/// A request whose body is under way.
pub(crate) struct Begun {
    pieces: Option<mpsc::UnboundedSender<Frame<Bytes>>>,
    answer: JoinHandle<hyper::Result<Answer>>,
}

impl Begun {
    /// Sends a piece of the body.
    pub(crate) fn send(&self, piece: impl AsRef<[u8]>) {
        self.send_frame(Frame::data(Bytes::copy_from_slice(piece.as_ref())));
    }

    /// Ends the body with a trailer.
    pub(crate) fn end_with(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let trailers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
        self.send_frame(Frame::trailers(trailers));
        self.end();
    }

    fn send_frame(&self, frame: Frame<Bytes>) {
        let pieces = self.pieces.as_ref().expect("a body that has not ended");
        // A server that has answered takes no more; the answer says why.
        let _ = pieces.send(frame);
    }

    /// Ends the body.
    pub(crate) fn end(&mut self) {
        self.pieces = None;
    }

    /// The answer, which may come before the body has ended.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = within("the answer", &mut self.answer).await.unwrap();
        answer.expect("an answer, not the end of the connection")
    }

    /// Ends the body; the answer to the whole of it.
    pub(crate) async fn finish(mut self) -> Answer {
        self.end();
        self.answer().await
    }

    /// Waits for the end of a connection that brings no answer.
    pub(crate) async fn ends_unanswered(mut self) {
        let answer = within("the end of the connection", &mut self.answer).await;
        assert!(answer.unwrap().is_err());
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.answer.is_finished()
    }

    /// Goes away in the middle.
    pub(crate) async fn abandon(self) {
        self.answer.abort();
        let _ = self.answer.await;
    }
}

/// An answer, whole and checked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, fields, .. } = self;
        write!(formatter, "{status} {fields:?} {}", start_of(&self.body))
    }
}

impl Answer {
    async fn collect(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        Ok(Self {
            status: head.status.as_u16(),
            fields: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// The value of a field that is there at most once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        Some(value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The text of an error.
    pub(crate) fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let members = body.as_object().unwrap();
        assert_eq!(members.len(), 1, "{body}");
        body["error"].as_str().unwrap().to_owned()
    }

    /// The fields that do not differ between two answers to the same question.
    pub(crate) fn lasting_fields(&self) -> HeaderMap {
        let mut fields = self.fields.clone();
        for name in ["connection", "date", "transfer-encoding", "x-request-id"] {
            fields.remove(name);
        }
        fields
    }

    fn essence(&self) -> (u16, HeaderMap, &Bytes) {
        (self.status, self.lasting_fields(), &self.body)
    }

    /// Checks what all answers have in common.
    fn check(&self, method: &Method) {
        for name in self.fields.keys() {
            assert!(FIELDS.contains(&name.as_str()), "{name}: {self:?}");
        }
        let id = self.field("x-request-id").expect("a request id");
        assert!((1..=128).contains(&id.len()), "{self:?}");
        assert_eq!(
            self.field("x-content-type-options"),
            Some("nosniff"),
            "{self:?}"
        );
        self.check_body(method);
        // The checks behind a probe's answer are a list and not a sentence.
        let is_report = self.status == 503 && self.body.starts_with(b"[");
        if self.status >= 400 && !is_report {
            self.check_error(method);
        }
    }

    fn check_body(&self, method: &Method) {
        let kind = self.field("content-type");
        let length = self.field("content-length");
        if [204, 304].contains(&self.status) {
            assert!(self.body.is_empty(), "{self:?}");
            // That of a 304 would be that of the 200; a 204 has none (RFC 9110, 8.6).
            assert_eq!((kind, length), (None, None), "{self:?}");
            return;
        }
        let is_results = self.body.starts_with(b"{\n  \"results\": [");
        if kind == Some("application/x-ndjson") || is_results {
            // It was sent before it was made.
            assert_eq!((self.status, length), (200, None), "{self:?}");
            return;
        }
        assert_eq!(self.field("transfer-encoding"), None, "{self:?}");
        assert!(KINDS.contains(&kind.unwrap()), "{self:?}");
        let length: usize = length.expect("a length").parse().unwrap();
        if method == Method::HEAD {
            assert!(self.body.is_empty(), "{self:?}");
        } else {
            assert_eq!(length, self.body.len(), "{self:?}");
        }
    }

    /// Whether it is JSON that is laid out like `other`, whatever the order of members.
    pub(crate) fn is_laid_out_like(&self, other: &str) -> bool {
        let sorted = |text: &str| {
            let lines = text
                .lines()
                .map(|line| line.trim_end_matches(',').to_owned());
            let mut lines: Vec<_> = lines.collect();
            lines.sort();
            lines
        };
        self.text().ends_with("}\n") && sorted(self.text()) == sorted(other)
    }

    fn check_error(&self, method: &Method) {
        let is_problem = self.field("content-type") == Some("application/problem+json");
        assert!(is_problem || self.field("content-type") == Some("application/json"));
        assert_eq!(self.field("cache-control"), Some("no-store"), "{self:?}");
        assert_eq!(self.field("content-range").is_some(), self.status == 416);
        assert!(
            self.status < 500 || [500, 503, 507].contains(&self.status),
            "{self:?}"
        );
        let is_passing = [429, 503, 507].contains(&self.status);
        assert_eq!(self.field("retry-after").is_some(), is_passing, "{self:?}");
        assert_eq!(self.field("allow").is_some(), self.status == 405);
        if method != Method::HEAD && !is_problem {
            let text = serde_json::Value::from(self.error());
            assert_eq!(self.text(), format!("{{\n  \"error\": {text}\n}}\n"));
        }
    }
}

/// A socket.
pub(crate) struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What came before the end of a connection.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) was_reset: bool,
}

impl Rest {
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

impl Raw {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// Sends all of `bytes`.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sending = self.try_send(bytes.as_ref());
        within("sending", sending).await.unwrap();
    }

    /// Sends all of `bytes` on a connection that may be closed.
    pub(crate) async fn try_send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends `bytes` again and again, and reads what comes back, until the server has had enough or got
    /// `bytes_max` bytes; returns how many it got.
    pub(crate) async fn flood(&mut self, bytes: &[u8], bytes_max: usize) -> usize {
        let flooding = async {
            let mut sent = 0;
            let mut buffer = vec![0; 64 << 10];
            while sent < bytes_max {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.stream.ready(both).await.unwrap();
                let part = &bytes[sent % bytes.len()..];
                match self.stream.try_write(part) {
                    Ok(number) => sent += number,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
                match self.stream.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(number) => self.unread.extend_from_slice(&buffer[..number]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            sent
        };
        within("the flood", flooding).await
    }

    /// Takes what has come, and forgets it; whether that was the end of the connection.
    pub(crate) fn has_ended(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        self.unread.clear();
        loop {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish_sending(&mut self) {
        let closing = poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context));
        closing.await.unwrap();
    }

    /// Reads the next answer, which is not one to HEAD.
    pub(crate) async fn answer(&mut self) -> Answer {
        let answer = self.bare_answer().await;
        answer.check(&Method::GET);
        answer
    }

    /// The same for what a part below the router answers.
    pub(crate) async fn bare_answer(&mut self) -> Answer {
        let head = self.head().await;
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let fields = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value.trim()).unwrap())
        });
        let mut fields_map = HeaderMap::new();
        for (name, value) in fields {
            fields_map.append(name, value);
        }
        let mut answer = Answer {
            status: status.parse().unwrap(),
            fields: fields_map,
            body: Bytes::new(),
        };
        assert!(
            answer.status >= 200,
            "an interim answer came instead: {answer:?}"
        );
        let length = answer
            .field("content-length")
            .map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            self.read_more().await.expect("the rest of a body");
        }
        answer.body = self.unread.drain(..length).collect();
        answer
    }

    /// Reads the next answer, whatever its framing, and returns its status; an error if the connection ends
    /// before.
    pub(crate) async fn status(&mut self) -> io::Result<u16> {
        let status = loop {
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Response::new(&mut fields);
            let parsed = head.parse(&self.unread).expect("the head of an answer");
            if let httparse::Status::Complete(end) = parsed {
                let status = head.code.expect("a status");
                let length = head
                    .headers
                    .iter()
                    .find(|field| field.name == "content-length");
                let length = length.map(|field| {
                    std::str::from_utf8(field.value)
                        .unwrap()
                        .parse::<usize>()
                        .unwrap()
                });
                self.unread.drain(..end);
                let end = match length {
                    Some(length) => length,
                    None => self.end_of_chunks().await?,
                };
                while self.unread.len() < end {
                    self.read_more().await?;
                }
                self.unread.drain(..end);
                break status;
            }
            self.read_more().await?;
        };
        Ok(status)
    }

    /// Reads chunks up to the last, which is empty; returns where it ends.
    async fn end_of_chunks(&mut self) -> io::Result<usize> {
        const LAST: &[u8] = b"0\r\n\r\n";
        let mut seen = 0;
        loop {
            if let Some(start) = memmem::find(&self.unread[seen..], LAST) {
                return Ok(seen + start + LAST.len());
            }
            seen = (self.unread.len() + 1).saturating_sub(LAST.len());
            self.read_more().await?;
        }
    }

    /// Reads the invitation to send the body.
    pub(crate) async fn continue_line(&mut self) {
        let head = self.head().await;
        assert_eq!(head, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    pub(crate) async fn head(&mut self) -> Vec<u8> {
        loop {
            let end = self
                .unread
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                return self.unread.drain(..end + 4).collect();
            }
            self.read_more().await.expect("an answer");
        }
    }

    /// What came and was not read as an answer.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Waits until the server has closed the connection.
    pub(crate) async fn rest(&mut self) -> Rest {
        let end = loop {
            if let Err(error) = self.read_more().await {
                break error.kind();
            }
        };
        Rest {
            bytes: std::mem::take(&mut self.unread),
            was_reset: end == ErrorKind::ConnectionReset,
        }
    }

    /// Reads what is there, or waits for it.
    pub(crate) async fn read_more(&mut self) -> io::Result<()> {
        within("reading", self.read_some()).await
    }

    /// Reads what is there, or waits for it as long as that takes.
    pub(crate) async fn read_some(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.unread.extend_from_slice(&buffer[..read]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes away without a word to those who still send.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}
