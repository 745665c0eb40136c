//! The PROXY protocol, versions 1 and 2: a few bytes with which a proxy begins a connection, to say
//! for whom it makes it (haproxy.org, `doc/proxy-protocol.txt`).
//!
//! Only what trusted proxies send is ever looked at; from anybody else these bytes are a broken
//! request, which is what they are to HTTP. So is a header that is malformed: it is left where it
//! is.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// Longest header, in bytes. The specification says that 536 always fit; clouds add their own
/// fields, and client certificates may be among them.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Longest header of version 1, in bytes (specification, 2.1).
const V1_BYTES_MAX: usize = 107;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 up to and with the length of the rest.
const V2_FIXED_BYTES: usize = 16;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// None, or one that is malformed.
    Absent,
    /// Perhaps one; more bytes will tell.
    Incomplete,
    /// One that is `length` bytes long.
    Present {
        /// Its length in bytes.
        length: usize,
        /// For whom the connection is; `None` if for the proxy itself, or if it does not know.
        client: Option<SocketAddr>,
    },
}

impl Header {
    /// Reads the first bytes of a connection.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let limit = if begins(bytes, V1_SIGNATURE) {
            V1_BYTES_MAX
        } else if begins(bytes, V2_SIGNATURE) {
            v2_bytes(bytes).unwrap_or(V2_FIXED_BYTES)
        } else {
            return Self::Absent;
        };
        if limit > HEADER_BYTES_MAX {
            return Self::Absent;
        }
        let seen = bytes.get(..limit).unwrap_or(bytes);
        let config = ParseConfig {
            include_tlvs: false,
            ..ParseConfig::default()
        };
        match ProxyHeader::parse(seen, config) {
            Ok((header, length)) => Self::Present {
                length,
                client: header.proxied_address().map(|proxied| proxied.source),
            },
            // Said of a whole one too, if it has no room for its addresses.
            Err(Error::BufferTooShort) if seen.len() < limit => Self::Incomplete,
            Err(_) => Self::Absent,
        }
    }
}

/// Whether `bytes`, perhaps not all of them yet, begin with `signature`.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(one, other)| one == other)
}

/// The length that version 2 announces, once it is there.
fn v2_bytes(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES)?;
    let length = u16::from_be_bytes(length.try_into().ok()?);
    Some(V2_FIXED_BYTES + usize::from(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, Tlv};

    use super::*;

    const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn client() -> SocketAddr {
        "192.0.2.1:4711".parse().unwrap()
    }

    fn header(client: &str, tlvs: usize) -> ProxyHeader<'static> {
        let client: SocketAddr = client.parse().unwrap();
        let server = SocketAddr::new(client.ip(), 443);
        let tlvs = (0..tlvs).map(|_| Tlv::Noop(0));
        ProxyHeader::with_tlvs(Some(ProxiedAddress::stream(client, server)), tlvs)
    }

    fn v1(client: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        header(client, 0).encode_v1(&mut bytes).unwrap();
        bytes
    }

    /// With fields of three bytes each.
    fn v2(client: &str, fields: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        header(client, fields).encode_v2(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn both_versions_and_families_name_the_client() {
        for address in ["192.0.2.1:4711", "[2001:db8::1]:4711"] {
            for bytes in [v1(address), v2(address, 0), v2(address, 10)] {
                let expected = Header::Present {
                    length: bytes.len(),
                    client: Some(address.parse().unwrap()),
                };
                assert_eq!(Header::of(&bytes), expected);
                assert_eq!(Header::of(&[&bytes, HTTP].concat()), expected);
            }
        }
    }

    #[test]
    fn a_part_of_a_header_is_waited_for() {
        for bytes in [v1("192.0.2.1:4711"), v2("192.0.2.1:4711", 10)] {
            for length in 0..bytes.len() {
                assert_eq!(Header::of(&bytes[..length]), Header::Incomplete);
            }
        }
    }

    #[test]
    fn a_request_is_none() {
        for request in [
            HTTP,
            b"POST /",
            b"PUT /",
            b"PR ",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PROXY/",
            b"\r\nGET / HTTP/1.1\r\n",
            b"\x16\x03\x01",
        ] {
            assert_eq!(Header::of(request), Header::Absent, "{request:?}");
        }
    }

    #[test]
    fn a_connection_of_the_proxy_itself_names_nobody() {
        let mut local = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut local).unwrap();
        for bytes in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
            local,
        ] {
            let length = bytes.len();
            let expected = Header::Present {
                length,
                client: None,
            };
            assert_eq!(Header::of(&bytes), expected);
        }
    }

    #[test]
    fn malformed_ones_are_none() {
        for bytes in [
            &b"PROXY TCP4 192.0.2.300 192.0.2.1 1 2\r\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.1 1 65536\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.1 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b...........",
        ] {
            assert_eq!(Header::of(bytes), Header::Absent, "{bytes:?}");
        }
    }

    #[test]
    fn neither_version_may_be_longer_than_it_may() {
        let v1 = |length: usize| {
            let words = "a".repeat(length - "PROXY UNKNOWN \r\n".len());
            format!("PROXY UNKNOWN {words}\r\n")
        };
        let is_present = |bytes: &[u8]| matches!(Header::of(bytes), Header::Present { length, .. } if length == bytes.len());
        assert!(is_present(v1(V1_BYTES_MAX).as_bytes()));
        assert_eq!(Header::of(v1(V1_BYTES_MAX + 1).as_bytes()), Header::Absent);
        assert_eq!(
            Header::of(&v1(1000).as_bytes()[..V1_BYTES_MAX]),
            Header::Absent
        );

        let fields = (HEADER_BYTES_MAX - V2_FIXED_BYTES - 12) / 3;
        assert!(is_present(&v2("192.0.2.1:4711", fields)));
        let longer = v2("192.0.2.1:4711", fields + 1);
        assert!(longer.len() > HEADER_BYTES_MAX);
        assert_eq!(Header::of(&longer), Header::Absent);
        // At once, not when all of it has come.
        assert_eq!(Header::of(&longer[..V2_FIXED_BYTES]), Header::Absent);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            version: bool,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let signature = if version { V1_SIGNATURE } else { V2_SIGNATURE };
            let bytes = [signature, &bytes].concat();
            if let Header::Present { length, .. } = Header::of(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn a_header_with_one_byte_changed_never_reaches_further_than_its_bytes(
            at in 0_usize..40,
            byte: u8,
        ) {
            for mut bytes in [v1(&client().to_string()), v2(&client().to_string(), 4)] {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
                if let Header::Present { length, .. } = Header::of(&bytes) {
                    prop_assert!(length <= bytes.len());
                }
            }
        }
    }
}
