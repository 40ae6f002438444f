//! What goes out: the bytes of the line, and what endpoints add.

use super::*;

#[test]
fn bodies_keep_their_bytes() {
    for (line, expect) in [
        (
            r#"{"body": {"b" : 1e400, "a":[ 123456789012345678901 ,"\u00e9\/"] } }"#,
            r#"{"b" : 1e400, "a":[ 123456789012345678901 ,"\u00e9\/"] }"#,
        ),
        (r#"{"body":{}}"#, "{}"),
        (r#"{"body":{ }}"#, "{ }"),
        ("\u{feff} {\"prompt\" : 1}\r", "{\"prompt\" : 1}"),
        // `metadata` leaves with one comma, wherever it stands.
        (
            r#"{"metadata": {"a":"}"}, "prompt": "x", "n": 1}"#,
            r#"{"prompt": "x", "n": 1}"#,
        ),
        (
            r#"{ "prompt": "x", "metadata": [1,2] , "n": 1}"#,
            r#"{ "prompt": "x", "n": 1}"#,
        ),
        (
            r#"{"prompt": "x", "n": 1 , "metad\u0061ta" : null }"#,
            r#"{"prompt": "x", "n": 1 }"#,
        ),
        (
            r#"{"prompt":{"metadata":1}}"#,
            r#"{"prompt":{"metadata":1}}"#,
        ),
        // Only a bare body loses it.
        (r#"{"body":{"metadata":{}}}"#, r#"{"metadata":{}}"#),
    ] {
        assert_eq!(body(line, &PLAIN), expect, "{line}");
    }
}

#[test]
fn rules_add_only_what_is_missing() {
    for (line, expect) in [
        (
            r#"{"body":{}}"#,
            r#"{"model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"body":{"a":1 }}"#,
            r#"{"a":1 ,"model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"body":{"model":null,"temperature":null,"max_tokens":null}}"#,
            r#"{"model":null,"temperature":null,"max_tokens":null}"#,
        ),
        (
            r#"{"mod\u0065l":"x","prompt":1,"temperature":0,"max_completion_tokens":2}"#,
            r#"{"mod\u0065l":"x","prompt":1,"temperature":0,"max_completion_tokens":2}"#,
        ),
        (
            r#"{"body":{"max_output_tokens":2,"a":{"model":1}},"temperature":1,"model":"x"}"#,
            r#"{"max_output_tokens":2,"a":{"model":1},"model":"m","temperature":0.5}"#,
        ),
        (
            r#"{"prompt":"x","metadata":1}"#,
            r#"{"prompt":"x","model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"input":"x","temperature":1}"#,
            r#"{"messages":[{"role":"user","content":"x"}],"model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
    ] {
        assert_eq!(body(line, &FULL), expect, "{line}");
    }
    let odd = BodyRules {
        model: Some("a\"\n"),
        temperature: Some(1e-7),
        max_tokens: None,
        ..PLAIN
    };
    assert_eq!(
        body(r#"{"body":{}}"#, &odd),
        r#"{"model":"a\"\n","temperature":0.0000001}"#
    );
}

#[test]
fn override_replaces_the_model_in_place() {
    let rules = BodyRules {
        model: Some("new"),
        override_model: true,
        ..PLAIN
    };
    for (line, expect) in [
        (
            r#"{"body":{"model" : "old" ,"a":1}}"#,
            r#"{"model" : "new" ,"a":1}"#,
        ),
        (r#"{"body":{"model":{"a":[1]}}}"#, r#"{"model":"new"}"#),
        (r#"{"body":{"a":1}}"#, r#"{"a":1,"model":"new"}"#),
        (
            r#"{"metadata":1,"model":"old","prompt":"x"}"#,
            r#"{"model":"new","prompt":"x"}"#,
        ),
        (
            r#"{"model":"old","prompt":"x","metadata":1}"#,
            r#"{"model":"new","prompt":"x"}"#,
        ),
    ] {
        assert_eq!(body(line, &rules), expect, "{line}");
    }
    let nothing_to_put = BodyRules {
        model: None,
        ..rules
    };
    assert_eq!(
        body(r#"{"body":{"model":"old"}}"#, &nothing_to_put),
        r#"{"model":"old"}"#
    );
}

#[test]
fn input_is_wrapped_for_the_path() {
    let content =
        |content: &str| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
    for (input, chat) in [
        (r#""a \"b\"\u00e9\n""#, content(r#""a \"b\"\u00e9\n""#)),
        (r#"" ""#, content(r#"" ""#)),
        (
            r#"[{"role":"system","content":"s"},{"role":"user","content":"u"}]"#,
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}]}"#
                .into(),
        ),
        (
            r#"{"role":"user","content":"u"}"#,
            r#"{"messages":[{"role":"user","content":"u"}]}"#.into(),
        ),
        (
            r#"[{"type":"text","text":"t"}]"#,
            content(r#"[{"type":"text","text":"t"}]"#),
        ),
        (r#"["a","b"]"#, content(r#""[\"a\",\"b\"]""#)),
        (
            r#"[{"role":"user"},"b"]"#,
            content(r#""[{\"role\":\"user\"},\"b\"]""#),
        ),
        (
            r#"{"question": "why?"}"#,
            content(r#""{\"question\": \"why?\"}""#),
        ),
        ("5", content("\"5\"")),
        ("false", content("\"false\"")),
    ] {
        let line = format!(r#"{{"input": {input} ,"id":1}}"#);
        assert_eq!(body(&line, &PLAIN), chat);
        let prompt = BodyRules {
            input_as: InputShape::Prompt,
            ..PLAIN
        };
        assert_eq!(body(&line, &prompt), format!(r#"{{"prompt":{input}}}"#));
        let embedding = BodyRules {
            input_as: InputShape::Input,
            ..PLAIN
        };
        assert_eq!(body(&line, &embedding), format!(r#"{{"input":{input}}}"#));
    }
}

/// Members whose names collide with all that lines and bodies are made of.
fn any_members() -> impl Strategy<Value = Map<String, Value>> {
    const NAMES: &str = "body url method custom_id headers input messages prompt model metadata \
        stream temperature max_tokens";
    let names: Vec<_> = NAMES.split_ascii_whitespace().collect();
    let name = prop_oneof![
        4 => prop::sample::select(names.clone()).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::from(true)),
        Just(Value::from("/v1/x")),
        Just(Value::from("POST")),
        any::<String>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(serde_json::json!([{"role": "user", "content": "x"}])),
        prop::collection::vec((prop::sample::select(names), any::<i32>()), 0..4).prop_map(
            |members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        ),
    ];
    prop::collection::vec((name, value), 0..6).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_a_request_or_an_error(line: Vec<u8>) {
        let mut value = Parsed::default();
        if let Err(error) = value.parse(&line) {
            prop_assert!(!error.message.contains('\n'));
        }
    }

    /// Against a second opinion made of serde_json values.
    #[test]
    fn bodies_are_what_the_rules_say(members in any_members(), pretty: bool, override_model: bool) {
        let line = if pretty { serde_json::to_vec_pretty(&members) } else { serde_json::to_vec(&members) };
        let line = line.unwrap();
        let mut value = Parsed::default();
        if value.parse(&line).is_err() {
            return Ok(());
        }
        let mut out = Vec::new();
        value.write_body(&line, &BodyRules { override_model, ..FULL }, &mut out);

        let mut expect = match value.shape() {
            Shape::OpenAiBatch | Shape::Body => members["body"].as_object().unwrap().clone(),
            Shape::Bare => {
                let mut body = members;
                body.remove("metadata");
                body
            }
            Shape::Input => {
                let messages = match &members["input"] {
                    array @ Value::Array(_) => array.clone(),
                    Value::String(text) => serde_json::json!([{"role": "user", "content": text}]),
                    // Its own text, white space and all.
                    other => {
                        let content = if pretty && other.is_object() {
                            let span = json::get(&line, &["input"]).unwrap();
                            String::from_utf8(span.to_vec()).unwrap()
                        } else {
                            other.to_string()
                        };
                        serde_json::json!([{"role": "user", "content": content}])
                    }
                };
                Map::from_iter([("messages".to_owned(), messages)])
            }
        };
        if override_model {
            expect.insert("model".to_owned(), "m".into());
        }
        expect.entry("model").or_insert("m".into());
        expect.entry("temperature").or_insert(0.5.into());
        if !expect.contains_key("max_tokens") {
            expect.insert("max_completion_tokens".to_owned(), 9.into());
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), Value::Object(expect));
    }
}
