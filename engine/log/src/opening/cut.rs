//! Cutting a log whose end another one decides: opening it as if it had never gone on.
//!
//! The manifest is read as if it ended at the cut, the segment there is scanned up to it and
//! sealed, and only when a manifest says so are the files behind removed. A crash before that
//! leaves the log as it was, one after it leaves files that no manifest names: they know of more
//! than is durable by now, and would be taken for segments that an older manifest did not know. So
//! the manifest says, too, below which number an unnamed file is nothing.

use catena_format::{Epoch, FileNumber, Offset};

use super::{Flow, OpenError, Opening, State, nothing_yet};
use crate::{
    fold::Fold,
    index::{self, Index},
    io::{FileName, Memory, Op},
    manifest::{DamagedRanges, Manifest},
    opening::NO_TIME,
};

/// What is left out of a log when it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// What stands from this offset on.
    Behind(Offset),
    /// All: the log begins anew.
    All {
        /// The next offset to give.
        first: Offset,
        /// What its owner derives from all that was before, as [`Fold::snapshot`] gives it; empty:
        /// nothing.
        fold: Vec<u8>,
    },
}

impl Manifest {
    /// Of a log that ends there.
    fn cut(&mut self, keep: Offset) {
        self.log_end = self.log_end.min(keep);
        self.segments.retain(|segment| segment.base < keep);
        if let Some(last) = self.segments.last_mut().filter(|last| last.end > keep) {
            last.sealed = false;
        }
        self.epochs.retain(|(_, start): &(Epoch, Offset)| *start < keep);
        self.damaged.cut(keep);
    }

    /// Of one that begins anew there.
    fn begin_anew(&mut self, first: Offset, fold_file: FileNumber) {
        (self.log_start, self.log_end, self.fold_file) = (first, first, fold_file);
        self.segments.clear();
        self.epochs.clear();
        self.damaged = DamagedRanges::default();
    }
}

impl<M: Memory + Clone, F: Fold> Opening<M, F> {
    /// Leaves something out. Nothing of the log may be under way.
    #[must_use]
    pub fn cut(mut self, cut: Cut) -> Self {
        self.cut = Some(cut);
        self
    }

    /// No frame is believed that ends behind this.
    pub(super) fn limit(&self) -> Offset {
        match self.cut {
            Some(Cut::Behind(keep)) => keep,
            _ => Offset::MAX,
        }
    }

    /// Has the manifest say what is left when it is cut.
    pub(super) fn cut_manifest(&mut self) -> Result<(), OpenError> {
        let unnamed = self.free_file();
        match &self.cut {
            None => return Ok(()),
            Some(Cut::Behind(keep)) if *keep < self.manifest.log_start => {
                return Err(OpenError::Cut(*keep));
            }
            Some(Cut::Behind(keep)) => self.manifest.cut(*keep),
            Some(Cut::All { first, .. }) => self.manifest.begin_anew(*first, unnamed),
        }
        self.manifest.unnamed = unnamed;
        Ok(())
    }

    /// Begins anew, if all is to be left out: what is derived from what was is made durable first.
    pub(super) fn begin_anew(&mut self) -> Option<Flow<F>> {
        let Some(Cut::All { first, fold: snapshot }) = &self.cut else { return None };
        let fold = self.fold.as_mut().expect("the fold is here until the end");
        let nothing = snapshot.is_empty();
        if nothing {
            fold.reset();
        }
        if !(nothing || fold.restore(snapshot)) {
            return Some(Err(OpenError::Cut(*first)));
        }
        let (uid, file) = (self.identity.uid, self.manifest.fold_file);
        let (progress, snapshot) = (nothing_yet(*first, NO_TIME, NO_TIME), fold.snapshot());
        let none = Index::default();
        let image =
            index::write_image(uid, file, *first, &progress, &none, snapshot, &mut self.memory);
        let bytes = match image {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error.into())),
        };
        let (name, position) = (FileName::Index(file), catena_format::Position::ZERO);
        self.files.insert(name, bytes.as_ref().len() as u64);
        self.ask(Op::Write { file: name, position, bytes, durable: true });
        self.state = State::WritingFold;
        Some(Ok(None))
    }
}
