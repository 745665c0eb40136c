//! Where clients find the service: behind a proxy, that is another scheme, host and path than those here.
//!
//! A proxy is believed only if it is trusted, and whatever it says may be what a client sent. **Invariant:** what
//! stands in an answer was checked: a scheme that is known, a host that [`RequestHost::shown`] lets pass, a
//! [`BasePath`].

use std::borrow::Cow;

use http::header::{CONTENT_LOCATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::Authority;

use super::fields::{FORWARDED, X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO};
use super::host::RequestHost;
use crate::access::base_path::{BasePath, InvalidBasePath};
use crate::access::{Access, Asked, Peer};

/// What is shown where a request names no host, or none that can be shown.
const ANY_HOST: &str = "localhost:8080";

/// Where a client finds the service.
#[derive(Debug)]
pub(super) struct PublicAddress<'a> {
    base_path: Cow<'a, BasePath>,
    peer: Peer,
    is_tls: bool,
}

impl<'a> PublicAddress<'a> {
    /// That of the client of a request which `peer` made, where the service is below `base_path` unless a proxy
    /// says otherwise; and whether what the proxy says can be used. If not, the address is that of all others.
    pub(super) fn of(
        base_path: &'a BasePath,
        peer: Peer,
        is_tls: bool,
        fields: &HeaderMap,
    ) -> (Self, Result<(), InvalidBasePath>) {
        let said = peer.is_trusted.then(|| prefix(fields));
        let (base_path, result) = match said.flatten() {
            Some(Ok(prefix)) => (Cow::Owned(prefix), Ok(())),
            Some(Err(error)) => (Cow::Borrowed(base_path), Err(error)),
            None => (Cow::Borrowed(base_path), Ok(())),
        };
        let address = Self {
            base_path,
            peer,
            is_tls,
        };
        (address, result)
    }

    /// A path of the service as its clients see it.
    pub(super) fn path(&self, path: &str) -> String {
        [self.base_path.as_str(), path].concat()
    }

    /// Makes the addresses in the fields of an answer those that clients see.
    pub(super) fn complete(&self, fields: &mut HeaderMap) {
        if self.base_path.is_root() {
            return;
        }
        for name in [LOCATION, CONTENT_LOCATION] {
            if let Some(value) = fields.get_mut(name)
                && let Ok(path) = value.to_str()
                && let Ok(path) = HeaderValue::try_from(self.path(path))
            {
                *value = path;
            }
        }
    }

    /// The whole address of the service, without a slash at its end, for people to read.
    pub(super) fn url(&self, access: &Access, head: &Parts) -> String {
        let asked = asked(access, self.peer, &head.headers);
        let is_https = match asked.proto.as_deref().map(<[u8]>::to_ascii_lowercase) {
            Some(proto) if proto == b"https" => true,
            Some(proto) if proto == b"http" => false,
            _ => self.is_tls,
        };
        let scheme = if is_https { "https://" } else { "http://" };
        let by_proxy = asked.host.as_deref().and_then(shown);
        let by_itself = || RequestHost::of(head).ok().flatten()?.shown();
        let host = by_proxy.or_else(by_itself);
        let host = host.as_deref().unwrap_or(ANY_HOST);
        [scheme, host, self.base_path.as_str()].concat()
    }
}

/// A host for people to read.
pub(super) fn shown(host: &[u8]) -> Option<String> {
    RequestHost::parse(host).ok()?.shown()
}

/// The hosts that a request was made to: the one it names here, and the one that a proxy in front was asked for.
/// The latter is looked up only if the former does not do.
pub(super) fn hosts(access: &Access, peer: Peer, head: &Parts) -> impl Iterator<Item = Authority> {
    let named = head.uri.authority().cloned().or_else(|| {
        let host = head.headers.get(HOST)?;
        Authority::try_from(host.as_bytes()).ok()
    });
    let by_proxy = std::iter::once_with(move || {
        let host = asked(access, peer, &head.headers).host?;
        RequestHost::parse(&host).ok()?;
        Authority::try_from(host).ok()
    });
    named.into_iter().chain(by_proxy.flatten())
}

fn asked(access: &Access, peer: Peer, fields: &HeaderMap) -> Asked {
    access.asked(
        peer,
        || values(fields, FORWARDED),
        || values(fields, X_FORWARDED_HOST),
        || values(fields, X_FORWARDED_PROTO),
    )
}

/// All values of a field, in order.
pub(super) fn values(
    fields: &HeaderMap,
    name: HeaderName,
) -> impl DoubleEndedIterator<Item = &[u8]> {
    fields.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// The path that a proxy took away, if it says so.
fn prefix(fields: &HeaderMap) -> Option<Result<BasePath, InvalidBasePath>> {
    let mut values = values(fields, X_FORWARDED_PREFIX);
    let value = values.next()?;
    let text = str::from_utf8(value)
        .ok()
        // A list is of several proxies.
        .filter(|text| values.next().is_none() && !text.contains(','));
    Some(text.ok_or(InvalidBasePath).and_then(str::parse))
}
