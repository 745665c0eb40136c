//! Who besides the operator may read or write the files that a server depends on: one table for `serve`,
//! `doctor`, and the commands that show a token.
//!
//! That includes the directories above, in which a file can be replaced. What is in the files is not known
//! here. **Invariant:** nothing is said of what nobody can reach: of what a directory above shuts others out
//! of, of a secret that a supervisor mounts for this process alone.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{getegid, geteuid, getgroups};

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
const OTHERS_PASS: u32 = 0o001;

/// In such a directory only the owner of a file, and that of the directory, may rename or remove it.
const STICKY: u32 = 0o1000;

/// Links that are followed one after the other: as many as Linux follows.
const LINKS_MAX: usize = 40;

impl Purpose {
    /// The permissions that others should not have.
    const fn unwanted(self) -> u32 {
        match self {
            Self::DataDirectory | Self::Rules => GROUP_WRITE | OTHERS_WRITE,
            Self::Secret => GROUP_WRITE | OTHERS_WRITE | OTHERS_READ,
        }
    }
}

/// What is to be said of what is at `path`: a sentence if it is open to more than it should be, and one if it
/// can be replaced. Each says what mends it. A link is what it points to.
pub(super) fn exposures(path: &Path, purpose: Purpose) -> impl Iterator<Item = String> + use<> {
    let exposure = Exposure::of(path, purpose).map(|exposure| exposure.to_string());
    let replaceable = Replaceable::of(path).map(|replaceable| replaceable.to_string());
    exposure.into_iter().chain(replaceable)
}

/// A file or directory that is open to more than it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exposure {
    path: PathBuf,
    mode: u32,
    /// Those of [`Purpose::unwanted`] that somebody has.
    excess: u32,
}

impl Exposure {
    /// `None` if it is not, or not there.
    fn of(path: &Path, purpose: Purpose) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let mode = metadata.permissions().mode() & 0o7777;
        let mut excess = mode & purpose.unwanted();
        if is_own_group(metadata.gid()) {
            excess &= !GROUP_WRITE;
        }
        if !is_within_reach(path) {
            excess &= GROUP_WRITE;
        }
        if is_read_only(path) {
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

/// A file or directory that others may replace, since they may write a directory above it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replaceable {
    path: PathBuf,
    directory: PathBuf,
    mode: u32,
    by: Writer,
}

/// Who may write a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Owner(u32),
    /// Those of [`GROUP_WRITE`] and [`OTHERS_WRITE`] that somebody has.
    Mode(u32),
}

impl Replaceable {
    /// The nearest directory above what is at `path`, or above a link on the way there, in which others may
    /// put something else in its place; `None` if there is none, or nothing at `path`.
    fn of(path: &Path) -> Option<Self> {
        let owner = fs::metadata(path).ok()?.uid();
        directories_above(path).into_iter().find_map(|directory| {
            let metadata = fs::metadata(&directory).ok()?;
            let by = writer(&directory, &metadata, owner)?;
            Some(Self {
                path: path.to_owned(),
                directory,
                mode: metadata.permissions().mode() & 0o7777,
                by,
            })
        })
    }
}

/// Who may write a directory beside root, this process, and `owner`, who may change the file anyway.
fn writer(directory: &Path, metadata: &Metadata, owner: u32) -> Option<Writer> {
    const ROOT: u32 = 0;
    // What a user namespace shows for all users that it does not know, root outside among them.
    const UNKNOWN: u32 = 65_534;
    let mode = metadata.permissions().mode();
    let of_directory = metadata.uid();
    if is_read_only(directory) {
        return None;
    }
    if ![ROOT, UNKNOWN, geteuid().as_raw(), owner].contains(&of_directory) {
        return Some(Writer::Owner(of_directory));
    }
    let mut excess = mode & (GROUP_WRITE | OTHERS_WRITE);
    if is_own_group(metadata.gid()) {
        excess &= !GROUP_WRITE;
    }
    if mode & OTHERS_PASS == 0 || !is_within_reach(directory) {
        excess &= !OTHERS_WRITE;
    }
    (excess != 0 && mode & STICKY == 0).then_some(Writer::Mode(excess))
}

/// The directories that lead to `path`, the nearest first: those of its own name, and those of each link.
fn directories_above(path: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut next = path::absolute(path).ok();
    for _ in 0..LINKS_MAX {
        let Some(path) = next else { break };
        let Some(parent) = path.parent() else { break };
        let resolved = parent.canonicalize().unwrap_or_default();
        let above = resolved.ancestors().chain(parent.ancestors());
        directories.extend(above.map(Path::to_owned));
        next = fs::read_link(&path).ok().map(|target| parent.join(target));
    }
    directories
}

impl fmt::Display for Replaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, directory) = (self.path.display(), self.directory.display());
        match self.by {
            Writer::Owner(user) => write!(
                f,
                "{path} can be replaced: {directory} belongs to user {user}; mend that with chown, or keep it elsewhere"
            ),
            Writer::Mode(excess) => write!(
                f,
                "{path} can be replaced: {directory} has mode {:04o}: {} may write it; mend that with chmod {} {directory}",
                self.mode,
                who(excess),
                take(excess).join(","),
            ),
        }
    }
}

/// Who has these permissions.
fn who(permissions: u32) -> &'static str {
    let has = |bits: u32| permissions & bits != 0;
    match (has(GROUP_WRITE), has(OTHERS_READ | OTHERS_WRITE)) {
        (true, true) => "its group and others",
        (true, false) => "its group",
        _ => "others",
    }
}

/// The words for chmod(1) that take these permissions away.
fn take(permissions: u32) -> Vec<&'static str> {
    let has = |bits: u32| permissions & bits != 0;
    let group = has(GROUP_WRITE).then_some("g-w");
    let others = match (has(OTHERS_READ), has(OTHERS_WRITE)) {
        (true, true) => Some("o-rw"),
        (true, false) => Some("o-r"),
        (false, true) => Some("o-w"),
        (false, false) => None,
    };
    group.into_iter().chain(others).collect()
}

/// A sentence: what is wrong, and what mends it.
impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |bits: u32| self.excess & bits != 0;
        let what = match (has(OTHERS_READ), has(GROUP_WRITE | OTHERS_WRITE)) {
            (true, true) => "read and write",
            (true, false) => "read",
            _ => "write",
        };
        let (path, mode) = (self.path.display(), self.mode);
        let (who, take) = (who(self.excess), take(self.excess).join(","));
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

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether others may pass through all directories above.
fn is_within_reach(path: &Path) -> bool {
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
    fn a_directory_above_that_others_may_write_is_named_once_unless_it_is_sticky() {
        let top = open_directory();
        let middle = top.path().join("middle");
        let inner = middle.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let file = inner.join("token");
        fs::write(&file, "").unwrap();
        set_mode(&file, 0o600);
        let said = |modes: [u32; 2]| {
            for (directory, mode) in [&middle, &inner].into_iter().zip(modes) {
                set_mode(directory, mode);
            }
            let said: Vec<_> = exposures(&file, Purpose::Secret).collect();
            said.join("\n").replace(top.path().to_str().unwrap(), "T")
        };
        for modes in [
            [0o755, 0o755],
            // The group is this process's own.
            [0o775, 0o775],
            [0o1777, 0o755],
            [0o755, 0o1777],
            // Others do not get there, or have no permission to search it.
            [0o700, 0o777],
            [0o755, 0o776],
        ] {
            assert_eq!(said(modes), "", "{modes:?}");
        }
        for (modes, directory, mode) in [
            ([0o777, 0o755], "T/middle", "0777"),
            ([0o777, 0o1777], "T/middle", "0777"),
            ([0o755, 0o777], "T/middle/inner", "0777"),
            // The nearest, even if there are others.
            ([0o773, 0o773], "T/middle/inner", "0773"),
        ] {
            let expected = format!(
                "T/middle/inner/token can be replaced: {directory} has mode {mode}: others may write it; \
                 mend that with chmod o-w {directory}"
            );
            assert_eq!(said(modes), expected, "{modes:?}");
        }
    }

    #[test]
    fn the_directories_of_every_link_on_the_way_count() {
        let top = open_directory();
        let at = |name: &str| top.path().join(name);
        for name in ["first", "second", "third"] {
            fs::create_dir(at(name)).unwrap();
            set_mode(&at(name), 0o755);
        }
        fs::write(at("third/token"), "").unwrap();
        set_mode(&at("third/token"), 0o600);
        symlink(at("third/token"), at("second/link")).unwrap();
        symlink("../second/link", at("first/link")).unwrap();
        symlink(at("first"), at("directory")).unwrap();
        let path = at("directory/link");
        assert_eq!(Replaceable::of(&path), None);
        for name in ["first", "second", "third"] {
            set_mode(&at(name), 0o777);
            let found = Replaceable::of(&path).map(|found| found.directory);
            assert_eq!(found.unwrap().canonicalize().unwrap(), at(name), "{name}");
            set_mode(&at(name), 0o755);
        }
        // A circle ends.
        symlink("one", at("two")).unwrap();
        symlink("two", at("one")).unwrap();
        assert_eq!(Replaceable::of(&at("one")), None);
        assert!(directories_above(&at("one")).len() < 1000);
    }

    /// A directory that is read through links, which an update exchanges, in one that everybody may write;
    /// or one for the service alone.
    #[test]
    fn a_secret_laid_out_as_kubernetes_or_systemd_does_is_not_replaceable() {
        let top = open_directory();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("secret/..2026_01_01")).unwrap();
        fs::write(at("secret/..2026_01_01/token"), "").unwrap();
        set_mode(&at("secret/..2026_01_01/token"), 0o640);
        symlink("..2026_01_01", at("secret/..data")).unwrap();
        symlink("..data/token", at("secret/token")).unwrap();
        // With `fsGroup`, the group of the directory is set too.
        for (directory, inner) in [(0o1777, 0o755), (0o3777, 0o2755)] {
            set_mode(&at("secret"), directory);
            set_mode(&at("secret/..2026_01_01"), inner);
            let said: Vec<_> = exposures(&at("secret/token"), Purpose::Secret).collect();
            assert!(said.is_empty(), "{said:?}");
        }
        set_mode(&at("secret"), 0o777);
        assert!(Replaceable::of(&at("secret/token")).is_some());

        fs::create_dir(at("digestd.service")).unwrap();
        fs::write(at("digestd.service/token"), "").unwrap();
        for (path, mode) in [("digestd.service/token", 0o400), ("digestd.service", 0o500)] {
            set_mode(&at(path), mode);
        }
        let credential = at("digestd.service/token");
        assert_eq!(exposures(&credential, Purpose::Secret).count(), 0);
    }

    #[test]
    fn a_directory_of_another_user_is_said_unless_the_file_is_theirs_too() {
        let directory = open_directory();
        let metadata = fs::metadata(directory.path()).unwrap();
        let own = metadata.uid();
        assert_eq!(writer(directory.path(), &metadata, own), None);
        let of_root = fs::metadata("/").unwrap();
        assert_eq!(writer(Path::new("/"), &of_root, own + 1), None);
        let by = Replaceable {
            path: "F".into(),
            directory: "D".into(),
            mode: 0o755,
            by: Writer::Owner(12345),
        };
        let said = "F can be replaced: D belongs to user 12345; mend that with chown, or keep it elsewhere";
        assert_eq!(by.to_string(), said);
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
