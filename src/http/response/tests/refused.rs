//! What must not be taken for a response.

use super::*;

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
        "chunked, gzip",
        "",
        ",",
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
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        &encoding,
    );
}

#[test]
fn malformed_heads_are_errors() {
    use httparse::Error::{HeaderName, HeaderValue};
    check_error(
        "HTTP/1.1 200 OK\r\n folded: at once\r\na: b\r\n\r\n",
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
