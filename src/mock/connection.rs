//! One connection: read a request, play its answer, again. The only file that touches the stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::respond::{reject, respond};
use super::script::{End, Scripted};
use super::state::{InFlight, State};
use super::wire::{BODY_BYTES_MAX, BodyLength, Dechunker, Framing, Rejected, parse_head};

/// Room for one read: most requests fit.
const READ_BYTES: usize = 4 << 10;
/// Room for one read of a large body.
const BODY_READ_BYTES: usize = 256 << 10;
/// What a client may send ahead while it waits for an answer.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// The longest wait for a client: to send a request, to take an answer, to end a hang.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(3600);
/// TLS handshakes are quick or dead.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a rejected client may go on sending, so that it reads the answer and no reset.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// A byte stream over TCP.
trait Transport: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Transport for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Transport for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Serves a connection to its end. A failed connection is the client's business, not ours.
pub(super) async fn serve(
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    number: u64,
) {
    // Without it a piece could wait 40 ms for the acknowledgement of the one before.
    let _ = tcp.set_nodelay(true);
    match tls {
        None => drop(Connection::new(tcp, state, number).run().await),
        Some(acceptor) => {
            if let Ok(Ok(stream)) = timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
                drop(Connection::new(stream, state, number).run().await);
            }
        }
    }
}

struct Connection<S> {
    stream: S,
    /// Bytes read and not yet answered.
    buffer: Vec<u8>,
    state: Arc<State>,
    number: u64,
}

/// Where a complete request lies in the buffer.
struct Extent {
    head: usize,
    end: usize,
}

/// How reading a request can go wrong.
enum Unread {
    /// Nothing more will come, or too late.
    Gone,
    /// The answer is already decided.
    Rejected(Rejected),
}

impl From<io::Error> for Unread {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Rejected> for Unread {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<S: Transport> Connection<S> {
    fn new(stream: S, state: Arc<State>, number: u64) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(READ_BYTES),
            state,
            number,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        loop {
            let extent = match self.read_request().await {
                Ok(extent) => extent,
                Err(Unread::Gone) => return self.stream.shutdown().await,
                Err(Unread::Rejected(rejected)) => return self.turn_away(rejected).await,
            };
            let (answer, in_flight) = self.decide(&extent);
            self.buffer.drain(..extent.end);
            if !self.play(answer, in_flight).await? {
                return Ok(());
            }
        }
    }

    /// Reads until the buffer begins with a complete request, whose body is decoded in place.
    async fn read_request(&mut self) -> Result<Extent, Unread> {
        let idle_max = self.state.options.idle_close.unwrap_or(CLIENT_WAIT_MAX);
        let framing: Framing = loop {
            if let Some(head) = parse_head(&self.buffer)? {
                break head.framing;
            }
            let wait_max = if self.buffer.is_empty() {
                idle_max
            } else {
                CLIENT_WAIT_MAX
            };
            self.read_more(READ_BYTES, wait_max).await?;
        };
        let is_complete_exact = |buffer: &[u8], length| buffer.len() - framing.head >= length;
        let awaits_body = match framing.body {
            BodyLength::Exact(length) => !is_complete_exact(&self.buffer, length),
            BodyLength::Chunked => self.buffer.len() == framing.head,
        };
        if framing.expects_continue && awaits_body {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let end = match framing.body {
            BodyLength::Exact(length) => {
                while !is_complete_exact(&self.buffer, length) {
                    let missing = framing.head + length - self.buffer.len();
                    self.read_more(missing.min(BODY_READ_BYTES), CLIENT_WAIT_MAX)
                        .await?;
                }
                framing.head + length
            }
            BodyLength::Chunked => {
                let mut dechunker = Dechunker::new(framing.head);
                while !dechunker.advance(&mut self.buffer)? {
                    self.read_more(READ_BYTES, CLIENT_WAIT_MAX).await?;
                }
                dechunker.end
            }
        };
        debug_assert!(end <= framing.head + BODY_BYTES_MAX);
        Ok(Extent {
            head: framing.head,
            end,
        })
    }

    fn decide(&self, extent: &Extent) -> (Scripted, Option<InFlight>) {
        let (head, body) = self.buffer[..extent.end].split_at(extent.head);
        match parse_head(head) {
            Ok(Some(head)) => respond(&self.state, &head, body, self.number),
            // It was parsed when it was read.
            Ok(None) | Err(_) => unreachable!("a head that was complete is so no more"),
        }
    }

    /// Plays an answer; `false`: the connection is over.
    async fn play(&mut self, answer: Scripted, in_flight: Option<InFlight>) -> io::Result<bool> {
        let mut in_flight = in_flight;
        let mut due = None;
        for (number, piece) in answer.pieces.iter().enumerate() {
            if !piece.after.is_zero() {
                // Waits count from the planned times, so they don't drift.
                let at = due.unwrap_or_else(Instant::now) + piece.after;
                due = Some(at);
                self.wait_until(at).await?;
            }
            if number + 1 == answer.pieces.len() && answer.end != End::Hang {
                // Before the client can know: its next request never meets this one.
                in_flight = None;
            }
            if !piece.bytes.is_empty() {
                self.write(&piece.bytes).await?;
            }
        }
        match answer.end {
            End::Keep => return Ok(true),
            End::Close => self.stream.shutdown().await?,
            End::Reset => self.stream.tcp().set_zero_linger()?,
            End::Hang => self.swallow(CLIENT_WAIT_MAX).await,
        }
        drop(in_flight);
        Ok(false)
    }

    /// Waits, but not for a client that has left; what it sends ahead is kept.
    async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
        let pause = sleep_until(at);
        tokio::pin!(pause);
        while self.buffer.len() < AHEAD_BYTES_MAX {
            self.buffer.reserve(READ_BYTES);
            tokio::select! {
                biased;
                () = &mut pause => return Ok(()),
                read = self.stream.read_buf(&mut self.buffer) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
        pause.await;
        Ok(())
    }

    async fn read_more(&mut self, room: usize, wait_max: Duration) -> Result<(), Unread> {
        self.buffer.reserve(room);
        match timeout(wait_max, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0) | Err(_)) | Err(_) => Err(Unread::Gone),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let all = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(CLIENT_WAIT_MAX, all)
            .await
            .unwrap_or_else(|late| Err(late.into()))
    }

    async fn turn_away(&mut self, rejected: Rejected) -> io::Result<()> {
        let answer = reject(rejected);
        self.state.books().answered(answer.status(), None);
        for piece in &answer.pieces {
            self.write(&piece.bytes).await?;
        }
        self.stream.shutdown().await?;
        self.swallow(LINGER_MAX).await;
        Ok(())
    }

    /// Reads and forgets until the client closes.
    async fn swallow(&mut self, wait_max: Duration) {
        let all = async {
            loop {
                self.buffer.clear();
                self.buffer.reserve(READ_BYTES);
                if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return;
                }
            }
        };
        // Too long is as good as closed.
        let _ = timeout(wait_max, all).await;
    }
}
