//! TLS 1.3 on the client listener: certificates and keys from PEM files.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoClientAuth, NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};

use crate::config::Tls;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read certificates from {0} (`{1}`): {2}")]
    Certificates(PathBuf, &'static str, pem::Error),
    #[error("{0} (`{1}`) holds no certificate")]
    Empty(PathBuf, &'static str),
    #[error("cannot read a private key from {0} (`tls.key`): {1}")]
    Key(PathBuf, pem::Error),
    #[error("a certificate in {0} (`tls.client_ca`) is no authority's: {1}")]
    Authority(PathBuf, rustls::Error),
    #[error("client certificates cannot be checked against {0} (`tls.client_ca`): {1}")]
    Verifier(PathBuf, VerifierBuilderError),
    #[error("`tls.cert` and `tls.key` cannot be used: {0}")]
    Pair(rustls::Error),
}

/// Reads all that TLS needs.
pub(crate) fn load(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match &tls.client_ca {
        None => Arc::new(NoClientAuth),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "tls.client_ca")? {
                roots.add(certificate).map_err(|e| TlsError::Authority(path.clone(), e))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
            verifier.build().map_err(|e| TlsError::Verifier(path.clone(), e))?
        }
    };
    let chain = certificates(&tls.cert, "tls.cert")?;
    let key = PrivateKeyDer::from_pem_file(&tls.key);
    let key = key.map_err(|e| TlsError::Key(tls.key.clone(), e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    if tls.client_ca.is_some() {
        // A session that is taken up again shows no certificate: an expired one would live on.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Arc::new(config))
}

fn certificates(
    path: &PathBuf,
    setting: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| TlsError::Certificates(path.clone(), setting, error);
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() { Err(TlsError::Empty(path.clone(), setting)) } else { Ok(chain) }
}
