//! Arguments → settings → verb → exit code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Parser;
use digestd::cli::{BenchArgs, Cli, Command, GetArgs, PutArgs, TextArgs, UsageError};
use digestd::client::{Client, InvalidUrl, NotFound, Unreachable};
use digestd::config::{Config, Limits};
use digestd::digest::Digest;
use digestd::http::App;
use digestd::load;
use digestd::server::{self, BindError};
use digestd::service::Service;
use digestd::store::{DataDirectory, EmbeddedStore, OpenError, Options, Store};
use digestd::telemetry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tracing::{info, warn};

fn main() -> ExitCode {
    let result = match Cli::parse().into_command() {
        Command::Serve(arguments) => {
            telemetry::init();
            arguments
                .into_config()
                .map_err(anyhow::Error::from)
                .and_then(serve)
        }
        Command::Hash(arguments) => hash(arguments),
        Command::Put(arguments) => put(arguments),
        Command::Get(arguments) => get(&arguments),
        Command::Bench(arguments) => bench(arguments),
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

/// See `--help`.
fn exit_code(error: &anyhow::Error) -> i32 {
    if matches!(error.downcast_ref(), Some(OpenError::Held { .. })) {
        4
    } else if error.is::<UsageError>() || error.is::<InvalidUrl>() {
        2
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
    let client = Client::new(&arguments.server.url)?;
    let text = arguments.text.read()?;
    let digest = client_runtime()?.block_on(client.put(text))?;
    print(format!("{digest}\n").as_bytes())
}

fn get(arguments: &GetArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server.url)?;
    let text = client_runtime()?.block_on(client.get(&arguments.digest))?;
    print(&text)
}

fn bench(arguments: BenchArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server.url)?;
    let json = arguments.json;
    let outcome = client_runtime()?.block_on(async {
        let (plan, requests) = arguments.into_plan(client.address().await?)?;
        let outcome = load::prepare_and_run(&plan, &requests).await;
        outcome.with_context(|| format!("cannot load {}", plan.address))
    })?;
    if json {
        print(format!("{}\n", outcome.to_json()).as_bytes())
    } else {
        print(format!("{outcome}\n").as_bytes())
    }
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

fn serve(mut config: Config) -> anyhow::Result<()> {
    set_process_limits(&mut config.limits);
    let directory = DataDirectory::claim(&config.data_dir, config.segment_bytes)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.workers)
        // For hashing: more threads than processors would only take memory.
        .max_blocking_threads(config.workers.max(2))
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(run(config, directory))
}

async fn run(config: Config, directory: DataDirectory) -> anyhow::Result<()> {
    // Before the port is open: who sees it open may order to stop.
    let stop_signal = server::stop_signal().context("cannot listen for signals")?;
    let listeners = server::bind(&config.listen)?;
    announce(&config, &listeners);
    let service = Arc::new(Service::default());
    let app = Arc::new(App::new(Arc::clone(&service), config.limits.clone()));

    // The port answers while the store opens, which may take a while.
    let (opened, mut opening) = oneshot::channel();
    let options = options(&config);
    let starting = Arc::clone(&service);
    thread::Builder::new()
        .name("open".into())
        .spawn(move || {
            let result = open(directory, options, &starting);
            // Nobody waits any more if the order to stop came first.
            let _ = opened.send(result);
        })
        .context("cannot start a thread")?;

    let mut store = None;
    let mut failure = None;
    let stop = async {
        let mut stop_signal = std::pin::pin!(stop_signal);
        tokio::select! {
            () = &mut stop_signal => return,
            result = &mut opening => match result {
                Ok(Ok(opened)) => store = Some(opened),
                Ok(Err(error)) => failure = Some(anyhow::Error::from(error)),
                Err(_) => failure = Some(anyhow::anyhow!("opening the store ended with a panic")),
            },
        }
        if failure.is_none() {
            stop_signal.await;
        }
    };
    server::run(listeners, app, config.limits, stop).await;
    if let Some(store) = store {
        tokio::task::spawn_blocking(move || store.close())
            .await?
            .context("the store could not be closed properly")?;
        info!("stopped; everything is on the disk");
    } else {
        info!("stopped before the store was open");
    }
    failure.map_or(Ok(()), Err)
}

fn options(config: &Config) -> Options {
    // Most look-ups of a message that is not read often end in the index; most of the memory is
    // best spent there.
    let message_cache_bytes = config.cache_bytes / 4;
    Options {
        durability: config.durability,
        index_cache_bytes: config.cache_bytes - message_cache_bytes,
        message_cache_bytes,
        message_bytes_max: config.limits.body_bytes_max,
        free_bytes_min: config.free_bytes_min,
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
        service.set_stage(stage);
    })?;
    let store = Arc::new(store);
    service.start(Arc::<EmbeddedStore>::clone(&store));
    info!(messages = store.messages(), "ready");
    Ok(store)
}

/// The first lines of every log: what an operator looks for when something is not as expected.
fn announce(config: &Config, listeners: &[TcpListener]) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        data_dir = %config.data_dir.display(),
        durability = config.durability.name(),
        cache = %ByteSize(config.cache_bytes),
        connections_and_bodies_at_most = %ByteSize(config.limits.memory_bytes_max() as u64),
        open_files_at_most = getrlimit(Resource::Nofile).current,
        "digestd starts; anybody who can connect may read and write"
    );
    for listener in listeners {
        if let Ok(address) = listener.local_addr() {
            info!("listening on http://{address}");
        }
    }
}

/// As many descriptors as the system lets us have, no more connections than leave the store its
/// share of them, and no core dumps: they would hold messages.
fn set_process_limits(limits: &mut Limits) {
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        warn!(%error, "cannot raise the limit on open files");
    }
    let connections = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |files| files / 4 * 3);
    let connections = usize::try_from(connections).unwrap_or(usize::MAX);
    if connections < limits.connections_max {
        warn!(
            connections,
            "fewer connections than usual: the limit on open files is low"
        );
        limits.connections_max = connections;
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cannot turn off core dumps");
    }
}
