//! Scripted servers: one thread per connection, driven by a closure.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A server on loopback. It stops accepting when the process ends.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Starts a server that hands each connection, numbered from 0, to `script`.
    pub(super) fn start(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("a bound address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a client comes");
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                thread::spawn(move || script(number, stream));
            }
        });
        Self { address, accepted }
    }

    /// Connections accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// The next request's head and body; `None` when the client has closed.
pub(super) fn read_request(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("heads are ASCII");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |text| text.parse().expect("a number"))];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A whole response.
pub(super) fn reply(stream: &mut impl Write, body: &str) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    send(stream, &format!("{head}{body}"));
}

/// Raw bytes; a client that has gone is fine.
pub(super) fn send(stream: &mut impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.flush();
}

/// Waits until the client closes.
pub(super) fn await_close(stream: &mut impl Read) {
    let mut sink = [0; 4096];
    while stream.read(&mut sink).is_ok_and(|count| count > 0) {}
}

/// Answers every request of a connection with its own body.
pub(super) fn echo(stream: &mut (impl Read + Write)) {
    while let Some((_, body)) = read_request(stream) {
        reply(
            stream,
            std::str::from_utf8(&body).expect("test bodies are UTF-8"),
        );
    }
}
