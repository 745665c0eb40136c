//! Sizes, times and numbers on the command line: how they are written, and what is said of others.
//!
//! It refuses to know which option a value is for. **Invariant:** what is wrong is said in words of its own, with
//! an example or the range, and in none of a library.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{StringValueParser, TypedValueParser};

/// A number of bytes, which is written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size = text.parse().map(|size: ByteSize| Self(size.as_u64()));
        // The largest stands for all that are larger.
        let size = size.ok().filter(|size| size.0 < u64::MAX);
        size.ok_or("a size is a number and a unit, like 64MiB")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter();
        let mut exact = units.filter(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        let (shift, unit) = exact.next().unwrap_or((0, "B"));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// Reads a size in this range.
pub(super) fn size(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = Size> {
    let range = Size(*range.start())..=Size(*range.end());
    StringValueParser::new().try_map(move |text| within(text.parse()?, &range))
}

/// Reads a time, which is written with a unit.
pub(super) fn any_time() -> impl TypedValueParser<Value = humantime::Duration> {
    StringValueParser::new().try_map(|text| read_time(&text))
}

/// Reads a time in this range.
pub(super) fn time(
    range: RangeInclusive<Duration>,
) -> impl TypedValueParser<Value = humantime::Duration> {
    let range = (*range.start()).into()..=(*range.end()).into();
    StringValueParser::new().try_map(move |text| within(read_time(&text)?, &range))
}

fn read_time(text: &str) -> Result<humantime::Duration, &'static str> {
    let time = text.parse();
    time.map_err(|_| "a time is a number and a unit, like 90s or 7d")
}

/// Reads a whole number in this range.
pub(super) fn number(range: RangeInclusive<u32>) -> impl TypedValueParser<Value = u32> {
    StringValueParser::new().try_map(move |text| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err("it must be a whole number".to_owned());
        }
        // The largest stands for all that are larger.
        within(text.parse().unwrap_or(u32::MAX), &range)
    })
}

fn within<T: PartialOrd + fmt::Display>(value: T, range: &RangeInclusive<T>) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(format!("it must be between {least} and {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_printed_as_it_may_be_written() {
        for text in ["0B", "1B", "1023B", "64KiB", "3MiB", "1GiB", "1025MiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_size_is_told_how_a_size_is_written() {
        for text in [
            "",
            "x",
            "1x",
            "-1MiB",
            "MiB",
            "1,5MiB",
            "1 MiB x",
            "0x10",
            "99999999EiB",
        ] {
            let error = text.parse::<Size>().unwrap_err();
            assert_eq!(error, "a size is a number and a unit, like 64MiB", "{text}");
        }
    }
}
