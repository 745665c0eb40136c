//! The threads of the embedded store: how they start, in which order they end, and what a panic of one does.
//!
//! It refuses to know what they do. **Invariant:** a thread that panics stops the store, and nobody waits for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use super::committer::Committer;
use super::eraser::Eraser;
use super::maintenance::{Keeper, keep_synced};
use super::record::Position;
use super::state::Shared;
use crate::store::Durability;

/// A thread, and what ends it by being dropped, if that is not the end of the queue.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) stop: Option<mpsc::SyncSender<()>>,
    pub(super) thread: JoinHandle<()>,
}

/// Starts the store's threads, in the order in which they end: what one leaves the next can take up.
pub(super) fn start_threads(
    shared: &Arc<Shared>,
    end: Position,
    eraser: Eraser,
) -> io::Result<Vec<Worker>> {
    let (poke, poked) = mpsc::sync_channel(1);
    let committer = Committer::new(Arc::clone(shared), end, poke.clone());
    let mut workers = vec![spawn("committer", shared, None, || committer.run())?];
    if shared.options.durability == Durability::Os {
        let (stop, stopped) = mpsc::sync_channel(1);
        let synced = Arc::clone(shared);
        let run = move || keep_synced(&synced, &stopped);
        workers.push(spawn("syncer", shared, Some(stop), run)?);
    }
    let (stop, stopped) = mpsc::sync_channel(1);
    let run = move || eraser.run(&stopped);
    workers.push(spawn("eraser", shared, Some(stop), run)?);
    let keeper = Keeper::new(Arc::clone(shared));
    let run = move || keeper.run(&poked);
    workers.push(spawn("keeper", shared, Some(poke), run)?);
    Ok(workers)
}

fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    stop: Option<mpsc::SyncSender<()>>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<Worker> {
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            shared.fail(&format!("the {name} panicked"));
            // Those who wait are told by their replies being dropped.
            shared.queue.close();
            while shared.queue.take_group().is_some() {}
        }
    })?;
    Ok(Worker { stop, thread })
}
