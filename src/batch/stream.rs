//! A streamed answer, read as it arrives and put together into the JSON that the same request
//! would have returned without streaming.
//!
//! What a stream is, its bytes say: the answer to a request for one may be plain JSON, and events come
//! under any content type, also where nobody asked for them.

use std::time::Instant;

use crate::client::Wanted;
use crate::error::ErrorKind;
use crate::http::sse::{self, Event, EventReader, SseError};
use crate::json;
use crate::metrics::tokens::Tokens;
use crate::provider::ApiPath;
use crate::provider::assemble::{StreamAssembler, StreamError, each_event};
use crate::runtime;

/// Room for the entries of an answer that is assembled from a body in memory, whose size is bounded.
const ENTRIES_BYTES: usize = 64 << 10;

/// One streamed answer.
pub struct StreamReply {
    nature: Nature,
    events: EventReader,
    assembler: StreamAssembler,
    broken: Option<StreamError>,
}

/// What the body is.
enum Nature {
    /// These first bytes leave it open.
    Open(Vec<u8>),
    Events,
    /// Something else, plain JSON for example.
    Plain,
}

/// Why a stream gave no response, and what it cost all the same.
pub struct Broken {
    /// What went wrong.
    pub error: StreamError,
    /// What it had used by then, as far as it said.
    pub tokens: Tokens,
    /// Some of the answer had come.
    pub begun: bool,
}

/// What became of a stream.
pub struct Assembled {
    /// The JSON of the whole answer.
    pub body: Vec<u8>,
    /// When the first token came.
    pub first_token_at: Option<Instant>,
}

impl StreamReply {
    /// A stream of at most `bytes_max` bytes from the API at `path`.
    pub fn new(path: ApiPath, bytes_max: usize) -> Self {
        Self {
            nature: Nature::Open(Vec::new()),
            events: EventReader::new(bytes_max),
            assembler: StreamAssembler::new(path, bytes_max),
            broken: None,
        }
    }

    /// The stream that `body` is as a whole, which was read at `now`.
    pub fn of(path: ApiPath, body: &[u8], now: Instant) -> Box<Self> {
        // What is assembled from it is no larger, but for what an entry costs.
        let mut stream = Box::new(Self::new(path, body.len() + ENTRIES_BYTES));
        stream.feed(body, now);
        stream
    }

    /// Takes bytes of the body as they arrive.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        self.feed_watched(bytes, now, |_| {});
    }

    /// [`Self::feed`]; `on_event` sees the data of each event that is a part of the answer.
    pub fn feed_watched(&mut self, bytes: &[u8], now: Instant, on_event: impl FnMut(&str)) {
        match &mut self.nature {
            Nature::Plain => {}
            Nature::Events => self.read(bytes, now, on_event),
            Nature::Open(start) => {
                start.extend_from_slice(bytes);
                match sse::is_stream(start) {
                    // White space that keeps the connection alive may come for minutes.
                    None => _ = start.drain(..start.len() - sse::unpadded(start).len()),
                    Some(false) => self.nature = Nature::Plain,
                    Some(true) => {
                        let start = std::mem::take(start);
                        self.nature = Nature::Events;
                        self.read(&start, now, on_event);
                    }
                }
            }
        }
    }

    /// The body has ended in order: its last event counts although nothing ends it.
    pub fn end(&mut self, now: Instant, on_event: impl FnMut(&str)) {
        if matches!(self.nature, Nature::Events) && self.broken.is_none() {
            self.step(now, on_event, |events, on_event| events.finish(on_event));
        }
    }

    fn read(&mut self, bytes: &[u8], now: Instant, on_event: impl FnMut(&str)) {
        if self.broken.is_none() {
            self.step(now, on_event, |events, on_event| {
                events.feed(bytes, on_event)
            });
        }
    }

    /// Assembles the events that `read` hands out.
    fn step(
        &mut self,
        now: Instant,
        mut on_event: impl FnMut(&str),
        read: impl FnOnce(&mut EventReader, &mut dyn FnMut(Event<'_>)) -> Result<(), SseError>,
    ) {
        let Self {
            events,
            assembler,
            broken,
            ..
        } = self;
        let fed = read(events, &mut |event| {
            each_event(event.data, |data| {
                if broken.is_some() {
                    return;
                }
                let taken = match event.bare {
                    true => assembler.feed_bare(data, now),
                    false => assembler.feed(event.event, data, now),
                };
                match taken {
                    Ok(true) => on_event(data),
                    Ok(false) => {}
                    Err(error) => *broken = Some(error),
                }
            });
        });
        if let Err(error) = fed {
            broken.get_or_insert_with(|| StreamError {
                kind: match error {
                    SseError::EventTooLarge { .. } => ErrorKind::TooLarge,
                },
                message: error.to_string(),
                said: None,
            });
        }
    }

    /// Nothing more is wanted of a stream that has said that it is complete, or why it is none.
    pub fn wanted(&self) -> Wanted {
        match self.broken.is_some() || self.assembler.is_done() {
            true => Wanted::Enough,
            false => Wanted::More,
        }
    }

    /// Whether the body is a stream of events, by what came of it so far.
    pub fn is_events(&self) -> bool {
        matches!(self.nature, Nature::Events)
    }

    /// The tokens that a stream which did not come to its end said it had used.
    pub fn used(self) -> Tokens {
        self.assembler.usage_so_far().unwrap_or_default()
    }

    /// The stream has ended; an error says how it broke.
    pub fn finish(mut self) -> Result<Assembled, Broken> {
        self.end(runtime::now(), |_| {});
        let cut_short = || self.assembler.cut_short();
        if let Some(error) = self.broken.clone().or_else(cut_short) {
            return Err(Broken {
                error,
                begun: self.assembler.first_token_at().is_some(),
                tokens: self.used(),
            });
        }
        let first_token_at = self.assembler.first_token_at();
        let body = self.assembler.finish().map_err(|error| Broken {
            error,
            begun: first_token_at.is_some(),
            tokens: Tokens::default(),
        })?;
        Ok(Assembled {
            body,
            first_token_at,
        })
    }
}

/// The answer that `body` is a stream of, if it is one. `expected`: the request asked for a stream, or the
/// server says that it sends one.
pub fn read_whole(body: &[u8], expected: bool) -> Option<Result<Assembled, Broken>> {
    let is_stream = sse::is_stream(body);
    let is_json = || json::validate(json::trim(body)).is_ok();
    let is_bare = expected && is_stream == Some(false) && !is_json();
    // Events that are bare JSON, or stand behind what the standard ignores.
    if is_stream != Some(true) && !is_bare && !(expected && is_stream.is_none()) {
        return None;
    }
    let mut reply = StreamReply::new(ApiPath::Other, body.len() + ENTRIES_BYTES);
    reply.nature = Nature::Events;
    reply.read(body, runtime::now(), |_| {});
    let read = reply.finish().map(|assembled| Assembled {
        // It came at once.
        first_token_at: None,
        ..assembled
    });
    // What holds no event is no stream, but a body of another kind.
    Some(read).filter(|read| !is_bare || read.is_ok())
}

#[cfg(test)]
mod tests;
