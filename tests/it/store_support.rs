//! What the tests of the store share: data directories that live as long as a test, puts that wait,
//! copies of a directory as a kill leaves it, and a second, independent reader of the log format.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use digestd::message::Message;
use digestd::store::index::Index;
use digestd::store::{
    DataDirectory, EmbeddedStore, Finding, OpenError, Options, Receipt, Store, StoreError, verify,
};
use flate2::read::GzDecoder;
use rustix::fs::statvfs;
use tempfile::TempDir;

/// Small segments: a start reads the unwritten rest of the log too, and a few hundred messages are
/// enough to fill one.
pub(crate) const SEGMENT_BYTES: u32 = 1 << 16;

/// What a header takes of a record.
pub(crate) const HEADER_BYTES: usize = 56;

/// The largest message that fits a segment.
pub(crate) const MESSAGE_BYTES_MAX: usize = SEGMENT_BYTES as usize - HEADER_BYTES;

/// Puts that are begun before the first is waited for; well below the length of the queue.
const PUTS_AT_ONCE: usize = 500;

/// Options for tests: every read comes from the disk, and the disk is never full.
pub(crate) fn options() -> Options {
    Options {
        free_bytes_min: Some(0),
        ..Options::new(1 << 20, MESSAGE_BYTES_MAX as u64)
    }
}

/// A data directory that is removed with its last owner.
#[derive(Debug)]
pub(crate) struct Data {
    directory: TempDir,
}

impl Data {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    /// The same in memory, where there is such a place with room: for tests that open stores by the thousand,
    /// and show nothing of syncs.
    pub(crate) fn in_memory() -> Self {
        const PLACE: &str = "/dev/shm";
        const ROOM_BYTES: u64 = 256 << 20;
        let room = statvfs(PLACE).map_or(0, |place| place.f_bavail * place.f_frsize);
        let made = (room >= ROOM_BYTES).then(|| tempfile::tempdir_in(PLACE).ok());
        let directory = made.flatten();
        Self {
            directory: directory.unwrap_or_else(|| tempfile::tempdir().unwrap()),
        }
    }

    /// A directory with these messages, put at once into a store that was then closed.
    pub(crate) fn with(texts: &[String]) -> Self {
        Self::new().filled(texts)
    }

    /// The same in memory.
    pub(crate) fn in_memory_with(texts: &[String]) -> Self {
        Self::in_memory().filled(texts)
    }

    fn filled(self, texts: &[String]) -> Self {
        let store = self.open();
        put_all(&store, texts);
        close(store);
        self
    }

    /// A directory that version 0.1.0 left: `data` or `backup`.
    pub(crate) fn of_0_1_0(name: &str) -> Self {
        const ARCHIVE: &[u8] = include_bytes!("../fixtures/0.1.0.tar.gz");
        let data = Self::new();
        let mut archive = tar::Archive::new(GzDecoder::new(ARCHIVE));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            if let Ok(inside) = path.strip_prefix(Path::new("0.1.0").join(name)) {
                entry.unpack(data.path().join(inside)).unwrap();
            }
        }
        data
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn claim(&self) -> Result<DataDirectory, OpenError> {
        DataDirectory::claim(self.path(), SEGMENT_BYTES)
    }

    /// Claims the directory from a store that was closed in this process. Another test may be
    /// starting a process at this moment, which then has the lock too until it becomes another
    /// program.
    pub(crate) fn claim_again(&self) -> Result<DataDirectory, OpenError> {
        let started = Instant::now();
        loop {
            match self.claim() {
                Err(OpenError::Held { .. }) if started.elapsed() < Duration::from_secs(10) => {
                    thread::yield_now();
                }
                claimed => return claimed,
            }
        }
    }

    /// Changes the index by itself. The directory is held meanwhile: a process that another test is starting
    /// has the locks of the index too, and gives up both at once.
    pub(crate) fn change_index(&self, change: impl FnOnce(&Index)) {
        let _directory = self.claim_again().unwrap();
        let index = Index::open(&self.path().join("index"), 1 << 20).unwrap();
        change(&index);
        index.close().unwrap();
    }

    pub(crate) fn open(&self) -> EmbeddedStore {
        self.open_with(options())
    }

    pub(crate) fn open_with(&self, options: Options) -> EmbeddedStore {
        self.try_open(options)
            .unwrap_or_else(|error| panic!("the store does not open: {error}"))
    }

    pub(crate) fn try_open(&self, options: Options) -> Result<EmbeddedStore, OpenError> {
        EmbeddedStore::open(self.claim_again()?, options, &|_| ())
    }

    /// Opens the store and returns what the operator sees of it.
    pub(crate) fn open_and_listen(&self) -> (EmbeddedStore, Vec<String>) {
        listen(|| self.open())
    }

    /// Opens the store, finds nothing wrong with its log, and closes it.
    pub(crate) fn assert_sound(&self, texts: &[String]) {
        let (store, lines) = self.open_and_listen();
        assert_heard_nothing_of_damage(&lines);
        assert_holds_only(&store, texts);
        close(store);
    }

    /// Takes away everything but the log, as a backup of `log/` does.
    pub(crate) fn leave_only_the_log(&self) {
        self.remove("index");
        self.remove("checkpoint");
    }

    /// A copy of the directory as it is, beside it. Of a store that is open, that is what `kill -9` leaves.
    /// The log comes last, as nothing may be in the index that is not in the log.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self {
            directory: tempfile::tempdir_in(self.path().parent().unwrap()).unwrap(),
        };
        for name in ["FORMAT", "DURABILITY", "checkpoint", "index", "log"] {
            copy.take(name, self);
        }
        // Nobody writes to it: one does for both.
        let reserve = |data: &Self| data.path().join("reserve");
        let _ = fs::hard_link(reserve(self), reserve(&copy));
        copy
    }

    /// Replaces a file or directory by the one of `other`, if there is one.
    pub(crate) fn take(&self, name: &str, other: &Self) {
        self.remove(name);
        copy_all(&other.path().join(name), &self.path().join(name)).unwrap();
    }

    /// What verification finds.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let directory = self.claim_again().unwrap();
        let mut findings = Vec::new();
        let take = |finding: &Finding| findings.push(finding.clone());
        verify(&directory, 1 << 20, &|_, _| (), take).unwrap();
        findings
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path().join(name).exists()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), content).unwrap();
    }

    /// Changes the bytes of a file in place.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.read(name);
        edit(&mut content);
        self.write(name, content);
    }

    pub(crate) fn flip(&self, name: &str, bit: usize) {
        let path = self.path().join(name);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (at, mut byte) = (bit as u64 / 8, [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, at).unwrap();
    }

    /// Removes a file or a directory, if it is there.
    pub(crate) fn remove(&self, name: &str) {
        let path = self.path().join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// The names of the files in a directory, sorted.
    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path().join(directory))
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| format!("{directory}/{}", entry.file_name().to_str().unwrap()))
            .collect();
        names.sort();
        names
    }

    /// The segments of the log. One in the making has another name, and not for long.
    fn segments(&self) -> Vec<String> {
        let mut names = self.files("log");
        names.retain(|name| Path::new(name).extension().is_some_and(|is| is == "log"));
        names
    }

    /// All bytes of the log, segment by segment.
    pub(crate) fn log(&self) -> Vec<Vec<u8>> {
        let segments = self.segments();
        segments.iter().map(|name| self.read(name)).collect()
    }

    /// Whether the log has these bytes anywhere.
    pub(crate) fn has_in_log(&self, text: &str) -> bool {
        let log = self.log().concat();
        log.windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
    }

    /// Every record of a log without damage, in order.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for name in self.segments() {
            let content = self.read(&name);
            let mut offset = 0;
            while let Some(record) = Record::read(&name, &content, offset) {
                offset = record.end();
                records.push(record);
            }
            let rest = &content[offset..];
            assert!(rest.iter().all(|&byte| byte == 0), "{name} at {offset}");
        }
        records
    }

    /// The records of a text and of its deletions, in order.
    pub(crate) fn records_of(&self, text: &str) -> Vec<Record> {
        let mut records = self.records();
        records.retain(|record| record.is_of(text));
        records
    }

    /// The bytes of a record's body.
    pub(crate) fn body(&self, record: &Record) -> Vec<u8> {
        self.read(&record.file)[record.body()].to_vec()
    }

    /// The record of a text.
    pub(crate) fn record_of(&self, text: &str) -> Record {
        let mut records = self.records().into_iter();
        records.find(|record| record.is_of(text)).unwrap()
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return match copy_file(from, to) {
            // A store that was never opened has no checkpoint, and a segment in the making changes
            // its name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            copied => copied,
        };
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_all(&from.join(&name), &to.join(name))?;
    }
    Ok(())
}

/// Leaves out blocks of zeros, most of what an index and a log are.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    const BLOCK: [u8; 1 << 14] = [0; 1 << 14];
    let (from, to) = (File::open(from)?, File::create(to)?);
    let (mut block, mut at) = (BLOCK, 0);
    loop {
        let read = from.read_at(&mut block, at)?;
        if read == 0 {
            return to.set_len(at);
        }
        if block[..read] != BLOCK[..read] {
            to.write_all_at(&block[..read], at)?;
        }
        at += read as u64;
    }
}

/// A record of the log, found by the table in `src/store/embedded/record.rs` and by nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Its file, as `log/00000001.log`.
    pub(crate) file: String,
    pub(crate) offset: usize,
    pub(crate) kind: u8,
    /// Position of the first record of its group.
    pub(crate) group: u64,
    pub(crate) digest: Digest,
    pub(crate) length: usize,
}

impl Record {
    pub(crate) const MESSAGE: u8 = 1;
    pub(crate) const DELETION: u8 = 2;
    pub(crate) const FILLER: u8 = 3;

    fn read(file: &str, content: &[u8], offset: usize) -> Option<Self> {
        let header = content.get(offset..offset + HEADER_BYTES)?;
        let number = |range: Range<usize>| {
            let digits = header[range].iter().rev();
            digits.fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        let whole = header.starts_with(b"\xffdg1")
            && number(52..56) == u64::from(crc32c::crc32c(&header[..52]));
        whole.then(|| Self {
            file: file.to_owned(),
            offset,
            kind: header[4],
            group: number(8..16),
            digest: Digest::from_bytes(header[16..48].try_into().unwrap()),
            length: usize::try_from(number(48..52)).unwrap(),
        })
    }

    pub(crate) fn is_of(&self, text: &str) -> bool {
        self.digest == Digest::of(text.as_bytes())
    }

    pub(crate) fn position(&self) -> u64 {
        let digits = self
            .file
            .trim_start_matches("log/")
            .trim_end_matches(".log");
        let segment: u64 = digits.parse().unwrap();
        segment << 32 | self.offset as u64
    }

    pub(crate) fn body(&self) -> Range<usize> {
        let start = self.offset + HEADER_BYTES;
        start..start + self.length
    }

    pub(crate) fn end(&self) -> usize {
        self.body().end.next_multiple_of(8)
    }
}

/// A log in memory that grows as the table says: a second, independent writer of the format.
#[derive(Debug)]
pub(crate) struct LogBytes {
    segments: Vec<Vec<u8>>,
    /// Segment, counted from 0, and offset.
    end: (usize, usize),
}

impl LogBytes {
    pub(crate) fn new() -> Self {
        Self {
            segments: vec![vec![0; SEGMENT_BYTES as usize]],
            end: (0, 0),
        }
    }

    /// The log of a store that was closed.
    pub(crate) fn of(data: &Data) -> Self {
        let last = data.records().pop().unwrap();
        let segment = usize::try_from(last.position() >> 32).unwrap() - 1;
        Self {
            segments: data.log(),
            end: (segment, last.end()),
        }
    }

    pub(crate) fn append_group<'a>(&mut self, texts: impl IntoIterator<Item = &'a String>) {
        let group = self.position();
        for text in texts {
            let record = record_bytes(Record::MESSAGE, group, text.as_bytes());
            let room = SEGMENT_BYTES as usize - self.end.1;
            if record.len() > room {
                if room >= HEADER_BYTES {
                    let body = vec![0; room - HEADER_BYTES];
                    self.append(&record_bytes(Record::FILLER, group, &body));
                }
                self.end = (self.end.0 + 1, 0);
            }
            self.append(&record);
        }
    }

    fn append(&mut self, record: &[u8]) {
        let (segment, offset) = self.end;
        if segment == self.segments.len() {
            self.segments.push(vec![0; SEGMENT_BYTES as usize]);
        }
        self.segments[segment][offset..offset + record.len()].copy_from_slice(record);
        self.end.1 += record.len();
    }

    fn position(&self) -> u64 {
        (self.end.0 as u64 + 1) << 32 | self.end.1 as u64
    }

    pub(crate) fn segments(&self) -> &[Vec<u8>] {
        &self.segments
    }

    pub(crate) fn write_to(&self, data: &Data) {
        for (segment, number) in self.segments.iter().zip(1..) {
            data.write(&format!("log/{number:08}.log"), segment);
        }
    }
}

fn record_bytes(kind: u8, group: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\xffdg1".to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(group.to_le_bytes());
    match kind {
        Record::MESSAGE => bytes.extend(Digest::of(body).as_bytes()),
        _ => bytes.extend([0; 32]),
    }
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Puts one message and waits for the receipt.
pub(crate) fn put(store: &EmbeddedStore, text: &str) -> Result<Receipt, StoreError> {
    wait(store.put(Message::new(text)))
}

/// Puts all messages, many at once, so that the committer finds groups of them.
pub(crate) fn put_all(store: &EmbeddedStore, texts: &[String]) {
    for texts in texts.chunks(PUTS_AT_ONCE) {
        let messages = texts.iter().map(|text| Message::new(text.as_str()));
        let puts: Vec<_> = messages.map(|message| store.put(message)).collect();
        for (put, text) in puts.into_iter().zip(texts) {
            let receipt = wait(put).unwrap();
            assert_eq!(receipt.digest(), Digest::of(text.as_bytes()));
        }
    }
}

/// Deletes a message; returns whether it was there.
pub(crate) fn delete(store: &EmbeddedStore, text: &str) -> Result<bool, StoreError> {
    let deleted = wait(store.delete(&Digest::of(text.as_bytes())))?;
    Ok(deleted.is_some())
}

pub(crate) fn get(store: &EmbeddedStore, text: &str) -> Result<Option<String>, StoreError> {
    let found = store.get(&Digest::of(text.as_bytes()))?;
    Ok(found.map(|message| message.text().to_owned()))
}

/// Closes the store and lets go of its directory.
pub(crate) fn close(store: EmbeddedStore) {
    store.close().unwrap();
    drop(store);
}

/// What a start says of acknowledged messages that are lost.
pub(crate) const DAMAGED: &str = "the log is damaged";

/// What it says of a group that was never acknowledged.
pub(crate) const TORN: &str = "removed an unfinished group";

pub(crate) fn heard(lines: &[String], what: &str) -> bool {
    lines.iter().any(|line| line.contains(what))
}

/// A start neither reported damage nor removed anything.
pub(crate) fn assert_heard_nothing_of_damage(lines: &[String]) {
    assert!(!heard(lines, DAMAGED) && !heard(lines, TORN), "{lines:?}");
}

/// Every text is there, byte for byte.
pub(crate) fn assert_holds(store: &EmbeddedStore, texts: &[String]) {
    for text in texts {
        assert_text(store, text, &Ok(Some(text.clone())));
    }
}

/// The same, and the store counts nothing else.
pub(crate) fn assert_holds_only(store: &EmbeddedStore, texts: &[String]) {
    assert_holds(store, texts);
    assert_eq!(store.messages(), texts.len() as u64);
}

/// Asserts what a look-up of `text` says. Long texts are not printed.
pub(crate) fn assert_text(
    store: &EmbeddedStore,
    text: &str,
    expected: &Result<Option<String>, StoreError>,
) {
    let found = get(store, text);
    let short = |found: &Result<Option<String>, StoreError>| {
        found
            .clone()
            .map(|text| text.map(|text| text.chars().take(40).collect::<String>()))
    };
    assert!(
        found == *expected,
        "the look-up of {} bytes, {:?}…, gives {:?} instead of {:?}",
        text.len(),
        text.chars().take(40).collect::<String>(),
        short(&found),
        short(expected),
    );
}

/// Distinct texts of 15 to about 400 bytes.
pub(crate) fn texts(numbers: Range<usize>) -> Vec<String> {
    numbers
        .map(|number| format!("message {number:06} {}", "né ☂ ".repeat(number * 7 % 47)))
        .collect()
}

/// A text of exactly this many bytes, another one for each number.
pub(crate) fn text_of(number: usize, bytes: usize) -> String {
    let mut text = format!("{number} ");
    text.push_str(&"x".repeat(bytes - text.len()));
    text
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

thread_local! {
    static HEARD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Runs `act` and returns what it logged on this thread, line by line.
pub(crate) fn listen<T>(act: impl FnOnce() -> T) -> (T, Vec<String>) {
    static SUBSCRIBER: Once = Once::new();
    // One for the whole process: tracing decides once for all threads whether a line is wanted.
    SUBSCRIBER.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .with_writer(|| Ear)
            .init();
    });
    HEARD.set(Some(Vec::new()));
    let result = act();
    let heard = HEARD.take().unwrap_or_default();
    let lines = String::from_utf8(heard).unwrap();
    (result, lines.lines().map(str::to_owned).collect())
}

struct Ear;

impl io::Write for Ear {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        HEARD.with_borrow_mut(|heard| {
            if let Some(heard) = heard {
                heard.extend_from_slice(line);
            }
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Numbers that look random and are the same in every run (a splitmix).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % limit as u64).unwrap()
    }

    /// So many bytes of rubbish.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| u8::try_from(self.below(256)).unwrap())
            .collect()
    }
}
