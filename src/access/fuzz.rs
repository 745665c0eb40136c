//! What proxies and browsers say, and what operators write into files, thrown at what reads it; see
//! [`crate::fuzz`].

use std::net::IpAddr;

use http::uri::Authority;

use super::base_path::BasePath;
use super::forwarded::{Unclear, asked, client_behind};
use super::hosts::{HostPattern, Hosts};
use super::lines::content_lines;
use super::networks::{Lists, Network, Networks, parse_list};
use super::origins::{Page, Site, SitePattern, Sites};
use super::proxy_protocol::{HEADER_BYTES_MAX, Header};
use super::tokens::{TOKENS_MAX, Tokens};

/// Longest error about a line: it does not quote it.
const ERROR_BYTES_MAX: usize = 200;

/// The beginning of a connection; or lines: `f` and a `Forwarded`, `x` and an `X-Forwarded-For` (or `-Host`), `o`
/// and an `Origin`, `s` and a `Sec-Fetch-Site`, `h` and a host, `p` and an `X-Forwarded-Prefix`.
pub fn forwarded(bytes: &[u8]) {
    proxy_header(bytes);
    let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    let of_kind = |kind: u8| -> Vec<&[u8]> {
        let lines = lines.iter().filter_map(|line| line.strip_prefix(&[kind]));
        lines.collect()
    };
    client(&of_kind(b'f'), &of_kind(b'x'));
    host(&of_kind(b'f'), &of_kind(b'x'));
    of_kind(b'p').into_iter().for_each(prefix);
    let first = |kind| of_kind(kind).first().copied();
    origin(first(b'o'), first(b's'), first(b'h'));
}

fn proxy_header(bytes: &[u8]) {
    let header = Header::of(bytes);
    assert_eq!(Header::of(bytes), header);
    let Header::Present { length, .. } = header else {
        return;
    };
    assert!(length <= HEADER_BYTES_MAX);
    // It is the same whatever follows it, and waited for as long as it is not all there.
    let (whole, _) = bytes.split_at_checked(length).unwrap_or_default();
    assert_eq!(Header::of(whole), header);
    for cut in [1, length / 2, length - 1] {
        let part = whole.get(..cut).unwrap_or_default();
        assert_eq!(Header::of(part), Header::Incomplete, "{cut}");
    }
}

fn client(forwarded: &[&[u8]], x_forwarded_for: &[&[u8]]) {
    let proxy = IpAddr::from([10, 0, 0, 1]);
    let trusted: Networks = "10.0.0.0/8".parse::<Network>().into_iter().collect();
    let behind = |forwarded: &[&[u8]], x_forwarded_for: &[&[u8]]| {
        let (forwarded, x_forwarded_for) = (forwarded.iter(), x_forwarded_for.iter());
        client_behind(
            proxy,
            &trusted,
            forwarded.copied(),
            x_forwarded_for.copied(),
        )
    };
    let client = behind(forwarded, x_forwarded_for);
    // How many lines a field is cut into means nothing (RFC 9110, 5.3), but that a quote ends in its line.
    let (one_forwarded, one_x) = (forwarded.join(&b", "[..]), x_forwarded_for.join(&b", "[..]));
    let at_most_one = |lines: &[&[u8]]| lines.len().min(1);
    let in_one_line = behind(
        &[&*one_forwarded][..at_most_one(forwarded)],
        &[&*one_x][..at_most_one(x_forwarded_for)],
    );
    if client != Err(Unclear::Malformed) {
        assert_eq!(in_one_line, client);
    }
    // Who says who it is with one field is believed with both, or with neither.
    if let (Ok(one), Ok(other)) = (behind(forwarded, &[]), behind(&[], x_forwarded_for)) {
        match client {
            Ok(client) => assert!(client == one || client == other),
            Err(error) => assert!(error == Unclear::Disagree && one != other),
        }
    }
}

/// The host that a proxy was asked for is said by one of the fields.
fn host(forwarded: &[&[u8]], x_forwarded_host: &[&[u8]]) {
    let nothing = || [].into_iter();
    let (fields, hosts) = (forwarded.iter().copied(), x_forwarded_host.iter().copied());
    let asked = asked(&Networks::default(), fields, hosts, nothing());
    let Some(host) = asked.host else {
        return;
    };
    // Without the backslashes that any byte of a quoted string may have before it.
    let plain = |text: &[u8]| -> Vec<u8> {
        let bytes = text.iter().copied();
        bytes.filter(|byte| *byte != b'\\').collect()
    };
    let host = plain(&host);
    let says = |line: &&[u8]| plain(line).windows(host.len()).any(|part| part == host);
    assert!(host.is_empty() || forwarded.iter().chain(x_forwarded_host).any(says));
}

fn prefix(text: &[u8]) {
    let text = str::from_utf8(text).unwrap_or_default();
    let Ok(path) = text.parse::<BasePath>() else {
        return;
    };
    let whole = path.as_str();
    assert!(text.strip_suffix('/').unwrap_or(text) == whole);
    assert!(whole.is_empty() || whole.starts_with('/') && !whole.ends_with('/'));
    assert!(!whole.contains("//") && !whole.contains(['\'', '"', '\\', '?', '#']));
    assert!(whole.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(
        !whole
            .split('/')
            .any(|segment| segment == "." || segment == "..")
    );
    assert_eq!(whole.parse(), Ok(path.clone()));
    for rest in ["/", "/messages/x"] {
        assert_eq!(path.strip(&format!("{whole}{rest}")), rest);
    }
}

fn origin(origin: Option<&[u8]>, sec_fetch_site: Option<&[u8]>, host: Option<&[u8]>) {
    let page = Page {
        origin,
        sec_fetch_site,
        is_own: false,
    };
    let host = host.and_then(|host| Authority::try_from(host).ok());
    let may_write = Sites::default().may_write(page, host.clone());
    let says = |word: &[u8]| sec_fetch_site.is_some_and(|site| site.eq_ignore_ascii_case(word));
    let is_same = says(b"same-origin") || says(b"none");
    assert!(!(may_write && says(b"cross-site")));
    assert!(!(may_write && origin.is_some() && host.is_none() && !is_same));
    assert!(may_write || !is_same);
    let text = origin.and_then(|origin| str::from_utf8(origin).ok());
    let Some((text, Ok(site))) = text.map(|text| (text, text.parse::<Site>())) else {
        return;
    };
    // A site has one spelling, and a page of a listed one may write wherever it is.
    assert_eq!(site.as_str(), text);
    let sites = Sites::new(vec![SitePattern::Site(site)]);
    assert!(sites.list(text.as_bytes()) && sites.may_write(page, host));
}

/// A file of tokens, one of networks, and what `--host` takes.
pub fn lists(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let lines: Vec<_> = content_lines(text).collect();
    let last = text.lines().count().max(1);
    match Tokens::parse(text) {
        Ok(tokens) => {
            assert_eq!(tokens.count(), lines.len());
            assert!((1..=TOKENS_MAX).contains(&tokens.count()));
            let alone = |&(_, line): &(_, &str)| Tokens::parse(line).is_ok();
            assert!(lines.iter().all(alone));
        }
        Err(error) => {
            assert!(error.number <= last, "{error}");
            assert!(error.to_string().len() < ERROR_BYTES_MAX, "{error}");
        }
    }
    match parse_list(text) {
        Ok(rules) => {
            let alone = |&(_, line): &(_, &str)| parse_list(line).unwrap_or_default();
            assert_eq!(lines.iter().flat_map(alone).collect::<Vec<_>>(), rules);
            let lists = Lists::new(&[], &[], &rules);
            for &(_, line) in &lines {
                let network = line.strip_prefix("deny").map(str::trim_ascii);
                let network = network.and_then(|text| text.split('/').next());
                let address = network.and_then(|text| text.parse().ok());
                assert!(
                    !address.is_some_and(|address| lists.admit(address)),
                    "{line}"
                );
            }
        }
        Err(error) => {
            assert!(error.number <= last, "{error}");
            assert!(error.to_string().len() < ERROR_BYTES_MAX, "{error}");
        }
    }
    for word in text.split_ascii_whitespace() {
        if let Ok(network) = word.parse::<Network>() {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        if let Ok(pattern) = word.parse::<HostPattern>() {
            let hosts = Hosts::new(vec![pattern], None);
            assert!(word == "*" || hosts.allow(word.to_ascii_uppercase().as_bytes()));
        }
    }
}
