//! Every case is read whole, cut in two at every byte, and byte by byte: always the same result.

use proptest::prelude::*;

use super::*;
use crate::http::{Headers, MAX_HEAD_BYTES};

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
fn broken_chunks_are_errors() {
    let size = |line: &str| ProtocolError::InvalidChunkSize {
        line: line.to_owned(),
    };
    check_error(&chunked("\r\n"), &size(""));
    check_error(&chunked(";x\r\n"), &size(";x"));
    check_error(&chunked("g\r\n"), &size("g"));
    check_error(&chunked("-1\r\n"), &size("-1"));
    check_error(&chunked("+2\r\n{}\r\n0\r\n\r\n"), &size("+2"));
    check_error(&chunked("0x2\r\n"), &size("0x2"));
    check_error(&chunked(" 2\r\n"), &size(" 2"));
    check_error(&chunked("2 3\r\n"), &size("2 3"));
    check_error(&chunked("2;a\rb\r\n"), &size("2;a\\rb"));
    check_error(
        &chunked("10000000000000000\r\n"),
        &size("10000000000000000"),
    );
    check_error(&chunked("2\n{}\r\n"), &ProtocolError::BareLineFeed);
    check_error(&chunked("2;a\nb\r\n{}\r\n"), &ProtocolError::BareLineFeed);
    check_error(&chunked("2\r\n{}3\r\n"), &ProtocolError::ChunkOverrun);
    check_error(&chunked("2\r\n{}\n0\r\n"), &ProtocolError::ChunkOverrun);
    check_error(&chunked("2\r\n{}\rx0\r\n"), &ProtocolError::ChunkOverrun);
    let trailer = |line: &str| ProtocolError::InvalidTrailer {
        line: line.to_owned(),
    };
    check_error(
        &chunked("0\r\nHTTP/1.1 200 OK\r\n"),
        &trailer("HTTP/1.1 200 OK"),
    );
    check_error(&chunked("0\r\n folded: 1\r\n"), &trailer(" folded: 1"));
    check_error(&chunked("0\r\n\n"), &ProtocolError::BareLineFeed);

    let cap = ProtocolError::BodyTooLarge { limit: 1000 };
    check_error(&chunked("fffffffffffffff\r\n"), &cap);
    check_error(&chunked("3e9\r\n"), &cap);
    check_error(
        &chunked(&format!("3e8\r\n{}\r\n1\r\n", "x".repeat(1000))),
        &cap,
    );
}

#[test]
fn endless_framing_is_bounded() {
    let whole = |raw: String| {
        read_in(LIMITS, [raw.as_bytes()], false)
            .unwrap_err()
            .to_string()
    };
    let dripped = |raw: String| read_in(LIMITS, raw.as_bytes().chunks(7), false).unwrap_err();
    let long_line = chunked(&format!("2;{}", "x".repeat(2000)));
    assert!(whole(long_line.clone()).starts_with("invalid chunk size line \"2;xxx"));
    assert!(matches!(
        dripped(long_line),
        ProtocolError::InvalidChunkSize { .. }
    ));
    let extended = format!("1;{}\r\nx\r\n", "e".repeat(1000));
    assert_eq!(
        whole(chunked(&extended.repeat(20))),
        "more than 16384 bytes of chunk extensions"
    );
    let trailers = chunked(&format!(
        "0\r\n{}",
        "a: b\r\n".repeat(MAX_HEAD_BYTES / 6 + 1)
    ));
    assert_eq!(whole(trailers.clone()), "trailers larger than 65536 bytes");
    assert_eq!(
        dripped(trailers),
        ProtocolError::TrailersTooLarge {
            limit: MAX_HEAD_BYTES
        }
    );
    let one_trailer = chunked(&format!("0\r\na: {}", "b".repeat(MAX_HEAD_BYTES)));
    assert_eq!(
        dripped(one_trailer),
        ProtocolError::TrailersTooLarge {
            limit: MAX_HEAD_BYTES
        }
    );
}

#[test]
fn framing_that_two_readers_could_take_differently_is_an_error() {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    check_error(
        &head("content-length: 2\r\ntransfer-encoding: chunked"),
        &ProtocolError::LengthAndEncoding,
    );
    check_error(
        &head("content-length: 2\r\ncontent-length: 3"),
        &ProtocolError::ConflictingContentLength {
            first: 2,
            second: 3,
        },
    );
    check_error(
        &head("content-length: 2, 3"),
        &ProtocolError::ConflictingContentLength {
            first: 2,
            second: 3,
        },
    );
    for value in [
        "",
        "-1",
        "+2",
        "2 3",
        "0x2",
        "2,",
        ",2",
        "2;3",
        "99999999999999999999999999",
    ] {
        check_error(
            &head(&format!("content-length: {value}")),
            &ProtocolError::InvalidContentLength {
                value: value.to_owned(),
            },
        );
    }
    for value in [
        "gzip, chunked",
        "gzip",
        "identity",
        "chunked, chunked",
        "",
        "chunkedx",
    ] {
        check_error(
            &head(&format!("transfer-encoding: {value}")),
            &ProtocolError::TransferEncoding {
                value: value.to_owned(),
            },
        );
    }
    let encoding = ProtocolError::TransferEncoding {
        value: "chunked".to_owned(),
    };
    check_error(
        &head("transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
        &encoding,
    );
    check_error(
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        &encoding,
    );
}

#[test]
fn malformed_heads_are_errors() {
    use httparse::Error::{HeaderName, HeaderValue};
    check_error(
        "HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        &ProtocolError::MalformedHead(HeaderName),
    );
    check_error(
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        &ProtocolError::MalformedHead(HeaderName),
    );
    check_error(
        "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        &ProtocolError::MalformedHead(HeaderName),
    );
    check_error(
        "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        &ProtocolError::MalformedHead(HeaderName),
    );
    check_error(
        "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
        &ProtocolError::MalformedHead(HeaderValue),
    );
    check_error(
        "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
        &ProtocolError::MalformedHead(HeaderValue),
    );
    check_error(
        "HTTP/1.1 200 OK\na: b\r\n\r\n",
        &ProtocolError::BareLineFeed,
    );
    check_error(
        "HTTP/1.1 200 OK\r\na: b\n\r\n",
        &ProtocolError::BareLineFeed,
    );
    check_error(
        "HTTP/1.1 200 OK\r\na: b\r\n\n",
        &ProtocolError::BareLineFeed,
    );
    check_error(
        "HTTP/1.1 099 Low\r\n\r\n",
        &ProtocolError::InvalidStatus(99),
    );

    let not_http = |start: &str| format!("the answer is not HTTP/1.1, it starts with \"{start}\"");
    check_message(
        b"\x15\x03\x01\x00\x02\x02\x16",
        &not_http(r"\x15\x03\x01\x00\x02\x02\x16"),
    );
    check_message(b"HTTP/2 200\r\n\r\n", &not_http(r"HTTP/2 200\r\n\r\n"));
    check_message(b"HTTP/1.2 200\r\n\r\n", &not_http(r"HTTP/1.2 200\r\n\r\n"));
    check_message(
        b"HTTP/1.1 20 OK\r\n\r\n",
        &not_http(r"HTTP/1.1 20 OK\r\n\r\n"),
    );
    check_message(
        b"HTTP/1.1 2000 OK\r\n\r\n",
        &not_http(r"HTTP/1.1 2000 OK\r\n\r\n"),
    );
    check_message(
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        &not_http(r"\r\nHTTP/1.1 200 OK\r\n\r\n"),
    );
    check_message(
        &[b'x'; 50],
        &not_http(&format!("{}\u{2026}", "x".repeat(40))),
    );
}

#[test]
fn heads_are_bounded_together() {
    let limits = Limits {
        head_bytes: 100,
        body_bytes: 10,
    };
    let too_large = ProtocolError::HeadTooLarge { limit: 100 };
    let head = |length: usize| {
        let padding = length - "HTTP/1.1 204 No\r\na: \r\n\r\n".len();
        format!("HTTP/1.1 204 No\r\na: {}\r\n\r\n", "b".repeat(padding))
    };
    let fits = |raw: &str| {
        every_split(limits, raw.as_bytes(), false, |outcome| {
            matches!(outcome, Ok(Some(_)))
        });
    };
    let exceeds = |raw: &str| {
        every_split(limits, raw.as_bytes(), false, |outcome| {
            outcome.as_ref() == Err(&too_large)
        });
    };
    fits(&head(100));
    exceeds(&head(101));
    exceeds(&head(300));
    exceeds(&head(300)[..150]);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    fits(&format!("{interim}{}", head(100 - interim.len())));
    exceeds(&format!("{interim}{}", head(101 - interim.len())));
    exceeds(&interim.repeat(5));
}

#[test]
fn bodies_are_bounded_and_only_that_is_too_large() {
    let limits = Limits {
        head_bytes: 100,
        body_bytes: 10,
    };
    let error = ProtocolError::BodyTooLarge { limit: 10 };
    assert!(error.is_too_large());
    assert!(!ProtocolError::HeadTooLarge { limit: 100 }.is_too_large());
    let check = |raw: &str, fits: bool| {
        every_split(limits, raw.as_bytes(), false, |outcome| match outcome {
            Ok(_) => fits,
            Err(found) => !fits && *found == error,
        });
    };
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789",
        true,
    );
    check("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n", false);
    check("HTTP/1.1 200 OK\r\n\r\n0123456789", true);
    check("HTTP/1.1 200 OK\r\n\r\n0123456789x", false);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check(
        &format!("{chunked}5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"),
        true,
    );
    check(&format!("{chunked}5\r\n01234\r\n6\r\n"), false);
}

#[test]
fn a_response_cut_anywhere_is_never_done() {
    let truncated = |raw: &str, error_at: &dyn Fn(usize) -> ProtocolError| {
        for length in 0..raw.len() {
            let part = &raw.as_bytes()[..length];
            assert_eq!(
                read_in(LIMITS, [part], false),
                Ok(None),
                "{}",
                part.escape_ascii()
            );
            assert_eq!(read_in(LIMITS, [part], true), Err(error_at(length)));
            assert_eq!(read_in(LIMITS, part.chunks(1), true), Err(error_at(length)));
        }
    };
    let in_head = |length| match length {
        0 => ProtocolError::ClosedBeforeHead,
        _ => ProtocolError::ClosedInHead,
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    truncated(
        &format!("{head}{{\"a\":1}}"),
        &|length| match length.checked_sub(head.len()) {
            None => in_head(length),
            Some(received) => ProtocolError::ClosedInBody {
                received,
                expected: 7,
            },
        },
    );
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\nx: y\r\n\r\n";
    // Decoded bytes after so many raw ones.
    let decoded = |raw: usize| raw.saturating_sub(3).min(3) + raw.saturating_sub(11).min(4);
    truncated(
        &format!("{head}{body}"),
        &|length| match length.checked_sub(head.len()) {
            None => in_head(length),
            Some(raw) => ProtocolError::ClosedInChunks {
                received: decoded(raw),
            },
        },
    );
    let closed = ProtocolError::ClosedInBody {
        received: 2,
        expected: 7,
    };
    assert_eq!(
        closed.to_string(),
        "connection closed after 2 of 7 body bytes"
    );
}

#[test]
fn an_error_stays_an_error() {
    let mut reader = ResponseReader::new(LIMITS);
    let mut buffer = chunked("2\r\n{}x").into_bytes();
    assert_eq!(
        reader.advance(&mut buffer),
        Err(ProtocolError::ChunkOverrun)
    );
    buffer.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(
        reader.advance(&mut buffer),
        Err(ProtocolError::ChunkOverrun)
    );
    assert_eq!(reader.finish(&mut buffer), Err(ProtocolError::ChunkOverrun));

    let mut reader = ResponseReader::new(LIMITS);
    assert_eq!(
        reader.finish(&mut Vec::new()),
        Err(ProtocolError::ClosedBeforeHead)
    );
    let mut late = b"HTTP/1.1 204 No\r\n\r\n".to_vec();
    assert_eq!(
        reader.advance(&mut late),
        Err(ProtocolError::ClosedBeforeHead)
    );
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
