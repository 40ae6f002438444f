//! Event streams.

use std::time::Instant;

use blaze_uring::http::sse::{Event, EventReader};
use blaze_uring::json;
use blaze_uring::provider::assemble::each_event;
use blaze_uring::provider::{ApiPath, StreamAssembler};

/// An event stream, assembled: JSON or an error, and the same however it is cut. Byte 0: API path;
/// byte 1: size of the pieces.
pub fn stream(data: &[u8]) {
    let [path, step, data @ ..] = data else {
        return;
    };
    const PATHS: [ApiPath; 6] = [
        ApiPath::ChatCompletions,
        ApiPath::Completions,
        ApiPath::Embeddings,
        ApiPath::Responses,
        ApiPath::Messages,
        ApiPath::Other,
    ];
    let path = PATHS[usize::from(*path) % PATHS.len()];
    let whole = assembled(path, data, data.len());
    for step in [usize::from(*step).max(1), 1] {
        assert_eq!(whole, assembled(path, data, step), "in pieces of {step}");
    }
    if let Some(body) = whole {
        assert!(json::validate(&body).is_ok(), "what is assembled is JSON");
    }
}

fn assembled(path: ApiPath, data: &[u8], step: usize) -> Option<Vec<u8>> {
    const BYTES_MAX: usize = 8 << 10;
    let now = Instant::now();
    let mut events = EventReader::new(BYTES_MAX);
    let mut assembler = StreamAssembler::new(path, BYTES_MAX);
    let mut broken = false;
    let mut on_event = |event: Event<'_>| {
        each_event(event.data, |data| {
            broken = broken
                || match event.bare {
                    true => assembler.feed_bare(data, now).is_err(),
                    false => assembler.feed(event.event, data, now).is_err(),
                };
        });
    };
    for chunk in data.chunks(step.max(1)) {
        events.feed(chunk, &mut on_event).ok()?;
    }
    events.finish(&mut on_event).ok()?;
    match broken {
        true => None,
        false => assembler.finish().ok(),
    }
}
