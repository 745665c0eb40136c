//! Many messages over one connection: lines go out while the answers to earlier ones come in.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::thread;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{self, Channel};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Client, Reply};
use crate::access::tokens::Scope;
use crate::digest::Digest;

/// Lines that were sent and not answered: more than a server lets wait, and a few megabytes.
const UNANSWERED_MAX: usize = 1 << 17;

/// Lines are sent in pieces of about this many bytes: one system call for a few hundred.
const PIECE_BYTES: usize = 32 << 10;

/// Pieces read ahead of the connection.
const PIECES_MAX: usize = 4;

/// What became of the lines of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Lines whose message is stored.
    pub stored: u64,
    /// Lines that were refused.
    pub refused: u64,
}

/// A line that was sent.
struct Sent {
    /// Of its message; `None` if it has none that can be read.
    digest: Option<Digest>,
    bytes: u64,
}

impl Client {
    /// Stores the message of each line of `input`, `{"message": …}`. Writes the digests to `output`, each
    /// once the server has said that its message is stored, and why lines are refused to standard
    /// error. Shows how far it is of `bytes` bytes if standard error is a terminal.
    ///
    /// # Errors
    /// [`Unreachable`](super::Unreachable), or what the server said to all of it, or if it did not answer
    /// every line.
    pub async fn put_batch(
        &self,
        input: impl Read + Send + 'static,
        bytes: Option<u64>,
        output: &mut impl Write,
    ) -> anyhow::Result<Stored> {
        let stream = self.connect().await?;
        let (pieces, body) = Channel::<_, io::Error>::new(PIECES_MAX);
        let request = self
            .request(Method::POST, "/messages")
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (sent, unanswered) = mpsc::channel(UNANSWERED_MAX);
        let runtime = Handle::current();
        // A thread of its own: nobody waits for it if the server has said enough.
        thread::spawn(move || send_lines(input, pieces, &sent, &runtime));
        let response = sender
            .send_request(request)
            .await
            .context("the server broke off the connection")?;
        if response.status() != StatusCode::OK {
            bail!(Reply::read(response).await?.refusal(Scope::Write));
        }
        let mut body = response.into_body();
        let mut answers = Answers {
            unanswered,
            output,
            progress: progress_bar(bytes),
            counts: Stored::default(),
        };
        let mut begun = BytesMut::new();
        while let Some(frame) = timeout(ANSWER_TIMEOUT, body.frame())
            .await
            .context("the server did not answer in time")?
        {
            let frame = frame.context("the server broke off the connection")?;
            begun.put(frame.into_data().unwrap_or_default());
            while let Some(end) = begun.iter().position(|&byte| byte == b'\n') {
                answers.take(&begun.split_to(end + 1)).await?;
            }
            answers.output.flush().context("cannot write the result")?;
        }
        answers.finish().await
    }
}

/// Sends lines until there are no more or nobody wants them.
fn send_lines(
    input: impl Read,
    mut pieces: channel::Sender<Bytes, io::Error>,
    sent: &mpsc::Sender<io::Result<Sent>>,
    runtime: &Handle,
) {
    let mut input = BufReader::with_capacity(PIECE_BYTES, input);
    let mut piece = Vec::new();
    loop {
        let start = piece.len();
        let read = input.read_until(b'\n', &mut piece);
        let line = piece.get(start..).unwrap_or_default();
        let is_last = !matches!(read, Ok(1..));
        let line = match read {
            Ok(0) => None,
            Ok(_) => Some(Ok(Sent {
                digest: digest_of(line),
                bytes: line.len() as u64,
            })),
            Err(error) => Some(Err(error)),
        };
        if line.is_some_and(|line| sent.blocking_send(line).is_err()) {
            return;
        }
        // Do not keep back what was typed.
        let is_due = is_last || piece.len() >= PIECE_BYTES || input.buffer().is_empty();
        if is_due && !piece.is_empty() {
            let piece = std::mem::take(&mut piece);
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

/// The answers, line by line.
struct Answers<'a, W> {
    unanswered: mpsc::Receiver<io::Result<Sent>>,
    output: &'a mut W,
    progress: ProgressBar,
    counts: Stored,
}

impl<W: Write> Answers<'_, W> {
    async fn take(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let answer: Value = serde_json::from_slice(line).context("the answer is not JSON")?;
        let sent = self.unanswered.recv().await;
        let sent = sent.context("the server answered more lines than there are")?;
        let sent = sent.context("cannot read the lines")?;
        self.progress.inc(sent.bytes);
        let text = |name| answer.get(name).and_then(Value::as_str);
        if let Some(digest) = text("digest") {
            ensure!(
                sent.digest.is_some() && digest.parse().ok() == sent.digest,
                "the server answered another digest than that of the text"
            );
            self.counts.stored += 1;
            return writeln!(self.output, "{digest}").context("cannot write the result");
        }
        self.counts.refused += 1;
        let number = self.counts.stored + self.counts.refused;
        let reason = text("error").unwrap_or("no reason given");
        // What cannot be said is counted all the same.
        self.progress.suspend(|| {
            let _ = writeln!(io::stderr(), "digestd: line {number}: {reason}");
        });
        Ok(())
    }

    async fn finish(mut self) -> anyhow::Result<Stored> {
        self.progress.finish_and_clear();
        match self.unanswered.recv().await {
            None => Ok(self.counts),
            Some(Ok(_)) => bail!(
                "the server answered {} lines and no more",
                self.counts.stored + self.counts.refused
            ),
            Some(Err(error)) => Err(error).context("cannot read the lines"),
        }
    }
}

fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let Some(bytes) = bytes.filter(|_| io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
