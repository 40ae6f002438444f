//! Walks the lines of a range, without copying and without counting what others count. Pure.

use super::{BYTE_ORDER_MARK, Input, LineRange};

/// Where a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRef {
    /// Byte offset in the input; the line's identity.
    pub offset: u64,
    /// Physical line number, from 1, blank lines counted.
    pub number: u64,
    /// Bytes of its text, without the line ending.
    pub len: u64,
}

/// Goes through the lines of one range that are not blank.
#[derive(Clone, Debug)]
pub struct LineCursor {
    next: u64,
    end: u64,
    number: u64,
}

impl LineCursor {
    /// At the start of the range.
    pub fn new(range: LineRange) -> Self {
        Self {
            next: range.start,
            end: range.end,
            number: range.first_line,
        }
    }

    /// The next line that is not blank.
    pub fn next(&mut self, input: &Input) -> Option<LineRef> {
        let bytes: &[u8] = &input.map;
        while self.next < self.end && self.next < bytes.len() as u64 {
            let start = skip_byte_order_mark(bytes, self.next as usize);
            let (text, after) = line_at(bytes, start);
            let number = self.number;
            self.next = after as u64;
            self.number += 1;
            if !is_blank(text) {
                return Some(LineRef {
                    offset: start as u64,
                    number,
                    len: text.len() as u64,
                });
            }
        }
        None
    }

    /// Byte offset from which the next line is looked for; everything before it was handed out.
    pub fn offset(&self) -> u64 {
        self.next
    }
}

/// The text of the line at `start`, and where the next line starts.
pub(super) fn line_at(bytes: &[u8], start: usize) -> (&[u8], usize) {
    let rest = &bytes[start..];
    let (text, after) = match memchr::memchr(b'\n', rest) {
        Some(length) => (&rest[..length], start + length + 1),
        None => (rest, bytes.len()),
    };
    (text.strip_suffix(b"\r").unwrap_or(text), after)
}

/// Nothing but white space.
pub(super) fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

/// Past the byte order mark, if this is the start of the file and it has one.
pub(super) fn skip_byte_order_mark(bytes: &[u8], start: usize) -> usize {
    if start == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        start
    }
}
