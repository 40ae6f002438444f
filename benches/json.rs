//! What finding spans, splicing a body and writing a record cost, beside the libraries that could do
//! parts of it. `cargo bench --bench json`

use blaze_uring::batch::line::Parsed;
use blaze_uring::batch::record::{RecordFormat, Success, write_success};
use blaze_uring::config::body_rules::{BodyRules, InputShape};
use blaze_uring::json;
use divan::{Bencher, black_box, counter::BytesCount};
use serde_json::value::RawValue;

/// A typical line of an OpenAI batch file: 388 bytes.
const LINE: &[u8] = br#"{"custom_id":"request-000123","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a helpful assistant that answers in one short paragraph."},{"role":"user","content":"Tell me something about the history of JSON, please, and say \"when\" it was first used in a web browser today"}],"temperature":0.7,"max_tokens":256}}"#;

/// A typical chat completion.
const RESPONSE: &[u8] = br#"{"id":"chatcmpl-9aBcDeFgHiJkLmNoPqRsTuVwXyZ","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"JSON was specified by Douglas Crockford in the early 2000s. It grew out of a need for stateless, real-time server-to-browser communication.\nIt is \"simple\" and now used nearly everywhere.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":23,"completion_tokens":47,"total_tokens":70,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}},"system_fingerprint":"fp_0123456789"}"#;

fn main() {
    divan::main();
}

#[divan::bench]
fn line_validate(bencher: Bencher<'_, '_>) {
    bencher
        .counter(BytesCount::of_slice(LINE))
        .bench(|| json::validate(black_box(LINE)));
}

#[divan::bench]
fn line_parse(bencher: Bencher<'_, '_>) {
    let mut parsed = Parsed::default();
    bencher
        .counter(BytesCount::of_slice(LINE))
        .bench_local(|| parsed.parse(black_box(LINE)));
}

#[divan::bench]
fn line_serde_json_raw_value(bencher: Bencher<'_, '_>) {
    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "only parsing is measured")]
    struct Line<'a> {
        #[serde(borrow)]
        custom_id: &'a RawValue,
        #[serde(borrow)]
        url: &'a RawValue,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    bencher
        .counter(BytesCount::of_slice(LINE))
        .bench(|| serde_json::from_slice::<Line<'_>>(black_box(LINE)).is_ok());
}

/// The copy belongs to the price: simd-json unescapes in place.
#[divan::bench]
fn line_simd_json_tape(bencher: Bencher<'_, '_>) {
    let mut buffers = simd_json::Buffers::new(LINE.len());
    let mut copy = Vec::with_capacity(LINE.len());
    bencher.counter(BytesCount::of_slice(LINE)).bench_local(|| {
        copy.clear();
        copy.extend_from_slice(black_box(LINE));
        simd_json::to_tape_with_buffers(&mut copy, &mut buffers).is_ok()
    });
}

#[divan::bench]
fn body_splice(bencher: Bencher<'_, '_>) {
    let mut parsed = Parsed::default();
    parsed.parse(LINE).expect("the line above is a request");
    let rules = BodyRules {
        input_as: InputShape::Messages,
        model: Some("gpt-4o"),
        override_model: true,
        temperature: None,
        max_tokens: None,
    };
    let mut out = Vec::with_capacity(1024);
    bencher.bench_local(|| {
        out.clear();
        parsed.write_body(black_box(LINE), &rules, &mut out);
    });
}

#[divan::bench]
fn response_compact(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(4096);
    bencher
        .counter(BytesCount::of_slice(RESPONSE))
        .bench_local(|| {
            out.clear();
            json::compact(black_box(RESPONSE), &mut out, &mut json::Deaf)
        });
}

#[divan::bench(args = [RecordFormat::Blaze, RecordFormat::OpenAi])]
fn record_success(bencher: Bencher<'_, '_>, format: RecordFormat) {
    let mut parsed = Parsed::default();
    parsed.parse(LINE).expect("the line above is a request");
    let success = Success {
        line: LINE,
        parsed: &parsed,
        response: RESPONSE,
        endpoint: "primary",
        latency_ms: 234,
        ttft_ms: None,
        attempts: 1,
        status: 200,
        line_number: 12,
        request_id: Some("req_0123456789abcdef"),
    };
    let mut out = Vec::with_capacity(4096);
    bencher
        .counter(BytesCount::of_slice(RESPONSE))
        .bench_local(|| {
            out.clear();
            write_success(format, black_box(&success), &|_, _| None, &mut out)
        });
}
