//! One endpoint, resolved: where its requests go, what their heads and bodies need. Pure.

use std::borrow::Cow;

use url::{Host, Position, Url};

use super::address::Address;
use super::azure::AzureAddress;
use super::credentials::{self, Authorization};
use super::dialect::{self, Dialect};
use super::redactor::Redactor;
use super::{ApiPath, Route};
use crate::config::body_rules::{BodyRules, InputShape};
use crate::config::{Config, EndpointConfig, KEY_HEADERS, ProviderKind, Secret};
use crate::http::{Origin, Scheme};

const USER_AGENT: &str = concat!("blaze-uring/", env!("CARGO_PKG_VERSION"));

/// Headers that frame the message or follow from the URL: a configured one would contradict what
/// is sent.
const HEADERS_NOT_CONFIGURABLE: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// An endpoint that cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {endpoint}: {problem}")]
pub struct EndpointError {
    /// The endpoint's name, see [`Config::endpoint_names`].
    pub endpoint: String,
    /// What is wrong.
    pub problem: EndpointProblem,
}

/// What is wrong with an endpoint's config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// Not an absolute HTTP URL.
    #[error("`url` must be a URL that starts with http:// or https:// and names a host")]
    Url,
    /// `weight: 0`
    #[error("`weight` must be at least 1")]
    Weight,
    /// `max_concurrent: 0`
    #[error("`max_concurrent` must be at least 1")]
    MaxConcurrent,
    /// `rpm_limit: 0` or `tpm_limit: 0`: nothing could ever be sent.
    #[error("`{0}` must be at least 1; leave it out for no limit")]
    Limit(&'static str),
    /// A control character in the key.
    #[error("`api_key` holds a character that cannot stand in an HTTP header (a line break?)")]
    Key,
    /// A key and a user name both want the same header.
    #[error("both `api_key` and a user name in `url` are given; keep one")]
    TwoCredentials,
    /// Not a token, or a value with control characters.
    #[error("header `{0}` has a name or value that cannot stand in an HTTP header")]
    Header(String),
    /// One that the engine itself must write.
    #[error("header `{0}` is written by blaze-uring itself and cannot be configured")]
    HeaderNotConfigurable(String),
}

/// Where requests go and how they are dressed for it; immutable after [`Endpoint::resolve`].
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What records, summary and metrics call it, see [`Config::endpoint_names`]; unique in a run.
    pub name: String,
    /// Where connections go.
    pub origin: Origin,
    /// The dialect spoken.
    pub provider: ProviderKind,
    /// Share of the traffic; at least 1.
    pub weight: u32,
    /// Requests in flight over all cores; at least 1.
    pub max_concurrent: usize,
    /// Endpoints with the same group share one quota, its cooldowns and limits.
    pub quota_group: String,
    /// Requests per minute of the quota group.
    pub rpm_limit: Option<u64>,
    /// Tokens per minute of the quota group.
    pub tpm_limit: Option<u64>,
    /// `Some(true)` on plain HTTP: HTTP/2 with prior knowledge; `None`: by ALPN.
    pub http2: Option<bool>,
    /// What proves who we are; a token to be fetched is added by [`Endpoint::token_header`].
    pub authorization: Authorization,
    /// The configured URL as it may be shown; relative redirects start from it.
    pub(super) url: Url,
    pub(super) redactor: Redactor,
    addressing: Addressing,
    chat_path: Option<String>,
    health_path: Option<String>,
    model: Option<String>,
    override_model: bool,
    temperature: Option<f64>,
    max_completion_tokens: Option<u64>,
    /// Configured headers, names in lower case.
    headers: Vec<(String, Secret)>,
}

/// The two ways to build a path.
#[derive(Clone, Debug)]
pub(super) enum Addressing {
    Joined(Address),
    Azure(AzureAddress),
}

impl Endpoint {
    /// Checks and resolves one endpoint of the config.
    ///
    /// # Errors
    /// The first thing that would keep its requests from being sent; no credential is in the text.
    pub fn resolve(config: &EndpointConfig) -> Result<Self, EndpointError> {
        Self::resolve_named(config, &config.label())
    }

    /// Resolves every endpoint of a config, each under a name of its own.
    ///
    /// # Errors
    /// As [`Endpoint::resolve`], for the first endpoint that fails.
    pub fn resolve_all(configs: &[EndpointConfig]) -> Result<Vec<Self>, EndpointError> {
        let names = Config::endpoint_names(configs);
        let named = configs.iter().zip(&names);
        named
            .map(|(config, name)| Self::resolve_named(config, name))
            .collect()
    }

    fn resolve_named(config: &EndpointConfig, name: &str) -> Result<Self, EndpointError> {
        Self::try_resolve(config, name).map_err(|problem| EndpointError {
            endpoint: name.to_owned(),
            problem,
        })
    }

    fn try_resolve(config: &EndpointConfig, name: &str) -> Result<Self, EndpointProblem> {
        let url = Url::parse(config.url.trim()).map_err(|_| EndpointProblem::Url)?;
        let origin = origin(&url).ok_or(EndpointProblem::Url)?;
        require(config.weight > 0, EndpointProblem::Weight)?;
        require(config.max_concurrent > 0, EndpointProblem::MaxConcurrent)?;
        require(
            config.rpm_limit != Some(0),
            EndpointProblem::Limit("rpm_limit"),
        )?;
        require(
            config.tpm_limit != Some(0),
            EndpointProblem::Limit("tpm_limit"),
        )?;

        let provider = config
            .provider
            .unwrap_or_else(|| dialect::recognise(&origin.host, url.path()));
        let dialect = super::dialect_of(provider);
        let authorization = authorization(config, dialect)?;
        let mut headers = configured_headers(config)?;
        let mut redactor = Redactor::default();
        if let Authorization::Key(key) = &authorization {
            redactor.add(key.expose());
        }
        if let Some(basic) = credentials::basic(&url) {
            let keyed_alike = match &authorization {
                Authorization::None => false,
                Authorization::Key(_) => dialect.key_header == "authorization",
                Authorization::Entra(_) => true,
            };
            require(!keyed_alike, EndpointProblem::TwoCredentials)?;
            redactor.add(url.password().unwrap_or_default());
            if !headers.iter().any(|(name, _)| name == "authorization") {
                headers.push(("authorization".to_owned(), basic));
            }
        }
        for (name, value) in &headers {
            redactor.add_header(name, value.expose());
        }
        redactor.add_query(url.query().unwrap_or_default());

        let addressing = (dialect.addressing)(&url, config);
        Ok(Self {
            name: name.to_owned(),
            origin,
            provider,
            weight: config.weight,
            max_concurrent: config.max_concurrent,
            quota_group: config
                .quota_group
                .clone()
                .unwrap_or_else(|| name.to_owned()),
            rpm_limit: config.rpm_limit,
            tpm_limit: config.tpm_limit,
            http2: config.http2,
            authorization,
            url: shown(url),
            redactor,
            addressing,
            chat_path: config.chat_path.clone(),
            health_path: config.health_path.clone(),
            model: config.model.clone(),
            override_model: config.override_model,
            temperature: config.temperature,
            max_completion_tokens: config.max_completion_tokens,
            headers,
        })
    }

    /// Where a line goes. `line_url` is the line's own API path (with or without `/v1`, perhaps
    /// with a query), `body_model` its body's `model`, which names the deployment on an Azure
    /// endpoint that configures none. `completes_prompt` says that the body is one of the completions
    /// API, to which it goes if neither line nor configuration names a path. The answer depends on
    /// nothing else, so it can be cached.
    pub fn route(
        &self,
        line_url: Option<&str>,
        body_model: Option<&str>,
        completes_prompt: bool,
    ) -> Route {
        let line_url = line_url.filter(|url| !url.is_empty());
        let dialect = self.dialect();
        let chat_path = self.chat_path.as_deref().unwrap_or(dialect.chat_path);
        let completions_path = dialect
            .completions_path
            .filter(|_| completes_prompt)
            .map(|path| beside_chat(chat_path).map_or(Cow::Borrowed(path), Cow::Owned));
        let chat_path = completions_path.as_deref().unwrap_or(chat_path);
        match &self.addressing {
            Addressing::Joined(address) => address.route(line_url, chat_path, dialect.chat),
            Addressing::Azure(address) => {
                address.route(line_url, chat_path, self.model.as_deref().or(body_model))
            }
        }
    }

    /// Whether [`Endpoint::route`] looks at the body's model at all.
    pub fn routes_by_model(&self) -> bool {
        matches!(self.addressing, Addressing::Azure(_)) && self.model.is_none()
    }

    /// Where a GET asks whether the endpoint is alive: the configured path, else the provider's.
    pub fn health_route(&self) -> Route {
        let path = self
            .health_path
            .as_deref()
            .unwrap_or(self.dialect().health_path);
        match &self.addressing {
            Addressing::Joined(address) => address.health(path),
            Addressing::Azure(address) => address.health(path),
        }
    }

    /// What goes into a body for `path`, and how an `input` line is wrapped for it.
    ///
    /// The limit's field is named as each API names it; embeddings and unknown APIs know neither a
    /// limit nor a temperature and would refuse them.
    pub fn body_rules(&self, path: ApiPath) -> BodyRules<'_> {
        let input_as = match path {
            ApiPath::ChatCompletions | ApiPath::Messages => InputShape::Messages,
            ApiPath::Completions => InputShape::Prompt,
            ApiPath::Responses | ApiPath::Embeddings | ApiPath::Other => InputShape::Input,
        };
        let max_tokens_field = path.max_tokens_field();
        BodyRules {
            input_as,
            model: self.model.as_deref(),
            override_model: self.override_model,
            temperature: self.temperature.filter(|_| max_tokens_field.is_some()),
            max_tokens: max_tokens_field.zip(self.max_completion_tokens),
        }
    }

    /// Header lines of every request, names in lower case: content type, accept, accepted codings, user agent, the
    /// dialect's own, the key, the configured ones. A configured header replaces ours of the same
    /// name. Host, framing and a fetched token ([`Endpoint::token_header`]) are the caller's to add.
    pub fn headers(&self) -> Vec<(String, Secret)> {
        let dialect = self.dialect();
        let mut ours = vec![
            ("content-type", Secret::from("application/json")),
            ("accept", Secret::from("application/json")),
            // What comes encoded all the same is decoded; nothing is gained by asking for it.
            ("accept-encoding", Secret::from("identity")),
            ("user-agent", Secret::from(USER_AGENT)),
        ];
        ours.extend(
            dialect
                .headers
                .iter()
                .map(|(name, value)| (*name, Secret::from(*value))),
        );
        if let Authorization::Key(key) = &self.authorization {
            let value = format!("{}{}", dialect.key_prefix, key.expose());
            ours.push((dialect.key_header, Secret::from(value)));
        }
        ours.into_iter()
            .filter(|(name, _)| !self.configures(name))
            .map(|(name, value)| (name.to_owned(), value))
            .chain(self.headers.iter().cloned())
            .collect()
    }

    /// The header line that carries a fetched token; `None` if this endpoint wants none.
    pub fn token_header(&self, token: &Secret) -> Option<(String, Secret)> {
        let wanted = matches!(self.authorization, Authorization::Entra(_));
        (wanted && !self.configures("authorization")).then(|| {
            (
                "authorization".to_owned(),
                Secret::from(format!("Bearer {}", token.expose())),
            )
        })
    }

    /// The whole URL of `route`, as it may be shown.
    pub fn shown_url(&self, route: &Route) -> String {
        let origin = &self.url[..Position::BeforePath];
        format!("{origin}{}", self.redact(&route.target))
    }

    /// Whether its requests carry a key, or a token for which one is fetched.
    pub fn has_key(&self) -> bool {
        self.authorization != Authorization::None
            || self.headers.iter().any(|(name, _)| Self::carries_key(name))
    }

    /// Whether a header of that name, in any case, carries a key to some provider.
    pub fn carries_key(name: &str) -> bool {
        KEY_HEADERS
            .iter()
            .any(|header| header.eq_ignore_ascii_case(name))
    }

    /// `text`, which a server sent, with this endpoint's secrets struck out.
    pub fn redact(&self, text: &str) -> String {
        self.redactor.redact(text)
    }

    /// `body`, which a server sent, with this endpoint's secrets struck out; as it is, uncopied,
    /// if none is in it.
    pub fn redact_body<'a>(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        self.redactor.redact_bytes(body)
    }

    /// The model that an answer is billed for, given the request body's own.
    pub fn billed_model<'a>(&'a self, own: Option<Cow<'a, str>>) -> Option<Cow<'a, str>> {
        let configured = self.model.as_deref().map(Cow::Borrowed);
        match self.override_model {
            true => configured.or(own),
            false => own.or(configured),
        }
    }

    /// The model a request without one of its own asks for.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn configures(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(configured, _)| configured == name)
    }

    fn dialect(&self) -> &'static Dialect {
        super::dialect_of(self.provider)
    }
}

fn require(holds: bool, problem: EndpointProblem) -> Result<(), EndpointProblem> {
    if holds { Ok(()) } else { Err(problem) }
}

fn origin(url: &Url) -> Option<Origin> {
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Some(Origin {
        scheme,
        host,
        port: url.port_or_known_default()?,
    })
}

fn authorization(
    config: &EndpointConfig,
    dialect: &Dialect,
) -> Result<Authorization, EndpointProblem> {
    // Keys read from files come with a line break, which is no part of them.
    let Some(key) = config.api_key.as_ref().map(|key| key.trim()) else {
        return Ok(Authorization::None);
    };
    if key.is_empty() {
        return Ok(Authorization::None);
    }
    if let Some(source) = (dialect.token_source)(key) {
        return Ok(Authorization::Entra(source));
    }
    require(is_header_value(key), EndpointProblem::Key)?;
    Ok(Authorization::Key(Secret::from(key)))
}

fn configured_headers(config: &EndpointConfig) -> Result<Vec<(String, Secret)>, EndpointProblem> {
    let mut headers: Vec<(String, Secret)> = Vec::with_capacity(config.headers.len());
    for (name, value) in &config.headers {
        let (name, value) = (name.to_ascii_lowercase(), value.expose());
        if HEADERS_NOT_CONFIGURABLE.contains(&name.as_str()) {
            return Err(EndpointProblem::HeaderNotConfigurable(name));
        }
        // The same name in two spellings would be sent twice.
        let is_new = headers.iter().all(|(other, _)| *other != name);
        require(
            is_header_name(&name) && is_header_value(value) && is_new,
            EndpointProblem::Header(name.clone()),
        )?;
        headers.push((name, Secret::from(value.trim())));
    }
    Ok(headers)
}

/// A token of RFC 9110, section 5.6.2.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 9110, section 5.5: anything but control characters, the tab excepted.
fn is_header_value(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

/// `/api/v2/completions` for a chat path `/api/v2/chat/completions`.
fn beside_chat(chat_path: &str) -> Option<String> {
    let path_end = chat_path.find('?').unwrap_or(chat_path.len());
    let (path, query) = chat_path.split_at(path_end);
    let above = path.strip_suffix("/chat/completions")?;
    Some(format!("{above}/completions{query}"))
}

/// What of a URL may be shown: no credentials, no query (it may hold a key), no fragment.
pub(super) fn shown(mut url: Url) -> Url {
    // Both fail only on URLs without a host, which have no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests;
