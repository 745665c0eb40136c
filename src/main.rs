//! Arguments → settings → verb → exit code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Parser;
use digestd::access::Access;
use digestd::access::tokens::Token;
use digestd::client::{Client, InvalidUrl, NotFound, Unreachable};
use digestd::commands::{
    self, Cli, Command, Findings, GetArgs, HealthcheckArgs, NewTokenArgs, PutArgs, TextArgs,
    TokenCommand, UsageError,
};
use digestd::config::{Config, Limits, LogConfig};
use digestd::digest::Digest;
use digestd::http::{App, ListenerRole};
use digestd::logging::{self, Logs};
use digestd::metrics::Metrics;
use digestd::server::{self, BindError, Listener, Tls};
use digestd::service::Service;
use digestd::store::{self, DataDirectory, EmbeddedStore, OpenError, Options, Store};
use digestd::supervisor::{self, Inherited};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// Messages and pages of the index are made by one thread and freed by another, which with glibc's
/// allocator means that they wait for each other now and then.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Every command that opens a store needs a descriptor for each segment.
    let raised = raise_file_limit();
    let result = match Cli::parse().into_command() {
        Command::Serve(arguments) => arguments
            .into_config()
            .map_err(anyhow::Error::from)
            .and_then(|config| serve(config, raised)),
        Command::Hash(arguments) => hash(arguments),
        Command::Put(arguments) => put(arguments),
        Command::Get(arguments) => get(&arguments),
        Command::Verify(arguments) => with_log(|| commands::verify(&arguments)),
        Command::Export(arguments) => with_log(|| commands::export(&arguments)),
        Command::Import(arguments) => with_log(|| commands::import(&arguments)),
        Command::Backup(arguments) => with_log(|| commands::back_up(&arguments)),
        Command::Compact(arguments) => with_log(|| commands::compact(&arguments)),
        Command::Doctor(arguments) => commands::doctor(&arguments),
        Command::CrashWriter(arguments) => commands::crash_writer(&arguments),
        Command::Healthcheck(arguments) => healthcheck(arguments),
        Command::Token(arguments) => match arguments.command {
            TokenCommand::New(arguments) => new_token(&arguments),
        },
    };
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            // Nobody may be reading any more; the exit code says it too.
            let _ = writeln!(io::stderr(), "digestd: {error:#}");
            exit_code(&error)
        }
    };
    // Not by returning: an index that failed can fail once more when dropped.
    std::process::exit(code)
}

/// For verbs that open a store, which tells the log what it meets.
fn with_log(verb: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let logs = logging::init(&LogConfig::default())?;
    let result = verb();
    logs.flush();
    result
}

/// See `--help`.
fn exit_code(error: &anyhow::Error) -> i32 {
    if matches!(error.downcast_ref(), Some(OpenError::Held { .. })) {
        4
    } else if error.is::<UsageError>() || error.is::<InvalidUrl>() {
        2
    } else if error.is::<Findings>() {
        3
    } else if error.is::<BindError>() {
        5
    } else if error.is::<NotFound>() {
        6
    } else if error.is::<Unreachable>() {
        7
    } else {
        1
    }
}

fn hash(arguments: TextArgs) -> anyhow::Result<()> {
    print(format!("{}\n", Digest::of(arguments.read()?.as_bytes())).as_bytes())
}

fn put(arguments: PutArgs) -> anyhow::Result<()> {
    let client = arguments.credential.client(&arguments.server.url)?;
    if let Some(path) = arguments.batch {
        return commands::put_batch(&client, &path);
    }
    let text = arguments.text.read()?;
    let digest = client_runtime()?.block_on(client.put(text))?;
    print(format!("{digest}\n").as_bytes())
}

fn get(arguments: &GetArgs) -> anyhow::Result<()> {
    let client = arguments.credential.client(&arguments.server.url)?;
    let text = client_runtime()?.block_on(client.get(&arguments.digest))?;
    print(&text)
}

/// The secret where results go, since it cannot be had again; the line where no harm is done if it
/// is kept.
fn new_token(arguments: &NewTokenArgs) -> anyhow::Result<()> {
    let token = Token::random().context("there are no random numbers")?;
    let line = token.line(&arguments.name, arguments.scope);
    writeln!(io::stderr(), "{line}").context("cannot write the line of the token")?;
    print(format!("{}\n", token.reveal()).as_bytes())
}

/// Containers are asked every few seconds, and a server that takes longer is not well.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

fn healthcheck(arguments: HealthcheckArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.url()?)?;
    client_runtime()?.block_on(async {
        tokio::time::timeout(HEALTHCHECK_TIMEOUT, client.check())
            .await
            .context("the server did not answer in time")?
    })
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .context("cannot write the result")
}

fn client_runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}

fn serve(mut config: Config, raised: io::Result<()>) -> anyhow::Result<()> {
    // Before there are threads, since it changes the environment.
    let inherited = supervisor::inherited_sockets().context("cannot use an inherited socket")?;
    let logs = logging::init(&config.log)?;
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit on open files");
    }
    let result = set_up(&mut config, inherited, &logs);
    logs.flush();
    result
}

fn set_up(config: &mut Config, inherited: Vec<Inherited>, logs: &Logs) -> anyhow::Result<()> {
    let files = set_process_limits(&mut config.limits);
    // May be there before the store is.
    let log = config.log.file.as_ref().map(|file| &*file.path);
    let log: Vec<_> = log.into_iter().collect();
    let directory = DataDirectory::claim_beside(&config.data_dir, config.segment_bytes, &log)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.workers)
        // For hashing: more threads than processors would only take memory.
        .max_blocking_threads(config.workers.max(2))
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(run(config, files, directory, inherited, logs))
}

async fn run(
    config: &Config,
    files: Option<u64>,
    directory: DataDirectory,
    inherited: Vec<Inherited>,
    logs: &Logs,
) -> anyhow::Result<()> {
    // Before the port is open: who sees it open may order to stop.
    let last_words = logs.clone();
    let stop_signal = server::stop_signal(move || last_words.flush());
    let stop_signal = stop_signal.context("cannot listen for signals")?;
    let metrics = Arc::new(Metrics::default());
    let tls = match &config.tls {
        None => None,
        Some(tls) => Some(Arc::new(Tls::new(
            &tls.certificate,
            &config.data_dir,
            Arc::clone(&metrics),
        )?)),
    };
    let access = Arc::new(Access::new(config.access.clone())?);
    let listeners = listen(config, tls.as_ref(), inherited)?;
    announce(config, &access, files, &listeners);
    tokio::spawn(keep_files_fresh(logs.clone(), tls, Arc::clone(&access))?);
    tokio::spawn(supervisor::give_signs_of_life());
    let service = Arc::new(Service::default());
    let app = App::new(Arc::clone(&service), config.limits.clone());
    let mut app = app.reporting_to(Arc::clone(&metrics), logs.clone());
    // With tokens, the one of a request decides.
    if config.allow_export || config.access.tokens.is_some() {
        app = app.allow_export();
    }
    let app = Arc::new(app.guarded_by(access));

    // The port answers while the store opens, which may take a while.
    let (opened, mut opening) = oneshot::channel();
    let options = options(config, metrics);
    let scrub_interval = config.scrub_interval;
    let (_scrubbing, scrub_stop) = mpsc::channel();
    let starting = Arc::clone(&service);
    thread::Builder::new()
        .name("open".into())
        .spawn(move || {
            let result = open(directory, options, &starting);
            if let (Ok(store), Some(interval)) = (&result, scrub_interval) {
                spawn_scrub(Arc::clone(store), interval, scrub_stop);
            }
            // Nobody waits any more if the order to stop came first.
            let _ = opened.send(result);
        })
        .context("cannot start a thread")?;

    let mut store = None;
    let mut failure = None;
    let stop = async {
        let mut stop_signal = std::pin::pin!(stop_signal);
        tokio::select! {
            () = &mut stop_signal => return supervisor::stopping(),
            result = &mut opening => match result {
                Ok(Ok(opened)) => store = Some(opened),
                Ok(Err(error)) => failure = Some(anyhow::Error::from(error)),
                Err(_) => failure = Some(anyhow::anyhow!("opening the store ended with a panic")),
            },
        }
        let Some(store) = &store else {
            return supervisor::stopping();
        };
        supervisor::ready();
        tokio::select! {
            () = stop_signal => {}
            reason = store.failed(), if config.exit_on_failure => {
                failure = Some(anyhow::anyhow!("the store failed: {reason}"));
            }
        }
        supervisor::stopping();
    };
    server::run(listeners, app, config.limits.connection.clone(), stop).await;
    let closed = if let Some(store) = store {
        tokio::task::spawn_blocking(move || store.close())
            .await?
            .context("the store could not be closed properly")
            .inspect(|()| info!("stopped; everything is on the disk"))
    } else {
        info!("stopped before the store was open");
        Ok(())
    };
    failure.map_or(closed, Err)
}

/// Binds all that is configured. A socket that a supervisor hands over stands for the addresses of
/// its kind, which its name tells.
fn listen(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    inherited: Vec<Inherited>,
) -> anyhow::Result<Vec<Listener>> {
    let has = |kind| inherited.iter().any(|socket| Kind::of(socket) == kind);
    let mut sockets = Vec::new();
    let tls_listen = config.tls.iter().flat_map(|tls| tls.listen.clone());
    for (kind, addresses) in [
        (Kind::Plain, config.listen.clone()),
        (Kind::Tls, tls_listen.collect()),
        (Kind::Admin, config.admin_listen.clone()),
    ] {
        if !has(kind) {
            let bound = server::bind(&addresses)?.into_iter();
            sockets.extend(bound.map(|socket| (kind, socket)));
        }
    }
    for handed in inherited {
        let kind = Kind::of(&handed);
        let socket = TcpListener::from_std(handed.socket);
        sockets.push((kind, socket.context("cannot use an inherited socket")?));
    }
    let has_admin = sockets.iter().any(|(kind, _)| *kind == Kind::Admin);
    let listener = |(kind, socket)| {
        Ok(Listener {
            socket,
            role: match kind {
                Kind::Admin => ListenerRole::Admin,
                _ if has_admin => ListenerRole::Public,
                _ => ListenerRole::All,
            },
            tls: match kind {
                Kind::Tls => Some(tls.cloned().context(
                    "an inherited socket is called \"https\", and there is no --tls-listen",
                )?),
                _ => None,
            },
        })
    };
    sockets.into_iter().map(listener).collect()
}

/// What a socket is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Tls,
    Admin,
}

impl Kind {
    fn of(socket: &Inherited) -> Self {
        match socket.name.as_str() {
            "https" => Self::Tls,
            "admin" => Self::Admin,
            _ => Self::Plain,
        }
    }
}

/// Time between looks at the files of the certificate.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the certificate again when it has changed, and on SIGHUP; then the log file is opened anew
/// too.
fn keep_files_fresh(
    logs: Logs,
    tls: Option<Arc<Tls>>,
    access: Arc<Access>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangups = server::hangups().context("cannot listen for signals")?;
    Ok(async move {
        let mut ticks = tokio::time::interval(CERTIFICATE_INTERVAL);
        loop {
            let is_hangup = tokio::select! {
                _ = hangups.recv() => true,
                _ = ticks.tick(), if tls.is_some() => false,
            };
            if is_hangup {
                logs.reopen();
                info!("SIGHUP: opened the log file anew");
                let access = Arc::clone(&access);
                // A panic is in the log, and the rules are the old ones.
                let _ = tokio::task::spawn_blocking(move || reload(&access)).await;
            }
            let Some(tls) = tls.clone() else { continue };
            let read = move || {
                if is_hangup {
                    tls.reload();
                } else {
                    tls.reload_if_changed();
                }
            };
            // A panic is in the log, and the certificate is the old one.
            let _ = tokio::task::spawn_blocking(read).await;
        }
    })
}

/// Reads tokens and lists again.
fn reload(access: &Access) {
    match access.reload() {
        Ok(()) if access.has_files() => info!("tokens and lists were read again, and hold"),
        Ok(()) => {}
        Err(error) => error!(%error, "tokens and lists stay as they were"),
    }
}

fn options(config: &Config, metrics: Arc<Metrics>) -> Options {
    // Most look-ups of a message that is not read often end in the index; most of the memory is
    // best spent there.
    let message_cache_bytes = config.cache_bytes / 4;
    Options {
        durability: config.durability,
        index_cache_bytes: config.cache_bytes - message_cache_bytes,
        message_cache_bytes,
        message_bytes_max: config.limits.body.bytes_max,
        free_bytes_min: config.free_bytes_min,
        observer: Some(metrics),
    }
}

/// Opens the store and lets `service` serve from it.
fn open(
    directory: DataDirectory,
    options: Options,
    service: &Service,
) -> Result<Arc<EmbeddedStore>, OpenError> {
    let store = EmbeddedStore::open(directory, options, &|stage| {
        info!("{stage}");
        supervisor::starting(&stage);
        service.set_stage(stage);
    })?;
    let store = Arc::new(store);
    service.start(Arc::<EmbeddedStore>::clone(&store));
    info!(messages = store.messages(), "ready");
    Ok(store)
}

/// Checks everything that is stored again and again, until nobody can say stop any more.
fn spawn_scrub(store: Arc<EmbeddedStore>, interval: Duration, stop: mpsc::Receiver<()>) {
    let scrub = move || store::keep_scrubbing(&store, interval, &stop);
    if let Err(error) = thread::Builder::new().name("scrub".into()).spawn(scrub) {
        warn!(%error, "cannot start a thread: what is stored is not checked");
    }
}

/// The first lines of every log: what an operator looks for when something is not as expected.
fn announce(config: &Config, access: &Access, files: Option<u64>, listeners: &[Listener]) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        data_dir = %config.data_dir.display(),
        durability = config.durability.name(),
        cache = %ByteSize(config.cache_bytes),
        connections_and_bodies_at_most = %ByteSize(config.memory_bytes_max() as u64),
        open_files_at_most = files,
        tls = config.tls.is_some(),
        "digestd starts; {}",
        access.summary()
    );
    for listener in listeners {
        let Ok(address) = listener.socket.local_addr() else {
            continue;
        };
        let scheme = match listener.tls {
            Some(_) => "https",
            None => "http",
        };
        match listener.role {
            ListenerRole::All | ListenerRole::Public => info!("listening on {scheme}://{address}"),
            ListenerRole::Admin => info!("metrics on {scheme}://{address}/metrics"),
        }
    }
}

/// As many descriptors as the system lets us have.
fn raise_file_limit() -> io::Result<()> {
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    Ok(setrlimit(Resource::Nofile, all)?)
}

/// No more connections than leave the store its share of the descriptors, and no core dumps: they would
/// hold messages. Returns how many descriptors there are, `None` if there is no limit.
fn set_process_limits(limits: &mut Limits) -> Option<u64> {
    let connections = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |files| files / 4 * 3);
    let connections = usize::try_from(connections).unwrap_or(usize::MAX);
    if connections < limits.connection.connections_max {
        warn!(
            connections,
            "fewer connections than usual: the limit on open files is low"
        );
        limits.connection.connections_max = connections;
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cannot turn off core dumps");
    }
    getrlimit(Resource::Nofile).current
}
