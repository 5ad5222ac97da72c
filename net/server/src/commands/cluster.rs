//! `catena cluster`: what it asks and prints.

use std::{
    io::{self, Write},
    time::Duration,
};

use catena_client::{Client, format::JoinToken};
use serde_json::json;

use super::print_json;
use crate::{
    cli::{ClusterCommand, Output, TokenArgs},
    machine::random,
};

/// Runs a command about the cluster of the server that is named.
///
/// # Errors
/// What the server refused, or why it could not be asked.
pub(crate) fn cluster(
    client: &mut Client,
    command: ClusterCommand,
    output: Output,
) -> anyhow::Result<()> {
    let ClusterCommand::Token(TokenArgs { lifetime, revoke }) = command;
    if let Some(token) = revoke {
        client.allow_join(JoinToken::new(token), Duration::ZERO)?;
        return Ok(());
    }
    let token = u128::from_le_bytes(random()?);
    client.allow_join(JoinToken::new(token), lifetime)?;
    match output {
        Output::Json => print_json(&json!({ "token": format!("{token:032x}") }))?,
        Output::Table => writeln!(io::stdout().lock(), "{token:032x}")?,
    }
    Ok(())
}
