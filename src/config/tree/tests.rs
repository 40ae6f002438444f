use super::*;

/// The tree on one line, each value with its line number.
fn show(node: &Node) -> String {
    let value = match &node.value {
        Value::Null => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(value) => format!("{:?}", value.as_str()),
        Value::Date => "date".to_owned(),
        Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Table(entries) => {
            let mut entries: Vec<String> = entries
                .iter()
                .map(|(name, child)| format!("{name}={}", show(child)))
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(" "))
        }
    };
    format!(
        "{}:{value}",
        node.line.map_or("?".to_owned(), |line| line.to_string())
    )
}

fn check(path: &str, text: &str, expect: &str) {
    assert_eq!(
        show(&parse(Path::new(path), text).expect("valid")),
        expect,
        "{text}"
    );
}

fn check_error(path: &str, text: &str, expect: &str) {
    let message = parse(Path::new(path), text)
        .expect_err("refused")
        .to_string();
    assert!(
        message.contains(expect),
        "{message:?} should hold {expect:?}"
    );
    assert!(!message.contains('\n'), "one line: {message:?}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn the_formats_agree() {
    let expect = r#"1:{a=2:{b=2:1 c=3:"x"} d=4:[4:1.5 4:true] e=5:"100ms"}"#;
    check(
        "c.json",
        "{\n \"a\": {\"b\": 1,\n \"c\": \"x\"},\n \"d\": [1.5, true],\n \"e\": \"100ms\"}",
        expect,
    );
    check("c.yaml", "\na:\n  b: 1", "2:{a=3:{b=3:1}}");
    check(
        "c.YML",
        "# c\nd: [1.5, true]\ne: 100ms\nf:\n",
        "2:{d=2:[2:1.5 2:true] e=3:\"100ms\" f=4:null}",
    );
    check(
        "c.toml",
        "d = [1.5, true]\ne = '100ms'\nf = 0x10\n[a]\nb = 1\nw = 2025-01-01\n",
        "1:{a=4:{b=5:1 w=6:date} d=1:[1:1.5 1:true] e=2:\"100ms\" f=3:16}",
    );
}

#[test]
fn byte_order_marks_and_empty_documents() {
    check("c.json", "\u{feff}{}", "1:{}");
    check("c.toml", "\u{feff}", "1:{}");
    check("c.yaml", "\u{feff}# nothing\n", "2:{}");
    check(
        "c.yaml",
        "a: \"5\"\nb: 'true'\nc: no\n",
        r#"1:{a=1:"5" b=2:"true" c=3:"no"}"#,
    );
}

#[test]
fn broken_text_is_named_by_file_and_line_and_never_quoted() {
    check_error(
        "c.json",
        "{\"k\":\n \"hunter2\" 5}",
        "c.json:2: not valid JSON: expected `,` or `}`",
    );
    check_error("c.json", "", "c.json:1: not valid JSON");
    check_error("c.json", "{\"k\": \"\\ud800\"}", "c.json:1: not valid JSON");
    check_error(
        "c.toml",
        "a = 1\nkey = \"hunter2\n",
        "c.toml:2: not valid TOML",
    );
    check_error("c.yaml", "a: 1\nkey: \"hunter2\n b: [", "not valid YAML");
    check_error("c.yaml", "a: [hunter2\nb: 1\n", "c.yaml:");
    check_error("c.yaml", "a: 1\n---\nb: 1\n", "not valid YAML");
    check_error("c.yaml", "a: *nope\n", "c.yaml:1: not valid YAML");
}

#[test]
fn duplicate_keys_are_refused_in_every_format() {
    check_error(
        "c.json",
        "{\"a\": 1,\n\"a\": 2}",
        "c.json:2: not valid JSON: duplicate key `a`",
    );
    check_error(
        "c.json",
        "{\"x\": [{\"a\": 1, \"\\u0061\": 2}]}",
        "duplicate key `a`",
    );
    check_error(
        "c.toml",
        "a = 1\na = 2\n",
        "c.toml:2: not valid TOML: duplicate key",
    );
    check_error(
        "c.yaml",
        "a: 1\na: 2\n",
        "c.yaml:2: not valid YAML: duplicate",
    );
}

#[test]
fn nesting_is_bounded() {
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    check_error(
        "c.json",
        &format!("{{\"a\": {}}}", deep("[", "]")),
        "not valid JSON: nested deeper than 32",
    );
    check_error(
        "c.yaml",
        &format!("a: {}", deep("[", "]")),
        "not valid YAML",
    );
    check_error(
        "c.toml",
        &format!("a = {}", deep("[", "]")),
        "not valid TOML",
    );
    check_error(
        "c.yaml",
        &format!("a: {}1{}", "[".repeat(40), "]".repeat(40)),
        "nested deeper than 32",
    );
}

#[test]
fn other_extensions_are_refused() {
    for path in ["c", "c.ini", "json", ".json", "c.json.bak"] {
        check_error(path, "{}", "name it .json, .toml, .yaml or .yml");
    }
}
