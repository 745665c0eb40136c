//! A note beside the lock: a few words of the process that holds a data directory, for other programs of its
//! machine.
//!
//! The store does not read what it says. **Invariant:** a note is of the holder that it names. The lock names
//! the holder too, and that changes with the holder; so what one left that was killed is no note of the next.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::directory::{DataDirectory, LOCK_NAME, NOTE_NAME, OpenError};
use super::disk;

/// What is between the holder and its words.
const SEPARATOR: &str = "\n\n";

/// The note of this process.
#[derive(Debug)]
pub struct Note {
    directory: PathBuf,
    holder: String,
}

impl DataDirectory {
    /// A note in it, not yet written. What an earlier holder left is removed.
    #[must_use]
    pub fn note(&self) -> Note {
        // Ignored by readers, too, if it stays.
        let _ = fs::remove_file(self.path.join(NOTE_NAME));
        Note {
            directory: self.path.clone(),
            holder: holder(&self.path).ok().flatten().unwrap_or_default(),
        }
    }
}

impl Note {
    /// Replaces it by `text`, whole or not at all; it need not survive the machine. Two system calls beside those
    /// of the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let aside = self.directory.join(format!("{NOTE_NAME}.new"));
        let mut file = disk::create(&aside)?;
        let text = [&self.holder, SEPARATOR, text].concat();
        file.write_all(text.as_bytes())?;
        fs::rename(&aside, self.directory.join(NOTE_NAME))
    }
}

/// What the last holder of `directory` wrote; `None` if it wrote nothing. It may have ended since: see [`is_held`].
///
/// # Errors
/// If there is something that cannot be read, or is no note.
pub fn read_note(directory: &Path) -> Result<Option<String>, OpenError> {
    let path = directory.join(NOTE_NAME);
    let Some(note) = read_if_there(&path)? else {
        return Ok(None);
    };
    let whole = note.split_once(SEPARATOR).filter(|(of, _)| !of.is_empty());
    let Some((of, text)) = whole else {
        let reason = io::Error::new(io::ErrorKind::InvalidData, "it is not what a server writes");
        return Err(reading(&path)(reason));
    };
    let is_current = holder(directory)?.as_deref() == Some(of);
    Ok(is_current.then(|| text.to_owned()))
}

fn read_if_there(path: &Path) -> Result<Option<String>, OpenError> {
    let text = disk::read_if_there(path);
    text.map_err(reading(path))
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    OpenError::io(format!("read {}", path.display()))
}

/// Whether a process has `directory` for itself. If none has, one that starts at the very same moment may be
/// refused; so it is asked only where the answer is expected to be yes.
#[must_use]
pub fn is_held(directory: &Path) -> bool {
    let lock = disk::open(&directory.join(LOCK_NAME), OpenOptions::new().read(true));
    let shared = lock.map(|lock| lock.try_lock_shared());
    matches!(shared, Ok(Err(TryLockError::WouldBlock)))
}

/// What the last holder says of itself in the lock.
fn holder(directory: &Path) -> Result<Option<String>, OpenError> {
    let text = read_if_there(&directory.join(LOCK_NAME))?;
    Ok(text.map(|text| text.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(path: &Path) -> DataDirectory {
        DataDirectory::claim(path, 1 << 20).unwrap()
    }

    #[test]
    fn a_note_is_read_as_it_was_written_last() {
        let directory = tempfile::tempdir().unwrap();
        let claimed = claim(directory.path());
        let note = claimed.note();
        assert_eq!(read_note(directory.path()).unwrap(), None);
        for text in ["one\n", "", "two\n\nthree\n"] {
            note.write(text).unwrap();
            assert_eq!(read_note(directory.path()).unwrap().as_deref(), Some(text));
        }
        assert!(is_held(directory.path()));
        drop(claimed);
        assert!(!is_held(directory.path()));
    }

    #[test]
    fn what_an_earlier_holder_left_is_not_the_note_of_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let claimed = claim(directory.path());
        claimed.note().write("old").unwrap();
        drop(claimed);
        // Killed: nobody took it away. The next holder has another name.
        fs::write(directory.path().join(LOCK_NAME), "pid 1\nstarted later\n").unwrap();
        assert_eq!(read_note(directory.path()).unwrap(), None);
        // One that has the same name, within the same second, and notes nothing.
        let claimed = claim(directory.path());
        let left = format!(
            "{}{SEPARATOR}old",
            holder(directory.path()).unwrap().unwrap()
        );
        fs::write(directory.path().join(NOTE_NAME), left).unwrap();
        let _ = claimed.note();
        assert_eq!(read_note(directory.path()).unwrap(), None);
    }

    #[test]
    fn half_a_note_is_an_error_and_a_directory_without_one_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_note(directory.path()).unwrap(), None);
        assert!(!is_held(directory.path()));
        let _claimed = claim(directory.path());
        for text in ["", "\n\n", "pid", "\n\nhttp 127.0.0.1:1\n", "\0\0\0\0"] {
            fs::write(directory.path().join(NOTE_NAME), text).unwrap();
            let error = read_note(directory.path()).unwrap_err().to_string();
            assert!(error.contains("/NOTE: it is not what"), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let claimed = claim(directory.path());
        claimed.note().write("one").unwrap();
        for name in [LOCK_NAME, NOTE_NAME] {
            fs::write(directory.path().join(name), b"\xff").unwrap();
            let error = read_note(directory.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("/{name}: ")), "{error}");
        }
    }
}
