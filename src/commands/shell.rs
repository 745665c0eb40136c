//! `digestd completions` and `digestd man`: what a shell and a reader of manuals want to have.
//!
//! It refuses to know the commands: both are made of the definition that reads command lines. **Invariant:** no
//! option is in one of them and not in the other.

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::options::UsageError;
use super::output::print;

/// Options of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell that is to read it
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The command whose page it is [default: that of digestd itself]
    command: Option<String>,
}

/// Prints a script that completes the commands of `command`.
pub(super) fn complete(arguments: &CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    print(&script)
}

/// Prints the page of `command`, or of one of its commands.
pub(super) fn man(arguments: &ManArgs, mut command: Command) -> anyhow::Result<()> {
    // Gives the commands their whole names.
    command.build();
    let command = match &arguments.command {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            let whole = format!("{}-{name}", command.get_name());
            found
                .ok_or(UsageError("there is no such command, see digestd --help"))?
                .name(whole)
        }
    };
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .context("cannot make the page")?;
    print(&page)
}
