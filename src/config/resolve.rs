//! Layers → [`Config`], once: flags and environment over the file over the defaults. Pure but for
//! reading the file where its text is not given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::raw::{self, RawConfig};
use super::{
    Config, ConfigError, Console, EndpointConfig, Given, Job, Origin, Overrides, RequestConfig,
    RetryConfig, Workers, normalise, read_file, validate,
};

/// The environment variable that holds the key of `--endpoint-url`; a flag would show in `ps`.
pub const API_KEY_VARIABLE: &str = "BLAZE_API_KEY";

/// The customary variable for further trusted certificates.
const CERTIFICATES_VARIABLE: &str = "SSL_CERT_FILE";

/// All that a batch run is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What shapes the traffic.
    pub config: Config,
    /// What is read and written.
    pub job: Job,
    /// How the user is told.
    pub console: Console,
    /// Worth a log line: settings that were accepted without effect, endpoints that were replaced.
    pub notes: Vec<String>,
}

/// The configuration of a run, and notes for the log.
///
/// `overrides` (flags over environment) beat the file, which beats the defaults. The file's format
/// follows from the extension of `path`; without `file_text` the file is read. `env` is asked for the
/// `${NAME}`s of the file, for `BLAZE_API_KEY` and for `SSL_CERT_FILE`.
///
/// Fails with the first thing that is wrong; the result has passed [`validate`].
pub fn load(
    path: Option<&Path>,
    file_text: Option<String>,
    overrides: &Overrides,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<String>), ConfigError> {
    let raw = read_layer(path, file_text, env)?;
    let settings = overrides.clone().over(raw.settings.clone());
    resolve(raw, &settings, env)
}

/// [`load`], and what the same layers say about files and console. Without an input, or with two
/// files that are one, it fails before anything else of the settings is looked at.
pub fn load_settings(
    path: Option<&Path>,
    file_text: Option<String>,
    overrides: &Overrides,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    let raw = read_layer(path, file_text, env)?;
    let settings = overrides.clone().over(raw.settings.clone());
    let job = Job::resolve(&settings)?;
    let console = Console::resolve(&settings);
    let (config, notes) = resolve(raw, &settings, env)?;
    Ok(Settings {
        config,
        job,
        console,
        notes,
    })
}

fn read_layer(
    path: Option<&Path>,
    file_text: Option<String>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<RawConfig, ConfigError> {
    match (path, file_text) {
        (None, None) => Ok(RawConfig::default()),
        (Some(path), None) => raw::read(path, &read_file(path)?, env),
        (path, Some(text)) => raw::read(path.unwrap_or(Path::new("")), &text, env),
    }
}

/// `settings` are all layers merged; `raw` still has what only a file can say.
fn resolve(
    raw: RawConfig,
    settings: &Overrides,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<String>), ConfigError> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let RawConfig {
        settings: _,
        connect_timeout,
        initial_backoff,
        max_backoff,
        multiplier,
        endpoints,
        prices,
        origins,
        mut notes,
    } = raw;
    let mut layers = Layers { origins };
    let endpoints =
        layers.endpoints(endpoints, settings, variable(API_KEY_VARIABLE), &mut notes)?;
    let defaults = Config::default();
    let workers = layers.pick("request.workers", &settings.workers, Workers::Auto);
    let request = RequestConfig {
        timeout: layers.pick(
            "request.timeout",
            &settings.timeout,
            defaults.request.timeout,
        ),
        connect_timeout: layers.pick(
            "request.connect_timeout",
            &connect_timeout,
            defaults.request.connect_timeout,
        ),
        rate_limit: layers.pick(
            "request.rate_limit",
            &settings.rate,
            defaults.request.rate_limit,
        ),
        workers: match workers {
            Workers::Most(workers) => workers,
            Workers::Auto => Workers::AUTO_MAX,
        },
    };
    // Whoever gives one bound of the backoff need not know the default of the other.
    let initial_default = max_backoff
        .as_ref()
        .map_or(defaults.retry.initial_backoff, |max| {
            defaults.retry.initial_backoff.min(max.value)
        });
    let max_default = initial_backoff
        .as_ref()
        .map_or(defaults.retry.max_backoff, |initial| {
            defaults.retry.max_backoff.max(initial.value)
        });
    let retry = RetryConfig {
        max_attempts: layers.pick(
            "retry.max_attempts",
            &settings.max_attempts,
            defaults.retry.max_attempts,
        ),
        initial_backoff: layers.pick("retry.initial_backoff", &initial_backoff, initial_default),
        max_backoff: layers.pick("retry.max_backoff", &max_backoff, max_default),
        multiplier: layers.pick("retry.multiplier", &multiplier, defaults.retry.multiplier),
    };
    let mut config = Config {
        endpoints,
        request,
        retry,
        prices,
        cores: layers.pick_optional("cores", &settings.cores),
        runtime: layers.pick("runtime", &settings.runtime, defaults.runtime),
        order: layers.pick("order", &settings.order, defaults.order),
        format: layers.pick("format", &settings.format, defaults.format),
        max_outage: layers.pick("max_outage", &settings.max_outage, defaults.max_outage),
        max_outage_at_first: settings.max_outage.as_ref().map(|given| given.value),
        max_cost: layers.pick_optional("max_cost", &settings.max_cost),
        max_line_bytes: layers.pick(
            "max_line_bytes",
            &settings.max_line_bytes,
            defaults.max_line_bytes,
        ),
        max_response_bytes: layers.pick(
            "max_response_bytes",
            &settings.max_response_bytes,
            defaults.max_response_bytes,
        ),
        ca_file: layers.pick_optional("ca_file", &settings.ca_file),
        ssl_cert_file: variable(CERTIFICATES_VARIABLE).map(PathBuf::from),
        grace: layers.pick("grace", &settings.grace, defaults.grace),
        durability: layers.pick("durability", &settings.durability, defaults.durability),
    };
    normalise(&mut config);
    validate(&config).map_err(|error| error.located(&layers.origins))?;
    Ok((config, notes))
}

/// Takes values from the merged layers and remembers which field came from where.
struct Layers {
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn pick<T: Clone>(&mut self, field: &str, given: &Option<Given<T>>, default: T) -> T {
        self.pick_optional(field, given).unwrap_or(default)
    }

    fn pick_optional<T: Clone>(&mut self, field: &str, given: &Option<Given<T>>) -> Option<T> {
        let Given { value, origin } = given.as_ref()?;
        self.origins.insert(field.to_owned(), origin.clone());
        Some(value.clone())
    }

    /// The file's endpoints, or the single one of `--endpoint-url`, which replaces them: one rule for
    /// every setting, flag over environment over file, and a note where that replaces something.
    fn endpoints(
        &mut self,
        mut endpoints: Vec<EndpointConfig>,
        settings: &Overrides,
        api_key: Option<String>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<EndpointConfig>, ConfigError> {
        if let Some(Given { value: url, origin }) = &settings.endpoint_url {
            if !endpoints.is_empty() {
                if !origin.is_usage() {
                    let problem = "stands beside a list of endpoints; keep one of them".to_owned();
                    return Err(ConfigError::Invalid {
                        origin: origin.clone(),
                        problem,
                    });
                }
                notes.push(format!(
                    "{origin} replaces the {} endpoint(s) of the config file",
                    endpoints.len()
                ));
            }
            self.origins
                .retain(|field, _| !field.starts_with("endpoints["));
            self.origins
                .insert("endpoints[0].url".to_owned(), origin.clone());
            self.origins.insert(
                "endpoints[0].api_key".to_owned(),
                Origin::Environment(API_KEY_VARIABLE.to_owned()),
            );
            return Ok(vec![EndpointConfig {
                url: url.expose().to_owned(),
                api_key,
                model: self.pick_optional("endpoints[0].model", &settings.model),
                ..EndpointConfig::default()
            }]);
        }
        if api_key.is_some() && !endpoints.is_empty() {
            notes.push(format!(
                "{API_KEY_VARIABLE} is not used: it is the key of --endpoint-url, \
                 and the endpoints come from the config file"
            ));
        }
        self.apply_model(&mut endpoints, settings, notes);
        Ok(endpoints)
    }

    /// A model given by flag or environment beats those of the file's endpoints; one at the file's
    /// top level is for the endpoints that name none.
    fn apply_model(
        &mut self,
        endpoints: &mut [EndpointConfig],
        settings: &Overrides,
        notes: &mut Vec<String>,
    ) {
        let Some(Given {
            value: model,
            origin,
        }) = &settings.model
        else {
            return;
        };
        let mut replaced = 0;
        for (index, endpoint) in endpoints.iter_mut().enumerate() {
            if endpoint.model.is_some() && !origin.is_usage() {
                continue;
            }
            replaced += usize::from(endpoint.model.as_ref().is_some_and(|old| old != model));
            endpoint.model = Some(model.clone());
            self.origins
                .insert(format!("endpoints[{index}].model"), origin.clone());
        }
        if replaced > 0 {
            notes.push(format!(
                "{origin} replaces the model of {replaced} endpoint(s)"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
