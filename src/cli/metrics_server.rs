//! `--metrics-addr`: Prometheus text over HTTP during a run. One request per connection, one
//! connection at a time: a scrape every few seconds is all it is for.

#![expect(
    clippy::disallowed_methods,
    reason = "owns a listening socket of its own, away from the shards"
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::metrics::prometheus::CONTENT_TYPE;

/// A scraper that says nothing for this long is hung up on.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest request head read.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Header lines of a request, at most.
const HEADERS_MAX: usize = 64;

/// Of an answer that is not metrics.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves the latest published text at `/metrics` until dropped.
pub struct MetricsServer {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let text = Arc::new(Mutex::new(String::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (text, stop) = (Arc::clone(&text), Arc::clone(&stop));
            thread::Builder::new()
                .name("metrics".to_owned())
                .spawn(move || serve(&listener, &text, &stop))?
        };
        Ok(Self {
            address,
            text,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces what the next scrape gets.
    pub fn publish(&self, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread out of its accept. If that fails the thread ends with the process.
        if TcpStream::connect_timeout(&self.address, PEER_TIMEOUT).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, text: &Mutex<String>, stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        let body = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A scraper that went away is its own problem.
        let _ = answer(&mut stream, &body);
    }
}

fn answer(stream: &mut TcpStream, metrics: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PEER_TIMEOUT))?;
    stream.set_write_timeout(Some(PEER_TIMEOUT))?;
    let (status, content_type, body) = match read_target(stream)?.as_deref() {
        Some("/metrics" | "/") => ("200 OK", CONTENT_TYPE, metrics),
        Some(_) => ("404 Not Found", PLAIN, "metrics are at /metrics\n"),
        None => ("400 Bad Request", PLAIN, "send GET /metrics\n"),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The path of a GET request without its query; `None` for anything else.
fn read_target(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    while head.len() < HEAD_BYTES_MAX {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&piece[..read]);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                return Ok(match (request.method, request.path) {
                    (Some("GET"), Some(target)) => {
                        Some(target.split('?').next().unwrap_or(target).to_owned())
                    }
                    _ => None,
                });
            }
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("answered and closed");
        answer
    }

    #[test]
    fn serves_what_was_published_last() {
        let server = MetricsServer::start(([127, 0, 0, 1], 0).into()).expect("a free port");
        server.publish("blaze_lines_total 1\n".to_owned());
        server.publish("blaze_lines_total 2\n".to_owned());
        let answer = get(
            server.address(),
            "GET /metrics?x=1 HTTP/1.1\r\nhost: x\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nblaze_lines_total 2\n"),
            "{answer}"
        );
        for (request, status) in [
            ("GET /other HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
            ("garbage\r\n\r\n", "400"),
        ] {
            let answer = get(server.address(), request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{request} → {answer}"
            );
        }
    }
}
