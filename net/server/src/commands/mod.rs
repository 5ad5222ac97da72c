//! What the client commands do: topics, produce, consume.

mod cluster;
mod consume;
mod format;
mod input;
mod members;
mod produce;
mod progress;
mod status;
mod topics;

use std::io::{self, Write};

use catena_client::{Class, Client, Error, ErrorCode, Options, TlsOptions};
use serde_json::Value;

pub(crate) use self::{
    cluster::cluster,
    consume::{From, Until, consume},
    format::Format,
    produce::{NotStored, produce},
    topics::{partition, topic},
};
use crate::cli::{Exit, RemoteArgs};

/// A client of the server that is named.
///
/// # Errors
/// When the connection string is not right, or says what flags say, too.
pub(crate) fn client(remote: &RemoteArgs) -> anyhow::Result<Client> {
    Ok(Client::new(options(remote)?))
}

/// How the server that is named is reached.
///
/// # Errors
/// When the connection string is not right, or says what flags say, too.
pub(crate) fn options(remote: &RemoteArgs) -> anyhow::Result<Options> {
    let tls = remote.tls_ca.as_ref().map(|ca| {
        let server_name = remote.tls_server_name.clone();
        let identity = remote.tls_cert.clone().zip(remote.tls_key.clone());
        TlsOptions { ca: ca.clone(), identity, server_name }
    });
    let options = Options::of(&remote.server, tls);
    Ok(options.map_err(|error| UsageError(format!("--server: {error}")))?)
}

/// Options that contradict each other, or what is on the server: nothing was tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(String);

/// Refuses flags that say how to reach a server, for a command that talks to none.
///
/// # Errors
/// When there are such.
pub(crate) fn no_remote(remote: &RemoteArgs) -> anyhow::Result<()> {
    let text = "--tls-ca is for commands that talk to a server; `serve` has the settings `tls.*`";
    if remote.tls_ca.is_some() { Err(UsageError(text.to_owned()).into()) } else { Ok(()) }
}

/// What a failure means to a script.
pub(crate) fn exit(error: &anyhow::Error) -> Exit {
    if error.is::<UsageError>() {
        return Exit::Usage;
    }
    if let Some(error) = error.downcast_ref::<NotStored>() {
        return if error.unclear { Exit::Indeterminate } else { Exit::Failure };
    }
    let error = error.downcast_ref::<Error>();
    let (error, read) = match error {
        Some(Error::Partition { source, .. }) => (Some(&**source), true),
        error => (error, false),
    };
    match error {
        Some(Error::Unreachable { .. } | Error::Tls { .. }) => Exit::Unreachable,
        Some(Error::Option(_)) => Exit::Usage,
        Some(Error::Unreadable { code: ErrorCode::Damaged, .. }) => Exit::Damaged,
        // Of what is stored; one to send may be too large.
        Some(Error::Batch(_) | Error::Record(_)) if read => Exit::Damaged,
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

#[cfg(test)]
mod tests {
    use catena_client::format::{BatchError, Offset, PartitionIndex, records::RecordError};

    use super::*;

    #[test]
    fn a_damaged_partition_has_a_code_of_its_own() {
        let unreadable = |code| {
            let (partition, next, message) = (PartitionIndex::new(0), Offset::ZERO, String::new());
            exit(&Error::Unreadable { code, partition, next, message }.into())
        };
        assert_eq!(unreadable(ErrorCode::Damaged), Exit::Damaged);
        assert_eq!(unreadable(ErrorCode::OffsetOutOfRange), Exit::Failure);
        let (partition, offset) = (PartitionIndex::new(0), Offset::ZERO);
        let checksum = || BatchError::Checksum { stored: 1, computed: 2 }.into();
        let read = Error::Partition { partition, offset, source: Box::new(checksum()) };
        assert_eq!(exit(&read.into()), Exit::Damaged);
        let large = Error::from(RecordError::TooLarge(17));
        assert_eq!(exit(&large.into()), Exit::Failure);
    }
}
