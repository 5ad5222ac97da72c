//! TLS between nodes: what a node shows and whom it believes, and words for what goes wrong.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_rustls::rustls::{
    AlertDescription as Alert, CertificateError as Bad, ClientConfig, Error, ServerConfig,
    pki_types::ServerName,
};

/// After so long the same is told again.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// So many different things are told within that time, at most.
const TOLD_MAX: usize = 64;

/// What connections that begin now are made with: TLS 1.3, a certificate on both sides.
#[derive(Clone, Debug)]
pub struct Identities {
    /// When this node dials.
    pub dials: Arc<ClientConfig>,
    /// When another one does.
    pub accepts: Arc<ServerConfig>,
}

/// How nodes speak TLS with each other. What a node shows may change; whether it speaks TLS at all
/// does not.
pub struct Tls(Mutex<Identities>);

impl Tls {
    /// With these, until others take their place.
    pub fn new(identities: Identities) -> Self {
        Self(Mutex::new(identities))
    }

    /// Connections that begin later are made with these.
    pub fn replace(&self, identities: Identities) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = identities;
    }

    /// What a connection that begins now is made with.
    pub fn current(&self) -> Identities {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// For what name whoever answers at `host:port` must have a certificate.
///
/// # Errors
/// The host is nothing that a certificate could be for.
pub fn name_at(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let wrong = |_| io::Error::other(format!("no certificate can be for `{host}`"));
    ServerName::try_from(host.to_owned()).map_err(wrong)
}

/// What a node in plaintext says to one that begins with TLS: an alert, of which TLS makes that the
/// version is not spoken here.
pub const NO_TLS_HERE: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 70];

/// What a connection in plaintext that begins so tells of the other side, if that speaks TLS.
pub fn speaks_tls(begin: &[u8]) -> Option<&'static str> {
    match begin {
        [0x16, 3, ..] => Some("it speaks TLS, and this node plaintext (`cluster.tls.cert`)"),
        [0x15, 3, ..] => Some("it wants TLS, and this node speaks plaintext (`cluster.tls.cert`)"),
        _ => None,
    }
}

/// Why two nodes cannot speak TLS with each other, seen from one of them; `None`: for no reason
/// that would still be there at another attempt.
pub fn why_not(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(bad) => why_bad(bad),
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        Error::AlertReceived(alert) => why_refused(*alert),
        Error::InvalidMessage(_) => {
            "it speaks no TLS, and this node does (`cluster.tls.cert`)".to_owned()
        }
        other => other.to_string(),
    })
}

/// What is wrong with the other side's certificate.
fn why_bad(bad: &Bad) -> String {
    match bad {
        Bad::UnknownIssuer | Bad::BadSignature => {
            "its certificate is signed by no authority in `cluster.tls.ca`".to_owned()
        }
        Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "its certificate is not valid yet, by the clock of this node".to_owned()
        }
        other => format!("its certificate is no good here: {other}"),
    }
}

/// What the other side has against this one.
fn why_refused(alert: Alert) -> String {
    let because = match alert {
        Alert::ProtocolVersion => {
            return "it speaks plaintext, and this node TLS (`cluster.tls.cert`)".to_owned();
        }
        Alert::CertificateExpired => "it has expired",
        // The last is of an authority with a name that is known, and another key.
        Alert::UnknownCA | Alert::DecryptError => "its authority is not in `cluster.tls.ca` there",
        Alert::CertificateRequired
        | Alert::CertificateRevoked
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateUnknown => "it cannot be used there",
        other => return format!("it ends TLS: {other:?}"),
    };
    format!("it refuses this node's certificate (`cluster.tls.cert`): {because}")
}

/// What was told lately: who tries again and again does not fill the log.
#[derive(Default, Debug)]
pub struct Complaints(Mutex<BTreeMap<String, Instant>>);

impl Complaints {
    /// Whether it is to be told now.
    pub fn is_news(&self, complaint: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| at.elapsed() < TOLD_AGAIN_AFTER);
        let news = told.len() < TOLD_MAX && !told.contains_key(complaint);
        if news {
            told.insert(complaint.to_owned(), Instant::now());
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_the_host() {
        let name = |address| name_at(address).map(|name| name.to_str().into_owned());
        assert_eq!(name("log-1.example.com:9202").unwrap(), "log-1.example.com");
        assert_eq!(name("10.0.0.1:9202").unwrap(), "10.0.0.1");
        assert_eq!(name("[::1]:9202").unwrap(), "::1");
        assert!(name("a b:1").unwrap_err().to_string().contains("`a b`"));
    }

    #[test]
    fn what_is_no_refusal_has_no_words() {
        assert_eq!(why_not(&io::ErrorKind::UnexpectedEof.into()), None);
        assert_eq!(why_not(&io::Error::other("anything")), None);
        let told = |error| why_not(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
        let strange = Error::InvalidCertificate(Bad::UnknownIssuer);
        assert!(told(strange).contains("no authority in `cluster.tls.ca`"));
        assert!(told(Error::AlertReceived(Alert::UnknownCA)).contains("refuses this node's"));
    }

    #[test]
    fn a_plain_answer_to_tls_is_an_alert() {
        let [0x15, 3, 3, 0, length, fatal, alert] = NO_TLS_HERE else { panic!("no alert") };
        assert_eq!((length, fatal, Alert::from(alert)), (2, 2, Alert::ProtocolVersion));
        assert!(speaks_tls(&NO_TLS_HERE).is_some() && speaks_tls(b"CATR").is_none());
    }

    #[test]
    fn the_same_is_told_once() {
        let complaints = Complaints::default();
        assert!(complaints.is_news("a") && complaints.is_news("b") && !complaints.is_news("a"));
        let all = (0..2 * TOLD_MAX).filter(|n| complaints.is_news(&n.to_string()));
        assert_eq!(all.count(), TOLD_MAX - 2);
    }
}
