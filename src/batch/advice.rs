//! What would help against a failure, for people who have never seen one of its kind. Pure.

use crate::error::ErrorKind;
use crate::metrics::FailureTally;

/// One clause for the most frequent failure of a run.
pub fn what_helps(failure: &FailureTally) -> &'static str {
    let kind = ErrorKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == failure.kind);
    let Some(kind) = kind else {
        return "the error file has each line's own message";
    };
    match (kind, failure.status) {
        (ErrorKind::InvalidInput, _) => {
            "mend these lines of the input: each must be one JSON object that is a request (--dry-run lists them)"
        }
        (ErrorKind::Connect, _) => {
            "see whether the server runs and the URL is right (host, port, http or https, proxy); then run the same command again"
        }
        (ErrorKind::Tls, _) => {
            "use an https:// URL for a server that speaks TLS and http:// for one that does not; --ca-file trusts a certificate of your own"
        }
        (ErrorKind::Timeout, _) => {
            "give each attempt more time (--timeout), or have fewer requests in flight (--workers)"
        }
        (ErrorKind::RateLimited, _) => {
            "send less at a time (--rate auto, or a smaller --rate and --workers), or ask the provider for a higher limit; \
             --retry-errors sends these lines again"
        }
        (ErrorKind::QuotaExhausted, _) => {
            "add money or quota to the account, or configure another endpoint; then run the same command again"
        }
        (ErrorKind::Auth, Some(401)) if failure.example.without_key => {
            "no key was sent: put one into BLAZE_API_KEY, or into `api_key` in the config file"
        }
        (ErrorKind::Auth, Some(401)) => {
            "the server does not take the key: check BLAZE_API_KEY or `api_key` in the config file, and that the key is this server's"
        }
        (ErrorKind::Auth, _) => {
            "the server refuses it to this account: see whether the key may use this model and path, and what the text says of the request"
        }
        (ErrorKind::NotFound, _) => {
            "check the URL's path and the model's name; --dry-run shows where each kind of line goes"
        }
        (ErrorKind::BadRequest, _) => {
            "the server refuses the request itself: compare the example line with its documentation (fields, model, length)"
        }
        (ErrorKind::ServerError, _) => {
            "the trouble is the server's; --retry-errors sends these lines again later, --max-attempts tries longer"
        }
        (ErrorKind::NotJson, _) => {
            "the answer is no JSON: see whether the URL leads to an API and not to a web page or a proxy"
        }
        (ErrorKind::TooLarge, _) => {
            "raise --max-line-bytes or --max-response-bytes, or split what is so large"
        }
        (ErrorKind::Redirect, _) => {
            "put the address that the server names into the URL; redirects are not followed"
        }
        (ErrorKind::Protocol, _) => {
            "the answer broke off or is not proper HTTP: see whether a proxy or the server closes connections; --retry-errors sends these lines again"
        }
        (ErrorKind::Cancelled, _) => "run the same command again with --retry-errors",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Failed, FailureExample, Failures};

    #[track_caller]
    fn helps(kind: ErrorKind, status: Option<u16>, without_key: bool) -> &'static str {
        let mut failures = Failures::default();
        let message = "text";
        let failed = Failed {
            kind,
            status,
            message,
        };
        failures.line(failed, || FailureExample {
            without_key,
            ..FailureExample::default()
        });
        what_helps(failures.most_frequent().expect("one"))
    }

    #[test]
    fn every_kind_has_its_advice() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in ErrorKind::ALL {
            assert!(seen.insert(helps(kind, None, false)), "{kind}");
        }
        for (status, without_key, says) in [
            (Some(401), true, "no key was sent"),
            (Some(401), false, "does not take the key"),
            (Some(403), true, "may use this model"),
        ] {
            let help = helps(ErrorKind::Auth, status, without_key);
            assert!(help.contains(says), "{status:?}: {help}");
            // The same command would meet the same key.
            assert!(!help.contains("same command"), "{help}");
        }
    }
}
