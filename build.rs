//! Makes the JSON form of the description of the HTTP interface, so that the YAML form is the only
//! one to be written, and finds out what is built, for `--version`.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "src/http/openapi.yaml";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let document: serde_json::Value = serde_saphyr::from_str(&fs::read_to_string(SOURCE)?)?;
    let mut json = serde_json::to_string_pretty(&document)?;
    json.push('\n');
    let directory = env::var("OUT_DIR")?;
    fs::write(Path::new(&directory).join("openapi.json"), json)?;

    let mut parts = vec![env::var("TARGET")?];
    parts.extend(commit());
    println!("cargo::rustc-env=DIGESTD_BUILD={}", parts.join(", "));
    Ok(())
}

/// The commit and its day: as `DIGESTD_COMMIT` says, or else git. `None` in sources without a history.
fn commit() -> Option<String> {
    println!("cargo::rerun-if-env-changed=DIGESTD_COMMIT");
    // Changes with each commit.
    let history = ".git/logs/HEAD";
    if Path::new(history).exists() {
        println!("cargo::rerun-if-changed={history}");
    }
    let given = env::var("DIGESTD_COMMIT").ok();
    given.filter(|commit| !commit.is_empty()).or_else(|| {
        let git = Command::new("git")
            .args(["log", "-1", "--abbrev=10", "--format=%h of %cs"])
            .output()
            .ok()?;
        let commit = String::from_utf8(git.stdout).ok()?;
        git.status.success().then(|| commit.trim().to_owned())
    })
}
