//! Batches: many lines in, a line out for each, both at once.
//!
//! A batch reads lines while earlier ones are on their way to the disk, and answers each in its turn
//! when its message is durable. A line that fails says so in its place and does nothing to the others; after
//! so many the batch ends. Blank lines have numbers, no answers and no cost; each other one counts as a request
//! does where the client is held to a rate, and the batch ends before the first that is too much.
//! An answer waits in a pipe until the client takes it, so a client may write all before it reads.
//! The same is done with the elements of an array in JSON, which is read before, for clients that know no lines.
//!
//! **Invariant:** what a batch holds is limited, however long it is: lines not yet answered in number
//! and in bytes, answers not yet taken in bytes. All of it was set aside before the first line.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use http::request::Parts;
use hyper::body::Frame;
use tokio::task::consume_budget;
use tokio::time::timeout;

use super::app::App;
use super::arrays::{self, Elements};
use super::authorize::seconds;
use super::body::{BodySender, Gone, Response, ResponseBody};
use super::body_room::{CoveredBytes, Spare};
use super::budget::{NoRoom, Requester, Reservation};
use super::charset::Charset;
use super::digest_fields::RequestDigests;
use super::error::{HttpError, LineError, RETRY_SOON};
use super::json;
use super::lines::{BodyLine, LineSplitter};
use super::negotiation::{BodyFormat, BodyType};
use super::request::{BodyDeadline, BodyError, RequestBody, check_size, read_body};
use super::response;
use super::shares::{BatchOperation, Shares};
use crate::access::networks::Client;
use crate::config::ESCAPED_BYTES_MAX;
use crate::digest::Digest;
use crate::message::Message;
use crate::metrics::KeptOut;
use crate::service::{Put, Receipt, StoreError, offload};

/// Answers gathered before they are handed over, in bytes, if more are ready: fewer hand-overs, no
/// wait.
const GATHERED_BYTES_MAX: usize = 32 << 10;

/// The client of a batch that gives way to others has this long to take what there is.
const GIVING_WAY_TIMEOUT: Duration = Duration::from_millis(500);

/// Begins a batch; it goes on while the answer is sent.
pub(super) async fn answer(
    app: &Arc<App>,
    operation: BatchOperation,
    kind: BodyType,
    head: &Parts,
    body: RequestBody,
) -> Result<Response, HttpError> {
    let is_array = kind.format != BodyFormat::Lines;
    let mut stated = RequestDigests::default();
    stated.read(&head.headers)?;
    if is_array {
        check_size(app.limits.body.bytes_max, &body).map_err(of_array)?;
    } else if stated.is_empty() {
        check_size(app.limits.batch.bytes_max, &body)?;
    } else {
        return Err(HttpError::DigestOfBatch);
    }
    app.service.health().reads.map_err(HttpError::NotReady)?;
    let durability = match operation {
        BatchOperation::Publish => Some(app.service.durability()?),
        BatchOperation::LookUp | BatchOperation::FindMissing => None,
    };
    let client = body.client();
    let (mut body, array, requester) = if is_array {
        let array = read_body(&app.limits.body, &app.bodies, body, &mut stated).await;
        let array = array.map_err(of_array)?;
        // Nothing more comes of it.
        (None, Some(array), Requester { client, h2: None })
    } else {
        let requester = body.requester().clone();
        (Some(body), None, requester)
    };
    let bytes = array.as_ref().map_or(0, |array| array.bytes().len());
    let shares = Shares::take(app, &requester, operation, bytes).await?;
    // So that a client that has a batch has room for other answers.
    let bytes_max = app
        .limits
        .batch
        .answer_bytes_max
        .min(app.answers.share_max() / 4);
    let ending = Arc::clone(&shares.told) as _;
    let beginning = app
        .answers
        .begin_after_wait(&app.waits, &requester, bytes_max, ending);
    let room = tokio::select! {
        biased;
        () = shares.told.ended() => return Err(BodyError::GaveWay.into()),
        room = beginning => room,
    };
    let mut room = room.map_err(|NoRoom| HttpError::NoRoomForAnswer)?;
    // It gives way by its slot, and with a line; an answer that is ended breaks off.
    room.settle();
    // Before the head of the answer, which a client that waits to be asked would take for the last word.
    let mut deadline = BodyDeadline::new(&app.limits.body);
    let elements = match array {
        Some(array) => Some(arrays::read(operation.member(), kind.charset, array, stated).await?),
        None => None,
    };
    let first = tokio::select! {
        biased;
        () = shares.told.ended() => return Err(BodyError::GaveWay.into()),
        first = next_frame(&mut deadline, body.as_mut()) => first?,
    };
    let (answers, streamed) = ResponseBody::stream(bytes_max, Some(room));
    let batch = Batch {
        app: Arc::clone(app),
        operation,
        charset: kind.charset,
        client,
        body,
        elements,
        deadline,
        received: 0,
        has_ended: is_array,
        lines: LineSplitter::new(usize::try_from(app.limits.body.bytes_max).unwrap_or(usize::MAX)),
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        number: 0,
        errors: 0,
        is_paid: true,
        gathered: Vec::new(),
        answers,
        gives_way: false,
        shares,
    };
    tokio::spawn(batch.run(first));
    Ok(response::streamed(streamed, is_array, durability))
}

#[derive(Debug)]
struct Batch {
    app: Arc<App>,
    operation: BatchOperation,
    charset: Charset,
    client: Client,
    /// Of lines; an array was read to its end.
    body: Option<RequestBody>,
    /// Of an array.
    elements: Option<Elements>,
    deadline: BodyDeadline,
    /// Bytes of the body so far.
    received: u64,
    has_ended: bool,
    lines: LineSplitter,
    /// Lines that were begun and not answered, in their order.
    waiting: VecDeque<Numbered<Waiting>>,
    waiting_bytes: usize,
    /// The number of the last line that was begun or blank.
    number: u64,
    /// Lines that failed, so far as is known.
    errors: u32,
    /// The next line was counted in the client's rate already: the first one, with the request.
    is_paid: bool,
    /// Answers to be handed over.
    gathered: Vec<u8>,
    answers: BodySender,
    /// It was told to end.
    gives_way: bool,
    shares: Shares,
}

/// What is begun next.
enum Next {
    Line(BodyLine),
    /// Of an array.
    Element(ByteString),
}

impl Next {
    fn is_blank(&self) -> bool {
        match self {
            Self::Line(line) => line.is_blank(),
            Self::Element(_) => false,
        }
    }
}

/// A line, with what there is of its put.
#[derive(Debug)]
enum Line<P> {
    Put { put: P, bytes: usize },
    LookUp(Digest),
    Failed(LineError),
}

/// Of the line with this number, from 1.
type Numbered<T> = (u64, T);

/// A line that was begun.
type Waiting = Line<Put>;

/// What became of it.
type Outcome = Line<Result<Receipt, StoreError>>;

impl Batch {
    async fn run(mut self, first: Option<Frame<Bytes>>) {
        if let Ok(()) = self.answer_all(first).await {
            self.answers.end();
            if let Some((unread, discards)) = self.body.and_then(RequestBody::into_unread) {
                self.app.discard(self.client, unread, &discards);
            }
        }
    }

    async fn answer_all(&mut self, first: Option<Frame<Bytes>>) -> Result<(), Gone> {
        let mut failure = match self.elements {
            Some(_) => None,
            None => self.take(Ok(first)).err(),
        };
        loop {
            failure = self.begin_lines().await.err().or(failure);
            self.gather_ready();
            self.hand_over().await?;
            consume_budget().await;
            if self.gives_way && failure.is_none() {
                self.discard();
                failure = Some(HttpError::from(BodyError::GaveWay).into());
            }
            let may_read = failure.is_none() && !self.has_ended && self.lines.is_empty();
            let has_room = self.has_room(self.lines.begun_bytes());
            if self.waiting.is_empty() && !may_read && self.is_drained() {
                break;
            }
            // Otherwise there are lines to begin.
            let waits = !self.waiting.is_empty() || may_read && has_room;
            tokio::select! {
                biased;
                () = self.shares.told.ended(), if waits && !self.gives_way => self.gives_way = true,
                () = self.answers.gone(), if waits => return Err(Gone),
                outcome = poll_fn(|context| poll_first(&mut self.waiting, context)), if !self.waiting.is_empty() => {
                    self.gather(outcome);
                }
                frame = next_frame(&mut self.deadline, self.body.as_mut()), if may_read && has_room => {
                    failure = self.take(frame).err();
                }
                else => {}
            }
        }
        if let Some(failure) = failure {
            let (status, retry_after) = self.last_words(&failure);
            self.write_failure(&failure, self.number + 1, Some(status), retry_after);
        }
        if let Some(elements) = &self.elements {
            self.gathered.extend_from_slice(elements.end());
        }
        self.hand_over().await
    }

    /// Whether every line or element that is there was begun.
    fn is_drained(&self) -> bool {
        let elements = self.elements.as_ref();
        self.lines.is_empty() && elements.is_none_or(Elements::is_empty)
    }

    /// Forgets what was not begun.
    fn discard(&mut self) {
        self.lines.discard();
        self.has_ended = true;
        if let Some(elements) = &mut self.elements {
            elements.discard();
        }
    }

    /// What the line says with which the batch ends early, beside the reason: a status, and when to go on.
    fn last_words(&self, failure: &LineError) -> (u16, Option<u32>) {
        let (status, cause, retry_after) = match failure {
            LineError::Rate(wait) => (429, Some(KeptOut::Rate), Some(seconds(*wait))),
            LineError::Other(HttpError::Body(BodyError::GaveWay)) => {
                let cause = match self.operation {
                    BatchOperation::Publish => KeptOut::BatchRoom,
                    BatchOperation::LookUp | BatchOperation::FindMissing => KeptOut::LookUpRoom,
                };
                (503, Some(cause), Some(RETRY_SOON))
            }
            LineError::Other(error) => (error.meaning().status.as_u16(), None, None),
            _ => (400, None, None),
        };
        if let Some(cause) = cause {
            self.app.metrics().refuse_request(cause);
        }
        (status, retry_after)
    }

    fn write_failure(
        &mut self,
        failure: &LineError,
        number: u64,
        status: Option<u16>,
        retry_after: Option<u32>,
    ) {
        let is_element = self.elements.is_some();
        let failure = json::Failure {
            text: &failure.to_string(),
            kind: failure.kind(),
            place: if is_element {
                ("index", number.saturating_sub(1))
            } else {
                ("line", number)
            },
            status,
            retry_after,
        };
        self.write(|gathered, layout| json::write_failure(gathered, layout, &failure));
    }

    /// Writes an answer: a line, or an element of an array.
    fn write(&mut self, answer: impl FnOnce(&mut Vec<u8>, json::Layout)) {
        let Some(elements) = &mut self.elements else {
            return answer(&mut self.gathered, json::LINE);
        };
        self.gathered.extend_from_slice(elements.before_answer());
        answer(&mut self.gathered, json::ELEMENT);
    }

    /// Takes the next piece of the body, or its end.
    fn take(&mut self, frame: Result<Option<Frame<Bytes>>, BodyError>) -> Result<(), LineError> {
        let Some(frame) = frame.map_err(HttpError::from)? else {
            self.has_ended = true;
            return Ok(());
        };
        // Trailers mean nothing here.
        if let Ok(piece) = frame.into_data() {
            self.received += piece.len() as u64;
            let bytes_max = self.app.limits.batch.bytes_max;
            if self.received > bytes_max {
                return Err(HttpError::from(BodyError::TooLarge { bytes_max }).into());
            }
            let is_crowding = || self.shares.memory.is_crowding();
            let is_in_time = self.deadline.check(self.received, is_crowding);
            is_in_time.map_err(HttpError::from)?;
            self.lines.feed(piece);
        }
        Ok(())
    }

    /// Whether one more line of so many bytes may be begun.
    fn has_room(&self, bytes: usize) -> bool {
        let limits = &self.app.limits;
        let is_within = (self.waiting_bytes + bytes) as u64 <= limits.body.bytes_max;
        self.waiting.len() < limits.batch.lines_max as usize
            && (is_within || self.waiting_bytes == 0)
    }

    /// Begins the lines that are there, as many as there is room for, and forgets the rest if it is to end.
    async fn begin_lines(&mut self) -> Result<(), LineError> {
        while self.has_room(self.lines.begun_bytes()) {
            let Some(line) = self.next() else {
                return Ok(());
            };
            let number = self.number + 1;
            if !line.is_blank() {
                if let Err(error) = self.admit() {
                    self.discard();
                    return Err(error);
                }
                let waiting = self.begin(line).await.unwrap_or_else(Waiting::Failed);
                match &waiting {
                    Waiting::Put { bytes, .. } => self.waiting_bytes += bytes,
                    Waiting::Failed(_) => self.errors += 1,
                    Waiting::LookUp(_) => {}
                }
                self.waiting.push_back((number, waiting));
            }
            self.number = number;
        }
        Ok(())
    }

    /// The next line or element.
    fn next(&mut self) -> Option<Next> {
        if let Some(elements) = &mut self.elements {
            return elements.next().map(Next::Element);
        }
        let mut line = self.lines.next();
        if line.is_none() && self.has_ended {
            line = self.lines.end();
        }
        line.map(Next::Line)
    }

    /// Whether the batch goes on with another line, which counts in the rate of its client.
    fn admit(&mut self) -> Result<(), LineError> {
        let errors_max = self.app.limits.batch.errors_max;
        if self.errors >= errors_max {
            return Err(LineError::TooMany { errors_max });
        }
        if mem::take(&mut self.is_paid) {
            return Ok(());
        }
        let is_write = self.operation == BatchOperation::Publish;
        let access = &self.app.access;
        let checked = access.check_rate(self.client, is_write);
        checked.map_err(LineError::Rate)
    }

    async fn begin(&self, next: Next) -> Result<Waiting, LineError> {
        let memory = Arc::clone(&self.shares.memory);
        let line = match next {
            Next::Element(text) => return self.begin_element(text, memory).await,
            Next::Line(BodyLine::Part(line)) => CoveredBytes::piece(line, memory),
            Next::Line(BodyLine::Gathered(line)) => CoveredBytes::gathered(line, memory),
            Next::Line(BodyLine::TooLong) => {
                let bytes_max = self.app.limits.body.bytes_max;
                return Err(LineError::TooLarge { bytes_max });
            }
        };
        let bytes = line.bytes().len();
        if self.operation == BatchOperation::Publish {
            let spare = self.app.bodies.spare(&line).await;
            let charset = self.charset;
            let message = offload(bytes, move || read_message(charset, line, spare)).await?;
            self.put(message, bytes)
        } else {
            let text = self.charset.text(line.bytes()).map_err(LineError::Text)?;
            Ok(Waiting::LookUp(read_digest(&text)?))
        }
    }

    async fn begin_element(
        &self,
        text: ByteString,
        memory: Arc<Reservation>,
    ) -> Result<Waiting, LineError> {
        if self.operation == BatchOperation::Publish {
            let bytes = text.len();
            let element = CoveredBytes::piece(text.as_bytes().clone(), memory);
            let message = move || Message::new(element.into_text(text, Spare::default()));
            self.put(offload(bytes, message).await, bytes)
        } else {
            let digest = text.parse().map_err(|_| LineError::OtherThanDigest);
            digest.map(Waiting::LookUp)
        }
    }

    fn put(&self, message: Message, bytes: usize) -> Result<Waiting, LineError> {
        let put = self.app.service.begin(message).map_err(HttpError::from)?;
        Ok(Waiting::Put { put, bytes })
    }

    /// Gathers the answers to lines that are ready, in their order, up to a good portion.
    fn gather_ready(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while self.gathered.len() < GATHERED_BYTES_MAX
            && let Poll::Ready(outcome) = poll_first(&mut self.waiting, &mut context)
        {
            self.gather(outcome);
        }
    }

    fn gather(&mut self, (number, outcome): Numbered<Outcome>) {
        // What could not be begun was counted then; why there is no message for a digest is an answer.
        let is_put = matches!(outcome, Outcome::Put { .. });
        if let Err(error) = self.write_answer(outcome) {
            self.errors += u32::from(is_put);
            self.write_failure(&error, number, None, None);
        }
    }

    fn write_answer(&mut self, outcome: Outcome) -> Result<(), LineError> {
        match outcome {
            Outcome::Put { put, bytes } => {
                self.waiting_bytes -= bytes;
                let digest = put.map_err(HttpError::from)?.digest();
                self.write(|gathered, layout| json::write_digest(gathered, layout, &digest));
            }
            Outcome::LookUp(digest) if self.operation == BatchOperation::FindMissing => {
                if !self.app.service.holds(&digest).map_err(HttpError::from)? {
                    self.write(|gathered, layout| json::write_digest(gathered, layout, &digest));
                }
            }
            Outcome::LookUp(digest) => {
                let message = self.app.service.fetch(&digest).map_err(HttpError::from)?;
                let message = message.ok_or(HttpError::NoSuchMessage)?;
                let text = message.text();
                if text.len() > GATHERED_BYTES_MAX {
                    // Once, and not by doubling.
                    self.gathered.reserve_exact(text.len() * ESCAPED_BYTES_MAX);
                }
                self.write(|gathered, layout| json::write_message(gathered, layout, text));
            }
            Outcome::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Hands over what was gathered; waits while the client has enough to read.
    async fn hand_over(&mut self) -> Result<(), Gone> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = if self.gathered.len() <= 2 * GATHERED_BYTES_MAX {
            let piece = Bytes::copy_from_slice(&self.gathered);
            self.gathered.clear();
            piece
        } else {
            // One large message made it large: it is handed over instead of copied.
            // Without the room that it grew into.
            Bytes::from(mem::take(&mut self.gathered).into_boxed_slice())
        };
        let mut sending = pin!(self.answers.send(piece));
        if !self.gives_way {
            tokio::select! {
                biased;
                () = self.shares.told.ended() => {}
                sent = timeout(self.app.limits.connection.write_stall_timeout, &mut sending) => {
                    return sent.map_err(|_| Gone)?;
                }
            }
        }
        self.gives_way = true;
        timeout(GIVING_WAY_TIMEOUT, sending)
            .await
            .map_err(|_| Gone)?
    }
}

/// The next piece of the body. There is none after an array.
async fn next_frame(
    deadline: &mut BodyDeadline,
    body: Option<&mut RequestBody>,
) -> Result<Option<Frame<Bytes>>, BodyError> {
    match body {
        Some(body) => deadline.next_frame(body).await,
        None => Ok(None),
    }
}

/// What became of the first line that waits, once that is known. Does not take more than that from the
/// line, so it may be asked and left as often as one likes.
fn poll_first(
    waiting: &mut VecDeque<Numbered<Waiting>>,
    context: &mut Context<'_>,
) -> Poll<Numbered<Outcome>> {
    if let Some((number, Waiting::Put { put, bytes })) = waiting.front_mut() {
        let (put, bytes) = (ready!(Pin::new(put).poll(context)), *bytes);
        let number = *number;
        waiting.pop_front();
        return Poll::Ready((number, Outcome::Put { put, bytes }));
    }
    match waiting.pop_front() {
        Some((number, Waiting::LookUp(digest))) => Poll::Ready((number, Outcome::LookUp(digest))),
        Some((number, Waiting::Failed(error))) => Poll::Ready((number, Outcome::Failed(error))),
        Some((_, Waiting::Put { .. })) | None => Poll::Pending,
    }
}

/// The digest of a line: bare, or as JSON. Bare digits come first: 64 decimal ones are a number in JSON.
/// Why an array was not read: it has the limit of a single message, lines have not.
fn of_array(error: BodyError) -> HttpError {
    match error {
        BodyError::TooLarge { bytes_max } => HttpError::ArrayTooLarge { bytes_max },
        error => error.into(),
    }
}

fn read_digest(text: &ByteString) -> Result<Digest, LineError> {
    if let Ok(digest) = text.trim_ascii().parse() {
        return Ok(digest);
    }
    let digest = json::digest_text(text).map_err(|error| {
        if error.is_syntax() {
            LineError::NoDigest(error)
        } else {
            LineError::Json(error)
        }
    })?;
    digest.parse().map_err(|_| LineError::OtherThanDigest)
}

fn read_message(charset: Charset, line: CoveredBytes, spare: Spare) -> Result<Message, LineError> {
    let text = charset.text(line.bytes()).map_err(LineError::Text)?;
    let text = json::message_text(&text)?;
    Ok(Message::new(line.into_text(text, spare)))
}
