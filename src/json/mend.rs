//! Text that is almost JSON, as servers write their errors: mended, so that any parser reads it. Pure.
//!
//! An error that repeats half a character of the prompt (`"\ud83d"`) still has a code. Records keep the
//! server's bytes; only whoever looks for codes and messages reads the mended text.

use std::borrow::Cow;

use super::string::code_unit;

/// What a byte order mark looks like in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// `text` without a byte order mark in front.
#[inline]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// `text` with what strict parsers refuse replaced: a byte order mark goes, invalid UTF-8 and escapes of half
/// a character become U+FFFD, control characters within strings spaces, `NaN` and infinities `null`. What is
/// well-formed comes back as it is; what is no JSON at all stays none.
pub fn mended(text: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(without_mark(text));
    match mend(&text) {
        Some(mended) => Cow::Owned(mended),
        None => text,
    }
}

/// `None`: there is nothing to mend.
fn mend(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut mended = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut in_string = false;
    while let Some(&byte) = bytes.get(at) {
        let (length, replacement) = match (in_string, byte) {
            (_, b'"') => {
                in_string = !in_string;
                (1, None)
            }
            (true, b'\\') => escape(&bytes[at..]),
            (true, 0..=0x1f) => (1, Some(" ")),
            (false, b'-' | b'N' | b'I') => match not_a_number(&bytes[at..]) {
                Some(length) => (length, Some("null")),
                None => (1, None),
            },
            _ => (1, None),
        };
        if let Some(replacement) = replacement {
            mended.push_str(&text[copied..at]);
            mended.push_str(replacement);
            copied = at + length;
        }
        at += length;
    }
    (copied > 0).then(|| {
        mended.push_str(&text[copied..]);
        mended
    })
}

/// How long the escape at the start of `raw` is, and what to write in its place, if it is half a character.
fn escape(raw: &[u8]) -> (usize, Option<&'static str>) {
    match code_unit(raw) {
        Some(0xd800..=0xdbff) => match code_unit(&raw[6..]) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some("\\ufffd")),
        },
        Some(0xdc00..=0xdfff) => (6, Some("\\ufffd")),
        Some(_) => (6, None),
        // Also where the text ends behind the backslash.
        None => (raw.len().min(2), None),
    }
}

/// How long a word for a number that JSON has no word for is, if `raw` begins with one.
fn not_a_number(raw: &[u8]) -> Option<usize> {
    let words: [&[u8]; 4] = [b"NaN", b"Infinity", b"-Infinity", b"-NaN"];
    let word = words.into_iter().find(|word| raw.starts_with(word))?;
    let ends = raw
        .get(word.len())
        .is_none_or(|next| !next.is_ascii_alphanumeric());
    ends.then_some(word.len())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_mended_parses_and_means_the_same() {
        let check = |text: &[u8], expect: &str| {
            assert_eq!(mended(text), expect, "{}", text.escape_ascii());
            serde_json::from_str::<Value>(expect).expect("what was mended is JSON");
        };
        check(br#"{"a":"b","n":-1}"#, r#"{"a":"b","n":-1}"#);
        check(b"\xef\xbb\xbf{}", "{}");
        check(br#""x \ud83d y""#, r#""x \ufffd y""#);
        check(br#""\ude00 \uD83D""#, r#""\ufffd \ufffd""#);
        check(br#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#);
        check(br#""\ud83d\n""#, r#""\ufffd\n""#);
        // Half a character that is spelt out, not escaped.
        check(br#""\\ud83d""#, r#""\\ud83d""#);
        check(br#""\"\ud83d\"""#, r#""\"\ufffd\"""#);
        check(
            b"{\"a\":\"\xff\xed\xa0\xbd!\"}",
            "{\"a\":\"\u{fffd}\u{fffd}\u{fffd}\u{fffd}!\"}",
        );
        check(
            b"{\"a\":\"one\ntwo\tthree\"}\n",
            "{\"a\":\"one two three\"}\n",
        );
        check(
            br#"{"a":[NaN,-Infinity, Infinity]}"#,
            r#"{"a":[null,null, null]}"#,
        );
        check(br#"{"a":"NaN -Infinity"}"#, r#"{"a":"NaN -Infinity"}"#);
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in [
            "",
            "\"",
            "\"\\",
            "\"\\u",
            "\"\\ud83d",
            "Notfound",
            "-Infinitely",
            "<html>",
        ] {
            let mended = mended(text.as_bytes());
            assert!(
                serde_json::from_str::<Value>(&mended).is_err(),
                "{text}: {mended}"
            );
        }
    }
}
