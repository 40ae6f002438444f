//! A response head: parsed once for its framing, kept as bytes for whoever wants a field. Pure.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::error::{ProtocolError, excerpt};

/// Most header fields of one head; real ones have 10 to 30.
pub const MAX_HEADERS: usize = 256;

/// Header slots tried first: enough for every real head, and only 2 KiB of stack.
const USUAL_HEADERS: usize = 64;

/// The final head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Its bytes in the exchange's buffer, from the status line through the blank line; a view
    /// for [`Headers::new`].
    pub span: Range<usize>,
    /// What the walk over the fields found.
    pub signals: Signals,
}

/// Which fields of interest a head has, so that in the common case nobody walks it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(u8);

impl Signals {
    const EVENT_STREAM: u8 = 1 << 0;
    const WAIT_HINT: u8 = 1 << 1;
    const REQUEST_ID: u8 = 1 << 2;
    const LOCATION: u8 = 1 << 3;
    const CONTENT_ENCODED: u8 = 1 << 4;

    /// `content-type` is `text/event-stream`.
    pub fn event_stream(self) -> bool {
        self.0 & Self::EVENT_STREAM != 0
    }

    /// Any of `retry-after`, `retry-after-ms`, `x-should-retry`, `ratelimit`, `<prefix>-ratelimit-*`,
    /// `<prefix>-rate-limit-*`, `ratelimit-*`, `ratelimitbysize-*`, `x-tokenlimit-*`, `llm_provider-*`.
    pub fn has_wait_hint(self) -> bool {
        self.0 & Self::WAIT_HINT != 0
    }

    /// A field named `request-id` or `<prefix>-request-id`.
    pub fn has_request_id(self) -> bool {
        self.0 & Self::REQUEST_ID != 0
    }

    /// `location`.
    pub fn location(self) -> bool {
        self.0 & Self::LOCATION != 0
    }

    /// A `content-encoding` other than `identity`, which nobody asked for.
    pub fn content_encoded(self) -> bool {
        self.0 & Self::CONTENT_ENCODED != 0
    }

    /// Takes one field into account.
    pub fn observe(&mut self, name: &str, value: &[u8]) {
        let is = |expected| is_named(name, expected);
        // The last letter tells most other fields apart, for less than a comparison.
        let last = name.bytes().last().map(|byte| byte.to_ascii_lowercase());
        self.0 |= match (name.len(), last.unwrap_or_default()) {
            (8, b'n') if is("location") => Self::LOCATION,
            (9, b't') if is("ratelimit") => Self::WAIT_HINT,
            (11, b'r') if is("retry-after") => Self::WAIT_HINT,
            (12, b'e') if is("content-type") => match is_event_stream(value) {
                true => Self::EVENT_STREAM,
                false => 0,
            },
            (14, b's') if is("retry-after-ms") => Self::WAIT_HINT,
            (14, b'y') if is("x-should-retry") => Self::WAIT_HINT,
            (16, b'g') if is("content-encoding") && is_encoding(value) => Self::CONTENT_ENCODED,
            // Shorter than every name below.
            (0..=9, _) => 0,
            (_, b'd') if ends_with(name, "request-id") => Self::REQUEST_ID,
            _ if is_rate_limit(name) => Self::WAIT_HINT,
            _ => 0,
        };
    }
}

/// Whether the name of a field is `expected`, which is in lower case. A name is a token (RFC 9110 section
/// 5.6.2): setting this bit makes its capitals small, and nothing else in it a letter or a dash. Without
/// a way out of the loop this is a vector comparison.
#[inline]
fn is_named(name: &str, expected: &str) -> bool {
    const SMALL: u8 = 0x20;
    let pairs = name.bytes().zip(expected.bytes());
    name.len() == expected.len()
        && pairs.fold(true, |same, (byte, small)| same & (byte | SMALL == small))
}

fn is_event_stream(content_type: &[u8]) -> bool {
    // Most answers are `application/json`.
    if !content_type
        .trim_ascii_start()
        .first()
        .is_some_and(|first| first.eq_ignore_ascii_case(&b't'))
    {
        return false;
    }
    let media_type = content_type
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or_default();
    media_type
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
}

fn is_encoding(content_encoding: &[u8]) -> bool {
    let coding = content_encoding.trim_ascii();
    !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
}

/// Vendors differ in the prefix and in the spelling.
fn is_rate_limit(name: &str) -> bool {
    // By bytes: the search for a character costs more than all the rest.
    let dash = name.bytes().position(|byte| byte == b'-');
    let suffix = dash.map_or("", |dash| &name[dash + 1..]);
    let may_be = |text: &str| matches!(text.as_bytes(), [b'r' | b'R', ..]);
    may_be(suffix) && (starts_with(suffix, "ratelimit-") || starts_with(suffix, "rate-limit-"))
        || may_be(name)
            && (starts_with(name, "ratelimit-") || starts_with(name, "ratelimitbysize-"))
        || matches!(suffix.as_bytes(), [b't' | b'T', ..]) && starts_with(name, "x-tokenlimit-")
        || matches!(name.as_bytes(), [b'l' | b'L', b'l' | b'L', ..])
            && starts_with(name, "llm_provider-")
}

/// A lazy view over the fields of a head's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// A view of the bytes at [`Head::span`].
    pub fn new(head: &'a [u8]) -> Self {
        Self(head)
    }

    /// The fields in order: the name as sent, the value without surrounding white space.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone + use<'a> {
        let lines = self.0.split(|&byte| byte == b'\n').skip(1);
        lines.filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            Some((name, line[colon + 1..].trim_ascii()))
        })
    }

    /// The first field of that name, in any case.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }
}

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// That many bytes.
    Length(usize),
    /// Chunks, the last of size 0.
    Chunked,
    /// Until the connection closes.
    UntilClose,
}

/// What one walk over a head's fields yields.
pub(super) struct Parsed {
    pub status: u16,
    pub framing: Framing,
    /// The sender keeps the connection open after this message.
    pub keep_alive: bool,
    pub signals: Signals,
}

/// Parses one complete head, blank line included.
pub(super) fn parse(head: &[u8]) -> Result<Parsed, ProtocolError> {
    match parse_with::<USUAL_HEADERS>(head) {
        Err(ProtocolError::TooManyHeaders { .. }) => parse_with::<MAX_HEADERS>(head),
        parsed => parsed,
    }
}

fn parse_with<const SLOTS: usize>(head: &[u8]) -> Result<Parsed, ProtocolError> {
    let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
    let mut response = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        head,
        &mut slots,
    ) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        // The caller found the blank line that ends the head: httparse must stop there too.
        Ok(_) => return Err(ProtocolError::MalformedHead(httparse::Error::NewLine)),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ProtocolError::TooManyHeaders { limit: MAX_HEADERS });
        }
        Err(httparse::Error::Version | httparse::Error::Status) => {
            return Err(ProtocolError::NotHttp {
                start: excerpt(head),
            });
        }
        Err(error) => return Err(ProtocolError::MalformedHead(error)),
    }
    let (Some(minor_version), Some(status)) = (response.version, response.code) else {
        return Err(ProtocolError::MalformedHead(httparse::Error::Status));
    };
    if status < 100 {
        return Err(ProtocolError::InvalidStatus(status));
    }
    let mut fields = FramingFields::default();
    let mut signals = Signals::default();
    for header in response.headers.iter() {
        if !fields.observe(header.name, header.value)? {
            signals.observe(header.name, header.value);
        }
    }
    Ok(Parsed {
        status,
        framing: fields.framing(status, minor_version)?,
        keep_alive: !fields.close && (minor_version == 1 || fields.keep_alive),
        signals,
    })
}

/// Reads folded fields as one line each (RFC 9112 section 5.2): the line end before a line that begins with
/// white space becomes spaces. False if nothing is folded, or the first line after the status line is.
pub(super) fn unfold(head: &mut [u8]) -> bool {
    let folds: Vec<usize> = memchr::memchr_iter(b'\n', head)
        .filter(|&line_feed| matches!(head.get(line_feed + 1), Some(b' ' | b'\t')))
        .collect();
    if folds.is_empty() || folds.first().copied() == memchr::memchr(b'\n', head) {
        return false;
    }
    for line_feed in folds {
        head[line_feed - 1] = b' ';
        head[line_feed] = b' ';
    }
    true
}

/// The fields that decide where the message ends and whether another may follow.
#[derive(Default)]
struct FramingFields<'a> {
    content_length: Option<usize>,
    transfer_encoding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
}

impl<'a> FramingFields<'a> {
    /// Returns whether it is one of them.
    #[inline(always)]
    fn observe(&mut self, name: &str, value: &'a [u8]) -> Result<bool, ProtocolError> {
        match name.len() {
            10 | 14 | 17 => self.take(name, value),
            _ => Ok(false),
        }
    }

    #[inline(never)]
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<bool, ProtocolError> {
        match name.len() {
            // As nearly every server writes it.
            10 if value == b"keep-alive" && is_named(name, "connection") => {
                self.keep_alive = true;
            }
            10 if is_named(name, "connection") => {
                for option in value.split(|&byte| byte == b',') {
                    let option = option.trim_ascii();
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is_named(name, "content-length") => self.content_length(value)?,
            17 if is_named(name, "transfer-encoding") => self.transfer_encoding(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A list of identical numbers counts as one (RFC 9110 section 8.6).
    fn content_length(&mut self, value: &[u8]) -> Result<(), ProtocolError> {
        if let Some(length) = decimal(value) {
            return self.one_length(length);
        }
        for item in value.split(|&byte| byte == b',') {
            let length = decimal(item.trim_ascii());
            let invalid = || ProtocolError::InvalidContentLength {
                value: excerpt(value),
            };
            self.one_length(length.ok_or_else(invalid)?)?;
        }
        Ok(())
    }

    fn one_length(&mut self, length: usize) -> Result<(), ProtocolError> {
        match self.content_length.replace(length) {
            Some(first) if first != length => Err(ProtocolError::ConflictingContentLength {
                first,
                second: length,
            }),
            _ => Ok(()),
        }
    }

    /// `chunked` alone, or said twice, alike, by somebody on the way who passes an answer on; codings that
    /// differ would have to be guessed at.
    fn transfer_encoding(&mut self, value: &'a [u8]) -> Result<(), ProtocolError> {
        let refused = || ProtocolError::TransferEncoding {
            value: excerpt(value),
        };
        let codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        // Empty elements of a list count as none (RFC 9110 section 5.6.1).
        let mut codings = codings.filter(|coding| !coding.is_empty()).peekable();
        if codings.peek().is_none()
            || !codings.all(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        {
            return Err(refused());
        }
        self.transfer_encoding = Some(value);
        Ok(())
    }

    fn framing(&self, status: u16, minor_version: u8) -> Result<Framing, ProtocolError> {
        if let Some(value) = self.transfer_encoding {
            if self.content_length.is_some() {
                return Err(ProtocolError::LengthAndEncoding);
            }
            // HTTP/1.0 knows no transfer codings: a peer that sends one is confused about framing.
            if minor_version == 0 {
                return Err(ProtocolError::TransferEncoding {
                    value: excerpt(value),
                });
            }
        }
        Ok(
            match (status, self.transfer_encoding, self.content_length) {
                (100..=199 | 204 | 304, ..) => Framing::Length(0),
                (_, Some(_), _) => Framing::Chunked,
                (_, None, Some(length)) => Framing::Length(length),
                (_, None, None) => Framing::UntilClose,
            },
        )
    }
}

/// Digits only: no sign, no white space, no overflow.
fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0usize, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| usize::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn ends_with(text: &str, suffix: &str) -> bool {
    let at = text.len().checked_sub(suffix.len());
    at.and_then(|at| text.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::is_token;

    #[test]
    fn a_name_is_compared_without_its_case_and_with_nothing_else() {
        let tokens = || (b'!'..=b'~').filter(|&byte| is_token(&[byte]));
        for expected in ["content-length", "retry-after-ms", "connection"] {
            for place in 0..expected.len() {
                for byte in tokens() {
                    let mut name = expected.to_uppercase().into_bytes();
                    name[place] = byte;
                    let name = String::from_utf8(name).expect("ASCII");
                    let expect = name.eq_ignore_ascii_case(expected);
                    assert_eq!(is_named(&name, expected), expect, "{name}");
                }
            }
            assert!(!is_named(&expected[1..], expected) && !is_named("", expected));
        }
    }

    #[test]
    fn signals_name_what_the_head_holds() {
        let none = 0;
        let check = |line: &str, expect: u8| {
            let head = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
            let parsed = parse(head.as_bytes()).map(|parsed| parsed.signals.0);
            assert_eq!(parsed, Ok(expect), "{line}");
        };
        let event_stream = Signals::EVENT_STREAM;
        check("Content-Type: text/event-stream", event_stream);
        check(
            "content-type:Text/Event-Stream ; charset=utf-8",
            event_stream,
        );
        check("content-type: application/json", none);
        check("content-type: text/event-streams", none);
        let wait_hint = Signals::WAIT_HINT;
        for name in [
            "Retry-After",
            "retry-after-ms",
            "X-Should-Retry",
            "x-ratelimit-reset-tokens",
            "X-RateLimit-Remaining-Requests",
            "x-rate-limit-reset-tokens",
            "vendor-ratelimit-input-tokens-reset",
            "RateLimit-Remaining",
            "ratelimitbysize-reset",
            "RateLimit",
            "x-tokenlimit-remaining",
            "llm_provider-x-ratelimit-remaining-requests",
        ] {
            check(&format!("{name}: 1"), wait_hint);
        }
        check("x-ratelimit: 1", none);
        check("x-retry-after: 1", none);
        let request_id = Signals::REQUEST_ID;
        check("request-id: req_1", request_id);
        check("X-Request-ID: req_1", request_id);
        check("apim-request-id: req_1", request_id);
        check("x-request-ids: req_1", none);
        check("Location: /elsewhere", Signals::LOCATION);
        let encoded = Signals::CONTENT_ENCODED;
        check("content-encoding: gzip", encoded);
        check(
            "content-encoding: gzip\r\ncontent-encoding: identity",
            encoded,
        );
        check("content-encoding: Identity", none);
        check("content-encoding:", none);
    }

    #[test]
    fn each_signal_has_its_own_question() {
        let asked = |bits| {
            let signals = Signals(bits);
            [
                signals.event_stream(),
                signals.has_wait_hint(),
                signals.has_request_id(),
                signals.location(),
                signals.content_encoded(),
            ]
        };
        for index in 0..5 {
            let mut expect = [false; 5];
            expect[index] = true;
            assert_eq!(asked(1 << index), expect);
        }
    }

    #[test]
    fn the_view_gives_fields_as_sent_and_finds_them_in_any_case() {
        let head =
            b"HTTP/1.1 200 OK: fine\r\nX-One:  1 \r\nx-two:a:b\r\nX-ONE: 2\r\nempty:\r\n\r\n";
        let headers = Headers::new(head);
        let fields: Vec<_> = headers.iter().collect();
        let expect: [(&str, &[u8]); 4] = [
            ("X-One", b"1"),
            ("x-two", b"a:b"),
            ("X-ONE", b"2"),
            ("empty", b""),
        ];
        assert_eq!(fields, expect);
        assert_eq!(headers.get("x-ONE"), Some(&b"1"[..]));
        assert_eq!(headers.get("empty"), Some(&b""[..]));
        assert_eq!(headers.get("absent"), None);
        assert_eq!(Headers::new(b"").iter().count(), 0);
    }

    #[test]
    fn header_fields_are_bounded() {
        let with = |count: usize| {
            let fields = "a: b\r\n".repeat(count);
            parse(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).map(|head| head.status)
        };
        assert_eq!(with(USUAL_HEADERS), Ok(200));
        assert_eq!(with(USUAL_HEADERS + 1), Ok(200));
        assert_eq!(with(MAX_HEADERS), Ok(200));
        let too_many = ProtocolError::TooManyHeaders { limit: MAX_HEADERS };
        assert_eq!(with(MAX_HEADERS + 1), Err(too_many));
    }
}
