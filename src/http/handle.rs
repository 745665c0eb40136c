//! The way of a request: named, followed, admitted, answered; and what every answer has.

use std::sync::Arc;

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderValue, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{Method, Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use tracing::warn;

use super::app::{App, ConnectionInfo};
use super::authorize::{self, Arrival, Denied};
use super::body::{Response, ResponseBody};
use super::budget::{NoRoom, Requester};
use super::digest_fields::WantedDigests;
use super::discards::Discards;
use super::ending::Ending;
use super::error::HttpError;
use super::json;
use super::negotiation::wants_problem;
use super::public::PublicAddress;
use super::record::RequestRecord;
use super::request::{RequestBody, discard};
use super::request_id::{REQUEST_ID, RequestId};
use super::resource::{ListenerRole, Resource};
use super::response::{self, Stored};
use super::route;
use super::trace;
use crate::access::networks::Client;
use crate::metrics::KeptOut;

/// What an open HTTP/2 stream takes beside a large head and a large answer, in bytes: its state here, in
/// hyper and in h2, and a small answer. Measured: 64 streams on each of 250 connections, answers of 4 KiB.
const STREAM_BYTES: usize = 8 << 10;

/// What a field of a request takes beside its name and value where HTTP/2 lists its size, in bytes (RFC 9113,
/// 6.5.2) …
const FIELD_OVERHEAD_BYTES: usize = 32;

/// … and how much more memory than that a head takes.
const HEAD_FACTOR: usize = 3;

impl App {
    /// Answers a request that `ending` ends; a failure is an answer too.
    ///
    /// # Errors
    /// [`NoRoom`] with HTTP/2, where an answer may lie unread beside many others.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        info: &ConnectionInfo,
        ending: &Ending,
    ) -> Result<Response, NoRoom> {
        let (head, body) = request.into_parts();
        let address = authorize::client(&self.access, info.origin, &head.headers);
        let client = Client::of(*address.as_ref().unwrap_or(&info.origin.address));
        let is_h2 = head.version >= Version::HTTP_2;
        let mut stream = None;
        if is_h2 {
            let bytes = STREAM_BYTES + HEAD_FACTOR * listed_bytes(&head);
            let reserved = self
                .answers
                .begin_at_once(client, bytes, Arc::clone(ending));
            let refuse = |_: &NoRoom| self.metrics().refuse_request(KeptOut::StreamRoom);
            stream = Some(reserved.inspect_err(refuse)?);
        }
        let has_body = !body.is_end_stream();
        let progress = has_body.then(Arc::default);
        let is_announced = has_body && head.headers.contains_key(EXPECT);
        let requester = Requester {
            client,
            h2: is_h2.then(|| Arc::clone(&info.waits)),
        };
        let discards = is_h2.then(|| info.discards.clone());
        let body = RequestBody::new(body, requester, is_announced, progress.clone(), discards);
        let resource = Resource::parse(self.base_path.strip(head.uri.path()));
        let origin = info.origin;
        let (public, prefix) =
            PublicAddress::of(&self.base_path, origin, info.is_tls, &head.headers);
        let peer = match &address {
            Ok(address) if *address != info.origin.address => address.to_string().into(),
            _ => Arc::clone(&info.peer),
        };
        let reporters = Arc::clone(&self.reporters);
        let id = self.request_ids.of(&head.headers);
        let mut record = RequestRecord::begin(reporters, id, peer, &head, resource, progress);

        let admitted = address
            .and_then(|address| {
                let arrival = Arrival {
                    peer: origin,
                    checks_hosts: info.checks_hosts,
                    locality: info.locality,
                };
                authorize::check(&self.access, address, arrival, resource, &head)?;
                let (name, result) = authorize::check_token(&self.access, address, resource, &head);
                record.set_token(name);
                result
            })
            .and(prefix.map_err(Denied::from));
        if let Err(Denied::OtherHost(host)) = &admitted {
            record.set_refused_host(host.clone());
        }
        let result = self
            .handle(info.role, resource, &head, &public, admitted, body)
            .await;
        let failure = |error, id: &RequestId| self.failure(&error, &head, &public, id);
        let mut response = result.unwrap_or_else(|error| failure(error, record.id()));
        let reserved = self.answers.reserve_answer(client, response.body(), ending);
        if let Ok(reserved) = reserved {
            response.body_mut().cover(None, reserved);
        } else {
            let bytes = self.answers.counted_bytes(response.body());
            // It is made again when there is room.
            drop(response);
            let later = self.fetch_later(resource, &head, client, bytes, ending);
            let later = Box::pin(later).await;
            response = later.unwrap_or_else(|error| failure(error, record.id()));
        }
        // A large answer waits for its turn to be hashed: it is covered until then.
        if let Some(wanted) = WantedDigests::of(&head.headers) {
            wanted.add_to(&mut response).await;
        }
        if head.method == Method::HEAD {
            remove_body(&mut response);
        }
        public.complete(response.headers_mut());
        self.add_constant_fields(&mut response, resource, &head, record.id());
        if let Some(unread) = record.take_unread_body() {
            self.discard(client, unread, &info.discards);
        }
        if record.has_abandoned_body() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if let Some(Stored(digest)) = response.extensions_mut().remove() {
            record.set_digest(digest);
        }
        record.set_status(response.status());
        let body = response.body_mut();
        body.set_record(record);
        if let Some(stream) = &mut stream {
            stream.shrink_to(STREAM_BYTES);
        }
        body.cover(stream, None);
        Ok(response)
    }

    /// Takes what still comes of a body that is not read, if there is room for its stream meanwhile.
    pub(super) fn discard(&self, client: Client, unread: Incoming, discards: &Discards) {
        if let Ok(stream) = self.answers.reserve(client, STREAM_BYTES) {
            discards.discard(unread, stream);
        }
    }

    /// Answers a request if it is admitted; drops its body where no handler reads it.
    async fn handle(
        self: &Arc<Self>,
        role: ListenerRole,
        resource: Resource<'_>,
        head: &Parts,
        public: &PublicAddress<'_>,
        admitted: Result<(), Denied>,
        body: RequestBody,
    ) -> Result<Response, HttpError> {
        if let Err(denied) = admitted {
            // Another connection would cost more than what was refused.
            discard(&self.limits.body, &head.headers, body).await;
            return Err(denied.into());
        }
        let sites = &self.access.sites;
        let preflight = self
            .field_lists
            .preflight(sites, resource, &head.method, &head.headers);
        if let Some(preflight) = preflight {
            return Ok(preflight);
        }
        if !role.serves(resource) {
            return Err(HttpError::NoSuchPath);
        }
        route::route(self, resource, head, public, body).await
    }

    /// Answers with a message for which there was no room, once there is.
    async fn fetch_later(
        &self,
        resource: Resource<'_>,
        head: &Parts,
        client: Client,
        bytes: usize,
        ending: &Ending,
    ) -> Result<Response, HttpError> {
        // Nothing more comes of the request.
        let requester = Requester { client, h2: None };
        let ending = Arc::clone(ending);
        let beginning = self
            .answers
            .begin_after_wait(&self.waits, &requester, bytes, ending);
        let room = beginning
            .await
            .map_err(|NoRoom| HttpError::NoRoomForAnswer)?;
        let mut response = route::fetch(self, resource, head)?;
        response.body_mut().cover(None, Some(room));
        Ok(response)
    }

    /// The answer to a request that failed, and what the log and the metrics have to say of it.
    fn failure(
        &self,
        error: &HttpError,
        head: &Parts,
        public: &PublicAddress<'_>,
        id: &RequestId,
    ) -> Response {
        if error.is_of_operator() {
            let (request_id, trace_id) = (id.as_str(), trace::trace_id(&head.headers));
            warn!(request_id, trace_id, %error, "answered 500");
        }
        let meaning = error.meaning();
        if let Some(cause) = meaning.kept_out {
            self.metrics().refuse_request(cause);
        }
        let text = error.text();
        let (kind, body) = if wants_problem(&head.headers) {
            let kind = public.path(&format!("/openapi.yaml#/x-problems/{}", meaning.kind));
            let body = json::problem(&kind, meaning.title, meaning.status.as_u16(), &text);
            ("application/problem+json", body)
        } else {
            ("application/json", json::object("error", &text))
        };
        let mut response = response::new(meaning.status, kind, body.into());
        let fields = response.headers_mut();
        if let Some((name, value)) = error.field() {
            fields.insert(name, value);
        }
        if let Some(seconds) = meaning.retry_seconds {
            fields.insert(RETRY_AFTER, seconds.into());
        }
        response
    }

    /// Adds the fields that follow from no single kind of answer. What pages of other sites may see of them is
    /// listed in `fields`.
    fn add_constant_fields(
        &self,
        response: &mut Response,
        resource: Resource<'_>,
        head: &Parts,
        id: &RequestId,
    ) {
        let fields = response.headers_mut();
        fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // What may be kept says so itself. A 404, say, may turn into a 200 at any moment.
        if !fields.contains_key(CACHE_CONTROL) {
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        fields.insert(REQUEST_ID, id.to_field());
        let (sites, method) = (&self.access.sites, &head.method);
        self.field_lists
            .permit(sites, resource, method, &head.headers, fields);
    }
}

/// The size of a head as HTTP/2 lists it.
fn listed_bytes(head: &Parts) -> usize {
    let field = |name: usize, value: usize| name + value + FIELD_OVERHEAD_BYTES;
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| field(name.as_str().len(), value.len()));
    // Pseudo-header fields are short but for these.
    let path = head
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let authority = head
        .uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    fields.sum::<usize>() + field(path, authority)
}

/// An answer to HEAD says how long the body would be and does not bring it (RFC 9110, 9.3.2); one
/// that never has a body says nothing of its length (RFC 9110, 8.6).
fn remove_body(response: &mut Response) {
    let length = response.body().size_hint().exact();
    if let Some(length) = length.filter(|_| response.status() != StatusCode::NOT_MODIFIED) {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = ResponseBody::default();
}
