//! `digestd healthcheck` finds the server of a data directory wherever it listens, whatever it asks of others, and
//! takes no other one for it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use digestd::digest::Digest;
use digestd::server;
use rustix::net::sockopt::ipv6_v6only;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Digestd, Launch, Outcome, Process, digestd, run, wait_until};
use crate::tls::write_certificate;

/// Asks for the server of `data`, in the environment of an image that was made for another place.
fn check(data: &Path) -> Outcome {
    let mut command = digestd();
    command
        .arg("healthcheck")
        .env("DIGESTD_DATA_DIR", data)
        .env("DIGESTD_LISTEN", "0.0.0.0:1")
        .env("PORT", "1");
    run(&mut command, b"")
}

fn assert_healthy(data: &Path, case: &str) {
    let outcome = check(data);
    let said = (outcome.stdout.len(), outcome.stderr.as_str());
    assert_eq!((outcome.code, said), (Some(0), (0, "")), "{case}");
}

fn data() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// One with TLS and nothing else, started and ready.
fn start_secure(data: &Path) -> Launch {
    Launch::new(data)
        .without("--listen")
        .option("--tls-listen", "127.0.0.1:0")
}

#[test]
fn a_server_is_found_where_its_options_put_it() {
    for listen in [
        "127.0.0.1:0",
        "0.0.0.0:0",
        "[::]:0",
        "[::1]:0",
        "127.0.0.3:0",
    ] {
        let data = data();
        let server = Launch::new(data.path()).option("--listen", listen).start();
        assert_healthy(data.path(), listen);
        server.stop();
        assert_eq!(check(data.path()).code, Some(7), "{listen}");
    }
}

#[test]
fn where_a_server_is_known_variables_that_make_no_sense_do_not_matter() {
    let data = data();
    let server = Launch::new(data.path()).start();
    let asked = |words: &[&str]| {
        let mut command = digestd();
        command.arg("healthcheck").args(words);
        command
            .env("DIGESTD_LISTEN", "bogus")
            .env("DIGESTD_ADMIN_LISTEN", "");
        run(&mut command, b"").code
    };
    assert_eq!(asked(&["--url", &server.url()]), Some(0));
    assert_eq!(
        asked(&["--data-dir", data.path().to_str().unwrap()]),
        Some(0)
    );
    server.stop();
    assert_eq!(asked(&["--data-dir", "nothing"]), Some(2));
}

#[test]
fn a_server_whose_port_is_of_its_environment_is_found_over_either_family() {
    let data = data();
    let server = Launch::new(data.path())
        .without("--listen")
        .env("PORT", "0")
        .start();
    assert!(server.address().ip().is_unspecified());
    assert_healthy(data.path(), "PORT");
    let port = server.address().port();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    TcpStream::connect(("::1", port)).unwrap();
}

#[test]
fn a_server_that_lets_in_nobody_is_found_all_the_same() {
    let files = data();
    let tokens = files.path().join("tokens");
    fs::write(&tokens, format!("ci read {}\n", Digest::of(b"secret"))).unwrap();
    for (name, value) in [
        ("--deny", "127.0.0.0/8"),
        ("--allow", "192.0.2.1"),
        ("--tokens", tokens.to_str().unwrap()),
        ("--host", "digests.example"),
        ("--read-rate", "1/h"),
        // Where /metrics is, and health.
        ("--admin-listen", "127.0.0.1:0"),
    ] {
        let data = data();
        let _server = Launch::new(data.path()).option(name, value).start();
        for _ in 0..3 {
            assert_healthy(data.path(), name);
        }
    }
}

#[test]
fn a_server_with_tls_alone_is_known_by_its_certificate_also_by_a_new_one() {
    let data = data();
    let server = start_secure(data.path())
        .env("DIGESTD_TLS_SELF_SIGNED", "1")
        .start_secure();
    assert_healthy(data.path(), "made here");
    fs::remove_file(data.path().join("localhost.crt")).unwrap();
    server.signal(Signal::HUP);
    server.wait_for("the TLS certificate stays the one it was");
    assert_healthy(data.path(), "while there is none on the disk");
    server.stop();

    let files = data_with_certificate();
    let [certificate, key] = ["a.crt", "a.key"].map(|name| files.path().join(name));
    let server = start_secure(data.path())
        .option("--tls-cert", &certificate)
        .option("--tls-key", &key)
        .start_secure();
    assert_healthy(data.path(), "of an operator");
    let note = || fs::read_to_string(data.path().join("NOTE")).unwrap();
    let before = note();
    write_certificate(files.path());
    wait_until("the new certificate", || note() != before);
    assert_healthy(data.path(), "a new one");
    server.stop();
}

fn data_with_certificate() -> TempDir {
    let files = data();
    write_certificate(files.path());
    files
}

/// The address that a server of `data` noted.
fn noted(data: &Path) -> SocketAddr {
    let note = fs::read_to_string(data.join("NOTE")).unwrap();
    let (_, address) = note.rsplit_once("http ").unwrap();
    address.trim_end().parse().unwrap()
}

#[test]
fn another_server_in_the_place_of_one_that_was_killed_is_not_taken_for_it() {
    let [killed, other] = [data(), data()];
    let server = Digestd::start(killed.path());
    let address = noted(killed.path());
    assert_eq!(address, server.address());
    server.kill();
    assert_eq!(check(killed.path()).code, Some(7));
    // Another directory, the same place.
    let listen = address.to_string();
    let elsewhere = Launch::new(other.path())
        .option("--listen", &listen)
        .start();
    let outcome = check(killed.path());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("no server has"), "{outcome:?}");
    // The same directory, another place: the note of the one that was killed says nothing any more.
    let again = Digestd::start(killed.path());
    assert_ne!(again.address(), address);
    assert_healthy(killed.path(), "started again");
    again.stop();
    elsewhere.stop();
}

#[test]
fn what_holds_a_directory_and_is_no_server_is_not_asked() {
    let data = data();
    Digestd::start(data.path()).kill();
    let left = fs::read(data.path().join("NOTE")).unwrap();
    // As a verb leaves the lock.
    fs::write(data.path().join("LOCK"), "pid 1\nstarted now\n").unwrap();
    fs::write(data.path().join("NOTE"), left).unwrap();
    let outcome = check(data.path());
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    // Where the environment says.
    assert!(outcome.stderr.contains("127.0.0.1:1"), "{outcome:?}");
}

#[test]
fn a_server_that_is_not_ready_is_found_and_says_why() {
    let data = data();
    let server = Launch::new(data.path())
        .option("--drain-delay", "1h")
        .option("--admin-listen", "127.0.0.1:0")
        .start();
    server.signal(Signal::TERM);
    wait_until("readiness to go", || check(data.path()).code == Some(1));
    let outcome = check(data.path());
    assert!(outcome.stderr.contains("stopping"), "{outcome:?}");
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn the_image_leaves_the_port_to_the_platform() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile");
    let file: &'static str = fs::read_to_string(file).unwrap().leak();
    let (_, image) = file.rsplit_once("\nFROM ").unwrap();
    let variables = image.lines().filter_map(|line| line.strip_prefix("ENV "));
    let variables: Vec<_> = variables
        .flat_map(|line| line.split(' '))
        .map(|variable| variable.split_once('=').unwrap())
        .collect();
    assert!(variables.contains(&("PORT", "8080")), "{variables:?}");
    for port in ["0", ""] {
        let data = data();
        let mut launch = Launch::new(data.path());
        for &(name, value) in &variables {
            launch = launch.env(name, value);
        }
        let launch = launch.env("PORT", port);
        // An order of the operator wins over the platform's.
        let server = launch.start();
        assert!(server.address().ip().is_loopback());
        assert_healthy(data.path(), port);
        let is_mentioned = server.stop().contains("PORT is set and not used");
        assert_eq!(is_mentioned, !port.is_empty());
        if port == "0" {
            let server = launch.without("--listen").start();
            assert!(server.address().ip().is_unspecified());
            assert_ne!(server.address().port(), 8080);
            assert_healthy(data.path(), port);
        }
    }
}

#[tokio::test]
async fn a_socket_for_all_addresses_is_for_both_families_unless_ipv4_has_its_own() {
    let both = server::bind(&["[::]:0".parse().unwrap()]).unwrap();
    assert!(!ipv6_v6only(&both[0]).unwrap());
    // A port that is free in both.
    let (sockets, port) = loop {
        let free = TcpListener::bind("[::]:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let addresses = ["0.0.0.0", "[::]"].map(|ip| format!("{ip}:{port}").parse().unwrap());
        if let Ok(sockets) = server::bind(&addresses) {
            break (sockets, port);
        }
    };
    assert!(ipv6_v6only(&sockets[1]).unwrap());
    for ip in ["127.0.0.1", "::1"] {
        TcpStream::connect((ip, port)).unwrap();
    }
}

#[test]
#[ignore = "needs root, who turns off IPv6"]
fn a_machine_without_ipv6_serves_and_is_asked_over_ipv4() {
    const TURN_OFF: &str = "ip link set lo up && \
        echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && exec \"$0\" \"$@\"";
    let data = data();
    let server = Launch::new(data.path())
        .without("--listen")
        .env("PORT", "0")
        .through(["unshare", "--net", "sh", "-c", TURN_OFF])
        .start();
    assert!(server.address().is_ipv6());
    let pid = server.pid().to_string();
    let mut command = std::process::Command::new("nsenter");
    command
        .args(["--net", "--target", &pid, env!("CARGO_BIN_EXE_digestd")])
        .args(["healthcheck", "--data-dir"])
        .arg(data.path());
    let outcome = run(&mut command, b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn a_note_that_cannot_be_read_is_said_with_its_file() {
    let data = data();
    let server = Launch::new(data.path()).start();
    for name in ["NOTE", "LOCK"] {
        let path = data.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, b"pid \xff").unwrap();
        let outcome = check(data.path());
        fs::write(&path, before).unwrap();
        let sentence = format!("cannot read {}: ", path.display());
        assert_eq!(outcome.code, Some(7), "{outcome:?}");
        assert!(
            outcome.stderr.contains(&sentence) && outcome.stderr.contains("valid UTF-8"),
            "{outcome:?}"
        );
    }
    fs::remove_file(data.path().join("NOTE")).unwrap();
    fs::create_dir(data.path().join("NOTE")).unwrap();
    let mut command = digestd();
    command.args(["healthcheck", "--data-dir"]).arg(data.path());
    let listen = server.address().to_string();
    let outcome = run(command.env("DIGESTD_LISTEN", listen), b"");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("is no regular file"), "{outcome:?}");
}

#[test]
fn where_nothing_says_where_a_server_is_none_is_asked() {
    let asked = |data: &Path| {
        let mut command = digestd();
        run(command.args(["healthcheck", "--data-dir"]).arg(data), b"")
    };
    let directory = data();
    let missing = asked(&directory.path().join("missing"));
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(
        missing.stderr.contains("there is no directory"),
        "{missing:?}"
    );
    let foreign = asked(directory.path());
    assert!(
        foreign.stderr.contains("is not a data directory"),
        "{foreign:?}"
    );
    let server = Digestd::start(directory.path());
    let note = directory.path().join("NOTE");
    for text in ["", "\0\0\0\0", "pid 1"] {
        fs::write(&note, text).unwrap();
        let garbled = asked(directory.path());
        assert_eq!(garbled.code, Some(1), "{garbled:?}");
        assert!(
            garbled.stderr.contains("/NOTE: it is not what"),
            "{garbled:?}"
        );
        assert!(garbled.stderr.contains("--url"), "{garbled:?}");
    }
    fs::remove_file(&note).unwrap();
    let silent = asked(directory.path());
    assert_eq!(silent.code, Some(1), "{silent:?}");
    assert!(silent.stderr.contains("no server says in"), "{silent:?}");
    server.stop();
}

#[test]
fn a_server_on_a_socket_file_alone_is_found_by_every_command() {
    let directory = data();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("working")).unwrap();
    fs::write(at("tokens"), format!("ci read {}\n", Digest::of(b"secret"))).unwrap();
    let url = format!("unix:{}", at("http.sock").display());
    for (option, put) in [
        (["--log-level", "info"], 0),
        (["--trusted-proxy", "unix"], 0),
        (["--tokens", "../tokens"], 1),
    ] {
        let mut command = digestd();
        // What is noted is of no use elsewhere as it was given.
        command
            .current_dir(at("working"))
            .args(["serve", "--data-dir", "../store", "--free-min", "0B"])
            .args(["--listen", "unix:../http.sock"]);
        let server = Process(command.args(option).spawn().unwrap());
        wait_until("the server", || {
            let mut command = digestd();
            command.args(["healthcheck", "--data-dir"]).arg(at("store"));
            run(&mut command, b"").code == Some(0)
        });
        let outcome = run(digestd().args(["put", "foo", "--url", &url]), b"");
        assert_eq!(outcome.code, Some(put), "{outcome:?}");
        let mut by_environment = digestd();
        by_environment.args(["healthcheck", "--data-dir", "nowhere"]);
        let outcome = run(by_environment.env("DIGESTD_LISTEN", &url), b"");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        drop(server);
    }
    let outcome = run(digestd().args(["put", "foo", "--url", &url]), b"");
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    let said = format!("cannot reach {url}: ");
    assert!(outcome.stderr.contains(&said), "{outcome:?}");
}

#[test]
fn a_server_that_trusts_proxies_of_this_machine_is_found_whatever_networks_it_allows() {
    let data = data();
    let server = Launch::new(data.path())
        .option("--trusted-proxy", "127.0.0.1,::1")
        .option("--allow", "192.0.2.0/24")
        .start();
    assert_healthy(data.path(), "trusted");
    let status = |path: &str, fields: &[(&str, &str)]| {
        let mut client = server.client();
        client.ask("GET", path, fields, b"").unwrap().status
    };
    assert_eq!(status("/readyz", &[]), 200);
    // The proxy speaks for others, and nothing else is asked for by the machine itself.
    assert_eq!(
        status("/readyz", &[("X-Forwarded-For", "198.51.100.1")]),
        403
    );
    assert_eq!(status("/readyz", &[("X-Forwarded-For", "127.0.0.1")]), 403);
    assert_eq!(status("/readyz", &[("X-Forwarded-For", "192.0.2.7")]), 200);
    assert_eq!(status("/readyz?verbose", &[]), 403);
    assert_eq!(status("/metrics", &[]), 403);
    assert_eq!(status("/messages", &[]), 403);
}
