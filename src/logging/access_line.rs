//! The line of a request, assembled from parts.
//!
//! It looks like the line of an event, in both formats, at a tenth of the cost: numbers are printed
//! without the formatting machinery, the date once a second, into a buffer that each thread keeps. It
//! does not know where the line goes.
//!
//! **Invariant:** both formats have the same fields, in the same order.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;

/// A finished request. No field needs escaping but the user agent: the words are the program's own, and ids and
/// names are restricted to harmless characters.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// Its id.
    pub id: &'a str,
    /// The trace it is part of, if its client named one.
    pub trace_id: Option<&'a str>,
    /// Name of its method.
    pub method: &'static str,
    /// Name of its route.
    pub route: &'static str,
    /// Whether it only asks for the state of the service.
    pub is_quiet: bool,
    /// Status code of the answer.
    pub status: u16,
    /// Bytes of its body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the end of its head to the last byte of its answer.
    pub duration: Duration,
    /// Address of the other side.
    pub peer: &'a str,
    /// Name of the token that it came with, if that was looked at and is known.
    pub token: Option<&'a str>,
    /// The first eight digits of the digest that it was about, if that is one.
    pub digest: Option<[u8; 8]>,
    /// What its client calls itself, as it was sent, or the start of that.
    pub user_agent: Option<&'a [u8]>,
    /// The host that it is for, if it was refused for that; nothing in it needs an escape.
    pub refused_host: Option<&'a str>,
}

/// Probes, which only ask for the state of the service, arrive every few seconds as long as it runs.
pub(super) fn level(is_quiet: bool) -> Level {
    if is_quiet { Level::DEBUG } else { Level::INFO }
}

/// Calls `then` with the line of `request`, with the current time, in JSON or else as text.
pub(super) fn with_line<const JSON: bool>(request: &AccessLine<'_>, then: impl FnOnce(&[u8])) {
    thread_local! {
        static BUFFER: RefCell<Buffer> = RefCell::default();
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.text.clear();
        buffer.write::<JSON>(request);
        then(&buffer.text);
    });
}

/// What a client says, as it may stand between quotes, in JSON too: ASCII that is no control character, and the
/// rest as the escapes of its bytes, each of which is a character of Latin-1 (RFC 9110, 5.5).
pub(super) fn escaped(bytes: &[u8]) -> Cow<'_, str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if let Ok(text) = std::str::from_utf8(bytes)
        && bytes.iter().all(is_plain)
    {
        return text.into();
    }
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            _ if is_plain(byte) => text.push(char::from(*byte)),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{byte:04x}");
            }
        }
    }
    text.into()
}

/// The name of a field with what goes before its value.
struct Name {
    text: &'static str,
    json: &'static str,
    /// The same where the value is a string.
    json_string: &'static str,
}

macro_rules! name {
    ($name:literal) => {
        Name {
            text: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
            json_string: concat!(",\"", $name, "\":\""),
        }
    };
}

/// A line being written, reused for the next one.
#[derive(Default)]
struct Buffer {
    text: Vec<u8>,
    /// The second since 1970 whose date is `date`.
    second: Option<u64>,
    /// Like `2026-11-21T18:52:33`.
    date: Vec<u8>,
}

impl Buffer {
    /// The one list of fields. The format is known at compile time and what prints a field is inlined,
    /// so that each of the two printers is a row of copies without a branch.
    fn write<const JSON: bool>(&mut self, request: &AccessLine<'_>) {
        let is_debug = level(request.is_quiet) == Level::DEBUG;
        if JSON {
            self.words(&["{\"timestamp\":\""]);
        }
        self.time(SystemTime::now());
        self.words(&[match (JSON, is_debug) {
            (false, false) => "  INFO request",
            (false, true) => " DEBUG request",
            (true, false) => "\",\"level\":\"INFO\",\"message\":\"request\"",
            (true, true) => "\",\"level\":\"DEBUG\",\"message\":\"request\"",
        }]);
        self.word::<JSON>(&name!("id"), request.id);
        if let Some(trace_id) = request.trace_id {
            self.word::<JSON>(&name!("trace_id"), trace_id);
        }
        self.word::<JSON>(&name!("method"), request.method);
        self.word::<JSON>(&name!("route"), request.route);
        self.number::<JSON>(&name!("status"), request.status.into());
        self.number::<JSON>(&name!("bytes_in"), request.bytes_in);
        self.number::<JSON>(&name!("bytes_out"), request.bytes_out);
        self.milliseconds::<JSON>(&name!("duration_ms"), request.duration);
        self.word::<JSON>(&name!("peer"), request.peer);
        if let Some(token) = request.token {
            self.word::<JSON>(&name!("token"), token);
        }
        if let Some(Ok(digits)) = request.digest.as_ref().map(|it| std::str::from_utf8(it)) {
            self.word::<JSON>(&name!("digest"), digits);
        }
        if let Some(user_agent) = request.user_agent {
            self.quoted::<JSON>(&name!("user_agent"), &escaped(user_agent));
        }
        if let Some(host) = request.refused_host {
            self.word::<JSON>(&name!("host"), host);
        }
        self.words(&[if JSON { "}\n" } else { "\n" }]);
    }

    #[inline]
    fn word<const JSON: bool>(&mut self, name: &Name, value: &str) {
        if JSON {
            self.words(&[name.json_string, value, "\""]);
        } else {
            self.words(&[name.text, value]);
        }
    }

    /// A word that may have spaces in it.
    fn quoted<const JSON: bool>(&mut self, name: &Name, value: &str) {
        let (name, quote) = if JSON {
            (name.json_string, "")
        } else {
            (name.text, "\"")
        };
        self.words(&[name, quote, value, "\""]);
    }

    #[inline]
    fn number<const JSON: bool>(&mut self, name: &Name, value: u64) {
        let name = if JSON { name.json } else { name.text };
        self.words(&[name, itoa::Buffer::new().format(value)]);
    }

    fn milliseconds<const JSON: bool>(&mut self, name: &Name, value: Duration) {
        let microseconds = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.number::<JSON>(name, microseconds / 1000);
        // Below a thousand.
        self.fraction::<4>((microseconds % 1000) as u32);
    }

    /// RFC 3339, in microseconds.
    fn time(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.date.clear();
            let _ = write!(self.date, "{}", humantime::format_rfc3339_seconds(now));
            // The Z comes after the fraction.
            self.date.pop();
        }
        self.text.extend_from_slice(&self.date);
        self.fraction::<7>(since.subsec_micros());
        self.text.push(b'Z');
    }

    #[inline]
    fn words(&mut self, words: &[&str]) {
        for word in words {
            self.text.extend_from_slice(word.as_bytes());
        }
    }

    /// A point and the last decimal digits of `value`, `WIDTH` characters in all.
    fn fraction<const WIDTH: usize>(&mut self, mut value: u32) {
        let mut fraction = [b'.'; WIDTH];
        for digit in fraction.iter_mut().skip(1).rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
        self.text.extend_from_slice(&fraction);
    }
}

#[cfg(test)]
mod tests {
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
        token: None,
        digest: None,
        user_agent: None,
        refused_host: None,
    };

    fn line<const JSON: bool>(request: &AccessLine<'_>) -> String {
        let mut text = String::new();
        with_line::<JSON>(request, |line| {
            text = String::from_utf8(line.to_vec()).unwrap();
        });
        text
    }

    #[test]
    fn a_text_line_has_every_field() {
        let line = line::<false>(&REQUEST);
        let (time, rest) = line.split_once(' ').unwrap();
        humantime::parse_rfc3339(time).unwrap();
        assert_eq!(
            rest,
            " INFO request id=0123456789abcdef method=GET route=/messages/{digest} status=200 \
             bytes_in=0 bytes_out=21 duration_ms=12.034 peer=127.0.0.1:4711\n"
        );
    }

    #[test]
    fn the_trace_id_follows_the_request_id() {
        let traced = AccessLine {
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
            ..REQUEST
        };
        let text = line::<false>(&traced);
        let expected = " id=0123456789abcdef trace_id=0af7651916cd43dd8448eb211c80319c method=GET ";
        assert!(text.contains(expected), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line::<true>(&traced)).unwrap();
        assert_eq!(json["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(json["id"], "0123456789abcdef");
    }

    #[test]
    fn whose_request_it_was_and_about_what_is_said_where_it_is_known() {
        let known = AccessLine {
            token: Some("ci"),
            digest: Some(*b"7f83b165"),
            user_agent: Some(b"a client/1.0"),
            ..REQUEST
        };
        let text = line::<false>(&known);
        let end = " peer=127.0.0.1:4711 token=ci digest=7f83b165 user_agent=\"a client/1.0\"\n";
        assert!(text.ends_with(end), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line::<true>(&known)).unwrap();
        assert_eq!(json["token"], "ci");
        assert_eq!(json["digest"], "7f83b165");
        assert_eq!(json["user_agent"], "a client/1.0");
    }

    #[test]
    fn a_client_that_calls_itself_strange_things_breaks_no_line() {
        for (name, expected) in [
            (&b"\" token=\"admin"[..], r#"\" token=\"admin"#),
            (br"a\b", r"a\\b"),
            (b"\x1b[2J\t\x7f", r"\u001b[2J\u0009\u007f"),
            (b"Gr\xfc\xc3\xbc", r"Gr\u00fc\u00c3\u00bc"),
            (b"", ""),
        ] {
            let request = AccessLine {
                user_agent: Some(name),
                ..REQUEST
            };
            let text = line::<false>(&request);
            assert!(
                text.ends_with(&format!(" user_agent=\"{expected}\"\n")),
                "{text}"
            );
            let json: serde_json::Value = serde_json::from_str(&line::<true>(&request)).unwrap();
            let latin1: String = name.iter().copied().map(char::from).collect();
            assert_eq!(json["user_agent"], latin1);
        }
    }

    #[test]
    fn a_refused_host_is_the_last_field() {
        let refused = AccessLine {
            refused_host: Some("evil.example"),
            ..REQUEST
        };
        let text = line::<false>(&refused);
        assert!(
            text.ends_with(" peer=127.0.0.1:4711 host=evil.example\n"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&line::<true>(&refused)).unwrap();
        assert_eq!(json["host"], "evil.example");
    }

    #[test]
    fn a_json_line_is_an_object_with_every_field() {
        let probe = AccessLine {
            is_quiet: true,
            ..REQUEST
        };
        for (request, level) in [(REQUEST, "INFO"), (probe, "DEBUG")] {
            let line = line::<true>(&request);
            assert!(line.ends_with("}\n"), "{line}");
            let mut object: serde_json::Value = serde_json::from_str(&line).unwrap();
            let time = object["timestamp"].take();
            humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
            assert_eq!(
                object,
                serde_json::json!({
                    "timestamp": null,
                    "level": level,
                    "message": "request",
                    "id": "0123456789abcdef",
                    "method": "GET",
                    "route": "/messages/{digest}",
                    "status": 200,
                    "bytes_in": 0,
                    "bytes_out": 21,
                    "duration_ms": 12.034,
                    "peer": "127.0.0.1:4711",
                })
            );
        }
    }

    #[test]
    fn a_time_is_printed_in_microseconds_whatever_its_second() {
        let mut line = Buffer::default();
        for (offset, expected) in [
            (Duration::from_micros(1), "1970-01-01T00:00:00.000001Z"),
            (
                Duration::from_micros(999_999),
                "1970-01-01T00:00:00.999999Z",
            ),
            (Duration::from_hours(24), "1970-01-02T00:00:00.000000Z"),
        ] {
            line.text.clear();
            line.time(UNIX_EPOCH + offset);
            assert_eq!(line.text, expected.as_bytes());
        }
    }
}
