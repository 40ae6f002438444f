//! What can be wrong with a response's bytes. Pure.

/// Why a response could not be read. After one of these the connection is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The first bytes are no HTTP/1 status line: often TLS on a plain port, or another protocol.
    #[error("the answer is not HTTP/1.1, it starts with \"{start}\"")]
    NotHttp {
        /// The first bytes, escaped and cut.
        start: String,
    },
    /// A status line or header field that breaks the grammar of RFC 9112.
    #[error("malformed response head: {0}")]
    MalformedHead(httparse::Error),
    /// A status code below 100.
    #[error("invalid status code {0:03}")]
    InvalidStatus(u16),
    /// A line feed without a carriage return before it, where the framing depends on it.
    #[error("a bare line feed in the framing of the response")]
    BareLineFeed,
    /// The head, or all heads of the exchange together, exceed the cap.
    #[error("response head larger than {limit} bytes")]
    HeadTooLarge {
        /// The cap.
        limit: usize,
    },
    /// More header fields than [`super::MAX_HEADERS`].
    #[error("response head with more than {limit} header fields")]
    TooManyHeaders {
        /// The cap.
        limit: usize,
    },
    /// More interim responses than [`super::MAX_INTERIM`].
    #[error("more than {limit} interim (1xx) responses")]
    TooManyInterim {
        /// The cap.
        limit: usize,
    },
    /// 101, which nobody asked for.
    #[error("unexpected 101 Switching Protocols")]
    SwitchingProtocols,
    /// Not a number, or one that no buffer could hold.
    #[error("invalid content-length \"{value}\"")]
    InvalidContentLength {
        /// What was sent, escaped and cut.
        value: String,
    },
    /// Repeated and different: whoever believes the wrong one loses the boundary.
    #[error("conflicting content-length fields: {first} and {second}")]
    ConflictingContentLength {
        /// The value seen first.
        first: usize,
        /// The value that differs.
        second: usize,
    },
    /// Both framings at once, the classic of response splitting (RFC 9112 section 6.3).
    #[error("both transfer-encoding and content-length")]
    LengthAndEncoding,
    /// Anything but a single `chunked`, or `chunked` on HTTP/1.0.
    #[error("unsupported transfer-encoding \"{value}\"")]
    TransferEncoding {
        /// What was sent, escaped and cut.
        value: String,
    },
    /// A chunk-size line that is no number, overflows or is too long.
    #[error("invalid chunk size line \"{line}\"")]
    InvalidChunkSize {
        /// The line, escaped and cut.
        line: String,
    },
    /// A chunk's data is not followed by a line end.
    #[error("a chunk longer than its stated size")]
    ChunkOverrun,
    /// All chunk extensions of one body together exceed the cap.
    #[error("more than {limit} bytes of chunk extensions")]
    ChunkExtensions {
        /// The cap.
        limit: usize,
    },
    /// A trailer line that is no header field.
    #[error("invalid trailer line \"{line}\"")]
    InvalidTrailer {
        /// The line, escaped and cut.
        line: String,
    },
    /// The trailers exceed the head's cap.
    #[error("trailers larger than {limit} bytes")]
    TrailersTooLarge {
        /// The cap.
        limit: usize,
    },
    /// The decoded body exceeds the cap: the one variant with [`ProtocolError::is_too_large`].
    #[error("response body larger than {limit} bytes")]
    BodyTooLarge {
        /// The cap.
        limit: usize,
    },
    /// Closed without a byte of an answer: a stale connection, if it was a reused one.
    #[error("connection closed before any answer")]
    ClosedBeforeHead,
    /// Closed within a head, or between an interim and the final one.
    #[error("connection closed within the response head")]
    ClosedInHead,
    /// Closed before the body that `content-length` promised was complete.
    #[error("connection closed after {received} of {expected} body bytes")]
    ClosedInBody {
        /// Body bytes received.
        received: usize,
        /// Body bytes promised.
        expected: usize,
    },
    /// Closed before the last chunk.
    #[error("connection closed after {received} body bytes, before the last chunk")]
    ClosedInChunks {
        /// Decoded body bytes received.
        received: usize,
    },
}

impl ProtocolError {
    /// The first bytes are a TLS record's, an alert or a handshake: plain HTTP went to a TLS port.
    pub fn is_tls(&self) -> bool {
        let Self::NotHttp { start } = self else {
            return false;
        };
        // As excerpts write bytes.
        [r"\x15\x03", r"\x16\x03"]
            .iter()
            .any(|record| start.starts_with(record))
    }

    /// Whether the body's cap was exceeded: the failure kind `too_large` instead of `protocol`.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::BodyTooLarge { .. })
    }
}

/// The first bytes of something unexpected, safe to print on one line.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    /// Enough to recognise a protocol or a word by.
    const EXCERPT_BYTES: usize = 40;
    let cut = &bytes[..bytes.len().min(EXCERPT_BYTES)];
    let ellipsis = if cut.len() < bytes.len() { "…" } else { "" };
    format!("{}{ellipsis}", cut.escape_ascii())
}
