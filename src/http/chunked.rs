//! The chunked transfer coding, taken off in place (RFC 9112 section 7.1). Pure.

use super::Limits;
use super::error::{ProtocolError, excerpt};
use super::request::is_token;

/// Cap of one chunk-size line; the size itself needs at most 16 digits.
const MAX_SIZE_LINE_BYTES: usize = 1024;

/// Cap of all chunk extensions of a body together, so that tiny chunks with long extensions
/// cannot keep a reader busy for ever. Nobody is known to use extensions at all.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;

/// Decodes a body whose bytes arrive in pieces. The decoded bytes grow from the front of the
/// body, the undecoded rest follows at once: every byte moves at most once per [`Chunked::advance`]
/// and only when it has been decoded, so the work is linear in what arrives.
#[derive(Clone, Debug)]
pub(super) struct Chunked {
    limits: Limits,
    body_start: usize,
    phase: Phase,
    /// Buffer position up to which no line end was found.
    scanned: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// At a chunk-size line.
    Size,
    /// Within a chunk's data.
    Data { left: usize },
    /// At the line end after a chunk's data.
    DataEnd,
    /// After the last chunk, through the blank line.
    Trailers,
}

impl Chunked {
    /// For a body that begins at `body_start` in the exchange's buffer.
    pub fn new(limits: Limits, body_start: usize) -> Self {
        Self {
            limits,
            body_start,
            phase: Phase::Size,
            scanned: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }

    /// Data bytes the current chunk still lacks.
    pub fn lacking(&self) -> usize {
        match self.phase {
            Phase::Data { left } => left,
            _ => 0,
        }
    }

    /// Decodes what has arrived at `buffer[*decoded_end..]`, moves `decoded_end` behind the decoded
    /// data and the rest behind that. True once the last chunk and its trailers are complete.
    pub fn advance(
        &mut self,
        buffer: &mut Vec<u8>,
        decoded_end: &mut usize,
    ) -> Result<bool, ProtocolError> {
        let mut read = *decoded_end;
        let complete = loop {
            match self.phase {
                Phase::Size => {
                    let Some(end) = line_end(buffer, read, &mut self.scanned)? else {
                        if buffer.len() - read > MAX_SIZE_LINE_BYTES {
                            return Err(invalid_size(&buffer[read..]));
                        }
                        break false;
                    };
                    let size = self.size(&buffer[read..end])?;
                    let limit = self.limits.body_bytes;
                    if size > limit - (*decoded_end - self.body_start) {
                        return Err(ProtocolError::BodyTooLarge { limit });
                    }
                    read = end;
                    self.phase = match size {
                        0 => Phase::Trailers,
                        left => Phase::Data { left },
                    };
                }
                Phase::Data { left } => {
                    let length = left.min(buffer.len() - read);
                    if read > *decoded_end {
                        buffer.copy_within(read..read + length, *decoded_end);
                    }
                    read += length;
                    *decoded_end += length;
                    if length < left {
                        self.phase = Phase::Data {
                            left: left - length,
                        };
                        break false;
                    }
                    self.phase = Phase::DataEnd;
                }
                Phase::DataEnd => match &buffer[read..] {
                    [b'\r', b'\n', ..] => {
                        read += 2;
                        self.phase = Phase::Size;
                    }
                    [] | [b'\r'] => break false,
                    _ => return Err(ProtocolError::ChunkOverrun),
                },
                Phase::Trailers => {
                    let end = line_end(buffer, read, &mut self.scanned)?;
                    let pending = end.unwrap_or(buffer.len()) - read;
                    let limit = self.limits.head_bytes;
                    if self.trailer_bytes + pending > limit {
                        return Err(ProtocolError::TrailersTooLarge { limit });
                    }
                    let Some(end) = end else { break false };
                    let line = &buffer[read..end - 2];
                    let folded =
                        self.trailer_bytes > 0 && matches!(line.first(), Some(b' ' | b'\t'));
                    read = end;
                    self.trailer_bytes += pending;
                    if line.is_empty() {
                        break true;
                    }
                    if !folded {
                        check_trailer(line)?;
                    }
                }
            }
        };
        buffer.drain(*decoded_end..read);
        // What is left holds no complete line, else the loop would have gone on.
        self.scanned = buffer.len();
        Ok(complete)
    }

    /// The number in a complete size line, line end included.
    fn size(&mut self, line: &[u8]) -> Result<usize, ProtocolError> {
        // `httparse` takes a line without digits for a size of 0, which would end the body.
        if line.len() > MAX_SIZE_LINE_BYTES || !line[0].is_ascii_hexdigit() {
            return Err(invalid_size(line));
        }
        let Ok(httparse::Status::Complete((length, size))) = httparse::parse_chunk_size(line)
        else {
            return Err(invalid_size(line));
        };
        if length != line.len() {
            return Err(invalid_size(line));
        }
        if let Some(semicolon) = memchr::memchr(b';', line) {
            self.extension_bytes += line.len() - semicolon;
            if self.extension_bytes > MAX_EXTENSION_BYTES {
                return Err(ProtocolError::ChunkExtensions {
                    limit: MAX_EXTENSION_BYTES,
                });
            }
        }
        usize::try_from(size).map_err(|_| invalid_size(line))
    }
}

fn invalid_size(line: &[u8]) -> ProtocolError {
    ProtocolError::InvalidChunkSize {
        line: excerpt(line.trim_ascii_end()),
    }
}

/// Trailers are dropped (RFC 9110 section 6.5.1 asks not to merge them), but must be fields:
/// anything else means that the boundary is lost.
fn check_trailer(line: &[u8]) -> Result<(), ProtocolError> {
    let name = memchr::memchr(b':', line).map_or(&[][..], |colon| &line[..colon]);
    if is_token(name) {
        Ok(())
    } else {
        Err(ProtocolError::InvalidTrailer {
            line: excerpt(line),
        })
    }
}

/// The position after the next line end of a line that starts at `start`. Looks from `scanned` on,
/// and moves it to the buffer's end if there is none, so that no byte is searched twice.
///
/// # Errors
/// A bare line feed: where one recipient sees a line end and the next does not, messages are smuggled.
fn line_end(
    buffer: &[u8],
    start: usize,
    scanned: &mut usize,
) -> Result<Option<usize>, ProtocolError> {
    let from = start.max(*scanned);
    let Some(offset) = memchr::memchr(b'\n', &buffer[from..]) else {
        *scanned = buffer.len();
        return Ok(None);
    };
    let line_feed = from + offset;
    if line_feed == start || buffer[line_feed - 1] != b'\r' {
        return Err(ProtocolError::BareLineFeed);
    }
    Ok(Some(line_feed + 1))
}
