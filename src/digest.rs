//! The address of a message: its SHA-256 digest.
//!
//! One value, one spelling: a [`Digest`] is made by hashing ([`Digest::of`]), read from exactly 64
//! hexadecimal digits of either case, and always printed in lower case. This room imports nothing
//! of ours and is the only one that knows the hash function.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// Length of a digest in bytes.
pub const DIGEST_BYTES: usize = 32;

/// Length of a printed digest in ASCII digits.
pub const DIGEST_DIGITS: usize = 2 * DIGEST_BYTES;

/// The SHA-256 digest of a message (FIPS 180-4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; DIGEST_BYTES]);

impl Digest {
    /// Hashes `content`. Costs about 0.7 ns a byte where the processor has SHA instructions, about
    /// five times that where it has none.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// Hashes the content that comes in these pieces.
    #[must_use]
    pub fn of_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        pieces.into_iter().for_each(|piece| hash.update(piece));
        Self(hash.finalize().into())
    }

    /// The digest whose 32 bytes are `bytes`; nothing is hashed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; DIGEST_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }

    /// The 64 lower-case hexadecimal digits, in ASCII, without an allocation.
    #[must_use]
    pub fn to_hex(&self) -> [u8; DIGEST_DIGITS] {
        let mut digits = [0; DIGEST_DIGITS];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(self.0) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 0xf)];
        }
        digits
    }

    /// The first eight of them: enough to find a message among others that somebody has, too few to reveal one
    /// that could be guessed.
    #[must_use]
    pub fn first_digits(&self) -> [u8; 8] {
        let [first, second, third, fourth, ..] = self.0;
        let mut digits = [0; 8];
        let bytes = [first, second, third, fourth];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 0xf)];
        }
        digits
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits: [u8; DIGEST_DIGITS] = text.as_bytes().try_into().map_err(|_| InvalidDigest)?;
        // All digits first and then one question: so the compiler takes many at once.
        let values = digits.map(digit_value);
        if values.iter().fold(0, |all, value| all | value) > 0xf {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; DIGEST_BYTES];
        for (byte, [high, low]) in bytes.iter_mut().zip(values.as_chunks().0) {
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// The digit for a value below 16, without a table or a branch: so the compiler makes many at once.
fn hex_digit(value: u8) -> u8 {
    value + b'0' + u8::from(value > 9) * (b'a' - b'0' - 10)
}

/// What a hexadecimal digit stands for; more than 15 if it is none.
fn digit_value(digit: u8) -> u8 {
    let decimal = digit.wrapping_sub(b'0');
    let letter = (digit | 0x20).wrapping_sub(b'a');
    if decimal < 10 {
        decimal
    } else if letter < 6 {
        letter + 10
    } else {
        u8::MAX
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.to_hex();
        formatter.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

/// Eight digits only: the digest of a message that can be guessed reveals it, so logs, where
/// `Debug` ends up, never carry a whole one.
impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.first_digits();
        let digits = std::str::from_utf8(&digits).map_err(|_| fmt::Error)?;
        write!(formatter, "{digits}…")
    }
}

/// Hashes `content` with SHA-512 (FIPS 180-4): for those who say so what they send, never an address.
#[must_use]
pub fn sha512(content: &[u8]) -> [u8; 64] {
    Sha512::digest(content).into()
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct InvalidDigest;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOO: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn the_digest_of_foo_is_the_published_one() {
        assert_eq!(Digest::of(b"foo").to_string(), FOO);
    }

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert_eq!(
            Digest::of(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn upper_case_digits_name_the_same_digest() {
        assert_eq!(FOO.to_uppercase().parse(), Ok(Digest::of(b"foo")));
    }

    #[test]
    fn every_digit_counts_and_nothing_else_is_one() {
        for character in 0..=0x7f_u8 {
            let text = format!("{0}{1}{0}", char::from(character), "0".repeat(62));
            let digit = char::from(character).to_digit(16);
            let digit = digit.and_then(|digit| u8::try_from(digit).ok());
            let digest = text.parse::<Digest>().ok();
            let bytes = digest.map(|digest| (digest.0[0], digest.0[31]));
            let expected = digit.map(|digit| (16 * digit, digit));
            assert_eq!(bytes, expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_64_digits_is_refused() {
        let signed = FOO.replacen('2', "+", 1);
        let wide = FOO.replacen('2', "２", 1);
        for text in ["", "foo", &FOO[1..], &format!("{FOO}0"), &signed, &wide] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
    }

    #[test]
    fn a_log_sees_eight_digits_at_most() {
        assert_eq!(format!("{:?}", Digest::of(b"foo")), "2c26b46b…");
    }

    proptest! {
        #[test]
        fn printing_and_reading_round_trip(bytes: [u8; DIGEST_BYTES]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }
}
