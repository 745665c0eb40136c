//! The format of the log is what its description says: a reader in another language, written from
//! the header of `src/store/embedded/record.rs` alone, finds every message.

use std::collections::BTreeMap;
use std::process::Command;

use digestd::digest::Digest;

use crate::store_support::{Data, close, delete, put, put_all, text_of, texts};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/list_log.py");

#[test]
#[ignore = "needs python3"]
fn a_reader_written_from_the_description_lists_every_message_once() {
    let mut messages = texts(0..600);
    messages.extend((0..4).map(|number| text_of(number, 40_000)));
    messages.extend(["", "né ☂ 𝄞 \u{2028}", "\0\u{1}\t\r\n\u{1b}\u{7f}\"\\"].map(str::to_owned));
    let data = Data::with(&messages);
    let store = data.open();
    put_all(&store, &messages);
    put_all(&store, &vec!["many at once".to_owned(); 100]);
    messages.push("many at once".into());
    close(store);
    // One that is in the log twice, and only the second time as it should be.
    let damaged = data.record_of(&messages[7]);
    data.flip(&damaged.file, damaged.body().start * 8);
    let store = data.open();
    put(&store, &messages[7]).unwrap();
    // One that was deleted, and one that was put again since.
    let gone = messages.remove(11);
    delete(&store, &gone).unwrap();
    delete(&store, &messages[23]).unwrap();
    put(&store, &messages[23]).unwrap();
    close(store);
    assert!(data.files("log").len() > 3);

    let expected: BTreeMap<_, _> = messages
        .into_iter()
        .map(|text| (Digest::of(text.as_bytes()).to_string(), text))
        .collect();
    let listed = list(&data);
    assert!(listed.is_sorted());
    assert_eq!(listed.len(), expected.len());
    assert_eq!(BTreeMap::from_iter(listed), expected);
}

/// What the script prints, line by line.
fn list(data: &Data) -> Vec<(String, String)> {
    let output = Command::new("python3")
        .arg(SCRIPT)
        .arg(data.path())
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let (digest, text) = line.split_once(' ').unwrap();
            (digest.to_owned(), serde_json::from_str(text).unwrap())
        })
        .collect()
}
