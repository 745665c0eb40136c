//! `digestd verify`: what a store promised, compared with what the disk has.
//!
//! It refuses to know how a store is read: findings come from the store or the server. **Invariant:** every
//! finding is printed, and any makes the exit code 3.

use std::io::{self, StdoutLock, Write};
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::in_use::{Instead, or_ask};
use super::options::{CredentialArgs, DataArgs};
use super::output::{IntegrityError, plural, unless_gone};
use super::progress::{Bar, MessageBar};
use super::server_messages::read_server;
use crate::client::Client;
use crate::config;
use crate::digest::Digest;
use crate::store::{self, Finding, Readable, Verified};

/// Options of `verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// What to read.
    #[command(flatten)]
    data: DataArgs,

    /// Read what this server has instead, which must have been started with --allow-export, or with
    /// --tokens and see one that allows export
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// What it wants to see.
    #[command(flatten)]
    credential: CredentialArgs,

    /// Print JSON, one object a line: each finding, then what was read
    #[arg(long)]
    json: bool,
}

/// Reads a data directory, or what a server has, from end to end and prints what is wrong with it.
///
/// # Errors
/// [`IntegrityError`] if anything is; else what kept it from being read at all.
pub(super) fn run(arguments: &VerifyArgs) -> anyhow::Result<()> {
    let mut printer = Printer {
        output: io::stdout().lock(),
        json: arguments.json,
        result: Ok(()),
    };
    let verified = match &arguments.url {
        Some(url) => verify_server(&arguments.credential.client(url)?, &mut printer)?,
        None => verify_directory(&arguments.data.data_dir, &mut printer)?,
    };
    printer.print(&summary(&verified), &summary_json(&verified));
    unless_gone(printer.result.and_then(|()| printer.output.flush()))?;
    Ok(IntegrityError::if_any(verified.findings)?)
}

/// Prints lines, in words or as JSON.
struct Printer {
    output: StdoutLock<'static>,
    json: bool,
    /// The first failure to print.
    result: io::Result<()>,
}

impl Printer {
    fn print(&mut self, text: &str, json: &Value) {
        if self.result.is_ok() {
            self.result = if self.json {
                writeln!(self.output, "{json}")
            } else {
                writeln!(self.output, "{text}")
            };
        }
    }
}

fn verify_directory(data_dir: &Path, printer: &mut Printer) -> anyhow::Result<Verified> {
    let instead = Instead::Ask(
        "verify",
        "have been started with --allow-export or --tokens",
    );
    let directory = or_ask(Readable::claim(data_dir), data_dir, instead)?;
    let bar = Bar::of_bytes();
    let progress = |done, total| bar.set(done, total);
    let tell = |finding: &Finding| {
        bar.aside(|| printer.print(&finding.to_string(), &finding_json(finding)));
    };
    Ok(match directory {
        Readable::Held(directory) => {
            let cache_bytes = config::default_cache_bytes();
            store::verify(&directory, cache_bytes, &progress, tell)?
        }
        Readable::ReadOnly(directory) => store::verify_read_only(&directory, &progress, tell)?,
    })
}

/// Reads all messages of a server: each that its index names is there and has its digest.
fn verify_server(client: &Client, printer: &mut Printer) -> anyhow::Result<Verified> {
    let (mut walk, mut verified) = (MessageBar::new(), Verified::default());
    read_server(client, None, |digest, message| {
        if message.is_some() {
            verified.records += 1;
            walk.pass(digest);
        } else {
            verified.findings += 1;
            let text = format!("message {digest} is damaged");
            walk.aside(|| printer.print(&text, &damaged_json(digest, &text)));
        }
        Ok(())
    })?;
    drop(walk);
    verified.indexed = Some(verified.records + verified.findings);
    Ok(verified)
}

fn summary(verified: &Verified) -> String {
    let mut parts = vec![format!(
        "{} in the log",
        plural(verified.records, "good record")
    )];
    parts.push(match verified.indexed {
        Some(messages) => format!("{} in the index", plural(messages, "message")),
        None if verified.is_index_closed => "the index was not read, which takes writing".into(),
        None => "the next start draws the index".into(),
    });
    let others = [
        (verified.deletions, "deletion", ""),
        (verified.healed, "damaged record", " posted again since"),
        (verified.torn_bytes, "byte", " of an unfinished group"),
    ];
    let others = others.into_iter().filter(|(count, ..)| *count > 0);
    parts.extend(others.map(|(count, noun, what)| plural(count, noun) + what));
    parts.push(plural(verified.findings, "finding"));
    parts.join("; ")
}

fn finding_json(finding: &Finding) -> Value {
    let at = finding.at();
    json!({
        "finding": finding.kind(),
        "file": at.map(|at| format!("log/{}", at.file_name())),
        "offset": at.map(|at| at.offset),
        "digest": finding.digest().map(|digest| digest.to_string()),
        "text": finding.to_string(),
    })
}

/// The same of a message on a server, which does not say where it has it.
fn damaged_json(digest: &Digest, text: &str) -> Value {
    json!({ "finding": "damaged", "digest": digest.to_string(), "text": text })
}

fn summary_json(verified: &Verified) -> Value {
    json!({
        "records": verified.records,
        "deletions": verified.deletions,
        "indexed": verified.indexed,
        "healed": verified.healed,
        "torn_bytes": verified.torn_bytes,
        "findings": verified.findings,
    })
}
