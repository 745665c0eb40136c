//! The old files of a log, by number, compressed or not.
//!
//! It refuses to know what is in them. **Invariants:** of one number there is one file, but for the moment in which its
//! compressed one takes its place; numbers move under a lock, so that who works on a file finds its number.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::LogFileConfig;

/// What the name of an old file may end with, after its number.
const ENDINGS: [&str; 2] = ["", COMPRESSED];

const COMPRESSED: &str = ".gz";

/// What the name of a compressed file ends with until it is whole, in the place of its number too.
const UNFINISHED: &str = "gz.part";

/// The old files.
#[derive(Clone, Debug)]
pub(super) struct OldFiles {
    /// The log file.
    path: PathBuf,
    files_max: u32,
    numbers: Arc<Mutex<()>>,
}

impl OldFiles {
    pub(super) fn new(config: &LogFileConfig) -> Self {
        Self {
            path: config.path.clone(),
            files_max: config.files_max,
            numbers: Arc::default(),
        }
    }

    /// Makes the log file the newest of them; the oldest may have to go.
    pub(super) fn add(&self) -> io::Result<()> {
        let _numbers = self.lock();
        for number in (1..self.files_max).rev() {
            self.move_up(number)?;
        }
        fs::rename(&self.path, self.named(1, ""))?;
        // Left where there is one number only.
        remove(&self.named(1, COMPRESSED))
    }

    /// Gives the file of this number, if there is one, the next number, whatever had that.
    fn move_up(&self, number: u32) -> io::Result<()> {
        let mut left = Vec::new();
        for ending in ENDINGS {
            let (from, to) = (self.named(number, ending), self.named(number + 1, ending));
            match fs::symlink_metadata(&from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => left.push(to),
                Ok(found) if !found.is_file() => {
                    let error = format!("{} is no file", from.display());
                    return Err(io::Error::other(error));
                }
                found => found.and_then(|_| fs::rename(from, to))?,
            }
        }
        if left.len() < ENDINGS.len() {
            left.iter().try_for_each(|path| remove(path))?;
        }
        Ok(())
    }

    /// Those that are not compressed, the newest first.
    pub(super) fn uncompressed(&self) -> impl Iterator<Item = PathBuf> {
        let paths = (1..=self.files_max).map(|number| self.named(number, ""));
        paths.filter(|path| path.is_file())
    }

    /// Removes what a run that was killed left of a compressed file.
    pub(super) fn discard_unfinished(&self) {
        // If it cannot be removed, it is in nobody's way.
        let _ = remove(&self.unfinished());
    }

    /// Where a compressed file is made.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.beside(UNFINISHED)
    }

    /// Puts the compressed file, which is whole, in the place of `file`, wherever that is by now.
    pub(super) fn replace(&self, file: &File) -> io::Result<()> {
        let _numbers = self.lock();
        let wanted = identity(&file.metadata()?);
        let is_it = |number: &u32| {
            fs::metadata(self.named(*number, "")).is_ok_and(|found| identity(&found) == wanted)
        };
        match (1..=self.files_max).find(is_it) {
            Some(number) => {
                fs::rename(self.unfinished(), self.named(number, COMPRESSED))?;
                fs::remove_file(self.named(number, ""))
            }
            // It was the oldest meanwhile.
            None => remove(&self.unfinished()),
        }
    }

    fn named(&self, number: u32, ending: &str) -> PathBuf {
        self.beside(&format!("{number}{ending}"))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells a file from any other, whatever its name.
pub(super) fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;

    fn old_files(directory: &TempDir, files_max: u32) -> OldFiles {
        OldFiles::new(&LogFileConfig {
            path: directory.path().join("log"),
            bytes_max: 1,
            files_max,
            compress: true,
        })
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_number_that_is_missing_costs_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["log", "log.1.gz", "log.3"] {
            fs::write(directory.path().join(name), "a line\n").unwrap();
        }
        old_files(&directory, 3).add().unwrap();
        assert_eq!(names(&directory), ["log.1", "log.2.gz", "log.3"]);
    }

    #[test]
    fn a_compressed_file_takes_the_place_that_its_file_has_by_now() {
        for (rotations, expected) in [
            (0, &["log.1.gz"][..]),
            (1, &["log.1", "log.2.gz"]),
            // It is gone, as it would be without compression.
            (2, &["log.1", "log.2"]),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let old = old_files(&directory, 2);
            let write = |name: &str| {
                let mut file = File::create(directory.path().join(name)).unwrap();
                file.write_all(b"a line\n").unwrap();
            };
            write("log.1");
            let file = File::open(directory.path().join("log.1")).unwrap();
            for _ in 0..rotations {
                write("log");
                old.add().unwrap();
            }
            write("log.gz.part");
            old.replace(&file).unwrap();
            assert_eq!(names(&directory), expected);
        }
    }
}
