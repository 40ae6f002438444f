//! What a user may set: raw (file, environment, flags) → [`Config`], once.

pub mod body_rules;
mod endpoint;
mod error;
mod expand;
mod fields;
mod file;
mod job;
mod origin;
mod provider_kind;
mod raw;
mod resolve;
mod scalar;
mod secret;
mod tree;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use error::ConfigError;
pub use file::read_file;
pub use job::{Console, InputSource, Job, OutputTarget};
pub use origin::{Given, Origin, Overrides};
pub use provider_kind::{KEY_HEADERS, ProviderKind};
pub use resolve::{API_KEY_VARIABLE, Settings, load, load_settings};
pub use scalar::{Expected, parse_boolean, parse_bytes, parse_duration, parse_socket_address};
pub use secret::Secret;
pub use validate::{normalise, validate};

/// One worker is one open connection; more than a million are beyond any system's descriptors.
pub const WORKERS_MAX: usize = 1_000_000;

/// Everything that shapes a run, resolved. [`Config::default`] holds the documented defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where requests go; at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// Traffic settings of a run.
    pub request: RequestConfig,
    /// How a failed attempt is tried again.
    pub retry: RetryConfig,
    /// US dollars per million tokens, by model name.
    pub prices: BTreeMap<String, Price>,
    /// Shards, one pinned thread each; `None` takes every available core.
    pub cores: Option<usize>,
    /// Which backend drives the shards.
    pub runtime: RuntimeChoice,
    /// Order of records in the final files.
    pub order: Order,
    /// Record format.
    pub format: Format,
    /// How long every endpoint may be out before the run stops.
    pub max_outage: Duration,
    /// The same as long as no request has succeeded: see [`Config::max_outage_at_first`].
    pub max_outage_at_first: Option<Duration>,
    /// Stop before spending more US dollars than this.
    pub max_cost: Option<f64>,
    /// Longer input lines are failure records.
    pub max_line_bytes: usize,
    /// Longer response bodies are failures.
    pub max_response_bytes: usize,
    /// PEM certificates trusted besides webpki-roots.
    pub ca_file: Option<PathBuf>,
    /// The same by the convention of `SSL_CERT_FILE`; trusted as well, not instead.
    pub ssl_cert_file: Option<PathBuf>,
    /// How long requests in flight may finish after an interrupt.
    pub grace: Duration,
    /// What a finished record survives.
    pub durability: Durability,
}

/// How long every endpoint may be out, unless the user says otherwise.
const MAX_OUTAGE: Duration = Duration::from_secs(60);
/// The same while nothing has ever succeeded: then it is likely a wrong URL.
pub const MAX_OUTAGE_NEVER: Duration = Duration::from_secs(5);

impl Config {
    /// How long every endpoint may be out as long as no request has succeeded. A `max_outage` that somebody
    /// has chosen holds from the start: a model may still have to load.
    pub fn max_outage_at_first(&self) -> Duration {
        self.max_outage_at_first
            .unwrap_or(match self.max_outage == MAX_OUTAGE {
                true => MAX_OUTAGE_NEVER,
                false => self.max_outage,
            })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            request: RequestConfig::default(),
            retry: RetryConfig::default(),
            prices: BTreeMap::new(),
            cores: None,
            runtime: RuntimeChoice::Auto,
            order: Order::Input,
            format: Format::Auto,
            max_outage: MAX_OUTAGE,
            max_outage_at_first: None,
            max_cost: None,
            max_line_bytes: 64 << 20,
            max_response_bytes: 64 << 20,
            ca_file: None,
            ssl_cert_file: None,
            grace: Duration::from_secs(10),
            durability: Durability::Process,
        }
    }
}

/// One API endpoint. Its `Debug` shows neither the key nor credentials in `url` or `headers`.
#[derive(Clone, PartialEq)]
pub struct EndpointConfig {
    /// Name in records, summary and metrics; `None`: the host, numbered where that is not unique.
    pub name: Option<String>,
    /// A full API URL, or a base to which the API path is joined.
    pub url: String,
    /// `None`: from the host.
    pub provider: Option<ProviderKind>,
    /// The key, or for Azure one of `default`, `az`, `interactive`. White space around it is no part of it.
    /// Plain text, for whoever writes a configuration; a [`Processor`](crate::Processor) or a
    /// [`Client`](crate::Client) that takes it over wipes it.
    pub api_key: Option<String>,
    /// Put into a body that has none.
    pub model: Option<String>,
    /// Replace the body's model instead.
    pub override_model: bool,
    /// Azure deployment URLs.
    pub api_version: String,
    /// Put into a body that has none.
    pub temperature: Option<f64>,
    /// Put into a body that has none (Anthropic: as `max_tokens`).
    pub max_completion_tokens: Option<u64>,
    /// Share of the traffic; at least 1.
    pub weight: u32,
    /// Most requests in flight here, over all cores; at least 1. By default more than there can be.
    pub max_concurrent: usize,
    /// Requests per minute, per quota group.
    pub rpm_limit: Option<u64>,
    /// Tokens per minute, per quota group.
    pub tpm_limit: Option<u64>,
    /// Endpoints that share one quota; `None`: the endpoint itself.
    pub quota_group: Option<String>,
    /// Added to every request.
    pub headers: BTreeMap<String, Secret>,
    /// Health check path; `None`: the provider's.
    pub health_path: Option<String>,
    /// Chat path joined to a base URL; `None`: the provider's.
    pub chat_path: Option<String>,
    /// `Some(true)` on `http://`: HTTP/2 with prior knowledge; `None`: by ALPN.
    pub http2: Option<bool>,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            name: None,
            url: String::new(),
            provider: None,
            api_key: None,
            model: None,
            override_model: false,
            api_version: "2025-01-01-preview".to_owned(),
            temperature: None,
            max_completion_tokens: None,
            weight: 1,
            max_concurrent: WORKERS_MAX,
            rpm_limit: None,
            tpm_limit: None,
            quota_group: None,
            headers: BTreeMap::new(),
            health_path: None,
            chat_path: None,
            http2: None,
        }
    }
}

/// Traffic settings.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestConfig {
    /// One attempt, connect to last byte.
    pub timeout: Duration,
    /// One TCP connect plus TLS handshake.
    pub connect_timeout: Duration,
    /// Requests per second over all cores and endpoints, retries included.
    pub rate_limit: Rate,
    /// Most requests in flight over all cores, at least 1: a ceiling. Below it the number follows what
    /// each quota group takes.
    pub workers: usize,
}

impl Default for RequestConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            rate_limit: Rate::PerSecond(1000.0),
            workers: Workers::AUTO_MAX,
        }
    }
}

/// The global request rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// `0`: no limit.
    Unlimited,
    /// Requests per second, above 0.
    PerSecond(f64),
    /// Found by additive increase, multiplicative decrease.
    Auto,
}

/// `--workers` as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// No more than so many, at least 1.
    Most(usize),
    /// No more than [`Workers::AUTO_MAX`].
    Auto,
}

impl Workers {
    /// The ceiling of `auto`: so many connections take about 25 MB, and hardly a provider serves one
    /// customer more at once.
    pub const AUTO_MAX: usize = 4096;
}

/// How failed attempts are repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryConfig {
    /// Attempts per line, the first included; at least 1.
    pub max_attempts: u32,
    /// Upper bound of the first wait (full jitter).
    pub initial_backoff: Duration,
    /// Upper bound of any wait.
    pub max_backoff: Duration,
    /// Growth of the bound per attempt; at least 1.
    pub multiplier: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            multiplier: 2.0,
        }
    }
}

/// US dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Prompt tokens.
    pub input: f64,
    /// Prompt tokens served from the provider's cache; `None`: as `input`.
    pub cached_input: Option<f64>,
    /// Completion tokens.
    pub output: f64,
}

/// `--runtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// io_uring where the kernel allows it, else tokio.
    Auto,
    /// io_uring or an error.
    Uring,
    /// The portable backend.
    Tokio,
}

/// `--order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the lines stand in the input.
    Input,
    /// As the lines finished.
    Completion,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `openai` for lines with `custom_id` and `url`, else `blaze`.
    Auto,
    /// This project's own records.
    Blaze,
    /// OpenAI Batch output records.
    OpenAi,
}

/// `--durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Finished records survive `kill -9`.
    Process,
    /// Finished records survive power loss.
    Power,
}
