//! Codes of vendors that answer 200 whatever happens, and words of error objects, as the HTTP statuses
//! that they amount to. Pure.

/// MiniMax: `base_resp.status_code`, as its page "Error codes" lists them. 0 is success and not asked for.
pub(super) fn minimax(code: i64) -> Option<u16> {
    Some(match code {
        1001 => 408,
        // Requests, tokens and connections per minute; too steep a rise.
        1002 | 1039 | 1041 | 2045 => 429,
        1004 | 2049 => 401,
        // The balance; the usage of the plan.
        1008 | 2056 => 402,
        // Sensitive input or output, odd characters, parameters.
        1026 | 1027 | 1042..=1044 | 2013 | 2037 | 2039 | 2048 | 20132 => 400,
        2042 => 403,
        // Errors of the service, and what is not listed.
        _ => return None,
    })
}

/// Baidu Qianfan: a number as `error_code`, as its page of error codes lists them.
pub(super) fn qianfan(code: i64) -> Option<u16> {
    Some(match code {
        4 | 18 | 336_501 | 336_502 => 429,
        // Per day, and in all.
        17 | 19 => 402,
        6 | 336_004 => 403,
        13 | 14 | 15 | 110 | 111 => 401,
        3 | 336_005 => 404,
        100 | 336_001..=336_003 | 336_006..=336_008 | 336_103..=336_120 => 400,
        336_100 => 503,
        _ => return None,
    })
}

/// Zhipu (GLM): a number of four digits as `error.code`, as its page of error codes lists them.
pub(super) fn zhipu(code: i64) -> Option<u16> {
    Some(match code {
        1000..=1004 => 401,
        1110..=1112 | 1120 | 1121 | 1220 => 403,
        1113 | 1304 | 1308 => 402,
        1211 | 1221 | 1222 => 404,
        1210 | 1212..=1215 | 1231 | 1261 | 1300 | 1301 => 400,
        1302 | 1303 | 1305 => 429,
        _ => return None,
    })
}

/// What stands in a code, without case and punctuation, and the status it amounts to. The first row that fits
/// any of the codes counts: `invalid_request_error` stands beside more telling ones.
const WORDS: [(u16, &[&str]); 11] = [
    (
        402,
        &[
            "arrearage",
            "accountoverdue",
            "insufficientbalance",
            "paymentrequired",
        ],
    ),
    (
        429,
        &[
            "ratelimit",
            "toomanyrequests",
            "throttl",
            "resourceexhausted",
            "quotaexceeded",
        ],
    ),
    (529, &["overload"]),
    (
        401,
        &[
            "apikey",
            "authentication",
            "unauthenticated",
            "unauthorized",
            "invalidtoken",
        ],
    ),
    (403, &["permission", "forbidden", "accessdenied"]),
    (404, &["notfound"]),
    (408, &["timeout", "timedout", "deadlineexceeded"]),
    (503, &["unavailable"]),
    (413, &["toolarge"]),
    (
        400,
        &[
            "invalidrequest",
            "badrequest",
            "invalidprompt",
            "invalidargument",
            "invalidparam",
            "contextlength",
            "contentfilter",
            "contentpolicy",
            "datainspection",
            "validation",
            "unsupported",
            "failedprecondition",
        ],
    ),
    (500, &["servererror", "internal", "apierror"]),
];

/// Words that are codes as a whole and may stand in others.
const WHOLE: [(u16, &[&str]); 1] = [(429, &["requests", "tokens"])];

/// The status that the words among `codes` amount to.
pub(super) fn of_words<'c>(codes: impl Iterator<Item = &'c str>) -> Option<u16> {
    let plain = |code: &str| -> String {
        let letters = code.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    let codes: Vec<String> = codes.map(plain).collect();
    let whole = WHOLE
        .iter()
        .find(|(_, words)| codes.iter().any(|code| words.contains(&code.as_str())));
    let within = || {
        WORDS.iter().find(|(_, words)| {
            codes
                .iter()
                .any(|code| words.iter().any(|word| code.contains(word)))
        })
    };
    whole.or_else(within).map(|(status, _)| *status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_amount_to_statuses() {
        let check = |codes: &[&str], expect: Option<u16>| {
            assert_eq!(of_words(codes.iter().copied()), expect, "{codes:?}");
        };
        check(&["rate_limit_exceeded"], Some(429));
        check(&["RateLimitReached"], Some(429));
        check(&["Throttling.RateQuota"], Some(429));
        check(&["RESOURCE_EXHAUSTED"], Some(429));
        check(&["invalid_request_error", "tokens"], Some(429));
        check(&["overloaded_error"], Some(529));
        check(&["engine_overloaded_error"], Some(529));
        check(&["invalid_request_error", "invalid_api_key"], Some(401));
        check(&["UNAUTHENTICATED"], Some(401));
        check(&["permission_error"], Some(403));
        check(&["invalid_request_error", "model_not_found"], Some(404));
        check(&["timeout_error"], Some(408));
        check(&["DEADLINE_EXCEEDED"], Some(408));
        check(&["ServiceUnavailable"], Some(503));
        check(&["request_too_large"], Some(413));
        check(&["context_length_exceeded"], Some(400));
        check(&["BadRequestError"], Some(400));
        check(&["DataInspectionFailed"], Some(400));
        check(&["Arrearage"], Some(402));
        check(&["api_error"], Some(500));
        check(&["server_error", "internal"], Some(500));
        check(&["error", "mishap"], None);
        check(&[], None);
    }
}
