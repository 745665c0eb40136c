//! The log file, rotated by size: `digestd.log`, then `digestd.log.1`, the newest of the old ones, up
//! to a highest number; with `.gz` at its end if it was compressed. Knows bytes and line breaks, not what a line says.
//!
//! Own code, since none of the crates for this qualifies: `file-rotate` 0.8 splits lines at the limit,
//! or else exceeds it, and silently loses lines while the file cannot be opened; `tracing-appender`
//! 0.2 rotates by time only.
//!
//! A pipe or a device is written to as it is and never rotated: its name is not ours to move.
//!
//! **Invariants:** no line is split between two files: one that does not fit begins the next file. There are no more old
//! files than ordered, compressed or not.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;

use rustix::fs::{OFlags, fcntl_setfl};

use super::compression::compress_when_told;
use super::old_files::{OldFiles, identity};
use super::output::{Output, count_lines};
use crate::config::LogFileConfig;

/// Permissions of a new file.
const FILE_MODE: u32 = 0o600;

/// Permissions of a directory made for it.
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Debug)]
pub(super) struct LogFile {
    config: LogFileConfig,
    old: OldFiles,
    /// Wakes the thread that compresses old files.
    compression: Option<mpsc::SyncSender<()>>,
    /// `None` after an error, until it can be opened again.
    file: Option<File>,
    /// Whether it is a file that can be rotated.
    is_regular: bool,
    /// What is in it; of others, nothing.
    bytes: u64,
    /// It cannot be rotated, and that was said.
    is_stuck: bool,
}

impl LogFile {
    /// Opens it, or makes it.
    pub(super) fn open(config: &LogFileConfig) -> io::Result<Self> {
        let old = OldFiles::new(config);
        old.discard_unfinished();
        let compression = config.compress.then(|| compress_when_told(old.clone()));
        let mut log = Self {
            config: config.clone(),
            old,
            compression: compression.transpose()?,
            file: None,
            is_regular: false,
            bytes: 0,
            is_stuck: false,
        };
        log.file = Some(log.open_file()?);
        // Some may be left of the last run.
        log.tell_compression();
        Ok(log)
    }

    fn tell_compression(&self) {
        if let Some(compression) = &self.compression {
            // If it was told before and has not begun, that is enough.
            let _ = compression.try_send(());
        }
    }

    /// Makes the directory too, if there is none. Addresses of clients are for the owner alone, unless the operator
    /// made the file. Links are followed: it is the operator who names the file, `/dev/stderr` perhaps.
    fn open_file(&mut self) -> io::Result<File> {
        let directory = self.config.path.parent().unwrap_or(Path::new(""));
        if !directory.as_os_str().is_empty() && !directory.exists() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(DIRECTORY_MODE);
            builder.create(directory)?;
        }
        #[expect(clippy::cast_possible_wrap, reason = "a pattern of bits")]
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = File::options()
            .create(true)
            .append(true)
            .mode(FILE_MODE)
            .custom_flags(flags)
            .open(&self.config.path)
            .map_err(|error| explained(&self.config.path, error))?;
        let metadata = file.metadata()?;
        if metadata.file_type().is_block_device() {
            return Err(io::Error::other("it is a disk and no file"));
        }
        // Not to wait is for the opening alone: a pipe without a reader is an error there.
        fcntl_setfl(&file, OFlags::APPEND)?;
        self.is_regular = metadata.is_file();
        self.bytes = metadata.len();
        Ok(file)
    }

    /// Writes lines that fit.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open_file()?,
        };
        if let Err(error) = file.write_all(lines) {
            // Half a line may be there.
            let _ = file.set_len(self.bytes);
            return Err(error);
        }
        if self.is_regular {
            self.bytes += lines.len() as u64;
        }
        self.file = Some(file);
        Ok(())
    }

    /// The new file may be read by whom the old one may: an operator has reasons to let others see a log.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(metadata) = self.still_there() else {
            self.file = Some(self.open_file()?);
            return Ok(());
        };
        let permissions = metadata.permissions();
        self.old.add()?;
        self.file = None;
        let file = self.open_file()?;
        // It may be for too few to read then, never for too many.
        let _ = file.set_permissions(permissions);
        self.file = Some(file);
        self.tell_compression();
        Ok(())
    }

    /// What is known of the file, if its name still leads to it: it was not removed or moved away.
    fn still_there(&self) -> Option<fs::Metadata> {
        let open = self.file.as_ref()?.metadata().ok()?;
        let named = fs::metadata(&self.config.path).ok()?;
        (identity(&open) == identity(&named)).then_some(named)
    }

    /// Rotates the file. Where that fails, it is said, once: the file goes on growing.
    fn try_rotate(&mut self) -> bool {
        let result = self.rotate();
        if let Err(error) = &result
            && !self.is_stuck
        {
            let path = self.config.path.display();
            // Who runs the service sees standard error, and the log is what this is about.
            let _ = writeln!(
                io::stderr(),
                "digestd: cannot rotate {path}: {error}; it grows beyond its size until that is mended"
            );
        }
        self.is_stuck = result.is_err();
        result.is_ok()
    }

    /// How much of `lines` goes into the file as it is: whole lines, or nothing.
    fn fitting(&self, lines: &[u8]) -> usize {
        let room = self.config.bytes_max.saturating_sub(self.bytes);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        match lines.get(..room) {
            Some(start) => end_of_last_line(start),
            None => lines.len(),
        }
    }
}

/// Says what stands where the log file belongs, if that is why it cannot be opened.
fn explained(path: &Path, error: io::Error) -> io::Error {
    let Ok(kind) = fs::metadata(path).map(|found| found.file_type()) else {
        return error;
    };
    let said = if kind.is_dir() {
        "it is a directory; name a file in it"
    } else if kind.is_socket() {
        "it is a socket and no file"
    } else if kind.is_fifo() && error.kind() != io::ErrorKind::PermissionDenied {
        "it is a pipe that nobody reads; start its reader first"
    } else {
        return error;
    };
    io::Error::new(error.kind(), said)
}

fn end_of_last_line(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|&byte| byte == b'\n');
    last.map_or(0, |last| last + 1)
}

fn end_of_first_line(bytes: &[u8]) -> usize {
    let first = bytes.iter().position(|&byte| byte == b'\n');
    first.map_or(bytes.len(), |first| first + 1)
}

impl Output for LogFile {
    fn write_lines(&mut self, mut lines: &[u8]) -> u64 {
        while !lines.is_empty() {
            let mut bytes = self.fitting(lines);
            if bytes == 0 {
                if self.bytes > 0 && !self.try_rotate() {
                    // A file that is too large is better than no log.
                    bytes = lines.len();
                } else {
                    // A line that is longer than a file has one to itself.
                    bytes = self.fitting(lines).max(end_of_first_line(lines));
                }
            }
            let (now, later) = lines.split_at(bytes);
            if self.append(now).is_err() {
                return count_lines(lines);
            }
            lines = later;
        }
        0
    }

    fn reopen(&mut self) {
        // If it cannot be opened now, the next line tries again.
        self.file = self.open_file().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn log(directory: &TempDir, bytes_max: u64, files_max: u32) -> LogFile {
        LogFile::open(&LogFileConfig {
            path: directory.path().join("log"),
            bytes_max,
            files_max,
            compress: false,
        })
        .unwrap()
    }

    fn files(directory: &TempDir) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
        files.iter().map(owned).collect()
    }

    #[test]
    fn lines_that_fit_stay_together_and_the_next_one_begins_a_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(&directory, 6, 2);
        assert_eq!(log.write_lines(b"aa\nbb\ncc\n"), 0);
        assert_eq!(
            files(&directory),
            named(&[("log", "cc\n"), ("log.1", "aa\nbb\n")])
        );
        assert_eq!(log.write_lines(b"ddd\nee\n"), 0);
        assert_eq!(
            files(&directory),
            named(&[("log", "ee\n"), ("log.1", "ddd\n"), ("log.2", "cc\n")])
        );
    }

    #[test]
    fn compressed_files_are_numbered_and_counted_like_others() {
        for files_max in [1, 3] {
            let directory = tempfile::tempdir().unwrap();
            for name in ["log.1.gz", "log.2", "log.3.gz"] {
                fs::write(directory.path().join(name), name).unwrap();
            }
            let mut log = log(&directory, 3, files_max);
            assert_eq!(log.write_lines(b"aa\nbb\n"), 0);
            let expected = match files_max {
                1 => vec![
                    ("log", "bb\n"),
                    ("log.1", "aa\n"),
                    ("log.2", "log.2"),
                    ("log.3.gz", "log.3.gz"),
                ],
                _ => vec![
                    ("log", "bb\n"),
                    ("log.1", "aa\n"),
                    ("log.2.gz", "log.1.gz"),
                    ("log.3", "log.2"),
                ],
            };
            assert_eq!(files(&directory), named(&expected));
        }
    }

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/log");
        let config = LogFileConfig {
            path: path.clone(),
            bytes_max: 6,
            files_max: 1,
            compress: false,
        };
        assert_eq!(LogFile::open(&config).unwrap().write_lines(b"aa\n"), 0);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&directory.path().join("a")), 0o700);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        // One that is there is left as it is.
        fs::set_permissions(directory.path().join("a"), Permissions::from_mode(0o755)).unwrap();
        LogFile::open(&config).unwrap();
        assert_eq!(mode(&directory.path().join("a")), 0o755);
    }

    #[test]
    fn a_file_or_directory_that_was_removed_is_made_again_when_the_file_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/log");
        let mut log = LogFile::open(&LogFileConfig {
            path: path.clone(),
            bytes_max: 3,
            files_max: 1,
            compress: false,
        })
        .unwrap();
        for is_directory in [false, true] {
            assert_eq!(log.write_lines(b"aa\n"), 0);
            if is_directory {
                fs::remove_dir_all(path.parent().unwrap()).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            assert_eq!(log.write_lines(b"bb\n"), 0);
            assert_eq!(fs::read_to_string(&path).unwrap(), "bb\n");
        }
    }

    #[test]
    fn a_file_that_cannot_be_rotated_grows_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let foreign = directory.path().join("log.1");
        fs::create_dir(&foreign).unwrap();
        let mut log = log(&directory, 3, 2);
        assert_eq!(log.write_lines(b"aa\nbb\ncc\n"), 0);
        assert!(log.is_stuck);
        assert!(foreign.is_dir());
        fs::remove_dir(&foreign).unwrap();
        assert_eq!(log.write_lines(b"dd\n"), 0);
        assert!(!log.is_stuck);
        let expected = named(&[("log", "dd\n"), ("log.1", "aa\nbb\ncc\n")]);
        assert_eq!(files(&directory), expected);
    }

    #[test]
    fn a_line_longer_than_a_file_has_one_to_itself() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(&directory, 6, 3);
        assert_eq!(log.write_lines(b"aa\nlonger than that\nbb\n"), 0);
        assert_eq!(
            files(&directory),
            named(&[
                ("log", "bb\n"),
                ("log.1", "longer than that\n"),
                ("log.2", "aa\n")
            ])
        );
    }

    #[test]
    fn a_file_of_an_earlier_run_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(log(&directory, 6, 1).write_lines(b"aa\n"), 0);
        let mut log = log(&directory, 6, 1);
        assert_eq!(log.write_lines(b"bb\ncc\n"), 0);
        assert_eq!(
            files(&directory),
            named(&[("log", "cc\n"), ("log.1", "aa\nbb\n")])
        );
    }

    #[test]
    fn a_file_that_was_moved_away_is_created_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(&directory, 100, 1);
        log.write_lines(b"aa\n");
        fs::rename(
            directory.path().join("log"),
            directory.path().join("elsewhere"),
        )
        .unwrap();
        log.write_lines(b"bb\n");
        log.reopen();
        log.write_lines(b"cc\n");
        assert_eq!(
            files(&directory),
            named(&[("elsewhere", "aa\nbb\n"), ("log", "cc\n")])
        );
    }

    #[test]
    fn a_file_is_for_its_owner_alone_unless_the_operator_says_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        let mut log = log(&directory, 6, 2);
        assert_eq!(mode(), 0o600);
        log.write_lines(b"aa\nbb\ncc\n");
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        log.write_lines(b"dd\nee\n");
        assert!(directory.path().join("log.2").exists());
        assert_eq!(mode(), 0o640);
    }

    #[test]
    fn a_link_is_the_choice_of_the_operator() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path().join("lines"), directory.path().join("log")).unwrap();
        log(&directory, 6, 2).write_lines(b"aa\n");
        assert_eq!(files(&elsewhere), named(&[("lines", "aa\n")]));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_next_ones_tried() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(&directory, 100, 1);
        let path = directory.path().join("log");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.reopen();
        assert_eq!(log.write_lines(b"aa\nbb\n"), 2);
        fs::remove_dir(&path).unwrap();
        assert_eq!(log.write_lines(b"cc\n"), 0);
        assert_eq!(files(&directory), named(&[("log", "cc\n")]));
    }
}
