//! Servers that do what the trial endpoint does not: a thread per connection, driven by a closure.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// No client of a test lets a server wait this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on loopback; dropping it stops it.
pub struct Server {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that hands each connection, numbered from 0, to `script`.
    pub fn start(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("a bound address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let (counter, stop, script) = (accepted.clone(), stopping.clone(), Arc::new(script));
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.expect("a client comes");
                stream.set_nodelay(true).expect("a TCP socket");
                stream
                    .set_read_timeout(Some(PATIENCE))
                    .expect("a valid time");
                stream
                    .set_write_timeout(Some(PATIENCE))
                    .expect("a valid time");
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                thread::spawn(move || script(number, stream));
            }
        });
        Self {
            address,
            accepted,
            stopping,
            acceptor: Some(acceptor),
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then ends.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// The next request's head; `None` when the client has closed.
pub fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).expect("heads are ASCII"))
}

/// The length that a head announces.
pub fn length_of(head: &str) -> usize {
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |text| text.parse().expect("a number"))
}

/// The next request's head and body; `None` when the client has closed.
pub fn read_request(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let head = read_head(stream)?;
    let mut body = vec![0; length_of(&head)];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A whole answer with a JSON body; a client that has gone is fine.
pub fn reply(stream: &mut impl Write, status: u16, body: &str) {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes());
    let _ = stream.flush();
}

/// Waits until the client closes.
pub fn await_close(stream: &mut impl Read) {
    let mut sink = [0; 65536];
    while stream.read(&mut sink).is_ok_and(|count| count > 0) {}
}
