//! The fields of an event's JSON, taken apart as far as assembling needs; values stay as written. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::StreamError;
use crate::error::ErrorKind;

/// How many more bytes may be kept.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_left: usize,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_left: bytes_max,
            bytes_max,
        }
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), StreamError> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(StreamError::new(
                ErrorKind::TooLarge,
                format!("the streamed response exceeds {} bytes", self.bytes_max),
            )),
        }
    }
}

/// The fields of one JSON object in their order, values as written.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The fields of `raw`; none if it is not an object.
    pub(super) fn of(raw: &'a RawValue) -> Self {
        Self::parse(raw.get())
    }

    /// The fields of the object that `text` is; none if it is not an object.
    pub(super) fn parse(text: &'a str) -> Self {
        match text.starts_with('{') {
            true => serde_json::from_str(text).unwrap_or_default(),
            false => Self::default(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// The field `name`, if it says something.
    pub(super) fn filled(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| !is_blank(value))
    }

    /// The field `name` if it is a string, as written.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(text)
    }

    /// The field `name` if it is a string that is not empty, as written.
    pub(super) fn word(&self, name: &str) -> Option<&'a str> {
        self.text(name).filter(|word| !word.is_empty())
    }

    /// The fields of the object `name`; none if it is not an object.
    pub(super) fn object(&self, name: &str) -> Self {
        self.get(name).map(Self::of).unwrap_or_default()
    }

    /// The field `name` if it is a whole number, also between quotes.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let raw = self.get(name)?;
        text(raw).unwrap_or(raw.get()).parse().ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// A field's name, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What stands between the quotes of `raw`, as written, if it is a string.
///
/// Pieces are joined undecoded: escapes reach the record as the server wrote them, and a surrogate
/// pair that a server cut in two (`"\ud83d"`, `"\ude00"`) is whole again.
pub(super) fn text(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// The elements of `raw`, if it is a list.
pub(super) fn elements(raw: &RawValue) -> Vec<&RawValue> {
    match raw.get().starts_with('[') {
        true => serde_json::from_str(raw.get()).unwrap_or_default(),
        false => Vec::new(),
    }
}

/// Whether a value says nothing: servers fill chunks with these.
pub(super) fn is_blank(raw: &RawValue) -> bool {
    matches!(raw.get(), "null" | "\"\"" | "0" | "{}" | "[]")
}

/// Whether `raw` is an object.
pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// Whether what stands between the quotes of a string, as written, is a whole JSON object.
pub(super) fn holds_object(escaped: &str) -> bool {
    escaped.starts_with('{')
        && escaped.ends_with('}')
        && serde_json::from_str::<String>(&format!("\"{escaped}\""))
            .is_ok_and(|json| serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok())
}
