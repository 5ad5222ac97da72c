//! What a chain has promised: which batch stands at which offset, and who was told so.

use std::collections::BTreeMap;

use catena_format::{Epoch, Offset};

/// A batch: its producer, and its first sequence.
pub type Name = (i64, i32);

/// A batch in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Which one.
    pub name: Name,
    /// The offset behind it.
    pub next: Offset,
    /// Who gave the offset.
    pub epoch: Epoch,
}

/// The books.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// What any node has shown below its high watermark, by base offset.
    placed: BTreeMap<Offset, Placed>,
    /// What producers were told, and where it stands.
    acked: BTreeMap<Name, Offset>,
    /// Everything below was trimmed.
    trimmed: Offset,
    /// Behind the last one of which a producer was told.
    pub promised: Offset,
    /// Batches compared.
    pub checked: u64,
}

impl Books {
    /// Batches that were acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.len() as u64
    }

    /// Somebody asked that everything below goes.
    pub fn trim(&mut self, to: Offset) {
        self.trimmed = self.trimmed.max(to);
    }

    /// A producer was told that its batch stands there, on the disks of the whole chain.
    ///
    /// # Errors
    /// It was told otherwise before, or another batch stands there.
    pub fn ack(&mut self, name: Name, base: Offset) -> Result<(), String> {
        self.promised = self.promised.max(Offset::new(base.get() + 1));
        match self.acked.insert(name, base) {
            Some(before) if before != base => {
                return Err(format!("{name:?} was acknowledged at {before}, and now at {base}"));
            }
            _ => {}
        }
        match self.placed.get(&base) {
            Some(placed) if placed.name != name => {
                Err(format!("{name:?} was acknowledged at {base}, where {:?} stands", placed.name))
            }
            _ => Ok(()),
        }
    }

    /// A node shows a batch as committed.
    ///
    /// # Errors
    /// Another one stood there, or it stood elsewhere.
    pub fn show(&mut self, base: Offset, placed: Placed) -> Result<(), String> {
        self.checked += 1;
        if let Some(told) = self.acked.get(&placed.name).filter(|told| **told != base) {
            return Err(format!("DUPLICATED: {placed:?} at {base}, told at {told}"));
        }
        match self.placed.insert(base, placed) {
            Some(before) if before != placed => {
                Err(format!("at {base} stands {placed:?}, and there stood {before:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The whole log of a member, once all is well again: each batch once, and each
    /// producer's in the order of its sequences.
    ///
    /// # Errors
    /// Something is lost, twice there, or in disorder.
    pub fn settle(&mut self, start: Offset, log: &[(Offset, Placed)]) -> Result<(), String> {
        if start > self.trimmed {
            return Err(format!("LOST: the log begins at {start}, trimmed to {}", self.trimmed));
        }
        let mut last: BTreeMap<i64, i32> = BTreeMap::new();
        let mut there = BTreeMap::new();
        for (base, placed) in log {
            self.show(*base, *placed)?;
            let (producer, sequence) = placed.name;
            if last.insert(producer, sequence).is_some_and(|before| before >= sequence) {
                return Err(format!("REORDERED or DUPLICATED: {placed:?} at {base}"));
            }
            there.insert(placed.name, *base);
        }
        let lost = self.acked.iter().find(|(name, base)| {
            **base >= self.trimmed.max(start) && there.get(*name) != Some(*base)
        });
        lost.map_or(Ok(()), |(name, base)| Err(format!("LOST: {name:?} acknowledged at {base}")))
    }
}
