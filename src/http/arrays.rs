//! The JSON form of a batch: an array of strings, bare or as a member of an object, as generated clients write it.
//!
//! Read as strictly as a message is (see [`json`](super::json)), before anything is done for its elements. **Invariants:** of a
//! body that is not what it should be nothing is done; no more elements are kept than there may be.

use std::borrow::Cow;
use std::vec;
use std::{fmt, mem};

use bytestring::ByteString;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::body_room::CoveredBytes;
use super::charset::{self, Charset};
use super::digest_fields::RequestDigests;
use super::error::HttpError;
use super::json::{Any, JsonError};
use crate::service::offload;

/// Elements of an array, which are answered one by one: what a client that does not use lines sends at once. They
/// take some 300 KiB beside their texts.
const ELEMENTS_MAX: usize = 10_000;

/// Why a body is no array.
#[derive(Debug)]
enum ArrayError {
    Json(JsonError),
    TooLong,
}

/// What is left of an array.
#[derive(Debug)]
pub(super) struct Elements {
    texts: vec::IntoIter<ByteString>,
    /// One was answered, if only to be handed over.
    has_answers: bool,
    /// Covers them.
    _body: CoveredBytes,
}

impl Elements {
    pub(super) fn next(&mut self) -> Option<ByteString> {
        self.texts.next()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.len() == 0
    }

    /// What is written before the next answer.
    pub(super) fn before_answer(&mut self) -> &'static [u8] {
        if mem::replace(&mut self.has_answers, true) {
            b",\n    "
        } else {
            b"{\n  \"results\": [\n    "
        }
    }

    /// What is written after the last one.
    pub(super) fn end(&self) -> &'static [u8] {
        if self.has_answers {
            b"\n  ]\n}\n"
        } else {
            b"{\n  \"results\": []\n}\n"
        }
    }

    /// Forgets the rest.
    pub(super) fn discard(&mut self) {
        self.texts = vec::IntoIter::default();
    }
}

/// Reads a body that is an array, or has one as `member`. What was stated of its digest is checked.
pub(super) async fn read(
    member: &'static str,
    charset: Charset,
    body: CoveredBytes,
    stated: RequestDigests,
) -> Result<Elements, HttpError> {
    let bytes = body.bytes().len();
    let read = move || {
        stated.check(body.bytes())?;
        let text = charset.text(body.bytes()).map_err(HttpError::Text)?;
        let texts = strings(&charset::without_mark(text), member);
        let texts = texts.map_err(|error| match error {
            ArrayError::Json(error) => HttpError::Array { error },
            ArrayError::TooLong => HttpError::ArrayTooLong {
                elements_max: ELEMENTS_MAX,
            },
        })?;
        Ok::<_, HttpError>(Elements {
            texts: texts.into_iter(),
            has_answers: false,
            _body: body,
        })
    };
    offload(bytes, read).await
}

/// The strings of the array that `body` is, or has as `member`. Copies those that have escapes, and no others.
fn strings(body: &ByteString, member: &'static str) -> Result<Vec<ByteString>, ArrayError> {
    let mut strings = Strings {
        body,
        member,
        found: None,
        is_too_long: false,
    };
    let mut reader = serde_json::Deserializer::from_str(body);
    let read = Whole(&mut strings).deserialize(&mut reader);
    let read = read.and_then(|()| reader.end());
    if strings.is_too_long {
        return Err(ArrayError::TooLong);
    }
    read.map_err(|error| ArrayError::Json(error.into()))?;
    Ok(strings.found.unwrap_or_default())
}

struct Strings<'a> {
    body: &'a ByteString,
    member: &'static str,
    found: Option<Vec<ByteString>>,
    is_too_long: bool,
}

impl Strings<'_> {
    fn is_wrong<T, E: de::Error>(&self) -> Result<T, E> {
        let member = self.member;
        Err(E::custom(format_args!(
            "it must be an array of strings, or an object with one as \"{member}\""
        )))
    }
}

/// All of a body.
struct Whole<'a, 'b>(&'a mut Strings<'b>);

/// A value that is to be the array.
struct Array<'a, 'b>(&'a mut Strings<'b>);

/// The default errors of a visitor quote what they found.
macro_rules! refuse_others {
    () => {
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an array")
        }

        fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
            self.0.is_wrong()
        }

        fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
            self.0.is_wrong()
        }

        fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
            self.0.is_wrong()
        }

        fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
            self.0.is_wrong()
        }

        fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
            self.0.is_wrong()
        }

        fn visit_unit<E: de::Error>(self) -> Result<(), E> {
            self.0.is_wrong()
        }
    };
}

impl<'de> Visitor<'de> for Whole<'_, '_> {
    type Value = ();

    refuse_others!();

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let member = self.0.member;
        while let Some(Any(name)) = members.next_key()? {
            if name.as_deref() != Some(member) {
                let Any(_) = members.next_value()?;
                continue;
            }
            if self.0.found.is_some() {
                return Err(de::Error::custom(format_args!(
                    "\"{member}\" is there twice"
                )));
            }
            members.next_value_seed(Array(self.0))?;
        }
        match self.0.found {
            Some(_) => Ok(()),
            None => Err(de::Error::custom(format_args!("\"{member}\" is missing"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<(), A::Error> {
        Array(self.0).visit_seq(elements)
    }
}

impl<'de> Visitor<'de> for Array<'_, '_> {
    type Value = ();

    refuse_others!();

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.0.is_wrong()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut found = Vec::new();
        while let Some(Any(text)) = elements.next_element()? {
            let Some(text) = text else {
                return self.0.is_wrong();
            };
            if found.len() >= ELEMENTS_MAX {
                self.0.is_too_long = true;
                return Err(de::Error::custom("it is too long"));
            }
            found.push(match text {
                Cow::Borrowed(text) => self.0.body.slice_ref(text),
                Cow::Owned(text) => text.into(),
            });
        }
        self.0.found = Some(found);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Whole<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Array<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<String>, String> {
        match strings(&body.into(), "texts") {
            Ok(found) => Ok(found.iter().map(ToString::to_string).collect()),
            Err(ArrayError::TooLong) => Err("too long".into()),
            Err(ArrayError::Json(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn an_array_of_strings_is_read_bare_or_as_a_member() {
        let both = vec!["a".to_owned(), "\u{e9}\n".to_owned()];
        for (body, expected) in [
            (r#"["a", "\u00e9\n"]"#, both.clone()),
            (r#"{"texts": ["a", "\u00e9\n"]}"#, both.clone()),
            (
                r#" {"x": [1, {"texts": 2}], "t\u0065xts":["a","\u00e9\n"], "y": null} "#,
                both,
            ),
            ("[]", vec![]),
            (r#"{"texts": []}"#, vec![]),
        ] {
            assert_eq!(read(body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_is_no_array_of_strings_is_refused_without_quoting_it() {
        for body in [
            "",
            "[",
            r#"["secret""#,
            r#"["secret",]"#,
            r#"["secret"] x"#,
            r#""secret""#,
            "4711",
            "-4711",
            "47.11",
            "true",
            "null",
            "{}",
            "[4711]",
            "[null]",
            r#"[["secret"]]"#,
            r#"[{"texts": "secret"}]"#,
            r#"["\ud83d"]"#,
            r#"{"texts": "secret"}"#,
            r#"{"texts": null}"#,
            r#"{"texts": {"secret": []}}"#,
            r#"{"texts": [4711]}"#,
            r#"{"texts": [], "texts": []}"#,
            r#"{"texts": [], "other": "\ud83d"}"#,
            r#"{"Texts": []}"#,
        ] {
            let refused = read(body).unwrap_err();
            assert!(refused.contains("at line 1 column"), "{body}: {refused}");
            assert!(
                !refused.contains("secret") && !refused.contains("47"),
                "{body}: {refused}"
            );
        }
    }

    #[test]
    fn there_are_so_many_elements_and_not_one_more() {
        let of = |count: usize| format!("[{}]", vec!["\"\""; count].join(","));
        assert_eq!(read(&of(ELEMENTS_MAX)).unwrap().len(), ELEMENTS_MAX);
        assert_eq!(read(&of(ELEMENTS_MAX + 1)), Err("too long".into()));
        let member = format!("{{\"texts\": {}}}", of(ELEMENTS_MAX + 1));
        assert_eq!(read(&member), Err("too long".into()));
    }
}
