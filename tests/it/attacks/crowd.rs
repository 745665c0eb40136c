//! Clients who mean no harm and look like those who do.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::attacker::{ATTACKER, Attacker, CONNECTIONS, Target, runtime, trickle};
use super::bodies::{LARGE_POST, LARGE_POST_BYTES};
use super::healthy::HEALTHY;
use super::{Attacked, check_group, duration, is_long, print_refusals};
use crate::support::connect_from;

/// What a phone with a bad connection sends in a second.
const PHONE_BYTES: usize = 8 << 10;
/// At once.
const PIECE_BYTES: usize = 1 << 10;

#[test]
#[ignore = "takes ten seconds"]
fn a_phone_uploads_its_text_beside_an_attack_on_the_room_for_bodies() {
    let Attacked {
        _data,
        group,
        server,
        ..
    } = Attacked::start();
    let bytes = if is_long() { 1 << 20 } else { 64 << 10 };
    let target = Target::new(&server, 0.0);
    let attacker = Attacker::start(target, async |target| {
        let more = "x".repeat(LARGE_POST_BYTES);
        trickle(&target, ATTACKER, CONNECTIONS, LARGE_POST, &more).await
    });
    attacker.is_under_way();
    let uploading = async {
        let mut client = connect_from(HEALTHY, server.address()).await;
        let head = format!(
            "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             Content-Length: {bytes}\r\n\r\n"
        );
        client.send(head).await;
        let started = tokio::time::Instant::now();
        for number in 0..bytes / PIECE_BYTES {
            let sent = u32::try_from(number * PIECE_BYTES).unwrap();
            let due = Duration::from_secs(1) * sent / u32::try_from(PHONE_BYTES).unwrap();
            sleep_until(started + due).await;
            // It may be refused in the middle; the answer says so.
            if client.try_send(&[b'p'; PIECE_BYTES]).await.is_err() {
                break;
            }
        }
        client.status().await
    };
    let started = Instant::now();
    let status = runtime().block_on(uploading);
    println!("\n  {status:?} after {:.1?}", started.elapsed());
    attacker.end();
    print_refusals(server.address());
    check_group(group.as_ref());
    assert_eq!(status.unwrap(), 201);
    server.stop();
}

/// Connections of a proxy that serves many, and was not declared: all of it is one client.
const PROXY_CONNECTIONS: usize = 200;

#[test]
#[ignore = "takes what there is of two processors"]
fn a_proxy_that_is_not_declared_is_refused_nothing_while_nobody_else_comes() {
    let attacked = Attacked::start();
    let address = attacked.server.address();
    let large = "l".repeat(300_000);
    let path = attacked.store(&large);
    let post = |kind: &str, body: &str| {
        format!(
            "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let requests = [
        post("text/plain", "small"),
        post("text/plain", &large),
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"),
        post(
            "application/x-ndjson",
            &"{\"message\": \"a line\"}\n".repeat(10),
        ),
    ];
    let statuses = runtime().block_on(async {
        let end = Instant::now() + duration();
        let mut connections = JoinSet::new();
        for number in 0..PROXY_CONNECTIONS {
            let requests = requests.clone();
            connections.spawn(async move {
                let mut client = connect_from(ATTACKER, address).await;
                let mut statuses = Vec::new();
                for request in requests.iter().cycle().skip(number) {
                    if Instant::now() >= end {
                        break;
                    }
                    // What is refused may close its connection.
                    let sent = client.try_send(request.as_bytes()).await;
                    let Ok(status) = client.status().await else {
                        assert!(sent.is_err() || !statuses.is_empty(), "no answer");
                        break;
                    };
                    statuses.push(status);
                }
                statuses
            });
        }
        connections.join_all().await.concat()
    });
    let refused = statuses.iter().filter(|&&status| status >= 400).count();
    println!("\n  {refused} of {} refused", statuses.len());
    print_refusals(address);
    check_group(attacked.group.as_ref());
    assert!(statuses.len() >= PROXY_CONNECTIONS && refused == 0);
    attacked.server.stop();
}
