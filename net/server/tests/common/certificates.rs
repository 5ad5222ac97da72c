//! Certificates that are right, wrong and expired.

#![allow(dead_code, reason = "each test binary uses its part")]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

/// An authority that signs what it is asked to.
pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(crate) struct Signed {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn sign(&self, purpose: ExtendedKeyUsagePurpose, expired: bool) -> Signed {
        self.sign_for("localhost", vec![purpose], expired)
    }

    fn sign_for(
        &self,
        host: &str,
        purposes: Vec<ExtendedKeyUsagePurpose>,
        expired: bool,
    ) -> Signed {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages = purposes;
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Signed { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// For a node that others reach at a host, and that reaches others.
    pub(crate) fn node(&self, host: &str) -> Signed {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        self.sign_for(host, vec![ServerAuth, ClientAuth], false)
    }

    /// The same, expired.
    pub(crate) fn expired_node(&self, host: &str) -> Signed {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        self.sign_for(host, vec![ServerAuth, ClientAuth], true)
    }

    pub(crate) fn server(&self) -> Signed {
        self.sign(ExtendedKeyUsagePurpose::ServerAuth, false)
    }

    pub(crate) fn client(&self) -> Signed {
        self.sign(ExtendedKeyUsagePurpose::ClientAuth, false)
    }
}
