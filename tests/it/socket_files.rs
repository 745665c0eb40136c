//! `--listen unix:/path`: who may connect, who a client is there, and what becomes of the file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::{Answer, Client, Launch, Process, run, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A directory for the data and the socket file, a server about to be started there, and the file.
fn launch() -> (TempDir, Launch, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("http.sock");
    let listen = format!("127.0.0.1:0,unix:{}", socket.display());
    let launch = Launch::new(&directory.path().join("store")).option("--listen", listen);
    (directory, launch, socket)
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn ask(socket: &Path, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut client = Client::connect_local(socket).unwrap();
    client.ask(method, path, fields, b"").unwrap()
}

#[test]
fn a_user_of_this_machine_is_a_client_for_whom_lists_and_hosts_do_not_count() {
    let (_directory, launch, socket) = launch();
    let server = launch
        .option("--deny", "0.0.0.0/0,::/0")
        .option("--host", "digests.example")
        .start();
    server.wait_for(&format!("listening on unix:{}, mode 600", socket.display()));
    let mut client = Client::connect_local(&socket).unwrap();
    let head = "POST /messages HTTP/1.1\r\nHost: another.example\r\nContent-Type: text/plain\r\n\
                Content-Length: 3\r\n\r\nfoo";
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 201);
    server.wait_for(&format!(" peer=unix:{} digest=2c26b46b", uid()));
    // Over the network nothing has changed.
    let answer = server.client().ask("GET", "/messages/foo", &[], b"");
    answer.unwrap_err();
}

#[test]
fn rates_are_those_of_the_user() {
    let (_directory, launch, socket) = launch();
    let _server = launch.option("--read-rate", "1/h").start();
    let named = [("X-Forwarded-For", "192.0.2.1")];
    assert_eq!(ask(&socket, "GET", "/messages/foo", &named).status, 404);
    // Nobody is believed who says that it is another client.
    let other = [("X-Forwarded-For", "192.0.2.2")];
    assert_eq!(ask(&socket, "GET", "/messages/foo", &other).status, 429);
    assert_eq!(ask(&socket, "GET", "/readyz", &[]).status, 200);
}

#[test]
fn a_proxy_that_is_trusted_there_speaks_for_clients_to_whom_lists_apply() {
    let (_directory, launch, socket) = launch();
    let server = launch
        .option("--trusted-proxy", "unix")
        .option("--read-rate", "1/h")
        .option("--deny", "192.0.2.9")
        .start();
    for (client, status) in [
        ("192.0.2.1", 404),
        ("192.0.2.1", 429),
        ("192.0.2.2", 404),
        ("192.0.2.9", 403),
        // Which stands for a user of this machine, and none of them says so.
        ("100:0:21::", 404),
    ] {
        let fields = [("X-Forwarded-For", client), ("X-Request-Id", "named")];
        let answer = ask(&socket, "GET", "/messages/foo", &fields);
        assert_eq!(answer.status, status, "{client}");
    }
    assert_eq!(ask(&socket, "GET", "/messages/foo", &[]).status, 404);
    server.wait_for("peer=192.0.2.2");
    server.wait_for(&format!("peer=unix:{}", uid()));
    // Over the network nobody is trusted.
    let fields = [("X-Forwarded-For", "192.0.2.9")];
    let answer = server.client().ask("GET", "/messages/foo", &fields, b"");
    assert_eq!(answer.unwrap().status, 404);
}

#[test]
fn a_connection_there_does_not_begin_with_the_proxy_protocol() {
    let (_directory, launch, socket) = launch();
    let _server = launch.option("--trusted-proxy", "unix").start();
    let mut client = Client::connect_local(&socket).unwrap();
    let head =
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 400);
}

#[test]
fn the_file_has_the_permissions_that_are_ordered_and_is_removed_at_the_end() {
    for (mode, expected) in [(None, 0o600), (Some("660"), 0o660), (Some("0666"), 0o666)] {
        let (_directory, launch, socket) = launch();
        let launch = mode
            .into_iter()
            .fold(launch, |it, mode| it.option("--socket-mode", mode));
        let server = launch.start();
        let found = fs::symlink_metadata(&socket).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, expected);
        server.stop();
        assert!(!socket.exists());
    }
}

#[test]
fn what_a_killed_server_left_is_replaced_and_nothing_else_is() {
    let (directory, launch, socket) = launch();
    launch.start().kill();
    assert!(socket.exists());
    let server = launch.start();
    assert_eq!(ask(&socket, "GET", "/livez", &[]).status, 200);

    let refused = |store: &str, words: &str| {
        let store = directory.path().join(store);
        let launch = Launch::new(&store).option("--listen", format!("unix:{}", socket.display()));
        let outcome = run(&mut launch.command(), b"");
        assert_eq!(outcome.code, Some(5), "{outcome:?}");
        assert!(
            outcome.stderr.contains(&*socket.to_string_lossy()),
            "{outcome:?}"
        );
        assert!(outcome.stderr.contains(words), "{outcome:?}");
        assert!(!store.exists());
    };
    refused("second", "another program listens there");
    assert_eq!(ask(&socket, "GET", "/livez", &[]).status, 200);
    // A file that is there by the time it ends is not its own.
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    server.stop();
    refused("third", "no socket");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    // One that has its hands full is there too.
    fs::remove_file(&socket).unwrap();
    let busy = UnixListener::bind(&socket).unwrap();
    rustix::net::listen(&busy, 0).unwrap();
    let _waiting = UnixStream::connect(&socket).unwrap();
    refused("fourth", "another program listens there");
    drop(busy);
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&socket, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &socket).unwrap();
    refused("fifth", "no socket");
    assert!(elsewhere.exists());
}

#[test]
#[ignore = "needs root, who gives files away"]
fn the_file_of_another_user_is_left_as_it_is() {
    let (_directory, launch, socket) = launch();
    drop(UnixListener::bind(&socket).unwrap());
    std::os::unix::fs::chown(&socket, Some(65_534), None).unwrap();
    let outcome = run(&mut launch.command(), b"");
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert!(socket.exists());
}

#[test]
fn a_path_that_no_socket_file_can_have_is_refused() {
    let (directory, launch, _) = launch();
    for (listen, code, words) in [
        (format!("unix:/{}", "x".repeat(107)), 2, "at most 107 bytes"),
        ("unix:".to_owned(), 2, "the path is missing"),
        (
            format!("unix:{}/none/http.sock", directory.path().display()),
            5,
            "its directory has to be there",
        ),
    ] {
        let mut command = Launch::new(&directory.path().join("store"))
            .option("--listen", &listen)
            .command();
        let outcome = run(&mut command, b"");
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
    let outcome = run(&mut launch.option("--socket-mode", "rw").command(), b"");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("as in 660"), "{outcome:?}");
}

#[test]
fn requests_in_flight_there_are_finished_and_connections_end_with_the_server() {
    let (_directory, launch, socket) = launch();
    let server = launch.start();
    let mut client = Client::connect_local(&socket).unwrap();
    let head = "POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.line().unwrap(), "HTTP/1.1 100 Continue");
    assert_eq!(client.line().unwrap(), "");
    server.signal(rustix::process::Signal::TERM);
    wait_until("the file", || !socket.exists());
    client.send(b"foo").unwrap();
    assert_eq!(client.answer().unwrap().status, 201);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
#[ignore = "needs nginx"]
fn nginx_as_the_page_about_proxies_says_asks_through_a_socket_file() {
    let (directory, launch, socket) = launch();
    let server = launch.option("--trusted-proxy", "unix").start();
    let page = fs::read_to_string(format!("{ROOT}/docs/proxies.md")).unwrap();
    let example = page
        .split("```nginx\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .find(|example| example.contains("unix:/run/digestd/http.sock"));
    let path = directory.path().display();
    let example = example
        .unwrap()
        .replace("/run/digestd/http.sock", socket.to_str().unwrap())
        .replace("$remote_addr", "192.0.2.7");
    let configuration = format!(
        "daemon off; master_process off; pid {path}/pid; error_log stderr; events {{}} http {{
           access_log off; client_body_temp_path {path}/1; proxy_temp_path {path}/2;
           fastcgi_temp_path {path}/3; uwsgi_temp_path {path}/4; scgi_temp_path {path}/5;
           server {{ listen unix:{path}/front; {example} }} }}"
    );
    let file = directory.path().join("nginx.conf");
    let mut written = fs::File::create(&file).unwrap();
    written.write_all(configuration.as_bytes()).unwrap();
    let child = Command::new("nginx")
        .args(["-e", "stderr", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _nginx = Process(child.unwrap());
    let front = directory.path().join("front");
    wait_until("nginx", || Client::connect_local(&front).is_ok());
    let fields = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    assert_eq!(ask(&front, "GET", "/messages/foo", &fields).status, 404);
    server.wait_for("peer=192.0.2.7");
    let log = server.stop();
    assert!(!log.contains("203.0.113.9"), "{log}");
}
