//! The path below which clients find the service, where a proxy has it below one.
//!
//! **Invariant:** a [`BasePath`] can stand in front of a path of the service, in a field, in JSON and in
//! single quotes of a shell, and leads to no other place than where it stands.

use std::str::FromStr;

/// Longest base path, in bytes: longer ones are no place where anybody puts a service, and it stands in each
/// answer.
const BYTES_MAX: usize = 256;

/// A path like `/digestd`, without a slash at its end; by default, and mostly, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(Box<str>);

/// A text is no base path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be one path like /digestd, of characters that a URL may have, without `//`, dot segments, quotes \
     and control characters, and of 256 bytes at most"
)]
pub struct InvalidBasePath;

impl BasePath {
    /// As it stands in front of a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the service is at the root of its host.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// What of a path is of the service: all of it, or what follows the base path if it begins with that, as
    /// it does behind a proxy which takes nothing away. The base path by itself is the root of the service.
    #[must_use]
    pub fn strip<'a>(&self, path: &'a str) -> &'a str {
        if self.is_root() {
            return path;
        }
        match path.strip_prefix(&*self.0) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

impl FromStr for BasePath {
    type Err = InvalidBasePath;

    fn from_str(text: &str) -> Result<Self, InvalidBasePath> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() || path.is_empty() {
            return Ok(Self::default());
        }
        let segments = path.strip_prefix('/').ok_or(InvalidBasePath)?;
        let is_path = text.len() <= BYTES_MAX && segments.split('/').all(is_segment);
        is_path.then(|| Self(path.into())).ok_or(InvalidBasePath)
    }
}

/// Whether a text is a segment of a path (RFC 3986, 3.3) that has something in it and is no dot segment, however
/// it is written; without the one mark that ends a quote of a shell.
fn is_segment(text: &str) -> bool {
    let mut rest = text.as_bytes();
    let mut dots = 0;
    let mut symbols = 0;
    while let Some((byte, after)) = rest.split_first() {
        let (symbol, after) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => return false,
            },
            (b'%', _) => return false,
            (byte, after) if is_plain(*byte) => (*byte, after),
            _ => return false,
        };
        if symbol.is_ascii_control() || matches!(symbol, b'/' | b'\\') {
            return false;
        }
        dots += usize::from(symbol == b'.');
        symbols += 1;
        rest = after;
    }
    symbols > 2 || dots < symbols
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&()*+,;=:@".contains(&byte)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        let path = text.parse::<BasePath>().ok()?;
        Some(path.as_str().to_owned())
    }

    #[test]
    fn a_base_path_is_one_path_without_a_slash_at_its_end() {
        for (text, path) in [
            ("", ""),
            ("/", ""),
            ("/digestd", "/digestd"),
            ("/digestd/", "/digestd"),
            ("/a/b-c_d~e/v1.0", "/a/b-c_d~e/v1.0"),
            ("/a%20b/%C3%BC", "/a%20b/%C3%BC"),
            ("/.well/..a/...", "/.well/..a/..."),
            ("/~me@home:1;x=1,2+3", "/~me@home:1;x=1,2+3"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(path), "{text}");
        }
    }

    #[test]
    fn what_leads_elsewhere_or_breaks_out_of_its_place_is_none() {
        for text in [
            "digestd",
            "//",
            "//evil.example",
            "/a//b",
            "/a//",
            "http://evil.example/",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/b",
            "/.%2E",
            "/a%2fb",
            "/a%2F%2fb",
            "/a\\b",
            "/a%5cb",
            "/a b",
            "/a\tb",
            "/a\r\nSet-Cookie: x",
            "/a%0d%0ab",
            "/a%00",
            "/a%7f",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/a?b",
            "/a#b",
            "/a'b",
            "/a\"b",
            "/<script>",
            "/b\u{fc}cher",
            "/a, /b",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_base_path_has_256_bytes_and_not_one_more() {
        let longest = format!("/{}", "a".repeat(BYTES_MAX - 1));
        assert_eq!(parse(&longest).as_deref(), Some(&*longest));
        assert_eq!(parse(&format!("{longest}a")), None);
        assert_eq!(parse(&format!("{longest}/")), None);
    }

    #[test]
    fn only_the_whole_base_path_is_taken_away() {
        let path: BasePath = "/a/b".parse().unwrap();
        for (asked, expected) in [
            ("/a/b/messages", "/messages"),
            ("/a/b/", "/"),
            ("/a/b", "/"),
            ("/a/b/a/b/x", "/a/b/x"),
            ("/a/bc", "/a/bc"),
            ("/a/b%2Fx", "/a/b%2Fx"),
            ("/a", "/a"),
            ("/messages", "/messages"),
            ("/", "/"),
            ("*", "*"),
        ] {
            assert_eq!(path.strip(asked), expected, "{asked}");
        }
        assert_eq!(BasePath::default().strip("/a/b/x"), "/a/b/x");
    }
}
