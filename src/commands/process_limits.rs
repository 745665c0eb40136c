//! What the system grants the process and those beside it: descriptors, no core dumps, and nothing of the
//! files that it makes to other users.
//!
//! It refuses to know what the descriptors and files are for. **Invariant:** a limit is only ever raised to
//! what the operator allows.

use std::io;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit, umask};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::config::ConnectionLimits;

/// Whatever is made from now on is for its owner alone: messages, digests and addresses of clients are nobody
/// else's business, and the engine of the index leaves the permissions of its files to this. Of the whole
/// process, so before there are threads.
pub(super) fn keep_files_private() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// As many descriptors as the system lets us have.
pub(super) fn raise_file_limit() -> io::Result<()> {
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    Ok(setrlimit(Resource::Nofile, all)?)
}

/// Where files have a largest size (`ulimit -f`), a write beyond it is an error that is reported, and not the end
/// of the process by SIGXFSZ. Before there are threads.
pub(super) fn survive_size_limit() -> io::Result<()> {
    if getrlimit(Resource::Fsize).current.is_none() {
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    // A handler is enough, and it stays installed without a listener.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// Of few descriptors, operators get one in so many, and clients the others.
const ADMIN_SHARE: usize = 16;

/// No more connections than leave the store its share of the descriptors, and no core dumps: they would
/// hold messages. Returns how many descriptors there are, `None` if there is no limit.
pub(super) fn set_process_limits(limits: &mut ConnectionLimits) -> Option<u64> {
    let connections = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |files| files / 4 * 3);
    let connections = usize::try_from(connections).unwrap_or(usize::MAX);
    if connections < limits.all_connections_max() {
        warn!(
            connections,
            "fewer connections than there may be: the limit on open files is low"
        );
        share_out(connections, limits);
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cannot turn off core dumps");
    }
    getrlimit(Resource::Nofile).current
}

/// Has no more than so many `connections` in all.
fn share_out(connections: usize, limits: &mut ConnectionLimits) {
    let share = connections.div_ceil(ADMIN_SHARE);
    // What clients may not have anyway.
    let left = connections.saturating_sub(limits.connections_max);
    let of_operators = limits.admin_connections_max.min(share.max(left));
    limits.admin_connections_max = of_operators;
    limits.connections_max = limits.connections_max.min(connections - of_operators);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_are_shared_by_clients_and_operators() {
        let all = ConnectionLimits::default().all_connections_max();
        for (connections, of_operators) in [(96, 6), (1600, 100), (all - 1, 256), (15, 1)] {
            let mut limits = ConnectionLimits::default();
            share_out(connections, &mut limits);
            assert_eq!(limits.admin_connections_max, of_operators);
            assert_eq!(limits.all_connections_max(), connections);
        }
    }

    #[test]
    fn clients_never_get_more_connections_than_were_ordered() {
        for (ordered, connections, of_operators) in [(16, 200, 184), (64, 100, 36), (90, 96, 6)] {
            let mut limits = ConnectionLimits {
                connections_max: ordered,
                ..ConnectionLimits::default()
            };
            share_out(connections, &mut limits);
            assert_eq!(limits.connections_max, ordered);
            assert_eq!(limits.admin_connections_max, of_operators);
        }
    }
}
