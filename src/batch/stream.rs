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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    /// A stream of each API, as servers write it: names, comments, pings, data of several lines,
    /// characters of several bytes. Beside it what the same request would have returned.
    const STREAMS: [(ApiPath, &str, &str); 4] = [
        (
            ApiPath::ChatCompletions,
            concat!(
                ": keep-alive\n\n",
                r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"Grü"}}]}"#,
                "\n\ndata:{\"id\":\"c\",\ndata:",
                r#""choices":[{"index":0,"delta":{"content":"ß 😀"}}]}"#,
                "\nid: 7\nretry: 10\n\n",
                r#"data: {"choices":[],"usage":{"total_tokens":3}}"#,
                "\n\ndata: [DONE]\n\n",
            ),
            r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Grüß 😀"},"logprobs":null,"finish_reason":null}],"usage":{"total_tokens":3},"object":"chat.completion"}"#,
        ),
        (
            ApiPath::Completions,
            concat!(
                r#"data: {"choices":[{"index":0,"text":"a"}]}"#,
                "\n\n:\n\n",
                r#"data: {"choices":[{"index":0,"text":"b"}]}"#,
                "\n\ndata: [DONE]\n\n",
            ),
            r#"{"choices":[{"index":0,"text":"ab","logprobs":null,"finish_reason":null}],"object":"text_completion"}"#,
        ),
        (
            ApiPath::Responses,
            concat!(
                "event: response.output_text.delta\n",
                r#"data: {"type":"response.output_text.delta","delta":"é"}"#,
                "\n\nevent: response.completed\n",
                r#"data: {"type":"response.completed","response":{"id":"r","output":["é"]}}"#,
                "\n\n",
            ),
            r#"{"id":"r","output":["é"]}"#,
        ),
        (
            ApiPath::Messages,
            concat!(
                "event: message_start\n",
                r#"data: {"type":"message_start","message":{"id":"m","content":[]}}"#,
                "\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\nevent: content_block_start\n",
                r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","input":{}}}"#,
                "\n\nevent: content_block_delta\n",
                r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
                "\n\nevent: content_block_delta\n",
                r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"1}"}}"#,
                "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
            r#"{"id":"m","content":[{"type":"tool_use","input":{"a":1}}]}"#,
        ),
    ];

    fn assembled<'a>(path: ApiPath, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut reply = StreamReply::new(path, 1 << 20);
        for piece in pieces {
            reply.feed(piece, runtime::now());
        }
        let assembled = reply.finish();
        let assembled = assembled.unwrap_or_else(|broken| panic!("{path:?}: {}", broken.error));
        assert!(assembled.first_token_at.is_some(), "{path:?}");
        String::from_utf8(assembled.body).expect("JSON is UTF-8")
    }

    #[test]
    fn every_split_of_the_bytes_gives_the_same_answer() {
        for (path, stream, expect) in STREAMS {
            for line_end in ["\n", "\r\n", "\r"] {
                let stream = stream.replace('\n', line_end);
                let bytes = stream.as_bytes();
                for cut in 0..=bytes.len() {
                    let (first, second) = bytes.split_at(cut);
                    let whole = assembled(path, [first, second]);
                    assert_eq!(whole, expect, "{path:?}, {line_end:?}, cut at {cut}");
                }
                assert_eq!(assembled(path, bytes.chunks(1)), expect, "{line_end:?}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_is_broken_wherever_it_is_cut() {
        for (path, stream, _) in STREAMS {
            // The blank line that ends the last event is the last thing that is needed.
            for cut in 0..stream.len() - 1 {
                let mut reply = StreamReply::new(path, 1 << 20);
                reply.feed(&stream.as_bytes()[..cut], runtime::now());
                assert!(reply.finish().is_err(), "{path:?}, cut at {cut}");
            }
        }
    }
}
