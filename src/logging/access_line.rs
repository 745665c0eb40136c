//! The line of a request, assembled from parts.
//!
//! It looks like the line of an event, in both formats, at a tenth of the cost: numbers are printed
//! without the formatting machinery, the date once a second, into a buffer that each thread keeps. It
//! does not know where the line goes.
//!
//! **Invariant:** both formats have the same fields, in the same order.

use std::cell::RefCell;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;

use crate::config::LogFormat;

/// A finished request. No field needs escaping: the words are the program's own, and the ids are
/// restricted to harmless characters.
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
}

impl AccessLine<'_> {
    /// Probes arrive every few seconds as long as the service runs.
    pub(super) fn level(&self) -> Level {
        if self.is_quiet {
            Level::DEBUG
        } else {
            Level::INFO
        }
    }
}

/// Calls `then` with the line of `request`, with the current time.
pub(super) fn with_line(request: &AccessLine<'_>, format: LogFormat, then: impl FnOnce(&[u8])) {
    thread_local! {
        static BUFFER: RefCell<Buffer> = RefCell::default();
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.text.clear();
        match format {
            LogFormat::Text => buffer.write::<false>(request),
            LogFormat::Json => buffer.write::<true>(request),
        }
        then(&buffer.text);
    });
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
        let is_debug = request.level() == Level::DEBUG;
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
    };

    fn line(request: &AccessLine<'_>, format: LogFormat) -> String {
        let mut text = String::new();
        with_line(request, format, |line| {
            text = String::from_utf8(line.to_vec()).unwrap();
        });
        text
    }

    #[test]
    fn a_text_line_has_every_field() {
        let line = line(&REQUEST, LogFormat::Text);
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
        let text = line(&traced, LogFormat::Text);
        let expected = " id=0123456789abcdef trace_id=0af7651916cd43dd8448eb211c80319c method=GET ";
        assert!(text.contains(expected), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&line(&traced, LogFormat::Json)).unwrap();
        assert_eq!(json["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(json["id"], "0123456789abcdef");
    }

    #[test]
    fn a_json_line_is_an_object_with_every_field() {
        let probe = AccessLine {
            is_quiet: true,
            ..REQUEST
        };
        for (request, level) in [(REQUEST, "INFO"), (probe, "DEBUG")] {
            let line = line(&request, LogFormat::Json);
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
