//! Damage to the files of a data directory, one experiment a copy: what was acknowledged is there
//! afterwards or answers with an error, nobody gets other bytes, and damage to one record harms no
//! other. What a crash does to the end of the log is in `torn`.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use digestd::store::{EmbeddedStore, Store, StoreError};

use crate::store_support::{
    DAMAGED, Data, Dice, Record, SEGMENT_BYTES, TORN, assert_heard_nothing_of_damage, assert_holds,
    assert_holds_only, assert_text, close, delete, get, heard, put, put_all, text_of, texts,
};

const REDRAWN: &str = "the index is unusable and is redrawn from the log";

// The index.

/// Bits flipped in each file of an index, one a start.
const FLIPS: usize = 50;

#[test]
fn a_damaged_index_is_redrawn() {
    let texts = texts(0..300);
    for (state, data) in [("closed", closed(&texts)), ("killed", killed(&texts))] {
        for (damage, act) in INDEX_DAMAGES {
            let copy = data.copy();
            act(&copy);
            let (store, lines) = copy.open_and_listen();
            assert!(heard(&lines, REDRAWN), "{state}, {damage}");
            assert_holds_only(&store, &texts);
            close(store);
            copy.assert_sound(&texts);
        }
    }
}

type Act = fn(&Data);

const INDEX_DAMAGES: [(&str, Act); 14] = [
    ("deleted", |data| data.remove("index")),
    ("without a part", |data| data.remove("index/1")),
    ("with parts that changed places", |data| {
        let part = |name| data.path().join("index").join(name);
        fs::rename(part("0"), part("9")).unwrap();
        fs::rename(part("1"), part("0")).unwrap();
        fs::rename(part("9"), part("1")).unwrap();
    }),
    ("in one part, as it was once", |data| {
        let part = data.read("index/1/db");
        data.remove("index");
        fs::create_dir(data.path().join("index")).unwrap();
        data.write("index/db", part);
    }),
    ("emptied", |data| {
        data.remove("index");
        fs::create_dir(data.path().join("index")).unwrap();
    }),
    ("without its data", |data| data.remove("index/1/db")),
    ("with rubbish for data", |data| rubbish(data, "index/1/db")),
    ("with rubbish for settings", |data| {
        rubbish(data, "index/1/conf");
    }),
    ("with rubbish for its snapshot", |data| {
        rubbish(data, &snapshot(data));
    }),
    ("with rubbish for everything", |data| {
        for name in data.files("index/1") {
            rubbish(data, &name);
        }
        data.write("index/1/snap.00000000000000FF", "rubbish");
        data.write("index/1/rubbish", "rubbish");
    }),
    ("cut in half", |data| {
        data.edit("index/1/db", |content| content.truncate(used(content) / 2));
    }),
    ("with an empty data file", |data| {
        data.write("index/1/db", "");
    }),
    ("replaced by a file", |data| {
        data.remove("index");
        data.write("index", "rubbish");
    }),
    ("replaced by a link to nowhere", |data| {
        data.remove("index");
        symlink("/nowhere", data.path().join("index")).unwrap();
    }),
];

#[test]
fn an_index_of_many_messages_is_redrawn_in_the_order_of_the_log() {
    let mut texts = texts(0..10_000);
    let data = Data::in_memory_with(&texts);
    let store = data.open();
    for text in &texts[..100] {
        assert!(delete(&store, text).unwrap());
    }
    put_all(&store, &texts[..50]);
    close(store);
    texts.drain(50..100);
    data.remove("index");
    let (store, _) = data.open_and_listen();
    assert_holds_only(&store, &texts);
}

#[test]
fn what_the_index_can_do_without_may_go_and_strange_files_may_come() {
    let texts = texts(0..300);
    let data = closed(&texts);
    data.write("index/rubbish", "rubbish");
    data.write("index/1/rubbish", "rubbish");
    data.write("index/1/blobs/rubbish", "rubbish");
    data.write("index.new", "rubbish");
    data.assert_sound(&texts);
    data.remove("index/1/conf");
    data.assert_sound(&texts);
    data.remove(&snapshot(&data));
    data.assert_sound(&texts);
}

#[test]
fn an_index_of_which_a_part_is_older_than_the_checkpoint_is_redrawn() {
    let texts = texts(0..300);
    let data = Data::in_memory_with(&texts[..100]);
    let older = data.copy();
    let store = data.open();
    put_all(&store, &texts[100..]);
    close(store);
    for stale in ["index", "index/0", "index/1", "index/2", "index/3"] {
        let copy = data.copy();
        copy.take(stale, &older);
        let (store, lines) = copy.open_and_listen();
        assert!(heard(&lines, REDRAWN), "{stale}");
        assert_holds_only(&store, &texts);
    }
}

#[test]
fn a_bit_flipped_in_the_index_of_a_closed_store_costs_no_message() {
    let texts = texts(0..300);
    flip_index_bits(&closed(&texts), &texts);
}

#[test]
fn a_bit_flipped_in_the_index_of_a_killed_store_costs_no_message() {
    let texts = texts(0..300);
    flip_index_bits(&killed(&texts), &texts);
}

fn flip_index_bits(data: &Data, texts: &[String]) {
    let mut dice = Dice(1);
    for name in data.files("index/1") {
        let bits = used(&data.read(&name)) * 8;
        let mut redrawn = 0;
        for _ in 0..FLIPS {
            let copy = data.copy();
            let bit = dice.below(bits);
            println!("{name}, bit {bit}");
            copy.flip(&name, bit);
            let (store, lines) = copy.open_and_listen();
            redrawn += usize::from(heard(&lines, REDRAWN));
            assert_holds_only(&store, texts);
        }
        // Some flips are harmless, but not all: the bits are those that are used.
        assert!(redrawn > FLIPS / 2, "{name}: {redrawn}");
    }
}

/// A store after two sessions. The second start has made a snapshot of what the first wrote; what
/// the second wrote is in sled's log only, although it was closed.
fn closed(texts: &[String]) -> Data {
    let (first, second) = texts.split_at(texts.len() / 2);
    let data = Data::in_memory_with(first);
    let store = data.open();
    put_all(&store, second);
    close(store);
    data
}

/// The same, killed in its second session, after a checkpoint in the middle of it.
fn killed(texts: &[String]) -> Data {
    let (first, second) = texts.split_at(texts.len() / 2);
    let data = Data::in_memory_with(first);
    let store = data.open();
    let mut second = second.iter();
    let begins_a_segment = |text: &&String| {
        put(&store, text).unwrap();
        data.read("log/00000002.log")[0] != 0
    };
    second.find(begins_a_segment).unwrap();
    // Which is a reason for a checkpoint at once.
    let end = data.records().pop().unwrap().end();
    let expected = format!("position 2 {end}\n");
    let begun = Instant::now();
    while !data.read("checkpoint").starts_with(expected.as_bytes()) {
        assert!(begun.elapsed() < Duration::from_secs(30), "no checkpoint");
        thread::yield_now();
    }
    put_all(&store, second.as_slice());
    data.copy()
}

fn snapshot(data: &Data) -> String {
    let files = data.files("index/1").into_iter();
    let mut snapshots = files.filter(|name| name.starts_with("index/1/snap."));
    snapshots.next().unwrap()
}

fn rubbish(data: &Data, name: &str) {
    data.edit(name, |content| *content = Dice(2).bytes(used(content)));
}

/// Length of a file without the zeros at its end, which were only reserved.
fn used(content: &[u8]) -> usize {
    content.iter().rposition(|&byte| byte != 0).unwrap() + 1
}

// An older record.

/// A log with a record in the middle of it, `victim`, in a group of its own.
struct Aged {
    data: Data,
    victim: String,
    others: Vec<String>,
    /// The directory before the victim came.
    before: Data,
}

impl Aged {
    fn new() -> Self {
        let others = texts(0..40);
        // Three bytes of padding.
        let victim = text_of(0, 101);
        let (earlier, later) = others.split_at(20);
        let data = Data::in_memory_with(earlier);
        let before = data.copy();
        let store = data.open();
        put(&store, &victim).unwrap();
        put_all(&store, later);
        close(store);
        Self {
            data,
            victim,
            others,
            before,
        }
    }

    fn everything(&self) -> Vec<String> {
        [self.others.clone(), vec![self.victim.clone()]].concat()
    }

    /// A copy with one byte of the victim's record changed.
    fn damaged(&self, place: Place) -> Data {
        let copy = self.data.copy();
        let record = copy.record_of(&self.victim);
        let at = match place {
            Place::Header(offset) => record.offset + offset,
            Place::Body(offset) => record.body().start + offset,
            Place::Padding => record.body().end,
        };
        copy.flip(&record.file, at * 8 + 3);
        copy
    }
}

/// A byte of a record.
#[derive(Clone, Copy, Debug)]
enum Place {
    Header(usize),
    Body(usize),
    Padding,
}

/// The first byte of each field of the header, and the last of all.
const HEADER_PLACES: [Place; 8] = [
    Place::Header(0),
    Place::Header(4),
    Place::Header(5),
    Place::Header(8),
    Place::Header(16),
    Place::Header(48),
    Place::Header(52),
    Place::Header(55),
];

const BODY_PLACES: [Place; 3] = [Place::Body(0), Place::Body(50), Place::Body(100)];

/// What has become of the index when a damaged log is opened.
#[derive(Clone, Copy, Debug)]
enum Index {
    Intact,
    /// From before the record: a crash came before the next checkpoint.
    Behind,
    Deleted,
    /// With the checkpoint.
    DeletedToo,
}

const REDRAWS: [Index; 3] = [Index::Behind, Index::Deleted, Index::DeletedToo];

impl Index {
    fn become_of(self, data: &Data, aged: &Aged) {
        match self {
            Self::Intact => {}
            Self::Behind => {
                data.take("index", &aged.before);
                data.take("checkpoint", &aged.before);
            }
            Self::Deleted => data.remove("index"),
            Self::DeletedToo => data.leave_only_the_log(),
        }
    }
}

#[test]
fn a_damaged_text_answers_with_an_error_and_harms_no_other() {
    let aged = Aged::new();
    for place in BODY_PLACES {
        for index in [
            Index::Intact,
            Index::Behind,
            Index::Deleted,
            Index::DeletedToo,
        ] {
            println!("{place:?}, {index:?}");
            let data = aged.damaged(place);
            index.become_of(&data, &aged);
            let (store, lines) = data.open_and_listen();
            let found_at_start = !matches!(index, Index::Intact);
            assert_eq!(heard(&lines, DAMAGED), found_at_start);
            assert_text(&store, &aged.victim, &Err(StoreError::Damaged));
            let failures = store.stats().integrity_failures;
            let findings = match index {
                Index::Intact => 0,
                Index::Behind => 1,
                // The index too.
                Index::Deleted | Index::DeletedToo => 2,
            };
            assert_eq!(failures, 1 + findings);
            assert!(store.holds(&Digest::of(aged.victim.as_bytes())).unwrap());
            assert_holds(&store, &aged.others);
            assert_eq!(store.messages(), 41);
            assert_heals(store, &data, &aged);
        }
    }
}

#[test]
fn a_damaged_header_is_not_noticed_while_the_index_knows_the_text() {
    let aged = Aged::new();
    for place in HEADER_PLACES {
        println!("{place:?}");
        let data = aged.damaged(place);
        let store = data.open();
        assert_holds_only(&store, &aged.everything());
    }
}

#[test]
fn a_message_with_a_damaged_header_is_not_found_once_the_index_is_redrawn() {
    let aged = Aged::new();
    for place in [Place::Header(0), Place::Header(20), Place::Header(55)] {
        for index in REDRAWS {
            println!("{place:?}, {index:?}");
            let data = aged.damaged(place);
            index.become_of(&data, &aged);
            let (store, lines) = data.open_and_listen();
            assert!(heard(&lines, DAMAGED));
            assert_text(&store, &aged.victim, &Ok(None));
            assert_holds_only(&store, &aged.others);
            assert_heals(store, &data, &aged);
        }
    }
}

/// A receipt is a promise for what comes after it, so the second put has to see the whole record.
#[test]
fn posting_again_heals_a_damaged_header_too() {
    let aged = Aged::new();
    for place in HEADER_PLACES {
        println!("{place:?}");
        let data = aged.damaged(place);
        let store = data.open();
        assert_heals(store, &data, &aged);
    }
}

#[test]
fn damaged_padding_is_no_damage() {
    let aged = Aged::new();
    for index in [
        Index::Intact,
        Index::Behind,
        Index::Deleted,
        Index::DeletedToo,
    ] {
        let data = aged.damaged(Place::Padding);
        index.become_of(&data, &aged);
        data.assert_sound(&aged.everything());
    }
}

/// Posting the text again brings it back, over a start and over a redraw of the index.
fn assert_heals(store: EmbeddedStore, data: &Data, aged: &Aged) {
    let everything = aged.everything();
    put(&store, &aged.victim).unwrap();
    assert_holds_only(&store, &everything);
    close(store);
    let store = data.open();
    assert_holds_only(&store, &everything);
    close(store);
    data.leave_only_the_log();
    let store = data.open();
    assert_holds_only(&store, &everything);
}

#[test]
fn a_healed_message_stays_healed_when_the_store_is_killed_at_once() {
    let aged = Aged::new();
    let data = aged.damaged(Place::Body(7));
    let store = data.open();
    put(&store, &aged.victim).unwrap();
    let killed = data.copy();
    let store = killed.open();
    assert_holds_only(&store, &aged.everything());
}

/// Nothing good follows it, but the checkpoint knows that it was acknowledged.
#[test]
fn damage_to_the_last_record_is_not_taken_for_a_torn_group() {
    let texts = texts(0..20);
    let (last, others) = texts.split_last().unwrap();
    let data = Data::in_memory_with(others);
    let store = data.open();
    put(&store, last).unwrap();
    close(store);
    let record = data.record_of(last);
    for (at, answer) in [
        (record.body().start, Err(StoreError::Damaged)),
        (record.offset, Ok(None)),
    ] {
        let copy = data.copy();
        copy.flip(&record.file, at * 8);
        copy.remove("index");
        let (store, lines) = copy.open_and_listen();
        assert!(heard(&lines, DAMAGED) && !heard(&lines, TORN), "{lines:?}");
        assert_text(&store, last, &answer);
        assert_holds(&store, others);
        put_all(&store, &texts);
        close(store);
        copy.leave_only_the_log();
        let store = copy.open();
        assert_holds_only(&store, &texts);
    }
}

/// The torn one proves that the damaged one was acknowledged.
#[test]
fn a_damaged_text_before_a_torn_group_is_kept_as_damage() {
    let texts = texts(0..20);
    let data = Data::in_memory();
    let store = data.open();
    for text in &texts {
        put(&store, text).unwrap();
    }
    close(store);
    let (torn, earlier) = texts.split_last().unwrap();
    let (damaged, others) = earlier.split_last().unwrap();
    for text in [damaged, torn] {
        let record = data.record_of(text);
        data.flip(&record.file, record.body().start * 8);
    }
    data.leave_only_the_log();
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, DAMAGED) && heard(&lines, TORN), "{lines:?}");
    assert_text(&store, damaged, &Err(StoreError::Damaged));
    assert_text(&store, torn, &Ok(None));
    assert_holds(&store, others);
    put_all(&store, &texts);
    assert_holds_only(&store, &texts);
}

/// It holds as many messages as it should and yet is behind.
#[test]
fn an_index_from_before_a_healing_is_redrawn() {
    let aged = Aged::new();
    let data = aged.damaged(Place::Body(7));
    let before = data.copy();
    let store = data.open();
    put(&store, &aged.victim).unwrap();
    close(store);
    data.take("index", &before);
    let store = data.open();
    assert_holds_only(&store, &aged.everything());
}

#[test]
fn damage_to_the_second_record_of_a_message_does_not_hide_the_first() {
    let aged = Aged::new();
    let data = aged.damaged(Place::Body(7));
    let store = data.open();
    put(&store, &aged.victim).unwrap();
    put(&store, &text_of(1, 100)).unwrap();
    close(store);
    // The first, which was erased, is well again, the second is not.
    let sound = aged.data.record_of(&aged.victim);
    let body = aged.data.body(&sound);
    data.edit(&sound.file, |content| {
        content[sound.body()].copy_from_slice(&body);
    });
    let second = data
        .records()
        .into_iter()
        .rfind(|record| record.is_of(&aged.victim))
        .unwrap();
    assert!(second.position() > sound.position());
    data.flip(&second.file, second.body().start * 8);
    data.leave_only_the_log();
    let store = data.open();
    assert_holds(&store, &aged.everything());
}

#[test]
fn a_whole_block_of_damage_costs_only_the_messages_in_it() {
    let texts = texts(0..200);
    let data = Data::in_memory_with(&texts);
    let lost = 8192..12_288;
    let in_it = |record: &Record| record.offset < lost.end && record.body().end > lost.start;
    let first = "log/00000001.log";
    let mut records = data.records();
    records.retain(|record| record.file == first && in_it(record));
    data.edit(first, |content| content[lost.clone()].fill(0));
    data.remove("index");
    let store = data.open();
    for text in &texts {
        let lost = records.iter().any(|record| record.is_of(text));
        match get(&store, text) {
            Ok(Some(found)) => assert!(!lost && found == *text),
            Ok(None) | Err(StoreError::Damaged) => assert!(lost),
            Err(other) => panic!("{other}"),
        }
    }
    put_all(&store, &texts);
    assert_holds_only(&store, &texts);
}

// The checkpoint.

#[test]
fn a_damaged_checkpoint_costs_no_message() {
    let texts = texts(0..300);
    let data = closed(&texts);
    let whole = data.read("checkpoint");
    let mut dice = Dice(6);
    let mut contents: Vec<_> = [0, 1, whole.len() / 2, whole.len() - 1]
        .map(|kept| whole[..kept].to_vec())
        .into();
    contents.push(dice.bytes(whole.len()));
    for _ in 0..12 {
        let mut flipped = whole.clone();
        flipped[dice.below(whole.len())] ^= 1 << dice.below(8);
        contents.push(flipped);
    }
    for content in contents {
        println!("{}", String::from_utf8_lossy(&content));
        let copy = data.copy();
        copy.write("checkpoint", content);
        assert_redrawn_for_lack_of_a_checkpoint(&copy, &texts);
    }
    data.remove("checkpoint");
    assert_redrawn_for_lack_of_a_checkpoint(&data, &texts);
}

fn assert_redrawn_for_lack_of_a_checkpoint(data: &Data, texts: &[String]) {
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, "there is no checkpoint"));
    assert_heard_nothing_of_damage(&lines);
    assert_holds_only(&store, texts);
    close(store);
    data.assert_sound(texts);
}

/// As after a backup of the log was put back and the checkpoint left.
#[test]
fn a_checkpoint_beyond_the_log_costs_no_message() {
    let texts = texts(0..300);
    let data = closed(&texts);
    let last = data.records().pop().unwrap();
    let segment = last.position() >> 32;
    let end = last.end();
    for (segment, offset) in [
        (segment, end + 800),
        (segment, SEGMENT_BYTES as usize),
        (segment + 1, 0),
        (segment + 1, 800),
        (segment + 7, 800),
    ] {
        for index in [true, false] {
            println!("segment {segment}, offset {offset}, index kept: {index}");
            let copy = data.copy();
            write_checkpoint(&copy, segment, offset, 300);
            if !index {
                copy.remove("index");
            }
            assert_goes_on(&copy, &texts);
        }
    }
}

/// What a start finds is told in its log and to whoever asks.
#[test]
fn a_log_that_lost_its_end_is_a_finding() {
    let texts = texts(0..300);
    let data = closed(&texts);
    let last = data.records().pop().unwrap();
    data.edit(&last.file, |content| content[last.offset..].fill(0));
    for (index, finding) in [
        (true, "the last record that the index knows"),
        (false, "is ahead of the log, which ends at"),
    ] {
        let copy = data.copy();
        if !index {
            copy.remove("index");
        }
        let (store, lines) = copy.open_and_listen();
        assert!(heard(&lines, finding), "{lines:?}");
        let findings = store.findings();
        assert!(heard(&findings, finding), "{findings:?}");
        assert_eq!(store.stats().integrity_failures, findings.len() as u64);
        let found: Vec<_> = lines.iter().filter(|line| !line.contains("INFO")).collect();
        assert_eq!(found.len(), findings.len(), "{found:?}");
    }
}

#[test]
fn a_sound_store_has_no_findings() {
    for data in [closed(&texts(0..300)), killed(&texts(0..300))] {
        assert_eq!(data.open().findings(), Vec::<String>::new());
    }
}

/// Where no record can start: outside of any segment, or between two multiples of eight.
#[test]
fn a_checkpoint_that_points_nowhere_costs_no_message() {
    let texts = texts(0..300);
    let data = closed(&texts);
    for (segment, offset) in [
        (0, 0),
        (1, SEGMENT_BYTES as usize + 8),
        (2, SEGMENT_BYTES as usize * 3),
        (2, u32::MAX as usize - 7),
        (2, 60_001),
    ] {
        println!("segment {segment}, offset {offset}");
        let copy = data.copy();
        write_checkpoint(&copy, segment, offset, 300);
        assert_goes_on(&copy, &texts);
    }
}

#[test]
fn a_checkpoint_that_counts_too_many_messages_is_corrected() {
    let texts = texts(0..300);
    let data = closed(&texts);
    write_checkpoint(&data, 1, 0, 301);
    data.assert_sound(&texts);
    data.assert_sound(&texts);
}

/// A checkpoint as the store writes it, whatever it says.
fn write_checkpoint(data: &Data, segment: u64, offset: usize, messages: u64) {
    let content = format!("position {segment} {offset}\nmessages {messages}\n");
    let checksum = crc32c::crc32c(content.as_bytes());
    data.write("checkpoint", format!("{content}crc32c {checksum:08x}\n"));
}

/// Everything is there, more can be put, and all of it comes back, over a redraw as well.
fn assert_goes_on(data: &Data, texts: &[String]) {
    let everything = [texts, &self::texts(9000..9010)].concat();
    let store = data.open();
    assert_holds_only(&store, texts);
    put_all(&store, &everything);
    close(store);
    let store = data.open();
    assert_holds_only(&store, &everything);
    close(store);
    data.leave_only_the_log();
    let store = data.open();
    assert_holds_only(&store, &everything);
}

// A segment.

#[test]
fn a_missing_segment_costs_only_its_own_messages() {
    let texts = texts(0..560);
    let data = Data::in_memory_with(&texts);
    let missing = "log/00000002.log";
    let mut records = data.records();
    assert!(records.last().unwrap().file.as_str() > missing);
    records.retain(|record| record.file == missing);
    let is_lost = |text: &String| records.iter().any(|record| record.is_of(text));
    let (lost, kept): (Vec<_>, Vec<_>) = texts.iter().cloned().partition(is_lost);
    data.remove(missing);

    let redrawn = data.copy();
    redrawn.remove("index");
    for (data, answer) in [(data, Err(StoreError::Damaged)), (redrawn, Ok(None))] {
        let store = data.open();
        assert_holds(&store, &kept);
        for text in &lost {
            assert_text(&store, text, &answer);
        }
        put_all(&store, &lost);
        assert_holds_only(&store, &texts);
        close(store);
        let store = data.open();
        assert_holds_only(&store, &texts);
    }
}

#[test]
fn a_segment_that_was_cut_costs_only_what_was_cut_off() {
    let texts = texts(0..700);
    for index in [true, false] {
        let data = Data::in_memory_with(&texts);
        data.edit("log/00000002.log", |content| content.truncate(30_000));
        if !index {
            data.remove("index");
        }
        let store = data.open();
        let lost = texts.iter().filter(|text| match get(&store, text) {
            Ok(Some(found)) => found != **text,
            Ok(None) | Err(_) => true,
        });
        let lost = lost.count();
        assert!((1..texts.len() / 3).contains(&lost), "{lost}");
        put_all(&store, &texts);
        assert_holds_only(&store, &texts);
    }
}

#[test]
fn a_last_segment_that_is_gone_costs_only_its_own_messages() {
    let texts = texts(0..300);
    let data = Data::in_memory_with(&texts);
    let records = data.records();
    let missing = records.last().unwrap().file.clone();
    data.remove(&missing);
    let store = data.open();
    for text in &texts {
        let lost = records
            .iter()
            .any(|record| record.file == missing && record.is_of(text));
        let expected = if lost {
            Err(StoreError::Damaged)
        } else {
            Ok(Some(text.clone()))
        };
        assert_text(&store, text, &expected);
    }
    put_all(&store, &texts);
    close(store);
    let store = data.open();
    assert_holds_only(&store, &texts);
}
