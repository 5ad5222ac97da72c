//! What must be true, from the clients' own books: never asked of the node, only held against it.
//!
//! ```text
//! sent: what each batch holds, for whom ─┐
//! topics: asked to go, gone ─────────────┼─► books of a partition: what stands where, what is
//! wall: what the clock showed when ──────┘   promised, where the log begins and ends
//! shelf: what logs asked the disk to keep ─► what a disk that decayed must still give
//! ```

mod books;
mod shelf;
mod topics;

use std::collections::BTreeMap;

use catena_format::{BATCH_HEADER_BYTES, BatchHeader, Epoch, TopicId, records::Records};
use catena_wire::Durability;

pub use self::shelf::{Kept, Shelf};
use self::{books::Books, topics::Topics};
use super::{
    deeds::{Counts, Deed},
    wall::Wall,
};

/// A record's name: its producer, and its number among that producer's records.
pub type Name = (u32, u64);

/// A partition of one incarnation of the topic.
pub type Part = (TopicId, u32);

/// A batch as its producer made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// For which partition.
    pub part: Part,
    /// Its first record.
    pub first: Name,
    /// How many.
    pub count: u32,
    /// The greatest of their times, in milliseconds.
    pub latest_ms: i64,
}

/// A batch in the books.
#[derive(Debug)]
struct Sent {
    batch: Batch,
    sent_ns: u64,
    /// Nobody knows yet whether it is stored.
    open: bool,
    /// Its condition did not hold: nothing of it may ever be seen.
    refused: bool,
}

/// What a receipt says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Where the first record stands.
    pub offset: u64,
    /// Of the partition.
    pub epoch: Epoch,
    /// The level that was asked for.
    pub asked: Durability,
    /// The level that was reached.
    pub level: Durability,
    /// The offsets may still be given to others.
    pub tentative: bool,
    /// Copies on disks.
    pub copies: u8,
    /// When it was appended, by the node's clock; of a batch stored before that is not told.
    pub append_ms: Option<i64>,
}

/// When the log may drop what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// By age.
    pub ms: Option<i64>,
    /// By size.
    pub by_bytes: bool,
}

/// The books of all partitions.
#[derive(Debug, Default)]
pub struct Oracle {
    books: BTreeMap<Part, Books>,
    sent: BTreeMap<Name, Sent>,
    /// The present producer id of each producer.
    ids: BTreeMap<u32, i64>,
    /// Which topics are there.
    pub topics: Topics,
    /// The time, as clients see it.
    pub now_ns: u64,
    /// The node's clock.
    pub wall: Wall,
    /// There are several nodes: copies may be behind each other, and what not all of them have on
    /// disk may be lost with one of them.
    cluster: bool,
    /// Of every topic.
    retention: Retention,
    /// What was done.
    pub deeds: Counts,
    /// Batches acknowledged.
    pub acked_batches: u64,
    /// Records compared with what was sent.
    pub checked: u64,
    /// The disk has lost or spoilt what it had acknowledged: records may be damaged, if that is
    /// said.
    pub decayed: bool,
    /// Acknowledged records that were said to be damaged.
    pub reported: u64,
    /// Acknowledged records at the very end that cannot be told from ones that were never written.
    pub cut: u64,
}

/// The bytes of a record, a function of its name.
#[must_use]
pub fn value(name: Name) -> Vec<u8> {
    let (client, number) = name;
    let mut value = Vec::new();
    value.extend_from_slice(&client.to_le_bytes());
    value.extend_from_slice(&number.to_le_bytes());
    let mix = (number ^ u64::from(client) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = match mix >> 56 {
        0 => 20_000,
        1..=20 => (mix >> 40) % 5_000,
        _ => (mix >> 40) % 400,
    };
    value.extend((0..length).map(|at| (mix >> (at % 57)) as u8));
    value
}

fn name_of(value: &[u8]) -> Option<Name> {
    let client = value.get(0..4)?.try_into().ok().map(u32::from_le_bytes)?;
    let number = value.get(4..12)?.try_into().ok().map(u64::from_le_bytes)?;
    Some((client, number))
}

impl Oracle {
    /// Empty books of topics that may drop what they hold so.
    #[must_use]
    pub fn new(retention: Retention, nodes: u16) -> Self {
        Self { retention, cluster: nodes > 1, ..Self::default() }
    }

    /// Whether there are several nodes.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// Counts a deed.
    pub fn did(&mut self, deed: Deed) {
        *self.deeds.entry(deed.name()).or_insert(0) += 1;
    }

    /// A batch is made.
    pub fn made(&mut self, batch: Batch) {
        let sent_ns = self.now_ns;
        self.sent.insert(batch.first, Sent { batch, sent_ns, open: true, refused: false });
        self.books.entry(batch.part).or_default().open += u64::from(batch.count);
    }

    /// A batch is sent, once more maybe: where it stood if it was lost means nothing any more.
    pub fn attempted(&mut self, batch: &Batch) {
        let books = self.books.entry(batch.part).or_default();
        for at in 0..u64::from(batch.count) {
            books.doubtful.remove(&(batch.first.0, batch.first.1 + at));
        }
    }

    /// A producer goes by another id from now on, or by none.
    pub fn identity(&mut self, client: u32, id: Option<i64>) {
        match id {
            Some(id) => self.ids.insert(client, id),
            None => self.ids.remove(&client),
        };
        for books in self.books.values_mut() {
            books.shaken.remove(&client);
        }
    }

    /// Whether that is a producer's present id.
    #[must_use]
    pub fn is_identity(&self, client: u32, id: i64) -> bool {
        self.ids.get(&client) == Some(&id)
    }

    fn settle_open(&mut self, first: Name) {
        let Some(sent) = self.sent.get_mut(&first).filter(|sent| sent.open) else { return };
        sent.open = false;
        let (part, count) = (sent.batch.part, u64::from(sent.batch.count));
        self.books.entry(part).or_default().open -= count;
    }

    /// The batch that holds a record.
    fn batch_of(&self, name: Name) -> Option<&Sent> {
        let (first, sent) = self.sent.range(..=name).next_back()?;
        let within = first.0 == name.0 && name.1 < first.1 + u64::from(sent.batch.count);
        within.then_some(sent)
    }

    /// A receipt.
    ///
    /// # Errors
    /// Says what was broken.
    pub fn acked(&mut self, batch: &Batch, receipt: &Receipt) -> Result<(), String> {
        let disk = |level| matches!(level, Durability::HeadDisk | Durability::ChainDisk);
        let durable = disk(receipt.level);
        if disk(receipt.asked) && !durable
            || durable != (receipt.copies > 0)
            || receipt.tentative != (receipt.level != Durability::ChainDisk)
        {
            return Err(format!("a receipt that does not keep its word: {receipt:?}"));
        }
        let sent = self.sent.get(&batch.first).filter(|sent| sent.batch == *batch);
        let sent =
            sent.ok_or_else(|| format!("a receipt for {batch:?}, which is not in the books"))?;
        if sent.refused {
            return Err(format!("{batch:?} was refused and is stored"));
        }
        let least_ms = self.wall.least_ms(sent.sent_ns);
        let shown = least_ms..=self.wall.most_ms(self.now_ns);
        if receipt.append_ms.is_some_and(|ms| !shown.contains(&ms)) {
            return Err(format!("{receipt:?}, and the clock showed {shown:?}"));
        }
        self.epoch(batch.part, receipt.epoch)?;
        self.acked_batches += 1;
        let durable = durable && !(self.cluster && receipt.tentative);
        let books = self.books.entry(batch.part).or_default();
        if receipt.tentative && receipt.epoch < books.least_epoch {
            books.shaken.insert(batch.first.0);
            self.did(Deed::WeaklyAcked);
            return Ok(());
        }
        self.settle_open(batch.first);
        let books = self.books.entry(batch.part).or_default();
        for at in 0..u64::from(batch.count) {
            let (name, offset) = ((batch.first.0, batch.first.1 + at), receipt.offset + at);
            if durable {
                books.promise(name, offset, least_ms)?;
            } else {
                books.hope(name, offset, least_ms)?;
            }
        }
        let next = receipt.offset + u64::from(batch.count);
        if durable {
            receipt.append_ms.map_or(Ok(()), |ms| books.appended(receipt.offset, ms))?;
            books.durable_to(next)?;
        } else {
            self.did(Deed::WeaklyAcked);
        }
        Ok(())
    }

    /// A response told the epoch of a partition.
    ///
    /// # Errors
    /// When the node had it in an earlier life, or has another one in this.
    pub fn epoch(&mut self, part: Part, epoch: Epoch) -> Result<(), String> {
        if self.cluster {
            return Ok(());
        }
        let books = self.books.entry(part).or_default();
        let now = *books.epoch.get_or_insert(epoch);
        if books.past_epoch >= Some(epoch) || now != epoch {
            let past = books.past_epoch;
            return Err(format!("{part:?}: epoch {epoch}, it was {now} and before {past:?}"));
        }
        Ok(())
    }

    /// Behind the last record of which it is promised that it stays.
    #[must_use]
    pub fn promised_end(&self, part: Part) -> u64 {
        self.books.get(&part).map_or(0, |books| books.promised)
    }

    /// What a condition is held against: the least that the log's end may be.
    #[must_use]
    pub fn least_end(&self, part: Part) -> u64 {
        self.books.get(&part).map_or(0, Books::least_end)
    }

    /// A condition did not hold: the log was said to end at `end` and not at `expected`. When it
    /// was sent the log ended at `least` or behind.
    ///
    /// # Errors
    /// When it must have held, or the batch was seen.
    pub fn refused(
        &mut self,
        batch: &Batch,
        expected: u64,
        least: u64,
        end: u64,
    ) -> Result<(), String> {
        let books = self.books.entry(batch.part).or_default();
        let most = books.least_end() + books.open;
        if end == expected || (!self.decayed && !(least..=most).contains(&end)) {
            return Err(format!(
                "{batch:?} expected {expected} and was refused: the log is said to end at {end}, \
                 and ended between {least} and {most}"
            ));
        }
        if books.of.contains_key(&batch.first) {
            return Err(format!("{batch:?} was refused and is stored"));
        }
        Ok(())
    }

    /// Nothing of a batch may ever be seen: every attempt was refused.
    pub fn never(&mut self, batch: &Batch) {
        self.settle_open(batch.first);
        if let Some(sent) = self.sent.get_mut(&batch.first) {
            sent.refused = true;
        }
    }

    /// A fetch brought batches; tells which records, and where.
    ///
    /// # Errors
    /// Says what was broken.
    pub fn fetched(&mut self, part: Part, mut bytes: &[u8]) -> Result<Vec<(u64, Name)>, String> {
        let (mut next, mut read) = (0, Vec::new());
        while !bytes.is_empty() {
            let header = BatchHeader::parse(bytes).map_err(|e| format!("a fetched batch: {e}"))?;
            let (batch, rest) = bytes.split_at(header.length);
            header.verify(batch).map_err(|e| format!("a fetched batch: {e}"))?;
            let base = header.stored_offset().map_err(|e| e.to_string())?.get();
            if next != 0 && base != next {
                return Err(format!("offset {base} follows {next} in one fetch"));
            }
            next = base + u64::from(header.count);
            let records = &batch[BATCH_HEADER_BYTES..];
            let mut names = Vec::new();
            for record in Records::new(records, header.count, header.base_timestamp) {
                let record = record.map_err(|e| e.to_string())?;
                let stored = record.value.ok_or("a null value that nobody sent")?;
                let name = name_of(stored).ok_or("a record that nobody sent")?;
                if stored != value(name) {
                    return Err(format!("record {name:?} came back changed"));
                }
                names.push((base + u64::from(record.offset_delta), name));
            }
            self.saw(part, &names)?;
            read.append(&mut names);
            bytes = rest;
        }
        Ok(read)
    }

    /// A batch was read: it is one that was sent there, whole.
    fn saw(&mut self, part: Part, names: &[(u64, Name)]) -> Result<(), String> {
        let (_, first) = *names.first().ok_or("a batch of nothing")?;
        let sent = self.sent.get(&first);
        let sent = sent.ok_or_else(|| format!("a batch begins with {first:?}, and none did"))?;
        let whole = (first.1..).take(sent.batch.count as usize).map(|number| (first.0, number));
        if !whole.eq(names.iter().map(|(_, name)| *name)) {
            return Err(format!("{:?} came back as {names:?}", sent.batch));
        }
        if sent.batch.part != part {
            return Err(format!("{:?} was read in {part:?}", sent.batch));
        }
        if sent.refused {
            return Err(format!("{:?} was refused and is stored", sent.batch));
        }
        self.settle_open(first);
        let books = self.books.entry(part).or_default();
        for (offset, name) in names {
            books.kept(*offset)?;
            books.place(*name, *offset)?;
        }
        self.checked += names.len() as u64;
        Ok(())
    }

    /// The latest time of the records of a batch somewhere, if that is known.
    #[must_use]
    pub fn time_at(&self, part: Part, offset: u64) -> Option<i64> {
        let name = self.books.get(&part)?.at.get(&offset)?;
        self.batch_of(*name).map(|sent| sent.batch.latest_ms)
    }

    /// The log start and high watermark that somebody was told last; `None`: of several copies each
    /// has its own.
    #[must_use]
    pub fn told(&self, part: Part) -> Option<(u64, u64)> {
        let told = |books: &Books| (books.log_start, books.high_watermark);
        (!self.cluster).then(|| self.books.get(&part).map_or((0, 0), told))
    }

    /// Somebody asks for the log start to be raised.
    pub fn trims(&mut self, part: Part, to: u64) {
        let books = self.books.entry(part).or_default();
        books.trimmed = books.trimmed.max(to);
    }

    /// A response told the log start and the high watermark; `told` is what was known when it was
    /// asked for.
    ///
    /// # Errors
    /// When either went back, or the log start moved without a reason.
    pub fn bounds(
        &mut self,
        part: Part,
        told: (u64, u64),
        log_start: u64,
        high: u64,
    ) -> Result<(), String> {
        // The last group before a crash may be gone with its traces.
        if high < told.1 && !self.decayed {
            return Err(format!("{part:?}: high watermark {} became {high}", told.1));
        }
        self.log_start(part, told.0, log_start)?;
        self.books.entry(part).or_default().durable_to(high)
    }

    /// A response told the log start; see [`Oracle::bounds`].
    ///
    /// # Errors
    /// When it went back, or moved without a reason.
    pub fn log_start(&mut self, part: Part, told: u64, log_start: u64) -> Result<(), String> {
        if log_start < told {
            return Err(format!("{part:?}: log start {told} became {log_start}"));
        }
        let books = self.books.entry(part).or_default();
        let before = books.log_start;
        books.log_start = before.max(log_start);
        let from = before.max(books.trimmed);
        if log_start <= from || self.retention.by_bytes || self.decayed {
            return Ok(());
        }
        let most_ms = self.wall.most_ms(self.now_ns);
        let kept = self.retention.ms.map_or(i64::MIN, |age| most_ms - age);
        if let Some((offset, ms)) = books.times.range(from..log_start).find(|(_, ms)| **ms >= kept)
        {
            return Err(format!(
                "{part:?}: log start {before} became {log_start}, though what stands at {offset} \
                 was appended at {ms} or later, and it never was later than {most_ms}"
            ));
        }
        if self.retention.ms.is_none() {
            return Err(format!("{part:?}: log start {before} became {log_start} by itself"));
        }
        self.did(Deed::Expired);
        Ok(())
    }

    /// A response told that nothing can be read from `offset` to `next`.
    ///
    /// # Errors
    /// When the disk has kept everything.
    pub fn damaged(&mut self, part: Part, offset: u64, next: u64) -> Result<(), String> {
        if !self.decayed || next <= offset {
            return Err(format!("{part:?}, offset {offset} to {next}: damaged"));
        }
        let books = self.books.entry(part).or_default();
        let known = books.damaged.entry(offset).or_insert(next);
        *known = next.max(*known);
        Ok(())
    }

    /// The node has died: what it had only in memory may be gone.
    pub fn crashed(&mut self) {
        self.books.values_mut().for_each(|books| books.crashed(self.cluster));
    }

    /// A node has died or given up a copy, or is believed to: what it had alone may be gone. From
    /// this epoch on that is over.
    pub fn disturbed(&mut self, part: Part, epoch: Epoch) {
        let books = self.books.entry(part).or_default();
        if books.least_epoch < epoch {
            books.least_epoch = epoch;
            books.crashed(self.cluster);
        }
    }

    /// Whether something may be lost that a producer was told to have written.
    #[must_use]
    pub fn may_have_lost(&self, part: Part, client: u32) -> bool {
        self.books.get(&part).is_some_and(|books| books.shaken.contains(&client))
    }

    /// What was asked for by time was said to stand at `found`, or to be nowhere. `high`: the high
    /// watermark when it was asked for; `log_start`: one that was told later.
    ///
    /// # Errors
    /// Names a batch before it that is as late, or says that there is none at it.
    pub fn timed(
        &self,
        part: Part,
        time_ms: i64,
        found: Option<u64>,
        high: u64,
        log_start: u64,
    ) -> Result<(), String> {
        let Some(books) = self.books.get(&part).filter(|_| !self.decayed) else { return Ok(()) };
        let end = found.unwrap_or(high).min(high);
        for (offset, name) in books.at.range(log_start.min(end)..end) {
            let late = self.batch_of(*name).filter(|sent| sent.batch.latest_ms >= time_ms);
            if let Some(sent) = late {
                return Err(format!(
                    "{part:?}: {found:?} is said to be the first of {time_ms} or later, and at \
                     {offset} stands {:?}",
                    sent.batch
                ));
            }
        }
        let there = found.filter(|found| *found >= log_start).and_then(|at| books.at.get(&at));
        let batch = there.and_then(|name| self.batch_of(*name).map(|sent| (*name, sent.batch)));
        match batch {
            // Only where the log begins an answer may lie within a batch.
            Some((name, batch))
                if batch.latest_ms < time_ms
                    || (batch.first != name && found != Some(log_start)) =>
            {
                Err(format!("{part:?}: {found:?} is said to be of {time_ms} or later: {batch:?}"))
            }
            _ => Ok(()),
        }
    }

    /// After everything was read from the log start to the high watermark: `read` is what stood
    /// there. `cut`: where a log with a wounded disk ends, behind which records may be gone.
    /// `kept`: what the disk had of it when its last life began.
    ///
    /// # Errors
    /// Names the first record that is lost, twice there or out of order.
    pub fn settle(
        &mut self,
        part: Part,
        cut: Option<u64>,
        kept: &Kept,
        read: &BTreeMap<u64, Name>,
    ) -> Result<(), String> {
        let Some(books) = self.books.get(&part) else { return Ok(()) };
        for (name, offset) in &books.acked {
            if *offset >= books.log_start && read.get(offset) != Some(name) {
                // What is said later may reach further, and begin before.
                let mut said = books.damaged.range(..=*offset);
                if said.any(|(_, next)| offset < next) && !kept.holds(*offset) {
                    self.reported += 1;
                    continue;
                }
                let cut = cut.filter(|_| self.decayed && !kept.proves(*offset));
                if cut.is_some_and(|cut| *offset >= cut) {
                    self.cut += 1;
                    continue;
                }
                let there = read.get(offset);
                return Err(format!(
                    "{part:?}: acknowledged record {name:?} is not at {offset}, there is {there:?}"
                ));
            }
        }
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for (offset, (client, number)) in read {
            if last.insert(*client, *number).is_some_and(|before| before >= *number) {
                return Err(format!(
                    "{part:?}: record {number} of client {client} at {offset} comes after a later \
                     one, or twice"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use catena_format::{
        Millis, ProducerEpoch, ProducerId, Sequence,
        records::{BatchBuilder, Producer},
    };

    use super::*;

    const PART: Part = (TopicId::new(1), 0);
    const OTHER: Part = (TopicId::new(2), 0);

    /// So many records of client 7, from the first on.
    fn stored(count: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for number in 0..count {
            builder.push(Millis::new(0), None, Some(&value((7, number))), &[]);
        }
        let (id, epoch) = (ProducerId::new(1), ProducerEpoch::new(0));
        builder.build(Producer { id, epoch, sequence: Sequence::new(0) }).unwrap()
    }

    fn books() -> (Oracle, Batch) {
        let mut oracle = Oracle::default();
        let batch = Batch { part: PART, first: (7, 0), count: 3, latest_ms: 0 };
        oracle.made(batch);
        (oracle, batch)
    }

    #[test]
    fn what_is_read_is_a_batch_that_was_sent_there_whole() {
        let (mut oracle, batch) = books();
        assert!(oracle.fetched(PART, &stored(2)).unwrap_err().contains("came back as"));
        assert!(oracle.fetched(OTHER, &stored(3)).unwrap_err().contains("was read in"));
        assert_eq!(oracle.fetched(PART, &stored(3)).unwrap().len(), 3);
        oracle.never(&batch);
        assert!(oracle.fetched(PART, &stored(3)).unwrap_err().contains("was refused"));
    }

    #[test]
    fn what_only_memory_had_may_be_lost_in_a_crash_and_not_otherwise() {
        let receipt = Receipt {
            offset: 0,
            epoch: Epoch::new(1),
            asked: Durability::None,
            level: Durability::None,
            tentative: true,
            copies: 0,
            append_ms: None,
        };
        for crashes in [false, true] {
            let (mut oracle, batch) = books();
            oracle.acked(&batch, &receipt).unwrap();
            if crashes {
                oracle.crashed();
            }
            assert_eq!(oracle.may_have_lost(PART, 7), crashes);
            oracle.bounds(PART, (0, 0), 0, 3).unwrap();
            assert_eq!(
                oracle.settle(PART, None, &Kept::default(), &BTreeMap::new()).is_ok(),
                crashes
            );
        }
    }

    #[test]
    fn a_condition_that_held_cannot_be_refused() {
        let (mut oracle, batch) = books();
        oracle.bounds(PART, (0, 0), 0, 5).unwrap();
        // Three records are on their way: the log ends between 5 and 8.
        assert!(oracle.refused(&batch, 5, 5, 5).is_err());
        assert!(oracle.refused(&batch, 5, 5, 9).is_err());
        assert!(oracle.refused(&batch, 4, 5, 4).is_err());
        assert!(oracle.refused(&batch, 4, 5, 8).is_ok());
    }
}
