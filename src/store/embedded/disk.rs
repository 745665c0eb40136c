//! What the store asks of a file system beyond reading and writing: a file replaced in one step, a
//! directory entry made durable, room reserved, room left, a directory held by one process.
//!
//! It knows nothing of messages. Calls that not every platform has stand here and nowhere else,
//! each with what is done where it is missing.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags, fallocate, renameat_with, statvfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

/// Permissions of the files of a store: messages are the owner's business.
const FILE_MODE: u32 = 0o600;

/// The same for directories.
pub(super) const DIRECTORY_MODE: u32 = 0o700;

/// The smallest part of a disk that is readable or not, in bytes.
const SECTOR_BYTES: usize = 512;

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

/// Makes sure that `name` in this directory can be exchanged with another in one step: that it is on the same
/// file system, and that two empty ones can be.
pub(super) fn try_exchange(directory: &Path, name: &str) -> io::Result<()> {
    if fs::metadata(directory.join(name))?.dev() != fs::metadata(directory)?.dev() {
        return Err(io::ErrorKind::CrossesDevices.into());
    }
    let names = ["exchange.1.new", "exchange.2.new"].map(|name| directory.join(name));
    let [one, other] = &names;
    let tried = create_directory(one)
        .and_then(|()| create_directory(other))
        .and_then(|()| exchange(one, other));
    for name in &names {
        remove(name)?;
    }
    tried
}

/// Exchanges two files or directories in one step. Fails where platform or file system cannot.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Creates an empty file for reading and writing, or empties the one that is there. It belongs to the
/// owner of its directory.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = open_alone(path)?;
    file.set_len(0)?;
    give_to_owner_above(path)?;
    Ok(file)
}

/// Opens a file of the store's own for reading and writing, or creates it. One with another name, perhaps in
/// the home of somebody else, is refused.
fn open_alone(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = open(path, options.read(true).write(true).create(true))?;
    if file.metadata()?.nlink() > 1 {
        return Err(not_a_file(path, "a file that has another name too"));
    }
    Ok(file)
}

/// Opens a file of the store's own. One that is a link to another is refused: the store has no business
/// with what it points to.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[expect(clippy::cast_possible_wrap, reason = "a pattern of bits")]
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = options.mode(FILE_MODE).custom_flags(flags).open(path);
    let file = file.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => not_a_file(path, "a symbolic link"),
        _ => error,
    })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_a_file(path, "no regular file"))
    }
}

fn not_a_file(path: &Path, what: &str) -> io::Error {
    let text = format!(
        "{} is {what}, which a store does not touch; put the file itself there",
        path.display()
    );
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Reads a small file of the store's own; see [`open`].
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path, OpenOptions::new().read(true))?.read_to_string(&mut text)?;
    Ok(text)
}

/// The same; `None` if there is no such file.
pub(super) fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Gives what root makes in a directory to the owner of the directory, who could not use it otherwise.
/// Nothing happens if this process is not root, or may not give files away.
pub(super) fn give_to_owner_above(path: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
    let made = fs::symlink_metadata(path)?;
    // A file with another name was not made here.
    let is_linked = made.is_file() && made.nlink() > 1;
    if is_linked || (made.uid(), made.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    let given = lchown(path, Some(owner.uid()), Some(owner.gid()));
    match given.as_ref().map_err(Errno::from_io_error) {
        Err(Some(Errno::PERM | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => Ok(()),
        _ => given,
    }
}

/// The same for a directory and everything in it, or for a file.
pub(super) fn give_all_to_owner_above(directory: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    give_to_owner_above(directory)?;
    if !directory.is_dir() || directory.is_symlink() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Belongs to the file system.
        if entry.file_name() != "lost+found" {
            give_all_to_owner_above(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file, a link, or a directory with everything in it; nothing if it is not there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Fills `buffer` from `offset` of `file`; what is past the end of the file is left as it is. Returns
/// which parts of it the disk cannot read any more: they are left as they are too.
///
/// # Errors
/// Those that say nothing of a single sector.
pub(super) fn read_around(
    file: &File,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<Vec<Range<usize>>> {
    let mut unreadable = Vec::new();
    let mut filled = 0;
    // What is read at once: halved until it is a sector that cannot be read, since each try may take the
    // disk seconds; then from a sector on doubled again, since a sector is seldom bad alone.
    let mut step = buffer.len();
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset + filled as u64;
        #[expect(clippy::cast_possible_truncation, reason = "less than a sector")]
        let sector = SECTOR_BYTES - (at % SECTOR_BYTES as u64) as usize;
        // To the border of a sector.
        let sectors = step.saturating_sub(sector) / SECTOR_BYTES;
        let length = (sector + sectors * SECTOR_BYTES).min(rest.len());
        match file.read_at(rest.split_at_mut(length).0, at) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                step = step.saturating_mul(2);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if !is_unreadable(&error) => return Err(error),
            Err(_) if length > sector => step = length / 2,
            Err(_) => {
                unreadable.push(filled..filled + length);
                filled += length;
                step = SECTOR_BYTES;
            }
        }
    }
    Ok(unreadable)
}

/// Whether an error says that the disk cannot give back what was written to one place: a bad sector, or a
/// checksum of the file system.
fn is_unreadable(error: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    const UNREADABLE: [Errno; 5] = [
        Errno::IO,
        Errno::NODATA,
        Errno::BADMSG,
        Errno::ILSEQ,
        Errno::UCLEAN,
    ];
    #[cfg(not(target_os = "linux"))]
    const UNREADABLE: [Errno; 1] = [Errno::IO];
    Errno::from_io_error(error).is_some_and(|errno| UNREADABLE.contains(&errno))
}

/// Makes the entries of `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    let synced = File::open(directory)?.sync_all();
    synced.map_err(|error| match Errno::from_io_error(&error) {
        // SMB and some file systems of FUSE.
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => cannot_sync(directory, &error),
        _ => error,
    })
}

/// The error where a file system refuses to sync directories.
fn cannot_sync(directory: &Path, error: &io::Error) -> io::Error {
    let magic = file_system(directory).ok().flatten();
    let name = magic.map_or("of an unknown kind".into(), file_system_name);
    let directory = directory.display();
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "{error}; the file system of {directory} ({name}) does not make the names of files durable, without \
             which a store is lost with the power; choose a local one such as ext4 or xfs, `digestd doctor \
             {directory}` examines it"
        ),
    )
}

/// Gives `file` the length `bytes` and reserves its blocks, so that no later write inside that
/// length meets a full disk. New bytes read as zeros. Where the file system cannot reserve (some
/// network and copy-on-write ones), zeros are written instead.
pub(super) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
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
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    #[cfg(target_os = "linux")]
    match retry_on_intr(|| fallocate(file, hole, offset, bytes)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        punched => return Ok(punched?),
    }
    overwrite(file, offset, bytes)
}

/// Writes zeros over what is there.
#[expect(
    clippy::indexing_slicing,
    reason = "no more than there are zeros; one byte too many would be of another record"
)]
pub(super) fn overwrite(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let end = offset + bytes;
    let mut at = offset;
    while at < end {
        let length = (end - at).min(ZEROS.len() as u64);
        #[expect(clippy::cast_possible_truncation, reason = "no more than the zeros")]
        let zeros = &ZEROS[..length as usize];
        file.write_all_at(zeros, at)?;
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

/// What a file system is called, by the magic number of statfs(2).
pub(super) fn file_system_name(magic: u64) -> String {
    let name = match magic {
        0xef53 => "ext4 (or ext2, ext3)",
        0x5846_5342 => "xfs",
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlay",
        0x0102_1994 => "tmpfs",
        0x6573_5546 => "FUSE",
        other => return format!("{other:#x}"),
    };
    name.into()
}

/// Something of a data directory that belongs to another user than this process.
#[derive(Debug)]
pub(super) struct Stranger {
    path: PathBuf,
    directory: PathBuf,
    owner: u32,
    us: u32,
}

impl Stranger {
    /// The data directory at `path`, what is in it, or the directory above it that is there, whichever is the
    /// first to belong to another user.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let us = geteuid().as_raw();
        let there = path.ancestors().find(|path| fs::metadata(path).is_ok());
        let there = there.filter(|there| !there.as_os_str().is_empty());
        let there = there.unwrap_or(Path::new("."));
        let inside = fs::read_dir(there).into_iter().flatten().flatten();
        let inside = inside.map(|entry| entry.path()).filter(|_| there == path);
        let mut all = std::iter::once(there.to_owned()).chain(inside);
        all.find_map(|there| {
            let owner = fs::symlink_metadata(&there).ok()?.uid();
            (owner != us).then(|| Self {
                path: there,
                directory: path.to_owned(),
                owner,
                us,
            })
        })
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, us, .. } = self;
        let (path, directory) = (self.path.display(), self.directory.display());
        write!(
            formatter,
            "{path} belongs to user {owner}, and this process is user {us}: "
        )?;
        if self.path.starts_with(&self.directory) {
            write!(
                formatter,
                "`chown -R {us} {directory}` gives it to this one"
            )
        } else {
            write!(
                formatter,
                "make {directory} and give it to this one with `chown {us} {directory}`"
            )
        }
    }
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Blocks or inodes of the disk.
    Room,
    /// What the disk gives this user.
    Quota,
    /// File descriptors of the process or the machine.
    Descriptors,
}

/// Whether an error says that there is too little of something, rather than that something broke.
pub(super) fn lack(error: &io::Error) -> Option<Lack> {
    match Errno::from_io_error(error)? {
        Errno::NOSPC => Some(Lack::Room),
        Errno::DQUOT => Some(Lack::Quota),
        Errno::MFILE | Errno::NFILE => Some(Lack::Descriptors),
        _ => None,
    }
}

/// Whether an error says that this process may not write, or not as much, and nothing of what is stored.
pub(super) fn is_refused(error: &io::Error) -> bool {
    let refused = [Errno::FBIG, Errno::ROFS, Errno::ACCESS, Errno::PERM];
    lack(error).is_some()
        || Errno::from_io_error(error).is_some_and(|errno| refused.contains(&errno))
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
    /// Takes the lock at `path` together with others who only read, or says who has it; never waits and writes
    /// nothing.
    pub(super) fn share(path: &Path) -> Result<Self, LockError> {
        let mut file = open(path, OpenOptions::new().read(true)).map_err(LockError::Io)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                Err(LockError::Held(holder))
            }
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    /// Takes the lock at `path` or says who has it; never waits.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = open_alone(path)
            .and_then(|file| give_to_owner_above(path).map(|()| file))
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
        // A start that failed has removed the file meanwhile, and another process may have the next one.
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let locked = file.metadata().map(inode).map_err(LockError::Io)?;
        if fs::metadata(path).map(inode).ok() != Some(locked) {
            return Err(LockError::Held(String::new()));
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
