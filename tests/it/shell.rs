//! What a shell and a terminal get: completions, pages of the manual, colours, examples.

use std::fs;
use std::process::Command;

use crate::process::{digestd, run};

/// What a command prints that is to succeed.
fn printed(words: &[&str]) -> String {
    let outcome = run(digestd().args(words), b"");
    assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""), "{words:?}");
    String::from_utf8(outcome.stdout).unwrap()
}

/// Lets a shell run a script with the completions for it in a file beside it.
fn in_shell(shell: &str, options: &[&str], script: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("_digestd");
    fs::write(&path, printed(&["completions", shell])).unwrap();
    let mut command = Command::new(shell);
    command.args(options).args(["-c", script]);
    command
        .env("COMPLETIONS", &path)
        .env("HOME", directory.path());
    let outcome = run(&mut command, b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    String::from_utf8(outcome.stdout).unwrap()
}

#[test]
fn what_is_hidden_is_in_no_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        assert!(!script.contains("crash-writer"), "{shell}");
        for shown in [
            "healthcheck",
            "lookup",
            "keep-going",
            "color",
            "version",
            "allow-export",
        ] {
            assert!(script.contains(shown), "{shell}: {shown}");
        }
    }
}

#[test]
#[ignore = "needs bash"]
fn bash_completes_commands_and_options() {
    let complete = |words: &str, at: usize| {
        let script = format!(
            ". $COMPLETIONS; COMP_WORDS=({words}); COMP_CWORD={at}
             _digestd digestd \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$COMP_CWORD-1]}}\"
             echo \"${{COMPREPLY[@]}}\""
        );
        in_shell("bash", &["--norc"], &script)
    };
    assert_eq!(complete("digestd verif", 1), "verify\n");
    assert_eq!(complete("digestd import --keep", 2), "--keep-going\n");
    assert_eq!(complete("digestd put --col", 2), "--color\n");
}

#[test]
#[ignore = "needs zsh"]
fn zsh_completes_commands_and_options() {
    // A shell of its own on a terminal, with a key that shows what stands on the line.
    const SCRIPT: &str = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell 'PS1=; autoload -Uz compinit; compinit -u -D; . $COMPLETIONS
            show() { print -r -- "<$BUFFER>"; BUFFER= }; zle -N show; bindkey "^T" show; print rea""dy'
        zpty -m -r shell all '*ready*'
        for line in 'digestd verif' 'digestd import --keep' 'digestd put --col'; do
            zpty -w -n shell "$line"$'\t\x14'
            zpty -m -r shell all '*<*>*'
            print -r -- "$all"
        done
    "#;
    let shown = in_shell("zsh", &["-f"], SCRIPT);
    for line in [
        "<digestd verify >",
        "<digestd import --keep-going >",
        "<digestd put --color=>",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
#[ignore = "needs fish"]
fn fish_completes_commands_and_options() {
    let complete = |line: &str| {
        let script = format!(". $COMPLETIONS; complete --do-complete {line:?}");
        in_shell("fish", &["--no-config"], &script)
    };
    assert!(complete("digestd verif").starts_with("verify\t"));
    assert!(complete("digestd import --keep").starts_with("--keep-going\t"));
    assert!(complete("digestd put --col").starts_with("--color\t"));
}

/// The commands that help shows.
fn commands() -> Vec<String> {
    let help = printed(&["--help"]);
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let (list, _) = rest.split_once("\n\n").unwrap();
    let names = list.lines().filter(|line| !line.starts_with("   "));
    let names = names.map(|line| line.trim_start().split(' ').next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
#[ignore = "needs mandoc"]
fn every_page_of_the_manual_is_without_faults() {
    let mut pages = vec![printed(&["man"])];
    pages.extend(commands().iter().map(|command| printed(&["man", command])));
    for page in pages {
        let mut command = Command::new("mandoc");
        command.args(["-T", "lint", "-W", "error"]);
        let outcome = run(&mut command, page.as_bytes());
        let found = String::from_utf8(outcome.stdout).unwrap();
        assert_eq!((outcome.code, &*found), (Some(0), ""), "{page}");
    }
}

#[test]
fn the_page_of_a_command_has_its_name_and_options() {
    let page = printed(&["man", "put"]);
    assert!(page.contains(".TH digestd-put 1"), "{page}");
    assert!(page.contains("\\-\\-batch"), "{page}");
    let outcome = run(digestd().args(["man", "putt"]), b"");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn help_of_every_command_has_examples_of_it() {
    for command in commands() {
        let help = printed(&[&command, "--help"]);
        let (_, examples) = help.split_once("\nExamples:\n").expect(&command);
        let line = format!("  digestd {command}");
        assert!(examples.starts_with(&line), "{help}");
    }
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    const CODE: &str = "\x1b[";
    let help = |words: &[&str], name: &str, value: &str| {
        let outcome = run(digestd().args(words).env(name, value), b"");
        let stdout = String::from_utf8(outcome.stdout).unwrap();
        (outcome.code, stdout + &outcome.stderr)
    };
    for (words, code, is_coloured) in [
        (&["--help"][..], 0, false),
        (&["--color", "always", "--help"], 0, true),
        (&["--color=always", "put", "--help"], 0, true),
        (&["put", "--help", "--color", "always"], 0, true),
        (&["put", "--color=always", "--nonsense"], 2, true),
        (&["--color", "never", "put", "--nonsense"], 2, false),
        (&["--color", "blue", "hash", "x"], 2, false),
    ] {
        // Who asks has said so more clearly.
        let (ended, text) = help(words, "NO_COLOR", "1");
        assert_eq!(
            (ended, text.contains(CODE)),
            (Some(code), is_coloured),
            "{words:?} {text}"
        );
    }
    let (ended, digest) = help(&["--color", "never", "hash", "foo"], "TERM", "dumb");
    assert_eq!(ended, Some(0), "{digest}");
}
