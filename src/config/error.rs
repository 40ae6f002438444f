//! What can be wrong with a configuration. Every message is one line that names the thing and the
//! way out, and none shows a secret. Pure.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Origin;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is missing, unreadable, too large or not UTF-8.
    #[error("cannot read the config file {}: {source}", path.display())]
    Unreadable {
        /// As the user gave it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The extension names no format.
    #[error(
        "cannot tell the format of the config file {}: name it .json, .toml, .yaml or .yml",
        path.display()
    )]
    UnknownFormat {
        /// As the user gave it.
        path: PathBuf,
    },
    /// The text is not valid in its format.
    #[error("{origin}: not valid {format}: {message}")]
    Syntax {
        /// File and line.
        origin: Origin,
        /// `JSON`, `TOML` or `YAML`.
        format: &'static str,
        /// The parser's message, without an excerpt of the file.
        message: String,
    },
    /// A field no one reads.
    #[error("{origin}: unknown field; {hint}")]
    UnknownField {
        /// The field.
        origin: Origin,
        /// The nearest known field, or all of them.
        hint: String,
    },
    /// One setting given twice under two spellings.
    #[error("{origin} and {other} are the same setting; keep one of them")]
    GivenTwice {
        /// The later one.
        origin: Origin,
        /// The earlier one.
        other: Box<Origin>,
    },
    /// A value of the wrong kind.
    #[error("{origin}: expected {expected}, found {found}")]
    WrongType {
        /// The field.
        origin: Origin,
        /// What belongs there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// `${NAME}` and no such variable.
    #[error(
        "{origin}: the environment variable {variable} is not set (or not UTF-8); \
         set it, or write $${{ for a literal ${{"
    )]
    UnsetVariable {
        /// The field that uses it.
        origin: Origin,
        /// Its name.
        variable: String,
    },
    /// A value that cannot be used.
    #[error("{origin}: {problem}")]
    Invalid {
        /// The field or flag.
        origin: Origin,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Nowhere to send requests.
    #[error(
        "no endpoint configured: list `endpoints` in a config file (-c FILE), \
         or give --endpoint-url URL (its key in BLAZE_API_KEY)"
    )]
    NoEndpoint,
    /// Nothing to send.
    #[error("no input: give the JSONL file of requests with -i FILE (- is standard input)")]
    NoInput,
    /// Two of input, output and error file are one file.
    #[error(
        "{first} and {second} are the same file, {}: one would destroy the other; give each its own",
        path.display()
    )]
    SameFile {
        /// One flag or field.
        first: Origin,
        /// The other.
        second: Box<Origin>,
        /// The file.
        path: PathBuf,
    },
}

impl ConfigError {
    /// The process's exit status: 2 where the command line (or the environment that stands for it)
    /// is at fault, 1 where the configuration is.
    pub fn exit_status(&self) -> u8 {
        let usage = match self {
            Self::NoInput | Self::SameFile { .. } => true,
            Self::Invalid { origin, .. } | Self::WrongType { origin, .. } => origin.is_usage(),
            Self::Unreadable { .. }
            | Self::UnknownFormat { .. }
            | Self::Syntax { .. }
            | Self::UnknownField { .. }
            | Self::GivenTwice { .. }
            | Self::UnsetVariable { .. }
            | Self::NoEndpoint => false,
        };
        if usage { 2 } else { 1 }
    }

    /// Points a complaint about a field of `Config` at the flag, variable or line that set it.
    /// A field that nobody set, such as a missing key, is pointed at its parent's line.
    pub(super) fn located(self, origins: &BTreeMap<String, Origin>) -> Self {
        let Self::Invalid {
            origin: Origin::Field(field),
            problem,
        } = self
        else {
            return self;
        };
        let parent = || {
            let (parent, name) = field.rsplit_once('.')?;
            match origins.get(parent)? {
                Origin::File { file, line, field } => Some(Origin::File {
                    file: file.clone(),
                    line: *line,
                    field: format!("{field}.{name}"),
                }),
                _ => None,
            }
        };
        let origin = origins
            .get(&field)
            .cloned()
            .or_else(parent)
            .unwrap_or(Origin::Field(field));
        Self::Invalid { origin, problem }
    }
}
