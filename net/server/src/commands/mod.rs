//! What the client commands do: topics, produce, consume.

mod consume;
mod format;
mod input;
mod produce;
mod progress;
mod topics;

use std::{
    io::{self, Write},
    time::Duration,
};

use catena_client::{Class, Client, Error, Options};
use serde_json::Value;

pub(crate) use self::{
    consume::{From, Until, consume},
    format::Format,
    produce::produce,
    topics::topic,
};
use crate::cli::Exit;

/// A client of `server`.
pub(crate) fn client(server: &str) -> Client {
    let (server, request_timeout) = (server.to_owned(), Duration::from_secs(10));
    Client::new(Options { server, request_timeout, ..Options::default() })
}

/// Options that contradict each other, or what is on the server: nothing was tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(String);

/// What a failure means to a script.
pub(crate) fn exit(error: &anyhow::Error) -> Exit {
    if error.is::<UsageError>() {
        return Exit::Usage;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Connection { .. }) => Exit::Unreachable,
        Some(error) if error.class() == Class::Indeterminate => Exit::Indeterminate,
        _ => Exit::Failure,
    }
}

/// Prints one JSON document.
fn print_json(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}
