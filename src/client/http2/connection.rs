//! One HTTP/2 connection: the task that drives it, and the handle that exchanges share.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::h2::client::{Builder, SendRequest};
use bytes::Bytes;

use super::group::Opening;
use crate::client::connect::{Connection, Stream};
use crate::client::deadline::Lease;
use crate::client::failure::{Failure, Phase};
use crate::http::MAX_HEAD_BYTES;
use crate::runtime::pipe::Pipe;
use crate::runtime::{self, Read, Runtime, Write, catch_panic};

/// What a server may send on one stream, and on all of them, before we have read it. Answers are
/// read as they come, so this bounds not memory but what a fast link can have under way:
/// 1 MiB × 1 / 50 ms = 160 Mbit/s for one stream.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The protocol's own default: larger frames would only delay other streams.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Cap of a response head; larger ones end their stream, and floods of them the connection.
const HEAD_BYTES: u32 = MAX_HEAD_BYTES as u32;
/// Bytes of the header compression's table, the protocol's default.
const HEADER_TABLE_BYTES: u32 = 4096;
/// Streams that we reset (deadlines, too large answers) and whose late frames are passed over: as
/// many as a connection carries, for as long as an answer may be under way.
const RESET_STREAMS_KEPT: usize = 256;
const RESET_STREAMS_KEPT_FOR: Duration = Duration::from_secs(10);
/// Streams that the peer may reset before we have looked at them; the rapid-reset bound.
const PEER_RESETS_PENDING_MAX: usize = 20;
/// Streams on which the peer may break the protocol before the connection is ended.
const STREAM_ERRORS_MAX: usize = 1024;
/// How long the last bytes of a connection that closes may take.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// A connection as exchanges see it. It closes when the last handle goes.
pub(in crate::client) struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
    pub(super) pipe: Pipe,
    /// Streams the server allows; 0 until its settings have come.
    pub(super) streams_max: Cell<usize>,
    /// Streams in use.
    pub(super) active: Cell<usize>,
    /// No further stream may be opened.
    pub(super) closing: Cell<bool>,
    /// Heads and pieces of bodies that have come over it: once there is one, it may merely have
    /// gone stale if it ends.
    pub(super) answers: Cell<u64>,
    pub(super) idle_since: Cell<Instant>,
}

impl Shared {
    /// A handle to open one stream with.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.borrow().clone()
    }

    /// A deadline fired for a stream that was taken when `answers` had come. If no stream has been
    /// answered since, none is opened here any more: the peer is gone, or hangs, and control frames
    /// prove little (a proxy answers pings for a server that hangs). What is under way may go on.
    pub(super) fn note_late(&self, answers: u64) {
        if self.answers.get() == answers {
            self.closing.set(true);
        }
    }
}

/// Drives `connection` until it ends: in good time after the last handle to it has gone. `opening`
/// hears when it can be used, or why it never could.
pub(in crate::client) async fn serve<R: Runtime>(connection: Box<Connection<R>>, opening: Opening) {
    let Connection { stream, lease, .. } = *connection;
    // A panic ends the connection: what the task owns is dropped, and streams see the end.
    let _ = match stream {
        Stream::Plain {
            reader,
            writer,
            early,
        } => catch_panic(drive(Pipe::new(early), reader, writer, lease, opening)).await,
        Stream::Tls { reader, writer } => {
            catch_panic(drive(Pipe::default(), reader, writer, lease, opening)).await
        }
    };
}

async fn drive(
    pipe: Pipe,
    reader: impl Read,
    writer: impl Write,
    lease: Lease,
    mut opening: Opening,
) {
    // Cannot wait: all it does is to write the preface into the pipe.
    let (sender, connection) = match builder().handshake::<_, Bytes>(pipe.clone()).await {
        Ok(opened) => opened,
        Err(error) => return opening.fail(Failure::Connect(error.to_string())),
    };
    let mut connection = Box::pin(connection);
    let mut turn = Turn::Opening(Rc::new(Shared {
        sender: RefCell::new(sender),
        pipe: pipe.clone(),
        streams_max: Cell::new(0),
        active: Cell::new(0),
        closing: Cell::new(false),
        answers: Cell::new(0),
        idle_since: Cell::new(runtime::now()),
    }));
    let mut receive = pin!(pipe.receive(reader));
    let mut send = pin!(pipe.send(writer));
    let (mut receiving, mut sending, mut outcome) = (true, true, None);
    poll_fn(|context| {
        loop {
            pipe.take_changed();
            if receiving {
                receiving = receive.as_mut().poll(context).is_pending();
            }
            if outcome.is_none()
                && let Poll::Ready(ended) = connection.as_mut().poll(context)
            {
                pipe.shut();
                turn.end(&opening);
                if !lease.disarm() {
                    lease.arm(runtime::now() + CLOSE_GRACE);
                }
                outcome = Some(ended);
            }
            turn.observe(&mut opening, &lease, context);
            if sending {
                sending = send.as_mut().poll(context).is_pending();
            }
            if !sending && outcome.is_some() {
                return Poll::Ready(());
            }
            if !pipe.take_changed() {
                return Poll::Pending;
            }
        }
    })
    .await;
    if !opening.is_over() {
        let late = lease.disarm();
        let failure = never_opened(outcome, &pipe, late, &opening);
        opening.fail(failure);
    }
    lease.abort();
    if receiving {
        pipe.discard_input();
        // Its buffer comes back before the socket goes.
        receive.await;
    }
}

/// The driver's view of the handle's life.
enum Turn {
    /// The server's settings have not come; nobody else has the handle yet.
    Opening(Rc<Shared>),
    /// Exchanges and the group have it.
    Open(Weak<Shared>),
    Ended,
}

impl Turn {
    /// Tells the group what the last turn has changed for its exchanges.
    fn observe(&mut self, opening: &mut Opening, lease: &Lease, context: &mut Context<'_>) {
        match self {
            Self::Opening(shared) => {
                shared.look(context);
                if shared.streams_max.get() > 0 {
                    // The connect timeout ends here.
                    lease.disarm();
                    let handle = Rc::downgrade(shared);
                    opening.succeed(Rc::clone(shared));
                    *self = Self::Open(handle);
                }
            }
            Self::Open(handle) => {
                if let Some(shared) = handle.upgrade()
                    && shared.look(context)
                {
                    opening.connection_changed();
                }
            }
            Self::Ended => {}
        }
    }

    fn end(&mut self, opening: &Opening) {
        if let Self::Open(handle) = self
            && let Some(shared) = handle.upgrade()
        {
            shared.closing.set(true);
            opening.connection_changed();
        }
        *self = Self::Ended;
    }
}

impl Shared {
    /// Takes over how many streams are allowed and whether the connection takes any; whether that
    /// is news.
    fn look(&self, context: &mut Context<'_>) -> bool {
        let mut sender = self.sender.borrow_mut();
        let closing = matches!(sender.poll_ready(context), Poll::Ready(Err(_)));
        let streams_max = sender.current_max_send_streams();
        let more = self.streams_max.replace(streams_max) < streams_max;
        self.closing.replace(self.closing.get() || closing) != self.closing.get() || more
    }
}

/// Why a connection ended before the server's settings came.
fn never_opened(
    outcome: Option<Result<(), ::h2::Error>>,
    pipe: &Pipe,
    late: bool,
    opening: &Opening,
) -> Failure {
    let peer = opening.peer();
    match outcome {
        _ if late => opening.timed_out(),
        Some(Err(error)) if error.is_go_away() && error.is_remote() => {
            Failure::Connect(format!("{peer} turned the connection away ({error})"))
        }
        Some(Err(error)) if !error.is_io() => {
            Failure::Protocol(format!("{peer} does not speak HTTP/2 ({error})"))
        }
        _ => pipe
            .end(|error| Failure::cut(error, Phase::Connecting, peer))
            .unwrap_or_else(|| Failure::cut(None, Phase::Connecting, peer)),
    }
}

/// Every bound is set here, also where it is the crate's default: a default may change unseen.
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .header_table_size(HEADER_TABLE_BYTES)
        .max_header_list_size(HEAD_BYTES)
        .enable_push(false)
        // None before the server's settings say how many it takes.
        .initial_max_send_streams(0)
        .max_concurrent_reset_streams(RESET_STREAMS_KEPT)
        .reset_stream_duration(RESET_STREAMS_KEPT_FOR)
        .max_pending_accept_reset_streams(PEER_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(Some(STREAM_ERRORS_MAX))
        // Tiny frames may cost this much more memory than they hold; tokens of an event stream are
        // such frames, and are given back as soon as they are read.
        .data_frame_budget(CONNECTION_WINDOW as usize / 2);
    builder
}
