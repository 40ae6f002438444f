//! A pipe in memory between a protocol machine that wants tokio's I/O traits and a connection's
//! owned-buffer halves. It names tokio's traits, not its runtime, and serves both backends.
//!
//! There are no wakers in it: one task polls the machine and both halves in turns for as long as
//! [`Pipe::take_changed`] says that one of them made work for another.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Read, Write, buffers};

/// Room for a read: many small answers arrive in one, and a TLS record holds up to this much.
const READ_ROOM: usize = 16 * 1024;
/// Bytes that may wait for the socket before the machine has to.
const WRITE_ROOM: usize = 64 * 1024;

/// Both directions of one connection; clones share them.
#[derive(Clone, Default)]
pub struct Pipe(Rc<Shared>);

#[derive(Default)]
struct Shared {
    incoming: RefCell<Incoming>,
    outgoing: RefCell<Outgoing>,
    changed: Cell<bool>,
}

#[derive(Default)]
struct Incoming {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that the machine has read.
    taken: usize,
    /// The machine is gone and will read nothing more.
    unwanted: bool,
    /// The stream is over; the error is whatever ended it.
    end: Option<Option<io::Error>>,
}

#[derive(Default)]
struct Outgoing {
    buffer: Vec<u8>,
    /// Nothing more will come.
    shut: bool,
    /// Nothing more can be sent.
    broken: Option<io::ErrorKind>,
}

impl Pipe {
    /// A pipe through which `early` has come already.
    pub fn new(early: Vec<u8>) -> Self {
        let pipe = Self::default();
        pipe.0.incoming.borrow_mut().buffer = early;
        pipe
    }

    /// Whether anything has happened since the last question that another party may act upon.
    pub fn take_changed(&self) -> bool {
        self.0.changed.take()
    }

    /// Says that the machine will write nothing more.
    pub fn shut(&self) {
        self.0.outgoing.borrow_mut().shut = true;
        self.0.changed.set(true);
    }

    /// Ends [`Pipe::receive`] with the read that is under way: nobody reads on.
    pub fn discard_input(&self) {
        self.0.incoming.borrow_mut().unwanted = true;
    }

    /// What `read` makes of the error that ended the connection (`None`: closed by the peer), once
    /// it has ended.
    pub fn end<T>(&self, read: impl FnOnce(Option<&io::Error>) -> T) -> Option<T> {
        let incoming = self.0.incoming.borrow();
        incoming.end.as_ref().map(|error| read(error.as_ref()))
    }

    /// Moves bytes from `reader` to the machine until the stream ends.
    pub async fn receive(&self, mut reader: impl Read) {
        loop {
            let wanted = poll_fn(|_| {
                let mut incoming = self.0.incoming.borrow_mut();
                if incoming.unwanted {
                    return Poll::Ready(false);
                }
                if incoming.taken < incoming.buffer.len() {
                    return Poll::Pending;
                }
                incoming.taken = 0;
                buffers::give_back(mem::take(&mut incoming.buffer));
                Poll::Ready(true)
            })
            .await;
            if !wanted {
                return;
            }
            reader.ready().await;
            let mut buffer = buffers::take();
            buffer.reserve(READ_ROOM);
            let (outcome, buffer) = reader.read(buffer).await;
            self.0.changed.set(true);
            let mut incoming = self.0.incoming.borrow_mut();
            match outcome {
                Ok(0) => incoming.end = Some(None),
                Err(error) => incoming.end = Some(Some(error)),
                Ok(_) => {
                    incoming.buffer = buffer;
                    continue;
                }
            }
            return;
        }
    }

    /// Moves bytes from the machine to `writer` until all is sent after [`Pipe::shut`], or sending
    /// fails.
    pub async fn send(&self, mut writer: impl Write) {
        loop {
            let batch = poll_fn(|_| {
                let mut outgoing = self.0.outgoing.borrow_mut();
                if !outgoing.buffer.is_empty() {
                    return Poll::Ready(Some(mem::take(&mut outgoing.buffer)));
                }
                match outgoing.shut {
                    true => Poll::Ready(None),
                    false => Poll::Pending,
                }
            })
            .await;
            let Some(batch) = batch else { return };
            // There is room again, and a machine that was held up by its lack may go on.
            self.0.changed.set(true);
            let (outcome, batch) = writer.write_all(batch).await;
            buffers::give_back(batch);
            if let Err(error) = outcome {
                self.0.outgoing.borrow_mut().broken = Some(error.kind());
                self.0.changed.set(true);
                return;
            }
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut incoming = self.0.incoming.borrow_mut();
        let left = &incoming.buffer[incoming.taken..];
        if left.is_empty() {
            return match &incoming.end {
                None => Poll::Pending,
                Some(None) => Poll::Ready(Ok(())),
                Some(Some(error)) => Poll::Ready(Err(error.kind().into())),
            };
        }
        let count = left.len().min(into.remaining());
        into.put_slice(&left[..count]);
        incoming.taken += count;
        if incoming.taken == incoming.buffer.len() {
            self.0.changed.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut outgoing = self.0.outgoing.borrow_mut();
        if let Some(kind) = outgoing.broken {
            return Poll::Ready(Err(kind.into()));
        }
        let count = bytes
            .len()
            .min(WRITE_ROOM.saturating_sub(outgoing.buffer.len()));
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        if outgoing.buffer.capacity() == 0 {
            outgoing.buffer = buffers::take();
        }
        outgoing.buffer.extend_from_slice(&bytes[..count]);
        self.0.changed.set(true);
        Poll::Ready(Ok(count))
    }

    /// What is in the pipe is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut();
        Poll::Ready(Ok(()))
    }
}
