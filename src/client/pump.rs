//! Moves one exchange through one connection: the hot path.
//!
//! Written once for plain and TLS halves of both runtimes. In steady state it allocates nothing, and
//! while it waits for an answer it holds no buffer: the request's goes back once it is sent, and the
//! answer's is taken when there is something to put in.

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::deadline::Lease;
use super::failure::Phase;
use super::{LINGER, Wanted};
use crate::http::{Limits, Progress, ProtocolError, Response, ResponseReader};
use crate::runtime::{self, Read, buffers};

/// Least room for a read: a usual answer and its head arrive in one.
const READ_ROOM: usize = 4 * 1024;

/// What has been seen of one exchange so far. It stays with the caller, so that the future of a
/// sending is as small as can be.
pub(super) struct Transfer {
    /// What was received; has no capacity before the first byte.
    pub(super) reply: Vec<u8>,
    /// A byte of an answer came.
    pub(super) answered: bool,
    /// Bytes that came in.
    pub(super) received: usize,
}

/// How one sending on one connection ended.
pub(super) struct Attempt {
    pub(super) outcome: Result<Response, Broken>,
    /// How far it came.
    pub(super) phase: Phase,
    /// Whether the request went out completely; if not, the connection is of no further use.
    pub(super) sent: bool,
    /// Whether the stream ended.
    pub(super) closed: bool,
}

impl Attempt {
    /// Whether the connection was found to be of no use before anything was sent on it (see
    /// [`runtime::Abort::is_quiet`]).
    pub(super) fn went_nowhere(&self) -> bool {
        matches!(&self.outcome, Err(Broken::Cut(Some(error))) if error.kind() == io::ErrorKind::NotConnected)
    }
}

/// Why an attempt has no response.
pub(super) enum Broken {
    /// The connection ended: an error, or closed by the peer.
    Cut(Option<io::Error>),
    /// What came is no proper response.
    Protocol(ProtocolError),
}

/// Sends the request and reads the answer, both at the same time: the answer to a large upload may
/// come early (413), and the server may then stop reading. On io_uring this also submits both
/// operations with one system call. Deadlines end it through the lease.
///
/// `write` sends the request; the caller has pinned it, because a future keeps what it is called with
/// for as long as it lives, and thousands of exchanges wait at once.
pub(super) async fn perform<R: Read>(
    reader: &mut R,
    mut write: Pin<&mut impl Future<Output = io::Result<()>>>,
    lease: &Lease,
    limits: Limits,
    transfer: &mut Transfer,
    on_body: &mut impl FnMut(&[u8]) -> Wanted,
) -> Attempt {
    let mut response = ResponseReader::new(limits);
    let mut delivered = 0;
    let mut closed = false;
    // The caller needs no more of the body.
    let mut enough = false;
    let mut reserve = READ_ROOM;
    // Whether the write is over, and if so, whether it succeeded.
    let mut sent: Option<bool> = None;

    let outcome = loop {
        {
            let mut ready = pin!(reader.ready());
            poll_fn(|context| {
                poll_write(&mut sent, write.as_mut(), context);
                ready.as_mut().poll(context)
            })
            .await;
        }
        let (read, reply) = {
            let mut reply = mem::take(&mut transfer.reply);
            if reply.capacity() == 0 {
                reply = buffers::take();
            }
            reply.reserve(reserve.max(READ_ROOM));
            let mut read = pin!(reader.read(reply));
            poll_fn(|context| {
                poll_write(&mut sent, write.as_mut(), context);
                read.as_mut().poll(context)
            })
            .await
        };
        transfer.reply = reply;
        let reply = &mut transfer.reply;
        let progress = match read {
            Err(_) | Ok(0) if enough => break response.so_far().ok_or(Broken::Cut(None)),
            Err(error) => break Err(Broken::Cut(Some(error))),
            Ok(0) if !response.started() => break Err(Broken::Cut(None)),
            Ok(0) => {
                closed = true;
                response.finish(reply)
            }
            Ok(count) => {
                transfer.received += count;
                transfer.answered = true;
                response.advance(reply)
            }
        };
        if let Some(body) = response.body_so_far()
            && body.len() > delivered
        {
            let wanted = on_body(&reply[body.start + delivered..body.end]);
            delivered = body.len();
            if wanted == Wanted::Enough && !enough {
                enough = true;
                lease.hasten(runtime::now() + LINGER);
            }
        }
        match progress {
            Ok(Progress::NeedMore { reserve: room }) => reserve = room,
            Ok(Progress::Done(response)) => break Ok(response),
            Err(error) => {
                break match response.so_far().filter(|_| enough) {
                    Some(response) => Ok(response),
                    None => Err(Broken::Protocol(error)),
                };
            }
        }
    };

    let phase = match sent {
        _ if response.started() => Phase::Receiving,
        Some(true) => Phase::Waiting,
        Some(false) | None => Phase::Sending,
    };
    if sent.is_none() {
        // Nobody will read the rest.
        lease.abort();
    }
    Attempt {
        outcome,
        phase,
        sent: sent == Some(true),
        closed,
    }
}

/// Goes on writing, until `sent` says how that ended.
fn poll_write(
    sent: &mut Option<bool>,
    write: Pin<&mut impl Future<Output = io::Result<()>>>,
    context: &mut Context<'_>,
) {
    if sent.is_none()
        && let Poll::Ready(outcome) = write.poll(context)
    {
        *sent = Some(outcome.is_ok());
    }
}
