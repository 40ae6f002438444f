//! Headers that a line may add to its request. Pure.

use super::{InvalidLine, string_at};
use crate::json::{Kind, Member};

/// Most headers a line may add; servers commonly take 100 in all.
pub(super) const HEADERS_MAX: usize = 64;

/// Names a line may not set: they frame the message or belong to the connection (RFC 9112, RFC 9110
/// section 7.6.1), or they promise a coding that the client neither writes nor reads.
const REFUSED: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "content-encoding",
    "accept-encoding",
];

/// Checks that every header can be sent as it is.
pub(super) fn check(line: &[u8], headers: &[Member]) -> Result<(), InvalidLine> {
    let fault = |problem: String| Err(InvalidLine::field("headers", problem));
    if headers.len() > HEADERS_MAX {
        return fault(format!("expected at most {HEADERS_MAX}"));
    }
    for header in headers {
        let name = header.name(line);
        let shown = String::from_utf8_lossy(&name);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return fault(format!("\"{}\" is not a header name", shown.escape_debug()));
        }
        let is_proxy = name
            .get(..6)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-"));
        if is_proxy
            || REFUSED
                .iter()
                .any(|refused| shown.eq_ignore_ascii_case(refused))
        {
            return fault(format!("\"{shown}\" is set by the client alone"));
        }
        if header.kind != Kind::String {
            return fault(format!("\"{shown}\": expected a string"));
        }
        let value = string_at(line, header.value);
        if value
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            return fault(format!("\"{shown}\": expected no control characters"));
        }
        if value.trim_ascii().len() != value.len() {
            return fault(format!(
                "\"{shown}\": expected no white space around the value"
            ));
        }
    }
    Ok(())
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
