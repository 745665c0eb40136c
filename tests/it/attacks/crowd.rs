//! Clients who mean no harm and look like those who do.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::attacker::{ATTACKER, Attacker, CONNECTIONS, Target, runtime, trickle};
use super::bodies::{LARGE_POST, LARGE_POST_BYTES};
use super::healthy::HEALTHY;
use super::{Attacked, check_group, is_long, print_refusals};
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
