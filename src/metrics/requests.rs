//! Requests, counted by method, route and status.
//!
//! A request is counted in one of a few shards, chosen by the thread it ends on, so that counting
//! takes a lock that no other thread is likely to hold: some 50 ns, where one set of counters for all
//! threads costs a cache miss a counter. Does not know what a route or a method is.
//!
//! **Invariant:** the sums over all shards are those of one set of counters.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::histogram::{Counts, Scale};
use super::text::{Exposition, Kind};

/// Sets of counters: more than the threads that serve on most machines, so that few share one.
const SHARDS: usize = 16;

/// Durations, in nanoseconds and printed in seconds: from 0.1 ms, below which the network is slower,
/// to the time a supervisor takes to lose patience.
const DURATIONS: Scale<16> = Scale {
    bounds: [
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ],
    per_unit: 1e9,
};

/// Bodies, in bytes: up to the default limit, and one beyond.
const SIZES: Scale<8> = Scale {
    bounds: [
        128,
        1 << 10,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        1 << 20,
        16 << 20,
    ],
    per_unit: 1.0,
};

/// The labels of a request, all from the program's own vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Status code of the answer.
    pub status: u16,
    /// Name of the route.
    pub route: &'static str,
    /// Name of the method.
    pub method: &'static str,
}

/// What is measured of a finished request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// From the end of its head to the last byte of its answer.
    pub duration: Duration,
    /// Bytes of its body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// Counters of all requests, finished and active.
#[derive(Debug, Default)]
pub(super) struct Requests {
    shards: [Shard; SHARDS],
}

/// Counters of the requests that ended on some of the threads. Two cache lines apart, since
/// processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Requests begun less requests ended; below zero where more end than begin.
    active: AtomicI64,
    series: Mutex<Vec<Series>>,
}

/// The requests with the same labels.
#[derive(Clone, Debug)]
struct Series {
    labels: Labels,
    durations: Counts<16>,
    bytes_in: Counts<8>,
    bytes_out: Counts<8>,
}

impl Requests {
    pub(super) fn begin(&self) {
        self.shard().active.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self, labels: Labels, request: &Request) {
        let shard = self.shard();
        shard.active.fetch_sub(1, Relaxed);
        let mut all = shard.series();
        // A few dozen at the very most, the usual ones first: faster than any hash.
        let position = all.iter().position(|series| series.labels == labels);
        let position = position.unwrap_or_else(|| {
            all.push(Series::new(labels));
            all.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found there, or just pushed")]
        let series = &mut all[position];
        let nanoseconds = u64::try_from(request.duration.as_nanos()).unwrap_or(u64::MAX);
        series.durations.observe(nanoseconds, &DURATIONS);
        series.bytes_in.observe(request.bytes_in, &SIZES);
        series.bytes_out.observe(request.bytes_out, &SIZES);
    }

    /// The shard of this thread.
    fn shard(&self) -> &Shard {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: Cell<usize> = Cell::new(THREADS.fetch_add(1, Relaxed));
        }
        #[expect(clippy::indexing_slicing, reason = "a remainder of their number")]
        &self.shards[NUMBER.with(Cell::get) % SHARDS]
    }

    pub(super) fn write(&self, page: &mut Exposition) {
        let all = self.merged();
        write_histograms(
            page,
            "http_server_request_duration_seconds",
            "Time from the end of a request's head to the last byte of its answer; status 499 is a client that went away first",
            &all,
            &DURATIONS,
            |series| &series.durations,
        );
        write_histograms(
            page,
            "http_server_request_body_size_bytes",
            "Bytes of request bodies that were read",
            &all,
            &SIZES,
            |series| &series.bytes_in,
        );
        write_histograms(
            page,
            "http_server_response_body_size_bytes",
            "Bytes of the bodies of answers",
            &all,
            &SIZES,
            |series| &series.bytes_out,
        );
        let active = self.shards.iter().map(|shard| shard.active.load(Relaxed));
        page.gauge(
            "http_server_active_requests",
            "Requests being answered",
            active.sum::<i64>(),
        );
    }

    /// The series of all shards, in the order in which they are printed.
    fn merged(&self) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        for shard in &self.shards {
            for series in shard.series().iter() {
                match all.iter_mut().find(|known| known.labels == series.labels) {
                    Some(known) => known.merge(series),
                    None => all.push(series.clone()),
                }
            }
        }
        all.sort_by_key(|series| {
            let Labels {
                status,
                route,
                method,
            } = series.labels;
            (route, method, status)
        });
        all
    }
}

impl Shard {
    fn series(&self) -> MutexGuard<'_, Vec<Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            durations: Counts::default(),
            bytes_in: Counts::default(),
            bytes_out: Counts::default(),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.durations.merge(&other.durations);
        self.bytes_in.merge(&other.bytes_in);
        self.bytes_out.merge(&other.bytes_out);
    }
}

fn write_histograms<const BOUNDS: usize>(
    page: &mut Exposition,
    name: &str,
    help: &str,
    all: &[Series],
    scale: &Scale<BOUNDS>,
    counts: impl Fn(&Series) -> &Counts<BOUNDS>,
) {
    let mut family = page.family(Kind::Histogram, name, help);
    for series in all {
        let Labels {
            status,
            route,
            method,
        } = series.labels;
        let status = status.to_string();
        let labels = [("method", method), ("route", route), ("status", &status)];
        family.histogram(&labels, counts(series), scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels = Labels {
        status: 200,
        route: "/messages/{digest}",
        method: "GET",
    };

    fn request(duration: Duration) -> Request {
        Request {
            duration,
            bytes_in: 0,
            bytes_out: 1024,
        }
    }

    fn text(requests: &Requests) -> String {
        let mut page = Exposition::default();
        requests.write(&mut page);
        page.finish()
    }

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let requests = Requests::default();
        for microseconds in [100, 101] {
            requests.begin();
            requests.end(LABELS, &request(Duration::from_micros(microseconds)));
        }
        let text = text(&requests);
        let bucket = |bound: &str, count: u32| {
            let line = format!(
                "http_server_request_duration_seconds_bucket{{le=\"{bound}\",method=\"GET\",route=\"/messages/{{digest}}\",status=\"200\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        };
        bucket("0.0001", 1);
        bucket("0.00025", 2);
        bucket("+Inf", 2);
    }

    #[test]
    fn requests_counted_on_many_threads_are_added_up() {
        let requests = Requests::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    requests.begin();
                    requests.end(LABELS, &request(Duration::from_secs(11)));
                });
            }
        });
        requests.begin();
        let text = text(&requests);
        let count = format!(
            "_seconds_count{{method=\"GET\",route=\"/messages/{{digest}}\",status=\"200\"}} {}\n",
            2 * SHARDS
        );
        assert!(text.contains(&count), "{text}");
        assert!(text.contains("\nhttp_server_active_requests 1\n"), "{text}");
    }
}
