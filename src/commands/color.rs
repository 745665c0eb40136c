//! Whether help, errors and the log have colours.
//!
//! It refuses to know what is coloured. **Invariant:** without `--color always` nothing has colours that does not
//! go to a terminal that shows them.

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal;

/// What `--color` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Every choice and its name.
    pub(super) const ALL: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];

    /// Of a command line that is not read yet, and may be wrong.
    pub(super) fn of(arguments: &[OsString]) -> Self {
        let words = arguments.iter().skip(1).map(|word| word.to_str());
        let words: Vec<_> = words.take_while(|word| *word != Some("--")).collect();
        let next = words.iter().skip(1).chain([&None]);
        let named = words.iter().zip(next).filter_map(|(word, next)| {
            let name = match (*word)?.strip_prefix("--color")? {
                "" => (*next)?,
                value => value.strip_prefix('=')?,
            };
            let choice = Self::ALL.iter().find(|(known, _)| *known == name);
            choice.map(|(_, choice)| *choice)
        });
        named.last().unwrap_or(Self::Auto)
    }

    /// Whether what is written to `output` has colours.
    pub(super) fn applies_to(self, output: &impl IsTerminal) -> bool {
        self.is_wanted().unwrap_or_else(|| output.is_terminal())
    }

    /// The same where only a terminal is left to be looked at.
    pub(super) fn is_wanted(self) -> Option<bool> {
        match self {
            Self::Always => Some(true),
            Self::Never => Some(false),
            Self::Auto => {
                // https://no-color.org
                let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                (is_unwanted || is_terminal_dumb()).then_some(false)
            }
        }
    }
}

/// Whether a terminal shows neither colours nor what moves its cursor.
pub(super) fn is_terminal_dumb() -> bool {
    env::var_os("TERM").is_some_and(|kind| kind == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_choice_on_a_command_line_counts() {
        for (words, expected) in [
            ("digestd", Color::Auto),
            ("digestd --color always", Color::Always),
            ("digestd put --color=never x", Color::Never),
            ("digestd --color always put --color never", Color::Never),
            ("digestd --color blue", Color::Auto),
            ("digestd --color", Color::Auto),
            ("digestd put -- --color=always", Color::Auto),
            ("--color=always", Color::Auto),
        ] {
            let words: Vec<_> = words.split(' ').map(OsString::from).collect();
            assert_eq!(Color::of(&words), expected, "{words:?}");
        }
    }
}
