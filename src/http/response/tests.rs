//! Every case is read whole, cut in two at every byte, and byte by byte: always the same result.

use proptest::prelude::*;

use super::*;
use crate::http::{Headers, MAX_HEAD_BYTES};

mod refused;

const LIMITS: Limits = Limits {
    head_bytes: MAX_HEAD_BYTES,
    body_bytes: 1000,
};

/// A response with its bytes instead of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    head: String,
    body: String,
    reusable: bool,
    signals: Signals,
}

/// `None`: the response is not complete yet.
type Outcome = Result<Option<Seen>, ProtocolError>;

fn seen(progress: Result<Progress, ProtocolError>, buffer: &[u8]) -> Outcome {
    let text = |span: Range<usize>| buffer[span].escape_ascii().to_string();
    progress.map(|progress| match progress {
        Progress::NeedMore { .. } => None,
        Progress::Done(response) => Some(Seen {
            status: response.status,
            head: text(response.head),
            body: text(response.body),
            reusable: response.reusable,
            signals: response.signals,
        }),
    })
}

/// Feeds pieces until the response is done or wrong; leftover pieces still reach the buffer, as if
/// one read had brought them.
fn feed<'a>(
    reader: &mut ResponseReader,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    buffer: &mut Vec<u8>,
) -> Outcome {
    let mut outcome = Ok(None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let progress = reader.advance(buffer);
        if let Some(body) = reader.body_so_far() {
            assert!(
                body.start <= body.end && body.end <= buffer.len(),
                "{body:?}"
            );
        }
        if let Ok(Progress::NeedMore { reserve }) = progress {
            assert!((1..=MAX_RESERVE).contains(&reserve), "{reserve}");
        }
        outcome = seen(progress, buffer);
        if outcome.is_err() {
            break;
        }
    }
    outcome
}

fn read_in<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>, close: bool) -> Outcome {
    let mut reader = ResponseReader::new(limits);
    let mut buffer = Vec::new();
    let outcome = feed(&mut reader, pieces, &mut buffer)?;
    if !close {
        return Ok(outcome);
    }
    let progress = reader.finish(&mut buffer);
    seen(progress, &buffer)
}

/// All ways to cut `raw` must give what `agree` accepts.
fn every_split(limits: Limits, raw: &[u8], close: bool, agree: impl Fn(&Outcome) -> bool) {
    let shown = raw[..raw.len().min(200)].escape_ascii();
    let verify = |outcome: Outcome, how: &dyn std::fmt::Display| {
        assert!(agree(&outcome), "{shown} {how}: {outcome:?}");
    };
    verify(read_in(limits, [raw], close), &"whole");
    for cut in 0..=raw.len() {
        let (first, second) = raw.split_at(cut);
        verify(
            read_in(limits, [first, second], close),
            &format_args!("cut at {cut}"),
        );
    }
    verify(read_in(limits, raw.chunks(1), close), &"byte by byte");
}

const REUSABLE: bool = true;

/// Complete without a close.
fn check(raw: &str, status: u16, body: &str, reusable: bool) {
    every_split(LIMITS, raw.as_bytes(), false, |outcome| match outcome {
        Ok(Some(seen)) => {
            (seen.status, &*seen.body, seen.reusable) == (status, body, reusable)
                && seen.head.starts_with("HTTP/1.")
                && seen.head.ends_with("\\r\\n\\r\\n")
        }
        _ => false,
    });
}

/// Incomplete without a close, complete with it.
fn check_closed(raw: &str, status: u16, body: &str) {
    every_split(LIMITS, raw.as_bytes(), false, |outcome| {
        *outcome == Ok(None)
    });
    every_split(LIMITS, raw.as_bytes(), true, |outcome| match outcome {
        Ok(Some(seen)) => (seen.status, &*seen.body, seen.reusable) == (status, body, false),
        _ => false,
    });
}

fn check_error(raw: &str, expect: &ProtocolError) {
    every_split(LIMITS, raw.as_bytes(), false, |outcome| {
        outcome.as_ref() == Err(expect)
    });
}

/// For errors that quote the buffer: what is quoted depends on what has arrived.
fn check_message(raw: &[u8], expect: &str) {
    let message = read_in(LIMITS, [raw], false).map_err(|error| error.to_string());
    assert_eq!(message, Err(expect.to_owned()));
    every_split(LIMITS, raw, false, Result::is_err);
}

fn check_truncated(raw: &str, expect: &ProtocolError) {
    every_split(LIMITS, raw.as_bytes(), false, |outcome| {
        *outcome == Ok(None)
    });
    every_split(LIMITS, raw.as_bytes(), true, |outcome| {
        outcome.as_ref() == Err(expect)
    });
}

#[test]
fn a_body_of_known_length_ends_there() {
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        200,
        "{}",
        REUSABLE,
    );
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        200,
        "",
        REUSABLE,
    );
    check(
        "HTTP/1.1 429\r\nCONTENT-LENGTH:  2  \r\n\r\n{}",
        429,
        "{}",
        REUSABLE,
    );
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        200,
        "{}",
        REUSABLE,
    );
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\n{}",
        200,
        "{}",
        REUSABLE,
    );
    check(
        "HTTP/1.1 999 Odd\r\ncontent-length: 002\r\n\r\n{}",
        999,
        "{}",
        REUSABLE,
    );
    check(
        "HTTP/1.1 200 \u{e9}\r\nx: \u{e9}\r\ncontent-length: 2\r\n\r\n{}",
        200,
        "{}",
        REUSABLE,
    );
}

#[test]
fn a_status_without_a_body_ends_with_its_head() {
    check("HTTP/1.1 204 No Content\r\n\r\n", 204, "", REUSABLE);
    check(
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        304,
        "",
        REUSABLE,
    );
    check(
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n{}",
        204,
        "",
        !REUSABLE,
    );
    check(
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        204,
        "",
        REUSABLE,
    );
}

#[test]
fn the_peer_decides_whether_the_connection_lives_on() {
    let with = |version: &str, connection: &str| {
        format!("HTTP/{version} 200 OK\r\n{connection}content-length: 2\r\n\r\n{{}}")
    };
    check(&with("1.1", ""), 200, "{}", REUSABLE);
    check(
        &with("1.1", "connection: keep-alive\r\n"),
        200,
        "{}",
        REUSABLE,
    );
    check(&with("1.1", "connection: close\r\n"), 200, "{}", !REUSABLE);
    check(&with("1.1", "Connection: Close\r\n"), 200, "{}", !REUSABLE);
    check(
        &with("1.1", "connection: x-hop, close\r\n"),
        200,
        "{}",
        !REUSABLE,
    );
    check(
        &with("1.1", "connection: x\r\nconnection: close\r\n"),
        200,
        "{}",
        !REUSABLE,
    );
    check(
        &with("1.1", "connection: keep-alive, close\r\n"),
        200,
        "{}",
        !REUSABLE,
    );
    check(&with("1.1", "x-connection: close\r\n"), 200, "{}", REUSABLE);
    check(&with("1.0", ""), 200, "{}", !REUSABLE);
    check(
        &with("1.0", "connection: Keep-Alive\r\n"),
        200,
        "{}",
        REUSABLE,
    );
}

#[test]
fn bytes_after_the_response_spoil_only_the_connection() {
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".repeat(2);
    check(&twice, 200, "{}", !REUSABLE);
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}\n",
        200,
        "{}",
        !REUSABLE,
    );
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    check(&format!("{chunked}0\r\n\r\n"), 200, "{}", !REUSABLE);
}

#[test]
fn interim_responses_are_never_taken_for_the_final_one() {
    let last = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let early_hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nretry-after: 3\r\n\r\n";
    check(
        &format!("HTTP/1.1 100 Continue\r\n\r\n{last}"),
        200,
        "{}",
        REUSABLE,
    );
    check(
        &format!("{early_hints}HTTP/1.1 100 Continue\r\n\r\n{last}"),
        200,
        "{}",
        REUSABLE,
    );
    check(
        &format!("{}{last}", "HTTP/1.1 102 \r\n\r\n".repeat(MAX_INTERIM)),
        200,
        "{}",
        REUSABLE,
    );
    // Dropped from the buffer, and its fields do not count.
    let outcome = read_in(LIMITS, [format!("{early_hints}{last}").as_bytes()], false);
    let seen = outcome.unwrap().unwrap();
    assert_eq!(
        seen.head,
        "HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n"
    );
    assert_eq!(seen.signals, Signals::default());

    check_truncated(
        "HTTP/1.1 100 Continue\r\n\r\n",
        &ProtocolError::ClosedInHead,
    );
    check_error(
        &format!("{}{last}", "HTTP/1.1 102 \r\n\r\n".repeat(MAX_INTERIM + 1)),
        &ProtocolError::TooManyInterim { limit: MAX_INTERIM },
    );
    check_error(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
        &ProtocolError::SwitchingProtocols,
    );
}

#[test]
fn a_body_without_framing_ends_with_the_connection() {
    check_closed("HTTP/1.1 200 OK\r\n\r\n{}", 200, "{}");
    check_closed(
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n{}",
        200,
        "{}",
    );
    check_closed("HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n", 500, "");
}

fn chunked(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n{body}")
}

#[test]
fn chunks_are_joined_in_place() {
    check(&chunked("0\r\n\r\n"), 200, "", REUSABLE);
    check(&chunked("2\r\n{}\r\n0\r\n\r\n"), 200, "{}", REUSABLE);
    check(
        &chunked("1\r\n{\r\n0A\r\n\"k\": \"\\r\\n\r\n2\r\n\"}\r\n00\r\n\r\n"),
        200,
        "{\\\"k\\\": \\\"\\\\r\\\\n\\\"}",
        REUSABLE,
    );
    // Data that looks like framing.
    check(
        &chunked("9\r\n0\r\n\r\n0\r\n\r\r\n0\r\n\r\n"),
        200,
        "0\\r\\n\\r\\n0\\r\\n\\r",
        REUSABLE,
    );
    // Extensions and white space after the size; trailers, which are dropped.
    check(
        &chunked("2;a=b;c=\"d\"\r\n{}\r\n0 ;e\r\n\r\n"),
        200,
        "{}",
        REUSABLE,
    );
    check(&chunked("2  \r\n{}\r\n0\r\n\r\n"), 200, "{}", REUSABLE);
    check(
        &chunked("2\r\n{}\r\n0\r\nx-checksum: 1\r\nretry-after: 2\r\n\r\n"),
        200,
        "{}",
        REUSABLE,
    );
}

#[test]
fn a_dripping_head_is_searched_once() {
    let mut reader = ResponseReader::new(LIMITS);
    let mut buffer = Vec::new();
    for byte in b"HTTP/1.1 200 OK\r\na: b\r\nc: d" {
        buffer.push(*byte);
        reader.advance(&mut buffer).unwrap();
        assert!(matches!(reader.state, State::Head { scanned } if scanned == buffer.len()));
    }
}

#[test]
fn a_close_after_the_end_spoils_only_the_connection() {
    let raw = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    every_split(LIMITS, raw.as_bytes(), true, |outcome| match outcome {
        Ok(Some(seen)) => seen.body == "{}" && !seen.reusable,
        _ => false,
    });
}

#[test]
fn observers_see_the_head_and_the_body_grow() {
    let mut reader = ResponseReader::new(LIMITS);
    let mut buffer = Vec::new();
    let mut step = |piece: &str| {
        buffer.extend_from_slice(piece.as_bytes());
        reader.advance(&mut buffer).unwrap();
        let body = reader
            .body_so_far()
            .map(|body| String::from_utf8(buffer[body].to_vec()).unwrap());
        let content_type = reader.head().map(|head| {
            let headers = Headers::new(&buffer[head.span.clone()]);
            headers.get("content-type").map(<[u8]>::to_vec)
        });
        (reader.started(), content_type, body)
    };
    let event_stream = Some(Some(b"text/event-stream".to_vec()));
    let body = |text: &str| Some(text.to_owned());
    assert_eq!(step(""), (false, None, None));
    assert_eq!(step("HTTP/1.1 100 Continue\r\n\r\n"), (true, None, None));
    assert_eq!(
        step("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"),
        (true, None, None)
    );
    let rest_of_head = "transfer-encoding: chunked\r\n\r\n";
    assert_eq!(step(rest_of_head), (true, event_stream.clone(), body("")));
    assert_eq!(
        step("a\r\ndata"),
        (true, event_stream.clone(), body("data"))
    );
    assert_eq!(
        step(": 1\n\n\n\r"),
        (true, event_stream.clone(), body("data: 1\n\n\n"))
    );
    assert_eq!(
        step("\n1\r\nx\r\n0"),
        (true, event_stream.clone(), body("data: 1\n\n\nx"))
    );
    assert_eq!(
        step("\r\n\r\n"),
        (true, event_stream, body("data: 1\n\n\nx"))
    );
}

#[test]
fn the_room_asked_for_follows_what_lacks() {
    let reserve = |raw: String, body_bytes: usize| {
        let limits = Limits {
            head_bytes: MAX_HEAD_BYTES,
            body_bytes,
        };
        match ResponseReader::new(limits).advance(&mut raw.into_bytes()) {
            Ok(Progress::NeedMore { reserve }) => reserve,
            other => panic!("{other:?}"),
        }
    };
    let length = |length| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nx");
    assert_eq!(reserve(String::new(), 10), MIN_RESERVE);
    assert_eq!(reserve(length(10), 10), MIN_RESERVE);
    // One byte over would be seen by the same read.
    assert_eq!(reserve(length(10_001), 1 << 40), 10_001);
    assert_eq!(reserve(length(1 << 30), 1 << 40), MAX_RESERVE);
    assert_eq!(reserve(chunked("2711\r\nx"), 1 << 40), 10_001);
    let half = "x".repeat(20_000);
    assert_eq!(
        reserve(format!("HTTP/1.1 200 OK\r\n\r\n{half}"), 1 << 40),
        20_001
    );
}

#[test]
fn an_accepted_connect_ends_with_its_head() {
    let connect = |raw: &[u8]| {
        let mut buffer = raw.to_vec();
        let progress = ResponseReader::for_connect(LIMITS).advance(&mut buffer);
        seen(progress, &buffer)
            .unwrap()
            .map(|seen| (seen.status, seen.body))
    };
    let body = |text: &str| text.to_owned();
    assert_eq!(
        connect(b"HTTP/1.1 200 Connection established\r\n\r\n"),
        Some((200, body("")))
    );
    assert_eq!(
        connect(b"HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\n"),
        Some((200, body("")))
    );
    assert_eq!(
        connect(b"HTTP/1.1 407 No\r\ncontent-length: 9\r\n\r\n"),
        None
    );
    assert_eq!(
        connect(b"HTTP/1.1 407 No\r\ncontent-length: 2\r\n\r\nno"),
        Some((407, body("no")))
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(
        start in prop::sample::select(&[
            "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        ][..]),
        rest in prop::collection::vec(
            prop_oneof![prop::sample::select(&b"\r\n;: 0123f"[..]), any::<u8>()], 0..100),
        piece in 1..20usize,
    ) {
        let raw = [start.as_bytes(), &rest].concat();
        let whole = read_in(LIMITS, [&raw[..]], true);
        let pieces = read_in(LIMITS, raw.chunks(piece), true);
        // Only what an error quotes may depend on how much had arrived.
        if whole.is_ok() || pieces.is_ok() {
            prop_assert_eq!(whole, pieces);
        }
    }

    #[test]
    fn chunks_of_any_size_decode_to_the_body(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20),
        piece in 1..50usize,
    ) {
        let mut raw = chunked("").into_bytes();
        for chunk in &chunks {
            raw.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            raw.extend_from_slice(chunk);
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"0\r\n\r\n");
        let seen = read_in(LIMITS, raw.chunks(piece), false).unwrap().unwrap();
        prop_assert_eq!(seen.body, chunks.concat().escape_ascii().to_string());
        prop_assert!(seen.reusable);
    }
}
