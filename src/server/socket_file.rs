//! A socket in the file system, whose permissions say who may connect.
//!
//! It refuses to know what is served there. **Invariants:** what is not a socket of our own user that nobody listens on
//! is left as it is; the file is removed with the socket, if it still is the one of this socket.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// A socket file that is listened on.
#[derive(Debug)]
pub struct SocketFile {
    // Removed before the socket is closed: until then nothing else has its number.
    file: Name,
    socket: UnixListener,
}

impl SocketFile {
    /// Makes the file with these permissions, and listens there.
    pub(super) fn bind(path: &Path, mode: u32, backlog: u32) -> io::Result<Self> {
        make_room(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = Name {
            path: path.to_owned(),
            identity: identity(&fs::symlink_metadata(path)?),
        };
        // Until here it was for nobody but its owner, and nobody could connect.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let socket = socket.listen(backlog)?;
        Ok(Self { file, socket })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept().await?;
        Ok(stream)
    }
}

/// The name of a file, removed when this is dropped, if it still is that of the file.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        let is_ours = |found: &Metadata| identity(found) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(|found| is_ours(&found)) {
            // If it stays, the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes what a server of our user left there that was killed.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        let error = "what is there is no socket; remove it, or name another file";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, error));
    }
    if found.uid() != geteuid().as_raw() || !is_left(path)? {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    fs::remove_file(path)
}

/// Whether nobody listens on the socket at `path`.
fn is_left(path: &Path) -> io::Result<bool> {
    // One that has its hands full would keep us waiting.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let answer = connect(&socket, &SocketAddrUnix::new(path)?);
    Ok(answer == Err(Errno::CONNREFUSED))
}
