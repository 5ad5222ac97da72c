//! What may change while the server runs: on SIGHUP every source of the configuration is read
//! again. All of what is live is taken over together, or nothing when a part of it cannot be.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use catena_consensus::Tls;
use signal_hook::{consts::SIGHUP, iterator::Signals};

use crate::{
    config::{Config, Gathered, PeerTls, Sources},
    logging::Logs,
    tls,
};

/// Settings in force.
#[derive(Clone)]
pub(crate) struct Live {
    /// For the end of the handshake.
    pub(crate) handshake: Duration,
    /// For the next request.
    pub(crate) idle: Duration,
    /// For a fetch, and for a produce without a deadline of its own.
    pub(crate) request: Duration,
    /// For what is under way at the end.
    pub(crate) drain: Duration,
    /// Bytes a second that the scrub of a core reads.
    pub(crate) scrub_rate: u64,
    /// From one of its passes to the next.
    pub(crate) scrub_period: Duration,
    /// Bytes a second that a core reads for copies that are being made.
    pub(crate) catch_up_rate: u64,
    /// How clients are spoken to, if not in plaintext.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

impl Live {
    pub(crate) fn of(config: &Config) -> Result<Self, tls::TlsError> {
        let timeouts = &config.timeouts;
        Ok(Self {
            handshake: timeouts.handshake,
            idle: timeouts.idle,
            request: timeouts.request,
            drain: timeouts.drain,
            scrub_rate: config.scrub_rate_of_core(),
            scrub_period: config.storage.scrub_period,
            catch_up_rate: config.catch_up_rate_of_core(),
            tls: config.tls.as_ref().map(tls::load).transpose()?,
        })
    }
}

/// The settings in force, swapped as a whole.
pub(crate) struct Current {
    live: Mutex<Arc<Live>>,
    /// How other nodes are spoken to, if not in plaintext; what it is made of may change.
    peer_tls: Option<Arc<Tls>>,
}

impl Current {
    pub(crate) fn of(config: &Config) -> Result<Self, tls::TlsError> {
        let live = Mutex::new(Arc::new(Live::of(config)?));
        let peer_tls = config.peer_tls.as_ref().map(tls::load_peer).transpose()?;
        let peer_tls = peer_tls.map(|identities| Arc::new(Tls::new(identities)));
        warn_unsuitable(config);
        Ok(Self { live, peer_tls })
    }

    /// How other nodes are spoken to, if not in plaintext.
    pub(crate) fn peer_tls(&self) -> Option<&Arc<Tls>> {
        self.peer_tls.as_ref()
    }

    pub(crate) fn get(&self) -> Arc<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes all over that may change, or nothing.
    fn change(&self, config: &Config) -> Result<(), tls::TlsError> {
        let live = Live::of(config)?;
        match (&self.peer_tls, &config.peer_tls) {
            (Some(tls), Some(files)) => tls.replace(tls::load_peer(files)?),
            (None, None) => {}
            _ => tracing::warn!(
                "whether nodes speak TLS with each other (`cluster.tls.cert`) has changed and \
                 takes effect at the next start"
            ),
        }
        warn_unsuitable(config);
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
        Ok(())
    }
}

/// A certificate that others will refuse is told before they do.
fn warn_unsuitable(config: &Config) {
    let suits = |tls: &PeerTls| tls::suits(tls, &config.peer_address()?).err();
    if let Some(why) = config.peer_tls.as_ref().and_then(suits) {
        tracing::warn!("{why}");
    }
}

/// Reads the configuration again at each SIGHUP, on a thread of its own.
pub(crate) fn reload_on_hangup(
    sources: Sources,
    gathered: Gathered,
    logs: Weak<Logs>,
    current: Arc<Current>,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    thread::Builder::new().name("catena-reload".to_owned()).spawn(move || {
        for _ in signals.forever() {
            // The process ends.
            let Some(logs) = logs.upgrade() else { return };
            match reload(&sources, &gathered, &logs, &current) {
                Ok(()) => tracing::info!("the configuration was read again"),
                Err(error) => tracing::error!("nothing was changed: {error:#}"),
            }
        }
    })?;
    Ok(())
}

fn reload(
    sources: &Sources,
    started_with: &Gathered,
    logs: &Logs,
    current: &Current,
) -> anyhow::Result<()> {
    let (config, gathered) = Config::load(sources)?;
    current.change(&config)?;
    logs.change_level(&config.logging.level);
    for key in Config::needs_restart(started_with, &gathered) {
        tracing::warn!("`{key}` has changed and takes effect at the next start");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Flag,
        tls::{certificates::Authority, tests::peer_files},
    };

    fn config(peer: Option<&PeerTls>) -> Config {
        let mut set = vec![("listen.peer", "127.0.0.1:1".to_owned())];
        if let Some(PeerTls { cert, key, ca }) = peer {
            let files =
                [("cluster.tls.cert", cert), ("cluster.tls.key", key), ("cluster.tls.ca", ca)];
            set.extend(files.map(|(key, file)| (key, file.display().to_string())));
        }
        let flag =
            |(key, value): (&str, String)| Flag { flag: "--set".into(), key: key.into(), value };
        let flags = set.into_iter().map(flag).collect();
        Config::load(&Sources { flags, ..Sources::default() }).unwrap().0
    }

    #[test]
    fn what_nodes_show_changes_and_whether_they_show_it_does_not() {
        let (root, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let files = || peer_files(root.path(), &authority.node("127.0.0.1"), &authority);
        let plain = Current::of(&config(None)).unwrap();
        plain.change(&config(Some(&files()))).unwrap();
        assert!(plain.peer_tls().is_none());

        let secure = Current::of(&config(Some(&files()))).unwrap();
        let dials = || secure.peer_tls().expect("it stays").current().dials;
        let before = dials();
        secure.change(&config(None)).unwrap();
        assert!(Arc::ptr_eq(&before, &dials()));
        let broken = PeerTls { key: root.path().join("absent"), ..files() };
        secure.change(&config(Some(&broken))).unwrap_err();
        assert!(Arc::ptr_eq(&before, &dials()));
        secure.change(&config(Some(&files()))).unwrap();
        assert!(!Arc::ptr_eq(&before, &dials()));
    }
}
