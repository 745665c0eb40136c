//! Trace Context (W3C): the name that a request has for all services it passes.

use http::header::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace id, 32 lower-case hexadecimal digits, if there is a valid one. Later versions begin like
/// version 00 and are read as such; version ff does not exist.
pub(super) fn trace_id(fields: &HeaderMap) -> Option<&str> {
    let mut parents = fields.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let mut parts = parent.to_str().ok()?.split('-');
    let mut next = |digits| parts.next().filter(|part| is_hex(part, digits));
    let (version, id, parent) = (next(2)?, next(32)?, next(16)?);
    next(2)?;
    let is_whole = version != "00" || parts.next().is_none();
    let is_zero = |part: &str| part.bytes().all(|digit| digit == b'0');
    (version != "ff" && is_whole && !is_zero(id) && !is_zero(parent)).then_some(id)
}

fn is_hex(part: &str, digits: usize) -> bool {
    part.len() == digits
        && part
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    fn read(parent: &str) -> Option<String> {
        let parent = HeaderValue::from_str(parent).unwrap();
        let fields = HeaderMap::from_iter([(TRACEPARENT, parent)]);
        trace_id(&fields).map(str::to_owned)
    }

    #[test]
    fn the_id_of_a_valid_parent_is_taken_over() {
        for (version, rest) in [("00", ""), ("cc", ""), ("cc", "-what-comes")] {
            let parent = format!("{version}-{ID}-b7ad6b7169203331-01{rest}");
            assert_eq!(read(&parent).as_deref(), Some(ID), "{parent}");
        }
    }

    #[test]
    fn any_other_parent_is_none() {
        let zeros = "0".repeat(32);
        for parent in [
            "",
            ID,
            &format!("00-{ID}-b7ad6b7169203331"),
            &format!("00-{ID}-b7ad6b7169203331-01-x"),
            &format!("ff-{ID}-b7ad6b7169203331-01"),
            &format!("00-{zeros}-b7ad6b7169203331-01"),
            &format!("00-{ID}-0000000000000000-01"),
            &format!("00-{}-b7ad6b7169203331-01", ID.to_uppercase()),
            &format!("00-{}-b7ad6b7169203331-01", &ID[1..]),
        ] {
            assert_eq!(read(parent), None, "{parent}");
        }
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }
}
