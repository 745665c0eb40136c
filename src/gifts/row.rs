//! One row of a price list: `name, price`, split at the last comma.
//!
//! [`parse`] says what a row is and why it is none. [`quick_price`] knows only rows of the common
//! shape and says nothing of the others; where it answers, it answers like [`parse`].

use std::fmt;

use memchr::memrchr;

/// Why a line is not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no comma.
    Column,
    /// There is nothing before the comma.
    Name,
    /// What follows the comma is not a positive integer.
    Price,
    /// The price is one, but larger than 64 bits can say.
    LargePrice,
    /// The price is lower than the one before.
    Order,
    /// The line does not fit into the memory it is given.
    Long,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Column => "a column is missing: there is no comma",
            Self::Name => "the name is missing",
            Self::Price => "the price is not a positive integer",
            Self::LargePrice => "the price is too large for 64 bits",
            Self::Order => "the price is lower than the one before",
            Self::Long => "the line is too long",
        })
    }
}

/// The name and the price on a line; nothing if the line is blank.
pub(super) fn parse(line: &[u8]) -> Result<Option<(&[u8], u64)>, Fault> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let comma = memrchr(b',', line).ok_or(Fault::Column)?;
    let (name, price) = line.split_at(comma);
    let price = price.get(1..).unwrap_or_default().trim_ascii_start();
    if name.is_empty() {
        return Err(Fault::Name);
    }
    Ok(Some((name.trim_ascii_end(), parse_price(price)?)))
}

/// Digits only: no sign, no second spelling of the separator, nothing a reader might overlook.
fn parse_price(digits: &[u8]) -> Result<u64, Fault> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Price);
    }
    let price = digits.iter().try_fold(0_u64, |price, digit| {
        price.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    match price {
        Some(0) => Err(Fault::Price),
        Some(price) => Ok(price),
        None => Err(Fault::LargePrice),
    }
}

/// The price on a line such as `Earmuffs, 2000`: up to eight digits, a name that does not begin
/// with a space, at most one space after the comma. Nothing for any other line, good or bad.
///
/// The last eight bytes are looked at as one number, whose highest byte is the last character.
#[inline]
pub(super) fn quick_price(line: &[u8]) -> Option<u64> {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (_, last) = line.split_last_chunk()?;
    let values = u64::from_le_bytes(*last) ^ each(b'0');
    // The top bit of every byte whose value is above 9.
    let others = (((values & each(0x7f)) + each(0x7f - 9)) | values) & each(0x80);
    let digits = others.leading_zeros() / 8;
    if digits == 0 {
        return None;
    }
    let head = line.get(..line.len() - digits as usize)?;
    let name = head
        .strip_suffix(b", ")
        .or_else(|| head.strip_suffix(b","))?;
    let named = name.first().is_some_and(|&first| first > b' ');
    // What stands before the digits becomes zeros before them; then pairs of neighbours are
    // added up, and pairs of pairs.
    let values = values & (u64::MAX << (64 - 8 * digits));
    let tens = values * 10 + (values >> 8);
    let even = (tens & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let odd = ((tens >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    let price = even.wrapping_add(odd) >> 32;
    (named && price > 0).then_some(price)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(line: &str) -> Result<Option<(&str, u64)>, Fault> {
        let row = parse(line.as_bytes())?;
        Ok(row.map(|(name, price)| (std::str::from_utf8(name).unwrap(), price)))
    }

    #[test]
    fn a_row_is_a_name_and_a_price_trimmed() {
        for line in [
            "Earmuffs, 2000",
            "Earmuffs,2000",
            "Earmuffs , 2000",
            "  Earmuffs\t,  2000 \r",
            "Earmuffs, 0002000",
            "Earmuffs, 00000000000000000000000000002000",
        ] {
            assert_eq!(row(line), Ok(Some(("Earmuffs", 2000))), "{line:?}");
        }
    }

    #[test]
    fn a_name_may_hold_commas() {
        assert_eq!(row("Salt, Pepper, 3"), Ok(Some(("Salt, Pepper", 3))));
        assert_eq!(row(",, 3"), Ok(Some((",", 3))));
    }

    #[test]
    fn a_blank_line_is_no_row() {
        for line in ["", " ", "\t \r"] {
            assert_eq!(row(line), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn a_row_without_both_columns_is_refused() {
        for (line, fault) in [
            ("Earmuffs", Fault::Column),
            ("2000", Fault::Column),
            (", 2000", Fault::Name),
            (" , 2000", Fault::Name),
            ("Earmuffs,", Fault::Price),
            (",", Fault::Name),
        ] {
            assert_eq!(row(line), Err(fault), "{line:?}");
        }
    }

    #[test]
    fn a_price_that_is_not_a_positive_integer_is_refused() {
        for price in [
            "0", "000", "-1", "+1", "1.0", "1e3", "0x1", "1 000", "1_000", "x", "２",
        ] {
            let line = format!("Earmuffs, {price}");
            assert_eq!(row(&line), Err(Fault::Price), "{line:?}");
        }
    }

    #[test]
    fn a_price_has_64_bits() {
        assert_eq!(
            row("Moon, 18446744073709551615"),
            Ok(Some(("Moon", u64::MAX)))
        );
        for price in ["18446744073709551616", "99999999999999999999999"] {
            let line = format!("Moon, {price}");
            assert_eq!(row(&line), Err(Fault::LargePrice), "{line:?}");
        }
    }

    #[test]
    fn the_quick_price_knows_rows_of_the_common_shape() {
        for (line, price) in [
            ("Candy Bar, 500", 500),
            ("Candy Bar,500\r", 500),
            ("g 1, 12345678", 12_345_678),
            ("Candy Bar, 00000001", 1),
        ] {
            assert_eq!(quick_price(line.as_bytes()), Some(price), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn the_quick_price_is_the_price(
            line in "[ ,a\u{80}]{0,3}[a-c]{0,9}[ ,]{0,2}[0-9 ,+:/x\u{b0}]{0,10}\r?"
        ) {
            if let Some(price) = quick_price(line.as_bytes()) {
                let parsed = parse(line.as_bytes()).map(|row| row.map(|(_, price)| price));
                prop_assert_eq!(parsed, Ok(Some(price)));
            }
        }

        #[test]
        fn the_quick_price_of_any_price_is_right(price in 1_u64..100_000_000) {
            prop_assert_eq!(quick_price(format!("Gift, {price}").as_bytes()), Some(price));
        }
    }
}
