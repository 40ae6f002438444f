//! What a user may ask of the trial endpoint: flags ([`MockArgs`]) → [`MockOptions`], once.

mod value;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::script::{Scripted, SeenRequest};
pub use value::{
    FailAttempts, FailFirst, Latency, Outage, Probability, RateChange, StatusRate, WaitHint,
    parse_duration,
};

/// More than this many threads is a typing error.
const THREADS_MAX: usize = 256;

/// The largest `--response-bytes`: what the engine accepts by default.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Flags of `blaze-uring mock`. Durations read `250us`, `20ms`, `1.5s`, `2m`, or a number of
/// seconds; rates of faults are probabilities from 0 to 1.
#[derive(clap::Args, Clone, Debug)]
pub struct MockArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Threads that serve; connections go to them in turn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// What answers, latencies and faults derive from; the same seed replays a run
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Time before an answer: 20ms, uniform:10ms..50ms or lognormal:median=300ms,p99=2s
    #[arg(long, value_name = "LATENCY", default_value = "0ms")]
    pub latency: Latency,
    /// Time to first token, after the latency; written like --latency
    #[arg(long, value_name = "LATENCY", default_value = "0ms")]
    pub ttft: Latency,
    /// Tokens per second: paces a stream, and adds its time to a plain answer [default: no limit]
    #[arg(long, value_name = "N")]
    pub tokens_per_second: Option<f64>,
    /// Share of requests answered with an error status, such as 429=0.05,500=0.02
    #[arg(long, value_name = "STATUS=P", value_delimiter = ',')]
    pub error_rate: Vec<StatusRate>,
    /// Seconds that the 429s and 503s of --error-rate and --fail-first ask a client to wait [default: none said]
    #[arg(long, value_name = "SECS", value_parser = parse_duration)]
    pub retry_after: Option<Duration>,
    /// How a wait is told: seconds (retry-after, rounded up), milliseconds (retry-after-ms) or none
    #[arg(long, value_name = "HOW", default_value = "seconds")]
    pub wait_hint: WaitHint,
    /// The first N requests fail, with these statuses in turn [default status: 500]
    #[arg(long, value_name = "N[=STATUS,…]")]
    pub fail_first: Option<FailFirst>,
    /// The first K attempts of every different body fail [default status: 500]
    #[arg(long, value_name = "K[=STATUS]")]
    pub fail_first_attempts: Option<FailAttempts>,
    /// Requests per second, as a token bucket that holds one second; more are 429; 0 = no limit
    #[arg(long, value_name = "N")]
    pub rate_limit: Option<f64>,
    /// The rate limit becomes N when the endpoint has run for this long, such as 10s=500
    #[arg(long, value_name = "TIME=N", value_delimiter = ',')]
    pub rate_limit_at: Vec<RateChange>,
    /// Requests served at once; more are 429 [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_concurrent: Option<usize>,
    /// Share of requests whose connection is reset, half of them before the head, half in the body
    #[arg(long, value_name = "P", default_value = "0")]
    pub reset_rate: Probability,
    /// Share of answers that end in the middle of the body
    #[arg(long, value_name = "P", default_value = "0")]
    pub truncate_rate: Probability,
    /// Share of answers after which the connection closes unannounced
    #[arg(long, value_name = "P", default_value = "0")]
    pub close_rate: Probability,
    /// Share of answers that are 200 with a body that is not JSON
    #[arg(long, value_name = "P", default_value = "0")]
    pub garbage_rate: Probability,
    /// Share of answers whose body drips in over --slow-for
    #[arg(long, value_name = "P", default_value = "0")]
    pub slow_rate: Probability,
    /// How long the body of a slow answer takes
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub slow_for: Duration,
    /// Share of requests that are never answered
    #[arg(long, value_name = "P", default_value = "0")]
    pub hang_rate: Probability,
    /// Close connections that idle this long; a number alone is milliseconds [default: an hour]
    #[arg(long, value_name = "MS", value_parser = value::parse_milliseconds)]
    pub idle_close: Option<Duration>,
    /// Answer 401 unless this key comes as bearer token, api-key or x-api-key
    #[arg(long, value_name = "KEY")]
    pub auth: Option<String>,
    /// Make texts about this long, whatever the request's token limit
    #[arg(long, value_name = "BYTES")]
    pub response_bytes: Option<usize>,
    /// Window of 503s since the start, such as 2s..5s; 2s..5s=refuse refuses connections instead
    #[arg(long, value_name = "START..END", value_delimiter = ',')]
    pub outage: Vec<Outage>,
    /// JSON pointer into the body, such as /messages/0/content, whose values /stats counts
    #[arg(long, value_name = "POINTER")]
    pub count_by: Option<String>,
    /// Keep the arrival time of every request for /stats
    #[arg(long)]
    pub record_arrivals: bool,
    /// PEM certificate chain; serves HTTPS, with --tls-key
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM private key of --tls-cert
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// Decides the bytes of an answer; `None` leaves the request to the ordinary behaviour. It runs on
/// the serving thread, before every fault and limit.
pub type Script = Arc<dyn Fn(&SeenRequest) -> Option<Scripted> + Send + Sync>;

/// How a [`super::Mock`] behaves. The default answers at once, without faults, on a free port.
#[derive(Clone)]
pub struct MockOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads that serve; 1 to 256.
    pub threads: usize,
    /// What answers, latencies and faults derive from.
    pub seed: u64,
    /// Before the head of an answer. Errors come at once.
    pub latency: Latency,
    /// From the head to the first token.
    pub ttft: Latency,
    /// Pace of the tokens after the first; `None`: no pause.
    pub tokens_per_second: Option<f64>,
    /// Statuses and their shares. These and the rates below exclude each other per request; their sum is at most 1.
    pub error_rate: Vec<StatusRate>,
    /// The wait told by injected 429s and 503s.
    pub retry_after: Option<Duration>,
    /// How any wait is told.
    pub wait_hint: WaitHint,
    /// The first requests of all fail.
    pub fail_first: Option<FailFirst>,
    /// The first attempts of every body fail.
    pub fail_first_attempts: Option<FailAttempts>,
    /// Requests per second; `None` or 0: no limit.
    pub rate_limit: Option<f64>,
    /// Later changes of the limit.
    pub rate_limit_at: Vec<RateChange>,
    /// Requests served at once.
    pub max_concurrent: Option<usize>,
    /// TCP resets, before the head or in the body.
    pub reset_rate: Probability,
    /// Answers that end in mid-body.
    pub truncate_rate: Probability,
    /// Unannounced closes after a whole answer.
    pub close_rate: Probability,
    /// 200 without JSON.
    pub garbage_rate: Probability,
    /// Bodies that drip in over `slow_for`.
    pub slow_rate: Probability,
    /// See `slow_rate`.
    pub slow_for: Duration,
    /// Requests without any answer.
    pub hang_rate: Probability,
    /// Idle keep-alive connections close after this.
    pub idle_close: Option<Duration>,
    /// The only key that is let in.
    pub auth: Option<String>,
    /// Texts are about this long.
    pub response_bytes: Option<usize>,
    /// Windows of unavailability since the start.
    pub outage: Vec<Outage>,
    /// JSON pointer whose values [`super::Stats::seen`] counts.
    pub count_by: Option<String>,
    /// Fill [`super::Stats::arrivals_us`].
    pub record_arrivals: bool,
    /// Keep requests for [`super::Mock::requests`].
    pub record_requests: bool,
    /// Verbatim answers for tests.
    pub script: Option<Script>,
    /// Serve HTTPS.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: 1,
            seed: 0,
            latency: Latency::default(),
            ttft: Latency::default(),
            tokens_per_second: None,
            error_rate: Vec::new(),
            retry_after: None,
            wait_hint: WaitHint::Seconds,
            fail_first: None,
            fail_first_attempts: None,
            rate_limit: None,
            rate_limit_at: Vec::new(),
            max_concurrent: None,
            reset_rate: Probability::ZERO,
            truncate_rate: Probability::ZERO,
            close_rate: Probability::ZERO,
            garbage_rate: Probability::ZERO,
            slow_rate: Probability::ZERO,
            slow_for: Duration::from_secs(5),
            hang_rate: Probability::ZERO,
            idle_close: None,
            auth: None,
            response_bytes: None,
            outage: Vec::new(),
            count_by: None,
            record_arrivals: false,
            record_requests: false,
            script: None,
            tls: None,
        }
    }
}

impl MockOptions {
    /// Whether every value is within its bounds; [`super::Mock::start`] asks first.
    pub(super) fn check(&self) -> Result<(), String> {
        let errors: f64 = self
            .error_rate
            .iter()
            .map(|rate| rate.probability.get())
            .sum();
        let sum = errors + self.fault_rates().iter().sum::<f64>();
        // A sum of decimal fractions may miss 1 by its rounding.
        if sum > 1.0 + 1e-9 {
            return Err(format!(
                "the rates of errors and faults add up to {sum}; a request can have only one, so at most 1"
            ));
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return Err(format!(
                "threads: {} is not between 1 and {THREADS_MAX}",
                self.threads
            ));
        }
        if self
            .response_bytes
            .is_some_and(|bytes| bytes > RESPONSE_BYTES_MAX)
        {
            return Err(format!("response-bytes: at most {RESPONSE_BYTES_MAX}"));
        }
        if self
            .tokens_per_second
            .is_some_and(|pace| !pace.is_finite() || pace <= 0.0)
        {
            return Err("tokens-per-second must be above 0".to_owned());
        }
        let later = self.rate_limit_at.iter().map(|change| change.limit);
        let mut limits = self.rate_limit.into_iter().chain(later);
        if limits.any(|limit| !limit.is_finite() || limit < 0.0) {
            return Err("rate-limit must be 0 (no limit) or more".to_owned());
        }
        if self
            .count_by
            .as_ref()
            .is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/'))
        {
            return Err("count-by is a JSON pointer and starts with /".to_owned());
        }
        Ok(())
    }

    fn fault_rates(&self) -> [f64; 6] {
        [
            self.reset_rate,
            self.truncate_rate,
            self.close_rate,
            self.garbage_rate,
            self.slow_rate,
            self.hang_rate,
        ]
        .map(Probability::get)
    }

    /// Whether a decision depends on how often a body was seen, so that it must be counted.
    pub(super) fn counts_attempts(&self) -> bool {
        self.fail_first_attempts.is_some()
            || !self.error_rate.is_empty()
            || self.fault_rates().iter().any(|&rate| rate > 0.0)
            || self.latency.varies()
            || self.ttft.varies()
    }
}

impl MockArgs {
    /// Resolves the flags. Reads the files of `--tls-cert` and `--tls-key`.
    ///
    /// # Errors
    /// `InvalidInput` with a message for the user, or what reading the files gave.
    pub fn into_options(self) -> io::Result<MockOptions> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(server_config(certificate, key)?)),
            (None, None) => None,
            _ => return Err(invalid("--tls-cert and --tls-key go together".to_owned())),
        };
        let options = MockOptions {
            listen: self.listen,
            threads: self.threads,
            seed: self.seed,
            latency: self.latency,
            ttft: self.ttft,
            tokens_per_second: self.tokens_per_second,
            error_rate: self.error_rate,
            retry_after: self.retry_after,
            wait_hint: self.wait_hint,
            fail_first: self.fail_first,
            fail_first_attempts: self.fail_first_attempts,
            rate_limit: self.rate_limit,
            rate_limit_at: self.rate_limit_at,
            max_concurrent: self.max_concurrent,
            reset_rate: self.reset_rate,
            truncate_rate: self.truncate_rate,
            close_rate: self.close_rate,
            garbage_rate: self.garbage_rate,
            slow_rate: self.slow_rate,
            slow_for: self.slow_for,
            hang_rate: self.hang_rate,
            idle_close: self.idle_close,
            auth: self.auth,
            response_bytes: self.response_bytes,
            outage: self.outage,
            count_by: self.count_by,
            record_arrivals: self.record_arrivals,
            record_requests: false,
            script: None,
            tls,
        };
        options.check().map_err(invalid)?;
        Ok(options)
    }
}

pub(super) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn server_config(certificate: &Path, key: &Path) -> io::Result<ServerConfig> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        invalid(format!("{}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(certificate, &error))?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|error| unreadable(certificate, &error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        mock: MockArgs,
    }

    fn parse(flags: &str) -> Result<MockOptions, String> {
        Command::try_parse_from(std::iter::once("mock").chain(flags.split_whitespace()))
            .map_err(|error| error.to_string())
            .and_then(|command| {
                command
                    .mock
                    .into_options()
                    .map_err(|error| error.to_string())
            })
    }

    #[test]
    fn flags_reach_the_options() {
        let options = parse(
            "--listen 127.0.0.1:0 --seed 9 --latency uniform:10ms..50ms --error-rate 429=0.05,500=0.02 \
             --fail-first 3=503,429 --fail-first-attempts 2=500 --rate-limit 100 --rate-limit-at 1s=50,2s=0 \
             --outage 2s..5s=refuse --retry-after 1.5 --wait-hint milliseconds --idle-close 250 --auth k",
        )
        .unwrap();
        assert_eq!(options.seed, 9);
        let ms = Duration::from_millis;
        assert_eq!(
            options.latency,
            Latency::Uniform {
                from: ms(10),
                to: ms(50)
            }
        );
        let errors: Vec<_> = options
            .error_rate
            .iter()
            .map(|rate| (rate.status, rate.probability.get()))
            .collect();
        assert_eq!(errors, [(429, 0.05), (500, 0.02)]);
        assert_eq!(
            options.fail_first,
            Some(FailFirst {
                count: 3,
                statuses: vec![503, 429]
            })
        );
        assert_eq!(
            options.fail_first_attempts,
            Some(FailAttempts {
                attempts: 2,
                status: 500
            })
        );
        assert_eq!(
            options.rate_limit_at,
            [
                RateChange {
                    at: ms(1000),
                    limit: 50.0
                },
                RateChange {
                    at: ms(2000),
                    limit: 0.0
                }
            ]
        );
        assert_eq!(
            options.outage,
            [Outage {
                from: ms(2000),
                to: ms(5000),
                refuse: true
            }]
        );
        assert_eq!(options.retry_after, Some(ms(1500)));
        assert_eq!(options.wait_hint, WaitHint::Milliseconds);
        assert_eq!(options.idle_close, Some(ms(250)));
    }

    #[test]
    fn impossible_values_are_refused() {
        for (flags, message) in [
            ("--error-rate 500=0.7 --hang-rate 0.4", "add up to"),
            ("--threads 0", "threads: 0"),
            ("--tokens-per-second 0", "above 0"),
            ("--rate-limit=-1", "rate-limit must"),
            ("--count-by messages", "JSON pointer"),
            ("--hang-rate 1.5", "between 0 and 1"),
            ("--error-rate 99=0.1", "status"),
            ("--latency uniform:5ms..1ms", "before"),
            ("--outage 5s..2s", "before"),
            ("--tls-cert a.pem", "--tls-key"),
        ] {
            let error = parse(flags)
                .err()
                .unwrap_or_else(|| panic!("{flags} was accepted"));
            assert!(error.contains(message), "{flags}: {error}");
        }
    }
}
