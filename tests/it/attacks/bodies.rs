//! Bodies that do not come, or not soon.

use std::time::Duration;

use tokio::time::sleep;

use super::attacker::{AT_ONCE, ATTACKER, CONNECTIONS, post, trickle};
use super::{Attacked, GROWTH_BYTES_MAX, check_group};
use crate::disk::BadDisk;
use crate::http2::literal_named;
use crate::support::{Raw, connect_from, until};

/// The beginning of a `POST` of the largest body.
pub(super) const LARGE_POST: &str =
    "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\nx";

/// What comes of it each second: just enough.
pub(super) const LARGE_POST_BYTES: usize = 1100;

#[test]
#[ignore = "takes ten seconds"]
fn small_bodies_of_which_little_comes_leave_room_for_others() {
    Attacked::start().survives(async |target| {
        let request = |_, number| post(number, 16 << 10, &[]);
        target.fill_streams(CONNECTIONS, 0, AT_ONCE, request).await
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn large_bodies_of_which_little_comes_leave_room_for_others() {
    Attacked::start().survives(async |target| {
        let more = "x".repeat(LARGE_POST_BYTES);
        trickle(&target, ATTACKER, CONNECTIONS, LARGE_POST, &more).await
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn heads_of_bodies_that_do_not_come_take_their_room_and_no_more() {
    Attacked::start().survives(async |target| {
        // Near the limit of 16 KiB as HTTP/2 lists it.
        let fields: Vec<_> = (0..50)
            .flat_map(|number| literal_named(&format!("x-{number}"), &"v".repeat(120)))
            .collect();
        let request = |_, number| post(number, 16 << 10, &fields);
        target.fill_streams(CONNECTIONS, 0, AT_ONCE, request).await
    });
}

#[tokio::test]
#[ignore = "takes ten seconds"]
async fn messages_that_wait_for_a_slow_disk_keep_no_bodies() {
    let Attacked {
        _data,
        group,
        server,
        ..
    } = Attacked::start_with(|launch| {
        let disk = BadDisk::default().slow("/log/", 4000);
        disk.launch(launch).option("--durability", "disk")
    });
    let rest = "r".repeat(1_000_000);
    let before = server.resident_bytes();
    server.forget_peak();
    for round in 0..20 {
        let mut clients = Vec::new();
        // As many as there is room for.
        for number in 0..15 {
            let body = format!("{{\"message\": \"{round} {number}\", \"rest\": \"{rest}\"}}");
            let head = format!(
                "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            let mut client = connect_from(ATTACKER, server.address()).await;
            client.send(head + &body).await;
            clients.push(client);
        }
        // Nobody would have their messages if they went away earlier.
        until("the rest of the server", async || {
            let spent = server.processor_time();
            sleep(Duration::from_millis(30)).await;
            server.processor_time() == spent
        })
        .await;
        clients.into_iter().for_each(Raw::reset);
    }
    let growth = server.peak_bytes().saturating_sub(before);
    println!("{} MiB more", growth >> 20);
    assert!(growth <= GROWTH_BYTES_MAX, "{} MiB more", growth >> 20);
    check_group(group.as_ref());
    server.kill();
}
