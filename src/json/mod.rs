//! Validating JSON scanner that hands back raw spans. Pure.
//!
//! Accepts exactly RFC 8259 in valid UTF-8, nested at most [`MAX_DEPTH`] levels, and builds no tree:
//! callers get the byte spans of what they asked for and copy those bytes as they were written. A lone
//! surrogate escape (`"\uD800"`) is syntax the RFC allows, so it passes. One scanner ([`visit`]) serves
//! every function here; what a caller does not listen to is compiled away.

mod mend;
mod scan;
mod string;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

pub use mend::{mended, without_mark};
pub use scan::visit;
pub use string::{text, unescape, write_string};

/// Deepest nesting of arrays and objects that is accepted. Real requests stay below 20 levels; the bound
/// keeps the scanner's state on the stack (512 bits) and spares readers of our records.
pub const MAX_DEPTH: usize = 512;

/// Longest text that is accepted, in bytes: 32-bit spans reach its end, and may be shifted a little.
pub const TEXT_BYTES_MAX: usize = u32::MAX as usize - 1024;

/// A range of bytes in a text of at most [`TEXT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The span `start..end`; [`visit`] has refused any text in which they don't fit.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        debug_assert!(
            start <= end && end <= u32::MAX as usize,
            "span {start}..{end}"
        );
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes in `text`. Panics if `text` is shorter than the text the span was made for.
    #[inline]
    pub fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.range()]
    }

    /// The span as a range of indices.
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The same span in a text that has `bytes` more in front.
    pub(crate) fn shifted(self, bytes: u32) -> Self {
        Self {
            start: self.start + bytes,
            end: self.end + bytes,
        }
    }
}

/// What a JSON value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// `-1.5e3`
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: expected {expected}")]
pub struct Syntax {
    /// Bytes before the fault; the length of the text if it ends too early.
    pub offset: usize,
    /// What would have been right there.
    pub expected: &'static str,
}

/// A member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name without its quotes, escapes as written.
    pub key: Span,
    /// Whether the name has escapes.
    pub key_escaped: bool,
    /// The value, quotes and brackets included.
    pub value: Span,
    /// What the value is.
    pub kind: Kind,
}

impl Member {
    /// The name with its escapes resolved.
    #[inline]
    pub fn name<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        name(text, self.key, self.key_escaped)
    }

    /// The same member in a text that has `bytes` more in front.
    pub(crate) fn shifted(self, bytes: u32) -> Self {
        Self {
            key: self.key.shifted(bytes),
            value: self.value.shifted(bytes),
            ..self
        }
    }
}

/// The name at `key` with its escapes resolved.
#[inline]
pub(crate) fn name(text: &[u8], key: Span, key_escaped: bool) -> Cow<'_, [u8]> {
    let raw = key.of(text);
    if !key_escaped {
        return Cow::Borrowed(raw);
    }
    Cow::Owned(unescape(raw).into_owned().into_bytes())
}

/// Listens to a scan; every method defaults to not listening.
///
/// Calls come in the order in which the things end in the text, and before it is known whether the
/// whole text is valid: throw the results away if [`visit`] fails.
pub trait Visitor {
    /// A member of the top-level object.
    #[inline]
    fn member(&mut self, _member: Member) {}
    /// Whether to hear of the members of the object that is the value of this top-level member, through
    /// [`Visitor::inner_member`] and before [`Visitor::member`].
    #[inline]
    fn enter(&mut self, _key: Span, _key_escaped: bool) -> bool {
        false
    }
    /// A member of the object entered last.
    #[inline]
    fn inner_member(&mut self, _member: Member) {}
    /// A member of an object below those; its value begins at `value_at` and has not been looked at yet.
    #[inline]
    fn nested_member(&mut self, _key: Span, _value_at: usize) {}
    /// An element of the top-level array.
    #[inline]
    fn element(&mut self, _value: Span, _kind: Kind) {}
    /// Insignificant white space, never empty.
    #[inline]
    fn white_space(&mut self, _gap: Range<usize>) {}
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Deaf;

impl Visitor for Deaf {}

/// Checks the whole text.
pub fn validate(text: &[u8]) -> Result<Kind, Syntax> {
    visit(text, &mut Deaf)
}

/// Checks the whole text and visits the members if it is an object. White space may surround it.
pub fn members(text: &[u8], visit: impl FnMut(Member)) -> Result<Kind, Syntax> {
    struct Members<F>(F);
    impl<F: FnMut(Member)> Visitor for Members<F> {
        #[inline]
        fn member(&mut self, member: Member) {
            (self.0)(member);
        }
    }
    self::visit(text, &mut Members(visit))
}

/// Checks the whole text and visits the elements if it is an array. White space may surround it.
pub fn elements(text: &[u8], visit: impl FnMut(Span, Kind)) -> Result<Kind, Syntax> {
    struct Elements<F>(F);
    impl<F: FnMut(Span, Kind)> Visitor for Elements<F> {
        #[inline]
        fn element(&mut self, value: Span, kind: Kind) {
            (self.0)(value, kind);
        }
    }
    self::visit(text, &mut Elements(visit))
}

/// Checks the whole text, appends it without insignificant white space, and tells `listener` of the rest
/// (spans are in `text`, not in `out`); all in one pass. On error `out` is as it was.
///
/// What lies between two gaps is copied at once, so text that is compact already costs a scan and a
/// memcpy.
pub fn compact(
    text: &[u8],
    out: &mut Vec<u8>,
    listener: &mut impl Visitor,
) -> Result<Kind, Syntax> {
    struct Compact<'a, V> {
        text: &'a [u8],
        out: &'a mut Vec<u8>,
        /// Everything before it is in `out`, or was white space.
        copied: usize,
        listener: &'a mut V,
    }
    impl<V: Visitor> Visitor for Compact<'_, V> {
        #[inline]
        fn member(&mut self, member: Member) {
            self.listener.member(member);
        }
        #[inline]
        fn enter(&mut self, key: Span, key_escaped: bool) -> bool {
            self.listener.enter(key, key_escaped)
        }
        #[inline]
        fn inner_member(&mut self, member: Member) {
            self.listener.inner_member(member);
        }
        #[inline(always)]
        fn nested_member(&mut self, key: Span, value_at: usize) {
            self.listener.nested_member(key, value_at);
        }
        #[inline]
        fn element(&mut self, value: Span, kind: Kind) {
            self.listener.element(value, kind);
        }
        #[inline]
        fn white_space(&mut self, gap: Range<usize>) {
            self.out
                .extend_from_slice(&self.text[self.copied..gap.start]);
            self.copied = gap.end;
        }
    }
    let length_before = out.len();
    out.reserve(text.len());
    let mut compact = Compact {
        text,
        out,
        copied: 0,
        listener,
    };
    let result = visit(text, &mut compact);
    match result {
        Ok(_) => compact.out.extend_from_slice(&text[compact.copied..]),
        Err(_) => compact.out.truncate(length_before),
    }
    result
}

/// The text without the JSON white space around it (which is less than what ASCII calls white space).
pub fn trim(text: &[u8]) -> &[u8] {
    let is_white_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let start = text
        .iter()
        .position(|byte| !is_white_space(byte))
        .unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !is_white_space(byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}

/// The value of a whole number that is not negative; `12.0` and `1e3` count, as some servers write them.
pub fn as_u64(raw: &[u8]) -> Option<u64> {
    plain_u64(raw).or_else(|| unusual_u64(raw))
}

/// Up to nineteen digits, which cannot overflow, the first of them no zero.
fn plain_u64(raw: &[u8]) -> Option<u64> {
    if !matches!(raw, [b'1'..=b'9', ..]) || raw.len() > 19 {
        return None;
    }
    raw.iter().try_fold(0, |number: u64, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

#[inline(never)]
fn unusual_u64(raw: &[u8]) -> Option<u64> {
    if raw.iter().all(u8::is_ascii_digit) {
        let is_json = raw == b"0" || raw.first().is_some_and(|&first| first != b'0');
        let digits = raw.iter().map(|digit| u64::from(digit - b'0'));
        return digits
            .map(Some)
            .reduce(|number, digit| number?.checked_mul(10)?.checked_add(digit?))
            .flatten()
            .filter(|_| is_json);
    }
    /// Up to here every whole number is an `f64`.
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    let value = as_f64(raw)?;
    (value.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&value)).then_some(value as u64)
}

/// The value of a number that an `f64` can hold: `1e400` is none.
pub fn as_f64(raw: &[u8]) -> Option<f64> {
    if validate(raw) != Ok(Kind::Number) {
        return None;
    }
    let text = std::str::from_utf8(trim(raw)).ok()?;
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The value at a path of member names, or of decimal indices where there is an array. Of members with
/// the same name the last wins, as in most parsers. `None` too if `text` is not JSON.
///
/// For cold paths: every level is scanned again.
pub fn get<'t>(text: &'t [u8], path: &[&str]) -> Option<&'t [u8]> {
    let mut value = trim(text);
    validate(value).ok()?;
    for step in path {
        let mut found = None;
        let mut index = 0_usize;
        let wanted = step.parse::<usize>().ok();
        let here = value;
        match here.first() {
            Some(b'{') => members(here, |member| {
                if *member.name(here) == *step.as_bytes() {
                    found = Some(member.value);
                }
            }),
            _ => elements(here, |span, _| {
                if Some(index) == wanted {
                    found = Some(span);
                }
                index += 1;
            }),
        }
        .ok()?;
        value = found?.of(here);
    }
    Some(value)
}
