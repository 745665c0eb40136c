//! The power cut, many times: of what a server wrote, only what it synced is sure to be there, and of
//! the rest anything may.
//!
//! strace records what the real binary asks of the file system, sled's calls among them, with all
//! bytes. The record is played back into a model of a disk up to the moment of the cut: what was
//! synced is kept, of the writes under way some sectors are, of the changes to directories the first
//! few, as a journal would leave them. The result is written out and opened. A file layer that can be
//! swapped would need no strace, but would not see what sled does, and would have to be in the
//! product.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str;
use std::thread;
use std::time::{Duration, Instant};

use digestd::digest::Digest;
use digestd::store::{Durability, Options, Store};
use rustix::process::Signal;

use crate::process::{Digestd, Launch, PATIENCE};
use crate::store_support::{
    DAMAGED, Data, Dice, assert_holds_only, assert_text, close, get, heard, options, put,
};
use crate::trace::{Call, calls};
use crate::writers::Round;

/// Moments at which the power is cut, and what may be left of each.
const CUTS: usize = 60;
const VARIANTS: [Left; 3] = [Left::Nothing, Left::Something, Left::Something];

/// What a cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

/// A sector is written whole or not at all.
const SECTOR_BYTES: usize = 512;

const WRITERS: usize = 8;

/// Acknowledgements in each of the two lives before the server is killed: some seconds, so that there
/// are checkpoints between.
const MESSAGES: usize = 1500;

#[test]
#[ignore = "needs strace"]
fn every_acked_message_survives_a_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(directory.path()).unwrap();
    // The second life starts from what a kill left, so that cuts fall into recovery as well.
    let (record, texts) = [0, 1]
        .map(|life| live(&root, life, "disk"))
        .into_iter()
        .fold(
            (String::new(), BTreeMap::new()),
            |(record, mut texts), (more, round)| {
                let with_digest = |text: String| (Digest::of(text.as_bytes()).to_string(), text);
                texts.extend(round.texts().map(with_digest));
                (record + &more, texts)
            },
        );
    let calls = calls(&record);
    let lines = record.lines().count();

    let mut dice = Dice(11);
    let cuts: BTreeSet<_> = (0..CUTS).map(|_| dice.below(lines)).collect();
    let mut disk = Disk::new(root.join("data"));
    let mut calls = calls.iter().peekable();
    let mut acked = BTreeSet::new();
    let mut cost = 0;
    for cut in cuts {
        while let Some(call) = calls.next_if(|call| call.ended <= cut) {
            acked.extend(acknowledged(call));
            disk.play(call);
        }
        // Answers under way may have been read.
        let leaving = calls.clone().filter(|call| call.began <= cut);
        acked.extend(leaving.filter_map(acknowledged));
        for left in VARIANTS {
            println!(
                "line {cut} of {lines}, {} acknowledged: {left:?}",
                acked.len()
            );
            let data = Data::new();
            disk.write_out(data.path(), left, &mut dice);
            let (store, log) = data.open_and_listen();
            assert!(!heard(&log, DAMAGED), "{log:?}");
            let mut found = Vec::new();
            for (digest, text) in &texts {
                if acked.contains(digest) || get(&store, text) != Ok(None) {
                    assert_text(&store, text, &Ok(Some(text.clone())));
                    found.push(text.clone());
                }
            }
            cost += usize::from(disk.has_pending());
            // And the log goes on.
            put(&store, "after the cut").unwrap();
            found.push("after the cut".to_owned());
            close(store);
            data.leave_only_the_log();
            data.assert_sound(&found);
        }
    }
    assert!(cost > CUTS, "hardly a cut took anything: {cost}");
}

/// What was not synced is lost, and nothing else; the first start says so, once, and is done with it.
#[test]
#[ignore = "needs strace"]
fn a_power_cut_with_os_costs_what_was_not_synced_and_one_finding() {
    let directory = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(directory.path()).unwrap();
    let as_os = || Options {
        durability: Durability::Os,
        ..options()
    };
    let (record, round) = live(&root, 0, "os");
    let texts: Vec<_> = round.texts().collect();
    let calls = calls(&record);
    let lines = record.lines().count();
    let mut dice = Dice(13);
    let cuts: BTreeSet<_> = (0..CUTS).map(|_| dice.below(lines)).collect();
    let mut disk = Disk::new(root.join("data"));
    let mut calls = calls.iter().peekable();
    let mut acked = BTreeSet::new();
    let (mut lost, mut found) = (0, 0);
    for cut in cuts {
        while let Some(call) = calls.next_if(|call| call.ended <= cut) {
            acked.extend(acknowledged(call));
            disk.play(call);
        }
        for left in VARIANTS {
            let data = Data::new();
            disk.write_out(data.path(), left, &mut dice);
            // Before the first start had made a store of it.
            if !data.has("checkpoint") {
                continue;
            }
            let store = data.open_with(as_os());
            let findings = store.findings();
            assert!(
                findings.len() <= 1,
                "line {cut} of {lines}, {left:?}: {findings:?}"
            );
            found += findings.len();
            let mut kept = Vec::new();
            for text in &texts {
                if let Some(found) = get(&store, text).unwrap() {
                    assert!(found == *text);
                    kept.push(found);
                } else {
                    let digest = Digest::of(text.as_bytes()).to_string();
                    lost += usize::from(acked.contains(&digest));
                }
            }
            put(&store, "after the cut").unwrap();
            kept.push("after the cut".to_owned());
            close(store);
            assert_eq!(data.findings(), []);
            let store = data.open_with(as_os());
            assert_eq!(store.findings(), Vec::<String>::new());
            assert_holds_only(&store, &kept);
            close(store);
            data.leave_only_the_log();
            data.assert_sound(&kept);
        }
    }
    println!("{lost} messages lost, {found} findings");
    assert!(lost > CUTS, "hardly a cut took anything: {lost}");
}

/// Serves writers until the server is killed, and returns the record.
fn live(root: &Path, life: usize, durability: &'static str) -> (String, Round) {
    let traced = Traced::start(root, life, |launch| {
        launch.option("--durability", durability)
    });
    let server = &traced.server;
    let round = Round::write(server, life, WRITERS, MESSAGES, || {
        server.signal(Signal::KILL);
    });
    (traced.record(), round)
}

/// A server whose calls are recorded.
struct Traced {
    server: Digestd,
    trace: PathBuf,
}

impl Traced {
    fn start(root: &Path, life: usize, adjust: impl FnOnce(Launch) -> Launch) -> Self {
        const CALLS: &str = "trace=openat,mkdir,/^rename,/^unlink,rmdir,write,writev,sendto,sendmsg,\
                             /^pwrite,ftruncate,fallocate,fsync,fdatasync";
        let trace = root.join(format!("trace.{life}"));
        let launch = Launch::new(&root.join("data"))
            .option("--segment-size", "1MiB")
            .option("--body-max", "512KiB")
            .through([
                "strace", "-D", "-f", "-q", "-y", "-xx", "-s", "9000000", "-e", CALLS, "-o",
            ])
            .through([trace.as_os_str()]);
        let server = adjust(launch).start();
        Self { server, trace }
    }

    /// What was recorded until the server was killed.
    fn record(self) -> String {
        let server = self.server.pid().to_string();
        // Short numbers are padded with spaces.
        let is_end = |line: &str| {
            let event = line.strip_prefix(&server).map(str::trim_start);
            event.is_some_and(|event| event.starts_with("+++ killed by SIGKILL"))
        };
        self.server.kill();
        // It writes on what it has seen, which may take a while.
        let started = Instant::now();
        while !tail(&self.trace).lines().any(is_end) {
            assert!(started.elapsed() < 4 * PATIENCE, "strace does not end");
            thread::sleep(Duration::from_millis(10));
        }
        fs::read_to_string(&self.trace).unwrap()
    }
}

#[test]
#[ignore = "needs strace"]
fn every_acked_deletion_survives_a_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(directory.path()).unwrap();
    let record: String = [0, 1].map(|life| live_and_let_die(&root, life)).concat();
    let calls = calls(&record);
    let lines = record.lines().count();

    let mut dice = Dice(12);
    let cuts: BTreeSet<_> = (0..CUTS).map(|_| dice.below(lines)).collect();
    let mut disk = Disk::new(root.join("data"));
    let mut calls = calls.iter().peekable();
    // By digest, how many of its changes were acknowledged.
    let mut acked = BTreeMap::new();
    let count = |acked: &mut BTreeMap<_, _>, call| {
        if let Some(digest) = acknowledged_change(call) {
            *acked.entry(digest).or_insert(0) += 1;
        }
    };
    let mut gone = 0;
    for cut in cuts {
        while let Some(call) = calls.next_if(|call| call.ended <= cut) {
            count(&mut acked, call);
            disk.play(call);
        }
        let mut acked = acked.clone();
        calls
            .clone()
            .filter(|call| call.began <= cut)
            .for_each(|call| count(&mut acked, call));
        for left in VARIANTS {
            let data = Data::new();
            disk.write_out(data.path(), left, &mut dice);
            for what in ["index", "checkpoint", ""] {
                let (store, log) = data.open_and_listen();
                assert!(!heard(&log, DAMAGED), "{log:?}");
                for (life, writer, number) in changed() {
                    let text = change_text(life, writer, number);
                    let digest = Digest::of(text.as_bytes()).to_string();
                    let done: usize = acked.get(&digest).copied().unwrap_or_default();
                    // The next one may be under way.
                    let may_be: Vec<_> = (done..=changes(number).min(done + 1))
                        .map(|done| done % 2 == 1)
                        .collect();
                    let found = get(&store, &text).unwrap();
                    assert!(
                        may_be.contains(&found.is_some()),
                        "{life} {writer} {number}: {done} acknowledged"
                    );
                    assert!(found.is_none_or(|found| found == text));
                    gone += usize::from(done == 2 && changes(number) == 2);
                }
                close(store);
                data.remove(what);
            }
        }
    }
    assert!(gone > 100 * CUTS, "hardly anything was deleted: {gone}");
}

/// What a client does to its message with this number: puts it, deletes it, puts it again.
fn changes(number: usize) -> usize {
    number % 3 + 1
}

/// A third of them has a body of many sectors.
fn change_text(life: usize, writer: usize, number: usize) -> String {
    let mark = format!("{life} {writer} {number};");
    mark.repeat(if number.is_multiple_of(5) { 1000 } else { 8 })
}

const CHANGED: usize = 60;

fn changed() -> impl Iterator<Item = (usize, usize, usize)> {
    let all = 0..2 * WRITERS * CHANGED;
    all.map(|all| {
        (
            all / CHANGED / WRITERS,
            all / CHANGED % WRITERS,
            all % CHANGED,
        )
    })
}

/// Serves clients that put and delete for some seconds, and kills the server then.
fn live_and_let_die(root: &Path, life: usize) -> String {
    let tokens = root.join("tokens");
    let token = format!("all write,delete {}\n", Digest::of(b"all"));
    fs::write(&tokens, token).unwrap();
    let traced = Traced::start(root, life, |launch| {
        launch.env("DIGESTD_TOKENS", tokens.to_str().unwrap())
    });
    let server = &traced.server;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let mut client = server.client();
            scope.spawn(move || {
                for number in 0..CHANGED {
                    let text = change_text(life, writer, number);
                    let digest = Digest::of(text.as_bytes()).to_string();
                    let path = format!("/messages/{digest}");
                    let fields = [
                        ("Authorization", "Bearer all"),
                        ("Content-Type", "text/plain"),
                        ("X-Request-Id", &digest),
                    ];
                    for (method, body, status) in [
                        ("PUT", &*text, 201),
                        ("DELETE", "", 204),
                        ("PUT", &*text, 201),
                    ]
                    .into_iter()
                    .take(changes(number))
                    {
                        let answer = client.ask(method, &path, &fields, body.as_bytes()).unwrap();
                        assert_eq!(answer.status, status);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    traced.server.signal(Signal::KILL);
    traced.record()
}

/// The digest in a 201 or a 204 that is written to a socket: the id of the request.
fn acknowledged_change(call: &Call) -> Option<String> {
    let answer = answer(call)?;
    let is_done = ["HTTP/1.1 201", "HTTP/1.1 204"]
        .iter()
        .any(|start| answer.starts_with(start));
    let (_, id) = answer.split_once("x-request-id: ")?;
    is_done.then(|| id.get(..64).map(str::to_owned))?
}

/// The last lines of a large file.
fn tail(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))
        .unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The digest in a 201 that is written to a socket.
fn acknowledged(call: &Call) -> Option<String> {
    let answer = answer(call)?;
    let (_, answer) = answer.split_once("HTTP/1.1 201")?;
    let (_, location) = answer.split_once("/messages/")?;
    location.get(..64).map(str::to_owned)
}

/// What is written where an answer may be.
fn answer(call: &Call) -> Option<String> {
    let is_answer = ["write", "writev", "sendto", "sendmsg"].contains(&call.name.as_str());
    let text = is_answer.then(|| unescape(&call.arguments))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let start = text.find("HTTP/1.1 ")?;
    text.get(start..).map(str::to_owned)
}

/// Turns `\x2f` into a slash, and leaves what is not escaped.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let escaped = others.strip_prefix(b"x").filter(|_| first == b'\\');
        let digits = escaped.and_then(|digits| str::from_utf8(digits.get(..2)?).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &others[3..];
        } else {
            bytes.push(first);
            rest = others;
        }
    }
    bytes
}

/// The directory of a server on a disk with a cache that forgets.
struct Disk {
    root: PathBuf,
    files: Vec<Contents>,
    /// What a program sees.
    names: BTreeMap<PathBuf, Node>,
    /// What was synced.
    durable_names: BTreeMap<PathBuf, Node>,
    /// What was done to names since, in order.
    pending: Vec<Change>,
}

/// What a name stands for: a directory, or a file by its index.
#[derive(Clone, Copy, Debug)]
enum Node {
    Directory,
    File(usize),
}

/// A name that comes to stand for something, or for nothing any more.
#[derive(Clone, Debug)]
struct Change(Vec<(PathBuf, Option<Node>)>);

impl Change {
    fn is_in(&self, directory: &Path) -> bool {
        self.0
            .iter()
            .any(|(name, _)| name.parent() == Some(directory))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        for (name, node) in &self.0 {
            match node {
                Some(node) => drop(names.insert(name.clone(), *node)),
                None => drop(names.remove(name)),
            }
        }
    }
}

/// What is in a file.
#[derive(Debug, Default)]
struct Contents {
    length: usize,
    durable: Vec<u8>,
    /// What was written since, and the line at which each call had ended.
    pending: Vec<(Write, usize)>,
}

#[derive(Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    /// The file is this long from now on.
    Length(usize),
    /// And not shorter than this.
    LengthMin(usize),
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, bytes) => put_at(content, *at, bytes),
            Self::Length(length) => content.resize(*length, 0),
            Self::LengthMin(length) => content.resize(content.len().max(*length), 0),
        }
    }

    /// Applies what a cut leaves of it: some of its sectors, or all, or nothing.
    fn apply_some(&self, content: &mut Vec<u8>, dice: &mut Dice) {
        match (self, dice.below(3)) {
            (_, 0) => {}
            (Self::Bytes(at, bytes), 1) => {
                let mut from = 0;
                while from < bytes.len() {
                    let to_border = SECTOR_BYTES - (at + from) % SECTOR_BYTES;
                    let to = bytes.len().min(from + to_border);
                    if dice.below(2) == 0 {
                        put_at(content, at + from, &bytes[from..to]);
                    }
                    from = to;
                }
            }
            _ => self.apply(content),
        }
    }
}

fn put_at(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    content.resize(content.len().max(end), 0);
    content[at..end].copy_from_slice(bytes);
}

impl Disk {
    fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// Does what a call did.
    fn play(&mut self, call: &Call) {
        if call.result < 0 {
            return;
        }
        let strings = || call.arguments.split('"').skip(1).step_by(2);
        let path = |text: &str| PathBuf::from(String::from_utf8(unescape(text)).unwrap());
        let number = |at: usize| {
            let arguments = call.arguments.trim_end().trim_end_matches(')');
            let mut numbers = arguments.rsplit(", ");
            numbers.nth(at).unwrap().parse().unwrap()
        };
        match call.name.as_str() {
            "openat" => self.open(path(strings().next().unwrap()), call),
            "mkdir" => {
                let name = path(strings().next().unwrap());
                self.change([(name, Some(Node::Directory))]);
            }
            "rename" => {
                let (from, to) = (
                    path(strings().next().unwrap()),
                    path(strings().nth(1).unwrap()),
                );
                if let Some(node) = self.names.get(&from).copied() {
                    self.change([(from, None), (to, Some(node))]);
                }
            }
            "unlink" | "rmdir" => self.change([(path(strings().next().unwrap()), None)]),
            "unlinkat" => {
                let directory = path(call.path());
                self.change([(directory.join(path(strings().next().unwrap())), None)]);
            }
            "fsync" | "fdatasync" => self.sync(&path(call.path()), call.began),
            "write" => self.write(call, |length| {
                Write::Bytes(length, unescape(strings().next().unwrap()))
            }),
            "pwrite64" => self.write(call, |_| {
                Write::Bytes(number(0), unescape(strings().next().unwrap()))
            }),
            "ftruncate" => self.write(call, |_| Write::Length(number(0))),
            "fallocate" if call.arguments.contains("PUNCH_HOLE") => {
                self.write(call, |_| Write::Bytes(number(1), vec![0; number(0)]));
            }
            "fallocate" => self.write(call, |_| Write::LengthMin(number(1) + number(0))),
            "writev" | "sendto" | "sendmsg" => {}
            other => panic!("{other} is not modelled"),
        }
    }

    fn open(&mut self, name: PathBuf, call: &Call) {
        match self.names.get(&name) {
            Some(Node::File(_)) if call.arguments.contains("O_TRUNC") => {
                self.write_to(&name, call.ended, |_| Write::Length(0));
            }
            None if call.arguments.contains("O_CREAT") => {
                self.files.push(Contents::default());
                self.change([(name, Some(Node::File(self.files.len() - 1)))]);
            }
            _ => {}
        }
    }

    fn change<const N: usize>(&mut self, change: [(PathBuf, Option<Node>); N]) {
        let change = Change(change.into());
        if change
            .0
            .iter()
            .all(|(name, _)| name.starts_with(&self.root))
        {
            change.apply(&mut self.names);
            self.pending.push(change);
        }
    }

    fn write(&mut self, call: &Call, write: impl FnOnce(usize) -> Write) {
        let name = PathBuf::from(String::from_utf8(unescape(call.path())).unwrap());
        self.write_to(&name, call.ended, write);
    }

    fn write_to(&mut self, name: &Path, ended: usize, write: impl FnOnce(usize) -> Write) {
        // A socket, a pipe, a file that has no name any more.
        let Some(Node::File(file)) = self.names.get(name) else {
            return;
        };
        let file = &mut self.files[*file];
        let write = write(file.length);
        file.length = match &write {
            Write::Bytes(at, bytes) => file.length.max(at + bytes.len()),
            Write::Length(length) => *length,
            Write::LengthMin(length) => file.length.max(*length),
        };
        file.pending.push((write, ended));
    }

    /// Makes durable what was there at line `began`.
    fn sync(&mut self, name: &Path, began: usize) {
        if let Some(Node::File(file)) = self.names.get(name) {
            let Contents {
                durable, pending, ..
            } = &mut self.files[*file];
            pending.retain(|(write, ended)| {
                let is_synced = *ended < began;
                if is_synced {
                    write.apply(durable);
                }
                !is_synced
            });
        } else {
            // A directory, also the one above ours.
            let names = &mut self.durable_names;
            self.pending.retain(|change| {
                let is_synced = change.is_in(name);
                if is_synced {
                    change.apply(names);
                }
                !is_synced
            });
        }
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.files.iter().any(|file| !file.pending.is_empty())
    }

    /// Writes what a cut leaves into `directory`.
    fn write_out(&self, directory: &Path, left: Left, dice: &mut Dice) {
        let mut names = self.durable_names.clone();
        if left == Left::Something {
            let some = dice.below(self.pending.len() + 1);
            for change in &self.pending[..some] {
                change.apply(&mut names);
            }
        }
        let is_reachable = |name: &Path| {
            let mut above = name.ancestors().skip(1);
            let mut above = above
                .by_ref()
                .take_while(|name| name.starts_with(&self.root));
            above.all(|name| names.contains_key(name))
        };
        for (name, node) in names.iter().filter(|(name, _)| is_reachable(name)) {
            let path = directory.join(name.strip_prefix(&self.root).unwrap());
            match node {
                Node::Directory => fs::create_dir_all(path).unwrap(),
                Node::File(file) => {
                    let file = &self.files[*file];
                    let mut content = file.durable.clone();
                    if left == Left::Something {
                        for (write, _) in &file.pending {
                            write.apply_some(&mut content, dice);
                        }
                    }
                    write_sparse(&path, &content);
                }
            }
        }
    }
}

/// Writes a file without its blocks of zeros.
fn write_sparse(path: &Path, content: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (at, block) in content.chunks(1 << 14).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, (at as u64) << 14).unwrap();
        }
    }
}
