//! The server's side of HTTP/1.x framing: where a request ends. Pure.

/// Request head, start line included; nginx allows 32 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 100;
/// Request body; the engine's own limit for a line.
pub(super) const BODY_BYTES_MAX: usize = 64 << 20;

/// A request head, borrowed from the read buffer.
#[derive(Debug)]
pub(super) struct Head<'b> {
    pub method: &'b str,
    pub target: &'b str,
    pub headers: Vec<(&'b str, &'b [u8])>,
    pub framing: Framing,
}

/// What the driver needs of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    /// Bytes of the head.
    pub head: usize,
    pub body: BodyLength,
    /// Whether the client wants to use the connection again.
    pub keep_alive: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// HTTP/1.1, which may be answered in chunks.
    pub chunks_allowed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    Exact(usize),
    Chunked,
}

/// A request that cannot be read on; it is answered and the connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub status: u16,
    pub message: &'static str,
}

const fn malformed(message: &'static str) -> Rejected {
    Rejected {
        status: 400,
        message,
    }
}

const TOO_LARGE: Rejected = Rejected {
    status: 413,
    message: "The request body is too large.",
};

/// Reads the head at the start of `buffer`; `None`: it is not complete yet.
pub(super) fn parse_head(buffer: &[u8]) -> Result<Option<Head<'_>>, Rejected> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(buffer) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if buffer.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Rejected {
                status: 431,
                message: "The request head is too large.",
            });
        }
        Err(_) => return Err(malformed("The request head is not HTTP/1.1.")),
    };
    // httparse has set all three on a complete head.
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(malformed("The request line is not complete."));
    };
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|header| (header.name, header.value))
        .collect();
    let framing = framing(head, version, &headers)?;
    Ok(Some(Head {
        method,
        target,
        headers,
        framing,
    }))
}

/// RFC 9112, section 6: conflicting or repeated-and-different lengths are errors.
fn framing(head: usize, version: u8, headers: &[(&str, &[u8])]) -> Result<Framing, Rejected> {
    let mut length: Option<usize> = None;
    let mut framing = Framing {
        head,
        body: BodyLength::Exact(0),
        keep_alive: version == 1,
        expects_continue: false,
        chunks_allowed: version == 1,
    };
    for &(name, value) in headers {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(value)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let parsed = digits
                .and_then(|text| text.parse().ok())
                .ok_or(malformed("content-length is not a number."))?;
            if length.is_some_and(|length| length != parsed) {
                return Err(malformed("content-length contradicts itself."));
            }
            length = Some(parsed);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Rejected {
                    status: 501,
                    message: "The only transfer coding understood is chunked.",
                });
            }
            framing.body = BodyLength::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            // The next answer to HTTP/1.0 always closes, so keep-alive is not looked for.
            let mut options = value.split(|&byte| byte == b',');
            framing.keep_alive &=
                !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case("expect") {
            framing.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
        }
    }
    match (framing.body, length) {
        (BodyLength::Chunked, Some(_)) => {
            Err(malformed("content-length contradicts transfer-encoding."))
        }
        (_, Some(length)) if length > BODY_BYTES_MAX => Err(TOO_LARGE),
        (_, Some(length)) => Ok(Framing {
            body: BodyLength::Exact(length),
            ..framing
        }),
        (_, None) => Ok(framing),
    }
}

/// Undoes chunking in place: the decoded body grows in the buffer behind the head.
#[derive(Debug)]
pub(super) struct Dechunker {
    /// Where the decoded body ends and the undecoded bytes begin.
    pub end: usize,
    start: usize,
    state: ChunkState,
}

#[derive(Debug)]
enum ChunkState {
    Size,
    Data { left: usize },
    DataEnd,
    Trailer,
}

impl Dechunker {
    pub(super) fn new(head: usize) -> Self {
        Self {
            end: head,
            start: head,
            state: ChunkState::Size,
        }
    }

    /// Decodes what is there; `true` once the body is complete, which then ends at `self.end`.
    pub(super) fn advance(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Rejected> {
        let mut read = self.end;
        let mut complete = false;
        while !complete {
            let rest = &buffer[read..];
            match self.state {
                ChunkState::Size => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((line, size))) => {
                        let left = usize::try_from(size).unwrap_or(usize::MAX);
                        if left > BODY_BYTES_MAX - (self.end - self.start) {
                            return Err(TOO_LARGE);
                        }
                        read += line;
                        self.state = if left == 0 {
                            ChunkState::Trailer
                        } else {
                            ChunkState::Data { left }
                        };
                    }
                    Ok(httparse::Status::Partial) if rest.len() < HEAD_BYTES_MAX => break,
                    _ => return Err(malformed("A chunk size is not valid.")),
                },
                ChunkState::Data { left } => {
                    let taken = left.min(rest.len());
                    buffer.copy_within(read..read + taken, self.end);
                    self.end += taken;
                    read += taken;
                    if taken < left {
                        self.state = ChunkState::Data { left: left - taken };
                        break;
                    }
                    self.state = ChunkState::DataEnd;
                }
                ChunkState::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        read += 2;
                        self.state = ChunkState::Size;
                    }
                    [] | [b'\r'] => break,
                    _ => return Err(malformed("A chunk is longer than its size.")),
                },
                ChunkState::Trailer => match memchr::memchr(b'\n', rest) {
                    Some(line_end) => {
                        complete = rest[..line_end].trim_ascii().is_empty();
                        read += line_end + 1;
                    }
                    None if rest.len() < HEAD_BYTES_MAX => break,
                    None => return Err(malformed("A trailer line is too long.")),
                },
            }
        }
        buffer.drain(self.end..read);
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing_of(head: &str) -> Result<Option<Framing>, u16> {
        parse_head(head.as_bytes())
            .map(|head| head.map(|head| head.framing))
            .map_err(|rejected| rejected.status)
    }

    #[test]
    fn heads() {
        let plain = Framing {
            head: 0,
            body: BodyLength::Exact(0),
            keep_alive: true,
            expects_continue: false,
            chunks_allowed: true,
        };
        for (head, expect) in [
            ("GET / HTTP/1.1\r\n\r\n", Ok(plain)),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
                Ok(Framing {
                    body: BodyLength::Exact(5),
                    ..plain
                }),
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n",
                Ok(Framing {
                    body: BodyLength::Chunked,
                    expects_continue: true,
                    ..plain
                }),
            ),
            (
                "GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n",
                Ok(Framing {
                    keep_alive: false,
                    ..plain
                }),
            ),
            (
                "GET / HTTP/1.0\r\n\r\n",
                Ok(Framing {
                    keep_alive: false,
                    chunks_allowed: false,
                    ..plain
                }),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                Err(400),
            ),
            ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Err(400)),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                Err(400),
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
                Err(501),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                Err(413),
            ),
            ("nonsense\r\n\r\n", Err(400)),
        ] {
            let expect = expect.map(|framing| {
                Some(Framing {
                    head: head.len(),
                    ..framing
                })
            });
            assert_eq!(framing_of(head), expect, "{head}");
        }
        assert_eq!(framing_of("GET / HTTP/1.1\r\nHost"), Ok(None));
        assert_eq!(
            framing_of(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_BYTES_MAX))),
            Err(431)
        );
    }

    #[test]
    fn chunks_are_undone_however_they_are_cut() {
        let encoded = b"3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nx: y\r\n\r\nnext";
        for step in 1..=encoded.len() {
            let mut buffer = b"HEAD".to_vec();
            let mut dechunker = Dechunker::new(4);
            let mut complete = false;
            for piece in encoded.chunks(step) {
                buffer.extend_from_slice(piece);
                if !complete {
                    complete = dechunker.advance(&mut buffer).unwrap();
                }
            }
            assert!(complete, "step {step}");
            assert_eq!(&buffer[..dechunker.end], b"HEADabcdefgh", "step {step}");
            assert_eq!(&buffer[dechunker.end..], b"next", "step {step}");
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for (encoded, status) in [
            ("zz\r\n", 400),
            ("1\r\nabc", 400),
            ("fffffff\r\n", 413),
            ("ffffffffffffffffff\r\n", 400),
        ] {
            let mut buffer = encoded.as_bytes().to_vec();
            let rejected = Dechunker::new(0).advance(&mut buffer).unwrap_err();
            assert_eq!(rejected.status, status, "{encoded}");
        }
    }
}
