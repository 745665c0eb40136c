//! `digestd hash`: prints the digest of a text.
//!
//! It refuses to know a server: the digest is computed here.

use super::options::TextArgs;
use super::output::print;
use crate::digest::Digest;

/// Prints the digest of a text.
pub(super) fn run(arguments: TextArgs) -> anyhow::Result<()> {
    print(format!("{}\n", Digest::of(arguments.read()?.as_bytes())).as_bytes())
}
