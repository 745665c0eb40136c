//! What an archive consists of, in either form.
//!
//! It refuses to know the forms. **Invariant:** an item is a message, or says why it is none.

use crate::digest::Digest;
use crate::message::Message;
use crate::ndjson::LineError;

/// One line, or one file.
#[derive(Debug)]
pub(in crate::commands) struct Item {
    /// From 1.
    pub(in crate::commands) number: u64,
    pub(in crate::commands) content: Result<Message, Wrong>,
    /// Where in the archive the next one starts; `None` if the end of this one is missing. The archive
    /// may be shorter: what fills a file of a tar up to there is not looked at.
    pub(in crate::commands) end: Option<u64>,
}

/// Why an item is not a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::commands) enum Wrong {
    #[error("{0}{advice}", advice = advice(.0))]
    Line(#[from] LineError),
    #[error("larger than {0} bytes, the most that can be stored there; see digestd import --help")]
    TooLarge(usize),
    #[error("its name is not a digest")]
    Name,
    #[error("not a file")]
    Kind,
    #[error("its content has the digest {actual}, not {stated}")]
    Content { stated: Digest, actual: Digest },
    #[error("its content is not UTF-8")]
    NotText,
}

/// What to do with lines of another form.
fn advice(error: &LineError) -> &'static str {
    match error {
        LineError::Form => "; `digestd put --batch` takes lines without a digest",
        _ => "",
    }
}
