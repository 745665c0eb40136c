//! Whom a proxy speaks for, and what it was asked: `Forwarded` (RFC 7239), and `X-Forwarded-For`, `-Host` and
//! `-Proto`.
//!
//! Each proxy writes the address it was called from at the right end, so what stands there is true as
//! far as the proxies that wrote it are trusted, and the rest is what the client says. The client is
//! therefore the right-most address that is not a trusted proxy. Whatever cannot be read ends the
//! search: the client is then the proxy that wrote it.
//!
//! A proxy that writes one of the two fields passes the other on as the client sent it, and nothing
//! shows which is which. So both are read, and if they do not agree, neither is believed.
//!
//! Parsed here, not by a crate: those there are split at commas inside of quotes, where a client can
//! put its own (`Forwarded: for=192.0.2.1;host="x,for=127.0.0.1"`).

use std::net::{IpAddr, SocketAddr};

use super::networks::Networks;

/// Why the fields do not say who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// `Forwarded` is not what RFC 7239 says.
    #[error("the Forwarded field is malformed")]
    Malformed,
    /// Two fields, two clients.
    #[error("Forwarded and X-Forwarded-For name different clients")]
    Disagree,
}

/// The client that `proxy`, which is trusted, speaks for: the proxy itself if it does not say.
///
/// `forwarded` and `x_forwarded_for` are the values of these fields, in order.
///
/// # Errors
/// See [`Unclear`].
pub fn client_behind<'a>(
    proxy: IpAddr,
    trusted: &Networks,
    forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    x_forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Result<IpAddr, Unclear> {
    let by_forwarded = hops_of_all(forwarded)?;
    let by_x_forwarded_for = x_forwarded_for
        .rev()
        .flat_map(|value| value.rsplit(|byte| *byte == b',').map(address));
    match (
        walk(
            proxy,
            trusted,
            by_forwarded.iter().rev().map(|hop| hop.client),
        ),
        walk(proxy, trusted, by_x_forwarded_for),
    ) {
        (Some(one), Some(other)) if one != other => Err(Unclear::Disagree),
        (one, other) => Ok(one.or(other).unwrap_or(proxy)),
    }
}

/// Goes through `hops`, the last one first, as long as they are trusted proxies. Returns the last address
/// that such a proxy vouches for; `None` if there was no hop at all. A hop that is `None` cannot be read.
fn walk(
    proxy: IpAddr,
    trusted: &Networks,
    hops: impl Iterator<Item = Option<IpAddr>>,
) -> Option<IpAddr> {
    let mut reached = None;
    for hop in hops {
        reached = hop.or(reached).or(Some(proxy));
        if hop.is_none_or(|address| !trusted.contain(address)) {
            break;
        }
    }
    reached
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let bare = || {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(text).parse::<IpAddr>().ok()
    };
    let address = bare().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// What the client of a proxy asked it, as far as the proxy says so. It is what a client sent as long as no
/// proxy has written it, and is read by nobody without being checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The host, perhaps with a port.
    pub host: Option<Vec<u8>>,
    /// The scheme.
    pub proto: Option<Vec<u8>>,
}

/// What a proxy which is trusted was asked. Of several values of the fields with an X the last one counts, which
/// the nearest proxy wrote, and of `Forwarded` the element that names the client. Where the two disagree, neither is
/// believed.
pub(super) fn asked<'a>(
    trusted: &Networks,
    forwarded: impl Iterator<Item = &'a [u8]>,
    host: impl DoubleEndedIterator<Item = &'a [u8]>,
    proto: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Asked {
    let mut by_forwarded = None;
    for hop in hops_of_all(forwarded).unwrap_or_default().into_iter().rev() {
        let is_proxy = hop.client.is_some_and(|address| trusted.contain(address));
        by_forwarded = Some(hop);
        if !is_proxy {
            break;
        }
    }
    let by_forwarded = by_forwarded.unwrap_or_default();
    Asked {
        host: agreed(by_forwarded.host, last(host)),
        proto: agreed(by_forwarded.proto, last(proto)),
    }
}

/// The last element of all values of a field.
fn last<'a>(mut values: impl DoubleEndedIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let last = values.next_back()?.rsplit(|byte| *byte == b',').next()?;
    Some(last.trim_ascii().to_vec())
}

fn agreed(one: Option<Vec<u8>>, other: Option<Vec<u8>>) -> Option<Vec<u8>> {
    match (one, other) {
        (Some(one), Some(other)) if !one.eq_ignore_ascii_case(&other) => None,
        (one, other) => one.or(other),
    }
}

/// An element of `Forwarded`: what a proxy says of the request that it was sent.
#[derive(Debug, Default)]
struct Hop {
    /// `None` if it is missing or names no address.
    client: Option<IpAddr>,
    host: Option<Vec<u8>>,
    proto: Option<Vec<u8>>,
}

fn hops_of_all<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Hop>, Unclear> {
    let mut all = Vec::new();
    for field in fields {
        all.extend(hops(field)?);
    }
    Ok(all)
}

/// The elements of a `Forwarded` field, in order.
///
/// ```text
/// Forwarded = element *( OWS "," OWS element )
/// element   = [ pair ] *( ";" [ pair ] )
/// pair      = token "=" ( token / quoted-string )
/// ```
fn hops(field: &[u8]) -> Result<Vec<Hop>, Unclear> {
    let mut hops = Vec::new();
    let mut rest = field;
    loop {
        let (hop, after) = element(rest)?;
        hops.push(hop);
        match after.split_first() {
            None => return Ok(hops),
            Some((_comma, after)) => rest = after,
        }
    }
}

/// Reads one element; returns what comes after it, from the comma on.
fn element(mut rest: &[u8]) -> Result<(Hop, &[u8]), Unclear> {
    let mut hop = Hop::default();
    let mut is_named = false;
    loop {
        rest = rest.trim_ascii_start();
        let name;
        (name, rest) = token(rest);
        if !name.is_empty() {
            let (value, after) = value(rest.strip_prefix(b"=").ok_or(Unclear::Malformed)?)?;
            if name.eq_ignore_ascii_case(b"for") {
                // One hop has one address.
                if std::mem::replace(&mut is_named, true) {
                    return Err(Unclear::Malformed);
                }
                hop.client = address(&value);
            } else if name.eq_ignore_ascii_case(b"host") {
                hop.host = Some(value);
            } else if name.eq_ignore_ascii_case(b"proto") {
                hop.proto = Some(value);
            }
            rest = after.trim_ascii_start();
        }
        match rest.first() {
            Some(b';') => rest = rest.get(1..).unwrap_or_default(),
            Some(b',') | None => return Ok((hop, rest)),
            Some(_) => return Err(Unclear::Malformed),
        }
    }
}

/// A token (RFC 9110, 5.6.2), and also the `:` and the brackets that unquoted addresses have in
/// practice; perhaps empty.
fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:[]".contains(byte);
    let length = text.iter().take_while(|byte| is_part(byte)).count();
    text.split_at(length)
}

/// A token or a quoted string, without its quotes.
fn value(text: &[u8]) -> Result<(Vec<u8>, &[u8]), Unclear> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let (value, rest) = token(text);
        return Ok((value.to_vec(), rest));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Ok((value, bytes.as_slice())),
            b'\\' => value.push(*bytes.next().ok_or(Unclear::Malformed)?),
            byte => value.push(*byte),
        }
    }
    Err(Unclear::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::networks::Network;
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn behind(forwarded: &[&str], x_forwarded_for: &[&str]) -> Result<String, Unclear> {
        let trusted: Networks = ["10.0.0.0/8", "2001:db8::/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let bytes = |text: &&'static str| text.as_bytes();
        // Leaked: tests are short.
        let leak = |texts: &[&str]| -> Vec<&'static str> {
            texts
                .iter()
                .map(|text| &*String::from(*text).leak())
                .collect()
        };
        let (forwarded, x_forwarded_for) = (leak(forwarded), leak(x_forwarded_for));
        let client = client_behind(
            PROXY.parse().unwrap(),
            &trusted,
            forwarded.iter().map(bytes),
            x_forwarded_for.iter().map(bytes),
        );
        client.map(|client| client.to_string())
    }

    #[test]
    fn a_proxy_that_says_nothing_is_the_client() {
        assert_eq!(behind(&[], &[]).unwrap(), PROXY);
    }

    #[test]
    fn the_right_most_address_that_is_no_trusted_proxy_is_the_client() {
        for (field, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1, 10.0.0.7", "192.0.2.1"),
            ("198.51.100.9,192.0.2.1,10.0.0.7,10.9.9.9", "192.0.2.1"),
            ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db9::1", "2001:db9::1"),
            ("[2001:db9::1]", "2001:db9::1"),
            ("[2001:db9::1]:443", "2001:db9::1"),
            ("192.0.2.1, 2001:db8::7", "192.0.2.1"),
        ] {
            assert_eq!(behind(&[], &[field]).unwrap(), client, "{field}");
        }
    }

    #[test]
    fn fields_given_twice_are_one_list() {
        let fields = ["198.51.100.9, 192.0.2.1", "10.0.0.7"];
        assert_eq!(behind(&[], &fields).unwrap(), "192.0.2.1");
        let fields = ["for=198.51.100.9", "for=192.0.2.1, for=10.0.0.7"];
        assert_eq!(behind(&fields, &[]).unwrap(), "192.0.2.1");
    }

    #[test]
    fn what_cannot_be_read_ends_the_search_at_the_proxy_that_wrote_it() {
        for field in ["unknown", "", "192.0.2.1, _hidden", "192.0.2.1,", "x\u{e9}"] {
            assert_eq!(behind(&[], &[field]).unwrap(), PROXY, "{field}");
        }
        let field = "192.0.2.1, 300.0.0.1, 10.0.0.7";
        assert_eq!(behind(&[], &[field]).unwrap(), "10.0.0.7");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (field, client) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"[2001:db9::1]:4711\"", "2001:db9::1"),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("proto=http; by=203.0.113.43 ; FOR=192.0.2.60", "192.0.2.60"),
            ("for=192.0.2.1, by=10.0.0.9", PROXY),
            ("for=192.0.2.1, for=unknown", PROXY),
            ("for=192.0.2.1, for=_gazonk", PROXY),
            ("for=\"192.0.2.1:80\",for=10.0.0.7", "192.0.2.1"),
            ("for=192.0.2.1:80", "192.0.2.1"),
            ("for=[2001:db9::1]", "2001:db9::1"),
            ("for=\"192.0.\\2.1\"", "192.0.2.1"),
            (";for=192.0.2.1;", "192.0.2.1"),
        ] {
            assert_eq!(behind(&[field], &[]).unwrap(), client, "{field}");
        }
    }

    #[test]
    fn a_comma_in_quotes_does_not_begin_a_hop() {
        let field = "for=192.0.2.1;host=\"x,for=127.0.0.1\"";
        assert_eq!(behind(&[field], &[]).unwrap(), "192.0.2.1");
        let field = "for=192.0.2.1;host=\"x\\\",for=127.0.0.1\"";
        assert_eq!(behind(&[field], &[]).unwrap(), "192.0.2.1");
    }

    #[test]
    fn a_quote_that_a_client_leaves_open_does_not_hide_what_the_proxy_wrote() {
        for field in [
            "for=\"evil, for=192.0.2.1",
            "for=\"evil\\",
            "for",
            "for=192.0.2.1 for=10.0.0.7",
            "for=192.0.2.1;for=10.0.0.7",
            "for=1/2",
            "@",
        ] {
            assert_eq!(behind(&[field], &[]), Err(Unclear::Malformed), "{field}");
        }
    }

    #[test]
    fn two_fields_that_disagree_are_not_believed() {
        let both = |forwarded, other| behind(&[forwarded], &[other]);
        assert_eq!(both("for=192.0.2.1", "192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(
            both("for=192.0.2.1", "192.0.2.2, 10.0.0.7"),
            Err(Unclear::Disagree)
        );
        assert_eq!(both("for=unknown", "192.0.2.2"), Err(Unclear::Disagree));
    }

    /// The host and the scheme that a proxy was asked.
    fn asked_of(forwarded: &[&str], host: &[&str], proto: &[&str]) -> (String, String) {
        let trusted = "10.0.0.0/8".parse::<Network>().unwrap();
        let trusted = Networks::from_iter([trusted]);
        let asked = asked(
            &trusted,
            forwarded.iter().map(|text| text.as_bytes()),
            host.iter().map(|text| text.as_bytes()),
            proto.iter().map(|text| text.as_bytes()),
        );
        let text = |value: Option<Vec<u8>>| {
            value.map_or_else(|| "-".into(), |value| String::from_utf8(value).unwrap())
        };
        (text(asked.host), text(asked.proto))
    }

    #[test]
    fn the_host_and_the_scheme_are_those_that_the_client_asked() {
        for (forwarded, host, proto) in [
            (
                "for=192.0.2.1;host=a.example;proto=https",
                "a.example",
                "https",
            ),
            ("for=192.0.2.1;Host=\"a.example:81\"", "a.example:81", "-"),
            // Of a client, of the proxy that it asked, of a proxy behind that.
            (
                "for=192.0.2.9;host=evil, for=192.0.2.1;host=a.example, for=10.0.0.7;host=inner",
                "a.example",
                "-",
            ),
            (
                "for=10.0.0.8;host=a.example, for=10.0.0.7;host=inner",
                "a.example",
                "-",
            ),
            ("host=evil, for=unknown;host=a.example", "a.example", "-"),
            ("for=192.0.2.1", "-", "-"),
            ("for=\"", "-", "-"),
        ] {
            let expected = (host.to_owned(), proto.to_owned());
            assert_eq!(asked_of(&[forwarded], &[], &[]), expected, "{forwarded}");
        }
        let both = ("a.example".to_owned(), "https".to_owned());
        assert_eq!(asked_of(&[], &["a.example"], &["https"]), both);
        assert_eq!(asked_of(&[], &["evil, a.example "], &["http,https"]), both);
        assert_eq!(
            asked_of(&[], &["evil", "a.example"], &["http", "https"]),
            both
        );
        assert_eq!(
            asked_of(&["host=A.example"], &["a.example"], &[]).0,
            "A.example"
        );
        assert_eq!(asked_of(&["host=evil"], &["a.example"], &[]).0, "-");
    }

    proptest! {
        #[test]
        fn what_a_client_sends_never_changes_what_the_proxy_says(
            sent in "[ -~]{0,60}",
            sent_apart: bool,
        ) {
            let written = "for=192.0.2.1";
            let joined = format!("{sent}, {written}");
            let fields: &[&str] = if sent_apart { &[&sent, written] } else { &[&joined] };
            if let Ok(client) = behind(fields, &[]) {
                prop_assert_eq!(client, "192.0.2.1");
            }
        }

        #[test]
        fn the_same_with_the_other_field(sent in "[ -~]{0,60}") {
            let joined = format!("{sent}, 192.0.2.1");
            prop_assert_eq!(behind(&[], &[&joined]).unwrap(), "192.0.2.1");
        }
    }
}
