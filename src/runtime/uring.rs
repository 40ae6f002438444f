//! The Linux backend: io_uring through monoio.

use std::cell::UnsafeCell;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown as Direction, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, opcode};
use monoio::buf::IoBuf;
use monoio::io::{AsyncWriteRent, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::{TcpStream, UnixStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use socket2::SockRef;

use super::{Abort, Read, Runtime, Shutdown, Socket, Write};

/// Completion-based sockets on io_uring.
pub struct Uring;

/// How a ring is set up, best first. A kernel before 6.1 refuses the first, a small limit on locked
/// memory (64 KiB is common for ordinary users on older systems) leaves only the last.
const SETUPS: [Setup; 3] = [
    // Completions are worked off only when the shard asks, about 10 % less CPU a request.
    Setup {
        entries: 1024,
        deferred: true,
    },
    Setup {
        entries: 1024,
        deferred: false,
    },
    Setup {
        entries: 256,
        deferred: false,
    },
];

/// Resolution of monoio's timers.
const TICK: Duration = Duration::from_millis(1);

/// The kernel gives back the locked memory of a ring some time after it is closed, also of the one that
/// [`uring_available`] tried: where little may be locked, the first try may come too early.
const BUILD_ROUNDS: u32 = 5;
/// Between two rounds.
const BUILD_PAUSE: Duration = Duration::from_millis(20);

struct Setup {
    entries: u32,
    deferred: bool,
}

impl Setup {
    fn ring(&self) -> io_uring::Builder {
        let mut ring = IoUring::builder();
        if self.deferred {
            ring.setup_single_issuer()
                .setup_coop_taskrun()
                .setup_defer_taskrun();
        }
        ring
    }

    /// Sets a ring up, sends one operation through it and looks for the operations the backend uses.
    /// A sandbox may allow the setup and refuse what follows.
    fn check(&self) -> io::Result<()> {
        let mut ring = self.ring().build(self.entries)?;
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
        // SAFETY: a no-op refers to no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }
            .map_err(|_| io::Error::other("a new ring has no free entry"))?;
        ring.submit_and_wait(1)?;
        match ring.completion().next() {
            Some(done) if done.result() >= 0 => Ok(()),
            Some(done) => Err(io::Error::from_raw_os_error(-done.result())),
            None => Err(io::Error::other("an operation never completed")),
        }
    }
}

/// Whether this process may use io_uring: tries the ring setups [`Uring::run`] would use, and names
/// the kernel's reason when it refuses them all.
pub fn uring_available() -> Result<(), String> {
    let mut refusal = String::new();
    for setup in &SETUPS {
        match setup.check() {
            Ok(()) => return Ok(()),
            Err(error) => refusal = error.to_string(),
        }
    }
    Err(format!("the system refuses io_uring: {refusal}"))
}

impl Runtime for Uring {
    const NAME: &'static str = "io_uring";
    type Reader = Reader;
    type Writer = Writer;

    fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
        let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
        for round in 0..BUILD_ROUNDS {
            if round > 0 {
                std::thread::sleep(BUILD_PAUSE);
            }
            for setup in &SETUPS {
                let built = RuntimeBuilder::<IoUringDriver>::new()
                    .uring_builder(setup.ring())
                    .with_entries(setup.entries)
                    .enable_timer()
                    .build();
                match built {
                    Ok(mut runtime) => return Ok(runtime.block_on(main)),
                    Err(error) => refusal = error,
                }
            }
            if refusal.kind() != io::ErrorKind::OutOfMemory {
                break;
            }
        }
        Err(refusal)
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
        let (reader, writer) = stream.into_split();
        let weak: Weak<UnsafeCell<TcpStream>> = Rc::downgrade(&reader.0);
        Ok(Socket {
            reader: Reader(reader),
            writer: Writer(writer),
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

/// The receiving half. Whoever waits in [`Read::ready`] has a poll in the ring and no buffer; the read
/// after it does not wait, and so needs no place there.
pub struct Reader(OwnedReadHalf<TcpStream>);

impl Read for Reader {
    async fn ready(&mut self) {
        // SAFETY: as in `descriptor`; the future looks at the stream only when it is first polled.
        let stream = unsafe { &*self.0.0.get() };
        // What an error is, the read says.
        let _ = stream.readable(true).await;
    }

    async fn read(&mut self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        assert!(
            buffer.len() < buffer.capacity(),
            "a read needs spare capacity"
        );
        loop {
            match receive(&self.0.0, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return (outcome, buffer),
            }
        }
    }
}

/// Receives into the spare capacity of `buffer` without waiting.
fn receive(stream: &UnsafeCell<TcpStream>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let socket = descriptor(stream);
    let count =
        SockRef::from(&socket).recv_with_flags(buffer.spare_capacity_mut(), libc::MSG_DONTWAIT)?;
    // SAFETY: the kernel has written that many bytes into the spare capacity.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

/// The sending half.
pub struct Writer(OwnedWriteHalf<TcpStream>);

impl Write for Writer {
    async fn write_all(&mut self, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut written = 0;
        while written < buffer.len() {
            let (outcome, slice) = self.0.write(buffer.slice(written..)).await;
            buffer = slice.into_inner();
            match outcome {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(sent) => written += sent,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }
}

impl Shutdown for UnsafeCell<TcpStream> {
    fn shutdown(&self) {
        // Fails only where the peer has already gone, which is what is wanted.
        let _ = SockRef::from(&descriptor(self)).shutdown(Direction::Both);
    }

    fn peek(&self) -> io::Result<usize> {
        // The ring's sockets block.
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        SockRef::from(&descriptor(self)).recv_with_flags(&mut [MaybeUninit::uninit()], flags)
    }
}

/// The descriptor of a stream whose caller holds an `Rc` to it.
fn descriptor(stream: &UnsafeCell<TcpStream>) -> BorrowedFd<'_> {
    // SAFETY: the stream is alive, everything here is on one thread, and monoio's halves borrow
    // the stream only for the length of a call that starts an operation, none of which calls back
    // into this.
    let descriptor = unsafe { &*stream.get() }.as_raw_fd();
    // SAFETY: the stream owns the descriptor and outlives this borrow, as above.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}
