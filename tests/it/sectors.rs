//! A sector that the disk cannot read any more, anywhere in the log: it costs what is in it, whatever is
//! done to the store, with its index and without.

use std::fs;
use std::ops::Range;
use std::path::Path;

use digestd::digest::Digest;

use crate::disk::BadDisk;
use crate::process::{Launch, Outcome, run};
use crate::store_support::{
    Data, HEADER_BYTES, Record, close, delete, put, put_all, text_of, texts,
};

const SECTOR_BYTES: usize = 512;

/// A store with something of each kind that a sector may hold.
struct Field {
    data: Data,
    texts: Vec<String>,
    deleted: String,
    records: Vec<Record>,
}

impl Field {
    fn new() -> Self {
        let data = Data::new();
        let store = data.open();
        let mut all = texts(0..200);
        put_all(&store, &all);
        let deleted = text_of(1, 3001);
        for text in [text_of(2, 5001), deleted.clone(), text_of(3, 5003)] {
            put(&store, &text).unwrap();
            all.push(text);
        }
        delete(&store, &deleted).unwrap();
        all.retain(|text| *text != deleted);
        let more = texts(200..400);
        put_all(&store, &more);
        all.extend(more);
        put(&store, &last()).unwrap();
        all.push(last());
        close(store);
        Self {
            records: data.records(),
            data,
            texts: all,
            deleted,
        }
    }

    /// Each place with a file and the sector that is lost there.
    fn places(&self) -> Vec<(&'static str, String, Range<usize>)> {
        let large = self.data.record_of(&text_of(2, 5001));
        let last = self.data.record_of(&last());
        let is_deletion = |record: &&Record| record.kind == Record::DELETION;
        let deletion = self.records.iter().find(is_deletion).unwrap();
        let place = |name, record: &Record, offset: usize| {
            let start = offset / SECTOR_BYTES * SECTOR_BYTES;
            (name, record.file.clone(), start..start + SECTOR_BYTES)
        };
        vec![
            place("header", &large, large.offset),
            place("body", &large, large.offset + HEADER_BYTES + 2500),
            place("padding", &large, large.end() - 1),
            place("header of the last group", &last, last.offset + 8),
            place("last group", &last, last.offset + 1000),
            place("deletion", deletion, deletion.offset + 8),
            place("positions of a deletion", deletion, deletion.end() - 8),
        ]
    }

    fn is_hit(&self, text: &str, file: &str, sector: &Range<usize>) -> bool {
        self.records.iter().any(|record| {
            let overlaps = record.offset < sector.end && sector.start < record.end();
            record.is_of(text) && record.file == file && overlaps
        })
    }

    /// Serves every text that is not in this sector, and of the others nothing that is wrong.
    fn assert_served(&self, launch: &Launch, file: &str, sector: &Range<usize>) {
        let server = launch.start();
        let mut client = server.client();
        for text in &self.texts {
            let answer = client.get(&Digest::of(text.as_bytes())).unwrap();
            match answer.status {
                200 => assert_eq!(answer.text(), *text),
                404 | 500 => assert!(self.is_hit(text, file, sector), "{}", &text[..20]),
                other => panic!("{other}"),
            }
        }
        let deleted = Digest::of(self.deleted.as_bytes());
        assert!([404, 500].contains(&client.get(&deleted).unwrap().status));
        server.stop();
    }
}

/// What came since is not hidden by what stands before it, whoever reads it.
fn assert_goes_on(launch: &Launch) {
    let text = |number: usize| format!("it goes on {number} ").repeat(20);
    let server = launch.start();
    let mut client = server.client();
    for number in 0..30 {
        client.publish(&text(number)).unwrap();
    }
    server.kill();
    let _ = fs::remove_dir_all(launch.data_dir().join("index"));
    let server = launch.start();
    let mut client = server.client();
    for number in 0..30 {
        let digest = Digest::of(text(number).as_bytes());
        assert_eq!(client.fetch(&digest), Some(text(number)));
    }
    server.stop();
}

/// So long that a sector in its middle has text of it on both sides.
fn last() -> String {
    text_of(4, 5005)
}

fn launch(data: &Path) -> Launch {
    Launch::new(data).option("--body-max", "32KiB")
}

/// Ends well, or with what it found.
fn assert_done(outcome: &Outcome) {
    assert!(
        [Some(0), Some(3)].contains(&outcome.code),
        "it does not finish: {outcome:?}"
    );
}

#[test]
fn a_sector_of_a_body_that_cannot_be_read_costs_what_is_in_it() {
    lose_one_by_one(|name| name == "body");
}

#[test]
#[ignore = "takes a quarter of a minute"]
fn a_sector_that_cannot_be_read_costs_what_is_in_it() {
    lose_one_by_one(|name| name != "body");
}

fn lose_one_by_one(is_chosen: impl Fn(&str) -> bool) {
    let field = Field::new();
    let mut places = field.places();
    places.retain(|(name, ..)| is_chosen(name));
    for (name, file, sector) in places {
        let lost = if name.ends_with("last group") {
            ["nothing", "index", "checkpoint"].as_slice()
        } else {
            &["nothing", "index"]
        };
        for lost in lost {
            println!("{name}, {file} at {}, without {lost}", sector.start);
            let data = field.data.copy();
            data.remove(lost);
            let disk = BadDisk::default().unreadable(&data.path().join(&file), &sector);
            let command = |verb: &str| {
                let mut command = disk.digestd();
                command.arg(verb).arg("--data-dir").arg(data.path());
                command
            };

            let verified = run(&mut command("verify"), b"");
            assert_eq!(verified.code, Some(3), "{verified:?}");
            let findings = String::from_utf8(verified.stdout).unwrap();
            assert!(findings.contains(&format!("{file} at ")), "{findings}");

            let copy = Data::new();
            let backup = run(command("backup").arg(copy.path()), b"");
            assert_eq!(backup.code, Some(3), "{backup:?}");
            assert!(backup.stderr.contains("cannot be read"), "{backup:?}");
            assert!(
                backup
                    .stderr
                    .contains(&format!("{file} at {}", sector.start))
            );
            field.assert_served(&launch(copy.path()), &file, &sector);

            let exported = run(&mut command("export"), b"");
            assert_done(&exported);

            let served = disk.launch(launch(data.path()));
            field.assert_served(&served, &file, &sector);
            if name.ends_with("last group") {
                assert_goes_on(&served);
            }

            let compacted = run(&mut command("compact"), b"");
            assert_done(&compacted);
            assert!(compacted.stderr.contains("the log took"), "{compacted:?}");
            // The new log is elsewhere on the disk.
            let verified = run(&mut command("verify"), b"");
            assert_eq!(verified.code, compacted.code, "{verified:?}");
            field.assert_served(&launch(data.path()), &file, &sector);
        }
    }
}
