//! `digestd token`: makes tokens.

use clap::{Args, Subcommand};

use crate::access::tokens;

/// Options of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What is to be done.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: it goes to standard output, this once, and its line for the file of tokens,
    /// which is no secret, to standard error (`digestd token new ci 2>>tokens`)
    New(NewTokenArgs),
}

/// Options of `token new`.
#[derive(Debug, Args)]
pub struct NewTokenArgs {
    /// What logs call it: letters, digits, `-`, `_` and `.`
    pub name: tokens::Name,

    /// What it allows: read, write, delete, export, metrics, with commas between them
    #[arg(long, value_name = "SCOPES", default_value = "read,write")]
    pub scope: tokens::Scopes,
}
