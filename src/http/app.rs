//! What all requests share, and how a request came.

use std::sync::Arc;

use super::authorize::Locality;
use super::body_room::BodyBudget;
use super::budget::{Budget, NoRoom, Requester, Reservation, Waits, WaitsOfConnection};
use super::cors::FieldLists;
use super::discards::Discards;
use super::ending::EndSignal;
use super::pages::Pages;
use super::record::Reporters;
use super::request_id::RequestIds;
use super::resource::ListenerRole;
use crate::access::base_path::BasePath;
use crate::access::{Access, Peer};
use crate::config::Limits;
use crate::logging::Logs;
use crate::metrics::Metrics;
use crate::service::Service;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    pub(super) service: Arc<Service>,
    pub(super) limits: Limits,
    pub(super) bodies: BodyBudget,
    pub(super) writes: Budget,
    /// Where requests wait for room, and for the store to open.
    pub(super) waits: Arc<Waits>,
    pub(super) batches: Budget,
    pub(super) look_ups: Budget,
    pub(super) answers: Budget,
    /// Slots for exports; `None` where nobody may have all messages.
    pub(super) exports: Option<Budget>,
    pub(super) pages: Pages,
    pub(super) request_ids: RequestIds,
    pub(super) reporters: Arc<Reporters>,
    pub(super) access: Arc<Access>,
    /// What pages of other sites may send and see.
    pub(super) field_lists: FieldLists,
    /// Where clients find the service, unless a proxy says so for a request.
    pub(super) base_path: BasePath,
}

/// How a request came.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The address of the other side, in words.
    pub peer: Arc<str>,
    /// The other side.
    pub origin: Peer,
    /// What is served where it came in.
    pub role: ListenerRole,
    /// Whether it must be for a host that is answered to.
    pub checks_hosts: bool,
    /// Whether it may ask for health all the same.
    pub locality: Locality,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// For its requests that wait, if it is HTTP/2.
    pub waits: Arc<WaitsOfConnection>,
    /// For bodies that are not read, if it is HTTP/2.
    pub discards: Discards,
}

impl App {
    /// Serves `service` within `limits` to everybody, and logs no requests.
    #[must_use]
    pub fn new(service: Arc<Service>, limits: Limits) -> Self {
        let answers = Budget::new(limits.answers_bytes_max);
        let waits = Arc::new(Waits::new(&answers, limits.room_timeout));
        let slots = |number| Budget::waiting(number, &waits);
        Self {
            service,
            bodies: BodyBudget::new(&limits.body, &waits),
            writes: Budget::waiting(limits.writes_max, &waits),
            batches: slots(limits.batch.batches_max),
            look_ups: slots(limits.batch.look_ups_max),
            answers,
            waits,
            exports: None,
            pages: Pages::new(),
            request_ids: RequestIds::new(),
            reporters: Arc::new(Reporters {
                metrics: Arc::default(),
                logs: Logs::none(),
            }),
            access: Arc::default(),
            field_lists: FieldLists::new(),
            base_path: BasePath::default(),
            limits,
        }
    }

    /// Lets everybody who may read a message have all of them.
    #[must_use]
    pub fn allow_export(self) -> Self {
        let exports = Some(Budget::waiting(self.limits.exports_max, &self.waits));
        Self { exports, ..self }
    }

    /// Counts in `metrics` and logs requests to `logs`.
    #[must_use]
    pub fn reporting_to(self, metrics: Arc<Metrics>, logs: Logs) -> Self {
        let reporters = Arc::new(Reporters { metrics, logs });
        Self { reporters, ..self }
    }

    /// Serves those whom `access` admits.
    #[must_use]
    pub fn guarded_by(self, access: Arc<Access>) -> Self {
        Self { access, ..self }
    }

    /// Is found by its clients below `base_path`. Requests may come with it or without.
    #[must_use]
    pub fn below(self, base_path: BasePath) -> Self {
        Self { base_path, ..self }
    }

    /// Who is admitted.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A place for a write, now or after a wait. It is not taken back: a write is over soon.
    pub(super) async fn begin_write(&self, requester: &Requester) -> Result<Reservation, NoRoom> {
        if let Ok(write) = self.writes.reserve(requester.client, 1) {
            return Ok(write);
        }
        let told = Arc::<EndSignal>::default();
        let beginning = self.writes.begin(requester, 1, told);
        let mut write = Box::pin(beginning).await?;
        write.settle();
        Ok(write)
    }

    /// What was ended for other clients, by what it had.
    pub(super) fn ended(&self) -> Vec<(&'static str, u64)> {
        let exports = self.exports.as_ref();
        vec![
            ("bodies", self.bodies.ended()),
            ("answers", self.answers.ended()),
            ("batches", self.batches.ended()),
            ("look-ups", self.look_ups.ended()),
            ("exports", exports.map_or(0, Budget::ended)),
        ]
    }

    /// Where connections are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.reporters.metrics
    }

    /// The service that requests are answered from.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }
}
