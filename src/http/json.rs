//! JSON in and out, by `serde_json`, made stricter on the way in.
//!
//! `serde_json` skips over members it is not asked for without looking at their strings, and a
//! derived decoder takes an array for an object. So every value is visited here, asked for or not:
//! what is accepted is a valid JSON object with exactly one `message`, and nothing after it. Nesting
//! ends at 128 levels (`serde_json`'s own limit), long before the stack does. Errors never quote the
//! input.

use std::borrow::Cow;
use std::fmt;

use bytestring::ByteString;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::access::tokens::Scope;
use crate::digest::Digest;
use crate::ndjson::write_string;
use crate::service::{Health, Stats};

/// What is wrong with a body, and where.
#[derive(Debug, thiserror::Error)]
pub(super) enum JsonError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Invisible, so it is named.
    #[error(
        "it begins with a byte order mark (U+FEFF), which may stand once, at the very start of a body, and nowhere \
         else"
    )]
    Mark,
}

impl JsonError {
    /// Whether the body is not even JSON, rather than the wrong kind of it.
    pub(super) fn is_syntax(&self) -> bool {
        match self {
            Self::Json(error) => error.is_syntax() || error.is_eof(),
            Self::Mark => true,
        }
    }

    /// What is wrong with a body that is a single line, and where in it.
    pub(super) fn in_line(&self) -> String {
        self.to_string()
            .replace(" at line 1 column ", " at column ")
    }
}

/// The member `message` of the object in `body`. Copies the text only if it has escapes.
pub(super) fn message_text(body: &ByteString) -> Result<ByteString, JsonError> {
    text(body, Shape::Message)
}

/// The member `digest` of the object in `body`, or the string that is all of it.
pub(super) fn digest_text(body: &ByteString) -> Result<ByteString, JsonError> {
    text(body, Shape::Digest)
}

fn text(body: &ByteString, shape: Shape) -> Result<ByteString, JsonError> {
    if body.starts_with('\u{feff}') {
        return Err(JsonError::Mark);
    }
    let mut reader = serde_json::Deserializer::from_str(body);
    let text = reader.deserialize_any(ValueVisitor(Some(shape)))?;
    reader.end()?;
    Ok(match text {
        Some(Cow::Borrowed(text)) => body.slice_ref(text),
        Some(Cow::Owned(text)) => text.into(),
        None => unreachable!("a body without a text is an error of the visitor"),
    })
}

/// `{"<name>": "<text>"}` as people read it: two spaces of indent, a final newline.
pub(super) fn object(name: &str, text: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len() + name.len() + 16);
    body.extend_from_slice(b"{\n  \"");
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(b"\": ");
    write_string(&mut body, text);
    body.extend_from_slice(b"\n}\n");
    body
}

/// The state and the figures of the service, what needs a token, and what the token of the request allows, as
/// people read them.
pub(super) fn figures(
    health: &Health,
    stats: Option<Stats>,
    needs_token: &[Scope],
    token_allows: Option<&[Scope]>,
) -> Vec<u8> {
    let reason = health.reads.as_ref().and(health.writes.as_ref()).err();
    let mut figures = Map::new();
    let mut tell = |name: &str, value: Value| figures.insert(name.into(), value);
    tell("reads", health.reads.is_ok().into());
    tell("writes", health.writes.is_ok().into());
    if let Some(reason) = reason {
        tell("reason", reason.as_str().into());
    }
    if let Some(stats) = stats {
        tell("messages", stats.messages.into());
        tell("disk_bytes", stats.disk_bytes.into());
    }
    let names = |scopes: &[Scope]| -> Value { scopes.iter().map(|scope| scope.name()).collect() };
    if !needs_token.is_empty() {
        tell("needs_token", names(needs_token));
    }
    if let Some(scopes) = token_allows {
        tell("token_allows", names(scopes));
    }
    format!("{:#}\n", Value::from(figures)).into()
}

/// A problem document (RFC 9457), laid out like [`object`].
pub(super) fn problem(kind: &str, title: &str, status: u16, detail: &str) -> Vec<u8> {
    let mut body = b"{\n".to_vec();
    for (name, text) in [("type", kind), ("title", title), ("detail", detail)] {
        body.extend_from_slice(b"  \"");
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(b"\": ");
        write_string(&mut body, text);
        body.extend_from_slice(b",\n");
    }
    body.extend_from_slice(b"  \"status\": ");
    // Cannot fail, here and below: a number is always JSON, a vector always takes more.
    let _ = serde_json::to_writer(&mut body, &status);
    body.extend_from_slice(b"\n}\n");
    body
}

/// How an object is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    open: &'static [u8],
    comma: &'static [u8],
    close: &'static [u8],
}

/// A line of its own.
pub(super) const LINE: Layout = Layout {
    open: b"{",
    comma: b", ",
    close: b"}\n",
};

/// An element of an array that is a member of an object, as people read it.
pub(super) const ELEMENT: Layout = Layout {
    open: b"{\n      ",
    comma: b",\n      ",
    close: b"\n    }",
};

/// Writes `{"digest": "<digits>"}`.
pub(super) fn write_digest(out: &mut Vec<u8>, layout: Layout, digest: &Digest) {
    out.extend_from_slice(layout.open);
    out.extend_from_slice(b"\"digest\": \"");
    out.extend_from_slice(&digest.to_hex());
    out.push(b'"');
    out.extend_from_slice(layout.close);
}

/// Writes `{"message": "<text>"}`.
pub(super) fn write_message(out: &mut Vec<u8>, layout: Layout, text: &str) {
    out.extend_from_slice(layout.open);
    out.extend_from_slice(b"\"message\": ");
    write_string(out, text);
    out.extend_from_slice(layout.close);
}

/// Why a line of a batch, or an element of an array, has no other answer.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub(super) text: &'a str,
    /// How programs tell it from others: a name in `x-problems` of the description.
    pub(super) kind: &'a str,
    /// What counts lines or elements, and the number of this one.
    pub(super) place: (&'a str, u64),
    /// If the batch ends with it.
    pub(super) status: Option<u16>,
    /// When to send the rest, in seconds.
    pub(super) retry_after: Option<u32>,
}

/// Writes `{"error": "<text>", "type": "<kind>", "line": <number>}`, or with `index`; with `status` and `retry_after`
/// if there are any.
pub(super) fn write_failure(out: &mut Vec<u8>, layout: Layout, failure: &Failure<'_>) {
    out.extend_from_slice(layout.open);
    out.extend_from_slice(b"\"error\": ");
    write_string(out, failure.text);
    out.extend_from_slice(layout.comma);
    out.extend_from_slice(b"\"type\": ");
    write_string(out, failure.kind);
    let status = failure.status.map(|status| ("status", status.into()));
    let retry_after = failure
        .retry_after
        .map(|seconds| ("retry_after", seconds.into()));
    let numbers = [Some(failure.place), status, retry_after];
    for (name, number) in numbers.into_iter().flatten() {
        out.extend_from_slice(layout.comma);
        write_string(out, name);
        out.extend_from_slice(b": ");
        let _ = serde_json::to_writer(&mut *out, &number);
    }
    out.extend_from_slice(layout.close);
}

/// What a body looks like.
#[derive(Clone, Copy)]
enum Shape {
    /// An object with a string `message`.
    Message,
    /// An object with a string `digest`, or a string.
    Digest,
}

impl Shape {
    fn member(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Digest => "digest",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Message => "it must be a JSON object with a string \"message\"",
            Self::Digest => {
                "it must be a digest, bare or in a JSON string, or an object with one as \"digest\""
            }
        }
    }
}

/// Reads a value to its end and checks it: the body, which must have its [`Shape`], or one within it,
/// which may be anything. Gives the text that is asked for, or that of a string; `None` for all others.
struct ValueVisitor(Option<Shape>);

impl ValueVisitor {
    /// For a value that is not a text. The default errors of a visitor quote it.
    fn other<T, E: de::Error>(&self) -> Result<Option<T>, E> {
        self.0
            .map_or(Ok(None), |shape| Err(E::custom(shape.description())))
    }
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.map_or("a JSON value", Shape::description))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let Some(member) = self.0.map(Shape::member) else {
            while let Some((Any(_), Any(_))) = members.next_entry()? {}
            return Ok(None);
        };
        let mut found = None;
        while let Some(Any(name)) = members.next_key()? {
            let Any(value) = members.next_value()?;
            if name.as_deref() != Some(member) {
                continue;
            }
            let wrong = |how| de::Error::custom(format_args!("\"{member}\" {how}"));
            let text = value.ok_or_else(|| wrong("must be a string"))?;
            if found.replace(text).is_some() {
                return Err(wrong("is there twice"));
            }
        }
        let missing = || de::Error::custom(format_args!("\"{member}\" is missing"));
        found.map(Some).ok_or_else(missing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        self.other::<(), _>()?;
        while let Some(Any(_)) = elements.next_element()? {}
        Ok(None)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        match self.0 {
            Some(Shape::Message) => self.other(),
            Some(Shape::Digest) | None => Ok(Some(Cow::Borrowed(text))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match self.0 {
            Some(Shape::Message) => self.other(),
            Some(Shape::Digest) | None => Ok(Some(Cow::Owned(text.to_owned()))),
        }
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        self.other()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        self.other()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
        self.other()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        self.other()
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        self.other()
    }
}

/// A value within the body; its text, if it is one.
pub(super) struct Any<'de>(pub(super) Option<Cow<'de, str>>);

impl<'de> Deserialize<'de> for Any<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(ValueVisitor(None)).map(Any)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> Result<String, String> {
        message_text(&body.into())
            .map(|text| text.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_text_of_the_member_message_is_read() {
        for (body, text) in [
            (r#"{"message": "foo"}"#, "foo"),
            (r#" { "message" : "" } "#, ""),
            (r#"{"message":"\u00e9\ud83d\ude00\n\/"}"#, "é😀\n/"),
            (r#"{"mess\u0061ge": "foo"}"#, "foo"),
            (
                r#"{"a": [1, -2, 3.5, true, null, {"message": 1}], "message": "foo", "b": "\u0000"}"#,
                "foo",
            ),
        ] {
            assert_eq!(read(body), Ok(text.into()), "{body}");
        }
    }

    #[test]
    fn a_body_that_is_not_json_is_refused_and_the_place_is_named() {
        for body in [
            "",
            "foo",
            "{",
            r#"{"message": "foo""#,
            r#"{"message": "foo"} x"#,
            r#"{"message": "foo"}{}"#,
            r#"{"message": "foo",}"#,
            r#"{message: "foo"}"#,
            "{'message': 'foo'}",
            "{\"message\": \"a\nb\"}",
            r#"{"message": "\x"}"#,
        ] {
            let refused = read(body).unwrap_err();
            assert!(
                refused.contains("at line 1 column") || refused.contains("at line 2 column"),
                "{body}: {refused}"
            );
            assert!(!refused.contains("foo"), "{refused}");
        }
    }

    #[test]
    fn json_of_another_shape_is_refused_without_quoting_it() {
        for body in [
            r#""secret""#,
            "4711",
            "-4711",
            "47.11",
            "true",
            "null",
            "[]",
            r#"["secret"]"#,
            "{}",
            r#"{"Message": "secret"}"#,
            r#"{"message": 4711}"#,
            r#"{"message": null}"#,
            r#"{"message": ["secret"]}"#,
            r#"{"message": {"secret": "secret"}}"#,
            r#"{"message": "secret", "message": "secret"}"#,
            r#"{"message": "secret", "mess\u0061ge": "other"}"#,
        ] {
            let refused = read(body).unwrap_err();
            assert!(refused.contains("message"), "{body}: {refused}");
            assert!(
                !refused.contains("secret") && !refused.contains("47"),
                "{refused}"
            );
        }
    }

    #[test]
    fn lone_surrogates_are_refused_wherever_they_stand() {
        for body in [
            r#"{"message": "\ud83d"}"#,
            r#"{"message": "\ude00\ud83d"}"#,
            r#"{"message": "foo", "other": "\ud83d"}"#,
            r#"{"message": "foo", "other": ["\ude00"]}"#,
            r#"{"\ud83d": 1, "message": "foo"}"#,
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }

    #[test]
    fn nesting_ends_long_before_the_stack_does() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(r#"{{"message": "foo", "other": {open}{close}}}"#)
        };
        assert_eq!(read(&nested(100)), Ok("foo".into()));
        for levels in [128, 100_000] {
            assert!(
                read(&nested(levels))
                    .unwrap_err()
                    .contains("recursion limit exceeded")
            );
        }
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&r#"{"a":"#.repeat(100_000)).is_err());
    }

    #[test]
    fn a_text_without_escapes_is_not_copied() {
        let body = ByteString::from(r#"{"message": "foo"}"#);
        let text = message_text(&body).unwrap();
        assert!(
            body.as_bytes()
                .as_ptr_range()
                .contains(&text.as_bytes().as_ptr())
        );
    }

    proptest! {
        #[test]
        fn every_text_survives_writing_and_reading(text: String) {
            let body = String::from_utf8(object("message", &text)).unwrap();
            prop_assert_eq!(read(&body), Ok(text));
        }
    }
}
