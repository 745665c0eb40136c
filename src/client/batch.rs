//! Many messages over one connection: lines go out while the answers to earlier ones come in.
//!
//! It refuses to know where the answers go and who looks at them: each is handed to the caller.
//! **Invariant:** a line counts as stored only if the server named the digest of its text.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io::{self, BufRead, BufReader, Read};
use std::mem;
use std::thread;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{self, Channel};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use super::waits::Waits;
use super::{ANSWER_TIMEOUT, Client, Reply, WORDS_BYTES_MAX, in_time};
use crate::access::tokens::Scope;
use crate::digest::Digest;

/// Lines that were sent and not answered: more than a server lets wait, and a few megabytes.
const UNANSWERED_MAX: usize = 1 << 17;

/// Bytes of them, which are kept to be sent again: more than a server lets wait. A larger line goes alone.
const UNANSWERED_BYTES_MAX: usize = 64 << 20;

/// Lines that were sent and not answered once the server has held some up: what is sent beyond what it takes at
/// once has to be sent again.
const UNANSWERED_HELD_MAX: usize = 256;

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

/// A line to be sent.
struct Line {
    number: u64,
    /// Of its message; `None` if it has none that can be read.
    digest: Option<Digest>,
    bytes: u64,
    text: Vec<u8>,
}

/// A line that was sent, or why there is none, and its part of [`UNANSWERED_BYTES_MAX`].
type Sent<'a> = (io::Result<Line>, SemaphorePermit<'a>);

/// The server takes no more lines for a while.
struct Held {
    /// Whether it took some before.
    has_progress: bool,
    /// In seconds.
    retry_after: Option<u64>,
    words: String,
    /// The first that it did not take, if it read so far.
    line: Option<io::Result<Line>>,
}

impl Client {
    /// Stores the message of each line of `input`, `{"message": …}`, and hands `each` the answer to each
    /// line, in their order. Blank lines are passed over. Where the server says that it takes no more for a
    /// while, waits and goes on there, within limits.
    ///
    /// # Errors
    /// [`Unreachable`](super::Unreachable), or what the server said to all of it, or if it did not answer
    /// every line, or what `each` returned.
    pub async fn put_batch(
        &self,
        input: impl Read + Send + 'static,
        mut each: impl FnMut(LineAnswer) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut lines = Lines::read(input);
        let mut waits = Waits::default();
        let mut unanswered_max = UNANSWERED_MAX;
        while let Some(held) = self
            .put_lines(&mut lines, unanswered_max, &mut each)
            .await?
        {
            if held.has_progress {
                waits.begin_anew();
            }
            ensure!(waits.wait(held.retry_after).await, held.words);
            unanswered_max = UNANSWERED_HELD_MAX;
        }
        Ok(())
    }

    /// Sends lines in one request until there are no more, or the server holds them up: then those that it did
    /// not take are in `lines` again.
    async fn put_lines(
        &self,
        lines: &mut Lines,
        unanswered_max: usize,
        each: &mut impl FnMut(LineAnswer) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Held>> {
        let mut sender = self.open().await?;
        let (pieces, body) = Channel::<_, io::Error>::new(PIECES_MAX);
        let request = self
            .request(Method::POST, "/messages")
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body)?;
        let room = Semaphore::new(UNANSWERED_BYTES_MAX);
        let (sent, mut unanswered) = mpsc::channel(unanswered_max);
        let sending = async {
            lines.send(pieces, sent, &room).await;
            pending::<Infallible>().await
        };
        let response = sender.send_request(request);
        let mut held = tokio::select! {
            never = sending => match never {},
            held = receive(response, &mut unanswered, each) => held?,
        };
        if let Some(held) = &mut held {
            unanswered.close();
            let mut again = VecDeque::from_iter(held.line.take());
            while let Ok((line, _)) = unanswered.try_recv() {
                again.push_back(line);
            }
            lines.put_back(again);
        }
        Ok(held)
    }
}

/// Hands `each` the answers to lines, until there are no more lines or the server takes no more.
async fn receive(
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    unanswered: &mut mpsc::Receiver<Sent<'_>>,
    each: &mut impl FnMut(LineAnswer) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Held>> {
    let response = response
        .await
        .context("the server broke off the connection")?;
    let status = response.status();
    if status != StatusCode::OK {
        let reply = in_time(Reply::read(response, WORDS_BYTES_MAX)).await?;
        let words = reply.refusal(Scope::Write);
        ensure!(is_held_with(status.as_u16().into()), words);
        return Ok(Some(Held {
            has_progress: false,
            retry_after: reply.retry_after,
            words,
            line: None,
        }));
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
            let answer = received.split_to(length);
            end = line_end(&received);
            let sent = unanswered.recv().await;
            let (sent, _) = sent.context("the server answered more lines than there are")?;
            let sent = sent.context("cannot read the lines")?;
            let outcome = match outcome(&answer, sent.digest)? {
                Outcome::Of(outcome) => outcome,
                Outcome::Held { retry_after, words } => {
                    return Ok(Some(Held {
                        has_progress: number > 0,
                        retry_after,
                        words,
                        line: Some(Ok(sent)),
                    }));
                }
            };
            number = sent.number;
            each(LineAnswer {
                number,
                bytes: sent.bytes,
                outcome,
                has_next: end.is_some(),
            })?;
        }
        ensure!(
            received.len() <= WORDS_BYTES_MAX,
            "the server sent a line of more than {WORDS_BYTES_MAX} bytes, the most that there can be"
        );
    }
    match unanswered.recv().await {
        None => Ok(None),
        Some((Ok(_), _)) => bail!("the server answered up to line {number} and no more"),
        Some((Err(error), _)) => Err(error).context("cannot read the lines"),
    }
}

/// The lines of a batch that are to be sent.
struct Lines {
    next: VecDeque<io::Result<Line>>,
    read: mpsc::Receiver<Vec<io::Result<Line>>>,
}

impl Lines {
    /// Reads them in a thread of its own, which is not joined: its input may never end.
    fn read(input: impl Read + Send + 'static) -> Self {
        let (sender, read) = mpsc::channel(PIECES_MAX);
        thread::spawn(move || read_lines(input, &sender));
        Self {
            next: VecDeque::new(),
            read,
        }
    }

    /// Those that were sent in vain come first again.
    fn put_back(&mut self, mut again: VecDeque<io::Result<Line>>) {
        again.append(&mut self.next);
        self.next = again;
    }

    /// Sends lines, each to `sent` too, until there are no more or the connection ends. May be dropped at any
    /// time: a line is in `self` or in `sent`.
    async fn send<'a>(
        &mut self,
        mut body: channel::Sender<Bytes, io::Error>,
        sent: mpsc::Sender<Sent<'a>>,
        room: &'a Semaphore,
    ) {
        loop {
            if self.next.is_empty() {
                let Some(read) = self.read.recv().await else {
                    return;
                };
                self.next.extend(read);
            }
            let mut piece = Vec::new();
            while piece.len() < PIECE_BYTES
                && let Some(line) = self.next.front()
            {
                let bytes = line.as_ref().map_or(0, |line| line.text.len());
                let bytes = u32::try_from(bytes.min(UNANSWERED_BYTES_MAX)).unwrap_or(u32::MAX);
                let place = if piece.is_empty() {
                    let room = room.acquire_many(bytes).await;
                    room.ok().zip(sent.reserve().await.ok())
                } else {
                    let room = room.try_acquire_many(bytes);
                    room.ok().zip(sent.try_reserve().ok())
                };
                let Some((room, slot)) = place else { break };
                let Some(line) = self.next.pop_front() else {
                    break;
                };
                if let Ok(line) = &line {
                    piece.extend_from_slice(&line.text);
                }
                slot.send((line, room));
            }
            if sent.is_closed() || !piece.is_empty() && body.send_data(piece.into()).await.is_err()
            {
                return;
            }
        }
    }
}

/// The length of the first line, with its end.
fn line_end(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|&byte| byte == b'\n')? + 1)
}

/// Reads lines but for blank ones, which have no answers, until there are no more or nobody wants them.
fn read_lines(input: impl Read, read: &mpsc::Sender<Vec<io::Result<Line>>>) {
    let mut input = BufReader::with_capacity(PIECE_BYTES, input);
    let (mut lines, mut lines_bytes) = (Vec::new(), 0);
    let (mut number, mut bytes) = (0, 0);
    loop {
        let mut text = Vec::new();
        let result = input.read_until(b'\n', &mut text);
        let is_last = !matches!(result, Ok(1..));
        match result {
            Ok(length) => {
                number += 1;
                bytes += length as u64;
                if !text.trim_ascii().is_empty() {
                    lines_bytes += length;
                    lines.push(Ok(Line {
                        number,
                        digest: digest_of(&text),
                        bytes: mem::take(&mut bytes),
                        text,
                    }));
                }
            }
            Err(error) => lines.push(Err(error)),
        }
        // Do not keep back what was typed.
        let is_due = is_last || lines_bytes >= PIECE_BYTES || input.buffer().is_empty();
        if is_due && !lines.is_empty() {
            lines_bytes = 0;
            if read.blocking_send(mem::take(&mut lines)).is_err() {
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

/// Whether a status says that there may be room later: the client asks too often, or others need it now.
fn is_held_with(status: u64) -> bool {
    [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ]
    .iter()
    .any(|held| u64::from(held.as_u16()) == status)
}

/// What an answer means.
enum Outcome {
    /// For its line.
    Of(Result<Digest, String>),
    /// It is the last: see [`Held`].
    Held {
        retry_after: Option<u64>,
        words: String,
    },
}

/// What the server answered to a line whose message has the digest `sent`.
fn outcome(answer: &[u8], sent: Option<Digest>) -> anyhow::Result<Outcome> {
    let answer: Value = serde_json::from_slice(answer).context("the answer is not JSON")?;
    let text = |name| answer.get(name).and_then(Value::as_str);
    let number = |name| answer.get(name).and_then(Value::as_u64);
    let Some(digest) = text("digest") else {
        let words = text("error").unwrap_or("no reason given").into();
        return Ok(if number("status").is_some_and(is_held_with) {
            let retry_after = number("retry_after");
            Outcome::Held { retry_after, words }
        } else {
            Outcome::Of(Err(words))
        });
    };
    let same = sent.filter(|sent| digest.parse() == Ok(*sent));
    let digest = same.context("the server answered another digest than that of the text")?;
    Ok(Outcome::Of(Ok(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_line_says_when_there_may_be_room_again() {
        let held = |answer: &str| match outcome(answer.as_bytes(), None).unwrap() {
            Outcome::Held { retry_after, .. } => retry_after,
            Outcome::Of(_) => None,
        };
        for (status, expected) in [(429, Some(7)), (503, Some(7)), (400, None), (507, None)] {
            let line =
                format!(r#"{{"error": "e", "line": 2, "status": {status}, "retry_after": 7}}"#);
            assert_eq!(held(&line), expected, "{status}");
        }
        assert_eq!(held(r#"{"error": "e", "line": 2}"#), None);
    }
}
