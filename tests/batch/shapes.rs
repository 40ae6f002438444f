//! The shapes of a line, and which bytes reach the endpoint for each.

use blaze_uring::mock::SeenRequest;

use crate::support::{Place, Run, batch_args, mock, run, runtimes};

/// One line through an endpoint with this path: what the endpoint saw.
fn sent(runtime: &str, endpoint_path: &str, line: &str, more: &[&str]) -> SeenRequest {
    let (place, mock) = (Place::new(), mock());
    place.input(&[line]);
    let mut args = batch_args(&mock, runtime, &["-a", "1"]);
    let url = args
        .iter_mut()
        .find(|argument| argument.starts_with("http"))
        .expect("there is a URL");
    *url = mock.url(endpoint_path);
    args.extend(more.iter().map(|&argument| argument.to_owned()));
    let Run { stderr, .. } = run(&place, &args);
    let mut requests = mock.requests();
    assert_eq!(requests.len(), 1, "{line}: {stderr}");
    requests.remove(0)
}

#[test]
fn a_bare_body_goes_out_as_it_is() {
    for line in [
        r#"{ "messages":[{"role":"user","content":"h\u00e9 \/ é 😀"}], "seed":12345678901234567890123 ,"model":"m"}"#,
        r#"{"z":1,"a":2,"z":3,"messages":[],"top_p":1.50,"n":1e2,"x":-0.0,"deep":{"b":[1, 2 ,3],"a":null}}"#,
        "{\t\"prompt\" : \"tab\\t\\\"quoted\\\" \\u2028\" , \"max_tokens\":  7}",
        r#"{"model":"m","input":["a","b"],"dimensions":8}"#,
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, "/v1/chat/completions", line, &[]);
            assert_eq!(String::from_utf8_lossy(&request.body), line, "{runtime}");
            assert_eq!(request.method, "POST");
            assert_eq!(request.header("content-type"), Some("application/json"));
        }
    }
}

#[test]
fn metadata_stays_at_home() {
    for (line, body) in [
        (
            r#"{"metadata":{"k":1}, "messages":[],"model":"m"}"#,
            r#"{"messages":[],"model":"m"}"#,
        ),
        (
            r#"{"messages":[],"metadata":"x","model":"m"}"#,
            r#"{"messages":[],"model":"m"}"#,
        ),
        (
            r#"{"messages":[],"model":"m","metadata":[1]}"#,
            r#"{"messages":[],"model":"m"}"#,
        ),
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, "/v1/chat/completions", line, &[]);
            assert_eq!(String::from_utf8_lossy(&request.body), body, "{runtime}");
        }
    }
}

#[test]
fn an_inner_body_goes_out_as_it_is() {
    let body = r#"{ "messages" : [ {"role":"user","content":"\u0041\n"} ],"seed":9007199254740993, "metadata":{"theirs":1} }"#;
    for (line, target) in [
        (format!(r#"{{"body":{body}}}"#), "/v1/chat/completions"),
        (
            format!(r#"{{"id":1,"body": {body} ,"tag":"t"}}"#),
            "/v1/chat/completions",
        ),
        (
            format!(
                r#"{{"custom_id":"r1","method":"POST","url":"/v1/completions","body":{body}}}"#
            ),
            "/v1/completions",
        ),
        (
            format!(r#"{{"url":"/v1/responses?x=1","body":{body}}}"#),
            "/v1/responses?x=1",
        ),
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, "/v1/chat/completions", &line, &[]);
            assert_eq!(String::from_utf8_lossy(&request.body), body, "{runtime}");
            assert_eq!(request.target, target, "{line}");
        }
    }
}

#[test]
fn a_prompt_without_messages_is_sent_to_completions_on_a_base() {
    const COMPLETIONS: &str = "/v1/completions";
    const CHAT: &str = "/v1/chat/completions";
    for (base, line, target) in [
        ("/v1", r#"{"model":"m","prompt":"Once"}"#, COMPLETIONS),
        (
            "",
            r#"{"prompt":["Once"],"metadata":{"id":1}}"#,
            COMPLETIONS,
        ),
        ("/v1/", r#"{"pr\u006fmpt":"Once"}"#, COMPLETIONS),
        ("/v1", r#"{"body":{"prompt":"Once"},"id":1}"#, COMPLETIONS),
        // With messages it is a chat, whatever else is in it.
        ("/v1", r#"{"prompt":"Once","messages":[]}"#, CHAT),
        ("/v1", r#"{"body":{"messages":[]},"prompt":"mine"}"#, CHAT),
        // The line and the endpoint know better.
        (
            "/v1",
            r#"{"url":"/v1/chat/completions","body":{"prompt":"Once"}}"#,
            CHAT,
        ),
        (CHAT, r#"{"model":"m","prompt":"Once"}"#, CHAT),
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, base, line, &[]);
            assert_eq!(request.target, target, "{base} {line}");
        }
    }
}

#[test]
fn a_line_adds_its_headers() {
    let line =
        r#"{"body":{"messages":[],"model":"m"},"headers":{"x-Trace":"a\u0062c","X-Other":"1"}}"#;
    for runtime in runtimes() {
        let request = sent(runtime, "/v1/chat/completions", line, &[]);
        assert_eq!(request.header("x-trace"), Some("abc"), "{runtime}");
        assert_eq!(request.header("x-other"), Some("1"), "{runtime}");
        assert_eq!(request.body, br#"{"messages":[],"model":"m"}"#);
    }
}

#[test]
fn an_input_is_wrapped_for_its_path() {
    let user = |content: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":{content}}}],"model":"m"}}"#)
    };
    let messages = r#"[{"role":"system","content":"s"},{"role":"user","content":"u"}]"#;
    for (path, line, body) in [
        (
            "/v1/chat/completions",
            r#"{"input":"a \"b\" \u00e9"}"#.to_owned(),
            user(r#""a \"b\" \u00e9""#),
        ),
        (
            "/v1/chat/completions",
            format!(r#"{{"input":{messages}}}"#),
            format!(r#"{{"messages":{messages},"model":"m"}}"#),
        ),
        (
            "/v1/completions",
            r#"{"input":"once"}"#.to_owned(),
            r#"{"prompt":"once","model":"m"}"#.to_owned(),
        ),
        (
            "/v1/embeddings",
            r#"{"input":["a","b"],"id":1}"#.to_owned(),
            r#"{"input":["a","b"],"model":"m"}"#.to_owned(),
        ),
        (
            "/v1/responses",
            r#"{"id":7,"input":"x"}"#.to_owned(),
            r#"{"input":"x","model":"m"}"#.to_owned(),
        ),
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, path, &line, &["--model", "m"]);
            assert_eq!(String::from_utf8_lossy(&request.body), body, "{runtime}");
            assert_eq!(request.target, path);
        }
    }
}

#[test]
fn anthropic_gets_messages_and_its_headers() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[r#"{"input":"hello"}"#]);
        let config = format!(
            r#"{{"endpoints":[{{"name":"claude","url":"{}","provider":"anthropic","api_key":"k-1","model":"m","max_completion_tokens":16}}]}}"#,
            mock.url("")
        );
        place.write("c.json", config);
        let args = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "-c",
            "c.json",
            "--runtime",
            runtime,
        ];
        run(&place, &args).expect(0);
        let request = &mock.requests()[0];
        assert_eq!(request.target, "/v1/messages");
        assert_eq!(
            String::from_utf8_lossy(&request.body),
            r#"{"messages":[{"role":"user","content":"hello"}],"model":"m","max_tokens":16}"#
        );
        assert_eq!(request.header("x-api-key"), Some("k-1"));
        assert!(request.header("anthropic-version").is_some());
    }
}

#[test]
fn a_base_url_and_a_lines_url_join_once() {
    let line = r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"input":"x","model":"m"}}"#;
    for (endpoint, target) in [
        ("", "/v1/embeddings"),
        ("/v1", "/v1/embeddings"),
        ("/v1/", "/v1/embeddings"),
        ("/proxy/v1", "/proxy/v1/embeddings"),
        ("/proxy/v1/chat/completions", "/proxy/v1/embeddings"),
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, endpoint, line, &[]);
            assert_eq!(request.target, target, "{endpoint} on {runtime}");
        }
    }
}

#[test]
fn a_model_is_put_in_only_where_there_is_none() {
    for (line, body) in [
        (
            r#"{"messages":[],"n":1}"#,
            r#"{"messages":[],"n":1,"model":"given"}"#,
        ),
        (
            r#"{"messages":[],"model":"own"}"#,
            r#"{"messages":[],"model":"own"}"#,
        ),
        (r#"{"body":{}}"#, r#"{"model":"given"}"#),
    ] {
        for runtime in runtimes() {
            let request = sent(runtime, "/v1/chat/completions", line, &["--model", "given"]);
            assert_eq!(String::from_utf8_lossy(&request.body), body, "{runtime}");
        }
    }
}
