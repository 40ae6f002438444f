//! Request heads: rendered once for an endpoint, completed for each request. Pure.

use std::fmt;

use zeroize::Zeroizing;

use super::Origin;
use super::error::excerpt;

/// Fields that frame the message, manage the connection or promise a decoding: this client
/// writes them itself, or means to go without.
const RESERVED: [&str; 11] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header field that must not go out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// Not a token (RFC 9110 section 5.6.2).
    #[error("\"{name}\" is not a header name")]
    Name {
        /// The name, escaped and cut.
        name: String,
    },
    /// A control character; the value itself may be a secret and is not shown.
    #[error("the value of header \"{name}\" has a control character at byte {at}")]
    Value {
        /// The name.
        name: String,
        /// Byte offset in the value.
        at: usize,
    },
    /// One of the fields that only the client itself may write.
    #[error("header \"{name}\" is set by the client itself")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A target or host that would break the request's first lines.
    #[error("\"{text}\" does not fit into a request line")]
    RequestLine {
        /// The part, escaped and cut.
        text: String,
    },
}

/// Checks a header field from a config file or an input line.
///
/// # Errors
/// The name is no token or reserved, or the value holds a control character.
pub fn check_header(name: &str, value: &str) -> Result<(), InvalidHeader> {
    if !is_token(name.as_bytes()) {
        return Err(InvalidHeader::Name {
            name: excerpt(name.as_bytes()),
        });
    }
    // Says what goes without saying, and promises nothing.
    let asks_for_none = name.eq_ignore_ascii_case("accept-encoding") && value == "identity";
    let is_reserved = |reserved: &&str| name.eq_ignore_ascii_case(reserved);
    if !asks_for_none && RESERVED.iter().any(is_reserved) {
        return Err(InvalidHeader::Reserved {
            name: name.to_owned(),
        });
    }
    match value
        .bytes()
        .position(|byte| byte.is_ascii_control() && byte != b'\t')
    {
        Some(at) => Err(InvalidHeader::Value {
            name: name.to_owned(),
            at,
        }),
        None => Ok(()),
    }
}

/// The head of a `POST` with all that an endpoint's requests share already rendered.
/// It holds credentials: `Debug` shows only its size, and they are wiped when it is dropped.
#[derive(Clone)]
pub struct HeadTemplate {
    /// The request line and the `host` field.
    start: Box<[u8]>,
    /// The shared fields, and [`LENGTH_FIELD`].
    fields: Zeroizing<Vec<u8>>,
}

/// Ends the template: a request's own length follows.
const LENGTH_FIELD: &[u8] = b"content-length: ";

impl HeadTemplate {
    /// Renders what is shared; `target` is the path with its query. Of fields with the same name
    /// the last one counts.
    ///
    /// # Errors
    /// Anything that [`check_header`] refuses, or that would break the request line.
    pub fn new<'a>(
        origin: &Origin,
        target: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidHeader> {
        let authority = origin.authority();
        for text in [target, &authority] {
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(InvalidHeader::RequestLine {
                    text: excerpt(text.as_bytes()),
                });
            }
        }
        let mut last: Vec<(&str, &str)> = Vec::new();
        for (name, value) in headers {
            check_header(name, value)?;
            last.retain(|(earlier, _)| !earlier.eq_ignore_ascii_case(name));
            last.push((name, value));
        }
        let rendered_bytes: usize = last
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        // Enough from the start: a vector that grows would leave copies of the key behind.
        let mut fields = Zeroizing::new(Vec::with_capacity(rendered_bytes + LENGTH_FIELD.len()));
        for (name, value) in last {
            write_field(name, value, &mut fields);
        }
        fields.extend_from_slice(LENGTH_FIELD);
        let start = format!("POST {target} HTTP/1.1\r\nhost: {authority}\r\n");
        Ok(Self {
            start: start.into_bytes().into(),
            fields,
        })
    }

    /// Appends a complete head to `out`; the caller appends the body and sends both in one write
    /// (two would meet Nagle's algorithm). An extra field replaces a shared one of the same name.
    ///
    /// # Panics
    /// If an extra field was not checked with [`check_header`]: it could smuggle a second request,
    /// and answers would go to the wrong lines.
    pub fn write<'a>(
        &self,
        extra: impl Iterator<Item = (&'a str, &'a str)>,
        content_length: usize,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.start);
        let mut extra = extra.peekable();
        if extra.peek().is_none() {
            out.extend_from_slice(&self.fields);
        } else {
            self.write_fields_with(&extra.collect::<Vec<_>>(), out);
        }
        out.extend_from_slice(itoa::Buffer::new().format(content_length).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// The rare way: a line brought fields of its own.
    fn write_fields_with(&self, extra: &[(&str, &str)], out: &mut Vec<u8>) {
        for (name, value) in extra {
            assert!(
                check_header(name, value).is_ok(),
                "unchecked header {}",
                name.escape_debug()
            );
            write_field(name, value, out);
        }
        for line in self.fields.split_inclusive(|&byte| byte == b'\n') {
            let replaced = extra.iter().any(|(name, _)| {
                let end = name.len();
                line.get(end) == Some(&b':') && line[..end].eq_ignore_ascii_case(name.as_bytes())
            });
            if !replaced {
                out.extend_from_slice(line);
            }
        }
    }
}

impl fmt::Debug for HeadTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HeadTemplate({} bytes)",
            self.start.len() + self.fields.len()
        )
    }
}

fn write_field(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Whether this is a `token`, the grammar of field names (RFC 9110 section 5.6.2).
pub(super) fn is_token(text: &[u8]) -> bool {
    let is_token_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Scheme;

    fn origin(host: &str) -> Origin {
        Origin {
            scheme: Scheme::Https,
            host: host.to_owned(),
            port: 8443,
        }
    }

    fn template() -> HeadTemplate {
        let headers = [
            ("content-type", "application/json"),
            ("Authorization", "Bearer default"),
            ("authorization", "Bearer secret"),
        ];
        HeadTemplate::new(
            &origin("api.example.com"),
            "/v1/chat/completions?a=b",
            headers,
        )
        .unwrap()
    }

    #[test]
    fn a_head_is_what_rfc_9112_wants() {
        let check = |extra: &[(&str, &str)], expect: &str| {
            let mut out = b"kept|".to_vec();
            template().write(extra.iter().copied(), 1234, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("kept|{expect}"));
        };
        let start = "POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: api.example.com:8443\r\n";
        let shared = "content-type: application/json\r\nauthorization: Bearer secret\r\n";
        check(&[], &format!("{start}{shared}content-length: 1234\r\n\r\n"));
        check(
            &[("x-team", "search"), ("content", "1")],
            &format!("{start}x-team: search\r\ncontent: 1\r\n{shared}content-length: 1234\r\n\r\n"),
        );
        check(
            &[("AUTHORIZATION", "Bearer other")],
            &format!(
                "{start}AUTHORIZATION: Bearer other\r\ncontent-type: application/json\r\n\
                 content-length: 1234\r\n\r\n"
            ),
        );
    }

    #[test]
    fn fields_that_break_the_head_are_refused() {
        let ok = Ok(());
        let bad_name = |name: &str| {
            Err(InvalidHeader::Name {
                name: name.to_owned(),
            })
        };
        let reserved = |name: &str| {
            Err(InvalidHeader::Reserved {
                name: name.to_owned(),
            })
        };
        let bad_value = |at| {
            Err(InvalidHeader::Value {
                name: "x".to_owned(),
                at,
            })
        };
        let check = |name: &str, value: &str, expect| {
            assert_eq!(check_header(name, value), expect, "{name:?}: {value:?}");
        };
        check("x-team", "search", ok.clone());
        check("X_Team.1", "tab\tand sp\u{e4}ce", ok.clone());
        check("x", "", ok);
        check("", "v", bad_name(""));
        check("x y", "v", bad_name("x y"));
        check("x:", "v", bad_name("x:"));
        check("x\r\ny", "v", bad_name("x\\r\\ny"));
        check("caf\u{e9}", "v", bad_name("caf\\xc3\\xa9"));
        check("x", "a\r\nb: c", bad_value(1));
        check("x", "key\n", bad_value(3));
        check("x", "\0", bad_value(0));
        check("x", "ab\x7f", bad_value(2));
        check("Content-Length", "3", reserved("Content-Length"));
        check(
            "transfer-encoding",
            "chunked",
            reserved("transfer-encoding"),
        );
        check("HOST", "elsewhere", reserved("HOST"));
    }

    #[test]
    fn a_request_line_cannot_be_split() {
        let check = |target: &str, host: &str, shown: &str| {
            let refused = HeadTemplate::new(&origin(host), target, [])
                .unwrap_err()
                .to_string();
            assert_eq!(
                refused,
                format!("\"{shown}\" does not fit into a request line")
            );
        };
        check("", "host", "");
        check("/a b", "host", "/a b");
        check("/a\r\nx: y", "host", "/a\\r\\nx: y");
        check("/caf\u{e9}", "host", "/caf\\xc3\\xa9");
        check("/", "host\n", "host\\n:8443");
    }

    #[test]
    #[should_panic(expected = "unchecked header x")]
    fn an_unchecked_extra_field_never_goes_out() {
        template().write(
            [("x", "a\r\n\r\nGET / HTTP/1.1")].into_iter(),
            0,
            &mut Vec::new(),
        );
    }

    #[test]
    fn neither_debug_nor_errors_show_a_secret() {
        let shown = format!("{:?}", template());
        assert!(
            shown.starts_with("HeadTemplate(") && !shown.contains("secret"),
            "{shown}"
        );
        let error = check_header("authorization", "Bearer secret\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value of header \"authorization\" has a control character at byte 13"
        );
    }
}
