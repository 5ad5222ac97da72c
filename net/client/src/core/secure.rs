//! TLS 1.3 without a socket: ciphertext in, plaintext out, and the other way round.

use std::{
    fmt,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
};

use rustls::{
    AlertDescription as Alert, CertificateError as Bad, ClientConfig, ClientConnection,
    RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::{
    error::Error,
    tls::{TlsError, TlsOptions},
};

/// What [`TlsOptions`] name, read and checked.
#[derive(Clone)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl Trust {
    /// Reads all files.
    ///
    /// # Errors
    /// [`Error::Option`] names the file or the option that is of no use.
    pub(crate) fn load(options: &TlsOptions) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&options.ca, "ca")? {
            let wrong = |e| refused(&options.ca, "ca", &format!("no authority's certificate: {e}"));
            roots.add(certificate).map_err(wrong)?;
        }
        let unusable = |error| Error::Option(format!("TLS cannot be set up: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots);
        let mut config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert, "cert")?;
                let private = PrivateKeyDer::from_pem_file(key);
                let private = private.map_err(|e| refused(key, "key", &e.to_string()))?;
                let mismatch = |e| refused(key, "key", &format!("not that of `cert`: {e}"));
                builder.with_client_auth_cert(chain, private).map_err(mismatch)?
            }
        };
        // A session that is taken up again would not show whether its certificates still hold.
        config.resumption = Resumption::disabled();
        let name = options.server_name.clone().map(server_name).transpose()?;
        Ok(Self { config: config.into(), name })
    }
}

fn certificates(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |error: rustls::pki_types::pem::Error| refused(path, option, &error.to_string());
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() { Err(refused(path, option, "it holds no certificate")) } else { Ok(chain) }
}

fn refused(path: &Path, option: &str, why: &str) -> Error {
    Error::Option(format!("{} (`{option}`): {why}", path.display()))
}

fn server_name(name: String) -> Result<ServerName<'static>, Error> {
    let wrong = |_| Error::Option(format!("`{name}` is no name of a server"));
    ServerName::try_from(name.clone()).map_err(wrong)
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub(crate) struct Secure {
    connection: ClientConnection,
    address: String,
    name: String,
    /// Whether the server has said anything.
    heard: bool,
}

impl Secure {
    /// TLS with the server at `host:port`.
    ///
    /// # Errors
    /// [`Error::Option`] when the host is no name that a certificate could be for.
    pub(crate) fn new(trust: &Trust, address: &str) -> Result<Self, Error> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = trust.name.clone().map_or_else(|| server_name(host.to_owned()), Ok)?;
        let (config, text) = (trust.config.clone(), name.to_str().into_owned());
        let failed = |error| Error::Option(format!("TLS with {address}: {error}"));
        let mut connection = ClientConnection::new(config, name).map_err(failed)?;
        // What waits to be sent is limited above.
        connection.set_buffer_limit(None);
        Ok(Self { connection, address: address.to_owned(), name: text, heard: false })
    }

    /// Takes ciphertext; the plaintext in it is appended.
    ///
    /// # Errors
    /// [`Error::Tls`]: the connection cannot go on. What is left to seal tells the server why.
    /// [`Error::Connection`]: the server has ended it.
    pub(crate) fn open(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            let taken = self.connection.read_tls(&mut bytes);
            let state = match taken {
                Ok(0) => return Err(self.ended()),
                Ok(_) => self.connection.process_new_packets().map_err(|e| self.failed(e))?,
                Err(error) => return Err(self.error(TlsError::Failed(error.to_string()))),
            };
            self.heard = true;
            let length = plain.len() + state.plaintext_bytes_to_read();
            let from = plain.len();
            plain.resize(length, 0);
            let read = self.connection.reader().read_exact(&mut plain[from..]);
            read.map_err(|error| self.error(TlsError::Failed(error.to_string())))?;
            // Bytes behind its last word are not taken.
            if state.peer_has_closed() {
                return Err(self.ended());
            }
        }
        Ok(())
    }

    /// Takes plaintext; the ciphertext that is to be sent by now is appended.
    pub(crate) fn seal(&mut self, plain: &[u8], cipher: &mut Vec<u8>) {
        self.connection.writer().write_all(plain).expect("its buffer has no limit");
        while self.connection.wants_write() {
            self.connection.write_tls(cipher).expect("memory takes everything");
        }
    }

    /// What the end of the connection means: nothing that a server with TLS would do, when it has
    /// not said a word.
    pub(crate) fn explain(&self, error: Error) -> Error {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match &error {
            Error::Connection { source, .. }
                if !self.heard
                    && matches!(source.kind(), UnexpectedEof | ConnectionReset | BrokenPipe) =>
            {
                self.error(TlsError::Silent)
            }
            _ => error,
        }
    }

    fn ended(&self) -> Error {
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        Error::Connection { address: self.address.clone(), source: Arc::new(source) }
    }

    fn error(&self, source: TlsError) -> Error {
        Error::Tls { address: self.address.clone(), source }
    }

    fn failed(&self, error: rustls::Error) -> Error {
        self.error(match error {
            rustls::Error::InvalidCertificate(bad) => self.bad(&bad),
            rustls::Error::AlertReceived(alert) => told(alert),
            error => TlsError::Failed(error.to_string()),
        })
    }

    /// What is wrong with the server's certificate.
    fn bad(&self, bad: &Bad) -> TlsError {
        match bad {
            Bad::UnknownIssuer | Bad::BadSignature => TlsError::UnknownAuthority,
            Bad::Expired | Bad::ExpiredContext { .. } => TlsError::Expired,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                TlsError::WrongName(self.name.clone())
            }
            other => TlsError::BadCertificate(other.to_string()),
        }
    }
}

/// What the server has against us.
fn told(alert: Alert) -> TlsError {
    let refused = |why: &str| TlsError::CertificateRefused(why.to_owned());
    match alert {
        Alert::CertificateRequired => TlsError::CertificateRequired,
        Alert::CertificateExpired => refused("it has expired"),
        Alert::UnknownCA => refused("its authority is not known there"),
        // A name of an authority that is known, and another key.
        Alert::DecryptError => refused("it cannot be verified there"),
        Alert::CertificateRevoked => refused("it is revoked"),
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            refused("it cannot be used there")
        }
        other => TlsError::Failed(format!("the server ended it: {other:?}")),
    }
}
