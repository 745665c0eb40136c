//! The host that a request is for (RFC 9110, 7.2): that of its target, or of its `Host`.
//!
//! It refuses to know which hosts are answered to; [`access`](crate::access) does. **Invariant:** a
//! [`RequestHost`] is what RFC 3986 calls a host and a port, and where a request says two, the one that
//! counts.

use std::net::Ipv6Addr;

use http::Version;
use http::header::{HOST, HeaderValue};
use http::request::Parts;

/// Longest host that is shown to anybody, in bytes: that of a name in the DNS (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// The host that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHost<'a> {
    /// A name, or an address, in brackets if it is IPv6.
    pub(super) host: &'a [u8],
    /// Digits; none if it is not said.
    port: &'a [u8],
}

/// Why a request does not say which host it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error("There must be exactly one Host field.")]
    Count,
    #[error("The Host is not a name or an address, perhaps with a port.")]
    Form,
    #[error("The Host field and :authority are not the same.")]
    Disagree,
}

impl<'a> RequestHost<'a> {
    /// The host of a request; `None` if it names none, as HTTP/1.0 need not. An empty Host is one that
    /// names none (RFC 9112, 3.2), and leaves it to the server whom it is for (RFC 9112, 3.3).
    ///
    /// Where HTTP/1.1 has a target with a host, that counts, whatever the Host says (RFC 9112, 3.2.2).
    /// In HTTP/2 the two must be the same, and name one (RFC 9113, 8.3.1).
    pub(super) fn of(head: &'a Parts) -> Result<Option<Self>, HostError> {
        let mut fields = head.headers.get_all(HOST).iter();
        let field = fields.next().map(HeaderValue::as_bytes);
        if fields.next().is_some() || (field.is_none() && head.version == Version::HTTP_11) {
            return Err(HostError::Count);
        }
        let field = field.map(Self::parse).transpose()?;
        let target = head.uri.authority();
        let target = target.map(|target| Self::parse(target.as_str().as_bytes()));
        let target = target.transpose()?;
        let host = target.or(field);
        let host = host.filter(|host| !host.host.is_empty());
        if head.version == Version::HTTP_2 {
            if host.is_none() {
                return Err(HostError::Count);
            }
            if let (Some(target), Some(field)) = (target, field)
                && !target.is_same(field)
            {
                return Err(HostError::Disagree);
            }
        }
        Ok(host)
    }

    /// Parses `uri-host [ ":" port ]`.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, HostError> {
        let host_bytes = if text.starts_with(b"[") {
            ip_literal_bytes(text).ok_or(HostError::Form)?
        } else {
            reg_name_bytes(text)
        };
        let (host, rest) = text.split_at(host_bytes);
        let port = match rest.split_first() {
            None => rest,
            Some((b':', port)) if port.iter().all(u8::is_ascii_digit) => port,
            Some(_) => return Err(HostError::Form),
        };
        Ok(Self { host, port })
    }

    /// With its port, where it has nothing but what names and addresses in use have: for people to read, and a
    /// shell to take as it is. Not if it is longer than a name can be.
    pub(super) fn shown(self) -> Option<String> {
        let is_shown = !self.host.is_empty()
            && self.host.len() + self.port.len() <= NAME_BYTES_MAX
            && self.host.iter().copied().all(is_usual);
        let host = str::from_utf8(self.host).ok().filter(|_| is_shown)?;
        let port = str::from_utf8(self.port).ok()?;
        let colon = if port.is_empty() { "" } else { ":" };
        Some([host, colon, port].concat())
    }

    /// The host for people and logs, whatever it is: no more of it than a name can have, and all but what names
    /// and addresses in use have as an escape.
    pub(super) fn named(self) -> Box<str> {
        let mut named = String::new();
        for byte in self.host.iter().copied().take(NAME_BYTES_MAX) {
            push_escaped(&mut named, byte, |byte| is_usual(*byte));
        }
        if self.host.len() > NAME_BYTES_MAX {
            named.push('…');
        }
        named.into()
    }

    fn is_same(self, other: Self) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port == other.port
    }
}

/// Appends an ASCII character if it `is_plain`, and any other byte as an escape.
pub(super) fn push_escaped(text: &mut String, byte: u8, is_plain: impl Fn(&u8) -> bool) {
    if is_plain(&byte) {
        text.push(char::from(byte));
    } else {
        let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
        let digits = [byte >> 4, byte & 15].map(digit);
        text.push('%');
        text.extend(digits.map(|digit| digit.to_ascii_uppercase()));
    }
}

/// Whether names and addresses in use have it.
fn is_usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)
}

/// The length of `"[" ( IPv6address / "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ) ) "]"` at the
/// beginning of `text`.
fn ip_literal_bytes(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|byte| *byte == b']')?;
    let inner = str::from_utf8(text.get(1..end)?).ok()?;
    let is_future = || {
        let (version, address) = inner.strip_prefix(['v', 'V'])?.split_once('.')?;
        let is_version =
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_address = |byte| byte == b':' || is_of_name(byte);
        Some(is_version && !address.is_empty() && address.bytes().all(is_address))
    };
    (inner.parse::<Ipv6Addr>().is_ok() || is_future() == Some(true)).then_some(end + 1)
}

/// The length of the longest `*( unreserved / pct-encoded / sub-delims )`, which an IPv4 address is, too, at
/// the beginning of `text`.
fn reg_name_bytes(text: &[u8]) -> usize {
    let mut rest = text;
    loop {
        let plain = rest.iter().position(|byte| !is_of_name(*byte));
        rest = rest.get(plain.unwrap_or(rest.len())..).unwrap_or_default();
        match rest {
            [b'%', first, second, after @ ..]
                if first.is_ascii_hexdigit() && second.is_ascii_hexdigit() =>
            {
                rest = after;
            }
            _ => return text.len() - rest.len(),
        }
    }
}

/// `unreserved / sub-delims`
#[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
fn is_of_name(byte: u8) -> bool {
    /// Every request asks, for every byte of its host.
    const OF_NAME: [bool; 256] = {
        let mut of_name = [false; 256];
        let mut rest: &[u8] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=";
        while let [byte, after @ ..] = rest {
            of_name[*byte as usize] = true;
            rest = after;
        }
        of_name
    };
    OF_NAME[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parse(text: &str) -> Option<(&str, &str)> {
        let host = RequestHost::parse(text.as_bytes()).ok()?;
        let text = |bytes| str::from_utf8(bytes).unwrap();
        Some((text(host.host), text(host.port)))
    }

    #[test]
    fn a_host_is_a_name_or_an_address_perhaps_with_a_port() {
        for (text, expected) in [
            ("localhost", ("localhost", "")),
            ("localhost:8080", ("localhost", "8080")),
            ("localhost:", ("localhost", "")),
            ("LOCALHOST.", ("LOCALHOST.", "")),
            ("my_service.internal:80", ("my_service.internal", "80")),
            ("xn--bcher-kva.example", ("xn--bcher-kva.example", "")),
            ("-a-.b", ("-a-.b", "")),
            ("b%C3%BCcher.example", ("b%C3%BCcher.example", "")),
            ("%41%2f%Ff", ("%41%2f%Ff", "")),
            ("a!$&'()*+,;=~b", ("a!$&'()*+,;=~b", "")),
            ("127.0.0.1", ("127.0.0.1", "")),
            ("127.0.0.1:65536", ("127.0.0.1", "65536")),
            ("999.1.2.3.4:1", ("999.1.2.3.4", "1")),
            ("[::1]", ("[::1]", "")),
            ("[::1]:8080", ("[::1]", "8080")),
            ("[2001:DB8::192.0.2.1]:", ("[2001:DB8::192.0.2.1]", "")),
            ("[v1F.a:b~c]:1", ("[v1F.a:b~c]", "1")),
            ("", ("", "")),
            (":", ("", "")),
            (":8080", ("", "8080")),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "a b",
            " a",
            "a ",
            "a\tb",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a@b",
            "user@a.example",
            "user:secret@a.example:80",
            "@",
            "http://a",
            "a:b",
            "a:80b",
            "a:-1",
            "a:+1",
            "a: 80",
            "a:80:80",
            "::1",
            "[",
            "[]",
            "[::1",
            "::1]",
            "[::1]a",
            "[::1]80",
            "[::1]]",
            "[[::1]]",
            "[::g]",
            "[1:2]",
            "[127.0.0.1]",
            "[localhost]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[v.a]",
            "[v1.]",
            "[v1a]",
            "[vg.a]",
            "[v1.a/b]",
            "a[::1]",
            "a]",
            "%",
            "a%",
            "a%4",
            "a%4g",
            "a%%41",
            "\"a\"",
            "<a>",
            "a^b",
            "a`b",
            "{a}",
            "a|b",
            "bücher.example",
            "\u{0}",
            "\u{7f}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        for byte in 0_u8..=255 {
            let is_legal = RequestHost::parse(&[b'a', byte, b'a']).is_ok();
            let legal = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
            assert_eq!(is_legal, legal, "{byte}");
        }
    }

    #[test]
    fn a_host_is_shown_if_a_shell_takes_it_as_it_is() {
        let shown = |text: &str| RequestHost::parse(text.as_bytes()).ok()?.shown();
        for (text, expected) in [
            ("localhost", "localhost"),
            ("localhost:", "localhost"),
            ("My_service.example.:8080", "My_service.example.:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            ":80",
            "a;reboot",
            "$(reboot)",
            "a'b",
            "a&b",
            "%41",
            "[v1.a!b]",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
        let longest = "a".repeat(NAME_BYTES_MAX);
        assert_eq!(shown(&longest), Some(longest.clone()));
        assert_eq!(shown(&format!("{longest}a")), None);
    }

    /// The host of a request: `Ok("-")` if it names none.
    fn of(version: Version, target: &str, fields: &[&str]) -> Result<String, HostError> {
        let mut request = Request::builder().version(version).uri(target);
        for field in fields {
            request = request.header(HOST, *field);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let host = RequestHost::of(&head)?;
        let host = host.map_or(&b"-"[..], |host| host.host);
        Ok(str::from_utf8(host).unwrap().to_owned())
    }

    #[test]
    fn the_host_is_that_of_the_target_or_of_the_one_host_field() {
        use HostError as E;
        const ONE: Version = Version::HTTP_11;
        const TWO: Version = Version::HTTP_2;
        for (version, target, fields, expected) in [
            (ONE, "/", &["a:1"][..], Ok("a")),
            (ONE, "/", &[""], Ok("-")),
            (ONE, "/", &[":80"], Ok("-")),
            (ONE, "/", &[], Err(E::Count)),
            (ONE, "/", &["a", "a"], Err(E::Count)),
            (ONE, "/", &["a b"], Err(E::Form)),
            (ONE, "http://a/", &["b"], Ok("a")),
            (ONE, "http://a/", &[""], Ok("a")),
            (ONE, "http://a/", &["b c"], Err(E::Form)),
            (ONE, "http://a/", &[], Err(E::Count)),
            (ONE, "http://user@a/", &["a"], Err(E::Form)),
            (Version::HTTP_10, "/", &[], Ok("-")),
            (Version::HTTP_10, "/", &["a"], Ok("a")),
            (Version::HTTP_10, "/", &["a", "a"], Err(E::Count)),
            (TWO, "http://a/", &[], Ok("a")),
            (TWO, "http://a:1/", &["A:1"], Ok("a")),
            (TWO, "http://a/", &["a:"], Ok("a")),
            (TWO, "/", &["a"], Ok("a")),
            (TWO, "/", &[], Err(E::Count)),
            (TWO, "/", &[""], Err(E::Count)),
            (TWO, "http://a/", &["b"], Err(E::Disagree)),
            (TWO, "http://a/", &["a:81"], Err(E::Disagree)),
            (TWO, "http://a/", &[""], Err(E::Disagree)),
            (TWO, "http://a/", &["a", "a"], Err(E::Count)),
            (TWO, "http://user@a/", &[], Err(E::Form)),
        ] {
            let said = of(version, target, fields);
            let expected = expected.map(str::to_owned);
            assert_eq!(said, expected, "{version:?} {target} {fields:?}");
        }
    }
}
