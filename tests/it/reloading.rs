//! What is read again while a server runs: files that cannot be read for a while, and the certificate of its own
//! when the clock jumps.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use digestd::digest::Digest;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use rustls::ClientConfig;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::disk::library;
use crate::process::{Digestd, Launch};
use crate::tls::{connect, https_address, trusting, write_certificate};

/// How often files could not be read again.
fn failures(server: &Digestd, files: &str) -> u64 {
    let answer = server.client().ask("GET", "/metrics", &[], b"").unwrap();
    let name = format!("digestd_reloads_failed_total{{files=\"{files}\"}} ");
    let line = answer
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(&*name));
    line.unwrap().parse().unwrap()
}

fn accepts(server: &Digestd, root: &Path) -> bool {
    let connected = connect(&trusting(root, &[]), https_address(server), "localhost");
    connected.is_ok()
}

/// A server with the certificate in `files`.
fn launch(data: &Path, files: &Path) -> Launch {
    Launch::new(data)
        .option("--tls-listen", "127.0.0.1:0")
        .option("--tls-cert", files.join("a.crt"))
        .option("--tls-key", files.join("a.key"))
}

#[test]
fn a_certificate_that_cannot_be_read_for_a_while_is_tried_until_it_can() {
    let [data, files, new] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    write_certificate(files.path());
    let server = launch(data.path(), files.path()).start();
    let (certificate, key) = write_certificate(new.path());
    // No descriptor is left for it, which changes nothing in the file.
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    let none = Rlimit {
        current: Some(0),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    fs::copy(&certificate, files.path().join("a.crt")).unwrap();
    fs::copy(&key, files.path().join("a.key")).unwrap();
    server.wait_for("Too many open files");
    prlimit(pid, Resource::Nofile, before).unwrap();
    server.wait_for("TLS certificate read again");
    assert!(accepts(&server, &certificate));
    assert!(failures(&server, "certificate") > 0);
    assert_eq!(failures(&server, "access"), 0);
}

#[test]
#[ignore = "needs root, who gives files away"]
fn a_key_that_gets_its_owner_after_its_place_is_read_then() {
    const USER: u32 = 65532;
    let [data, files, new] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (certificate, key) = write_certificate(files.path());
    let give = |path: &Path| chown(path, Some(USER), Some(USER)).unwrap();
    for path in [data.path(), files.path(), &certificate, &key] {
        give(path);
    }
    let user = format!("--reuid={USER}");
    let group = format!("--regid={USER}");
    let server = launch(data.path(), files.path())
        .through(["setpriv", &user, &group, "--clear-groups"])
        .start();
    let (new_certificate, new_key) = write_certificate(new.path());
    // As `install -m 600` leaves it.
    fs::set_permissions(
        &new_key,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let root = new.path().join("root");
    fs::copy(&new_certificate, &root).unwrap();
    fs::rename(&new_key, &key).unwrap();
    fs::rename(&new_certificate, &certificate).unwrap();
    server.wait_for("Permission denied");
    assert!(!accepts(&server, &root));
    give(&key);
    server.wait_for("TLS certificate read again");
    assert!(accepts(&server, &root));
    assert!(failures(&server, "certificate") > 0);
}

#[test]
fn tokens_and_lists_that_were_wrong_are_read_once_they_are_mended() {
    let token = |name: &str| format!("{name} read {}\n", Digest::of(name.as_bytes()));
    for (option, good, wrong, mended) in [
        (
            "--tokens",
            token("one"),
            "one read\n".to_owned(),
            token("two"),
        ),
        (
            "--list-file",
            String::new(),
            "deny 1\n".to_owned(),
            "deny 192.0.2.1\n".to_owned(),
        ),
    ] {
        let [data, files] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let path = files.path().join("file");
        fs::write(&path, &good).unwrap();
        let server = Launch::new(data.path()).option(option, &path).start();
        for (times, is_there) in [(1, true), (2, false)] {
            if is_there {
                fs::write(&path, &wrong).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            server.signal(Signal::HUP);
            server.wait_for_times("tokens and lists stay as they were", times);
            // Nobody says so.
            fs::write(&path, &mended).unwrap();
            server.wait_for_times("tokens and lists were read again", times);
        }
        if option == "--tokens" {
            let mut client = server.client();
            for (name, status) in [("one", 401), ("two", 403)] {
                let fields = [("Authorization", &*format!("Bearer {name}"))];
                let answer = client.ask("GET", "/metrics", &fields, b"").unwrap();
                assert_eq!(answer.status, status, "{name}");
            }
        }
    }
}

/// A clock that is so many seconds ahead.
#[derive(Debug)]
struct Ahead(i64);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(time(self.0)))
    }
}

/// A moment `ahead` of now, in seconds, since 1970.
fn time(ahead: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_secs(now.as_secs().saturating_add_signed(ahead))
}

/// Whether a client whose clock is so many seconds ahead takes what the server has for what is in the file at `root`.
fn accepts_ahead(server: &Digestd, root: &Path, ahead: i64) -> bool {
    let mut config = ClientConfig::clone(&trusting(root, &[]));
    config.time_provider = Arc::new(Ahead(ahead));
    connect(&Arc::new(config), https_address(server), "localhost").is_ok()
}

/// A clock that can be set.
struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Sets it so many seconds ahead.
    fn set(&self, ahead: i64) {
        let aside = self.file.with_extension("new");
        fs::write(&aside, ahead.to_string()).unwrap();
        fs::rename(aside, &self.file).unwrap();
    }
}

#[test]
fn a_certificate_of_its_own_is_made_again_whenever_the_clock_jumps() {
    const YEAR: i64 = 365 * 24 * 3600;
    let [data, files] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let clock = Clock {
        file: files.path().join("clock"),
    };
    let now = i64::try_from(time(0).as_secs()).unwrap();
    let root = data.path().join("localhost.crt");
    // Without a battery it starts in 1970.
    clock.set(5 - now);
    let server = Launch::new(data.path())
        .option("--tls-listen", "127.0.0.1:0")
        .env("DIGESTD_TLS_SELF_SIGNED", "1")
        .env("LD_PRELOAD", library("clock"))
        .env("CLOCK_FILE", &clock.file)
        .start();
    assert!(accepts_ahead(&server, &root, 10 - now));
    assert!(!accepts_ahead(&server, &root, 0));
    let mut times = 1;
    // Then it is set; and set wrong in either direction.
    for ahead in [0, 10 * YEAR, -4 * YEAR, 0, 40 * YEAR] {
        clock.set(ahead);
        times += 1;
        server.wait_for_times("made a TLS certificate for this machine", times);
        server.wait_for_times("TLS certificate read again", times - 1);
        // For clients that are behind, too.
        for behind in [0, 1, 23 * 3600] {
            assert!(
                accepts_ahead(&server, &root, ahead - behind),
                "{ahead} {behind}"
            );
        }
    }
    let made = server.stop();
    assert_eq!(made.matches("made a TLS certificate").count(), times);
}
