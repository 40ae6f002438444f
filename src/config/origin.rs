//! Where a setting came from, and the flat layer that flags, environment and file share. Pure.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Durability, Format, InputSource, Order, OutputTarget, Rate, RuntimeChoice, Secret, Workers,
};

/// Where a value was written: what a message points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag, as `--workers`.
    Flag(String),
    /// An environment variable, as `BLAZE_WORKERS`.
    Environment(String),
    /// A field of the config file.
    File {
        /// The file's path, as the user gave it.
        file: Arc<str>,
        /// From 1; `None` where the parser does not tell.
        line: Option<usize>,
        /// The field as spelt in the file, as `endpoints[0].url`; empty for the file itself.
        field: String,
    },
    /// A field of [`Config`](super::Config), set by code or left at its default.
    Field(String),
}

impl Origin {
    /// Whether the command line or the environment is at fault rather than the config file.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Flag(_) | Self::Environment(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => f.write_str(name),
            Self::Field(field) => write!(f, "{}", field.escape_debug()),
            Self::File { file, line, field } => {
                f.write_str(file)?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if !field.is_empty() {
                    write!(f, ": {}", field.escape_debug())?;
                }
                Ok(())
            }
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// What a message about it points at.
    pub origin: Origin,
}

impl<T> Given<T> {
    /// A value given by the flag `name`, as `--workers`.
    pub fn by_flag(name: &str, value: T) -> Self {
        Self {
            value,
            origin: Origin::Flag(name.to_owned()),
        }
    }

    /// A value given by the environment variable `name`.
    pub fn by_environment(name: &str, value: T) -> Self {
        Self {
            value,
            origin: Origin::Environment(name.to_owned()),
        }
    }
}

/// One layer of the settings that flags, environment and config file have in common.
/// `None` is "not given here", so a default can never hide a lower layer's value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// `--input`.
    pub input: Option<Given<InputSource>>,
    /// `--output`.
    pub output: Option<Given<OutputTarget>>,
    /// `--errors`.
    pub errors: Option<Given<PathBuf>>,
    /// `--rate`.
    pub rate: Option<Given<Rate>>,
    /// `--workers`.
    pub workers: Option<Given<Workers>>,
    /// `--timeout`.
    pub timeout: Option<Given<Duration>>,
    /// `--max-attempts`.
    pub max_attempts: Option<Given<u32>>,
    /// `--endpoint-url`; a [`Secret`] because a URL may hold credentials.
    pub endpoint_url: Option<Given<Secret>>,
    /// `--model`.
    pub model: Option<Given<String>>,
    /// `--cores`.
    pub cores: Option<Given<usize>>,
    /// `--runtime`.
    pub runtime: Option<Given<RuntimeChoice>>,
    /// `--order`.
    pub order: Option<Given<Order>>,
    /// `--format`.
    pub format: Option<Given<Format>>,
    /// `--overwrite`.
    pub overwrite: Option<Given<bool>>,
    /// `--fresh`.
    pub fresh: Option<Given<bool>>,
    /// `--salvage`.
    pub salvage: Option<Given<bool>>,
    /// `--retry-errors`.
    pub retry_errors: Option<Given<bool>>,
    /// `--max-outage`.
    pub max_outage: Option<Given<Duration>>,
    /// `--max-cost`, US dollars.
    pub max_cost: Option<Given<f64>>,
    /// `--max-line-bytes`.
    pub max_line_bytes: Option<Given<usize>>,
    /// `--max-response-bytes`.
    pub max_response_bytes: Option<Given<usize>>,
    /// `--ca-file`.
    pub ca_file: Option<Given<PathBuf>>,
    /// `--grace`.
    pub grace: Option<Given<Duration>>,
    /// `--durability`.
    pub durability: Option<Given<Durability>>,
    /// `--metrics-addr`.
    pub metrics_addr: Option<Given<std::net::SocketAddr>>,
    /// `-v`, how often.
    pub verbose: Option<Given<u8>>,
    /// `--json-logs`.
    pub json_logs: Option<Given<bool>>,
    /// `--no-progress`.
    pub no_progress: Option<Given<bool>>,
    /// `--dry-run`.
    pub dry_run: Option<Given<bool>>,
}

impl Overrides {
    /// This layer where it says something, `below` where it does not.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            input: self.input.or(below.input),
            output: self.output.or(below.output),
            errors: self.errors.or(below.errors),
            rate: self.rate.or(below.rate),
            workers: self.workers.or(below.workers),
            timeout: self.timeout.or(below.timeout),
            max_attempts: self.max_attempts.or(below.max_attempts),
            endpoint_url: self.endpoint_url.or(below.endpoint_url),
            model: self.model.or(below.model),
            cores: self.cores.or(below.cores),
            runtime: self.runtime.or(below.runtime),
            order: self.order.or(below.order),
            format: self.format.or(below.format),
            overwrite: self.overwrite.or(below.overwrite),
            fresh: self.fresh.or(below.fresh),
            salvage: self.salvage.or(below.salvage),
            retry_errors: self.retry_errors.or(below.retry_errors),
            max_outage: self.max_outage.or(below.max_outage),
            max_cost: self.max_cost.or(below.max_cost),
            max_line_bytes: self.max_line_bytes.or(below.max_line_bytes),
            max_response_bytes: self.max_response_bytes.or(below.max_response_bytes),
            ca_file: self.ca_file.or(below.ca_file),
            grace: self.grace.or(below.grace),
            durability: self.durability.or(below.durability),
            metrics_addr: self.metrics_addr.or(below.metrics_addr),
            verbose: self.verbose.or(below.verbose),
            json_logs: self.json_logs.or(below.json_logs),
            no_progress: self.no_progress.or(below.no_progress),
            dry_run: self.dry_run.or(below.dry_run),
        }
    }
}
