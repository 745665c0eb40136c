//! Answers that nobody takes.

use std::io::Write;

use super::Attacked;
use super::attacker::{AT_ONCE, CONNECTIONS, get, preface, requests_on};
use crate::http2::{ACCEPT, RANGE, literal};
use crate::store_support::text_of;
use crate::tls;

/// A small answer, and the largest that is sent at once.
const ANSWER_BYTES: [usize; 2] = [4000, 65_500];

#[test]
#[ignore = "takes ten seconds"]
fn answers_that_nobody_reads_take_their_room_and_no_more() {
    for bytes in ANSWER_BYTES {
        let attacked = Attacked::start();
        let path = attacked.store(&text_of(1, bytes));
        attacked.survives(async move |target| {
            let request = |_, number| get(number, &path, &[]);
            target.fill_streams(CONNECTIONS, 0, AT_ONCE, request).await
        });
    }
}

#[test]
#[ignore = "takes ten seconds"]
fn answers_that_nobody_reads_over_tls_take_their_room_and_no_more() {
    let data = tempfile::tempdir().unwrap();
    let (certificate, key) = tls::write_certificate(data.path());
    let attacked = Attacked::start_with(|launch| {
        launch
            .option("--tls-listen", "127.0.0.1:0")
            .option("--tls-cert", &certificate)
            .option("--tls-key", &key)
    });
    let path = attacked.store(&text_of(1, 65_500));
    let address = tls::https_address(&attacked.server);
    let trust = tls::trusting(&certificate, &["h2"]);
    attacked.survives(async move |target| {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            target.pace().await;
            let mut client = tls::connect(&trust, address, "localhost").unwrap();
            client.write_all(&preface(0)).unwrap();
            for requests in requests_on(AT_ONCE, |number| get(number, &path, &[])) {
                target.pace().await;
                // It may be refused in the middle.
                let _ = client.write_all(&requests);
            }
            held.push(client);
        }
        held
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn ranges_of_large_texts_keep_none_of_the_rest() {
    const TEXTS: usize = 200;
    let attacked = Attacked::start();
    let paths: Vec<_> = (0..TEXTS)
        .map(|number| attacked.store(&text_of(number, 1_000_000)))
        .collect();
    attacked.survives(async move |target| {
        let fields = [literal(ACCEPT, "text/plain"), literal(RANGE, "bytes=0-0")].concat();
        let request = |connection: usize, number: u32| {
            let path = &paths[(connection * 7 + number as usize) % TEXTS];
            get(number, path, &fields)
        };
        target.fill_streams(22, 0, 1, request).await
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn large_answers_that_are_taken_slowly_leave_room_for_others() {
    let attacked = Attacked::start();
    let path = attacked.store(&text_of(1, 1_000_000));
    attacked.survives(async move |target| {
        let fields = literal(ACCEPT, "text/plain");
        let request = |_, number| get(number, &path, &fields);
        target.fill_streams(4, 64 << 10, 1, request).await
    });
}
