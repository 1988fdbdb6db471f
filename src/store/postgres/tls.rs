//! TLS for connections to PostgreSQL: libpq's `sslmode` and `sslrootcert`, implemented with rustls.
//!
//! Invariant: `verify-full` never falls back to a weaker check, and `require` never to an unencrypted connection.

use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url;
use crate::base::error::{Error, Result};

/// The modes of libpq.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The settings of a URL and the TLS connector for its connections. Unless the URL contains `target_session_attrs`, only a
/// server that accepts writes is used.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator. It does not contain the URL, which can hold a password.
pub fn configure(url: &str) -> Result<(tokio_postgres::Config, MakeRustlsConnect)> {
    let parsed = url::parse(url)?;
    let mut mode = parsed.ssl_mode.as_deref().map_or(Ok(Mode::Prefer), parse_mode)?;
    let root_file = parsed.ssl_root_file;
    let mut config = tokio_postgres::Config::from_str(&parsed.text)
        .map_err(|_| Error::internal("the PostgreSQL URL has an invalid parameter"))?;
    if !parsed.names_session_attributes {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config.ssl_mode(match mode {
        Mode::Disable => SslMode::Disable,
        Mode::Prefer => SslMode::Prefer,
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
    });
    if mode == Mode::Require && root_file.is_some() {
        // As in libpq: if the URL has `sslrootcert`, the server's certificate is checked against it.
        mode = Mode::VerifyCa;
    }
    let client = client_config(mode, root_file.as_deref())?;
    Ok((config, MakeRustlsConnect::new(client)))
}

fn parse_mode(text: &str) -> Result<Mode> {
    Ok(match text {
        "disable" => Mode::Disable,
        "allow" | "prefer" => Mode::Prefer,
        "require" => Mode::Require,
        "verify-ca" => Mode::VerifyCa,
        "verify-full" => Mode::VerifyFull,
        _ => {
            return Err(Error::internal(
                "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
            ));
        }
    })
}

fn client_config(mode: Mode, root_file: Option<&str>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?;
    Ok(match mode {
        Mode::Disable | Mode::Prefer | Mode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { provider, chain: None }))
            .with_no_client_auth(),
        Mode::VerifyCa => {
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root_file)?), Arc::clone(&provider))
                .build()
                .map_err(Error::internal)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier { provider, chain: Some(chain) }))
                .with_no_client_auth()
        }
        Mode::VerifyFull => builder.with_root_certificates(roots(root_file)?).with_no_client_auth(),
    })
}

fn roots(file: Option<&str>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = match file {
        Some(file) if file != "system" => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|error| Error::internal(format!("sslrootcert cannot be read: {error}")))?,
        _ => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(certificates);
    if store.is_empty() {
        return Err(Error::internal("no root certificate to verify PostgreSQL with; give one with sslrootcert"));
    }
    Ok(store)
}

/// Checks less of a certificate than rustls does by default. With a chain (`verify-ca`) everything but the server's name is
/// checked; without one (`require`, `prefer`) any certificate is accepted. The signatures of the handshake are always
/// checked.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
