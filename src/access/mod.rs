//! Who may come in, and how often: what is asked before a request is served.
//!
//! A room beside `server` and `http`, because both ask it: `server` before it has parsed a byte,
//! `http` when it knows what is wanted and by whom. It knows neither sockets nor status codes. Each
//! part is a decision that can be made, and tested, with nothing else running: [`tokens`],
//! [`networks`], [`forwarded`] and [`proxy_protocol`] (which proxies to believe), [`base_path`], [`rates`],
//! [`hosts`], [`origins`].
//!
//! **Invariant:** what was read from files is replaced as a whole, after all of it was understood, and
//! before anybody is told so: from then on there is nothing that still goes by the old.

pub mod base_path;
pub mod forwarded;
pub mod hosts;
mod lines;
pub mod networks;
pub mod origins;
pub mod proxy_protocol;
pub mod rates;
pub mod tokens;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota};
use tracing::warn;

pub use self::forwarded::{Asked, Unclear};
use self::hosts::Hosts;
pub use self::lines::LineError;
use self::networks::{Client, Line, Lists, Network, Networks};
use self::origins::{SitePattern, Sites};
use self::rates::{Limiter, Rate};
use self::tokens::{Scope, Tokens};
use crate::file;
use crate::text::{self, NotUtf8};

/// Lines about refused requests at most, a second: enough for a program that reads them and bars the
/// worst, not enough for anybody to fill the disk.
const REFUSAL_LINES_A_SECOND: u32 = 100;

/// Who may come in, as it was ordered; the default lets everybody in who can connect.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The file of tokens.
    pub tokens: Option<PathBuf>,
    /// Whether reading needs no token.
    pub public_read: bool,
    /// Networks that are let in; everybody if there are none.
    pub allow: Vec<Network>,
    /// Networks that are not let in, whatever else says they are.
    pub deny: Vec<Network>,
    /// A file with more of both.
    pub list_file: Option<PathBuf>,
    /// Networks of the proxies that are believed when they say for whom they speak.
    pub trusted_proxies: Vec<Network>,
    /// Whether who connects to a socket file is such a proxy.
    pub trusts_socket_files: bool,
    /// Host names that are answered to.
    pub hosts: Hosts,
    /// Sites whose pages may use the service.
    pub sites: Vec<SitePattern>,
    /// How often a client may read.
    pub read_rate: Option<Rate>,
    /// How often a client may write.
    pub write_rate: Option<Rate>,
}

/// Who may come in; the default lets everybody in who can connect.
#[derive(Debug, Default)]
pub struct Access {
    settings: Settings,
    trusted: Networks,
    /// Of the pages of other sites.
    pub sites: Sites,
    reads: Option<Limiter>,
    writes: Option<Limiter>,
    rules: ArcSwap<Rules>,
    lines: RefusalLines,
}

/// What the files say.
#[derive(Debug, Default)]
struct Rules {
    lists: Lists,
    /// `None` if no token is asked for.
    tokens: Option<Tokens>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it is: the client of a proxy that began the connection with a [`proxy_protocol`].
    pub address: IpAddr,
    /// Whether it may say that it speaks for somebody else.
    pub is_trusted: bool,
    /// Whether it came to a socket file, whose permissions say who may: its address stands for its user then.
    pub is_on_socket_file: bool,
}

/// Why a request needs another token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none.
    NoToken,
    /// It is not known.
    UnknownToken,
    /// It does not allow this.
    Scope(Scope),
    /// No token does: there are none, and this is not for everybody.
    Closed(Scope),
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// If one of them cannot be read or understood.
    pub fn new(settings: Settings) -> Result<Self, AccessError> {
        let rules = Rules::read(&settings)?;
        Ok(Self {
            trusted: settings.trusted_proxies.iter().copied().collect(),
            sites: Sites::new(settings.sites.clone()),
            reads: settings.read_rate.and_then(Limiter::new),
            writes: settings.write_rate.and_then(Limiter::new),
            rules: ArcSwap::from_pointee(rules),
            lines: RefusalLines::default(),
            settings,
        })
    }

    /// Reads the files again. On return nothing goes by the old ones any more, but for requests that
    /// were let in before.
    ///
    /// # Errors
    /// If one of them cannot be read or understood; all stays as it was.
    pub fn reload(&self) -> Result<(), AccessError> {
        self.rules.store(Arc::new(Rules::read(&self.settings)?));
        Ok(())
    }

    /// Whether there are files to read again.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.settings.tokens.is_some() || self.settings.list_file.is_some()
    }

    /// What an operator should know about who may do what, in a few words. `has_export` if messages are exported
    /// to those who may read them.
    #[must_use]
    pub fn summary(&self, has_export: bool) -> &'static str {
        match (&self.settings.tokens, self.settings.public_read) {
            (None, _) if has_export => {
                "anybody who can connect may read, write and export; nobody may delete"
            }
            (None, _) => "anybody who can connect may read and write; nobody may delete or export",
            (Some(_), true) => "anybody who can connect may read; all else needs a token",
            (Some(_), false) => "messages and metrics need a token",
        }
    }

    /// Whether nobody needs a token, and no network has to be named to be admitted.
    #[must_use]
    pub fn is_open_to_anybody(&self) -> bool {
        self.settings.tokens.is_none() && self.rules.load().lists.are_open()
    }

    /// The other end of a connection from `address`.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> Peer {
        let address = address.to_canonical();
        Peer {
            address,
            is_trusted: self.trusted.contain(address),
            is_on_socket_file: false,
        }
    }

    /// The other end of a connection to a socket file, which a process of this user made.
    #[must_use]
    pub fn peer_on_socket_file(&self, uid: u32) -> Peer {
        Peer {
            address: networks::address_of_user(uid),
            is_trusted: self.settings.trusts_socket_files,
            is_on_socket_file: true,
        }
    }

    /// Whether `client` may make requests through a connection of `peer`: of a socket file the permissions decide, but
    /// not for those whom a proxy there speaks for.
    #[must_use]
    pub fn admits_through(&self, peer: Peer, client: IpAddr) -> bool {
        peer.is_on_socket_file && client == peer.address || self.admits(client)
    }

    /// Whether clients at `address` are let in.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        self.rules.load().lists.admit(address)
    }

    /// Whether requests of a connection, which `peer` made to a listener, must be for a host that
    /// [`Access::answers_to`]. A proxy that is trusted answers for the names it lets through; on loopback
    /// a browser cannot be told from one.
    #[must_use]
    pub fn checks_hosts(&self, on_loopback: bool, peer: Peer) -> bool {
        let is_open = self.settings.tokens.is_none() || self.settings.public_read;
        let is_vouched_for = peer.is_trusted && !peer.address.is_loopback();
        // No browser reaches a socket file by itself.
        !peer.is_on_socket_file
            && !is_vouched_for
            && self.settings.hosts.are_checked(on_loopback, is_open)
    }

    /// Whether a request may be for `host`, where that is checked.
    #[must_use]
    pub fn answers_to(&self, host: &[u8]) -> bool {
        self.settings.hosts.allow(host)
    }

    /// The client that makes a request: the peer, or whom it speaks for if it is trusted.
    ///
    /// # Errors
    /// If it is trusted and does not say clearly for whom.
    pub fn client<'a, F, X>(
        &self,
        peer: Peer,
        forwarded: impl FnOnce() -> F,
        x_forwarded_for: impl FnOnce() -> X,
    ) -> Result<IpAddr, Unclear>
    where
        F: DoubleEndedIterator<Item = &'a [u8]>,
        X: DoubleEndedIterator<Item = &'a [u8]>,
    {
        if !peer.is_trusted {
            return Ok(peer.address);
        }
        forwarded::client_behind(peer.address, &self.trusted, forwarded(), x_forwarded_for())
    }

    /// What the client asked the proxy that made a request: nothing if `peer` is not trusted.
    ///
    /// The values are those of `Forwarded`, `X-Forwarded-Host` and `X-Forwarded-Proto`, in order.
    pub fn asked<'a, F, X>(
        &self,
        peer: Peer,
        forwarded: impl FnOnce() -> F,
        host: impl FnOnce() -> X,
        proto: impl FnOnce() -> X,
    ) -> Asked
    where
        F: DoubleEndedIterator<Item = &'a [u8]>,
        X: DoubleEndedIterator<Item = &'a [u8]>,
    {
        if !peer.is_trusted {
            return Asked::default();
        }
        forwarded::asked(&self.trusted, forwarded(), host(), proto())
    }

    /// Counts a request of `client` that reads, or one that writes, or a line of a batch.
    ///
    /// # Errors
    /// If it is one too many: how long the client has to wait.
    pub fn check_rate(&self, client: Client, is_write: bool) -> Result<(), Duration> {
        let limiter = if is_write { &self.writes } else { &self.reads };
        match limiter {
            Some(limiter) => limiter.check(client),
            None => Ok(()),
        }
    }

    /// Clients whose rates are remembered at the moment, those that read and those that write.
    #[must_use]
    pub fn limited_clients(&self) -> usize {
        let limiters = self.reads.iter().chain(&self.writes);
        limiters.map(Limiter::clients).sum()
    }

    /// Whether a request that needs `scope` may be served, with `token` if it brings one, and the name of that
    /// token if it was looked at and is known: what needs no token does not look at it either. A no was logged.
    pub fn authorize(
        &self,
        address: IpAddr,
        scope: Scope,
        token: Option<&[u8]>,
    ) -> (Option<tokens::Name>, Result<(), Refusal>) {
        let rules = self.rules.load();
        let (name, result) = self.decide(&rules, scope, token);
        if let Err(refusal) = result {
            let name = name.map_or("-", tokens::Name::as_str);
            self.lines.write(address, refusal, scope, name);
        }
        (name.cloned(), result)
    }

    /// Whether what needs one of `scopes` may be told to who has `token`, if there is one. A no refuses no
    /// request, so it is not logged.
    #[must_use]
    pub fn allows(&self, scopes: &[Scope], token: Option<&[u8]>) -> bool {
        let rules = self.rules.load();
        let is_allowed = |scope: &Scope| self.decide(&rules, *scope, token).1.is_ok();
        scopes.iter().any(is_allowed)
    }

    /// Whether `token` allows what needs `scope`, and its name if it has one.
    fn decide<'a>(
        &self,
        rules: &'a Rules,
        scope: Scope,
        token: Option<&[u8]>,
    ) -> (Option<&'a tokens::Name>, Result<(), Refusal>) {
        match &rules.tokens {
            None if scope == Scope::Delete => (None, Err(Refusal::Closed(scope))),
            None => (None, Ok(())),
            Some(_) if scope == Scope::Read && self.settings.public_read => (None, Ok(())),
            Some(tokens) => match token.map(|token| tokens.find(token)) {
                None => (None, Err(Refusal::NoToken)),
                Some(None) => (None, Err(Refusal::UnknownToken)),
                Some(Some(grant)) => {
                    let is_allowed = grant.scopes().contain(scope);
                    let result = is_allowed.then_some(()).ok_or(Refusal::Scope(scope));
                    (Some(grant.name()), result)
                }
            },
        }
    }
}

impl Refusal {
    /// A word for the log.
    const fn name(self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::UnknownToken => "unknown-token",
            Self::Scope(_) => "scope",
            Self::Closed(_) => "closed",
        }
    }
}

impl Rules {
    fn read(settings: &Settings) -> Result<Self, AccessError> {
        let file = match &settings.list_file {
            Some(path) => read(path, networks::parse_list)?,
            None => Vec::<Line>::new(),
        };
        let tokens = settings.tokens.as_deref();
        Ok(Self {
            lists: Lists::new(&settings.allow, &settings.deny, &file),
            tokens: tokens.map(|path| read(path, Tokens::parse)).transpose()?,
        })
    }
}

fn read<T, E: Into<Problem>>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, AccessError> {
    let at = |problem| AccessError {
        path: path.to_owned(),
        problem,
    };
    let bytes = file::read(path).map_err(|error| at(Problem::Unreadable(error)))?;
    let text = text::read(&bytes).map_err(|error| at(error.into()))?;
    parse(text).map_err(|error| at(error.into()))
}

/// A file that says who may come in cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct AccessError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("it is {0}")]
    Text(#[from] NotUtf8),
    #[error(transparent)]
    Token(#[from] LineError<tokens::InvalidLine>),
    #[error(transparent)]
    Network(#[from] LineError<networks::InvalidLine>),
}

/// Lines in the log about requests without the right token.
#[derive(Debug)]
struct RefusalLines {
    budget: DefaultDirectRateLimiter,
    /// Refusals since the last line that had none of their own.
    unsaid: AtomicU64,
}

impl Default for RefusalLines {
    fn default() -> Self {
        let lines = std::num::NonZeroU32::new(REFUSAL_LINES_A_SECOND);
        let quota = Quota::per_second(lines.unwrap_or(std::num::NonZeroU32::MIN));
        Self {
            budget: DefaultDirectRateLimiter::direct(quota),
            unsaid: AtomicU64::new(0),
        }
    }
}

impl RefusalLines {
    /// One line with one form, for programs that read logs and bar addresses.
    fn write(&self, client: IpAddr, refusal: Refusal, scope: Scope, token: &str) {
        if self.budget.check().is_err() {
            self.unsaid.fetch_add(1, Relaxed);
            return;
        }
        let unsaid = self.unsaid.swap(0, Relaxed);
        let (reason, needs) = (refusal.name(), scope.name());
        let client = networks::Shown(client);
        warn!(%client, reason, needs, token, unsaid, "access refused");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_trusted_proxy_elsewhere_vouches_for_the_names_it_passes_on() {
        let access = Access::new(Settings {
            trusted_proxies: vec!["127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            hosts: Hosts::new(vec!["digests.example".parse().unwrap()], None),
            ..Settings::default()
        })
        .unwrap();
        for (address, expected) in [
            (Ipv4Addr::LOCALHOST, true),
            (Ipv4Addr::new(10, 0, 0, 1), false),
            (Ipv4Addr::new(10, 0, 0, 2), true),
        ] {
            let peer = access.peer(address.into());
            assert_eq!(access.checks_hosts(true, peer), expected, "{address}");
        }
        assert!(!access.checks_hosts(true, access.peer_on_socket_file(0)));
    }

    #[test]
    fn lists_are_for_those_whom_a_proxy_on_a_socket_file_speaks_for_and_not_for_its_user() {
        let access = Access::new(Settings {
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            trusts_socket_files: true,
            ..Settings::default()
        })
        .unwrap();
        let peer = access.peer_on_socket_file(33);
        assert!(peer.is_trusted && !access.admits(peer.address));
        assert!(access.admits_through(peer, peer.address));
        assert!(access.admits_through(peer, Ipv4Addr::new(10, 0, 0, 1).into()));
        assert!(!access.admits_through(peer, Ipv4Addr::new(11, 0, 0, 1).into()));
        // Who has its address otherwise is nobody in particular.
        assert!(!access.admits_through(access.peer(peer.address), peer.address));
    }

    #[test]
    fn a_file_that_is_gone_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        let settings = Settings {
            list_file: Some(path.clone()),
            ..Settings::default()
        };
        std::fs::write(&path, "# none\n").unwrap();
        let access = Access::new(settings).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = access.reload().unwrap_err().to_string();
        assert!(error.contains("list: cannot be read"), "{error}");
    }

    #[test]
    fn a_file_may_begin_with_a_byte_order_mark_and_one_in_utf_16_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let list = Settings {
            list_file: Some(path.clone()),
            ..Settings::default()
        };
        let tokens = Settings {
            tokens: Some(path.clone()),
            ..Settings::default()
        };
        let hash = Digest::of(b"secret");
        for (settings, line) in [
            (&list, "deny 192.0.2.1".to_owned()),
            (&list, "# nothing but a comment".to_owned()),
            (&tokens, format!("ci read {hash}")),
        ] {
            std::fs::write(&path, format!("\u{feff}{line}\r\n")).unwrap();
            let access = Access::new(settings.clone()).unwrap();
            let admits = access.admits(Ipv4Addr::new(192, 0, 2, 1).into());
            assert_eq!(admits, !line.starts_with("deny"));
            // Somewhere else it belongs to no line.
            std::fs::write(&path, format!("#\n\u{feff}{line}\n")).unwrap();
            assert!(access.reload().is_err(), "{line}");
            for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
                for line in [&format!("\u{feff}{line}"), &line] {
                    let bytes: Vec<_> = line.encode_utf16().flat_map(to_bytes).collect();
                    std::fs::write(&path, bytes).unwrap();
                    let error = access.reload().unwrap_err().to_string();
                    assert!(error.contains("UTF-16"), "{error}");
                    assert!(!error.contains("192.0.2.1"), "{error}");
                }
            }
        }
    }
}
