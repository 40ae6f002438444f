use super::*;
use crate::config::EndpointConfig;
use crate::error::ErrorKind;

const KNOWN: [ApiPath; 5] = [
    ApiPath::ChatCompletions,
    ApiPath::Completions,
    ApiPath::Embeddings,
    ApiPath::Responses,
    ApiPath::Messages,
];

fn endpoint() -> Endpoint {
    Endpoint::resolve(&EndpointConfig {
        url: "http://localhost/v1".to_owned(),
        ..EndpointConfig::default()
    })
    .expect("a good endpoint")
}

fn judged(path: ApiPath, body: &str) -> Option<NoAnswer> {
    let classify = |glance: &Glance| {
        let headers = std::iter::empty();
        endpoint().classify_success(path, 200, headers, body.as_bytes(), glance)
    };
    let found = classify(&Glance::at(body.as_bytes()));
    if path != ApiPath::Other {
        // What a glance finds plain is an answer when looked at closely, too.
        assert_eq!(found, classify(&Glance::default()), "{path:?} {body}");
    }
    found.map(|found| *found)
}

#[test]
fn what_holds_an_answer_is_one() {
    use ApiPath::*;
    let check = |path: ApiPath, body: &str| assert_eq!(judged(path, body), None, "{path:?} {body}");
    for body in [
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c","type":"function"}]}}],"error":null}"#,
        r#"{"choices":[{"message":{"content":""},"error":null}],"status":"completed"}"#,
        r#"{"choices":[{"message":{"content":"a"}}],"base_resp":{"status_code":0,"status_msg":""}}"#,
        r#"{"choices":[{"message":{"content":"a"}}],"code":0,"message":"Success"}"#,
        // Azure's filter left nothing, or did not work: both are said beside the answer.
        r#"{"choices":[{"finish_reason":"content_filter","index":0}]}"#,
        r#"{"choices":[{"message":{"content":"a"},"content_filter_results":{"error":{"code":"content_filter_error","message":"down"}}}]}"#,
        r#"{"choices":[{"message":{"content":"{\"error\":{\"code\":429}}"}}]}"#,
        r#"{"choices":[{"message":{"tool_calls":[{"function":{"arguments":{"error":1}}}]}}]}"#,
        // An error beside an answer: the answer is there.
        r#"{"choices":[{"message":{"content":"a"}}],"error":{"message":"a warning"}}"#,
        // Wrapped by a gateway; answers of other APIs on the same path.
        r#"{"code":200,"msg":"ok","data":{"choices":[{"message":{"content":"a"}}]},"success":true}"#,
        r#"{"id":"as-1","object":"chat.completion","result":"a","is_truncated":false}"#,
        r#"{"message":{"role":"assistant","content":"a"},"done":true}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#,
        r#"[{"generated_text":"a"}]"#,
        r#"  {"choices": [ {"text": "a"} ] }  "#,
    ] {
        check(ChatCompletions, body);
    }
    check(
        Completions,
        r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#,
    );
    check(
        Embeddings,
        r#"{"object":"list","data":[{"object":"embedding","embedding":[0.1],"index":0}]}"#,
    );
    check(Embeddings, r#"{"data":[{"embedding":"AAAA","index":0}]}"#);
    check(Embeddings, r#"{"embedding":[0.1]}"#);
    check(Embeddings, "[[0.1,0.2]]");
    check(
        Responses,
        r#"{"object":"response","status":"completed","error":null,"output":[{"type":"message","content":[]}]}"#,
    );
    check(
        Responses,
        r#"{"object":"response","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[]}"#,
    );
    check(
        Responses,
        r#"{"object":"response","status":"queued","background":true,"output":[]}"#,
    );
    check(
        Messages,
        r#"{"type":"message","content":[{"type":"text","text":"a"}],"stop_reason":"end_turn"}"#,
    );
    check(
        Messages,
        r#"{"type":"message","content":[],"stop_reason":"end_turn"}"#,
    );
}

#[test]
fn other_paths_have_answers_of_any_shape() {
    let check = |body: &str, is_answer: bool| {
        assert_eq!(judged(ApiPath::Other, body).is_none(), is_answer, "{body}");
    };
    check(
        r#"{"id":"modr-1","model":"m","results":[{"flagged":false}]}"#,
        true,
    );
    check(
        r#"{"created":1,"data":[{"url":"https://example.com/a.png"}]}"#,
        true,
    );
    check(
        r#"{"id":"b","object":"batch","errors":null,"status":"failed"}"#,
        true,
    );
    check("{}", true);
    check("[]", true);
    check("null", true);
    check(r#"{"choices":[]}"#, true);
    check(r#"{"error":0.05}"#, true);
    check(r#"{"error":null,"value":1}"#, true);
    check(r#"{"error":"none","value":1}"#, true);
    check(r#"{"error":{"message":"partly"},"results":[1]}"#, true);
    check(r#"{"error":{"mean":0.1,"deviation":0.2}}"#, true);
    check(r#"{"code":429,"msg":"what that is, nobody knows"}"#, true);
    check(
        r#"{"error":{"message":"slow down","code":429},"user_id":"u1"}"#,
        false,
    );
    check(r#"{"error":"the model is not loaded"}"#, false);
    check(r#"[{"error":{"code":503,"status":"UNAVAILABLE"}}]"#, false);
    check(
        r#"{"audio":null,"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#,
        false,
    );
}

#[test]
fn what_holds_none_is_judged_by_its_code() {
    use ErrorKind::*;
    let check = |body: &str, status: u16, kind: ErrorKind, message: &str| {
        for path in KNOWN {
            let found = judged(path, body).unwrap_or_else(|| panic!("{path:?} {body}"));
            let judged = (found.status, found.verdict.kind, &*found.verdict.message);
            assert_eq!(judged, (status, kind, message), "{path:?} {body}");
            assert!(found.verdict.retry || kind != ServerError, "{body}");
        }
    };
    // Nothing in it.
    for body in [
        r#"{"choices":[]}"#,
        r#"{"choices": [ ] }"#,
        r#"{"choices":null}"#,
        r#"{"choices":{}}"#,
        r#"{"choices":[null]}"#,
        r#"{"choices":[{"index":0,"message":null,"finish_reason":null}]}"#,
        r#"{"id":"c1","object":"chat.completion","choices":[],"usage":{"total_tokens":3}}"#,
        r#"{"object":"list","data":[]}"#,
        r#"{"data":null}"#,
        r#"{"object":"response","status":"completed","output":[]}"#,
        r#"{"type":"message","role":"assistant","content":[],"stop_reason":null}"#,
        "{}",
        "[]",
        "null",
        "7",
        "\"\"",
        "[null]",
    ] {
        check(body, 500, ServerError, "HTTP 200 without an answer");
    }
    // Errors in the place of an answer.
    let error = |body: &str, status: u16, kind: ErrorKind, text: &str| {
        check(
            body,
            status,
            kind,
            &format!("HTTP 200 with an error: {text}"),
        );
    };
    for body in [
        r#"{"id":null,"choices":null,"usage":null,"error":{"message":"no room upstream","code":429}}"#,
        "   \n\n  {\"error\":{\"message\":\"no room upstream\",\"code\":\"429\"}}",
        r#"{"error":{"message":"no room upstream","code":"rate_limit_exceeded"}}"#,
        r#"{"error":{"message":"no room upstream","type":"rate_limit_error"},"choices":[]}"#,
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"no room upstream"}}"#,
        r#"{"object":"error","message":"no room upstream","code":429}"#,
        r#"{"object":"response","status":"failed","error":{"code":"rate_limit_exceeded","message":"no room upstream"},"output":[]}"#,
        r#"{"success":false,"code":429,"message":"no room upstream"}"#,
        r#"{"code":"Throttling.RateQuota","message":"no room upstream","request_id":"r","status":"error"}"#,
        r#"{"code":429,"msg":"no room upstream","data":null}"#,
        r#"{"result":null,"success":false,"errors":[{"code":429,"message":"no room upstream"}]}"#,
        r#"{"base_resp":{"status_code":1002,"status_msg":"no room upstream"},"choices":null}"#,
        r#"{"base_resp":{"status_code":1039,"status_msg":"no room upstream"}}"#,
        r#"{"error_code":18,"error_msg":"no room upstream"}"#,
        r#"{"error":{"code":"1302","message":"no room upstream"}}"#,
        r#"[{"error":{"code":429,"message":"no room upstream","status":"RESOURCE_EXHAUSTED"}}]"#,
        r#"{"choices":[{"error":{"code":429,"message":"no room upstream"},"message":{"content":"a"}}]}"#,
        r#"{"choices":[{"message":{"content":"a"}},{"message":{"content":""},"error":{"code":429,"message":"no room upstream"}}]}"#,
    ] {
        error(body, 429, RateLimited, "no room upstream");
    }
    error(
        r#"{"error":{"message":"gone","code":404},"user_id":"u1"}"#,
        404,
        NotFound,
        "gone",
    );
    error(
        r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#,
        400,
        BadRequest,
        "m",
    );
    error(
        r#"{"error":{"message":"m","type":"invalid_request_error","code":null}}"#,
        400,
        BadRequest,
        "m",
    );
    error(
        r#"{"error":{"message":"m","type":"insufficient_quota"}}"#,
        429,
        QuotaExhausted,
        "m",
    );
    error(
        r#"{"base_resp":{"status_code":1008,"status_msg":"m"}}"#,
        402,
        QuotaExhausted,
        "m",
    );
    error(
        r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
        529,
        ServerError,
        "m",
    );
    error(
        r#"{"error":{"message":"m","type":"authentication_error"}}"#,
        401,
        Auth,
        "m",
    );
    error(
        r#"{"error":{"message":"m","code":504}}"#,
        504,
        ServerError,
        "m",
    );
    error(
        r#"{"error":{"message":"m","type":"timeout_error"}}"#,
        408,
        Timeout,
        "m",
    );
    error(
        r#"{"error":{"message":"Error code: 503 - busy"}}"#,
        503,
        ServerError,
        "Error code: 503 - busy",
    );
    // Without a code it is the server's, and may pass.
    error(r#"{"error":{"message":"m"}}"#, 500, ServerError, "m");
    error(r#"{"error":"m"}"#, 500, ServerError, "m");
    error(
        r#"{"error":"429 Too Many Requests"}"#,
        429,
        RateLimited,
        "429 Too Many Requests",
    );
    error(r#"{"error":"503: busy"}"#, 503, ServerError, "503: busy");
    error(
        r#"{"error":"429 tokens missing"}"#,
        500,
        ServerError,
        "429 tokens missing",
    );
    error(
        r#"{"base_resp":{"status_code":1000,"status_msg":"m"}}"#,
        500,
        ServerError,
        "m",
    );
    error(
        r#"{"choices":[{"message":{"content":"a"},"error":{"message":"m"}}]}"#,
        500,
        ServerError,
        "m",
    );
    error(
        r#"{"error":{"message":"half \ud83d of it","code":400}}"#,
        400,
        BadRequest,
        "half \u{fffd} of it",
    );
    let silent = "HTTP 200 with an error that has no message";
    check(
        r#"{"choices":[{"finish_reason":"error","message":{"content":"a"}}]}"#,
        500,
        ServerError,
        silent,
    );
    check(
        r#"{"choices":[{"text":"","finish_reason": "error"}]}"#,
        500,
        ServerError,
        silent,
    );
    check(r#"{"success":false}"#, 500, ServerError, silent);
    check(
        r#"{"detail":"Not Found"}"#,
        500,
        ServerError,
        "HTTP 200 without an answer: Not Found",
    );
}
