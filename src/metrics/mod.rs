//! Metrics: what is counted, and what a scrape returns.
//!
//! This room knows numbers and their names. It does not know who counts: requests report to it when
//! they end, the server when it refuses or ends a connection, the store's committer after each group; everything else is a figure that is asked for at
//! the scrape. What is counted as it happens is a field and a method of [`Metrics`], what is asked for a
//! field of [`Figures`]; each is a line in the section of [`Metrics::render`] it belongs to.
//!
//! **Invariant:** labels are words of the program, never of a client, so the number of series is
//! bounded.

mod causes;
mod histogram;
mod requests;
mod text;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use self::causes::Causes;
pub use self::causes::{Ended, KeptOut, Refused, Reload};
use self::histogram::{Counts, Scale};
use self::requests::Requests;
pub use self::requests::{Labels, Request};
use self::text::{Decimal, Exposition, Kind};
use crate::service::Health;
use crate::store::{Commit, Observer, Stats};

/// The media type of [`Metrics::render`].
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

/// What other rooms report at a scrape.
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
    /// What was ended for other clients, by what it had.
    pub ended: Vec<(&'static str, u64)>,
    /// Clients whose rates are remembered.
    pub limited_clients: usize,
}

/// Everything that is counted as it happens.
#[derive(Debug)]
pub struct Metrics {
    requests: Requests,
    requests_refused: Causes<KeptOut>,
    connections_refused: Causes<Refused>,
    connections_ended: Causes<Ended>,
    reloads_failed: Causes<Reload>,
    handshakes_failed: AtomicU64,
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
            requests_refused: Causes::default(),
            connections_refused: Causes::default(),
            connections_ended: Causes::default(),
            reloads_failed: Causes::default(),
            handshakes_failed: AtomicU64::default(),
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

    /// Counts a request that was refused though nothing was wrong with it.
    pub fn refuse_request(&self, cause: KeptOut) {
        self.requests_refused.add(cause);
    }

    /// Counts a connection that was not accepted.
    pub fn refuse_connection(&self, cause: Refused) {
        self.connections_refused.add(cause);
    }

    /// Counts a connection that was ended before its time.
    pub fn end_connection(&self, cause: Ended) {
        self.connections_ended.add(cause);
    }

    /// Counts a TLS handshake that failed.
    pub fn fail_handshake(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    /// Counts a try to read files again that failed.
    pub fn fail_reload(&self, files: Reload) {
        self.reloads_failed.add(files);
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
        self.requests_refused.write(&mut page);
        self.connections_refused.write(&mut page);
        self.connections_ended.write(&mut page);
        self.reloads_failed.write(&mut page);
        let mut ended = page.family(
            Kind::Counter,
            "digestd_ended_for_others_total",
            "Requests and answers ended under way since other clients needed what they had",
        );
        for &(room, count) in &figures.ended {
            ended.sample(&[("room", room)], count);
        }
        page.counter(
            "digestd_tls_handshakes_failed_total",
            "TLS handshakes that failed or took too long",
            self.handshakes_failed.load(Relaxed),
        );
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

    /// The names that Prometheus clients agree on. What the system does not report is omitted.
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
            // Without the one opened to count them.
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
        // With `Durability::Os` a group does not wait for a sync.
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

#[cfg(test)]
mod tests {
    use super::*;

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
            ended: vec![("answers", 9)],
            limited_clients: 8,
        }
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
