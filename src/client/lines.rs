//! The lines of a batch on their way to a server, and those of an answer on their way back.
//!
//! It refuses to know what is said in them. **Invariants:** a line that is to be sent is in one place at a time, so
//! none is lost or sent twice by mistake; what is held of a line that comes is never more than it may have.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::mem;
use std::thread;

use anyhow::ensure;
use bytes::{Bytes, BytesMut};
use http_body_util::channel;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::digest::Digest;

/// Bytes of lines that were sent and not answered, which are kept to be sent again: more than a server lets wait.
/// A larger line goes alone.
pub(super) const UNANSWERED_BYTES_MAX: usize = 64 << 20;

/// Lines are sent in pieces of about this many bytes: one system call for a few hundred.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// Pieces read ahead of the connection.
pub(super) const PIECES_MAX: usize = 4;

/// A line to be sent.
pub(super) struct Line {
    /// From 1; blank lines count.
    pub(super) number: u64,
    /// What it is about; `None` if it does not say.
    pub(super) digest: Option<Digest>,
    /// As it was read, and of blank lines before it.
    pub(super) bytes: u64,
    /// As it is sent.
    pub(super) text: Vec<u8>,
}

/// A line that was sent, or why there is none, and its part of [`UNANSWERED_BYTES_MAX`].
pub(super) type Sent<'a> = (io::Result<Line>, SemaphorePermit<'a>);

/// What a line that was read is about, and how it is sent.
pub(super) type Prepare = fn(Vec<u8>) -> (Option<Digest>, Vec<u8>);

/// The lines of a batch that are to be sent.
pub(super) struct Lines {
    next: VecDeque<io::Result<Line>>,
    read: mpsc::Receiver<Vec<io::Result<Line>>>,
}

impl Lines {
    /// Reads them in a thread of its own, which is not joined: its input may never end.
    pub(super) fn read(input: impl Read + Send + 'static, prepare: Prepare) -> Self {
        let (sender, read) = mpsc::channel(PIECES_MAX);
        thread::spawn(move || read_lines(input, prepare, &sender));
        Self {
            next: VecDeque::new(),
            read,
        }
    }

    /// Those that were sent in vain come first again.
    pub(super) fn put_back(&mut self, mut again: VecDeque<io::Result<Line>>) {
        again.append(&mut self.next);
        self.next = again;
    }

    /// Whether there are more, once that is known.
    pub(super) async fn has_more(&mut self) -> bool {
        if self.next.is_empty()
            && let Some(read) = self.read.recv().await
        {
            self.next.extend(read);
        }
        !self.next.is_empty()
    }

    /// Sends lines, each to `sent` too, until there are no more, or with the next one there would be more than
    /// `bytes_max`, or the connection ends. May be dropped at any time: a line is in `self` or in `sent`.
    pub(super) async fn send<'a>(
        &mut self,
        mut body: channel::Sender<Bytes, io::Error>,
        sent: mpsc::Sender<Sent<'a>>,
        room: &'a Semaphore,
        bytes_max: usize,
    ) {
        let mut bytes_sent = 0;
        while self.has_more().await {
            let mut piece = Vec::new();
            let mut is_full = false;
            while piece.len() < PIECE_BYTES
                && let Some(line) = self.next.front()
            {
                let bytes = line.as_ref().map_or(0, |line| line.text.len());
                is_full = bytes_sent > 0 && bytes_sent + bytes > bytes_max;
                if is_full {
                    break;
                }
                let units = u32::try_from(bytes.min(UNANSWERED_BYTES_MAX)).unwrap_or(u32::MAX);
                let place = if piece.is_empty() {
                    let room = room.acquire_many(units).await;
                    room.ok().zip(sent.reserve().await.ok())
                } else {
                    let room = room.try_acquire_many(units);
                    room.ok().zip(sent.try_reserve().ok())
                };
                let Some((room, slot)) = place else { break };
                let Some(line) = self.next.pop_front() else {
                    break;
                };
                if let Ok(line) = &line {
                    piece.extend_from_slice(&line.text);
                }
                bytes_sent += bytes;
                slot.send((line, room));
            }
            let is_gone = sent.is_closed()
                || !piece.is_empty() && body.send_data(piece.into()).await.is_err();
            if is_gone || is_full {
                return;
            }
        }
    }
}

/// Reads lines but for blank ones, which have no answers, until there are no more or nobody wants them.
fn read_lines(input: impl Read, prepare: Prepare, read: &mpsc::Sender<Vec<io::Result<Line>>>) {
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
                    let (digest, text) = prepare(text);
                    lines.push(Ok(Line {
                        number,
                        digest,
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

/// Lines of an answer, cut from the pieces in which they come.
#[derive(Debug)]
pub(super) struct AnswerLines {
    bytes_max: usize,
    received: BytesMut,
    /// Bytes of `received` in which there is no end of a line.
    searched: usize,
}

impl AnswerLines {
    /// For lines of `bytes_max` bytes at most, with their ends.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            received: BytesMut::new(),
            searched: 0,
        }
    }

    /// Takes the next piece, once [`AnswerLines::next`] has said that there is no whole line.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        let bytes = self.received.len() + piece.len();
        if bytes > self.received.capacity() {
            // By doubling, but no larger than the longest line may become.
            let mut larger = BytesMut::with_capacity((2 * bytes).min(self.bytes_max).max(bytes));
            larger.extend_from_slice(&self.received);
            self.received = larger;
        }
        self.received.extend_from_slice(piece);
    }

    /// The next whole line, with its end.
    ///
    /// # Errors
    /// If it is too long, or already is without its end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<BytesMut>> {
        let rest = self.received.get(self.searched..).unwrap_or_default();
        let position = rest.iter().position(|&byte| byte == b'\n');
        let length = position.map(|position| self.searched + position + 1);
        let bytes_max = self.bytes_max;
        ensure!(
            length.unwrap_or(self.received.len()) <= bytes_max,
            "the server sent a line of more than {bytes_max} bytes, the most that there can be"
        );
        self.searched = length.map_or(self.received.len(), |_| 0);
        Ok(length.map(|length| self.received.split_to(length)))
    }

    /// Whether another whole line is there.
    pub(super) fn has_next(&self) -> bool {
        self.received.contains(&b'\n')
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use http_body_util::channel::Channel;

    use super::*;

    /// What is sent of `lines` in one request of so many bytes.
    async fn send(lines: &mut Lines, bytes_max: usize) -> String {
        let (pieces, body) = Channel::<_, io::Error>::new(PIECES_MAX);
        let room = Semaphore::new(UNANSWERED_BYTES_MAX);
        let (sent, _unanswered) = mpsc::channel(9);
        let (body, ()) = tokio::join!(body.collect(), lines.send(pieces, sent, &room, bytes_max));
        String::from_utf8(body.unwrap().to_bytes().into()).unwrap()
    }

    #[tokio::test]
    async fn a_request_has_as_many_lines_as_it_may_have_bytes_and_one_at_least() {
        for (bytes_max, requests) in [
            (5, &["ab\n", "cdef\n", "g\nh\n"][..]),
            (7, &["ab\n", "cdef\ng\n", "h\n"]),
            (8, &["ab\ncdef\n", "g\nh\n"]),
            (11, &["ab\ncdef\ng\n", "h\n"]),
            (12, &["ab\ncdef\ng\nh\n"]),
            (1, &["ab\n", "cdef\n", "g\n", "h\n"]),
        ] {
            let mut lines = Lines::read(&b"ab\n\ncdef\ng\nh\n"[..], |line| (None, line));
            for request in requests {
                assert!(lines.has_more().await);
                assert_eq!(send(&mut lines, bytes_max).await, *request, "{bytes_max}");
            }
            assert!(!lines.has_more().await);
        }
    }

    /// The lines of an answer in these pieces, each `bytes_max` long at most, and whether all of it was good.
    fn cut(bytes_max: usize, pieces: &[&str]) -> (Vec<String>, bool) {
        let mut lines = AnswerLines::new(bytes_max);
        let mut cut = Vec::new();
        for piece in pieces {
            lines.feed(piece.as_bytes());
            loop {
                match lines.next() {
                    Ok(None) => break,
                    Ok(Some(line)) => cut.push(String::from_utf8(line.to_vec()).unwrap()),
                    Err(_) => return (cut, false),
                }
            }
            assert!(lines.received.capacity() <= bytes_max.max(piece.len()) + piece.len());
        }
        (cut, lines.is_empty())
    }

    #[test]
    fn an_answer_is_cut_into_lines_wherever_its_pieces_end() {
        for pieces in [
            &["abc\nd\n"][..],
            &["a", "bc", "\n", "d\n"],
            &["abc\nd", "\n"],
        ] {
            assert_eq!(cut(4, pieces), (vec!["abc\n".into(), "d\n".into()], true));
            assert_eq!(cut(3, pieces), (vec![], false));
        }
        assert_eq!(cut(4, &["abcd"]), (vec![], false));
        assert!(!cut(4, &["abcde"]).1);
        let long = "x".repeat(1000);
        let pieces: Vec<_> = std::iter::repeat_n(long.as_str(), 70).collect();
        assert_eq!(cut(65_536, &pieces), (vec![], false));
    }
}
