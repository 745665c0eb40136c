//! Clients that take what belongs to others: each attack comes from one address while a healthy client at
//! another asks for everything that the service does.
//!
//! An attack leaves a processor to others: it waits where it took more than the rest, with what the server
//! does for it. It lasts two seconds; `DIGESTD_TEST_ATTACK_SECONDS` says how long else. From ten seconds on
//! the time that answers take is compared with what it is beside a thread that merely burns as much.
//! `DIGESTD_TEST_ATTACK_GROUP` is the size of a memory group that the servers are started in.

mod answers;
mod attacker;
mod bodies;
mod connections;
mod crowd;
mod healthy;
mod pinned;
mod slots;
mod small;

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tempfile::TempDir;

use self::attacker::{Attacker, Burner, Target};
use self::healthy::{Healthy, Phase, Question};
use crate::groups::MemoryGroup;
use crate::memory::raise_descriptor_limit;
use crate::process::{Client, Digestd, Launch};

/// What an attack may add to the memory of the process.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// After this, nothing of an attack is left …
const RECOVERY: Duration = Duration::from_secs(5);
/// … but what the cache of messages has, a quarter of `--cache`, and what an allocator keeps.
const REST_BYTES_MAX: u64 = (16 << 20) + (16 << 20);

fn is_long() -> bool {
    duration() >= Duration::from_secs(10)
}

fn duration() -> Duration {
    let seconds = env::var("DIGESTD_TEST_ATTACK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(2, |seconds| seconds.parse().unwrap()))
}

/// The group for a server, if there is to be one.
fn group() -> Option<MemoryGroup> {
    let bytes: ByteSize = env::var("DIGESTD_TEST_ATTACK_GROUP").ok()?.parse().unwrap();
    Some(MemoryGroup::new(bytes.as_u64()).expect("the group that was asked for"))
}

/// Nobody was killed in the group of a server, if it has one.
fn check_group(group: Option<&MemoryGroup>) {
    if let Some(group) = group {
        let (resident, peak) = (group.resident_bytes() >> 20, group.peak_bytes() >> 20);
        println!("  in its group {resident} MiB, with files {peak} MiB at the peak");
        assert_eq!(group.kills(), 0, "it was killed");
    }
}

/// Prints what a server refused and ended.
fn print_refusals(metrics: SocketAddr) {
    let mut client = Client::connect(metrics).unwrap();
    let answer = client.ask("GET", "/metrics", &[], b"").unwrap();
    let is_refusal = |line: &&str| {
        let of_connections = line.starts_with("digestd_connections_");
        (of_connections || line.starts_with("digestd_requests_refused_")) && !line.ends_with(" 0")
    };
    for line in answer.text().lines().filter(is_refusal) {
        println!("  {line}");
    }
}

/// A server that is about to be attacked, with default limits and little memory for caches.
struct Attacked {
    server: Digestd,
    /// Where its figures are.
    metrics: SocketAddr,
    /// What the healthy client asks beside what everybody does.
    questions: Vec<Question>,
    group: Option<MemoryGroup>,
    _data: TempDir,
}

impl Attacked {
    fn start() -> Self {
        Self::start_with(|launch| launch)
    }

    fn start_with(adjust: impl FnOnce(Launch) -> Launch) -> Self {
        raise_descriptor_limit();
        // What is in memory instead of on a disk would be in the group of the server.
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let launch = Launch::new(data.path())
            .option("--cache", "64MiB")
            .option("--segment-size", "64MiB");
        let group = group();
        let launch = match &group {
            None => launch,
            Some(group) => group.launch(launch),
        };
        let server = adjust(launch).start();
        Self {
            metrics: server.address(),
            questions: Vec::new(),
            server,
            group,
            _data: data,
        }
    }

    /// Stores a text; returns the path to it.
    fn store(&self, text: &str) -> String {
        let digest = self.server.client().publish(text).unwrap();
        format!("/messages/{digest}")
    }

    /// Lets `attack` take what it can, and checks what that does to others. What it returned is held to the
    /// end of the attack, and tasks that it spawned run so long.
    fn survives<A>(self, attack: impl AsyncFnOnce(Arc<Target>) -> A + Send + 'static) {
        // The server ends first, whatever happens.
        let Self {
            _data,
            group,
            mut questions,
            metrics,
            server,
        } = self;
        questions.extend(healthy::questions(&server));
        let healthy = Healthy::start(questions);
        // So that what the healthy client takes is there already.
        let (started, spent) = (Instant::now(), server.processor_time());
        thread::sleep(duration());
        let usual = server.processor_time().saturating_sub(spent);
        let usual = usual.as_secs_f64() / started.elapsed().as_secs_f64();
        let before = server.resident_bytes();
        server.forget_peak();

        healthy.begin(Phase::During);
        let attacker = Attacker::start(Target::new(&server, usual), attack);
        let under_way = attacker.is_under_way();
        thread::sleep(duration());
        let share = attacker.end();
        let most = server.peak_bytes();
        healthy.begin(Phase::After);
        let is_back = || server.resident_bytes() <= before + REST_BYTES_MAX;
        let started = Instant::now();
        while !is_back() && started.elapsed() < RECOVERY {
            thread::sleep(Duration::from_millis(50));
        }
        let (rest, back) = (server.resident_bytes(), started.elapsed());
        if is_long() {
            healthy.begin(Phase::Beside);
            let _burner = Burner::start(share);
            thread::sleep(duration());
        }
        let answers = healthy.end();

        let growth = most.saturating_sub(before);
        let rest = rest.saturating_sub(before);
        println!(
            "\n  under way after {under_way:.1?}, {share:.2} of a processor\n  \
             {} MiB, {} more at the peak, {} after {back:.1?}",
            before >> 20,
            growth >> 20,
            rest >> 20,
        );
        answers.print();
        print_refusals(metrics);
        check_group(group.as_ref());
        answers.check();
        assert!(growth <= GROWTH_BYTES_MAX, "{} MiB more", growth >> 20);
        assert!(rest <= REST_BYTES_MAX, "{} MiB are left", rest >> 20);
        server.stop();
    }
}
