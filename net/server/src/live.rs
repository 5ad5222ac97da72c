//! What may change while the server runs: on SIGHUP every source of the configuration is read
//! again. All of what is live is taken over together, or nothing when a part of it cannot be.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use signal_hook::{consts::SIGHUP, iterator::Signals};

use crate::{
    config::{Config, Gathered, Sources},
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
            tls: config.tls.as_ref().map(tls::load).transpose()?,
        })
    }
}

/// The settings in force, swapped as a whole.
pub(crate) struct Current(Mutex<Arc<Live>>);

impl Current {
    pub(crate) fn new(live: Live) -> Self {
        Self(Mutex::new(Arc::new(live)))
    }

    pub(crate) fn get(&self) -> Arc<Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, live: Live) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
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
    let live = Live::of(&config)?;
    logs.change_level(&config.logging.level);
    current.set(live);
    for key in Config::needs_restart(started_with, &gathered) {
        tracing::warn!("`{key}` has changed and takes effect at the next start");
    }
    Ok(())
}
