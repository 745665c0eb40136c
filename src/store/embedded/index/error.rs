//! What a failure of the engine says about the index, and the fence that turns its panics into failures.
//!
//! It refuses to know what was called. **Invariant:** no panic of the engine leaves a fenced call.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::disk;

/// The engine failed or found damage; nothing more is asked of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the index failed: {reason}")]
pub struct IndexError {
    reason: String,
    cause: Cause,
}

/// What it says about the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It is damaged, or its disk is.
    Failure,
    /// Nothing: there was too little of something, or this process may not write.
    Lack,
    /// It never was complete.
    Unfinished,
}

impl IndexError {
    pub(in crate::store::embedded) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            cause: Cause::Failure,
        }
    }

    /// For an index that has no checkpoint yet.
    pub(in crate::store::embedded) fn unfinished() -> Self {
        Self {
            reason: "it was not drawn to its end".into(),
            cause: Cause::Unfinished,
        }
    }

    /// Whether there was too little of something, or this process may not write, and that is all.
    pub(in crate::store::embedded) fn is_lack(&self) -> bool {
        self.cause == Cause::Lack
    }

    /// Whether the index never was complete, and that is all.
    pub(in crate::store::embedded) fn is_unfinished(&self) -> bool {
        self.cause == Cause::Unfinished
    }
}

impl From<sled::Error> for IndexError {
    fn from(error: sled::Error) -> Self {
        let reason = error.to_string();
        let cause = match error {
            sled::Error::Io(error) => Self::from(error).cause,
            _ => Cause::Failure,
        };
        Self { reason, cause }
    }
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        Self {
            reason: error.to_string(),
            cause: if disk::is_refused(&error) {
                Cause::Lack
            } else {
                Cause::Failure
            },
        }
    }
}

/// Turns a panic of the engine into an error.
pub(super) fn fence<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(IndexError::new(panic_text(&*panic))))
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

/// For a change that has to come to pass, as nothing else changes the index meanwhile: what is answered or
/// replayed after it counts on it.
pub(in crate::store::embedded) fn require(has_changed: bool) -> Result<(), IndexError> {
    if has_changed {
        Ok(())
    } else {
        Err(IndexError::new("it does not have what it had"))
    }
}
