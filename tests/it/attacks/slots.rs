//! Batches, look-ups and exports that do not end, and rates.

use std::sync::Arc;

use digestd::digest::Digest;
use tokio::task::JoinSet;

use super::Attacked;
use super::attacker::{ATTACKER, trickle};
use super::healthy::Question;
use crate::store_support::text_of;

/// More than there are slots for.
const CONNECTIONS: usize = 20;

#[test]
#[ignore = "takes ten seconds"]
fn batches_and_look_ups_that_never_end_leave_some_to_others() {
    let chunk = |line: &str| format!("{:x}\r\n{line}\r\n", line.len());
    let begun = |target: &str, chunk: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n{chunk}"
        )
    };
    let message = chunk("{\"message\": \"foo\"}\n");
    let digest = chunk(&format!("\"{}\"\n", Digest::of(b"foo")));
    let requests = [
        (begun("/messages", &message), message),
        (begun("/messages/lookup", &digest), digest),
    ];
    Attacked::start().survives(async move |target| {
        let mut held = Vec::new();
        for (start, more) in &requests {
            held.push(trickle(&target, ATTACKER, CONNECTIONS, start, more).await);
        }
        held
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn exports_that_nobody_reads_leave_one_to_others() {
    let mut attacked = Attacked::start_with(|launch| launch.env("DIGESTD_ALLOW_EXPORT", "true"));
    // More than sockets buffer.
    for number in 0..24 {
        attacked.store(&text_of(number, 1_000_000));
    }
    let address = attacked.server.address();
    let export = Question::get("export", address, "/messages?limit=2");
    attacked.questions.push(export);
    attacked.survives(async |target| {
        let request = "GET /messages HTTP/1.1\r\nHost: localhost\r\n\r\n";
        trickle(&target, ATTACKER, CONNECTIONS, request, request).await
    });
}

/// Lines of a client in a second: more than the healthy one sends.
const WRITE_RATE: &str = "1500/s";

#[test]
#[ignore = "takes ten seconds"]
fn batches_beyond_the_rate_of_their_client_hinder_nobody() {
    let attacked = Attacked::start_with(|launch| launch.option("--write-rate", WRITE_RATE));
    attacked.survives(async |target| {
        let lines = "{\"message\": \"one of many\"}\n".repeat(10_000);
        let length = lines.len();
        let batch: Arc<str> = format!(
            "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {length}\r\n\r\n{lines}"
        )
        .into();
        let mut sending = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (target, batch) = (Arc::clone(&target), Arc::clone(&batch));
            sending.spawn(async move {
                loop {
                    let mut client = target.connect().await;
                    // It is ended in the middle.
                    client.flood(batch.as_bytes(), batch.len()).await;
                }
            });
        }
        sending
    });
}
