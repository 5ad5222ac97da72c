//! TLS with a server: what a client trusts, who it says it is, and why it may come to nothing.

use std::path::PathBuf;

/// How a client speaks TLS 1.3, and with whom. The files are PEM, read when a client makes its
/// first connection.
///
/// ```
/// # use catena_client::{Options, TlsOptions};
/// let tls = TlsOptions::new("ca.pem").with_identity("cert.pem", "key.pem");
/// let options = Options::new("one:9200").with_tls(tls);
/// assert_eq!(options, "catenas://one?ca=ca.pem&cert=cert.pem&key=key.pem".parse()?);
/// # Ok::<(), catena_client::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsOptions {
    /// The authorities that sign the certificates of servers, and no others.
    pub ca: PathBuf,
    /// The client's certificate chain, its own first, and the private key, for servers that ask.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that a server's certificate must be for; `None`: the host connected to.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// Trusts the authorities in a file; everything else by default.
    #[must_use]
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), identity: None, server_name: None }
    }

    /// The same with a certificate and its key.
    #[must_use]
    pub fn with_identity(self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { identity: Some((cert.into(), key.into())), ..self }
    }

    /// The same for servers of that name, whatever host is connected to.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }
}

/// Why TLS with a server came to nothing. Nothing was asked of it: on a connection that is made,
/// TLS that fails breaks it, see [`crate::Error::Connection`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server's certificate is of somebody who is not trusted.
    #[error("the server's certificate is signed by none of the trusted authorities (`ca`)")]
    UnknownAuthority,
    /// The server's certificate has expired.
    #[error("the server's certificate has expired")]
    Expired,
    /// The server's certificate is for other names.
    #[error("the server's certificate is not for the name `{0}` (`server_name`)")]
    WrongName(String),
    /// The server's certificate is no good in another way.
    #[error("the server's certificate is no good: {0}")]
    BadCertificate(String),
    /// The server lets nobody in without a certificate, and the client has none.
    #[error("the server asks for a certificate of the client (`cert` and `key`)")]
    CertificateRequired,
    /// The server does not accept the client's certificate.
    #[error("the server refuses the client's certificate (`cert`): {0}")]
    CertificateRefused(String),
    /// The server ended the connection without a word of TLS.
    #[error("the server ended the connection without a word of TLS: it may expect plaintext")]
    Silent,
    /// The server speaks TLS, and the client was told to speak plaintext.
    #[error("the server expects TLS (`catenas://`, or `ca`)")]
    Expected,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
