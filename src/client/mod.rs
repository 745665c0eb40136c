//! The commands that talk to a server, over hyper.
//!
//! They trust nobody: what a server says a text's digest is, and what text it sends for a digest, is
//! checked here, where hashing is cheap. **Invariant:** nothing that a server sends takes more memory than the
//! largest message, or as a line one and a half times that.

mod batch;
mod lines;
mod pieces;
mod session;
mod tls;
mod url;
mod waits;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::request;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use self::batch::{LineAnswer, LineRefusal};
use self::lines::AnswerLines;
pub use self::pieces::Pieces;
pub use self::session::{Refused, Session};
use self::tls::Secure;
pub use self::tls::Trust;
pub use self::url::{InvalidUrl, ServerUrl};
use self::waits::Waits;
use crate::access::tokens::Scope;
use crate::digest::Digest;

/// A server that is there accepts at once; across the world it takes a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// From the first byte of a request to the last of its answer; of a batch, from one answer to the next,
/// a server gives up on a silent client long before.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Largest text that a server has, and longest line of an export, in bytes: no message is larger than a
/// segment, and no segment than this.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Longest answer that is no text, in bytes: a digest, or why there is none, in a few sentences.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// The server cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach {server}: {reason}")]
pub struct Unreachable {
    server: String,
    reason: String,
}

/// The type of what a server says of a message that it does not have.
const NOT_FOUND: &str = "no-such-message";

/// What is accepted: a digest, a text or a word as it is, and what is wrong with its type.
const TEXT_OR_PROBLEM: &str = "text/plain, application/problem+json";

/// Digests that are asked for at once, so that the answer, whatever it says of each, is within [`WORDS_BYTES_MAX`].
const DIGESTS_AT_ONCE: usize = 256;

/// The server has no messages with some digests.
#[derive(Debug, thiserror::Error)]
#[error("{}", if *.of == 1 { "message not found".to_owned() } else { format!("{missing} of {of} messages not found") })]
pub struct NotFound {
    /// How many there are none with.
    pub missing: usize,
    /// How many were asked for.
    pub of: usize,
}

impl NotFound {
    /// Of one message.
    pub const ONE: Self = Self { missing: 1, of: 1 };
}

/// A server, by its address.
#[derive(Clone, Debug)]
pub struct Client {
    url: ServerUrl,
    /// With HTTPS.
    secure: Option<Secure>,
    /// The value of `Authorization`; marked as secret, so that nothing prints it.
    authorization: Option<HeaderValue>,
}

/// What requests are sent on.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for S {}

impl Client {
    /// Speaks to the server at `url`; where that is HTTPS, it has to convince `trust`.
    ///
    /// # Errors
    /// If what `trust` names cannot be read, or the host can have no certificate.
    pub fn new(url: ServerUrl, trust: &Trust) -> anyhow::Result<Self> {
        let secure = url.is_secure().then(|| Secure::new(&url, trust));
        Ok(Self {
            secure: secure.transpose()?,
            url,
            authorization: None,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// What it shows the server, if anything.
    #[must_use]
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Shows the server this token; `None` if it is none.
    #[must_use]
    pub fn with_token(self, token: &str) -> Option<Self> {
        let is_one_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = is_one_word.then(|| HeaderValue::try_from(format!("Bearer {token}")));
        let mut authorization = value?.ok()?;
        authorization.set_sensitive(true);
        Some(Self {
            authorization: Some(authorization),
            ..self
        })
    }

    /// Stores `text`; returns its digest once the server has said that it is stored.
    ///
    /// # Errors
    /// [`Unreachable`], or what the server said.
    pub async fn put(&self, text: String) -> anyhow::Result<Digest> {
        let digest = Digest::of(text.as_bytes());
        let request = self
            .request(Method::POST, "/messages")
            .header(CONTENT_TYPE, "text/plain; charset=utf-8");
        self.ask(request, text.into())
            .await?
            .check_stored(&digest)?;
        Ok(digest)
    }

    /// The text with this digest.
    ///
    /// # Errors
    /// [`NotFound`], [`Unreachable`], or what the server said.
    pub async fn get(&self, digest: &Digest) -> anyhow::Result<Pieces> {
        let request = self
            .request(Method::GET, &format!("/messages/{digest}"))
            .header(ACCEPT, TEXT_OR_PROBLEM)
            .body(Full::<Bytes>::default())?;
        let mut sender = self.open().await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::OK {
                let reply = Reply::read(response, WORDS_BYTES_MAX).await?;
                // Another one is of a path that is not there, or of somebody else.
                ensure!(!reply.is_of_missing_message(), NotFound::ONE);
                bail!(reply.refusal(Scope::Read));
            }
            let mut text = Pieces::default();
            read_body(response, MESSAGE_BYTES_MAX, |piece| text.append(piece)).await?;
            Ok(text)
        };
        let text = in_time(exchange).await?;
        ensure!(
            text.digest() == *digest,
            "the server answered a text with another digest"
        );
        Ok(text)
    }

    /// Those of `digests` with which there is no message.
    ///
    /// # Errors
    /// [`Unreachable`], or what the server said.
    pub async fn missing(&self, digests: &[Digest]) -> anyhow::Result<Vec<Digest>> {
        let mut missing = Vec::new();
        let mut waits = Waits::default();
        let mut rest = digests;
        while !rest.is_empty() {
            let (asked, _) = rest.split_at(rest.len().min(DIGESTS_AT_ONCE));
            let lines = asked.iter().map(|digest| format!("\"{digest}\"\n"));
            let lines = lines.collect::<Vec<_>>().concat();
            let request = self
                .request(Method::POST, "/messages/lookup?missing")
                .header(CONTENT_TYPE, "application/x-ndjson");
            let reply = self.ask(request, lines.into()).await?;
            let (done, held) = reply.missing(asked, &mut missing)?;
            if done > 0 {
                waits.begin_anew();
            }
            rest = rest.get(done..).unwrap_or_default();
            if let Some((retry_after, words)) = held {
                ensure!(waits.wait(retry_after).await, words);
            }
        }
        Ok(missing)
    }

    /// Asks whether the server is ready to serve messages.
    ///
    /// # Errors
    /// [`Unreachable`], or why it is not.
    pub async fn check(&self) -> anyhow::Result<()> {
        self.is_ready().await?
    }

    /// The same, with the answer of a server that is not ready kept apart from there being none.
    ///
    /// # Errors
    /// [`Unreachable`], or why there is no answer.
    pub async fn is_ready(&self) -> anyhow::Result<anyhow::Result<()>> {
        let request = self.request(Method::GET, "/readyz");
        let reply = self.ask(request, Bytes::new()).await?;
        Ok(match reply.status {
            StatusCode::OK => Ok(()),
            _ => Err(anyhow!(reply.words())),
        })
    }

    /// All messages after `after`, or from the first on, as the lines that the server sends, each with
    /// its end; until `each` breaks.
    ///
    /// # Errors
    /// [`Unreachable`], what the server said, or that it broke off: what was handed over is good all
    /// the same.
    pub async fn export<B>(
        &self,
        after: Option<Digest>,
        mut each: impl FnMut(&[u8]) -> ControlFlow<B>,
    ) -> anyhow::Result<ControlFlow<B>> {
        let query = after.map_or(String::new(), |digest| format!("?after={digest}"));
        let request = self
            .request(Method::GET, &format!("/messages{query}"))
            .body(Full::<Bytes>::default())?;
        let mut sender = self.open().await?;
        let response = in_time(sender.send_request(request)).await?;
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            bail!(
                "the server at {} was not started with --allow-export",
                self.url.name()
            );
        }
        if response.status() != StatusCode::OK {
            let reply = in_time(Reply::read(response, WORDS_BYTES_MAX)).await?;
            bail!(reply.refusal(Scope::Export));
        }
        let mut body = response.into_body();
        let mut lines = AnswerLines::new(MESSAGE_BYTES_MAX);
        while let Some(frame) = in_time(async { body.frame().await.transpose() }).await? {
            lines.feed(&frame.into_data().unwrap_or_default());
            while let Some(line) = lines.next()? {
                if let ControlFlow::Break(value) = each(&line) {
                    return Ok(ControlFlow::Break(value));
                }
            }
        }
        ensure!(lines.is_empty(), "the server sent half a line");
        Ok(ControlFlow::Continue(()))
    }

    /// The start of every request: where it goes, and who asks.
    fn request(&self, method: Method, path: &str) -> request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(self.url.path().to_owned() + path)
            .header(HOST, self.url.authority());
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Sends one request on a connection of its own; wants a few words of plain text back.
    async fn ask(&self, request: request::Builder, body: Bytes) -> anyhow::Result<Reply> {
        let request = request
            .header(ACCEPT, TEXT_OR_PROBLEM)
            .body(Full::new(body))?;
        let mut sender = self.open().await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            Reply::read(response, WORDS_BYTES_MAX).await
        };
        in_time(exchange).await
    }

    /// The address at which the server is.
    ///
    /// # Errors
    /// [`Unreachable`] if it is not, or has none.
    pub async fn address(&self) -> Result<SocketAddr, Unreachable> {
        if self.url.socket().is_some() {
            return Err(self.unreachable(&"a socket file has no address"));
        }
        let stream = self.connect_over_network().await?;
        stream.peer_addr().map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, reason: &impl ToString) -> Unreachable {
        Unreachable {
            server: self.url.name(),
            reason: reason.to_string(),
        }
    }

    /// A connection for requests, which ends with its sender.
    async fn open<B>(&self) -> anyhow::Result<SendRequest<B>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let stream = self.connect().await?;
        let (sender, connection) = in_time(http1::handshake(TokioIo::new(stream))).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Transport>> {
        if let Some(path) = self.url.socket() {
            return Ok(Box::new(self.in_time(UnixStream::connect(path)).await?));
        }
        let stream = self.connect_over_network().await?;
        stream.set_nodelay(true)?;
        Ok(match &self.secure {
            None => Box::new(stream),
            Some(secure) => Box::new(self.shake_hands(stream, secure).await?),
        })
    }

    async fn connect_over_network(&self) -> Result<TcpStream, Unreachable> {
        let place = (self.url.bare_host(), self.url.port());
        self.in_time(TcpStream::connect(place)).await
    }

    /// The connection that `connecting` makes.
    async fn in_time<S>(
        &self,
        connecting: impl Future<Output = io::Result<S>>,
    ) -> Result<S, Unreachable> {
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                let reason = format!(
                    "{error}; start it with `digestd serve`, or name it with --url or DIGESTD_URL"
                );
                Err(self.unreachable(&reason))
            }
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.unreachable(&"no answer")),
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        secure: &Secure,
    ) -> Result<TlsStream<TcpStream>, Unreachable> {
        let connector = TlsConnector::from(Arc::clone(&secure.config));
        let shaking = connector.connect(secure.name.clone(), stream);
        match timeout(CONNECT_TIMEOUT, shaking).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(&tls::explain(&self.url.authority(), &error))),
            Err(_) => Err(self.unreachable(&"no answer to the TLS handshake")),
        }
    }
}

/// When to ask for the rest, in seconds, and why not now.
type Held = (Option<u64>, String);

/// A whole answer.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    /// It is refused for want of another token.
    wants_token: bool,
    /// When to come again, in seconds.
    retry_after: Option<u64>,
    body: Bytes,
}

impl Reply {
    /// Reads an answer of up to `bytes_max`.
    async fn read(response: Response<Incoming>, bytes_max: usize) -> anyhow::Result<Self> {
        let status = response.status();
        let challenge = response.headers().get(WWW_AUTHENTICATE);
        let wants_token = challenge.is_some_and(|value| value.as_bytes().starts_with(b"Bearer"));
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = BytesMut::new();
        read_body(response, bytes_max, |piece| body.extend_from_slice(piece)).await?;
        Ok(Self {
            status,
            wants_token,
            retry_after,
            body: body.freeze(),
        })
    }

    /// Whether the server stored the text with this digest.
    fn check_stored(&self, digest: &Digest) -> anyhow::Result<()> {
        if self.status != StatusCode::CREATED {
            bail!(self.refusal(Scope::Write));
        }
        let answered = std::str::from_utf8(&self.body).unwrap_or_default();
        ensure!(
            answered.trim_end().parse() == Ok(*digest),
            "the server answered another digest than that of the text"
        );
        Ok(())
    }

    /// What the server said to a request that needs `scope`, as a sentence.
    fn refusal(&self, scope: Scope) -> String {
        let words = self.words();
        if self.wants_token {
            let scope = scope.name();
            format!("{words} Name the file of a token that allows `{scope}` with --token-file.")
        } else {
            words
        }
    }

    fn words(&self) -> String {
        if self.status.is_redirection() {
            let status = self.status;
            return format!(
                "the server answered {status}: redirects are not followed, name the place itself"
            );
        }
        let error = self.error();
        format!(
            "the server answered {}: {}",
            self.status,
            error.as_deref().unwrap_or("no reason given")
        )
    }

    /// The error in it, if there is one: that of a problem document, or of an object with it alone.
    fn error(&self) -> Option<String> {
        let value: Value = serde_json::from_slice(&self.body).ok()?;
        let error = value.get("detail").or_else(|| value.get("error"))?;
        Some(error.as_str()?.to_owned())
    }

    fn is_of_missing_message(&self) -> bool {
        let value: Option<Value> = serde_json::from_slice(&self.body).ok();
        self.status == StatusCode::NOT_FOUND && value.as_ref().and_then(kind_of) == Some(NOT_FOUND)
    }

    /// Adds those of `asked` to `missing` that this says are; returns how many of `asked` were looked up, and if
    /// that is not all of them, when to ask for the next one, and why.
    fn missing(
        &self,
        asked: &[Digest],
        missing: &mut Vec<Digest>,
    ) -> anyhow::Result<(usize, Option<Held>)> {
        let is_held = |status: u64| status == 429 || status == 503;
        if self.status != StatusCode::OK {
            let words = self.refusal(Scope::Read);
            ensure!(is_held(self.status.as_u16().into()), words);
            return Ok((0, Some((self.retry_after, words))));
        }
        let mut known = 0;
        for line in self.body.split_inclusive(|&byte| byte == b'\n') {
            let answer: Value = serde_json::from_slice(line).context("the answer is not JSON")?;
            let number = |name| answer.get(name).and_then(Value::as_u64);
            if let Some(digest) = answer.get("digest").and_then(Value::as_str) {
                let mut rest = asked.iter().skip(known);
                let position = rest.position(|asked| digest.parse() == Ok(*asked));
                let position = position.context("the server answered another digest")?;
                missing.extend(asked.get(known + position));
                known += position + 1;
                continue;
            }
            let words = answer.get("error").and_then(Value::as_str);
            let words = words.unwrap_or("no reason given").to_owned();
            ensure!(number("status").is_some_and(is_held), words);
            let done = number("line").unwrap_or(1).saturating_sub(1);
            let done = usize::try_from(done)?.clamp(known, asked.len());
            return Ok((done, Some((number("retry_after"), words))));
        }
        Ok((asked.len(), None))
    }
}

/// The cause of an error, by its name in the description of the interface: the end of the `type` of a problem.
fn kind_of(error: &Value) -> Option<&str> {
    error.get("type")?.as_str()?.rsplit('/').next()
}

/// Hands the body of an answer to `take`, as it comes, if it has no more than `bytes_max`.
async fn read_body(
    response: Response<Incoming>,
    bytes_max: usize,
    mut take: impl FnMut(&[u8]),
) -> anyhow::Result<()> {
    let status = response.status();
    let check = |bytes: u64| {
        ensure!(
            bytes <= bytes_max as u64,
            "the server answered {status} with more than {bytes_max} bytes, the most that there can be"
        );
        Ok(())
    };
    let mut incoming = response.into_body();
    check(incoming.size_hint().lower())?;
    let mut bytes = 0;
    while let Some(frame) = incoming.frame().await {
        let piece = frame?.into_data().unwrap_or_default();
        bytes += piece.len() as u64;
        check(bytes)?;
        take(&piece);
    }
    Ok(())
}

/// Waits for the server, but not without end.
async fn in_time<T, E>(answer: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let Ok(answer) = timeout(ANSWER_TIMEOUT, answer).await else {
        bail!("the server did not answer in time");
    };
    answer.map_err(|error| {
        let error = anyhow::Error::from(error);
        if error.is::<hyper::Error>() {
            error.context("the server broke off the connection")
        } else {
            error
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_below_the_path_of_the_url() {
        let url = "http://localhost/digests/".parse().unwrap();
        let client = Client::new(url, &Trust::System).unwrap();
        let request = client.request(Method::GET, "/readyz").body(()).unwrap();
        assert_eq!(request.uri(), "/digests/readyz");
        assert_eq!(request.headers()[HOST], "localhost:80");
    }

    #[test]
    fn a_token_is_one_word_and_is_not_printed() {
        let url: ServerUrl = "http://localhost".parse().unwrap();
        let client = || Client::new(url.clone(), &Trust::System).unwrap();
        let with_token = client().with_token("digestd_0123").unwrap();
        assert!(!format!("{with_token:?}").contains("0123"));
        for token in ["", "a b", "a\nb", "\u{e9}"] {
            assert!(client().with_token(token).is_none(), "{token:?}");
        }
    }
}
