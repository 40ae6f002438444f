//! JSON, TOML and YAML text → one tree with line numbers, so that one reader serves all three. Pure.

mod json;
mod toml;
mod yaml;

use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{ConfigError, Origin};

/// Deeper nesting than this is no configuration of ours (the schema needs four levels), and the
/// recursion of the reader stays far from the end of any stack.
const DEPTH_MAX: usize = 32;

/// A value and where it stands.
#[derive(Debug, PartialEq)]
pub(super) struct Node {
    /// From 1; `None` where the parser does not tell.
    pub line: Option<usize>,
    pub value: Value,
}

/// What the three formats have in common.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    /// Wiped when dropped: it may be a key.
    Text(Zeroizing<String>),
    /// TOML's dates and times; no setting takes one.
    Date,
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

/// A parser's complaint, before file name and format are added.
#[derive(Debug)]
struct SyntaxError {
    line: Option<usize>,
    message: String,
}

/// The tree of `text`, in the format that the extension of `path` names. A byte order mark is
/// skipped, an empty document is an empty table. Duplicate keys are an error in all three formats.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node, ConfigError> {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (format, result) = match extension.to_ascii_lowercase().as_str() {
        "json" => ("JSON", json::parse(text)),
        "toml" => ("TOML", toml::parse(text)),
        "yaml" | "yml" => ("YAML", yaml::parse(text)),
        _ => {
            return Err(ConfigError::UnknownFormat {
                path: path.to_owned(),
            });
        }
    };
    result.map_err(|SyntaxError { line, message }| ConfigError::Syntax {
        origin: Origin::File {
            file: file_name(path),
            line,
            field: String::new(),
        },
        format,
        message: one_line(&message),
    })
}

/// The path as messages show it, on one line whatever it holds.
pub(super) fn file_name(path: &Path) -> Arc<str> {
    one_line(&path.display().to_string()).into()
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// The line, from 1, of the byte at `offset`.
fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    memchr::memchr_iter(b'\n', before).count() + 1
}

fn too_deep(line: Option<usize>) -> SyntaxError {
    SyntaxError {
        line,
        message: format!("nested deeper than {DEPTH_MAX} levels"),
    }
}

#[cfg(test)]
mod tests;
