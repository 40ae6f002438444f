//! A server for HTTP/2 that acts as it is told, stream by stream, and counts.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::h2::server::{Builder, SendResponse};
use ::h2::{Reason, RecvStream, SendStream};
use ::http::{Request, Response};
use bytes::Bytes;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::server::Server;

/// What happens to one stream.
#[derive(Clone)]
pub(super) enum Act {
    /// The body comes back.
    Echo,
    /// The same, once that many streams have been opened, over all connections.
    EchoTogether(usize),
    /// The same, after this time.
    #[allow(dead_code, reason = "another test crate uses it")]
    EchoAfter(Duration),
    /// The same, once that many connections have been opened.
    #[allow(dead_code, reason = "another test crate uses it")]
    EchoConnected(usize),
    /// Nothing, ever.
    Hold,
    /// RST_STREAM before a head, once that many streams have been opened, over all connections.
    Reset(Reason, usize),
    /// A head, some of a body, RST_STREAM.
    Break(Reason),
    /// That many 103s, then the body comes back.
    Interim(usize),
    /// This, in these pieces, before any of the request's body is read.
    Answer(Response<()>, Vec<Bytes>),
    /// This body, once the semaphore lets one pass.
    #[allow(dead_code, reason = "another test crate uses it")]
    AnswerLater(Arc<Semaphore>, &'static str),
    /// The whole connection is dropped.
    Close,
}

/// What a server has seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Streams open at once on any one connection, at most.
    pub(super) together_max: AtomicUsize,
    opened: AtomicUsize,
    /// Connections that have carried a stream.
    connected: AtomicUsize,
    news: Notify,
    /// RST_STREAMs by their reason.
    pub(super) resets: Mutex<BTreeMap<u32, usize>>,
    /// Request heads, in HTTP/1.1's notation.
    pub(super) heads: Mutex<Vec<String>>,
    /// Connections that have ended.
    pub(super) ended: AtomicUsize,
}

impl Seen {
    pub(super) fn resets(&self, reason: Reason) -> usize {
        let resets = self.resets.lock().expect("nobody panics");
        resets.get(&u32::from(reason)).copied().unwrap_or(0)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn together_max(&self) -> usize {
        self.together_max.load(Ordering::SeqCst)
    }

    /// Waits until this one of its counters is at `least`.
    async fn reached(&self, counter: &AtomicUsize, least: usize) {
        loop {
            let changed = self.news.notified();
            if counter.load(Ordering::SeqCst) >= least {
                break;
            }
            changed.await;
        }
    }
}

/// Starts a server: `script` gets the numbers of connection and stream, from 0.
pub(super) fn start(
    builder: Builder,
    tls: Option<Arc<ServerConfig>>,
    script: impl Fn(usize, usize) -> Act + Send + Sync + 'static,
) -> (Server, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    let server = Server::start(move |number, stream| {
        serve(stream, &builder, tls.clone(), &shared, |stream| {
            script(number, stream)
        });
    });
    (server, seen)
}

/// Serves one connection to its end.
pub(super) fn serve(
    stream: TcpStream,
    builder: &Builder,
    tls: Option<Arc<ServerConfig>>,
    seen: &Arc<Seen>,
    script: impl Fn(usize) -> Act,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        stream.set_nonblocking(true).expect("an option");
        stream.set_nodelay(true).expect("an option");
        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
        match tls {
            None => connection(stream, builder, seen, script).await,
            Some(tls) => {
                if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    connection(stream, builder, seen, script).await;
                }
            }
        }
    });
    seen.ended.fetch_add(1, Ordering::SeqCst);
}

async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin,
    builder: &Builder,
    seen: &Arc<Seen>,
    script: impl Fn(usize) -> Act,
) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else {
        return;
    };
    let open = Rc::new(AtomicUsize::new(0));
    let mut number = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let act = script(number);
        if number == 0 {
            seen.connected.fetch_add(1, Ordering::SeqCst);
        }
        number += 1;
        note_head(&request, seen);
        let together = open.fetch_add(1, Ordering::SeqCst) + 1;
        seen.together_max.fetch_max(together, Ordering::SeqCst);
        seen.opened.fetch_add(1, Ordering::SeqCst);
        seen.news.notify_waiters();
        if let Act::Close = act {
            return;
        }
        let (open, seen) = (Rc::clone(&open), Arc::clone(seen));
        tokio::task::spawn_local(async move {
            match act {
                Act::EchoTogether(count) | Act::Reset(_, count) => {
                    seen.reached(&seen.opened, count).await;
                }
                Act::EchoConnected(count) => seen.reached(&seen.connected, count).await,
                Act::EchoAfter(latency) => tokio::time::sleep(latency).await,
                _ => {}
            }
            let over = perform(act, request, &mut respond).await;
            open.fetch_sub(1, Ordering::SeqCst);
            if let Err(reason) = over {
                let mut resets = seen.resets.lock().expect("nobody panics");
                *resets.entry(reason.into()).or_default() += 1;
            }
        });
    }
}

/// Does what is asked; the error is the client's RST_STREAM.
async fn perform(
    act: Act,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Reason> {
    match act {
        Act::Echo | Act::EchoTogether(_) | Act::EchoAfter(_) | Act::EchoConnected(_) => {
            echo(request, respond).await
        }
        Act::Interim(count) => {
            for _ in 0..count {
                let early = Response::builder().status(103).body(());
                let _ = respond.send_informational(early.expect("a head"));
            }
            echo(request, respond).await
        }
        Act::Hold => {
            let reset = poll_fn(|context| respond.poll_reset(context)).await;
            drop(request);
            Err(reset.unwrap_or(Reason::NO_ERROR))
        }
        Act::Reset(reason, _) => {
            respond.send_reset(reason);
            Ok(())
        }
        Act::Break(reason) => {
            let head = Response::new(());
            let mut body = respond.send_response(head, false).map_err(reason_of)?;
            send(&mut body, Bytes::from_static(b"half"), false).await?;
            // So that the half is not overtaken by the reset.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            body.send_reset(reason);
            Ok(())
        }
        Act::Answer(head, pieces) => {
            let mut body = respond.send_response(head, false).map_err(reason_of)?;
            for piece in pieces {
                send(&mut body, piece, false).await?;
                tokio::task::yield_now().await;
            }
            send(&mut body, Bytes::new(), true).await?;
            // Takes what is on its way, and gives no room for more.
            let mut upload = request.into_body();
            while let Some(piece) = upload.data().await {
                piece.map_err(reason_of)?;
            }
            Ok(())
        }
        Act::AnswerLater(gate, body) => {
            let permit = gate.acquire().await;
            permit.expect("nobody closes it").forget();
            let mut answer = respond
                .send_response(Response::new(()), false)
                .map_err(reason_of)?;
            send(&mut answer, Bytes::from_static(body.as_bytes()), true).await
        }
        Act::Close => pending().await,
    }
}

async fn echo(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Reason> {
    let mut body = request.into_body();
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(reason_of)?;
        let _ = body.flow_control().release_capacity(piece.len());
        all.extend_from_slice(&piece);
    }
    let head = Response::builder()
        .header("content-length", all.len())
        .header("x-request-id", "req_1");
    let head = head.body(()).expect("a head");
    let mut answer = respond.send_response(head, false).map_err(reason_of)?;
    send(&mut answer, all.into(), true).await
}

/// Sends as the client's windows allow.
async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), Reason> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = poll_fn(|context| stream.poll_capacity(context)).await;
        let capacity = capacity.ok_or(Reason::CANCEL)?.map_err(reason_of)?;
        let piece = bytes.split_to(capacity.min(bytes.len()));
        let last = end && bytes.is_empty();
        stream.send_data(piece, last).map_err(reason_of)?;
        if last {
            return Ok(());
        }
    }
    match end {
        true => stream.send_data(Bytes::new(), true).map_err(reason_of),
        false => Ok(()),
    }
}

fn reason_of(error: ::h2::Error) -> Reason {
    error.reason().unwrap_or(Reason::NO_ERROR)
}

fn note_head(request: &Request<RecvStream>, seen: &Seen) {
    let mut head = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    seen.heads.lock().expect("nobody panics").push(head);
}
