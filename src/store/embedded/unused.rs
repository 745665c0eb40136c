//! A data directory that was claimed and is not a store yet: a start that fails before there is a log leaves
//! nothing.
//!
//! It refuses to know what the files are. **Invariant:** it removes files that it was told of, and directories that
//! were not there before and are empty.

use std::fs;
use std::path::{Path, PathBuf};

/// When dropped, a new directory without a log is as it was before it was claimed.
#[derive(Debug)]
pub(super) struct Unused {
    path: PathBuf,
    /// The directories that were not there, it and those above it, the deepest first.
    made: Vec<PathBuf>,
    /// What a claim makes in it.
    names: Vec<&'static str>,
}

impl Unused {
    /// Of a directory before it is made.
    pub(super) fn before(path: &Path) -> Self {
        let above = path.ancestors();
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        Self {
            path: path.to_owned(),
            made: above.take_while(is_missing).map(Path::to_owned).collect(),
            names: Vec::new(),
        }
    }

    /// From now on these files in it are its own.
    pub(super) fn is_made_of(&mut self, names: &[&'static str]) {
        self.names.extend(names);
    }

    /// The same of those of `names` that are not there yet.
    pub(super) fn gets(&mut self, names: &[&'static str]) {
        let is_new = |name: &&&str| !self.path.join(name).exists();
        let new: Vec<_> = names.iter().filter(is_new).copied().collect();
        self.is_made_of(&new);
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if self.path.join("log").exists() {
            return;
        }
        // Whatever stays harms no later start.
        for name in &self.names {
            let _ = fs::remove_file(self.path.join(name));
        }
        for path in &self.made {
            let _ = fs::remove_dir(path);
        }
    }
}
