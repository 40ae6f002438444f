//! Credentials: what proves who we are, and what must never be shown. Pure.

use std::borrow::Cow;

use url::Url;

use crate::config::Secret;

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

/// What stands in a secret's place.
const STRUCK_OUT: &str = "***";

/// Strikes an endpoint's secrets out of texts that a server sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Redactor(Vec<Secret>);

impl Redactor {
    /// `text` is a secret; so is each word of it that is long enough (`Bearer abc…`).
    pub(super) fn add(&mut self, text: &str) {
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
    pub(super) fn add_header(&mut self, name: &str, value: &str) {
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

    /// `bytes` with every secret struck out, uncopied if there is none.
    pub(super) fn redact_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let is_in = |secret: &Secret| memchr::memmem::find(bytes, secret.expose().as_bytes());
        if self.0.iter().all(|secret| is_in(secret).is_none()) {
            return Cow::Borrowed(bytes);
        }
        Cow::Owned(self.redact(&String::from_utf8_lossy(bytes)).into_bytes())
    }

    /// `text` with every secret struck out.
    pub(super) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            text.replace(secret.expose(), STRUCK_OUT)
        })
    }
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
}
