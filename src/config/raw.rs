//! The config file's schema: tree → what the file gives, nothing defaulted but endpoints' own fields.
//! Seeds' files load unchanged; what they hold beyond a batch run is noted, never silently dropped. Pure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fields::{Field, Fields, Source};
use super::scalar::parse_socket_address;
use super::tree::{self};
use super::{ConfigError, EndpointConfig, Given, Origin, Overrides, Price, Rate, Secret};

/// What one file says.
#[derive(Default)]
pub(super) struct RawConfig {
    /// What flags can say too.
    pub settings: Overrides,
    pub connect_timeout: Option<Given<Duration>>,
    pub initial_backoff: Option<Given<Duration>>,
    pub max_backoff: Option<Given<Duration>>,
    pub multiplier: Option<Given<f64>>,
    pub endpoints: Vec<EndpointConfig>,
    pub prices: BTreeMap<String, Price>,
    /// Field of [`Config`](super::Config) → where the file gives it; for endpoints and prices.
    pub origins: BTreeMap<String, Origin>,
    /// What was accepted without effect, and why.
    pub notes: Vec<String>,
}

/// Fields a user may look for in the wrong table.
const TABLES: [(&str, &[&str]); 3] = [
    (
        "endpoints[]",
        &[
            "url",
            "endpoint",
            "api_key",
            "provider",
            "api_version",
            "weight",
            "max_concurrent",
            "rpm_limit",
            "tpm_limit",
            "quota_group",
            "headers",
            "health_path",
            "chat_path",
            "http2",
            "temperature",
            "max_completion_tokens",
            "override_model",
            "default_model",
        ],
    ),
    (
        "request",
        &["timeout", "connect_timeout", "rate_limit", "workers"],
    ),
    (
        "retry",
        &[
            "max_attempts",
            "initial_backoff",
            "max_backoff",
            "multiplier",
        ],
    ),
];

/// Reads `text`, in the format that the extension of `path` names.
pub(super) fn read(
    path: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<RawConfig, ConfigError> {
    let source = Source {
        file: tree::file_name(path),
        environment,
    };
    let root = tree::parse(path, text)?;
    let mut raw = RawConfig::default();
    let mut top = Field::root(&source, root).fields()?;
    raw.read_flags(&mut top)?;
    raw.read_request(&mut top)?;
    raw.read_retry(&mut top)?;
    raw.read_rate_limit_and_queue(&mut top)?;
    raw.read_ignored(&mut top)?;
    if let Some(list) = top.take(&["endpoints", "deployments", "backends"])? {
        for (index, item) in list.items()?.into_iter().enumerate() {
            let endpoint = raw.read_endpoint(index, item)?;
            raw.endpoints.push(endpoint);
        }
    }
    if let Some(prices) = top.take(&["prices"])? {
        for (model, field) in prices.members()? {
            let price = raw.read_price(&model, field)?;
            raw.prices.insert(model, price);
        }
    }
    finish(top)?;
    Ok(raw)
}

impl RawConfig {
    /// Flags of the batch table, at top level under their names.
    fn read_flags(&mut self, top: &mut Fields<'_>) -> Result<(), ConfigError> {
        self.settings = Overrides {
            input: top.given(&["input", "requests_filepath"], |field| {
                Ok(OsStr::new(&field.text()?).into())
            })?,
            output: top.given(&["output", "save_filepath"], |field| {
                Ok(OsStr::new(&field.text()?).into())
            })?,
            errors: top.given(&["errors"], path)?,
            rate: top.given(&["rate", "max_requests_per_second"], Field::rate)?,
            workers: top.given(&["workers", "num_workers"], Field::workers)?,
            timeout: top.given(&["timeout"], Field::duration)?,
            max_attempts: top.given(&["max_attempts", "max_job_retry"], Field::whole)?,
            endpoint_url: top.given(&["endpoint_url"], |field| Ok(Secret::from(field.text()?)))?,
            model: top.given(&["model"], Field::text)?,
            cores: top.given(&["cores"], Field::whole)?,
            runtime: top.given(&["runtime"], Field::choice)?,
            order: top.given(&["order"], Field::choice)?,
            format: top.given(&["format"], Field::choice)?,
            overwrite: top.given(&["overwrite"], Field::boolean)?,
            fresh: top.given(&["fresh"], Field::boolean)?,
            salvage: top.given(&["salvage"], Field::boolean)?,
            retry_errors: top.given(&["retry_errors"], Field::boolean)?,
            max_outage: top.given(&["max_outage"], Field::duration)?,
            max_cost: top.given(&["max_cost"], Field::number)?,
            max_line_bytes: top.given(&["max_line_bytes"], Field::bytes)?,
            max_response_bytes: top.given(&["max_response_bytes"], Field::bytes)?,
            ca_file: top.given(&["ca_file"], path)?,
            grace: top.given(&["grace"], Field::duration)?,
            durability: top.given(&["durability"], Field::choice)?,
            metrics_addr: top.given(&["metrics_addr"], |field| {
                field.parsed(parse_socket_address)
            })?,
            verbose: top.given(&["verbose"], verbosity)?,
            json_logs: top.given(&["json_logs"], Field::boolean)?,
            no_progress: top.given(&["no_progress"], Field::boolean)?,
            dry_run: top.given(&["dry_run"], Field::boolean)?,
        };
        Ok(())
    }

    fn read_request(&mut self, top: &mut Fields<'_>) -> Result<(), ConfigError> {
        let Some(mut request) = top.table(&["request"])? else {
            return Ok(());
        };
        once(
            &mut self.settings.timeout,
            request.given(&["timeout"], Field::duration)?,
        )?;
        let rate = request.given(
            &["rate_limit", "rate", "max_requests_per_second"],
            Field::rate,
        )?;
        once(&mut self.settings.rate, rate)?;
        once(
            &mut self.settings.workers,
            request.given(&["workers"], Field::workers)?,
        )?;
        self.connect_timeout = request.given(&["connect_timeout"], Field::duration)?;
        finish(request)
    }

    fn read_retry(&mut self, top: &mut Fields<'_>) -> Result<(), ConfigError> {
        let Some(mut retry) = top.table(&["retry"])? else {
            return Ok(());
        };
        once(
            &mut self.settings.max_attempts,
            retry.given(&["max_attempts"], Field::whole)?,
        )?;
        self.initial_backoff = retry.given(&["initial_backoff"], Field::duration)?;
        self.max_backoff = retry.given(&["max_backoff"], Field::duration)?;
        self.multiplier = retry.given(&["multiplier"], Field::number)?;
        finish(retry)
    }

    /// `rate_limit` is a number, or zap's table of requests per minute; `queue` is zap's.
    fn read_rate_limit_and_queue(&mut self, top: &mut Fields<'_>) -> Result<(), ConfigError> {
        match top.take(&["rate_limit"])? {
            Some(field) if field.is_table() => {
                let mut table = field.fields()?;
                let per_minute = table.given(&["requests_per_minute"], |field| {
                    Rate::of_number(field.number()? / 60.0).map_err(|expected| {
                        ConfigError::Invalid {
                            origin: field.origin(),
                            problem: expected.to_string(),
                        }
                    })
                })?;
                once(&mut self.settings.rate, per_minute)?;
                finish(table)?;
            }
            Some(field) => once(&mut self.settings.rate, Some(field.given(Field::rate)?))?,
            None => {}
        }
        let Some(mut queue) = top.table(&["queue"])? else {
            return Ok(());
        };
        once(
            &mut self.settings.timeout,
            queue.given(&["timeout_secs"], Field::duration)?,
        )?;
        self.ignore(queue.take(&["max_size"])?, "the input file is the queue");
        finish(queue)
    }

    /// Settings of the seeds that have no counterpart in a batch run.
    fn read_ignored(&mut self, top: &mut Fields<'_>) -> Result<(), ConfigError> {
        if let Some(mut server) = top.table(&["server"])? {
            const REASON: &str = "a batch run does not listen";
            self.ignore(server.take(&["host"])?, REASON);
            self.ignore(server.take(&["port"])?, REASON);
            finish(server)?;
        }
        let polling = top.take(&["worker_polling_interval"])?;
        self.ignore(polling, "workers are woken, they do not poll");
        let strategy = top.take(&["strategy"])?;
        self.ignore(
            strategy,
            "endpoints are always chosen by smooth weighted round robin",
        );
        Ok(())
    }

    fn ignore(&mut self, field: Option<Field<'_>>, reason: &str) {
        if let Some(field) = field {
            self.notes
                .push(format!("ignored: {}, because {reason}", field.origin()));
        }
    }

    fn read_endpoint(
        &mut self,
        index: usize,
        item: Field<'_>,
    ) -> Result<EndpointConfig, ConfigError> {
        let prefix = format!("endpoints[{index}]");
        self.origins.insert(prefix.clone(), item.origin());
        let missing_url = ConfigError::Invalid {
            origin: item.origin(),
            problem: "has no `url`; give it one, as https://api.openai.com/v1".to_owned(),
        };
        let defaults = EndpointConfig::default();
        let mut reader = EndpointReader {
            prefix,
            fields: item.fields()?,
            origins: &mut self.origins,
        };
        let endpoint = EndpointConfig {
            name: reader.read(&["name"], Field::text)?,
            url: reader
                .read(&["url", "endpoint"], Field::text)?
                .ok_or(missing_url)?,
            provider: reader.read(&["provider"], Field::choice)?,
            // An empty key is no key: `${KEY}` of a variable that is set to nothing.
            api_key: reader
                .read(&["api_key"], Field::text)?
                .filter(|key| !key.trim().is_empty()),
            model: reader.read(&["model", "default_model"], Field::text)?,
            override_model: reader
                .read(&["override_model"], Field::boolean)?
                .unwrap_or(defaults.override_model),
            api_version: reader
                .read(&["api_version"], Field::text)?
                .unwrap_or(defaults.api_version),
            temperature: reader.read(&["temperature"], Field::number)?,
            max_completion_tokens: reader.read(&["max_completion_tokens"], Field::whole)?,
            weight: reader
                .read(&["weight"], Field::whole)?
                .unwrap_or(defaults.weight),
            max_concurrent: reader
                .read(&["max_concurrent"], Field::whole)?
                .unwrap_or(defaults.max_concurrent),
            rpm_limit: reader.read(&["rpm_limit"], Field::whole)?,
            tpm_limit: reader.read(&["tpm_limit"], Field::whole)?,
            quota_group: reader.read(&["quota_group"], Field::text)?,
            headers: reader.read_headers()?,
            health_path: reader.read(&["health_path"], Field::text)?,
            chat_path: reader.read(&["chat_path"], Field::text)?,
            http2: reader.read(&["http2"], Field::boolean)?,
        };
        finish(reader.fields)?;
        Ok(endpoint)
    }

    fn read_price(&mut self, model: &str, field: Field<'_>) -> Result<Price, ConfigError> {
        let origin = field.origin();
        self.origins
            .insert(format!("prices.{model}"), origin.clone());
        let mut fields = field.fields()?;
        let (input, output) = (fields.take(&["input"])?, fields.take(&["output"])?);
        let cached_input = fields.take(&["cached_input"])?;
        finish(fields)?;
        let (Some(input), Some(output)) = (input, output) else {
            let problem = "needs `input` and `output`, US dollars per million tokens".to_owned();
            return Err(ConfigError::Invalid { origin, problem });
        };
        Ok(Price {
            input: input.number()?,
            cached_input: cached_input.map(|field| field.number()).transpose()?,
            output: output.number()?,
        })
    }
}

/// Reads the fields of one endpoint and remembers where each of them stands.
struct EndpointReader<'a, 'b> {
    prefix: String,
    fields: Fields<'a>,
    origins: &'b mut BTreeMap<String, Origin>,
}

impl<'a> EndpointReader<'a, '_> {
    fn read<T>(
        &mut self,
        names: &[&'static str],
        read: impl FnOnce(&Field<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(Given { value, origin }) = self.fields.given(names, read)? else {
            return Ok(None);
        };
        self.origins
            .insert(format!("{}.{}", self.prefix, names[0]), origin);
        Ok(Some(value))
    }

    fn read_headers(&mut self) -> Result<BTreeMap<String, Secret>, ConfigError> {
        let Some(field) = self.fields.take(&["headers"])? else {
            return Ok(BTreeMap::new());
        };
        self.origins
            .insert(format!("{}.headers", self.prefix), field.origin());
        let mut headers = BTreeMap::new();
        for (name, value) in field.members()? {
            self.origins
                .insert(format!("{}.headers.{name}", self.prefix), value.origin());
            headers.insert(name, value.text()?.into());
        }
        Ok(headers)
    }
}

fn path(field: &Field<'_>) -> Result<PathBuf, ConfigError> {
    field.text().map(PathBuf::from)
}

/// A number of `-v`s, or `true` for one.
fn verbosity(field: &Field<'_>) -> Result<u8, ConfigError> {
    field.whole().or_else(|_| field.boolean().map(u8::from))
}

/// Fills `slot`, unless another spelling of the same setting already has.
fn once<T>(slot: &mut Option<Given<T>>, given: Option<Given<T>>) -> Result<(), ConfigError> {
    let Some(given) = given else { return Ok(()) };
    if let Some(other) = slot {
        let (origin, other) = (given.origin, Box::new(other.origin.clone()));
        return Err(ConfigError::GivenTwice { origin, other });
    }
    *slot = Some(given);
    Ok(())
}

fn finish(fields: Fields<'_>) -> Result<(), ConfigError> {
    fields.finish(|name| {
        TABLES
            .iter()
            .find(|(_, known)| known.contains(&name))
            .map(|(table, _)| *table)
    })
}

#[cfg(test)]
mod tests;
