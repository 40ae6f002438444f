//! A streamed answer, read as it arrives and put together into the JSON that the same request
//! would have returned without streaming (SPEC section 5).

use std::time::Instant;

use crate::error::ErrorKind;
use crate::http::sse::{EventReader, SseError};
use crate::metrics::tokens::Tokens;
use crate::provider::ApiPath;
use crate::provider::assemble::{StreamAssembler, StreamError};

/// One streamed answer.
pub struct StreamReply {
    events: EventReader,
    assembler: StreamAssembler,
    broken: Option<StreamError>,
}

/// Why a stream gave no response, and what it cost all the same.
pub struct Broken {
    /// What went wrong.
    pub error: StreamError,
    /// What it had used by then, as far as it said.
    pub tokens: Tokens,
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
            events: EventReader::new(bytes_max),
            assembler: StreamAssembler::new(path, bytes_max),
            broken: None,
        }
    }

    /// Takes bytes of the body as they arrive.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        self.feed_watched(bytes, now, |_| {});
    }

    /// [`Self::feed`]; `on_event` sees the data of each event that was understood.
    pub fn feed_watched(&mut self, bytes: &[u8], now: Instant, mut on_event: impl FnMut(&str)) {
        if self.broken.is_some() {
            return;
        }
        let Self {
            events,
            assembler,
            broken,
        } = self;
        let fed = events.feed(bytes, |event| {
            if broken.is_some() {
                return;
            }
            match assembler.feed(event.event, event.data, now) {
                Ok(()) => on_event(event.data),
                Err(error) => *broken = Some(error),
            }
        });
        if let Err(error) = fed {
            broken.get_or_insert_with(|| StreamError {
                kind: match error {
                    SseError::EventTooLarge { .. } => ErrorKind::TooLarge,
                },
                message: error.to_string(),
            });
        }
    }

    /// The tokens that a stream which did not come to its end said it had used.
    pub fn used(self) -> Tokens {
        self.assembler.usage_so_far().unwrap_or_default()
    }

    /// The stream has ended; an error says how it broke.
    pub fn finish(self) -> Result<Assembled, Broken> {
        let cut_short = || self.assembler.cut_short();
        if let Some(error) = self.broken.clone().or_else(cut_short) {
            return Err(Broken {
                error,
                tokens: self.used(),
            });
        }
        let first_token_at = self.assembler.first_token_at();
        let body = self.assembler.finish().map_err(|error| Broken {
            error,
            tokens: Tokens::default(),
        })?;
        Ok(Assembled {
            body,
            first_token_at,
        })
    }
}
