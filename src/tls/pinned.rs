//! Verification that also takes a server's certificate which the user has named itself. Pure.
//!
//! `openssl req -x509` marks what it makes as an authority, and RFC 5280 does not let an authority's
//! certificate stand for a server. Who names such a certificate with `--ca-file` means it all the
//! same, and OpenSSL and Go take it. Everything else about it must hold: period, name, signature.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The usual verifier, and the certificates that may stand for themselves.
#[derive(Debug)]
pub(super) struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Trusts `roots`; of them, those in `named` also as a server's own certificate.
    pub(super) fn new(
        roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        Ok(Self {
            usual: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()?,
            named,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // webpki looks at the period of validity before it looks at this mark.
            Err(Error::InvalidCertificate(error))
                if is_authority_as_server(&error) && self.named.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// The certificate is marked as an authority's, as self-signed ones often are.
pub(super) fn is_authority_as_server(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else {
        return false;
    };
    matches!(
        other.0.downcast_ref(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    /// A self-signed authority for `server.test`, valid from 2020 to `last_year`.
    fn authority(last_year: i32) -> CertificateDer<'static> {
        let mut params =
            CertificateParams::new(vec!["server.test".to_owned()]).expect("a valid name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().expect("a key is made");
        params.self_signed(&key).expect("signed").der().clone()
    }

    fn verify(
        certificate: &CertificateDer<'static>,
        named: &[CertificateDer<'static>],
        name: &str,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(roots, named.to_vec(), provider).expect("a verifier");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        // 2024-01-01.
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_704_067_200));
        verifier
            .verify_server_cert(certificate, &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn a_named_certificate_stands_for_itself_and_nothing_else_is_forgiven() {
        let good = authority(2030);
        let other = authority(2030);
        let old = authority(2022);
        let named = std::slice::from_ref;
        assert_eq!(verify(&good, named(&good), "server.test"), Ok(()));
        let refused = |result: Result<(), Error>| {
            assert!(
                matches!(result, Err(Error::InvalidCertificate(_))),
                "{result:?}"
            );
        };
        refused(verify(&good, named(&good), "elsewhere.test"));
        refused(verify(&old, named(&old), "server.test"));
        refused(verify(&good, named(&other), "server.test"));
        refused(verify(&good, &[], "server.test"));
    }
}
