//! Records: both formats, the user's own fields, and the server's JSON value for value.

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, batch_args, mock, run, runtimes, scripted};

/// The one line of a file, without its newline.
fn only_line(place: &Place, name: &str) -> String {
    let text = String::from_utf8(place.read(name)).expect("records are UTF-8");
    let line = text.strip_suffix('\n').expect("a record ends in a newline");
    assert!(!line.contains(['\n', '\r']), "{line}");
    line.to_owned()
}

#[test]
fn a_blaze_record_has_what_the_contract_says() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&["", r#"{"input":"hi","id":7,"model":"m"}"#]);
        place.input(&["", r#"{"input":"hi","id":7}"#]);
        run(&place, &batch_args(&mock, runtime, &["--model", "m"])).expect(0);
        let record = &place.records("out.jsonl")[0];
        assert_eq!(record["input"], "hi");
        assert_eq!(record["id"], 7);
        assert_eq!(record["response"]["object"], "chat.completion");
        let metadata = &record["metadata"];
        assert_eq!(metadata["endpoint"], "127.0.0.1");
        assert_eq!(metadata["attempts"], 1);
        assert_eq!(metadata["status_code"], 200);
        assert_eq!(metadata["line_number"], 2);
        assert!(metadata["latency_ms"].is_u64(), "{metadata}");
    }
}

#[test]
fn the_users_fields_come_back_verbatim() {
    let fields = r#""id":12345678901234567890,"x": [1.0, 2.50,1e3], "né\u0065":"\u00e9\/","n":null,"o":{"b":1,"a":{"b":2}}"#;
    let back = r#""id":12345678901234567890,"x":[1.0, 2.50,1e3],"né\u0065":"\u00e9\/","n":null,"o":{"b":1,"a":{"b":2}}"#;
    for (line, begins) in [
        (
            format!(
                r#"{{{fields},"body":{{"messages":[{{"role":"user","content":"x"}}],"model":"m"}}}}"#
            ),
            format!("{{{back},\"response\":{{"),
        ),
        (
            format!(r#"{{"input":"q",{fields}}}"#),
            format!("{{\"input\":\"q\",{back},\"response\":{{"),
        ),
    ] {
        for runtime in runtimes() {
            let (place, mock) = (Place::new(), mock());
            place.input(&[&line]);
            run(&place, &batch_args(&mock, runtime, &[])).expect(0);
            let record = only_line(&place, "out.jsonl");
            assert!(record.starts_with(&begins), "{record}\n{begins}");
        }
    }
}

#[test]
fn a_users_field_makes_room_for_the_records_own() {
    let line = r#"{"input":"q","response":1,"metadata":{"mine":2},"error":3,"status_code":4,"attempts":5,"line_number":6,"error_kind":7}"#;
    let renamed = json!({
        "request_response": 1, "request_metadata": {"mine": 2}, "request_error": 3,
        "request_status_code": 4, "request_attempts": 5, "request_line_number": 6, "request_error_kind": 7,
    });
    for runtime in runtimes() {
        for (status, name) in [(200, "out.jsonl"), (400, "errors.jsonl")] {
            let place = Place::new();
            let mock =
                scripted(move |_| Some(Scripted::json(status, r#"{"choices":[{"text":"a"}]}"#)));
            place.input(&[line]);
            run(&place, &batch_args(&mock, runtime, &[]));
            let record = &place.records(name)[0];
            for (field, value) in renamed.as_object().expect("an object") {
                assert_eq!(&record[field], value, "{field} in {record}");
            }
            assert_eq!(record["response"], json!({"choices": [{"text": "a"}]}));
        }
    }
}

#[test]
fn bare_metadata_comes_back_renamed() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[
            r#"{"messages":[{"role":"user","content":"x"}],"model":"m","metadata":{"row": 1}}"#,
        ]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        let record = &place.records("out.jsonl")[0];
        assert_eq!(record["request_metadata"], json!({"row": 1}));
        assert_eq!(record["metadata"]["line_number"], 1);
    }
}

#[test]
fn an_openai_line_gets_an_openai_record() {
    let line = |id: &str| {
        format!(
            r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":{{"messages":[{{"role":"user","content":"x"}}],"model":"{id}"}}}}"#
        )
    };
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|request| {
            let refused = String::from_utf8_lossy(&request.body).contains("bad");
            let answer = match refused {
                true => Scripted::json(400, r#"{"error":{"message":"no"}}"#),
                false => Scripted::json(200, "{\n \"choices\": [{\"text\": \"a\"}]\n}"),
            };
            Some(answer.header("x-request-id", "req_77"))
        });
        place.input(&[line("good"), line("bad")]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(3);
        let success = &place.records("out.jsonl")[0];
        assert!(
            success["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("batch_req_")),
            "{success}"
        );
        assert_eq!(success["custom_id"], "good");
        assert_eq!(
            success["response"],
            json!({"status_code": 200, "request_id": "req_77", "body": {"choices": [{"text": "a"}]}})
        );
        assert!(success["error"].is_null());
        let failure = &place.records("errors.jsonl")[0];
        assert_eq!(failure["custom_id"], "bad");
        assert_eq!(
            failure["response"],
            json!({"status_code": 400, "request_id": "req_77", "body": {"error": {"message": "no"}}})
        );
    }
}

#[test]
fn a_failure_without_an_answer_has_an_openai_error() {
    for runtime in runtimes() {
        let place = Place::new();
        // The connection closes instead of an answer, always.
        let mock = scripted(|_| {
            Some(Scripted::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").then_close())
        });
        place.input(&[r#"{"custom_id":"r","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"x"}]}}"#]);
        run(&place, &batch_args(&mock, runtime, &["-a", "1"])).expect(3);
        let record = &place.records("errors.jsonl")[0];
        assert_eq!(record["custom_id"], "r");
        assert!(record["response"].is_null(), "{record}");
        assert_eq!(record["error"]["code"], "protocol");
        assert!(record["error"]["message"].is_string());
    }
}

#[test]
fn a_format_can_be_demanded() {
    let lines = [
        r#"{"custom_id":"r","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"x"}]}}"#,
        r#"{"input":"x"}"#,
        "broken",
    ];
    for runtime in runtimes() {
        for (format, is_openai) in [
            ("auto", [true, false]),
            ("blaze", [false; 2]),
            ("openai", [true; 2]),
        ] {
            let (place, mock) = (Place::new(), mock());
            place.input(&lines);
            run(&place, &batch_args(&mock, runtime, &["--format", format])).expect(3);
            let records = place.records("out.jsonl");
            let found = [0, 1].map(|at| records[at]["response"]["body"].is_object());
            assert_eq!(found, is_openai, "{format}: {records:?}");
            let failure = &place.records("errors.jsonl")[0];
            assert_eq!(
                failure["error"].is_object(),
                format == "openai",
                "{failure}"
            );
        }
    }
}

#[test]
fn a_pretty_answer_is_compacted_value_for_value() {
    let pretty = "{\r\n  \"choices\": [ {\"text\": 1} ],\n  \"big\": 123456789012345678901234567890,\n\t\"twice\": 1 ,\"twice\": 2,\n  \
                  \"tiny\": 1.0e-400, \"text\": \"a \\u00e9 \\/ b:  { } , \\n\" ,\n  \"empty\": [ ], \"o\": { }\n}\n";
    let compact = r#"{"choices":[{"text":1}],"big":123456789012345678901234567890,"twice":1,"twice":2,"tiny":1.0e-400,"text":"a \u00e9 \/ b:  { } , \n","empty":[],"o":{}}"#;
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(move |_| Some(Scripted::json(200, pretty)));
        place.input(&[r#"{"input":"x"}"#]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        let record = only_line(&place, "out.jsonl");
        assert!(
            record.contains(&format!("\"response\":{compact},\"metadata\"")),
            "{record}"
        );
    }
}

#[test]
fn an_endpoint_without_a_name_is_called_by_host() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[r#"{"input":"x"}"#]);
        let url = format!(
            "http://user:s3cret@{}/v1/chat/completions?token=s3cret",
            mock.address()
        );
        let args = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "--runtime",
            runtime,
            "--endpoint-url",
            &url,
        ];
        let run = run(&place, &args).expect(0);
        let record = &place.records("out.jsonl")[0];
        assert_eq!(record["metadata"]["endpoint"], "127.0.0.1");
        let request = &mock.requests()[0];
        assert_eq!(request.target, "/v1/chat/completions?token=s3cret");
        assert_eq!(
            request.header("authorization"),
            Some("Basic dXNlcjpzM2NyZXQ=")
        );
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    }
}
