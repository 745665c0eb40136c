//! One line of a price list: `name, price`, split at the last comma.
//!
//! **Invariant:** whatever is not a row has a [`Fault`]; only a blank line is skipped.

/// Why a line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It has no comma.
    #[error("a column is missing: there is no comma")]
    Column,
    /// There is nothing before the comma.
    #[error("the name is missing")]
    Name,
    /// What follows the comma is not a positive integer.
    #[error("the price is not a positive integer")]
    Price,
    /// The price is a positive integer of more than 64 bits.
    #[error("the price is too large for 64 bits")]
    LargePrice,
    /// The list is not in ascending order.
    #[error("the price is lower than the one before")]
    Order,
    /// It is longer than a reader looks.
    #[error("the line is too long")]
    Long,
}

/// Returns the name and the price on a line, or `None` if the line is blank.
pub(crate) fn parse(line: &[u8]) -> Result<Option<(&[u8], u64)>, Fault> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let mut columns = line.rsplitn(2, |&byte| byte == b',');
    let (Some(price), Some(name)) = (columns.next(), columns.next()) else {
        return Err(Fault::Column);
    };
    if name.is_empty() {
        return Err(Fault::Name);
    }
    let price = parse_price(price.trim_ascii_start())?;
    Ok(Some((name.trim_ascii_end(), price)))
}

/// Accepts digits only: `u64::from_str` would let a plus sign pass.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str) -> Result<Option<(&str, u64)>, Fault> {
        let row = parse(line.as_bytes())?;
        Ok(row.map(|(name, price)| (str::from_utf8(name).unwrap(), price)))
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
}
