//! Compresses old log files, one at a time, on a thread of its own.
//!
//! It refuses to know which number a file has. **Invariants:** nobody who logs waits for it, but for two changes of
//! names; a file that is called `.gz` is whole and on the disk, whenever the process ends: until then it has another
//! name, and the file that it is made of stays.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::warn;

use super::old_files::OldFiles;

/// Orders that wait: one says as much as many.
const ORDERS_MAX: usize = 1;

/// Permissions of a compressed file until it has those of the other.
const FILE_MODE: u32 = 0o600;

/// Starts the thread, which looks for files whenever it is told to, until nobody can.
pub(super) fn compress_when_told(files: OldFiles) -> io::Result<SyncSender<()>> {
    let (orders, ordered) = mpsc::sync_channel(ORDERS_MAX);
    thread::Builder::new()
        .name("log-compress".into())
        .spawn(move || compress_all(&files, &ordered))?;
    Ok(orders)
}

fn compress_all(files: &OldFiles, ordered: &Receiver<()>) {
    while ordered.recv().is_ok() {
        for path in files.uncompressed() {
            if let Err(error) = compress(files, &path) {
                let file = path.display();
                warn!(%error, %file, "cannot compress an old log file; it stays as it is");
            }
        }
    }
}

fn compress(files: &OldFiles, path: &Path) -> io::Result<()> {
    let mut file = match File::open(path) {
        // It has another number since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    let unfinished = files.unfinished();
    let result = write_compressed(&mut file, &unfinished).and_then(|()| files.replace(&file));
    result.inspect_err(|_| {
        // No room, perhaps: then this takes some.
        let _ = fs::remove_file(&unfinished);
    })
}

fn write_compressed(file: &mut File, path: &Path) -> io::Result<()> {
    let compressed = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)?;
    // It may be for too few to read then, never for too many.
    let _ = compressed.set_permissions(file.metadata()?.permissions());
    let mut encoder = GzEncoder::new(compressed, Compression::default());
    io::copy(file, &mut encoder)?;
    encoder.finish()?.sync_all()
}
