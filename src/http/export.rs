//! `GET /messages?after=<digest>&limit=<n>`: all messages, one a line, in the order of their digests.
//!
//! Nothing is held for a client but the page it is taking and [`AHEAD_BYTES_MAX`] of those after it. A message
//! that is stored before the request is in the answer; one that comes while it runs may be. A client that was
//! interrupted continues after the last digest it has.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::app::App;
use super::body::{BodySender, Gone, Response, ResponseBody};
use super::budget::{NoRoom, Requester};
use super::ending::EndSignal;
use super::error::HttpError;
use super::response;
use crate::digest::Digest;
use crate::ndjson;
use crate::service::{Service, StoreError};

/// Messages read at once: half a millisecond of work, so that others get their turn.
const PAGE_MESSAGES_MAX: usize = 128;

/// Bytes that wait until the client takes them: a few pages of usual messages, one of large ones.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    after: Option<Digest>,
    /// How many messages at most.
    limit: u64,
}

pub(super) async fn export(
    app: &App,
    requester: &Requester,
    query: &str,
) -> Result<Response, HttpError> {
    let range = Range::parse(query).map_err(HttpError::Query)?;
    let slots = app.exports.as_ref().ok_or(HttpError::NoSuchPath)?;
    let told = Arc::new(EndSignal::default());
    let slot = slots.begin(requester, 1, Arc::clone(&told) as _).await;
    let slot = slot.map_err(|NoRoom| HttpError::NoRoomForExport)?;
    // While the client can still be told with a status.
    app.service.health().reads.map_err(HttpError::NotReady)?;
    let (sender, answer) = ResponseBody::stream(AHEAD_BYTES_MAX, None);
    let service = Arc::clone(&app.service);
    tokio::spawn(async move {
        let _slot = slot;
        tokio::select! {
            () = send(service, range, sender) => {}
            // It breaks off, and the client continues after the last digest it has.
            () = told.ended() => {}
        }
    });
    Ok(response::streamed(answer.followed(), false, None))
}

/// Sends page after page, and pauses after each for as long as it took, in which others are served. On
/// a failure the stream breaks off, which the client sees.
async fn send(service: Arc<Service>, mut range: Range, sender: BodySender) {
    while range.limit > 0 {
        let service = Arc::clone(&service);
        let started = Instant::now();
        let reading = tokio::task::spawn_blocking(move || read(&service, range));
        let Ok(Ok((lines, rest))) = reading.await else {
            return;
        };
        sleep(started.elapsed()).await;
        match rest {
            Some(rest) => range = rest,
            None => break,
        }
        if let Err(Gone) = sender.send(lines).await {
            return;
        }
    }
    sender.end();
}

/// The lines of the next page and the range behind them, `None` if there is nothing any more.
fn read(service: &Service, range: Range) -> Result<(Bytes, Option<Range>), StoreError> {
    let messages_max = usize::try_from(range.limit).unwrap_or(usize::MAX);
    let page = service.page(range.after.as_ref(), messages_max.min(PAGE_MESSAGES_MAX))?;
    let mut lines = Vec::new();
    for (digest, message) in &page {
        match message {
            Ok(message) => ndjson::write(&mut lines, message),
            Err(error) => ndjson::write_missing(&mut lines, digest, &error.to_string()),
        }
    }
    let rest = page.last().map(|(last, _)| Range {
        after: Some(*last),
        limit: range.limit - page.len() as u64,
    });
    Ok((lines.into(), rest))
}

impl Range {
    fn parse(query: &str) -> Result<Self, &'static str> {
        let mut range = Self {
            after: None,
            limit: u64::MAX,
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("after", digest)) => {
                    let digest = digest.parse();
                    range.after = Some(digest.map_err(|_| "\"after\" must be a digest")?);
                }
                Some(("limit", number)) => {
                    let number = number.parse().ok().filter(|&number| number > 0);
                    range.limit = number.ok_or("\"limit\" must be a number from 1 on")?;
                }
                _ => return Err("it may have \"after\" and \"limit\", and nothing else"),
            }
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_say_where_to_begin_and_how_much_to_send() {
        let foo = Digest::of(b"foo");
        for (query, after, limit) in [
            (String::new(), None, u64::MAX),
            (format!("after={foo}"), Some(foo), u64::MAX),
            ("limit=1".into(), None, 1),
            (format!("limit=7&after={foo}"), Some(foo), 7),
        ] {
            assert_eq!(Range::parse(&query), Ok(Range { after, limit }), "{query}");
        }
    }

    #[test]
    fn any_other_query_is_refused() {
        for query in [
            "after",
            "after=",
            "after=foo",
            "limit=0",
            "limit=-1",
            "limit=x",
            "x=1",
        ] {
            assert!(Range::parse(query).is_err(), "{query}");
        }
    }
}
