//! The servers that the load bench drives: processes of their own, so that their processor time is
//! theirs alone.
//!
//! It knows nothing of what they are asked. **Invariant:** none of them outlives a bench that ends by itself.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tempfile::TempDir;

/// A process that serves, and says where in lines with `http://` and `https://`.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: Option<SocketAddr>,
}

impl Server {
    /// Returns when it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let (mut address, mut tls_address) = (None, None);
        for line in lines.by_ref().take_while(|line| !line.contains("ready")) {
            let after = |scheme| line.split_once(scheme)?.1.trim().parse().ok();
            address = address.or_else(|| after("http://"));
            tls_address = tls_address.or_else(|| after("https://"));
        }
        // Whatever else it says goes nowhere, but must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address: address.unwrap(),
            tls_address,
        }
    }

    /// Processor time of the process so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
        let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// The most memory the process has had so far.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory it has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kibibytes.parse::<u64>().unwrap() << 10
    }

    /// What its threads have done so far: seconds on a processor, exactly, and how often one of them
    /// woke up.
    pub(crate) fn activity(&self) -> (f64, u64) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        tasks.fold((0.0, 0), |(seconds, wakeups), task| {
            let task = task.unwrap().path();
            let schedule = fs::read_to_string(task.join("schedstat")).unwrap();
            let nanoseconds: u64 = schedule.split(' ').next().unwrap().parse().unwrap();
            let status = fs::read_to_string(task.join("status")).unwrap();
            let mut lines = status.lines();
            let slept = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let slept: u64 = slept.unwrap().trim().parse().unwrap();
            (seconds + nanoseconds as f64 / 1e9, wakeups + slept)
        })
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.process.id())).unwrap()
    }
}

impl Drop for Server {
    /// As with `kill -9`.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// digestd, with its store in `directory`, and with a cache that holds the index of a million messages
/// unless `arguments` say otherwise.
pub(crate) fn service_command(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_digestd"));
    command
        .arg("--data-dir")
        .arg(directory.path().join("store"))
        .args(["--listen", "127.0.0.1:0", "--free-min", "0B"])
        // Those of one row may not have ended yet when the next one begins.
        .args(["--client-connections-max", "1024"])
        .args(["--log-format", "text"])
        .args(arguments);
    if !arguments.contains(&"--cache") {
        command.args(["--cache", "512MiB"]);
    }
    command
}

/// One of those below, `floor` or `hyper`, which answers everything with `answer_bytes` bytes.
pub(crate) fn bare_command(name: &str, answer_bytes: usize) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, &answer_bytes.to_string()]);
    command
}

/// The service in Go that keeps its messages in memory, if Go is installed.
pub(crate) fn go_command(directory: &TempDir) -> Option<Command> {
    let program = directory.path().join("go-server");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/load/go/main.go");
    let built = Command::new("go")
        .arg("build")
        .arg("-o")
        .arg(&program)
        .arg(source)
        .status();
    match built {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        built => {
            assert!(built.unwrap().success());
            Some(Command::new(program))
        }
    }
}

/// Length of the answer to a GET of `path`.
pub(crate) fn answer_bytes(server: &Server, path: &str) -> usize {
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read(&mut [0; 4096]).unwrap()
}

/// Runs hyper on as many threads as digestd has, with nothing to do: what a service built on it costs at
/// least.
pub(crate) fn run_hyper(answer_bytes: usize) {
    // hyper adds the length and the date.
    let head =
        "HTTP/1.1 200 OK\r\ncontent-length: 000\r\ndate: Sat, 28 Nov 2026 00:00:00 GMT\r\n\r\n";
    let body = Bytes::from(vec![b'x'; answer_bytes - head.len()]);
    let serve = async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        eprintln!("hyper on http://{}", listener.local_addr().unwrap());
        eprintln!("ready");
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let body = body.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |_| {
                    let response = Response::new(Full::new(body.clone()));
                    async { Ok::<_, Infallible>(response) }
                });
                let connection = http1::Builder::new();
                let connection = connection.serve_connection(TokioIo::new(stream), answer);
                // It ends with the client's.
                let _ = connection.await;
            });
        }
    };
    tokio::runtime::Runtime::new().unwrap().block_on(serve);
}

/// Runs the floor: whatever comes is a request, and every request has the same answer.
pub(crate) fn run_floor(answer_bytes: usize) {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length:04}\r\n\r\n");
    let length = answer_bytes - head(0).len();
    let answer = head(length) + &"x".repeat(length);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    eprintln!("floor on http://{}", listener.local_addr().unwrap());
    eprintln!("ready");
    listener.set_nonblocking(true).unwrap();
    let poll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(
        &poll,
        &listener,
        EventData::new_u64(u64::MAX),
        EventFlags::IN,
    )
    .unwrap();
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut buffer = [0; 4096];
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in &events {
            let Event { data, .. } = *event;
            if data.u64() == u64::MAX {
                let (stream, _) = listener.accept().unwrap();
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                epoll::add(
                    &poll,
                    &stream,
                    EventData::new_u64(streams.len() as u64),
                    EventFlags::IN,
                )
                .unwrap();
                streams.push(Some(stream));
                continue;
            }
            let slot = &mut streams[data.u64() as usize];
            let Some(stream) = slot else { continue };
            match stream.read(&mut buffer) {
                Ok(bytes) if bytes > 0 => stream.write_all(answer.as_bytes()).unwrap(),
                // Dropping it takes it out of the poll.
                _ => *slot = None,
            }
        }
    }
}
