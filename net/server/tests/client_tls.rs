//! The client library and the command line under TLS, against the real binary: who gets in, and
//! what those hear who do not, with threads and with tasks alike.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{Arc, mpsc::channel},
    thread,
    time::Duration,
};

use catena_client::{
    Class, Client, ConsumerOptions, Error, NewRecord, Options, ProducerOptions, TlsError,
    TlsOptions, tokio as tasks,
};
use certificates::{Authority, Signed};
use common::{Server, free_address};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;

struct World {
    directory: TempDir,
    server: Server,
}

impl World {
    /// A server in plaintext.
    fn plain() -> Self {
        Self::start(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), "")
    }

    /// A server with `signed`; with `clients` it asks for certificates of that authority.
    fn secure(signed: &Signed, clients: Option<&Authority>) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str, text: &str| write(directory.path(), name, text);
        let (cert, key) = (at("cert.pem", &signed.cert), at("key.pem", &signed.key));
        let mut config = format!("[tls]\ncert = '{cert}'\nkey = '{key}'\n");
        if let Some(authority) = clients {
            config += &format!("client_ca = '{}'\n", at("clients.pem", &authority.0.pem()));
        }
        Self::start(directory, &config)
    }

    fn start(directory: TempDir, config: &str) -> Self {
        let config = write(directory.path(), "catena.toml", config);
        let more = ["--config", &config, "--cores", "2"];
        let server = Server::start(directory.path(), &free_address(), &more);
        server.wait_for("ready on", 1);
        Self { directory, server }
    }

    fn plain_options(&self) -> Options {
        Options::new(&self.server.address).with_request_timeout(Duration::from_secs(10))
    }

    /// Trusts an authority, with a certificate if there is one, under the name of the server.
    fn options(&self, trusted: &Authority, own: Option<&Signed>) -> Options {
        self.plain_options().with_tls(self.tls(trusted, own).with_server_name("localhost"))
    }

    fn tls(&self, trusted: &Authority, own: Option<&Signed>) -> TlsOptions {
        let at = |name: &str, text: &str| write(self.directory.path(), name, text);
        let tls = TlsOptions::new(at("ca.pem", &trusted.0.pem()));
        match own {
            None => tls,
            Some(own) => tls.with_identity(at("own.pem", &own.cert), at("own.key", &own.key)),
        }
    }
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// What both front ends are told, which is the same.
fn refused(options: &Options) -> TlsError {
    let tls = |error| match error {
        Error::Tls { source, .. } => source,
        error => panic!("{error}"),
    };
    let threads = tls(Client::new(options.clone()).ping().unwrap_err());
    let tasks = tls(run(tasks::Client::new(options.clone()).ping()).unwrap_err());
    assert_eq!(threads, tasks);
    threads
}

#[test]
fn records_go_and_come_with_threads_and_with_tasks() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let world = World::secure(&servers.server(), Some(&clients));
    let options = world.options(&servers, Some(&clients.client()));
    let mut client = Client::new(options.clone());
    client.create_topic("t", 2, Vec::new()).unwrap();
    // Longer than a record of TLS, and than what is read at once.
    let value = vec![b'v'; 300_000];
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    let tickets: Vec<_> =
        (0..20).map(|_| producer.append(&NewRecord::value(&value)).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    producer.close().unwrap();
    let mut count = 0;
    for batch in client.consumer("t", ConsumerOptions::default()).unwrap() {
        for record in batch.unwrap().records() {
            assert_eq!(record.unwrap().1.value, Some(&value[..]));
            count += 1;
        }
        if count == 20 {
            break;
        }
    }
    run(async {
        let mut client = tasks::Client::new(options);
        let producer = client.producer("t", ProducerOptions::default()).await.unwrap();
        producer.append(&NewRecord::value(&value)).await.unwrap().await.unwrap();
        producer.close().await.unwrap();
        let mut consumer = client.consumer("t", ConsumerOptions::default()).await.unwrap();
        let mut count = 0;
        while count < 21 {
            count += consumer.next().await.unwrap().unwrap().records().count();
        }
    });
}

#[test]
fn a_server_that_is_not_to_be_trusted_is_named() {
    let authority = Authority::new();
    let world = World::secure(&authority.server(), None);
    let strange = world.options(&Authority::new(), None);
    assert_eq!(refused(&strange), TlsError::UnknownAuthority);
    world.server.wait_for("no TLS with 127.0.0.1", 2);
    // By its address, which is not in the certificate.
    let unnamed = world.plain_options().with_tls(world.tls(&authority, None));
    assert_eq!(refused(&unnamed), TlsError::WrongName("127.0.0.1".to_owned()));
    Client::new(world.options(&authority, None)).ping().unwrap();

    let expired = authority.sign(ExtendedKeyUsagePurpose::ServerAuth, true);
    let world = World::secure(&expired, None);
    let options = world.options(&authority, None);
    assert_eq!(refused(&options), TlsError::Expired);
    assert_eq!(Client::new(options).ping().unwrap_err().class(), Class::Definite);
    world.server.wait_for("CertificateExpired", 3);
}

#[test]
fn a_client_without_a_good_certificate_hears_so() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let world = World::secure(&servers.server(), Some(&clients));
    let options = |own| world.options(&servers, own);
    assert_eq!(refused(&options(None)), TlsError::CertificateRequired);
    let expired = clients.sign(ExtendedKeyUsagePurpose::ClientAuth, true);
    let heard = refused(&options(Some(&expired)));
    assert_eq!(heard, TlsError::CertificateRefused("it has expired".to_owned()));
    let strange = refused(&options(Some(&Authority::new().client())));
    assert!(matches!(strange, TlsError::CertificateRefused(_)), "{strange}");
}

#[test]
fn tls_and_plaintext_tell_each_other_apart() {
    let authority = Authority::new();
    let secure = World::secure(&authority.server(), None);
    assert_eq!(refused(&secure.plain_options()), TlsError::Expected);

    let plain = World::plain();
    let options = plain.options(&authority, None).with_request_timeout(Duration::from_secs(1));
    assert_eq!(refused(&options), TlsError::Silent);
    // The server may only have been restarted: it is worth another try.
    assert_eq!(Client::new(options).ping().unwrap_err().class(), Class::Retriable);
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let authority = Authority::new();
    let world = World::secure(&authority.server(), None);
    let told = |tls: TlsOptions| {
        let error = Client::new(world.plain_options().with_tls(tls)).ping().unwrap_err();
        assert!(matches!(error, Error::Option(_)), "{error:?}");
        error.to_string()
    };
    assert!(told(TlsOptions::new("no/such.pem")).contains("no/such.pem (`ca`)"));
    let key = write(world.directory.path(), "other.key", &authority.client().key);
    let tls = world.tls(&authority, Some(&authority.client()));
    let cert = tls.identity.clone().unwrap().0;
    assert!(told(tls.clone().with_identity(&key, &key)).contains("it holds no certificate"));
    assert!(told(tls.clone().with_identity(&cert, &cert)).contains("(`key`)"));
    assert!(told(tls.with_identity(cert, key)).contains("not that of `cert`"));
}

#[test]
fn the_command_line_speaks_tls_by_flags_and_by_a_connection_string() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let world = World::secure(&servers.server(), Some(&clients));
    let tls = world.tls(&servers, Some(&clients.client()));
    let (cert, key) = tls.identity.clone().unwrap();
    let catena = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (ca, cert, key) = (tls.ca.to_str().unwrap(), cert.to_str().unwrap(), key.to_str().unwrap());
    let address = &world.server.address;
    let named = ["--server", address, "--tls-ca", ca, "--tls-server-name", "localhost"];
    let identity = ["--tls-cert", cert, "--tls-key", key];
    let list = ["topic", "list"];
    assert_eq!(catena(&[&named[..], &identity, &list].concat()).0, Some(0));
    let url = format!("catenas://{address}?ca={ca}&cert={cert}&key={key}&server_name=localhost");
    assert_eq!(catena(&["--server", &url, "topic", "list"]).0, Some(0));
    let (code, text) = catena(&[&named[..], &list].concat());
    assert_eq!(code, Some(3));
    assert!(text.contains("asks for a certificate of the client"), "{text}");
    let (code, text) = catena(&["--server", address, "--tls-ca", key, "topic", "list"]);
    assert_eq!(code, Some(2), "{text}");
    // What has no effect is not taken.
    let (code, text) = catena(&["doctor", "--tls-ca", ca]);
    assert_eq!(code, Some(2), "{text}");
}

/// A server that shakes hands of TLS, ends it, and says more behind that.
fn ends_and_goes_on(signed: &Signed) -> String {
    let (certificate, key) = (signed.cert.as_bytes(), signed.key.as_bytes());
    let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            let mut tls = rustls::ServerConnection::new(config.clone().into()).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut stream).unwrap();
            }
            tls.send_close_notify();
            let mut last = Vec::new();
            tls.write_tls(&mut last).unwrap();
            last.extend_from_slice(&last.clone());
            stream.write_all(&last).unwrap();
            kept.push(stream);
        }
    });
    address
}

#[test]
fn a_server_that_goes_on_behind_its_last_word_has_ended_the_connection() {
    let authority = Authority::new();
    let address = ends_and_goes_on(&authority.server());
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tls = TlsOptions::new(write(directory.path(), "ca.pem", &authority.0.pem()));
    let options = Options::new(address)
        .with_request_timeout(Duration::from_secs(3))
        .with_tls(tls.with_server_name("localhost"));
    // A client that does not come back must not keep the test.
    let (told, heard) = channel();
    let (threads, also_told) = (options.clone(), told.clone());
    thread::spawn(move || told.send(Client::new(threads).ping().unwrap_err()));
    thread::spawn(move || also_told.send(run(tasks::Client::new(options).ping()).unwrap_err()));
    for _ in 0..2 {
        let error = heard.recv_timeout(common::PATIENCE).expect("it comes back");
        let Error::Unreachable { source, .. } = error else { panic!("{error}") };
        // It is no mere timeout.
        assert_eq!(source.kind(), ErrorKind::UnexpectedEof, "{source}");
    }
}
