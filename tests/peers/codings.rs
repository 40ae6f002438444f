//! Content codings that nobody asked for, over HTTP/2: a server on the `h2` crate sends them in pieces.

use ::h2::server::Builder;
use ::http::Response;
use bytes::Bytes;

use crate::batch::{Batch, answer_to};
use crate::encoders::{brotli, gzip, zstd};
use crate::http2_server::{Act, start};
use crate::support::runtimes;

/// A coding, how it is made, and how many bytes of it go into one frame.
type Form = (&'static str, fn(&[u8]) -> Vec<u8>, usize);

const FORMS: [Form; 4] = [
    ("gzip", gzip, 7),
    ("br", brotli, 1),
    ("zstd", zstd, 1000),
    ("UTF-8", <[u8]>::to_vec, 11),
];

fn answer(stream: usize, body: &str) -> Act {
    let (coding, encode, piece) = FORMS[stream % FORMS.len()];
    let head = Response::builder().header("content-encoding", coding);
    let encoded = encode(body.as_bytes());
    let pieces = encoded.chunks(piece).map(Bytes::copy_from_slice).collect();
    Act::Answer(head.body(()).expect("a valid head"), pieces)
}

fn batch(runtime: &'static str, url: &str) -> Batch {
    let contents = FORMS.map(|(coding, ..)| coding.to_owned());
    let mut batch = Batch::chat(runtime, url, contents);
    batch.endpoint["http2"] = true.into();
    // One after the other: the streams come in the order of the lines.
    batch.with(&["--workers", "1"])
}

#[test]
fn answers_in_codings_are_read_over_http2() {
    for runtime in runtimes() {
        let (server, seen) = start(Builder::new(), None, |_, stream| {
            answer(stream, &answer_to(&format!("stream {stream}")))
        });
        let outcome = batch(runtime, &server.url("/v1/chat/completions")).run();
        for number in 1..=FORMS.len() as u64 {
            let id = format!("stream {}", number - 1);
            assert_eq!(outcome.answer(number)["id"], id, "{runtime}");
        }
        let heads = seen.heads.lock().expect("nobody panics");
        let asks = |head: &String| head.contains("accept-encoding: identity");
        assert!(heads.iter().all(asks), "{heads:?}");
        outcome.run.expect(0);
    }
}

#[test]
fn a_bomb_over_http2_is_too_large() {
    for runtime in runtimes() {
        let bomb = format!("{{\"pad\":\"{}\"}}", " ".repeat(3 << 20));
        let (server, _) = start(Builder::new(), None, move |_, stream| {
            let (coding, encode, _) = FORMS[stream % 3];
            let head = Response::builder().header("content-encoding", coding);
            let head = head.body(()).expect("a valid head");
            Act::Answer(head, vec![Bytes::from(encode(bomb.as_bytes()))])
        });
        let mut batch = batch(runtime, &server.url("/v1/chat/completions"));
        batch.lines.truncate(3);
        let outcome = batch.with(&["--max-response-bytes", "1MiB"]).run();
        for number in 1..=3 {
            assert_eq!(outcome.failure(number).0, "too_large", "{runtime}");
        }
        outcome.run.expect(3);
    }
}
