//! How addresses to listen on are written, and where a server listens by default.
//!
//! It refuses to know what is served there. **Invariant:** where neither an address nor `$PORT` is given, only
//! this machine reaches it.

use std::env;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::options::{List, UsageError};
use crate::config::{self, SOCKET_PATH_BYTES_MAX};

/// An address to listen on: `127.0.0.1:9000`, `[::1]:9000`; `localhost:9000` and `9000` for this machine alone,
/// `:9000` for all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) SocketAddr);

/// Where to listen: an address, or `unix:` and the path of a socket file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Address(SocketAddr),
    SocketFile(PathBuf),
}

impl Endpoint {
    /// The addresses and the socket files of several lists.
    pub(super) fn join(lists: Vec<List<Self>>) -> (Vec<SocketAddr>, Vec<PathBuf>) {
        let (mut addresses, mut files) = (Vec::new(), Vec::new());
        for place in List::join(lists) {
            match place {
                Self::Address(address) => addresses.push(address),
                Self::SocketFile(path) => files.push(path),
            }
        }
        (addresses, files)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::SocketFile(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match text.strip_prefix("unix:") {
            None => text.parse().map(|Address(address)| Self::Address(address)),
            Some("") => Err(InvalidAddress::NoPath),
            Some(path) if path.len() > SOCKET_PATH_BYTES_MAX => Err(InvalidAddress::LongPath),
            Some(path) => Ok(Self::SocketFile(path.into())),
        }
    }
}

/// Permissions of a file, as three octal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode(pub(super) u32);

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let digits = match text.strip_prefix('0') {
            Some(digits) if text.len() == 4 => digits,
            _ => text,
        };
        let is_octal = digits.len() == 3 && digits.bytes().all(|it| (b'0'..=b'7').contains(&it));
        let mode = u32::from_str_radix(digits, 8).ok();
        mode.filter(|_| is_octal)
            .map(Self)
            .ok_or("permissions are three digits from 0 to 7, as in 660")
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:03o}", self.0)
    }
}

/// Why a word is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidAddress {
    #[error("a port is a number up to 65535")]
    Port,
    #[error("the port is missing, as in {0}:8080")]
    NoPort(IpAddr),
    #[error("an address of IPv6 has brackets, as in [::1]:8080")]
    NoBrackets,
    #[error("the path is missing, as in unix:/run/digestd/http.sock")]
    NoPath,
    #[error("the path of a socket file has at most {SOCKET_PATH_BYTES_MAX} bytes")]
    LongPath,
    #[error("this is an address to listen on, without http:// and without a path")]
    Url,
    #[error(
        "it is none of 127.0.0.1:8080, [::1]:8080, localhost:8080, :8080 for all addresses, or 8080; names are not \
         looked up"
    )]
    Other,
}

impl Address {
    /// The addresses of several lists.
    pub(super) fn join(lists: Vec<List<Self>>) -> Vec<SocketAddr> {
        let addresses = List::join(lists).into_iter();
        addresses.map(|address| address.0).collect()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        if text.contains('/') {
            return Err(InvalidAddress::Url);
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Err(InvalidAddress::NoPort(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let ip = match host {
            "" => Ipv6Addr::UNSPECIFIED.into(),
            _ if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
            _ => match host.trim_matches(['[', ']']).parse() {
                Ok(IpAddr::V6(_)) if !host.starts_with('[') => {
                    return Err(InvalidAddress::NoBrackets);
                }
                Ok(ip) => ip,
                Err(_) => return Err(InvalidAddress::Other),
            },
        };
        let Port(port) = match port.parse() {
            // A word that is neither is no port with a mistake in it.
            Err(_) if !text.contains(':') && !text.starts_with(|it: char| it.is_ascii_digit()) => {
                return Err(InvalidAddress::Other);
            }
            port => port?,
        };
        Ok(Self(SocketAddr::new(ip, port)))
    }
}

/// A port of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port(u16);

impl Port {
    /// The address that it is short for.
    pub(super) fn address(self) -> SocketAddr {
        SocketAddr::new(config::ADDRESS.ip(), self.0)
    }
}

impl FromStr for Port {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        text.parse().map(Self).map_err(|_| InvalidAddress::Port)
    }
}

/// The addresses that are given, or the default: all addresses at `$PORT`, which platforms set that expect
/// just that; [`config::ADDRESS`] without it, unless there is TLS.
pub(super) fn or_default(
    given: Vec<SocketAddr>,
    has_tls: bool,
) -> Result<Vec<SocketAddr>, UsageError> {
    if !given.is_empty() {
        return Ok(given);
    }
    let Some(port) = env::var_os("PORT").filter(|port| !port.is_empty()) else {
        let none_or_one = (!has_tls).then_some(config::ADDRESS);
        return Ok(none_or_one.into_iter().collect());
    };
    let port = port
        .to_str()
        .and_then(|port| port.parse().ok())
        .ok_or(UsageError(
            "the environment variable PORT is not a port number".into(),
        ))?;
    // One socket for both families, where the machine has both.
    let all = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    Ok(vec![SocketAddr::new(all, port)])
}

/// Whether the platform sets a port.
pub(super) fn is_port_set() -> bool {
    env::var_os("PORT").is_some_and(|port| !port.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_arguments_a_server_listens_on_loopback_unless_there_is_tls() {
        let loopback = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(or_default(Vec::new(), false).unwrap(), [loopback]);
        assert_eq!(or_default(Vec::new(), true).unwrap(), []);
    }

    #[test]
    fn an_address_has_short_forms() {
        for (text, expected) in [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            ("LocalHost:0", "127.0.0.1:0"),
            ("9000", "127.0.0.1:9000"),
            (":9000", "[::]:9000"),
            (":65535", "[::]:65535"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.0, expected.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn the_path_of_a_socket_file_has_a_longest_length() {
        let path = |bytes| format!("unix:{}", "x".repeat(bytes));
        let longest = path(SOCKET_PATH_BYTES_MAX).parse();
        assert!(matches!(longest, Ok(Endpoint::SocketFile(_))));
        let longer = path(SOCKET_PATH_BYTES_MAX + 1).parse::<Endpoint>();
        assert_eq!(longer, Err(InvalidAddress::LongPath));
        assert_eq!("unix:".parse::<Endpoint>(), Err(InvalidAddress::NoPath));
        assert_eq!(
            "80".parse::<Endpoint>().unwrap(),
            Endpoint::Address("127.0.0.1:80".parse().unwrap())
        );
    }

    #[test]
    fn permissions_are_three_octal_digits() {
        for (text, expected) in [
            ("660", Some(0o660)),
            ("0666", Some(0o666)),
            ("000", Some(0)),
        ] {
            assert_eq!(
                text.parse::<Mode>().ok().map(|mode| mode.0),
                expected,
                "{text}"
            );
        }
        for text in ["", "66", "0", "668", "1777", "rw-", "+66"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_what_it_lacks() {
        use InvalidAddress::{NoBrackets, NoPort, Other, Port, Url};
        for (text, expected) in [
            ("127.0.0.1", NoPort("127.0.0.1".parse().unwrap())),
            ("[::1]", NoPort("::1".parse().unwrap())),
            ("::1:x", NoBrackets),
            ("127.0.0.1:65536", Port),
            ("localhost:", Port),
            (":", Port),
            ("70000", Port),
            ("8080x", Port),
            ("localhost:http", Port),
            ("http://localhost:8080", Url),
            ("localhost:8080/", Url),
            ("example.com:8080", Other),
            ("256.0.0.1:80", Other),
            ("localhost", Other),
            ("loopback", Other),
        ] {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text}");
        }
    }
}
