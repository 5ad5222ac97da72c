//! A server whose connections answer once and end.

#[path = "../tests/talk/mod.rs"]
mod talk;

use std::{
    io::{self, Read},
    net::{TcpListener, TcpStream},
    thread,
};

use catena_wire::{ErrorCode, StatusResponse};
use talk::PREFACE_BYTES;

use crate::greeting::greeting;

/// Its address. It serves one connection after the other.
pub(crate) fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer_once(stream.unwrap()).unwrap();
        }
    });
    address
}

fn answer_once(mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE_BYTES])?;
    talk::shake_hands(&mut stream, &greeting(1 << 20))?;
    let asked = talk::request(&mut stream)?;
    talk::answer(&mut stream, asked, &StatusResponse { error: ErrorCode::None, message: "".into() })
}
