//! Worker threads against connections: `-- --sweep workers`.
//!
//! It knows no rows of the suite and has no target. **Invariant:** each number of workers has a server
//! and a store of its own.

use crate::loadgen::workload::Workload;

use crate::common;
use crate::measure::{HOT, LINE, measure, plan, posts, requests, store};
use crate::servers::{Server, service_command};

/// Worker threads × connections: what the default should be.
pub(crate) fn sweep_workers() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut workers: Vec<_> = [1, cores / 2, cores, 2 * cores, 4 * cores].into();
    workers.retain(|&workers| workers > 0);
    workers.sort_unstable();
    workers.dedup();
    let mut best = (0.0, 0, 0);
    println!("requests/s of GET hits + durable POSTs, by workers and connections");
    for &workers in &workers {
        let directory = common::scratch();
        let workers_option = workers.to_string();
        let arguments = ["--workers", &workers_option];
        let service = Server::start(&mut service_command(&directory, &arguments));
        let hot = requests(Workload::Hit, HOT, LINE);
        store(&service, &hot);
        for connections in [1, 8, 64, 256] {
            let gets = measure(&service, &plan(connections), &hot).outcome.rate();
            let posts = measure(&service, &plan(connections), &posts(LINE))
                .outcome
                .rate();
            println!(
                "{workers:>3} workers, {connections:>3} connections: {gets:>8.0} + {posts:>7.0}"
            );
            // A POST costs several GETs: a rate of each weighs the same.
            let score = gets * posts;
            if score > best.0 {
                best = (score, workers, connections);
            }
        }
    }
    println!(
        "best: {} workers with {} connections, on {cores} cores that the generator uses too",
        best.1, best.2
    );
}
