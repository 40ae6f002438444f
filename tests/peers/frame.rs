//! HTTP/2's frames, as far as a tap needs to read and write them (RFC 9113 section 4.1).

use std::io::{self, Read, Write};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// Of SETTINGS.
pub const ACK: u8 = 1;

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const MAX_CONCURRENT_STREAMS: u16 = 3;
/// What RFC 9113 allows without an agreement on more.
const PAYLOAD_MAX: usize = 16 << 10;

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    /// SETTINGS with a new number of streams.
    pub fn streams_max(streams: u32) -> Self {
        let mut payload = MAX_CONCURRENT_STREAMS.to_be_bytes().to_vec();
        payload.extend(streams.to_be_bytes());
        Self::new(SETTINGS, 0, 0, &payload)
    }

    /// GOAWAY without an error: streams above `last` were not looked at.
    pub fn goaway(last: u32) -> Self {
        Self::new(
            GOAWAY,
            0,
            0,
            &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat(),
        )
    }

    /// Room for so many more bytes on the connection.
    pub fn window_update(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).expect("a frame is short");
        Self::new(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes())
    }

    /// The next one; `None` at the end of the connection.
    pub fn read(from: &mut impl Read) -> Option<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= PAYLOAD_MAX, "a frame of {length} bytes");
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).ok()?;
        Some(Self {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).expect("a short payload");
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        to.write_all(&bytes)
    }

    /// Whether it ends its sender's half of a stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    pub fn is_settings(&self, acknowledged: bool) -> bool {
        self.kind == SETTINGS && (self.flags & ACK != 0) == acknowledged
    }

    /// The number of streams that SETTINGS allow, where they say.
    pub fn allowed_streams(&self) -> Option<u32> {
        self.payload
            .chunks_exact(6)
            .filter(|entry| entry[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes())
            .map(|entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
            .next_back()
    }
}
