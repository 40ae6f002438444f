//! HTTP/1.1 message vocabulary and framing: pure, no I/O.

/// Plain or over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http://`
    Http,
    /// `https://`
    Https,
}

/// Where connections go: connections to one origin are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Plain or over TLS.
    pub scheme: Scheme,
    /// Name or address, lower case, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}
