//! A disk that is slow or has bad sectors, as the real binary sees it: `disk.c`, which the compiler that
//! builds the allocator builds too.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::{Launch, digestd};

/// What a disk does that is not in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct BadDisk {
    bad: Vec<String>,
    slow: Option<String>,
    slow_while: Option<PathBuf>,
    slow_names: Option<String>,
    trace: Option<PathBuf>,
    no_directory_sync: bool,
}

impl BadDisk {
    /// These bytes of a file cannot be read, whatever it will be called.
    pub(crate) fn unreadable(mut self, file: &Path, bytes: &Range<usize>) -> Self {
        let inode = fs::metadata(file).unwrap().ino();
        self.bad
            .push(format!("{inode} {} {}", bytes.start, bytes.len()));
        self
    }

    /// Syncs of files with this in their path take so long.
    pub(crate) fn slow(mut self, part: &str, milliseconds: u32) -> Self {
        self.slow = Some(format!("{part} {milliseconds}"));
        self
    }

    /// They take so long only while this file is there.
    pub(crate) fn while_there(mut self, file: &Path) -> Self {
        self.slow_while = Some(file.to_owned());
        self
    }

    /// Renaming a file to a name with this in its path, and linking it there, takes so long.
    pub(crate) fn slow_to_name(mut self, part: &str, milliseconds: u32) -> Self {
        self.slow_names = Some(format!("{part} {milliseconds}"));
        self
    }

    /// Directories cannot be synced.
    pub(crate) fn without_directory_sync(mut self) -> Self {
        self.no_directory_sync = true;
        self
    }

    /// Writes and syncs are written down.
    pub(crate) fn traced(mut self, file: &Path) -> Self {
        self.trace = Some(file.to_owned());
        self
    }

    /// The environment of a process that has this disk.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let bad = (!self.bad.is_empty()).then(|| ("DISK_BAD", self.bad.join(" ")));
        let slow = self.slow.clone().map(|slow| ("DISK_SLOW", slow));
        let slow_while = self.slow_while.as_ref();
        let slow_while = slow_while.map(|file| ("DISK_SLOW_WHILE", path(file)));
        let slow_names = self.slow_names.clone().map(|it| ("DISK_SLOW_NAMES", it));
        let trace = self.trace.as_ref().map(|file| ("DISK_TRACE", path(file)));
        let library = ("LD_PRELOAD", path(disk_library()));
        let no_sync = self.no_directory_sync;
        let no_sync = no_sync.then(|| ("DISK_NO_DIRECTORY_SYNC", "1".to_owned()));
        [
            Some(library),
            bad,
            slow,
            slow_while,
            slow_names,
            trace,
            no_sync,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// A command line of the binary on this disk.
    pub(crate) fn digestd(&self) -> Command {
        let mut command = digestd();
        command.envs(self.environment());
        command
    }

    /// A server on this disk.
    pub(crate) fn launch(&self, launch: Launch) -> Launch {
        let environment = self.environment().into_iter();
        environment.fold(launch, |launch, (name, value)| launch.env(name, value))
    }
}

/// The library that `tests/it/NAME.c` is the source of.
pub(crate) fn library(name: &str) -> PathBuf {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let library = directory.path().join("library.so");
    let source = format!("{}/tests/it/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&*library, Path::new(&source)])
        .arg("-ldl")
        .status();
    assert!(built.unwrap().success());
    // Others may be building it too: each has its own, and leaves one that is always the same.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.so"));
    fs::rename(library, &kept).unwrap();
    kept
}

fn disk_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| library("disk"))
}
