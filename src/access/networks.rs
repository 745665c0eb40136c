//! Networks: lists of who is admitted and who is not, and who counts as one client, or as one party.
//!
//! **Invariant:** an address has one form here, the canonical one: IPv4 in IPv6 is IPv4. Whoever is
//! denied stays out, whatever else allows them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::lines::{LineError, content_lines};

/// A network or a single address, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        // By the rules of the standard library: `010.0.0.0` is eight to some and ten to others.
        let network = match text.split_once('/') {
            None => text.parse().ok().map(IpAddr::into),
            Some((address, prefix)) => network(address, prefix),
        };
        let network: IpNet = network.ok_or(InvalidNetwork::Form)?;
        if network.addr() != network.network() {
            return Err(InvalidNetwork::HostBits);
        }
        match network {
            IpNet::V6(v6) if is_mapped(v6) => Err(InvalidNetwork::Mapped),
            _ => Ok(Self(network)),
        }
    }
}

fn network(address: &str, prefix: &str) -> Option<IpNet> {
    let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = prefix.parse().ok().filter(|_| is_number)?;
    IpNet::new(address.parse().ok()?, prefix).ok()
}

/// Whether all of it is IPv4 in disguise (RFC 4291, 2.5.5.2), which no address here ever is.
fn is_mapped(network: Ipv6Net) -> bool {
    network.prefix_len() >= 96 && network.addr().to_ipv4_mapped().is_some()
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Neither an address nor one with a prefix.
    #[error("a network is an address, or an address, `/` and the length of a prefix")]
    Form,
    /// `10.0.0.1/8`: one of the two is not what was meant.
    #[error("the address of a network has no bits after its prefix")]
    HostBits,
    /// `::ffff:10.0.0.0/104`.
    #[error("write IPv4 networks as such, not in IPv6")]
    Mapped,
}

/// Many networks, asked for one address in as many steps as their number has bits.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    // Each sorted, without overlaps.
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl Networks {
    /// Whether `address` is in one of them.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let after = self.v4.partition_point(|network| network.addr() <= address);
                last_before(&self.v4, after).is_some_and(|network| network.contains(&address))
            }
            IpAddr::V6(address) => {
                let after = self.v6.partition_point(|network| network.addr() <= address);
                last_before(&self.v6, after).is_some_and(|network| network.contains(&address))
            }
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn last_before<T>(sorted: &[T], end: usize) -> Option<&T> {
    sorted.get(end.checked_sub(1)?)
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Network(network) in networks {
            match network {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => v6.push(network),
            }
        }
        let (mut v4, mut v6) = (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6));
        // They are already, but nothing promises it.
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4, v6 }
    }
}

/// Who is let in: those who are allowed, or everybody if nobody is named, but for those denied.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    allow: Networks,
    deny: Networks,
}

impl Lists {
    /// From the networks of the command line and the lines of a list file.
    #[must_use]
    pub fn new(allow: &[Network], deny: &[Network], file: &[Line]) -> Self {
        let in_file = |wanted| {
            let lines = file.iter().filter(move |line| line.verdict == wanted);
            lines.map(|line| line.network)
        };
        let join = |named: &[Network], wanted| {
            let named = named.iter().copied();
            named.chain(in_file(wanted)).collect()
        };
        Self {
            allow: join(allow, Verdict::Allow),
            deny: join(deny, Verdict::Deny),
        }
    }

    /// Whether nobody has to be named to be admitted.
    #[must_use]
    pub fn are_open(&self) -> bool {
        self.allow.are_none()
    }

    /// Whether `address` is let in.
    #[must_use]
    pub fn admit(&self, address: IpAddr) -> bool {
        !self.deny.contain(address) && (self.allow.are_none() || self.allow.contain(address))
    }
}

/// A line of a list file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    verdict: Verdict,
    network: Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

/// Reads a list file: `allow NETWORK` or `deny NETWORK` a line, in any order; empty lines and lines
/// that begin with `#` are nothing.
///
/// # Errors
/// On the first line that is not one, with its number.
pub fn parse_list(text: &str) -> Result<Vec<Line>, LineError<InvalidLine>> {
    content_lines(text)
        .map(|(number, line)| Line::parse(line).map_err(|problem| LineError { number, problem }))
        .collect()
}

impl Line {
    fn parse(line: &str) -> Result<Self, InvalidLine> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next().ok_or(InvalidLine::Words);
        let (verdict, network) = (next()?, next()?);
        let verdict = match verdict {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => return Err(InvalidLine::Words),
        };
        if next().is_ok() {
            return Err(InvalidLine::Words);
        }
        let network = network.parse()?;
        Ok(Self { verdict, network })
    }
}

/// Why a line is not one of a list file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// Not the two words.
    #[error("a line is `allow` or `deny`, and a network")]
    Words,
    /// The second word.
    #[error(transparent)]
    Network(#[from] InvalidNetwork),
}

/// What counts as one client: an IPv4 address, or an IPv6 /64 network, which one customer of a
/// provider has to himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// The client with this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << 64);
                Self(Ipv6Addr::from_bits(network).into())
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }

    /// The network it is in.
    #[must_use]
    pub fn network(self) -> ClientNetwork {
        ClientNetwork(match self.0 {
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << 80);
                Ipv6Addr::from_bits(network).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The clients that one party can be, a site with all that its provider gave it (RFC 6177): an IPv6 /48
/// network; one IPv4 address, of which nobody has many for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNetwork(IpAddr);

impl ClientNetwork {
    /// Whether it may be that of many clients.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self.0.is_ipv6()
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(address) if user_of(self.0).is_none() => write!(formatter, "{address}/48"),
            address => Shown(address).fmt(formatter),
        }
    }
}

/// What addresses begin with that stand for users of this machine. It is of no network (RFC 4291, 2.4), and what goes
/// to `100::/64` is thrown away (RFC 6666).
const USERS: u16 = 0x0100;

/// The address that stands for a user of this machine, who connects to a socket file. Each has a /48 network, so that
/// each is a client with a share of its own.
#[must_use]
pub fn address_of_user(uid: u32) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(USERS) << 112 | u128::from(uid) << 80).into()
}

/// The user that an address stands for.
fn user_of(address: IpAddr) -> Option<u32> {
    let IpAddr::V6(v6) = address else { return None };
    let [_, high, low, ..] = v6.segments();
    let uid = u32::from(high) << 16 | u32::from(low);
    (address_of_user(uid) == address).then_some(uid)
}

/// An address as logs have it: that of a user is `unix:UID`.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub IpAddr);

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match user_of(self.0) {
            Some(uid) => write!(formatter, "unix:{uid}"),
            None => self.0.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_user_is_a_client_and_a_network() {
        for uid in [0, 33, 65_534, u32::MAX] {
            let address = address_of_user(uid);
            assert_eq!(Shown(address).to_string(), format!("unix:{uid}"));
            let network = Client::of(address).network();
            assert_eq!(network.to_string(), format!("unix:{uid}"));
            assert_ne!(network, Client::of(address_of_user(uid ^ 1)).network());
        }
        for address in ["127.0.0.1", "100::1", "::", "1100:0:21::", "2001:db8::1"] {
            assert_eq!(Shown(ip(address)).to_string(), address);
        }
    }

    #[test]
    fn nobody_named_means_everybody() {
        let lists = Lists::default();
        assert!(lists.are_open());
        for address in ["127.0.0.1", "203.0.113.9", "2001:db8::1"] {
            assert!(lists.admit(ip(address)));
        }
    }

    #[test]
    fn once_somebody_is_allowed_others_are_not() {
        let lists = Lists::new(&networks(&["10.0.0.0/8", "2001:db8::/32"]), &[], &[]);
        assert!(!lists.are_open());
        for (address, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("2001:db8::1", true),
            ("2001:db9::", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:11.1.2.3", false),
        ] {
            assert_eq!(lists.admit(ip(address)), expected, "{address}");
        }
    }

    #[test]
    fn deny_wins_wherever_it_is_said() {
        let file = parse_list("deny 10.1.0.0/16\nallow 10.2.0.7\n").unwrap();
        let lists = Lists::new(
            &networks(&["10.0.0.0/8", "10.1.2.3"]),
            &networks(&["10.2.0.0/16"]),
            &file,
        );
        for (address, expected) in [
            ("10.0.0.1", true),
            ("10.1.2.3", false),
            ("10.2.0.7", false),
            ("10.3.0.0", true),
        ] {
            assert_eq!(lists.admit(ip(address)), expected, "{address}");
        }
    }

    #[test]
    fn a_list_of_denials_lets_everybody_else_in() {
        let lists = Lists::new(&[], &networks(&["0.0.0.0/0"]), &[]);
        assert!(!lists.admit(ip("1.2.3.4")));
        assert!(lists.admit(ip("::1")));
        assert!(lists.are_open());
    }

    #[test]
    fn a_network_is_written_in_one_way() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.1",
            "::/0",
            "2001:db8::1/128",
            "0.0.0.0/0",
        ] {
            assert!(text.parse::<Network>().is_ok(), "{text}");
        }
        for (text, error) in [
            ("", InvalidNetwork::Form),
            ("localhost", InvalidNetwork::Form),
            ("10.0.0.0/33", InvalidNetwork::Form),
            ("10.0.0/8", InvalidNetwork::Form),
            ("10.0.0.0/", InvalidNetwork::Form),
            ("10.0.0.0/+8", InvalidNetwork::Form),
            ("10.0.0.0/8/8", InvalidNetwork::Form),
            ("010.0.0.0/8", InvalidNetwork::Form),
            ("10.0.0.1/8", InvalidNetwork::HostBits),
            ("2001:db8::1/64", InvalidNetwork::HostBits),
            ("::ffff:10.0.0.0/104", InvalidNetwork::Mapped),
            ("::ffff:10.0.0.1", InvalidNetwork::Mapped),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }

    #[test]
    fn an_error_in_a_list_file_names_the_line() {
        for (line, problem) in [
            ("10.0.0.0/8", InvalidLine::Words),
            ("permit 10.0.0.0/8", InvalidLine::Words),
            ("allow", InvalidLine::Words),
            ("allow 10.0.0.0/8 11.0.0.0/8", InvalidLine::Words),
            ("deny 10.0.0.1/8", InvalidNetwork::HostBits.into()),
        ] {
            let error = parse_list(&format!("# office\nallow ::1\n\n{line}\n")).unwrap_err();
            assert_eq!((error.number, error.problem), (4, problem), "{line}");
        }
        assert_eq!(parse_list("").unwrap(), []);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let client = |address| Client::of(ip(address));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.2"), client("10.0.0.1"));
    }

    #[test]
    fn the_clients_of_a_site_are_one_network() {
        let network = |address| Client::of(ip(address)).network();
        assert_eq!(network("2001:db8::1"), network("2001:db8:0:ffff::1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:1::1"));
        assert_ne!(network("10.0.0.2"), network("10.0.0.1"));
        assert_eq!(network("2001:db8:0:1::1").to_string(), "2001:db8::/48");
        assert_eq!(network("::ffff:10.0.0.1").to_string(), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn many_networks_contain_what_one_of_them_does(
            nets in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..40),
            address: u32,
        ) {
            // Close together, so that they overlap and touch.
            let nets: Vec<_> = nets
                .into_iter()
                .map(|(bits, prefix)| Ipv4Net::new((bits & 0xff00_00ff).into(), prefix).unwrap().trunc())
                .collect();
            let many: Networks = nets.iter().map(|net| Network(IpNet::V4(*net))).collect();
            for bits in nets.iter().map(|net| net.addr().to_bits()).chain([address]) {
                for address in [bits, bits.wrapping_sub(1), bits.wrapping_add(1)] {
                    let address = Ipv4Addr::from_bits(address);
                    let expected = nets.iter().any(|net| net.contains(&address));
                    prop_assert_eq!(many.contain(address.into()), expected, "{}", address);
                }
            }
        }
    }
}
