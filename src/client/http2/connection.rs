//! One HTTP/2 connection: the task that drives it, and the handle that exchanges share.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::group::Opening;
use crate::client::connect::{Connection, Stream};
use crate::client::deadline::Lease;
use crate::client::failure::{Failure, Phase};
use crate::http::Limits;
use crate::http2::{self, Backlog, Reason};
use crate::runtime::{self, Read, Runtime, Write, buffers, catch_panic};

/// Room for a read: the answers of many streams come together, and a TLS record holds up to this much.
const READ_ROOM: usize = 16 << 10;
/// How long the last bytes of a connection that closes may take.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// A connection as exchanges see it.
pub(in crate::client) struct Shared {
    pub(super) machine: RefCell<http2::Connection>,
    /// Streams the server allows; 0 until its settings have come.
    pub(super) streams_max: Cell<usize>,
    /// Streams in use.
    pub(super) active: Cell<usize>,
    /// No further stream may be opened.
    pub(super) closing: Cell<bool>,
    pub(super) idle_since: Cell<Instant>,
    /// What ended the socket's stream, once it has ended: an error, or (`None`) the peer's close.
    end: RefCell<Option<Option<io::Error>>>,
    /// Something has happened that another half of the driver may act upon.
    changed: Cell<bool>,
}

/// Keeps a connection open: it closes when the last handle goes.
pub(in crate::client) struct Handle(Rc<Shared>);

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // This one and the driver's own.
        if Rc::strong_count(&self.0) == 2 {
            self.0.machine.borrow_mut().nudge();
        }
    }
}

impl Shared {
    fn new(limits: Limits, backlog: Backlog) -> Rc<Self> {
        Rc::new(Self {
            machine: RefCell::new(http2::Connection::new(limits, backlog)),
            streams_max: Cell::new(0),
            active: Cell::new(0),
            closing: Cell::new(false),
            idle_since: Cell::new(runtime::now()),
            end: RefCell::new(None),
            changed: Cell::new(false),
        })
    }

    /// Heads and pieces of bodies that have come over it: once there is one, it may merely have
    /// gone stale if it ends.
    pub(super) fn answers(&self) -> u64 {
        self.machine.borrow().answers()
    }

    /// A deadline fired for a stream that was taken when `answers` had come. If no stream has been
    /// answered since, none is opened here any more: the peer is gone, or hangs, and control frames
    /// prove little (a proxy answers pings for a server that hangs). What is under way may go on.
    pub(super) fn note_late(&self, answers: u64) {
        if self.answers() == answers {
            self.closing.set(true);
        }
    }

    /// How the connection ended, while `phase` was going on.
    pub(super) fn cut(&self, phase: Phase, peer: &str) -> Failure {
        let end = self.end.borrow();
        Failure::cut(end.as_ref().and_then(Option::as_ref), phase, peer)
    }

    /// Takes over how many streams are allowed and whether the connection takes any; whether that
    /// is news.
    fn look(&self) -> bool {
        let machine = self.machine.borrow();
        let streams_max = machine.streams_max();
        let more = self.streams_max.replace(streams_max) < streams_max;
        let closing = self.closing.get() || machine.is_closing();
        self.closing.replace(closing) != closing || more
    }

    /// The socket's stream is over.
    fn ended(&self, error: Option<io::Error>) {
        self.end.borrow_mut().get_or_insert(error);
        self.machine.borrow_mut().cut();
        self.changed.set(true);
    }
}

/// Drives `connection` until it ends: in good time after the last handle to it has gone. `opening`
/// hears when it can be used, or why it never could.
pub(in crate::client) async fn serve<R: Runtime>(
    connection: Box<Connection<R>>,
    limits: Limits,
    opening: Opening,
) {
    let Connection { stream, lease, .. } = *connection;
    let shared = Shared::new(limits, opening.backlog());
    // A panic ends the connection: streams see the end.
    let driven = match stream {
        Stream::Plain {
            reader,
            writer,
            early,
        } => {
            let driver = Driver::new(&shared, lease, opening);
            catch_panic(driver.drive(reader, writer, early)).await
        }
        Stream::Tls { reader, writer } => {
            let driver = Driver::new(&shared, lease, opening);
            catch_panic(driver.drive(reader, writer, Vec::new())).await
        }
    };
    if driven.is_err() {
        shared.closing.set(true);
        shared.ended(None);
    }
}

/// The task's own part.
struct Driver<'a> {
    shared: &'a Rc<Shared>,
    lease: Lease,
    opening: Opening,
    /// Exchanges and the group have handles.
    is_open: bool,
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Rc<Shared>, lease: Lease, opening: Opening) -> Self {
        Self {
            shared,
            lease,
            opening,
            is_open: false,
        }
    }

    async fn drive(mut self, reader: impl Read, writer: impl Write, early: Vec<u8>) {
        let shared = self.shared;
        let mut late = false;
        // The last bytes are on their way, and nothing is read any more.
        let closing = Cell::new(false);
        let mut receive = pin!(receive(shared, reader, early, &closing));
        let mut send = pin!(send(shared, writer, &closing));
        let (mut receiving, mut sending) = (true, true);
        poll_fn(|context| {
            shared.machine.borrow_mut().remember(context.waker());
            loop {
                shared.changed.set(false);
                // First: requests that wait for room come before those that the server's answers set off.
                if sending {
                    sending = send.as_mut().poll(context).is_pending();
                }
                if receiving {
                    receiving = receive.as_mut().poll(context).is_pending();
                }
                self.observe();
                if !closing.get() && self.is_over() {
                    closing.set(true);
                    // Until now it may have been the connect timeout's.
                    late = self.lease.disarm();
                    if !late {
                        self.lease.arm(runtime::now() + CLOSE_GRACE);
                    }
                    self.announce_end();
                }
                if sending {
                    sending = send.as_mut().poll(context).is_pending();
                }
                if !sending && closing.get() {
                    return Poll::Ready(());
                }
                if !shared.changed.get() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        if !self.opening.is_over() {
            let failure = self.never_opened(late);
            self.opening.fail(failure);
        }
        self.lease.abort();
        if receiving {
            // Its buffer comes back before the socket goes.
            receive.await;
        }
    }

    /// Tells the group what the last turn has changed for its exchanges.
    fn observe(&mut self) {
        let news = self.shared.look();
        if self.is_open {
            if news {
                self.opening.connection_changed();
            }
        } else if self.shared.streams_max.get() > 0 && !self.shared.closing.get() {
            // The connect timeout ends here.
            self.lease.disarm();
            self.is_open = true;
            self.opening.succeed(Handle(Rc::clone(self.shared)));
        }
    }

    /// Whether nothing more is to be read.
    fn is_over(&self) -> bool {
        let is_left = match self.is_open {
            true => Rc::strong_count(self.shared) == 1,
            // It will never be of use.
            false => self.shared.closing.get(),
        };
        is_left
            || self.shared.machine.borrow().over().is_some()
            || self.shared.end.borrow().is_some()
    }

    /// Takes leave of the server, unless there is nobody to take leave of.
    fn announce_end(&self) {
        if self.shared.end.borrow().is_none() {
            self.shared.machine.borrow_mut().end(Reason::NO_ERROR);
        }
        self.shared.look();
        if self.is_open {
            self.opening.connection_changed();
        }
    }

    /// Why the connection ended before the server's settings came.
    fn never_opened(&self, late: bool) -> Failure {
        let peer = self.opening.peer();
        if late {
            return self.opening.timed_out();
        }
        let machine = self.shared.machine.borrow();
        match (machine.farewell(), machine.over()) {
            (Some(reason), _) => {
                Failure::Connect(format!("{peer} turned the connection away ({reason:?})"))
            }
            (None, Some(reason)) if reason != Reason::NO_ERROR => {
                Failure::Protocol(format!("{peer} does not speak HTTP/2 ({reason:?})"))
            }
            _ => self.shared.cut(Phase::Connecting, peer),
        }
    }
}

/// Moves bytes from the socket to the machine, until the connection ends. A connection that waits
/// holds no buffer, unless it has half a frame.
async fn receive(shared: &Shared, mut reader: impl Read, early: Vec<u8>, closing: &Cell<bool>) {
    let mut buffer = early;
    loop {
        // What has come, as far as the machine takes it now.
        poll_fn(|_| {
            let mut machine = shared.machine.borrow_mut();
            if !buffer.is_empty() {
                let taken = machine.receive(&buffer);
                buffer.drain(..taken);
                if taken > 0 {
                    shared.changed.set(true);
                }
            }
            match machine.is_full() && !closing.get() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
        if closing.get() || shared.machine.borrow().over().is_some() {
            return;
        }
        match buffer.is_empty() {
            true => buffers::give_back(mem::take(&mut buffer)),
            false => buffer = buffers::at_rest(buffer),
        }
        reader.ready().await;
        let room = buffers::with_room(mem::take(&mut buffer), READ_ROOM);
        let (outcome, filled) = reader.read(room).await;
        buffer = filled;
        match outcome {
            Ok(0) => return shared.ended(None),
            Err(error) => return shared.ended(Some(error)),
            Ok(_) => {}
        }
    }
}

/// Moves bytes from the machine to the socket, until all is sent at its end, or sending fails.
async fn send(shared: &Shared, mut writer: impl Write, closing: &Cell<bool>) {
    loop {
        let batch = poll_fn(|_| match shared.machine.borrow_mut().take_output() {
            Some(batch) => Poll::Ready(Some(batch)),
            None if closing.get() => Poll::Ready(None),
            None => Poll::Pending,
        })
        .await;
        let Some(batch) = batch else { return };
        // There is room again, and a machine that was held up by its lack may go on.
        shared.changed.set(true);
        let (outcome, batch) = writer.write_all(batch).await;
        buffers::give_back(batch);
        shared.machine.borrow_mut().note_sent();
        if let Err(error) = outcome {
            return shared.ended(Some(error));
        }
    }
}
