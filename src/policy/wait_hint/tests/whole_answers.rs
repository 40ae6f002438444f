use super::*;

/// Header sets as servers have sent them (what they said is from public reports), under the status
/// they came with, and the wait that follows.
#[test]
fn whole_answers() {
    let check =
        |what: &str, status: u16, headers: &[(&str, &str)], body: &str, expect: Option<f64>| {
            let lines = headers
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()));
            let wait = parse(status, lines, body.as_bytes(), NOW_MS).wait;
            let seconds = wait.map(|wait| (wait.as_secs_f64() * 1000.0).round() / 1000.0);
            assert_eq!(seconds, expect, "{what}");
        };
    let per_day = r#"{"error":{"message":"Rate limit reached for o4-mini in organization org-x on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    check("OpenAI, per day", 429, &[], per_day, Some(432.0));
    check(
        "OpenAI, a request a minute too many",
        429,
        &[
            ("retry-after", "1"),
            ("retry-after-ms", "86"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-limit-tokens", "200000"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-remaining-tokens", "199972"),
            ("x-ratelimit-reset-requests", "8.64s"),
            ("x-ratelimit-reset-tokens", "8ms"),
        ],
        "",
        Some(8.64),
    );
    check(
        "OpenAI, a success that leaves plenty",
        200,
        &[
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "6ms"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-ratelimit-remaining-tokens", "1"),
        ],
        "",
        None,
    );
    check(
        "Azure that knows nothing",
        429,
        &[
            ("x-ratelimit-limit-tokens", "-1"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("x-ratelimit-reset-tokens", "0"),
            ("x-ratelimit-remaining-requests", "-1"),
            ("x-ms-region", "West US"),
        ],
        "",
        None,
    );
    check(
        "Azure, only the misspelt header",
        429,
        &[
            ("x-rate-limit-reset-tokens", "55"),
            ("policy-id", "DeploymentRatelimit-Token"),
            ("x-ratelimit-remaining-requests", "19"),
        ],
        "",
        Some(55.0),
    );
    check(
        "Azure, a day",
        429,
        &[("retry-after", "86400"), ("retry-after-ms", "86400000")],
        "Please retry after 86400 seconds. Please contact Azure support service",
        Some(86_400.0),
    );
    check(
        "Azure, more than a day by the header, the text believable",
        429,
        &[("retry-after", "86401")],
        "Please retry after 45 seconds.",
        Some(45.0),
    );
    check(
        "Azure, milliseconds finer than seconds",
        429,
        &[("retry-after", "0"), ("retry-after-ms", "237")],
        "",
        Some(0.237),
    );
    check(
        "Anthropic, requests used up until the next second",
        429,
        &[
            ("anthropic-ratelimit-requests-limit", "5"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-05T12:00:01Z"),
            ("anthropic-ratelimit-tokens-limit", "25000"),
            ("anthropic-ratelimit-tokens-remaining", "16000"),
            ("anthropic-ratelimit-tokens-reset", "2026-11-05T12:10:00Z"),
            ("x-should-retry", "true"),
        ],
        "",
        Some(1.0),
    );
    check(
        "Anthropic, prompt tokens used up for longer than retry-after says",
        429,
        &[
            ("anthropic-ratelimit-input-tokens-limit", "200000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            (
                "anthropic-ratelimit-input-tokens-reset",
                "2026-11-05T12:01:03Z",
            ),
            ("anthropic-ratelimit-output-tokens-remaining", "80000"),
            (
                "anthropic-ratelimit-output-tokens-reset",
                "2026-11-05T12:05:00Z",
            ),
            ("anthropic-ratelimit-requests-remaining", "4000"),
            ("anthropic-ratelimit-requests-reset", "2026-11-05T12:05:00Z"),
            ("retry-after", "16"),
        ],
        "",
        Some(63.0),
    );
    check(
        "Anthropic overloaded, without a hint",
        529,
        &[("x-should-retry", "true")],
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        None,
    );
    let gemini = r#"{"error":{"code":429,"message":"You exceeded your current quota. Quota exceeded for metric: generate_content_free_tier_requests, limit: 20\nPlease retry in 36.429760048s.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"36s"}]}}"#;
    check(
        "Gemini, sentence and RetryInfo",
        429,
        &[],
        gemini,
        Some(36.43),
    );
    check(
        "Gemini on Vertex, later",
        429,
        &[],
        r#"[{"error":{"code":429,"message":"Resource exhausted. Please try again later.","status":"RESOURCE_EXHAUSTED"}}]"#,
        None,
    );
    check(
        "Groq, tokens used up beside requests that are not",
        429,
        &[
            ("retry-after", "15"),
            ("x-ratelimit-limit-requests", "1000"),
            ("x-ratelimit-limit-tokens", "6000"),
            ("x-ratelimit-remaining-requests", "999"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-requests", "1m26.4s"),
            ("x-ratelimit-reset-tokens", "14.79s"),
        ],
        "Please try again in 14.79s.",
        Some(15.0),
    );
    check(
        "Groq over capacity",
        498,
        &[("retry-after", "2")],
        "",
        Some(2.0),
    );
    check(
        "Mistral, requests of the minute",
        429,
        &[
            ("x-ratelimit-limit-req-minute", "720"),
            ("x-ratelimit-remaining-req-minute", "0"),
            ("x-ratelimit-reset-req-minute", "23"),
            ("x-ratelimit-limit-tokens-month", "1000000"),
            ("x-ratelimit-remaining-tokens-month", "0"),
            ("x-ratelimit-reset-tokens-month", "1209600"),
            ("x-ratelimit-remaining-tokens-minute", "4999911"),
        ],
        r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","code":"1300"}"#,
        Some(23.0),
    );
    check(
        "Mistral, no figures left out but one",
        200,
        &[
            ("ratelimitbysize-limit", "500000"),
            ("ratelimitbysize-remaining", "0"),
            ("ratelimitbysize-reset", "41"),
        ],
        "",
        Some(41.0),
    );
    check(
        "a gateway by the IETF's draft",
        429,
        &[
            ("RateLimit-Limit", "100"),
            ("RateLimit-Remaining", "0"),
            ("RateLimit-Reset", "7"),
        ],
        "",
        Some(7.0),
    );
    check(
        "everything at once: the longest that can be believed",
        429,
        &[
            ("retry-after-ms", "1500"),
            ("retry-after", "Thu, 05 Nov 2026 12:00:03 GMT"),
            ("retry-after", "-1"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "4s"),
            ("x-ratelimit-remaining-requests", "3"),
            ("x-ratelimit-reset-requests", "1h"),
            ("x-rate-limit-reset-tokens", "2"),
        ],
        "Please try again in 120ms. Retry after 5 seconds. Try again in 2 days.",
        Some(5.0),
    );
}
