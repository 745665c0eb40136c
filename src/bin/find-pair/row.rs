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
    /// A control character, or one that ends lines or marks texts elsewhere, stands where it means nothing.
    /// Without it the row would be another one, or look like another.
    #[error(
        "it holds the character U+{:04X}; lines end with LF or CR LF, and columns hold no control characters",
        u32::from(*.0)
    )]
    Control(char),
    /// The list is not in the encoding that it must be in.
    #[error("the list is {0}; save it as UTF-8")]
    Encoding(&'static str),
}

/// Returns the name and the price on a line, which comes without its end, or `None` if the line is blank.
pub(crate) fn parse(line: &[u8]) -> Result<Option<(&[u8], u64)>, Fault> {
    let line = trim(line);
    if line.is_empty() {
        return Ok(None);
    }
    if let Some(control) = control(line) {
        return Err(Fault::Control(control));
    }
    let mut columns = line.rsplitn(2, |&byte| byte == b',');
    let (Some(price), Some(name)) = (columns.next(), columns.next()) else {
        return Err(Fault::Column);
    };
    if name.is_empty() {
        return Err(Fault::Name);
    }
    let price = parse_price(trim(price))?;
    Ok(Some((trim(name), price)))
}

/// What is between the spaces and tabs at both ends.
fn trim(mut column: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = column {
        column = rest;
    }
    column
}

/// The first character of a row that has no place in one. A tab may stand around columns, and not in them: there
/// it is the border of another column. Beyond ASCII, characters are known where the row is UTF-8; otherwise they
/// may be anything.
fn control(row: &[u8]) -> Option<char> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    // Without a way out of the loop, the compiler takes many bytes at once.
    if row.iter().fold(true, |all, &byte| all & is_plain(byte)) {
        return None;
    }
    let (name, price) = row.split_at(row.iter().rposition(|&byte| byte == b',').unwrap_or(0));
    let columns = [trim(name), trim(price.strip_prefix(b",").unwrap_or(price))];
    columns
        .into_iter()
        .find_map(|column| match str::from_utf8(column) {
            Ok(text) => text.chars().find(|symbol| is_control(*symbol)),
            Err(_) => column
                .iter()
                .map(|&byte| char::from(byte))
                .find(char::is_ascii_control),
        })
}

/// A control character, a separator of lines or paragraphs, or a byte order mark.
fn is_control(symbol: char) -> bool {
    symbol.is_control() || matches!(symbol, '\u{2028}' | '\u{2029}' | '\u{feff}')
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
            "\t Earmuffs\t,\t 2000 \t",
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
        for line in ["", " ", "\t \t"] {
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
    fn a_control_character_is_refused_wherever_it_stands() {
        for control in [
            '\0', '\u{1}', '\u{8}', '\r', '\u{b}', '\u{c}', '\u{1b}', '\u{7f}', '\u{85}', '\u{9f}',
            '\u{2028}', '\u{2029}', '\u{feff}',
        ] {
            for line in [
                format!("{control}Earmuffs, 2000"),
                format!("Ear{control}muffs, 2000"),
                format!("Earmuffs{control}, 2000"),
                format!("Earmuffs, {control}2000"),
                format!("Earmuffs, 20{control}00"),
                format!("Earmuffs, 2000{control}"),
                format!("Earmuffs, 2000 {control}"),
                format!("Grü{control}n, 2000"),
                format!("{control}"),
            ] {
                assert_eq!(row(&line), Err(Fault::Control(control)), "{line:?}");
            }
        }
        for line in [
            "Ear\tmuffs, 2000",
            "Earmuffs, 20\t00",
            "Salt, Pepper\t5, 2000",
        ] {
            assert_eq!(row(line), Err(Fault::Control('\t')), "{line:?}");
        }
        assert_eq!(parse(b"K\xe4\0se, 5"), Err(Fault::Control('\0')));
    }

    #[test]
    fn bytes_beyond_ascii_are_names_in_whatever_encoding() {
        for name in [
            &b"K\xe4se"[..],
            b"\x85",
            "Grün \u{1f381}".as_bytes(),
            "a\u{a0}b".as_bytes(),
        ] {
            let line = [name, b", 5"].concat();
            assert_eq!(parse(&line), Ok(Some((name, 5))));
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
