//! The kinds of failure a line can end in, as records name them (docs/RECORDS.md).

use std::fmt;

/// Why a line failed; the value of `error_kind` in a failure record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The input line is not a request.
    InvalidInput,
    /// Name resolution, refused, unreachable, or a reset or close before the response head began.
    Connect,
    /// The TLS handshake or certificate check failed.
    Tls,
    /// An attempt took longer than `--timeout`.
    Timeout,
    /// The response broke HTTP's framing, or ended in its middle.
    Protocol,
    /// HTTP 429 that a wait can cure.
    RateLimited,
    /// HTTP 429 (or 402) that means "no money" or "no quota today".
    QuotaExhausted,
    /// HTTP 401 or 403.
    Auth,
    /// Any other 4xx.
    BadRequest,
    /// HTTP 404.
    NotFound,
    /// HTTP 5xx and the retryable oddities (498, 499, 529).
    ServerError,
    /// A 2xx whose body is not JSON.
    NotJson,
    /// The line or the response exceeds its cap.
    TooLarge,
    /// HTTP 3xx: redirects are never followed.
    Redirect,
    /// Given up because the run or the caller was cancelled.
    Cancelled,
}

impl ErrorKind {
    /// Every kind, in the order of the specification.
    pub const ALL: [Self; 15] = [
        Self::InvalidInput,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Protocol,
        Self::RateLimited,
        Self::QuotaExhausted,
        Self::Auth,
        Self::BadRequest,
        Self::NotFound,
        Self::ServerError,
        Self::NotJson,
        Self::TooLarge,
        Self::Redirect,
        Self::Cancelled,
    ];

    /// The name in records, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Auth => "auth",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::ServerError => "server_error",
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
            Self::Redirect => "redirect",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
