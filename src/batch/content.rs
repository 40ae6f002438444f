//! The body of an answer as its server meant it: content codings undone, no byte order mark, UTF-8. Pure.

use std::borrow::Cow;

use crate::http::coding::{self, CodingError};
use crate::http::{Headers, Response, sse};
use crate::json;

/// See the module.
pub struct Content<'a> {
    /// Where it could not be decoded, the bytes as they came.
    pub body: Cow<'a, [u8]>,
    /// Why it could not be decoded. No fault if the body is readable all the same: some servers put a
    /// charset among the codings, or name one that somebody on the way has undone.
    pub fault: Option<CodingError>,
}

impl<'a> Content<'a> {
    /// The body of `response`, which lies in `reply`; decoded to at most `bytes_max` bytes.
    #[inline]
    pub fn of(response: &Response, reply: &'a [u8], bytes_max: usize) -> Self {
        let body = &reply[response.body.clone()];
        match body {
            // As nearly every answer is. In UTF-16 a zero stands beside the brace.
            [b'{', second, ..] if *second != 0 && !response.signals.content_encoded() => Self {
                body: Cow::Borrowed(body),
                fault: None,
            },
            _ => Self::of_unusual(response, reply, bytes_max),
        }
    }

    #[cold]
    fn of_unusual(response: &Response, reply: &'a [u8], bytes_max: usize) -> Self {
        let body = &reply[response.body.clone()];
        let head = Headers::new(&reply[response.head.clone()]);
        let codings = head.iter().filter_map(|(name, value)| {
            name.eq_ignore_ascii_case("content-encoding")
                .then_some(value)
        });
        let (body, fault) = match coding::decode(codings, body, bytes_max) {
            Ok(None) => (Cow::Borrowed(body), None),
            Ok(Some(decoded)) => (Cow::Owned(decoded), None),
            Err(fault) => (Cow::Borrowed(body), Some(fault)),
        };
        let body = match body {
            Cow::Borrowed(body) => in_utf8(body),
            Cow::Owned(body) => Cow::Owned(in_utf8(&body).into_owned()),
        };
        let fault = fault.filter(|_| !is_readable(&body));
        Self { body, fault }
    }
}

/// What is to be read as it is, whatever its head says.
fn is_readable(body: &[u8]) -> bool {
    json::validate(body).is_ok() || sse::is_stream(body) == Some(true)
}

/// `body` without a byte order mark; in UTF-8, if it is JSON in UTF-16.
fn in_utf8(body: &[u8]) -> Cow<'_, [u8]> {
    let (text, unit): (_, fn([u8; 2]) -> u16) = match body {
        [0xff, 0xfe, text @ ..] => (text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => (text, u16::from_be_bytes),
        // JSON begins with ASCII (RFC 4627, section 3).
        [first, 0, ..] if *first != 0 => (body, u16::from_le_bytes),
        [0, first, ..] if *first != 0 => (body, u16::from_be_bytes),
        _ => return Cow::Borrowed(json::without_mark(body)),
    };
    let units = text.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units)
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    match json::validate(text.as_bytes()) {
        Ok(_) => Cow::Owned(text.into_bytes()),
        Err(_) => Cow::Borrowed(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Limits, MAX_HEAD_BYTES, Progress, ResponseReader};

    /// The body that comes of these fields and bytes, and whether there is a fault.
    fn read(fields: &str, body: &[u8]) -> (Vec<u8>, bool) {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {length}\r\n\r\n");
        let mut reply = [head.as_bytes(), body].concat();
        let limits = Limits {
            head_bytes: MAX_HEAD_BYTES,
            body_bytes: 1 << 20,
        };
        let Ok(Progress::Done(response)) = ResponseReader::new(limits).advance(&mut reply) else {
            panic!("the reply is whole");
        };
        let content = Content::of(&response, &reply, 1 << 20);
        (content.body.into_owned(), content.fault.is_some())
    }

    #[test]
    fn text_is_read_in_the_forms_that_servers_give_it() {
        let check = |body: &[u8], expect: &[u8]| {
            assert_eq!(
                read("", body),
                (expect.to_vec(), false),
                "{}",
                body.escape_ascii()
            );
        };
        let json = "{\"a\":\"\u{e9}\u{1f600}\"}";
        let expect = json.as_bytes();
        let units = || json.encode_utf16();
        let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
        check(expect, expect);
        check(&[b"\xef\xbb\xbf", expect].concat(), expect);
        check(&[b"\xff\xfe", &*little].concat(), expect);
        check(&[b"\xfe\xff", &*big].concat(), expect);
        check(&little, expect);
        check(&big, expect);
        // What is no JSON in UTF-16 either stays as it came.
        check(b"\xff\xfe<\0", b"\xff\xfe<\0");
        check(b"{\0", b"{\0");
        check(b"\0\0", b"\0\0");
        check(b"", b"");
        check(b"{", b"{");
        check(b" [1]", b" [1]");
    }

    #[test]
    fn a_coding_is_a_fault_only_where_the_body_is_unreadable() {
        let json = br#"{"a":1}"#;
        let events = b"data: {}\n\n";
        for coding in [
            "UTF-8",
            "none",
            "gzip",
            "br",
            "zstd",
            "deflate",
            "gzip, utf-8",
            "compress",
        ] {
            let field = format!("Content-Encoding: {coding}\r\n");
            assert_eq!(read(&field, json), (json.to_vec(), false), "{coding}");
            assert_eq!(read(&field, events), (events.to_vec(), false), "{coding}");
            let noise = b"\x00\x01\x02\x03";
            assert_eq!(read(&field, noise), (noise.to_vec(), true), "{coding}");
        }
        let mark = [b"\xef\xbb\xbf", &json[..]].concat();
        assert_eq!(
            read("content-encoding: utf-8\r\n", &mark),
            (json.to_vec(), false)
        );
        assert_eq!(
            read("content-encoding: identity\r\n", json),
            (json.to_vec(), false)
        );
    }
}
