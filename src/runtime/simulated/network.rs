//! Connections of a simulated world: latency, reads and writes cut anywhere, closes and resets at
//! any byte, addresses that refuse or never answer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::world::World;
use super::{Simulated, here};
use crate::runtime::{Abort, Read, Runtime, Shutdown, Socket, Write};

/// What the server at an address does with a new connection.
pub type Serve = Rc<dyn Fn(Peer) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug)]
pub enum Welcome {
    /// It succeeds after this.
    Accepted(Duration),
    /// It fails after this.
    Failed(Duration, io::ErrorKind),
    /// Nobody answers.
    Silence,
}

/// Decides about attempts and sees requests go out and end; the tests' eyes.
pub trait Watcher {
    /// What becomes of an attempt to connect to `address`.
    fn welcome(&self, address: SocketAddr) -> Welcome;
    /// A request's bytes go out. `since`: when its sending began, the connection included. Returns what
    /// the watcher calls it.
    fn sends(&self, address: SocketAddr, since: Instant, request: &[u8]) -> usize;
    /// The answer to the request that began to be sent at `since` was read, or its connection is over
    /// for the process.
    fn ended(&self, address: SocketAddr, since: Instant, request: usize);
    /// The client sends `bytes` on a connection to `address`. `true`: it carries several requests at once,
    /// which the watcher tells apart itself.
    fn wrote(&self, connection: u64, address: SocketAddr, bytes: &[u8]) -> bool;
    /// The client has read `bytes` there.
    fn read(&self, connection: u64, address: SocketAddr, bytes: &[u8]);
    /// The connection is over for the client.
    fn closed(&self, connection: u64, address: SocketAddr);
    /// How long a packet takes.
    fn latency(&self) -> Duration;
    /// Longest piece that a read or write moves at once.
    fn piece_max(&self) -> usize;
}

/// Who listens, and who watches.
#[derive(Default)]
pub struct Network {
    servers: RefCell<Vec<(SocketAddr, Serve)>>,
    watcher: RefCell<Option<Rc<dyn Watcher>>>,
    connections: Cell<u64>,
}

impl Network {
    /// From now on `serve` answers at `address`.
    pub fn listen(&self, address: SocketAddr, serve: Serve) {
        self.servers.borrow_mut().push((address, serve));
    }

    /// From now on `watcher` decides.
    pub fn watch(&self, watcher: Rc<dyn Watcher>) {
        *self.watcher.borrow_mut() = Some(watcher);
    }

    /// Nobody listens any more.
    pub fn close(&self) {
        self.servers.borrow_mut().clear();
        *self.watcher.borrow_mut() = None;
    }

    fn watcher(&self) -> Rc<dyn Watcher> {
        let watcher = self.watcher.borrow();
        Rc::clone(watcher.as_ref().expect("a world has a watcher"))
    }

    fn server(&self, address: SocketAddr) -> Option<Serve> {
        let servers = self.servers.borrow();
        let found = servers.iter().find(|(at, _)| *at == address);
        found.map(|(_, serve)| Rc::clone(serve))
    }
}

/// One connection.
struct Link {
    world: Weak<World>,
    number: u64,
    address: SocketAddr,
    /// Client to server.
    up: Lane,
    /// Server to client.
    down: Lane,
    /// When connecting began, until the first request is sent.
    connecting_since: Cell<Option<Instant>>,
    /// A request is out and its answer not read: since when, and which.
    outstanding: Cell<Option<(Instant, usize)>>,
    /// `shutdown(2)`.
    shut: Cell<bool>,
    server_gone: Cell<bool>,
}

/// One direction.
#[derive(Default)]
struct Lane {
    queue: RefCell<VecDeque<(Instant, Piece)>>,
    reader: RefCell<Option<Waker>>,
}

enum Piece {
    /// Bytes from an offset; where among them an answer ends, if it does.
    Bytes(Vec<u8>, usize, Option<usize>),
    End,
    Reset,
}

impl Lane {
    fn push(&self, at: Instant, piece: Piece) {
        let mut queue = self.queue.borrow_mut();
        // Nothing overtakes.
        let at = queue.back().map_or(at, |(last, _)| at.max(*last));
        queue.push_back((at, piece));
        drop(queue);
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// What is there is lost.
    fn cut(&self, at: Instant, piece: Piece) {
        self.queue.borrow_mut().clear();
        self.push(at, piece);
    }

    fn is_due(&self, now: Instant) -> bool {
        let queue = self.queue.borrow();
        queue.front().is_some_and(|(at, _)| *at <= now)
    }

    fn wait(&self, world: &World, context: &Context<'_>) {
        match self.queue.borrow().front() {
            Some((at, _)) => world.wake_at(*at, context.waker()),
            None => *self.reader.borrow_mut() = Some(context.waker().clone()),
        }
    }
}

impl Link {
    /// The world outlives its connections, except while it is dropped.
    fn world(&self) -> Option<Rc<World>> {
        self.world.upgrade()
    }

    fn note(&self, what: &'static str, bytes: usize) {
        if let Some(world) = self.world() {
            world.event(what, self.number, || {
                format!("{bytes} bytes, {}", self.address)
            });
        }
    }

    fn end_request(&self) {
        if let Some((since, request)) = self.outstanding.take()
            && let Some(world) = self.world()
        {
            let watcher = world.network.watcher();
            watcher.ended(self.address, since, request);
        }
    }

    /// Nothing more comes over it.
    fn end(&self) {
        self.end_request();
        if let Some(world) = self.world() {
            world.network.watcher().closed(self.number, self.address);
        }
    }

    fn close_by_client(&self) {
        self.end();
        if let Some(world) = self.world() {
            self.up.push(world.now() + self.latency(&world), Piece::End);
        }
    }

    fn latency(&self, world: &World) -> Duration {
        world.network.watcher().latency()
    }
}

/// The client's end; both halves share it, and the connection closes with the last.
struct ClientEnd(Rc<Link>);

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.0.note("closed", 0);
        self.0.close_by_client();
    }
}

impl Shutdown for ClientEnd {
    fn shutdown(&self) {
        if !self.0.shut.replace(true) {
            self.0.note("shut down", 0);
            self.0.close_by_client();
            if let Some(reader) = self.0.down.reader.borrow_mut().take() {
                reader.wake();
            }
        }
    }

    fn is_quiet(&self) -> bool {
        if self.0.shut.get() {
            return false;
        }
        let queue = self.0.down.queue.borrow();
        let now = self.0.world().map(|world| world.now());
        queue
            .front()
            .is_none_or(|(at, _)| now.is_none_or(|now| *at > now))
    }
}

pub(super) async fn connect(
    world: &Rc<World>,
    address: SocketAddr,
) -> io::Result<Socket<Simulated>> {
    let since = world.now();
    let welcome = world.network.watcher().welcome(address);
    world.event("connects", u64::from(address.port()), || {
        format!("{address} {welcome:?}")
    });
    match welcome {
        Welcome::Silence => pending().await,
        Welcome::Failed(after, kind) => {
            Simulated::sleep_until(since + after).await;
            Err(kind.into())
        }
        Welcome::Accepted(after) => {
            Simulated::sleep_until(since + after).await;
            let Some(serve) = world.network.server(address) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let number = world.network.connections.get();
            world.network.connections.set(number + 1);
            let link = Rc::new(Link {
                world: Rc::downgrade(world),
                number,
                address,
                up: Lane::default(),
                down: Lane::default(),
                connecting_since: Cell::new(Some(since)),
                outstanding: Cell::new(None),
                shut: Cell::new(false),
                server_gone: Cell::new(false),
            });
            world.start_outside(serve(Peer(Rc::clone(&link))));
            let client = Rc::new(ClientEnd(link));
            let weak: Weak<ClientEnd> = Rc::downgrade(&client);
            Ok(Socket {
                reader: Reader(Rc::clone(&client)),
                writer: Writer(client),
                abort: Abort(weak),
            })
        }
    }
}

/// Most bytes that move at once when `length` could: small pieces for small messages; of a large one
/// so many that time is left for other seeds.
fn cut(length: usize, max: usize) -> usize {
    const PIECES_MAX: usize = 32;
    length.min(max.max(length / PIECES_MAX)).max(1)
}

/// The client's receiving half.
pub struct Reader(Rc<ClientEnd>);

impl Read for Reader {
    async fn ready(&mut self) {
        let link = &self.0.0;
        let world = here();
        poll_fn(|context| {
            if link.shut.get() {
                return Poll::Ready(());
            }
            if world.is_killed() || !link.down.is_due(world.now()) {
                link.down.wait(&world, context);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    async fn read(&mut self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        assert!(
            buffer.len() < buffer.capacity(),
            "a read needs spare capacity"
        );
        let link = &self.0.0;
        let world = here();
        let outcome = poll_fn(|context| {
            if link.shut.get() {
                return Poll::Ready(Ok(0));
            }
            if world.is_killed() || !link.down.is_due(world.now()) {
                link.down.wait(&world, context);
                return Poll::Pending;
            }
            let mut queue = link.down.queue.borrow_mut();
            let (_, piece) = queue.front_mut().expect("a piece is due");
            let (outcome, is_over) = match piece {
                Piece::End => {
                    link.end();
                    (Ok(0), false)
                }
                Piece::Reset => {
                    link.end();
                    (Err(io::ErrorKind::ConnectionReset.into()), false)
                }
                Piece::Bytes(bytes, offset, end) => {
                    let room = buffer.capacity() - buffer.len();
                    let most = room.min(bytes.len() - *offset);
                    let most = cut(most, world.network.watcher().piece_max());
                    let length = world.random(|random| random.usize(most.div_ceil(2)..=most));
                    let came = &bytes[*offset..*offset + length];
                    buffer.extend_from_slice(came);
                    let watcher = world.network.watcher();
                    watcher.read(link.number, link.address, came);
                    *offset += length;
                    let is_over = *offset == bytes.len();
                    if end.is_some_and(|end| *offset >= end) {
                        *end = None;
                        link.end_request();
                    }
                    (Ok(length), is_over)
                }
            };
            if is_over {
                queue.pop_front();
            }
            Poll::Ready(outcome)
        })
        .await;
        link.note("read", outcome.as_ref().map_or(0, |length| *length));
        (outcome, buffer)
    }
}

/// The client's sending half.
pub struct Writer(Rc<ClientEnd>);

impl Write for Writer {
    async fn write_all(&mut self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let link = &self.0.0;
        let world = here();
        let watcher = world.network.watcher();
        if world.is_killed() {
            pending::<()>().await;
        }
        link.note("writes", buffer.len());
        let is_shared = watcher.wrote(link.number, link.address, &buffer);
        if !is_shared && link.outstanding.get().is_none() {
            let since = link.connecting_since.take().unwrap_or_else(|| world.now());
            let request = watcher.sends(link.address, since, &buffer);
            link.outstanding.set(Some((since, request)));
        }
        let mut written = 0;
        while written < buffer.len() {
            if link.shut.get() {
                return (Err(io::ErrorKind::BrokenPipe.into()), buffer);
            }
            let now = world.now();
            let was_reset = matches!(
                link.down.queue.borrow().front(),
                Some((at, Piece::Reset)) if *at <= now
            );
            if was_reset {
                return (Err(io::ErrorKind::ConnectionReset.into()), buffer);
            }
            let most = cut(buffer.len() - written, watcher.piece_max());
            let length = world.random(|random| random.usize(most.div_ceil(2)..=most));
            let arrives = now + watcher.latency();
            if link.server_gone.get() {
                // Who writes to a closed socket hears a reset, and what was on its way is lost.
                link.down.cut(arrives + watcher.latency(), Piece::Reset);
            } else {
                let bytes = buffer[written..written + length].to_vec();
                link.up.push(arrives, Piece::Bytes(bytes, 0, None));
            }
            written += length;
            if written < buffer.len() && world.chance(0.5) {
                Simulated::yield_now().await;
            }
        }
        (Ok(()), buffer)
    }
}

/// The server's end of a connection; dropped, it closes.
pub struct Peer(Rc<Link>);

impl Peer {
    /// Appends what comes next to `buffer`; 0: the client has closed.
    pub async fn read(&self, buffer: &mut Vec<u8>) -> usize {
        poll_fn(|context| self.poll_read(buffer, context)).await
    }

    /// The same.
    pub fn poll_read(&self, buffer: &mut Vec<u8>, context: &Context<'_>) -> Poll<usize> {
        let link = &self.0;
        let world = here();
        if !link.up.is_due(world.now()) {
            link.up.wait(&world, context);
            return Poll::Pending;
        }
        let mut queue = link.up.queue.borrow_mut();
        match queue.front() {
            Some((_, Piece::Bytes(bytes, offset, _))) => {
                buffer.extend_from_slice(&bytes[*offset..]);
                let length = bytes.len() - offset;
                queue.pop_front();
                Poll::Ready(length)
            }
            _ => Poll::Ready(0),
        }
    }

    /// The connection's number.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Sends bytes; `ends`: an answer ends with them.
    pub fn send(&self, bytes: Vec<u8>, ends: bool) {
        let end = ends.then_some(bytes.len());
        self.send_ending_at(bytes, end);
    }

    /// Sends bytes, of which the first so many end an answer.
    pub fn send_ending_at(&self, bytes: Vec<u8>, end: Option<usize>) {
        if !bytes.is_empty()
            && let Some(world) = self.0.world()
        {
            let arrives = world.now() + self.0.latency(&world);
            self.0.down.push(arrives, Piece::Bytes(bytes, 0, end));
        }
    }

    /// Resets the connection behind what was sent.
    pub fn reset_behind(&self) {
        if let Some(world) = self.0.world() {
            let arrives = world.now() + self.0.latency(&world);
            self.0.down.push(arrives, Piece::Reset);
        }
    }

    /// Resets the connection: what the client has not read yet is lost.
    pub fn reset(&self) {
        if let Some(world) = self.0.world() {
            let arrives = world.now() + self.0.latency(&world);
            self.0.down.cut(arrives, Piece::Reset);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.server_gone.set(true);
        if let Some(world) = self.0.world() {
            let arrives = world.now() + self.0.latency(&world);
            self.0.down.push(arrives, Piece::End);
        }
    }
}
