//! What the fields of a request say about formats: of its body, of the answer, and of the answer the
//! client already has.

use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH};
use mediatype::{MediaType, MediaTypeList};

use super::charset::Charset;

/// A body is brought in a way that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error(
        "The Content-Type must be application/json or text/plain, or application/x-ndjson for a batch; in UTF-8 and given once."
    )]
    Type,
    #[error(
        "The charset must be UTF-8: convert the body (iconv -t UTF-8), and say charset=utf-8 or no charset. The Content-Type must be application/json or text/plain, or application/x-ndjson for a batch."
    )]
    Charset,
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

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyType {
    pub(super) format: BodyFormat,
    pub(super) charset: Charset,
}

impl BodyType {
    /// Reads Content-Type and Content-Encoding. What is not known for certain is refused: a guess would store
    /// something else than the client meant. An empty type is as good as none.
    pub(super) fn of(fields: &HeaderMap) -> Result<Self, FormatError> {
        let is_identity = |field: &HeaderValue| {
            let mut codings = field.as_bytes().split(|byte| *byte == b',');
            codings.all(|coding| {
                let coding = coding.trim_ascii();
                coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
            })
        };
        if !fields.get_all(CONTENT_ENCODING).iter().all(is_identity) {
            return Err(FormatError::Encoding);
        }
        let mut types = fields.get_all(CONTENT_TYPE).iter();
        match (types.next(), types.next()) {
            (None, _) => Ok(Self::JSON),
            (Some(only), None) if only.as_bytes().trim_ascii().is_empty() => Ok(Self::JSON),
            (Some(only), None) => Self::of_type(only),
            (Some(_), Some(_)) => Err(FormatError::Type),
        }
    }

    const JSON: Self = Self {
        format: BodyFormat::Json,
        charset: Charset::Utf8,
    };

    fn of_type(field: &HeaderValue) -> Result<Self, FormatError> {
        if field == "application/json" {
            return Ok(Self::JSON);
        }
        let text = field.to_str().map_err(|_| FormatError::Type)?;
        let kind = MediaType::parse(text.trim()).map_err(|_| FormatError::Type)?;
        let format = BodyFormat::of_kind(&kind).ok_or(FormatError::Type)?;
        let mut charset = None;
        for (_, label) in kind.params.iter().filter(|(name, _)| *name == "charset") {
            let said = Charset::of(&label.unquoted_str()).ok_or(FormatError::Charset)?;
            if charset.replace(said).is_some_and(|other| other != said) {
                return Err(FormatError::Charset);
            }
        }
        let charset = charset.unwrap_or_default();
        Ok(Self { format, charset })
    }
}

impl BodyFormat {
    fn of_kind(kind: &MediaType<'_>) -> Option<Self> {
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
            assert_eq!(format_of(&fields).ok(), Some(format), "{kind}");
        }
        assert_eq!(format_of(&HeaderMap::new()), Ok(BodyFormat::Json));
    }

    fn format_of(fields: &HeaderMap) -> Result<BodyFormat, FormatError> {
        BodyType::of(fields).map(|body| body.format)
    }

    #[test]
    fn a_charset_is_utf_8_under_any_of_its_names_or_ascii() {
        for (kind, charset) in [
            ("application/json", Charset::Utf8),
            ("application/json; charset=utf8", Charset::Utf8),
            ("application/json; Charset=UTF8", Charset::Utf8),
            ("text/plain;charset=\"Utf-8\"", Charset::Utf8),
            ("text/plain;charset=unicode-1-1-utf-8", Charset::Utf8),
            ("text/plain; charset=utf-8; charset=utf8", Charset::Utf8),
            ("application/x-ndjson; charset=utf8", Charset::Utf8),
            ("text/plain; charset=us-ascii", Charset::Ascii),
            ("text/plain; charset=\"ASCII\"", Charset::Ascii),
        ] {
            let body = BodyType::of(&fields(CONTENT_TYPE, &[kind]));
            assert_eq!(body.map(|body| body.charset), Ok(charset), "{kind}");
        }
        for kind in [
            "application/json; charset=utf-16",
            "text/plain; charset=\"iso-8859-1\"",
            "text/plain; charset=windows-1252",
            "text/plain; charset=utf-8; charset=utf-16",
            "text/plain; charset=utf-8; charset=ascii",
        ] {
            let body = BodyType::of(&fields(CONTENT_TYPE, &[kind]));
            assert_eq!(body, Err(FormatError::Charset), "{kind}");
        }
    }

    #[test]
    fn every_other_content_type_is_refused() {
        for kinds in [
            &["application/jsonx"][..],
            &["text/json"],
            &["json"],
            &["application/json; charset=latin1"],
            &["text/plain; charset=utf-8; charset=utf-16"],
            &["application/json, text/plain"],
            &["application/json", "application/json"],
            &["multipart/form-data; boundary=x"],
            &["text/html"],
            &["application/octet-stream"],
        ] {
            assert!(
                format_of(&fields(CONTENT_TYPE, kinds)).is_err(),
                "{kinds:?}"
            );
        }
    }

    #[test]
    fn any_content_encoding_but_none_is_refused() {
        for encodings in [
            &["gzip"][..],
            &["identity, gzip"],
            &["identity", "gzip"],
            &["identity, gzip"],
        ] {
            let refused = format_of(&fields(CONTENT_ENCODING, encodings));
            assert_eq!(refused, Err(FormatError::Encoding), "{encodings:?}");
        }
        for encodings in [
            &["identity"][..],
            &["Identity"],
            &["identity", "identity"],
            &["identity, identity"],
            &[""],
        ] {
            let taken = format_of(&fields(CONTENT_ENCODING, encodings));
            assert_eq!(taken, Ok(BodyFormat::Json), "{encodings:?}");
        }
    }

    #[test]
    fn an_empty_content_type_is_as_good_as_none() {
        assert_eq!(
            format_of(&fields(CONTENT_TYPE, &[""])),
            Ok(BodyFormat::Json)
        );
        let twice = fields(CONTENT_TYPE, &["", "text/plain"]);
        assert_eq!(format_of(&twice), Err(FormatError::Type));
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
