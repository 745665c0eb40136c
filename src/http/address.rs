//! The names that a message has beside its path: all of them say its digest, in other alphabets.
//!
//! **Invariant:** each kind of name has one spelling for a digest, but for the case of hexadecimal
//! digits. What is not a name in full is the name of nothing.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::digest::{DIGEST_BYTES, Digest};

/// Whether the last part of `/messages/…` can only be read by [`alias`].
pub(super) fn is_alias(name: &str) -> bool {
    name.starts_with("sha256:") || name.starts_with("sha256-")
}

/// Reads the last part of `/messages/…` as anything but the digits alone: `sha256:<hex>`, or
/// `sha256-<base64>` as in Subresource Integrity.
pub(super) fn alias(name: &str) -> Option<Digest> {
    if let Some(digits) = name.strip_prefix("sha256:") {
        return digits.parse().ok();
    }
    let digits = name.strip_prefix("sha256-")?;
    digest(STANDARD.decode(digits).ok()?)
}

/// Reads what follows `/.well-known/ni/sha-256/` in a path: base64url (RFC 6920, 4).
pub(super) fn well_known(name: &str) -> Option<Digest> {
    digest(URL_SAFE_NO_PAD.decode(name).ok()?)
}

fn digest(bytes: Vec<u8>) -> Option<Digest> {
    <[u8; DIGEST_BYTES]>::try_from(bytes)
        .ok()
        .map(Digest::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_name_is_read() {
        // RFC 6920, 8.1.
        let digest = Digest::of(b"Hello World!");
        let name = "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk";
        assert_eq!(well_known(name), Some(digest));
        let name = "sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk=";
        assert_eq!(alias(name), Some(digest));
        assert_eq!(alias(&format!("sha256:{digest}")), Some(digest));
    }

    #[test]
    fn nothing_else_is_a_name() {
        let digits = Digest::of(b"Hello World!").to_string();
        for name in [
            "",
            "sha256",
            "sha256:",
            "sha256-",
            &digits,
            &format!("SHA256:{digits}"),
            &format!("sha256:{digits}0"),
            &format!("sha256-{digits}"),
            "sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk",
            "sha256-f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk=",
            // Bits beyond the last byte.
            "sha256-f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGl=",
            "sha256-AAAA",
            "sha512:00",
        ] {
            assert_eq!(alias(name), None, "{name}");
        }
        for name in [
            "",
            "AAAA",
            "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk=",
            "f4OxZX/x/FO5LcGBSKHWXfwtSx+j1ncoSt3SABJtkGk",
            "f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk/",
        ] {
            assert_eq!(well_known(name), None, "{name}");
        }
    }
}
