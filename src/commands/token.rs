//! `digestd token`: makes tokens.
//!
//! It refuses to know a server or its file of tokens. **Invariant:** a token is printed once and kept nowhere.

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

/// Makes a token. It goes to standard output because it cannot be shown again; its hash line, no secret, to
/// standard error.
pub(super) fn run(arguments: TokenArgs) -> anyhow::Result<()> {
    let TokenCommand::New(arguments) = arguments.command;
    let token = Token::random().context("there are no random numbers")?;
    let line = token.line(&arguments.name, arguments.scope);
    writeln!(io::stderr(), "{line}").context("cannot write the line of the token")?;
    print_line(&token.reveal())
}
