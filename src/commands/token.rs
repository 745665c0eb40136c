//! `digestd token`: makes tokens.
//!
//! It refuses to know a server or its file of tokens. **Invariants:** a token is printed once and kept nowhere; the line
//! of one that could not be shown is not printed.

use std::io::{self, Write};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::output::print_line;
use crate::access::tokens::{self, Token};

/// Options of `token`.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// What is to be done.
    #[command(subcommand)]
    command: TokenCommand,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token: it goes to standard output, this once, and its line for the file of tokens,
    /// which is no secret, to standard error (`digestd token new ci 2>>tokens`)
    New(NewTokenArgs),
}

/// Options of `token new`.
#[derive(Debug, Args)]
pub(super) struct NewTokenArgs {
    /// What logs call it: letters, digits, `-`, `_` and `.`
    name: tokens::Name,

    /// What it allows: read, write, delete, export, metrics, with commas between them
    #[arg(long, value_name = "SCOPES", default_value = "read,write")]
    scope: tokens::Scopes,
}

/// No token was made. What is said of it may end up in the file of tokens, so it is a comment there.
#[derive(Debug, thiserror::Error)]
#[error("# digestd: no token was made: {0:#}")]
pub(super) struct NotMade(anyhow::Error);

/// Makes a token. It goes to standard output because it cannot be shown again; its hash line, no secret, to
/// standard error.
///
/// # Errors
/// [`NotMade`], also where nobody reads standard output, or that the line cannot be written.
pub(super) fn run(arguments: TokenArgs) -> anyhow::Result<()> {
    let TokenCommand::New(arguments) = arguments.command;
    let token = Token::random()
        .context("there are no random numbers")
        .map_err(NotMade)?;
    let line = token.line(&arguments.name, arguments.scope);
    let shown = print_line(&token.reveal()).context("it cannot be shown");
    shown.map_err(NotMade)?;
    writeln!(io::stderr(), "{line}")
        .context("cannot write the line of the token, which is of no use without it")
}
