//! The README's console lines, executed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::Digestd;

#[test]
#[ignore = "needs curl"]
fn the_console_lines_of_the_readme_print_what_it_says() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = Digestd::start(directory.path());
    let steps: Vec<_> = console_blocks(&readme).flat_map(steps).collect();
    assert!(steps.len() >= 7, "only {} lines found", steps.len());
    for (command, expected) in steps {
        assert_eq!(run(&server, command), expected, "{command}");
    }
}

fn console_blocks(readme: &str) -> impl Iterator<Item = &str> {
    readme
        .split("```console\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
}

/// The commands of a block, each with the lines that follow it.
fn steps(block: &str) -> impl Iterator<Item = (&str, &str)> {
    let block = block.strip_prefix("$ ").unwrap();
    block.split("\n$ ").map(|step| {
        let (command, output) = step.split_once('\n').unwrap();
        (command, output.trim_end())
    })
}

fn run(server: &Digestd, command: &str) -> String {
    let command = command.replace("http://localhost:8080", &server.url());
    let binary = Path::new(env!("CARGO_BIN_EXE_digestd"));
    let path = format!(
        "{}:{}",
        binary.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new("sh")
        .args(["-c", &command])
        .env("PATH", path)
        .env("DIGESTD_URL", server.url())
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}
