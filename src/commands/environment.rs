//! The command line and the environment, read together.
//!
//! Each option of `serve` is a variable too, `DIGESTD_` and its name, so that none can be forgotten; the other
//! commands declare the few that they read. **Invariants:** only the command that runs reads its variables: what
//! is set for a server cannot keep `digestd hash` from working. What is wrong with a variable is said of the
//! variable. No value of one that is not used is shown, nor a token that was given where none belongs.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command, Parser};

use super::options::switch;

/// What the variables begin with.
const PREFIX: &str = "DIGESTD_";

/// Variables that other commands read.
const OF_OTHERS: [&str; 3] = ["DIGESTD_CACERT", "DIGESTD_URL", "DIGESTD_TOKEN_FILE"];

/// Reads the command line, the name of the program first, and the variables of the command on it.
///
/// # Errors
/// If either makes no sense, or help or the version is asked for.
pub(super) fn parse<C: Parser>(command: Command, arguments: &[OsString]) -> Result<C, clap::Error> {
    let (mut command, arguments) = prepared(command, arguments);
    let matches = command
        .try_get_matches_from_mut(&arguments)
        .map_err(|error| without_text(error, &arguments, &mut command))
        .map_err(|error| with_source(error, &arguments, &mut command))?;
    C::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The command lines with the variables of the command on this one, and this one with the command first.
fn prepared(command: Command, arguments: &[OsString]) -> (Command, Vec<OsString>) {
    let command = command.mut_subcommand("serve", with_variables);
    let mut arguments = arguments.to_vec();
    // A command is the first word or there is none; what all of them take may stand before it.
    let before = leading_color_words(&arguments);
    let names_command = arguments
        .get(1 + before)
        .is_some_and(|first| first == "help" || command.find_subcommand(first).is_some());
    if names_command && let Some(words) = arguments.get_mut(1..2 + before) {
        words.rotate_right(1);
    }
    let command = if names_command {
        command
    } else {
        with_variables(command)
    };
    (command, arguments)
}

/// How many words after the name of the program are `--color` or its value.
fn leading_color_words(arguments: &[OsString]) -> usize {
    let mut words = arguments.iter().skip(1);
    let mut count = 0;
    while let Some(word) = words.next() {
        if word == "--color" {
            count += 1 + usize::from(words.next().is_some());
        } else if word.as_encoded_bytes().starts_with(b"--color=") {
            count += 1;
        } else {
            break;
        }
    }
    count
}

/// The error without a second text for `put` or `hash`, which is a message and not to be shown.
fn without_text(error: clap::Error, arguments: &[OsString], command: &mut Command) -> clap::Error {
    let name = arguments
        .get(1)
        .filter(|name| *name == "put" || *name == "hash");
    let word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => word,
        _ => return error,
    };
    let mut texts = arguments.iter().skip_while(|word| *word != "--");
    let is_text = !word.starts_with('-') || texts.any(|text| text == word.as_str());
    let named = name.and_then(|name| command.find_subcommand_mut(name));
    match named.filter(|_| is_text) {
        Some(command) => command.error(
            ErrorKind::TooManyValues,
            "there is more than one text; put quotes around one that has several words",
        ),
        None => error,
    }
}

/// The error with the variable where the value of an option came from one, and with a name where clap has none.
fn with_source(
    mut error: clap::Error,
    arguments: &[OsString],
    command: &mut Command,
) -> clap::Error {
    if error.kind() == ErrorKind::InvalidUtf8 {
        let place = not_utf_8(arguments, running(arguments, command));
        return match place {
            Some(place) => command.error(
                ErrorKind::InvalidUtf8,
                format!("the value of {place} is not UTF-8"),
            ),
            None => error,
        };
    }
    let running = running(arguments, command);
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        let source = match error.get(kind) {
            Some(ContextValue::String(shown)) => source(shown, arguments, running),
            _ => None,
        };
        if let Some(source) = source {
            error.insert(kind, ContextValue::String(source));
        }
    }
    error
}

/// The command that the arguments are for.
fn running<'a>(arguments: &[OsString], command: &'a Command) -> &'a Command {
    let name = arguments.get(1);
    let named = name.and_then(|name| command.find_subcommand(name));
    named.unwrap_or(command)
}

/// The variable that an option, as clap shows it, has its value from.
fn source(shown: &str, arguments: &[OsString], running: &Command) -> Option<String> {
    let name = long_name(shown)?;
    let mut options = running.get_arguments();
    let option = options.find(|option| option.get_long() == Some(name))?;
    let variable = option.get_env()?.to_str()?;
    let is_set = std::env::var_os(variable).is_some();
    (is_set && !is_given(name, arguments)).then(|| variable.to_owned())
}

/// `log-level` of `--log-level <LEVEL>`.
fn long_name(shown: &str) -> Option<&str> {
    let name = shown.strip_prefix("--")?;
    let end = name.find(|symbol: char| !symbol.is_ascii_alphanumeric() && symbol != '-');
    name.get(..end.unwrap_or(name.len()))
}

/// Whether the option with this name is on the command line.
fn is_given(name: &str, arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().take_while(|word| *word != "--");
    words.any(|word| {
        let word = word.as_encoded_bytes().strip_prefix(b"--");
        let rest = word.and_then(|word| word.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    })
}

/// Where there is a value that is not UTF-8 and has to be: an option on the command line, or a variable.
fn not_utf_8(arguments: &[OsString], running: &Command) -> Option<String> {
    let is_text = |option: &&Arg| {
        let value = option.get_value_parser().type_id();
        value != TypeId::of::<PathBuf>() && value != TypeId::of::<OsString>()
    };
    let shown_option = |at: usize| {
        let [before, word] = [at.checked_sub(1)?, at].map(|at| arguments.get(at));
        let [before, word] = [before, word].map(|word| word.map(|word| word.to_string_lossy()));
        let option = [word?, before?]
            .iter()
            .find_map(|word| long_name(word).map(str::to_owned))?;
        let mut options = running.get_arguments();
        let option = options.find(|known| known.get_long() == Some(&option))?;
        is_text(&option).then(|| format!("--{}", option.get_long().unwrap_or_default()))
    };
    let mut words = arguments.iter().enumerate();
    let on_line = words.find_map(|(at, word)| match word.to_str() {
        None => shown_option(at),
        Some(_) => None,
    });
    on_line.or_else(|| {
        let options = running.get_arguments().filter(is_text);
        options.filter_map(Arg::get_env).find_map(|variable| {
            let value = std::env::var_os(variable)?;
            value
                .to_str()
                .is_none()
                .then(|| variable.display().to_string())
        })
    })
}

/// What is wrong with the options in `named`, and which of them variables set: they may be nowhere on the command
/// line.
pub(super) fn with_sources(
    text: &str,
    named: &str,
    command: Command,
    arguments: &[OsString],
) -> String {
    let (command, arguments) = prepared(command, arguments);
    let running = running(&arguments, &command);
    let mut text = text.to_owned();
    for name in named.split_whitespace().filter_map(long_name) {
        let option = format!("--{name}");
        if let Some(variable) = source(&option, &arguments, running) {
            text.extend(["; ", &variable, " sets ", &option]);
        }
    }
    text
}

/// Options of `serve`, each with its variable. One that stands for itself is a switch, which may be turned off
/// as well.
pub(super) fn with_variables(command: Command) -> Command {
    command.mut_args(|argument| {
        let Some(variable) = variable(&argument) else {
            return argument;
        };
        let argument = argument.env(variable);
        if !matches!(argument.get_action(), ArgAction::SetTrue) {
            return argument;
        }
        argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("on")
            .default_value("off")
            .value_name("ON|OFF")
            .value_parser(switch())
            .hide_default_value(true)
            .hide_possible_values(true)
    })
}

/// `DIGESTD_LOG_LEVEL` for `--log-level`.
fn variable(argument: &Arg) -> Option<String> {
    let name = argument.get_long()?.replace('-', "_");
    // What is of all commands goes by NO_COLOR; a port by PORT, and Kubernetes sets DIGESTD_PORT to something else.
    if argument.is_global_set() || name == "port" {
        return None;
    }
    Some(PREFIX.to_owned() + &name.to_ascii_uppercase())
}

/// What is to be said of the variables that look as if they were for `serve`, whose options are `S`, and are
/// not: a sentence each, but one for all that a container engine sets. `is_open` if no token is asked for.
pub(super) fn warnings<S: Args>(
    variables: impl Iterator<Item = (OsString, OsString)>,
    is_open: bool,
) -> Vec<String> {
    let options = S::augment_args(Command::new("serve"));
    let known: Vec<_> = options.get_arguments().filter_map(variable).collect();
    let mut unused: Vec<_> = variables
        .filter_map(|(name, value)| {
            let name = name.to_string_lossy().escape_debug().to_string();
            let is_ours = name.to_ascii_uppercase().starts_with(PREFIX);
            (is_ours && !known.contains(&name)).then_some((name, value))
        })
        .collect();
    unused.sort();
    let (links, others): (Vec<_>, Vec<_>) = unused
        .into_iter()
        .partition(|(name, value)| is_service_link(name, value.as_encoded_bytes()));
    let mut sentences: Vec<_> = others
        .iter()
        .map(|(name, _)| sentence(name, &known, is_open))
        .collect();
    if !links.is_empty() {
        let names: Vec<_> = links.iter().map(|(name, _)| name.as_str()).collect();
        sentences.push(format!(
            "{}: not used; Kubernetes sets them for a service whose name begins with digestd \
             (enableServiceLinks: false leaves them out)",
            names.join(", ")
        ));
    }
    sentences
}

/// Whether Kubernetes, or a link of Docker, sets this variable for a service of our name.
fn is_service_link(name: &str, value: &[u8]) -> bool {
    let is_address = [&b"tcp://"[..], b"udp://", b"sctp://"]
        .into_iter()
        .any(|scheme| value.starts_with(scheme));
    let is_port = |rest: &str| {
        let rest = rest
            .split_once('_')
            .map(|(number, rest)| (number.parse::<u16>(), rest));
        matches!(rest, Some((Ok(_), rest)) if ["TCP", "UDP", "SCTP"].iter().any(|it| rest.starts_with(it)))
    };
    let words: Vec<_> = name.match_indices("_PORT").collect();
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && is_address
        || words.iter().any(|(start, word)| {
            let rest = name
                .get(start + word.len()..)
                .and_then(|rest| rest.strip_prefix('_'));
            rest.is_some_and(is_port)
        })
}

/// What to say of a variable that no option has.
fn sentence(name: &str, known: &[String], is_open: bool) -> String {
    if name == "DIGESTD_TOKEN" && is_open {
        return format!(
            "{name}: not used, and nobody is asked for a token; DIGESTD_TOKENS names a file of tokens"
        );
    }
    if OF_OTHERS.contains(&name) {
        return format!("{name}: not used by serve; it is for the commands that ask a server");
    }
    if name == "DIGESTD_PORT" {
        return format!("{name}: not used; PORT or DIGESTD_LISTEN says where to listen");
    }
    let alike = known.iter().find(|known| is_alike(known, name));
    let hint = alike.map_or_else(
        || "no option has that name, see digestd --help".into(),
        |alike| format!("did you mean {alike}?"),
    );
    format!("{name}: not used; {hint}")
}

/// Whether one of two names is the start of the other, whatever their case and underscores.
fn is_alike(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|name| {
        let name = name.to_ascii_uppercase();
        name.trim_start_matches(PREFIX).replace('_', "")
    });
    !other.is_empty() && (one.starts_with(&other) || other.starts_with(&one))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::commands::{Cli, ServeArgs};

    #[test]
    fn every_option_of_serve_has_a_variable_and_one_way_to_be_read() {
        for command in [
            with_variables(Cli::command()),
            Cli::command().mut_subcommand("serve", with_variables),
        ] {
            let serve = command.find_subcommand("serve");
            let read: Vec<_> = [Some(&command), serve]
                .into_iter()
                .flatten()
                .filter(|command| command.get_arguments().any(|it| it.get_env().is_some()))
                .collect();
            assert_eq!(read.len(), 1);
            let arguments = read[0].get_arguments();
            for argument in arguments.filter(|argument| !argument.is_global_set()) {
                let name = argument.get_long().unwrap();
                if name == "port" {
                    assert_eq!(argument.get_env(), None);
                    continue;
                }
                let variable = argument.get_env().unwrap().to_str().unwrap();
                assert_eq!(
                    variable,
                    format!("DIGESTD_{}", name.replace('-', "_").to_uppercase())
                );
                // Lists are for `List`, and switches are turned into such above.
                assert_eq!(argument.get_value_delimiter(), None, "{name}");
                assert!(
                    !matches!(argument.get_action(), ArgAction::SetTrue),
                    "{name}"
                );
            }
        }
    }

    fn warned(variables: &[(&str, &str)], is_open: bool) -> Vec<String> {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        warnings::<ServeArgs>(variables, is_open)
    }

    #[test]
    fn a_variable_that_no_option_has_is_named_without_its_value() {
        for (name, hint) in [
            ("DIGESTD_TOKEN", "nobody is asked for a token"),
            ("DIGESTD_DATADIR", "did you mean DIGESTD_DATA_DIR?"),
            ("DIGESTD_LISTEN_ADDRESS", "did you mean DIGESTD_LISTEN?"),
            ("digestd_tokens", "did you mean DIGESTD_TOKENS?"),
            ("DIGESTD_PORT", "PORT or DIGESTD_LISTEN"),
            ("DIGESTD_URL", "not used by serve"),
            ("DIGESTD_TOKEN_FILE", "not used by serve"),
            ("DIGESTD_FOO", "no option has that name"),
            ("DIGESTD_", "no option has that name"),
        ] {
            let sentences = warned(&[(name, "s3cret")], true);
            assert_eq!(sentences.len(), 1, "{name}");
            assert!(
                sentences[0].starts_with(&format!("{name}: not used")),
                "{sentences:?}"
            );
            assert!(sentences[0].contains(hint), "{sentences:?}");
            assert!(!sentences[0].contains("s3cret"), "{sentences:?}");
        }
        let sentences = warned(&[("DIGESTD_TOKEN", "s3cret")], false);
        assert!(!sentences[0].contains("nobody"), "{sentences:?}");
        assert_eq!(
            warned(
                &[("DIGESTD_TOKENS", "x"), ("PORT", "1"), ("DIGEST", "")],
                true
            ),
            [""; 0]
        );
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_is_one_sentence() {
        let variables = [
            ("DIGESTD_PORT", "tcp://10.0.0.1:8080"),
            ("DIGESTD_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("DIGESTD_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("DIGESTD_PORT_8080_TCP_PROTO", "tcp"),
            ("DIGESTD_SERVICE_HOST", "10.0.0.1"),
            ("DIGESTD_SERVICE_PORT", "8080"),
            ("DIGESTD_SERVICE_PORT_HTTP", "8080"),
            ("DIGESTD_ADMIN_PORT_9000_UDP", "udp://10.0.0.1:9000"),
        ];
        let sentences = warned(&variables, true);
        assert_eq!(sentences.len(), 1, "{sentences:?}");
        for (name, _) in variables {
            assert!(sentences[0].contains(name), "{name}");
        }
        for part in ["10.0.0.1", "://"] {
            assert!(!sentences[0].contains(part), "{sentences:?}");
        }
    }
}
