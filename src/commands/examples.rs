//! Worked examples for the help of each command.
//!
//! **Invariant:** every command that is shown has some, and each can be read as a command line.

use clap::Command;

/// By the name of a command; empty for `digestd` itself.
const EXAMPLES: [(&str, &str); 19] = [
    (
        "",
        "  digestd                                   serve on 127.0.0.1:8080, data in data/store
  digestd put 'some text'                   store a text, print its digest
  digestd completions bash >~/.local/share/bash-completion/completions/digestd",
    ),
    (
        "serve",
        "  digestd serve --port 9000
  digestd serve --data-dir /var/lib/digestd --listen :8080
  digestd serve --listen unix:/run/digestd/http.sock --socket-mode 660
  digestd serve --tls-listen 0.0.0.0:8443 --tls-self-signed
  digestd serve --tokens /etc/digestd/tokens --write-rate 100/s",
    ),
    (
        "hash",
        "  digestd hash 'some text'
  digestd hash --file letter.txt
  git show HEAD | digestd hash",
    ),
    (
        "put",
        "  digestd put 'some text'
  digestd put --file letter.txt
  digestd put -- '-5 degrees'               a text that begins with -
  digestd put --batch messages.ndjson >digests",
    ),
    (
        "get",
        "  digestd get 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  digestd get \"$(digestd hash 'some text')\"
  digestd get --output-dir texts $(cat digests)",
    ),
    (
        "has",
        "  digestd has 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  digestd has $(cat digests) >missing       which of many are not there",
    ),
    (
        "lookup",
        "  digestd lookup digests >found.ndjson      as in an export: import takes it
  digestd put --batch messages.ndjson | digestd lookup --output-dir texts",
    ),
    (
        "delete",
        "  digestd delete --token-file deleter.token 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  digestd delete --url https://digests.example --token-file deleter.token $(cat digests)",
    ),
    (
        "verify",
        "  digestd verify                            the store in data/store
  digestd verify --data-dir /backup/digestd
  digestd verify --url http://localhost:8080",
    ),
    (
        "export",
        "  digestd export --output all.ndjson
  digestd export --url http://localhost:8080 --output all.ndjson
  digestd export --format tar --output all.tar
  digestd export --output all.ndjson.zst    compressed",
    ),
    (
        "import",
        "  digestd import all.ndjson
  digestd import --url http://localhost:8080 all.ndjson
  digestd import all.ndjson.zst",
    ),
    (
        "backup",
        "  digestd backup /backup/digestd            run it again to bring the copy up to date
  digestd backup --data-dir /var/lib/digestd --hard-link /var/lib/digestd-copy",
    ),
    (
        "compact",
        "  digestd compact
  digestd compact --data-dir /var/lib/digestd",
    ),
    (
        "doctor",
        "  digestd doctor --data-dir /var/lib/digestd
  digestd doctor --data-dir /var/lib/digestd --crash-test",
    ),
    (
        "healthcheck",
        "  digestd healthcheck
  digestd healthcheck --url http://localhost:8080",
    ),
    (
        "token",
        "  digestd token new ci 2>>tokens            the token, and its line for --tokens
  digestd token new reader --scope read 2>>tokens >reader.token",
    ),
    (
        "new",
        "  digestd token new ci 2>>tokens            the token, and its line for --tokens
  digestd token new reader --scope read 2>>tokens >reader.token",
    ),
    (
        "completions",
        "  digestd completions bash >~/.local/share/bash-completion/completions/digestd
  digestd completions zsh >\"${fpath[1]}/_digestd\"
  digestd completions fish >~/.config/fish/completions/digestd.fish",
    ),
    (
        "man",
        "  digestd man | man -l -
  digestd man put >/usr/local/share/man/man1/digestd-put.1",
    ),
];

/// All of them.
#[cfg(test)]
pub(super) fn lines() -> impl Iterator<Item = &'static str> {
    EXAMPLES.iter().flat_map(|(_, examples)| examples.lines())
}

/// Adds the examples to the help of `command` and of all below it.
pub(super) fn with_examples(command: Command) -> Command {
    let name = match command.get_name() {
        "digestd" => "",
        name => name,
    };
    let found = EXAMPLES.iter().find(|(known, _)| *known == name);
    let command = command.mut_subcommands(with_examples);
    let Some((_, examples)) = found else {
        return command;
    };
    let after = command.get_after_help().map(ToString::to_string);
    let after = after.map_or(String::new(), |after| format!("\n\n{after}"));
    command.after_help(format!("Examples:\n{examples}{after}"))
}
