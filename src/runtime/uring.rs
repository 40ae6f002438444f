//! The Linux backend: tasks and timers by monoio on io_uring, sockets on a ring of our own beside it.

mod buffers;
mod connection;
mod linger;
mod prefetch;
mod ring;
mod trouble;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, opcode, types};
use monoio::net::{TcpStream, UnixStream};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};

use self::buffers::Buffers;
use self::connection::{Connection, Told};
use self::ring::{Ring, drive};
use super::buffers::give_back;
use super::{Abort, Read, Runtime, Shutdown, Socket, Write};

/// Completion-based sockets on io_uring.
pub struct Uring;

/// How the rings are set up, best first. A kernel before 6.1 refuses the first, a small limit on locked
/// memory (64 KiB is common for ordinary users on older systems) leaves only the last.
const SETUPS: [Setup; 3] = [
    // Completions are worked off only when the shard asks, about 10 % less CPU a request.
    Setup {
        socket_entries: 1024,
        deferred: true,
    },
    Setup {
        socket_entries: 1024,
        deferred: false,
    },
    Setup {
        socket_entries: 64,
        deferred: false,
    },
];

/// Of monoio's ring, which carries what connects and what wakes the shard: the fewest it takes.
const RUNTIME_ENTRIES: u32 = 256;

/// Resolution of monoio's timers.
const TICK: Duration = Duration::from_millis(1);

/// The kernel gives back the locked memory of a ring some time after it is closed, also of the one that
/// [`uring_available`] tried: where little may be locked, the first try may come too early.
const BUILD_ROUNDS: u32 = 10;
/// Between two rounds.
const BUILD_PAUSE: Duration = Duration::from_millis(20);

struct Setup {
    /// Of the ring that carries the sockets.
    socket_entries: u32,
    deferred: bool,
}

impl Setup {
    fn builder(&self) -> io_uring::Builder {
        let mut ring = IoUring::builder();
        if self.deferred {
            ring.setup_single_issuer()
                .setup_coop_taskrun()
                .setup_defer_taskrun();
        }
        ring
    }

    fn build(&self) -> io::Result<(monoio::Runtime<TimeDriver<IoUringDriver>>, Rc<Ring>)> {
        let mut sockets = self.builder();
        if self.deferred {
            sockets.setup_taskrun_flag();
        }
        let ring = Ring::new(sockets.build(self.socket_entries)?)?;
        let runtime = RuntimeBuilder::<IoUringDriver>::new()
            .uring_builder(self.builder())
            .with_entries(RUNTIME_ENTRIES)
            .enable_timer()
            .build()?;
        Ok((runtime, ring))
    }

    /// Sets the rings up and receives something through the sockets' one. A sandbox may allow the
    /// setup and refuse what follows.
    fn check(&self) -> io::Result<()> {
        // The large one first: a small one that worked holds its memory for a while.
        let mut ring = self.builder().build(self.socket_entries)?;
        let _runtime = self.builder().build(RUNTIME_ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Send::CODE,
            opcode::Recv::CODE,
            opcode::Connect::CODE,
            opcode::AsyncCancel::CODE,
            opcode::PollAdd::CODE,
            opcode::Read::CODE,
        ];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::Error::other(
                "the kernel's io_uring lacks socket operations",
            ));
        }
        // SAFETY: nothing is received into them but the end of a stream, which is no bytes.
        let _buffers = unsafe { Buffers::register(&ring)? };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        // A close: what is received is its end, and the receive ends with it.
        drop(theirs);
        let receive = opcode::RecvMulti::new(types::Fd(ours.as_raw_fd()), buffers::GROUP).build();
        // SAFETY: the buffers and the socket outlive it.
        unsafe { ring.submission().push(&receive) }
            .map_err(|_| io::Error::other("a new ring has no free entry"))?;
        ring.submit_and_wait(1)?;
        match ring.completion().next() {
            Some(done) if done.result() >= 0 => Ok(()),
            Some(done) => Err(io::Error::from_raw_os_error(-done.result())),
            None => Err(io::Error::other("an operation never completed")),
        }
    }
}

thread_local! {
    /// The ring of the shard that runs on this thread.
    static RING: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// Ends the ring when the shard is over, also by a panic.
struct Running {
    ring: Rc<Ring>,
}

impl Running {
    fn new(ring: Rc<Ring>) -> Self {
        RING.set(Some(Rc::clone(&ring)));
        Self { ring }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ring.end();
        RING.set(None);
    }
}

/// What `attempt` makes of the best setup that the kernel accepts; its last refusal otherwise.
fn first_that_works<T>(attempt: impl Fn(&Setup) -> io::Result<T>) -> io::Result<T> {
    let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
    for round in 0..BUILD_ROUNDS {
        // Large rings that were refused half-way hold memory for a while, too: not again.
        let mut setups = &SETUPS[..];
        if round > 0 {
            std::thread::sleep(BUILD_PAUSE);
            setups = &SETUPS[SETUPS.len() - 1..];
        }
        for setup in setups {
            match attempt(setup) {
                Ok(built) => return Ok(built),
                Err(error) => refusal = error,
            }
        }
        if refusal.kind() != io::ErrorKind::OutOfMemory {
            break;
        }
    }
    Err(refusal)
}

/// Whether this process may use io_uring: tries the ring setups [`Uring::run`] would use, and names
/// the kernel's reason when it refuses them all.
pub fn uring_available() -> Result<(), String> {
    first_that_works(Setup::check).map_err(|error| format!("the system refuses io_uring: {error}"))
}

impl Runtime for Uring {
    const NAME: &'static str = "io_uring";
    type Reader = Reader;
    type Writer = Writer;

    fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
        let (mut runtime, ring) = first_that_works(Setup::build)?;
        let running = Running::new(ring);
        runtime.block_on(async {
            let event = UnixStream::from_std(running.ring.event()?.into())?;
            Self::spawn(drive(Rc::clone(&running.ring), event));
            let mut main = pin!(main);
            let result = poll_fn(|context| {
                if let Poll::Ready(error) = running.ring.trouble.poll(context) {
                    return Poll::Ready(Err(error));
                }
                main.as_mut().poll(context).map(Ok)
            })
            .await;
            running.ring.end();
            // The driver ends, and tasks that were woken in the meantime find the end of their sockets.
            Self::yield_now().await;
            drop(running);
            result
        })
    }

    fn spawn(task: impl Future<Output = ()> + 'static) {
        // Dropping the handle detaches the task.
        drop(monoio::spawn(task));
    }

    async fn sleep_until(at: Instant) {
        monoio::time::sleep_until(at.into()).await;
    }

    async fn connect(address: SocketAddr) -> io::Result<Socket<Self>> {
        let stream = TcpStream::connect_addr(address).await?;
        stream.set_nodelay(true)?;
        // SAFETY: the stream gives its descriptor away, to one owner.
        let descriptor = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
        let ring = RING.with_borrow(|ring| ring.clone());
        let ring = ring.expect("sockets are opened inside of `run`");
        let connection = ring.enrol(|place| Rc::new(Connection::new(descriptor, place)));
        let handle = Rc::new(Handle { connection, ring });
        let weak: Weak<Handle> = Rc::downgrade(&handle);
        Ok(Socket {
            reader: Reader(Rc::clone(&handle)),
            writer: Writer(handle),
            abort: Abort(weak),
        })
    }

    /// A plain re-queue would starve I/O: with deferred task work the kernel delivers completions
    /// only when the run queue is empty. So this waits for an operation that is complete at once.
    async fn yield_now() {
        match UnixStream::pair() {
            Ok((ready, _peer)) => drop(ready.writable(true).await),
            // Out of descriptors: the shortest timer also lets the kernel have its turn.
            Err(_) => Self::sleep_until(super::now() + TICK).await,
        }
    }
}

/// A socket; both halves hold it.
struct Handle {
    connection: Rc<Connection>,
    ring: Rc<Ring>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection.close(&self.ring);
    }
}

/// The receiving half.
pub struct Reader(Rc<Handle>);

impl Read for Reader {
    async fn ready(&mut self) {
        let Handle { connection, ring } = &*self.0;
        poll_fn(|context| connection.poll_ready(ring, context)).await;
    }

    // Not an `async fn`, which would hold the buffer twice.
    fn read(&mut self, mut buffer: Vec<u8>) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> {
        assert!(
            buffer.len() < buffer.capacity(),
            "a read needs spare capacity"
        );
        poll_fn(move |context| {
            let Handle { connection, ring } = &*self.0;
            loop {
                if let Some(outcome) = connection.take(&mut buffer) {
                    return Poll::Ready((outcome, mem::take(&mut buffer)));
                }
                ready!(connection.poll_ready(ring, context));
            }
        })
    }
}

/// The sending half.
pub struct Writer(Rc<Handle>);

impl Write for Writer {
    async fn write_all(&mut self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        if buffer.is_empty() {
            return (Ok(()), buffer);
        }
        let Handle { connection, ring } = &*self.0;
        connection.start_sending(ring, buffer, Told::Always);
        poll_fn(|context| connection.poll_sent(context)).await
    }

    // Not an `async fn`: while an answer is waited for, this holds nothing but the way to the socket.
    fn send(&mut self, buffer: Vec<u8>) -> impl Future<Output = io::Result<()>> {
        let Handle { connection, ring } = &*self.0;
        let is_empty = buffer.is_empty();
        if !is_empty {
            connection.start_sending(ring, buffer, Told::OfFailure);
        }
        poll_fn(move |context| {
            if is_empty {
                return Poll::Ready(Ok(()));
            }
            let (outcome, buffer) = ready!(connection.poll_sent(context));
            give_back(buffer);
            Poll::Ready(outcome)
        })
    }
}

impl Shutdown for Handle {
    fn shutdown(&self) {
        self.connection.shutdown();
    }

    fn is_quiet(&self) -> bool {
        self.connection.is_quiet()
    }
}
