//! TLS: that it is there, that it can be trusted, and that whoever does not speak it holds up nobody.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use digestd::config::{CertificateConfig, Limits};
use digestd::http::App;
use digestd::metrics::Metrics;
use digestd::server::{self, Listener, Tls};
use digestd::service::Service;
use rcgen::{CertificateParams, CertifiedKey, KeyPair, generate_simple_self_signed};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::memory::raise_descriptor_limit;
use crate::process::{Digestd, Launch, PATIENCE, address_in, run, wait_until};
use crate::support::{Raw, milliseconds, stream_from, within};

const FOO: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
const BAR: &str = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9";

fn launch(data: &TempDir) -> Launch {
    Launch::new(data.path()).option("--tls-listen", "127.0.0.1:0")
}

fn self_signed(data: &TempDir) -> Launch {
    launch(data).env("DIGESTD_TLS_SELF_SIGNED", "1")
}

pub(crate) fn https_address(server: &Digestd) -> SocketAddr {
    address_in(&server.wait_for("listening on https://"))
}

/// A client that trusts what is in the file at `root`, and nothing else.
pub(crate) fn trusting(root: &Path, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(root).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) type Secure = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> io::Result<Secure> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    client.complete_io(&mut socket)?;
    Ok(StreamOwned::new(client, socket))
}

/// One request on a connection of its own: its status, and its answer's head and body.
fn ask(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    request: &str,
) -> io::Result<(u16, String)> {
    let mut stream = connect(config, address, "localhost")?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    // Ends with a close_notify, or this is an error: an answer that was cut short is none.
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, answer))
}

fn get(digest: &str) -> String {
    format!("GET /messages/{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn post(text: &str) -> String {
    let body = format!("{{\"message\": \"{text}\"}}");
    format!(
        "POST /messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn the_acceptance_sequence_passes_twice_with_the_certificate_as_trust_root() {
    let data = tempfile::tempdir().unwrap();
    let mut roots = Vec::new();
    for _ in 0..2 {
        let server = self_signed(&data).start();
        let root = data.path().join("localhost.crt");
        roots.push(fs::read(&root).unwrap());
        let (client, address) = (trusting(&root, &[]), https_address(&server));
        let expect = |request: &str, status: u16, text: &str| {
            let (found, answer) = ask(&client, address, request).unwrap();
            assert_eq!(found, status, "{request}\n{answer}");
            assert!(answer.contains(text), "{answer}");
        };
        expect(&get(&"a".repeat(64)), 404, "Message not found.");
        expect(&post("foo"), 201, FOO);
        expect(&get(FOO), 200, "\"foo\"");
        expect(&post("bar"), 201, BAR);
        expect(&get(BAR), 200, "\"bar\"");
        expect(&get(FOO), 200, "\"foo\"");
        let log = server.stop();
        assert!(log.contains("localhost.crt"), "{log}");
    }
    assert!(roots[0] == roots[1], "it is made once");
}

/// What people have instead of a certificate and a key in PEM, made with OpenSSL.
const INSTEAD: &str = r"
openssl req -x509 -newkey rsa:2048 -nodes -keyout good.key -out good.crt -subj /CN=localhost
openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -subj /CN=other
openssl pkey -in good.key -aes256 -passout pass:x -out encrypted.key
openssl rsa -in good.key -aes128 -traditional -passout pass:x -out old.key
openssl pkcs8 -topk8 -in good.key -outform DER -passout pass:x -out encrypted.der
openssl pkey -in good.key -outform DER -out key.der
openssl x509 -in good.crt -outform DER -out crt.der
openssl x509 -in good.crt -trustout -addtrust serverAuth -out trusted.crt
openssl pkcs12 -export -inkey good.key -in good.crt -passout pass:x -out both.p12
openssl crl2pkcs7 -nocrl -certfile good.crt -out good.p7b
openssl crl2pkcs7 -nocrl -certfile good.crt -outform DER -out der.p7b
openssl req -new -key good.key -subj /CN=localhost -out good.csr
openssl req -in good.csr -outform DER -out csr.der
openssl pkey -in good.key -pubout -out good.pub
openssl ecparam -name prime256v1 -out parameters.pem
: >empty
printf 'hello\n' >rubbish
printf '\357\273\277' | cat - good.key >bom.key
printf '\357\273\277' | cat - good.crt >bom.crt
(printf '\377\376'; sed 's/./&\x00/g; s/$/\x00/' good.key | head -c 500) >utf16.key
cat parameters.pem >ec.key; openssl ecparam -name prime256v1 -genkey -noout >>ec.key
printf -- '-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n' >ssh.key
head -c 400 good.key >half.key
head -c 400 good.crt >half.crt
for curve in secp521r1 secp256k1; do openssl ecparam -name $curve -genkey -noout >$curve; done
mv secp521r1 p521.key; openssl pkcs8 -topk8 -nocrypt -in secp256k1 -out k1.key
openssl genpkey -algorithm ed448 -out ed448.key
openssl genrsa -out rsa512.key 1024
short() {
  echo -----BEGIN $2-----; head -c 500 $1 | openssl base64; echo -----END $2-----
}
short key.der 'PRIVATE KEY' >short.key
short crt.der CERTIFICATE >short.crt
sed '3s/..../!!!!/' good.key >letters.key
for kind in crt key; do
  tr -d '\n' <good.$kind >line.$kind
  sed 's/^/    /' good.$kind >indented.$kind
  sed 's/$/\\n/' good.$kind | tr -d '\n' >escaped.$kind
  sed 's/ CERTIFICATE/ X509 CERTIFICATE/' good.$kind >x509.$kind
done
";

#[test]
#[ignore = "needs openssl"]
fn what_is_in_a_file_instead_of_a_certificate_or_a_key_is_named_with_what_mends_it() {
    let data = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut script = Command::new("sh");
    script.args(["-e", "-c", INSTEAD]).current_dir(&directory);
    let made = script.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let serve = |certificate: &str, key: &str| {
        let launch = launch(&data)
            .option("--tls-cert", directory.path().join(certificate))
            .option("--tls-key", directory.path().join(key));
        run(&mut launch.command(), b"")
    };
    for (key, words) in [
        ("encrypted.key", &["is encrypted", "`openssl pkey -in "][..]),
        ("old.key", &["is encrypted", "`openssl pkey -in "]),
        ("encrypted.der", &["encrypted", "openssl pkcs8 -inform DER"]),
        ("key.der", &["DER, not PEM", "`openssl pkey -inform DER"]),
        ("both.p12", &["PKCS#12", "`openssl pkcs12 -in ", "-nocerts"]),
        ("good.crt", &["a certificate and no key", "--tls-cert"]),
        ("crt.der", &["a certificate and no key"]),
        ("good.csr", &["a request for a certificate"]),
        ("csr.der", &["a request for a certificate"]),
        ("good.pub", &["a public key"]),
        ("parameters.pem", &["parameters alone", "`openssl genpkey"]),
        ("ssh.key", &["OpenSSH", "`ssh-keygen"]),
        ("empty", &["the file is empty"]),
        ("rubbish", &["not PEM"]),
        ("utf16.key", &["UTF-16 instead of UTF-8"]),
        ("half.key", &["cut short"]),
        (
            "p521.key",
            &["cannot use the key", "P-521", "`openssl genpkey"],
        ),
        ("k1.key", &["cannot use the key", "secp256k1", "P-256"]),
        ("ed448.key", &["cannot use the key", "Ed448"]),
        ("rsa512.key", &["cannot use the key", "2048 to 4096 bits"]),
        ("short.key", &["cannot use the key", "cut short"]),
        ("letters.key", &["not Base64"]),
        ("missing.key", &["No such file"]),
        ("other.key", &["belongs to another key"]),
    ] {
        let outcome = serve("good.crt", key);
        assert_eq!(outcome.code, Some(1), "{key}: {outcome:?}");
        for word in words.iter().chain([&key]) {
            assert!(outcome.stderr.contains(word), "{key}: {outcome:?}");
        }
    }
    for (certificate, words) in [
        ("good.key", &["a key and no certificate", "--tls-key"][..]),
        ("encrypted.key", &["a key and no certificate"]),
        ("key.der", &["a key and no certificate"]),
        ("crt.der", &["DER, not PEM", "`openssl x509 -inform DER"]),
        ("trusted.crt", &["trust settings", "`openssl x509 -in "]),
        ("both.p12", &["PKCS#12", "-nokeys"]),
        ("good.p7b", &["PKCS#7", "`openssl pkcs7"]),
        ("der.p7b", &["PKCS#7"]),
        ("good.csr", &["a request for a certificate"]),
        ("empty", &["the file is empty"]),
        ("utf16.key", &["UTF-16 instead of UTF-8"]),
        ("half.crt", &["cut short"]),
        ("short.crt", &["damaged or cut short"]),
    ] {
        let outcome = serve(certificate, "good.key");
        assert_eq!(outcome.code, Some(1), "{certificate}: {outcome:?}");
        for word in words.iter().chain([&certificate]) {
            assert!(outcome.stderr.contains(word), "{certificate}: {outcome:?}");
        }
    }
    // A byte order mark hides neither, nor do other line ends, spaces and labels.
    for name in ["bom", "line", "indented", "escaped", "x509"] {
        let server = launch(&data)
            .option("--tls-cert", directory.path().join(format!("{name}.crt")))
            .option("--tls-key", directory.path().join(format!("{name}.key")))
            .start();
        server.stop();
    }
}

#[test]
fn the_certificate_is_for_all_names_and_users_of_the_machine_and_its_key_for_nobody_else() {
    let data = tempfile::tempdir().unwrap();
    let server = self_signed(&data).start();
    let client = trusting(&data.path().join("localhost.crt"), &[]);
    let address = https_address(&server);
    let host = rustix::system::uname()
        .nodename()
        .to_str()
        .unwrap()
        .to_owned();
    for name in ["localhost", "127.0.0.1", "::1", &host] {
        connect(&client, address, name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    connect(&client, address, "example.org").unwrap_err();
    for (name, expected) in [("localhost.crt", 0o644), ("localhost.key", 0o600)] {
        let file = fs::metadata(data.path().join(name)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, expected, "{name}");
    }
}

#[test]
fn http2_is_chosen_where_it_is_offered() {
    let data = tempfile::tempdir().unwrap();
    let server = self_signed(&data).start();
    let address = https_address(&server);
    let root = data.path().join("localhost.crt");
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = connect(&trusting(&root, offered), address, "localhost").unwrap();
        let alpn = stream.conn.alpn_protocol();
        assert_eq!(alpn, chosen.map(str::as_bytes), "{offered:?}");
    }
}

/// What comes back to a client that says `bytes` to a port for HTTPS, and whether the connection ends as it should.
fn said_to(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let is_sent = stream.write_all(bytes).is_ok();
    let mut answer = Vec::new();
    let is_read = stream.read_to_end(&mut answer).is_ok();
    (answer, is_sent && is_read)
}

#[test]
fn a_client_that_speaks_plain_http_is_told_to_speak_https() {
    let data = tempfile::tempdir().unwrap();
    // What is neither is waited for.
    let server = self_signed(&data).option("--head-timeout", "1s").start();
    let address = https_address(&server);
    let large = format!("{}{}", post("foo"), "a".repeat(500_000));
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let requests = [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "HEAD /livez HTTP/1.0\r\n\r\n",
        "G",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        &large,
        preface,
    ];
    for request in requests {
        let (answer, has_ended_well) = said_to(address, request.as_bytes());
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert!(head.ends_with("Connection: close"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let error = body["error"].as_str().unwrap();
        assert!(error.starts_with("This port speaks HTTPS"), "{error}");
        assert!(has_ended_well, "{request:.40}");
    }
    // What is neither gets no answer that it could not read.
    let others = [
        &b"\x15\x03\x01"[..],
        b"\x80\x2e\x01\x03\x01",
        b"\0\0\0\0\0",
        b"\r\nGET /",
    ];
    for other in others {
        let (answer, _) = said_to(address, other);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let metrics = server.client().ask("GET", "/metrics", &[], b"").unwrap();
    for (name, count) in [
        (
            "digestd_connections_ended_total{cause=\"plain-http\"}",
            requests.len(),
        ),
        ("digestd_tls_handshakes_failed_total", others.len()),
    ] {
        let line = format!("\n{name} {count}\n");
        assert!(metrics.text().contains(&line), "{line}{}", metrics.text());
    }
}

/// A certificate of its own in `directory`.
pub(crate) fn write_certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let paths = (directory.join("a.crt"), directory.join("a.key"));
    // One after the other, as people do.
    fs::write(&paths.0, cert.pem()).unwrap();
    fs::write(&paths.1, signing_key.serialize_pem()).unwrap();
    paths
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_start_with_a_sentence() {
    let data = tempfile::tempdir().unwrap();
    let others = tempfile::tempdir().unwrap();
    let (certificate, key) = write_certificate(data.path());
    let (_, other_key) = write_certificate(others.path());
    let missing = data.path().join("missing");
    let empty = data.path().join("empty");
    fs::write(&empty, "").unwrap();
    for (certificate, key, named) in [
        (&certificate, &other_key, &certificate),
        (&missing, &key, &missing),
        (&certificate, &missing, &missing),
        (&empty, &key, &empty),
        (&key, &key, &key),
    ] {
        let launch = Launch::new(&data.path().join("store"))
            .option("--tls-listen", "127.0.0.1:0")
            .option("--tls-cert", certificate)
            .option("--tls-key", key);
        let outcome = run(&mut launch.command(), b"");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let name = named.display().to_string();
        assert!(outcome.stderr.contains(&name), "{name}\n{}", outcome.stderr);
    }
}

fn expiry(server: &Digestd) -> String {
    let answer = server.client().ask("GET", "/metrics", &[], b"").unwrap();
    let line = answer
        .text()
        .lines()
        .find(|line| line.starts_with("digestd_tls_certificate_expiry_timestamp_seconds "));
    line.unwrap().to_owned()
}

#[test]
fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let data = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = write_certificate(files.path());
    let server = launch(&data)
        .option("--tls-cert", &certificate)
        .option("--tls-key", &key)
        .option("--access-log", "off")
        .start();
    let address = https_address(&server);
    // Trusts the old one and every new one.
    let both = files.path().join("roots");
    let mut roots = fs::read_to_string(&certificate).unwrap();
    let new = tempfile::tempdir().unwrap();
    let (new_certificate, new_key) = write_certificate(new.path());
    roots += &fs::read_to_string(&new_certificate).unwrap();
    fs::write(&both, roots).unwrap();
    let (client, only_new) = (trusting(&both, &[]), trusting(&new_certificate, &[]));
    ask(&only_new, address, &get(FOO)).unwrap_err();

    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(ask(&client, address, &get(FOO)).unwrap().0, 404);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let serve_more = || {
            let before = answered.load(Ordering::Relaxed);
            wait_until("requests", || {
                answered.load(Ordering::Relaxed) > before + 20
            });
        };
        serve_more();
        // A certificate without its key is noticed, and changes nothing.
        fs::copy(&new_certificate, &certificate).unwrap();
        server.wait_for("the TLS certificate stays the one it was");
        serve_more();
        ask(&only_new, address, &get(FOO)).unwrap_err();
        // Whole again, nobody has to say so.
        fs::copy(&new_key, &key).unwrap();
        server.wait_for("TLS certificate read again");
        serve_more();
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(ask(&only_new, address, &get(FOO)).unwrap().0, 404);
    assert!(
        expiry(&server).ends_with(" 67090118400"),
        "{}",
        expiry(&server)
    );
}

#[test]
fn sighup_reads_the_certificate_again_and_a_bad_one_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = self_signed(&data).start();
    let root = data.path().join("localhost.crt");
    let client = trusting(&root, &[]);
    let before = expiry(&server);
    server.signal(Signal::HUP);
    server.wait_for("TLS certificate read again");
    fs::write(&root, "nothing").unwrap();
    server.wait_for("the TLS certificate stays the one it was");
    assert_eq!(
        ask(&client, https_address(&server), &get(FOO)).unwrap().0,
        404
    );
    assert_eq!(expiry(&server), before);
}

#[tokio::test]
async fn a_handshake_has_the_time_of_a_first_request_and_both_share_it() {
    let data = tempfile::tempdir().unwrap();
    // A slow machine takes a part of it for a handshake.
    let timeout = milliseconds(2000);
    let mut limits = Limits::default();
    limits.connection.head_timeout = timeout;
    let config = CertificateConfig::SelfSigned;
    let tls = Tls::new(&config, data.path(), Arc::new(Metrics::default())).unwrap();
    let socket = server::bind(&["127.0.0.1:0".parse().unwrap()])
        .unwrap()
        .remove(0);
    let address = socket.local_addr().unwrap();
    let listener = Listener {
        tls: Some(Arc::new(tls)),
        ..socket.into()
    };
    let of_connections = limits.connection.clone();
    let app = Arc::new(App::new(Arc::new(Service::default()), limits));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server::run(vec![listener], app, of_connections, async {
        let _ = stopped.await;
    }));

    // Nothing at all, half a hello, and a handshake without a request, side by side.
    let unshaken = [&b""[..], b"\x16\x03\x01\x02\x00"].map(|start| {
        tokio::spawn(async move {
            let started = Instant::now();
            let stream = within("connecting", tokio::net::TcpStream::connect(address)).await;
            let mut client = Raw::new(stream.unwrap());
            client.send(start).await;
            assert!(client.rest().await.bytes.is_empty());
            started.elapsed()
        })
    });
    let root = data.path().join("localhost.crt");
    let shaken = tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let mut stream = connect(&trusting(&root, &[]), address, "localhost").unwrap();
        let _ = stream.read(&mut [0]);
        started.elapsed()
    });
    for ended in unshaken.into_iter().chain([shaken]) {
        let elapsed = within("the end", ended).await.unwrap();
        assert!(elapsed >= timeout, "{elapsed:?}");
    }

    // And one that hangs does not hold up the stop.
    let _silent = within("connecting", tokio::net::TcpStream::connect(address)).await;
    stop.send(()).unwrap();
    within("stopping", running).await.unwrap();
}

#[test]
#[ignore = "needs curl"]
fn curl_passes_the_acceptance_sequence_with_the_certificate_as_trust_root() {
    let data = tempfile::tempdir().unwrap();
    let root = data.path().join("localhost.crt");
    for _ in 0..2 {
        let server = self_signed(&data).start();
        let port = https_address(&server).port();
        let curl = |arguments: &[&str], path: &str| {
            let output = Command::new("curl")
                .args(["-s", "-w", "\n%{http_code}", "--noproxy", "*"])
                .args(arguments)
                .arg(format!("https://localhost:{port}{path}"))
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let trust = ["--cacert", root.to_str().unwrap()];
        let publish = |text: &str| {
            let body = format!("{{\"message\": \"{text}\"}}");
            let kind = ["-H", "Content-Type: application/json", "-d", &body];
            curl(&[&trust[..], &kind].concat(), "/messages")
        };
        let get = |digest: &str| curl(&trust, &format!("/messages/{digest}"));
        let ends = |answer: String, status: &str, text: &str| {
            assert!(
                answer.ends_with(status) && answer.contains(text),
                "{answer}"
            );
        };
        ends(get(&"a".repeat(64)), "\n404", "Message not found.");
        ends(publish("foo"), "\n201", FOO);
        ends(get(FOO), "\n200", "\"foo\"");
        ends(publish("bar"), "\n201", BAR);
        ends(get(BAR), "\n200", "\"bar\"");
        ends(get(FOO), "\n200", "\"foo\"");
        ends(curl(&["-k"], "/livez"), "\n200", "ok");
        ends(
            curl(&["-k", "--tlsv1.2", "--tls-max", "1.2"], "/livez"),
            "\n200",
            "ok",
        );
        // Whoever trusts nothing of ours gets nothing.
        ends(curl(&[], "/livez"), "\n000", "");
        server.stop();
    }
}

/// Clients that hold connections and give nothing, by what they do instead.
#[derive(Clone, Copy, Debug)]
enum Idler {
    Silent,
    SlowHead,
    SlowBody,
}

#[test]
#[ignore = "needs 2,000 descriptors and two quiet cores"]
fn a_thousand_clients_that_give_nothing_hold_up_nobody() {
    const IDLERS: usize = 1000;
    raise_descriptor_limit();
    let data = tempfile::tempdir().unwrap();
    let server = self_signed(&data).option("--access-log", "on").start();
    let (plain, secure) = (server.address(), https_address(&server));
    let digest = server.client().publish("foo").unwrap().to_string();
    let idle = p99(&server, &digest);
    for idler in [Idler::Silent, Idler::SlowHead, Idler::SlowBody] {
        let address = match idler {
            Idler::Silent => secure,
            Idler::SlowHead | Idler::SlowBody => plain,
        };
        let started = Instant::now();
        let mut held: Vec<_> = (0..IDLERS)
            .map(|number| hold(number, address, idler))
            .collect();
        let busy = p99(&server, &digest);
        // The clock of a shared machine ticks in milliseconds.
        let most = 3 * idle.max(Duration::from_millis(1));
        assert!(busy <= most, "{idler:?}: p99 {busy:?} instead of {idle:?}");
        println!("{idler:?}: p99 {busy:?}, idle {idle:?}");
        let documented = match idler {
            Idler::Silent | Idler::SlowHead => Limits::default().connection.head_timeout,
            Idler::SlowBody => Limits::default().body.stall_timeout,
        };
        for stream in &mut held {
            let mut rest = Vec::new();
            stream.set_read_timeout(Some(2 * documented)).unwrap();
            // The connection may be reset, since the rest of the body never came.
            let _ = stream.read_to_end(&mut rest);
            match idler {
                Idler::Silent | Idler::SlowHead => assert!(rest.is_empty(), "{idler:?}"),
                Idler::SlowBody => assert!(rest.starts_with(b"HTTP/1.1 408"), "{rest:?}"),
            }
        }
        let open_for = started.elapsed();
        assert!(
            open_for >= documented && open_for < 2 * documented,
            "{idler:?}: {open_for:?}"
        );
    }
}

/// Opens a connection, from an address that a few hundred share.
fn hold(number: usize, address: SocketAddr, idler: Idler) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let from = [127, 0, 1, u8::try_from(number / 200).unwrap()];
    let stream = runtime.block_on(async { stream_from(from, address).await.into_std().unwrap() });
    stream.set_nonblocking(false).unwrap();
    let start: &[u8] = match idler {
        Idler::Silent => b"",
        Idler::SlowHead => b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ",
        Idler::SlowBody => {
            b"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nf"
        }
    };
    (&stream).write_all(start).unwrap();
    stream
}

/// 99 of 100 requests of a healthy client take no longer.
fn p99(server: &Digestd, digest: &str) -> Duration {
    let mut client = server.client();
    let path = format!("/messages/{digest}");
    let mut times: Vec<_> = (0..3000)
        .map(|_| {
            let started = Instant::now();
            let answer = client.ask("GET", &path, &[], b"").unwrap();
            assert_eq!(answer.status, 200);
            started.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() * 99 / 100]
}

/// A certificate for this machine that expires in so long, with its key.
fn certificate_for(time: Duration) -> [String; 2] {
    let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let now = SystemTime::now();
    parameters.not_before = (now - Duration::from_hours(24)).into();
    parameters.not_after = (now + time).into();
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    [certificate.pem(), key.serialize_pem()]
}

#[test]
fn a_self_made_certificate_is_renewed_a_month_before_it_expires() {
    const MONTH: Duration = Duration::from_hours(30 * 24);
    const MINUTE: Duration = Duration::from_mins(1);
    for (time, is_kept) in [
        (Duration::ZERO, false),
        (MONTH.checked_sub(MINUTE).unwrap(), false),
        (MONTH + MINUTE, true),
    ] {
        let data = tempfile::tempdir().unwrap();
        let paths = ["localhost.crt", "localhost.key"].map(|name| data.path().join(name));
        let old = certificate_for(time);
        for (path, text) in paths.iter().zip(&old) {
            fs::write(path, text).unwrap();
        }
        let open = || {
            let config = CertificateConfig::SelfSigned;
            Tls::new(&config, data.path(), Arc::new(Metrics::default())).unwrap();
            paths
                .each_ref()
                .map(|path| fs::read_to_string(path).unwrap())
        };
        let found = open();
        assert_eq!(
            found.each_ref().map(|text| old.contains(text)),
            [is_kept; 2],
            "{time:?}"
        );
        // A new one is valid for long.
        assert_eq!(open(), found);
    }
}
