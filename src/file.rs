//! Small files that are read whole, as they are named by options: tokens, lists of networks, certificates and keys.
//!
//! It refuses to know what is in them. **Invariant:** reading ends, also where nothing ever writes to a pipe: while a
//! file is read, the process may be deaf to the order to stop. A pipe with a writer, as `<(…)` of a shell makes it, is
//! as good as a file.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;

/// Largest file, in bytes: half a million networks.
const BYTES_MAX: u64 = 16 << 20;

/// Time in which a program has to open the other end of a pipe: a moment for one that a script starts beside it.
const WRITER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time in which a pipe with a writer has to end: enough for a program that asks another machine, or a person, for
/// what it writes.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest waits for a pipe.
#[derive(Clone, Copy, Debug)]
struct Waits {
    writer: Duration,
    end: Duration,
}

/// All that is in the file at `path`. Blocks.
///
/// # Errors
/// If it cannot be read, is too large, or is no file and gives nothing in time.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let waits = Waits {
        writer: WRITER_TIMEOUT,
        end: END_TIMEOUT,
    };
    read_within(path, waits)
}

fn read_within(path: &Path, waits: Waits) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        let error = "it is a directory; name a file in it";
        return Err(io::Error::new(ErrorKind::IsADirectory, error));
    }
    if kind.is_socket() {
        return Err(io::Error::other("it is a socket; name a file"));
    }
    // Opening a pipe would wait for its writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let bytes = read_to_end(&file, kind.is_fifo(), waits)?;
    if bytes.len() as u64 > BYTES_MAX {
        let error = format!("it is larger than {} MiB", BYTES_MAX >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, error));
    }
    Ok(bytes)
}

/// Up to one byte more than allowed, so that a file that is too large is not one that was cut.
fn read_to_end(mut file: &File, is_pipe: bool, waits: Waits) -> io::Result<Vec<u8>> {
    let started = Instant::now();
    let mut bytes = Vec::new();
    let mut has_ended = false;
    loop {
        let rest = (BYTES_MAX + 1).saturating_sub(bytes.len() as u64);
        let (wait, otherwise) = match file.by_ref().take(rest).read_to_end(&mut bytes) {
            Ok(_) if !is_pipe || !bytes.is_empty() => return Ok(bytes),
            Ok(_) if has_ended => {
                return Err(io::Error::other(
                    "it is a pipe that ended without a byte: what writes to it failed, or it was read before, which \
                     only a file can be",
                ));
            }
            Ok(_) => (
                waits.writer,
                "it is a pipe that no program writes to; start one, or name a file",
            ),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (
                waits.end,
                "the program that writes to it does not close it; end it, or name a file",
            ),
            Err(error) => return Err(error),
        };
        let Some(rest) = wait.checked_sub(started.elapsed()) else {
            return Err(io::Error::new(ErrorKind::TimedOut, otherwise));
        };
        let mut polled = [PollFd::new(file, PollFlags::IN)];
        match poll(
            &mut polled,
            Some(&rest.try_into().map_err(io::Error::other)?),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [polled] = polled;
        has_ended = polled.revents().contains(PollFlags::HUP);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    const SHORT: Waits = Waits {
        writer: Duration::from_millis(20),
        end: Duration::from_millis(40),
    };

    fn error(path: &Path) -> String {
        read_within(path, SHORT).unwrap_err().to_string()
    }

    fn of_descriptor(end: &impl AsRawFd) -> PathBuf {
        format!("/dev/fd/{}", end.as_raw_fd()).into()
    }

    #[test]
    fn files_up_to_the_limit_are_read_and_directories_and_sockets_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (bytes, is_read) in [(0, true), (BYTES_MAX, true), (BYTES_MAX + 1, false)] {
            File::create(&path).unwrap().set_len(bytes).unwrap();
            let read = read(&path).map(|read| read.len() as u64);
            assert_eq!(read.ok(), is_read.then_some(bytes));
        }
        assert!(error(&path).contains("larger than 16 MiB"));
        assert!(error(directory.path()).contains("directory"));
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(error(&socket).contains("socket"));
        assert_eq!(read("/dev/null".as_ref()).unwrap(), b"");
    }

    #[test]
    fn a_named_pipe_is_read_if_a_writer_comes_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        mkfifoat(CWD, &path, Mode::RWXU).unwrap();
        assert!(error(&path).contains("no program writes to"));
        let writer = {
            let path = path.clone();
            thread::spawn(move || fs::write(path, "text\n").unwrap())
        };
        assert_eq!(read(&path).unwrap(), b"text\n");
        writer.join().unwrap();
    }

    #[test]
    fn a_pipe_of_a_shell_is_read_once() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"text\n").unwrap();
        assert!(error(&of_descriptor(&reader)).contains("does not close it"));
        writer.write_all(b"more").unwrap();
        drop(writer);
        assert_eq!(read(&of_descriptor(&reader)).unwrap(), b"more");
        let started = Instant::now();
        let again = read(&of_descriptor(&reader)).unwrap_err().to_string();
        assert!(again.contains("ended without a byte"), "{again}");
        assert!(started.elapsed() < WRITER_TIMEOUT);
    }
}
