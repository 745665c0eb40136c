//! `digestd verify`: what a store promised, held against what the disk has.

use std::io::{self, Write};

use anyhow::Context;
use serde_json::{Value, json};

use super::progress::Progress;
use super::{Findings, plural};
use crate::cli::VerifyArgs;
use crate::config;
use crate::store::{self, DataDirectory, Finding, Verified};

/// Reads a data directory from end to end and prints what is wrong with it.
///
/// # Errors
/// [`Findings`] if anything is; [`store::OpenError`] if it cannot be read at all.
pub fn verify(arguments: &VerifyArgs) -> anyhow::Result<()> {
    let directory = DataDirectory::claim_existing(&arguments.data.data_dir)?;
    let mut output = io::stdout().lock();
    let mut printed = Ok(());
    let bar = Progress::of_bytes(0);
    let progress = |done, total| {
        bar.set_total(total);
        bar.set(done);
    };
    let verified = store::verify(
        &directory,
        config::default_cache_bytes(),
        &progress,
        |finding| {
            let line = if arguments.json {
                finding_json(finding).to_string()
            } else {
                finding.to_string()
            };
            if printed.is_ok() {
                printed = bar.aside(|| writeln!(output, "{line}"));
            }
        },
    )?;
    drop(bar);
    let line = if arguments.json {
        summary_json(&verified).to_string()
    } else {
        summary(&verified)
    };
    printed
        .and_then(|()| writeln!(output, "{line}"))
        .and_then(|()| output.flush())
        .context("cannot write the result")?;
    Ok(Findings::none_of(verified.findings)?)
}

fn summary(verified: &Verified) -> String {
    let mut parts = vec![format!(
        "{} in the log",
        plural(verified.records, "good record")
    )];
    parts.push(match verified.indexed {
        Some(messages) => format!("{} in the index", plural(messages, "message")),
        None => "the index will be redrawn at the next start".into(),
    });
    if verified.healed > 0 {
        parts.push(format!(
            "{} posted again since",
            plural(verified.healed, "damaged record")
        ));
    }
    if verified.torn_bytes > 0 {
        parts.push(format!(
            "{} of an unfinished group",
            plural(verified.torn_bytes, "byte")
        ));
    }
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

fn summary_json(verified: &Verified) -> Value {
    json!({
        "records": verified.records,
        "indexed": verified.indexed,
        "healed": verified.healed,
        "torn_bytes": verified.torn_bytes,
        "findings": verified.findings,
    })
}
