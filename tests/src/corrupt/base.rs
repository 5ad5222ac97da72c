//! A node's directory with everything in it that a node has, and the books of what was
//! acknowledged.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use catena_client::{
    Client, Compression, Error, NewRecord, ProducerOptions, Setting,
    format::{Offset, PartitionIndex, TopicId},
};
use tempfile::TempDir;

use crate::{
    live::{Server, value},
    sim::random::Random,
};

/// How a topic is made and filled.
struct Plan {
    name: &'static str,
    partitions: u32,
    segment_bytes: u64,
    value_bytes_max: u64,
    compression: Compression,
    /// Batches of each partition in each life.
    batches: u64,
    records_max: u64,
    trimmed: bool,
}

const PLANS: [Plan; 3] = [
    Plan {
        name: "small",
        partitions: 2,
        segment_bytes: 64 << 10,
        value_bytes_max: 700,
        compression: Compression::None,
        batches: 30,
        records_max: 6,
        trimmed: false,
    },
    Plan {
        name: "large",
        partitions: 1,
        segment_bytes: 512 << 10,
        value_bytes_max: 60_000,
        compression: Compression::Lz4,
        batches: 14,
        records_max: 3,
        trimmed: false,
    },
    Plan {
        name: "trimmed",
        partitions: 1,
        segment_bytes: 64 << 10,
        value_bytes_max: 9000,
        compression: Compression::None,
        batches: 40,
        records_max: 2,
        trimmed: true,
    },
];

/// Lives of the node that fill it.
const LIVES: u64 = 3;

/// What is known of a partition.
#[derive(Clone, Debug)]
pub(super) struct Books {
    pub(super) name: &'static str,
    pub(super) topic: TopicId,
    pub(super) partition: u32,
    /// Its name on disk.
    pub(super) uid: u64,
    /// The number of every acknowledged record, by offset.
    pub(super) records: BTreeMap<u64, u64>,
    /// The last log start that a trim brought.
    pub(super) start: u64,
    pub(super) value_bytes_max: u64,
    pub(super) seed: u64,
}

impl Books {
    pub(super) fn value(&self, number: u64) -> Vec<u8> {
        value(self.seed, number, self.value_bytes_max)
    }

    /// The offset after the last acknowledged record.
    pub(super) fn end(&self) -> u64 {
        self.records.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }
}

/// A directory to corrupt copies of.
pub(super) struct Base {
    folder: TempDir,
    pub(super) books: Vec<Books>,
    /// Copies of the directory at earlier times, the oldest first.
    pub(super) older: Vec<PathBuf>,
    /// Batches that were acknowledged.
    pub(super) acked: u64,
    /// The last life was ended in order, and not killed.
    pub(super) stopped: bool,
}

impl Base {
    /// Fills a directory below `scratch`, as `seed` says.
    pub(super) fn build(binary: &Path, scratch: &Path, seed: u64) -> Result<Self, String> {
        let folder = TempDir::new_in(scratch).map_err(|error| error.to_string())?;
        let mut base =
            Self { folder, books: Vec::new(), older: Vec::new(), acked: 0, stopped: false };
        let mut random = Random::new(seed).stream("base");
        for life in 0..LIVES {
            let cores = if random.chance(500_000) { "1" } else { "2" };
            let options = ["--cores", cores, "--set", "storage.checkpoint=256KiB"];
            let mut server = Server::start(binary, base.folder.path(), "127.0.0.1:0", &options)
                .map_err(|ended| ended.to_string())?;
            base.live(&server, seed, life, &mut random)
                .map_err(|error| format!("{error}\n{}", server.log()))?;
            // A kill at once may come before the mark that proves the last batch.
            base.stopped = random.chance(500_000);
            if base.stopped {
                server.stop()?
            } else {
                server.kill()
            }
            if life + 1 < LIVES {
                base.remember(&format!("after{life}"))?;
            }
        }
        Ok(base)
    }

    /// The node's directory.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn remember(&mut self, name: &str) -> Result<(), String> {
        let copy = self.folder.path().join(name);
        copy_tree(&self.data(), &copy).map_err(|error| error.to_string())?;
        self.older.push(copy);
        Ok(())
    }

    fn live(
        &mut self,
        server: &Server,
        seed: u64,
        life: u64,
        random: &mut Random,
    ) -> Result<(), String> {
        let failed = |error: Error| format!("life {life} of the base: {error}");
        let mut client = server.client();
        if life == 0 {
            self.found(&mut client, seed).map_err(failed)?;
        }
        for half in 0..2 {
            for plan in &PLANS {
                self.fill(&mut client, plan, random).map_err(failed)?;
            }
            if half == 0 {
                self.change(&mut client, life).map_err(failed)?;
                // While the server runs, and waits: a segment that grows later is shorter here.
                self.remember(&format!("within{life}"))?;
            }
        }
        Ok(())
    }

    fn found(&mut self, client: &mut Client, seed: u64) -> Result<(), Error> {
        client.create_topic("gone", 2, Vec::new())?;
        for plan in &PLANS {
            let bytes = plan.segment_bytes.to_string();
            let set = vec![Setting { key: "segment.bytes".into(), value: bytes.into() }];
            client.create_topic(plan.name, plan.partitions, set)?;
            let topic = client.topic(plan.name)?;
            self.books.extend(topic.partitions.iter().map(|partition| Books {
                name: plan.name,
                topic: topic.id,
                partition: partition.index.get(),
                uid: partition.uid.get(),
                records: BTreeMap::new(),
                start: 0,
                value_bytes_max: plan.value_bytes_max,
                seed,
            }));
        }
        client.delete_topic("gone")
    }

    /// Half of a life's batches of a topic, each acknowledged before the next is made.
    fn fill(&mut self, client: &mut Client, plan: &Plan, random: &mut Random) -> Result<(), Error> {
        let options = ProducerOptions { compression: plan.compression, ..Default::default() };
        let producer = client.producer(plan.name, options)?;
        for books in self.books.iter_mut().filter(|books| books.name == plan.name) {
            for _ in 0..plan.batches / 2 {
                let mut tickets = Vec::new();
                for _ in 0..=random.below(plan.records_max) {
                    let number = random.bits();
                    let value = books.value(number);
                    let partition = PartitionIndex::new(books.partition);
                    let record = NewRecord::value(&value).with_partition(partition);
                    tickets.push((number, producer.append(&record)?));
                }
                self.acked += 1;
                producer.flush()?;
                for (number, ticket) in tickets {
                    let receipt = ticket.outcome().expect("all is flushed")?;
                    books.records.insert(ticket.offset_in(&receipt).get(), number);
                }
            }
        }
        producer.close()
    }

    /// Trims, and changes settings, so that there are dropped segments and entries of the catalog.
    fn change(&mut self, client: &mut Client, life: u64) -> Result<(), Error> {
        for plan in PLANS.iter().filter(|plan| plan.trimmed && life > 0) {
            for books in self.books.iter_mut().filter(|books| books.name == plan.name) {
                let to = Offset::new(books.end() / 2);
                let partition = PartitionIndex::new(books.partition);
                books.start = client.trim(books.topic, partition, to)?.get();
            }
        }
        let value = (86_400_000 + life).to_string().into();
        client.alter_topic("small", vec![Setting { key: "segment.ms".into(), value }], vec![])?;
        client.alter_topic("small", Vec::new(), vec!["segment.ms".to_owned()])
    }
}

/// Copies a directory with all that is in it.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &copy)?;
        } else if let Err(error) = fs::copy(&source, &copy)
            // A running server may have removed it meanwhile.
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}
