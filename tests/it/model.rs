//! Random lives of a store against a map: whatever happens between, what was acknowledged is there
//! with its exact bytes, and nothing else is; neither is what was deleted.

use std::collections::HashMap;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::store::{EmbeddedStore, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::store_support::{Data, assert_text, close, delete, put, put_all, text_of, wait};

/// Texts are taken from so few that many are put again.
const TEXTS: usize = 30;

/// The text with this number. Every sixth is so large that three of them fill a segment.
fn text(number: usize) -> String {
    let bytes = if number.is_multiple_of(6) { 20_000 } else { 3 };
    text_of(number, bytes + number * 5)
}

/// What happens to a store.
#[derive(Clone, Debug)]
enum Event {
    Put(usize),
    PutAtOnce(Vec<usize>),
    Delete(usize),
    ChangeAtOnce(Vec<(usize, bool)>),
    Get(usize),
    Restart,
    Kill,
    LoseIndex,
    LoseAllButTheLog,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => (0..TEXTS).prop_map(Event::Put),
        4 => prop::collection::vec(0..TEXTS, 2..40).prop_map(Event::PutAtOnce),
        3 => (0..TEXTS).prop_map(Event::Delete),
        3 => prop::collection::vec((0..TEXTS / 5, any::<bool>()), 2..40)
            .prop_map(Event::ChangeAtOnce),
        4 => (0..TEXTS).prop_map(Event::Get),
        1 => Just(Event::Restart),
        1 => Just(Event::Kill),
        1 => Just(Event::LoseIndex),
        1 => Just(Event::LoseAllButTheLog),
    ];
    prop::collection::vec(event, 1..14)
}

/// A change that is waited for later.
enum Begun {
    Put(Digest, String, digestd::store::Put),
    Delete(Digest, digestd::store::Delete),
}

/// A store and what it has acknowledged.
struct Life {
    data: Data,
    store: EmbeddedStore,
    acked: HashMap<Digest, String>,
}

impl Life {
    fn new() -> Self {
        let data = Data::new();
        let store = data.open();
        let acked = HashMap::new();
        Self { data, store, acked }
    }

    fn live_through(self, event: Event) -> Self {
        match event {
            Event::Put(number) => {
                let text = text(number);
                put(&self.store, &text).unwrap();
                self.acknowledge([text])
            }
            Event::PutAtOnce(numbers) => {
                let texts: Vec<_> = numbers.into_iter().map(text).collect();
                put_all(&self.store, &texts);
                self.acknowledge(texts)
            }
            Event::Delete(number) => {
                let text = text(number);
                let digest = Digest::of(text.as_bytes());
                let was_there = self.acked.contains_key(&digest);
                assert_eq!(delete(&self.store, &text), Ok(was_there));
                self.forget(&text)
            }
            Event::ChangeAtOnce(changes) => self.change_at_once(&changes),
            Event::Get(number) => {
                self.check(number);
                self
            }
            Event::Restart => self.reopen(|_| ()),
            Event::Kill => {
                let data = self.data.copy();
                let store = data.open();
                Self {
                    data,
                    store,
                    ..self
                }
            }
            Event::LoseIndex => self.reopen(|data| data.remove("index")),
            Event::LoseAllButTheLog => self.reopen(Data::leave_only_the_log),
        }
    }

    fn acknowledge(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        let digest = |text: String| (Digest::of(text.as_bytes()), text);
        self.acked.extend(texts.into_iter().map(digest));
        self
    }

    fn forget(mut self, text: &str) -> Self {
        self.acked.remove(&Digest::of(text.as_bytes()));
        self
    }

    /// Puts and deletes (`true`) without waiting in between. A put may find what a deletion that waits
    /// has not taken away yet; so whoever waits last decides only if it was no put of a known message.
    fn change_at_once(mut self, changes: &[(usize, bool)]) -> Self {
        let begun: Vec<_> = changes
            .iter()
            .map(|&(number, deletes)| {
                let message = Message::new(text(number));
                if deletes {
                    Begun::Delete(message.digest(), self.store.delete(&message.digest()))
                } else {
                    let digest = message.digest();
                    Begun::Put(digest, text(number), self.store.put(message))
                }
            })
            .collect();
        for begun in begun {
            match begun {
                Begun::Put(digest, text, put) => {
                    if !wait(put).unwrap().is_known() {
                        self.acked.insert(digest, text);
                    }
                }
                Begun::Delete(digest, deletion) => {
                    let was_there = self.acked.remove(&digest).is_some();
                    assert_eq!(wait(deletion).unwrap().is_some(), was_there);
                }
            }
        }
        self
    }

    fn reopen(self, meanwhile: impl FnOnce(&Data)) -> Self {
        close(self.store);
        meanwhile(&self.data);
        let store = self.data.open();
        Self { store, ..self }
    }

    fn check(&self, number: usize) {
        let text = text(number);
        let digest = Digest::of(text.as_bytes());
        let acked = self.acked.get(&digest).cloned();
        assert_eq!(self.store.holds(&digest), Ok(acked.is_some()));
        assert_text(&self.store, &text, &Ok(acked));
    }

    fn check_all(&self) {
        for number in 0..TEXTS {
            self.check(number);
        }
        assert_eq!(self.store.messages(), self.acked.len() as u64);
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 256,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn a_store_is_a_map_that_survives(events in events()) {
        let mut life = Life::new();
        for event in events {
            life = life.live_through(event);
        }
        life.check_all();
        life.live_through(Event::Kill).check_all();
    }
}
