//! A connection of a run: made, asked once at a time, and read.
//!
//! It knows neither what requests ask for nor when they are due. HTTP/1.1 is just enough to be cheap
//! beside the server that is measured, HTTP/2 is hyper's, and either goes through TLS if a plan says whom
//! to trust. **Invariant:** an answer is read to its end, and no byte of it is taken for the next one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
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
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Plan, Request};

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Fields of the head of an answer.
const FIELDS_MAX: usize = 64;

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts servers that show a certificate for the address or name `server`, signed by one of
    /// those in the PEM file at `authorities`.
    ///
    /// # Errors
    /// If there is none in it, or `server` is neither.
    pub(crate) fn trusting(authorities: &Path, server: &str) -> io::Result<Self> {
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

/// What is read of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The server closes the connection behind it.
    pub(super) is_last: bool,
}

/// A connection.
pub(super) enum Link {
    Http1 { stream: Stream, buffer: BytesMut },
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What a connection speaks through.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Link {
    pub(super) async fn connect(plan: &Plan) -> io::Result<Self> {
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

    pub(super) async fn ask(
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
#[allow(
    dead_code,
    unused_imports,
    reason = "a bench has `cfg(test)` too, but no tests"
)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

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
