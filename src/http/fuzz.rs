//! What clients send, thrown at what reads it; see [`crate::fuzz`].
//!
//! Several targets take a piece of a request: lines like `Range: bytes=0-`, and after a blank line the body.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use bytestring::ByteString;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};
use serde_json::Value;

use super::address::{self, Name};
use super::digest_fields::{self, DigestFieldError, RequestDigests, WantedDigests};
use super::host::RequestHost;
use super::json;
use super::lines::{BodyLine, LineSplitter};
use super::negotiation::{BodyType, Form, Home, names_etag, wants_problem};
use super::range::{self, Selection};
use super::request_id::RequestIds;
use super::resource::Resource;
use super::trace::trace_id;
use crate::digest::Digest;
use crate::ndjson;
use crate::text::skip_mark;

/// Longest error about something that was sent: it does not quote it.
const ERROR_BYTES_MAX: usize = 200;

/// The body of a POST, and a line of a look-up.
pub fn json_body(bytes: &[u8]) {
    let Ok(body) = ByteString::try_from(bytes) else {
        return;
    };
    // By the parser of everybody, which takes the last one of two members with one name.
    let value = serde_json::from_str::<Value>(&body);
    match json::message_text(&body) {
        Ok(text) => {
            let member = value.as_ref().map(|value| &value["message"]);
            assert_eq!(member.ok().and_then(Value::as_str), Some(&*text));
            let written = String::from_utf8(json::object("message", &text));
            let written = written.map(ByteString::from).unwrap_or_default();
            assert_eq!(json::message_text(&written).ok(), Some(text));
            // It has one message: with another one in front it is refused.
            let members = body.trim_start().strip_prefix('{').unwrap_or_default();
            let twice = format!("{{\"message\": \"\", {members}").into();
            assert!(json::message_text(&twice).is_err());
        }
        Err(error) => {
            assert!(!error.is_syntax() || value.is_err(), "{error}");
            assert!(error.to_string().len() < ERROR_BYTES_MAX, "{error}");
        }
    }
    match json::digest_text(&body) {
        Ok(text) => {
            let value = value.unwrap_or_default();
            assert_eq!(value.get("digest").unwrap_or(&value), &*text);
        }
        Err(error) => {
            let error = error.in_line();
            assert!(error.len() < ERROR_BYTES_MAX, "{error}");
        }
    }
}

/// A path, and its last part.
pub fn addresses(bytes: &[u8]) {
    let Ok(path) = str::from_utf8(bytes) else {
        return;
    };
    let resource = Resource::parse(path);
    let is_served = !resource.methods(true).is_empty();
    assert_eq!(is_served, resource != Resource::None);
    // How the service is may be asked in any way, but never changed.
    assert!(resource.scope(&Method::DELETE).is_some() || resource.scope(&Method::GET).is_none());
    let message = path.strip_prefix("/messages/");
    let name = message.or_else(|| path.strip_prefix("/.well-known/ni/sha-256/"));
    let name = name.unwrap_or(path);
    if let Ok(digest) = name.parse::<Digest>() {
        assert_eq!(digest.to_string(), name.to_ascii_lowercase());
        let parsed = Name::parse(name);
        assert!(parsed.digest() == Some(digest) && !parsed.is_other());
        assert_eq!(address::well_known(name), None);
    }
    // Without the escapes that a name may have. Those that it may not have do not disappear.
    let plain = unescaped(name);
    let parsed = Name::parse(name);
    if let Some(digest) = parsed.digest() {
        assert_eq!(parsed.is_other(), parsed.is_alias() || plain != name);
        assert_eq!(Name::parse(&plain).digest(), Some(digest));
        let hex = digest.to_string();
        let base64 = plain.strip_prefix("sha256-").unwrap_or_default();
        let base64 = base64.strip_suffix('=').unwrap_or(base64);
        let is_hex = plain
            .strip_prefix("sha256:")
            .unwrap_or(&plain)
            .eq_ignore_ascii_case(&hex);
        let bytes = digest.as_bytes();
        let is_base64 = [STANDARD_NO_PAD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes)];
        assert!(is_hex || is_base64.iter().any(|it| it == base64), "{name}");
    }
    if let Some(digest) = address::well_known(name) {
        assert_eq!(URL_SAFE_NO_PAD.encode(digest.as_bytes()), plain);
    }
}

/// A text with each pair of digits after a `%` replaced by what it stands for, if that is ASCII.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let digits = after
            .get(..2)
            .filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let symbol = byte.filter(u8::is_ascii);
        plain.push(symbol.map_or('%', char::from));
        rest = if symbol.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    plain + rest
}

/// A batch: two bytes that say how long a line and a piece may be, and the body.
pub fn lines(bytes: &[u8]) {
    let [longest, piece, body @ ..] = bytes else {
        return;
    };
    let (bytes_max, piece_bytes) = (usize::from(*longest), usize::from(*piece) + 1);
    // What is behind the last line end is a line if there is anything.
    let mut expected: Vec<_> = body.split(|byte| *byte == b'\n').collect();
    expected.pop_if(|rest| rest.is_empty());
    let is_short = |line: &[u8]| (line.len() <= bytes_max).then(|| line.to_vec());
    let mut expected: Vec<_> = expected.into_iter().map(is_short).collect();
    if let Some(Some(first)) = expected.first_mut() {
        *first = skip_mark(first).to_vec();
    }
    for piece_bytes in [piece_bytes, usize::MAX] {
        assert_eq!(cut(body, bytes_max, piece_bytes), expected);
    }
    for line in expected.iter().flatten() {
        match ndjson::read(line) {
            Ok(message) => {
                let mut written = Vec::new();
                ndjson::write(&mut written, &message);
                assert_eq!(ndjson::read(&written), Ok(message));
            }
            Err(error) => assert!(error.to_string().len() < ERROR_BYTES_MAX, "{error}"),
        }
    }
}

/// The lines of a body in pieces of this size; `None` for one that is too long.
fn cut(body: &[u8], bytes_max: usize, piece_bytes: usize) -> Vec<Option<Vec<u8>>> {
    let content = |line| match line {
        BodyLine::Part(line) | BodyLine::Gathered(line) => Some(line.to_vec()),
        BodyLine::TooLong => None,
    };
    let mut splitter = LineSplitter::new(bytes_max);
    let mut lines = Vec::new();
    for piece in body.chunks(piece_bytes) {
        splitter.feed(Bytes::copy_from_slice(piece));
        while let Some(line) = splitter.next() {
            lines.push(content(line));
        }
        assert!(splitter.is_empty());
        assert!(splitter.begun_bytes() <= bytes_max);
    }
    lines.extend(splitter.end().map(content));
    lines
}

/// `Content-Digest`, `Repr-Digest` and what is wanted of them, and the body.
pub fn digest_fields(bytes: &[u8]) {
    let (fields, body) = request(bytes);
    let _ = WantedDigests::of(&fields);
    // What this side states of a body is true of it, and of no other.
    let other = [body, b"\n"].concat();
    let mut ours = HeaderMap::new();
    digest_fields::add_address(&mut ours, &Digest::of(body));
    assert!(stated(&ours).and_then(|ours| ours.check(body)).is_ok());
    assert!(stated(&ours).and_then(|ours| ours.check(&other)).is_err());

    let Ok(digests) = stated(&fields) else {
        return;
    };
    if let Ok(same) = stated(&fields) {
        let is_of_other = !digests.is_empty() && same.check(&other).is_ok();
        assert!(!is_of_other || stated(&fields).and_then(|it| it.check(body)).is_err());
    }
    if let Err(error) = digests.check(body) {
        assert!(!error.to_string().is_empty());
    }
}

fn stated(fields: &HeaderMap) -> Result<RequestDigests, DigestFieldError> {
    let mut digests = RequestDigests::default();
    digests.read(fields)?;
    Ok(digests)
}

/// What a request says of formats, of the part it wants, and of itself.
pub fn fields(bytes: &[u8]) {
    let (fields, _) = request(bytes);
    let _ = (Form::wanted(&fields), Home::wanted(&fields));
    let _ = (BodyType::of(&fields), wants_problem(&fields));
    let digest = Digest::of(bytes);
    let etag = format!("\"{digest}\"");
    let Ok(etag) = HeaderValue::try_from(etag) else {
        return;
    };
    let _ = names_etag(&fields, &etag);
    for length in [0, 1, 10, usize::MAX] {
        if let Selection::Bytes(part) = range::wanted(&fields, &etag, length) {
            assert!(part.start < part.end && part.end <= length, "{part:?}");
        }
    }
    let in_a_field = |text: &str| fields.values().any(|it| contains(it.as_bytes(), text));
    if let Some(id) = trace_id(&fields) {
        assert_eq!(id.len(), 32);
        assert!(in_a_field(id));
    }
    let ids = RequestIds::new();
    let id = ids.of(&fields);
    assert!(in_a_field(id.as_str()) || id.as_str().len() == 16);
    // It stands in the log as it is.
    assert!(id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    // An id that is taken over once is taken over by the next one who is asked.
    let passed_on = HeaderMap::from_iter([(super::request_id::REQUEST_ID, id.to_field())]);
    assert_eq!(ids.of(&passed_on).as_str(), id.as_str());
}

/// The version and the target of a request, and below them `Host` fields.
pub fn host(bytes: &[u8]) {
    let (line, rest) = split_line(bytes);
    let (Some((version, target)), (fields, _)) = (line.split_first(), request(rest)) else {
        return;
    };
    let version = match version {
        b'0' => Version::HTTP_10,
        b'1' => Version::HTTP_11,
        _ => Version::HTTP_2,
    };
    let request = Request::builder().version(version).uri(target).body(());
    let Ok(request) = request else {
        return;
    };
    let (mut head, ()) = request.into_parts();
    head.headers = fields;
    let Ok(Some(host)) = RequestHost::of(&head) else {
        return;
    };
    let host = str::from_utf8(host.host).unwrap_or_default();
    assert!(!host.is_empty());
    assert!(
        !host.contains(|symbol: char| "/@?#\\ \"".contains(symbol) || !symbol.is_ascii_graphic())
    );
    let target = head.uri.authority().map(|it| it.as_str().as_bytes());
    let field = head.headers.get(HOST).map(HeaderValue::as_bytes);
    assert!(target.or(field).is_some_and(|it| contains(it, host)));
    // Another hop that asks for it asks for the same.
    let again = Request::get("/").header(HOST, host).body(());
    let again = again.map(|request| request.into_parts().0).ok();
    let again = again.as_ref().map(RequestHost::of);
    assert!(matches!(again, Some(Ok(Some(again))) if again.host == host.as_bytes()));
}

fn contains(text: &[u8], part: &str) -> bool {
    part.is_empty() || text.windows(part.len()).any(|it| it == part.as_bytes())
}

/// Fields and the body after them. Lines that are no field are none here either.
fn request(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let mut fields = HeaderMap::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let line;
        (line, rest) = split_line(rest);
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        let field = (HeaderName::try_from(name), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = field {
            fields.append(name, value);
        }
    }
    (fields, rest)
}

/// The first line, and what follows its end.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    (line, rest.get(1..).unwrap_or_default())
}
