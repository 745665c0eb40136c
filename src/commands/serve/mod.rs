//! `digestd serve`: assembles the service, and runs it until the order to stop.
//!
//! It refuses to know what a request is. **Invariants:** what was acknowledged is on the disk when it ends with 0; a
//! start that finds its port taken has made nothing.

mod args;
mod connection_args;
mod listeners;
mod noted;
mod places;
mod reloading;
mod tls_args;

use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

pub(super) use self::args::ServeArgs;
use self::listeners::{Bound, bind, listeners};
use self::noted::Noted;
use self::reloading::{Reloading, keep_fresh, warn_of_exposure};
use super::addresses::{is_port_set, or_default};
use super::color::Color;
use super::environment::warnings;
use super::exposure::Purpose;
use super::process_limits::set_process_limits;
use crate::access::Access;
use crate::config::{self, CertificateConfig, Config};
use crate::http::{App, ListenerRole};
use crate::logging::{self, Logs};
use crate::metrics::Metrics;
use crate::server::{self, Listener, Socket, StopSignals, Tls};
use crate::service::Service;
use crate::store::{self, DataDirectory, EmbeddedStore, OpenError, Options, Store};
use crate::supervisor;

/// Serves. `raised` is whether the limit on open files could be raised.
pub(super) fn run(
    arguments: ServeArgs,
    raised: io::Result<()>,
    color: Color,
) -> anyhow::Result<()> {
    let mut config = arguments.into_config()?;
    places::check(&config)?;
    config.log.colors = color.is_wanted();
    let has_places = !config.listen.is_empty() || !config.socket_files.is_empty();
    if !has_places {
        config.listen = or_default(Vec::new(), config.tls.is_some())?;
    }
    // Before there are threads, since it changes the environment.
    let inherited = supervisor::inherited_sockets().context("cannot use an inherited socket")?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.workers)
        // For hashing: more threads than processors would only take memory.
        .max_blocking_threads(config.workers.max(2))
        .enable_all()
        .build()
        .context("cannot start")?;
    let entered = runtime.enter();
    // Before the port is open: an order to stop may come as soon as it is.
    let stop_signals = StopSignals::listen().context("cannot listen for signals")?;
    let sockets = bind(&config, inherited);
    drop(entered);
    // A start that finds its port taken makes no directory, not even for the log that would say so.
    let sockets = match sockets {
        Err(error) if !has_place_for_log(&config) => return Err(error),
        sockets => sockets,
    };
    let logs = logging::init(&config.log)?;
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit on open files");
    }
    if has_places && is_port_set() {
        info!("PORT is set and not used: --listen, --port or DIGESTD_LISTEN says where to listen");
    }
    let is_open = config.access.tokens.is_none();
    for warning in warnings::<ServeArgs>(env::vars_os(), is_open) {
        warn!("{warning}");
    }
    let files = set_process_limits(&mut config.limits.connection);
    let result = sockets.and_then(|sockets| {
        let directory = claim(&config)?;
        let serving = serve(&config, files, directory, sockets, stop_signals, &logs);
        runtime.block_on(serving)
    });
    // Standard error has it anyway.
    if let Err(error) = &result
        && config.log.file.is_some()
    {
        error!("{error:#}");
    }
    logs.flush();
    result
}

/// Whether the directory of the log file, if there is to be one, is there.
fn has_place_for_log(config: &Config) -> bool {
    let directory = config.log.file.as_ref().and_then(|file| file.path.parent());
    directory.is_some_and(|directory| directory.as_os_str().is_empty() || directory.is_dir())
}

/// Takes the data directory.
fn claim(config: &Config) -> anyhow::Result<DataDirectory> {
    // May be there before the store is, and the directory that was made for it too.
    let log = config.log.file.iter();
    let log = log.flat_map(|file| file.path.ancestors());
    let sockets = config.socket_files.iter().map(PathBuf::as_path);
    let others: Vec<_> = log.chain(sockets).collect();
    let directory = DataDirectory::claim_beside(&config.data_dir, config.segment_bytes, &others)?;
    Ok(directory)
}

async fn serve(
    config: &Config,
    files: Option<u64>,
    mut directory: DataDirectory,
    sockets: Vec<Bound>,
    stop_signals: StopSignals,
    logs: &Logs,
) -> anyhow::Result<()> {
    let last_words = logs.clone();
    let stop_signal = stop_signals.first(move || last_words.flush());
    let metrics = Arc::new(Metrics::default());
    if config.tls.is_some() {
        directory.expect(&[server::CERTIFICATE_NAME, server::KEY_NAME]);
    }
    let tls = config.tls.as_ref().map(|tls| {
        Tls::new(&tls.certificate, &config.data_dir, Arc::clone(&metrics)).map(Arc::new)
    });
    let tls = tls.transpose()?;
    let access = Arc::new(Access::new(config.access.clone())?);
    let note = directory.note();
    let listeners = listeners(sockets, tls.as_ref())?;
    let noted = Noted::of(note, &listeners, tls.clone());
    announce(config, &access, files, &listeners);
    let sensitive = sensitive_files(config);
    warn_of_exposure(&sensitive);
    let hangups = server::hangups().context("cannot listen for signals")?;
    let reloading = Reloading {
        logs: logs.clone(),
        tls,
        access: Arc::clone(&access),
        metrics: Arc::clone(&metrics),
        sensitive,
        noted,
    };
    tokio::spawn(keep_fresh(hangups, reloading));
    tokio::spawn(supervisor::give_signs_of_life());
    let service = Arc::new(Service::default());
    let app = App::new(Arc::clone(&service), config.limits.clone());
    let app = app.below(config.base_path.clone());
    let mut app = app.reporting_to(Arc::clone(&metrics), logs.clone());
    // With tokens, the one of a request decides.
    if config.allow_export || config.access.tokens.is_some() {
        app = app.allow_export();
    }
    let app = Arc::new(app.guarded_by(access));

    // The port answers while the store opens, which may take a while.
    let (_scrubbing, scrub_stop) = mpsc::channel();
    let scrub = config.scrub_interval.map(|interval| (interval, scrub_stop));
    let options = Options {
        observer: Some(metrics),
        ..config.store.clone()
    };
    let mut opening = spawn_open(directory, options, service, scrub)?;

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

/// What others must not write, or not even read.
fn sensitive_files(config: &Config) -> Vec<(PathBuf, Purpose)> {
    let rules = [&config.access.tokens, &config.access.list_file];
    let rules = rules.into_iter().flatten();
    let mut files = vec![(config.data_dir.clone(), Purpose::DataDirectory)];
    files.extend(rules.map(|path| (path.clone(), Purpose::Rules)));
    let key = config.tls.as_ref().map(|tls| match &tls.certificate {
        CertificateConfig::Files { key, .. } => key.clone(),
        CertificateConfig::SelfSigned => config.data_dir.join(server::KEY_NAME),
    });
    files.extend(key.map(|key| (key, Purpose::Secret)));
    files
}

/// Opens the store in a thread of its own, which then checks it as often as `scrub` says.
fn spawn_open(
    directory: DataDirectory,
    options: Options,
    service: Arc<Service>,
    scrub: Option<(Duration, mpsc::Receiver<()>)>,
) -> anyhow::Result<oneshot::Receiver<Result<Arc<EmbeddedStore>, OpenError>>> {
    let (opened, opening) = oneshot::channel();
    let open = move || {
        let result = open(directory, options, &service);
        if let (Ok(store), Some((interval, stop))) = (&result, scrub) {
            spawn_scrub(Arc::clone(store), interval, stop);
        }
        // Not received if the order to stop came first.
        let _ = opened.send(result);
    };
    let thread = thread::Builder::new().name("open".into()).spawn(open);
    thread.context("cannot start a thread")?;
    Ok(opening)
}

/// Opens the store and makes `service` serve from it.
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

/// Checks everything that is stored again and again, until the other end of `stop` is dropped.
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
        durability = config.store.durability.name(),
        cache = %ByteSize(config.cache_bytes()),
        connections_at_most = config.limits.connection.connections_max,
        memory_at_most = %ByteSize(config.memory_bytes_max()),
        open_files_at_most = files,
        tls = config.tls.is_some(),
        "digestd starts; {}",
        access.summary(config.allow_export)
    );
    if config.allow_export && config.access.tokens.is_some() {
        warn!("--allow-export is of no use with --tokens: tokens of scope export allow it");
    }
    if let Some(limit) = config::memory_limit_bytes()
        && config.memory_bytes_max() > limit
    {
        warn!(
            limit = %ByteSize(limit),
            "clients could make it take more memory than it may; give it a smaller --cache or more memory"
        );
    }
    let connections = config.limits.connection.connections_max;
    if let Some(ordered) = config
        .connections_ordered
        .filter(|ordered| *ordered > connections)
    {
        warn!(
            ordered,
            connections,
            "memory or the limit on open files allow fewer connections than --connections-max"
        );
    }
    for listener in listeners {
        if let Socket::File(file) = &listener.socket {
            let mode = config.socket_mode;
            info!(
                "listening on unix:{}, mode {mode:03o}",
                file.path().display()
            );
        }
        let Some(address) = listener.socket.address() else {
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
        let has_messages = listener.role != ListenerRole::Admin;
        if has_messages && access.is_open_to_anybody() && !listener.is_on_loopback() {
            warn!(
                "anybody who reaches {address} may read and write; --tokens FILE asks for a token, --allow CIDR \
                 lets in only some networks, and a container may have its ports published on 127.0.0.1 alone"
            );
        }
    }
}
