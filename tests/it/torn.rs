//! What a crash leaves of the group that was being written, in all the ways that a disk may have
//! taken part of it: everything acknowledged before is whole, and the log goes on.

use std::ops::Range;

use digestd::store::{Durability, EmbeddedStore, Options, Store};

use crate::store_support::{
    DAMAGED, Data, Dice, HEADER_BYTES, LogBytes, Record, SEGMENT_BYTES, TORN,
    assert_heard_nothing_of_damage, assert_holds, assert_holds_only, assert_text, close, delete,
    heard, listen, options, put, put_all, text_of, texts,
};

/// A crash between the write of a group and its sync: the log has the group, in the state that each
/// experiment decides on, and neither index nor checkpoint have heard of it.
struct Crash {
    data: Data,
    acked: Vec<String>,
    /// The texts of the last group.
    group: Vec<String>,
    /// Its records, fillers among them.
    records: Vec<Record>,
}

impl Crash {
    /// In a group that starts `room` bytes before the end of a segment.
    fn with_room(room: usize) -> Self {
        let mut acked = texts(0..20);
        let data = Data::in_memory_with(&acked);
        let store = data.open();
        acked.push(fill_up(&store, &data, room));
        close(store);
        let group = texts(100..130);
        let mut log = LogBytes::of(&data);
        log.append_group(&group);
        log.write_to(&data);
        let mut records = data.records();
        let last = records.last().unwrap().group;
        records.retain(|record| record.group == last);
        Self {
            data,
            acked,
            group,
            records,
        }
    }

    /// Where the group lies.
    fn parts(&self) -> Vec<(&str, Range<usize>)> {
        let of_one_file = |one: &Record, other: &Record| one.file == other.file;
        let part = |records: &[Record]| (records[0].offset, records[records.len() - 1].end());
        let parts = self.records.chunk_by(of_one_file);
        parts
            .map(|records| (records[0].file.as_str(), part(records)))
            .map(|(file, (start, end))| (file, start..end))
            .collect()
    }

    fn length(&self) -> usize {
        self.parts().iter().map(|(_, part)| part.len()).sum()
    }

    /// A copy of what the crash left, with the group as the tear leaves it.
    fn torn(&self, tear: Tear) -> Data {
        let copy = self.data.copy();
        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        for (file, part) in self.parts() {
            bytes.extend_from_slice(&copy.read(file)[part.clone()]);
            offsets.extend(part);
        }
        tear.apply(&mut bytes, &offsets);
        let mut rest = bytes.as_slice();
        for (file, part) in self.parts() {
            let (kept, others) = rest.split_at(rest.len().min(part.len()));
            copy.edit(file, |content| {
                content[part.start..part.start + kept.len()].copy_from_slice(kept);
                if kept.len() < part.len() {
                    content.truncate(part.start + kept.len());
                }
            });
            rest = others;
        }
        copy
    }

    /// The texts whose records came through whole: these are kept, all others were never there.
    fn whole(&self, torn: &Data) -> Vec<String> {
        let same = |record: &&Record| {
            let bytes = record.offset..record.body().end;
            let (before, after) = (self.data.read(&record.file), torn.read(&record.file));
            after.get(bytes.clone()) == Some(&before[bytes])
        };
        let whole: Vec<_> = self.records.iter().filter(same).collect();
        let texts = self.group.iter().cloned();
        texts
            .filter(|text| whole.iter().any(|record| record.is_of(text)))
            .collect()
    }
}

/// What a crash leaves of the bytes of a group.
#[derive(Clone, Debug)]
enum Tear {
    /// Nothing from here on, and a file that ends here.
    Cut(usize),
    /// Zeros in this range.
    Zeros(Range<usize>),
    /// Rubbish in this range.
    Rubbish(Range<usize>),
    /// Half of the sectors, a different half for each number.
    Sectors(u64),
}

impl Tear {
    fn apply(self, bytes: &mut Vec<u8>, offsets: &[usize]) {
        match self {
            Self::Cut(kept) => bytes.truncate(kept),
            Self::Zeros(range) => bytes[range].fill(0),
            Self::Rubbish(range) => {
                let rubbish = Dice(3).bytes(range.len());
                bytes[range].copy_from_slice(&rubbish);
            }
            Self::Sectors(half) => {
                let mut dice = Dice(half);
                let mut lost = dice.below(2) == 0;
                for (at, byte) in bytes.iter_mut().enumerate() {
                    if offsets[at].is_multiple_of(512) {
                        lost = dice.below(2) == 0;
                    }
                    *byte = if lost { 0 } else { *byte };
                }
            }
        }
    }
}

/// Tears of a group that is `length` bytes long.
fn tears(length: usize) -> Vec<Tear> {
    let cuts = [0, 1, 55, 56, length / 2, length - 1];
    let mut tears: Vec<_> = cuts.into_iter().map(Tear::Cut).collect();
    tears.extend([
        Tear::Zeros(0..length),
        Tear::Zeros(length / 2..length),
        Tear::Zeros(0..4096),
        Tear::Zeros(200..length - 200),
        Tear::Rubbish(0..length),
        Tear::Rubbish(0..56),
        Tear::Rubbish(length / 2..length),
    ]);
    tears.extend((0..5).map(Tear::Sectors));
    tears
}

#[test]
fn a_torn_group_costs_nothing_that_was_acked() {
    tear_in_all_ways(&Crash::with_room(20_000));
}

#[test]
fn a_torn_group_that_crosses_segments_costs_nothing_that_was_acked() {
    let crash = Crash::with_room(4000);
    assert_eq!(crash.parts().len(), 2);
    tear_in_all_ways(&crash);
}

#[test]
fn a_torn_group_at_the_start_of_a_segment_costs_nothing_that_was_acked() {
    // Too little room for a filler.
    let crash = Crash::with_room(40);
    assert_eq!(crash.records[0].offset, 0);
    tear_in_all_ways(&crash);
}

fn tear_in_all_ways(crash: &Crash) {
    for tear in tears(crash.length()) {
        println!("{tear:?}");
        let torn = crash.torn(tear);
        let whole = crash.whole(&torn);

        let (store, lines) = torn.open_and_listen();
        assert!(!heard(&lines, DAMAGED), "{lines:?}");
        assert!(
            torn.log()
                .iter()
                .all(|segment| segment.len() == SEGMENT_BYTES as usize)
        );
        assert_holds(&store, &crash.acked);
        for text in &crash.group {
            let kept = whole.contains(text).then(|| text.clone());
            assert_text(&store, text, &Ok(kept));
        }

        let later = [crash.group.clone(), texts(20_000..20_010)].concat();
        put_all(&store, &later);
        close(store);
        let everything = [crash.acked.clone(), later].concat();
        torn.assert_sound(&everything);
        torn.leave_only_the_log();
        torn.assert_sound(&everything);
    }
}

/// Then the groups alone say which of them was the last.
#[test]
fn a_torn_group_is_told_from_damage_without_a_checkpoint_too() {
    let crash = Crash::with_room(4000);
    for tear in tears(crash.length()).into_iter().step_by(3) {
        println!("{tear:?}");
        let torn = crash.torn(tear);
        let kept = [crash.acked.clone(), crash.whole(&torn)].concat();
        torn.leave_only_the_log();
        let (store, lines) = torn.open_and_listen();
        assert!(!heard(&lines, DAMAGED), "{lines:?}");
        assert_holds_only(&store, &kept);
        close(store);
        torn.assert_sound(&kept);
    }
}

#[test]
fn recovering_twice_changes_nothing_more() {
    let crash = Crash::with_room(4000);
    for tear in tears(crash.length()).into_iter().step_by(2) {
        println!("{tear:?}");
        let torn = crash.torn(tear);
        torn.open();
        let log = torn.log();
        for name in ["index", "checkpoint"] {
            torn.take(name, &crash.data);
        }
        let (store, lines) = torn.open_and_listen();
        assert_heard_nothing_of_damage(&lines);
        assert_holds(&store, &crash.acked);
        assert!(torn.log() == log, "the second start changed the log");
    }
}

#[test]
fn rubbish_behind_the_end_of_the_log_is_removed() {
    let texts = texts(0..20);
    let data = Data::in_memory_with(&texts);
    let end = data.records().last().unwrap().end();
    data.edit("log/00000001.log", |content| {
        let rubbish = Dice(4).bytes(content.len() - end);
        content[end..].copy_from_slice(&rubbish);
    });
    data.edit("log/00000002.log", |content| {
        *content = Dice(5).bytes(content.len());
    });
    data.write("log/00000003.log.new", "an interrupted making");
    data.write("log/00000003.new", "an interrupted making");
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, TORN));
    assert_holds_only(&store, &texts);
    close(store);
    assert_eq!(data.records().len(), texts.len());
    data.leave_only_the_log();
    data.assert_sound(&texts);
}

/// A log of something else, say, whose name is a date: not the store's to erase, nor a reason to
/// look for all the segments before it.
#[test]
fn a_strange_file_with_the_name_of_a_far_segment_is_left_alone() {
    let texts = texts(0..20);
    let data = Data::in_memory_with(&texts);
    let strange = "log/00002026.log";
    data.write(strange, "an access log");
    // To refuse it is as good as to go on without it.
    let _ = data.try_open(options());
    assert_eq!(data.read(strange), b"an access log");
    data.remove(strange);
    data.assert_sound(&texts);
}

/// Puts a text that leaves `room` bytes of the segment.
fn fill_up(store: &EmbeddedStore, data: &Data, room: usize) -> String {
    let end = data.records().last().unwrap().end();
    let text = text_of(0, SEGMENT_BYTES as usize - room - end - HEADER_BYTES);
    put(store, &text).unwrap();
    text
}

/// Of the group that was torn one header came to the disk: it proves that the group before it was
/// acknowledged, also where that one's last record is damaged and a search for it ends at the header.
#[test]
fn damage_right_before_a_torn_group_is_not_taken_for_a_part_of_it() {
    for in_last_group in [false, true] {
        let data = Data::in_memory_with(&texts(0..20));
        let mut log = LogBytes::of(&data);
        let (acked, torn) = (texts(100..110), texts(200..210));
        log.append_group(&acked);
        log.append_group(&torn);
        log.write_to(&data);
        let last = data.record_of(&acked[9]);
        let header = data.record_of(&torn[if in_last_group { 4 } else { 0 }]);
        data.edit(&last.file, |content| {
            let start = content[..header.offset].to_vec();
            let kept = content[header.offset..header.offset + HEADER_BYTES].to_vec();
            content.fill(0);
            content[..last.end()].copy_from_slice(&start[..last.end()]);
            content[header.offset..header.offset + HEADER_BYTES].copy_from_slice(&kept);
        });
        data.flip(&last.file, last.offset * 8);

        let copy = data.copy();
        let (store, lines) = copy.open_and_listen();
        assert!(heard(&lines, DAMAGED), "{lines:?}");
        assert_holds(&store, &[texts(0..20), acked[..9].to_vec()].concat());
        put_all(&store, &texts(300..310));
        close(store);
        // It was left as it was.
        copy.flip(&last.file, last.offset * 8);
        copy.leave_only_the_log();
        let store = copy.open();
        assert_holds_only(&store, &[texts(0..20), acked, texts(300..310)].concat());
    }
}

/// It was not acknowledged, and does no harm: the client wanted the text gone.
#[test]
fn a_deletion_of_which_only_the_header_came_to_the_disk_holds_and_is_no_damage() {
    let texts = texts(0..100);
    let data = Data::in_memory_with(&texts);
    let before = data.copy();
    let store = data.open();
    assert!(delete(&store, &texts[50]).unwrap());
    close(store);
    let is_deletion = |record: &Record| record.kind == Record::DELETION;
    let deletion = data.records().into_iter().find(is_deletion).unwrap();
    let record = before.record_of(&texts[50]);
    let body = before.body(&record);
    for name in ["index", "checkpoint"] {
        data.take(name, &before);
    }
    data.edit(&record.file, |content| {
        content[record.body()].copy_from_slice(&body);
        content[deletion.body()].fill(0);
    });
    let (store, lines) = data.open_and_listen();
    assert_heard_nothing_of_damage(&lines);
    assert_text(&store, &texts[50], &Ok(None));
    put(&store, "the next group").unwrap();
    close(store);
    assert!(data.body(&record).iter().all(|&byte| byte == 0));
    assert_eq!(data.findings(), []);
    data.leave_only_the_log();
    let (store, lines) = data.open_and_listen();
    assert_heard_nothing_of_damage(&lines);
    assert_text(&store, &texts[50], &Ok(None));
}

// With `--durability os`: the answer leaves before the sync, so a power cut takes what was not synced,
// whatever is there of later groups.

fn os() -> Options {
    Options {
        durability: Durability::Os,
        ..options()
    }
}

/// A state of a store, and the same with the index as it came to be after `change`: sled writes what it has
/// in mind, also what stands after a checkpoint.
fn index_ahead(texts: &[String], change: impl FnOnce(&EmbeddedStore)) -> Data {
    let data = Data::in_memory();
    let store = data.open_with(os());
    put_all(&store, texts);
    close(store);
    let cut = data.copy();
    let store = data.open_with(os());
    change(&store);
    close(store);
    cut.take("index", &data);
    cut
}

/// A start says once what was lost, and then all is well.
fn assert_found_once(data: &Data, check: impl Fn(&EmbeddedStore)) {
    let store = data.open_with(os());
    assert_eq!(store.findings().len(), 1, "{:?}", store.findings());
    assert_eq!(store.stats().integrity_failures, 1);
    check(&store);
    // Killed at once, and closed.
    let killed = data.copy();
    close(store);
    for data in [&killed, data] {
        assert_eq!(data.findings(), []);
        let store = data.open_with(os());
        assert_eq!(store.findings(), Vec::<String>::new());
        check(&store);
        assert_eq!(store.stats().integrity_failures, 0);
        close(store);
        let copy = data.copy();
        copy.leave_only_the_log();
        check(&copy.open());
    }
}

#[test]
fn messages_that_a_power_cut_took_are_not_found_though_the_index_had_them() {
    let (kept, lost) = (texts(0..300), texts(300..1000));
    for lost in [&lost[..1], &lost] {
        let data = index_ahead(&kept, |store| put_all(store, lost));
        assert_found_once(&data, |store| {
            assert_holds_only(store, &kept);
            for text in lost {
                assert_text(store, text, &Ok(None));
            }
        });
        let store = data.open_with(os());
        put_all(&store, lost);
        assert_holds(&store, lost);
    }
}

#[test]
fn messages_whose_deletion_a_power_cut_took_are_there_again_at_once() {
    let kept = texts(0..300);
    // As many come as go, and more: their number says nothing.
    for puts in [0, 10, 500] {
        let data = index_ahead(&kept, |store| {
            for text in &kept[..10] {
                assert_eq!(delete(store, text), Ok(true));
            }
            put_all(store, &texts(300..300 + puts));
        });
        // What was deleted was erased only if its deletion was synced: here, it was not.
        assert_found_once(&data, |store| assert_holds_only(store, &kept));
    }
}

#[test]
fn holes_that_a_power_cut_left_are_no_damage_where_nothing_was_synced() {
    let (kept, lost) = (texts(0..20), texts(100..130));
    let data = Data::in_memory_with(&kept);
    let mut log = LogBytes::of(&data);
    for text in &lost {
        log.append_group([text]);
    }
    log.write_to(&data);
    let records: Vec<_> = lost.iter().map(|text| data.record_of(text)).collect();
    // A block in the middle, and the last header but one.
    data.edit("log/00000001.log", |content| {
        content[records[3].offset..records[7].offset + 20].fill(0);
        content[records[28].offset] ^= 1;
    });
    let is_lost = |number: usize| (3..8).contains(&number) || number == 28;
    // Whatever the next start promises, it is the last one that counts.
    assert!(heard(&listen(|| data.copy().open_with(os())).1, DAMAGED));
    data.write("DURABILITY", "os\n");
    assert!(!heard(&data.copy().open_and_listen().1, DAMAGED));
    assert_found_once(&data, |store| {
        assert_holds(store, &kept);
        for (number, text) in lost.iter().enumerate() {
            let expected = (!is_lost(number)).then(|| text.clone());
            assert_text(store, text, &Ok(expected));
        }
    });
}
