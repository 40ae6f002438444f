//! Whom TLS trusts, and what its errors mean. Pure: certificates come in as bytes, a client
//! configuration or a sentence goes out.

mod pinned;

use std::sync::Arc;

use pinned::Verifier;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};

/// ALPN's name of HTTP/2.
pub const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Sessions kept for resumption, over all hosts of one configuration: a few for each endpoint.
const RESUMABLE_SESSIONS: usize = 256;

/// PEM text with certificates to trust besides the built-in roots.
pub struct ExtraRoots<'a> {
    /// Where it came from, for messages: a path.
    pub source: &'a str,
    /// The text.
    pub pem: &'a [u8],
}

/// Extra roots that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The text is not PEM.
    #[error("{source_name}: not a PEM file: {reason}")]
    Pem {
        /// Where it came from.
        source_name: String,
        /// What the parser says.
        reason: String,
    },
    /// PEM without a certificate, such as a key by mistake.
    #[error("{source_name}: holds no certificate")]
    Empty {
        /// Where it came from.
        source_name: String,
    },
    /// A certificate that cannot be a root.
    #[error("{source_name}: unusable certificate: {reason}")]
    Certificate {
        /// Where it came from.
        source_name: String,
        /// What the verifier says.
        reason: String,
    },
}

/// A configuration that speaks TLS 1.2 and 1.3, resumes sessions, and trusts the built-in roots
/// (Mozilla's) and the given ones. Certificates are always verified; nothing can turn that off.
pub fn client_config(extra: &[ExtraRoots<'_>]) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let mut named = Vec::new();
    for one in extra {
        add_roots(&mut roots, &mut named, one)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(roots, named, Arc::clone(&provider))
        // It refuses an empty store and broken revocation lists: there are roots, and no lists.
        .expect("the built-in roots are not empty");
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // The provider is ring's own default, which has suites for both versions.
        .expect("ring supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.resumption = Resumption::in_memory_sessions(RESUMABLE_SESSIONS);
    Ok(Arc::new(config))
}

/// The same, but HTTP/2 is not offered. Sessions are remembered apart: a resumed one may bring back
/// the protocol it was made for.
pub fn without_http2(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    config.resumption = Resumption::in_memory_sessions(RESUMABLE_SESSIONS);
    Arc::new(config)
}

fn add_roots(
    roots: &mut RootCertStore,
    named: &mut Vec<CertificateDer<'static>>,
    extra: &ExtraRoots<'_>,
) -> Result<(), TrustError> {
    let source_name = || extra.source.to_owned();
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(extra.pem) {
        let certificate = certificate.map_err(|error| TrustError::Pem {
            source_name: source_name(),
            reason: error.to_string(),
        })?;
        roots
            .add(certificate.clone())
            .map_err(|error| TrustError::Certificate {
                source_name: source_name(),
                reason: error.to_string(),
            })?;
        named.push(certificate);
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err(TrustError::Empty {
            source_name: source_name(),
        })
    }
}

/// Whether the peer's first bytes are of no TLS record at all.
pub fn is_no_tls(error: &rustls::Error) -> bool {
    use rustls::{Error, InvalidMessage};
    matches!(
        error,
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion
        )
    )
}

/// What a TLS error means to whoever has to fix it.
pub fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => explain_certificate(reason),
        rustls::Error::AlertReceived(alert) => format!("the server refused: alert {alert:?}"),
        rustls::Error::InvalidMessage(_) => "the answer is not TLS".to_owned(),
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; is this machine's clock right?".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the server's certificate has an unknown issuer, or is self-signed; --ca-file FILE trusts it: the \
             issuer's certificate, or this one, as PEM"
                .to_owned()
        }
        other if pinned::is_authority_as_server(other) => {
            "the server's certificate is an authority's own, self-signed; --ca-file FILE trusts it: this \
             certificate, as PEM"
                .to_owned()
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another host".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!(
                "the server's certificate is for another host: {}",
                presented.join(", ")
            )
        }
        CertificateError::Revoked => "the server's certificate is revoked".to_owned(),
        other => format!("invalid certificate: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_roots_are_checked() {
        let good = rcgen::generate_simple_self_signed(vec!["ca.test".to_owned()])
            .expect("a certificate is made")
            .cert
            .pem();
        let check = |pem: &str, expect: Result<(), &str>| {
            let outcome = client_config(&[ExtraRoots {
                source: "ca.pem",
                pem: pem.as_bytes(),
            }]);
            assert_eq!(
                outcome.map(drop).map_err(|error| error.to_string()),
                expect.map_err(str::to_owned)
            );
        };
        check(&good, Ok(()));
        check(&format!("comment\n{good}{good}"), Ok(()));
        check("", Err("ca.pem: holds no certificate"));
        check("just text", Err("ca.pem: holds no certificate"));
        check(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            Err("ca.pem: unusable certificate: invalid peer certificate: BadEncoding"),
        );
    }

    #[test]
    fn http_2_is_offered_first_unless_it_is_not_wanted() {
        let config = client_config(&[]).expect("the built-in roots suffice");
        let [two, one] = [b"h2".to_vec(), b"http/1.1".to_vec()];
        assert_eq!(config.alpn_protocols, [two, one.clone()]);
        assert_eq!(without_http2(&config).alpn_protocols, [one]);
    }

    #[test]
    fn errors_say_what_to_fix() {
        let check = |error: CertificateError, expect: &str| {
            assert_eq!(explain(&rustls::Error::InvalidCertificate(error)), expect);
        };
        check(
            CertificateError::Expired,
            "the server's certificate has expired",
        );
        check(
            CertificateError::UnknownIssuer,
            "the server's certificate has an unknown issuer, or is self-signed; --ca-file FILE trusts it: the \
             issuer's certificate, or this one, as PEM",
        );
        check(
            CertificateError::NotValidForName,
            "the server's certificate is for another host",
        );
        assert_eq!(
            explain(&rustls::Error::AlertReceived(
                rustls::AlertDescription::HandshakeFailure
            )),
            "the server refused: alert HandshakeFailure",
        );
    }
}
