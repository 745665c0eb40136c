//! What supervisors and container engines rely on: readiness, signs of life, sockets handed over.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;

use crate::process::{Client, Digestd, Launch, PATIENCE, Process, digestd, run};
use crate::support::{Ask, Protocol, TestServer, milliseconds};

#[test]
fn a_health_check_of_a_ready_server_ends_with_0_and_says_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Digestd::start(data.path());
    let address = server.address();
    for (name, value) in [
        ("DIGESTD_URL", server.url()),
        ("DIGESTD_LISTEN", address.to_string()),
        ("DIGESTD_LISTEN", format!("0.0.0.0:{}", address.port())),
    ] {
        let outcome = run(digestd().arg("healthcheck").env(name, value), b"");
        let said = (outcome.stdout.len(), outcome.stderr.as_str());
        assert_eq!((outcome.code, said), (Some(0), (0, "")), "{name}");
    }
}

#[test]
fn a_health_check_of_nobody_ends_with_7() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    drop(socket);
    let outcome = run(digestd().args(["healthcheck", "--url", &url]), b"");
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
}

#[test]
fn a_server_told_to_stop_is_not_ready_at_once_and_still_there_for_the_drain_delay() {
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .option("--drain-delay", "1h")
        .start();
    let digest = server.client().publish("foo").unwrap();
    server.signal(Signal::TERM);
    server.wait_for("stopping");
    // New connections, readiness and messages, each as it should be.
    let mut client = server.client();
    crate::process::wait_until("readiness to go", || {
        run(digestd().args(["healthcheck", "--url", &server.url()]), b"").code == Some(1)
    });
    let outcome = run(digestd().args(["healthcheck", "--url", &server.url()]), b"");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("stopping"), "{outcome:?}");
    assert_eq!(client.fetch(&digest).as_deref(), Some("foo"));
    client.publish("bar").unwrap();
    // Whoever does not want to wait says so.
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0.code(), Some(1));
}

#[tokio::test]
async fn after_the_drain_delay_nobody_is_accepted_any_more() {
    // A slow machine takes a part of it to ask once more.
    let delay = milliseconds(1000);
    let mut server = TestServer::with(|limits| limits.connection.drain_delay = delay);
    server.publish("foo").await;
    let started = Instant::now();
    server.stop();
    while server.service.health().reads.is_ok() {
        tokio::task::yield_now().await;
    }
    let answer = server.ask_over(Protocol::Http1, &Ask::get("/readyz")).await;
    assert_eq!(answer.status, 503);
    server.is_closed_to_new_clients().await;
    assert!(started.elapsed() >= delay);
    server.stopped().await;
}

#[test]
fn a_supervisor_is_told_of_the_start_of_life_and_of_the_stop() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 4096];
        let bytes = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..bytes].to_vec()).unwrap()
    };
    let server = Launch::new(&data.path().join("store"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .start();
    let mut before_ready = String::new();
    loop {
        let state = told();
        if state.contains("READY=1") {
            assert!(state.contains("STATUS=ready"), "{state}");
            break;
        }
        before_ready += &state;
    }
    assert!(!before_ready.contains("STOPPING"), "{before_ready}");
    while !told().contains("WATCHDOG=1") {}
    while !told().contains("WATCHDOG=1") {}
    server.signal(Signal::TERM);
    loop {
        let state = told();
        if state.contains("STOPPING=1") {
            break;
        }
        assert!(state.contains("WATCHDOG=1"), "{state}");
    }
    assert_eq!(server.wait().0.code(), Some(0));
}

/// Starts a server whose only socket is handed over by the name `name`.
fn start_with_socket(launch: Launch, name: &str, socket: TcpListener) -> Process {
    let script = format!(
        "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$0\" \"$@\" 3<&0 0</dev/null"
    );
    let mut command = launch.through(["sh", "-c", &script]).command();
    let child = command
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stderr(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

#[test]
fn a_socket_that_is_handed_over_is_served_instead_of_an_address() {
    let data = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // Would be in the way of the socket if it were bound.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let launch =
        Launch::new(data.path()).option("--listen", taken.local_addr().unwrap().to_string());
    // A client may be there before the server is.
    let mut client = Client::connect(address).unwrap();
    let mut server = start_with_socket(launch, "web", socket);
    loop {
        // It may be there before the store is.
        let answer = client.post("foo").unwrap();
        match answer.status {
            201 => break,
            status => assert_eq!(status, 503),
        }
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_socket_called_admin_has_the_metrics() {
    let data = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut server = start_with_socket(Launch::new(data.path()), "admin", socket);
    let mut client = Client::connect(address).unwrap();
    let answer = client.ask("GET", "/metrics", &[], b"").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(client.post("foo").unwrap().status, 404);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

/// As with `ProcSubset=pid`: of /proc there are processes, and nothing of the machine.
#[test]
#[ignore = "needs root, who mounts a file system"]
fn a_server_that_sees_processes_alone_has_the_same_caches_and_figures() {
    const HIDE: &str = "mount -t proc -o subset=pid proc /proc && exec \"$0\" \"$@\"";
    let data = tempfile::tempdir().unwrap();
    let words = ["unshare", "--mount", "sh", "-c", HIDE];
    let cache = |launch: Launch| {
        let server = launch.start();
        let line = server.wait_for("digestd starts");
        let figures = server.client().ask("GET", "/metrics", &[], b"").unwrap();
        for name in ["process_resident_memory_bytes", "process_open_fds"] {
            assert!(figures.text().contains(name), "{figures:?}");
        }
        server.stop();
        let (_, cache) = line.split_once(" cache=").unwrap();
        cache.split(" connections").next().unwrap().to_owned()
    };
    let hidden = cache(Launch::new(data.path()).through(words));
    assert_eq!(hidden, cache(Launch::new(data.path())));
}
