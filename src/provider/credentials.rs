//! Credentials: what proves who we are. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use crate::config::Secret;

/// How requests of an endpoint prove who sends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Nothing of ours; the configured headers may say something.
    None,
    /// A key that stays the same for the whole run.
    Key(Secret),
    /// A bearer token that is fetched, and refreshed before it expires.
    Entra(EntraSource),
}

/// Where Microsoft Entra tokens come from; the words of `api_key` on Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntraSource {
    /// `default`: environment, managed identity, then the Azure CLI.
    Default,
    /// `az`: the Azure CLI's login.
    AzureCli,
    /// `interactive`: a login in the browser or by device code.
    Interactive,
}

impl EntraSource {
    /// The word of `api_key`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::AzureCli => "az",
            Self::Interactive => "interactive",
        }
    }
}

/// The value of a basic `authorization` header from a URL's user name and password (RFC 7617).
pub(super) fn basic(url: &Url) -> Option<Secret> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair = Zeroizing::new(Vec::new());
    pair.extend(percent_decode_str(url.username()));
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = "Basic ".to_owned();
    STANDARD.encode_string(&*pair, &mut value);
    Some(Secret::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_of_a_url_become_a_basic_header() {
        let header =
            |url: &str| basic(&Url::parse(url).unwrap()).map(|secret| secret.expose().to_owned());
        // RFC 7617, section 2: "Aladdin:open sesame".
        assert_eq!(
            header("http://Aladdin:open%20sesame@x/").as_deref(),
            Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        );
        assert_eq!(header("http://x/"), None);
    }
}
