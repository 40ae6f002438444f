//! Secrets struck out of what a server sent, in every form in which it may echo them. Pure.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::config::Secret;
use crate::json;

/// Shorter texts are no secrets, and striking them out would garble every message.
const SECRET_CHARACTERS_MIN: usize = 4;

/// Base 64 of shorter ones is not looked for: at two of three places, less is left of it than makes a secret.
const ENCODED_CHARACTERS_MIN: usize = 8;

/// What RFC 3986, section 2.3, lets an encoder leave as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// So much of a secret's beginning is struck out although the rest is missing: a server's text may
/// have been cut through it. Longer than what keys of one kind have in common (`sk-proj-`).
const SECRET_BEGINNING_BYTES: usize = 12;

/// What stands in a secret's place.
const STRUCK_OUT: &str = "***";

/// Strikes secrets out of texts that a server sent.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Vec<Secret>);

impl Redactor {
    /// `text` is a secret; so is each word of it that is long enough (`Bearer abc…`), and so is either in
    /// any form that a server may echo it in: without percent encoding or with it, in base 64.
    pub fn add(&mut self, text: &str) {
        for secret in std::iter::once(text).chain(text.split_ascii_whitespace().skip(1)) {
            if secret.len() >= SECRET_CHARACTERS_MIN {
                self.0.push(Secret::from(secret));
                self.add_encoded(secret);
                let plain =
                    Zeroizing::new(percent_decode_str(secret).decode_utf8_lossy().into_owned());
                if *plain != secret && plain.len() >= SECRET_CHARACTERS_MIN {
                    self.0.push(Secret::from(plain.as_str()));
                    self.add_encoded(&plain);
                }
            }
        }
        // The longest first, or a secret inside another would leave the rest of it standing.
        self.0
            .sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        self.0.dedup();
    }

    /// What an encoder makes of `secret`: every character that it may escape escaped, with capitals or small
    /// letters, and base 64 as it comes out at each of the three places in a longer text.
    fn add_encoded(&mut self, secret: &str) {
        for set in [NON_ALPHANUMERIC, UNRESERVED] {
            let escaped = Zeroizing::new(utf8_percent_encode(secret, set).to_string());
            if *escaped != secret {
                self.0.push(Secret::from(escaped.as_str()));
                self.0.push(Secret::from(small_escapes(&escaped)));
            }
        }
        if secret.len() < ENCODED_CHARACTERS_MIN {
            return;
        }
        for before in 0..3 {
            let mut bytes = Zeroizing::new(vec![0; before]);
            bytes.extend_from_slice(secret.as_bytes());
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = Zeroizing::new(engine.encode(&*bytes));
                // The first and the last character may hold bits of a neighbour.
                let first = (before * 8).div_ceil(6);
                let last = bytes.len() * 8 / 6;
                self.0.push(Secret::from(&text[first..last]));
            }
        }
    }

    /// Adds a header's value if its name says that it proves something.
    pub fn add_header(&mut self, name: &str, value: &str) {
        if names_a_secret(name) {
            self.add(value);
        }
    }

    /// Adds the values of a query's parameters that prove something.
    pub(super) fn add_query(&mut self, query: &str) {
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if names_a_secret(name) {
                self.add(value);
            }
        }
    }

    /// `bytes` with every secret struck out, uncopied if there is none. What looks like a JSON string
    /// is read as one: an escape (`\/`, `\u002b`) hides nothing.
    pub fn redact_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let bytes = self.redact_escaped(bytes);
        if self.0.iter().all(|secret| find(&bytes, secret).is_none()) {
            return bytes;
        }
        Cow::Owned(self.redact(&String::from_utf8_lossy(&bytes)).into_bytes())
    }

    /// `text` with every secret, and every secret's beginning, struck out. Linear, also in a text
    /// that is nothing but secrets.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            let Some(mut at) = find(text.as_bytes(), secret) else {
                continue;
            };
            let mut struck = String::with_capacity(text.len());
            let mut copied = 0;
            loop {
                let length = (text[at..].bytes().zip(secret.expose().bytes()))
                    .take_while(|(one, other)| one == other)
                    .count();
                struck.push_str(&text[copied..at]);
                struck.push_str(STRUCK_OUT);
                // Both are UTF-8, but what differs may be within a character.
                copied = text.floor_char_boundary(at + length);
                match find(&text.as_bytes()[copied..], secret) {
                    Some(next) => at = copied + next,
                    None => break,
                }
            }
            struck.push_str(&text[copied..]);
            text = struck;
        }
        text
    }

    /// Rewrites the JSON strings that have escapes and, without them, secrets.
    fn redact_escaped<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.0.is_empty() || memchr::memchr(b'\\', bytes).is_none() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::new();
        let (mut copied, mut at) = (0, 0);
        while let Some(quote) = memchr::memchr(b'"', &bytes[at..]) {
            let start = at + quote + 1;
            let length = string_length(&bytes[start..]);
            let raw = &bytes[start..start + length];
            at = (start + length + 1).min(bytes.len());
            if memchr::memchr(b'\\', raw).is_none() {
                continue;
            }
            let text = json::unescape(raw);
            if (self.0.iter()).any(|secret| find(text.as_bytes(), secret).is_some()) {
                out.extend_from_slice(&bytes[copied..start - 1]);
                json::write_string(&self.redact(&text), &mut out);
                copied = at;
            }
        }
        match copied {
            0 => Cow::Borrowed(bytes),
            _ => {
                out.extend_from_slice(&bytes[copied..]);
                Cow::Owned(out)
            }
        }
    }
}

/// `%2f` for `%2F`: some encoders write small letters.
fn small_escapes(escaped: &str) -> String {
    let mut small = String::with_capacity(escaped.len());
    for (index, part) in escaped.split('%').enumerate() {
        if index == 0 {
            small.push_str(part);
            continue;
        }
        // Both digits are there: an encoder wrote them.
        let (digits, rest) = part.split_at(2);
        small.push('%');
        small.push_str(&digits.to_ascii_lowercase());
        small.push_str(rest);
    }
    small
}

/// Where `secret`, or the beginning of it, stands in `bytes`.
fn find(bytes: &[u8], secret: &Secret) -> Option<usize> {
    let secret = secret.expose();
    let beginning = secret.floor_char_boundary(SECRET_BEGINNING_BYTES.min(secret.len()));
    memchr::memmem::find(bytes, &secret.as_bytes()[..beginning])
}

/// Bytes up to the quote that ends a JSON string, or to the end of what there is.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        match bytes[at + next] {
            b'"' => return at + next,
            _ => at = (at + next + 2).min(bytes.len()),
        }
    }
    bytes.len()
}

fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "key",
        "token",
        "secret",
        "auth",
        "cookie",
        "password",
        "credential",
        "signature",
        "sig",
    ]
    .into_iter()
    .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_struck_out_longest_first() {
        let mut redactor = Redactor::default();
        redactor.add("abcd");
        redactor.add("Bearer abcdef");
        redactor.add("b");
        redactor.add_header("x-team", "search");
        redactor.add_query("key=AIzaSecret&alt=json");
        assert_eq!(
            redactor.redact("abcdef abcd b search AIzaSecret json"),
            "*** *** b search *** json"
        );
        assert_eq!(
            &*redactor.redact_bytes(b"\xffabcd"),
            "\u{fffd}***".as_bytes()
        );
        assert!(matches!(
            redactor.redact_bytes(b"\xffabc"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn neither_escapes_nor_cuts_hide_a_secret() {
        let mut redactor = Redactor::default();
        redactor.add("sk-proj/0123+4567=");
        let check = |body: &str, expect: &str| {
            let redacted = redactor.redact_bytes(body.as_bytes());
            assert_eq!(std::str::from_utf8(&redacted), Ok(expect), "{body}");
        };
        check(
            r#"{"a":"sk-proj/0123+4567=","b":1}"#,
            r#"{"a":"***","b":1}"#,
        );
        check(
            r#"{"a": "x\n sk-proj\/0123\u002b4567= y", "b\\": "c\""}"#,
            r#"{"a": "x\n *** y", "b\\": "c\""}"#,
        );
        check(
            r#"{"sk-proj\/0123\u002B4567=":"\u0073k-proj/0123+4567="}"#,
            r#"{"***":"***"}"#,
        );
        check("cut: sk-proj/0123+4", "cut: ***");
        check(r#"cut: "sk-proj\/0123+4"#, r#"cut: "***""#);
        check("another: sk-proj/012", "another: sk-proj/012");
        check(
            &"sk-proj/0123+4567=".repeat(100_000),
            &"***".repeat(100_000),
        );
        check(r#"plain \" text"#, r#"plain \" text"#);
    }

    #[test]
    fn no_coding_hides_a_secret() {
        // Made by Python's urllib.parse.quote, base64.b64encode and base64.urlsafe_b64encode; what a
        // secret shares a character of base 64 with stays.
        let key = "sk-proj/0123+4567=";
        let umlauts = "sk-\u{fc}\u{fe}\u{ff}~~~~~~";
        let cases = [
            ("open%20sesame%3F", "open sesame?", "***"),
            ("open%20sesame%3F", "open%20sesame%3F", "***"),
            ("open%20sesame%3F", "b3BlbiBzZXNhbWU/", "***"),
            (key, "sk-proj%2F0123%2B4567%3D", "***"),
            (key, "sk-proj%2f0123%2b4567%3d", "***"),
            (key, "sk%2Dproj%2F0123%2B4567%3D", "***"),
            (key, "c2stcHJvai8wMTIzKzQ1Njc9", "***"),
            // Behind "Bearer ", "x-key :" and "x".
            (
                key,
                "QmVhcmVyIHNrLXByb2ovMDEyMys0NTY3PQ==",
                "QmVhcmVyIH***Q==",
            ),
            (
                key,
                "eC1rZXkgOnNrLXByb2ovMDEyMys0NTY3PQ==",
                "eC1rZXkgOn***Q==",
            ),
            (key, "YWJzay1wcm9qLzAxMjMrNDU2Nz0=", "YWJ***0="),
            (umlauts, "c2stw7zDvsO_fn5-fn5-", "***"),
            (umlauts, "c2stw7zDvsO/fn5+fn5+", "***"),
        ];
        for (secret, echoed, expect) in cases {
            let mut redactor = Redactor::default();
            redactor.add(secret);
            let body = format!(r#"{{"error":"no such key: {echoed} (a)"}}"#);
            let redacted = redactor.redact_bytes(body.as_bytes()).into_owned();
            let text = String::from_utf8(redacted).expect("UTF-8");
            let expect = format!(r#"{{"error":"no such key: {expect} (a)"}}"#);
            assert_eq!(text, expect, "{secret} as {echoed}");
        }
        let mut redactor = Redactor::default();
        redactor.add("sk-proj/0123+4567=");
        let others = br#"{"a":"c2stcHJvai4wMTI","b":"sk-proj%2E0123"}"#;
        assert!(matches!(redactor.redact_bytes(others), Cow::Borrowed(_)));
    }
}
