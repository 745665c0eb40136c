//! `digestd hash`: prints the digest of a text.
//!
//! It refuses to know a server. **Invariant:** the digest is that of every byte of the text.

use super::options::TextArgs;
use super::output::print_line;
use crate::digest::Digest;

/// Prints the digest of a text.
pub(super) fn run(arguments: TextArgs) -> anyhow::Result<()> {
    print_line(&Digest::of(arguments.read()?.as_bytes()))
}
