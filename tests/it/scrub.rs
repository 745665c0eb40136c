//! The scrub: what it finds in a store that is being served, and that it finds nothing that is not so.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use digestd::digest::Digest;
use digestd::store::{EmbeddedStore, Store, keep_scrubbing};

use crate::process::{Client, Launch};
use crate::store_support::{Data, close, heard, listen, put, put_all, text_of, texts};

const FOUND: &str = "the store is not as promised";
const DONE: &str = "everything stored was read and checked";

/// Scrubs once; returns what the operator sees of it. The segments here are so small that nothing is
/// waited for before the scrub is over.
fn scrub(store: &EmbeddedStore) -> Vec<String> {
    let (stop, stopped) = mpsc::channel();
    stop.send(()).unwrap();
    let ((), lines) = listen(|| keep_scrubbing(store, Duration::from_hours(1), &stopped));
    assert!(heard(&lines, DONE), "{lines:?}");
    lines
}

#[test]
fn a_scrub_of_a_sound_store_finds_nothing() {
    let data = Data::with(&texts(0..1000));
    let store = data.open();
    let lines = scrub(&store);
    assert!(heard(&lines, "records=1000 findings=0"), "{lines:?}");
    assert_eq!(store.stats().integrity_failures, 0);
}

#[test]
fn a_scrub_counts_damage_and_says_where_it_is_until_it_is_mended() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let store = data.open();
    let record = data.record_of(&texts[100]);
    data.flip(&record.file, record.body().start * 8);
    let lines = scrub(&store);
    let found: Vec<_> = lines.iter().filter(|line| line.contains(FOUND)).collect();
    assert_eq!(found.len(), 1, "{lines:?}");
    let digits = record.digest.to_string();
    assert!(found[0].contains(&digits[..8]), "{found:?}");
    assert!(!found[0].contains(&digits[..9]), "not the whole digest");
    assert!(found[0].contains(&format!("offset: {}", record.offset)));
    assert_eq!(store.stats().integrity_failures, 1);

    put(&store, &texts[100]).unwrap();
    // The put has met it too, on its way.
    assert_eq!(store.stats().integrity_failures, 2);
    let lines = scrub(&store);
    assert!(heard(&lines, "findings=0"), "{lines:?}");
    assert_eq!(store.stats().integrity_failures, 2);
    close(store);
}

#[test]
fn a_scrub_while_messages_come_finds_nothing_that_is_not_so() {
    const SCRUBS: usize = 20;
    const MEANWHILE: usize = 100;
    let data = Data::with(&texts(0..100));
    let store = data.open();
    let (scrub_begins, scrubs) = mpsc::channel();
    thread::scope(|scope| {
        let store = &store;
        // So many with each scrub: however fast the disk is, the log stays so small that no scrub pauses.
        scope.spawn(move || {
            for number in scrubs {
                let first = 100 + number * MEANWHILE;
                for some in texts(first..first + MEANWHILE).chunks(25) {
                    put_all(store, some);
                }
            }
        });
        for number in 0..SCRUBS {
            scrub_begins.send(number).unwrap();
            scrub(store);
        }
        drop(scrub_begins);
    });
    assert_eq!(store.messages(), (100 + SCRUBS * MEANWHILE) as u64);
    assert_eq!(store.stats().integrity_failures, 0);
    close(store);
}

#[test]
fn a_scrub_ends_when_it_is_told_to() {
    // So large that the pace is held back.
    let data = Data::new();
    let store = data.open();
    let large: Vec<_> = (0..100)
        .map(|number| format!("{number}").repeat(30_000))
        .collect();
    put_all(&store, &large);
    let (stop, stopped) = mpsc::channel();
    stop.send(()).unwrap();
    let ((), lines) = listen(|| keep_scrubbing(&store, Duration::from_hours(1), &stopped));
    assert!(!heard(&lines, DONE), "{lines:?}");
}

#[test]
fn a_server_scrubs_if_it_is_told_to() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    let record = data.record_of(&texts[100]);
    data.flip(&record.file, record.body().start * 8);
    let launch = Launch::new(data.path()).option("--body-max", "60KiB");
    let server = launch.option("--scrub-interval", "1h").start();
    server.wait_for(FOUND);
    server.stop();
}

/// The messages that are deleted are read after their bodies were erased, and their deletions stand where
/// nothing was when the scrub began.
#[test]
fn a_scrub_knows_deletions_in_segments_that_were_made_since_it_began() {
    const CLIENTS: usize = 8;
    let texts: Vec<_> = (0..900).map(|number| text_of(number, 30_000)).collect();
    let data = Data::with(&texts);
    let tokens = data.path().with_extension("tokens");
    let line = format!("all read,write,delete {}\n", Digest::of(b"all"));
    fs::write(&tokens, line).unwrap();
    let server = Launch::new(data.path())
        .option("--body-max", "32KiB")
        .option("--scrub-interval", "1h")
        .option("--tokens", tokens)
        .start();
    let ask = |client: &mut Client, method, path: &str, body: &str, status| {
        let fields = [
            ("Authorization", "Bearer all"),
            ("Content-Type", "text/plain"),
        ];
        let answer = client.ask(method, path, &fields, body.as_bytes()).unwrap();
        assert_eq!(answer.status, status);
    };
    for number in 900..905 {
        let text = text_of(number, 30_000);
        ask(&mut server.client(), "POST", "/messages", &text, 201);
    }
    thread::scope(|scope| {
        for some in texts[300..].chunks(600 / CLIENTS) {
            let mut client = server.client();
            scope.spawn(move || {
                for text in some {
                    let path = format!("/messages/{}", Digest::of(text.as_bytes()));
                    ask(&mut client, "DELETE", &path, "", 204);
                }
            });
        }
    });
    server.wait_for(DONE);
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
}
