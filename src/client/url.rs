//! Where a server is, as a person writes it.
//!
//! It refuses to ask anybody. **Invariant:** what is not one address is none, and nothing of it is guessed but the
//! scheme, which is then said.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;
use rustls::pki_types::ServerName;

/// The address of a server: `[http://|https://]host[:port][/path]`, or `unix:` and the path of a socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    is_secure: bool,
    /// A name or an address, that of IPv6 in brackets.
    host: String,
    port: u16,
    /// Where on the host the service is: empty, or without a `/` at its end.
    path: String,
    has_scheme: bool,
    /// What it is reached through, instead of host and port.
    socket: Option<PathBuf>,
}

/// The address of the server makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not the address of a server: {advice}")]
pub struct InvalidUrl {
    url: String,
    advice: &'static str,
}

impl InvalidUrl {
    /// A name and a password in it are left out: errors end up in logs.
    fn new(url: &str) -> Self {
        let (scheme, rest) = url.split_once("//").unwrap_or(("", url));
        let end = rest.find('/').unwrap_or(rest.len());
        let host = rest.get(..end).and_then(|authority| authority.rfind('@'));
        let shown = match host.and_then(|at| rest.get(at..)) {
            Some(host) if scheme.is_empty() => format!("…{host}"),
            Some(host) => format!("{scheme}//…{host}"),
            None => url.into(),
        };
        let is_port = !url.is_empty() && url.bytes().all(|byte| byte.is_ascii_digit());
        let advice = match scheme
            .strip_suffix(':')
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            _ if is_port => "a port alone is none; it must be like http://localhost:8080",
            None | Some("http" | "https") => {
                "it must be like http://localhost:8080, or unix:/path for a socket file"
            }
            Some(_) => "the scheme must be http or https",
        };
        Self { url: shown, advice }
    }
}

impl ServerUrl {
    /// The server at `address`.
    #[must_use]
    pub fn at(address: SocketAddr, is_secure: bool) -> Self {
        Self {
            is_secure,
            host: match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            port: address.port(),
            path: String::new(),
            has_scheme: true,
            socket: None,
        }
    }

    /// The server that listens on the socket file at `path`.
    #[must_use]
    pub fn through(path: &Path) -> Self {
        Self {
            is_secure: false,
            host: "localhost".into(),
            port: 80,
            path: String::new(),
            has_scheme: true,
            socket: Some(path.to_owned()),
        }
    }

    /// What to say of the scheme if none was written.
    #[must_use]
    pub fn assumption(&self) -> Option<String> {
        (!self.has_scheme).then(|| format!("asking {self}"))
    }

    /// Whether what is sent there can be read on its way: plain HTTP to another machine.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        !self.is_secure && !is_loopback(&self.host)
    }

    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// What an error calls it.
    pub(super) fn name(&self) -> String {
        match &self.socket {
            Some(path) => format!("unix:{}", path.display()),
            None => self.authority(),
        }
    }

    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host as sockets want it.
    pub(super) fn bare_host(&self) -> &str {
        bare(&self.host)
    }

    fn scheme(&self) -> &'static str {
        if self.is_secure { "https" } else { "http" }
    }
}

/// As it is written, without its path.
impl fmt::Display for ServerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(_) => formatter.write_str(&self.name()),
            None => write!(formatter, "{}://{}", self.scheme(), self.authority()),
        }
    }
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    let bare = bare(host);
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(is_loopback)
}

impl FromStr for ServerUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        parse(text).ok_or_else(|| InvalidUrl::new(text))
    }
}

fn parse(text: &str) -> Option<ServerUrl> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| ServerUrl::through(Path::new(path)));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let (authority, path) = match rest.find('/') {
        Some(start) => rest.split_at(start),
        None => (rest, ""),
    };
    let authority: Authority = authority.parse().ok()?;
    let has_user = authority.as_str().contains('@');
    let host = authority.host();
    let has_port = authority.as_str().len() > host.len();
    let path = path.trim_end_matches('/');
    let is_path = path.is_empty() || path.parse::<Uri>().is_ok_and(|uri| uri.path() == path);
    if host.is_empty() || has_user || has_port && authority.port().is_none() || !is_path {
        return None;
    }
    let is_secure = match scheme.as_deref() {
        Some("http") => false,
        Some("https") => true,
        Some(_) => return None,
        None => !is_loopback(host),
    };
    if is_secure && ServerName::try_from(bare(host)).is_err() {
        return None;
    }
    let default_port = if is_secure { 443 } else { 80 };
    Some(ServerUrl {
        is_secure,
        host: host.into(),
        port: match authority.port() {
            Some(port) => port.as_str().parse().ok()?,
            None => default_port,
        },
        path: path.into(),
        has_scheme: scheme.is_some(),
        socket: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_says_scheme_host_port_and_path_or_they_follow_from_the_others() {
        for (text, is_secure, authority, path) in [
            ("http://example.org", false, "example.org:80", ""),
            ("http://[::1]:8080/", false, "[::1]:8080", ""),
            ("https://example.org", true, "example.org:443", ""),
            ("HTTPS://10.0.0.1:8443", true, "10.0.0.1:8443", ""),
            (
                "https://example.org/digests/",
                true,
                "example.org:443",
                "/digests",
            ),
            ("example.org", true, "example.org:443", ""),
            ("example.org:5000/a/b", true, "example.org:5000", "/a/b"),
            ("localhost:8080", false, "localhost:8080", ""),
            ("127.0.0.2", false, "127.0.0.2:80", ""),
            ("[::1]:8080", false, "[::1]:8080", ""),
            ("[2001:db8::1]", true, "[2001:db8::1]:443", ""),
        ] {
            let url = url(text);
            assert_eq!(
                (url.is_secure, &*url.authority(), &*url.path),
                (is_secure, authority, path),
                "{text}"
            );
        }
    }

    #[test]
    fn a_scheme_that_was_not_written_is_said() {
        assert_eq!(url("http://localhost:1").assumption(), None);
        let said = url("localhost:1").assumption();
        assert_eq!(said.as_deref(), Some("asking http://localhost:1"));
        let said = url("example.org").assumption();
        assert_eq!(said.as_deref(), Some("asking https://example.org:443"));
    }

    #[test]
    fn what_goes_to_another_machine_in_the_clear_can_be_read_on_its_way() {
        for (text, is_readable) in [
            ("http://example.org", true),
            ("http://10.0.0.1:8080", true),
            ("http://localhost", false),
            ("http://[::ffff:127.0.0.1]", false),
            ("https://example.org", false),
        ] {
            assert_eq!(url(text).is_readable_on_the_way(), is_readable, "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        for (url, shown) in [
            ("https://me:s3cret@example.org", "https://…@example.org"),
            ("ftp://s3cret@x/y", "ftp://…@x/y"),
            ("http://me:s3c@ret@x:80/messages", "http://…@x:80/messages"),
            ("me:s3cret@example.org", "…@example.org"),
            ("ftp://example.org/@x", "ftp://example.org/@x"),
        ] {
            let error = url.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(&format!("{shown:?}")), "{error}");
            assert!(!error.contains("s3c"), "{error}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_with_the_url() {
        for (url, said) in [
            ("ftp://example.org", "the scheme must be http or https"),
            ("8080", "a port alone is none"),
            (
                "http://example.org/?x",
                "it must be like http://localhost:8080",
            ),
            ("", "it must be like"),
            ("unix:", "unix:/path for a socket file"),
        ] {
            let error = url.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_server_may_be_behind_a_socket_file() {
        let url = url("unix:/run/a b.sock");
        assert_eq!(url.socket(), Some(Path::new("/run/a b.sock")));
        assert_eq!(
            (url.name().as_str(), url.assumption()),
            ("unix:/run/a b.sock", None)
        );
        assert!(!url.is_readable_on_the_way());
    }

    #[test]
    fn what_is_not_one_address_is_none() {
        for text in [
            "",
            "8080",
            "unix:",
            "/",
            "http://",
            "https:///x",
            "ftp://x",
            "http://a b",
            "http://user@example.org",
            "http://example.org:",
            "http://example.org:70000",
            "http://example.org/?x",
            "http://example.org/#x",
            "http://example.org/a b",
            "::1",
            "https://a..b",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text:?}");
        }
    }
}
