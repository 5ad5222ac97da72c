//! Which server is talked to, and how.

use std::path::PathBuf;

use clap::Args;

/// Where the server is, and TLS with it.
#[derive(Args, Debug)]
pub(crate) struct RemoteArgs {
    /// The servers to talk to: host and port, of one or some of a cluster, separated by commas; or
    /// a connection string as `catenas://host?ca=FILE`.
    #[arg(long, global = true, value_name = "ADDR", env = "CATENA_SERVER", hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:9200")]
    pub(crate) server: String,
    /// Speak TLS with the server, and trust the authorities in this PEM file.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Our certificate, PEM, for a server that asks for one.
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of our certificate, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The name that the server's certificate must be for; without it the host of --server.
    #[arg(long, global = true, value_name = "NAME", requires = "tls_ca")]
    pub(crate) tls_server_name: Option<String>,
}
