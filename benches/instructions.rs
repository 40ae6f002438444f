//! The pure steps of one request, each run N times and nothing else: no threads, no clock, no sockets.
//! `scripts/instructions.sh` counts their instructions with callgrind and compares them with
//! `benches/instructions.txt`.
//!
//! `instructions STEP N` runs a step; without arguments every step once, so that `cargo bench` shows
//! that they work.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench makes its own files and reads its own arguments"
)]

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use blaze_uring::EndpointConfig;
use blaze_uring::batch::admission::{Admission, Admitted, FirstPermits, Opening};
use blaze_uring::batch::content::Content;
use blaze_uring::batch::encode::{Outgoing, RouteCache};
use blaze_uring::batch::input::Input;
use blaze_uring::batch::judgement::Judge;
use blaze_uring::batch::line::Parsed;
use blaze_uring::batch::message::Order;
use blaze_uring::batch::quotas::GroupLimits;
use blaze_uring::batch::record::{RecordFormat, Success, write_success};
use blaze_uring::http::{Limits, MAX_HEAD_BYTES, Progress, Response, ResponseReader};
use blaze_uring::journal::{Entry, Header, Outcome, Tokens};
use blaze_uring::provider::{ApiPath, Endpoint};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The line of `scripts/bench.sh`: 224 bytes.
const LINE: &[u8] = br#"{"model":"bench","messages":[{"role":"user","content":"Summarise the following paragraph in one sentence: the quick brown fox jumps over the lazy dog and then goes home to write about it at some length."}],"max_tokens":128}"#;
/// Lines of the file that is admitted; a range of them is 224 KiB.
const LINES: usize = 1000;

/// What a step is given, made before anything is counted.
struct Scene {
    endpoint: Endpoint,
    parsed: Parsed,
    reply: Vec<u8>,
    response: Response,
    input: Input,
}

fn limits() -> Limits {
    Limits {
        head_bytes: MAX_HEAD_BYTES,
        body_bytes: 1 << 20,
    }
}

fn decode(reply: &mut Vec<u8>) -> Response {
    match ResponseReader::new(limits()).advance(reply) {
        Ok(Progress::Done(response)) => response,
        other => panic!("the reply is whole: {other:?}"),
    }
}

impl Scene {
    fn new() -> Self {
        // A chat completion of 700 bytes, with the head that nginx gives it.
        let text = "x".repeat(459);
        let body = format!(
            "{{\"id\":\"chatcmpl-0001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":42,\"completion_tokens\":96,\"total_tokens\":138}}}}"
        );
        let mut reply = format!(
            "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 18:40:00 GMT\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
        let mut parsed = Parsed::default();
        parsed.parse(LINE).expect("the line is a request");
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        for _ in 0..LINES {
            file.write_all(LINE).expect("room for 224 KiB");
            file.write_all(b"\n").expect("room for 224 KiB");
        }
        Self {
            endpoint: Endpoint::resolve(&EndpointConfig {
                url: "http://localhost:8080/v1/chat/completions".to_owned(),
                model: Some("bench".to_owned()),
                ..Default::default()
            })
            .expect("a good endpoint"),
            parsed,
            response: decode(&mut reply),
            reply,
            // The file is mapped, so its name may go.
            input: Input::open(file.path()).expect("a readable file"),
        }
    }
}

/// A line of the input → leave to send it, its parsed form included.
fn admit(scene: &Scene, times: usize) {
    let now = Instant::now();
    let mut admission = Admission::new(Opening {
        shard: 0,
        started: now,
        weights: vec![1],
        groups: vec![0],
        limits: vec![GroupLimits::default()],
        permits: FirstPermits {
            workers: 256,
            groups: vec![256],
            endpoints: vec![256],
        },
        paced: false,
        done: None,
        max_line_bytes: 1 << 20,
        max_outage: Duration::from_secs(60),
        has_succeeded: true,
    });
    let ranges = scene.input.scan(1, 1 << 20).ranges;
    for _ in 0..times {
        let ticket = loop {
            match admission.admit(&scene.input, now) {
                Admitted::Go(ticket) => break ticket,
                Admitted::Wait(None) => admission.handle(Order::Range(ranges[0]), now),
                other => panic!("nothing else can come: {other:?}"),
            }
            admission.reports.clear();
        };
        admission.release(&black_box(ticket));
    }
}

/// The bytes of a line → its parsed form.
fn parse(_: &Scene, times: usize) {
    let mut parsed = Parsed::default();
    for _ in 0..times {
        black_box(parsed.parse(black_box(LINE))).expect("the line is a request");
    }
}

/// A parsed line → a whole request.
fn encode(scene: &Scene, times: usize) {
    let mut routes = RouteCache::new(1);
    let (mut body, mut request) = (Vec::new(), Vec::new());
    for _ in 0..times {
        routes.encode(
            &Outgoing {
                index: 0,
                endpoint: &scene.endpoint,
                parsed: black_box(&scene.parsed),
                line: LINE,
                token: None,
                max_tokens: None,
            },
            &mut body,
            &mut request,
        );
        black_box(&request);
    }
}

/// A received answer → its head and body.
fn decode_step(scene: &Scene, times: usize) {
    let mut reply = scene.reply.clone();
    for _ in 0..times {
        black_box(decode(black_box(&mut reply)));
    }
}

/// A decoded answer → what it means, and its record.
fn record(scene: &Scene, times: usize) {
    let mut out = Vec::new();
    for number in 0..times {
        out.clear();
        let reply = black_box(&scene.reply);
        let content = Content::of(&scene.response, reply, 1 << 20);
        let judge = Judge::new(&scene.endpoint, &scene.response, reply, &content, 0);
        let Ok(answer) = judge.answer(None) else {
            panic!("the answer is good")
        };
        let success = Success {
            line: LINE,
            parsed: &scene.parsed,
            response: &answer.body,
            endpoint: &scene.endpoint.name,
            latency_ms: 12,
            ttft_ms: None,
            attempts: 1,
            status: 200,
            line_number: number as u64,
            request_id: judge.request_id,
        };
        let written = write_success(
            RecordFormat::Blaze,
            black_box(&success),
            &|_, _| None,
            &mut out,
        )
        .expect("the answer is JSON");
        let no_answer = judge.no_answer(ApiPath::ChatCompletions, &answer, &written.glance);
        assert!(black_box(no_answer).is_none(), "the answer is one");
    }
}

/// A record → its checksum and its journal entry.
fn journal(scene: &Scene, times: usize) {
    let header = Header::new([7; 16], 1, 0);
    for index in 0..times as u64 {
        let entry = Entry {
            line_offset: index * 225,
            line_number: index,
            completed_us: 1_700_000_000_000_000,
            outcome: Some(Outcome::Success),
            position: index * 900,
            length: scene.reply.len() as u64,
            record_checksum: crc32fast::hash(black_box(&scene.reply)),
            attempts: 1,
            tokens: Tokens::default(),
            cost_nano_usd: 0,
        };
        black_box(entry.encode(&header, index));
    }
}

type Step = fn(&Scene, usize);

const STEPS: [(&str, Step); 6] = [
    ("parse", parse),
    ("admit", admit),
    ("encode", encode),
    ("decode", decode_step),
    ("record", record),
    ("journal", journal),
];

fn main() {
    // `cargo bench` adds an option of its own.
    let arguments: Vec<String> = (std::env::args().skip(1))
        .filter(|argument| argument != "--bench")
        .collect();
    let scene = Scene::new();
    match &arguments[..] {
        [] => STEPS.iter().for_each(|(_, step)| step(&scene, 1)),
        [name, times] => {
            let times = times.parse().expect("how many times");
            let step = STEPS.iter().find(|(known, _)| known == name);
            step.expect("a step's name").1(&scene, times);
        }
        _ => panic!("instructions [STEP N]"),
    }
}
