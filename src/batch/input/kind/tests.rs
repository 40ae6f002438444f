use super::*;

const MIB: usize = 1 << 20;

fn utf_16(text: &str, mark: bool, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mark = mark.then_some('\u{feff}');
    let letters: String = mark.into_iter().chain(text.chars()).collect();
    letters.encode_utf16().flat_map(unit).collect()
}

fn check(what: &str, bytes: &[u8], expect: Option<ForeignKind>) {
    assert_eq!(recognise(bytes, 64 * MIB), expect, "{what}");
}

const TABLE: ForeignKind = ForeignKind::Table { delimiter: b',' };
const ARRAY: ForeignKind = ForeignKind::Array { of_texts: false };

#[test]
fn what_other_programs_wrote_is_recognised_by_its_first_bytes() {
    for (bytes, name) in [
        (&b"\x1f\x8b\x08\0"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"BZh91AY&SY\0", "bzip2"),
        (b"BZh9\x17\x72\x45\x38\x50\x90", "bzip2"),
        // Stored as it is, so that whole lines stand in it.
        (
            b"PK\x03\x04\x14\0in.jsonl{\"input\":1}\n{\"input\":2}\n",
            "zip",
        ),
        (b"PK\x05\x06\0", "zip"),
    ] {
        match recognise(bytes, MIB) {
            Some(ForeignKind::Packed(packer)) => assert_eq!(packer.name, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    check(
        "a program",
        b"\x7fELF\x02\0\0",
        Some(ForeignKind::Binary("a program (ELF)")),
    );
    for (bytes, what) in [
        (&b""[..], "nothing"),
        (b"\x1f", "a byte"),
        (b"\x1f\x8b", "two of three bytes"),
        (b"BZhello\n", "text with the same beginning"),
        (b"PK\n", "text"),
    ] {
        check(what, bytes, None);
    }
}

#[test]
fn text_in_wide_codings_is_recognised_with_and_without_its_mark() {
    let text = "{\"input\": \"h\u{e9} \u{4f60}\"}\r\n{\"input\": \"b\"}\r\n";
    for (mark, unit, name) in [
        (true, u16::to_le_bytes as fn(u16) -> [u8; 2], "UTF-16"),
        (true, u16::to_be_bytes, "UTF-16"),
        (false, u16::to_le_bytes, "UTF-16LE"),
        (false, u16::to_be_bytes, "UTF-16BE"),
    ] {
        check(
            name,
            &utf_16(text, mark, unit),
            Some(ForeignKind::Wide(name)),
        );
    }
    let wide: Vec<u8> = text
        .chars()
        .flat_map(|letter| (letter as u32).to_le_bytes())
        .collect();
    check("UTF-32", &wide, Some(ForeignKind::Wide("UTF-32LE")));
    // A NUL byte, or several, in one line of several, first or alone.
    for bytes in [
        &b"{\"input\":\"a\0b\"}\n{\"input\":\"b\"}\n"[..],
        b"\0\0\0\0\n{\"input\":\"b\"}\n",
        b"{\0\"\0a\0\n{\"input\":\"b\"}\n",
        b"{\"input\":\"a\0b\"}\n",
        b"\0\n",
        b"\xff\xfe\n{\"input\":\"b\"}\n",
    ] {
        check("one line is broken", bytes, None);
    }
}

#[test]
fn arrays_and_pretty_printed_objects_are_recognised() {
    let many = |count: usize| {
        let elements = vec![r#"  {"input": "a"}"#; count];
        format!("[\n{}\n]\n", elements.join(",\n"))
    };
    let huge = format!(
        "[{}{{\"input\":\"b\"}}]",
        "{\"input\":\"a\"},".repeat(MIB / 8)
    );
    for (text, expect) in [
        (r#"[{"input": "first"}, {"input": "second"}]"#, Some(ARRAY)),
        ("\u{feff} [{\"input\": \"first\"}] \n\n", Some(ARRAY)),
        ("[]\n", Some(ARRAY)),
        (r#"["a", "b"]"#, Some(ForeignKind::Array { of_texts: true })),
        (
            "[\n \"a\",\n \"b\"\n]\n",
            Some(ForeignKind::Array { of_texts: true }),
        ),
        // The last element has a line of its own, and is a request.
        (&many(1), Some(ARRAY)),
        (&many(2), Some(ARRAY)),
        (&many(99), Some(ARRAY)),
        (&many(100_000), Some(ARRAY)),
        (
            "[{\"input\": \"a\"},\n{\"input\": \"b\"},\n{\"input\": \"c\"}]",
            Some(ARRAY),
        ),
        ("[\n  {\n    \"input\": \"a\"\n  }\n]\n", Some(ARRAY)),
        ("[\n\n{\"input\": \"a\"}\n\n]\n", Some(ARRAY)),
        // Longer than what is parsed.
        (&huge, Some(ARRAY)),
        (
            "{\n  \"input\": \"a\"\n}\n{\n  \"input\": \"b\"\n}\n",
            Some(ForeignKind::Pretty),
        ),
        (
            "{\r\n\"messages\": [\r\n{\"role\": \"user\", \"content\": \"x\"}\r\n]\r\n}",
            Some(ForeignKind::Pretty),
        ),
        // Cut off.
        ("{\n  \"input\": \"a\",\n", Some(ForeignKind::Pretty)),
        // Lines that are broken, each for itself.
        ("[]\n{\"input\": \"a\"}\n", None),
        ("[{\"role\": \"user\"}]\n[{\"role\": \"user\"}]\n", None),
        ("[not json]\n", None),
        ("[\"a\nb]\n", None),
        ("{\"input\": \"a\"\n{\"input\": \"b\"\n", None),
        ("{\"input\": \n", None),
        ("{\"unknown\": 1}\n{\"unknown\": 2}\n", None),
        ("{\"input\": \"a\"}\n]\n", None),
        ("\"a\"\n1\nnull\n", None),
    ] {
        check(&text[..text.len().min(80)], text.as_bytes(), expect);
    }
}

#[test]
fn tables_are_recognised_by_a_header_that_most_records_agree_with() {
    let semicolons = ForeignKind::Table { delimiter: b';' };
    let tabs = ForeignKind::Table { delimiter: b'\t' };
    let long = format!("id,input\n{}", "1,\"some, text\"\n".repeat(10_000));
    for (text, expect) in [
        (
            "id,input\n1,\"first\"\n2,\"second\"\n3,\"third\"\n",
            Some(TABLE),
        ),
        ("\u{feff}\"id\",\"input\"\r\n1,first\r\n", Some(TABLE)),
        (
            "id,input\n1,\"two\nlines, and \"\"quotes\"\"\"\n2,b",
            Some(TABLE),
        ),
        (
            "id,input\n1,a prompt, with a comma\n2,b\n3,c\n",
            Some(TABLE),
        ),
        ("id,input\n1,\"{\"\"a\"\": 1}\"\n", Some(TABLE)),
        ("1,\"first\"\n2,\"second\"\n", Some(TABLE)),
        ("id;input\n1;a, b\n", Some(semicolons)),
        ("id\tinput\n1\ta, b\n", Some(tabs)),
        (&long, Some(TABLE)),
        // No table.
        ("id,input\n", None),
        ("input\nfirst\nsecond\n", None),
        ("nonsense\nmore nonsense\n", None),
        ("Well, yes\nand no\n", None),
        ("Hello, a\nBye, b\n", None),
        ("\"a\": 1, \"b\": 2\n\"a\": 1, \"b\": 2\n", None),
        ("{broken, json}\n{broken, json}\n", None),
        ("id,input\n{\"input\": \"a\"}\n", None),
    ] {
        check(&text[..text.len().min(80)], text.as_bytes(), expect);
    }
}

#[test]
fn a_request_among_the_first_hundred_lines_makes_it_jsonl() {
    let lines = |before: usize| format!("{}{{\"input\": \"a\"}}\n", "a,b\n".repeat(before));
    check("99 before it", lines(99).as_bytes(), None);
    check("100 before it", lines(100).as_bytes(), Some(TABLE));
    assert_eq!(
        recognise(lines(9).as_bytes(), 10),
        Some(TABLE),
        "too long to be one"
    );
}

#[test]
fn a_complaint_has_a_guess_and_a_command() {
    let explain = |bytes: &[u8], path: Option<&str>| {
        let kind = recognise(bytes, MIB).expect("another kind");
        kind.explain(path.map(Path::new))
    };
    for (bytes, path, expect) in [
        (
            &b"[{\"input\":1}]"[..],
            Some("data/in.json"),
            "input data/in.json is not JSONL but looks like one JSON array; make JSONL of it with: \
             jq -c '.[]' data/in.json > data/in.lines.jsonl",
        ),
        (
            b"{\n\"input\":1}",
            Some("in.jsonl"),
            "input in.jsonl is not JSONL but looks like pretty-printed JSON, where an object goes over \
             several lines; make JSONL of it with: jq -c . in.jsonl > in.lines.jsonl",
        ),
        (
            b"\x1f\x8b\x08",
            Some("my in.jsonl.gz"),
            "input my in.jsonl.gz is not JSONL but looks like a file compressed by gzip; make JSONL of it \
             with: gunzip < 'my in.jsonl.gz' > 'my in.lines.jsonl'",
        ),
        (
            b"PK\x03\x04",
            Some("in.zip"),
            "input in.zip is not JSONL but looks like a file compressed by zip; make JSONL of it with: \
             unzip -p in.zip > in.lines.jsonl",
        ),
        (
            b"\xff\xfe{\0",
            Some("it's"),
            "input it's is not JSONL but looks like text in UTF-16, not UTF-8; make JSONL of it with: \
             iconv -f UTF-16 -t UTF-8 < 'it'\\''s' > 'it'\\''s.lines.jsonl'",
        ),
        (
            b"id\tinput\n1\tx\n",
            None,
            "standard input is not JSONL but looks like a table with tabs between its fields (TSV); put this \
             before it: | python3 -c 'import csv, json, sys; [print(json.dumps(row)) for row in \
             csv.DictReader(sys.stdin, delimiter=\"\\t\")]' | blaze-uring -i - \u{2026} (a column called \
             `input` becomes the prompt)",
        ),
        (
            b"PAR1",
            Some("in"),
            "input in is not JSONL but looks like a Parquet file; export its rows as JSON, one object a line",
        ),
    ] {
        assert_eq!(explain(bytes, path), expect);
    }
}
