//! YAML → tree. The parser reports duplicate keys itself and bounds aliases. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{DEPTH_MAX, Node, SyntaxError, Value, too_deep};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    // No excerpt of the file in messages: the line may hold a key.
    // YAML 1.2's booleans only: a model called `no` is text.
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let root: Spanned<Shape> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let error = error.without_snippet();
            SyntaxError {
                line: error
                    .location()
                    .and_then(|at| usize::try_from(at.line()).ok()),
                message: error.to_string(),
            }
        })?;
    match node(root, 0)? {
        // A file of comments only says nothing, like an empty TOML file.
        Node {
            line,
            value: Value::Null,
        } => Ok(Node {
            line,
            value: Value::Table(Vec::new()),
        }),
        root => Ok(root),
    }
}

fn node(spanned: Spanned<Shape>, depth: usize) -> Result<Node, SyntaxError> {
    let line = usize::try_from(spanned.referenced.line())
        .ok()
        .filter(|line| *line > 0);
    if depth > DEPTH_MAX {
        return Err(too_deep(line));
    }
    let value = match spanned.value {
        Shape::Scalar(value) => value,
        Shape::List(items) => Value::List(
            items
                .into_iter()
                .map(|item| node(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Shape::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|(name, child)| Ok((name, node(child, depth + 1)?)))
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Node { line, value })
}

/// One level of the document, as serde hands it over.
enum Shape {
    Scalar(Value),
    List(Vec<Spanned<Shape>>),
    Table(Vec<(String, Spanned<Shape>)>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, a list, text, a number, true or false")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Boolean(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Integer(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Integer(value.into())))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Integer(value)))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Shape, E> {
        // Beyond i128 is beyond every setting; as a float it is refused with the others.
        let scalar = i128::try_from(value).map_or(Value::Float(f64::INFINITY), Value::Integer);
        Ok(Shape::Scalar(scalar))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Float(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Text(value.to_owned().into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Shape::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Shape::Table(table))
    }
}
