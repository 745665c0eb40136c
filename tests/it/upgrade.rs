//! What version 0.1.0 left on a disk is opened by this one. `tests/fixtures/README.md` says what it is.

use crate::store_support::{
    Data, assert_heard_nothing_of_damage, assert_holds_only, assert_text, close, delete, heard,
    put, texts,
};

/// The texts of the data directory, and those of the backup among them, which was made earlier.
fn kept(end: usize) -> Vec<String> {
    let all = texts(0..end).into_iter().enumerate();
    let kept = all.filter(|(number, _)| *number >= 300 || number % 10 != 0);
    kept.map(|(_, text)| text).collect()
}

#[test]
fn a_data_directory_of_0_1_0_is_served() {
    let data = Data::of_0_1_0("data");
    assert_eq!(data.findings(), []);
    let mut kept = kept(420);
    kept.retain(|text| *text != texts(300..301)[0]);
    for what in ["", "index", "checkpoint"] {
        let before = data.copy();
        if !what.is_empty() {
            before.remove(what);
        }
        let (store, lines) = before.open_and_listen();
        assert_heard_nothing_of_damage(&lines);
        assert_holds_only(&store, &kept);
        for gone in [0, 10, 290, 300] {
            assert_text(&store, &texts(gone..gone + 1)[0], &Ok(None));
        }
        put(&store, "and goes on").unwrap();
        close(store);
        assert_eq!(before.findings(), []);
    }
}

#[test]
fn a_backup_of_0_1_0_is_served() {
    let copy = Data::of_0_1_0("backup");
    assert_eq!(copy.findings(), []);
    copy.assert_sound(&kept(400));
    assert_eq!(copy.findings(), []);
}

/// It wrote a text as often as it came at once, and erased one record with its deletion.
#[test]
fn a_text_that_0_1_0_stored_twice_is_erased_with_its_deletion() {
    let data = Data::of_0_1_0("data");
    let records = data.records();
    let count = |text: &String| records.iter().filter(|record| record.is_of(text)).count();
    let all = texts(300..400);
    // The first was deleted by 0.1.0, which left a record of it if there were two.
    let twice: Vec<_> = all[1..].iter().filter(|text| count(text) > 1).collect();
    assert!(twice.len() > 20);
    assert!(data.has_in_log(&all[0]));
    let (store, lines) = data.open_and_listen();
    assert!(heard(&lines, "the log has an identity now"), "{lines:?}");
    assert!(!data.has_in_log(&all[0]));
    for text in &twice {
        assert_text(&store, text, &Ok(Some((*text).clone())));
        assert!(delete(&store, text).unwrap());
    }
    close(store);
    for text in &twice {
        assert!(!data.has_in_log(text), "{text}");
    }
    assert_eq!(data.findings(), []);
    // Once is enough.
    let (store, lines) = data.open_and_listen();
    assert!(!heard(&lines, "identity"), "{lines:?}");
    close(store);
}
