//! A message: text that was checked once, together with its digest.
//!
//! **Invariant:** the digest of a [`Message`] is that of its text, and the text is UTF-8. Both are
//! established where a message is made and nowhere again; there is no way to change either.

use bytes::Bytes;
use bytestring::ByteString;

use crate::digest::Digest;

/// A text and its digest. Cloning is cheap: the text is shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    text: ByteString,
    digest: Digest,
}

impl Message {
    /// Hashes `text`; costs what [`Digest::of`] costs.
    #[must_use]
    pub fn new(text: impl Into<ByteString>) -> Self {
        let text = text.into();
        let digest = Digest::of(text.as_bytes());
        Self { text, digest }
    }

    /// The message with these bytes if their digest is `digest`, `None` otherwise: the door through
    /// which bytes come back from a disk.
    #[must_use]
    pub fn verified(bytes: Bytes, digest: Digest) -> Option<Self> {
        if Digest::of(&bytes) != digest {
            return None;
        }
        let text = ByteString::try_from(bytes).ok()?;
        Some(Self { text, digest })
    }

    /// The same message with a text of its own. A [`Message`] may share its text with a buffer that somebody
    /// waits for; what keeps it for long keeps a copy.
    #[must_use]
    pub fn copied(&self) -> Self {
        let text = ByteString::from(self.text());
        Self { text, ..*self }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of the text: what is hashed and stored. Cloning them copies nothing.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        self.text.as_bytes()
    }

    /// The digest of the text.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Says which message, never what it says.
impl std::fmt::Debug for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Message({:?}, {} bytes)",
            self.digest,
            self.text.len()
        )
    }
}

#[cfg(test)]
impl Message {
    /// A message that breaks the invariant, since nobody can find two texts whose digests begin alike.
    pub(crate) fn forged(text: &str, digest: Digest) -> Self {
        let text = text.into();
        Self { text, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_hash_to_another_digest_are_not_the_message() {
        let digest = Digest::of(b"foo");
        assert!(Message::verified(Bytes::from_static(b"fop"), digest).is_none());
        assert!(Message::verified(Bytes::from_static(b"foo"), digest).is_some());
    }

    #[test]
    fn bytes_that_are_not_text_are_no_message_even_with_the_right_digest() {
        let bytes = b"\xff";
        assert!(Message::verified(Bytes::from_static(bytes), Digest::of(bytes)).is_none());
    }

    #[test]
    fn debug_output_does_not_show_the_text() {
        assert_eq!(
            format!("{:?}", Message::new("foo")),
            "Message(2c26b46b…, 3 bytes)"
        );
    }
}
