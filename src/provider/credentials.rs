//! Credentials: what proves who we are, and what must never be shown. Pure.

use std::borrow::Cow;

use url::Url;

use crate::config::Secret;
use crate::json;

/// How requests of an endpoint prove who sends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Nothing of ours; the configured headers may say something.
    None,
    /// A key that stays the same for the whole run.
    Key(Secret),
    /// A bearer token that is fetched, and refreshed before it expires.
    Entra(EntraSource),
}

/// Where Microsoft Entra tokens come from; the words of `api_key` on Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntraSource {
    /// `default`: environment, managed identity, then the Azure CLI.
    Default,
    /// `az`: the Azure CLI's login.
    AzureCli,
    /// `interactive`: a login in the browser or by device code.
    Interactive,
}

impl EntraSource {
    /// The word of `api_key`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::AzureCli => "az",
            Self::Interactive => "interactive",
        }
    }
}

/// The value of a basic `authorization` header from a URL's user name and password (RFC 7617).
pub(super) fn basic(url: &Url) -> Option<Secret> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair = percent_decode(url.username());
    pair.push(b':');
    pair.extend(percent_decode(url.password().unwrap_or_default()));
    Some(Secret::from(format!("Basic {}", base64(&pair))))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    while let Some((&first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, digit(rest.first()), digit(rest.get(1))) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits are at most 255.
                decoded.push((high * 16 + low) as u8);
                bytes = &rest[2..];
            }
            _ => decoded.push(first),
        }
    }
    decoded
}

/// Base 64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let sextet = bits >> (18 - 6 * at) & 63;
            let filled = at <= chunk.len();
            text.push(if filled {
                char::from(ALPHABET[sextet as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// Shorter texts are no secrets, and striking them out would garble every message.
const SECRET_CHARACTERS_MIN: usize = 4;

/// So much of a secret's beginning is struck out although the rest is missing: a server's text may
/// have been cut through it. Longer than what keys of one kind have in common (`sk-proj-`).
const SECRET_BEGINNING_BYTES: usize = 12;

/// What stands in a secret's place.
const STRUCK_OUT: &str = "***";

/// Strikes secrets out of texts that a server sent.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Vec<Secret>);

impl Redactor {
    /// `text` is a secret; so is each word of it that is long enough (`Bearer abc…`).
    pub fn add(&mut self, text: &str) {
        for secret in std::iter::once(text).chain(text.split_ascii_whitespace().skip(1)) {
            if secret.len() >= SECRET_CHARACTERS_MIN {
                self.0.push(Secret::from(secret));
            }
        }
        // The longest first, or a secret inside another would leave the rest of it standing.
        self.0
            .sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        self.0.dedup();
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
    fn base64_pads_like_the_standard() {
        // RFC 4648, section 10.
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn user_and_password_of_a_url_become_a_basic_header() {
        let header =
            |url: &str| basic(&Url::parse(url).unwrap()).map(|secret| secret.expose().to_owned());
        // RFC 7617, section 2: "Aladdin:open sesame".
        assert_eq!(
            header("http://Aladdin:open%20sesame@x/").as_deref(),
            Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        );
        assert_eq!(header("http://x/"), None);
    }

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
}
