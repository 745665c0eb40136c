//! Many messages over one connection: lines go out while the answers to earlier ones come in.
//!
//! It refuses to know where the answers go and who looks at them: each is handed to the caller.
//! **Invariant:** a line counts as stored only if the server named the digest of its text.

use std::io::{self, BufRead, BufReader, Read};
use std::mem;
use std::thread;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{self, Channel};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Client, Reply, WORDS_BYTES_MAX, in_time};
use crate::access::tokens::Scope;
use crate::digest::Digest;

/// Lines that were sent and not answered: more than a server lets wait, and a few megabytes.
const UNANSWERED_MAX: usize = 1 << 17;

/// Lines are sent in pieces of about this many bytes: one system call for a few hundred.
const PIECE_BYTES: usize = 32 << 10;

/// Pieces read ahead of the connection.
const PIECES_MAX: usize = 4;

/// What the server answered to a line of a batch.
#[derive(Debug)]
pub struct LineAnswer {
    /// Of the line, from 1; blank lines count.
    pub number: u64,
    /// Of the line, with its end, and of blank ones before it.
    pub bytes: u64,
    /// The digest of its message, which is stored, or why it was refused.
    pub outcome: Result<Digest, String>,
    /// Whether the answer to the next line has arrived as well.
    pub has_next: bool,
}

/// A line that was sent.
struct Sent {
    number: u64,
    /// Of its message; `None` if it has none that can be read.
    digest: Option<Digest>,
    bytes: u64,
}

impl Client {
    /// Stores the message of each line of `input`, `{"message": …}`, and hands `each` the answer to each
    /// line, in their order. Blank lines are passed over.
    ///
    /// # Errors
    /// [`Unreachable`](super::Unreachable), or what the server said to all of it, or if it did not answer
    /// every line, or what `each` returned.
    pub async fn put_batch(
        &self,
        input: impl Read + Send + 'static,
        mut each: impl FnMut(LineAnswer) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut sender = self.open().await?;
        let (pieces, body) = Channel::<_, io::Error>::new(PIECES_MAX);
        let request = self
            .request(Method::POST, "/messages")
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body)?;
        let (sent, mut unanswered) = mpsc::channel(UNANSWERED_MAX);
        let runtime = Handle::current();
        // A thread of its own, which is not joined: its input may never end.
        thread::spawn(move || send_lines(input, pieces, &sent, &runtime));
        let response = sender
            .send_request(request)
            .await
            .context("the server broke off the connection")?;
        if response.status() != StatusCode::OK {
            let reply = in_time(Reply::read(response, WORDS_BYTES_MAX)).await?;
            bail!(reply.refusal(Scope::Write));
        }
        let mut body = response.into_body();
        let mut number = 0;
        let mut received = BytesMut::new();
        while let Some(frame) = timeout(ANSWER_TIMEOUT, body.frame())
            .await
            .context("the server did not answer in time")?
        {
            let frame = frame.context("the server broke off the connection")?;
            received.put(frame.into_data().unwrap_or_default());
            let mut end = line_end(&received);
            while let Some(length) = end {
                let line = received.split_to(length);
                end = line_end(&received);
                let sent = unanswered.recv().await;
                let sent = sent.context("the server answered more lines than there are")?;
                let sent = sent.context("cannot read the lines")?;
                number = sent.number;
                each(LineAnswer {
                    number,
                    bytes: sent.bytes,
                    outcome: outcome(&line, sent.digest)?,
                    has_next: end.is_some(),
                })?;
            }
            ensure!(
                received.len() <= WORDS_BYTES_MAX,
                "the server sent a line of more than {WORDS_BYTES_MAX} bytes, the most that there can be"
            );
        }
        match unanswered.recv().await {
            None => Ok(()),
            Some(Ok(_)) => bail!("the server answered up to line {number} and no more"),
            Some(Err(error)) => Err(error).context("cannot read the lines"),
        }
    }
}

/// The length of the first line, with its end.
fn line_end(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|&byte| byte == b'\n')? + 1)
}

/// Sends lines but for blank ones, which have no answers, until there are no more or the connection ends.
fn send_lines(
    input: impl Read,
    mut pieces: channel::Sender<Bytes, io::Error>,
    sent: &mpsc::Sender<io::Result<Sent>>,
    runtime: &Handle,
) {
    let mut input = BufReader::with_capacity(PIECE_BYTES, input);
    let mut piece = Vec::new();
    let (mut number, mut bytes) = (0, 0);
    loop {
        let start = piece.len();
        let read = input.read_until(b'\n', &mut piece);
        let line = piece.get(start..).unwrap_or_default();
        let is_last = !matches!(read, Ok(1..));
        let line = match read {
            Ok(0) => None,
            Ok(read) => {
                number += 1;
                bytes += read as u64;
                if matches!(line, b"\n" | b"\r\n" | b"\r") {
                    piece.truncate(start);
                    None
                } else {
                    Some(Ok(Sent {
                        number,
                        digest: digest_of(line),
                        bytes: mem::take(&mut bytes),
                    }))
                }
            }
            Err(error) => Some(Err(error)),
        };
        if line.is_some_and(|line| sent.blocking_send(line).is_err()) {
            return;
        }
        // Do not keep back what was typed.
        let is_due = is_last || piece.len() >= PIECE_BYTES || input.buffer().is_empty();
        if is_due && !piece.is_empty() {
            let piece = mem::take(&mut piece);
            if runtime.block_on(pieces.send_data(piece.into())).is_err() {
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

fn digest_of(line: &[u8]) -> Option<Digest> {
    let line: Value = serde_json::from_slice(line).ok()?;
    Some(Digest::of(line.get("message")?.as_str()?.as_bytes()))
}

/// What the server answered to a line whose message has the digest `sent`.
fn outcome(answer: &[u8], sent: Option<Digest>) -> anyhow::Result<Result<Digest, String>> {
    let answer: Value = serde_json::from_slice(answer).context("the answer is not JSON")?;
    let text = |name| answer.get(name).and_then(Value::as_str);
    let Some(digest) = text("digest") else {
        return Ok(Err(text("error").unwrap_or("no reason given").into()));
    };
    let same = sent.filter(|sent| digest.parse() == Ok(*sent));
    Ok(Ok(same.context(
        "the server answered another digest than that of the text",
    )?))
}
