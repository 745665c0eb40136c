//! Host names: which ones the service answers to, against DNS rebinding.
//!
//! A page may have the name of its own host lead to this machine, and then asks under that name: to the
//! browser, and to [`origins`](super::origins), page and service are one site. What gives it away is the
//! name. A service that only this machine reaches, and that asks for no token, is therefore asked under
//! few names; an operator may list more, and then they are all there are, wherever it listens.
//!
//! It refuses to know what a request is. **Invariant:** a page cannot choose what always passes: an
//! address leads to no other place, `localhost` and the names below it are resolved by no server of
//! others (RFC 6761, 6.3), and the name of this machine is given here.

use std::str::FromStr;

/// A host name without the dot at its end; its case means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

/// What `--host` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`
    Any,
    /// One name.
    Name(HostName),
}

/// A text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host is a name in ASCII without scheme and port, like digests.example, or `*` for any; addresses \
     need not be named"
)]
pub struct InvalidHost;

impl FromStr for HostName {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_of_name = |byte| matches!(byte, b'-' | b'_') || u8::is_ascii_alphanumeric(&byte);
        let mut labels = name.split('.');
        let is_name = labels.all(|label| !label.is_empty() && label.bytes().all(is_of_name));
        is_name.then(|| Self(name.to_owned())).ok_or(InvalidHost)
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        match text {
            "*" => Ok(Self::Any),
            name => name.parse().map(Self::Name),
        }
    }
}

/// The names that the service answers to; the default is all of them.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: Vec<HostName>,
    reach: Reach,
}

/// Where the names of requests are checked.
#[derive(Clone, Copy, Debug, Default)]
enum Reach {
    #[default]
    Nowhere,
    /// Where only this machine gets, and needs no token.
    OpenLoopback,
    Everywhere,
}

impl Hosts {
    /// Answers to the `listed` ones on every listener, or, if there are none, on loopback to those that
    /// always pass; the name of this `machine` is one of them.
    #[must_use]
    pub fn new(listed: Vec<HostPattern>, machine: Option<HostName>) -> Self {
        let mut reach = Reach::OpenLoopback;
        let mut names = Vec::from_iter(machine);
        for pattern in listed {
            match (pattern, reach) {
                (HostPattern::Any, _) | (_, Reach::Nowhere) => reach = Reach::Nowhere,
                (HostPattern::Name(name), _) => {
                    reach = Reach::Everywhere;
                    names.push(name);
                }
            }
        }
        Self { names, reach }
    }

    /// Whether they are asked on a listener which is `on_loopback`, of a service which `is_open` to
    /// requests without a token.
    pub(super) fn are_checked(&self, on_loopback: bool, is_open: bool) -> bool {
        match self.reach {
            Reach::Nowhere => false,
            Reach::OpenLoopback => on_loopback && is_open,
            Reach::Everywhere => true,
        }
    }

    /// Whether a request may be for `host`: a name, or an address, in brackets if it is IPv6, as RFC 3986 has
    /// them.
    #[must_use]
    pub fn allow(&self, host: &[u8]) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        is_address(host)
            || is_localhost(host)
            || (self.names.iter()).any(|name| name.0.as_bytes().eq_ignore_ascii_case(host))
    }
}

/// Whether a host is an IPv6 address in brackets, or IPv4: what ends in a number is that or nothing, to a
/// browser (URL Standard, 3.5) and in the DNS, which has no number at its top (RFC 3696, 2).
fn is_address(host: &[u8]) -> bool {
    let is_number = |label: &[u8]| label.iter().all(u8::is_ascii_digit);
    let ends_in_digit = host.last().is_some_and(u8::is_ascii_digit);
    host.starts_with(b"[")
        || (ends_in_digit
            && host
                .rsplit(|byte| *byte == b'.')
                .next()
                .is_some_and(is_number))
}

fn is_localhost(host: &[u8]) -> bool {
    const NAME: &[u8; 9] = b"localhost";
    let Some((above, last)) = host.split_last_chunk() else {
        return false;
    };
    (last == NAME || last.eq_ignore_ascii_case(NAME))
        && above.last().is_none_or(|byte| *byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listed: &[&str]) -> Hosts {
        let listed = listed.iter().map(|text| text.parse().unwrap()).collect();
        Hosts::new(listed, Some("Machine.example".parse().unwrap()))
    }

    #[test]
    fn localhost_addresses_and_the_machine_always_pass() {
        for hosts in [hosts(&[]), hosts(&["digests.example"])] {
            for host in [
                "localhost",
                "LOCALHOST",
                "localhost.",
                "a.localhost",
                "127.0.0.1",
                "192.0.2.1",
                "127.0.0.1.",
                "127.1",
                "2130706433",
                "[::1]",
                "[2001:db8::1]",
                "machine.example",
                "MACHINE.EXAMPLE.",
            ] {
                assert!(hosts.allow(host.as_bytes()), "{host}");
            }
        }
    }

    #[test]
    fn a_name_that_only_looks_like_one_of_them_does_not_pass() {
        for host in [
            "evil.example",
            "evillocalhost",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1evil.example",
            "0x7f000001",
            "localhost..",
            "machine",
            "example",
            "a.machine.example",
            "digests.example",
            "1.evil",
            "%6cocalhost",
            ".",
        ] {
            assert!(!hosts(&[]).allow(host.as_bytes()), "{host}");
        }
        assert!(!Hosts::new(Vec::new(), None).allow(b"machine.example"));
    }

    #[test]
    fn a_listed_name_passes_in_any_case_and_no_name_below_it() {
        let hosts = hosts(&["Digests.Example.", "wiki_2"]);
        for host in ["digests.example", "DIGESTS.EXAMPLE.", "wiki_2"] {
            assert!(hosts.allow(host.as_bytes()), "{host}");
        }
        for host in ["a.digests.example", "example", "wiki_22"] {
            assert!(!hosts.allow(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn names_are_checked_on_open_loopback_or_everywhere_once_some_are_listed() {
        for on_loopback in [false, true] {
            for is_open in [false, true] {
                let checked = |hosts: Hosts| hosts.are_checked(on_loopback, is_open);
                assert!(!checked(Hosts::default()));
                assert_eq!(checked(hosts(&[])), on_loopback && is_open);
                assert!(checked(hosts(&["a", "b"])));
                for any in [&["*"][..], &["*", "a"], &["a", "*"], &["a", "*", "b"]] {
                    assert!(!checked(hosts(any)), "{any:?}");
                }
            }
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_a_star() {
        for text in [
            "a",
            "a.example",
            "A_b-9.example.",
            "10.0.0.1",
            "xn--bcher-kva.example",
        ] {
            assert!(matches!(text.parse(), Ok(HostPattern::Name(_))), "{text}");
        }
        assert_eq!("*".parse(), Ok(HostPattern::Any));
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "a:80",
            "http://a",
            "a/",
            "*.example",
            "bücher.example",
            "[::1]",
            "a b",
            "user@a",
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(InvalidHost), "{text}");
        }
    }
}
