//! Which names in a data directory belong to the store.
//!
//! It refuses to know what is in the files. **Invariant:** whatever the store makes directly in its directory has one
//! of these names.

use super::directory::{
    ASIDE_NAME, CHECKPOINT_NAME, DURABILITY_NAME, FORMAT_NAME, LOCK_NAME, MARK_NAME, NOTE_NAME,
};
use super::{index, reserve};

/// All but those that end in `.new`.
pub const OWN_NAMES: [&str; 11] = [
    FORMAT_NAME,
    LOCK_NAME,
    NOTE_NAME,
    CHECKPOINT_NAME,
    DURABILITY_NAME,
    MARK_NAME,
    "log",
    ASIDE_NAME,
    index::NAME,
    index::OLD_NAME,
    reserve::NAME,
];

/// What the name of a file ends with until it takes the place of another.
const UNFINISHED: &str = ".new";

/// Whether the store has this name for itself, now or later. The case is ignored, as some file systems do.
#[must_use]
pub fn is_own_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is = |own: &str| own.eq_ignore_ascii_case(&name);
    name.ends_with(UNFINISHED) || OWN_NAMES.into_iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_own_in_any_case_and_before_they_are_finished() {
        for name in [
            "FORMAT",
            "format",
            "Log",
            "log.new",
            "NOTE.new",
            "index.OLD",
        ] {
            assert!(is_own_name(name), "{name}");
        }
        for name in ["log.1", "FORMAT.1", "ID", "server.log", "", "new"] {
            assert!(!is_own_name(name), "{name}");
        }
    }
}
