//! `digestd doctor`: whether a directory is a good place for a store.
//!
//! Each check is a line: `ok`, `warn` for what an operator should know, `fail` for what no store can
//! live with. It refuses to know a log or a record. **Invariants:** everything it writes is in a directory
//! of its own, which is removed at the end; one cause is one line.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use clap::Args;
use rustix::process::{Resource, getrlimit};

use super::crash;
use super::exposure::{Purpose, exposures};
use super::output::{plural, unless_gone};
use crate::access::tokens::without_tokens;
use crate::config::{self, ConnectionLimits};
use crate::store::Medium;

/// Syncs that are timed: enough for a median, over in seconds on any disk.
const SYNCS: usize = 200;

/// What is written before each of them, in bytes: a group of a few messages.
const SYNC_BYTES: usize = 4096;

/// A client notices when its answer waits for a sync longer than this.
const SYNC_SLOW: Duration = Duration::from_millis(20);

/// No disk is asked and answers within this.
const SYNC_IMPOSSIBLE: Duration = Duration::from_micros(5);

/// Midnight before the first version of this program was written, in seconds since 1970.
const CLOCK_MIN_SECONDS: u64 = 1_767_225_600;

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The directory; what is written in it is removed again
    #[arg(long, env = "DIGESTD_DATA_DIR")]
    #[arg(value_name = "DIR", default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// The same, as it was written before there was --data-dir.
    #[arg(hide = true)]
    directory: Option<PathBuf>,

    /// Kill a writer again and again, and see whether everything it was promised is there
    #[arg(long)]
    crash_test: bool,
}

/// Examines a directory.
///
/// # Errors
/// If a check failed.
pub(super) fn run(arguments: &DoctorArgs) -> anyhow::Result<()> {
    let directory = arguments.directory.as_ref().unwrap_or(&arguments.data_dir);
    let mut report = Report::default();
    let permissions = permissions(directory);
    let is_there = permissions.is_ok();
    report.note("directory", permissions)?;
    report.note("clock", clock())?;
    report.note("descriptors", Ok(descriptors()))?;
    if is_there {
        examine(&mut report, directory, arguments.crash_test)?;
    }
    ensure!(
        report.failed == 0,
        "{} failed",
        plural(report.failed, "check")
    );
    Ok(())
}

/// What can be said only of a directory that is there.
fn examine(report: &mut Report, directory: &Path, has_crash_test: bool) -> anyhow::Result<()> {
    let medium = || Medium::of(directory).context("cannot ask the file system");
    report.note("file system", medium().map(|medium| file_system(&medium)))?;
    report.note(
        "free space",
        medium().and_then(|medium| free_space(&medium)),
    )?;
    match Scratch::new(directory) {
        Err(error) => report.note("writing", Err(error))?,
        Ok(scratch) => {
            report.note("fdatasync", syncs(&scratch.0))?;
            if has_crash_test {
                let store = scratch.0.join("store");
                report.note("crash test", crash::test(&store).map(Note::Good))?;
            }
        }
    }
    Ok(())
}

/// What a check that did not fail found.
enum Note {
    Good(String),
    Doubtful(String),
}

impl Note {
    /// `text`, and `doubt` about it unless all is well.
    fn good_if(is_well: bool, text: String, doubt: &str) -> Self {
        if is_well {
            Self::Good(text)
        } else {
            Self::Doubtful(format!("{text}: {doubt}"))
        }
    }
}

#[derive(Default)]
struct Report {
    failed: u64,
}

impl Report {
    fn note(&mut self, what: &str, note: anyhow::Result<Note>) -> anyhow::Result<()> {
        let (mark, text) = match note {
            Ok(Note::Good(text)) => ("ok", text),
            Ok(Note::Doubtful(text)) => ("warn", text),
            Err(error) => {
                self.failed += 1;
                ("fail", format!("{error:#}"))
            }
        };
        let text = without_tokens(&text);
        unless_gone(writeln!(io::stdout(), "{mark:<5} {what:<12} {text}"))
    }
}

fn permissions(directory: &Path) -> anyhow::Result<Note> {
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there is no {}; examine the directory in which it is to be made",
            directory.display()
        ),
        metadata => metadata.with_context(|| format!("cannot see {}", directory.display()))?,
    };
    ensure!(
        metadata.is_dir(),
        "{} is not a directory",
        directory.display()
    );
    let mode = metadata.permissions().mode() & 0o7777;
    let text = format!("{}, mode {mode:04o}", directory.display());
    let exposures: Vec<_> = exposures(directory, Purpose::DataDirectory).collect();
    Ok(if exposures.is_empty() {
        Note::Good(text)
    } else {
        Note::Doubtful(exposures.join("; "))
    })
}

fn clock() -> anyhow::Result<Note> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let text = httpdate::fmt_http_date(SystemTime::now());
    let is_right = now.as_secs() >= CLOCK_MIN_SECONDS;
    let doubt = "the clock is wrong, and so will be all logs";
    Ok(Note::good_if(is_right, text, doubt))
}

fn descriptors() -> Note {
    let Some(maximum) = getrlimit(Resource::Nofile).maximum else {
        return Note::Good("no limit".into());
    };
    // `serve` leaves the store a quarter of them.
    let wanted = ConnectionLimits::default().all_connections_max() as u64 * 4 / 3;
    let doubt = format!("fewer connections than usual, which takes {wanted}");
    Note::good_if(maximum >= wanted, format!("up to {maximum}"), &doubt)
}

/// By the magic numbers of statfs(2).
fn file_system(medium: &Medium) -> Note {
    let (Some(magic), Some(name)) = (medium.file_system, medium.name()) else {
        return Note::Doubtful("not known on this platform".into());
    };
    let doubt = match magic {
        0xef53 | 0x5846_5342 => return Note::Good(name),
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 => "not safe, neither locks nor syncs can be relied on",
        0x9123_683e => "copies on write, so that room cannot be reserved; not tested",
        0x794c_7630 => "what is written here may be gone with its container",
        0x0102_1994 => "memory, which no loss of power spares",
        0x6573_5546 => "as safe as the program behind it",
        _ => "of a kind that was not tested",
    };
    Note::Doubtful(format!("{name}: {doubt}"))
}

fn free_space(medium: &Medium) -> anyhow::Result<Note> {
    let (free, floor) = (medium.free_bytes, medium.free_bytes_min);
    let text = format!("{} free", ByteSize(free));
    let floor_text = ByteSize(floor);
    if free < floor {
        bail!("{text}; new messages are refused below {floor_text}");
    }
    // Room for as much again.
    Ok(if free / 2 < floor {
        Note::Doubtful(format!(
            "{text}; new messages are refused below {floor_text}"
        ))
    } else {
        Note::Good(text)
    })
}

/// Whether what was written can be made durable, and how long that takes.
fn syncs(scratch: &Path) -> anyhow::Result<Note> {
    let mut times = time_syncs(scratch).context("cannot sync")?;
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).copied();
    let (median, slow) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
    let text = format!("median of {SYNCS}: {median:.0?}, 99 % within {slow:.0?}");
    Ok(if median < SYNC_IMPOSSIBLE {
        Note::Doubtful(format!(
            "{text}: no disk is that fast, nothing is made durable"
        ))
    } else if median > SYNC_SLOW {
        Note::Doubtful(format!("{text}: every write waits that long"))
    } else {
        Note::Good(text)
    })
}

fn time_syncs(scratch: &Path) -> io::Result<Vec<Duration>> {
    let file = File::create_new(scratch.join("sync"))?;
    let block = [0xdd; SYNC_BYTES];
    // As in a segment: the room is there before the first message comes.
    file.write_all_at(&block.repeat(SYNCS), 0)?;
    file.sync_all()?;
    let offsets = (0..).step_by(SYNC_BYTES).take(SYNCS);
    offsets
        .map(|offset| {
            let started = Instant::now();
            file.write_all_at(&block, offset)?;
            file.sync_data()?;
            Ok(started.elapsed())
        })
        .collect()
}

/// A directory that is gone with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(format!("doctor.{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIUM: Medium = Medium {
        file_system: Some(0xef53),
        free_bytes: 100 << 30,
        free_bytes_min: 2 << 30,
    };

    #[test]
    fn file_systems_that_were_not_tested_or_keep_nothing_are_doubtful() {
        assert!(matches!(file_system(&MEDIUM), Note::Good(_)));
        for magic in [0x6969, 0x9123_683e, 0x794c_7630, 0x0102_1994, 0xdead] {
            let medium = Medium {
                file_system: Some(magic),
                ..MEDIUM
            };
            assert!(
                matches!(file_system(&medium), Note::Doubtful(_)),
                "{magic:x}"
            );
        }
    }

    #[test]
    fn little_room_is_doubtful_and_too_little_fails() {
        let with = |free_bytes| {
            free_space(&Medium {
                free_bytes,
                ..MEDIUM
            })
        };
        assert!(matches!(with(4 << 30), Ok(Note::Good(_))));
        assert!(matches!(with((4 << 30) - 2), Ok(Note::Doubtful(_))));
        assert!(matches!(with(2 << 30), Ok(Note::Doubtful(_))));
        assert!(with((2 << 30) - 1).is_err());
    }
}
