//! Microsoft Entra tokens: the documented requests, what their answers mean, and how long a token
//! is good for. Pure.
//!
//! `default` follows the order of Microsoft's own libraries (`DefaultAzureCredential`): a client's
//! secret, the workload identity of a Kubernetes pod or a build job, the machine's managed identity, the
//! login of the `az` tool. Before all of them a token in the environment, as the OpenAI libraries have it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use url::form_urlencoded::Serializer;
use url::{Host, Url};

use super::EntraSource;
use crate::config::Secret;
use crate::http::{Origin, Scheme};

/// What tokens are for.
const RESOURCE: &str = "https://cognitiveservices.azure.com";
const SCOPE: &str = "https://cognitiveservices.azure.com/.default";
const AUTHORITY: &str = "https://login.microsoftonline.com";
const METADATA_SERVICE: &str = "http://169.254.169.254";
/// The public client of Microsoft's developer tools, with which their libraries log people in.
const DEVELOPER_CLIENT: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
/// Where people of any organisation log in.
const ANY_ORGANISATION: &str = "organizations";
/// A token that lives longer than this is renewed at least [`EARLY`] before its end.
const LONG_LIFE: Duration = Duration::from_secs(10 * 60);
const EARLY: Duration = Duration::from_secs(5 * 60);
/// Between two renewals, whatever a server says about lives.
const RENEWAL_MIN: Duration = Duration::from_secs(1);

/// A token as it was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The token.
    pub token: Secret,
    /// How long it is good for; `None`: nobody said.
    pub life: Option<Duration>,
    /// What a login can be renewed with.
    pub refresh_token: Option<Secret>,
}

impl Issued {
    /// When to ask for the next one, from now: a tenth of the life before its end, and five minutes
    /// before the end of a long one.
    pub fn renew_after(&self) -> Option<Duration> {
        let life = self.life?;
        let early = match life > LONG_LIFE {
            true => (life / 10).max(EARLY),
            false => life / 10,
        };
        Some((life - early).max(RENEWAL_MIN))
    }
}

/// One way to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is there already.
    Given(Secret),
    /// A request; its answer goes to [`issued`].
    Ask(Ask),
    /// A request that carries what stands in a file.
    Federated(Federated),
    /// `az account get-access-token`; its output goes to [`issued_by_tool`].
    Tool(Vec<String>),
    /// A person logs in.
    Device(DeviceLogin),
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who issues the token, for messages.
    pub who: &'static str,
    /// Where connections go.
    pub origin: Origin,
    /// Head and body; holds secrets.
    pub request: Secret,
    /// Nobody there means that this way does not exist here.
    pub optional: bool,
}

/// A workload identity: another issuer vouches for the workload, by a token of its own in a file that
/// it renews (<https://learn.microsoft.com/azure/aks/workload-identity-overview>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federated {
    authority: Url,
    tenant: String,
    client: String,
    file: PathBuf,
}

/// A login by device code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLogin {
    authority: Url,
    tenant: String,
    client: String,
}

/// What a person has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCode {
    /// Names the login in later requests.
    code: Secret,
    /// The server's instructions: where to go and what to type.
    pub message: String,
    /// Between two looks.
    pub interval: Duration,
    /// How long the code is good for.
    pub life: Duration,
}

/// What the environment says, as Microsoft's libraries read it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    token: Option<Secret>,
    tenant: Option<String>,
    client: Option<String>,
    secret: Option<Secret>,
    federated_file: Option<PathBuf>,
    authority: Url,
    metadata_service: Url,
    identity_endpoint: Option<Url>,
    identity_header: Option<Secret>,
}

impl Surroundings {
    /// Reads the variables through `lookup`.
    ///
    /// # Errors
    /// A URL that is none, or that would send a secret in the clear.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let url = |name: &str, default: &str| {
            let text = get(name).unwrap_or_else(|| default.to_owned());
            // The SDKs take a host alone, too.
            let text = match text.contains("://") {
                true => text,
                false => format!("https://{text}"),
            };
            Url::parse(text.trim())
                .ok()
                .filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"))
                .ok_or_else(|| format!("{name} is not a URL"))
        };
        let authority = url("AZURE_AUTHORITY_HOST", AUTHORITY)?;
        if authority.scheme() == "http" && !is_loopback(&authority) {
            return Err("AZURE_AUTHORITY_HOST must begin with https://".to_owned());
        }
        let identity_endpoint = match get("IDENTITY_ENDPOINT") {
            Some(_) => Some(url("IDENTITY_ENDPOINT", "")?),
            None => None,
        };
        let identity_header = get("IDENTITY_HEADER");
        if identity_header
            .as_ref()
            .is_some_and(|proof| proof.contains(char::is_control))
        {
            return Err("IDENTITY_HEADER cannot stand in an HTTP header".to_owned());
        }
        Ok(Self {
            token: get("AZURE_OPENAI_AD_TOKEN").map(|token| Secret::from(token.trim())),
            tenant: get("AZURE_TENANT_ID"),
            client: get("AZURE_CLIENT_ID"),
            secret: get("AZURE_CLIENT_SECRET").map(Secret::from),
            federated_file: get("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
            authority,
            metadata_service: url("AZURE_POD_IDENTITY_AUTHORITY_HOST", METADATA_SERVICE)?,
            identity_endpoint,
            identity_header: identity_header.map(Secret::from),
        })
    }

    /// The ways to a token of `source`, in the order in which to try them.
    pub fn steps(&self, source: EntraSource) -> Vec<Step> {
        match source {
            EntraSource::AzureCli => vec![self.tool()],
            EntraSource::Interactive => vec![Step::Device(DeviceLogin {
                authority: self.authority.clone(),
                tenant: self
                    .tenant
                    .clone()
                    .unwrap_or_else(|| ANY_ORGANISATION.into()),
                client: self
                    .client
                    .clone()
                    .unwrap_or_else(|| DEVELOPER_CLIENT.into()),
            })],
            EntraSource::Default => {
                if let Some(token) = &self.token {
                    return vec![Step::Given(token.clone())];
                }
                // Who configures a client wants that one, and no other's rights.
                if let Some(ask) = self.client_secret() {
                    return vec![Step::Ask(ask)];
                }
                if let Some(federated) = self.federated() {
                    return vec![Step::Federated(federated)];
                }
                vec![Step::Ask(self.managed_identity()), self.tool()]
            }
        }
    }

    fn client_secret(&self) -> Option<Ask> {
        let (tenant, client) = (self.tenant.as_ref()?, self.client.as_ref()?);
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_secret", self.secret.as_ref()?.expose()),
            ("scope", SCOPE),
        ];
        Some(post(&self.authority, tenant, "token", &fields))
    }

    fn federated(&self) -> Option<Federated> {
        Some(Federated {
            authority: self.authority.clone(),
            tenant: self.tenant.clone()?,
            client: self.client.clone()?,
            file: self.federated_file.clone()?,
        })
    }

    fn managed_identity(&self) -> Ask {
        let (url, path, version) = match &self.identity_endpoint {
            Some(url) => (url, url.path(), "2019-08-01"),
            None => (
                &self.metadata_service,
                "/metadata/identity/oauth2/token",
                "2018-02-01",
            ),
        };
        let mut query = Serializer::new(String::new());
        query.append_pair("api-version", version);
        query.append_pair("resource", RESOURCE);
        if let Some(client) = &self.client {
            query.append_pair("client_id", client);
        }
        let proof = match (&self.identity_endpoint, &self.identity_header) {
            (Some(_), Some(header)) => format!("x-identity-header: {}\r\n", header.expose()),
            _ => "metadata: true\r\n".to_owned(),
        };
        let origin = origin(url);
        let request = format!(
            "GET {path}?{} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n{proof}\r\n",
            query.finish(),
            origin.authority(),
        );
        Ask {
            who: "the machine's managed identity",
            origin,
            request: Secret::from(request),
            optional: self.identity_endpoint.is_none(),
        }
    }

    fn tool(&self) -> Step {
        let arguments = [
            "account",
            "get-access-token",
            "--output",
            "json",
            "--resource",
            RESOURCE,
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        if let Some(tenant) = &self.tenant {
            arguments.extend(["--tenant".to_owned(), tenant.clone()]);
        }
        Step::Tool(arguments)
    }
}

impl Federated {
    /// Where the other issuer's token is; to be read anew each time.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Asks for a token; `assertion` is what the file holds.
    pub fn ask(&self, assertion: &Secret) -> Ask {
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", self.client.as_str()),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", assertion.expose().trim()),
            ("scope", SCOPE),
        ];
        post(&self.authority, &self.tenant, "token", &fields)
    }
}

impl DeviceLogin {
    /// Asks for a code; the answer goes to [`DeviceCode::read`].
    pub fn begin(&self) -> Ask {
        let scope = format!("{SCOPE} offline_access");
        let fields = [("client_id", self.client.as_str()), ("scope", &scope)];
        post(&self.authority, &self.tenant, "devicecode", &fields)
    }

    /// Asks whether the person is done.
    pub fn look(&self, code: &DeviceCode) -> Ask {
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", &self.client),
            ("device_code", code.code.expose()),
        ];
        post(&self.authority, &self.tenant, "token", &fields)
    }

    /// Asks for the next token without the person.
    pub fn renew(&self, refresh_token: &Secret) -> Ask {
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", self.client.as_str()),
            ("refresh_token", refresh_token.expose()),
            ("scope", SCOPE),
        ];
        post(&self.authority, &self.tenant, "token", &fields)
    }
}

impl DeviceCode {
    /// Reads the answer to [`DeviceLogin::begin`].
    ///
    /// # Errors
    /// The server's words.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, String> {
        let json = serde_json::from_slice(body).unwrap_or(Value::Null);
        let (Some(code), Some(message)) = (json["device_code"].as_str(), json["message"].as_str())
        else {
            return Err(refusal(status, &json));
        };
        Ok(Self {
            code: Secret::from(code),
            message: message.to_owned(),
            interval: seconds(&json["interval"]).unwrap_or(Duration::from_secs(5)),
            life: seconds(&json["expires_in"]).unwrap_or(Duration::from_secs(900)),
        })
    }
}

/// Whether the answer to [`DeviceLogin::look`] says that the person is not done; with how much
/// longer to wait between two looks from now on.
pub fn login_pending(body: &[u8]) -> Option<Duration> {
    let json: Value = serde_json::from_slice(body).ok()?;
    match json["error"].as_str()? {
        "authorization_pending" => Some(Duration::ZERO),
        // RFC 8628, section 3.5.
        "slow_down" => Some(Duration::from_secs(5)),
        _ => None,
    }
}

/// Reads the answer to an [`Ask`] for a token.
///
/// # Errors
/// The server's words.
pub fn issued(status: u16, body: &[u8], unix_now_s: u64) -> Result<Issued, String> {
    let json = serde_json::from_slice(body).unwrap_or(Value::Null);
    let Some(token) = json["access_token"].as_str().filter(|_| status == 200) else {
        return Err(refusal(status, &json));
    };
    let until = |at: Duration| at.saturating_sub(Duration::from_secs(unix_now_s));
    Ok(Issued {
        token: Secret::from(token),
        life: seconds(&json["expires_on"])
            .map(until)
            .or_else(|| seconds(&json["expires_in"])),
        refresh_token: json["refresh_token"].as_str().map(Secret::from),
    })
}

/// Reads what `az account get-access-token` printed.
///
/// # Errors
/// It is not what that command prints.
pub fn issued_by_tool(output: &[u8], unix_now_s: u64) -> Result<Issued, String> {
    let json: Value = serde_json::from_slice(output).unwrap_or(Value::Null);
    let token = json["accessToken"]
        .as_str()
        .ok_or("az account get-access-token printed no accessToken")?;
    let until = |at: Duration| at.saturating_sub(Duration::from_secs(unix_now_s));
    Ok(Issued {
        token: Secret::from(token),
        // Old versions print local time alone; tokens then live at least this long.
        life: Some(seconds(&json["expires_on"]).map_or(EARLY * 2, until)),
        refresh_token: None,
    })
}

fn post(authority: &Url, tenant: &str, what: &str, fields: &[(&str, &str)]) -> Ask {
    let body = Serializer::new(String::new()).extend_pairs(fields).finish();
    let origin = origin(authority);
    // Only bytes that may stand in a path segment.
    let tenant = Serializer::new(String::new())
        .append_key_only(tenant)
        .finish();
    let request = format!(
        "POST /{tenant}/oauth2/v2.0/{what} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        origin.authority(),
        body.len(),
    );
    Ask {
        who: "Microsoft Entra",
        origin,
        request: Secret::from(request),
        optional: false,
    }
}

/// What a server that issues no token says.
fn refusal(status: u16, json: &Value) -> String {
    let text = json["error_description"]
        .as_str()
        .or(json["error"].as_str())
        .or(json["message"].as_str())
        .unwrap_or("no token in the answer");
    // Descriptions go on with trace ids, one a line.
    let line = text.lines().next().unwrap_or_default();
    format!("HTTP {status}: {line}")
}

/// A number of seconds, as a number or as text.
fn seconds(value: &Value) -> Option<Duration> {
    let text = value.as_str().map(str::trim);
    let number = value.as_f64().or_else(|| text?.parse().ok())?;
    Duration::try_from_secs_f64(number).ok()
}

fn origin(url: &Url) -> Origin {
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        _ => Scheme::Https,
    };
    Origin {
        scheme,
        host: match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        },
        port: url.port_or_known_default().unwrap_or(scheme.default_port()),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests;
