//! The fields of an answer's head, as they come out of a header block, checked and written down as
//! HTTP/1.1 would have them, which is what readers of a reply know (RFC 9113, section 8). Pure.

use std::io::Write as _;

use super::hpack::ENTRY_BYTES;
use super::request::OF_THE_CONNECTION;
use crate::http::Signals;

/// A block that unfolds to this many times the cap of a head ends the connection: until then its
/// fields are passed over, so that the table stays in step and only the stream is lost.
const OVERSIZE_MAX: usize = 4;

/// What a header block belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Head,
    /// Behind the body: checked, and of no further use.
    Trailers,
    /// Of a stream that nobody listens to.
    Nothing,
}

/// See the module.
pub(super) struct Fields<'a> {
    part: Part,
    reply: &'a mut Vec<u8>,
    bytes_max: usize,
    bytes: usize,
    is_malformed: bool,
    pub(super) status: Option<u16>,
    pub(super) signals: Signals,
    pub(super) length: Option<u64>,
}

impl<'a> Fields<'a> {
    /// Fields that are appended to `reply`; all together may count `bytes_max` bytes.
    pub(super) fn new(part: Part, reply: &'a mut Vec<u8>, bytes_max: usize) -> Self {
        Self {
            part,
            reply,
            bytes_max,
            bytes: 0,
            is_malformed: false,
            status: None,
            signals: Signals::default(),
            length: None,
        }
    }

    /// Takes one field; `false` if the block has become a danger.
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) -> bool {
        // As the sender is told to count (section 6.5.2).
        self.bytes += name.len() + value.len() + ENTRY_BYTES;
        if self.bytes > self.bytes_max {
            return self.bytes <= self.bytes_max.saturating_mul(OVERSIZE_MAX);
        }
        if !self.is_malformed && self.part != Part::Nothing {
            self.is_malformed = self.accept(name, value).is_none();
        }
        true
    }

    /// Whether the block was larger than any is allowed to be.
    pub(super) fn is_bomb(&self) -> bool {
        self.bytes > self.bytes_max.saturating_mul(OVERSIZE_MAX)
    }

    /// Whether all of it may be used.
    pub(super) fn is_good(&self) -> bool {
        let has_status = self.part != Part::Head || self.status.is_some();
        !self.is_malformed && self.bytes <= self.bytes_max && has_status
    }

    /// `None`: malformed.
    fn accept(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name == b":status" {
            // Once, in front of everything else, and in no trailer.
            let is_due = self.part == Part::Head && self.status.is_none();
            let status = status(value).filter(|_| is_due)?;
            self.status = Some(status);
            // Writing into a vector cannot fail.
            let _ = write!(self.reply, "HTTP/1.1 {status}\r\n");
            return Some(());
        }
        let is_text = !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        if !is_name(name) || !is_text || self.part == Part::Head && self.status.is_none() {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        if OF_THE_CONNECTION.contains(&name) {
            return None;
        }
        if self.part == Part::Trailers {
            return Some(());
        }
        if name == "content-length" {
            let length = length(value)?;
            if self
                .length
                .replace(length)
                .is_some_and(|other| other != length)
            {
                return None;
            }
        }
        self.signals.observe(name, value);
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.reply.extend_from_slice(part);
        }
        Some(())
    }
}

fn status(value: &[u8]) -> Option<u16> {
    let &[
        hundreds @ b'1'..=b'9',
        tens @ b'0'..=b'9',
        ones @ b'0'..=b'9',
    ] = value
    else {
        return None;
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    Some(digit(hundreds) * 100 + digit(tens) * 10 + digit(ones))
}

fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()?
        .parse()
        .ok()
        .filter(|_| is_number)
}

/// A token in lower case (RFC 9113 section 8.2.1, RFC 9110 section 5.6.2).
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| IS_NAME[usize::from(byte)])
}

static IS_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let punctuation = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < punctuation.len() {
        table[punctuation[index] as usize] = true;
        index += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_lowercase() || (byte as u8).is_ascii_digit() {
            table[byte] = true;
        }
        byte += 1;
    }
    table
};
