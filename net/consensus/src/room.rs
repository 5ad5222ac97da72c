//! How much may be under way.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::options::Settings;

/// Bytes are counted in steps of this.
const STEP_BYTES: usize = 1 << 10;

/// Room for proposals and requests, by number and by bytes.
pub(crate) struct Room {
    number: Arc<Semaphore>,
    steps: Arc<Semaphore>,
}

/// What something takes of the room, until it is dropped.
pub(crate) struct Place {
    _number: OwnedSemaphorePermit,
    _steps: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(settings: &Settings) -> Self {
        let steps = settings.proposals_bytes_max / STEP_BYTES + 1;
        Self {
            number: Arc::new(Semaphore::new(settings.proposals_max)),
            steps: Arc::new(Semaphore::new(steps)),
        }
    }

    /// Room for one with so many bytes, if there is.
    pub(crate) fn take(&self, bytes: usize) -> Option<Place> {
        let steps = u32::try_from(bytes / STEP_BYTES + 1).ok()?;
        let number = self.number.clone().try_acquire_owned().ok()?;
        let steps = self.steps.clone().try_acquire_many_owned(steps).ok()?;
        Some(Place { _number: number, _steps: steps })
    }
}
