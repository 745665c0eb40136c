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
use std::fmt::{self, Display, Write};
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::service::Health;
use crate::store::{Commit, Observer, Stats};

/// The form of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Commit groups, in messages and deletions: the largest group is 512.
const GROUP_SIZES: Scale<10> = Scale {
    bounds: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    per_unit: 1.0,
};

/// Syncs, in nanoseconds and printed in seconds: a good disk takes 0.1 ms, a rotating one 10, a
/// failing one seconds.
const SYNCS: Scale<14> = Scale {
    bounds: [
        50_000,
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
        500_000_000,
        1_000_000_000,
        5_000_000_000,
    ],
    per_unit: 1e9,
};

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
    requests: Requests,
    commits: Mutex<Commits>,
    /// Seconds since 1970, 0 while there is no certificate.
    certificate_expiry: AtomicU64,
    started: SystemTime,
}

/// The groups that the committer wrote; it is the only one to count here.
#[derive(Clone, Copy, Debug, Default)]
struct Commits {
    sizes: Counts<10>,
    bytes: u64,
    syncs: Counts<14>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Requests::default(),
            commits: Mutex::default(),
            certificate_expiry: AtomicU64::new(0),
            started: SystemTime::now(),
        }
    }
}

impl Metrics {
    /// Counts a request that begins.
    pub fn begin(&self) {
        self.requests.begin();
    }

    /// Counts the end of a request.
    pub fn end(&self, labels: Labels, request: &Request) {
        self.requests.end(labels, request);
    }

    /// Sets when the certificate in use expires.
    pub fn set_certificate_expiry(&self, expiry: SystemTime) {
        let since = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.certificate_expiry.store(since.as_secs(), Relaxed);
    }

    /// Everything as text, in the Prometheus exposition format. Costs some hundred microseconds and
    /// reads no file outside `/proc`.
    #[must_use]
    pub fn render(&self, figures: &Figures) -> String {
        let mut page = Exposition::default();
        self.requests.write(&mut page);
        self.write_store(&mut page, figures);
        self.write_service(&mut page, figures);
        self.write_process(&mut page);
        page.finish()
    }

    fn write_store(&self, page: &mut Exposition, figures: &Figures) {
        let commits = *self.commits();
        let mut puts = page.family(
            Kind::Counter,
            "digestd_puts_total",
            "Messages to be stored, by how that ended; known ones cost no write",
        );
        for &(result, count) in &figures.puts {
            puts.sample(&[("result", result)], count);
        }
        let mut deletions = page.family(
            Kind::Counter,
            "digestd_deletions_total",
            "Messages to be deleted, by how that ended",
        );
        for &(result, count) in &figures.deletions {
            deletions.sample(&[("result", result)], count);
        }
        page.family(
            Kind::Histogram,
            "digestd_commit_group_size",
            "Messages and deletions written and synced together",
        )
        .histogram(&[], &commits.sizes, &GROUP_SIZES);
        page.counter(
            "digestd_commit_bytes_total",
            "Bytes of text written to the log",
            commits.bytes,
        );
        page.family(
            Kind::Histogram,
            "digestd_sync_duration_seconds",
            "Time that a group waited for the disk",
        )
        .histogram(&[], &commits.syncs, &SYNCS);
        let Some(stats) = figures.store else {
            return;
        };
        page.gauge("digestd_store_messages", "Messages stored", stats.messages);
        page.gauge(
            "digestd_store_disk_bytes",
            "What the store takes on the disk, reserved room included",
            stats.disk_bytes,
        );
        page.gauge(
            "digestd_disk_free_bytes",
            "What is free on the disk of the store",
            stats.free_bytes,
        );
        page.counter(
            "digestd_integrity_failures_total",
            "How often something stored was found not to be what it was",
            stats.integrity_failures,
        );
    }

    fn write_service(&self, page: &mut Exposition, figures: &Figures) {
        let Health { reads, writes } = &figures.health;
        let write = reads.is_ok() && writes.is_ok();
        let mut ready = page.family(
            Kind::Gauge,
            "digestd_ready",
            "Whether messages are served (read) and new ones taken (write)",
        );
        ready.sample(&[("scope", "read")], u8::from(reads.is_ok()));
        ready.sample(&[("scope", "write")], u8::from(write));
        page.counter(
            "digestd_log_lines_dropped_total",
            "Lines that did not get into the log because it could not keep up",
            figures.log_lines_dropped,
        );
        page.gauge(
            "digestd_limited_clients",
            "Clients whose rates are remembered, those that read and those that write",
            figures.limited_clients,
        );
        let expiry = self.certificate_expiry.load(Relaxed);
        if expiry != 0 {
            page.gauge(
                "digestd_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires",
                expiry,
            );
        }
        page.family(
            Kind::Gauge,
            "digestd_build_info",
            "The version that runs; always 1",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    }

    /// The names that every Prometheus client has. What the system does not tell is left out.
    fn write_process(&self, page: &mut Exposition) {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        page.counter(
            "process_cpu_seconds_total",
            "Processor time, user and system",
            Decimal(cpu.as_secs_f64()),
        );
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.gauge(
            "process_start_time_seconds",
            "When the process started, since 1970",
            Decimal(started.as_secs_f64()),
        );
        if let Some((virtual_bytes, resident_bytes)) = memory_bytes() {
            page.gauge(
                "process_virtual_memory_bytes",
                "Address space in use",
                virtual_bytes,
            );
            page.gauge(
                "process_resident_memory_bytes",
                "Memory in use",
                resident_bytes,
            );
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Less the one that is counting.
            let open = open.count().saturating_sub(1);
            page.gauge("process_open_fds", "Open file descriptors", open);
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            page.gauge("process_max_fds", "Limit on open file descriptors", most);
        }
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Metrics {
    fn committed(&self, commit: Commit) {
        let mut commits = self.commits();
        commits.sizes.observe(commit.entries as u64, &GROUP_SIZES);
        commits.bytes += commit.bytes;
        // With `Durability::Os` nobody waits for one.
        if !commit.sync.is_zero() {
            let nanoseconds = u64::try_from(commit.sync.as_nanos()).unwrap_or(u64::MAX);
            commits.syncs.observe(nanoseconds, &SYNCS);
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

/// The requests so far, and those under way.
#[derive(Debug, Default)]
struct Requests {
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
    fn begin(&self) {
        self.shard().active.fetch_add(1, Relaxed);
    }

    fn end(&self, labels: Labels, request: &Request) {
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

    fn write(&self, page: &mut Exposition) {
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

/// What the buckets of a histogram are.
#[derive(Debug)]
struct Scale<const BOUNDS: usize> {
    /// Upper bounds, ascending, in what is counted.
    bounds: [u64; BOUNDS],
    /// How much of what is counted makes one of what is printed.
    per_unit: f64,
}

/// A histogram of whole numbers.
#[derive(Clone, Copy, Debug)]
struct Counts<const BOUNDS: usize> {
    buckets: [u64; BOUNDS],
    /// Those above the last bound.
    above: u64,
    sum: u64,
}

impl<const BOUNDS: usize> Counts<BOUNDS> {
    fn observe(&mut self, value: u64, scale: &Scale<BOUNDS>) {
        let bucket = scale.bounds.partition_point(|&bound| bound < value);
        *self.buckets.get_mut(bucket).unwrap_or(&mut self.above) += 1;
        self.sum = self.sum.wrapping_add(value);
    }

    fn merge(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.above += other.above;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl<const BOUNDS: usize> Default for Counts<BOUNDS> {
    fn default() -> Self {
        Self {
            buckets: [0; BOUNDS],
            above: 0,
            sum: 0,
        }
    }
}

/// The type of a family.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page in the making.
#[derive(Debug, Default)]
struct Exposition {
    text: String,
}

/// A family whose samples are being written.
#[derive(Debug)]
struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Exposition {
    /// Begins a family. Without a sample it is a name that has no value yet.
    fn family<'a>(&'a mut self, kind: Kind, name: &'a str, help: &str) -> Family<'a> {
        let text = &mut self.text;
        text.extend(["# HELP ", name, " "]);
        push_escaped(text, help, &['\\']);
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        text.extend(["\n# TYPE ", name, " ", kind, "\n"]);
        Family { text, name }
    }

    /// A counter without labels.
    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A gauge without labels.
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    fn histogram<const BOUNDS: usize>(
        &mut self,
        labels: &[(&str, &str)],
        counts: &Counts<BOUNDS>,
        scale: &Scale<BOUNDS>,
    ) {
        let total = counts.buckets.iter().sum::<u64>() + counts.above;
        self.line("_sum", labels, Decimal::of(counts.sum, scale.per_unit));
        self.line("_count", labels, total);
        let mut so_far = 0;
        for (&bound, count) in scale.bounds.iter().zip(counts.buckets) {
            so_far += count;
            let bound = Decimal::of(bound, scale.per_unit).to_string();
            self.bucket(&bound, labels, so_far);
        }
        self.bucket("+Inf", labels, total);
    }

    /// The count of a bucket and of all those below it.
    fn bucket(&mut self, bound: &str, labels: &[(&str, &str)], count: u64) {
        let labels = [&[("le", bound)], labels].concat();
        self.line("_bucket", &labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.extend([self.name, suffix]);
        for (number, (name, value)) in labels.iter().enumerate() {
            let before = if number == 0 { "{" } else { "," };
            self.text.extend([before, name, "=\""]);
            push_escaped(self.text, value, &['\\', '"']);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// A number with a point and without an exponent. The bound of a bucket is part of the identity of
/// its series, so it must be spelled alike in every release: `1.0` and `0.00005`.
#[derive(Clone, Copy, Debug)]
struct Decimal(f64);

impl Decimal {
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums are read by people and graphs"
    )]
    fn of(value: u64, per_unit: f64) -> Self {
        Self(value as f64 / per_unit)
    }
}

impl Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract() == 0.0 {
            write!(f, "{:.1}", self.0)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// Appends `value` with a backslash before each of `special`, and with its line breaks escaped.
fn push_escaped(text: &mut String, value: &str, special: &[char]) {
    for char in value.chars() {
        if char == '\n' {
            text.push_str("\\n");
            continue;
        }
        if special.contains(&char) {
            text.push('\\');
        }
        text.push(char);
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

    #[test]
    fn a_histogram_is_printed_with_cumulative_buckets() {
        const SCALE: Scale<3> = Scale {
            bounds: [50_000, 1_000_000_000, 2_000_000_000],
            per_unit: 1e9,
        };
        let mut counts = Counts::default();
        for nanoseconds in [50_000, 50_001, 1_000_000_000, 2_000_000_001] {
            counts.observe(nanoseconds, &SCALE);
        }
        let mut page = Exposition::default();
        page.family(Kind::Histogram, "wait_seconds", "How long")
            .histogram(&[("disk", "a")], &counts, &SCALE);
        assert_eq!(
            page.finish(),
            "# HELP wait_seconds How long\n\
             # TYPE wait_seconds histogram\n\
             wait_seconds_sum{disk=\"a\"} 3.000100002\n\
             wait_seconds_count{disk=\"a\"} 4\n\
             wait_seconds_bucket{le=\"0.00005\",disk=\"a\"} 1\n\
             wait_seconds_bucket{le=\"1.0\",disk=\"a\"} 3\n\
             wait_seconds_bucket{le=\"2.0\",disk=\"a\"} 3\n\
             wait_seconds_bucket{le=\"+Inf\",disk=\"a\"} 4\n"
        );
    }

    #[test]
    fn help_and_label_values_are_escaped() {
        let mut page = Exposition::default();
        page.family(Kind::Gauge, "files", "A \"\\\"\n")
            .sample(&[("name", "a\\\"b\n"), ("kind", "c")], 1);
        assert_eq!(
            page.finish(),
            "# HELP files A \"\\\\\"\\n\n\
             # TYPE files gauge\n\
             files{name=\"a\\\\\\\"b\\n\",kind=\"c\"} 1\n"
        );
    }
}
