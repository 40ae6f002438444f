//! One exchange on one stream.

use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};

use ::h2::client::ResponseFuture;
use ::h2::{Reason, RecvStream, SendStream};
use ::http::HeaderMap;
use ::http::header::CONTENT_LENGTH;
use ::http::uri;
use bytes::Bytes;

use super::HeadCache;
use super::group::Slot;
use crate::client::deadline::Lease;
use crate::client::failure::{Failure, Phase};
use crate::client::pump::Transfer;
use crate::http::{Limits, MAX_INTERIM, ProtocolError, Response, Scheme, Signals};
use crate::runtime::buffers;

/// Most room taken for a body on the word of its `content-length`.
const RESERVE_MAX: usize = 256 * 1024;

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
    pub(in crate::client) limits: Limits,
    pub(in crate::client) lease: &'a Lease,
}

/// Sends the request on a stream and reads the answer. Whatever comes of it, the stream is over
/// then, and the connection's other streams have noticed nothing.
pub(in crate::client) async fn perform(
    sending: &Sending<'_>,
    request: Vec<u8>,
    transfer: &mut Transfer,
    on_body: &mut impl FnMut(&[u8]),
) -> Result<Response, Ended> {
    let (mut response, mut upload, pending) = sending.open(request)?;
    let outcome = sending
        .receive(&mut response, &pending, transfer, on_body)
        .await;
    // Also when the answer came before the request was out: nobody will read the rest of it.
    if outcome.is_err() || pending.load(Ordering::Relaxed) {
        upload.send_reset(Reason::CANCEL);
    }
    if let Err(Ended::Late(_)) = outcome {
        let slot = &sending.slot;
        slot.connection.note_late(slot.answers);
    }
    outcome
}

/// A request's bytes while frames are cut from them. Whoever waits for the answer holds only the
/// flag: it falls, and the buffer goes back, when the last frame is out.
struct Upload {
    request: Vec<u8>,
    pending: Arc<AtomicBool>,
}

impl AsRef<[u8]> for Upload {
    fn as_ref(&self) -> &[u8] {
        &self.request
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.pending.store(false, Ordering::Relaxed);
        buffers::give_back(mem::take(&mut self.request));
    }
}

impl Sending<'_> {
    /// Sends the request as far as it goes; whether some of it is still to be sent is in the flag.
    fn open(
        &self,
        request: Vec<u8>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Arc<AtomicBool>), Ended> {
        let scheme = match self.scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        };
        let Some((head, body)) = self.heads.translate(&request, &scheme) else {
            let text = format!(
                "{}: the request's head cannot be sent over HTTP/2",
                self.peer
            );
            return Err(Ended::Failed(Failure::Protocol(text)));
        };
        let connection = &self.slot.connection;
        let pending = Arc::new(AtomicBool::new(true));
        let request = Bytes::from_owner(Upload {
            request,
            pending: Arc::clone(&pending),
        });
        let opened = connection.sender().send_request(head, body.is_empty());
        let Ok((response, mut upload)) = opened else {
            connection.closing.set(true);
            return Err(Ended::NotSent);
        };
        if !body.is_empty() {
            // All at once and without a copy: frames are cut from it as the server's windows allow.
            // An error would show in the response as well.
            let _ = upload.send_data(request.slice(body), true);
        }
        Ok((response, upload, pending))
    }

    async fn receive(
        &self,
        response: &mut ResponseFuture,
        pending: &AtomicBool,
        transfer: &mut Transfer,
        on_body: &mut impl FnMut(&[u8]),
    ) -> Result<Response, Ended> {
        let unanswered = || match pending.load(Ordering::Relaxed) {
            true => Phase::Sending,
            false => Phase::Waiting,
        };
        let mut interim = 0;
        let head = self
            .in_time(poll_fn(|context| {
                while let Poll::Ready(Some(Ok(_))) = response.poll_informational(context) {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Poll::Ready(Err(None));
                    }
                }
                pin!(&mut *response).poll(context).map_err(Some)
            }))
            .await
            .ok_or_else(|| Ended::Late(unanswered()))?;
        transfer.answered = true;
        let (head, mut body) = match head {
            Ok(head) => head.into_parts(),
            Err(None) => {
                return Err(self.broken(ProtocolError::TooManyInterim { limit: MAX_INTERIM }));
            }
            Err(Some(error)) => {
                transfer.answered = false;
                return Err(self.failed(&error, unanswered()));
            }
        };
        self.note_answer();

        let reply = &mut transfer.reply;
        if reply.capacity() == 0 {
            *reply = buffers::take();
        }
        let signals = render(head.status.as_u16(), &head.headers, reply);
        let head_end = reply.len();
        if head_end > self.limits.head_bytes {
            let limit = self.limits.head_bytes;
            return Err(self.broken(ProtocolError::HeadTooLarge { limit }));
        }
        let length = head.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.limits.body_bytes as u64) {
            return Err(self.too_large());
        }
        reply.reserve(length.map_or(0, |length| length as usize).min(RESERVE_MAX));
        self.receive_body(&mut body, head_end, reply, on_body)
            .await?;
        Ok(Response {
            status: head.status.as_u16(),
            head: 0..head_end,
            body: head_end..reply.len(),
            reusable: true,
            signals,
        })
    }

    async fn receive_body(
        &self,
        body: &mut RecvStream,
        head_end: usize,
        reply: &mut Vec<u8>,
        on_body: &mut impl FnMut(&[u8]),
    ) -> Result<(), Ended> {
        while !body.is_end_stream() {
            let piece = self
                .in_time(poll_fn(|context| body.poll_data(context)))
                .await
                .ok_or(Ended::Late(Phase::Receiving))?;
            let piece = match piece {
                None => break,
                Some(Ok(piece)) => piece,
                // A server that answers before it has read the request may refuse the rest of it
                // when all of its answer is out (RFC 9113 section 8.1); that is not this.
                Some(Err(error)) => return Err(self.failed(&error, Phase::Receiving)),
            };
            if reply.len() - head_end + piece.len() > self.limits.body_bytes {
                return Err(self.too_large());
            }
            self.note_answer();
            reply.extend_from_slice(&piece);
            // Fails only when the stream is over, and then windows matter no more.
            let _ = body.flow_control().release_capacity(piece.len());
            on_body(&piece);
        }
        Ok(())
    }

    fn note_answer(&self) {
        let answers = &self.slot.connection.answers;
        answers.set(answers.get() + 1);
    }

    /// The outcome of `work`; `None` when the deadline comes first.
    async fn in_time<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.lease.has_fired(context.waker()) {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(ready!(work.as_mut().poll(context))))
        })
        .await
    }

    fn broken(&self, error: ProtocolError) -> Ended {
        Ended::Failed(Failure::protocol(&error, self.peer))
    }

    fn too_large(&self) -> Ended {
        let limit = self.limits.body_bytes;
        self.broken(ProtocolError::BodyTooLarge { limit })
    }

    /// What `error` on the stream means while `phase` was going on.
    fn failed(&self, error: &::h2::Error, phase: Phase) -> Ended {
        let peer = self.peer;
        let reason = error.reason().unwrap_or(Reason::NO_ERROR);
        if error.is_io() {
            let pipe = &self.slot.connection.pipe;
            let failure = pipe
                .end(|error| Failure::cut(error, phase, peer))
                .unwrap_or_else(|| Failure::cut(None, phase, peer));
            return Ended::Cut(failure);
        }
        let before_answer = phase != Phase::Receiving;
        match (error.is_remote(), error.is_go_away()) {
            (true, true) => Ended::Undone(Failure::Connect(format!(
                "{peer} closed the connection before it took the request ({reason:?})"
            ))),
            (true, false) if reason == Reason::REFUSED_STREAM => {
                Ended::Refused(Failure::Connect(format!("{peer} refused the stream twice")))
            }
            (true, false) if before_answer => Ended::Failed(Failure::Connect(format!(
                "{peer} reset the stream before it answered ({reason:?})"
            ))),
            (true, false) => Ended::Failed(Failure::Protocol(format!(
                "{peer} reset the stream within the response ({reason:?})"
            ))),
            (false, _) => Ended::Failed(Failure::Protocol(format!(
                "{peer}: the response breaks HTTP/2, or its head is too large ({reason:?})"
            ))),
        }
    }
}

/// Writes the head as HTTP/1.1 would have it, which is what readers of a reply know.
fn render(status: u16, fields: &HeaderMap, reply: &mut Vec<u8>) -> Signals {
    let mut signals = Signals::default();
    // Writing into a vector cannot fail.
    let _ = write!(reply, "HTTP/1.1 {status}\r\n");
    for (name, value) in fields {
        signals.observe(name.as_str(), value.as_bytes());
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            reply.extend_from_slice(part);
        }
    }
    reply.extend_from_slice(b"\r\n");
    signals
}
