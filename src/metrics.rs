//! The metric families: what is counted, and how it reads as Prometheus text.
//!
//! This room knows numbers and their names. It does not know who counts: requests report to it when
//! they end, the store's committer after each group; everything else is asked when somebody scrapes.
//!
//! A request is counted in one of a few shards, chosen by the thread it ends on, so that counting
//! takes a lock that nobody else wants: some 50 ns, where one set of counters for all threads costs
//! a cache miss a counter. Labels are words of the program, never of a client, so the number of
//! series has an end.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::service::Health;
use crate::store::{Commit, Observer, Stats};

/// The form of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Sets of counters: more than the threads that serve on most machines, so that few share one.
const SHARDS: usize = 16;

/// Upper bounds of durations, in nanoseconds: from 0.1 ms, below which the network is slower, to
/// the time a supervisor takes to lose patience.
const DURATION_BOUNDS: [u64; 16] = [
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
];

/// Upper bounds of bodies, in bytes: up to the default limit, and one beyond.
const SIZE_BOUNDS: [u64; 8] = [
    128,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    16 << 20,
];

/// Upper bounds of commit groups, in messages: the largest group is 512.
const GROUP_BOUNDS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Upper bounds of a sync, in seconds: a good disk takes 0.1 ms, a rotating one 10, a failing one
/// seconds.
const SYNC_BOUNDS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
    5.0,
];

/// What a request is counted under. All of it is from the program's own vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Status code of the answer.
    pub status: u16,
    /// Name of the route.
    pub route: &'static str,
    /// Name of the method.
    pub method: &'static str,
}

/// What is known of a request when it is over.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// From the end of its head to the last byte of its answer.
    pub duration: Duration,
    /// Bytes of its body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// What is asked of others at a scrape.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Of the store, once it is open.
    pub store: Option<Stats>,
    /// Whether messages are served and taken.
    pub health: Health,
    /// Puts by how they ended.
    pub puts: Vec<(&'static str, u64)>,
    /// Deletions by how they ended.
    pub deletions: Vec<(&'static str, u64)>,
    /// Lines that did not get into the log.
    pub log_lines_dropped: u64,
    /// Clients whose rates are remembered.
    pub limited_clients: usize,
}

/// Everything that is counted as it happens.
#[derive(Debug)]
pub struct Metrics {
    shards: [Shard; SHARDS],
    group_sizes: Histogram,
    group_bytes: AtomicU64,
    syncs: Histogram,
    /// Seconds since 1970, 0 while there is no certificate.
    certificate_expiry: AtomicI64,
    started: SystemTime,
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
    durations: Counts<17>,
    bytes_in: Counts<9>,
    bytes_out: Counts<9>,
}

/// A histogram of whole numbers; the last bucket has no upper bound.
#[derive(Clone, Debug)]
struct Counts<const BUCKETS: usize> {
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl<const BUCKETS: usize> Counts<BUCKETS> {
    const NONE: Self = Self {
        buckets: [0; BUCKETS],
        sum: 0,
    };

    fn add(&mut self, value: u64, bounds: &[u64]) {
        let bucket = bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.wrapping_add(value);
    }

    fn merge(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl Series {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            durations: Counts::NONE,
            bytes_in: Counts::NONE,
            bytes_out: Counts::NONE,
        }
    }
}

impl Shard {
    /// That of this thread.
    fn of(shards: &[Self; SHARDS]) -> &Self {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: Cell<usize> = Cell::new(THREADS.fetch_add(1, Relaxed));
        }
        let number = NUMBER.with(Cell::get) % SHARDS;
        let [first, ..] = shards;
        shards.get(number).unwrap_or(first)
    }

    fn series(&self) -> MutexGuard<'_, Vec<Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            group_sizes: Histogram::new(GROUP_BOUNDS),
            group_bytes: AtomicU64::new(0),
            syncs: Histogram::new(SYNC_BOUNDS),
            certificate_expiry: AtomicI64::new(0),
            started: SystemTime::now(),
        }
    }
}

impl Metrics {
    /// Counts a request that begins.
    pub fn begin(&self) {
        Shard::of(&self.shards).active.fetch_add(1, Relaxed);
    }

    /// Counts the end of a request.
    pub fn end(&self, labels: Labels, request: &Request) {
        let shard = Shard::of(&self.shards);
        shard.active.fetch_sub(1, Relaxed);
        let mut all = shard.series();
        // A few dozen at the very most, the usual ones first: faster than any hash.
        if !all.iter().any(|series| series.labels == labels) {
            all.push(Series::new(labels));
        }
        if let Some(series) = all.iter_mut().find(|series| series.labels == labels) {
            let nanoseconds = u64::try_from(request.duration.as_nanos()).unwrap_or(u64::MAX);
            series.durations.add(nanoseconds, &DURATION_BOUNDS);
            series.bytes_in.add(request.bytes_in, &SIZE_BOUNDS);
            series.bytes_out.add(request.bytes_out, &SIZE_BOUNDS);
        }
    }

    /// Sets when the certificate in use expires.
    pub fn set_certificate_expiry(&self, expiry: SystemTime) {
        let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(seconds.as_secs()).unwrap_or(i64::MAX);
        self.certificate_expiry.store(seconds, Relaxed);
    }

    /// Everything as text, in the Prometheus exposition format. Costs some hundred microseconds and
    /// asks no disk but `/proc`.
    #[must_use]
    pub fn render(&self, figures: &Figures) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape {
            series: self.series(),
            active: self
                .shards
                .iter()
                .map(|shard| shard.active.load(Relaxed))
                .sum(),
            figures: figures.clone(),
            group_sizes: self.group_sizes.clone(),
            group_bytes: self.group_bytes.load(Relaxed),
            syncs: self.syncs.clone(),
            certificate_expiry: self.certificate_expiry.load(Relaxed),
            started: self.started,
        }));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode_registry(&mut text, &registry);
        text
    }

    fn series(&self) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        for shard in &self.shards {
            for series in shard.series().iter() {
                match all.iter_mut().find(|known| known.labels == series.labels) {
                    Some(known) => {
                        known.durations.merge(&series.durations);
                        known.bytes_in.merge(&series.bytes_in);
                        known.bytes_out.merge(&series.bytes_out);
                    }
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

impl Observer for Metrics {
    fn committed(&self, commit: Commit) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a group has 512 messages at most"
        )]
        self.group_sizes.observe(commit.entries as f64);
        self.group_bytes.fetch_add(commit.bytes, Relaxed);
        // With `Durability::Os` nobody waits for one.
        if !commit.sync.is_zero() {
            self.syncs.observe(commit.sync.as_secs_f64());
        }
    }
}

/// The state of one moment, on its way into text.
#[derive(Debug)]
struct Scrape {
    series: Vec<Series>,
    active: i64,
    figures: Figures,
    group_sizes: Histogram,
    group_bytes: u64,
    syncs: Histogram,
    certificate_expiry: i64,
    started: SystemTime,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.encode_requests(&mut page)?;
        self.encode_store(&mut page)?;
        self.encode_service(&mut page)?;
        self.encode_process(&mut page)
    }
}

impl Scrape {
    fn encode_requests(&self, page: &mut Page) -> fmt::Result {
        page.request_histograms(
            "http_server_request_duration_seconds",
            "Time from the end of a request's head to the last byte of its answer; status 499 is a client that went away first",
            &self.series,
            |series| Shape::new(&series.durations, &DURATION_BOUNDS, 1e9),
        )?;
        page.request_histograms(
            "http_server_request_body_size_bytes",
            "Bytes of request bodies that were read",
            &self.series,
            |series| Shape::new(&series.bytes_in, &SIZE_BOUNDS, 1.0),
        )?;
        page.request_histograms(
            "http_server_response_body_size_bytes",
            "Bytes of the bodies of answers",
            &self.series,
            |series| Shape::new(&series.bytes_out, &SIZE_BOUNDS, 1.0),
        )?;
        page.gauge(
            "http_server_active_requests",
            "Requests being answered",
            self.active,
        )
    }

    fn encode_store(&self, page: &mut Page) -> fmt::Result {
        page.counters(
            "digestd_puts_total",
            "Messages to be stored, by how that ended; known ones cost no write",
            "result",
            &self.figures.puts,
        )?;
        page.counters(
            "digestd_deletions_total",
            "Messages to be deleted, by how that ended",
            "result",
            &self.figures.deletions,
        )?;
        page.histogram(
            "digestd_commit_group_size",
            "Messages and deletions written and synced together",
            &self.group_sizes,
        )?;
        page.counter(
            "digestd_commit_bytes_total",
            "Bytes of text written to the log",
            self.group_bytes,
        )?;
        page.histogram(
            "digestd_sync_duration_seconds",
            "Time that a group waited for the disk",
            &self.syncs,
        )?;
        let Some(stats) = self.figures.store else {
            return Ok(());
        };
        page.gauge(
            "digestd_store_messages",
            "Messages stored",
            whole(stats.messages),
        )?;
        page.gauge(
            "digestd_store_disk_bytes",
            "What the store takes on the disk, reserved room included",
            whole(stats.disk_bytes),
        )?;
        page.gauge(
            "digestd_disk_free_bytes",
            "What is free on the disk of the store",
            whole(stats.free_bytes),
        )?;
        page.counter(
            "digestd_integrity_failures_total",
            "How often something stored was found not to be what it was",
            stats.integrity_failures,
        )
    }

    fn encode_service(&self, page: &mut Page) -> fmt::Result {
        let Health { reads, writes } = &self.figures.health;
        let write = reads.is_ok() && writes.is_ok();
        page.gauges(
            "digestd_ready",
            "Whether messages are served (read) and new ones taken (write)",
            "scope",
            &[
                ("read", i64::from(reads.is_ok())),
                ("write", i64::from(write)),
            ],
        )?;
        page.counter(
            "digestd_log_lines_dropped_total",
            "Lines that did not get into the log because it could not keep up",
            self.figures.log_lines_dropped,
        )?;
        page.gauge(
            "digestd_limited_clients",
            "Clients whose rates are remembered, those that read and those that write",
            whole(self.figures.limited_clients as u64),
        )?;
        if self.certificate_expiry != 0 {
            page.gauge(
                "digestd_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires",
                self.certificate_expiry,
            )?;
        }
        page.gauges(
            "digestd_build_info",
            "The version that runs; always 1",
            "version",
            &[(env!("CARGO_PKG_VERSION"), 1)],
        )
    }

    /// The names that every Prometheus client has. What the system does not tell is left out.
    fn encode_process(&self, page: &mut Page) -> fmt::Result {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        page.seconds(
            "process_cpu_seconds_total",
            "Processor time, user and system",
            MetricType::Counter,
            cpu,
        )?;
        page.seconds(
            "process_start_time_seconds",
            "When the process started, since 1970",
            MetricType::Gauge,
            self.started.duration_since(UNIX_EPOCH).unwrap_or_default(),
        )?;
        if let Some((virtual_bytes, resident_bytes)) = memory_bytes() {
            page.gauge(
                "process_virtual_memory_bytes",
                "Address space in use",
                whole(virtual_bytes),
            )?;
            page.gauge(
                "process_resident_memory_bytes",
                "Memory in use",
                whole(resident_bytes),
            )?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Less the one that is counting.
            let open = open.count().saturating_sub(1);
            page.gauge(
                "process_open_fds",
                "Open file descriptors",
                whole(open as u64),
            )?;
        }
        match getrlimit(Resource::Nofile).current {
            Some(most) => page.gauge(
                "process_max_fds",
                "Limit on open file descriptors",
                whole(most),
            ),
            None => Ok(()),
        }
    }
}

/// Address space and resident memory, in bytes: proc(5), `statm`.
fn memory_bytes() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let page_bytes = rustix::param::page_size() as u64;
    let mut pages = text.split(' ').map(str::parse::<u64>);
    let mut next = || Some(pages.next()?.ok()? * page_bytes);
    Some((next()?, next()?))
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A histogram as it is printed: upper bounds with counts, not yet added up.
struct Shape {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

impl Shape {
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums are read by people and graphs"
    )]
    fn new<const BUCKETS: usize>(counts: &Counts<BUCKETS>, bounds: &[u64], unit: f64) -> Self {
        let bounds = bounds.iter().map(|&bound| bound as f64 / unit);
        Self {
            sum: counts.sum as f64 / unit,
            count: counts.buckets.iter().sum(),
            buckets: bounds.chain([f64::INFINITY]).zip(counts.buckets).collect(),
        }
    }
}

/// Examples of single requests are not kept.
const NO_EXEMPLARS: Option<&Exemplars> = None;

type Exemplars = HashMap<usize, Exemplar<[(&'static str, &'static str); 0], f64>>;

/// The text in the making. A counter is written like a gauge whose name ends in `_total`: the crate
/// speaks `OpenMetrics`, where the family of a counter has another name than its samples, and readers
/// of the older format take them for two.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_gauge(&whole(value))
    }

    fn seconds(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        value: Duration,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        metric.encode_gauge(&value.as_secs_f64())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, i64)],
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, label, values.iter().copied())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        let values = values.iter().map(|(word, value)| (*word, whole(*value)));
        self.family(name, help, MetricType::Counter, label, values)
    }

    fn family<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        label: &str,
        values: impl Iterator<Item = (&'a str, i64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (word, value) in values {
            metric
                .encode_family(&[(label, word)])?
                .encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        histogram.encode(
            self.0
                .encode_descriptor(name, help, None, MetricType::Histogram)?,
        )
    }

    fn request_histograms(
        &mut self,
        name: &str,
        help: &str,
        all: &[Series],
        shape: impl Fn(&Series) -> Shape,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for series in all {
            let Labels {
                status,
                route,
                method,
            } = series.labels;
            let status = status.to_string();
            let labels = [
                ("method", method),
                ("route", route),
                ("status", status.as_str()),
            ];
            let Shape {
                sum,
                count,
                buckets,
            } = shape(series);
            metric
                .encode_family(&labels)?
                .encode_histogram(sum, count, &buckets, NO_EXEMPLARS)?;
        }
        Ok(())
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

    fn figures() -> Figures {
        Figures {
            store: None,
            health: Health {
                reads: Ok(()),
                writes: Err("the disk is full".into()),
            },
            puts: vec![("stored", 3)],
            deletions: vec![("deleted", 1)],
            log_lines_dropped: 7,
            limited_clients: 8,
        }
    }

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let metrics = Metrics::default();
        for microseconds in [100, 101] {
            metrics.begin();
            metrics.end(LABELS, &request(Duration::from_micros(microseconds)));
        }
        let text = metrics.render(&figures());
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
        let metrics = Metrics::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    metrics.begin();
                    metrics.end(LABELS, &request(Duration::from_secs(11)));
                });
            }
        });
        metrics.begin();
        let text = metrics.render(&figures());
        let count = format!(
            "_seconds_count{{method=\"GET\",route=\"/messages/{{digest}}\",status=\"200\"}} {}\n",
            2 * SHARDS
        );
        assert!(text.contains(&count), "{text}");
        assert!(text.contains("\nhttp_server_active_requests 1\n"), "{text}");
    }

    #[test]
    fn a_store_that_takes_no_messages_is_ready_to_read_only() {
        let text = Metrics::default().render(&figures());
        assert!(
            text.contains("\ndigestd_ready{scope=\"read\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("\ndigestd_ready{scope=\"write\"} 0\n"),
            "{text}"
        );
    }

    #[test]
    fn commits_are_counted_by_size_and_time() {
        let metrics = Metrics::default();
        metrics.committed(Commit {
            entries: 3,
            bytes: 270,
            sync: Duration::from_micros(200),
        });
        metrics.committed(Commit {
            entries: 1,
            bytes: 90,
            sync: Duration::ZERO,
        });
        let text = metrics.render(&figures());
        for line in [
            "digestd_commit_group_size_count 2",
            "digestd_commit_group_size_bucket{le=\"4.0\"} 2",
            "digestd_commit_bytes_total 360",
            "digestd_sync_duration_seconds_count 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
    }
}
