//! Memory groups of the kernel, version 1 or 2: a server in one has so much memory and no more.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::process::{Launch, wait_until};

const MOUNT: &str = "/sys/fs/cgroup";

/// A group of this process's making, which must outlive what is started in it.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    path: PathBuf,
    files: &'static Files,
}

/// What its files are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    /// There if the kernel can write memory out: the same limit holds for both, so that it does not.
    swap: (&'static str, Swap),
    peak: &'static str,
    /// Has a line that counts the processes that were killed.
    kills: &'static str,
    /// The first word of the line that has the memory of its processes, without that of files.
    resident: &'static str,
}

#[derive(Debug)]
enum Swap {
    IsNone,
    IsInLimit,
}

static VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    swap: ("memory.memsw.limit_in_bytes", Swap::IsInLimit),
    peak: "memory.max_usage_in_bytes",
    kills: "memory.oom_control",
    resident: "rss",
};

static VERSION_2: Files = Files {
    limit: "memory.max",
    swap: ("memory.swap.max", Swap::IsNone),
    peak: "memory.peak",
    kills: "memory.events",
    resident: "anon",
};

impl MemoryGroup {
    /// With so much memory. `None` where this process may not make one, which is said aloud: a test that
    /// needs it shows nothing then.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        match Self::make(bytes) {
            Ok(group) => Some(group),
            Err(error) => {
                // Where nobody captures it.
                let said =
                    format!("\nNOT TESTED: no memory group can be made in {MOUNT}: {error}\n");
                io::stderr().write_all(said.as_bytes()).unwrap();
                None
            }
        }
    }

    fn make(bytes: u64) -> io::Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let mount = Path::new(MOUNT);
        let (parent, files) = if mount.join("memory").join(VERSION_1.limit).exists() {
            (mount.join("memory"), &VERSION_1)
        } else {
            fs::write(mount.join("cgroup.subtree_control"), "+memory")?;
            (mount.into(), &VERSION_2)
        };
        let number = MADE.fetch_add(1, Relaxed);
        let path = parent.join(format!("digestd-test-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        let group = Self { path, files };
        fs::write(group.path.join(files.limit), bytes.to_string())?;
        let (swap, is_in_limit) = &files.swap;
        let swap = group.path.join(swap);
        if swap.exists() {
            let most = match is_in_limit {
                Swap::IsNone => 0,
                Swap::IsInLimit => bytes,
            };
            fs::write(swap, most.to_string())?;
        }
        Ok(group)
    }

    /// Starts the server in it.
    pub(crate) fn launch(&self, launch: Launch) -> Launch {
        let processes = self.path.join("cgroup.procs");
        let enter = format!("echo $$ >{} && exec \"$0\" \"$@\"", processes.display());
        launch.through(["sh", "-c", &enter])
    }

    /// The most memory that its processes and what the kernel keeps for them had so far: files that they read
    /// and wrote too, which give way to anything else.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.read(self.files.peak).trim().parse().unwrap()
    }

    /// The memory of its processes at the moment, without that of files.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.number_of(self.files.resident, "memory.stat")
    }

    /// Processes that were killed because there was no more.
    pub(crate) fn kills(&self) -> u64 {
        self.number_of("oom_kill", self.files.kills)
    }

    fn number_of(&self, name: &str, file: &str) -> u64 {
        let text = self.read(file);
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, number) = lines.find(|(first, _)| *first == name).expect(name);
        number.parse().unwrap()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel may take a moment to see that its last process has ended.
        let is_gone = || fs::remove_dir(&self.path).is_ok();
        if !std::thread::panicking() {
            wait_until("the end of a memory group", is_gone);
        } else if !is_gone() {
            eprintln!("{} is left", self.path.display());
        }
    }
}
