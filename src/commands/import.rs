//! `digestd import`: every message of an export, checked and stored.
//!
//! Many are on their way to the store at once, so that one sync stores them all. What is stored already
//! costs a look-up: to continue after an interruption is to run it again. It refuses to know the form of the
//! export. **Invariant:** what is counted as stored was acknowledged.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::sleep;

use super::archive::{self, Form, Item, decompressed};
use super::in_use::{Instead, or_ask};
use super::options::{CredentialArgs, DataArgs};
use super::output::{IntegrityError, plural, say};
use super::progress::Bar;
use super::setup::{open, open_input, peek, skip_mark, tell_who_types};
use crate::client::{Client, Refused, Session};
use crate::config::{self, SEGMENT_BYTES};
use crate::message::Message;
use crate::server::StopSignals;
use crate::store::{DataDirectory, EmbeddedStore, Store, StoreError};
use crate::text::{self, Encoding, NotUtf8};

/// Messages on their way at once: what the store lets wait, less than which leaves the disk idle.
const WINDOW_MESSAGES_MAX: usize = 1024;

/// Bytes of text on their way at once, for the memory's sake. A larger message goes alone.
const WINDOW_BYTES_MAX: usize = 32 << 20;

/// Largest message for a server, which does not say what it takes: what fits into a segment of the usual size.
const SERVER_MESSAGE_BYTES_MAX: u64 = SEGMENT_BYTES as u64;

/// Connections to a server: a quarter of what it allows one client.
const CONNECTIONS: usize = config::CLIENT_CONNECTIONS_MAX / 4;

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// After an order to stop, what is on its way may take this long; input that does not come, too.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The export, in either form, also compressed with gzip or zstd; `-`, or nothing at all, reads standard input. A message may be as
    /// large as a segment of the store, which `digestd serve --segment-size` makes larger, or have 64 MiB
    /// with --url. Lines without digests are for `digestd put --batch`
    #[arg(value_name = "FILE")]
    input: Option<PathBuf>,

    /// The store; made if it is not there.
    #[command(flatten)]
    data: DataArgs,

    /// Store on this server instead
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// What it wants to see.
    #[command(flatten)]
    credential: CredentialArgs,

    /// Go on behind what is wrong, and name all of it
    #[arg(long)]
    keep_going: bool,
}

/// Stores every message of an export.
///
/// # Errors
/// [`IntegrityError`] if there was something wrong in it; else what kept it from going on.
pub(super) fn run(arguments: &ImportArgs) -> anyhow::Result<()> {
    let path = arguments.input.as_deref().unwrap_or(Path::new("-"));
    tell_who_types(path, "an export");
    let input = open_input(path).with_context(|| format!("cannot open {}", path.display()));
    let (input, bytes) = input?;
    let (input, bytes_read) = Counted::new(input);
    let (form, input) = recognized(input).context("cannot read the export")?;
    let input = BufReader::with_capacity(BUFFER_BYTES, input);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start")?;
    let stop = stop_flag(&runtime).context("cannot listen for signals")?;
    let (target, message_bytes_max) = if let Some(url) = &arguments.url {
        let pool = Pool::new(&arguments.credential.client(url)?, &runtime);
        (Target::Server(pool), SERVER_MESSAGE_BYTES_MAX)
    } else {
        let path = arguments.data.data_dir.clone();
        if DataDirectory::is_new(&path) {
            let message_bytes_max = DataDirectory::message_bytes_max_of(SEGMENT_BYTES);
            (Target::New(path), message_bytes_max)
        } else {
            let claimed = DataDirectory::claim(&path, SEGMENT_BYTES);
            let instead = Instead::Ask("import", "allow it to write");
            let directory = or_ask(claimed, &path, instead)?;
            let message_bytes_max = directory.message_bytes_max();
            (Target::Store(open(directory)?), message_bytes_max)
        }
    };
    let import = Import {
        form,
        message_bytes_max: usize::try_from(message_bytes_max).unwrap_or(usize::MAX),
        keep_going: arguments.keep_going,
        runtime,
        target,
        window: VecDeque::new(),
        window_bytes: 0,
        is_empty: true,
        stored: 0,
        known: 0,
        wrong: 0,
        done: 0,
        bar: Bar::of_input(bytes),
        bytes_read,
    };
    import.run(input, &stop)
}

/// The form of what is in `input`, however it is compressed, and all of that without a byte order mark.
fn recognized(input: impl Read + Send + 'static) -> anyhow::Result<(Form, impl Read)> {
    let (start, input) = peek(skip_mark(decompressed(input)?)?, archive::START_BYTES)?;
    // A second mark is named with its line.
    let form = Form::of(text::skip_mark(&start)).ok_or_else(|| match Encoding::of(&start) {
        Some(encoding) => NotUtf8::Encoding(encoding).into(),
        None if let Some((name, program)) = archive::other_compression(&start) => anyhow!(
            "it is compressed with {name}, which is not read; `{program} FILE | digestd import` decompresses it first"
        ),
        None => anyhow!(
            "it is neither NDJSON nor tar, the forms that `digestd export` writes, nor one of them compressed with \
             gzip or zstd"
        ),
    })?;
    Ok((form, input))
}

/// Counts what is read.
struct Counted<R> {
    input: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Counted<R> {
    fn new(input: R) -> (Self, Arc<AtomicU64>) {
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        (Self { input, bytes }, counter)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Becomes true with the order to stop. A second order ends the process, and so does what takes too
/// long after the first; nothing that was stored is lost then.
fn stop_flag(runtime: &Runtime) -> io::Result<Arc<AtomicBool>> {
    let _context = runtime.enter();
    let signal = StopSignals::listen()?.first(|| ());
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    runtime.spawn(async move {
        signal.await;
        flag.store(true, Relaxed);
        sleep(STOP_TIMEOUT).await;
        process::exit(1);
    });
    Ok(stop)
}

/// An import under way.
struct Import {
    form: Form,
    message_bytes_max: usize,
    keep_going: bool,
    runtime: Runtime,
    target: Target,
    /// In the order in which they were read.
    window: VecDeque<OnItsWay>,
    window_bytes: usize,
    /// There was neither a message nor what would be one so far.
    is_empty: bool,
    stored: u64,
    /// Those of them that were there before.
    known: u64,
    wrong: u64,
    /// Everything up to this item is stored, or was named.
    done: u64,
    bar: Bar,
    /// Of the input, as it is on the disk.
    bytes_read: Arc<AtomicU64>,
}

/// A message that is being stored.
struct OnItsWay {
    number: u64,
    bytes: usize,
    result: Storing,
}

/// Becomes whether the message was new or known, where that is said.
type Storing = Pin<Box<dyn Future<Output = Result<Option<Novelty>, Failure>>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Novelty {
    New,
    Known,
}

/// Why a message was not stored.
enum Failure {
    /// It is the message's own fault.
    This(String),
    /// No other would be stored either.
    All(anyhow::Error),
}

impl Import {
    fn run(mut self, input: impl BufRead, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut taken = Ok(());
        let read = archive::read(self.form, input, self.message_bytes_max, |item| {
            if stop.load(Relaxed) {
                taken = Err(anyhow!("interrupted"));
                return ControlFlow::Break(());
            }
            self.take(item).unwrap_or_else(|error| {
                taken = Err(error);
                ControlFlow::Break(())
            })
        });
        // Whatever ended it: what is on its way counts.
        let finished = self.finish_all();
        let is_input_wrong = taken.is_ok() && read.is_err();
        let result = taken
            .and(read.context("cannot read the export"))
            .and(finished)
            .and_then(|()| self.target.close());
        drop(self.bar);
        let stored = plural(self.stored, "message");
        let stored = match self.target {
            Target::Server(_) => format!("{stored} stored"),
            Target::Store(_) | Target::New(_) => format!(
                "{stored} stored: {} new, {} known",
                self.stored - self.known,
                self.known
            ),
        };
        let advice = if is_input_wrong {
            ""
        } else {
            "; run it again to go on"
        };
        let result = result.with_context(|| {
            let (item, done) = (self.form.item(), self.done);
            format!("stopped behind {item} {done}{advice}")
        });
        let is_nothing_in_it = self.is_empty && result.is_ok();
        say(&if is_nothing_in_it {
            format!("there is no message in the input; {stored}")
        } else {
            stored
        });
        result?;
        Ok(IntegrityError::if_any(self.wrong)?)
    }

    fn take(&mut self, item: Item) -> anyhow::Result<ControlFlow<()>> {
        self.is_empty = false;
        self.bar.set_done(self.bytes_read.load(Relaxed));
        match item.content {
            Ok(message) => self.send(item.number, message)?,
            Err(wrong) => self.complain(item.number, &wrong.to_string()),
        }
        Ok(if self.wrong > 0 && !self.keep_going {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    /// Sends a message on its way, once there is room for it.
    fn send(&mut self, number: u64, message: Message) -> anyhow::Result<()> {
        let bytes = message.as_bytes().len();
        while self.window.len() >= WINDOW_MESSAGES_MAX
            || self.window_bytes + bytes > WINDOW_BYTES_MAX && !self.window.is_empty()
        {
            self.finish_first()?;
        }
        let result = self.target.put(message)?;
        self.window_bytes += bytes;
        self.window.push_back(OnItsWay {
            number,
            bytes,
            result,
        });
        Ok(())
    }

    fn finish_all(&mut self) -> anyhow::Result<()> {
        while !self.window.is_empty() {
            self.finish_first()?;
        }
        Ok(())
    }

    fn finish_first(&mut self) -> anyhow::Result<()> {
        let Some(first) = self.window.pop_front() else {
            return Ok(());
        };
        self.window_bytes -= first.bytes;
        match self.runtime.block_on(first.result) {
            Ok(novelty) => {
                self.stored += 1;
                self.known += u64::from(novelty == Some(Novelty::Known));
            }
            Err(Failure::This(reason)) => self.complain(first.number, &reason),
            Err(Failure::All(error)) => return Err(error),
        }
        self.done = first.number;
        Ok(())
    }

    fn complain(&mut self, number: u64, reason: &str) {
        self.wrong += 1;
        let item = self.form.item();
        self.bar
            .aside(|| say(&format!("{item} {number}: {reason}")));
    }
}

/// Where messages are stored.
enum Target {
    /// A store that is made with the first message: there may be none.
    New(PathBuf),
    Store(EmbeddedStore),
    Server(Pool),
}

impl Target {
    fn put(&mut self, message: Message) -> anyhow::Result<Storing> {
        if let Self::New(path) = self {
            *self = Self::Store(open(DataDirectory::claim(path, SEGMENT_BYTES)?)?);
        }
        Ok(match self {
            Self::Store(store) => {
                let put = store.put(message);
                Box::pin(async move {
                    match put.await {
                        Ok(receipt) if receipt.is_known() => Ok(Some(Novelty::Known)),
                        Ok(_) => Ok(Some(Novelty::New)),
                        Err(error @ (StoreError::TooLarge | StoreError::PrefixTaken)) => {
                            Err(Failure::This(error.to_string()))
                        }
                        Err(error) => Err(Failure::All(error.into())),
                    }
                })
            }
            Self::Server(pool) => {
                let put = pool.put(message);
                Box::pin(async move { put.await.map(|()| None) })
            }
            Self::New(_) => unreachable!("it was made"),
        })
    }

    fn close(&self) -> anyhow::Result<()> {
        match self {
            Self::Store(store) => Ok(store.close()?),
            Self::Server(_) | Self::New(_) => Ok(()),
        }
    }
}

/// Connections to a server that take what comes in turn.
struct Pool(mpsc::Sender<Order>);

type Order = (Message, oneshot::Sender<anyhow::Result<()>>);

impl Pool {
    fn new(client: &Client, runtime: &Runtime) -> Self {
        let (sender, orders) = mpsc::channel(CONNECTIONS);
        let orders = Arc::new(Mutex::new(orders));
        let session = Session::new(client.clone());
        for _ in 0..CONNECTIONS {
            runtime.spawn(work(session.beside(), Arc::clone(&orders)));
        }
        Self(sender)
    }

    /// Waits until a connection is free.
    fn put(&self, message: Message) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (reply, answer) = oneshot::channel();
        // Without the workers there is no answer either.
        let _ = self.0.blocking_send((message, reply));
        async move {
            let answered = answer.await.map_err(|error| Failure::All(error.into()))?;
            answered.map_err(|error| match error.downcast::<Refused>() {
                Ok(refused) => Failure::This(refused.to_string()),
                Err(error) => Failure::All(error),
            })
        }
    }
}

async fn work(mut session: Session, orders: Arc<Mutex<mpsc::Receiver<Order>>>) {
    loop {
        let order = orders.lock().await.recv().await;
        let Some((message, reply)) = order else {
            return;
        };
        // Not received if the import ended with another failure.
        let _ = reply.send(session.put(&message).await);
    }
}
