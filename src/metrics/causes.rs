//! Connections and requests that were refused or ended, and files that could not be read again, by cause.
//!
//! Does not know what answer a request got. **Invariant:** every cause has a series from the start, so that a
//! first increase is seen.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::text::{Exposition, Kind};

/// Why a connection was closed before a byte of it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are as many as there may be.
    All,
    /// Its client has as many as it may have.
    Client,
    /// The same for the network of its client.
    Network,
    /// Its network is not allowed; on this machine it is closed when it asks for something else than health.
    Denied,
}

/// Why a connection was ended that was served before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A new one needed its place.
    Room,
    /// Its client sent control frames, or bytes that belong to no request, without end.
    Flood,
    /// Its client spoke plain HTTP to a port for HTTPS, and was told so.
    PlainHttp,
}

/// What could not be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The certificate or its key.
    Certificate,
    /// Tokens or lists of networks.
    Access,
}

/// Why a request was refused, whatever it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptOut {
    /// It is not clear whose it is.
    UnclearClient,
    /// Requests from the network of its client are not allowed.
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

/// A fixed set of causes, and the counter that has a series for each.
pub(super) trait Cause: Copy + Debug + PartialEq + 'static {
    const NAME: &'static str;
    const HELP: &'static str;
    /// The name of the label.
    const LABEL: &'static str = "cause";
    /// Every cause and its label.
    const ALL: &'static [(Self, &'static str)];
}

impl Cause for Refused {
    const NAME: &'static str = "digestd_connections_refused_total";
    const HELP: &'static str = "Connections closed before a byte was read: at the limit on all, on those of a client or of a network, or denied";
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::All, "all"),
        (Self::Client, "client"),
        (Self::Network, "network"),
        (Self::Denied, "denied"),
    ];
}

impl Cause for Ended {
    const NAME: &'static str = "digestd_connections_ended_total";
    const HELP: &'static str = "Connections ended by the server: to make room for others, for a flood of control frames, or for plain HTTP on a port for HTTPS";
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Room, "room"),
        (Self::Flood, "flood"),
        (Self::PlainHttp, "plain-http"),
    ];
}

impl Cause for Reload {
    const NAME: &'static str = "digestd_reloads_failed_total";
    const HELP: &'static str = "Times that files could not be read again, every try counted: the certificate and its key, or tokens and lists of networks (access)";
    const LABEL: &'static str = "files";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Certificate, "certificate"), (Self::Access, "access")];
}

impl Cause for KeptOut {
    const NAME: &'static str = "digestd_requests_refused_total";
    const HELP: &'static str = "Requests refused though nothing was wrong with them: the client was kept out, there was no room (…-room), or the store takes or serves nothing";
    const ALL: &'static [(Self, &'static str)] = &[
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

/// How often each cause occurred.
#[derive(Debug)]
pub(super) struct Causes<C>(Vec<(C, &'static str, AtomicU64)>);

impl<C: Cause> Default for Causes<C> {
    fn default() -> Self {
        let counters = C::ALL
            .iter()
            .map(|&(cause, label)| (cause, label, AtomicU64::new(0)));
        Self(counters.collect())
    }
}

impl<C: Cause> Causes<C> {
    pub(super) fn add(&self, cause: C) {
        let counter = self.0.iter().find(|(known, ..)| *known == cause);
        debug_assert!(counter.is_some(), "{cause:?} has no series");
        if let Some((.., count)) = counter {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn write(&self, page: &mut Exposition) {
        let mut family = page.family(Kind::Counter, C::NAME, C::HELP);
        for (_, label, count) in &self.0 {
            family.sample(&[(C::LABEL, label)], count.load(Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_counted<C: Cause>() {
        let causes = Causes::<C>::default();
        let text = || {
            let mut page = Exposition::default();
            causes.write(&mut page);
            page.finish()
        };
        let assert_has = |label: &str, count: usize| {
            let line = format!("\n{}{{{}=\"{label}\"}} {count}\n", C::NAME, C::LABEL);
            assert!(text().contains(&line), "{line}{}", text());
        };
        for (_, label) in C::ALL {
            assert_has(label, 0);
        }
        for (times, &(cause, _)) in (1..).zip(C::ALL) {
            (0..times).for_each(|_| causes.add(cause));
        }
        for (times, (_, label)) in (1..).zip(C::ALL) {
            assert_has(label, times);
        }
    }

    #[test]
    fn each_cause_is_counted_under_its_own_name_from_the_start() {
        assert_counted::<Refused>();
        assert_counted::<Ended>();
        assert_counted::<KeptOut>();
        assert_counted::<Reload>();
    }
}
