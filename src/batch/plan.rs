//! A run as decided before it starts: immutable, shared by all threads.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::quotas::{Found, GroupLimits, Quotas};
use crate::client::{PoolSettings, ProxyRules, Target, load_tls};
use crate::config::{Config, Rate};
use crate::http::{Limits, MAX_HEAD_BYTES, Scheme};
use crate::metrics::{Availability, EndpointState, GroupFound};
use crate::policy::retry::Backoff;
use crate::provider::{Authorization, Endpoint};

/// Keep-alive connections idle for longer than this are closed by us: common servers and load
/// balancers close theirs after 60 to 75 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);

/// Everything the shards need to know and nothing that changes.
pub struct Plan {
    /// As the user set it.
    pub config: Config,
    /// Resolved endpoints, in the order of the config.
    pub endpoints: Vec<Endpoint>,
    /// Quota group of each endpoint, numbered from 0.
    pub groups: Vec<usize>,
    /// Where each endpoint's connections go.
    pub targets: Vec<Target>,
    /// TLS, if any endpoint speaks it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// What each quota group may do.
    pub limits: Vec<GroupLimits>,
    /// Whether every request needs a send slot of the run.
    pub paced: bool,
    /// `--rate auto`.
    pub searches_rate: bool,
    /// Names of the quota groups, by their number.
    pub group_names: Vec<String>,
}

impl Plan {
    /// Finds what `config`, which has been validated, needs from the machine: proxies and certificates.
    ///
    /// # Errors
    /// What cannot be used, in words for the operator.
    #[expect(
        clippy::disallowed_methods,
        reason = "proxies come from the environment, as for every HTTP client"
    )]
    pub fn prepare(config: Config, endpoints: Vec<Endpoint>) -> Result<Self, String> {
        let proxies = ProxyRules::from_env(|name| std::env::var(name).ok())
            .map_err(|error| error.to_string())?;
        let mut targets = Vec::with_capacity(endpoints.len());
        let mut speaks_tls = false;
        for endpoint in &endpoints {
            // Tokens are fetched over TLS, whatever the endpoint speaks.
            speaks_tls |= endpoint.origin.scheme == Scheme::Https
                || matches!(endpoint.authorization, Authorization::Entra(_));
            targets.push(Target {
                origin: endpoint.origin.clone(),
                connect_timeout: config.request.connect_timeout,
                proxy: proxies.proxy_for(&endpoint.origin).cloned(),
                http2: endpoint.http2,
            });
        }
        let tls = match speaks_tls {
            true => {
                let further = |_: &str| {
                    let path = config.ssl_cert_file.as_ref()?;
                    path.to_str().map(str::to_owned)
                };
                let tls = load_tls(config.ca_file.as_deref(), further)
                    .map_err(|error| error.to_string())?;
                Some(tls)
            }
            false => None,
        };
        Ok(Self::new(config, endpoints, targets, tls))
    }

    /// Resolves `config`, which has been validated.
    pub fn new(
        config: Config,
        endpoints: Vec<Endpoint>,
        targets: Vec<Target>,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let groups: Vec<usize> = endpoints
            .iter()
            .map(|endpoint| {
                let group = endpoint.quota_group.as_str();
                names
                    .iter()
                    .position(|name| *name == group)
                    .unwrap_or_else(|| {
                        names.push(group);
                        names.len() - 1
                    })
            })
            .collect();
        let searches_rate = config.request.rate_limit == Rate::Auto;
        let unlimited = GroupLimits {
            search_rate: searches_rate,
            ..GroupLimits::default()
        };
        let mut limits = vec![unlimited; names.len()];
        for (endpoint, &group) in endpoints.iter().zip(&groups) {
            let limits = &mut limits[group];
            limits.requests_per_minute = smaller(limits.requests_per_minute, endpoint.rpm_limit);
            limits.tokens_per_minute = smaller(limits.tokens_per_minute, endpoint.tpm_limit);
            let most = (limits.in_flight_max as usize).saturating_add(endpoint.max_concurrent);
            let most = most.min(config.request.workers);
            limits.in_flight_max = u32::try_from(most).unwrap_or(u32::MAX);
        }
        let group_names = names.into_iter().map(str::to_owned).collect();
        Self {
            groups,
            limits,
            searches_rate,
            group_names,
            targets,
            tls,
            backoff: Backoff::from(&config.retry),
            paced: matches!(config.request.rate_limit, Rate::PerSecond(_)),
            endpoints,
            config,
        }
    }

    /// The endpoints before anything was sent to them.
    pub fn idle_endpoints(&self) -> Vec<EndpointState> {
        let idle = |endpoint: &Endpoint| EndpointState {
            name: endpoint.name.clone(),
            state: Availability::Healthy,
            reason: None,
            cooldown: None,
        };
        self.endpoints.iter().map(idle).collect()
    }

    /// What the searches have found for the quota groups so far.
    pub fn found(&self, quotas: &Quotas) -> Vec<GroupFound> {
        let of_group = |(name, found): (&String, Found)| GroupFound {
            name: name.clone(),
            rate: found.rate,
            workers: found.workers,
        };
        self.group_names
            .iter()
            .zip(quotas.found())
            .map(of_group)
            .filter(|found| found.rate.is_some() || found.workers.is_some())
            .collect()
    }

    /// Settings of every shard's connection pool.
    pub fn pool_settings(&self) -> PoolSettings {
        PoolSettings {
            limits: Limits {
                head_bytes: MAX_HEAD_BYTES,
                body_bytes: self.config.max_response_bytes,
            },
            idle_timeout: IDLE_TIMEOUT,
            tls: self.tls.clone(),
        }
    }
}

/// The lower of two limits, of which either may be missing.
fn smaller(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}
