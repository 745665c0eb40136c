//! The operator's verbs: what is done to a whole store at once.
//!
//! A verb takes checked arguments and says what it did: results on standard output, trouble and
//! progress on standard error, the rest with the exit code. What needs the inside of a store is the
//! store's; this room opens, counts and prints.

mod progress;
mod verify;

pub use self::verify::verify;

/// Something is not as promised; what, was said one by one.
#[derive(Debug, thiserror::Error)]
#[error("{}", plural(*.0, "finding"))]
pub struct Findings(u64);

impl Findings {
    /// An error if there are any.
    fn none_of(count: u64) -> Result<(), Self> {
        if count == 0 { Ok(()) } else { Err(Self(count)) }
    }
}

/// `1 finding`, `2 findings`.
fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}
