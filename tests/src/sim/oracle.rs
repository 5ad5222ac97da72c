//! What must be true, from the clients' own books: never asked of the node, only held against it.

use std::collections::BTreeMap;

use catena_format::{BATCH_HEADER_BYTES, BatchHeader, records::Records};

/// A record's name: its producer, and its number among that producer's records.
pub type Name = (u32, u64);

/// The books of one partition.
#[derive(Debug, Default)]
struct Books {
    /// What stands at an offset, once anybody was told.
    at: BTreeMap<u64, Name>,
    /// Where a record stands, once anybody was told.
    of: BTreeMap<Name, u64>,
    acked: BTreeMap<Name, u64>,
    log_start: u64,
    high_watermark: u64,
    /// What was said to be damaged: where, and up to where.
    damaged: BTreeMap<u64, u64>,
}

/// The books of all partitions.
#[derive(Debug, Default)]
pub struct Oracle {
    books: BTreeMap<u32, Books>,
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
    /// A receipt: records `first..first + count` of `client` stand at `offset` and behind.
    ///
    /// # Errors
    /// Says what was broken.
    pub fn acked(
        &mut self,
        partition: u32,
        client: u32,
        first: u64,
        count: u64,
        offset: u64,
    ) -> Result<(), String> {
        self.acked_batches += 1;
        let books = self.books.entry(partition).or_default();
        for at in 0..count {
            let name = (client, first + at);
            books.place(name, offset + at)?;
            books.acked.insert(name, offset + at);
        }
        Ok(())
    }

    /// A fetch brought batches; tells which records, and where.
    ///
    /// # Errors
    /// Says what was broken.
    pub fn fetched(
        &mut self,
        partition: u32,
        mut bytes: &[u8],
    ) -> Result<Vec<(u64, Name)>, String> {
        let books = self.books.entry(partition).or_default();
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
            for record in Records::new(records, header.count, header.base_timestamp) {
                let record = record.map_err(|e| e.to_string())?;
                let stored = record.value.ok_or("a null value that nobody sent")?;
                let name = name_of(stored).ok_or("a record that nobody sent")?;
                if stored != value(name) {
                    return Err(format!("record {name:?} came back changed"));
                }
                let offset = base + u64::from(record.offset_delta);
                books.place(name, offset)?;
                read.push((offset, name));
                self.checked += 1;
            }
            bytes = rest;
        }
        Ok(read)
    }

    /// The log start and high watermark that somebody was told last.
    #[must_use]
    pub fn told(&self, partition: u32) -> (u64, u64) {
        self.books.get(&partition).map_or((0, 0), |books| (books.log_start, books.high_watermark))
    }

    /// A response told the log start and the high watermark; `told` is what was known when it was
    /// asked for.
    ///
    /// # Errors
    /// When either went back.
    pub fn bounds(
        &mut self,
        partition: u32,
        told: (u64, u64),
        log_start: u64,
        high: u64,
    ) -> Result<(), String> {
        let books = self.books.entry(partition).or_default();
        // The last group before a crash may be gone with its traces.
        if high < told.1 && !self.decayed {
            let before = told.1;
            return Err(format!("partition {partition}: high watermark {before} became {high}"));
        }
        if log_start < told.0 {
            let before = told.0;
            return Err(format!("partition {partition}: log start {before} became {log_start}"));
        }
        books.high_watermark = books.high_watermark.max(high);
        books.log_start = books.log_start.max(log_start);
        Ok(())
    }

    /// After everything was read from the log start to the high watermark: `read` is what stood
    /// there. `cut`: where a log with a wounded disk ends, behind which records may be gone.
    ///
    /// # Errors
    /// Names the first record that is lost, twice there or out of order.
    pub fn settle(
        &mut self,
        partition: u32,
        cut: Option<u64>,
        read: &BTreeMap<u64, Name>,
    ) -> Result<(), String> {
        let Some(books) = self.books.get(&partition) else { return Ok(()) };
        for (name, offset) in &books.acked {
            if *offset >= books.log_start && read.get(offset) != Some(name) {
                let before = books.damaged.range(..=*offset).next_back();
                if before.is_some_and(|(_, next)| offset < next) {
                    self.reported += 1;
                    continue;
                }
                if self.decayed && cut.is_some_and(|cut| *offset >= cut) {
                    self.cut += 1;
                    continue;
                }
                let there = read.get(offset);
                return Err(format!(
                    "partition {partition}: acknowledged record {name:?} is not at {offset}, \
                     there is {there:?}"
                ));
            }
        }
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for (offset, (client, number)) in read {
            if last.insert(*client, *number).is_some_and(|before| before >= *number) {
                return Err(format!(
                    "partition {partition}: record {number} of client {client} at {offset} comes \
                     after a later one, or twice"
                ));
            }
        }
        Ok(())
    }

    /// A response told that nothing can be read from `offset` to `next`.
    ///
    /// # Errors
    /// When the disk has kept everything.
    pub fn damaged(&mut self, partition: u32, offset: u64, next: u64) -> Result<(), String> {
        if !self.decayed || next <= offset {
            return Err(format!("partition {partition}, offset {offset} to {next}: damaged"));
        }
        let books = self.books.entry(partition).or_default();
        let known = books.damaged.entry(offset).or_insert(next);
        *known = next.max(*known);
        Ok(())
    }
}

impl Books {
    fn place(&mut self, name: Name, offset: u64) -> Result<(), String> {
        if let Some(there) = self.at.insert(offset, name).filter(|there| *there != name) {
            return Err(format!("offset {offset} held {there:?} and now holds {name:?}"));
        }
        if let Some(there) = self.of.insert(name, offset).filter(|there| *there != offset) {
            return Err(format!("record {name:?} stands at {there} and at {offset}"));
        }
        Ok(())
    }
}
