//! Connections that write until the server is gone, and the log of what it acknowledged.
//!
//! The log is kept on this side of the socket: an answer that was read is an acknowledgement, and
//! nothing else is. Texts are made from their number, so that one count a writer is the whole log.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use digestd::digest::Digest;

use crate::process::{Client, Digestd};

/// Connections that read back.
const READERS: usize = 4;

/// A server's life under writers, up to its end.
#[derive(Debug)]
pub(crate) struct Round {
    number: usize,
    /// By writer: its messages from 0 up to this one, exclusively, were acknowledged, in this order.
    acked: Vec<usize>,
}

impl Round {
    /// Writes from many connections at once; calls `end` after so many acknowledgements in all, and
    /// returns once every connection is broken.
    pub(crate) fn write(
        server: &Digestd,
        number: usize,
        writers: usize,
        enough: usize,
        end: impl FnOnce(),
    ) -> Self {
        let mut acked = vec![0; writers];
        // All of them before the first writes, which may be enough already.
        let clients: Vec<_> = (0..writers).map(|_| server.client()).collect();
        let (sender, acks) = mpsc::channel();
        thread::scope(|scope| {
            for (writer, client) in clients.into_iter().enumerate() {
                let sender = sender.clone();
                scope.spawn(move || write(client, number, writer, &sender));
            }
            drop(sender);
            let mut acks = acks.iter();
            let early = acks.by_ref().take(enough).map(|writer| acked[writer] += 1);
            assert_eq!(early.count(), enough, "the server is gone early");
            end();
            acks.for_each(|writer| acked[writer] += 1);
        });
        Self { number, acked }
    }

    /// Number of messages that were acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.acked.iter().sum()
    }

    /// Number of messages that were sent: one of each writer had no answer.
    pub(crate) fn sent(&self) -> usize {
        self.acked() + self.acked.len()
    }

    /// All texts that were sent, acknowledged or not.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        let writers = self.acked.iter().enumerate();
        let round = self.number;
        writers.flat_map(move |(writer, &acked)| {
            (0..=acked).map(move |number| text(round, writer, number))
        })
    }

    /// Reads back every message that was acknowledged; what was not is whole or not there.
    pub(crate) fn check(&self, server: &Digestd) {
        let writers: Vec<_> = (0..self.acked.len()).collect();
        thread::scope(|scope| {
            for writers in writers.chunks(writers.len().div_ceil(READERS)) {
                scope.spawn(move || {
                    let mut client = server.client();
                    for &writer in writers {
                        let acked = self.acked[writer];
                        for number in 0..acked {
                            let text = text(self.number, writer, number);
                            let found = client.fetch(&Digest::of(text.as_bytes()));
                            assert_eq!(found, Some(text), "writer {writer}: {number} of {acked}");
                        }
                        let unanswered = text(self.number, writer, acked);
                        let found = client.fetch(&Digest::of(unanswered.as_bytes()));
                        assert!(found.is_none_or(|found| found == unanswered));
                    }
                });
            }
        });
    }

    /// Reads back the last message of some writers.
    pub(crate) fn check_sample(&self, server: &Digestd) {
        let mut client = server.client();
        for (writer, acked) in self.acked.iter().enumerate().step_by(7) {
            if let Some(number) = acked.checked_sub(1) {
                let text = text(self.number, writer, number);
                let found = client.fetch(&Digest::of(text.as_bytes()));
                assert_eq!(found, Some(text), "writer {writer}: {number} of {acked}");
            }
        }
    }
}

fn write(mut client: Client, round: usize, writer: usize, acks: &Sender<usize>) {
    for number in 0.. {
        match client.publish(&text(round, writer, number)) {
            Ok(_) => acks.send(writer).unwrap(),
            // Anything but a connection that is gone is a server that hangs.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no answer: {error}"),
            Err(_) => return,
        }
    }
}

/// From 10 bytes to 300 KiB: mostly some 90, now and then some thousand, seldom many.
fn text(round: usize, writer: usize, number: usize) -> String {
    let mark = format!("{round:02x}{writer:02x}{number:05x};");
    let bytes = match writer * 31 + number {
        sum if sum % 397 == 396 => 300 << 10,
        sum if sum % 199 == 198 => 60_000,
        sum if sum % 13 == 12 => 3000 + sum,
        sum if sum % 17 == 16 => mark.len(),
        sum => 60 + sum % 64,
    };
    let mut text = mark.repeat(bytes / mark.len() + 1);
    text.truncate(bytes);
    text
}
