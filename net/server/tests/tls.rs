//! TLS on the client listener of the real binary: who is let in, what both sides hear when
//! somebody is not, and certificates that change while it runs.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use catena_wire::{Api, PingRequest};
use certificates::{Authority, Signed};
use common::{Server, ask, connect, free_address, greet};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn write(directory: &Path, signed: &Signed) {
    std::fs::write(directory.join("cert.pem"), &signed.cert).unwrap();
    std::fs::write(directory.join("key.pem"), &signed.key).unwrap();
}

/// A server with `signed`; with `clients`, it asks for certificates of that authority.
fn server(signed: &Signed, clients: Option<&Authority>) -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write(directory.path(), signed);
    let at = |name: &str| directory.path().join(name).display().to_string();
    let mut config = format!("[tls]\ncert = '{}'\nkey = '{}'\n", at("cert.pem"), at("key.pem"));
    if let Some(authority) = clients {
        std::fs::write(at("ca.pem"), authority.0.pem()).unwrap();
        config += &format!("client_ca = '{}'\n", at("ca.pem"));
    }
    std::fs::write(at("catena.toml"), config).unwrap();
    let more = ["--config", &at("catena.toml"), "--cores", "1"];
    let server = Server::start(directory.path(), &free_address(), &more);
    server.wait_for("ready on", 1);
    (directory, server)
}

/// A client's side: `trusted` should have signed the server.
fn config(trusted: &Authority, own: Option<&Signed>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let chain = vec![CertificateDer::from_pem_slice(signed.cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.into()
}

fn dial_with(server: &Server, config: &Arc<ClientConfig>) -> Tls {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config.clone(), name).unwrap();
    StreamOwned::new(connection, connect(&server.address, None))
}

fn dial(server: &Server, trusted: &Authority, own: Option<&Signed>) -> Tls {
    dial_with(server, &config(trusted, own))
}

fn refused(tls: &mut Tls) -> String {
    greet(tls).expect_err("nobody may get in").to_string()
}

#[test]
fn who_trusts_the_server_gets_in_and_others_hear_why_not() {
    let authority = Authority::new();
    let (_directory, server) = server(&authority.server(), None);
    let mut tls = dial(&server, &authority, None);
    greet(&mut tls).unwrap();
    ask(&mut tls, Api::Ping, &PingRequest {}).unwrap();

    let heard = refused(&mut dial(&server, &Authority::new(), None));
    assert!(heard.contains("UnknownIssuer") || heard.contains("BadSignature"), "{heard}");
    server.wait_for("no TLS with 127.0.0.1", 1);

    // Plaintext gets no answer, and the log says why.
    let mut plain = connect(&server.address, None);
    let answer = greet(&mut plain).expect_err("plaintext is no TLS");
    assert!(matches!(answer.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset));
    server.wait_for("no TLS with 127.0.0.1", 2);
    greet(&mut dial(&server, &authority, None)).unwrap();
}

#[test]
fn an_expired_server_is_named_on_both_sides() {
    let authority = Authority::new();
    let expired = authority.sign(ExtendedKeyUsagePurpose::ServerAuth, true);
    let (_directory, server) = server(&expired, None);
    let heard = refused(&mut dial(&server, &authority, None));
    assert!(heard.contains("certificate expired"), "{heard}");
    server.wait_for("CertificateExpired", 1);
}

#[test]
fn clients_need_a_certificate_when_one_is_asked_for() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let (_directory, server) = server(&servers.server(), Some(&clients));
    greet(&mut dial(&server, &servers, Some(&clients.client()))).unwrap();

    let heard = refused(&mut dial(&server, &servers, None));
    assert!(heard.contains("CertificateRequired"), "{heard}");
    server.wait_for("sent no certificates", 1);

    let expired = clients.sign(ExtendedKeyUsagePurpose::ClientAuth, true);
    let heard = refused(&mut dial(&server, &servers, Some(&expired)));
    assert!(heard.contains("CertificateExpired"), "{heard}");
    server.wait_for("certificate expired", 1);

    let strange = Authority::new().client();
    let heard = refused(&mut dial(&server, &servers, Some(&strange)));
    assert!(heard.contains("UnknownCA") || heard.contains("DecryptError"), "{heard}");
}

/// A session that is taken up again shows no certificate, and so none that has expired meanwhile.
#[test]
fn a_client_shows_its_certificate_at_every_connection() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let kinds = |server: &Server, own| {
        let config = config(&servers, own);
        let kind = |_| {
            let mut tls = dial_with(server, &config);
            greet(&mut tls).unwrap();
            tls.conn.handshake_kind().unwrap()
        };
        [0, 1].map(kind)
    };
    let (_directory, strict) = server(&servers.server(), Some(&clients));
    let signed = clients.client();
    assert_eq!(kinds(&strict, Some(&signed)), [HandshakeKind::Full, HandshakeKind::Full]);
    // Where nobody shows one, the short way is open.
    let (_directory, open) = server(&servers.server(), None);
    assert_eq!(kinds(&open, None), [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[test]
fn certificates_change_at_a_hangup_and_a_bad_one_changes_nothing() {
    let (before, after) = (Authority::new(), Authority::new());
    let (directory, server) = server(&before.server(), None);
    let mut old = dial(&server, &before, None);
    greet(&mut old).unwrap();

    std::fs::write(directory.path().join("cert.pem"), "nonsense").unwrap();
    server.signal("HUP");
    server.wait_for("nothing was changed: ", 1);
    assert!(server.log().contains("cert.pem (`tls.cert`) holds no certificate"));
    greet(&mut dial(&server, &before, None)).unwrap();

    write(directory.path(), &after.server());
    server.signal("HUP");
    server.wait_for("the configuration was read again", 1);
    greet(&mut dial(&server, &after, None)).unwrap();
    refused(&mut dial(&server, &before, None));
    // Who was in stays in.
    ask(&mut old, Api::Ping, &PingRequest {}).unwrap();
}

#[test]
fn a_peer_that_never_finishes_the_handshake_holds_nothing_up() {
    let authority = Authority::new();
    let (_directory, server) = server(&authority.server(), None);
    let silent: Vec<_> = (0..8).map(|_| connect(&server.address, None)).collect();
    greet(&mut dial(&server, &authority, None)).unwrap();
    for mut stream in silent {
        stream.set_nonblocking(true).unwrap();
        let nothing = stream.read(&mut [0]).expect_err("the server waits for the client");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    }
}
