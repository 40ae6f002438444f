//! One exchange on one stream.

use std::future::poll_fn;
use std::mem;
use std::task::{Context, Poll};

use super::HeadCache;
use super::connection::Shared;
use super::group::Slot;
use crate::client::deadline::Lease;
use crate::client::failure::{Failure, Phase};
use crate::client::pump::Transfer;
use crate::client::{LINGER, Wanted};
use crate::http::{Response, Scheme};
use crate::http2::{Fault, Key, Reason, State, Stream};
use crate::runtime::{self, buffers};

/// Why an exchange has no response.
#[derive(Debug)]
pub(in crate::client) enum Ended {
    /// The connection took no stream: nothing was sent.
    NotSent,
    /// The server says that it did nothing with the request: it closes the connection (GOAWAY).
    Undone(Failure),
    /// The server says that it did nothing with the request: not now (REFUSED_STREAM).
    Refused(Failure),
    /// The connection ended before an answer began.
    Cut(Failure),
    /// The deadline came, at that stage.
    Late(Phase),
    /// Anything else.
    Failed(Failure),
}

/// What one sending needs.
pub(in crate::client) struct Sending<'a> {
    pub(in crate::client) slot: Slot,
    pub(in crate::client) heads: &'a HeadCache,
    pub(in crate::client) scheme: Scheme,
    /// Host and port, for messages.
    pub(in crate::client) peer: &'a str,
    pub(in crate::client) lease: &'a Lease,
}

/// Waits until the connection of `slot` has room for a request, before it is written: those that wait
/// hold no buffer. `false` when the deadline of `lease` comes first.
pub(in crate::client) async fn room(slot: &Slot, lease: &Lease) -> bool {
    poll_fn(|context| {
        if lease.has_fired(context.waker()) {
            slot.connection.note_late(slot.answers);
            return Poll::Ready(false);
        }
        let mut machine = slot.connection.machine.borrow_mut();
        match machine.has_room(context.waker()) {
            true => Poll::Ready(true),
            false => Poll::Pending,
        }
    })
    .await
}

/// A stream of our own; ends it when dropped, and the connection's other streams notice nothing.
struct Open<'a> {
    connection: &'a Shared,
    key: Key,
    /// Bytes of the body that the caller has seen.
    delivered: usize,
    /// The caller needs no more of it.
    enough: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.connection.machine.borrow_mut().leave(self.key);
    }
}

/// Sends the request on a stream and reads the answer. Whatever comes of it, the stream is over then.
pub(in crate::client) async fn perform(
    sending: &Sending<'_>,
    request: Vec<u8>,
    transfer: &mut Transfer,
    on_body: &mut impl FnMut(&[u8]) -> Wanted,
) -> Result<Response, Ended> {
    let mut open = sending.open(request)?;
    poll_fn(|context| sending.poll(&mut open, transfer, on_body, context)).await
}

impl Sending<'_> {
    /// Hands the request to the connection.
    fn open(&self, request: Vec<u8>) -> Result<Open<'_>, Ended> {
        let Some(translated) = self.heads.translate(&request, self.scheme) else {
            buffers::give_back(request);
            let text = format!(
                "{}: the request's head cannot be sent over HTTP/2",
                self.peer
            );
            return Err(Ended::Failed(Failure::Protocol(text)));
        };
        let connection: &Shared = &self.slot.connection;
        let mut machine = connection.machine.borrow_mut();
        let opened = machine.open(
            &translated.head,
            translated.once,
            translated.length,
            request,
            translated.body,
        );
        let Some(key) = opened else {
            connection.closing.set(true);
            return Err(Ended::NotSent);
        };
        Ok(Open {
            connection,
            key,
            delivered: 0,
            enough: false,
        })
    }

    fn poll(
        &self,
        open: &mut Open<'_>,
        transfer: &mut Transfer,
        on_body: &mut impl FnMut(&[u8]) -> Wanted,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response, Ended>> {
        let mut machine = open.connection.machine.borrow_mut();
        let stream = machine.stream(open.key);
        let is_late = self.lease.has_fired(context.waker());
        if is_late && !open.enough {
            let phase = phase(stream);
            drop(machine);
            let slot = &self.slot;
            slot.connection.note_late(slot.answers);
            return Poll::Ready(Err(Ended::Late(phase)));
        }
        let head_end = stream.head_end();
        transfer.answered = head_end > 0;
        let (status, signals) = (stream.status(), stream.signals());
        let failure = match stream.state() {
            _ if is_late => None,
            State::Waiting => {
                stream.remember(context.waker());
                return Poll::Pending;
            }
            State::Answering => {
                stream.remember(context.waker());
                // Out of the machine while the caller looks at it.
                let reply = mem::take(stream.reply());
                drop(machine);
                if open.deliver(&reply[head_end..], on_body) == Wanted::Enough {
                    self.lease.hasten(runtime::now() + LINGER);
                }
                let mut machine = open.connection.machine.borrow_mut();
                *machine.stream(open.key).reply() = reply;
                return Poll::Pending;
            }
            State::Done => None,
            State::Failed(fault) => Some((fault.clone(), phase(stream))),
        };
        let reply = mem::take(stream.reply());
        drop(machine);
        if head_end > 0 {
            let _ = open.deliver(&reply[head_end..], on_body);
        }
        let body = head_end..reply.len();
        buffers::give_back(mem::replace(&mut transfer.reply, reply));
        if let Some((fault, phase)) = failure
            && !open.enough
        {
            return Poll::Ready(Err(self.failed(fault, phase)));
        }
        Poll::Ready(Ok(Response {
            status,
            head: 0..head_end,
            body,
            reusable: true,
            signals,
        }))
    }

    /// What `fault` of the stream means while `phase` was going on.
    fn failed(&self, fault: Fault, phase: Phase) -> Ended {
        let peer = self.peer;
        match fault {
            Fault::Cut => Ended::Cut(self.slot.connection.cut(phase, peer)),
            Fault::Undone(reason) => Ended::Undone(Failure::Connect(format!(
                "{peer} closed the connection before it took the request ({reason:?})"
            ))),
            Fault::Reset(Reason::REFUSED_STREAM) => {
                Ended::Refused(Failure::Connect(format!("{peer} refused the stream twice")))
            }
            Fault::Reset(reason) if phase == Phase::Receiving => Ended::Failed(Failure::Protocol(
                format!("{peer} reset the stream within the response ({reason:?})"),
            )),
            Fault::Reset(reason) => Ended::Failed(Failure::Connect(format!(
                "{peer} reset the stream before it answered ({reason:?})"
            ))),
            Fault::Broken(reason) => Ended::Failed(Failure::Protocol(format!(
                "{peer}: the response breaks HTTP/2, or its head is too large ({reason:?})"
            ))),
            Fault::Protocol(error) => Ended::Failed(Failure::protocol(&error, peer)),
        }
    }
}

impl Open<'_> {
    /// Shows the caller what it has not seen of the body; `Enough` once, when it is.
    fn deliver(&mut self, body: &[u8], on_body: &mut impl FnMut(&[u8]) -> Wanted) -> Wanted {
        if body.len() <= self.delivered {
            return Wanted::More;
        }
        let wanted = on_body(&body[self.delivered..]);
        self.delivered = body.len();
        match wanted {
            Wanted::Enough if !mem::replace(&mut self.enough, true) => Wanted::Enough,
            _ => Wanted::More,
        }
    }
}

fn phase(stream: &Stream) -> Phase {
    match stream.is_sent() {
        _ if stream.head_end() > 0 => Phase::Receiving,
        true => Phase::Waiting,
        false => Phase::Sending,
    }
}
