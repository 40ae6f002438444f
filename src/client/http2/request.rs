//! The heads of a target's requests, translated once. Pure.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use memchr::memmem;
use zeroize::Zeroizing;

use crate::http::Scheme;
use crate::http2::RequestHead;

/// Heads kept per target; in a file with more distinct routes the others take turns.
const HEADS_KEPT: usize = 8;
/// The last field of a rendered head, without its value.
const LAST_FIELD: &[u8] = b"\r\ncontent-length: ";
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// Parsed heads of one target. Its requests differ in little but the length of their bodies, which
/// is the last field of a rendered head, so that what stands before it is the key.
#[derive(Default)]
pub(in crate::client) struct HeadCache {
    heads: RefCell<Vec<Known>>,
}

/// What stands before the length, and what it means.
type Known = (Zeroizing<Vec<u8>>, Rc<RequestHead>);

/// A request in HTTP/2's terms.
pub(super) struct Translated {
    pub(super) head: Rc<RequestHead>,
    /// The head is not expected again.
    pub(super) once: bool,
    /// Where in what was rendered the value of its content-length stands, if it is not in the head.
    pub(super) length: Option<Range<usize>>,
    /// Where the body is.
    pub(super) body: Range<usize>,
}

impl HeadCache {
    /// `rendered` in HTTP/2's terms; `None` for what is no request.
    pub(super) fn translate(&self, rendered: &[u8], scheme: Scheme) -> Option<Translated> {
        let mut heads = self.heads.borrow_mut();
        let known = heads.iter().find_map(|(key, head)| {
            let length = length_behind(key, rendered)?;
            Some((head, length))
        });
        if let Some((head, length)) = known {
            return Some(Translated {
                head: Rc::clone(head),
                once: false,
                body: length.end + BLANK_LINE.len()..rendered.len(),
                length: Some(length),
            });
        }
        let end = memmem::find(rendered, BLANK_LINE)?;
        let body = end + BLANK_LINE.len()..rendered.len();
        let key = memmem::rfind(&rendered[..end], LAST_FIELD).map(|at| &rendered[..at]);
        let Some((key, length)) = key.and_then(|key| Some((key, length_behind(key, rendered)?)))
        else {
            return Some(Translated {
                head: Rc::new(RequestHead::parse(&rendered[..body.start], scheme)?),
                once: true,
                length: None,
                body,
            });
        };
        let without_length = [key, BLANK_LINE].concat();
        let head = Rc::new(RequestHead::parse(&Zeroizing::new(without_length), scheme)?);
        let once = heads.len() == HEADS_KEPT;
        if once {
            heads.pop();
        }
        heads.push((Zeroizing::new(key.to_vec()), Rc::clone(&head)));
        Some(Translated {
            head,
            once,
            length: Some(length),
            body,
        })
    }
}

/// Where the length stands, if `rendered` begins with `key` and its head ends with that field.
fn length_behind(key: &[u8], rendered: &[u8]) -> Option<Range<usize>> {
    let rest = rendered.strip_prefix(key)?.strip_prefix(LAST_FIELD)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let start = key.len() + LAST_FIELD.len();
    rest[digits..]
        .starts_with(BLANK_LINE)
        .then_some(start..start + digits)
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
                let translated = cache.translate(rendered.as_bytes(), Scheme::Https);
                let found = translated.map(|translated| {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let mut fields: Vec<(String, String)> = translated
                        .head
                        .fields()
                        .map(|(name, value)| (text(name), text(value)))
                        .collect();
                    if let Some(length) = translated.length {
                        fields.push(("content-length".to_owned(), rendered[length].to_owned()));
                    }
                    let rest = fields.split_off(4);
                    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                    assert_eq!(names, [":method", ":scheme", ":authority", ":path"]);
                    let line = format!(
                        "{} {}://{}{}",
                        fields[0].1, fields[1].1, fields[2].1, fields[3].1
                    );
                    (line, rest, rendered[translated.body].to_owned())
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
        // The length comes first, so it is a field like any other.
        check(
            &format!("{start}content-length: 1\r\na: b\r\n\r\nx"),
            Some((line, &[("content-length", "1"), ("a", "b")], "x")),
        );
        check("GET / HTTP/1.1\r\na: b\r\n\r\n", None);
        check("nonsense", None);
    }

    #[test]
    fn a_head_that_pushes_another_out_is_not_expected_again() {
        let cache = HeadCache::default();
        let once = |number: usize| {
            let head = format!("POST /{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
            cache
                .translate(head.as_bytes(), Scheme::Http)
                .expect("a request")
                .once
        };
        for number in 0..HEADS_KEPT {
            assert!(!once(number));
        }
        assert!(once(HEADS_KEPT));
        assert!(!once(HEADS_KEPT), "it has come again");
        assert!(!once(0));
        assert!(once(HEADS_KEPT - 1));
    }
}
