//! The names that a message has beside its path: all of them say its digest, in other alphabets.
//!
//! Clients escape what they think has to be escaped, generated ones each `/` of Base64 (RFC 6570, 3.2.2), so
//! escapes in a name are decoded, once. **Invariant:** what is not a name in full is the name of nothing, and
//! nothing is made of the text of a name but a digest.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::{self, Alphabet};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};

use crate::digest::{DIGEST_BYTES, Digest};

/// Base64 of both alphabets, with padding or without.
static ENGINES: [GeneralPurpose; 2] = [engine(&alphabet::STANDARD), engine(&alphabet::URL_SAFE)];

const fn engine(alphabet: &Alphabet) -> GeneralPurpose {
    let padding = DecodePaddingMode::Indifferent;
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config)
}

/// What follows `/messages/` in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    digest: Option<Digest>,
    is_alias: bool,
    is_escaped: bool,
}

impl Name {
    /// Reads the digits of a digest, or `sha256:<hex>`, or `sha256-<base64>` as in Subresource Integrity; in either
    /// alphabet of Base64, with padding or without.
    pub(super) fn parse(text: &str) -> Self {
        let decoded = decoded(text);
        let is_escaped = matches!(decoded, Cow::Owned(_));
        let is_alias = decoded.starts_with("sha256:") || decoded.starts_with("sha256-");
        let digest = if is_alias {
            alias(&decoded)
        } else {
            decoded.parse().ok()
        };
        Self {
            digest,
            is_alias,
            is_escaped,
        }
    }

    /// The digest; `None` if it is the name of nothing.
    pub(super) fn digest(self) -> Option<Digest> {
        self.digest
    }

    /// Whether it begins like one that has more than the digits of a digest.
    pub(super) fn is_alias(self) -> bool {
        self.is_alias
    }

    /// Whether it is another spelling than that of the path of the message.
    pub(super) fn is_other(self) -> bool {
        self.is_alias || self.is_escaped
    }
}

fn alias(name: &str) -> Option<Digest> {
    if let Some(digits) = name.strip_prefix("sha256:") {
        return digits.parse().ok();
    }
    let digits = name.strip_prefix("sha256-")?;
    let mut decoded = ENGINES.iter().map(|engine| engine.decode(digits));
    digest(decoded.find_map(Result::ok)?)
}

/// Reads what follows `/.well-known/ni/sha-256/` in a path: base64url (RFC 6920, 4).
pub(super) fn well_known(name: &str) -> Option<Digest> {
    digest(URL_SAFE_NO_PAD.decode(&*decoded(name)).ok()?)
}

fn digest(bytes: Vec<u8>) -> Option<Digest> {
    <[u8; DIGEST_BYTES]>::try_from(bytes)
        .ok()
        .map(Digest::from_bytes)
}

/// A name without the escapes of the characters that names are made of. All others stay, and are of no name.
fn decoded(name: &str) -> Cow<'_, str> {
    if !name.as_bytes().contains(&b'%') {
        return name.into();
    }
    let mut pieces = name.split('%');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (symbol, rest) = unescaped(piece).unwrap_or(('%', piece));
        decoded.push(symbol);
        decoded.push_str(rest);
    }
    decoded.into()
}

/// The character that the two digits after a `%` stand for, and what follows them.
fn unescaped(piece: &str) -> Option<(char, &str)> {
    let (digits, rest) = piece.split_at_checked(2)?;
    let digit = |index: usize| char::from(*digits.as_bytes().get(index)?).to_digit(16);
    let symbol = char::from_u32(digit(0)? << 4 | digit(1)?)?;
    let is_of_name = symbol.is_ascii_alphanumeric() || "-._~/+=:".contains(symbol);
    is_of_name.then_some((symbol, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069";

    fn read(name: &str) -> Option<Digest> {
        Name::parse(name).digest()
    }

    #[test]
    fn the_published_name_is_read() {
        // RFC 6920, 8.1.
        let digest = Digest::of(b"Hello World!");
        let name = "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk";
        assert_eq!(well_known(name), Some(digest));
        let name = "sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk=";
        assert_eq!(read(name), Some(digest));
        assert_eq!(read(&format!("sha256:{digest}")), Some(digest));
        assert_eq!(DIGITS, digest.to_string());
    }

    #[test]
    fn a_name_is_read_however_clients_escape_it_and_whichever_base64_they_know() {
        let digest = Digest::of(b"Hello World!");
        for (name, is_alias) in [
            (
                "sha256-f4OxZX%2Fx%2FFO5LcGBSKHWXfwtSx%2Bj1ncoSt3SABJtkGk%3D",
                true,
            ),
            (
                "sha256-f4OxZX%2fx/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk%3d",
                true,
            ),
            ("sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk", true),
            ("sha256-f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk", true),
            ("sha256-f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk=", true),
            (
                "sha256%2Df4OxZX%5Fx%5FFO5LcGBSKHWXfwtSx%2dj1ncoSt3SABJtkGk",
                true,
            ),
            (&format!("sha256%3A{DIGITS}"), true),
            (&format!("%73ha256%3a{}", DIGITS.to_uppercase()), true),
            (&format!("%37{}", &DIGITS[1..]), false),
        ] {
            let parsed = Name::parse(name);
            assert_eq!(parsed.digest(), Some(digest), "{name}");
            assert_eq!(
                (parsed.is_alias(), parsed.is_other()),
                (is_alias, true),
                "{name}"
            );
        }
        let canonical = Name::parse(DIGITS);
        assert_eq!(
            (canonical.digest(), canonical.is_other()),
            (Some(digest), false)
        );
        let name = "f4OxZX%5Fx_FO5LcGBSKHWXfwtSx%2Dj1ncoSt3SABJtkGk";
        assert_eq!(well_known(name), Some(digest));
    }

    #[test]
    fn nothing_else_is_a_name() {
        for name in [
            "",
            "sha256",
            "sha256:",
            "sha256-",
            &format!("SHA256:{DIGITS}"),
            &format!("sha256:{DIGITS}0"),
            &format!("sha256-{DIGITS}"),
            // Both alphabets in one.
            "sha256-f4OxZX_x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk=",
            "sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk==",
            // Bits beyond the last byte.
            "sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGl=",
            "sha256-f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGl",
            "sha256-AAAA",
            "sha512:00",
            // Escapes that are none, that stand for something else, and that were escaped twice.
            &format!("sha256%3{DIGITS}"),
            &format!("sha256%{DIGITS}"),
            &format!("sha256%3G{DIGITS}"),
            &format!("sha256%+a{DIGITS}"),
            &format!("sha256%253A{DIGITS}"),
            &format!("sha256:{DIGITS}%"),
            &format!("sha256:{DIGITS}%0"),
            &format!("sha256:{DIGITS}%00"),
            &format!("sha256:{DIGITS}%20"),
            &format!("sha256:{DIGITS}%2F"),
            &format!("{DIGITS}%2F"),
            &format!("..%2F{DIGITS}"),
            "%",
            "%\u{fc}\u{fc}",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
        for name in [
            "",
            "AAAA",
            "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk=",
            "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk%3D",
            "f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk",
            "f4OxZX%2Fx%2FFO5LcGBSKHWXfwtSx%2Bj1ncoSt3SABJtkGk",
            "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk/",
        ] {
            assert_eq!(well_known(name), None, "{name}");
        }
    }
}
