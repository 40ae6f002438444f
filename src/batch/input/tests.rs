use std::fs;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;

fn input(content: &[u8]) -> (tempfile::TempDir, Input) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("in.jsonl");
    fs::write(&path, content).expect("a file");
    let input = Input::open(&path).expect("an input");
    (folder, input)
}

/// Every line that is not blank, as the obvious algorithm finds it: number, offset, text.
fn expected_lines(content: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut lines = Vec::new();
    let mut offset = 0;
    for (number, piece) in (1..).zip(content.split_inclusive(|&byte| byte == b'\n')) {
        let mark = if number == 1 && piece.starts_with(BYTE_ORDER_MARK) {
            3
        } else {
            0
        };
        let text = piece[mark..].strip_suffix(b"\n").unwrap_or(&piece[mark..]);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if !text.trim_ascii().is_empty() {
            lines.push((number, offset + mark as u64, text.to_vec()));
        }
        offset += piece.len() as u64;
    }
    lines
}

fn check(content: &[u8], threads: usize, range_bytes: usize) {
    let (_folder, input) = input(content);
    let scan = input.scan(threads, range_bytes);
    let mut found = Vec::new();
    let mut at = 0;
    for range in &scan.ranges {
        assert_eq!(range.start, at, "ranges leave no gap");
        assert!(range.end > range.start);
        at = range.end;
        let mut cursor = LineCursor::new(*range);
        while let Some(line) = cursor.next(&input) {
            assert!((range.start..range.end).contains(&line.offset));
            let text = input.line(line.offset);
            assert_eq!(text.len() as u64, line.len);
            found.push((line.number, line.offset, text.to_vec()));
        }
        assert_eq!(cursor.offset(), range.end);
    }
    assert_eq!(at, content.len() as u64);
    assert_eq!(found, expected_lines(content));
    assert_eq!(scan.lines, found.len() as u64);
    let physical = content.split_inclusive(|&byte| byte == b'\n').count();
    assert_eq!(scan.physical_lines, physical as u64);
}

#[test]
fn lines_are_found_whatever_their_endings() {
    let cases: [&[u8]; 12] = [
        b"",
        b"\n",
        b"{}",
        b"{}\n",
        b"{}\r\n{}\r\n",
        b"\n\n{}\n \t\r\n{}\n\n",
        b"\xef\xbb\xbf{}\n{}",
        b"\xef\xbb\xbf\n{}",
        b"\xef\xbb\xbf",
        b"{}\n\xef\xbb\xbf{}\n",
        b"a\rb\r\r\nc\r",
        b"\0\n\xff\xfe\n",
    ];
    for content in cases {
        for range_bytes in [1, 2, 3, 5, 1000] {
            check(content, 2, range_bytes);
        }
    }
}

#[test]
fn blocks_ranges_and_huge_lines_meet_in_every_way() {
    const MIB: usize = 1 << 20;
    let mut content = b"first\n\n".to_vec();
    content.resize(9 * MIB, b'x'); // a line over two whole blocks
    content.extend_from_slice(b"\nafter\n");
    content.resize(12 * MIB - 1, b'y'); // a newline as the last byte of a block
    content.extend_from_slice(b"\n{}\n");
    content.resize(16 * MIB, b'z'); // a newline as the first byte of a block
    content.extend_from_slice(b"\nlast");
    for (threads, range_bytes) in [(1, MIB), (3, 5 * MIB), (2, 4 * MIB), (1, usize::MAX)] {
        check(&content, threads, range_bytes);
    }
    let (_folder, input) = input(&content);
    assert_eq!(
        input.scan(1, MIB),
        input.scan(4, MIB),
        "threads change nothing"
    );
    let starts: Vec<_> = input
        .scan(2, MIB)
        .ranges
        .iter()
        .map(|range| (range.start, range.first_line))
        .collect();
    let after = 9 * MIB as u64 + 1;
    assert_eq!(
        starts[..2],
        [(0, 1), (after, 4)],
        "a huge line makes a larger range"
    );
}

#[test]
fn the_fingerprint_sees_every_byte_and_the_length() {
    let content = vec![b'a'; (4 << 20) + 10];
    let fingerprint = |content: &[u8]| input(content).1.scan(2, 1 << 20).fingerprint;
    let original = fingerprint(&content);
    assert_eq!(original, fingerprint(&content));
    for at in [0, (4 << 20) - 1, 4 << 20, content.len() - 1] {
        let mut other = content.clone();
        other[at] = b'b';
        assert_ne!(original, fingerprint(&other), "byte {at}");
    }
    assert_ne!(original, fingerprint(&content[..content.len() - 1]));
    assert_ne!(fingerprint(b""), fingerprint(b"\0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_cut_into_lines(
        pieces in prop::collection::vec(prop::sample::select(vec!["{}", "\n", "\r", " ", "\u{feff}", "long line of text", "\n\n"]), 0..60),
        threads in 1_usize..4,
        range_bytes in 1_usize..80,
    ) {
        check(pieces.concat().as_bytes(), threads, range_bytes);
    }
}

#[test]
fn unusable_inputs_are_told_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = |path: &Path| Input::open(path).expect_err("unusable").to_string();
    assert!(
        message(&folder.path().join("missing"))
            .ends_with("missing does not exist; give a JSONL file of requests")
    );
    assert!(message(folder.path()).ends_with("is a directory; give a JSONL file"));
    if Path::new("/dev/null").exists() {
        assert_eq!(
            message(Path::new("/dev/null")),
            "input /dev/null is not a regular file; pipe it in with `-i -`"
        );
    }
}

#[test]
fn a_change_is_noticed() {
    let (folder, input) = input(b"{}\n");
    assert!(!input.changed());
    let path = folder.path().join("in.jsonl");
    let file = fs::OpenOptions::new().append(true).open(&path);
    file.and_then(|mut file| file.write_all(b"{}\n"))
        .expect("one more line");
    assert!(input.changed());
}

#[test]
fn pages_are_released_in_steps_and_can_be_read_again() {
    let content = vec![b'a'; 3 << 20];
    let (_folder, input) = input(&content);
    assert_eq!(input.release_before(0..RELEASE_STEP_BYTES - 1), 0);
    assert_eq!(
        input.release_before(0..RELEASE_STEP_BYTES + 5),
        RELEASE_STEP_BYTES
    );
    assert_eq!(input.release_before(RELEASE_STEP_BYTES..(3 << 20)), 3 << 20);
    assert_eq!(input.line(0).len(), 3 << 20);
    assert_eq!(input.line(u64::MAX), b"");
}

#[test]
fn standard_input_is_spooled_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("input.jsonl");
    fs::write(
        folder.path().join("input.jsonl.partial"),
        "left by a killed process, and longer",
    )
    .expect("a file");
    let spool = |bytes: &[u8]| Input::spool(&mut &*bytes, &path);
    assert_eq!(spool(b"{}\n{}\n").expect("a spool").line(3), b"{}");
    assert_eq!(spool(b"{}\n{}\n").expect("the same").size(), 6);
    assert_eq!(spool(b"").expect("a pipe read before").size(), 6);
    for other in [&b"{}\n"[..], b"{}\n{}\n{}\n", b"{}\n[]\n"] {
        assert!(
            matches!(spool(other), Err(InputError::OtherSpool { .. })),
            "{other:?}"
        );
    }
    assert_eq!(fs::read(&path).expect("kept"), b"{}\n{}\n");
    assert!(!folder.path().join("input.jsonl.partial").exists());
}

#[test]
fn another_standard_input_takes_the_place_of_a_spool_of_which_nothing_was_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("input.jsonl");
    let large = "x".repeat(3 << 20);
    for (old, new) in [
        ("", "new"),
        ("{}\n{}\n", "{}\n[]\n"),
        ("{}\n{}\n", "{}\n"),
        ("{}\n", "{}\n{}\n"),
        (&large[1..], &large[..]),
        (&large[..], "y"),
    ] {
        fs::write(&path, old).expect("a file");
        let input = Input::spool_anew(&mut new.as_bytes(), &path).expect("a spool");
        assert_eq!(input.size(), new.len() as u64);
        assert_eq!(fs::read(&path).expect("a file"), new.as_bytes());
        // A pipe that was read before leaves it.
        let again = Input::spool_anew(&mut &b""[..], &path).expect("a spool");
        assert_eq!(again.size(), input.size());
    }
}
