//! Makes the JSON form of the description of the HTTP interface, so that the YAML form is the only
//! one to be written.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const SOURCE: &str = "src/http/openapi.yaml";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let document: serde_json::Value = serde_saphyr::from_str(&fs::read_to_string(SOURCE)?)?;
    let mut json = serde_json::to_string_pretty(&document)?;
    json.push('\n');
    let directory = env::var("OUT_DIR")?;
    fs::write(Path::new(&directory).join("openapi.json"), json)?;
    Ok(())
}
