//! What is asked of the service under load: messages that number themselves, and the requests about
//! them.
//!
//! It knows no connections and no times. **Invariant:** a message is made from its number alone, so a run
//! needs no memory of what it has stored: number 7 of a set is the same text, with the same digest, in
//! every process.

use bytes::Bytes;
use clap::ValueEnum;
use digestd::digest::Digest;

use super::Request;

/// What the requests of a run ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// GET of messages that are stored
    Hit,
    /// GET of messages that are not stored
    Miss,
    /// GET with If-None-Match: answered with 304
    NotModified,
    /// POST of new messages
    Post,
    /// POST of messages that are stored already
    Known,
    /// Nineteen hits to one new message
    Mixed,
}

impl Workload {
    /// Whether messages must be stored before it makes sense.
    #[must_use]
    pub(crate) fn needs_messages(self) -> bool {
        !matches!(self, Self::Miss | Self::Post)
    }
}

/// One of how many requests of [`Workload::Mixed`] stores.
const MIXED_PER_POST: u64 = 20;

/// Makes the requests of a run.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    /// What they ask for.
    pub(crate) workload: Workload,
    /// The set of messages that are stored beforehand, and how many there are.
    pub(crate) set: String,
    /// See `set`.
    pub(crate) messages: u64,
    /// The set that new messages belong to: another one for each run.
    pub(crate) new_set: String,
    /// Length of a message, in bytes.
    pub(crate) message_bytes: usize,
    /// Which of the stored messages are asked for.
    pub(crate) popularity: Popularity,
}

/// Which of the stored messages are asked for.
#[derive(Clone, Debug)]
pub(crate) enum Popularity {
    /// Each as often as any other.
    Uniform,
    /// The n-th most popular 1/n as often as the first (Zipf's law, exponent 1).
    Zipf(Zipf),
}

/// Popularities by rank, added up.
#[derive(Clone, Debug)]
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    /// For this many messages; takes eight bytes for each.
    #[must_use]
    pub(crate) fn new(messages: u64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=messages).map(|rank| {
            #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52")]
            let weight = 1.0 / rank as f64;
            sum += weight;
            sum
        });
        Self(sums.collect())
    }

    /// The rank, from 0, at this part of all requests.
    fn at(&self, part: f64) -> u64 {
        let target = part * self.0.last().copied().unwrap_or_default();
        self.0.partition_point(|&sum| sum < target) as u64
    }
}

impl Requests {
    /// The request with this number.
    #[must_use]
    pub(crate) fn request(&self, number: u64) -> Request {
        match self.workload {
            Workload::Miss => get(&Digest::of(&text("missing", number, 0))),
            Workload::NotModified => {
                let mut request = self.get(number);
                request.fields.push(("If-None-Match", "*".into()));
                request
            }
            Workload::Post => self.post(&self.new_set, number),
            Workload::Known => self.post(&self.set, self.choose(number)),
            Workload::Mixed if number.is_multiple_of(MIXED_PER_POST) => {
                self.post(&self.new_set, number)
            }
            Workload::Hit | Workload::Mixed => self.get(number),
        }
    }

    /// The request that stores message `number` of those that are stored beforehand.
    #[must_use]
    pub(crate) fn setup(&self, number: u64) -> Request {
        self.post(&self.set, number)
    }

    fn get(&self, number: u64) -> Request {
        let number = self.choose(number);
        get(&Digest::of(&text(&self.set, number, self.message_bytes)))
    }

    fn post(&self, set: &str, number: u64) -> Request {
        Request {
            method: "POST",
            path: "/messages".into(),
            fields: vec![("Content-Type", "application/json".into())],
            body: json(&text(set, number, self.message_bytes)),
        }
    }

    /// Which message request `number` is about.
    fn choose(&self, number: u64) -> u64 {
        let random = scatter(number);
        match &self.popularity {
            Popularity::Uniform => random % self.messages.max(1),
            #[expect(clippy::cast_precision_loss, reason = "a part of 1")]
            Popularity::Zipf(zipf) => zipf.at(random as f64 / u64::MAX as f64),
        }
    }
}

fn get(digest: &Digest) -> Request {
    Request {
        method: "GET",
        path: format!("/messages/{digest}"),
        ..Request::default()
    }
}

/// Message `number` of a set, filled up with letters to `bytes` bytes, which need no escapes.
fn text(set: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut text = format!("{set} {number} ").into_bytes();
    let mut state = number;
    while text.len() < bytes {
        state = scatter(state);
        let letters = state.to_le_bytes().map(|byte| b'a' + byte % 26);
        text.extend_from_slice(&letters);
    }
    text.truncate(bytes.max(set.len() + 22));
    text
}

fn json(text: &[u8]) -> Bytes {
    [b"{\"message\": \"", text, b"\"}"].concat().into()
}

/// Another number for each number, in no order that shows (the finalizer of `SplitMix64`).
fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "a bench has `cfg(test)` too, but no tests"
)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn requests(workload: Workload) -> Requests {
        Requests {
            workload,
            set: "old".into(),
            messages: 100,
            new_set: "new".into(),
            message_bytes: 90,
            popularity: Popularity::Uniform,
        }
    }

    #[test]
    fn hits_ask_for_what_was_stored_beforehand() {
        let hits = requests(Workload::Hit);
        let stored: HashSet<_> = (0..100)
            .map(|number| {
                let body: serde_json::Value =
                    serde_json::from_slice(&hits.setup(number).body).unwrap();
                let text = body["message"].as_str().unwrap().to_owned();
                assert_eq!(text.len(), 90);
                format!("/messages/{}", Digest::of(text.as_bytes()))
            })
            .collect();
        assert_eq!(stored.len(), 100);
        let asked: HashSet<_> = (0..2000).map(|number| hits.request(number).path).collect();
        assert_eq!(asked, stored);
        let misses = requests(Workload::Miss);
        assert!((0..2000).all(|number| !stored.contains(&misses.request(number).path)));
    }

    #[test]
    fn new_messages_are_all_different_and_known_ones_are_not_new() {
        let bodies = |workload| -> HashSet<_> {
            let requests = requests(workload);
            (0..1000)
                .map(|number| requests.request(number).body)
                .collect()
        };
        assert_eq!(bodies(Workload::Post).len(), 1000);
        assert!(bodies(Workload::Known).len() <= 100);
        assert!(bodies(Workload::Known).is_disjoint(&bodies(Workload::Post)));
    }

    #[test]
    fn one_in_twenty_mixed_requests_stores() {
        let mixed = requests(Workload::Mixed);
        let posts = (0..1000).filter(|&number| mixed.request(number).method == "POST");
        assert_eq!(posts.count(), 50);
    }

    #[test]
    fn the_most_popular_message_is_asked_for_as_often_as_the_law_says() {
        let zipf = Zipf::new(100);
        let firsts = (0..100_000_u32).filter(|&part| zipf.at(f64::from(part) / 1e5) == 0);
        // 1 / (1 + 1/2 + … + 1/100)
        assert!((19_200..19_400).contains(&firsts.count()));
        assert_eq!(zipf.at(1.0), 99);
    }

    #[test]
    fn a_short_message_still_has_its_number() {
        let texts: HashSet<_> = (0..100).map(|number| text("new", number, 10)).collect();
        assert_eq!(texts.len(), 100);
    }
}
