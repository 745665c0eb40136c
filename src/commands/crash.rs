//! The crash test of `digestd doctor`: a writer is killed in the middle of its work, again and again, and
//! everything it was promised must be there afterwards.
//!
//! It shows that this machine and this file system keep what a dead process wrote. What loss of power
//! would do, only cutting the power shows. It refuses to know how a store works: it is killed from outside.
//! **Invariant:** only a whole line of the writer counts as a promise.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use clap::Args;

use super::output::plural;
use super::setup::open;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{DataDirectory, EmbeddedStore, OpenError, Store};

/// How often the writer is killed.
const LIVES: u32 = 20;

/// Promises after which it is killed: this many, and up to as many more.
const PROMISES_MIN: u64 = 100;

/// A writer that is not killed ends here.
const PROMISES_MAX: u64 = 100_000;

/// Messages on their way at once, like those of as many clients.
const WINDOW: usize = 64;

/// Small, so that several are begun.
const SEGMENT_BYTES: u32 = 1 << 20;

/// Kills writers in a new store at `directory`; returns what was found out.
///
/// # Errors
/// If something that was promised is not there, or the test could not be done.
pub(super) fn test(directory: &Path) -> anyhow::Result<String> {
    // By life: its messages from 0 up to this one, exclusively, were promised.
    let mut promised = Vec::new();
    for life in 0..LIVES {
        promised.push(live_and_die(directory, life)?);
        let store = open_store(directory)?;
        check(&store, &promised)?;
        store.close()?;
    }
    let total = promised.iter().sum();
    Ok(format!(
        "{} killed, {} promised, none lost",
        plural(LIVES.into(), "writer"),
        plural(total, "message")
    ))
}

/// Whether `store` has everything that was promised.
fn check(store: &EmbeddedStore, promised: &[u64]) -> anyhow::Result<()> {
    for (life, &count) in (0..).zip(promised) {
        for number in 0..count {
            let message = message(life, number);
            let found = store.get(&message.digest());
            ensure!(
                found.is_ok_and(|found| found.as_ref() == Some(&message)),
                "a promised message is lost: number {number} of {count} of life {life}"
            );
        }
    }
    Ok(())
}

/// Starts a writer and kills it; returns how many messages it was promised.
fn live_and_die(directory: &Path, life: u32) -> anyhow::Result<u64> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("crash-writer")
        .arg(directory)
        .arg(life.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a writer")?;
    // The hasher's keys are random.
    let enough = PROMISES_MIN + RandomState::new().hash_one(life) % PROMISES_MIN;
    let mut promised = 0;
    let stdout = child.stdout.take().context("a writer without a voice")?;
    let mut lines = BufReader::new(stdout);
    let mut said = String::new();
    // Only a whole line is a promise. What was said before the kill counts, whenever it is heard.
    while lines.read_line(&mut said)? > 0 && said.ends_with('\n') {
        promised += 1;
        if promised == enough {
            child.kill()?;
        }
        said.clear();
    }
    let _ = child.kill();
    let _ = child.wait();
    ensure!(promised >= enough, "a writer ended before it was killed");
    Ok(promised)
}

/// Options of `crash-writer`.
#[derive(Debug, Args)]
pub(super) struct CrashWriterArgs {
    /// The data directory.
    directory: PathBuf,
    /// Which life of the writer it is: makes its messages different from those of others.
    life: u32,
}

/// What the writer does: stores messages, and says a line for each that it was promised.
///
/// # Errors
/// If the store cannot be opened or takes no more.
pub(super) fn run(arguments: &CrashWriterArgs) -> anyhow::Result<()> {
    let store = open_store(&arguments.directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut output = io::stdout().lock();
    let mut window = VecDeque::new();
    for number in 0..PROMISES_MAX {
        window.push_back(store.put(message(arguments.life, number)));
        if window.len() == WINDOW
            && let Some(put) = window.pop_front()
        {
            let receipt = runtime.block_on(put)?;
            writeln!(output, "{}", receipt.digest())?;
        }
    }
    Ok(())
}

fn open_store(directory: &Path) -> Result<EmbeddedStore, OpenError> {
    open(DataDirectory::claim(directory, SEGMENT_BYTES)?)
}

/// From some ten bytes to some thousand.
fn message(life: u32, number: u64) -> Message {
    let mark = format!("{life} {number} ");
    let times = Digest::of(mark.as_bytes()).as_bytes().first().copied();
    Message::new(mark.repeat(1 + usize::from(times.unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_message_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let store = open_store(directory.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for (life, number) in [(0, 0), (0, 1), (1, 0)] {
            runtime.block_on(store.put(message(life, number))).unwrap();
        }
        check(&store, &[2, 1]).unwrap();
        for promised in [[3, 1], [2, 2]] {
            assert!(check(&store, &promised).is_err(), "{promised:?}");
        }
    }
}
