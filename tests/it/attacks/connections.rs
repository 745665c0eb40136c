//! Connections that take the places of others, and floods on few.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::attacker::post;
use super::healthy::Question;
use super::{Attacked, is_long};
use crate::http2::{DATA, PING, SETTINGS, frame};
use crate::process::address_in;
use crate::support::connect_from;

/// Addresses of the attacker, and their connections together: more than there are places.
const ADDRESSES: u8 = 8;
const CONNECTIONS: usize = 480;
const CROWD: &str = "ulimit -n 512; exec \"$0\" \"$@\"";

/// A connection that was ended is opened again after this.
const PAUSE: Duration = Duration::from_millis(100);

#[test]
#[ignore = "takes ten seconds"]
fn connections_of_many_addresses_keep_no_probe_out() {
    let mut attacked = Attacked::start_with(|launch| {
        launch
            .through(["sh", "-c", CROWD])
            .option("--admin-listen", "127.0.0.1:0")
    });
    assert!(attacked.server.log().contains("connections=384"));
    let admin = address_in(&attacked.server.wait_for("metrics on http://"));
    attacked.metrics = admin;
    attacked.questions.extend([
        Question::probe("probe of admin", admin, "/livez"),
        Question::probe("scrape", admin, "/metrics"),
    ]);
    attacked.survives(async |target| {
        let mut held = JoinSet::new();
        for last in (1..=ADDRESSES).cycle().take(CONNECTIONS) {
            let address = [127, 0, 1, last];
            let target = Arc::clone(&target);
            held.spawn(async move {
                loop {
                    target.pace().await;
                    let mut client = connect_from(address, target.address).await;
                    let get = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
                    if client.try_send(get).await.is_ok() && client.status().await.is_ok() {
                        // Until it is ended.
                        while client.read_some().await.is_ok() {}
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        held
    });
}

/// Connections that flood; in two seconds, so many that one of them gets to its end on a slow machine.
fn floods() -> usize {
    if is_long() { 100 } else { 20 }
}

/// In one step; a few are too much for the server.
const FRAMES: usize = 1000;

#[test]
#[ignore = "takes ten seconds"]
fn floods_beside_a_body_that_trickles_hinder_nobody() {
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
        let ended = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ended);
        Attacked::start().survives(async move |target| {
            let body = frame(DATA, 0, 1, b"x");
            let flood: Arc<[u8]> = [flood.repeat(FRAMES), body].concat().into();
            let mut held = JoinSet::new();
            for _ in 0..floods() {
                let (target, flood) = (Arc::clone(&target), Arc::clone(&flood));
                let ended = Arc::clone(&counter);
                held.spawn(async move {
                    loop {
                        let mut client = target.connect_h2(1 << 16).await;
                        let _ = client.try_send(&post(0, 1 << 20, &[])).await;
                        while client.try_send(&flood).await.is_ok() && !client.has_ended() {
                            target.pace().await;
                        }
                        ended.fetch_add(1, Relaxed);
                    }
                });
            }
            held
        });
        let ended = ended.load(Relaxed);
        println!("  {ended} floods were ended");
        assert!(ended > 0, "nobody ends a flood");
    }
}
