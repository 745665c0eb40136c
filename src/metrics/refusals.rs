//! Requests that were refused though nothing was wrong with them, by cause: their client was kept out, or there
//! was no room. Does not know what answer they got.
//!
//! **Invariant:** every cause has a series from the start, so that a first increase is seen.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::text::{Exposition, Kind};

/// Why a request was refused, whatever it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptOut {
    /// It is not clear whose it is.
    UnclearClient,
    /// The network of its client is not let in.
    Network,
    /// It is for a host that is not answered to.
    OtherHost,
    /// Its client asks too often, or sent more lines than it may.
    Rate,
    /// A page of another site made it.
    OtherSite,
    /// It has no token.
    NoToken,
    /// It has one that nobody gave out.
    UnknownToken,
    /// Its token is for other things.
    Scope,
    /// It takes a token, and there are none.
    Closed,
    /// No memory for its body.
    BodyRoom,
    /// No memory for its answer.
    AnswerRoom,
    /// No memory for its stream.
    StreamRoom,
    /// No slot for its batch of messages.
    BatchRoom,
    /// No slot for its look-up.
    LookUpRoom,
    /// No slot for its export.
    ExportRoom,
    /// Too many writes at once.
    WriteRoom,
    /// The store is starting or stopping, or does not serve for another reason.
    NotReady,
    /// No room on the disk.
    DiskFull,
    /// The store failed.
    StoreFailed,
}

impl KeptOut {
    const ALL: [(Self, &'static str); 19] = [
        (Self::UnclearClient, "unclear-client"),
        (Self::Network, "network"),
        (Self::OtherHost, "other-host"),
        (Self::Rate, "rate"),
        (Self::OtherSite, "other-site"),
        (Self::NoToken, "no-token"),
        (Self::UnknownToken, "unknown-token"),
        (Self::Scope, "scope"),
        (Self::Closed, "closed"),
        (Self::BodyRoom, "body-room"),
        (Self::AnswerRoom, "answer-room"),
        (Self::StreamRoom, "stream-room"),
        (Self::BatchRoom, "batch-room"),
        (Self::LookUpRoom, "look-up-room"),
        (Self::ExportRoom, "export-room"),
        (Self::WriteRoom, "write-room"),
        (Self::NotReady, "not-ready"),
        (Self::DiskFull, "disk-full"),
        (Self::StoreFailed, "store-failed"),
    ];
}

/// Counts of them.
#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; KeptOut::ALL.len()]);

impl Refusals {
    pub(super) fn add(&self, cause: KeptOut) {
        let mut counts = self.0.iter().zip(KeptOut::ALL);
        let counted = counts.find(|(_, (known, _))| *known == cause);
        debug_assert!(counted.is_some(), "{cause:?} has no series");
        if let Some((count, _)) = counted {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn write(&self, page: &mut Exposition) {
        let mut refused = page.family(
            Kind::Counter,
            "digestd_requests_refused_total",
            "Requests refused though nothing was wrong with them: the client was kept out, there was no room (…-room), or the store takes or serves nothing",
        );
        for (count, (_, cause)) in self.0.iter().zip(KeptOut::ALL) {
            refused.sample(&[("cause", cause)], count.load(Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_counted_under_its_own_name_from_the_start() {
        let refusals = Refusals::default();
        let text = || {
            let mut page = Exposition::default();
            refusals.write(&mut page);
            page.finish()
        };
        let line = |cause: &str, count: u32| {
            format!("\ndigestd_requests_refused_total{{cause=\"{cause}\"}} {count}\n")
        };
        for (_, cause) in KeptOut::ALL {
            assert!(text().contains(&line(cause, 0)), "{cause}\n{}", text());
        }
        for (times, (cause, _)) in (1..).zip(KeptOut::ALL) {
            (0..times).for_each(|_| refusals.add(cause));
        }
        for (times, (_, cause)) in (1..).zip(KeptOut::ALL) {
            assert!(text().contains(&line(cause, times)), "{cause}\n{}", text());
        }
    }
}
