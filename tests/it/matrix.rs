//! Every kind of damage in every file of a data directory, one experiment a copy: a start ends with a
//! sentence, or the store serves every message that was not hit and answers with an error for those
//! that were. Single damages with their exact consequences are in `damage`.

use std::env;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use digestd::store::StoreError;

use crate::store_support::{Data, Dice, Record, assert_holds, close, get, options, put_all, texts};

/// Experiments with each kind of damage, unless `DIGESTD_TEST_TRIALS` says how many: each place twice.
const TRIALS: usize = 34;

/// A start takes tens of milliseconds; one that takes this long hangs.
const TRIAL_MAX: Duration = Duration::from_secs(20);

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Zero,
    Cut,
}

impl Damage {
    /// The bytes that are hit when it happens around `at`.
    fn hits(self, at: usize, length: usize) -> Range<usize> {
        match self {
            Self::Flip => at..at + 1,
            Self::Zero => at / 4096 * 4096..length.min((at / 4096 + 1) * 4096),
            Self::Cut => at..length,
        }
    }

    fn apply(self, data: &Data, name: &str, at: usize, dice: &mut Dice) {
        data.edit(name, |content| {
            let hit = self.hits(at, content.len());
            match self {
                Self::Flip => content[at] ^= 1 << dice.below(8),
                Self::Zero => content[hit].fill(0),
                Self::Cut => content.truncate(at),
            }
        });
    }
}

/// Where it happens.
#[derive(Clone, Debug)]
enum Place {
    Header(String),
    Body(String),
    Padding(String),
    LastGroup,
    /// A file of the index by its number: the name of a snapshot changes with every start.
    Index(usize),
    File(&'static str),
}

/// Data directories with the same messages, and all places in them.
struct Field {
    texts: Vec<String>,
    records: Vec<Record>,
    /// One that was closed, and one that was killed after a checkpoint.
    data: [Data; 2],
    places: Vec<Place>,
}

impl Field {
    fn new() -> Self {
        let texts = texts(0..560);
        let (first, second) = texts.split_at(texts.len() / 2);
        let data = Data::in_memory_with(first);
        let store = data.open();
        put_all(&store, second);
        let killed = wait_for_checkpoint(&data).copy();
        close(store);
        let records = data.records();
        let mut segments: Vec<_> = records.iter().map(|record| record.file.clone()).collect();
        segments.dedup();
        assert!(segments.len() > 2);
        let in_log = segments.into_iter().flat_map(|segment| {
            [Place::Header, Place::Body, Place::Padding].map(|place| place(segment.clone()))
        });
        let in_index = (0..data.files("index/1").len()).map(Place::Index);
        let files = ["checkpoint", "FORMAT", "LOCK", "reserve"].map(Place::File);
        let places = in_log.chain([Place::LastGroup]).chain(in_index);
        Self {
            places: places.chain(files).collect(),
            data: [data, killed],
            texts,
            records,
        }
    }

    /// The file and an offset in it.
    fn aim(&self, data: &Data, place: &Place, dice: &mut Dice) -> (String, usize) {
        let record_of = |segment: &str, dice: &mut Dice, is_fit: fn(&Record) -> bool| {
            let is_there = |record: &&Record| record.file == segment && is_fit(record);
            let records: Vec<_> = self.records.iter().filter(is_there).collect();
            records[dice.below(records.len())].clone()
        };
        match place {
            Place::Header(segment) => {
                let record = record_of(segment, dice, |_| true);
                (segment.clone(), record.offset + dice.below(56))
            }
            Place::Body(segment) => {
                let record = record_of(segment, dice, |_| true);
                let at = record.body().start + dice.below(record.length);
                (segment.clone(), at)
            }
            Place::Padding(segment) => {
                let record = record_of(segment, dice, |record| record.body().end < record.end());
                let padding = record.end() - record.body().end;
                (segment.clone(), record.body().end + dice.below(padding))
            }
            Place::LastGroup => {
                let last = self.records.last().unwrap();
                let is_last = |record: &&Record| record.group == last.group;
                let group: Vec<_> = self.records.iter().filter(is_last).collect();
                let record = group[dice.below(group.len())];
                let at = record.offset + dice.below(record.end() - record.offset);
                (record.file.clone(), at)
            }
            Place::Index(number) => in_used(data, data.files("index/1").remove(*number), dice),
            Place::File(name) => in_used(data, (*name).to_owned(), dice),
        }
    }

    fn is_hit(&self, text: &str, file: &str, bytes: &Range<usize>) -> bool {
        self.records.iter().any(|record| {
            let overlaps = record.offset < bytes.end && bytes.start < record.end();
            record.file == file && overlaps && record.is_of(text)
        })
    }
}

/// Somewhere before the zeros at the end, which were only reserved.
fn in_used(data: &Data, name: String, dice: &mut Dice) -> (String, usize) {
    let content = data.read(&name);
    let used = content.iter().rposition(|&byte| byte != 0);
    let at = dice.below(used.map_or(content.len(), |at| at + 1));
    (name, at)
}

/// Until the log is covered to its end: from then on nothing of it can be taken for a torn group.
fn wait_for_checkpoint(data: &Data) -> &Data {
    let last = data.records().pop().unwrap();
    let expected = format!("position {} {}\n", last.position() >> 32, last.end());
    let begun = Instant::now();
    while !data.read("checkpoint").starts_with(expected.as_bytes()) {
        assert!(begun.elapsed() < Duration::from_secs(30), "no checkpoint");
        thread::sleep(Duration::from_millis(10));
    }
    data
}

#[test]
fn a_flipped_bit_in_any_file_is_an_error_and_never_a_lie() {
    damage_everywhere(Damage::Flip, 21);
}

#[test]
fn zeros_in_any_file_are_an_error_and_never_a_lie() {
    damage_everywhere(Damage::Zero, 22);
}

#[test]
fn a_cut_in_any_file_is_an_error_and_never_a_lie() {
    damage_everywhere(Damage::Cut, 23);
}

fn damage_everywhere(damage: Damage, seed: u64) {
    let field = Field::new();
    let mut dice = Dice(seed);
    let trials = env::var("DIGESTD_TEST_TRIALS").map_or(TRIALS, |trials| trials.parse().unwrap());
    for trial in 0..trials {
        let place = &field.places[trial % field.places.len()];
        let data = field.data[trial / field.places.len() % 2].copy();
        // Makes what a copy does not have: LOCK and reserve.
        close(data.open());
        let (file, at) = field.aim(&data, place, &mut dice);
        let bytes = damage.hits(at, data.read(&file).len());
        println!("{trial}: {damage:?}, {place:?}, {file} at {at}");
        damage.apply(&data, &file, at, &mut dice);
        let begun = Instant::now();
        match data.try_open(options()) {
            Ok(store) => {
                for text in &field.texts {
                    match get(&store, text) {
                        Ok(Some(found)) => assert_eq!(found, *text),
                        Err(StoreError::Damaged) => assert!(field.is_hit(text, &file, &bytes)),
                        other => panic!("{other:?}"),
                    }
                }
                put_all(&store, &field.texts);
                assert_holds(&store, &field.texts);
                close(store);
                assert_holds(&data.open(), &field.texts);
            }
            Err(error) => assert_eq!(file, "FORMAT", "{error}"),
        }
        assert!(begun.elapsed() < TRIAL_MAX, "{:?}", begun.elapsed());
    }
}
