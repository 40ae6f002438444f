//! TOML → tree. The parser reports duplicate keys itself. Pure.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{DEPTH_MAX, Node, SyntaxError, Value, line_at, too_deep};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    // `message()` alone: the full display quotes the line, and with it perhaps a key.
    let root = DeTable::parse(text).map_err(|error| SyntaxError {
        line: error.span().map(|span| line_at(text, span.start)),
        message: error.message().to_owned(),
    })?;
    Ok(Node {
        line: Some(1),
        value: table(text, root.into_inner(), 0)?,
    })
}

fn node(text: &str, spanned: Spanned<DeValue<'_>>, depth: usize) -> Result<Node, SyntaxError> {
    let line = Some(line_at(text, spanned.span().start));
    if depth > DEPTH_MAX {
        return Err(too_deep(line));
    }
    let value = match spanned.into_inner() {
        DeValue::String(value) => Value::Text(value.into_owned().into()),
        DeValue::Integer(value) => i128::from_str_radix(value.as_str(), value.radix())
            .map(Value::Integer)
            .map_err(|_| SyntaxError {
                line,
                message: "the number is out of range".to_owned(),
            })?,
        DeValue::Float(value) => Value::Float(value.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| node(text, item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(entries) => table(text, entries, depth)?,
    };
    Ok(Node { line, value })
}

fn table(text: &str, entries: DeTable<'_>, depth: usize) -> Result<Value, SyntaxError> {
    entries
        .into_iter()
        .map(|(name, child)| {
            Ok((
                name.into_inner().into_owned(),
                node(text, child, depth + 1)?,
            ))
        })
        .collect::<Result<_, _>>()
        .map(Value::Table)
}
