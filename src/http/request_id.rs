//! The name of a request, by which an answer and a line in the log are brought together.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The field that brings one and takes it along.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from a client, in bytes: a trace parent has 55, a UUID 36.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id of one request.
#[derive(Clone, Debug)]
pub(super) enum RequestId {
    /// Hexadecimal digits.
    Made([u8; 16]),
    /// The client's, checked.
    Given(HeaderValue),
}

impl RequestId {
    pub(super) fn as_str(&self) -> &str {
        // Both are ASCII.
        match self {
            Self::Made(digits) => str::from_utf8(digits).unwrap_or_default(),
            Self::Given(id) => id.to_str().unwrap_or_default(),
        }
    }

    pub(super) fn to_field(&self) -> HeaderValue {
        match self {
            Self::Made(digits) => {
                HeaderValue::from_bytes(digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
            }
            Self::Given(id) => id.clone(),
        }
    }
}

/// Makes ids.
#[derive(Debug)]
pub(super) struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        // The hasher's keys are random for each process.
        Self {
            seed: RandomState::new().hash_one(()),
            next: AtomicU64::new(0),
        }
    }

    /// The id that the client gave, if it is a single harmless word, or a new one.
    pub(super) fn of(&self, fields: &HeaderMap) -> RequestId {
        let mut given = fields.get_all(REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_sane(id.as_bytes()) => RequestId::Given(id.clone()),
            _ => self.make(),
        }
    }

    fn make(&self) -> RequestId {
        // An odd factor visits every value once, so ids differ and do not count requests.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = self.seed.wrapping_add(number.wrapping_mul(STEP));
        let mut digits = [0; 16];
        // Cannot fail: 16 digits hold 8 bytes.
        let _ = hex::encode_to_slice(id.to_be_bytes(), &mut digits);
        RequestId::Made(digits)
    }
}

fn is_sane(id: &[u8]) -> bool {
    let is_harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())])
    }

    #[test]
    fn a_sane_request_id_is_taken_over() {
        let ids = RequestIds::new();
        let longest = "a".repeat(REQUEST_ID_BYTES_MAX);
        for id in ["a", "0af7651916cd43dd-b7ad.6b71", &longest] {
            let taken = ids.of(&given(id));
            assert_eq!(
                (taken.as_str(), taken.to_field().as_bytes()),
                (id, id.as_bytes())
            );
        }
    }

    #[test]
    fn any_other_request_id_is_replaced() {
        let ids = RequestIds::new();
        let longer = "a".repeat(REQUEST_ID_BYTES_MAX + 1);
        for id in ["", "a b", "a\"b", "{}", &longer] {
            let made = ids.of(&given(id));
            assert_ne!(made.as_str(), id);
            assert_eq!(made.to_field().len(), 16);
        }
        let mut twice = given("a");
        twice.append(REQUEST_ID, HeaderValue::from_static("b"));
        assert_eq!(ids.of(&twice).as_str().len(), 16);
    }

    #[test]
    fn made_request_ids_differ() {
        let ids = RequestIds::new();
        assert_ne!(ids.make().as_str(), ids.make().as_str());
    }
}
