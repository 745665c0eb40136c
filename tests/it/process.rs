//! The real binary as a child process, and a client that speaks just enough HTTP to talk to it.
//!
//! Nothing of the environment that `digestd` heeds reaches a child, every child is dead when its
//! handle is gone, and every wait has an end.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs, str};

use digestd::digest::Digest;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// For whatever takes a moment: far more than it takes on a slow and busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A command line of the binary, deaf to the environment of the tests.
pub(crate) fn digestd() -> Command {
    deafened(Command::new(env!("CARGO_BIN_EXE_digestd")))
}

/// A command line of the second binary.
pub(crate) fn find_pair() -> Command {
    deafened(Command::new(env!("CARGO_BIN_EXE_find-pair")))
}

fn deafened(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        if name == "PORT" || name.as_encoded_bytes().starts_with(b"DIGESTD_") {
            command.env_remove(name);
        }
    }
    // Would show a backtrace if anything ever asked for one.
    command.env("RUST_BACKTRACE", "1");
    command
}

/// What a command that ended left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// Runs a command to its end with `input` on its standard input. A data directory that this process
/// has closed may be held for another moment by a child that another test is just starting.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Outcome {
    let started = Instant::now();
    let ourselves = format!("pid {},", std::process::id());
    loop {
        let outcome = run_once(command, input);
        let is_held_by_us = outcome.code == Some(4) && outcome.stderr.contains(&ourselves);
        if !is_held_by_us || started.elapsed() > PATIENCE {
            return outcome;
        }
    }
}

/// The same where the reader of its standard output is gone before it begins.
pub(crate) fn run_without_reader(command: &mut Command, input: &[u8]) -> Outcome {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let child = command
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let stderr = read_aside(process.0.stderr.take().unwrap());
    let _ = process.0.stdin.take().unwrap().write_all(input);
    let code = process.wait().code();
    Outcome {
        code,
        stdout: Vec::new(),
        stderr: String::from_utf8(stderr.join().unwrap()).unwrap(),
    }
}

fn run_once(command: &mut Command, input: &[u8]) -> Outcome {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let stdout = read_aside(process.0.stdout.take().unwrap());
    let stderr = read_aside(process.0.stderr.take().unwrap());
    // It need not read what it does not want.
    let _ = process.0.stdin.take().unwrap().write_all(input);
    let code = process.wait().code();
    Outcome {
        code,
        stdout: stdout.join().unwrap(),
        stderr: String::from_utf8(stderr.join().unwrap()).unwrap(),
    }
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A child that is dead when its handle is gone.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "process {} does not end",
                self.0.id()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither can fail in a way that matters: it is our own child.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server about to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    wrapper: Vec<OsString>,
    options: BTreeMap<&'static str, OsString>,
    environment: BTreeMap<&'static str, OsString>,
    has_terminal: bool,
}

impl Launch {
    /// With its data in `data_dir`, a port of its own, and kind to the disk.
    pub(crate) fn new(data_dir: &Path) -> Self {
        let launch = Self {
            wrapper: Vec::new(),
            options: BTreeMap::new(),
            environment: BTreeMap::new(),
            has_terminal: false,
        };
        launch
            .option("--data-dir", data_dir)
            .option("--listen", "127.0.0.1:0")
            .option("--segment-size", "4MiB")
            .option("--free-min", "0B")
            .option("--log-format", "text")
    }

    /// With this option, instead of the one of that name.
    pub(crate) fn option(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.options.insert(name, value.as_ref().into());
        self
    }

    /// Without that option.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.options.remove(name).unwrap();
        self
    }

    /// With this variable in its environment.
    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name, value.as_ref().into());
        self
    }

    /// With a terminal as its standard error.
    pub(crate) fn on_a_terminal(mut self) -> Self {
        self.has_terminal = true;
        self.without("--log-format").env("TERM", "xterm")
    }

    /// Through another program, which gets the command line as its last arguments and must become
    /// the server, so that both have the same pid.
    pub(crate) fn through<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.wrapper
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Where the server will have its data.
    pub(crate) fn data_dir(&self) -> &Path {
        Path::new(&self.options["--data-dir"])
    }

    /// The whole command line.
    pub(crate) fn command(&self) -> Command {
        let mut words = self.wrapper.iter();
        let mut command = match words.next() {
            None => digestd(),
            Some(program) => {
                let mut command = deafened(Command::new(program));
                command.args(words).arg(env!("CARGO_BIN_EXE_digestd"));
                command
            }
        };
        for (name, value) in &self.options {
            command.arg(name).arg(value);
        }
        command.envs(&self.environment);
        command
    }

    /// Starts it, and returns once it serves messages.
    pub(crate) fn start(&self) -> Digestd {
        let server = self.start_unready();
        server.wait_for("ready");
        server
    }

    /// The same for one that serves HTTPS alone; its address is that of HTTPS.
    pub(crate) fn start_secure(&self) -> Digestd {
        let server = self.start_by(|log| log.wait_for("listening on https://"));
        server.wait_for("ready");
        server
    }

    /// Starts it with its log in `file`, and returns once it serves messages.
    pub(crate) fn start_elsewhere(&self, file: &Path) -> Digestd {
        let has_in_log = |text: &str| {
            let log = fs::read_to_string(file).unwrap_or_default();
            log.lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        };
        self.start_by(|_| {
            wait_until("the server", || has_in_log("ready").is_some());
            has_in_log("listening on http://").unwrap()
        })
    }

    /// Starts it, and returns once it has a port; its store may not be open yet.
    pub(crate) fn start_unready(&self) -> Digestd {
        self.start_by(|log| log.wait_for("listening on http://"))
    }

    /// Starts it; `listening` finds the line that has its address.
    fn start_by(&self, listening: impl FnOnce(&Log) -> String) -> Digestd {
        let (near_end, far_end) = if self.has_terminal {
            let (near_end, far_end) = terminal();
            (Some(near_end), far_end.into())
        } else {
            (None, Stdio::piped())
        };
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(far_end)
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let stderr: Box<dyn Read + Send> = match near_end {
            Some(terminal) => Box::new(terminal),
            None => Box::new(process.0.stderr.take().unwrap()),
        };
        let log = Arc::new(Log::default());
        let reader = {
            let log = Arc::clone(&log);
            thread::spawn(move || log.fill(stderr))
        };
        Digestd {
            address: address_in(&listening(&log)),
            process,
            log,
            reader,
        }
    }
}

/// The address of the first URL in a line of a log.
pub(crate) fn address_in(line: &str) -> SocketAddr {
    let (_, address) = line.split_once("://").unwrap();
    let end = address.find(['"', ' ', '/']).unwrap_or(address.len());
    address[..end].parse().unwrap()
}

/// Waits until `is_so` says yes.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} took too long");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Digestd {
    address: SocketAddr,
    process: Process,
    log: Arc<Log>,
    reader: JoinHandle<()>,
}

impl Digestd {
    /// Starts a server on `data_dir` with all defaults; see [`Launch`].
    pub(crate) fn start(data_dir: &Path) -> Self {
        Launch::new(data_dir).start()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Memory that it has at the moment.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid(), "VmRSS:")
    }

    /// The most memory that it has had so far.
    pub(crate) fn peak_bytes(&self) -> u64 {
        resident_bytes(self.pid(), "VmHWM:")
    }

    /// Counts [`peak_bytes`](Self::peak_bytes) from now on.
    pub(crate) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    /// Time that processors spent on it, in its own code and in the kernel.
    pub(crate) fn processor_time(&self) -> Duration {
        processor_time(self.pid())
    }

    /// A new connection to it.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// Waits for a line of its log with `text` in it, and returns it.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.log.wait_for(text)
    }

    /// Waits until there are so many lines of its log with `text` in them.
    pub(crate) fn wait_for_times(&self, text: &str, times: usize) {
        self.log.wait_until(text, times);
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().text()
    }

    /// Number of messages it said it had when it was ready.
    pub(crate) fn messages(&self) -> u64 {
        let line = self.wait_for("ready messages=");
        let (_, number) = line.split_once("messages=").unwrap();
        number.parse().unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end, and returns its status and everything it has logged.
    pub(crate) fn wait(self) -> (ExitStatus, String) {
        let Self {
            mut process,
            log,
            reader,
            ..
        } = self;
        let status = process.wait();
        let mut stdout = String::new();
        let mut pipe = process.0.stdout.take().unwrap();
        pipe.read_to_string(&mut stdout).unwrap();
        assert_eq!(stdout, "", "standard output is for results");
        reader.join().unwrap();
        let log = log.lines.lock().unwrap().text();
        (status, log)
    }

    /// Stops it as a supervisor does, and returns everything it has logged.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.wait();
        assert_eq!(status.code(), Some(0), "{status}\n{log}");
        log
    }

    /// Ends it without a warning, and returns everything it has logged.
    pub(crate) fn kill(self) -> String {
        self.signal(Signal::KILL);
        let (status, log) = self.wait();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{log}");
        log
    }
}

fn resident_bytes(pid: u32, figure: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<u64>().unwrap() << 10
}

/// Time that processors spent on a process.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field, in brackets, may hold anything; user and system time are 14 and 15.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks = rest.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // Every Linux counts in hundredths of a second there.
    Duration::from_millis(ticks * 10)
}

/// A terminal: what is written to the second file is read from the first.
pub(crate) fn terminal() -> (File, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let far_end = File::options()
        .write(true)
        .open(Path::new(name.to_str().unwrap()))
        .unwrap();
    (terminal.into(), far_end)
}

/// What a command that succeeds writes to its standard error if that is a terminal of this kind.
pub(crate) fn on_a_terminal(command: &mut Command, kind: &str) -> String {
    let (terminal, far_end) = terminal();
    let child = command
        .env("TERM", kind)
        .stdout(Stdio::null())
        .stderr(far_end.try_clone().unwrap())
        .spawn()
        .unwrap();
    // Meanwhile: a terminal takes 4 KiB that nobody reads, which a search on a slow machine fills.
    let reading = thread::spawn(move || {
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        while !text.ends_with(b"\0") {
            let length = (&terminal).read(&mut bytes).unwrap();
            text.extend(&bytes[..length]);
        }
        text.pop();
        String::from_utf8(text).unwrap()
    });
    let status = Process(child).wait();
    assert_eq!(status.code(), Some(0));
    // Something to read in any case: a terminal without anybody at its far end is an error.
    (&far_end).write_all(b"\0").unwrap();
    reading.join().unwrap()
}

/// The standard error of a server, line by line.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

impl Log {
    fn fill(&self, pipe: impl Read) {
        for line in BufReader::new(pipe).lines() {
            let line = match line {
                // A terminal whose far end is closed.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => break,
                line => line.unwrap(),
            };
            self.lines.lock().unwrap().lines.push(line);
            self.more.notify_all();
        }
        self.lines.lock().unwrap().ended = true;
        self.more.notify_all();
    }

    fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, 1)
    }

    /// Waits for the line that is the `times`th with `text` in it.
    fn wait_until(&self, text: &str, times: usize) -> String {
        let find = |lines: &Lines| {
            let mut found = lines.lines.iter().filter(|line| line.contains(text));
            found.nth(times - 1).cloned()
        };
        let (lines, _) = self
            .more
            .wait_timeout_while(self.lines.lock().unwrap(), PATIENCE, |lines| {
                !lines.ended && find(lines).is_none()
            })
            .unwrap();
        let line = find(&lines);
        let log = lines.text();
        // Not while the lock is held: the handle's drop must not meet a poisoned one.
        drop(lines);
        line.unwrap_or_else(|| panic!("no line with {text:?} in the log:\n{log}"))
    }
}

/// A connection that is kept open.
#[derive(Debug)]
pub(crate) struct Client<S: Read + Write = TcpStream>(BufReader<S>);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }
}

impl Client<UnixStream> {
    pub(crate) fn connect_local(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }
}

impl<S: Read + Write> Client<S> {
    /// Sends a request and reads its answer.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in fields {
            request.extend([*name, ": ", *value, "\r\n"]);
        }
        if matches!(method, "POST" | "PUT") {
            let length = body.len().to_string();
            request.extend(["Content-Length: ", &length, "\r\n"]);
        }
        request += "\r\n";
        self.send(&[request.as_bytes(), body].concat())?;
        self.answer()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads an answer.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").expect("a status line");
        let status = status.get(..3).unwrap().parse().unwrap();
        let mut fields = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').expect("a field");
            let known = fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            assert_eq!(known, None, "two fields {name}");
        }
        let body = match fields.get("content-length") {
            _ if matches!(status, 204 | 304) => Vec::new(),
            Some(length) => self.bytes(length.parse().unwrap())?,
            None => self.chunks()?,
        };
        Ok(Answer {
            status,
            fields,
            body,
        })
    }

    /// Reads chunks up to the last, which is empty.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line()?, 16).expect("a length");
            body.extend(self.bytes(length)?);
            assert_eq!(self.line()?, "");
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a line of an answer.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Posts a text. An error means that the connection broke, nothing else.
    pub(crate) fn post(&mut self, text: &str) -> io::Result<Answer> {
        let fields = [("Content-Type", "text/plain"), ("Accept", "text/plain")];
        self.ask("POST", "/messages", &fields, text.as_bytes())
    }

    /// Stores a text that must be taken.
    pub(crate) fn publish(&mut self, text: &str) -> io::Result<Digest> {
        let answer = self.post(text)?;
        let digest = Digest::of(text.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.text(), format!("{digest}\n"));
        Ok(digest)
    }

    /// Asks for a text.
    pub(crate) fn get(&mut self, digest: &Digest) -> io::Result<Answer> {
        let path = format!("/messages/{digest}");
        self.ask("GET", &path, &[("Accept", "text/plain")], b"")
    }

    /// The text with this digest, `None` if there is no such message.
    pub(crate) fn fetch(&mut self, digest: &Digest) -> Option<String> {
        let answer = self.get(digest).unwrap();
        match answer.status {
            200 => Some(answer.text().to_owned()),
            404 => None,
            _ => panic!("{answer:?}"),
        }
    }
}

/// An answer of a server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body, which is UTF-8 whatever it is.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}
