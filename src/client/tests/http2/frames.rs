//! HTTP/2 frames by hand (RFC 9113, section 6), for servers that no library would be.

use std::io::Read as _;
use std::net::TcpStream;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `:status 200`, the eighth entry of the static table (RFC 7541, appendix A).
pub(super) const STATUS_200: &[u8] = &[0x88];

/// A frame without flags.
pub(super) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    flagged(kind, 0, stream, payload)
}

/// A frame with flags.
pub(super) fn flagged(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Reads the preface and then frames up to the `count`th HEADERS; its stream's number.
pub(super) fn await_heads(stream: &mut TcpStream, count: usize) -> u32 {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).expect("a preface");
    let mut last = 0;
    for _ in 0..count {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            stream
                .read_exact(&mut vec![0; length])
                .expect("its payload");
            if head[3] == HEADERS {
                last = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                break;
            }
        }
    }
    last
}
