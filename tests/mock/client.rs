//! A small blocking HTTP/1.1 client that tells how exactly a connection ended.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use blaze_uring::mock::{Mock, MockOptions, Probability, Stats};
use serde_json::Value;

pub const CHAT: &str = "/v1/chat/completions";
pub const HELLO: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;

pub fn start(options: MockOptions) -> Mock {
    Mock::start(options).unwrap()
}

pub fn always() -> Probability {
    Probability::new(1.0).unwrap()
}

pub fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A response, and how far its body came.
#[derive(Debug, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// How the connection ended in the middle of the body, if it did.
    pub broken: Option<ErrorKind>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A keep-alive connection.
pub struct Client<S = TcpStream> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: mock\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
    }

    pub fn post(&mut self, target: &str, body: &str) -> Response {
        self.send("POST", target, "", body);
        self.receive().unwrap()
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.send("GET", target, "", "");
        self.receive().unwrap()
    }

    /// The end of the stream is an error, `UnexpectedEof`.
    pub fn read_more(&mut self) -> Result<(), ErrorKind> {
        let mut bytes = [0; 65536];
        let count = self.stream.read(&mut bytes).map_err(|error| error.kind())?;
        self.buffer.extend_from_slice(&bytes[..count]);
        if count > 0 {
            Ok(())
        } else {
            Err(ErrorKind::UnexpectedEof)
        }
    }

    /// Errors are those before the end of the head.
    pub fn receive(&mut self) -> Result<Response, ErrorKind> {
        self.receive_to("POST")
    }

    pub fn receive_to(&mut self, method: &str) -> Result<Response, ErrorKind> {
        let head_end = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.read_more()?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
            broken: None,
        };
        if method == "HEAD" || status == 100 {
            return Ok(response);
        }
        if response.header("transfer-encoding") == "chunked" {
            response.broken = self.receive_chunks(&mut response.body).err();
        } else {
            // Without a length the body goes on to the end of the connection.
            let length: Option<usize> = response.header("content-length").parse().ok();
            while self.buffer.len() < length.unwrap_or(usize::MAX) && response.broken.is_none() {
                response.broken = self.read_more().err();
            }
            response.broken = response
                .broken
                .filter(|&kind| length.is_some() || kind != ErrorKind::UnexpectedEof);
            response.body = self
                .buffer
                .drain(..length.unwrap_or(usize::MAX).min(self.buffer.len()))
                .collect();
        }
        Ok(response)
    }

    pub fn receive_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), ErrorKind> {
        loop {
            let Some(line) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") else {
                self.read_more()?;
                continue;
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&self.buffer[..line]).unwrap(), 16)
                    .unwrap();
            while self.buffer.len() < line + 2 + size + 2 {
                self.read_more()?;
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + size + 4);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// What the next read says: the end, an error, or bytes.
    pub fn next_read(&mut self) -> Result<usize, ErrorKind> {
        let mut bytes = [0; 16];
        self.stream.read(&mut bytes).map_err(|error| error.kind())
    }
}

/// One request on a connection of its own.
pub fn once(mock: &Mock, target: &str, body: &str) -> Response {
    Client::connect(mock.address()).post(target, body)
}

/// Waits for something the serving thread does on its own.
pub fn await_stats(mock: &Mock, what: &str, holds: impl Fn(&Stats) -> bool) -> Stats {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let stats = mock.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "{what} never came: {stats:?}");
        std::thread::yield_now();
    }
}
