//! An answer as what goes onto the wire: bytes in pieces, when each goes, and how it ends. Pure.
//!
//! Every answer of the trial endpoint is compiled to a [`Scripted`], faults included; tests feed
//! arbitrary bytes through the same door.

use std::time::Duration;

use super::failure::reason;

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenRequest {
    /// As sent.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// In order; names as sent, values with invalid UTF-8 replaced.
    pub headers: Vec<(String, String)>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Complete, since the start of the endpoint.
    pub arrived: Duration,
    /// Which connection carried it, counted from 0 as they were accepted.
    pub connection: u64,
}

impl SeenRequest {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What becomes of the connection after the last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It waits for the next request.
    Keep,
    /// It closes in order (FIN).
    Close,
    /// It is torn down (RST).
    Reset,
    /// It stays open and says nothing more, until the client closes it.
    Hang,
}

/// Bytes to write verbatim, with pauses, and the end.
///
/// ```
/// use std::time::Duration;
/// use blaze_uring::mock::Scripted;
/// let slow_down = Scripted::json(429, "{}").header("retry-after", "1").after(Duration::from_millis(5));
/// let half_an_answer = Scripted::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\"").then_reset();
/// # let _ = (slow_down, half_an_answer);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scripted {
    pub(super) pieces: Vec<Piece>,
    pub(super) end: End,
}

/// Bytes that go out together, this long after those before them (the first: after the request).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) after: Duration,
    pub(super) bytes: Vec<u8>,
}

impl Scripted {
    /// A complete answer with a JSON body; the connection stays open.
    pub fn json(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            reason(status),
            body.len()
        );
        Self::raw([head.as_bytes(), body].concat())
    }

    /// These bytes as they are; the connection stays open. No bytes at all are allowed.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            pieces: vec![Piece {
                after: Duration::ZERO,
                bytes: bytes.into(),
            }],
            end: End::Keep,
        }
    }

    /// Adds a header line after the status line. Without a status line in the first piece it does nothing.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let first = &mut self.pieces[0].bytes;
        if let Some(line_end) = memchr::memmem::find(first, b"\r\n") {
            let at = line_end + 2;
            first.splice(at..at, format!("{name}: {value}\r\n").into_bytes());
        }
        self
    }

    /// Waits this much longer before the first byte.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.pieces[0].after += wait;
        self
    }

    /// More bytes, `wait` after those before.
    #[must_use]
    pub fn then(mut self, wait: Duration, bytes: impl Into<Vec<u8>>) -> Self {
        self.pieces.push(Piece {
            after: wait,
            bytes: bytes.into(),
        });
        self
    }

    /// Closes the connection after the last byte.
    #[must_use]
    pub fn then_close(self) -> Self {
        self.ending(End::Close)
    }

    /// Resets the connection after the last byte.
    #[must_use]
    pub fn then_reset(self) -> Self {
        self.ending(End::Reset)
    }

    /// Says nothing more after the last byte.
    #[must_use]
    pub fn then_hang(self) -> Self {
        self.ending(End::Hang)
    }

    pub(super) fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Drops everything after the first `length` bytes.
    pub(super) fn cut(mut self, length: usize) -> Self {
        let mut left = length;
        for piece in &mut self.pieces {
            piece.bytes.truncate(left);
            left -= piece.bytes.len();
        }
        self
    }

    /// Sends the first `head` bytes as planned, the rest in `parts` equal parts spread over `duration`.
    pub(super) fn drip(self, head: usize, parts: usize, duration: Duration) -> Self {
        let after = self.pieces[0].after;
        let end = self.end;
        let mut bytes: Vec<u8> = self
            .pieces
            .into_iter()
            .flat_map(|piece| piece.bytes)
            .collect();
        let body = bytes.split_off(head.min(bytes.len()));
        let mut dripping = Self {
            pieces: vec![Piece { after, bytes }],
            end,
        };
        for part in body.chunks(body.len().div_ceil(parts).max(1)) {
            dripping = dripping.then(duration / parts as u32, part);
        }
        dripping
    }

    /// The status in the first piece, if it is a response head.
    pub(super) fn status(&self) -> Option<u16> {
        let first = &self.pieces[0].bytes;
        let digits = first.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(scripted: &Scripted) -> String {
        let bytes = scripted
            .pieces
            .iter()
            .flat_map(|piece| piece.bytes.clone())
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_a_complete_message() {
        let scripted = Scripted::json(429, "{}")
            .header("retry-after", "1")
            .after(Duration::from_millis(3));
        assert_eq!(
            bytes(&scripted),
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        );
        assert_eq!((scripted.status(), scripted.end), (Some(429), End::Keep));
        assert_eq!(scripted.pieces[0].after, Duration::from_millis(3));
    }

    #[test]
    fn cutting_spans_pieces() {
        let scripted = Scripted::raw("abc")
            .then(Duration::ZERO, "def")
            .then(Duration::ZERO, "ghi");
        for (length, expect) in [
            (0, ""),
            (2, "ab"),
            (3, "abc"),
            (5, "abcde"),
            (99, "abcdefghi"),
        ] {
            assert_eq!(bytes(&scripted.clone().cut(length)), expect);
        }
    }

    #[test]
    fn dripping_keeps_every_byte_and_takes_its_time() {
        let scripted = Scripted::raw("head0123456789").drip(4, 4, Duration::from_millis(40));
        assert_eq!(bytes(&scripted), "head0123456789");
        assert_eq!(scripted.pieces.len(), 5);
        let total: Duration = scripted.pieces.iter().map(|piece| piece.after).sum();
        assert_eq!(total, Duration::from_millis(40));
    }

    #[test]
    fn bytes_without_a_head_have_no_status() {
        assert_eq!(Scripted::raw("").status(), None);
        assert_eq!(Scripted::raw("HTTP/1.1 2").status(), None);
        assert_eq!(Scripted::raw("nonsense, and long").status(), None);
    }
}
