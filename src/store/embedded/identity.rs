//! The identity of a log: 16 random bytes in `log/ID`, as 32 hexadecimal digits and a newline.
//!
//! It is made with the log, and by every compaction again, since that moves records; a backup has the one
//! of its source. So two logs with the same identity have the same records at the same positions, as far
//! as both go, unless a copy was served and went its own way.
//!
//! A log of version 0.1.0 has none, and gets one when it is opened for writing. So does a log whose identity was lost or
//! damaged: it costs a new backup and nothing else. A start warns of that, `verify` finds it, and a backup says that it
//! cannot.

use std::io;
use std::path::Path;

use super::disk;

/// The name of its file.
pub(super) const NAME: &str = "ID";

/// What no other log is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u128);

/// Whether a log has an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Good,
    /// There is no file.
    Missing,
    /// There is one that is no identity, or cannot be read.
    Damaged,
}

impl Presence {
    /// That of the log in `directory`.
    pub(super) fn of(directory: &Path) -> Self {
        match Identity::read(directory) {
            Ok(Some(_)) => Self::Good,
            Ok(None) if !directory.join(NAME).is_symlink() && !directory.join(NAME).exists() => {
                Self::Missing
            }
            _ => Self::Damaged,
        }
    }
}

impl Identity {
    /// One that no log has.
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    /// That of the log in `directory`; `None` if there is no good one.
    ///
    /// # Errors
    /// If there is a file that cannot be read.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let text = disk::read_if_there(&directory.join(NAME))?.unwrap_or_default();
        let number = u128::from_str_radix(text.trim_end(), 16).ok();
        let identity = number.map(Self);
        Ok(identity.filter(|identity| identity.print() == text))
    }

    /// Makes it that of the log in `directory`; durable on return.
    pub(super) fn write(self, directory: &Path) -> io::Result<()> {
        disk::replace(directory, NAME, &self.print())
    }

    fn print(self) -> String {
        format!("{:032x}\n", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_identity_reads_back_and_anything_else_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let read = || Identity::read(directory.path()).unwrap();
        assert_eq!(read(), None);
        for identity in [
            Identity(0),
            Identity(u128::MAX),
            Identity::random().unwrap(),
        ] {
            identity.write(directory.path()).unwrap();
            assert_eq!(read(), Some(identity));
        }
        let good = Identity(7).print();
        let upper = Identity(0xab).print().to_uppercase();
        for text in [
            "",
            "7\n",
            &good[1..],
            &good[..32],
            &format!("+{}", &good[1..]),
            &upper,
        ] {
            fs::write(directory.path().join(NAME), text).unwrap();
            assert_eq!(read(), None, "{text:?}");
        }
    }
}
