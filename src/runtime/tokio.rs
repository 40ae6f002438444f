//! The portable backend: tokio's single-threaded runtime.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown as Direction, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::ready;
use std::time::Instant;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;

use super::{Abort, Read, Runtime, Shutdown, Socket, Write};

/// Readiness-based sockets on epoll, kqueue or IOCP.
pub struct Tokio;

impl Runtime for Tokio {
    const NAME: &'static str = "tokio";
    type Reader = Reader;
    type Writer = Writer;

    fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build_local(LocalOptions::default())?;
        Ok(runtime.block_on(main))
    }

    fn spawn(task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    async fn sleep_until(at: Instant) {
        tokio::time::sleep_until(at.into()).await;
    }

    async fn connect(address: SocketAddr) -> io::Result<Socket<Self>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let shared: Shared = Rc::new(RefCell::new(stream));
        let weak: Weak<RefCell<TcpStream>> = Rc::downgrade(&shared);
        Ok(Socket {
            reader: Reader(Rc::clone(&shared)),
            writer: Writer(shared),
            abort: Abort(weak),
        })
    }

    async fn yield_now() {
        tokio::task::yield_now().await;
    }
}

/// Both halves use one stream, each only for the length of a poll. (tokio's own halves hide the
/// socket that [`Abort`] needs, and polling the stream itself spares a failing `recv` a response.)
type Shared = Rc<RefCell<TcpStream>>;

/// The receiving half.
pub struct Reader(Shared);

impl Read for Reader {
    async fn ready(&mut self) {
        let _ = poll_fn(|context| self.0.borrow().poll_read_ready(context)).await;
    }

    async fn read(&mut self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        assert!(
            buffer.len() < buffer.capacity(),
            "a read needs spare capacity"
        );
        let outcome = poll_fn(|context| {
            // The future of `read_buf` keeps nothing between polls, so a new one each time will do.
            pin!(self.0.borrow_mut().read_buf(&mut buffer)).poll(context)
        })
        .await;
        (outcome, buffer)
    }
}

/// The sending half.
pub struct Writer(Shared);

impl Write for Writer {
    async fn write_all(&mut self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut written = 0;
        let outcome = poll_fn(|context| {
            while written < buffer.len() {
                let mut stream = self.0.borrow_mut();
                match ready!(Pin::new(&mut *stream).poll_write(context, &buffer[written..])) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()).into(),
                    Ok(sent) => written += sent,
                    Err(error) => return Err(error).into(),
                }
            }
            Ok(()).into()
        })
        .await;
        (outcome, buffer)
    }
}

impl Shutdown for RefCell<TcpStream> {
    fn shutdown(&self) {
        // Fails only where the peer has already gone, which is what is wanted.
        let _ = SockRef::from(&*self.borrow()).shutdown(Direction::Both);
    }

    fn is_quiet(&self) -> bool {
        // tokio's sockets never block.
        let peeked = SockRef::from(&*self.borrow()).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
