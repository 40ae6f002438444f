//! Reads one response out of the bytes of one exchange, in whatever pieces they arrive. Pure.

use std::ops::Range;

use super::Limits;
use super::chunked::Chunked;
use super::error::{ProtocolError, excerpt};
use super::head::{self, Framing, Head, Signals};
use crate::block::LineFeeds;

/// Most interim (1xx) responses before the final one; one is usual, `103 Early Hints` may add a few.
pub const MAX_INTERIM: usize = 16;

/// Room asked for while the rest of a message is unknown: a usual answer arrives in one read.
const MIN_RESERVE: usize = 4 * 1024;

/// Most room asked for at once: a claimed `content-length` alone must not cost memory.
const MAX_RESERVE: usize = 256 * 1024;

/// How every response that may be read here begins.
const STATUS_LINE_START: &[u8] = b"HTTP/1.";

/// What to do after a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Read on.
    NeedMore {
        /// Spare capacity in bytes worth having for the next read.
        reserve: usize,
    },
    /// The response is complete.
    Done(Response),
}

/// A complete response; its bytes are in the exchange's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code, 200 to 999.
    pub status: u16,
    /// The final head, through its blank line.
    pub head: Range<usize>,
    /// The decoded body.
    pub body: Range<usize>,
    /// Framed exactly, kept open by the peer, and not a byte left over: another request may follow.
    pub reusable: bool,
    /// What the head's fields say.
    pub signals: Signals,
}

/// One exchange's life, from the first byte of an answer to its last. The buffer stays with the
/// caller, so an idle reader costs no memory.
///
/// After an error every further call returns the same error.
#[derive(Clone, Debug)]
pub struct ResponseReader {
    limits: Limits,
    /// The request was a `CONNECT`.
    tunnel: bool,
    started: bool,
    interim_count: usize,
    interim_bytes: usize,
    state: State,
    head: Option<Head>,
    keep_alive: bool,
    /// End of the decoded body so far, once there is a head.
    body_end: usize,
}

#[derive(Clone, Debug)]
enum State {
    /// Searching for the blank line; no line end between `scanned` and the buffer's end.
    Head {
        scanned: usize,
    },
    Length(usize),
    Chunked(Chunked),
    UntilClose,
    /// `framed`: the end was known from the message itself.
    Done {
        framed: bool,
    },
    Failed(ProtocolError),
}

impl ResponseReader {
    /// For the answer to any request but `HEAD` and `CONNECT`.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tunnel: false,
            started: false,
            interim_count: 0,
            interim_bytes: 0,
            state: State::Head { scanned: 0 },
            head: None,
            keep_alive: false,
            body_end: 0,
        }
    }

    /// For a proxy's answer to `CONNECT`: a 2xx ends with its head, whatever framing fields it
    /// has (RFC 9112 section 6.3), and what follows belongs to the tunnel.
    pub fn for_connect(limits: Limits) -> Self {
        Self {
            tunnel: true,
            ..Self::new(limits)
        }
    }

    /// Takes in what a read appended. `buffer` holds every byte of this exchange so far, minus
    /// what the reader removed: interim heads and chunk framing are taken out in place, so head
    /// and decoded body are contiguous.
    ///
    /// # Errors
    /// The bytes break HTTP/1.1 or a cap: the connection must be dropped.
    pub fn advance(&mut self, buffer: &mut Vec<u8>) -> Result<Progress, ProtocolError> {
        self.started |= !buffer.is_empty();
        let progress = self.step(buffer);
        if let Err(error) = &progress {
            self.state = State::Failed(error.clone());
        }
        progress
    }

    /// Takes in that the peer closed. Never asks for more; a response that ended before, or that
    /// only a close can end, is done, and not reusable.
    ///
    /// # Errors
    /// As [`ResponseReader::advance`], and a close within the message.
    pub fn finish(&mut self, buffer: &mut Vec<u8>) -> Result<Progress, ProtocolError> {
        self.advance(buffer)?;
        self.keep_alive = false;
        let received = self.body_end - self.head.as_ref().map_or(0, |head| head.span.end);
        let error = match &self.state {
            State::UntilClose => {
                self.state = State::Done { framed: false };
                return Ok(self.done(buffer.len()));
            }
            State::Done { .. } => return Ok(self.done(buffer.len())),
            State::Head { .. } if !self.started => ProtocolError::ClosedBeforeHead,
            State::Head { .. } => ProtocolError::ClosedInHead,
            State::Length(length) => ProtocolError::ClosedInBody {
                received,
                expected: *length,
            },
            State::Chunked(_) => ProtocolError::ClosedInChunks { received },
            State::Failed(error) => error.clone(),
        };
        self.state = State::Failed(error.clone());
        Err(error)
    }

    /// Whether any byte of an answer has been seen, be it of an interim head. A reused connection
    /// that closes before that was stale, and the request may go out again.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Where the body decoded so far is in the buffer, once the head is complete.
    pub fn body_so_far(&self) -> Option<Range<usize>> {
        self.head.as_ref().map(|head| head.span.end..self.body_end)
    }

    /// The response as far as it has come, once its head is complete, for a caller who needs no more of it.
    pub fn so_far(&self) -> Option<Response> {
        let head = self.head.as_ref()?;
        Some(Response {
            status: head.status,
            head: head.span.clone(),
            body: head.span.end..self.body_end,
            reusable: false,
            signals: head.signals,
        })
    }

    /// The final head, once it is complete.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    fn step(&mut self, buffer: &mut Vec<u8>) -> Result<Progress, ProtocolError> {
        while let State::Head { scanned } = self.state {
            let Some(end) = self.search_head_end(buffer, scanned)? else {
                return Ok(Progress::NeedMore {
                    reserve: MIN_RESERVE,
                });
            };
            self.take_head(buffer, end)?;
        }
        self.step_body(buffer)
    }

    /// The end of the head at the buffer's start, if it is complete. Looks at every byte once,
    /// however slowly they drip in.
    fn search_head_end(
        &mut self,
        buffer: &[u8],
        scanned: usize,
    ) -> Result<Option<usize>, ProtocolError> {
        let start = &buffer[..buffer.len().min(STATUS_LINE_START.len())];
        if !STATUS_LINE_START.starts_with(start) {
            return Err(ProtocolError::NotHttp {
                start: excerpt(buffer),
            });
        }
        let room = self.limits.head_bytes - self.interim_bytes;
        let searched = &buffer[..buffer.len().min(room)];
        for line_feed in LineFeeds::new(searched, scanned) {
            let line = &searched[..line_feed];
            if !line.ends_with(b"\r") {
                return Err(ProtocolError::BareLineFeed);
            }
            if line.ends_with(b"\r\n\r") {
                return Ok(Some(line_feed + 1));
            }
        }
        if buffer.len() > room {
            return Err(ProtocolError::HeadTooLarge {
                limit: self.limits.head_bytes,
            });
        }
        self.state = State::Head {
            scanned: searched.len(),
        };
        Ok(None)
    }

    /// Drops an interim head from the buffer, or turns to the body of the final one.
    fn take_head(&mut self, buffer: &mut Vec<u8>, end: usize) -> Result<(), ProtocolError> {
        let parsed = match head::parse(&buffer[..end]) {
            Err(ProtocolError::MalformedHead(_)) if head::unfold(&mut buffer[..end]) => {
                head::parse(&buffer[..end])?
            }
            parsed => parsed?,
        };
        if parsed.status < 200 {
            if parsed.status == 101 {
                return Err(ProtocolError::SwitchingProtocols);
            }
            self.interim_count += 1;
            if self.interim_count > MAX_INTERIM {
                return Err(ProtocolError::TooManyInterim { limit: MAX_INTERIM });
            }
            self.interim_bytes += end;
            buffer.drain(..end);
            self.state = State::Head { scanned: 0 };
            return Ok(());
        }
        self.keep_alive = parsed.keep_alive;
        self.body_end = end;
        self.head = Some(Head {
            status: parsed.status,
            span: 0..end,
            signals: parsed.signals,
        });
        self.state = match parsed.framing {
            _ if self.tunnel && parsed.status < 300 => State::Length(0),
            Framing::Length(length) if length > self.limits.body_bytes => {
                return Err(self.body_too_large());
            }
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunked::new(self.limits, end)),
            Framing::UntilClose => State::UntilClose,
        };
        Ok(())
    }

    fn step_body(&mut self, buffer: &mut Vec<u8>) -> Result<Progress, ProtocolError> {
        let body_start = self.head.as_ref().map_or(0, |head| head.span.end);
        let lacking = match &mut self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Done { .. } => 0,
            State::Length(length) => {
                let received = (*length).min(buffer.len() - body_start);
                self.body_end = body_start + received;
                let lacking = *length - received;
                if lacking == 0 {
                    self.state = State::Done { framed: true };
                }
                lacking
            }
            State::Chunked(chunked) => {
                let complete = chunked.advance(buffer, &mut self.body_end)?;
                // More chunks of a long body are likely: ask for as much again as came so far.
                let lacking = chunked.lacking().max(self.body_end - body_start);
                if complete {
                    self.state = State::Done { framed: true };
                }
                lacking
            }
            State::UntilClose => {
                self.body_end = buffer.len();
                if self.body_end - body_start > self.limits.body_bytes {
                    return Err(self.body_too_large());
                }
                self.body_end - body_start
            }
            State::Head { .. } => unreachable!("step_body follows a complete head"),
        };
        if matches!(self.state, State::Done { .. }) {
            return Ok(self.done(buffer.len()));
        }
        // One more than lacks, so that a read which completes the body also shows a byte too many.
        let reserve = lacking.saturating_add(1).clamp(MIN_RESERVE, MAX_RESERVE);
        Ok(Progress::NeedMore { reserve })
    }

    fn done(&self, buffer_length: usize) -> Progress {
        let (State::Done { framed }, Some(head)) = (&self.state, &self.head) else {
            unreachable!("a response is done after its head and body");
        };
        Progress::Done(Response {
            status: head.status,
            head: head.span.clone(),
            body: head.span.end..self.body_end,
            reusable: *framed && self.keep_alive && buffer_length == self.body_end,
            signals: head.signals,
        })
    }

    fn body_too_large(&self) -> ProtocolError {
        ProtocolError::BodyTooLarge {
            limit: self.limits.body_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
