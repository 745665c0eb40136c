//! The commands of `digestd`: each is a file with its arguments, its run and its tests.
//!
//! A command takes its arguments and says what it did: results on standard output, trouble and
//! progress on standard error, the rest with the exit code. It refuses to know the inside of a store or a
//! protocol: a command opens, counts and prints. **Invariants:** this file names the commands, and none
//! of them names it. Running an interrupted command once more continues it.

mod addresses;
mod archive;
mod backup;
mod color;
mod compact;
mod crash;
mod delete;
mod doctor;
mod environment;
mod examples;
mod export;
mod exposure;
mod get;
mod has;
mod hash;
mod healthcheck;
mod import;
mod in_use;
mod listening;
mod lookup;
mod options;
mod output;
mod process_limits;
mod progress;
mod put;
mod serve;
mod server_messages;
mod setup;
mod shell;
mod token;
mod values;
mod verify;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

use self::color::Color;
use self::examples::with_examples;
pub use self::options::ServerArgs;
use self::options::{DataArgs, TextArgs, UsageError, one_of};
use self::output::{IntegrityError, ReaderGone, say, written};
use self::process_limits::{keep_files_private, raise_file_limit, survive_size_limit};
use self::serve::ServeArgs;
use self::setup::with_log;
use crate::access::tokens::without_tokens;
use crate::client::{InvalidUrl, NotFound, Unreachable};
use crate::server::BindError;
use crate::store::OpenError;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failure, 2 usage, 3 integrity findings, 4 the data directory is held by
another process, 5 cannot bind, 6 not found, 7 server unreachable.";

/// What `--version` says, as `build.rs` found it.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("DIGESTD_BUILD"), ")");

/// Keeps messages and finds them by their SHA-256 digest.
///
/// Without a command it serves, like `digestd serve`.
#[derive(Debug, Parser)]
#[command(version, long_version = VERSION, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// When there are colours; auto: on a terminal that shows them, unless `NO_COLOR` is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto",
        value_parser = one_of(Color::ALL))]
    color: Color,
    #[command(flatten)]
    serve: ServeArgs,
}

impl Cli {
    /// What is to be done.
    fn into_command(self) -> Command {
        self.command
            .unwrap_or_else(|| Command::Serve(Box::new(self.serve)))
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve messages over HTTP (the default)
    Serve(Box<ServeArgs>),
    /// Print the digest of a text; needs no server
    Hash(TextArgs),
    /// Store a text on a server and print its digest
    Put(put::PutArgs),
    /// Print the text with a digest, exactly as it was stored; of several, a line of JSON each
    Get(get::GetArgs),
    /// Ask a server whether it has messages, and print the digests of those that it does not have
    Has(has::HasArgs),
    /// Print the messages with the digests of a file, a line of JSON each
    Lookup(lookup::LookUpArgs),
    /// Delete messages of a server, and print their digests
    Delete(delete::DeleteArgs),
    /// Read a data directory from end to end and name everything that is not as promised
    Verify(verify::VerifyArgs),
    /// Write all messages of a store, or of a server, into a file
    Export(export::ExportArgs),
    /// Store all messages of an export, each checked; run it again to go on
    Import(import::ImportArgs),
    /// Copy a store, also one that is being served; run it again to bring the copy up to date
    Backup(backup::BackupArgs),
    /// Write the log of a store again, without what was deleted, or damaged and posted again
    Compact(DataArgs),
    /// Examine whether a directory is a good place for a store
    Doctor(doctor::DoctorArgs),
    /// Write messages until killed; for `doctor`
    #[command(hide = true)]
    CrashWriter(crash::CrashWriterArgs),
    /// Ask a server whether it is ready; for container engines and supervisors
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Make a token for a client of a server with --tokens
    Token(token::TokenArgs),
    /// Print a script that completes commands and options in a shell
    Completions(shell::CompletionsArgs),
    /// Print a page of the manual
    Man(shell::ManArgs),
}

/// The command lines that there are.
fn definition() -> clap::Command {
    with_examples(Cli::command())
}

/// Does what the command line asks for, the name of the program first; returns the exit code.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    let arguments: Vec<_> = arguments.collect();
    let cli: Cli = match environment::parse(definition(), &arguments) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, &arguments),
    };
    keep_files_private();
    if let Err(error) = survive_size_limit() {
        say(&format!("cannot ignore SIGXFSZ: {error}"));
    }
    // Every command that opens a store needs a descriptor for each segment.
    let raised = raise_file_limit();
    let color = cli.color;
    let result = match cli.into_command() {
        Command::Serve(arguments) => serve::run(*arguments, raised, color),
        Command::Hash(arguments) => hash::run(arguments),
        Command::Put(arguments) => put::run(arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::Has(arguments) => has::run(&arguments),
        Command::Lookup(arguments) => lookup::run(&arguments),
        Command::Delete(arguments) => delete::run(&arguments),
        Command::Verify(arguments) => with_log(color, || verify::run(&arguments)),
        Command::Export(arguments) => with_log(color, || export::run(&arguments)),
        Command::Import(arguments) => with_log(color, || import::run(&arguments)),
        Command::Backup(arguments) => with_log(color, || backup::run(&arguments)),
        Command::Compact(arguments) => with_log(color, || compact::run(&arguments)),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::CrashWriter(arguments) => crash::run(&arguments),
        Command::Healthcheck(arguments) => healthcheck::run(arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::Completions(arguments) => shell::complete(&arguments, &definition()),
        Command::Man(arguments) => shell::man(&arguments, definition()),
    };
    match result {
        Ok(()) => 0,
        Err(error) if error.is::<ReaderGone>() => 0,
        Err(error) if error.is::<token::NotMade>() => {
            let _ = writeln!(io::stderr(), "{error}");
            exit_code(&error)
        }
        Err(error) => {
            let text = format!("{error:#}");
            let options = match (error.is::<UsageError>(), error.is::<InvalidUrl>()) {
                (true, _) => text.as_str(),
                (false, true) => "--url",
                (false, false) => "",
            };
            let text = environment::with_sources(&text, options, definition(), &arguments);
            say(&text);
            exit_code(&error)
        }
    }
}

/// Prints what is wrong with a command line, or the help that it asks for; returns the exit code.
fn explain(error: &clap::Error, arguments: &[OsString]) -> i32 {
    let color = Color::of(arguments);
    let text = error.render();
    let text = |is_colored: bool| {
        let text = if is_colored {
            text.ansi().to_string()
        } else {
            text.to_string()
        };
        without_tokens(&text)
    };
    if error.use_stderr() {
        // The exit code says it too.
        let mut text = text(color.applies_to(&io::stderr()));
        if is_stray_switch_value(error) {
            text += "digestd: the value of a switch comes after `=`, as in --log-compress=on\n";
        }
        if is_of_token(arguments) {
            text = commented(&text);
        }
        let _ = write!(io::stderr(), "{text}");
        return error.exit_code();
    }
    let mut output = io::stdout();
    let text = text(color.applies_to(&output));
    let result = write!(output, "{text}").and_then(|()| output.flush());
    match written(result) {
        Err(error) if !error.is::<ReaderGone>() => {
            say(&format!("{error:#}"));
            exit_code(&error)
        }
        _ => error.exit_code(),
    }
}

/// Whether a command line is of `token`, whose standard error is the file of tokens (`2>>tokens`).
fn is_of_token(arguments: &[OsString]) -> bool {
    let definition = definition();
    let mut words = arguments.iter().skip(1);
    let command = words.find_map(|word| definition.find_subcommand(word));
    command.is_some_and(|command| command.get_name() == "token")
}

/// The text as comments of a file of tokens.
fn commented(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.map(|line| format!("# {line}").trim_end().to_owned() + "\n");
    lines.collect()
}

/// Whether a word that does not belong there is what a switch may be set to.
fn is_stray_switch_value(error: &clap::Error) -> bool {
    let stray = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let mut stray = stray.into_iter().filter_map(|kind| error.get(kind));
    stray.any(|word| {
        let values = ["on", "off", "true", "false", "yes", "no", "1", "0"];
        matches!(word, ContextValue::String(word) if values.contains(&word.to_ascii_lowercase().as_str()))
    })
}

/// See `--help`.
fn exit_code(error: &anyhow::Error) -> i32 {
    let is_held = matches!(error.downcast_ref(), Some(OpenError::Held { .. }));
    let codes = [
        (2, error.is::<UsageError>() || error.is::<InvalidUrl>()),
        (3, error.is::<IntegrityError>()),
        (4, is_held),
        (5, error.is::<BindError>()),
        (6, error.is::<NotFound>()),
        (7, error.is::<Unreachable>()),
    ];
    let code = codes.into_iter().find(|(_, applies)| *applies);
    code.map_or(1, |(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_are_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn every_example_is_a_command_line() {
        for line in examples::lines() {
            // Without what it does, and where its output goes; other commands come before or after.
            let command = line.split("   ").next().unwrap_or_default();
            let parts = command.split('|').map(str::trim);
            let ours = parts.filter(|part| part.starts_with("digestd"));
            for part in ours.filter(|part| !part.contains("$(")) {
                let words = part.split('>').next().unwrap_or_default();
                let words = words.trim_end_matches(" 2").trim();
                let mut quoted = words.split('\'');
                let mut arguments: Vec<OsString> = Vec::new();
                while let Some(plain) = quoted.next() {
                    arguments.extend(plain.split_whitespace().map(OsString::from));
                    arguments.extend(quoted.next().map(OsString::from));
                }
                let parsed = environment::parse::<Cli>(definition(), &arguments);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
