//! The keeper: of dropped segments the last one, whose index stays for what is derived from all of
//! them. That stands nowhere else, so the index must be whole. One of an earlier life is read
//! before its segment is given up; another segment keeps where it is not whole, and where none can,
//! all stay.

use catena_format::{FileNumber, Offset, Position};

use crate::{
    fold::Fold,
    index,
    io::{FileName, IoError, Memory, Op},
    log::{Event, Log, Purpose, Segment},
    opening::READ_TRIES,
};

/// How far the next keeper is known.
#[derive(Default)]
pub(crate) struct Keeper {
    /// This one was read once, and was not whole.
    doubted: Option<FileNumber>,
    /// It could not be read, for want of something; housekeeping tries again.
    waits: bool,
    /// How often it could not be read for another log.
    failures: u32,
    /// Bytes of the present keeper's index; 0: there is none.
    pub(crate) bytes: u64,
}

impl Keeper {
    pub(crate) fn of(bytes: Option<&u64>) -> Self {
        Self { bytes: bytes.copied().unwrap_or(0), ..Self::default() }
    }
}

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// How many segments the next manifest does not name: up to one whose index is on the disk, for
    /// what is derived from them all stands there. Where there is no space for an index they are
    /// given up without, unless the log is of no use then, or a checkpoint would be taken for it.
    pub(crate) fn to_drop(&self) -> usize {
        let without = self.images.no_space && !F::INDISPENSABLE;
        let whole = |s: &Segment| s.index_bytes > 0 && s.index_whole;
        let keeps = |s: &Segment| whole(s) || (without && !s.index_part);
        self.below().enumerate().filter(|(_, s)| keeps(s)).last().map_or(0, |(at, _)| at + 1)
    }

    /// The segments of which nothing is wanted any more.
    fn below(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().take_while(|s| s.ends_below(self.wanted_start))
    }

    /// Reads the index that would keep if it is whole, unless that is known.
    pub(crate) fn read_keeper(&mut self) {
        let Some(last) = self.below().filter(|s| s.index_bytes > 0).last() else { return };
        let reads = |purpose| matches!(purpose, Purpose::ReadKeeper(_));
        let reading = self.purposes.values().any(|(purpose, _)| reads(*purpose));
        if last.index_whole || self.keeper.waits || reading || self.closing {
            return;
        }
        let Ok(length) = usize::try_from(last.index_bytes.next_multiple_of(4096)) else { return };
        let number = last.entry.file;
        let (file, position) = (FileName::Index(number), Position::ZERO);
        self.ask(Purpose::ReadKeeper(number), Op::Read { file, position, length });
    }

    pub(crate) fn keeper_read(&mut self, file: FileNumber, result: Result<M::Share, IoError>) {
        let Some(at) = self.segment_of(file) else { return };
        let segment = &mut self.segments[at];
        let whole = match result {
            Ok(bytes) => index::read_image(self.identity.uid, bytes.as_ref())
                .is_ok_and(|image| image.covers(&segment.entry)),
            Err(error) if error.is_medium() || error == IoError::NotFound => false,
            Err(_) => {
                self.keeper.waits = true;
                return;
            }
        };
        if !whole && self.keeper.doubted != Some(file) {
            self.keeper.doubted = Some(file);
            return;
        }
        self.keeper.doubted = None;
        segment.index_whole = whole;
        if !whole {
            segment.index_bytes = 0;
        }
        self.want_manifest();
    }

    /// Reads what is derived from the batches that are not held any more; [`Event::Fold`] tells,
    /// unless the read fails: then it is to be asked for again.
    pub fn read_fold(&mut self) {
        let start = self.held_start();
        let file = FileName::Index(self.fold_file);
        let length = usize::try_from(self.keeper.bytes.next_multiple_of(4096)).unwrap_or(0);
        if length == 0 {
            return self.events.push_back(Event::Fold(start, Vec::new()));
        }
        let position = Position::ZERO;
        self.ask(Purpose::ReadFold(start), Op::Read { file, position, length });
    }

    pub(crate) fn fold_read(&mut self, start: Offset, result: Result<M::Share, IoError>) {
        let want = matches!(result, Err(IoError::NoDescriptors | IoError::NoSpace));
        let bytes = result.ok();
        let image = bytes.and_then(|b| index::read_image(self.identity.uid, b.as_ref()).ok());
        if image.is_none() && (want || self.keeper.failures < READ_TRIES) {
            self.keeper.failures += u32::from(!want);
            return;
        }
        self.keeper.failures = 0;
        let fold = image.map_or(Vec::new(), |image| image.fold);
        self.events.push_back(Event::Fold(start, fold));
    }

    /// What was wanting for a read may be there.
    pub(crate) fn try_keeper_again(&mut self) {
        self.keeper.waits = false;
    }
}
