//! Answers that break HTTP, bend it, or only look as if they did.

use std::time::Duration;

use blaze_uring::mock::Scripted;

use crate::batch::{Batch, answer_to, content};
use crate::support::{runtimes, scripted};

/// What a line must end in.
enum Expect {
    /// Its own answer.
    Answer,
    /// A failure of this kind, whose message holds this.
    Failure(&'static str, &'static str),
}
use Expect::{Answer, Failure};

struct Case {
    name: &'static str,
    /// `BODY` stands for the line's answer, `LENGTH` for its length.
    bytes: String,
    close: bool,
    expect: Expect,
}

fn case(name: &'static str, bytes: impl Into<String>, expect: Expect) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        close: false,
        expect,
    }
}

/// The same, and the server closes after it.
fn closing(name: &'static str, bytes: impl Into<String>, expect: Expect) -> Case {
    Case {
        close: true,
        ..case(name, bytes, expect)
    }
}

/// Every answer that is played as bytes.
fn cases() -> Vec<Case> {
    let ok = |headers: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}");
    let length = "content-length: LENGTH\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let chunks = "HEX\r\nBODY\r\n0\r\n\r\n";
    let protocol = |text| Failure("protocol", text);
    vec![
        case("plain", ok(length, "BODY"), Answer),
        case("lengths that agree", ok(&length.repeat(2), "BODY"), Answer),
        case(
            "lengths in one field",
            ok("content-length: LENGTH, LENGTH\r\n", "BODY"),
            Answer,
        ),
        case(
            "lengths that differ",
            ok(&format!("{length}content-length: 7\r\n"), "BODY"),
            protocol("conflicting content-length"),
        ),
        case(
            "differing lengths in one field",
            ok("content-length: LENGTH, 7\r\n", "BODY"),
            protocol("content-length"),
        ),
        case(
            "negative length",
            ok("content-length: -1\r\n", "BODY"),
            protocol("invalid content-length"),
        ),
        case(
            "signed length",
            ok("content-length: +LENGTH\r\n", "BODY"),
            protocol("invalid content-length"),
        ),
        case(
            "length in hexadecimal",
            ok("content-length: 0x10\r\n", "BODY"),
            protocol("invalid content-length"),
        ),
        case(
            "huge length",
            ok("content-length: 99999999999999999999999\r\n", "BODY"),
            protocol("invalid content-length"),
        ),
        case(
            "empty length",
            ok("content-length:\r\n", "BODY"),
            protocol("invalid content-length"),
        ),
        case(
            "both framings",
            ok(&format!("{length}{chunked}"), chunks),
            protocol("both transfer-encoding and content-length"),
        ),
        case(
            "both framings, the other way",
            ok(&format!("{chunked}{length}"), "BODY"),
            protocol("both transfer-encoding and content-length"),
        ),
        case(
            "gzip and chunked",
            ok("transfer-encoding: gzip, chunked\r\n", chunks),
            protocol("unsupported transfer-encoding"),
        ),
        case(
            "identity",
            ok("transfer-encoding: identity\r\n", "BODY"),
            protocol("unsupported transfer-encoding"),
        ),
        case("chunked", ok(chunked, chunks), Answer),
        case(
            "chunked with trailers",
            ok(
                chunked,
                "HEX;name=value\r\nBODY\r\n0\r\nx-checksum: 1\r\nx-more: 2\r\n\r\n",
            ),
            Answer,
        ),
        case(
            "chunk size of letters",
            ok(chunked, "zz\r\nBODY\r\n0\r\n\r\n"),
            protocol("invalid chunk size"),
        ),
        case(
            "chunk size with a sign",
            ok(chunked, "-1\r\nBODY\r\n0\r\n\r\n"),
            protocol("invalid chunk size"),
        ),
        case(
            "chunk size beyond 64 bits",
            ok(chunked, "fffffffffffffffff\r\nBODY\r\n0\r\n\r\n"),
            protocol("invalid chunk size"),
        ),
        case(
            "chunk longer than its size",
            ok(chunked, "3\r\nBODY\r\n0\r\n\r\n"),
            protocol("chunk"),
        ),
        case(
            "trailer that is none",
            ok(chunked, "HEX\r\nBODY\r\n0\r\nno colon\r\n\r\n"),
            protocol("trailer"),
        ),
        closing(
            "truncated chunks",
            ok(chunked, "HEX\r\nBODY\r\n"),
            protocol("before the last chunk"),
        ),
        closing(
            "chunk cut short",
            ok(chunked, "ffff\r\nBODY"),
            protocol("before the last chunk"),
        ),
        closing("body to the close", ok("", "BODY"), Answer),
        closing(
            "HTTP/1.0 to the close",
            "HTTP/1.0 200 OK\r\n\r\nBODY",
            Answer,
        ),
        closing(
            "HTTP/1.0 with a length",
            "HTTP/1.0 200 OK\r\ncontent-length: LENGTH\r\n\r\nBODY",
            Answer,
        ),
        case(
            "HTTP/1.0 kept alive",
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: LENGTH\r\n\r\nBODY",
            Answer,
        ),
        closing(
            "HTTP/1.0 in chunks",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\nHEX\r\nBODY\r\n0\r\n\r\n",
            protocol("transfer-encoding"),
        ),
        closing(
            "connection: close",
            ok(&format!("{length}connection: close\r\n"), "BODY"),
            Answer,
        ),
        case(
            "bytes after the response",
            ok(
                length,
                "BODYHTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"id\":\"evil\"}",
            ),
            Answer,
        ),
        case(
            "line ends after the response",
            ok(length, "BODY\r\n\r\n"),
            Answer,
        ),
        case(
            "bytes after the last chunk",
            ok(
                chunked,
                "HEX\r\nBODY\r\n0\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            ),
            Answer,
        ),
        case(
            "interim answers first",
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nx: y\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{}",
                ok(length, "BODY")
            ),
            Answer,
        ),
        case(
            "endless interim answers",
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(5000),
            protocol("interim"),
        ),
        case(
            "another protocol",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            protocol("101"),
        ),
        case(
            "identity encoding",
            ok(&format!("{length}content-encoding: identity\r\n"), "BODY"),
            Answer,
        ),
        case(
            "names in any case",
            "HTTP/1.1 200 OK\r\ncOnTeNt-lEnGtH: LENGTH\r\n\r\nBODY",
            Answer,
        ),
        case(
            "chunked with a capital",
            ok("Transfer-Encoding: Chunked\r\n", chunks),
            Answer,
        ),
        case(
            "chunked twice",
            ok("transfer-encoding: chunked, chunked\r\n", chunks),
            Answer,
        ),
        case(
            "chunked in two fields",
            ok(&chunked.repeat(2), chunks),
            Answer,
        ),
        case(
            "chunked in two fields, one with a capital",
            ok(&format!("{chunked}Transfer-Encoding: Chunked\r\n"), chunks),
            Answer,
        ),
        case(
            "chunked, and another coding in a second field",
            ok(&format!("{chunked}transfer-encoding: gzip\r\n"), chunks),
            protocol("transfer-encoding"),
        ),
        case(
            "chunk size with 0x",
            ok(chunked, "0xHEX\r\nBODY\r\n0\r\n\r\n"),
            protocol("invalid chunk size"),
        ),
        case(
            "chunk without a size",
            ok(chunked, "\r\nBODY\r\n0\r\n\r\n"),
            protocol("invalid chunk size"),
        ),
        case(
            "space before a colon",
            "HTTP/1.1 200 OK\r\ncontent-length : LENGTH\r\n\r\nBODY",
            protocol("malformed"),
        ),
        case(
            "a folded header",
            ok("x-folded: a\r\n b\r\ncontent-length: LENGTH\r\n", "BODY"),
            Answer,
        ),
        case(
            "a length on a folded line, one of several",
            ok(
                "x: a\r\n\t\r\n  b\r\ncontent-length:\r\n LENGTH\r\n",
                "BODY",
            ),
            Answer,
        ),
        case(
            "chunked on a folded line",
            ok("transfer-encoding:\r\n\tchunked\r\n", chunks),
            Answer,
        ),
        case(
            "a folded length that conflicts",
            ok("content-length: 3,\r\n LENGTH\r\n", "BODY"),
            protocol("content-length"),
        ),
        case(
            "white space before the first header",
            ok(" x: a\r\ncontent-length: LENGTH\r\n", "BODY"),
            protocol("malformed"),
        ),
        case(
            "a folded trailer",
            ok(chunked, "HEX\r\nBODY\r\n0\r\nx-sum: a\r\n\tb\r\n\r\n"),
            Answer,
        ),
        case(
            "a NUL in a header",
            ok("x-nul: a\0b\r\ncontent-length: LENGTH\r\n", "BODY"),
            protocol("malformed"),
        ),
        case(
            "a reason of spaces",
            "HTTP/1.1 200   \r\ncontent-length: LENGTH\r\n\r\nBODY",
            Answer,
        ),
        case(
            "no reason",
            "HTTP/1.1 200\r\ncontent-length: LENGTH\r\n\r\nBODY",
            Answer,
        ),
        case(
            "a thousand headers",
            ok(&"x: y\r\n".repeat(1000), "BODY"),
            protocol("header fields"),
        ),
        case(
            "304",
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            Failure("redirect", "HTTP 304"),
        ),
        case(
            "garbage",
            "\0\x01\x02garbage\r\n\r\n",
            protocol("not HTTP/1.1"),
        ),
        case(
            "TLS on a plain port",
            "\x15\x03\x01\0\x02\x02F",
            Failure("tls", "speaks TLS, not plain HTTP"),
        ),
        case("SSH", "SSH-2.0-OpenSSH_9.2p1\r\n", protocol("not HTTP/1.1")),
        case(
            "HTTP/2",
            "HTTP/2 200\r\ncontent-length: LENGTH\r\n\r\nBODY",
            protocol("not HTTP/1.1"),
        ),
        case(
            "status of letters",
            "HTTP/1.1 OK\r\ncontent-length: LENGTH\r\n\r\nBODY",
            protocol(""),
        ),
        case(
            "header without a colon",
            ok("nonsense\r\ncontent-length: LENGTH\r\n", "BODY"),
            protocol("malformed"),
        ),
        case(
            "a head beyond its cap",
            ok(&format!("x-long: {}\r\n", "y".repeat(100_000)), ""),
            protocol("larger than"),
        ),
        case(
            "a head that never ends",
            ok(&"x-line: y\r\n".repeat(20_000), ""),
            protocol("head"),
        ),
        case(
            "204",
            "HTTP/1.1 204 No Content\r\n\r\n",
            Failure("not_json", "HTTP 204: the body is empty"),
        ),
        case(
            "empty body",
            ok("content-length: 0\r\n", ""),
            Failure("not_json", "HTTP 200: the body is empty"),
        ),
        case(
            "HTML",
            ok("content-length: 13\r\n", "<html></html>"),
            Failure("not_json", "HTTP 200: the body is not JSON"),
        ),
        case(
            "two values",
            ok("content-length: 5\r\n", "{} {}"),
            Failure("not_json", "not JSON"),
        ),
        case(
            "NULs",
            ok("content-length: 9\r\n", "{\"a\":\"\0\"}"),
            Failure("not_json", "not JSON"),
        ),
        case(
            "only NULs",
            ok("content-length: 4\r\n", "\0\0\0\0"),
            Failure("not_json", "not JSON"),
        ),
        case(
            "said to be compressed",
            ok(&format!("{length}content-encoding: gzip\r\n"), "BODY"),
            Answer,
        ),
        case(
            "said to be compressed twice",
            ok(&format!("{length}Content-Encoding: br, zstd\r\n"), "BODY"),
            Answer,
        ),
        case(
            "a compressed failure",
            "HTTP/1.1 400 No\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x0b\x08",
            Failure("bad_request", "HTTP 400"),
        ),
        closing("HTTP/0.9", "BODY\r\n", protocol("not HTTP/1.1")),
        case(
            "a NUL in the status line",
            "HTTP/1.1 200 O\0K\r\ncontent-length: LENGTH\r\n\r\nBODY",
            protocol("not HTTP/1.1"),
        ),
        case(
            "a bare line feed in the head",
            "HTTP/1.1 200 OK\ncontent-length: LENGTH\n\nBODY",
            protocol("bare line feed"),
        ),
        case(
            "letters beyond ASCII in a value",
            ok(
                "x-name: \u{e9}\u{1f980}\r\ncontent-length: LENGTH\r\n",
                "BODY",
            ),
            Answer,
        ),
        case(
            "letters beyond ASCII in a name",
            ok("x-\u{e9}: y\r\ncontent-length: LENGTH\r\n", "BODY"),
            protocol("malformed"),
        ),
        closing(
            "204 with a body",
            "HTTP/1.1 204 No Content\r\ncontent-length: LENGTH\r\n\r\nBODY",
            Failure("not_json", "HTTP 204: the body is empty"),
        ),
        case(
            "an interim answer with a length",
            format!(
                "HTTP/1.1 103 X\r\ncontent-length: 5\r\n\r\n{}",
                ok(length, "BODY")
            ),
            Answer,
        ),
        case(
            "400",
            "HTTP/1.1 400 No\r\ncontent-length: 6\r\n\r\na\0b\"c\n",
            Failure("bad_request", "HTTP 400"),
        ),
        case(
            "status 999",
            "HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\n{}",
            Failure("protocol", "HTTP 999"),
        ),
    ]
}

fn played(case: &Case, content: &str) -> Scripted {
    let body = answer_to(content);
    let bytes = case
        .bytes
        .replace("LENGTH", &body.len().to_string())
        .replace("HEX", &format!("{:x}", body.len()))
        .replace("BODY", &body);
    let played = Scripted::raw(bytes);
    if case.close {
        played.then_close()
    } else {
        played
    }
}

#[test]
fn every_answer_ends_in_the_record_it_deserves() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let content = content(&request.body);
            let cases = cases();
            let case = cases.iter().find(|case| case.name == content);
            Some(match case {
                Some(case) => played(case, &content),
                None => Scripted::json(200, answer_to(&content)),
            })
        });
        // One after the other, so that each case is followed by a line that could meet its remains.
        let cases = cases();
        let contents = cases
            .iter()
            .flat_map(|case| [case.name.to_owned(), format!("after {}", case.name)]);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let outcome = batch.with(&["--workers", "1"]).run();
        for (index, case) in (0_u64..).zip(&cases) {
            let number = 2 * index + 1;
            match case.expect {
                Answer => assert_eq!(outcome.answer(number)["id"], case.name, "{runtime}"),
                Failure(kind, text) => {
                    let failure = outcome.failure(number);
                    assert!(
                        failure.0 == kind && failure.1.contains(text),
                        "{runtime}, {}: {failure:?}",
                        case.name
                    );
                }
            }
            let after = format!("after {}", case.name);
            assert_eq!(outcome.answer(number + 1)["id"], *after, "{runtime}");
            assert_eq!(outcome.attempts(number + 1), 1, "{runtime}, {after}");
        }
        outcome.run.expect(3);
    }
}

#[test]
fn bodies_of_failures_are_kept_readable() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let head = "HTTP/1.1 STATUS X\r\ncontent-length: 7\r\n\r\n";
            let (status, body): (_, &[u8]) = match content(&request.body).as_str() {
                "400" => ("400", b"a\0\xff\xfe\"\n\\"),
                "200" => ("200", b"{\"\xff\":1}"),
                _ => ("400", b"{\"a\":1}"),
            };
            let head = head.replace("STATUS", status);
            Some(Scripted::raw([head.as_bytes(), body].concat()))
        });
        let contents = ["400", "200", "json"].map(str::to_owned);
        let outcome = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents).run();
        let record = &outcome.failures[&1];
        assert_eq!(
            record["response_text"], "a\0\u{fffd}\u{fffd}\"\n\\",
            "{runtime}"
        );
        assert_eq!(outcome.failure(2).0, "not_json", "{runtime}");
        assert_eq!(outcome.failures[&3]["response"]["a"], 1, "{runtime}");
        outcome.run.expect(3);
    }
}

/// Answers of 70 MB to a client that takes 64 MiB, announced, in chunks, and to the close.
#[test]
fn a_body_beyond_the_cap_is_too_large() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 70;
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let content = content(&request.body);
            let (head, open, close) = match content.as_str() {
                "length" => (format!("content-length: {}\r\n", PIECE * PIECES), "", ""),
                "chunks" => (
                    "transfer-encoding: chunked\r\n".to_owned(),
                    "100000\r\n",
                    "\r\n",
                ),
                "close" => (String::new(), "", ""),
                _ => return Some(Scripted::json(200, answer_to(&content))),
            };
            let mut scripted = Scripted::raw(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
            for _ in 0..PIECES {
                let piece = format!("{open}{}{close}", " ".repeat(PIECE));
                scripted = scripted.then(Duration::ZERO, piece);
            }
            Some(scripted.then_close())
        });
        let contents = ["length", "1", "chunks", "2", "close", "3"].map(str::to_owned);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let outcome = batch.with(&["--workers", "1", "--max-attempts", "3"]).run();
        for number in [1, 3, 5] {
            assert_eq!(outcome.failure(number).0, "too_large", "{runtime}");
            assert_eq!(
                outcome.attempts(number),
                1,
                "{runtime}: it would be too large again"
            );
            assert!(outcome.answers.contains_key(&(number + 1)), "{runtime}");
        }
        outcome.run.expect(3);
    }
}
