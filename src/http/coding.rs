//! Content codings (RFC 9110, section 8.4) undone: gzip, deflate, br and zstd. Pure.
//!
//! Requests ask for `identity`, so none of this runs for a server that listens. What comes out is bounded, however
//! little went in: a bomb goes off no further than the cap.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

/// More codings than anybody applies; each is a pass over the body.
const CODINGS_MAX: usize = 4;

/// How gzip members begin (RFC 1952, section 2.3.1).
const GZIP_START: [u8; 2] = [0x1f, 0x8b];

/// Room that a decoded body gets at first, and most that it grows by at once.
const ROOM: usize = 64 << 10;

/// Why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodingError {
    /// A coding that nobody here knows, or a word that is none.
    #[error("unknown content-encoding \"{0}\"")]
    Unknown(String),
    /// The bytes are not what the coding makes.
    #[error("the body is no {0}, as its content-encoding says")]
    Broken(&'static str),
    /// More codings, one inside the other, than are undone.
    #[error("more than {CODINGS_MAX} content codings")]
    TooMany,
    /// The decoded body exceeds the cap.
    #[error("decoded response body larger than {limit} bytes")]
    TooLarge {
        /// The cap in bytes.
        limit: usize,
    },
}

/// A coding that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// `body` without the codings that `fields`, the values of all its `content-encoding` fields in their order, name;
/// at most `bytes_max` bytes, also between two codings. `None`: there are none.
///
/// # Errors
/// A coding is not known, the body is not what they say, or it is larger than that.
pub fn decode<'f>(
    fields: impl Iterator<Item = &'f [u8]>,
    body: &[u8],
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, CodingError> {
    let mut codings = Vec::new();
    for name in fields.flat_map(|field| field.split(|&byte| byte == b',')) {
        codings.extend(Coding::named(name.trim_ascii())?);
    }
    if codings.len() > CODINGS_MAX {
        return Err(CodingError::TooMany);
    }
    let mut decoded: Option<Vec<u8>> = None;
    // Listed in the order in which they were applied.
    for coding in codings.into_iter().rev() {
        let inner = coding.undo(decoded.as_deref().unwrap_or(body), bytes_max)?;
        decoded = Some(inner);
    }
    Ok(decoded)
}

impl Coding {
    /// The coding of that name, in any case; `None` for `identity` and for nothing.
    fn named(name: &[u8]) -> Result<Option<Self>, CodingError> {
        Ok(Some(match name.to_ascii_lowercase().as_slice() {
            b"" | b"identity" => return Ok(None),
            b"gzip" | b"x-gzip" => Self::Gzip,
            b"deflate" => Self::Deflate,
            b"br" => Self::Brotli,
            b"zstd" => Self::Zstd,
            _ => return Err(CodingError::Unknown(super::error::excerpt(name))),
        }))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    fn undo(self, body: &[u8], limit: usize) -> Result<Vec<u8>, CodingError> {
        let mut out = Bounded {
            bytes: Vec::with_capacity(ROOM.min(limit)),
            limit,
        };
        let undone = match self {
            Self::Gzip => gunzip(body, &mut out),
            // What the RFC means by it is zlib; what some servers send is deflate without that frame.
            Self::Deflate => inflate(body, true, &mut out).or_else(|error| match error {
                Fault::Broken => {
                    out.bytes.clear();
                    inflate(body, false, &mut out)
                }
                Fault::TooLarge => Err(error),
            }),
            Self::Brotli => {
                let mut decoder = brotli_decompressor::Decompressor::new(body, 4096);
                out.fill(&mut decoder)
            }
            Self::Zstd => unzstd(body, &mut out),
        };
        match undone {
            Ok(()) => Ok(out.bytes),
            Err(Fault::Broken) => Err(CodingError::Broken(self.name())),
            Err(Fault::TooLarge) => Err(CodingError::TooLarge { limit }),
        }
    }
}

/// Why one coding cannot be undone.
#[derive(Clone, Copy)]
enum Fault {
    Broken,
    TooLarge,
}

/// What was decoded.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    /// Reads `source` to its end.
    fn fill(&mut self, source: &mut impl Read) -> Result<(), Fault> {
        // One more than allowed tells that it is too much.
        let room = (self.limit - self.bytes.len()) as u64 + 1;
        let read = source.take(room).read_to_end(&mut self.bytes);
        match read.map_err(|_: io::Error| Fault::Broken) {
            Ok(_) if self.bytes.len() > self.limit => Err(Fault::TooLarge),
            read => read.map(|_| ()),
        }
    }
}

/// One member behind the other (RFC 1952, section 2.2). What follows the last is padding.
fn gunzip(body: &[u8], out: &mut Bounded) -> Result<(), Fault> {
    let mut rest = body;
    loop {
        let mut member = GzDecoder::new(rest);
        out.fill(&mut member)?;
        rest = member.into_inner();
        if !rest.starts_with(&GZIP_START) {
            return Ok(());
        }
    }
}

fn inflate(body: &[u8], has_frame: bool, out: &mut Bounded) -> Result<(), Fault> {
    let mut machine = Decompress::new(has_frame);
    loop {
        let (read, written) = (machine.total_in(), machine.total_out());
        let rest = &body[(read as usize).min(body.len())..];
        let status = machine.decompress_vec(rest, &mut out.bytes, FlushDecompress::None);
        if out.bytes.len() > out.limit {
            return Err(Fault::TooLarge);
        }
        let is_full = out.bytes.len() == out.bytes.capacity();
        match status {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(Status::Ok | Status::BufError) if is_full => {
                out.bytes.reserve(out.bytes.len().clamp(1024, ROOM));
            }
            Ok(_) if (machine.total_in(), machine.total_out()) != (read, written) => {}
            // Nothing more comes of it, and it has not said that it is whole.
            Ok(_) | Err(_) => return Err(Fault::Broken),
        }
    }
}

/// One frame behind the other (RFC 8878, section 3).
fn unzstd(body: &[u8], out: &mut Bounded) -> Result<(), Fault> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
    let mut rest = body;
    loop {
        match StreamingDecoder::new(&mut rest) {
            Ok(mut frame) => out.fill(&mut frame)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => rest = rest.get(length as usize..).ok_or(Fault::Broken)?,
            Err(_) => return Err(Fault::Broken),
        }
        if rest.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
