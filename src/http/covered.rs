//! Bytes that keep what covers them.

use bytes::Bytes;

/// The same bytes, with `cover` kept until the last slice of them is dropped. Costs an allocation.
pub(super) fn covered(bytes: Bytes, cover: impl Send + 'static) -> Bytes {
    struct Covered<C> {
        bytes: Bytes,
        _cover: C,
    }
    impl<C> AsRef<[u8]> for Covered<C> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Covered {
        bytes,
        _cover: cover,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_covers_bytes_is_there_until_their_last_slice_is_dropped() {
        let cover = Arc::new(());
        let whole = covered(Bytes::from_static(b"0123456789"), Arc::clone(&cover));
        let slice = whole.slice(4..5);
        drop(whole);
        assert_eq!((&*slice, Arc::strong_count(&cover)), (&b"4"[..], 2));
        drop(slice);
        assert_eq!(Arc::strong_count(&cover), 1);
    }
}
