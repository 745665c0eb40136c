//! What the fields of a request say about formats: of its body, of the answer, and of the answer the
//! client already has.

use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH};
use mediatype::{MediaType, MediaTypeList, Name};

/// A body is brought in a way that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error(
        "The Content-Type must be application/json or text/plain, or application/x-ndjson for a batch; in UTF-8 and given once."
    )]
    Type,
    #[error("A Content-Encoding is not supported; send the body as it is.")]
    Encoding,
}

/// How the body of a POST brings its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// As the member `message` of a JSON object.
    Json,
    /// The same, by a client that calls it a form: what curl says without `-H`.
    Form,
    /// As it is.
    Text,
    /// Many of them, each as JSON in a line of its own.
    Lines,
}

impl BodyFormat {
    /// Reads Content-Type. What is not known for certain is refused: a guess would store something
    /// else than the client meant.
    pub(super) fn of(fields: &HeaderMap) -> Result<Self, FormatError> {
        if fields.contains_key(CONTENT_ENCODING) {
            return Err(FormatError::Encoding);
        }
        let mut types = fields.get_all(CONTENT_TYPE).iter();
        let format = match (types.next(), types.next()) {
            (None, _) => Some(Self::Json),
            (Some(only), None) => Self::of_type(only),
            (Some(_), Some(_)) => None,
        };
        format.ok_or(FormatError::Type)
    }

    fn of_type(field: &HeaderValue) -> Option<Self> {
        if field == "application/json" {
            return Some(Self::Json);
        }
        let kind = MediaType::parse(field.to_str().ok()?.trim()).ok()?;
        let is_utf8 = |(name, value): &(Name, mediatype::Value)| {
            *name != "charset" || value.unquoted_str().eq_ignore_ascii_case("utf-8")
        };
        if !kind.params.iter().all(is_utf8) {
            return None;
        }
        let is = |name: &str, subtype: &str| kind.ty == name && kind.subty == subtype;
        match kind.suffix {
            None if is("application", "json") => Some(Self::Json),
            None if is("text", "plain") => Some(Self::Text),
            None if is("application", "x-www-form-urlencoded") => Some(Self::Form),
            None if is("application", "x-ndjson") => Some(Self::Lines),
            Some(suffix) if suffix == "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// How an answer brings a message or a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a JSON object.
    Json,
    /// As it is.
    Text,
}

impl Form {
    /// Its media type.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    /// Reads Accept (RFC 9110, 12.5.1): text if the client prefers it, JSON in all other cases, also
    /// where it wants neither.
    pub(super) fn wanted(fields: &HeaderMap) -> Self {
        let mut accepted = fields.get_all(ACCEPT).iter().peekable();
        if accepted.peek().is_none_or(|field| *field == "*/*") {
            return Self::Json;
        }
        let [text, json] = qualities(fields, [("text", "plain"), ("application", "json")]);
        if text > json { Self::Text } else { Self::Json }
    }
}

/// What is at `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// A page for people.
    Page,
    /// State and figures, as JSON.
    Figures,
    /// A few lines on how to use curl.
    Help,
}

impl Home {
    /// Reads Accept: help, unless the client prefers one of the others to a plain text.
    pub(super) fn wanted(fields: &HeaderMap) -> Self {
        let kinds = [("text", "html"), ("application", "json"), ("text", "plain")];
        let [page, figures, help] = qualities(fields, kinds);
        if page > help && page >= figures {
            Self::Page
        } else if figures > help {
            Self::Figures
        } else {
            Self::Help
        }
    }
}

/// How much a client likes each of `kinds`, in thousandths, by the most specific range that covers it.
fn qualities<const N: usize>(fields: &HeaderMap, kinds: [(&str, &str); N]) -> [u16; N] {
    let mut qualities = [(0, 0); N];
    let accepted = fields.get_all(ACCEPT).iter();
    for field in accepted.filter_map(|field| field.to_str().ok()) {
        for range in MediaTypeList::new(field).filter_map(Result::ok) {
            for (best, (kind, subtype)) in qualities.iter_mut().zip(kinds) {
                if let Some(specificity) = specificity(&range, kind, subtype)
                    && specificity >= best.0
                {
                    *best = (specificity, thousandths(&range));
                }
            }
        }
    }
    qualities.map(|(_, thousandths)| thousandths)
}

/// Whether errors are to be problem documents (RFC 9457): only if the client says so in full, since
/// everybody reads the plain ones.
pub(super) fn wants_problem(fields: &HeaderMap) -> bool {
    let accepted = fields.get_all(ACCEPT).iter();
    accepted
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| MediaTypeList::new(field).filter_map(Result::ok))
        .any(|range| {
            range.ty == "application"
                && range.subty == "problem"
                && range.suffix.is_some_and(|suffix| suffix == "json")
                && thousandths(&range) > 0
        })
}

/// How closely a range of types fits this one; `None` if it does not cover it.
fn specificity(range: &MediaType<'_>, kind: &str, subtype: &str) -> Option<u8> {
    match (range.ty == kind, range.subty == subtype, range.suffix) {
        (true, true, None) => Some(3),
        (true, _, None) if range.subty == "*" => Some(2),
        (_, _, None) if range.ty == "*" && range.subty == "*" => Some(1),
        _ => None,
    }
}

/// The weight of a range: 1 if it has none (RFC 9110, 12.4.2), 0 if it makes no sense.
fn thousandths(range: &MediaType<'_>) -> u16 {
    let weight = range.params.iter().find(|(name, _)| *name == "q");
    let Some((_, weight)) = weight else {
        return 1000;
    };
    let weight: f32 = weight.as_str().parse().unwrap_or(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    let thousandths = (weight.clamp(0.0, 1.0) * 1000.0).round() as u16;
    thousandths
}

/// Whether If-None-Match names `etag`, or anything at all (RFC 9110, 13.1.2).
pub(super) fn names_etag(fields: &HeaderMap, etag: &HeaderValue) -> bool {
    fields.get_all(IF_NONE_MATCH).iter().any(|field| {
        field
            .as_bytes()
            .split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn fields(name: HeaderName, values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| HeaderValue::from_str(value).unwrap());
        std::iter::repeat(name).zip(values).collect()
    }

    #[test]
    fn the_content_type_says_how_the_message_comes() {
        for (kind, format) in [
            ("application/json", BodyFormat::Json),
            ("Application/JSON; charset=UTF-8", BodyFormat::Json),
            ("application/json;charset=\"utf-8\"", BodyFormat::Json),
            ("application/vnd.example+json", BodyFormat::Json),
            ("application/x-www-form-urlencoded", BodyFormat::Form),
            ("text/plain", BodyFormat::Text),
            ("application/x-ndjson", BodyFormat::Lines),
            ("text/plain; charset=utf-8; format=flowed", BodyFormat::Text),
        ] {
            let fields = fields(CONTENT_TYPE, &[kind]);
            assert_eq!(BodyFormat::of(&fields).ok(), Some(format), "{kind}");
        }
        assert_eq!(
            BodyFormat::of(&HeaderMap::new()).ok(),
            Some(BodyFormat::Json)
        );
    }

    #[test]
    fn every_other_content_type_is_refused() {
        for kinds in [
            &["application/jsonx"][..],
            &["text/json"],
            &["json"],
            &[""],
            &["application/json; charset=latin1"],
            &["text/plain; charset=utf-8; charset=utf-16"],
            &["application/json, text/plain"],
            &["application/json", "application/json"],
            &["multipart/form-data; boundary=x"],
            &["text/html"],
            &["application/octet-stream"],
        ] {
            assert!(
                BodyFormat::of(&fields(CONTENT_TYPE, kinds)).is_err(),
                "{kinds:?}"
            );
        }
    }

    #[test]
    fn any_content_encoding_is_refused() {
        assert!(BodyFormat::of(&fields(CONTENT_ENCODING, &["gzip"])).is_err());
        assert!(BodyFormat::of(&fields(CONTENT_ENCODING, &["identity"])).is_err());
    }

    #[test]
    fn text_is_sent_only_to_those_who_prefer_it() {
        for (accept, form) in [
            ("text/plain", Form::Text),
            ("TEXT/PLAIN", Form::Text),
            ("text/*", Form::Text),
            ("text/plain, application/json;q=0.9", Form::Text),
            ("text/plain, */*;q=0.1", Form::Text),
            ("*/*", Form::Json),
            ("text/html, */*", Form::Json),
            ("application/json, text/plain", Form::Json),
            ("text/plain;q=0.5, application/*", Form::Json),
            ("text/*, text/plain;q=0", Form::Json),
            ("text/plain;q=x", Form::Json),
            ("image/png", Form::Json),
            ("", Form::Json),
            (",;=/", Form::Json),
        ] {
            assert_eq!(Form::wanted(&fields(ACCEPT, &[accept])), form, "{accept}");
        }
        assert_eq!(Form::wanted(&HeaderMap::new()), Form::Json);
        let split = fields(ACCEPT, &["application/json;q=0.1", "text/plain"]);
        assert_eq!(Form::wanted(&split), Form::Text);
    }

    #[test]
    fn the_home_page_is_for_browsers_and_the_help_for_curl() {
        for (accept, home) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Home::Page,
            ),
            ("text/html", Home::Page),
            ("application/json, text/html", Home::Page),
            ("application/json", Home::Figures),
            ("application/json, text/plain, */*", Home::Help),
            ("application/json, text/html;q=0.9", Home::Figures),
            ("*/*", Home::Help),
            ("text/plain", Home::Help),
            ("text/*", Home::Help),
            ("image/png", Home::Help),
            ("", Home::Help),
        ] {
            assert_eq!(Home::wanted(&fields(ACCEPT, &[accept])), home, "{accept}");
        }
        assert_eq!(Home::wanted(&HeaderMap::new()), Home::Help);
    }

    #[test]
    fn problem_documents_are_for_those_who_name_them() {
        for (accept, wants) in [
            ("application/problem+json", true),
            ("application/json, Application/Problem+JSON;q=0.1", true),
            ("application/problem+json;q=0", false),
            ("application/*, */*", false),
            ("application/problem+xml", false),
            ("application/json", false),
        ] {
            assert_eq!(wants_problem(&fields(ACCEPT, &[accept])), wants, "{accept}");
        }
        assert!(!wants_problem(&HeaderMap::new()));
    }

    #[test]
    fn an_etag_is_found_in_any_list() {
        let etag = HeaderValue::from_static("\"abc\"");
        for tags in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert!(names_etag(&fields(IF_NONE_MATCH, &[tags]), &etag), "{tags}");
        }
        for tags in ["abc", "\"abcd\"", "\"ABC\"", ""] {
            assert!(
                !names_etag(&fields(IF_NONE_MATCH, &[tags]), &etag),
                "{tags}"
            );
        }
        assert!(!names_etag(&HeaderMap::new(), &etag));
    }
}
