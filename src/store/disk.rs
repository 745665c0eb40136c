//! What the store asks of a file system beyond reading and writing: a file replaced in one step, a
//! directory entry made durable, room reserved, room left, a directory held by one process.
//!
//! It knows nothing of messages. Calls that not every platform has stand here and nowhere else,
//! each with what is done where it is missing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with, statvfs};
use rustix::io::Errno;

/// Permissions of the files of a store: messages are the owner's business.
const FILE_MODE: u32 = 0o600;

/// The same for directories.
const DIRECTORY_MODE: u32 = 0o700;

/// Makes a directory, and those above it, for nobody else to look into, and makes the entries of new
/// ones durable; one that is there stays as it is.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if !path.is_dir() {
        parent.map_or(Ok(()), create_directory)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => sync_directory(parent.unwrap_or(Path::new("."))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces `directory/name` by a file with this content, whole or not at all, durable on return:
/// written aside, synced, renamed, directory synced.
pub(super) fn replace(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let aside = directory.join(format!("{name}.new"));
    let mut file = create(&aside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, directory.join(name))?;
    sync_directory(directory)
}

/// Exchanges two files or directories in one step. Fails where platform or file system cannot.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Creates an empty file for reading and writing, or empties the one that is there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Makes the entries of `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Gives `file` the length `bytes` and reserves its blocks, so that no later write inside that
/// length meets a full disk. New bytes read as zeros. Where the file system cannot reserve (some
/// network and copy-on-write ones), zeros are written instead.
pub(super) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => file.set_len(bytes),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => write_zeros(file, bytes),
        Err(error) => Err(error.into()),
    }
}

/// Turns `bytes` bytes of `file` from `offset` on into zeros, and gives their blocks back. Where the file
/// system cannot do that, zeros are written over them. Durable once the file is synced.
pub(super) fn erase(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    match fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        bytes,
    ) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        punched => return Ok(punched?),
    }
    overwrite(file, offset, bytes)
}

/// Writes zeros over what is there.
pub(super) fn overwrite(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let end = offset.saturating_add(bytes);
    let mut at = offset;
    while at < end {
        let length = (end - at).min(ZEROS.len() as u64);
        let zeros = ZEROS.get(..usize::try_from(length).unwrap_or(ZEROS.len()));
        file.write_all_at(zeros.unwrap_or(&ZEROS), at)?;
        at += length;
    }
    Ok(())
}

/// Gives `file` the length `bytes` by writing zeros behind what is there.
fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let length = file.metadata()?.len();
    overwrite(file, length, bytes.saturating_sub(length))
}

/// Room on the file system of a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// Bytes an unprivileged process can still write.
    pub(super) free: u64,
    /// Bytes in all.
    pub(super) total: u64,
}

impl Space {
    /// Bytes below which new messages are refused unless the operator says otherwise.
    pub(super) fn floor(self) -> u64 {
        (self.total / 50).max(256 << 20)
    }
}

/// The room on the file system that holds `directory`. One system call.
pub(super) fn space(directory: &Path) -> io::Result<Space> {
    let answer = statvfs(directory)?;
    Ok(Space {
        free: answer.f_bavail.saturating_mul(answer.f_frsize),
        total: answer.f_blocks.saturating_mul(answer.f_frsize),
    })
}

/// What kind of file system holds `directory`, by the magic number of statfs(2); `None` where a
/// platform does not say.
pub(super) fn file_system(directory: &Path) -> io::Result<Option<u64>> {
    #[cfg(target_os = "linux")]
    {
        let kind = rustix::fs::statfs(directory)?.f_type;
        #[expect(clippy::cast_sign_loss, reason = "a pattern of 32 bits")]
        Ok(Some(kind as u64 & 0xffff_ffff))
    }
    #[cfg(not(target_os = "linux"))]
    {
        directory.metadata().map(|_| None)
    }
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Blocks, inodes or quota of the disk.
    Room,
    /// File descriptors of the process or the machine.
    Descriptors,
}

/// Whether an error says that there is too little of something, rather than that something broke.
pub(super) fn lack(error: &io::Error) -> Option<Lack> {
    match Errno::from_io_error(error)? {
        Errno::NOSPC | Errno::DQUOT => Some(Lack::Room),
        Errno::MFILE | Errno::NFILE => Some(Lack::Descriptors),
        _ => None,
    }
}

/// A data directory held by this process, until dropped or dead: the lock is the kernel's
/// (`flock`), the file only tells others who holds it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Why a lock was not had.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process holds it; what it wrote about itself.
    Held(String),
    /// The file could not be opened, locked or written.
    Io(io::Error),
}

impl Lock {
    /// Takes the lock at `path` or says who has it; never waits.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // A holder that has not written its lines yet is still a holder.
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Held(holder));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        let holder = format!(
            "pid {}\nstarted {}\n",
            std::process::id(),
            httpdate::fmt_http_date(SystemTime::now())
        );
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(holder.as_bytes()));
        match written {
            // On a full disk the lock holds, only its holder has no name.
            Err(error) if lack(&error).is_none() => Err(LockError::Io(error)),
            _ => Ok(Self { _file: file }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_refused_while_held_and_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let held = Lock::take(&path).unwrap();
        let Err(LockError::Held(holder)) = Lock::take(&path) else {
            panic!("the second lock was had");
        };
        assert!(holder.starts_with(&format!("pid {}\n", std::process::id())));
        drop(held);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_directory_is_made_with_those_above_it_unless_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        create_directory(&path).unwrap();
        create_directory(&path).unwrap();
        fs::write(path.join("file"), "").unwrap();
        for path in [path.join("file"), path.join("file/d")] {
            assert!(create_directory(&path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        replace(directory.path(), "name", "old").unwrap();
        replace(directory.path(), "name", "new").unwrap();
        let content = fs::read_to_string(directory.path().join("name")).unwrap();
        assert_eq!(content, "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn punched_and_overwritten_bytes_read_as_zeros_and_nothing_beside_them() {
        let directory = tempfile::tempdir().unwrap();
        for erase in [erase, overwrite] {
            let path = directory.path().join("file");
            for (offset, bytes) in [(0, 0), (56, 1), (8, 9000), (4096, 7000), (11_999, 1)] {
                fs::write(&path, [0xee; 12_000]).unwrap();
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                erase(&file, offset as u64, bytes as u64).unwrap();
                let mut expected = vec![0xee; 12_000];
                expected[offset..offset + bytes].fill(0);
                assert!(fs::read(&path).unwrap() == expected, "{offset} {bytes}");
            }
        }
    }

    #[test]
    fn reserved_and_written_zeros_read_the_same() {
        let directory = tempfile::tempdir().unwrap();
        for fill in [reserve, write_zeros] {
            let mut file = create(&directory.path().join("file")).unwrap();
            file.write_all(b"head").unwrap();
            fill(&file, 10_000).unwrap();
            let content = fs::read(directory.path().join("file")).unwrap();
            assert_eq!(content.len(), 10_000);
            assert!(content.starts_with(b"head\0"));
            assert!(content.iter().skip(4).all(|&byte| byte == 0));
        }
    }
}
