//! A rendered HTTP/1.1 head → the same request's fields in HTTP/2's terms. Pure.

use zeroize::Zeroizing;

use crate::http::{MAX_HEADERS, Scheme};

/// Fields that speak of the connection, which HTTP/2 has no use for (RFC 9113 section 8.2.2).
pub(super) const OF_THE_CONNECTION: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// The fields of a request, pseudo fields first. It may hold a key: nothing shows it.
pub struct RequestHead {
    fields: Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl RequestHead {
    /// Translates `head`, through its blank line. `None` for what is no request, or names no host.
    pub fn parse(head: &[u8], scheme: Scheme) -> Option<Self> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut slots);
        if !parsed.parse(head).ok()?.is_complete() {
            return None;
        }
        let host = parsed
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case("host"))?;
        let mut fields = Vec::with_capacity(parsed.headers.len() + 3);
        let mut push = |name: &str, value: &[u8]| {
            let name = name.to_ascii_lowercase().into_bytes();
            fields.push((name, Zeroizing::new(value.to_vec())));
        };
        push(":method", parsed.method?.as_bytes());
        push(":scheme", scheme.as_str().as_bytes());
        push(":authority", host.value);
        push(":path", parsed.path?.as_bytes());
        for field in parsed.headers.iter() {
            let is = |name: &&str| field.name.eq_ignore_ascii_case(name);
            let is_left_out = ["host", "te"].iter().any(is) || OF_THE_CONNECTION.iter().any(is);
            if !is_left_out {
                push(field.name, field.value);
            }
        }
        Some(Self { fields })
    }

    /// Names, in lower case, and values.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.fields.len()).map(|place| self.field(place))
    }

    pub(super) fn field(&self, place: usize) -> (&[u8], &[u8]) {
        let (name, value) = &self.fields[place];
        (name, value)
    }
}
