//! What the fuzzer calls, and `tests/corpus.rs` with the seeds: bytes in, and a panic if something
//! that must always hold does not.
//!
//! The first bytes of an input choose what a caller would choose (a format, an API path, the sizes
//! of the reads); the rest is what the world sends.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use blaze_uring::batch::line::Parsed;
use blaze_uring::batch::record::{self, Failure, RecordFormat, Success};
use blaze_uring::config::body_rules::{BodyRules, InputShape};
use blaze_uring::config::{Overrides, load};
use blaze_uring::error::ErrorKind;
use blaze_uring::http::sse::EventReader;
use blaze_uring::http::{Limits, Progress, ProtocolError, ResponseReader};
use blaze_uring::journal::{self, Outcome};
use blaze_uring::json;
use blaze_uring::provider::{ApiPath, StreamAssembler};

/// An entry function with its name, which is also that of its target and of its corpus.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry function.
pub const ENTRIES: [Entry; 5] = [
    ("line", line),
    ("response", response),
    ("stream", stream),
    ("journal", journal),
    ("config", config),
];

/// Caps small enough to be met.
const LIMITS: Limits = Limits {
    head_bytes: 4096,
    body_bytes: 16 << 10,
};

/// An input line → request body and records: always one JSON object, on one line. Byte 0: format and
/// shape of the wrapping. What follows the first newline is the server's answer.
pub fn line(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let (line, answer) = match memchr::memchr(b'\n', data) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b"{}"[..]),
    };
    let format = match choice & 1 {
        0 => RecordFormat::Blaze,
        _ => RecordFormat::OpenAi,
    };
    let mut parsed = Parsed::default();
    let is_request = parsed.parse(line).is_ok();
    if is_request {
        let rules = BodyRules {
            input_as: [InputShape::Messages, InputShape::Prompt, InputShape::Input]
                [usize::from(choice >> 1) % 3],
            model: (choice & 8 != 0).then_some("m\"\u{e9}"),
            override_model: choice & 16 != 0,
            temperature: (choice & 32 != 0).then_some(0.5),
            max_tokens: (choice & 64 != 0).then_some(("max_tokens", 7)),
        };
        let mut body = Vec::new();
        parsed.write_body(line, &rules, &mut body);
        assert_object(&body);
        let success = Success {
            line,
            parsed: &parsed,
            response: answer,
            endpoint: "primary",
            latency_ms: 1,
            ttft_ms: Some(1),
            attempts: 1,
            status: 200,
            line_number: 12,
            request_id: Some("req\"1"),
        };
        let mut out = b"before".to_vec();
        match record::write_success(format, &success, &|_, _| Some(0.25), &mut out) {
            Ok(_) => assert_record(&out[6..], format, Outcome::Success, line, Some(&parsed)),
            Err(_) => {
                assert_eq!(out, b"before", "an answer that is not JSON leaves no trace");
                assert!(json::validate(answer).is_err(), "JSON is never turned away");
            }
        }
    }
    let failure = Failure {
        line,
        parsed: is_request.then_some(&parsed),
        kind: ErrorKind::ServerError,
        message: "it \"failed\"\n",
        status: (choice & 128 != 0).then_some(500),
        attempts: 3,
        line_number: 12,
        body: Some(answer),
        request_id: None,
        endpoint: Some("primary"),
        billed: record::Billed::default(),
    };
    let mut out = Vec::new();
    record::write_failure(format, &failure, &mut out);
    assert_record(&out, format, Outcome::Failure, line, failure.parsed);
}

fn assert_object(text: &[u8]) {
    let kind = json::validate(text);
    let shown = String::from_utf8_lossy(text);
    assert_eq!(kind, Ok(json::Kind::Object), "{shown}");
    assert!(
        serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok() || is_deep(text),
        "another reader: {shown}"
    );
}

/// serde_json stops at 128 levels, which is its own bound.
fn is_deep(text: &[u8]) -> bool {
    text.iter().filter(|byte| b"[{".contains(byte)).count() > 120
}

fn assert_record(
    out: &[u8],
    format: RecordFormat,
    outcome: Outcome,
    line: &[u8],
    parsed: Option<&Parsed>,
) {
    assert_eq!(memchr::memchr(b'\n', out), Some(out.len() - 1), "one line");
    assert_object(&out[..out.len() - 1]);
    let mut beginning = Vec::new();
    record::write_beginning(format, outcome, line, parsed, 12, &mut beginning);
    assert!(out.starts_with(&beginning), "known again by its beginning");
}

/// Bytes of a connection in reads of any size: the answer is the same however they are cut. Byte 0:
/// size of the reads (0: all at once); byte 1: 1 for the answer to a `CONNECT`.
pub fn response(data: &[u8]) {
    let [step, kind, data @ ..] = data else {
        return;
    };
    let whole = answer(data, data.len(), *kind);
    let cut = answer(data, usize::from(*step).max(1), *kind);
    assert_eq!(whole.is_ok(), cut.is_ok(), "{whole:?} {cut:?}");
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert_eq!((whole.status, whole.body), (cut.status, cut.body));
    }
}

/// What a client has at the end.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn answer(data: &[u8], step: usize, kind: u8) -> Result<Answer, ProtocolError> {
    let mut reader = match kind {
        1 => ResponseReader::for_connect(LIMITS),
        _ => ResponseReader::new(LIMITS),
    };
    let mut buffer = Vec::new();
    for chunk in data.chunks(step.max(1)) {
        buffer.extend_from_slice(chunk);
        match reader.advance(&mut buffer) {
            Ok(Progress::Done(done)) => {
                return Ok(taken(&buffer, done.status, done.head, done.body));
            }
            Ok(Progress::NeedMore { .. }) => {
                let body = reader.body_so_far().unwrap_or_default();
                assert!(body.end <= buffer.len() && body.len() <= LIMITS.body_bytes);
            }
            Err(error) => {
                let again = reader.advance(&mut buffer);
                assert_eq!(again, Err(error.clone()), "an error stays");
                return Err(error);
            }
        }
    }
    match reader.finish(&mut buffer)? {
        Progress::Done(done) => {
            assert!(!done.reusable, "a closed connection is not used again");
            Ok(taken(&buffer, done.status, done.head, done.body))
        }
        Progress::NeedMore { .. } => panic!("a closed connection has no more"),
    }
}

fn taken(buffer: &[u8], status: u16, head: Range<usize>, body: Range<usize>) -> Answer {
    assert!((200..1000).contains(&status), "{status} is final");
    assert!(head.end <= body.start && body.end <= buffer.len());
    assert!(body.len() <= LIMITS.body_bytes);
    Answer {
        status,
        body: buffer[body].to_vec(),
    }
}

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
    let cut = assembled(path, data, usize::from(*step).max(1));
    assert_eq!(whole, cut);
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
    for chunk in data.chunks(step.max(1)) {
        let fed = events.feed(chunk, |event| {
            broken |= broken || assembler.feed(event.event, event.data, now).is_err();
        });
        if fed.is_err() || broken {
            return None;
        }
    }
    if events.finish() {
        return None;
    }
    assembler.finish().ok()
}

/// A journal → its intact part, which reads the same a second time; cut anywhere behind its mark it
/// still reads.
pub fn journal(data: &[u8]) {
    let Ok(replay) = journal::replay(data) else {
        return;
    };
    let entries: Vec<_> = replay.entries().collect();
    assert_eq!(entries.len() as u64, replay.len());
    assert!(replay.settled() <= replay.len());
    let Some(header) = replay.header() else {
        assert!(replay.is_empty());
        return;
    };
    for (index, entry) in (0..).zip(&entries) {
        assert_eq!(
            journal::entry_at(data, &header, index).as_ref(),
            Some(entry)
        );
        let at = journal::entry_offset(index) as usize;
        assert_eq!(
            entry.encode(&header, index),
            data[at..at + journal::ENTRY_BYTES]
        );
    }
    let kept = &data[..journal::entry_offset(replay.len()) as usize];
    let again = journal::replay(kept).expect("what is intact stays intact");
    assert_eq!((again.len(), again.torn()), (replay.len(), None));
}

/// A config file: a valid configuration or a message with the file's name. Byte 0: JSON, TOML, YAML.
pub fn config(data: &[u8]) {
    let Some((&format, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let name = ["blaze.json", "blaze.toml", "blaze.yaml"][usize::from(format) % 3];
    let env = |name: &str| (name == "KEY").then(|| "sk-very-secret".to_owned());
    match load(
        Some(Path::new(name)),
        Some(text.to_owned()),
        &Overrides::default(),
        &env,
    ) {
        Ok((config, _)) => {
            blaze_uring::config::validate(&config).expect("what is loaded is valid");
            assert!(
                !format!("{config:?}").contains("sk-very-secret"),
                "a secret shows"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
