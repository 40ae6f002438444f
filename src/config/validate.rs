//! The rules a [`Config`] must keep, the same for files, flags and library callers. Each complaint
//! names the field and the way out. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use url::Url;

use super::provider_kind::KEY_HEADERS;
use super::scalar::DURATION_MAX;
use super::{
    Config, ConfigError, EndpointConfig, Origin, Price, Rate, RequestConfig, RetryConfig, Secret,
    WORKERS_MAX,
};

/// A line that failed ten thousand times will fail again, and a retry's count stays within 16 bits.
const ATTEMPTS_MAX: u32 = 10_000;

/// More threads than any machine has cores.
const CORES_MAX: usize = 4096;

/// Headers that frame a message or belong to the connection; the transport alone writes them.
const TRANSPORT_HEADERS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Brings `config` into the one form the engine reads: white space around keys goes, and
/// `user:password@` of a URL becomes an `authorization` header. To be called before [`validate`], which
/// refuses both.
pub fn normalise(config: &mut Config) {
    for endpoint in &mut config.endpoints {
        endpoint.trim_keys();
        endpoint.move_credentials_to_header();
    }
}

/// Whether the engine can run with `config`. Fails with the first rule that is broken; the message
/// names the field as [`Config`] calls it.
pub fn validate(config: &Config) -> Result<(), ConfigError> {
    let Config {
        endpoints,
        request,
        retry,
        prices,
        cores,
        runtime: _,
        order: _,
        format: _,
        max_outage,
        max_outage_at_first,
        max_cost,
        max_line_bytes,
        max_response_bytes,
        ca_file,
        ssl_cert_file: _,
        grace,
        durability: _,
    } = config;
    if endpoints.is_empty() {
        return Err(ConfigError::NoEndpoint);
    }
    validate_request(request)?;
    validate_retry(retry)?;
    if let Some(cores) = *cores {
        within(
            "cores",
            cores,
            CORES_MAX,
            "leave it out to use every available core",
        )?;
    }
    at_most_ten_years("max_outage", *max_outage)?;
    at_most_ten_years(
        "max_outage_at_first",
        max_outage_at_first.unwrap_or_default(),
    )?;
    at_most_ten_years("grace", *grace)?;
    at_least_one("max_line_bytes", *max_line_bytes, "no line is that short")?;
    at_least_one(
        "max_response_bytes",
        *max_response_bytes,
        "no response is that short",
    )?;
    if ca_file
        .as_ref()
        .is_some_and(|path| path.as_os_str().is_empty())
    {
        return Err(invalid(
            "ca_file",
            "the path is empty; name a PEM file or leave it out",
        ));
    }
    for (model, price) in prices {
        validate_price(model, price)?;
    }
    if let Some(cost) = *max_cost {
        if !(cost.is_finite() && cost > 0.0) {
            return Err(invalid(
                "max_cost",
                format!("{cost} is no budget; give US dollars above 0"),
            ));
        }
        if prices.is_empty() {
            let problem = "costs are unknown without prices; give `prices` in the config file";
            return Err(invalid("max_cost", problem));
        }
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        validate_endpoint(&format!("endpoints[{index}]"), endpoint)?;
    }
    validate_names(endpoints)?;
    validate_quota_groups(endpoints)
}

fn validate_request(request: &RequestConfig) -> Result<(), ConfigError> {
    let RequestConfig {
        timeout,
        connect_timeout,
        rate_limit,
        workers,
    } = request;
    positive_duration("request.timeout", *timeout)?;
    positive_duration("request.connect_timeout", *connect_timeout)?;
    if let Rate::PerSecond(per_second) = *rate_limit {
        match Rate::of_number(per_second) {
            Ok(Rate::PerSecond(_)) => {}
            Ok(Rate::Unlimited | Rate::Auto) => {
                let problem = "0 per second sends nothing; no limit is Rate::Unlimited";
                return Err(invalid("request.rate_limit", problem));
            }
            Err(expected) => {
                return Err(invalid(
                    "request.rate_limit",
                    format!("{expected}, found {per_second}"),
                ));
            }
        }
    }
    within(
        "request.workers",
        *workers,
        WORKERS_MAX,
        "without one nothing is sent",
    )
}

fn validate_retry(retry: &RetryConfig) -> Result<(), ConfigError> {
    let RetryConfig {
        max_attempts,
        initial_backoff,
        max_backoff,
        multiplier,
    } = retry;
    at_least_one(
        "retry.max_attempts",
        *max_attempts as usize,
        "the first attempt counts, so 1 means no retries",
    )?;
    if *max_attempts > ATTEMPTS_MAX {
        return Err(invalid(
            "retry.max_attempts",
            format!("{max_attempts} is above {ATTEMPTS_MAX}"),
        ));
    }
    at_most_ten_years("retry.initial_backoff", *initial_backoff)?;
    at_most_ten_years("retry.max_backoff", *max_backoff)?;
    if max_backoff < initial_backoff {
        let problem = format!(
            "{max_backoff:?} is below retry.initial_backoff, {initial_backoff:?}; raise it, or lower that"
        );
        return Err(invalid("retry.max_backoff", problem));
    }
    if !(multiplier.is_finite() && *multiplier >= 1.0) {
        let problem = format!("{multiplier} would shrink the wait; give 1 or more, as 2.0");
        return Err(invalid("retry.multiplier", problem));
    }
    Ok(())
}

fn validate_price(model: &str, price: &Price) -> Result<(), ConfigError> {
    let Price {
        input,
        cached_input,
        output,
    } = price;
    for dollars in [Some(*input), *cached_input, Some(*output)]
        .into_iter()
        .flatten()
    {
        if !(dollars.is_finite() && dollars >= 0.0) {
            let problem =
                format!("{dollars} is no price; give US dollars per million tokens, 0 or more");
            return Err(invalid(format!("prices.{model}"), problem));
        }
    }
    Ok(())
}

fn validate_endpoint(at: &str, endpoint: &EndpointConfig) -> Result<(), ConfigError> {
    let EndpointConfig {
        name,
        url,
        provider: _,
        api_key,
        model,
        override_model,
        api_version,
        temperature,
        max_completion_tokens,
        weight,
        max_concurrent,
        rpm_limit,
        tpm_limit,
        quota_group,
        headers,
        health_path,
        chat_path,
        http2: _,
    } = endpoint;
    let field = |name: &str| format!("{at}.{name}");
    let host = validate_url(&field("url"), url)?;
    for (label, text) in [
        ("name", name),
        ("model", model),
        ("quota_group", quota_group),
    ] {
        if let Some(text) = text {
            validate_text(&field(label), text)?;
        }
    }
    for (label, path) in [("health_path", health_path), ("chat_path", chat_path)] {
        if let Some(path) = path {
            validate_path(&field(label), path)?;
        }
    }
    if *override_model && model.is_none() {
        return Err(invalid(
            field("override_model"),
            "there is no `model` to put in; give one",
        ));
    }
    let version_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if api_version.is_empty() || !api_version.bytes().all(version_letter) {
        return Err(invalid(
            field("api_version"),
            "is no API version; write it like 2025-01-01-preview",
        ));
    }
    if temperature.is_some_and(|temperature| !temperature.is_finite()) {
        return Err(invalid(field("temperature"), "is no finite number"));
    }
    at_least_one(
        &field("weight"),
        *weight as usize,
        "the endpoint would never be chosen; remove it to leave it out",
    )?;
    at_least_one(
        &field("max_concurrent"),
        *max_concurrent,
        "nothing could be sent; remove the endpoint to leave it out",
    )?;
    for (label, limit) in [
        ("rpm_limit", rpm_limit),
        ("tpm_limit", tpm_limit),
        ("max_completion_tokens", max_completion_tokens),
    ] {
        if *limit == Some(0) {
            return Err(invalid(
                field(label),
                "0 lets nothing through; leave it out for no limit",
            ));
        }
    }
    for (name, value) in headers {
        validate_header(&field("headers"), name, value, headers)?;
    }
    if let Some(key) = api_key
        && (key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        let problem = "is empty or holds, inside it, a line break, a space or another character no key \
                       has; give one key alone";
        return Err(invalid(field("api_key"), problem));
    }
    validate_key(&field("api_key"), endpoint, &host)
}

/// The host of an absolute `http` or `https` URL that means the same to every parser.
fn validate_url(field: &str, text: &str) -> Result<String, ConfigError> {
    const EXAMPLE: &str = "write it like https://api.openai.com/v1";
    if text.is_empty() {
        return Err(invalid(field, format!("is empty; {EXAMPLE}")));
    }
    // The URL standard drops line breaks and takes `\` for `/`; other parsers do not.
    if text
        .chars()
        .any(|letter| letter.is_control() || letter.is_whitespace() || letter == '\\')
    {
        let problem = format!("holds white space, a control character or a backslash; {EXAMPLE}");
        return Err(invalid(field, problem));
    }
    let scheme = text
        .split("://")
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    if !text.contains("://") || !matches!(scheme.as_str(), "http" | "https") {
        return Err(invalid(
            field,
            format!("does not begin with http:// or https://; {EXAMPLE}"),
        ));
    }
    let url = Url::parse(text)
        .map_err(|error| invalid(field, format!("is no URL ({error}); {EXAMPLE}")))?;
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err(invalid(field, format!("has no host; {EXAMPLE}")));
    };
    if url.port() == Some(0) {
        return Err(invalid(
            field,
            "has port 0, where nothing listens; give the server's port",
        ));
    }
    if url.fragment().is_some() {
        return Err(invalid(
            field,
            "has a fragment (#…), which is never sent; remove it",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let problem = "has credentials in it beside another key (or was built in code); \
                       keep one of them, as `api_key` or as an `authorization` header";
        return Err(invalid(field, problem));
    }
    Ok(host.to_owned())
}

fn validate_text(field: &str, text: &str) -> Result<(), ConfigError> {
    if text.is_empty() {
        return Err(invalid(field, "is empty; give it a value or leave it out"));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "holds a control character; remove it"));
    }
    Ok(())
}

fn validate_path(field: &str, path: &str) -> Result<(), ConfigError> {
    let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '#' | '\\');
    if !path.starts_with('/') || !path.chars().all(plain) {
        let problem = "is no URL path; begin it with / and escape what is not ASCII, \
                       as /v1/chat/completions";
        return Err(invalid(field, problem));
    }
    Ok(())
}

/// Never shows the value: it may be a credential.
fn validate_header(
    field: &str,
    name: &str,
    value: &Secret,
    all: &BTreeMap<String, Secret>,
) -> Result<(), ConfigError> {
    let field = format!("{field}.{name}");
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        let problem = "is no HTTP header name; use letters, digits and hyphens, as x-team";
        return Err(invalid(field, problem));
    }
    if HeaderValue::from_bytes(value.expose().as_bytes()).is_err() {
        return Err(invalid(
            field,
            "its value holds a line break or another control character; remove it",
        ));
    }
    if TRANSPORT_HEADERS
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
    {
        return Err(invalid(
            field,
            "is written by the transport itself; remove it",
        ));
    }
    if all
        .keys()
        .filter(|other| other.eq_ignore_ascii_case(name))
        .count()
        > 1
    {
        return Err(invalid(
            field,
            "is given twice, in different case; keep one",
        ));
    }
    Ok(())
}

fn validate_key(field: &str, endpoint: &EndpointConfig, host: &str) -> Result<(), ConfigError> {
    let provider = endpoint.provider_or_host();
    let given = |names: &[&'static str]| -> Vec<&'static str> {
        let names = names.iter().copied();
        names.filter(|name| endpoint.has_header(name)).collect()
    };
    let is_keyed = endpoint.api_key.is_some() || !given(provider.key_headers()).is_empty();
    // Which of two keys a server looks at, and which of two quotas it counts, nobody here can tell.
    match (&endpoint.api_key, given(KEY_HEADERS).as_slice()) {
        _ if !is_keyed && provider.needs_key(host) => Err(invalid(
            field,
            format!(
                "missing, and {} ({provider}) needs one; set it in the config file, as \
                 \"api_key\": \"${{MY_KEY}}\", or for --endpoint-url in BLAZE_API_KEY",
                endpoint.label().escape_debug()
            ),
        )),
        (Some(_), [header, ..]) => Err(invalid(
            field,
            format!("stands beside the header `{header}`: two keys; keep one of them"),
        )),
        (None, [one, other, ..]) => Err(invalid(
            field.replace("api_key", "headers"),
            format!("`{one}` and `{other}` are two keys; keep one of them"),
        )),
        _ => Ok(()),
    }
}

fn validate_names(endpoints: &[EndpointConfig]) -> Result<(), ConfigError> {
    let mut seen = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let Some(name) = &endpoint.name else { continue };
        if let Some(first) = seen.insert(name, index) {
            let problem =
                format!("`{name}` is also the name of endpoints[{first}]; give each its own");
            return Err(invalid(format!("endpoints[{index}].name"), problem));
        }
    }
    Ok(())
}

/// A group is one quota, so it has one limit: two different ones would leave the engine guessing.
fn validate_quota_groups(endpoints: &[EndpointConfig]) -> Result<(), ConfigError> {
    type Limit = fn(&EndpointConfig) -> Option<u64>;
    let limits: [(&str, Limit); 2] = [
        ("rpm_limit", |endpoint| endpoint.rpm_limit),
        ("tpm_limit", |endpoint| endpoint.tpm_limit),
    ];
    for (label, limit_of) in limits {
        let mut limits = BTreeMap::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let (Some(group), Some(limit)) = (&endpoint.quota_group, limit_of(endpoint)) else {
                continue;
            };
            let (first, other) = *limits.entry(group).or_insert((index, limit));
            if limit != other {
                let problem = format!(
                    "{limit} differs from {other} of endpoints[{first}], and both are in the quota \
                     group `{group}`; give one limit, or two groups"
                );
                return Err(invalid(format!("endpoints[{index}].{label}"), problem));
            }
        }
    }
    Ok(())
}

fn within(field: &str, value: usize, max: usize, why: &str) -> Result<(), ConfigError> {
    at_least_one(field, value, why)?;
    if value > max {
        return Err(invalid(field, format!("{value} is above {max}; give less")));
    }
    Ok(())
}

fn at_least_one(field: &str, value: usize, why: &str) -> Result<(), ConfigError> {
    if value == 0 {
        return Err(invalid(
            field,
            format!("must be at least 1, found 0: {why}"),
        ));
    }
    Ok(())
}

fn positive_duration(field: &str, duration: Duration) -> Result<(), ConfigError> {
    if duration.is_zero() {
        return Err(invalid(
            field,
            "0 would fail every request; give a time, as \"30s\"",
        ));
    }
    at_most_ten_years(field, duration)
}

fn at_most_ten_years(field: &str, duration: Duration) -> Result<(), ConfigError> {
    if duration > DURATION_MAX {
        return Err(invalid(
            field,
            format!("{duration:?} is above 10 years; give less"),
        ));
    }
    Ok(())
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        origin: Origin::Field(field.into()),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests;
