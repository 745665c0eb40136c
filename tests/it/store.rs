//! What the embedded store does on a good day: messages of all sizes come back, known ones cost
//! nothing, a full disk stops new ones only, and closing leaves everything on the disk.

use digestd::digest::Digest;
use digestd::store::{
    DataDirectory, Durability, EmbeddedStore, OpenError, Options, Store, StoreError,
};

use crate::store_support::{
    Data, HEADER_BYTES, LogBytes, MESSAGE_BYTES_MAX, Record, SEGMENT_BYTES,
    assert_heard_nothing_of_damage, assert_holds, assert_holds_only, assert_text, close, get,
    listen, options, put, put_all, text_of, texts,
};

// Sizes and segments.

#[test]
fn a_message_reads_back_at_once_and_after_a_start() {
    let texts = [
        "foo",
        "",
        "né ☂ 𝄞",
        "\0\t\r\n\u{7f}\u{feff}",
        "\"quoted\"\\",
    ]
    .map(str::to_owned);
    let data = Data::new();
    let store = data.open();
    for text in &texts {
        assert_text(&store, text, &Ok(None));
        let receipt = put(&store, text).unwrap();
        assert_eq!(receipt.digest(), Digest::of(text.as_bytes()));
        assert_eq!(receipt.durability(), Durability::Disk);
        assert_text(&store, text, &Ok(Some(text.clone())));
    }
    close(store);
    data.assert_sound(&texts);
    data.leave_only_the_log();
    data.assert_sound(&texts);
}

#[test]
fn a_message_may_fill_a_segment() {
    let largest = MESSAGE_BYTES_MAX;
    let sizes = [
        largest,
        largest - 1,
        largest - 7,
        largest - 8,
        largest - 56,
        largest - 64,
    ];
    let texts: Vec<_> = sizes
        .into_iter()
        .enumerate()
        .map(|(number, size)| text_of(number, size))
        .collect();
    assert_round_trip(&texts);
}

#[test]
fn a_message_larger_than_the_rest_of_a_segment_goes_into_the_next() {
    let half = SEGMENT_BYTES as usize / 2;
    let texts: Vec<_> = (0..9)
        .map(|number| text_of(number, half + number * 1000))
        .collect();
    let data = assert_round_trip(&texts);
    let records = data.records();
    let fillers = records
        .iter()
        .filter(|record| record.kind == Record::FILLER);
    assert_eq!(fillers.count(), 8);
}

/// No room at all, too little for a filler, room for a filler without a body, room for a small
/// message and nothing else.
#[test]
fn a_segment_may_end_anywhere() {
    for rest in [0, 8, 48, 56, 72, 80, 88] {
        let first = text_of(0, MESSAGE_BYTES_MAX - rest);
        assert_round_trip(&[first, text_of(1, 20), text_of(2, 0x1000)]);
    }
}

#[test]
fn a_group_may_cross_segments() {
    let data = Data::new();
    let store = data.open();
    let texts: Vec<_> = (0..100).map(|number| text_of(number, 3000)).collect();
    put_all(&store, &texts);
    close(store);
    let records = data.records();
    let crosses = |pair: &[Record]| pair[0].file != pair[1].file && pair[0].group == pair[1].group;
    assert!(records.windows(2).any(crosses));
    data.assert_sound(&texts);
    data.leave_only_the_log();
    data.assert_sound(&texts);
}

/// Recovery reads a segment in windows of 1 MiB.
#[test]
fn segments_larger_than_a_reading_window_are_redrawn() {
    const LARGE: u32 = 5 << 19;
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let directory = DataDirectory::claim(directory.path(), LARGE).unwrap();
        let options = Options {
            message_bytes_max: 2 << 20,
            ..options()
        };
        EmbeddedStore::open(directory, options, &|_| ()).unwrap()
    };
    let sizes = [1 << 20, 700_000, 30, (1 << 20) - 56, 1000, 1_300_000, 0];
    let mut texts: Vec<_> = (0..400)
        .map(|number| text_of(number, 2000 + number))
        .collect();
    let large = sizes.iter().enumerate();
    texts.extend(large.map(|(number, &size)| text_of(number, size.max(2))));
    let store = open();
    put_all(&store, &texts);
    close(store);
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let (store, lines) = listen(open);
    assert_heard_nothing_of_damage(&lines);
    assert_holds_only(&store, &texts);
}

/// Puts the texts one by one and reads them from the open store, after a start, and after a start
/// that had nothing but the log.
fn assert_round_trip(texts: &[String]) -> Data {
    let data = Data::new();
    let store = data.open();
    for text in texts {
        put(&store, text).unwrap();
    }
    assert_holds_only(&store, texts);
    close(store);
    data.assert_sound(texts);
    data.leave_only_the_log();
    data.assert_sound(texts);
    data
}

// The log.

#[test]
fn the_log_is_what_its_description_says_to_the_byte() {
    let data = Data::new();
    let store = data.open();
    let mut expected = LogBytes::new();
    for round in 0..6 {
        let texts = texts(round * 100..round * 100 + 50);
        put_all(&store, &texts);
        put(&store, &text_of(round, 20_000)).unwrap();
    }
    close(store);
    // How the messages fell into groups was up to the committer.
    let mut messages = data.records();
    messages.retain(|record| record.kind == Record::MESSAGE);
    for group in messages.chunk_by(|one, other| one.group == other.group) {
        let texts = group.iter().map(|record| {
            let body = &data.read(&record.file)[record.body()];
            String::from_utf8(body.to_vec()).unwrap()
        });
        expected.append_group(&texts.collect::<Vec<_>>());
    }
    let log = data.log();
    let (written, prepared) = log.split_at(expected.segments().len());
    assert!(written == expected.segments());
    assert!(prepared.iter().flatten().all(|&byte| byte == 0));
}

#[test]
fn the_log_only_grows() {
    let data = Data::new();
    let store = data.open();
    let mut before = data.log();
    for round in 0..10 {
        put_all(&store, &texts(round * 40..round * 40 + 40));
        let after = data.log();
        assert!(after.len() >= before.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.len(), SEGMENT_BYTES as usize);
            let end = before
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |at| at + 1);
            assert!(after[..end] == before[..end]);
        }
        assert!(after != before);
        before = after;
    }
}

#[test]
fn a_segment_size_belongs_to_its_directory() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let other = DataDirectory::claim(data.path(), SEGMENT_BYTES * 2).unwrap();
    let store = EmbeddedStore::open(other, options(), &|_| ()).unwrap();
    assert_holds_only(&store, &texts);
    close(store);
    assert!(
        data.log()
            .iter()
            .all(|segment| segment.len() == SEGMENT_BYTES as usize)
    );
}

// Cost.

#[test]
fn storing_a_known_message_writes_nothing() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let store = data.open();
    let (log, checkpoint) = (data.log(), data.read("checkpoint"));
    put_all(&store, &texts);
    for text in &texts[..20] {
        put(&store, text).unwrap();
    }
    assert!(data.log() == log);
    assert_eq!(store.messages(), 300);
    close(store);
    assert!(data.log() == log);
    assert_eq!(data.read("checkpoint"), checkpoint);
}

#[test]
fn a_message_put_many_times_at_once_counts_once() {
    let data = Data::new();
    let store = data.open();
    let text = text_of(0, 100);
    put_all(&store, &vec![text.clone(); 400]);
    assert_holds_only(&store, std::slice::from_ref(&text));
    close(store);
    // Those that waited while the first was written came too late to be known.
    let records = data.records();
    assert!(records.iter().all(|record| record.is_of(&text)));
    assert!(records.len() < 400);
    data.assert_sound(&[text]);
}

#[test]
fn the_index_never_needs_a_blob() {
    let data = Data::new();
    let blobs = |data: &Data| {
        let parts = ["0", "1", "2", "3"].map(|part| data.files(&format!("index/{part}/blobs")));
        parts.concat()
    };
    for session in 0..3 {
        let store = data.open();
        put_all(&store, &texts(session * 1000..session * 1000 + 1000));
        assert_eq!(blobs(&data), Vec::<String>::new());
        close(store);
    }
    assert_eq!(blobs(&data), Vec::<String>::new());
}

#[test]
fn what_is_cached_is_what_was_stored() {
    let texts = texts(0..50);
    let data = Data::new();
    let cached = Options {
        message_cache_bytes: 1 << 20,
        ..options()
    };
    let store = data.open_with(cached);
    put_all(&store, &texts);
    for _ in 0..3 {
        assert_holds_only(&store, &texts);
    }
}

// A full disk.

#[test]
fn a_full_disk_refuses_new_messages_only() {
    let texts = texts(0..20);
    let data = Data::with(&texts);
    let full = Options {
        free_bytes_min: Some(u64::MAX),
        ..options()
    };
    let store = data.open_with(full);
    let log = data.log();
    assert_eq!(put(&store, "new").unwrap_err(), StoreError::Full);
    assert_text(&store, "new", &Ok(None));
    put_all(&store, &texts);
    assert_holds_only(&store, &texts);
    let health = store.health();
    assert_eq!(health.reads, Ok(()));
    assert_eq!(health.writes, Err(StoreError::Full.to_string()));
    close(store);
    assert!(data.log() == log);
    let store = data.open();
    put(&store, "new").unwrap();
    assert_eq!(store.health().writes, Ok(()));
}

#[test]
fn a_store_is_not_made_where_it_would_take_no_message_but_opens_there() {
    let data = Data::new();
    let full = Options {
        free_bytes_min: Some(u64::MAX),
        ..options()
    };
    let error = data.try_open(full.clone()).unwrap_err();
    assert!(matches!(error, OpenError::NoRoom { .. }), "{error}");
    let store = data.open();
    put(&store, "new").unwrap();
    close(store);
    let store = data.open_with(full);
    assert_eq!(put(&store, "newer").unwrap_err(), StoreError::Full);
    assert!(store.get(&Digest::of(b"new")).unwrap().is_some());
}

// Figures.

#[test]
fn figures_count_messages_and_the_room_they_take() {
    let data = Data::new();
    let store = data.open();
    put_all(&store, &texts(0..300));
    close(store);
    let store = data.open();
    let stats = store.stats();
    assert_eq!(stats.messages, 300);
    let log: u64 = data.log().iter().map(|segment| segment.len() as u64).sum();
    assert!(stats.disk_bytes > log, "{stats:?}");
    assert!(stats.free_bytes > 0, "{stats:?}");
    assert_eq!(stats.integrity_failures, 0);
}

// Closing.

#[test]
fn closing_leaves_everything_on_the_disk() {
    for durability in [Durability::Disk, Durability::Os] {
        // No segment is begun, which would be a reason for a checkpoint before the end.
        let texts = texts(0..100);
        let data = Data::new();
        let store = data.open_with(Options {
            durability,
            ..options()
        });
        put_all(&store, &texts);
        put_all(&store, &texts);
        assert_eq!(store.messages(), 100);
        store.close().unwrap();
        // Before anything is dropped: the next start has nothing to replay.
        let closed = data.copy();
        let last = data.records().pop().unwrap();
        let position = format!("position {} {}\n", last.position() >> 32, last.end());
        let checkpoint = String::from_utf8(closed.read("checkpoint")).unwrap();
        assert!(checkpoint.starts_with(&position), "{checkpoint}");
        drop(store);
        for data in [closed, data] {
            data.assert_sound(&texts);
        }
    }
}

#[test]
fn a_closed_store_reads_on_and_takes_nothing_new() {
    let texts = texts(0..20);
    let data = Data::new();
    let store = data.open();
    put_all(&store, &texts);
    store.close().unwrap();
    assert_eq!(put(&store, "new").unwrap_err(), StoreError::Closed);
    put_all(&store, &texts);
    assert_holds_only(&store, &texts);
    store.close().unwrap();
    drop(store);
    data.assert_sound(&texts);
}

#[test]
fn puts_that_wait_when_the_store_is_closed_are_finished() {
    let texts = texts(0..400);
    let data = Data::new();
    let store = data.open();
    for text in &texts {
        // Nobody waits for the answer, and the message is stored all the same.
        drop(store.put(digestd::message::Message::new(text.as_str())));
    }
    close(store);
    data.assert_sound(&texts);
}

#[test]
fn a_store_that_is_dropped_is_closed() {
    let texts = texts(0..20);
    let data = Data::new();
    let store = data.open();
    put_all(&store, &texts);
    drop(store);
    data.assert_sound(&texts);
}

#[test]
fn every_acked_message_is_in_a_copy_taken_while_the_store_is_open() {
    for durability in [Durability::Disk, Durability::Os] {
        let data = Data::new();
        let store = data.open_with(Options {
            durability,
            ..options()
        });
        let texts = texts(0..400);
        for (round, some) in texts.chunks(100).enumerate() {
            put_all(&store, some);
            let killed = data.copy();
            let acked = &texts[..(round + 1) * 100];
            killed.assert_sound(acked);
            // And it can be killed again.
            assert_holds(&killed.copy().open(), acked);
        }
        assert_eq!(get(&store, "never put"), Ok(None));
    }
}

#[test]
fn an_oversized_message_is_refused_alone() {
    let data = Data::new();
    let store = data.open();
    let oversized = text_of(0, SEGMENT_BYTES as usize - HEADER_BYTES + 1);
    put(&store, &oversized).unwrap_err();
    put(&store, "small").unwrap();
}

#[test]
fn segments_of_an_impossible_size_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for bytes in [0, 4096, 65_535, 65_539, (1 << 30) + 4096] {
        let refused = DataDirectory::claim(directory.path(), bytes).unwrap_err();
        assert!(
            matches!(refused, OpenError::SegmentSize { .. }),
            "{refused}"
        );
    }
    for bytes in [64 << 10, 1 << 30] {
        DataDirectory::claim(tempfile::tempdir().unwrap().path(), bytes).unwrap();
    }
}
