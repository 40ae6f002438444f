//! The insides of JSON strings: finding what is special, escaping and resolving escapes. Pure.

use std::borrow::Cow;

use crate::block::{BLOCK, has_string_specials, string_specials};

/// The next quote, backslash or control character at or after `from`; the text's length if there is none.
#[inline]
pub(super) fn special(text: &[u8], from: usize) -> usize {
    let mut at = from;
    // Names and most short strings end in the first block.
    if let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        let hits = string_specials(block);
        if hits != 0 {
            return at + hits.trailing_zeros() as usize;
        }
        at += BLOCK;
    }
    special_beyond(text, at)
}

/// The same for a long string, or for the end of the text.
#[inline(never)]
fn special_beyond(text: &[u8], from: usize) -> usize {
    let mut rest = text.get(from..).unwrap_or_default();
    while let Some((wide, beyond)) = rest.split_first_chunk() {
        if has_string_specials(wide) {
            break;
        }
        rest = beyond;
    }
    while let Some((block, beyond)) = rest.split_first_chunk() {
        let hits = string_specials(block);
        if hits != 0 {
            return text.len() - rest.len() + hits.trailing_zeros() as usize;
        }
        rest = beyond;
    }
    let mut block = [b' '; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    let place = string_specials(&block).trailing_zeros() as usize;
    text.len() - rest.len() + place.min(rest.len())
}

/// Appends `text` as a JSON string, quotes included, escaping exactly what RFC 8259 demands.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
    let text = text.as_bytes();
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut copied = 0;
    loop {
        let at = special(text, copied);
        out.extend_from_slice(&text[copied..at]);
        let Some(&byte) = text.get(at) else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEXADECIMAL[usize::from(control >> 4)]);
                out.push(HEXADECIMAL[usize::from(control & 15)]);
            }
        }
        copied = at + 1;
    }
    out.push(b'"');
}

/// The text of a value that is a string; `None` of any other. The value has passed the scanner.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let raw = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some(unescape(raw))
}

/// The text of a JSON string, given what stands between its quotes. Lone surrogates, and whatever would
/// not have passed the scanner, become U+FFFD.
pub fn unescape(raw: &[u8]) -> Cow<'_, str> {
    let Some(mut backslash) = memchr::memchr(b'\\', raw) else {
        return String::from_utf8_lossy(raw);
    };
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        text.push_str(&String::from_utf8_lossy(&rest[..backslash]));
        let (character, length) = escaped_character(&rest[backslash..]);
        text.push(character);
        rest = &rest[backslash + length..];
        match memchr::memchr(b'\\', rest) {
            Some(next) => backslash = next,
            None => {
                text.push_str(&String::from_utf8_lossy(rest));
                return Cow::Owned(text);
            }
        }
    }
}

/// The character of the escape that begins `raw`, and the escape's length.
fn escaped_character(raw: &[u8]) -> (char, usize) {
    const INVALID: char = char::REPLACEMENT_CHARACTER;
    let simple = match raw.get(1) {
        Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        _ => {
            let Some(unit) = code_unit(raw) else {
                return (INVALID, 1);
            };
            if let Some(character) = char::from_u32(unit) {
                return (character, 6);
            }
            // A surrogate: it needs its other half right behind it.
            return match code_unit(&raw[6..]) {
                Some(low @ 0xdc00..=0xdfff) if unit < 0xdc00 => {
                    let scalar = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    (char::from_u32(scalar).unwrap_or(INVALID), 12)
                }
                _ => (INVALID, 6),
            };
        }
    };
    (simple, 2)
}

/// The UTF-16 code unit of a `\uXXXX` that begins `raw`.
pub(super) fn code_unit(raw: &[u8]) -> Option<u32> {
    let digits = raw.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit << 4 | char::from(digit).to_digit(16)?)
    })
}
