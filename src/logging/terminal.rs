//! Lines for people: the time of day first, then what is most worth seeing, nothing beyond 100 columns.
//!
//! It refuses to know where a line goes. **Invariant:** a line of a request has at most [`COLUMNS`] columns; what an
//! event says is wrapped there between its words, and a word that is longer, as a path, stays whole.

use std::fmt::{self, Write};

use jiff::ZonedDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::access_line::{AccessLine, escaped};
use crate::text::printable;

/// Width of the terminal that lines are made for: two of them side by side on a usual screen.
const COLUMNS: usize = 100;

/// Where an event's second line begins: after the time of day and the level.
const INDENT: usize = 15;

/// Columns for the name of a token, which may have 64.
const TOKEN_COLUMNS_MAX: usize = 16;

/// The line of a request, with its line break.
pub(super) fn request_line(request: &AccessLine<'_>, has_colors: bool) -> Vec<u8> {
    let digest = request.digest.as_ref().map(<[u8; 8]>::as_slice);
    let mut line = format!(
        "{} {:<5} {:<7} {:<19} {:>9}  {:<8}",
        time_of_day(),
        request.status,
        request.method,
        request.route,
        duration(request.duration.as_micros()),
        String::from_utf8_lossy(digest.unwrap_or_default()),
    );
    if let Some(token) = request.token {
        line.push_str("  ");
        line.push_str(&cut(token, TOKEN_COLUMNS_MAX));
    }
    if let Some(user_agent) = request.user_agent {
        let room = COLUMNS.saturating_sub(line.chars().count() + 2);
        line.push_str("  ");
        line.push_str(&cut(&escaped(user_agent), room));
    }
    line.truncate(line.trim_end().len());
    let code = match request.status {
        ..300 => GREEN,
        300..400 => CYAN,
        400..500 => YELLOW,
        500.. => RED,
    };
    let line = colored(line, &request.status.to_string(), code, has_colors);
    (line + "\n").into_bytes()
}

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const BLUE: u8 = 34;
const MAGENTA: u8 = 35;
const CYAN: u8 = 36;

/// The line with `word`, which follows the time of day, in a colour.
fn colored(mut line: String, word: &str, code: u8, has_colors: bool) -> String {
    if has_colors && let Some(start) = line.find(' ') {
        let (start, end) = (start + 1, start + 1 + word.len());
        line.insert_str(end, "\x1b[0m");
        line.insert_str(start, &format!("\x1b[{code}m"));
    }
    line
}

/// By the clock on the wall.
fn time_of_day() -> String {
    let now = ZonedDateTime::now();
    format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
}

/// In milliseconds, from a second on in seconds.
fn duration(microseconds: u128) -> String {
    let (whole, part, unit) = match microseconds {
        ..1_000_000 => (microseconds / 1000, microseconds % 1000, "ms"),
        1_000_000.. => (microseconds / 1_000_000, microseconds / 1000 % 1000, "s"),
    };
    format!("{whole}.{part:03}{unit}")
}

/// The start of an ASCII text, with a sign if there is more.
fn cut(text: &str, columns: usize) -> String {
    match text.get(..columns.saturating_sub(1)) {
        Some(start) if text.len() > columns => format!("{start}…"),
        _ => text.to_owned(),
    }
}

/// Prints events.
pub(super) struct EventFormat {
    pub(super) has_colors: bool,
}

impl<S, N> FormatEvent<S, N> for EventFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let text = said.message + &said.fields;
        let level = *event.metadata().level();
        let code = match level {
            Level::ERROR => RED,
            Level::WARN => YELLOW,
            Level::INFO => GREEN,
            Level::DEBUG => BLUE,
            Level::TRACE => MAGENTA,
        };
        let start = format!("{} {level:<5}", time_of_day());
        let start = colored(start, level.as_str(), code, self.has_colors);
        writeln!(writer, "{start} {}", wrapped(&printable(&text)))
    }
}

/// What an event says: its message, then its fields as `name=value`.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The text with a line break before the first word that does not fit into a line.
fn wrapped(text: &str) -> String {
    let mut wrapped = String::with_capacity(text.len());
    let mut column = INDENT;
    for word in text.split(' ') {
        let columns = word.chars().count();
        if column > INDENT && column + 1 + columns > COLUMNS {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', INDENT));
            column = INDENT;
        } else if column > INDENT {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += columns;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REQUEST: AccessLine<'_> = AccessLine {
        id: "0123456789abcdef",
        trace_id: None,
        method: "GET",
        route: "/messages/{digest}",
        is_quiet: false,
        status: 200,
        bytes_in: 0,
        bytes_out: 21,
        duration: Duration::from_micros(12_034),
        peer: "127.0.0.1:4711",
        token: Some("ci"),
        digest: Some(*b"7f83b165"),
        user_agent: Some(b"curl/8.5.0"),
        refused_host: None,
    };

    /// Without its time of day.
    fn line(request: &AccessLine<'_>) -> String {
        let line = String::from_utf8(request_line(request, false)).unwrap();
        let (time, rest) = line.split_at(9);
        assert!(time.bytes().all(|byte| b"0123456789: ".contains(&byte)));
        rest.to_owned()
    }

    #[test]
    fn a_line_has_what_a_person_looks_for_and_leaves_out_what_is_not_there() {
        assert_eq!(
            line(&REQUEST),
            "200   GET     /messages/{digest}   12.034ms  7f83b165  ci  curl/8.5.0\n"
        );
        let bare = AccessLine {
            token: None,
            digest: None,
            user_agent: None,
            ..REQUEST
        };
        assert_eq!(line(&bare), "200   GET     /messages/{digest}   12.034ms\n");
    }

    #[test]
    fn the_longest_line_has_a_hundred_columns() {
        let long = AccessLine {
            method: "OPTIONS",
            route: "/.well-known/ni/sha-256/{digest}",
            duration: Duration::from_hours(9),
            token: Some("a-name-of-sixty-four-bytes-is-the-longest-that-a-token-can-have."),
            user_agent: Some(&[b'\\'; 128]),
            ..REQUEST
        };
        for request in [
            long,
            AccessLine {
                token: None,
                ..long
            },
            AccessLine { route: "/", ..long },
        ] {
            let line = String::from_utf8(request_line(&request, false)).unwrap();
            assert_eq!(line.trim_end().chars().count(), COLUMNS, "{line}");
        }
    }

    #[test]
    fn the_status_has_the_colour_of_its_class() {
        for (status, start) in [
            (204, "\x1b[32m204\x1b[0m   "),
            (304, "\x1b[36m304\x1b[0m   "),
            (404, "\x1b[33m404\x1b[0m   "),
            (503, "\x1b[31m503\x1b[0m   "),
        ] {
            let request = AccessLine { status, ..REQUEST };
            let line = String::from_utf8(request_line(&request, true)).unwrap();
            assert!(line[9..].starts_with(start), "{line}");
        }
    }

    #[test]
    fn a_duration_has_three_digits_after_its_point() {
        for (microseconds, expected) in [
            (7, "0.007ms"),
            (999_999, "999.999ms"),
            (1_000_000, "1.000s"),
            (61_234_567, "61.234s"),
        ] {
            assert_eq!(duration(microseconds), expected);
        }
    }

    #[test]
    fn an_event_is_wrapped_between_its_words() {
        let word = "x".repeat(COLUMNS - INDENT);
        for (text, expected) in [
            ("one two".to_owned(), "one two".to_owned()),
            (word.clone(), word.clone()),
            (
                format!("{word} y"),
                format!("{word}\n{}y", " ".repeat(INDENT)),
            ),
            (
                format!("y {word}{word} y"),
                format!("y\n{0}{word}{word}\n{0}y", " ".repeat(INDENT)),
            ),
        ] {
            assert_eq!(wrapped(&text), expected);
        }
    }
}
