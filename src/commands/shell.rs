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
pub(super) fn complete(arguments: &CompletionsArgs, command: &Command) -> anyhow::Result<()> {
    let mut command = shown(command);
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    print(&script)
}

/// What is shown of `command`: the script for bash has hidden commands and options too.
fn shown(command: &Command) -> Command {
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    let commands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let shown = Command::new(command.get_name().to_owned())
        .args(arguments.cloned())
        .subcommands(commands.map(shown));
    let shown = match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    };
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()),
        None => shown,
    }
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
                .ok_or(UsageError(
                    "there is no such command, see digestd --help".into(),
                ))?
                .name(whole)
        }
    };
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .context("cannot make the page")?;
    print(&page)
}
