//! What a client and a script may conclude when a connection is lost: nothing was asked, or what
//! was asked may have been done. A server of the test's own loses it where that matters.

mod common;

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use catena_client::{
    Class, Client, Error, Options,
    format::{ClusterId, Incarnation, NodeId},
    tokio as tasks,
};
use catena_wire::{
    Api, ApiRange, ConnectionLimits, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits,
    HandshakeResponse, StatusResponse, encode_message,
};
use common::{Server, free_address};

/// What becomes of a connection after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// So many requests are answered, then it ends.
    Ends(u32),
    /// It ends at the first request.
    Breaks,
    /// It stays, and nothing is answered.
    Hangs,
}

#[derive(PartialEq, Eq, Debug)]
enum Event {
    Asked(Api),
    Ended,
}

/// A server whose connections have these fates, one after the other; it tells what happens to it.
fn server(fates: &[Fate]) -> (String, Receiver<Event>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (events, told) = channel();
    let fates = fates.to_vec();
    thread::spawn(move || {
        for fate in fates {
            let (stream, _) = listener.accept().unwrap();
            // The other end may be faster.
            let _ = serve(stream, fate, &events);
            let _ = events.send(Event::Ended);
        }
    });
    (address, told)
}

fn serve(mut stream: TcpStream, fate: Fate, events: &Sender<Event>) -> io::Result<()> {
    stream.read_exact(&mut [0; 16])?;
    let handshake = request(&mut stream)?;
    answer(&mut stream, handshake, &greeting())?;
    let mut answers = if let Fate::Ends(answers) = fate { answers } else { 1 };
    while answers > 0 {
        let asked = request(&mut stream)?;
        let _ = events.send(Event::Asked(Api::from_number(asked.api).unwrap()));
        match fate {
            Fate::Ends(_) => {
                let status = StatusResponse { error: ErrorCode::None, message: "".into() };
                answer(&mut stream, asked, &status)?;
            }
            Fate::Breaks => {}
            // The client's end is the next that comes.
            Fate::Hangs => drop(request(&mut stream)),
        }
        answers -= 1;
    }
    Ok(())
}

fn request(stream: &mut TcpStream) -> io::Result<FrameHeader> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = FrameHeader::parse(&header, FrameLimits::REQUEST).unwrap();
    let body = header.frame_bytes() - FRAME_HEADER_BYTES as u64;
    io::copy(&mut stream.take(body), &mut io::sink())?;
    Ok(header)
}

fn answer<'m, M: catena_wire::Message<'m>>(
    stream: &mut TcpStream,
    asked: FrameHeader,
    message: &M,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let api = Api::from_number(asked.api).unwrap();
    encode_message(api, asked.correlation, message, 0, &mut bytes).unwrap();
    stream.write_all(&bytes)
}

fn greeting() -> HandshakeResponse<'static> {
    HandshakeResponse {
        error: ErrorCode::None,
        server_version: "test".into(),
        apis: ApiRange::spoken(&Api::ALL),
        features: 0,
        limits: ConnectionLimits {
            head_bytes_max: 1 << 20,
            payload_bytes_max: 1 << 20,
            in_flight_bytes_max: 1 << 20,
            in_flight_max: 100,
            dedup_window: 8,
            credit_bytes_max: 1 << 20,
        },
        cluster: ClusterId::new(1),
        node: NodeId::new(1),
        incarnation: Incarnation::new(1),
        core: 0,
        cores: Vec::new(),
        mechanisms: "".into(),
        authentication: Vec::new().into(),
        message: "".into(),
    }
}

/// What both front ends come to when they delete a topic at a server with such a connection.
fn delete_at(fate: Fate) -> Error {
    let options =
        |address: &str| Options::new(address).with_request_timeout(Duration::from_millis(200));
    let (address, told) = server(&[fate]);
    let threads = Client::new(options(&address)).delete_topic("t").unwrap_err();
    assert_eq!(told.iter().collect::<Vec<_>>(), [Event::Asked(Api::DeleteTopic), Event::Ended]);
    let (address, told) = server(&[fate]);
    let tasks = run(async { tasks::Client::new(options(&address)).delete_topic("t").await });
    let tasks = tasks.unwrap_err();
    assert_eq!(told.iter().collect::<Vec<_>>(), [Event::Asked(Api::DeleteTopic), Event::Ended]);
    assert_eq!(threads.class(), tasks.class());
    threads
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Exit code and words of the command line.
fn catena(server: &str, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    let url = format!("catena://{server}?timeout=200ms");
    let output = command.args(["--server", &url]).args(arguments.split(' ')).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_was_asked_may_have_been_done_when_the_connection_is_lost() {
    for fate in [Fate::Breaks, Fate::Hangs] {
        let error = delete_at(fate);
        assert!(matches!(error, Error::Connection { .. }), "{fate:?}: {error}");
        assert_eq!(error.class(), Class::Indeterminate);
        let (address, _told) = server(&[fate]);
        let (code, said) = catena(&address, "topic delete t");
        assert_eq!(code, Some(4), "{fate:?}: {said}");
    }
}

#[test]
fn nothing_was_done_where_there_is_no_connection() {
    let (code, said) = catena(&free_address(), "topic delete t");
    assert_eq!(code, Some(3), "{said}");
    // Somebody is there, and does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = catena(&silent.local_addr().unwrap().to_string(), "topic delete t");
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn what_cannot_be_asked_twice_is_asked_of_the_next_server_when_one_is_away() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(directory.path(), &free_address(), &["--cores", "1"]);
    server.wait_for("ready on", 1);
    let both = format!("{},{}", free_address(), server.address);
    Client::new(Options::new(&both)).create_topic("threads", 1, Vec::new()).unwrap();
    run(async {
        let mut client = tasks::Client::new(Options::new(&both));
        client.create_topic("tasks", 1, Vec::new()).await.unwrap();
    });
}

#[test]
fn a_connection_that_ended_meanwhile_is_not_asked_what_cannot_be_asked_twice() {
    let once = || {
        let fates = [Fate::Ends(1), Fate::Ends(1)];
        let (address, told) = server(&fates);
        (Options::new(address), told)
    };
    let ended = |told: &Receiver<Event>| {
        assert_eq!(told.recv(), Ok(Event::Asked(Api::Ping)));
        assert_eq!(told.recv(), Ok(Event::Ended));
    };
    let (options, told) = once();
    let mut client = Client::new(options);
    client.ping().unwrap();
    ended(&told);
    client.delete_topic("t").unwrap();
    let (options, told) = once();
    run(async {
        let mut client = tasks::Client::new(options);
        client.ping().await.unwrap();
        ended(&told);
        client.delete_topic("t").await.unwrap();
    });
}
