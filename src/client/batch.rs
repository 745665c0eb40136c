//! Many messages, or digests, over one connection: lines go out while the answers to earlier ones come in.
//!
//! What a server takes at once has a limit, and connections break, so lines are sent in as many requests as it
//! takes; a line that was not answered is sent again, which does no harm. It refuses to know where the answers go
//! and who looks at them: each is handed to the caller, once, in the order of the lines. **Invariant:** a line counts as stored
//! only if the server named the digest of its text, and a text as found only if it has the digest of its line.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io::{self, Read};

use anyhow::{Context, anyhow, bail, ensure};
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::lines::{AnswerLines, Line, Lines, PIECE_BYTES, PIECES_MAX, Sent, UNANSWERED_BYTES_MAX};
use super::waits::{Breaks, Waits};
use super::{
    ANSWER_TIMEOUT, Client, MESSAGE_BYTES_MAX, NOT_FOUND, Reply, WORDS_BYTES_MAX, in_time, kind_of,
};
use crate::access::tokens::Scope;
use crate::digest::Digest;
use crate::message::Message;

/// Lines that were sent and not answered: more than a server lets wait, and a few megabytes.
const UNANSWERED_MAX: usize = 1 << 17;

/// Lines that were sent and not answered once the server has held some up: what is sent beyond what it takes at
/// once has to be sent again.
const UNANSWERED_HELD_MAX: usize = 256;

/// Bytes of a request: a quarter of what a server takes unless told otherwise.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// What the server answered to a line of a batch.
#[derive(Debug)]
pub struct LineAnswer<T> {
    /// Of the line, from 1; blank lines count.
    pub number: u64,
    /// Of the line, with its end, and of blank ones before it.
    pub bytes: u64,
    /// The digest that the line is about, if it says one.
    pub digest: Option<Digest>,
    /// What was done for it.
    pub outcome: Result<T, LineRefusal>,
    /// Whether the answer to the next line has arrived as well.
    pub has_next: bool,
}

/// Why nothing was done for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineRefusal {
    /// There is no message with its digest.
    NotFound,
    /// What the server said.
    Other(String),
}

impl fmt::Display for LineRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("message not found"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// What is asked for the lines of a batch.
trait Operation {
    /// What was done for one.
    type Done;

    const PATH: &'static str;
    const SCOPE: Scope;
    /// Longest answer to a line.
    const ANSWER_BYTES_MAX: usize;

    /// See [`Prepare`](super::lines::Prepare).
    fn prepare(line: Vec<u8>) -> (Option<Digest>, Vec<u8>);

    /// What the answer says was done for the line about `digest`; `None` if nothing.
    fn done(answer: &mut Value, digest: Option<Digest>) -> anyhow::Result<Option<Self::Done>>;
}

/// Stores the message of each line.
struct Put;

impl Operation for Put {
    type Done = Digest;

    const PATH: &'static str = "/messages";
    const SCOPE: Scope = Scope::Write;
    const ANSWER_BYTES_MAX: usize = WORDS_BYTES_MAX;

    fn prepare(line: Vec<u8>) -> (Option<Digest>, Vec<u8>) {
        let value: Option<Value> = serde_json::from_slice(&line).ok();
        let text = value
            .as_ref()
            .and_then(|value| value.get("message")?.as_str());
        (text.map(|text| Digest::of(text.as_bytes())), line)
    }

    fn done(answer: &mut Value, digest: Option<Digest>) -> anyhow::Result<Option<Digest>> {
        let Some(answered) = answer.get("digest").and_then(Value::as_str) else {
            return Ok(None);
        };
        let digest = digest.filter(|digest| answered.parse() == Ok(*digest));
        let digest = digest.context("the server answered another digest than that of the text")?;
        Ok(Some(digest))
    }
}

/// What stands before the name of a file in a line as `sha256sum` prints it. It begins with a backslash if the name has
/// escapes.
fn without_name(line: &str) -> &str {
    let digest = ["  ", " *"].iter().find_map(|mark| line.split_once(mark));
    digest.map_or(line, |(digest, _)| {
        digest.strip_prefix('\\').unwrap_or(digest)
    })
}

/// Looks up the message with the digest of each line.
struct LookUp;

impl Operation for LookUp {
    type Done = Message;

    const PATH: &'static str = "/messages/lookup";
    const SCOPE: Scope = Scope::Read;
    const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

    /// A bare digest, one before the name of a file, one in quotes, or the member `digest` of an object; that is
    /// sent, and nothing else of the line.
    fn prepare(line: Vec<u8>) -> (Option<Digest>, Vec<u8>) {
        let bare = std::str::from_utf8(&line).map(str::trim_ascii);
        let bare = bare.ok().and_then(|line| without_name(line).parse().ok());
        let digest = bare.or_else(|| {
            let value: Value = serde_json::from_slice(&line).ok()?;
            let digest = value.get("digest").unwrap_or(&value);
            digest.as_str()?.parse().ok()
        });
        match digest {
            Some(digest) => (Some(digest), format!("\"{digest}\"\n").into()),
            None => (None, line),
        }
    }

    fn done(answer: &mut Value, digest: Option<Digest>) -> anyhow::Result<Option<Message>> {
        let Some(Value::String(text)) = answer.get_mut("message").map(Value::take) else {
            return Ok(None);
        };
        let message = Message::new(text);
        ensure!(
            Some(message.digest()) == digest,
            "the server answered a text with another digest"
        );
        Ok(Some(message))
    }
}

/// How a request with lines ended, with its bytes that were answered.
struct Round {
    bytes: usize,
    end: End,
}

enum End {
    /// Every line that was sent is answered.
    Answered,
    /// The server takes no more lines for a while; in seconds.
    Held {
        retry_after: Option<u64>,
        words: String,
    },
    /// The server takes no more in one request.
    TooLarge { words: String },
    /// The connection ended.
    Broken(anyhow::Error),
}

impl Client {
    /// Stores the message of each line of `input`, `{"message": …}`, and hands `each` the answer to each
    /// line, in their order. Blank lines are passed over. Goes on, within limits, where the server says that it
    /// takes no more for a while, or in one request, and where the connection breaks.
    ///
    /// # Errors
    /// [`Unreachable`](super::Unreachable), or what the server said to all of it, or if it did not answer
    /// every line, or what `each` returned.
    pub async fn put_batch(
        &self,
        input: impl Read + Send + 'static,
        each: impl FnMut(LineAnswer<Digest>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.send_all::<Put>(input, each).await
    }

    /// Looks up the message with the digest of each line of `input`, bare or as JSON; the rest is as in
    /// [`put_batch`](Self::put_batch).
    ///
    /// # Errors
    /// The same.
    pub async fn look_up(
        &self,
        input: impl Read + Send + 'static,
        each: impl FnMut(LineAnswer<Message>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.send_all::<LookUp>(input, each).await
    }

    async fn send_all<O: Operation>(
        &self,
        input: impl Read + Send + 'static,
        mut each: impl FnMut(LineAnswer<O::Done>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut lines = Lines::read(input, O::prepare);
        let mut waits = Waits::default();
        let mut breaks = Breaks::default();
        let (mut unanswered_max, mut bytes_max) = (UNANSWERED_MAX, REQUEST_BYTES_MAX);
        loop {
            let round = self
                .send_some::<O>(&mut lines, unanswered_max, bytes_max, &mut each)
                .await;
            let Round { bytes, end } = match round {
                // It is being restarted.
                Err(error) if breaks.is_any() && error.is::<super::Unreachable>() => Round {
                    bytes: 0,
                    end: End::Broken(error),
                },
                round => round?,
            };
            if bytes > 0 {
                waits.begin_anew();
                breaks.reset();
            }
            match end {
                End::Answered => {}
                End::Held { retry_after, words } => {
                    ensure!(waits.wait(retry_after).await, words);
                    unanswered_max = UNANSWERED_HELD_MAX;
                }
                End::TooLarge { words } => {
                    bytes_max = if bytes > 0 { bytes } else { bytes_max / 2 };
                    ensure!(bytes > 0 || bytes_max >= PIECE_BYTES, words);
                }
                End::Broken(error) => {
                    if !breaks.wait().await {
                        return Err(error);
                    }
                }
            }
            if !lines.has_more().await {
                return Ok(());
            }
        }
    }

    /// Sends lines in one request, as many as it may have, until there are no more or the server takes no more:
    /// then those that were not answered are in `lines` again.
    async fn send_some<O: Operation>(
        &self,
        lines: &mut Lines,
        unanswered_max: usize,
        bytes_max: usize,
        each: &mut impl FnMut(LineAnswer<O::Done>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Round> {
        let mut sender = self.open().await?;
        let (pieces, body) = Channel::<_, io::Error>::new(PIECES_MAX);
        let request = self
            .request(Method::POST, O::PATH)
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body)?;
        let room = Semaphore::new(UNANSWERED_BYTES_MAX);
        let (sent, mut unanswered) = mpsc::channel(unanswered_max);
        let sending = async {
            lines.send(pieces, sent, &room, bytes_max).await;
            pending::<Infallible>().await
        };
        let response = sender.send_request(request);
        let mut refused = None;
        let round = tokio::select! {
            never = sending => match never {},
            round = receive::<O>(response, &mut unanswered, &mut refused, each) => round?,
        };
        unanswered.close();
        let mut again = VecDeque::from_iter(refused.map(Ok));
        while let Ok((line, _)) = unanswered.try_recv() {
            again.push_back(line);
        }
        lines.put_back(again);
        Ok(round)
    }
}

/// Hands `each` the answers to lines, until there are no more lines or the server takes no more. The first that it
/// did not take, if it said so, is `refused`.
async fn receive<O: Operation>(
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    unanswered: &mut mpsc::Receiver<Sent<'_>>,
    refused: &mut Option<Line>,
    each: &mut impl FnMut(LineAnswer<O::Done>) -> anyhow::Result<()>,
) -> anyhow::Result<Round> {
    let mut bytes = 0;
    let response = match response.await {
        Ok(response) => response,
        Err(error) => {
            return Ok(Round {
                bytes,
                end: broken(error),
            });
        }
    };
    let status = response.status();
    if status != StatusCode::OK {
        let reply = in_time(Reply::read(response, WORDS_BYTES_MAX)).await?;
        let words = reply.refusal(O::SCOPE);
        let end = End::of(status.as_u16().into(), reply.retry_after, words);
        let end = end.map_err(|words| anyhow!(words))?;
        return Ok(Round { bytes, end });
    }
    let mut body = response.into_body();
    let mut number = 0;
    let mut answers = AnswerLines::new(O::ANSWER_BYTES_MAX);
    while let Some(frame) = timeout(ANSWER_TIMEOUT, body.frame())
        .await
        .context("the server did not answer in time")?
    {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                return Ok(Round {
                    bytes,
                    end: broken(error),
                });
            }
        };
        answers.feed(&frame.into_data().unwrap_or_default());
        while let Some(answer) = answers.next()? {
            let sent = unanswered.recv().await;
            let (sent, _) = sent.context("the server answered more lines than there are")?;
            let sent = sent.context("cannot read the lines")?;
            let outcome = match read_answer::<O>(&answer, sent.digest)? {
                Ok(outcome) => outcome,
                Err(end) => {
                    *refused = Some(sent);
                    return Ok(Round { bytes, end });
                }
            };
            drop(answer);
            number = sent.number;
            bytes += sent.text.len();
            each(LineAnswer {
                number,
                bytes: sent.bytes,
                digest: sent.digest,
                outcome,
                has_next: answers.has_next(),
            })?;
        }
    }
    ensure!(answers.is_empty(), "the server sent half a line");
    match unanswered.recv().await {
        None => Ok(Round {
            bytes,
            end: End::Answered,
        }),
        Some((Ok(_), _)) => bail!("the server answered up to line {number} and no more"),
        Some((Err(error), _)) => Err(error).context("cannot read the lines"),
    }
}

fn broken(error: hyper::Error) -> End {
    End::Broken(anyhow::Error::from(error).context("the server broke off the connection"))
}

impl End {
    /// What a status says of the lines from some on: that there may be room later, since the client asks too often
    /// or others need it now, or in another request. Anything else is an error of these `words`.
    fn of(status: u64, retry_after: Option<u64>, words: String) -> Result<Self, String> {
        let is = |known: StatusCode| u64::from(known.as_u16()) == status;
        if is(StatusCode::TOO_MANY_REQUESTS) || is(StatusCode::SERVICE_UNAVAILABLE) {
            Ok(Self::Held { retry_after, words })
        } else if is(StatusCode::PAYLOAD_TOO_LARGE) {
            Ok(Self::TooLarge { words })
        } else {
            Err(words)
        }
    }
}

/// What the server answered to a line about `digest`, or that it ended the batch before it.
fn read_answer<O: Operation>(
    answer: &[u8],
    digest: Option<Digest>,
) -> anyhow::Result<Result<Result<O::Done, LineRefusal>, End>> {
    let mut answer: Value = serde_json::from_slice(answer).context("the answer is not JSON")?;
    if let Some(done) = O::done(&mut answer, digest)? {
        return Ok(Ok(Ok(done)));
    }
    let number = |name| answer.get(name).and_then(Value::as_u64);
    let words = answer.get("error").and_then(Value::as_str);
    let words = words.unwrap_or("no reason given").to_owned();
    let end = number("status").map(|status| End::of(status, number("retry_after"), words.clone()));
    if let Some(Ok(end)) = end {
        return Ok(Err(end));
    }
    Ok(Ok(Err(match kind_of(&answer) {
        Some(NOT_FOUND) => LineRefusal::NotFound,
        _ => LineRefusal::Other(words),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_line_says_when_there_may_be_room_again() {
        let held = |answer: &str| match read_answer::<Put>(answer.as_bytes(), None).unwrap() {
            Err(End::Held { retry_after, .. }) => retry_after,
            _ => None,
        };
        for (status, expected) in [(429, Some(7)), (503, Some(7)), (400, None), (507, None)] {
            let line =
                format!(r#"{{"error": "e", "line": 2, "status": {status}, "retry_after": 7}}"#);
            assert_eq!(held(&line), expected, "{status}");
        }
        assert_eq!(held(r#"{"error": "e", "line": 2}"#), None);
    }

    #[test]
    fn a_line_with_a_digest_is_looked_up_by_that_alone() {
        let digest = Digest::of(b"foo");
        let export = format!("{{\"digest\":\"{digest}\",\"message\":\"foo\"}}\n");
        for line in [
            format!("{digest}\n"),
            format!(" {} \r\n", digest.to_string().to_uppercase()),
            format!("\"{digest}\""),
            export,
        ] {
            let sent = LookUp::prepare(line.clone().into());
            assert_eq!(
                sent,
                (Some(digest), format!("\"{digest}\"\n").into()),
                "{line}"
            );
        }
        for line in ["foo\n", "{}\n", "[]", "\"foo\""] {
            assert_eq!(LookUp::prepare(line.into()), (None, line.into()));
        }
        let decimal = "1".repeat(64);
        assert_eq!(
            LookUp::prepare(decimal.clone().into()).0,
            decimal.parse().ok()
        );
    }
}
