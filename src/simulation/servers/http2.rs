//! HTTP/2 at the servers' end, by a crate of another make than the client's.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{FOR_EVER, HINTS, IDLES_MAX, THINKS_MAX, content, error, pause, unreadable};
use crate::runtime::Runtime;
use crate::runtime::simulated::Simulated;
use crate::runtime::simulated::network::Peer;
use crate::simulation::lines::{Line, marked};
use crate::simulation::outside::Outside;

/// Streams that a server allows at once, and what it takes of a request before it has read it. Less
/// would cost a long request more round trips than a short time-out has.
const STREAMS: &[u32] = &[1, 3, 100];
const WINDOWS: &[u32] = &[4_000, 65_535];

/// A late answer is late by this at most: its client has just stopped waiting, and the server does not
/// know it yet.
const LATE_MAX: Duration = Duration::from_millis(100);

/// What can be wrong with an answer.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    /// 429 with one of the ways to say how long to wait.
    Limited,
    /// 200 with what is not JSON.
    NotJson,
    /// Another length than it has.
    Conflict,
    /// The stream is reset within the body.
    ResetWithin,
    /// … before the head.
    ResetBefore,
    /// … and was not looked at.
    Refused,
    /// Nothing ever comes.
    Hangs,
    /// The body never comes to its end.
    HangsWithin,
    /// A good answer comes about when its client stops waiting for it.
    Late,
    /// The stream is reset, and the connection takes leave.
    Ends,
}

const FAULTS: &[Fault] = &[
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(529),
    Fault::Status(408),
    Fault::Limited,
    Fault::Limited,
    Fault::NotJson,
    Fault::Conflict,
    Fault::ResetWithin,
    Fault::ResetBefore,
    Fault::Refused,
    Fault::Refused,
    Fault::Hangs,
    Fault::HangsWithin,
    Fault::Late,
    Fault::Late,
    Fault::Ends,
];

/// How a connection ends of its server's will.
#[derive(Clone, Copy, Debug)]
enum Farewell {
    /// It takes no more requests, and answers those that it has taken.
    Announced,
    /// It closes.
    Silent,
    /// It resets.
    Reset,
    /// What comes is no HTTP/2 any more.
    Garbage,
}

/// One connection.
struct Shared {
    outside: Rc<Outside>,
    endpoint: usize,
    /// The connection's number.
    number: u64,
    farewell: Cell<Option<Farewell>>,
    driver: RefCell<Option<Waker>>,
}

impl Shared {
    fn end(&self, farewell: Farewell) {
        self.farewell.set(Some(farewell));
        if let Some(driver) = self.driver.borrow_mut().take() {
            driver.wake();
        }
    }

    /// One that fails nobody's attempt, or by chance any.
    fn any_farewell(&self) -> Farewell {
        const OTHERS: &[Farewell] = &[Farewell::Silent, Farewell::Reset, Farewell::Garbage];
        let world = self.outside.world();
        // Who comes next is cut off as well, whatever faults it has met.
        match self.outside.is_decided() || world.chance(0.5) {
            true => Farewell::Announced,
            false => OTHERS[world.random(|random| random.usize(0..OTHERS.len()))],
        }
    }
}

/// Serves one connection, of which `early` has come.
pub(super) async fn serve(outside: Rc<Outside>, endpoint: usize, peer: Peer, early: Vec<u8>) {
    let world = outside.world();
    let peer = Rc::new(peer);
    let shared = Rc::new(Shared {
        outside: Rc::clone(&outside),
        endpoint,
        number: peer.number(),
        farewell: Cell::default(),
        driver: RefCell::default(),
    });
    let wire = Wire {
        peer: Rc::clone(&peer),
        come: early,
    };
    let one_of = |choices: &[u32]| choices[world.random(|random| random.usize(0..choices.len()))];
    let mut settings = h2::server::Builder::new();
    settings
        .max_concurrent_streams(one_of(STREAMS))
        .initial_window_size(one_of(WINDOWS));
    let Ok(mut connection) = settings.handshake::<_, Bytes>(wire).await else {
        return;
    };
    loop {
        let next = poll_fn(|context| {
            *shared.driver.borrow_mut() = Some(context.waker().clone());
            match shared.farewell.take() {
                Some(farewell) => Poll::Ready(Err(farewell)),
                None => connection.poll_accept(context).map(Ok),
            }
        });
        match next.await {
            Ok(Some(Ok((request, respond)))) => {
                world.start_outside(handle(Rc::clone(&shared), request, respond));
            }
            // The client is gone, or a farewell is over.
            Ok(_) => return,
            Err(farewell) => {
                world.event("takes leave", peer.number(), || format!("{farewell:?}"));
                match farewell {
                    Farewell::Announced => {
                        connection.graceful_shutdown();
                        continue;
                    }
                    Farewell::Silent => {}
                    Farewell::Reset => peer.reset_behind(),
                    Farewell::Garbage => {
                        outside.breaks(shared.number);
                        peer.send(b"220 mail.example ESMTP\r\n".to_vec(), false);
                    }
                }
                // Sent again at once, without an attempt, if the connection had answered any.
                outside.excuse_all_on(shared.number);
                return;
            }
        }
    }
}

/// One request.
async fn handle(
    shared: Rc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (outside, endpoint) = (&shared.outside, shared.endpoint);
    let world = outside.world();
    let Some(body) = whole(request.into_body()).await else {
        return;
    };
    let Some(id) = marked(&body) else {
        outside.violation("a request of no line".to_owned());
        return;
    };
    let line = outside.receives(id, endpoint);
    let stream = u32::from(respond.stream_id());
    world.event("serves", id as u64, || format!("on stream {stream}"));
    pause(outside, THINKS_MAX).await;
    if outside.is_dead(endpoint) {
        outside.excuse_refused(id);
        let body = error(&line, "invalid api key");
        return reply(outside, &mut respond, 401, "", "application/json", body).await;
    }
    if outside.is_out(endpoint) {
        return shared.end(Farewell::Silent);
    }
    let fault = outside
        .may_fault(id)
        .then(|| FAULTS[world.random(|random| random.usize(0..FAULTS.len()))]);
    match fault {
        Some(fault) => {
            world.event("fault", id as u64, || format!("{fault:?}"));
            misbehave(&shared, &mut respond, &line, fault).await;
        }
        None => answer(&shared, &mut respond, &line).await,
    }
    if world.chance(outside.trouble().stale) {
        pause(outside, IDLES_MAX).await;
        shared.end(shared.any_farewell());
    }
}

/// The answer that the line's fate wants.
async fn answer(shared: &Shared, respond: &mut SendResponse<Bytes>, line: &Line) {
    let outside = &shared.outside;
    outside.answers_on(shared.number, respond.stream_id().into());
    let (status, content_type, body) = content(outside, line);
    reply(outside, respond, status, "", content_type, body).await;
}

/// The body of a request; `None`: its client does not want it any more.
async fn whole(mut body: RecvStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        all.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len()).ok()?;
    }
    Some(all)
}

/// Sends an answer's head: `headers` are lines of HTTP/1.1. `None`: its client does not want it any more.
fn begin(
    respond: &mut SendResponse<Bytes>,
    status: u16,
    headers: &str,
    content_type: &str,
) -> Option<SendStream<Bytes>> {
    let mut head = Response::builder()
        .status(status)
        .header("content-type", content_type);
    for line in headers.lines() {
        let (name, value) = line.split_once(": ")?;
        head = head.header(name, value);
    }
    let head = head.body(()).expect("a good head");
    respond.send_response(head, false).ok()
}

/// Sends an answer, by chance in pieces with pauses. Errors mean that its client does not want it any more.
async fn reply(
    outside: &Outside,
    respond: &mut SendResponse<Bytes>,
    status: u16,
    headers: &str,
    content_type: &str,
    body: String,
) {
    let world = outside.world();
    if world.chance(0.05) {
        let head = Response::builder().status(103).body(());
        let _ = respond.send_informational(head.expect("a good head"));
    }
    let length = match world.chance(0.5) {
        true => format!("content-length: {}\r\n", body.len()),
        false => String::new(),
    };
    let headers = [headers, &length].concat();
    let Some(mut stream) = begin(respond, status, &headers, content_type) else {
        return;
    };
    let mut rest = Bytes::from(body);
    while !rest.is_empty() && world.chance(0.3) {
        let length = world.random(|random| random.usize(0..rest.len()));
        let _ = stream.send_data(rest.split_to(length), false);
        pause(outside, Duration::from_millis(20)).await;
    }
    let has_trailers = world.chance(0.1);
    let _ = stream.send_data(rest, !has_trailers);
    if has_trailers {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-after", http::HeaderValue::from_static("all"));
        let _ = stream.send_trailers(trailers);
    }
}

/// What goes wrong.
async fn misbehave(shared: &Shared, respond: &mut SendResponse<Bytes>, line: &Line, fault: Fault) {
    let outside = &shared.outside;
    let world = outside.world();
    let json = "application/json";
    let good = line.answer().to_string();
    let within = world.random(|random| random.usize(0..good.len()));
    match fault {
        Fault::Status(status) => {
            if matches!(status, 503 | 529) {
                outside.excuse_refused(line.id);
            }
            reply(outside, respond, status, "", json, error(line, "not now")).await;
        }
        Fault::Limited => {
            outside.excuse_refused(line.id);
            let (header, text, wait_ms) =
                HINTS[world.random(|random| random.usize(0..HINTS.len()))];
            reply(outside, respond, 429, header, json, error(line, text)).await;
            outside.cools(shared.endpoint, Duration::from_millis(wait_ms));
        }
        Fault::NotJson => {
            reply(outside, respond, 200, "", json, unreadable(outside)).await;
        }
        Fault::Conflict => {
            outside.breaks(shared.number);
            let length = format!("content-length: {}\r\n", good.len() + 1);
            if let Some(mut stream) = begin(respond, 200, &length, json) {
                let _ = stream.send_data(Bytes::from(good), true);
            }
        }
        Fault::ResetWithin => {
            if let Some(mut stream) = begin(respond, 200, "", json) {
                let _ = stream.send_data(Bytes::from(good).slice(..within), false);
                pause(outside, THINKS_MAX).await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
        }
        Fault::ResetBefore => respond.send_reset(Reason::INTERNAL_ERROR),
        Fault::Refused => {
            // Sent again at once, without an attempt.
            outside.excuse_stale(line.id);
            respond.send_reset(Reason::REFUSED_STREAM);
        }
        Fault::Hangs => Simulated::sleep_until(world.now() + FOR_EVER).await,
        Fault::HangsWithin => {
            let stream = begin(respond, 200, "", json);
            if let Some(mut stream) = stream {
                let _ = stream.send_data(Bytes::from(good).slice(..within), false);
                Simulated::sleep_until(world.now() + FOR_EVER).await;
            }
        }
        Fault::Late => {
            let stream = respond.stream_id().into();
            if let Some(deadline) = outside.deadline_on(shared.number, stream) {
                Simulated::sleep_until(deadline + world.duration(LATE_MAX)).await;
                answer(shared, respond, line).await;
            }
        }
        Fault::Ends => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            shared.end(shared.any_farewell());
        }
    }
}

/// The connection as the crate sees it.
struct Wire {
    peer: Rc<Peer>,
    /// What has come and was not read.
    come: Vec<u8>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        if wire.come.is_empty() {
            // Nothing: the end.
            ready!(wire.peer.poll_read(&mut wire.come, context));
        }
        let length = wire.come.len().min(buffer.remaining());
        buffer.put_slice(&wire.come[..length]);
        wire.come.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.peer.send(bytes.to_vec(), false);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
