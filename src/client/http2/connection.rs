//! One HTTP/2 connection: the task that drives it, and the handle that exchanges share.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::h2::client::{Builder, SendRequest};
use ::h2::{Ping, PingPong};
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
/// How long a connection on which a deadline fired in silence may leave a ping unanswered.
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// A connection as exchanges see it. It closes when the last handle goes.
pub(in crate::client) struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
    pings: RefCell<Option<PingPong>>,
    pub(super) pipe: Pipe,
    /// Streams the server allows; 0 until its settings have come.
    pub(super) streams_max: Cell<usize>,
    /// Streams in use.
    pub(super) active: Cell<usize>,
    /// No further stream may be opened.
    pub(super) closing: Cell<bool>,
    /// An answer has come over it: if it ends now, it may merely have gone stale.
    pub(super) answered: Cell<bool>,
    pub(super) idle_since: Cell<Instant>,
    /// When a ping was sent, and how much had been received by then.
    probe: Cell<Option<(Instant, u64)>>,
}

impl Shared {
    /// A handle to open one stream with.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.borrow().clone()
    }

    /// A deadline fired although nothing has come since `received`: asks whether anybody is there.
    /// [`Shared::is_dead`] has the answer.
    pub(super) fn probe(&self, received: u64, now: Instant) {
        if self.pipe.received() > received || self.probe.get().is_some() {
            return;
        }
        if let Some(pings) = &mut *self.pings.borrow_mut() {
            // Takes the answer to an earlier one, which would be in the way.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            if pings.send_ping(Ping::opaque()).is_ok() {
                self.probe.set(Some((now, received)));
            }
        }
    }

    /// Whether the peer has left a ping unanswered for too long.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        let Some((at, received)) = self.probe.get() else {
            return false;
        };
        if self.pipe.received() > received {
            self.probe.set(None);
            return false;
        }
        now.saturating_duration_since(at) >= PING_PATIENCE
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
        pings: RefCell::new(connection.ping_pong()),
        pipe: pipe.clone(),
        streams_max: Cell::new(0),
        active: Cell::new(0),
        closing: Cell::new(false),
        answered: Cell::new(false),
        idle_since: Cell::new(runtime::now()),
        probe: Cell::new(None),
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
