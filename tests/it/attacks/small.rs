//! Servers with little memory.

use std::thread;

use super::healthy::{Healthy, Phase, questions};
use super::{check_group, duration};
use crate::groups::MemoryGroup;
use crate::process::Launch;

const MEBIBYTE: u64 = 1 << 20;

#[test]
#[ignore = "needs a memory group"]
fn a_server_with_256_mib_and_defaults_starts_and_serves() {
    let Some(group) = MemoryGroup::new(256 * MEBIBYTE) else {
        return;
    };
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let launch = Launch::new(data.path())
        .without("--segment-size")
        .without("--free-min");
    let server = group.launch(launch).start();
    let healthy = Healthy::start(questions(&server));
    healthy.begin(Phase::During);
    thread::sleep(duration());
    let answers = healthy.end();
    println!("\n  {}", server.wait_for("memory_at_most"));
    check_group(Some(&group));
    answers.check();
    server.stop();
}
