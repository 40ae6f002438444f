//! HTTP/1.1 message vocabulary and framing, and server-sent events (RFC 9110, RFC 9112, WHATWG
//! HTML section 9.2). Pure: bytes go in, messages come out; sockets, TLS and clocks are elsewhere.

mod chunked;
pub mod coding;
mod error;
mod head;
mod request;
mod response;
pub mod sse;

use std::fmt;

pub use error::ProtocolError;
pub use head::{Head, Headers, MAX_HEADERS, Signals};
pub use request::{HeadTemplate, InvalidHeader, check_header};
pub use response::{MAX_INTERIM, Progress, Response, ResponseReader};

/// Cap of the heads of one exchange, interim ones included. Real heads stay under 4 KiB (cookies
/// and content policies are the bulk); servers commonly refuse to send more than 16 to 64 KiB.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
}

impl Scheme {
    /// The port a URL of this scheme leaves out.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// The name in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Whom a connection leads to: connections are shared within one origin only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Origin {
    /// `host[:port]` as the `host` header wants it: IPv6 in brackets, the scheme's own port left out.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Caps of one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All heads of the exchange together, and again the trailers of a chunked body; usually
    /// [`MAX_HEAD_BYTES`].
    pub head_bytes: usize,
    /// The decoded body.
    pub body_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_brackets_ipv6_and_leaves_out_the_default_port() {
        let check = |scheme, host: &str, port, expect: &str| {
            let origin = Origin {
                scheme,
                host: host.to_owned(),
                port,
            };
            assert_eq!(origin.authority(), expect);
        };
        check(Scheme::Http, "localhost", 80, "localhost");
        check(Scheme::Http, "localhost", 443, "localhost:443");
        check(Scheme::Https, "api.example.com", 443, "api.example.com");
        check(Scheme::Https, "api.example.com", 80, "api.example.com:80");
        check(Scheme::Http, "::1", 8080, "[::1]:8080");
        check(Scheme::Https, "2001:db8::7", 443, "[2001:db8::7]");
    }
}
