//! Frames and handshakes that are not as they should be, and answers that do not come.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    Desk, Frame, FrameError, HandshakeRefusal, Identity, Kind, Links, NotSent, RequestError,
    accept::ServeError,
    frame::{self, Hello, Welcome, encode},
    serve,
};
use crate::tls::NO_TLS_HERE;

const WITHIN: Duration = Duration::from_secs(20);

const PREFACE: [u8; 16] = *b"consensus tests\0";

/// Takes off what a connection begins with.
async fn unwrapped(mut stream: TcpStream) -> TcpStream {
    let mut preface = [0; 16];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    stream
}

fn identity(node: u64) -> Identity {
    Identity {
        cluster: 7,
        node,
        incarnation: 3,
        preface: PREFACE,
        frame_bytes_max: 1 << 16,
        snapshot_bytes_max: 1 << 16,
        connect_within: WITHIN,
        stall_max: WITHIN,
    }
}

/// Gives the body back: those that begin with `s` once one has come that does not, and those that
/// begin with `x` never.
#[derive(Clone)]
struct Echo(std::sync::Arc<tokio::sync::Notify>);

impl Desk for Echo {
    fn busy(&self) -> Vec<u8> {
        b"busy".to_vec()
    }

    async fn answer(&self, frame: Frame) -> Option<Vec<u8>> {
        match frame.body.first() {
            Some(b'x') => return None,
            Some(b's') => self.0.notified().await,
            _ => self.0.notify_one(),
        }
        Some(frame.body)
    }
}

type Served = JoinHandle<Result<(), ServeError>>;

/// Serves one connection.
async fn server(node: u64) -> (String, Served) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(identity(node), None, unwrapped(stream).await, Echo(Default::default())).await
    });
    (address, served)
}

async fn read(mut bytes: &[u8]) -> Result<Frame, FrameError> {
    frame::read(&mut bytes, 64).await
}

#[tokio::test]
async fn a_frame_is_read_as_it_was_written_or_not_at_all() {
    let body = b"some bytes".to_vec();
    let bytes = encode(Kind::Vote, 5, &body);
    assert_eq!(read(&bytes).await, Ok(Frame { kind: Kind::Vote, request: 5, body }));
    for length in 0..bytes.len() {
        assert!(matches!(read(&bytes[..length]).await, Err(FrameError::Io(_))));
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = read(&flipped).await.unwrap_err();
        match bit / 8 {
            0..4 => assert_eq!(error, FrameError::Magic),
            4 => assert_eq!(error, FrameError::Version(flipped[4])),
            5 => assert!(matches!(error, FrameError::Kind(_) | FrameError::Damaged)),
            6 | 7 => assert_eq!(error, FrameError::Reserved),
            16..20 => assert!(matches!(
                error,
                FrameError::TooLarge(_) | FrameError::Damaged | FrameError::Io(_)
            )),
            _ => assert_eq!(error, FrameError::Damaged),
        }
    }
}

#[tokio::test]
async fn a_length_is_checked_before_anything_is_allocated() {
    let mut bytes = encode(Kind::Append, 1, &[]);
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read(&bytes).await, Err(FrameError::TooLarge(u32::MAX)));
}

#[tokio::test]
async fn the_bytes_of_a_frame_are_these() {
    let bytes = encode(Kind::Answer, 0x0102, b"ab");
    let header = [67, 65, 84, 82, 1, 8, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(bytes[..20], header);
    assert_eq!(bytes[24..], *b"ab");
    let crc = crc32fast::hash(&[&header[..], b"ab"].concat());
    assert_eq!(bytes[20..24], crc.to_le_bytes());
}

/// What a server makes of a handshake, and what it answers, if anything.
async fn greet(
    bytes: &[u8],
) -> (Result<(), ServeError>, Option<Result<Welcome, HandshakeRefusal>>) {
    let (address, served) = server(1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&PREFACE).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = frame::read(&mut stream, 1 << 10).await.ok();
    let answer = answer.map(|frame| {
        assert_eq!(frame.kind, Kind::Welcome);
        frame::parse(&frame.body).unwrap()
    });
    (served.await.unwrap(), answer)
}

fn hello(cluster: u128, from: u64, to: u64) -> Vec<u8> {
    encode(Kind::Hello, 0, &frame::body(&Hello { cluster, from, incarnation: 1, to }))
}

#[tokio::test]
async fn a_handshake_is_refused_with_its_reason() {
    let welcome = Welcome { node: 1, incarnation: 3 };
    assert_eq!(greet(&hello(7, 2, 1)).await.1, Some(Ok(welcome)));
    let mut newer = hello(7, 2, 1);
    newer[4] = 9;
    let refused = [
        (hello(8, 2, 1), HandshakeRefusal::Cluster(7)),
        (hello(7, 2, 3), HandshakeRefusal::Node(1)),
        (hello(7, 1, 1), HandshakeRefusal::Node(1)),
        (newer, HandshakeRefusal::Version(1)),
    ];
    for (bytes, refusal) in refused {
        let (served, answer) = greet(&bytes).await;
        assert_eq!(answer, Some(Err(refusal.clone())));
        assert_eq!(served, Err(ServeError::Refused(refusal)));
    }
    let closed = [
        (b"GET / HTTP/1.1\r\nHost: you\r\n\r\n".to_vec(), FrameError::Magic),
        (encode(Kind::Append, 0, b""), FrameError::Kind(Kind::Append as u8)),
        (encode(Kind::Hello, 0, b"?"), FrameError::Meaning),
        (encode(Kind::Hello, 0, &[0; 257]), FrameError::TooLarge(257)),
    ];
    for (bytes, error) in closed {
        let (served, answer) = greet(&bytes).await;
        assert_eq!((served, answer), (Err(ServeError::Frame(error)), None));
    }
}

#[tokio::test]
async fn many_requests_are_under_way_on_one_connection() {
    let (address, _served) = server(1).await;
    let links = Links::new(identity(2), None);
    let ask = |body: &[u8]| {
        let (links, address, body) = (links.clone(), address.clone(), body.to_vec());
        async move {
            let answer = links.request(1, &address, Kind::Propose, body.clone(), WITHIN).await;
            assert_eq!(answer, Ok(body));
        }
    };
    // The slow ones are asked first and answered only after the others are.
    let slow: Vec<_> = (0..10).map(|i| tokio::spawn(ask(&[b's', i]))).collect();
    tokio::task::yield_now().await;
    for i in 0..10 {
        ask(&[b'f', i]).await;
        // A notice that nobody waits for yet is kept, but only one.
        tokio::task::yield_now().await;
    }
    ask(b"f").await;
    for asked in slow {
        while !asked.is_finished() {
            ask(b"f").await;
        }
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_left_and_has_no_answer_is_lost() {
    let (address, served) = server(1).await;
    let links = Links::new(identity(2), None);
    let body = vec![0; 10];
    let answer = links.request(1, &address, Kind::Propose, body.clone(), WITHIN).await;
    assert_eq!(answer, Ok(body));
    let answer = links.request(1, &address, Kind::Propose, b"x".to_vec(), WITHIN).await;
    assert_eq!(answer, Err(RequestError::Lost));
    served.await.unwrap().unwrap();
    // Nobody listens there any more.
    let answer = links.request(1, &address, Kind::Propose, b"f".to_vec(), WITHIN).await;
    assert!(matches!(answer, Err(RequestError::NotSent(NotSent::Connect(_)))), "{answer:?}");
}

#[tokio::test]
async fn a_request_for_another_node_does_not_leave() {
    let (address, served) = server(1).await;
    let links = Links::new(identity(2), None);
    let answer = links.request(3, &address, Kind::Propose, b"f".to_vec(), WITHIN).await;
    let refusal = HandshakeRefusal::Node(1);
    assert_eq!(answer, Err(NotSent::Refused(refusal.clone()).into()));
    assert_eq!(served.await.unwrap(), Err(ServeError::Refused(refusal)));
}

#[tokio::test]
async fn whoever_answers_under_a_wrong_name_is_not_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let impostor = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = unwrapped(stream).await;
        frame::read(&mut stream, 1 << 10).await.unwrap();
        let welcome: Result<_, HandshakeRefusal> = Ok(Welcome { node: 9, incarnation: 1 });
        let bytes = encode(Kind::Welcome, 0, &frame::body(&welcome));
        stream.write_all(&bytes).await.unwrap();
        stream.read(&mut [0; 8]).await.unwrap_or(0)
    });
    let links = Links::new(identity(2), None);
    let answer = links.request(3, &address, Kind::Propose, b"f".to_vec(), WITHIN).await;
    assert_eq!(answer, Err(NotSent::Refused(HandshakeRefusal::Node(9)).into()));
    assert_eq!(impostor.await.unwrap(), 0, "not a byte more");
}

#[tokio::test]
async fn who_begins_with_tls_in_plaintext_is_told_so_and_believes_it() {
    let (address, served) = server(1).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(&PREFACE).await.unwrap();
    stream.write_all(&[0x16, 3]).await.unwrap();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, NO_TLS_HERE);
    let error = served.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("it speaks TLS, and this node plaintext"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let secure = tokio::spawn(async move {
        let mut stream = unwrapped(listener.accept().await.unwrap().0).await;
        stream.write_all(&[0x15, 3, 3, 0, 2, 2, 10]).await.unwrap();
    });
    let links = Links::new(identity(2), None);
    let answer = links.request(1, &address, Kind::Propose, b"f".to_vec(), WITHIN).await;
    let Err(RequestError::NotSent(NotSent::Connect(FrameError::Tls(why)))) = answer else {
        panic!("{answer:?}")
    };
    assert!(why.contains("it wants TLS, and this node speaks plaintext"), "{why}");
    secure.await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_a_connection() {
    let (address, served) = server(1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&PREFACE).await.unwrap();
    stream.write_all(&hello(7, 2, 1)).await.unwrap();
    frame::read(&mut stream, 1 << 10).await.unwrap();
    let mut damaged = encode(Kind::Append, 1, b"body");
    damaged[25] ^= 1;
    stream.write_all(&damaged).await.unwrap();
    assert_eq!(served.await.unwrap(), Err(ServeError::Frame(FrameError::Damaged)));
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
}
