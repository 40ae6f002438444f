use super::*;

mod whole_answers;

/// 2026-11-05T12:00:00Z.
const NOW_MS: i64 = 1_793_880_000_000;

/// `headers` are lines of `name: value`.
fn parsed(status: u16, headers: &str, body: &str) -> WaitHint {
    let headers = headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.trim(), value.as_bytes()));
    parse(status, headers, body.as_bytes(), NOW_MS)
}

fn check(status: u16, headers: &str, body: &str, expect_ms: impl Into<Option<u64>>) {
    let wait = parsed(status, headers, body).wait;
    let expect = expect_ms.into().map(Duration::from_millis);
    let close = match (wait, expect) {
        (Some(wait), Some(expect)) => wait.abs_diff(expect) < Duration::from_millis(1),
        (wait, expect) => wait == expect,
    };
    assert!(
        close,
        "{status} {headers:?} {body:?}: {wait:?}, not {expect:?}"
    );
}

#[test]
fn retry_after_in_every_form() {
    check(429, "retry-after: 33", "", 33_000);
    check(429, "Retry-After:  7 ", "", 7000);
    check(429, "retry-after: 1.5", "", 1500);
    check(
        503,
        "retry-after: Thu, 05 Nov 2026 12:01:30 GMT",
        "",
        90_000,
    );
    check(
        503,
        "retry-after: Thursday, 05-Nov-26 12:00:10 GMT",
        "",
        10_000,
    );
    check(429, "retry-after: 86400", "", 86_400_000);
    check(429, "retry-after-ms: 1234", "", 1234);
    check(429, "retry-after-ms: 250.5\nretry-after: 1", "", 1000);
    check(429, "retry-after-ms: 2500\nretry-after: 2", "", 2500);
}

#[test]
fn a_moment_is_read_by_whichever_clock_makes_sense() {
    let moment = "retry-after: Thu, 05 Nov 2026 12:00:30 GMT";
    let reset = "anthropic-ratelimit-requests-remaining: 0\n\
                 anthropic-ratelimit-requests-reset: 2026-11-05T12:00:30Z";
    for asked in [moment, reset] {
        let with = |date: &str| format!("{asked}\nDate: {date}");
        check(429, asked, "", 30_000);
        // The server's clock is ahead of ours, which then is behind: its own difference counts.
        check(429, &with("Thu, 05 Nov 2026 12:00:20 GMT"), "", 10_000);
        // Ours is ahead: by it the moment is past.
        let late = asked.replace("12:00:30", "11:00:30");
        check(429, &late, "", None);
        check(
            429,
            &format!("date: Thu, 05 Nov 2026 11:00:25 GMT\n{late}"),
            "",
            5000,
        );
        // A date that cannot be: ours counts.
        check(429, &with("Thu, 05 Nov 2020 12:00:00 GMT"), "", 30_000);
        check(429, &with("Thu, 05 Nov 2026 12:59:00 GMT"), "", 30_000);
        check(429, &with("yesterday"), "", 30_000);
    }
}

#[test]
fn implausible_values_are_ignored() {
    for value in [
        "0",
        "-1",
        "-33",
        "NaN",
        "inf",
        "1e3",
        "",
        "soon",
        "86401",
        "99999999999999999999999999",
        "Thu, 05 Nov 2026 11:59:00 GMT",
        "Sat, 07 Nov 2026 12:00:00 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "\u{ff}\u{fe}",
        "12 12",
    ] {
        check(429, &format!("retry-after: {value}"), "", None);
        check(
            429,
            &format!("retry-after: {value}"),
            "Try again in 3s",
            3000,
        );
    }
    let invalid_utf8 = [("retry-after", &b"\xff\xfe"[..])];
    assert_eq!(
        parse(429, invalid_utf8, b"\xff try again in 2s \xff", NOW_MS).wait,
        Some(Duration::from_secs(2))
    );
    assert_eq!(parse(429, [], b"", NOW_MS), WaitHint::default());
}

#[test]
fn a_plausible_value_beats_an_implausible_one() {
    check(429, "retry-after: 90000\nretry-after-ms: 500", "", 500);
    check(429, "retry-after: 3\nretry-after-ms: -1", "", 3000);
    check(429, "retry-after: 3\nretry-after-ms: 86400001", "", 3000);
}

#[test]
fn a_success_waits_only_for_an_exhausted_quota() {
    check(200, "retry-after: 33", "Try again in 60 seconds", None);
    check(
        200,
        "x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 120ms",
        "",
        120,
    );
    check(
        200,
        "x-ratelimit-remaining-requests: 1\nx-ratelimit-reset-requests: 120ms",
        "",
        None,
    );
}

#[test]
fn a_reset_counts_only_for_its_own_exhausted_quota() {
    let resets = "x-ratelimit-reset-requests: 1s\nx-ratelimit-reset-tokens: 6m0s";
    check(429, resets, "", None);
    check(
        429,
        &format!("{resets}\nx-ratelimit-remaining-requests: 0\nx-ratelimit-remaining-tokens: 5"),
        "",
        1000,
    );
    check(
        429,
        &format!("x-ratelimit-remaining-tokens: 0\n{resets}"),
        "",
        360_000,
    );
    check(
        429,
        &format!("{resets}\nx-ratelimit-remaining-tokens: -1"),
        "",
        None,
    );
    check(
        429,
        &format!("{resets}\nx-ratelimit-limit-tokens: 0\nx-ratelimit-remaining-tokens: 0"),
        "",
        None,
    );
    check(
        429,
        &format!("{resets}\nx-ratelimit-limit-tokens: 9\nx-ratelimit-remaining-tokens: 0"),
        "",
        360_000,
    );
    check(
        429,
        "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 0",
        "",
        None,
    );
}

#[test]
fn sentences_in_error_bodies() {
    let sentences = [
        ("Please retry after 33 seconds.", 33_000),
        ("Retry after 86400 seconds", 86_400_000),
        ("Try again in 60 seconds", 60_000),
        ("please TRY AGAIN IN 120MS.", 120),
        ("Please try again in 6.5s. Visit https://…", 6500),
        ("Please try again in 1m12s.", 72_000),
        ("try again in 2 minutes", 120_000),
        ("Please try again in 1h2m3.5s", 3_723_500),
        ("Please retry in 45.837906927s.", 45_838),
        ("Too busy; retry after: 5", 5000),
        (
            "Try again in 3s, or try again in 5 seconds, or retry after 4 s",
            5000,
        ),
    ];
    for (sentence, expect) in sentences {
        check(429, "", sentence, expect);
        check(
            503,
            "",
            &format!(r#"{{"error":{{"message":"{sentence}"}}}}"#),
            expect,
        );
        check(400, "", sentence, None);
    }
    for sentence in [
        "Please retry after some time",
        "try again in a moment",
        "retry after 0 seconds",
        "retry after -5 seconds",
        "Try again in 90000 seconds",
        "retry after 3 attempts",
        "try again in",
        "retry after 2026-11-05",
        "in 5 seconds",
    ] {
        check(429, "", sentence, None);
    }
}

#[test]
fn only_the_first_64_kib_of_a_body_are_searched() {
    let body = |before: usize| format!("{}try again in 5s", " ".repeat(before));
    check(429, "", &body(body::BODY_BYTES_MAX - 20), 5000);
    check(429, "", &body(body::BODY_BYTES_MAX), None);
    let cut_in_a_character = format!("{}…", "…".repeat(body::BODY_BYTES_MAX / 3));
    check(429, "", &cut_in_a_character, None);
}

#[test]
fn should_retry() {
    let check = |value: &str, expect| {
        assert_eq!(
            parsed(500, &format!("X-Should-Retry: {value}"), "").should_retry,
            expect
        );
    };
    check("true", Some(true));
    check("False", Some(false));
    check("maybe", None);
}

#[test]
fn openai() {
    let headers = "content-type: application/json\n\
        x-ratelimit-limit-requests: 500\nx-ratelimit-limit-tokens: 30000\n\
        x-ratelimit-remaining-requests: 499\nx-ratelimit-remaining-tokens: 0\n\
        x-ratelimit-reset-requests: 120ms\nx-ratelimit-reset-tokens: 6m0s\n\
        retry-after: 20\nretry-after-ms: 20012\nx-should-retry: true\nx-request-id: req_1";
    let body = r#"{"error": {"message": "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s. Visit https://platform.openai.com/account/rate-limits to learn more.", "type": "tokens", "param": null, "code": "rate_limit_exceeded"}}"#;
    check(429, headers, body, 360_000);
    let hint = parsed(429, headers, body);
    assert_eq!(hint.should_retry, Some(true));
    let requests = Quota {
        limit: Some(500),
        remaining: Some(499),
        reset: Some(Duration::from_millis(120)),
    };
    assert_eq!(hint.requests, requests);
    let tokens = Quota {
        limit: Some(30_000),
        remaining: Some(0),
        reset: Some(Duration::from_secs(360)),
    };
    assert_eq!(hint.tokens, tokens);
}

#[test]
fn azure() {
    check(429, "x-rate-limit-reset-tokens: 55", "", 55_000);
    check(
        429,
        "x-rate-limit-reset-tokens: 55\nx-ratelimit-remaining-tokens: 0",
        "",
        55_000,
    );
    check(
        429,
        "x-rate-limit-reset-tokens: 55\nx-ratelimit-remaining-tokens: 120",
        "",
        None,
    );
    check(200, "x-rate-limit-reset-tokens: 55", "", None);
    check(
        200,
        "x-rate-limit-reset-tokens: 55\nx-ratelimit-remaining-tokens: 0",
        "",
        55_000,
    );
    let unknown = "x-ratelimit-limit-tokens: -1\nx-ratelimit-remaining-tokens: -1\nx-ratelimit-remaining-requests: 19";
    let body = r#"{"error":{"code":"429","message": "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-02-01 have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 26 seconds. Please go here: https://aka.ms/oai/quotaincrease"}}"#;
    check(
        429,
        &format!("retry-after: 26\nretry-after-ms: 25900\n{unknown}"),
        body,
        26_000,
    );
    check(429, unknown, body, 26_000);
}

#[test]
fn anthropic() {
    let headers = "anthropic-ratelimit-requests-limit: 50\nanthropic-ratelimit-requests-remaining: 49\n\
        anthropic-ratelimit-requests-reset: 2026-11-05T12:00:01Z\n\
        anthropic-ratelimit-input-tokens-limit: 40000\nanthropic-ratelimit-input-tokens-remaining: 0\n\
        anthropic-ratelimit-input-tokens-reset: 2026-11-05T12:00:42.5Z\n\
        anthropic-ratelimit-output-tokens-limit: 8000\nanthropic-ratelimit-output-tokens-remaining: 0\n\
        anthropic-ratelimit-output-tokens-reset: 2026-11-05T13:00:12+01:00\n\
        anthropic-ratelimit-tokens-remaining: 0\nanthropic-ratelimit-tokens-reset: 2026-11-05T11:00:00Z\n\
        retry-after: 14\nx-should-retry: true";
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 40,000 input tokens per minute."}}"#;
    check(429, headers, body, 42_500);
    let hint = parsed(429, headers, body);
    assert_eq!(hint.output_tokens.reset, Some(Duration::from_secs(12)));
    assert_eq!(hint.tokens.reset, None, "a date in the past");
    assert_eq!(
        (hint.requests.remaining, hint.requests.limit),
        (Some(49), Some(50))
    );
}

#[test]
fn gemini() {
    let body = r#"{"error":{"code":429,"message":"You exceeded your current quota. Please retry in 45.837906927s.","status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"15"}]},
        {"@type":"type.googleapis.com/google.rpc.Help","links":[]},
        {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"46s"}]}}"#;
    check(429, "", body, 46_000);
    check(429, "", &format!("[{body}]"), 46_000);
    let other = r#"{"@type":"type.googleapis.com/other","retryDelay":"46s"}"#;
    check(429, "", other, None);
    check(
        503,
        "",
        r#"{"@type":"google.rpc.RetryInfo","retryDelay":"45.5s"}"#,
        45_500,
    );
    check(
        429,
        "",
        r#"{"@type":"google.rpc.RetryInfo","retryDelay":46}"#,
        None,
    );
    check(
        429,
        "",
        r#"{"@type":"google.rpc.RetryInfo","retryDelay":"46s""#,
        None,
    );
}

#[test]
fn groq() {
    let headers = "retry-after: 2\nx-ratelimit-limit-requests: 14400\nx-ratelimit-limit-tokens: 18000\n\
        x-ratelimit-remaining-requests: 14370\nx-ratelimit-remaining-tokens: 0\n\
        x-ratelimit-reset-requests: 2m59.56s\nx-ratelimit-reset-tokens: 7.66s";
    let body = r#"{"error":{"message":"Rate limit reached for model `llama3-70b-8192` on tokens per minute (TPM): Limit 6000, Used 0, Requested 12903. Please try again in 1m9.03s.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    check(429, headers, body, 69_030);
    check(200, headers, "", 7660);
}

#[test]
fn mistral_and_openrouter() {
    let headers = "ratelimitbysize-limit: 500000\nratelimitbysize-remaining: 0\nratelimitbysize-reset: 35\n\
        x-ratelimitbysize-remaining-month: 0\nratelimitbysize-query-cost: 32";
    check(
        429,
        headers,
        r#"{"message":"Requests rate limit exceeded"}"#,
        35_000,
    );
    check(
        200,
        "ratelimitbysize-remaining: 12\nratelimitbysize-reset: 35",
        "",
        None,
    );
    let epoch_ms =
        "X-RateLimit-Limit: 20\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1793880030000";
    check(429, epoch_ms, "", 30_000);
    check(
        429,
        "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1793880031",
        "",
        31_000,
    );
    check(
        429,
        "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1793879000",
        "",
        None,
    );
}

#[test]
fn other_headers_say_nothing() {
    check(
        429,
        "x-ratelimit-remaining-images: 0\nx-ratelimit-reset-images: 9s",
        "",
        None,
    );
    check(
        429,
        "x-ratelimit-: 0\nx-ratelimit-reset: \nretry: 5\nx-retry-after: 5\nage: 5\nré: 1",
        "",
        None,
    );
}

#[test]
fn fields_of_error_bodies() {
    let bodies = [
        (
            r#"{"error":{"message":"Rate limited","code":429,"retry_after":2}}"#,
            2000,
        ),
        (r#"{"error":{"retry_after":"2.5"}}"#, 2500),
        (r#"{"retry_after":"2s"}"#, 2000),
        (r#"{"retryAfter":3}"#, 3000),
        (r#"{"error":"busy","retry-after":3}"#, 3000),
        (r#"{"detail":{"retry_after_seconds":4}}"#, 4000),
        (r#"{"error":{"details":[{"retry_after_ms":1500}]}}"#, 1500),
        (r#"{"retryAfterMs":"250"}"#, 250),
        (
            r#"{"error":"Model x is currently loading","estimated_time":20.5}"#,
            20_500,
        ),
        (r#"{"retry_after":"Thu, 05 Nov 2026 12:00:30 GMT"}"#, 30_000),
        (r#"{"retry_after":"2026-11-05T12:00:07Z"}"#, 7000),
        (r#"{"retry_after":1793880009}"#, 9000),
        (
            r#"{"error":{"code":429,"metadata":{"headers":{"X-RateLimit-Limit":"20","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1793880030000"}}}}"#,
            30_000,
        ),
        (
            r#"{"error":{"metadata":{"headers":{"Retry-After":5}}}}"#,
            5000,
        ),
        (
            r#"{"error":{"metadata":{"headers":{"retry-after":["6"]}}}}"#,
            6000,
        ),
    ];
    for (body, expect) in bodies {
        check(429, "", body, expect);
        check(503, "", body, expect);
        check(429, "retry-after: 1", body, expect.max(1000));
        check(400, "", body, None);
    }
    for body in [
        r#"{"retry_after":null}"#,
        r#"{"retry_after":-1}"#,
        r#"{"retry_after":0}"#,
        r#"{"retry_after":90000}"#,
        r#"{"retry_after":{"a":1}}"#,
        r#"{"retry_after":true}"#,
        r#"{"retries_after":5}"#,
        r#"{"headers":{"X-RateLimit-Remaining":"3","X-RateLimit-Reset":"1793880030000"}}"#,
        r#"{"retry_after":2"#,
    ] {
        check(429, "", body, None);
    }
}

#[test]
fn sentences_of_other_servers() {
    let sentences = [
        ("Please wait 20 seconds before retrying", 20_000),
        ("please wait for 1m12s.", 72_000),
        ("You need to wait about 2 minutes", 120_000),
        ("Too fast: waiting at least 3s helps", 3000),
        ("Quota resets in 5s", 5000),
        ("The limit will reset after 5s", 5000),
        ("Your quota will reset after 1h2m3s.", 3_723_000),
        ("Please retry your request after 7 seconds", 7000),
        ("Please try your request again in about 4 seconds", 4000),
        ("capacity is available in ~9s", 9000),
        ("Limit resets at: 2026-11-05 12:00:30 UTC", 30_000),
        (
            "Limit resets at 2026-11-05T13:00:30.5+01:00, be patient",
            30_500,
        ),
        ("Try again at 2026-11-05T12:00:08Z.", 8000),
    ];
    for (sentence, expect) in sentences {
        let body = format!(r#"{{"error":{{"message":"{sentence}"}}}}"#);
        check(429, "", sentence, expect);
        check(529, "", &body, expect);
        check(400, "", &body, None);
    }
    for sentence in [
        "please wait",
        "wait 3 requests",
        "wait 5",
        "waited 20 seconds for an answer",
        "resets in the evening",
        "Limit resets at: 2026-11-05",
        "resets at 2026-13-05 12:00:30",
        "Limit resets at 2026-11-05 11:00:30 UTC",
        "resets at …………………………………………",
    ] {
        check(429, "", sentence, None);
    }
}

#[test]
fn lists_of_the_newer_draft() {
    check(429, "RateLimit: \"default\";r=0;t=2", "", 2000);
    check(200, "ratelimit: \"default\";r=0;t=2", "", 2000);
    check(200, "ratelimit: \"default\";r=5;t=2", "", None);
    check(429, "ratelimit: \"a\";r=5;t=60, \"b\";r=0;t=3", "", 3000);
    check(
        429,
        "ratelimit: \"a\"; t=4; r=0; pk=:cHsdsRa894==:",
        "",
        4000,
    );
    check(429, "ratelimit: limit=100, remaining=0, reset=5", "", 5000);
    check(429, "ratelimit: limit=100, remaining=3, reset=5", "", None);
    check(
        429,
        "ratelimit: \"a\";r=5;t=60\nratelimit: \"b\";r=0;t=3",
        "",
        3000,
    );
    check(429, "ratelimit-policy: \"default\";q=100;w=10", "", None);
    for garbage in [
        "",
        ";",
        "=",
        "\"a\";r;t",
        "\"a\";r=0;t=x",
        ",,;=,",
        "r=0;t=2",
    ] {
        check(429, &format!("ratelimit: {garbage}"), "", None);
    }
}

#[test]
fn families_of_headers_are_kept_apart() {
    let plenty = "ratelimit-limit: 6000\nratelimit-remaining: 5900\nratelimit-reset: 30";
    let used_up = "x-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 2s";
    let left = "x-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 98\nx-ratelimit-reset-requests: 1s";
    let both = |one: &str, other: &str| [format!("{one}\n{other}"), format!("{other}\n{one}")];
    for headers in both(used_up, plenty) {
        check(200, &headers, "", 2000);
        let requests = parsed(200, &headers, "").requests;
        assert_eq!((requests.limit, requests.remaining), (Some(100), Some(0)));
    }
    // A gateway's limit beside a provider's rest would look like a quota that runs low.
    for headers in both(left, plenty) {
        check(200, &headers, "", None);
        let requests = parsed(200, &headers, "").requests;
        let figures = (requests.limit, requests.remaining);
        assert!(
            figures == (Some(100), Some(98)) || figures == (Some(6000), Some(5900)),
            "{figures:?}"
        );
    }
    // Who runs low counts before who has more, whatever the order.
    let low = "x-ratelimit-limit: 1000\nx-ratelimit-remaining: 20\nx-ratelimit-reset: 10";
    for headers in both(low, plenty) {
        assert_eq!(parsed(200, &headers, "").requests.remaining, Some(20));
    }
    for (headers, expect) in [
        // The same names twice, as fields or put together on the way.
        (format!("{used_up}\nx-ratelimit-limit-requests: 6000\nx-ratelimit-remaining-requests: 5900\nx-ratelimit-reset-requests: 30"), Some(2000)),
        ("x-ratelimit-remaining-requests: 5900, 0\nx-ratelimit-reset-requests: 30s, 2s".to_owned(), Some(2000)),
        // Per minute and per day, per key and per model, prompt and generated.
        ("x-ratelimit-remaining-requests-day: 0\nx-ratelimit-reset-requests-day: 3600\nx-ratelimit-remaining-tokens-minute: 9\nx-ratelimit-reset-tokens-minute: 9".to_owned(), Some(3_600_000)),
        ("x-ratelimit-remaining-minute: 3\nx-ratelimit-remaining-hour: 0\nratelimit-reset: 40\nratelimit-remaining: 0".to_owned(), Some(40_000)),
        ("x-ratelimit-model_per_key-remaining-tokens: 0\nx-ratelimit-model_per_key-reset-tokens: 3\nx-ratelimit-remaining-tokens: 50".to_owned(), Some(3000)),
        ("x-ratelimit-remaining-tokens-prompt: 0\nx-ratelimit-reset-tokens-prompt: 4s\nx-ratelimit-remaining-tokens-generated: 9".to_owned(), Some(4000)),
        // One reset for the whole family.
        ("x-ratelimit-remaining-requests: 0\nx-ratelimit-reset: 5".to_owned(), Some(5000)),
        ("x-tokenlimit-limit: 10\nx-tokenlimit-remaining: 0\nx-tokenlimit-reset: 6".to_owned(), Some(6000)),
        // The provider's, passed on by a gateway under names of its own.
        ("llm_provider-x-ratelimit-remaining-requests: 0\nllm_provider-x-ratelimit-reset-requests: 7s\nx-ratelimit-remaining-requests: 9\nx-ratelimit-reset-requests: 1s".to_owned(), Some(7000)),
        // A limit with its policies; a reset that is a date.
        ("ratelimit-limit: 10, 10;w=1, 50;w=60\nratelimit-remaining: 0\nratelimit-reset: 8".to_owned(), Some(8000)),
        ("x-ratelimit-remaining: 0\nx-ratelimit-reset: Thu, 05 Nov 2026 12:00:09 GMT".to_owned(), Some(9000)),
        ("x-ratelimit-remaining-requests: 0\nx-ratelimit-used: 9\nx-ratelimit-resource: core".to_owned(), None),
    ] {
        check(429, &headers, "", expect);
        check(200, &headers, "", expect);
    }
}

#[test]
fn more_quotas_than_are_kept_are_passed_over() {
    let many = "x-ratelimit-remaining-requests: 5\n".repeat(100);
    let last = "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 5s";
    check(200, &format!("{last}\n{many}"), "", 5000);
    check(200, &format!("{many}{last}"), "", None);
    let values = "0,".repeat(10_000);
    check(200, &format!("x-ratelimit-remaining: {values}"), "", None);
}
