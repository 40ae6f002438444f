use super::*;
use crate::config::EndpointConfig;

const KEY: &str = "sk-test-1234567890";

fn endpoint() -> Endpoint {
    Endpoint::resolve(&EndpointConfig {
        url: "https://user-less.example/v1".to_owned(),
        api_key: Some(KEY.into()),
        ..EndpointConfig::default()
    })
    .unwrap()
}

fn classify(status: u16, headers: &[(&str, &str)], body: &str) -> Verdict {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    endpoint().classify(status, headers, body.as_bytes())
}

fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::None => "none",
        Effect::Transient => "transient",
        Effect::RateLimited => "rate_limited",
        Effect::Refused { what, .. } => match what {
            Refusal::Transport => "transport",
            Refusal::Key => "key",
            Refusal::Request => "request",
            Refusal::Path => "path",
            Refusal::Model => "model",
        },
        Effect::Exhausted { .. } => "exhausted",
    }
}

#[test]
fn a_status_alone_decides_like_the_table() {
    use ErrorKind::*;
    let check = |status: u16, kind: ErrorKind, retry: bool, effect: &str| {
        let verdict = classify(status, &[], "");
        assert_eq!(
            (verdict.kind, verdict.retry, effect_name(&verdict.effect)),
            (kind, retry, effect),
            "{status}"
        );
    };
    check(200, NotJson, true, "transient");
    check(204, NotJson, true, "transient");
    for status in [301, 302, 303, 304, 307, 308] {
        check(status, Redirect, false, "path");
    }
    for status in [400, 406, 410, 411, 413, 414, 415, 422, 424, 431, 451] {
        check(status, BadRequest, false, "none");
    }
    check(401, Auth, true, "key");
    check(402, QuotaExhausted, false, "exhausted");
    check(403, Auth, false, "request");
    check(404, NotFound, false, "path");
    check(405, BadRequest, false, "path");
    check(408, Timeout, true, "transient");
    check(409, BadRequest, true, "none");
    check(425, BadRequest, true, "none");
    check(429, RateLimited, true, "rate_limited");
    for status in [503, 529] {
        check(status, ServerError, true, "rate_limited");
    }
    for status in [498, 499, 500, 501, 502, 504, 520, 599] {
        check(status, ServerError, true, "transient");
    }
    check(199, Protocol, true, "transient");
    check(600, Protocol, true, "transient");
}

#[test]
fn codes_in_the_body_tell_no_money_from_slow_down() {
    let check = |status: u16, body: &str, kind: ErrorKind, retry: bool, effect: &str| {
        let verdict = classify(status, &[], body);
        assert_eq!(
            (verdict.kind, verdict.retry, effect_name(&verdict.effect)),
            (kind, retry, effect),
            "{status} {body}"
        );
    };
    let exhausted = |status: u16, body: &str| {
        check(status, body, ErrorKind::QuotaExhausted, false, "exhausted")
    };
    exhausted(
        429,
        r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
    );
    exhausted(
        429,
        r#"{"error":{"message":"x","type":"insufficient_quota","code":null}}"#,
    );
    exhausted(
        429,
        r#"{"error":{"message":"x","code":"credit_balance_exhausted"}}"#,
    );
    exhausted(
        429,
        r#"{"error":{"message":"x","code":"enforced_spend_limit_reached"}}"#,
    );
    exhausted(429, r#"{"code":"insufficient_quota","message":"x"}"#);
    exhausted(
        403,
        r#"{"error":{"message":"x","code":"insufficient_quota"}}"#,
    );
    exhausted(
        400,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
    );
    exhausted(
        429,
        r#"[{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}]"#,
    );

    let too_large = |message: &str| {
        let body = serde_json::json!({"error": {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}});
        check(
            429,
            &body.to_string(),
            ErrorKind::RateLimited,
            false,
            "none",
        );
    };
    too_large(
        "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 45000. \
         The input or output tokens must be reduced in order to run successfully.",
    );
    too_large("request too large for model `llama-3` on tokens per minute (TPM)");
    too_large(
        "litellm.RateLimitError: OpenAIException - Too much on TPM: Limit 30000, Requested 45000.",
    );
    too_large("Rate limit reached on TPM: Limit 30000, Used 12, Requested 30001.");

    let slow_down = |body: &str| check(429, body, ErrorKind::RateLimited, true, "rate_limited");
    slow_down(
        r#"{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"45.8s"}]}}"#,
    );
    slow_down(
        r#"{"error":{"message":"Rate limit reached … on requests per day (RPD) … try again in 7m12s","type":"requests","code":"rate_limit_exceeded"}}"#,
    );
    slow_down(r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#);
    slow_down(
        r#"{"error":{"message":"Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29500, Requested 1500. Please try again in 2s.","type":"tokens","code":"rate_limit_exceeded"}}"#,
    );
    slow_down(
        r#"{"error":{"message":"Limit 30000, Requested many. The prompt \"request too large\" was put off."}}"#,
    );
    slow_down("insufficient_quota is only mentioned here");
    exhausted(
        429,
        r#"{"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits","code":429}}"#,
    );
    exhausted(429, r#"{"error":{"code":"1113","message":"余额不足"}}"#);
    exhausted(402, r#"{"error":{"message":"Insufficient Balance"}}"#);
    exhausted(402, "<html>");
}

/// Servers repeat what they were sent: in the middle of a message, or at its start.
#[test]
fn what_quotes_the_request_means_nothing() {
    let check = |status: u16, body: &str, kind: ErrorKind, effect: &str| {
        let verdict = classify(status, &[], body);
        assert_eq!(
            (verdict.kind, effect_name(&verdict.effect), verdict.hearsay),
            (kind, effect, None),
            "{status} {body}"
        );
    };
    for message in [
        "wrong type of content, got 'answer this: 'my credit balance is too low''",
        "invalid prompt: Your credit balance is too low to access the Anthropic API.",
        "insufficient_quota is no role",
        "content 'The model `x` does not exist' is not allowed here",
    ] {
        for code in ["400", "\"invalid_request_error\"", "null"] {
            let body = format!(r#"{{"error":{{"message":"{message}","code":{code}}}}}"#);
            check(400, &body, ErrorKind::BadRequest, "none");
            check(422, &body, ErrorKind::BadRequest, "none");
            check(429, &body, ErrorKind::RateLimited, "rate_limited");
            check(403, &body, ErrorKind::Auth, "request");
        }
    }
    // By words alone, which the request may say, too: whoever has it decides.
    let words = r#"{"error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#;
    let verdict = classify(400, &[], words);
    assert_eq!(verdict.hearsay, Some("your credit balance is too low"));
}

#[test]
fn a_404_is_of_a_model_of_an_object_or_of_a_path() {
    let check = |body: &str, effect: &str| {
        let verdict = classify(404, &[], body);
        assert_eq!(verdict.kind, ErrorKind::NotFound, "{body}");
        assert_eq!(effect_name(&verdict.effect), effect, "{body}");
        assert!(!verdict.retry, "{body}");
    };
    for body in [
        r#"{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
        r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
        r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}"#,
        r#"{"object":"error","message":"The model `m` does not exist.","type":"NotFoundError","param":null,"code":404}"#,
        r#"{"object":"error","message":"x","type":"NotFoundError","param":"model","code":404}"#,
        r#"{"error":"model \"m\" not found, try pulling it first"}"#,
        r#"{"error":{"message":"model 'my own m' not found","type":"api_error"}}"#,
        r#"{"error":{"code":404,"message":"models/gemini-9 is not found for API version v1beta","status":"NOT_FOUND"}}"#,
        r#"{"error":{"code":404,"message":"Publisher Model `projects/p/m` was not found","status":"NOT_FOUND"}}"#,
        r#"{"error":{"message":"Unable to access model m.","type":"invalid_request_error","code":"model_not_available"}}"#,
        r#"{"code":"Some requested entity was not found","error":"The model grok-9 does not exist or your team has no access."}"#,
        r#"{"error":{"message":"Model not found, inaccessible, and/or not deployed","code":"NOT_FOUND"}}"#,
        r#"{"detail":"Model not found"}"#,
    ] {
        check(body, "model");
    }
    for body in [
        r#"{"error":{"message":"Previous response with id 'resp_1' not found.","code":"previous_response_not_found"}}"#,
        r#"{"error":{"message":"No such File object: the model.jsonl","type":"invalid_request_error","param":"id","code":null}}"#,
        r#"{"error":{"message":"File 'model' not found","type":"invalid_request_error"}}"#,
        r#"{"error":{"message":"The file model.txt does not exist","code":404}}"#,
        r#"{"error":{"message":"The model of file x does not exist","code":"file_not_found"}}"#,
    ] {
        check(body, "none");
    }
    for body in [
        r#"{"detail":"Not Found"}"#,
        "404 page not found",
        "<html><body><h1>404 Not Found</h1></body></html>",
        "",
        "{}",
        r#"{"error":{"code":"404","message":"Resource not found"}}"#,
        r#"{"error":{"message":"Invalid URL (POST /v1/chat/completionz)","type":"invalid_request_error","param":null,"code":null}}"#,
        r#"{"error":{"message":"Unknown request URL: POST /x. Our models are at /v1","type":"invalid_request_error","code":"unknown_url"}}"#,
        r#"{"type":"error","error":{"type":"not_found_error","message":"Not found"}}"#,
        r#"{"error":{"message":"No route for a model","type":"None","param":"None","code":"404"}}"#,
    ] {
        check(body, "path");
    }
}

#[test]
fn a_400_may_be_of_a_model() {
    let check = |body: &str, kind: ErrorKind, effect: &str| {
        let verdict = classify(400, &[], body);
        let seen = (verdict.kind, verdict.retry, effect_name(&verdict.effect));
        assert_eq!(seen, (kind, false, effect), "{body}");
    };
    for body in [
        r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
        r#"{"error":{"message":"foo/bar is not a valid model ID","code":400}}"#,
        r#"{"object":"error","message":"Invalid model: foo","type":"invalid_model","param":null,"code":"1500"}"#,
        r#"{"error":{"message":"Invalid model 'foo'. Permitted models are …","type":"invalid_model","code":400}}"#,
        r#"{"error":{"message":"The model `x` has been decommissioned and is no longer supported.","code":"model_decommissioned"}}"#,
        r#"{"error":{"message":"Invalid model name passed in model=x","type":"None","param":"None","code":"400"}}"#,
        r#"{"message":"The provided model identifier is invalid.","type":"ValidationException"}"#,
        r#"{"error":{"code":"unknown_model","message":"Unknown model: x"}}"#,
    ] {
        check(body, ErrorKind::NotFound, "model");
    }
    for body in [
        r#"{"error":{"message":"This model's maximum context length is 4096 tokens","code":"context_length_exceeded","param":"messages"}}"#,
        r#"{"error":{"message":"The model `x` does not exist in this enumeration","code":"invalid_enum"}}"#,
        r#"{"error":{"message":"model: String should have at least 1 character","type":"invalid_request_error"}}"#,
        r#"{"error":{"message":"bad","code":"invalid_value","param":"model"}}"#,
    ] {
        check(body, ErrorKind::BadRequest, "none");
    }
    let no_access = r#"{"error":{"message":"Project `p` does not have access to model `m`","code":"model_not_found"}}"#;
    let verdict = classify(403, &[], no_access);
    assert_eq!(
        (verdict.kind, effect_name(&verdict.effect)),
        (ErrorKind::Auth, "model")
    );
}

#[test]
fn the_servers_own_word_on_retries_is_obeyed() {
    let check = |status: u16, word: &str, body: &str, retry: bool, effect: &str| {
        let verdict = classify(
            status,
            &[("content-type", "x"), ("X-Should-Retry", word)],
            body,
        );
        assert_eq!(
            (verdict.retry, effect_name(&verdict.effect)),
            (retry, effect),
            "{status} {word}"
        );
    };
    check(500, "false", "", false, "transient");
    check(429, "false", "", false, "rate_limited");
    check(400, "true", "", true, "none");
    check(400, " true ", "", true, "none");
    check(500, "maybe", "", true, "transient");
    // It speaks of this server; another endpoint may well take the line.
    check(401, "false", "", true, "key");
    check(404, "true", "", false, "path");
    check(
        429,
        "true",
        r#"{"error":{"code":"insufficient_quota"}}"#,
        true,
        "rate_limited",
    );
}

#[test]
fn a_google_400_for_a_bad_key_is_an_auth_failure() {
    let body = r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#;
    let verdict = classify(400, &[], body);
    assert_eq!(verdict.kind, ErrorKind::Auth);
    assert_eq!(
        verdict.effect,
        Effect::Refused {
            what: Refusal::Key,
            reason: "HTTP 400: API key not valid.".to_owned()
        }
    );
}

#[test]
fn messages_are_one_line_without_secrets() {
    let check = |status: u16, headers: &[(&str, &str)], body: &str, expect: &str| {
        assert_eq!(classify(status, headers, body).message, expect);
    };
    check(
        429,
        &[],
        r#"{"error":{"message":"Rate limit exceeded"}}"#,
        "HTTP 429: Rate limit exceeded",
    );
    check(
        500,
        &[],
        r#"{"error":{"message":"a\r\nb\u0000\tc"}}"#,
        "HTTP 500: a b c",
    );
    check(
        502,
        &[],
        "<html><title>502</title></html>",
        "HTTP 502: Bad Gateway",
    );
    check(529, &[], "", "HTTP 529: Overloaded");
    check(599, &[], "", "HTTP 599");
    check(
        503,
        &[],
        "no healthy upstream\n",
        "HTTP 503: no healthy upstream",
    );
    check(200, &[], "", "HTTP 200: the body is empty");
    check(200, &[], "OK", "HTTP 200: the body is not JSON: OK");
    check(
        401,
        &[],
        &format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}."}}}}"#),
        "HTTP 401: Incorrect API key provided: ***.",
    );
    check(
        302,
        &[("Location", "/login?token=abc")],
        "",
        "HTTP 302: redirects are not followed; the server points to https://user-less.example/login",
    );
    check(
        308,
        &[(
            "location",
            "https://me:secret@other.example/v1/chat?sig=1#x",
        )],
        "",
        "HTTP 308: redirects are not followed; the server points to https://other.example/v1/chat",
    );
    check(304, &[], "", "HTTP 304: Not Modified");
}

#[test]
fn a_long_message_is_cut_inside_the_bound_and_never_through_a_secret() {
    let body = format!(
        r#"{{"error":{{"message":"{}{KEY}{}"}}}}"#,
        "x".repeat(490),
        "é".repeat(400)
    );
    let message = classify(500, &[], &body).message;
    assert!(
        message.len() <= 512 && message.len() > 505,
        "{}",
        message.len()
    );
    assert!(message.ends_with("é…"), "{message}");
    assert!(
        message.contains("x***é") && !message.contains("sk-"),
        "{message}"
    );
}

#[test]
fn a_broken_stream_is_judged_by_its_kind() {
    let check = |kind: ErrorKind, retry: bool, effect: &str| {
        let error = StreamError {
            kind,
            message: format!("with {KEY}\n"),
            said: None,
        };
        let verdict = endpoint().classify_stream(200, &error).verdict;
        assert_eq!(
            (verdict.retry, effect_name(&verdict.effect)),
            (retry, effect),
            "{kind}"
        );
        assert_eq!(verdict.message, "with ***");
    };
    check(ErrorKind::Protocol, true, "transient");
    check(ErrorKind::ServerError, true, "transient");
    check(ErrorKind::Timeout, true, "transient");
    check(ErrorKind::RateLimited, true, "rate_limited");
    check(ErrorKind::QuotaExhausted, false, "exhausted");
    check(ErrorKind::Auth, true, "key");
    check(ErrorKind::BadRequest, false, "none");
    check(ErrorKind::TooLarge, false, "none");
}
