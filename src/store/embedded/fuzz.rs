//! Logs that were written and then damaged, thrown at what recovers them; see [`crate::fuzz`].
//!
//! Bytes alone would hardly ever be a log: each header has a checksum. So the input is a script, of which this
//! makes one, record by record as the committer does.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;
use std::sync::Arc;

use super::appender::Appender;
use super::record::{HEADER_BYTES, Header, Place, Position};
use super::recovery::{Kind, Record, Survey, recover};
use super::segments::Log;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::Durability;

/// Small, so that a few records cross into the next segment.
const SEGMENT_BYTES: u32 = 4096;

/// What a large message has beside its text.
const LARGE_BYTES: usize = 1000;

/// A log, one line a step:
///
/// * `mTEXT` puts a message, `MTEXT` a large one, `dTEXT` deletes one, `.` writes all that as a group;
/// * `c` writes a checkpoint;
/// * `!NObytes` damages record N, counted from `0`, from offset O on, as far as the record goes;
/// * `o` recovers with [`Durability::Os`].
pub fn log_records(bytes: &[u8]) {
    let directory = std::env::temp_dir().join(format!("digestd-fuzz-{}", process::id()));
    let _ = fs::remove_dir_all(&directory);
    let played = play(&directory, bytes);
    let _ = fs::remove_dir_all(&directory);
    assert!(played.is_ok(), "{played:?}");
}

/// A record as it was written.
struct Written {
    said: Said,
    bytes: Vec<u8>,
}

/// What a recovery says of a record.
type Said = (Kind, Digest, Place);

fn play(directory: &Path, script: &[u8]) -> io::Result<()> {
    let log = Arc::new(Log::open(directory, SEGMENT_BYTES)?);
    let mut appender = Appender::new(Arc::clone(&log), Position::START);
    let mut written = Vec::new();
    let mut group = Vec::new();
    let mut acked = None;
    let mut durability = Durability::Disk;
    let mut damages = Vec::new();
    for line in script.split(|byte| *byte == b'\n') {
        let Some((step, rest)) = line.split_first() else {
            continue;
        };
        match step {
            b'm' => group.push((Kind::Message, message(rest, 0))),
            b'M' => group.push((Kind::Message, message(rest, LARGE_BYTES))),
            b'd' => group.push((Kind::Deletion, message(rest, 0))),
            b'.' => append(&mut appender, group.drain(..), &log, &mut written)?,
            b'c' => acked = Some(appender.end()),
            b'o' => durability = Durability::Os,
            b'!' => damages.push(rest),
            _ => {}
        }
    }
    for damage in damages {
        self::damage(&log, &written, damage)?;
    }
    let mut expected = Vec::new();
    for record in &written {
        let now = read(&log, record.said.2)?;
        let header = HEADER_BYTES as usize;
        let is_same_header = now.get(..header) == record.bytes.get(..header);
        if !is_same_header && Header::decode(&now).is_some() {
            // A checksum that is right by accident: no disk has such.
            return Ok(());
        }
        // A deletion counts without its positions, too.
        if now == record.bytes || (is_same_header && record.said.0 == Kind::Deletion) {
            expected.push(record.said);
        }
    }

    let (first, found) = recovered(&log, acked, durability)?;
    assert_eq!(found, expected);
    assert!(found.iter().all(|(_, _, place)| place.at < first.end));
    // With the checkpoint that a start ends with, a second one finds the same and has nothing to do …
    let (second, found) = recovered(&log, Some(first.end), durability)?;
    assert_eq!(found, expected);
    assert_eq!((second.end, second.damage), (first.end, first.damage));
    assert_eq!((second.torn_bytes, second.unsynced_bytes), (0, 0));
    // … and without it, after a crash, the same messages. What proved that a group before the last was synced
    // may be gone, so that what was damage is torn now, and the log ends sooner.
    let (third, found) = recovered(&log, acked, durability)?;
    assert_eq!(found, expected);
    assert!(third.end <= first.end);

    // The log goes on where it ends.
    let mut appender = Appender::new(Arc::clone(&log), third.end);
    let more = [(Kind::Message, message(b"more", 0))];
    append(&mut appender, more.into_iter(), &log, &mut written)?;
    expected.extend(written.last().map(|record| record.said));
    let (_, found) = recovered(&log, acked, durability)?;
    assert_eq!(found, expected);
    Ok(())
}

fn message(text: &[u8], more_bytes: usize) -> Message {
    let text = String::from_utf8_lossy(text).into_owned();
    Message::new(text + &"x".repeat(more_bytes))
}

/// Writes a group.
fn append(
    appender: &mut Appender,
    group: impl Iterator<Item = (Kind, Message)>,
    log: &Log,
    written: &mut Vec<Written>,
) -> io::Result<()> {
    let mut draft = appender.draft();
    let mut said: Vec<Said> = Vec::new();
    for (kind, message) in group {
        let digest = message.digest();
        let place = if kind == Kind::Message {
            draft.put(&message, false)?
        } else {
            let earlier = written
                .iter()
                .map(|record| record.said)
                .chain(said.iter().copied());
            let is_it = |said: &Said| said.0 == Kind::Message && said.1 == digest;
            let erased: Vec<_> = earlier.filter(is_it).map(|said| said.2).collect();
            draft.delete(digest, &erased)?
        };
        said.push((kind, digest, place));
    }
    if draft.is_empty() {
        return Ok(());
    }
    let group = draft.finish()?;
    appender.write(group, true)?;
    for said in said {
        let bytes = read(log, said.2)?;
        written.push(Written { said, bytes });
    }
    Ok(())
}

/// A record as it is.
fn read(log: &Log, place: Place) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (HEADER_BYTES + place.length) as usize];
    let file = log.require_segment(place.at.segment)?;
    file.read_exact_at(&mut bytes, place.at.offset.into())?;
    Ok(bytes)
}

fn damage(log: &Log, written: &[Written], damage: &[u8]) -> io::Result<()> {
    let [number, offset, bytes @ ..] = damage else {
        return Ok(());
    };
    let Some(record) = written.get(usize::from(number.wrapping_sub(b'0'))) else {
        return Ok(());
    };
    let place = record.said.2;
    let offset = u32::from(offset.wrapping_sub(b'0'));
    let room = (HEADER_BYTES + place.length).saturating_sub(offset) as usize;
    // No text begins a header, and neither does what is written here.
    let bytes: Vec<_> = bytes.iter().map(|byte| byte & 0x7f).take(room).collect();
    let file = log.require_segment(place.at.segment)?;
    file.write_all_at(&bytes, u64::from(place.at.offset + offset))
}

fn recovered(
    log: &Log,
    acked: Option<Position>,
    durability: Durability,
) -> io::Result<(Survey, Vec<Said>)> {
    let mut found = Vec::new();
    let survey = recover(log, Position::START, acked, durability, |record: Record| {
        found.push((record.kind, record.digest, record.place));
        io::Result::Ok(())
    })?;
    Ok((survey, found))
}
