//! Random lives of a store against a map: whatever happens between, what was acknowledged is there
//! with its exact bytes, and nothing else is; neither is what was deleted. With `--durability os` a power
//! cut may take what came since the last sync, and no more.

use std::collections::HashMap;
use std::env;

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::store::{
    Durability, EmbeddedStore, Method, OpenError, Options, Store, back_up, compact,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::store_support::{
    Data, Dice, Record, assert_text, close, delete, options, put, put_all, text_of, wait,
};

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
    /// Brings the backup up to date, or makes a new one where it is refused.
    BackUp,
    /// Goes on from the backup.
    Restore,
    Compact,
    /// Goes on with the other durability.
    ChangeDurability,
    /// Cuts the power, with `--durability os`: of what was written since the last restart, a part is lost.
    CutPower(u64),
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
        2 => Just(Event::BackUp),
        1 => Just(Event::Restore),
        1 => Just(Event::Compact),
        1 => Just(Event::ChangeDurability),
        2 => any::<u64>().prop_map(Event::CutPower),
    ];
    prop::collection::vec(event, 1..18)
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
    durability: Durability,
    acked: HashMap<Digest, String>,
    /// A copy, and what was acknowledged before it was made.
    backup: Option<(Data, HashMap<Digest, String>)>,
}

impl Life {
    fn new() -> Self {
        Self::begin(Data::in_memory(), Durability::Disk, HashMap::new(), None)
    }

    fn begin(
        data: Data,
        durability: Durability,
        acked: HashMap<Digest, String>,
        backup: Option<(Data, HashMap<Digest, String>)>,
    ) -> Self {
        let store = data.open_with(Options {
            durability,
            ..options()
        });
        Self {
            data,
            store,
            durability,
            acked,
            backup,
        }
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
                Self::begin(data, self.durability, self.acked, self.backup)
            }
            Event::BackUp => self.back_up(),
            Event::Restore => self.restore(),
            Event::Compact => self.reopen(|data| {
                let directory = data.claim_again().unwrap();
                compact(&directory, 1 << 20, &|_, _| (), |finding| {
                    panic!("{finding}")
                })
                .unwrap();
            }),
            Event::ChangeDurability => {
                close(self.store);
                let durability = match self.durability {
                    Durability::Disk => Durability::Os,
                    Durability::Os => Durability::Disk,
                };
                Self::begin(self.data, durability, self.acked, self.backup)
            }
            Event::CutPower(seed) if self.durability == Durability::Os => self.cut_power(seed),
            Event::CutPower(_) => self,
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
        Self::begin(self.data, self.durability, self.acked, self.backup)
    }

    fn back_up(mut self) -> Self {
        let (copy, _) = self
            .backup
            .take()
            .unwrap_or_else(|| (Data::in_memory(), HashMap::new()));
        let try_into = |copy: &Data| loop {
            match back_up(self.data.path(), copy.path(), Method::Copy, &|_, _| ()) {
                Err(OpenError::Held { .. }) => {}
                result => return result,
            }
        };
        // Compacted since, or gone on with from an earlier state.
        let copy = match try_into(&copy) {
            Ok(_) => copy,
            Err(OpenError::NotItsBackup { .. }) => {
                let copy = Data::in_memory();
                try_into(&copy).unwrap();
                copy
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(copy.findings(), []);
        self.backup = Some((copy, self.acked.clone()));
        self
    }

    /// The copy itself stays as it is.
    fn restore(self) -> Self {
        let Some((copy, acked)) = &self.backup else {
            return self;
        };
        let (data, acked) = (copy.copy(), acked.clone());
        close(self.store);
        Self::begin(data, self.durability, acked, self.backup)
    }

    /// Of what stands after the checkpoint, blocks are lost. What it says nothing of is as it was, and of the
    /// rest a text is there, whole, or not.
    fn cut_power(self, seed: u64) -> Self {
        let data = self.data.copy();
        let synced = checkpoint(&data);
        let (before, after): (Vec<_>, Vec<_>) = data
            .records()
            .into_iter()
            .partition(|record| record.position() < synced);
        // Its reason was synced then: such a block is not lost.
        let is_erased = |record: &Record| {
            let body = data.body(record);
            record.kind == Record::MESSAGE && !body.is_empty() && body.iter().all(|&byte| byte == 0)
        };
        let deletes = |record: &Record| {
            let is_deletion = |other: &&Record| other.kind == Record::DELETION;
            after
                .iter()
                .filter(is_deletion)
                .any(|it| it.digest == record.digest)
        };
        if before
            .iter()
            .chain(&after)
            .any(|it| is_erased(it) && deletes(it))
        {
            return self;
        }
        lose_blocks(&data, &after, &mut Dice(seed));
        let durability = self.durability;
        let life = Self::begin(data, durability, HashMap::new(), None);
        let findings = life.store.findings();
        assert!(findings.len() <= 1, "{findings:?}");
        let mut acked = HashMap::new();
        for text in (0..TEXTS).map(text) {
            let digest = Digest::of(text.as_bytes());
            let found = life.store.get(&digest).unwrap();
            assert!(found.as_ref().is_none_or(|found| found.text() == text));
            if !after.iter().any(|record| record.digest == digest) {
                assert_eq!(found.is_some(), self.acked.contains_key(&digest));
            }
            acked.extend(found.map(|_| (digest, text)));
        }
        close(life.store);
        assert_eq!(life.data.findings(), []);
        Self::begin(life.data, durability, acked, None)
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

/// The position of the checkpoint.
fn checkpoint(data: &Data) -> u64 {
    let text = String::from_utf8(data.read("checkpoint")).unwrap();
    let mut words = text.split_whitespace().skip(1);
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    number() << 32 | number()
}

/// Some of the sectors that hold these records are zeros, or all.
fn lose_blocks(data: &Data, records: &[Record], dice: &mut Dice) {
    const SECTOR_BYTES: usize = 512;
    let is_lost = match dice.below(3) {
        0 => |_: &mut Dice| true,
        1 => |dice: &mut Dice| dice.below(2) == 0,
        _ => |dice: &mut Dice| dice.below(8) == 0,
    };
    for record in records {
        data.edit(&record.file, |content| {
            let mut from = record.offset;
            while from < record.end() {
                let to = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
                let to = to.min(record.end());
                if is_lost(dice) {
                    content[from..to].fill(0);
                }
                from = to;
            }
        });
    }
}

/// Half of the lives each, so that they go side by side: as many of either as `DIGESTD_TEST_LIVES` says.
fn half(seed: u64) -> Config {
    let cases = env::var("DIGESTD_TEST_LIVES").ok();
    Config {
        cases: cases.map_or(128, |cases| cases.parse().unwrap()),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    }
}

fn assert_survives(events: Vec<Event>) {
    let mut life = Life::new();
    for event in events {
        life = life.live_through(event);
    }
    life.check_all();
    life.live_through(Event::Kill).check_all();
}

proptest! {
    #![proptest_config(half(1))]

    #[test]
    fn a_store_is_a_map_that_survives(events in events()) {
        assert_survives(events);
    }
}

proptest! {
    #![proptest_config(half(2))]

    #[test]
    fn a_store_is_a_map_that_survives_other_events_too(events in events()) {
        assert_survives(events);
    }
}
