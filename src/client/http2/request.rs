//! A rendered HTTP/1.1 head → the same request in HTTP/2's terms. Pure.

use std::cell::RefCell;
use std::ops::Range;

use ::http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use ::http::uri::{PathAndQuery, Scheme};
use ::http::{Method, Request, Uri};
use memchr::memmem;
use zeroize::Zeroizing;

use crate::http::MAX_HEADERS;

/// Heads kept parsed per target; a file with more distinct routes parses the rest anew.
const HEADS_KEPT: usize = 8;

/// Fields that speak of the connection, which HTTP/2 has no use for (RFC 9113 section 8.2.2).
const OF_THE_CONNECTION: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Parsed heads of one target. Its requests differ in little but the length of their bodies, which
/// is the last field of a rendered head, so that what stands before it is the key.
#[derive(Default)]
pub(in crate::client) struct HeadCache {
    heads: RefCell<Vec<Known>>,
}

/// What stands before the length, and what it means.
type Known = (Zeroizing<Vec<u8>>, Request<()>);

impl HeadCache {
    /// The head of `rendered` for HTTP/2, and where in `rendered` the body is. `None` for what is
    /// no request.
    pub(super) fn translate(
        &self,
        rendered: &[u8],
        scheme: &Scheme,
    ) -> Option<(Request<()>, Range<usize>)> {
        const LAST_FIELD: &[u8] = b"\r\ncontent-length: ";
        let end = memmem::find(rendered, b"\r\n\r\n")?;
        let body = end + 4..rendered.len();
        let last = memmem::rfind(&rendered[..end], LAST_FIELD)
            .map(|at| (&rendered[..at], &rendered[at + LAST_FIELD.len()..end]))
            .filter(|(_, length)| !length.contains(&b'\r'));
        let Some((key, length)) = last else {
            return Some((parse(&rendered[..body.start], scheme)?, body));
        };
        let mut heads = self.heads.borrow_mut();
        let known = heads.iter().position(|(known, _)| known[..] == *key);
        let index = match known {
            Some(index) => index,
            None => {
                let request = parse(&rendered[..body.start], scheme)?;
                if heads.len() == HEADS_KEPT {
                    heads.pop();
                }
                heads.push((Zeroizing::new(key.to_vec()), request));
                heads.len() - 1
            }
        };
        let mut request = heads[index].1.clone();
        let length = HeaderValue::from_bytes(length).ok()?;
        request.headers_mut().insert(CONTENT_LENGTH, length);
        Some((request, body))
    }
}

/// `head` through its blank line.
fn parse(head: &[u8], scheme: &Scheme) -> Option<Request<()>> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut slots);
    if !parsed.parse(head).ok()?.is_complete() {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    let mut authority = None;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if name == HOST {
            authority = Some(field.value);
        } else if !OF_THE_CONNECTION.contains(&name.as_str()) {
            let value = HeaderValue::from_bytes(field.value).ok()?;
            request.headers_mut().append(name, value);
        }
    }
    *request.uri_mut() = Uri::builder()
        .scheme(scheme.clone())
        .authority(authority?)
        .path_and_query(PathAndQuery::try_from(parsed.path?).ok()?)
        .build()
        .ok()?;
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_translated() {
        let cache = HeadCache::default();
        type Expected<'a> = Option<(&'a str, &'a [(&'a str, &'a str)], &'a str)>;
        let check = |rendered: &str, expect: Expected<'_>| {
            // Twice: parsed, and from the cache.
            for _ in 0..2 {
                let translated = cache.translate(rendered.as_bytes(), &Scheme::HTTPS);
                let found = translated.map(|(request, body)| {
                    let line = format!("{} {}", request.method(), request.uri());
                    let fields: Vec<(String, String)> = request
                        .headers()
                        .iter()
                        .map(|(name, value)| {
                            let value = String::from_utf8_lossy(value.as_bytes());
                            (name.to_string(), value.into_owned())
                        })
                        .collect();
                    (line, fields, rendered[body].to_owned())
                });
                let expect = expect.map(|(line, fields, body)| {
                    let fields = fields
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                    (line.to_owned(), fields.collect(), body.to_owned())
                });
                assert_eq!(found, expect, "{rendered}");
            }
        };
        let start = "POST /v1/a?b=c HTTP/1.1\r\nhost: [::1]:8080\r\n";
        let line = "POST https://[::1]:8080/v1/a?b=c";
        check(
            &format!("{start}X-Team: a b\r\ncontent-length: 2\r\n\r\n{{}}"),
            Some((line, &[("x-team", "a b"), ("content-length", "2")], "{}")),
        );
        check(
            &format!("{start}X-Team: a b\r\ncontent-length: 13\r\n\r\na\r\n\r\nb: c\r\n\r\n"),
            Some((
                line,
                &[("x-team", "a b"), ("content-length", "13")],
                "a\r\n\r\nb: c\r\n\r\n",
            )),
        );
        check(
            &format!("{start}x-team: other\r\ncontent-length: 0\r\n\r\n"),
            Some((line, &[("x-team", "other"), ("content-length", "0")], "")),
        );
        check(
            &format!("{start}Connection: close\r\nKeep-Alive: 1\r\nTE: trailers\r\na: b\r\n\r\n"),
            Some((line, &[("a", "b")], "")),
        );
        check("GET / HTTP/1.1\r\na: b\r\n\r\n", None);
        check("nonsense", None);
    }
}
