//! A part of a text instead of all of it (RFC 9110, 14): one range of bytes, from the start or from
//! the end. Several at once are answered with all of it, which the RFC allows and clients expect.

use std::ops::Range;

use http::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};

/// What of a text is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    All,
    Bytes(Range<usize>),
    /// A range was asked for that has nothing in common with the text.
    None,
}

/// Reads Range and If-Range for a text of `length` bytes with this entity tag. What cannot be read is
/// ignored (RFC 9110, 14.2).
pub(super) fn wanted(fields: &HeaderMap, etag: &HeaderValue, length: usize) -> Selection {
    let mut ranges = fields.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else {
        return Selection::All;
    };
    // A strong comparison; a date matches nothing, since none is sent (RFC 9110, 13.1.5).
    if fields.get(IF_RANGE).is_some_and(|field| field != etag) {
        return Selection::All;
    }
    range
        .to_str()
        .ok()
        .and_then(parse)
        .map_or(Selection::All, |range| range.of(length))
}

/// A single range, as it was asked for.
#[derive(Clone, Copy)]
enum Asked {
    From(usize),
    Between(usize, usize),
    Last(usize),
}

impl Asked {
    fn of(self, length: usize) -> Selection {
        let (start, end) = match self {
            Self::From(first) => (first, length),
            Self::Between(first, last) => (first, last.saturating_add(1).min(length)),
            // Its last bytes are all that there are, also if there are none (RFC 9110, 14.1.2).
            Self::Last(1..) if length == 0 => return Selection::All,
            Self::Last(bytes) => (length.saturating_sub(bytes), length),
        };
        if start < end {
            Selection::Bytes(start..end)
        } else {
            Selection::None
        }
    }
}

fn parse(range: &str) -> Option<Asked> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    Some(match (first, last) {
        ("", last) => Asked::Last(number(last)?),
        (first, "") => Asked::From(number(first)?),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::Between(first, last))?
        }
    })
}

/// A number, or as much as there can be.
fn number(digits: &str) -> Option<usize> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: &str = "99999999999999999999999999";

    fn of_ten(range: &str) -> Selection {
        let fields = HeaderMap::from_iter([(RANGE, HeaderValue::from_str(range).unwrap())]);
        wanted(&fields, &HeaderValue::from_static("\"x\""), 10)
    }

    #[test]
    fn a_range_is_clipped_to_the_text() {
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("Bytes= 2-5 ", 2..6),
            ("bytes=9-", 9..10),
            ("bytes=0-9", 0..10),
            ("bytes=5-10", 5..10),
            (&format!("bytes=5-{HUGE}"), 5..10),
            ("bytes=-1", 9..10),
            ("bytes=-10", 0..10),
            ("bytes=-11", 0..10),
            (&format!("bytes=-{HUGE}"), 0..10),
        ] {
            assert_eq!(of_ten(range), Selection::Bytes(part), "{range}");
        }
    }

    #[test]
    fn a_range_outside_of_the_text_has_nothing_of_it() {
        for range in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            &format!("bytes={HUGE}-"),
        ] {
            assert_eq!(of_ten(range), Selection::None, "{range}");
        }
        assert_eq!(parse("bytes=0-").unwrap().of(0), Selection::None);
        for range in ["bytes=-5", "bytes=-1", &format!("bytes=-{HUGE}")] {
            assert_eq!(parse(range).unwrap().of(0), Selection::All, "{range}");
        }
        for range in ["bytes=-0", "bytes=0-", "bytes=0-0"] {
            assert_eq!(parse(range).unwrap().of(0), Selection::None, "{range}");
        }
    }

    #[test]
    fn whatever_is_no_single_range_of_bytes_means_all() {
        for range in [
            "bytes=0-1,3-4",
            "bytes=5-2",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1",
            "bytes",
            "lines=1-2",
            "",
        ] {
            assert_eq!(of_ten(range), Selection::All, "{range}");
        }
        let mut fields = HeaderMap::new();
        let etag = HeaderValue::from_static("\"x\"");
        assert_eq!(wanted(&fields, &etag, 10), Selection::All);
        for range in ["bytes=0-1", "bytes=2-3"] {
            fields.append(RANGE, HeaderValue::from_static(range));
        }
        assert_eq!(wanted(&fields, &etag, 10), Selection::All);
    }

    #[test]
    fn a_range_of_another_version_is_not_taken() {
        let etag = HeaderValue::from_static("\"x\"");
        for (condition, part) in [
            ("\"x\"", Selection::Bytes(0..1)),
            ("\"y\"", Selection::All),
            ("W/\"x\"", Selection::All),
            ("Sat, 29 Oct 1994 19:43:31 GMT", Selection::All),
        ] {
            let fields = HeaderMap::from_iter([
                (RANGE, HeaderValue::from_static("bytes=0-0")),
                (IF_RANGE, HeaderValue::from_static(condition)),
            ]);
            assert_eq!(wanted(&fields, &etag, 10), part, "{condition}");
        }
    }
}
