//! TLS 1.3 on the listeners: certificates and keys from PEM files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use catena_consensus::{Identities, name_at};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        NoClientAuth, NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
};

use crate::config::{PeerTls, Tls};

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read certificates from {0} (`{1}`): {2}")]
    Certificates(PathBuf, &'static str, pem::Error),
    #[error("{0} (`{1}`) holds no certificate")]
    Empty(PathBuf, &'static str),
    #[error("cannot read a private key from {0} (`{1}`): {2}")]
    Key(PathBuf, &'static str, pem::Error),
    #[error("a certificate in {0} (`{1}`) is no authority's: {2}")]
    Authority(PathBuf, &'static str, rustls::Error),
    #[error("certificates cannot be checked against {0} (`{1}`): {2}")]
    Verifier(PathBuf, &'static str, VerifierBuilderError),
    #[error("`tls.cert` and `tls.key` cannot be used: {0}")]
    Pair(rustls::Error),
    #[error("`cluster.tls.cert` and `cluster.tls.key` cannot be used: {0}")]
    PeerPair(rustls::Error),
    #[error("other nodes will refuse the certificate in {0} (`cluster.tls.cert`): {1}")]
    Unsuitable(PathBuf, String),
}

/// Reads all that TLS with clients needs.
pub(crate) fn load(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = match &tls.client_ca {
        None => Arc::new(NoClientAuth),
        Some(path) => client_verifier(path, "tls.client_ca")?,
    };
    let chain = certificates(&tls.cert, "tls.cert")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key(&tls.key, "tls.key")?)
        .map_err(TlsError::Pair)?;
    if tls.client_ca.is_some() {
        never_resume(&mut config);
    }
    Ok(Arc::new(config))
}

/// Reads all that TLS with other nodes needs: both sides show a certificate.
pub(crate) fn load_peer(tls: &PeerTls) -> Result<Identities, TlsError> {
    let chain = certificates(&tls.cert, "cluster.tls.cert")?;
    let key = key(&tls.key, "cluster.tls.key")?;
    let mut accepts = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::PeerPair)?
        .with_client_cert_verifier(client_verifier(&tls.ca, "cluster.tls.ca")?)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(TlsError::PeerPair)?;
    never_resume(&mut accepts);
    let mut dials = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::PeerPair)?
        .with_webpki_verifier(server_verifier(&tls.ca, "cluster.tls.ca")?)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::PeerPair)?;
    dials.resumption = Resumption::disabled();
    Ok(Identities { dials: dials.into(), accepts: accepts.into() })
}

/// Whether nodes that trust whom this one trusts, and reach it at `address`, take its certificate
/// for their own connections to it and for its connections to them.
pub(crate) fn suits(tls: &PeerTls, address: &str) -> Result<(), TlsError> {
    let chain = certificates(&tls.cert, "cluster.tls.cert")?;
    let unsuitable = |why: String| TlsError::Unsuitable(tls.cert.clone(), why);
    let name = name_at(address).map_err(|error| unsuitable(error.to_string()))?;
    let [own, above @ ..] = &chain[..] else { return Ok(()) };
    let (answers, dials, now) = (
        server_verifier(&tls.ca, "cluster.tls.ca")?,
        client_verifier(&tls.ca, "cluster.tls.ca")?,
        UnixTime::now(),
    );
    let refused = |error: rustls::Error| unsuitable(error.to_string());
    answers.verify_server_cert(own, above, &name, &[], now).map_err(refused)?;
    dials.verify_client_cert(own, above, now).map_err(refused)?;
    Ok(())
}

/// A session that is taken up again shows no certificate: an expired one would live on.
fn never_resume(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn client_verifier(
    path: &Path,
    setting: &'static str,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = roots(path, setting)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    verifier.build().map_err(|e| TlsError::Verifier(path.to_owned(), setting, e))
}

fn server_verifier(
    path: &Path,
    setting: &'static str,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let roots = roots(path, setting)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
    verifier.build().map_err(|e| TlsError::Verifier(path.to_owned(), setting, e))
}

fn roots(path: &Path, setting: &'static str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, setting)? {
        let wrong = |e| TlsError::Authority(path.to_owned(), setting, e);
        roots.add(certificate).map_err(wrong)?;
    }
    Ok(roots.into())
}

fn key(path: &Path, setting: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_file(path);
    key.map_err(|e| TlsError::Key(path.to_owned(), setting, e))
}

fn certificates(
    path: &Path,
    setting: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| TlsError::Certificates(path.to_owned(), setting, error);
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() { Err(TlsError::Empty(path.to_owned(), setting)) } else { Ok(chain) }
}

#[cfg(test)]
#[path = "../tests/common/certificates.rs"]
pub(crate) mod certificates;

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use rcgen::ExtendedKeyUsagePurpose;

    use super::{
        certificates::{Authority, Signed},
        *,
    };

    /// Files of a node.
    pub(crate) fn peer_files(root: &Path, own: &Signed, trusted: &Authority) -> PeerTls {
        let write = |name: &str, text: &str| {
            let file = root.join(name);
            fs::write(&file, text).unwrap();
            file
        };
        PeerTls {
            cert: write("cert.pem", &own.cert),
            key: write("key.pem", &own.key),
            ca: write("ca.pem", &trusted.0.pem()),
        }
    }

    #[test]
    fn a_file_that_is_of_no_use_is_named_with_its_setting() {
        let (root, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let good = peer_files(root.path(), &authority.node("127.0.0.1"), &authority);
        load_peer(&good).unwrap();
        let told = |files: PeerTls| load_peer(&files).unwrap_err().to_string();
        let absent = || root.path().join("absent.pem");
        for (files, part) in [
            (PeerTls { cert: absent(), ..good.clone() }, "absent.pem (`cluster.tls.cert`)"),
            (PeerTls { key: absent(), ..good.clone() }, "absent.pem (`cluster.tls.key`)"),
            (PeerTls { ca: absent(), ..good.clone() }, "absent.pem (`cluster.tls.ca`)"),
            (PeerTls { ca: good.key.clone(), ..good.clone() }, "(`cluster.tls.ca`) holds no"),
        ] {
            let told = told(files);
            assert!(told.contains(part), "{told}");
        }
        fs::write(&good.key, authority.node("127.0.0.1").key).unwrap();
        let told = told(good);
        assert!(told.starts_with("`cluster.tls.cert` and `cluster.tls.key` cannot"), "{told}");
    }

    #[test]
    fn a_certificate_suits_whose_every_use_others_accept() {
        let (root, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let told = |own: &Signed, address: &str| {
            suits(&peer_files(root.path(), own, &authority), address).map_err(|e| e.to_string())
        };
        let good = authority.node("10.0.0.1");
        told(&good, "10.0.0.1:9202").unwrap();
        told(&authority.node("log-1.example.com"), "log-1.example.com:9202").unwrap();
        let server_only = authority.sign(ExtendedKeyUsagePurpose::ServerAuth, false);
        for (own, address, part) in [
            (&good, "10.0.0.2:9202", "not valid for name \"10.0.0.2\""),
            (&server_only, "localhost:9202", "client authentication"),
            (&authority.expired_node("10.0.0.1"), "10.0.0.1:9202", "expired"),
            (&Authority::new().node("10.0.0.1"), "10.0.0.1:9202", "(`cluster.tls.cert`): "),
        ] {
            let told = told(own, address).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }
}
