//! Proxies: which one the environment asks for, and how to talk through it.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

use super::failure::{Failure, Phase};
use crate::config::Secret;
use crate::http::{Limits, MAX_HEAD_BYTES, Origin, Progress, ResponseReader, Scheme};
use crate::runtime::{Read, Write};

/// Body of a proxy's refusal that is read past; such pages are a few KiB.
const REFUSAL_BYTES: usize = 64 * 1024;
/// Room for a proxy's answer to `CONNECT`.
const ANSWER_ROOM: usize = 4 * 1024;

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens; always plain `http`.
    pub origin: Origin,
    /// Value of the `proxy-authorization` field.
    pub authorization: Option<Secret>,
}

/// A proxy variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyError {
    variable: &'static str,
    // Never the value itself: it may hold a password.
    reason: String,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.reason)
    }
}

impl std::error::Error for ProxyError {}

/// What `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say. As with curl, the lower-case names win, a
/// proxy without a scheme is `http://`, and loopback hosts are not exempt unless listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRules {
    http: Option<Proxy>,
    https: Option<Proxy>,
    bypass: Vec<Bypass>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bypass {
    Everything,
    /// A domain and all below it.
    Domain {
        name: String,
        port: Option<u16>,
    },
    /// Addresses that share the first `bits` bits.
    Network {
        address: IpAddr,
        bits: u8,
        port: Option<u16>,
    },
}

impl ProxyRules {
    /// Reads the variables through `lookup`.
    ///
    /// # Errors
    /// A proxy that is not a plain HTTP proxy's URL.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let get = |lower: &'static str, upper: &'static str| {
            let set = |name| lookup(name).map(|value| (name, value));
            set(lower)
                .or_else(|| set(upper))
                .filter(|(_, value)| !value.trim().is_empty())
        };
        let proxy = |lower, upper| {
            get(lower, upper)
                .map(|(variable, value)| {
                    parse_proxy(value.trim()).map_err(|reason| ProxyError { variable, reason })
                })
                .transpose()
        };
        let bypass = get("no_proxy", "NO_PROXY").map_or_else(Vec::new, |(_, list)| {
            list.split([',', ' '])
                .filter_map(|entry| parse_bypass(entry.trim()))
                .collect()
        });
        Ok(Self {
            http: proxy("http_proxy", "HTTP_PROXY")?,
            https: proxy("https_proxy", "HTTPS_PROXY")?,
            bypass,
        })
    }

    /// The proxy for `origin`, if it is not to be reached directly.
    pub fn proxy_for(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = match origin.scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        };
        proxy.filter(|_| !self.bypass.iter().any(|entry| entry.matches(origin)))
    }
}

fn parse_proxy(text: &str) -> Result<Proxy, String> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&with_scheme).map_err(|error| format!("not a URL: {error}"))?;
    if url.scheme() != "http" {
        let scheme = url.scheme();
        return Err(format!(
            "{scheme}:// proxies are not supported, only http:// ones"
        ));
    }
    let host = url.host_str().ok_or("the URL names no host")?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let decode = |part| percent_decode_str(part).collect::<Vec<u8>>();
    let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
        let mut login = decode(url.username());
        login.push(b':');
        login.extend(decode(url.password().unwrap_or_default()));
        Secret::from(format!("Basic {}", STANDARD.encode(login)))
    });
    let port = url.port().unwrap_or(Scheme::Http.default_port());
    Ok(Proxy {
        origin: Origin {
            scheme: Scheme::Http,
            host,
            port,
        },
        authorization,
    })
}

/// One entry of `NO_PROXY`: `*`, a name with or without a leading dot, an address, a network, each
/// of them but the first with or without a port.
fn parse_bypass(entry: &str) -> Option<Bypass> {
    if entry == "*" {
        return Some(Bypass::Everything);
    }
    let (host, port) = split_port(entry);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let (address, bits) = match host.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (host, None),
    };
    if let Ok(address) = address.parse::<IpAddr>() {
        let bits = bits.unwrap_or(u8::MAX);
        return Some(Bypass::Network {
            address,
            bits,
            port,
        });
    }
    let name = normal_name(host.trim_start_matches("*.").trim_start_matches('.'));
    (!name.is_empty()).then_some(Bypass::Domain { name, port })
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        // Without brackets a second colon means an IPv6 address.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => port
            .parse()
            .map_or((entry, None), |port| (host, Some(port))),
        _ => (entry, None),
    }
}

fn normal_name(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Bypass {
    fn matches(&self, origin: &Origin) -> bool {
        let same_port = |port: &Option<u16>| port.is_none_or(|port| port == origin.port);
        match self {
            Self::Everything => true,
            Self::Domain { name, port } => {
                let host = normal_name(&origin.host);
                let below = host.strip_suffix(name.as_str());
                same_port(port) && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Network {
                address,
                bits,
                port,
            } => {
                let host = origin.host.parse();
                same_port(port) && host.is_ok_and(|host| same_network(*address, host, *bits))
            }
        }
    }
}

fn same_network(network: IpAddr, host: IpAddr, bits: u8) -> bool {
    // The number of differing low bits; equal addresses shift out to 0 whatever `bits` says.
    let (difference, width) = match (network, host) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    let host_bits = u32::saturating_sub(width, u32::from(bits));
    difference.checked_shr(host_bits).unwrap_or(0) == 0
}

/// Asks `proxy` on a fresh connection for a tunnel to `peer` (RFC 9110 section 9.3.6). `name` is
/// the proxy, for messages.
pub(super) async fn tunnel(
    reader: &mut impl Read,
    writer: &mut impl Write,
    proxy: &Proxy,
    peer: &str,
    name: &str,
) -> Result<Vec<u8>, Failure> {
    let authorization = authorization_line(proxy);
    let request = format!("CONNECT {peer} HTTP/1.1\r\nhost: {peer}\r\n{authorization}\r\n");
    let (outcome, _) = writer.write_all(request.into_bytes()).await;
    outcome.map_err(|error| Failure::cut(Some(&error), Phase::Sending, name))?;

    let limits = Limits {
        head_bytes: MAX_HEAD_BYTES,
        body_bytes: REFUSAL_BYTES,
    };
    let mut response = ResponseReader::for_connect(limits);
    let mut answer = Vec::new();
    loop {
        answer.reserve(ANSWER_ROOM);
        let (outcome, buffer) = reader.read(answer).await;
        answer = buffer;
        match outcome {
            Err(error) => return Err(Failure::cut(Some(&error), Phase::Waiting, name)),
            Ok(0) => return Err(Failure::cut(None, Phase::Waiting, name)),
            Ok(_) => {}
        }
        let progress = response.advance(&mut answer);
        if let Some(head) = response.head()
            && !(200..300).contains(&head.status)
        {
            let status = head.status;
            return Err(Failure::Unreachable(format!(
                "{name} refused a tunnel to {peer}: HTTP {status}"
            )));
        }
        match progress.map_err(|error| Failure::protocol(&error, name))? {
            Progress::NeedMore { .. } => {}
            Progress::Done(response) => return Ok(answer.split_off(response.head.end)),
        }
    }
}

/// A copy of `request` with the absolute-form target that a proxy needs (RFC 9112 section 3.2.2),
/// and the proxy's authorization. Requests are rendered once per endpoint, for the direct way; the
/// copy is the price of this rare one.
pub(super) fn absolute_form(request: &[u8], origin: &Origin, proxy: &Proxy) -> Vec<u8> {
    let target = memchr::memchr(b' ', request).map_or(request.len(), |space| space + 1);
    let fields = memchr::memmem::find(request, b"\r\n").map_or(request.len(), |end| end + 2);
    let origin = origin.to_string();
    let authorization = authorization_line(proxy);
    let parts: [&[u8]; 5] = [
        &request[..target],
        origin.as_bytes(),
        &request[target..fields],
        authorization.as_bytes(),
        &request[fields..],
    ];
    parts.concat()
}

fn authorization_line(proxy: &Proxy) -> String {
    proxy
        .authorization
        .as_ref()
        .map_or_else(String::new, |value| {
            format!("proxy-authorization: {}\r\n", value.expose())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        let url = Url::parse(url).expect("a URL in a test");
        let scheme = if url.scheme() == "https" {
            Scheme::Https
        } else {
            Scheme::Http
        };
        let host = url.host_str().expect("a host in a test");
        Origin {
            scheme,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().expect("a port in a test"),
        }
    }

    fn rules(variables: &[(&str, &str)]) -> Result<ProxyRules, String> {
        ProxyRules::from_env(|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_chooses_the_proxy() {
        let check = |variables: &[(&str, &str)], url: &str, expect: Option<&str>| {
            let rules = rules(variables).expect("valid variables");
            let proxy = rules
                .proxy_for(&origin(url))
                .map(|proxy| proxy.origin.to_string());
            assert_eq!(proxy.as_deref(), expect, "{variables:?} {url}");
        };
        check(&[], "https://api.test", None);
        check(
            &[("HTTPS_PROXY", "http://p:3128")],
            "https://api.test",
            Some("http://p:3128"),
        );
        check(&[("HTTPS_PROXY", "http://p:3128")], "http://api.test", None);
        check(
            &[("HTTP_PROXY", "p:8080")],
            "http://api.test",
            Some("http://p:8080"),
        );
        check(
            &[("http_proxy", "a"), ("HTTP_PROXY", "b")],
            "http://x.test",
            Some("http://a"),
        );
        check(
            &[("http_proxy", ""), ("HTTP_PROXY", "b")],
            "http://x.test",
            None,
        );
        check(
            &[("HTTPS_PROXY", "http://[::1]:9/")],
            "https://x.test",
            Some("http://[::1]:9"),
        );
    }

    #[test]
    fn no_proxy_lists_names_addresses_networks_and_ports() {
        let check = |list: &str, url: &str, expect_direct: bool| {
            let variables = [
                ("HTTP_PROXY", "p"),
                ("HTTPS_PROXY", "p"),
                ("NO_PROXY", list),
            ];
            let rules = rules(&variables).expect("valid variables");
            assert_eq!(
                rules.proxy_for(&origin(url)).is_none(),
                expect_direct,
                "{list} {url}"
            );
        };
        check("*", "https://anything.test", true);
        check("api.test", "https://api.test", true);
        check("API.test.", "https://api.test", true);
        check("api.test", "https://eu.api.test", true);
        check(".api.test", "https://eu.api.test", true);
        check("*.api.test", "https://eu.api.test", true);
        check("api.test", "https://notapi.test", false);
        check("other.test, api.test", "https://api.test", true);
        check("api.test:8443", "https://api.test", false);
        check("api.test:8443", "https://api.test:8443", true);
        check("10.1.2.3", "http://10.1.2.3", true);
        check("10.1.2.3", "http://10.1.2.4", false);
        check("10.0.0.0/8", "http://10.9.9.9", true);
        check("10.0.0.0/8", "http://11.0.0.1", false);
        check("0.0.0.0/0", "http://11.0.0.1", true);
        check("10.0.0.0/8", "http://10.example.test", false);
        check("fd00::/8", "http://[fd12::1]", true);
        check("::1", "http://[::1]:8000", true);
        check("[::1]:8000", "http://[::1]:8000", true);
        check("[::1]:8001", "http://[::1]:8000", false);
        check("", "http://localhost", false);
    }

    #[test]
    fn unusable_proxies_are_named_without_their_password() {
        let check = |value: &str, expect: &str| {
            assert_eq!(rules(&[("HTTPS_PROXY", value)]), Err(expect.to_owned()));
        };
        check(
            "https://u:secret@p",
            "HTTPS_PROXY: https:// proxies are not supported, only http:// ones",
        );
        check(
            "socks5://p",
            "HTTPS_PROXY: socks5:// proxies are not supported, only http:// ones",
        );
        check("http://u:secret@", "HTTPS_PROXY: not a URL: empty host");
    }

    #[test]
    fn a_login_becomes_basic_authorization() {
        let proxy = parse_proxy("http://us%40er:p%3Aw@p:1").expect("a proxy");
        let value = proxy.authorization.expect("a login");
        assert_eq!(
            value.expose(),
            format!("Basic {}", STANDARD.encode("us@er:p:w"))
        );
        assert!(!format!("{:?}", parse_proxy("http://u:secret@p")).contains("secret"));
    }

    #[test]
    fn plain_requests_get_the_absolute_form() {
        let proxy = parse_proxy("http://u:p@proxy:3128").expect("a proxy");
        let request = b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: api.test:8080\r\n\r\nbody \r\n";
        let expect = "POST http://api.test:8080/v1/chat?x=1 HTTP/1.1\r\n\
            proxy-authorization: Basic dTpw\r\nhost: api.test:8080\r\n\r\nbody \r\n";
        let sent = absolute_form(request, &origin("http://api.test:8080"), &proxy);
        assert_eq!(String::from_utf8(sent).expect("ASCII"), expect);
    }
}
