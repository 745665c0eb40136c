//! The line of a request, put together from parts.
//!
//! It looks like the line of an event, in both formats, and costs a tenth of it: numbers are printed
//! without the formatting machinery, the date once a second, into a buffer that each thread keeps.

use std::cell::RefCell;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Level;

use crate::config::LogFormat;

/// A request that is over. No part of it can break a line or a string: the words are the program's
/// own, and the ids have harmless characters only.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Its id.
    pub id: &'a str,
    /// The trace it is part of, if its client said so.
    pub trace_id: Option<&'a str>,
    /// Name of its method.
    pub method: &'static str,
    /// Name of its route.
    pub route: &'static str,
    /// Whether it only asks how the service is.
    pub is_probe: bool,
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

impl Access<'_> {
    /// Probes come every few seconds for ever.
    pub(super) fn level(&self) -> Level {
        if self.is_probe {
            Level::DEBUG
        } else {
            Level::INFO
        }
    }
}

/// Calls `then` with the line of `access`, written now.
pub(super) fn with_line(access: &Access<'_>, format: LogFormat, then: impl FnOnce(&[u8])) {
    thread_local! {
        static LINE: RefCell<Line> = RefCell::default();
    }
    LINE.with_borrow_mut(|line| {
        line.text.clear();
        match format {
            LogFormat::Text => line.write_text(access),
            LogFormat::Json => line.write_json(access),
        }
        then(&line.text);
    });
}

#[derive(Default)]
struct Line {
    text: Vec<u8>,
    /// The second since 1970 whose date is `date`.
    second: Option<u64>,
    /// Like `2026-11-21T18:52:33`.
    date: Vec<u8>,
}

impl Line {
    fn write_text(&mut self, access: &Access<'_>) {
        self.time(SystemTime::now());
        let level = match access.level() {
            Level::DEBUG => " DEBUG request id=",
            _ => "  INFO request id=",
        };
        self.words(&[level, access.id]);
        if let Some(trace_id) = access.trace_id {
            self.words(&[" trace_id=", trace_id]);
        }
        self.words(&[" method=", access.method]);
        self.words(&[" route=", access.route]);
        self.number(" status=", access.status.into());
        self.number(" bytes_in=", access.bytes_in);
        self.number(" bytes_out=", access.bytes_out);
        self.milliseconds(" duration_ms=", access.duration);
        self.words(&[" peer=", access.peer, "\n"]);
    }

    fn write_json(&mut self, access: &Access<'_>) {
        self.words(&["{\"timestamp\":\""]);
        self.time(SystemTime::now());
        let level = match access.level() {
            Level::DEBUG => "\",\"level\":\"DEBUG\",\"message\":\"request\",\"id\":\"",
            _ => "\",\"level\":\"INFO\",\"message\":\"request\",\"id\":\"",
        };
        self.words(&[level, access.id]);
        if let Some(trace_id) = access.trace_id {
            self.words(&["\",\"trace_id\":\"", trace_id]);
        }
        self.words(&["\",\"method\":\"", access.method]);
        self.words(&["\",\"route\":\"", access.route]);
        self.number("\",\"status\":", access.status.into());
        self.number(",\"bytes_in\":", access.bytes_in);
        self.number(",\"bytes_out\":", access.bytes_out);
        self.milliseconds(",\"duration_ms\":", access.duration);
        self.words(&[",\"peer\":\"", access.peer, "\"}\n"]);
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
        self.text.push(b'.');
        self.digits::<6>(since.subsec_micros());
        self.text.push(b'Z');
    }

    fn words(&mut self, words: &[&str]) {
        for word in words {
            self.text.extend_from_slice(word.as_bytes());
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        let mut digits = itoa::Buffer::new();
        self.words(&[name, digits.format(value)]);
    }

    fn milliseconds(&mut self, name: &str, value: Duration) {
        let microseconds = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.number(name, microseconds / 1000);
        self.text.push(b'.');
        // Below a thousand.
        self.digits::<3>((microseconds % 1000) as u32);
    }

    /// The last `WIDTH` decimal digits of `value`.
    fn digits<const WIDTH: usize>(&mut self, mut value: u32) {
        let mut digits = [b'0'; WIDTH];
        for digit in digits.iter_mut().rev() {
            *digit += (value % 10) as u8;
            value /= 10;
        }
        self.text.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: Access<'_> = Access {
        id: "0123456789abcdef",
        trace_id: None,
        method: "GET",
        route: "/messages/{digest}",
        is_probe: false,
        status: 200,
        bytes_in: 0,
        bytes_out: 21,
        duration: Duration::from_micros(12_034),
        peer: "127.0.0.1:4711",
    };

    fn line(access: &Access<'_>, format: LogFormat) -> String {
        let mut text = String::new();
        with_line(access, format, |line| {
            text = String::from_utf8(line.to_vec()).unwrap();
        });
        text
    }

    #[test]
    fn a_line_of_text_has_all_there_is_to_know_of_a_request() {
        let line = line(&ACCESS, LogFormat::Text);
        let (time, rest) = line.split_once(' ').unwrap();
        humantime::parse_rfc3339(time).unwrap();
        assert_eq!(
            rest,
            " INFO request id=0123456789abcdef method=GET route=/messages/{digest} status=200 \
             bytes_in=0 bytes_out=21 duration_ms=12.034 peer=127.0.0.1:4711\n"
        );
    }

    #[test]
    fn the_trace_is_named_behind_the_request() {
        let traced = Access {
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
            ..ACCESS
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
    fn a_line_of_json_is_an_object_with_the_same() {
        let probe = Access {
            is_probe: true,
            ..ACCESS
        };
        for (access, level) in [(ACCESS, "INFO"), (probe, "DEBUG")] {
            let line = line(&access, LogFormat::Json);
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
        let mut line = Line::default();
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
