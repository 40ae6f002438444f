//! Error answers in the shapes of OpenAI and Anthropic. Pure.

use serde_json::json;

/// A failure that is told to the client.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub status: u16,
    pub message: String,
    /// OpenAI's `code`; `None`: what usually comes with the status.
    pub code: Option<&'static str>,
    /// The request field at fault.
    pub field: Option<&'static str>,
}

impl Failure {
    /// What a server of this kind usually says with `status`.
    pub(super) fn of_status(status: u16) -> Self {
        let message = match status {
            401 => "Incorrect API key provided.",
            403 => "You are not allowed to use this model.",
            404 => "The requested resource does not exist.",
            408 | 504 => "The request timed out.",
            413 => "The request is too large.",
            429 => "Rate limit reached for requests.",
            500 => "The server had an error while processing your request. Sorry about that!",
            502 => "Bad gateway.",
            503 | 529 => "The engine is currently overloaded, please try again later.",
            _ => reason(status),
        };
        Self {
            status,
            message: message.to_owned(),
            code: None,
            field: None,
        }
    }

    /// A 400 that blames a field of the request.
    pub(super) fn field(field: &'static str, message: String) -> Self {
        Self {
            status: 400,
            message,
            code: None,
            field: Some(field),
        }
    }

    /// The body.
    pub(super) fn body(&self, anthropic: bool) -> Vec<u8> {
        let body = if anthropic {
            json!({"type": "error", "error": {"type": anthropic_type(self.status), "message": self.message}})
        } else {
            let (kind, code) = openai_type(self.status);
            json!({"error": {
                "message": self.message,
                "type": kind,
                "param": self.field,
                "code": self.code.or(code),
            }})
        };
        body.to_string().into_bytes()
    }
}

/// OpenAI's `type` and `code` for a status.
fn openai_type(status: u16) -> (&'static str, Option<&'static str>) {
    match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        403 => ("invalid_request_error", Some("permission_denied")),
        404 => ("invalid_request_error", Some("not_found")),
        429 => ("requests", Some("rate_limit_exceeded")),
        300..=499 => ("invalid_request_error", None),
        503 | 529 => ("server_error", Some("overloaded")),
        _ => ("server_error", None),
    }
}

/// Anthropic's `error.type` for a status.
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        300..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// The reason phrase of a status line; empty for what has none.
pub(super) fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn shapes() {
        let failure = Failure {
            message: "no".to_owned(),
            ..Failure::of_status(429)
        };
        let openai: Value = serde_json::from_slice(&failure.body(false)).unwrap();
        let expect = json!({"error": {"message": "no", "type": "requests", "param": null, "code": "rate_limit_exceeded"}});
        assert_eq!(openai, expect);
        let anthropic: Value = serde_json::from_slice(&failure.body(true)).unwrap();
        assert_eq!(
            anthropic,
            json!({"type": "error", "error": {"type": "rate_limit_error", "message": "no"}})
        );
    }

    #[test]
    fn reasons_of_known_and_unknown_statuses() {
        assert_eq!((reason(404), reason(529)), ("Not Found", ""));
    }
}
