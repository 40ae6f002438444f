//! What passes over one HTTP/2 connection, as the wire has it: which requests are out.

use std::collections::BTreeMap;
use std::time::Instant;

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 0x1;

/// What either end may say when it ends a stream or the connection: no error, one of the server's own,
/// not looked at, not wanted (RFC 9113 section 7). All others accuse the peer of breaking the protocol.
const BLAMELESS: [u32; 4] = [0, 2, 7, 8];

/// One frame.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// Nothing more comes on its stream.
    fn ends_stream(&self) -> bool {
        let ends = matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0;
        ends || self.kind == RST_STREAM
    }

    /// The error that it accuses its receiver of.
    fn blame(&self) -> Option<u32> {
        let reason = match self.kind {
            RST_STREAM => self.payload.first_chunk(),
            GOAWAY => self.payload.get(4..).and_then(|rest| rest.first_chunk()),
            _ => None,
        };
        let reason = u32::from_be_bytes(*reason?);
        (!BLAMELESS.contains(&reason)).then_some(reason)
    }

    /// Its stream ends before its time.
    fn is_reset(&self) -> bool {
        self.kind == RST_STREAM
    }
}

/// Bytes that come in pieces, as the frames that they are.
#[derive(Default)]
struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    /// The frames that `bytes` complete.
    fn complete(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.rest.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(&[a, b, c, kind, flags, s1, s2, s3, s4]) =
            self.rest.first_chunk::<HEAD_BYTES>()
        {
            let end = HEAD_BYTES + u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(payload) = self.rest.get(HEAD_BYTES..end) else {
                break;
            };
            frames.push(Frame {
                kind,
                flags,
                stream: u32::from_be_bytes([s1, s2, s3, s4]),
                payload: payload.to_vec(),
            });
            self.rest.drain(..end);
        }
        frames
    }
}

/// The streams of one connection that are not over for the client.
#[derive(Default)]
pub struct Streams {
    sent: Frames,
    came: Frames,
    open: BTreeMap<u32, Exchange>,
    /// The server breaks the protocol: the client may say so.
    pub is_broken: bool,
    /// What one end accuses the other of, in words.
    pub offence: Option<String>,
}

/// What the client's bytes mean.
pub enum Told<'a> {
    /// A request is out whole, and is to be named.
    Sent(&'a mut Exchange),
    /// The client has ended an exchange before its answer did.
    Over(Exchange),
}

/// One of them.
pub struct Exchange {
    /// When its first byte went out.
    pub since: Instant,
    /// The request's body, as far as it went out.
    pub body: Vec<u8>,
    /// What the watcher calls it, once it went out whole.
    pub request: Option<usize>,
    /// Once its answer has come whole, it is answered for good.
    pub is_for_good: bool,
}

impl Exchange {
    /// The same; the rest of its answer never comes.
    fn lost(self) -> Self {
        Self {
            is_for_good: false,
            ..self
        }
    }
}

impl Streams {
    /// Client to server, in frames. What has happened is told in its order.
    pub fn sends(&mut self, bytes: &[u8], now: Instant, mut tell: impl FnMut(Told<'_>)) {
        let frames = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
        for frame in self.sent.complete(frames) {
            self.hear(&frame, "client");
            if frame.kind == HEADERS {
                let exchange = Exchange {
                    since: now,
                    body: Vec::new(),
                    request: None,
                    is_for_good: false,
                };
                self.open.insert(frame.stream, exchange);
            }
            if frame.is_reset() {
                let over = self.open.remove(&frame.stream).map(Exchange::lost);
                over.into_iter().for_each(|over| tell(Told::Over(over)));
            } else if let Some(exchange) = self.open.get_mut(&frame.stream) {
                if frame.kind == DATA {
                    exchange.body.extend_from_slice(&frame.payload);
                }
                if frame.ends_stream() {
                    tell(Told::Sent(exchange));
                }
            }
        }
    }

    /// Server to client; the exchanges that end with it.
    pub fn comes(&mut self, bytes: &[u8]) -> Vec<Exchange> {
        let mut over = Vec::new();
        for frame in self.came.complete(bytes) {
            self.hear(&frame, "server");
            if frame.ends_stream() {
                let ended = self.open.remove(&frame.stream);
                over.extend(ended.map(|exchange| Exchange {
                    is_for_good: exchange.is_for_good && !frame.is_reset(),
                    ..exchange
                }));
            } else if frame.kind == GOAWAY
                && let Some(last) = frame.payload.first_chunk()
            {
                // The others were not looked at.
                let undone = self.open.split_off(&(u32::from_be_bytes(*last) + 1));
                over.extend(undone.into_values().map(Exchange::lost));
            }
        }
        over
    }

    fn hear(&mut self, frame: &Frame, who: &str) {
        if !self.is_broken
            && let Some(reason) = frame.blame()
        {
            let stream = frame.stream;
            self.offence = Some(format!("the {who} complains of stream {stream}: {reason}"));
        }
    }

    /// The connection is over, and with it these.
    pub fn end(&mut self) -> impl Iterator<Item = Exchange> + use<> {
        std::mem::take(&mut self.open)
            .into_values()
            .map(Exchange::lost)
    }

    /// Those that are not over.
    pub fn open(&mut self) -> impl Iterator<Item = (u32, &mut Exchange)> {
        self.open.iter_mut().map(|(stream, one)| (*stream, one))
    }
}
