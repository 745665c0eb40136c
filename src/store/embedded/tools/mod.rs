//! What is done to a whole store, served or not: each tool is a file.
//!
//! They read the log through the rooms of the engine, which do not know them.
//! **Invariant:** no tool changes what a look-up answers.

mod backup;
mod compact;
mod scrub;
mod verify;

pub use self::backup::{BackedUp, Method, back_up};
pub use self::compact::{CompactError, Compacted, compact};
pub use self::scrub::keep_scrubbing;
pub use self::verify::{Verified, verify, verify_read_only};
