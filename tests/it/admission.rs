//! Who gets a connection where there are not enough for all.

use std::net::SocketAddr;
use std::sync::Arc;

use digestd::config::Limits;
use digestd::http::{App, ListenerRole};
use digestd::server::{self, Listener};
use digestd::service::Service;
use digestd::store::MemoryStore;
use tokio::task::JoinHandle;

use crate::process::Launch;
use crate::support::{Raw, TestServer, connect_from, until};

pub(crate) const GET: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A POST of which the last byte is missing.
const BEGUN_POST: &str =
    "POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nfo";

/// The connection on which a GET from `address` was answered, if it was.
async fn try_hold(address: [u8; 4], server: SocketAddr) -> Option<Raw> {
    let mut client = connect_from(address, server).await;
    // The connection may be gone already.
    let _ = client.try_send(GET.as_bytes()).await;
    client.read_more().await.ok()?;
    assert_eq!(client.answer().await.status, 200);
    Some(client)
}

async fn hold(address: [u8; 4], server: SocketAddr) -> Raw {
    try_hold(address, server).await.expect("an answer")
}

/// Whether a new connection from `address` is served; it ends with the question.
pub(crate) async fn is_served(address: [u8; 4], server: &TestServer) -> bool {
    try_hold(address, server.address).await.is_some()
}

/// Whether the server has not closed this connection.
async fn is_open(client: &mut Raw) -> bool {
    let _ = client.try_send(GET.as_bytes()).await;
    client.read_more().await.is_ok()
}

/// Those of `clients` that the server has closed.
async fn closed(clients: &mut [Raw]) -> Vec<usize> {
    let mut closed = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        if !is_open(client).await {
            closed.push(number);
        }
    }
    closed
}

/// The value of a counter of a server that has it on `address`.
pub(crate) async fn counted(address: SocketAddr, series: &str) -> u64 {
    let mut client = connect_from([127, 0, 0, 9], address).await;
    client
        .send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let answer = client.answer().await;
    let mut lines = answer.text().lines();
    let value = lines.find_map(|line| line.strip_prefix(series));
    value.expect(series).trim().parse().unwrap()
}

#[tokio::test]
async fn a_client_has_its_connections_and_not_one_more() {
    let server = TestServer::with(|limits| limits.connection.client_connections_max = 2);
    let mut first = hold([127, 0, 0, 1], server.address).await;
    let second = hold([127, 0, 0, 1], server.address).await;
    assert!(!is_served([127, 0, 0, 1], &server).await);
    assert!(is_served([127, 0, 0, 2], &server).await);
    // Those that it has are not harmed.
    assert!(is_open(&mut first).await);
    drop(second);
    until("a free connection", async || {
        is_served([127, 0, 0, 1], &server).await
    })
    .await;
    let refused = "digestd_connections_refused_total{cause=\"client\"}";
    assert!(counted(server.address, refused).await >= 1);
}

#[tokio::test]
async fn a_client_has_half_of_few_connections_and_makes_room_where_it_has_most() {
    let server = TestServer::with(|limits| limits.connection.connections_max = 20);
    let mut other = hold([127, 0, 0, 2], server.address).await;
    let mut crowd = Vec::new();
    for _ in 0..10 {
        crowd.push(hold([127, 0, 0, 1], server.address).await);
    }
    assert!(!is_served([127, 0, 0, 1], &server).await);
    let mut less = Vec::new();
    for _ in 0..7 {
        less.push(hold([127, 0, 0, 3], server.address).await);
    }
    // 18 can be there together, and each more takes the place of another.
    let mut probes = Vec::new();
    for last in 4..7 {
        probes.push(hold([127, 0, 0, last], server.address).await);
    }
    let ended = "digestd_connections_ended_total{cause=\"room\"}";
    // One more, of the scrape.
    assert_eq!(counted(server.address, ended).await, 3 + 1);
    assert!(is_open(&mut other).await);
    assert!(closed(&mut probes).await.is_empty());
    assert!(closed(&mut less).await.is_empty());
    assert_eq!(closed(&mut crowd).await.len(), 4);
    let refused = "digestd_connections_refused_total{cause=\"all\"}";
    assert_eq!(counted(server.address, refused).await, 0);
}

/// Of 128 descriptors the store has 32, and operators have 6 of the 96 connections.
#[test]
fn a_low_limit_on_descriptors_leaves_the_store_its_share_and_a_client_half_of_the_others() {
    const HALF: usize = (96 - 6) / 2;
    let data = tempfile::tempdir().unwrap();
    let server = Launch::new(data.path())
        .through(["sh", "-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .start();
    let address = server.address();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..HALF {
            held.push(hold([127, 0, 0, 1], address).await);
        }
        assert!(try_hold([127, 0, 0, 1], address).await.is_none());
        // Each of the last takes the place of another.
        let mut others = Vec::new();
        for last in (0..10).cycle().take(2 * HALF) {
            others.push(hold([127, 0, 1, last], address).await);
        }
        let mut last = others.pop().unwrap();
        let post = format!("{BEGUN_POST}o");
        last.send(post.replace("Host: x", "Host: localhost")).await;
        assert_eq!(last.answer().await.status, 201);
    });
    let log = server.stop();
    assert!(log.contains("connections=96"), "{log}");
    assert!(!log.contains("cannot accept connections"), "{log}");
}

#[tokio::test]
async fn requests_under_way_are_not_ended_while_there_are_idle_connections() {
    let server = TestServer::with(|limits| limits.connection.connections_max = 20);
    let mut posts = Vec::new();
    for _ in 0..10 {
        let mut client = connect_from([127, 0, 0, 4], server.address).await;
        client.send(BEGUN_POST).await;
        posts.push(client);
    }
    server.has_seen_all().await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(hold([127, 0, 0, 3], server.address).await);
    }
    for _ in 0..5 {
        assert!(is_served([127, 0, 0, 2], &server).await);
    }
    assert!(!closed(&mut idle).await.is_empty());
    for mut post in posts {
        post.send("o").await;
        assert_eq!(post.answer().await.status, 201);
    }
}

#[tokio::test]
async fn a_probe_is_served_where_all_connections_have_requests_under_way() {
    let server = TestServer::with(|limits| limits.connection.connections_max = 20);
    let mut posts = Vec::new();
    for number in 0..18 {
        let address = [[127, 0, 0, 1], [127, 0, 0, 3]][number % 2];
        let mut client = connect_from(address, server.address).await;
        client.send(BEGUN_POST).await;
        posts.push(client);
    }
    until("the limit", async || {
        !is_served([127, 0, 0, 1], &server).await
    })
    .await;
    let probe = hold([127, 0, 0, 2], server.address).await;
    let mut answered = 0;
    for post in &mut posts {
        if post.try_send(b"o").await.is_ok() && post.read_more().await.is_ok() {
            assert_eq!(post.answer().await.status, 201);
            answered += 1;
        }
    }
    assert_eq!(answered, 17);
    drop(probe);
    let refused = "digestd_connections_refused_total{cause=\"all\"}";
    assert!(counted(server.address, refused).await >= 1);
}

/// A server with an address for operators.
struct Operated {
    public: SocketAddr,
    admin: SocketAddr,
    running: JoinHandle<()>,
}

impl Operated {
    fn with(adjust: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        adjust(&mut limits);
        let any = "127.0.0.1:0".parse().unwrap();
        let sockets = server::bind(&[any, any]).unwrap();
        let [public, admin] = [0, 1].map(|number| sockets[number].local_addr().unwrap());
        let roles = [ListenerRole::Public, ListenerRole::Admin];
        let listeners = sockets.into_iter().zip(roles);
        let listeners = listeners.map(|(socket, role)| Listener {
            role,
            ..socket.into()
        });
        let of_connections = limits.connection.clone();
        let service = Arc::new(Service::default());
        service.start(Arc::new(MemoryStore::default()));
        let app = Arc::new(App::new(service, limits));
        let stop = std::future::pending();
        let running = server::run(listeners.collect::<Vec<_>>(), app, of_connections, stop);
        Self {
            public,
            admin,
            running: tokio::spawn(running),
        }
    }
}

impl Drop for Operated {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[tokio::test]
async fn operators_have_connections_of_their_own() {
    let server = Operated::with(|limits| {
        limits.connection.connections_max = 4;
        limits.connection.admin_connections_max = 4;
    });
    let mut crowd = Vec::new();
    for last in 1..4 {
        let mut client = connect_from([127, 0, 0, last], server.public).await;
        client.send(BEGUN_POST).await;
        crowd.push(client);
    }
    // As many as there may be without one that ends.
    until("the limit", async || {
        try_hold([127, 0, 0, 3], server.public).await.is_none()
    })
    .await;
    // More often than there are connections for operators, and by one whose requests are running.
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(hold([127, 0, 0, 3], server.admin).await);
    }
    assert!(!closed(&mut held).await.is_empty());
    for client in &mut crowd {
        client.send("o").await;
        assert_eq!(client.answer().await.status, 201);
    }
    let refused = "digestd_connections_refused_total{cause=\"all\"}";
    assert!(counted(server.admin, refused).await >= 1);
}
