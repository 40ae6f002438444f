//! Config files that are malformed, or hold what cannot be used.

use crate::{Case, ENDPOINT, SECRET, check, config, configured, endpoint};

#[test]
fn malformed_config_files() {
    check(vec![
        Case::new("missing", 1, &configured("none.json"), &["none.json"]),
        Case::new("a directory", 1, &configured("."), &["config file"]),
        Case::new(
            "another format",
            1,
            &configured("c.ini"),
            &["c.ini", ".toml"],
        )
        .file("c.ini", "a=1"),
        Case::new("no extension", 1, &configured("conf"), &["conf", ".json"]).file("conf", "{}"),
        Case::new("empty", 1, &configured("c.json"), &["c.json"]).file("c.json", ""),
        Case::new(
            "cut JSON",
            1,
            &configured("c.json"),
            &["c.json:2", "not valid JSON"],
        )
        .file(
            "c.json",
            format!("{{\"endpoints\":\n[{{\"api_key\":\"{SECRET}\""),
        ),
        Case::new(
            "bad TOML",
            1,
            &configured("c.toml"),
            &["c.toml:2", "not valid TOML"],
        )
        .file("c.toml", format!("workers = 1\napi_key = {SECRET}\n")),
        Case::new(
            "bad YAML",
            1,
            &configured("c.yaml"),
            &["c.yaml", "not valid YAML"],
        )
        .file("c.yaml", format!("endpoints:\n  - url: [\"{SECRET}\n")),
        Case::new("not UTF-8", 1, &configured("c.json"), &["c.json", "UTF-8"])
            .file("c.json", b"{\"a\":\"\xff\"}".to_vec()),
        Case::new("a list", 1, &configured("c.json"), &["c.json"]).file("c.json", "[]"),
        Case::new("deep nesting", 1, &configured("c.json"), &["c.json"]).file(
            "c.json",
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        config(
            "no endpoints",
            r#""workers":1"#,
            &["no endpoint configured", "--endpoint-url"],
        ),
        config(
            "an empty list of endpoints",
            r#""endpoints":[]"#,
            &["no endpoint configured"],
        ),
        config(
            "endpoints of a wrong type",
            r#""endpoints":"http://x""#,
            &["endpoints", "expected"],
        ),
        config(
            "an endpoint that is a number",
            r#""endpoints":[7]"#,
            &["endpoints[0]", "expected"],
        ),
        config(
            "a field no one knows",
            r#""endpionts":[]"#,
            &["endpionts", "unknown field", "`endpoints`"],
        ),
        endpoint(
            "a misspelt field",
            r#""wieght":2"#,
            &["endpoints[0].wieght", "nearest", "`weight`"],
        ),
        config(
            "a field in the wrong table",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"retry":{{"workers":1}}"#),
            &["retry.workers", "`request`"],
        ),
        config(
            "an unknown field deep down",
            &format!(
                r#""endpoints":[{{{ENDPOINT}}}],"prices":{{"m":{{"input":1,"output":1,"outptu":1}}}}"#
            ),
            &["prices.m.outptu", "`output`"],
        ),
        endpoint(
            "a text for a number",
            r#""weight":"heavy""#,
            &["endpoints[0].weight", "expected"],
        ),
        endpoint(
            "headers that are a list",
            r#""headers":["x"]"#,
            &["endpoints[0].headers", "expected"],
        ),
        endpoint(
            "twice the same setting",
            r#""default_model":"a","model":"b""#,
            &["same setting"],
        ),
        endpoint(
            "an unset variable",
            r#""model":"${NO_SUCH_VARIABLE}""#,
            &["endpoints[0].model", "NO_SUCH_VARIABLE", "not set"],
        ),
        config(
            "a duration without sense",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"request":{{"timeout":"100mss"}}"#),
            &["request.timeout", "100mss", "\"30s\""],
        ),
    ]);
}

#[test]
fn values_that_cannot_be_used() {
    check(vec![
        endpoint(
            "weight 0",
            r#""weight":0"#,
            &["c.json:1", "endpoints[0].weight", "at least 1"],
        ),
        endpoint("weight -1", r#""weight":-1"#, &["endpoints[0].weight"]),
        endpoint(
            "max_concurrent 0",
            r#""max_concurrent":0"#,
            &["endpoints[0].max_concurrent", "at least 1"],
        ),
        endpoint(
            "rpm_limit 0",
            r#""rpm_limit":0"#,
            &["endpoints[0].rpm_limit", "leave it out"],
        ),
        endpoint(
            "a header name",
            r#""headers":{"x team":"a"}"#,
            &["endpoints[0].headers", "header name"],
        ),
        endpoint(
            "a header value",
            &format!(r#""headers":{{"x-key":"{SECRET}\nevil: 1"}}"#),
            &["endpoints[0].headers.x-key", "line break"],
        ),
        endpoint(
            "a header of the transport",
            r#""headers":{"Content-Length":"1"}"#,
            &["Content-Length", "transport"],
        ),
        endpoint(
            "two keys",
            r#""headers":{"authorization":"Bearer x"}"#,
            &["endpoints[0].api_key", "authorization"],
        ),
        endpoint(
            "two keys, one in another provider's header",
            r#""headers":{"X-Api-Key":"x"}"#,
            &["endpoints[0].api_key", "x-api-key", "keep one"],
        ),
        config(
            "two keys in headers",
            r#""endpoints":[{"url":"http://127.0.0.1:9/v1","headers":{"authorization":"Bearer x","api-key":"y"}}]"#,
            &["endpoints[0].headers", "`authorization` and `api-key`"],
        ),
        endpoint(
            "an unknown provider",
            r#""provider":"openia""#,
            &["endpoints[0].provider", "openai"],
        ),
        config(
            "no URL",
            r#""endpoints":[{"name":"a"}]"#,
            &["endpoints[0]", "`url`"],
        ),
        config(
            "a key with a line break",
            r#""endpoints":[{"url":"http://127.0.0.1:9/v1","api_key":"${BROKEN_KEY}"}]"#,
            &["endpoints[0].api_key", "line break"],
        )
        .variable("BROKEN_KEY", "s3cr3t-8f2a\nmore\n"),
        config(
            "a provider without its key",
            r#""endpoints":[{"url":"http://127.0.0.1:9","provider":"anthropic"}]"#,
            &["endpoints[0].api_key", "anthropic", "needs one"],
        ),
        config(
            "azure without its key",
            r#""endpoints":[{"url":"http://127.0.0.1:9","provider":"azure","model":"m"}]"#,
            &["endpoints[0].api_key", "azure"],
        ),
        config(
            "two endpoints of one name",
            &format!(r#""endpoints":[{{{ENDPOINT}}},{{{ENDPOINT}}}]"#),
            &["endpoints[1].name", "the-endpoint"],
        ),
        config(
            "a budget without prices",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"max_cost":1.0"#),
            &["max_cost", "prices"],
        ),
        config(
            "workers 0",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"workers":0"#),
            &["workers", "at least 1"],
        ),
        config(
            "attempts 0",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"retry":{{"max_attempts":0}}"#),
            &["retry.max_attempts", "at least 1"],
        ),
        config(
            "a multiplier below 1",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"retry":{{"multiplier":0.5}}"#),
            &["retry.multiplier"],
        ),
    ]);
}
