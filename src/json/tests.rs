use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;

/// What serde_json says. Ignoring the value, it neither limits the depth nor minds lone surrogates.
fn serde_accepts(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[test]
fn accepts_what_is_json() {
    for (text, kind) in [
        ("{}", Kind::Object),
        (" { \"a\" :\t[ ] ,\r\n\"b\":{}} ", Kind::Object),
        ("[]", Kind::Array),
        ("[[],{},[{\"a\":[1,[2]]}],\"\"]", Kind::Array),
        // Object, array, object at one and the same depth.
        ("[[{},[1],{\"a\":1}]]", Kind::Array),
        ("\"\"", Kind::String),
        ("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"", Kind::String),
        ("\"\\uD800\"", Kind::String),
        ("\"\u{7f}\u{80}\u{2028}😀\"", Kind::String),
        ("0", Kind::Number),
        ("-0", Kind::Number),
        ("-0.0e-0", Kind::Number),
        ("1E400", Kind::Number),
        ("123456789012345678901234567890.5e+7", Kind::Number),
        ("true", Kind::Bool),
        ("false", Kind::Bool),
        ("\nnull\n", Kind::Null),
    ] {
        assert_eq!(validate(text.as_bytes()), Ok(kind), "{text}");
        assert!(serde_accepts(text.as_bytes()), "{text}");
    }
}

#[test]
fn says_where_and_what_it_expected() {
    for (text, offset, expected) in [
        (&b""[..], 0, "a value"),
        (b"  ", 2, "a value"),
        (b"{", 1, "a member's name in double quotes"),
        (b"{\"a\":1,}", 7, "a member's name in double quotes"),
        (b"[{\"a\":1,}]", 8, "a member's name in double quotes"),
        (b"[{,}]", 2, "a member's name in double quotes"),
        (b"{'a':1}", 1, "a member's name in double quotes"),
        (b"{\"a\" 1}", 5, "':'"),
        (b"{\"a\":}", 5, "a value"),
        (b"{\"a\":1", 6, "',' or '}'"),
        (b"{\"a\":1]", 6, "',' or '}'"),
        (b"[1,]", 3, "a value"),
        (b"[1 2]", 3, "',' or ']'"),
        (b"[[1}", 3, "',' or ']'"),
        (b"[{\"a\":1]", 7, "',' or '}'"),
        (b"[,]", 1, "a value"),
        (b"{} {}", 3, "the end of the text"),
        (b"nul", 0, "null"),
        (b"True", 0, "a value"),
        (b"NaN", 0, "a value"),
        (b"01", 1, "the end of the text"),
        (b"-", 1, "a digit"),
        (b"+1", 0, "a value"),
        (b".5", 0, "a value"),
        (b"1.", 2, "a digit"),
        (b"1e", 2, "a digit"),
        (b"1e+", 3, "a digit"),
        (b"\"a", 2, "'\"' to end the string"),
        (b"\"a\\\"", 4, "'\"' to end the string"),
        (b"\"\\x\"", 2, "one of \"\\/bfnrtu to complete the escape"),
        (b"\"\\u12g4\"", 5, "four hexadecimal digits"),
        (
            b"\"0123456789\n\"",
            11,
            "control characters in strings as \\u escapes",
        ),
        (b"\"\0\"", 1, "control characters in strings as \\u escapes"),
        (b"\0", 0, "a value"),
        (b"1\0", 1, "the end of the text"),
        (b"\x0c1", 0, "a value"),
        (b"[1\x0b]", 2, "',' or ']'"),
        (b"\xef\xbb\xbf{}", 0, "a value"),
        (b"{\"a\":\"\xff\"}", 6, "valid UTF-8"),
        (b"\"\xed\xa0\x80\"", 1, "valid UTF-8"),
        (b"\"\xc0\xaf\"", 1, "valid UTF-8"),
    ] {
        let shown = String::from_utf8_lossy(text);
        assert_eq!(validate(text), Err(Syntax { offset, expected }), "{shown}");
        assert!(!serde_accepts(text), "{shown}");
    }
    let syntax = Syntax {
        offset: 17,
        expected: "':'",
    };
    assert_eq!(syntax.to_string(), "byte 17: expected ':'");
}

#[test]
fn depth_is_bounded() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        assert!(validate(&nested(open, close, MAX_DEPTH)).is_ok(), "{open}");
        let fault = validate(&nested(open, close, MAX_DEPTH + 1)).unwrap_err();
        assert_eq!(fault.expected, "at most 512 nested levels");
        assert_eq!(fault.offset, MAX_DEPTH * open.len());
    }
    assert!(validate("[".repeat(1 << 20).as_bytes()).is_err());
    // Objects and arrays mixed keep their order at every depth.
    let mixed = nested("[{\"a\":", "}]", MAX_DEPTH / 2);
    assert!(validate(&mixed).is_ok());
    let swapped = String::from_utf8(mixed).unwrap().replacen("}]", "]}", 1);
    assert!(validate(swapped.as_bytes()).is_err());
}

#[test]
fn visits_top_level_members_only() {
    let text = br#" {"a": {"b": [1, {"c": 2}]}, "\u0061": "x" , "d":null} "#;
    let mut seen = Vec::new();
    let kind = members(text, |member| {
        let name = String::from_utf8(member.name(text).into_owned()).unwrap();
        let value = String::from_utf8_lossy(member.value.of(text)).into_owned();
        seen.push((name, member.key_escaped, value, member.kind));
    });
    assert_eq!(kind, Ok(Kind::Object));
    let expect = [
        ("a", false, r#"{"b": [1, {"c": 2}]}"#, Kind::Object),
        ("a", true, r#""x""#, Kind::String),
        ("d", false, "null", Kind::Null),
    ];
    let expect = expect.map(|(n, e, v, k)| (n.to_owned(), e, v.to_owned(), k));
    assert_eq!(seen, expect);
}

#[test]
fn visits_members_of_an_entered_object_before_it() {
    struct Names<'t>(&'t [u8], Vec<String>);
    impl Visitor for Names<'_> {
        fn member(&mut self, member: Member) {
            self.1
                .push(String::from_utf8_lossy(&member.name(self.0)).into_owned());
        }
        fn enter(&mut self, key: Span, key_escaped: bool) -> bool {
            *name(self.0, key, key_escaped) == *b"in"
        }
        fn inner_member(&mut self, member: Member) {
            self.1.push(format!(
                "in.{}",
                String::from_utf8_lossy(&member.name(self.0))
            ));
        }
    }
    let text = br#"{"a":{"x":1},"in":{"x":{"in":{"y":1}},"z":[]},"b":{"x":1},"\u0069n":{}}"#;
    let mut names = Names(text, Vec::new());
    assert_eq!(visit(text, &mut names), Ok(Kind::Object));
    assert_eq!(names.1, ["a", "in.x", "in.z", "in", "b", "in"]);
}

#[test]
fn visits_elements() {
    let text = br#"[1, [2, 3],{"a":4} , "x"]"#;
    let mut seen = Vec::new();
    assert_eq!(
        elements(text, |span, kind| seen.push((span.of(text), kind))),
        Ok(Kind::Array)
    );
    let expect: [(&[u8], Kind); 4] = [
        (b"1", Kind::Number),
        (b"[2, 3]", Kind::Array),
        (b"{\"a\":4}", Kind::Object),
        (b"\"x\"", Kind::String),
    ];
    assert_eq!(seen, expect);
}

#[test]
fn compact_drops_only_insignificant_white_space() {
    for (text, expect) in [
        ("{}", "{}"),
        (" [ 1 , \"a b\\n \" ] ", "[1,\"a b\\n \"]"),
        (
            "{\n  \"a\": 1e400,\r\n\t\"b\": [ ]\n}\n",
            "{\"a\":1e400,\"b\":[]}",
        ),
        ("  12345678901234567890", "12345678901234567890"),
    ] {
        let mut out = b"before ".to_vec();
        compact(text.as_bytes(), &mut out, &mut Deaf).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("before {expect}"));
    }
}

#[test]
fn compact_takes_back_what_it_wrote_before_an_error() {
    let mut out = b"before".to_vec();
    let fault = compact(b"{\"a\": 1, \"b\": tru}", &mut out, &mut Deaf).unwrap_err();
    assert_eq!(
        fault,
        Syntax {
            offset: 14,
            expected: "true"
        }
    );
    assert_eq!(out, b"before");
}

#[test]
fn strings_escape_and_unescape() {
    for (text, expect) in [
        ("", r#""""#),
        ("plain é 😀", r#""plain é 😀""#),
        ("\"\\/\n\r\t\u{8}\u{c}", r#""\"\\/\n\r\t\b\f""#),
        (
            "\0\u{1}\u{1f} \u{7f}\u{85}\u{2028}",
            "\"\\u0000\\u0001\\u001f \u{7f}\u{85}\u{2028}\"",
        ),
    ] {
        let mut out = Vec::new();
        write_string(text, &mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), expect);
        assert_eq!(unescape(&out[1..out.len() - 1]), text);
    }
    for (raw, expect) in [
        (r"\u0041\u00e9\/", "Aé/"),
        (r"\ud83d\ude00!", "😀!"),
        (r"\ud83d!", "\u{fffd}!"),
        (r"\ud83d\n", "\u{fffd}\n"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
        // Never valid, never a panic.
        (r"\", "\u{fffd}"),
        (r"\u12", "\u{fffd}u12"),
        (r"\x", "\u{fffd}x"),
    ] {
        assert_eq!(unescape(raw.as_bytes()), expect, "{raw}");
    }
    assert_eq!(unescape(b"\xff\\n\xff"), "\u{fffd}\n\u{fffd}");
}

#[test]
fn numbers() {
    for (raw, integer, float) in [
        ("0", Some(0), Some(0.0)),
        (
            "18446744073709551615",
            Some(u64::MAX),
            Some(18_446_744_073_709_551_615.0),
        ),
        (
            "18446744073709551616",
            None,
            Some(18_446_744_073_709_551_616.0),
        ),
        (
            "9999999999999999999",
            Some(9_999_999_999_999_999_999),
            Some(1e19),
        ),
        ("12x", None, None),
        ("12.0", Some(12), Some(12.0)),
        ("1e3", Some(1000), Some(1000.0)),
        ("1.5", None, Some(1.5)),
        ("-1", None, Some(-1.0)),
        ("1e400", None, None),
        ("007", None, None),
        ("", None, None),
        ("\"1\"", None, None),
        ("inf", None, None),
        ("null", None, None),
    ] {
        assert_eq!(as_u64(raw.as_bytes()), integer, "{raw}");
        assert_eq!(as_f64(raw.as_bytes()), float, "{raw}");
    }
}

#[test]
fn specials_are_found_over_blocks_and_their_rest() {
    for length in 0..200 {
        let plain = vec![b'x'; length];
        let starts = || {
            [0, 1, 15, 16, 17, 63, 64, 65, 130]
                .into_iter()
                .filter(|&from| from <= length)
        };
        for from in starts() {
            assert_eq!(
                string::special(&plain, from),
                length,
                "{length} bytes from {from}"
            );
        }
        for (place, special) in (0..length).zip(b"\"\\\x1f\0".iter().cycle()) {
            let mut text = plain.clone();
            text[place] = *special;
            for from in starts() {
                let expect = if from <= place { place } else { length };
                assert_eq!(
                    string::special(&text, from),
                    expect,
                    "{length} bytes, {special} at {place}, from {from}"
                );
            }
        }
    }
}

#[test]
fn get_follows_a_path() {
    let text = br#" {"a": [{"b": 1}, {"b": 2, "\u0062": 3}], "a.b": {"": null}} "#;
    for (path, expect) in [
        (&["a", "0", "b"][..], Some("1")),
        (&["a", "1", "b"], Some("3")),
        (&["a.b", ""], Some("null")),
        (&["a.b", "", "c"], None),
        (&["a", "2"], None),
        (&["b"], None),
    ] {
        assert_eq!(get(text, path), expect.map(str::as_bytes), "{path:?}");
    }
    assert_eq!(get(b" 1 ", &[]), Some(&b"1"[..]));
    assert_eq!(get(b"{\"a\": 1", &["a"]), None);
}

#[test]
fn trims_json_white_space_only() {
    assert_eq!(trim(b" \t\r\n1 2\n"), b"1 2");
    assert_eq!(trim(b"\x0c1"), b"\x0c1");
    assert_eq!(trim(b" \r"), b"");
}

/// Any JSON value, nested a little.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Texts that are nearly JSON: drawn from its own alphabet.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    const TOKENS: [&[u8]; 28] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\"a\"",
        b"\"a\":",
        b"\\",
        b"\\u00e9",
        b"\\ud800",
        b"\\n",
        b"0",
        b"1",
        b"-",
        b"+",
        b".",
        b"e",
        b"E",
        b"true",
        b"false",
        b"null",
        b" ",
        b"\n",
        b"\x01",
        b"\xc3\xa9",
        b"\xff",
    ];
    prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..12)
        .prop_map(|tokens| tokens.concat())
}

fn written(value: &Value, pretty: bool) -> Vec<u8> {
    if pretty {
        serde_json::to_vec_pretty(value)
    } else {
        serde_json::to_vec(value)
    }
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_serde_on_soup(text in soup()) {
        prop_assert_eq!(validate(&text).is_ok(), serde_accepts(&text));
    }

    #[test]
    fn agrees_with_serde_on_mutated_texts(
        value in any_value(),
        pretty: bool,
        at: prop::sample::Index,
        replacement in prop_oneof![Just(None), any::<u8>().prop_map(Some)],
    ) {
        let mut text = written(&value, pretty);
        let at = at.index(text.len());
        text.splice(at..=at, replacement);
        prop_assert_eq!(validate(&text).is_ok(), serde_accepts(&text));
    }

    #[test]
    fn compact_keeps_values(value in any_value(), pretty: bool) {
        let text = written(&value, pretty);
        let mut out = Vec::new();
        compact(&text, &mut out, &mut Deaf).unwrap();
        prop_assert_eq!(out, written(&value, false));
    }

    #[test]
    fn spans_are_the_values(members_in in prop::collection::vec((any::<String>(), any_value()), 0..6)) {
        let object: serde_json::Map<_, _> = members_in.into_iter().collect();
        let text = written(&Value::Object(object.clone()), true);
        // Compared as text: serde_json reads some floats one bit off.
        let mut seen = Vec::new();
        members(&text, |member| {
            let name = String::from_utf8(member.name(&text).into_owned()).unwrap();
            let mut value = Vec::new();
            compact(member.value.of(&text), &mut value, &mut Deaf).unwrap();
            seen.push((name, value));
        }).unwrap();
        let expect: Vec<_> =
            object.iter().map(|(name, value)| (name.clone(), written(value, false))).collect();
        prop_assert_eq!(seen, expect);
    }

    #[test]
    fn strings_survive(text: String) {
        let mut out = Vec::new();
        write_string(&text, &mut out);
        prop_assert_eq!(&serde_json::from_slice::<String>(&out).unwrap(), &text);
        prop_assert_eq!(unescape(&out[1..out.len() - 1]), text);
    }

    #[test]
    fn special_finds_the_first(text: Vec<u8>, from in 0_usize..8) {
        let from = from.min(text.len());
        let expect = text[from..].iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
        prop_assert_eq!(string::special(&text, from), expect.map_or(text.len(), |at| from + at));
    }
}
