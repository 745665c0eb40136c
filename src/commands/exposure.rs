//! Who besides the operator may read or write the files that a server depends on: one table for `serve`,
//! `doctor`, and the commands that show a token.
//!
//! It refuses to know what is in the files. **Invariant:** nothing is said of what nobody can reach: of what a
//! directory above shuts others out, of a secret that a supervisor mounts for this process alone.

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{getegid, getgroups};

use crate::store::Medium;

/// What a file or directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Holds the store, whose files are for their owner alone: others may see their names.
    DataDirectory,
    /// Says who may come in, and is no secret: tokens stand there by their digests.
    Rules,
    /// A key or a token. That its group may read it is how keys are handed to services.
    Secret,
}

const GROUP_WRITE: u32 = 0o020;
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;

impl Purpose {
    /// The permissions that others should not have.
    const fn unwanted(self) -> u32 {
        match self {
            Self::DataDirectory | Self::Rules => GROUP_WRITE | OTHERS_WRITE,
            Self::Secret => GROUP_WRITE | OTHERS_WRITE | OTHERS_READ,
        }
    }
}

/// A file or directory that is open to more than it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exposure {
    path: PathBuf,
    mode: u32,
    /// Those of [`Purpose::unwanted`] that somebody has.
    excess: u32,
}

impl Exposure {
    /// How what is at `path` is open to more than it should be; `None` if it is not, or not there. A link is
    /// what it points to.
    pub(super) fn of(path: &Path, purpose: Purpose) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let mode = metadata.permissions().mode() & 0o7777;
        let mut excess = mode & purpose.unwanted();
        if is_own_group(metadata.gid()) {
            excess &= !GROUP_WRITE;
        }
        if !is_within_reach(path) {
            excess &= GROUP_WRITE;
        }
        if statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            // In memory it is a secret of systemd, Kubernetes or Docker, mounted where nobody else looks.
            excess &= if is_in_memory(path) { 0 } else { OTHERS_READ };
        }
        (excess != 0).then(|| Self {
            path: path.to_owned(),
            mode,
            excess,
        })
    }
}

/// A sentence: what is wrong, and what mends it.
impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |bits: u32| self.excess & bits != 0;
        let who = match (has(GROUP_WRITE), has(OTHERS_READ | OTHERS_WRITE)) {
            (true, true) => "its group and others",
            (true, false) => "its group",
            _ => "others",
        };
        let what = match (has(OTHERS_READ), has(GROUP_WRITE | OTHERS_WRITE)) {
            (true, true) => "read and write",
            (true, false) => "read",
            _ => "write",
        };
        let group = has(GROUP_WRITE).then_some("g-w");
        let others = match (has(OTHERS_READ), has(OTHERS_WRITE)) {
            (true, true) => Some("o-rw"),
            (true, false) => Some("o-r"),
            (false, true) => Some("o-w"),
            (false, false) => None,
        };
        let take: Vec<_> = group.into_iter().chain(others).collect();
        let (path, mode, take) = (self.path.display(), self.mode, take.join(","));
        write!(
            f,
            "{path} has mode {mode:04o}: {who} may {what} it; mend that with chmod {take} {path}"
        )
    }
}

/// Whether this process is in the group: a volume that Kubernetes gives to `fsGroup`, a user's own group.
fn is_own_group(group: u32) -> bool {
    let groups = getgroups().unwrap_or_default();
    getegid().as_raw() == group || groups.iter().any(|own| own.as_raw() == group)
}

/// Whether others may pass through all directories above.
fn is_within_reach(path: &Path) -> bool {
    const OTHERS_PASS: u32 = 0o001;
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    path.ancestors().skip(1).all(|directory| {
        let metadata = fs::metadata(directory);
        metadata.is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_PASS != 0)
    })
}

/// Whether the file system is tmpfs or ramfs, by the magic numbers of statfs(2).
fn is_in_memory(path: &Path) -> bool {
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let file_system = Medium::of(path).ok().and_then(|medium| medium.file_system);
    file_system.is_some_and(|magic| IN_MEMORY.contains(&magic))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A directory through which others may pass.
    fn open_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        directory
    }

    #[test]
    fn what_others_may_do_is_said_with_what_mends_it() {
        let directory = open_directory();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let link = directory.path().join("link");
        symlink(&file, &link).unwrap();
        let said = |purpose, mode| {
            set_mode(&file, mode);
            let exposure = Exposure::of(&link, purpose);
            exposure.map(|exposure| exposure.to_string().replace(link.to_str().unwrap(), "F"))
        };
        for (purpose, mode, expected) in [
            (Purpose::Secret, 0o640, None),
            (
                Purpose::Secret,
                0o644,
                Some("others may read it; mend that with chmod o-r F"),
            ),
            (
                Purpose::Secret,
                0o666,
                Some("others may read and write it; mend that with chmod o-rw F"),
            ),
            (Purpose::Rules, 0o644, None),
            (
                Purpose::Rules,
                0o646,
                Some("others may write it; mend that with chmod o-w F"),
            ),
            (Purpose::DataDirectory, 0o755, None),
            (
                Purpose::DataDirectory,
                0o757,
                Some("others may write it; mend that with chmod o-w F"),
            ),
            // The group is this process's own.
            (Purpose::Rules, 0o664, None),
        ] {
            let expected = expected.map(|text| format!("F has mode {mode:04o}: {text}"));
            assert_eq!(said(purpose, mode), expected, "{purpose:?} {mode:o}");
        }
    }

    #[test]
    fn a_group_that_may_write_is_said_too() {
        let exposure = |excess| Exposure {
            path: "F".into(),
            mode: 0o666,
            excess,
        };
        for (excess, said) in [
            (
                GROUP_WRITE,
                "its group may write it; mend that with chmod g-w F",
            ),
            (
                GROUP_WRITE | OTHERS_WRITE,
                "its group and others may write it; mend that with chmod g-w,o-w F",
            ),
        ] {
            let text = exposure(excess).to_string();
            assert!(text.ends_with(said), "{text}");
        }
    }

    #[test]
    fn what_others_cannot_reach_or_is_not_there_is_not_exposed() {
        let directory = open_directory();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("file");
        assert_eq!(Exposure::of(&file, Purpose::Secret), None);
        fs::write(&file, "").unwrap();
        set_mode(&file, 0o666);
        for (mode, is_exposed) in [(0o755, true), (0o751, true), (0o750, false), (0o700, false)] {
            set_mode(&inner, mode);
            let exposure = Exposure::of(&file, Purpose::Secret);
            assert_eq!(exposure.is_some(), is_exposed, "{mode:o}");
        }
    }
}
