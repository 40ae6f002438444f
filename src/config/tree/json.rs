//! JSON → tree. Lines come from where each raw value lies in the text. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{DEPTH_MAX, Node, SyntaxError, Value, line_at, too_deep};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let root: &RawValue = serde_json::from_str(text).map_err(|error| SyntaxError {
        line: Some(error.line()),
        message: error.to_string(),
    })?;
    node(text, root, 0)
}

/// Reads one level; the children are looked at as raw text again. That is quadratic in the depth,
/// which is bounded, and gives every value its line.
fn node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, SyntaxError> {
    // `raw` borrows from `text`, so the difference of the addresses is its offset.
    let line = Some(line_at(
        text,
        raw.get().as_ptr().addr() - text.as_ptr().addr(),
    ));
    if depth > DEPTH_MAX {
        return Err(too_deep(line));
    }
    // The error's own position counts from the start of this value, so it is left out.
    let failed = |error: serde_json::Error| SyntaxError {
        line,
        message: error
            .to_string()
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    let value = match raw.get().as_bytes().first() {
        Some(b'{') => {
            let Entries(entries) = serde_json::from_str(raw.get()).map_err(failed)?;
            let mut table: Vec<(String, Node)> = Vec::with_capacity(entries.len());
            for (name, child) in entries {
                let child = node(text, child, depth + 1)?;
                if table.iter().any(|(known, _)| *known == name) {
                    let message = format!("duplicate key `{name}`");
                    return Err(SyntaxError {
                        line: child.line,
                        message,
                    });
                }
                table.push((name, child));
            }
            Value::Table(table)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(failed)?;
            Value::List(
                items
                    .into_iter()
                    .map(|item| node(text, item, depth + 1))
                    .collect::<Result<_, _>>()?,
            )
        }
        _ => match serde_json::from_str(raw.get()).map_err(failed)? {
            serde_json::Value::Bool(value) => Value::Boolean(value),
            serde_json::Value::String(value) => Value::Text(value.into()),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(value) => Value::Integer(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            // A value that opens with neither brace nor bracket is none of the other two.
            _ => Value::Null,
        },
    };
    Ok(Node { line, value })
}

/// An object's members in their order, duplicates kept.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Members).map(Entries)
    }
}
