//! Why an exchange has no response, in words an operator can act on. Pure.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::http::ProtocolError;

/// Why an exchange has no response. Messages name the peer and carry no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about: nothing of the request went out.
    Unreachable(String),
    /// The connection ended before an answer began.
    Connect(String),
    /// The handshake or the certificate check failed.
    Tls(String),
    /// The peer speaks TLS where the URL says plain HTTP, or the other way round: no request can succeed.
    WrongScheme(String),
    /// Too slow.
    Timeout {
        /// What was being waited for.
        phase: Phase,
        /// Host and port.
        peer: String,
        /// The time that was allowed.
        after: Duration,
    },
    /// The answer broke HTTP, or ended in its middle.
    Protocol(String),
    /// The answer exceeds a cap.
    TooLarge(String),
}

/// The stretch of an exchange in which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Name resolution, TCP, proxy tunnel, TLS handshake.
    Connecting,
    /// The peer has not taken the whole request.
    Sending,
    /// The request is out, no byte of an answer has come.
    Waiting,
    /// The answer has begun and is not complete.
    Receiving,
}

impl Failure {
    /// The kind in records.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable(_) | Self::Connect(_) => ErrorKind::Connect,
            Self::Tls(_) | Self::WrongScheme(_) => ErrorKind::Tls,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Protocol(_) => ErrorKind::Protocol,
            Self::TooLarge(_) => ErrorKind::TooLarge,
        }
    }

    /// Whether every other request would meet it, too.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::WrongScheme(_))
    }

    /// Whether the request never left: no fault of its own.
    pub fn is_before_request(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Tls(_) | Self::WrongScheme(_) => true,
            Self::Timeout { phase, .. } => *phase == Phase::Connecting,
            Self::Connect(_) | Self::Protocol(_) | Self::TooLarge(_) => false,
        }
    }

    /// A connection attempt to `peer` that the system gave up.
    pub(super) fn connecting(error: &io::Error, peer: &str) -> Self {
        Self::Unreachable(match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("{peer} refused the connection"),
            io::ErrorKind::ConnectionReset => format!("{peer} reset the connection at once"),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                format!("{peer} is unreachable: {error}")
            }
            _ => format!("cannot connect to {peer}: {error}"),
        })
    }

    /// A connection that ended with `error`, or was closed by `peer` if there is none, while
    /// `phase` was going on.
    pub(super) fn cut(error: Option<&io::Error>, phase: Phase, peer: &str) -> Self {
        if let Some(tls) = error.and_then(tls_error) {
            if phase == Phase::Connecting && crate::tls::is_no_tls(tls) {
                return Self::WrongScheme(format!(
                    "{peer} does not speak TLS but plain HTTP, it seems: write http:// instead of https://"
                ));
            }
            let text = format!("{peer}: {}", crate::tls::explain(tls));
            return match phase {
                // The connection was good: this one ended in the middle, as a reset does.
                Phase::Receiving => Self::Protocol(text),
                Phase::Connecting | Phase::Sending | Phase::Waiting => Self::Tls(text),
            };
        }
        let what = match error.map(io::Error::kind) {
            None => "closed the connection".to_owned(),
            Some(io::ErrorKind::UnexpectedEof) => {
                "closed the connection without ending TLS".to_owned()
            }
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                "reset the connection".to_owned()
            }
            Some(_) => {
                let error = error.map(ToString::to_string).unwrap_or_default();
                format!("connection lost ({error})")
            }
        };
        match phase {
            Phase::Connecting => Self::Unreachable(format!("{peer} {what} during the handshake")),
            Phase::Sending => Self::Connect(format!("{peer} {what} while the request was sent")),
            Phase::Waiting => Self::Connect(format!("{peer} {what} before it answered")),
            Phase::Receiving => Self::Protocol(format!("{peer} {what} within the response")),
        }
    }

    /// Bytes from `peer` that are no proper response.
    pub(super) fn protocol(error: &ProtocolError, peer: &str) -> Self {
        if error.is_tls() {
            return Self::WrongScheme(format!(
                "{peer} speaks TLS, not plain HTTP: write https:// instead of http://"
            ));
        }
        let text = format!("{peer}: {error}");
        if error.is_too_large() {
            Self::TooLarge(text)
        } else {
            Self::Protocol(text)
        }
    }
}

/// To the nearest millisecond: between setting a deadline and reading the clock again pass
/// microseconds that nobody asked for.
fn whole_millis(time: Duration) -> Duration {
    let millis = (time + Duration::from_micros(500)).as_millis();
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// The TLS error inside an I/O error, if that is what it wraps.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text)
            | Self::Connect(text)
            | Self::Tls(text)
            | Self::WrongScheme(text)
            | Self::Protocol(text)
            | Self::TooLarge(text) => f.write_str(text),
            Self::Timeout { phase, peer, after } => {
                let after = whole_millis(*after);
                match phase {
                    Phase::Connecting => {
                        write!(f, "connecting to {peer} timed out after {after:?}")
                    }
                    Phase::Sending => {
                        write!(
                            f,
                            "timed out after {after:?}: {peer} had not taken the whole request"
                        )
                    }
                    Phase::Waiting => {
                        write!(f, "timed out after {after:?} waiting for {peer} to answer")
                    }
                    Phase::Receiving => {
                        write!(f, "timed out after {after:?} within the response of {peer}")
                    }
                }
            }
        }
    }
}

impl std::error::Error for Failure {}
