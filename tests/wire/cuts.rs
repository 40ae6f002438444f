//! Connections that end at every byte of an answer.

use std::collections::HashMap;
use std::sync::Mutex;

use blaze_uring::mock::Scripted;

use crate::batch::{Batch, answer_to, content};
use crate::support::{runtimes, scripted};

/// A whole answer, head and body.
fn whole(content: &str) -> Vec<u8> {
    let body = answer_to(content);
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req-{content}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The same in chunks.
fn chunked(content: &str) -> Vec<u8> {
    let body = answer_to(content);
    let (first, second) = body.split_at(body.len() / 2);
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:X};x=y\r\n{second}\r\n0\r\nx-trailer: 1\r\n\r\n",
        first.len(),
        second.len()
    )
    .into_bytes()
}

/// Contents are of one length, so that every answer is.
fn bad(offset: usize) -> String {
    format!("cut{offset:04}")
}

fn good(offset: usize) -> String {
    format!("all{offset:04}")
}

fn offset_of(content: &str) -> Option<usize> {
    content.strip_prefix("cut")?.parse().ok()
}

fn cut(bytes: &[u8], offset: usize, reset: bool) -> Scripted {
    let cut = Scripted::raw(&bytes[..offset]);
    if reset {
        cut.then_reset()
    } else {
        cut.then_close()
    }
}

fn every_cut_is_one_typed_failure(answer: fn(&str) -> Vec<u8>, reset: bool) {
    let length = answer(&bad(0)).len();
    for runtime in runtimes() {
        let mock = scripted(move |request| {
            let content = content(&request.body);
            let bytes = answer(&content);
            Some(match offset_of(&content) {
                Some(offset) => cut(&bytes, offset, reset),
                None => Scripted::raw(bytes),
            })
        });
        let contents = (0..length).flat_map(|offset| [bad(offset), good(offset)]);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let outcome = batch.with(&["--workers", "2"]).run();
        for offset in 0..length {
            let number = 2 * offset as u64 + 1;
            let expect = if offset == 0 { "connect" } else { "protocol" };
            let (kind, message) = outcome.failure(number);
            assert_eq!(kind, expect, "{runtime}, cut at {offset}: {message}");
            assert_eq!(outcome.answer(number + 1)["id"], *good(offset), "{runtime}");
            assert_eq!(outcome.attempts(number + 1), 1, "{runtime}, after {offset}");
        }
        outcome.run.expect(3);
    }
}

fn every_cut_is_retried(answer: fn(&str) -> Vec<u8>, reset: bool) {
    let length = answer(&bad(0)).len();
    for runtime in runtimes() {
        let seen = Mutex::new(HashMap::<String, u32>::new());
        let mock = scripted(move |request| {
            let content = content(&request.body);
            let bytes = answer(&content);
            let mut seen = seen.lock().expect("no script panics");
            let times = seen.entry(content.clone()).or_default();
            *times += 1;
            Some(match offset_of(&content) {
                Some(offset) if *times == 1 => cut(&bytes, offset, reset),
                _ => Scripted::raw(bytes),
            })
        });
        let contents = (0..length).flat_map(|offset| [bad(offset), good(offset)]);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let outcome = batch.with(&["--max-attempts", "3", "--workers", "2"]).run();
        for offset in 0..length {
            let number = 2 * offset as u64 + 1;
            assert_eq!(outcome.answer(number)["id"], *bad(offset), "{runtime}");
            assert_eq!(outcome.answer(number + 1)["id"], *good(offset), "{runtime}");
            // Without a byte of an answer a reused connection passes for stale, and costs nothing.
            let attempts = outcome.attempts(number);
            assert!(
                attempts == 2 || offset == 0,
                "{runtime}, {offset}: {attempts}"
            );
        }
        outcome.run.expect(0);
    }
}

#[test]
fn a_close_at_every_byte() {
    every_cut_is_one_typed_failure(whole, false);
    every_cut_is_retried(whole, false);
}

#[test]
fn a_reset_at_every_byte() {
    every_cut_is_one_typed_failure(whole, true);
    every_cut_is_retried(whole, true);
}

#[test]
fn chunks_cut_at_every_byte() {
    every_cut_is_one_typed_failure(chunked, false);
    every_cut_is_retried(chunked, true);
}
