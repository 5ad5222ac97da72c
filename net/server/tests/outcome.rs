//! What a client and a script may conclude when a connection is lost: nothing was asked, or what
//! was asked may have been done. A server of the test's own loses it where that matters.

mod common;
#[path = "../../client/tests/greeting/mod.rs"]
mod greeting;
#[path = "../../client/tests/talk/mod.rs"]
mod talk;

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use catena_client::{Class, Client, Error, Options, tokio as tasks};
use catena_wire::Api;
use common::{PATIENCE, Server, free_address};
use greeting::greeting;
use talk::PREFACE_BYTES;

/// What becomes of a connection at its first request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It ends.
    Breaks,
    /// It stays, and nothing is answered.
    Hangs,
}

/// In place of a preface it ends the server.
const END: [u8; PREFACE_BYTES] = [0xff; PREFACE_BYTES];

/// A server whose connections have this fate, one after the other; it tells what it is asked.
fn server(fate: Fate) -> (String, Receiver<Api>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut preface) = (stream.unwrap(), [0; PREFACE_BYTES]);
            // The other end may be gone already.
            if stream.read_exact(&mut preface).is_ok() {
                if preface == END {
                    return;
                }
                let _ = serve(stream, fate, &asked);
            }
        }
    });
    (address, told)
}

fn serve(mut stream: TcpStream, fate: Fate, told: &Sender<Api>) -> io::Result<()> {
    talk::shake_hands(&mut stream, &greeting(1 << 20))?;
    let asked = talk::request(&mut stream)?;
    let _ = told.send(Api::from_number(asked.api).unwrap());
    if fate == Fate::Hangs {
        // The client's end is the next that comes.
        let _ = talk::request(&mut stream);
    }
    Ok(())
}

/// What deleting a topic comes to where all connections have this fate. It is asked once.
fn delete_at<T>(fate: Fate, delete: impl Fn(&str, Duration) -> Outcome<T>) -> T {
    let (address, told) = server(fate);
    // What does not hang ends by itself.
    let timeout = if fate == Fate::Hangs { Duration::from_millis(200) } else { PATIENCE };
    // On a busy machine the time may be over before there is a connection.
    let mut outcomes = (0..100).map(|_| delete(&address, timeout));
    let outcome = outcomes.find_map(|outcome| match outcome {
        Outcome::Unreachable => None,
        Outcome::Other(outcome) => Some(outcome),
    });
    TcpStream::connect(address).unwrap().write_all(&END).unwrap();
    let asked: Vec<Api> = told.iter().collect();
    assert_eq!(asked, [Api::DeleteTopic], "{fate:?}");
    outcome.expect("it is asked some time")
}

/// Whether a client says that nothing was asked.
enum Outcome<T> {
    Unreachable,
    Other(T),
}

impl From<Error> for Outcome<Error> {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Unreachable { .. }) {
            return Self::Unreachable;
        }
        Self::Other(error)
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Exit code and words of the command line.
fn catena(server: &str, timeout: Duration, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    let url = format!("catena://{server}?timeout={}ms", timeout.as_millis());
    let output = command.args(["--server", &url]).args(arguments.split(' ')).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_was_asked_may_have_been_done_when_the_connection_is_lost() {
    let options = |address: &str, timeout| Options::new(address).with_request_timeout(timeout);
    for fate in [Fate::Breaks, Fate::Hangs] {
        let threads = delete_at(fate, |address, timeout| {
            Client::new(options(address, timeout)).delete_topic("t").unwrap_err().into()
        });
        let tasks = delete_at(fate, |address, timeout| {
            let mut client = tasks::Client::new(options(address, timeout));
            run(client.delete_topic("t")).unwrap_err().into()
        });
        for error in [threads, tasks] {
            assert!(matches!(error, Error::Connection { .. }), "{fate:?}: {error}");
            assert_eq!(error.class(), Class::Indeterminate);
        }
        let (code, said) =
            delete_at(fate, |address, timeout| match catena(address, timeout, "topic delete t") {
                (Some(3), _) => Outcome::Unreachable,
                other => Outcome::Other(other),
            });
        assert_eq!(code, Some(4), "{fate:?}: {said}");
    }
}

#[test]
fn nothing_was_done_where_there_is_no_connection() {
    let timeout = Duration::from_millis(200);
    let (code, said) = catena(&free_address(), timeout, "topic delete t");
    assert_eq!(code, Some(3), "{said}");
    // Somebody is there, and does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (code, said) = catena(&address, timeout, "topic delete t");
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
