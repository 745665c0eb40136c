//! Where a server listens: what it notes in its data directory, and what `healthcheck` reads there.
//!
//! It refuses to ask anybody. **Invariant:** a line that this version does not know is passed over, and what is
//! written is read back the same.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::addresses::Endpoint;
use crate::client::ServerUrl;
use crate::digest::Digest;

/// Places, in the order in which they are asked: for operators first, and TLS last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listening(Vec<Place>);

/// A socket that a server listens on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) endpoint: Endpoint,
    /// Of what the server proves to be itself with, if it speaks TLS.
    pub(super) certificate: Option<Digest>,
}

/// What is served there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Admin,
    Http,
    Https,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Admin, Self::Http, Self::Https];

    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Listening {
    pub(super) fn new(mut places: Vec<Place>) -> Self {
        places.sort();
        Self(places)
    }

    /// Reads what was written by [`fmt::Display`].
    pub(super) fn parse(text: &str) -> Self {
        Self::new(text.lines().filter_map(Place::parse).collect())
    }

    /// Where clients reach it on this machine, with TLS only if there is nothing else.
    pub(super) fn for_clients(&self) -> Option<ServerUrl> {
        let mut places = self.0.iter().filter(|place| place.kind != Kind::Admin);
        reachable(places.next()?).next()
    }

    /// Where it is reached on this machine, and by which certificate, in the order in which to try.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (ServerUrl, Option<Digest>)> {
        let of_place = |place| reachable(place).map(|url| (url, place.certificate));
        self.0.iter().flat_map(of_place)
    }
}

impl Place {
    fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        // The path of a socket file may have spaces in it.
        let (endpoint, certificate) = match rest.split_once(' ') {
            Some((address, certificate)) if kind == Kind::Https => {
                (address, Some(certificate.parse().ok()?))
            }
            _ => (rest, None),
        };
        let endpoint = endpoint.parse().ok()?;
        let is_known = certificate.is_some() == (kind == Kind::Https);
        is_known.then_some(Self {
            kind,
            endpoint,
            certificate,
        })
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.0 {
            write!(f, "{} {}", place.kind.name(), place.endpoint)?;
            match place.certificate {
                Some(certificate) => writeln!(f, " {certificate}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// Where to reach a server on this machine that listens there.
fn reachable(place: &Place) -> impl Iterator<Item = ServerUrl> {
    let is_secure = place.kind == Kind::Https;
    let (address, socket) = match &place.endpoint {
        Endpoint::Address(address) => (Some(*address), None),
        Endpoint::SocketFile(path) => (None, Some(ServerUrl::through(path))),
    };
    let addresses = address.into_iter().flat_map(reachable_addresses);
    let urls = addresses.map(move |address| ServerUrl::at(address, is_secure));
    urls.chain(socket)
}

/// The same of an address. On `[::]` a server is reached over IPv4 as well, and over nothing else where IPv6 is turned
/// off.
fn reachable_addresses(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let (v4, v6) = (
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    );
    let (first, second) = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (v4, None),
        IpAddr::V6(ip) if ip.is_unspecified() => (v4, Some(v6)),
        ip => (ip, None),
    };
    let ips = [Some(first), second].into_iter().flatten();
    ips.map(move |ip| SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: Kind, address: &str) -> Place {
        Place {
            kind,
            endpoint: address.parse().unwrap(),
            certificate: (kind == Kind::Https).then(|| Digest::of(b"a certificate")),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_operators_are_asked_first() {
        let listening = Listening::new(vec![
            place(Kind::Https, "0.0.0.0:8443"),
            place(Kind::Http, "[::]:8080"),
            place(Kind::Admin, "127.0.0.1:9000"),
            place(Kind::Http, "10.0.0.1:80"),
            place(Kind::Http, "unix:/run/a b.sock"),
        ]);
        assert_eq!(Listening::parse(&listening.to_string()), listening);
        let candidates = listening.candidates();
        let addresses: Vec<_> = candidates.map(|(url, _)| url.to_string()).collect();
        assert_eq!(
            addresses,
            [
                "http://127.0.0.1:9000",
                "http://10.0.0.1:80",
                "http://127.0.0.1:8080",
                "http://[::1]:8080",
                "unix:/run/a b.sock",
                "https://127.0.0.1:8443"
            ]
        );
        let certificates = listening
            .candidates()
            .filter_map(|(_, certificate)| certificate);
        assert_eq!(certificates.count(), 1);
    }

    #[test]
    fn a_line_of_another_version_is_passed_over() {
        let text = "quic 127.0.0.1:1\nhttp 127.0.0.1:2\nhttp nowhere\nhttps 127.0.0.1:3\n\
                    http 127.0.0.1:4 more\n\nhttps 127.0.0.1:5 00\nhttp unix:\n";
        let expected = Listening::new(vec![place(Kind::Http, "127.0.0.1:2")]);
        assert_eq!(Listening::parse(text), expected);
        assert_eq!(Listening::parse(""), Listening::new(Vec::new()));
    }

    #[test]
    fn a_server_on_all_addresses_is_reached_on_loopback_of_each_family() {
        for (address, reached) in [
            ("0.0.0.0:80", &["127.0.0.1:80"][..]),
            ("[::]:80", &["127.0.0.1:80", "[::1]:80"]),
            ("10.0.0.1:80", &["10.0.0.1:80"]),
            ("[2001:db8::1]:80", &["[2001:db8::1]:80"]),
        ] {
            let found: Vec<_> = reachable_addresses(address.parse().unwrap())
                .map(|it| it.to_string())
                .collect();
            assert_eq!(found, reached, "{address}");
        }
    }
}
