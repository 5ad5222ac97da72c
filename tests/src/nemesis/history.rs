//! What producers were told and consumers polled, judged in linear time.
//!
//! Of every record it is known who sent it as which one of its partition. What must hold: what was
//! acknowledged is there at the end, once, at the offset that was told; what was refused is not;
//! records of a producer are in their order; an offset never holds two records, whoever looks and
//! whenever; a consumer sees every offset once, in order, up to the end.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// A record: who sent it, and its number among those of that producer in its partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Record {
    /// The producer.
    pub who: u32,
    /// Its number.
    pub number: u32,
}

/// A value that no producer wrote.
pub const GARBLED: Record = Record { who: u32::MAX, number: u32::MAX };

impl Record {
    /// What it holds: its name, and up to 255 bytes more that follow from it.
    #[must_use]
    pub fn value(self) -> Vec<u8> {
        let mut value = format!("{self}:").into_bytes();
        let bytes = self.number.wrapping_mul(0x9e37_79b9) >> 24;
        value.extend((0..bytes).map(|at| (at ^ self.number) as u8));
        value
    }

    /// The record whose value this is; [`GARBLED`] if there is none.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        let name = value.split(|byte| *byte == b':').next().unwrap_or_default();
        let numbers = std::str::from_utf8(name).ok().and_then(|name| name.split_once('/'));
        let record = numbers.and_then(|(who, number)| {
            Some(Self { who: who.parse().ok()?, number: number.parse().ok()? })
        });
        record.filter(|record| record.value() == value).unwrap_or(GARBLED)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.who, self.number)
    }
}

/// What a producer was told of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is stored, at this offset if that was told.
    Stored(Option<u64>),
    /// It is not stored.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Records of a partition with their offsets, in the order in which they came.
pub type Read = Vec<(u64, Record)>;

/// What happened, by partition.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// What each producer was told of its records, by their numbers.
    pub sent: BTreeMap<u32, Vec<Fate>>,
    /// What each consumer polled.
    pub polled: Vec<Read>,
    /// All that was there at the end.
    pub kept: Read,
    /// Its end, as one client after the other was told it; each in order.
    pub ends: Vec<Vec<u64>>,
}

/// A way to break a promise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Anomaly {
    /// Acknowledged, and not there.
    Lost,
    /// There more than once.
    Duplicated,
    /// An offset with two records, or a record elsewhere than where it was acknowledged.
    Inconsistent,
    /// Refused, and seen.
    Aborted,
    /// Nobody sent it.
    Phantom,
    /// Behind one that its producer sent later.
    Reordered,
    /// A consumer was given an offset again, or an earlier one.
    Backward,
    /// A consumer was not given an offset.
    Skipped,
    /// The end of a partition came earlier than the same client was told before.
    EndBack,
    /// There at the end, and a consumer that had time never saw it.
    Unseen,
    /// A node panicked.
    Panicked,
    /// A producer was never told what became of a record.
    Hung,
}

impl Anomaly {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Lost,
        Self::Duplicated,
        Self::Inconsistent,
        Self::Aborted,
        Self::Phantom,
        Self::Reordered,
        Self::Backward,
        Self::Skipped,
        Self::EndBack,
        Self::Unseen,
        Self::Panicked,
        Self::Hung,
    ];

    /// Its name in a line of figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Inconsistent => "inconsistent",
            Self::Aborted => "aborted",
            Self::Phantom => "phantom",
            Self::Reordered => "reordered",
            Self::Backward => "backward",
            Self::Skipped => "skipped",
            Self::EndBack => "end_back",
            Self::Unseen => "unseen",
            Self::Panicked => "panicked",
            Self::Hung => "hung",
        }
    }
}

/// What is told of each kind of anomaly: how many, and the first few.
const TOLD_MAX: u64 = 5;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    counts: BTreeMap<Anomaly, u64>,
    /// The first few of each kind, in words.
    pub told: Vec<String>,
}

impl Verdict {
    /// How many of a kind.
    #[must_use]
    pub fn count(&self, anomaly: Anomaly) -> u64 {
        self.counts.get(&anomaly).copied().unwrap_or_default()
    }

    /// How many in all.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Something was found, with what is to be told of it.
    pub fn found(&mut self, anomaly: Anomaly, what: String) {
        let count = self.counts.entry(anomaly).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            self.told.push(format!("{}: {what}", anomaly.name()));
        }
    }

    /// Judges the partition of this number.
    pub fn judge(&mut self, number: usize, partition: &Partition) {
        let mut judge = Judge { verdict: self, number, holds: HashMap::new() };
        judge.kept(partition);
        judge.fates(partition);
        for (consumer, read) in partition.polled.iter().enumerate() {
            judge.polled(consumer, read, partition);
        }
        for ends in &partition.ends {
            for pair in ends.windows(2).filter(|pair| pair[1] < pair[0]) {
                judge.found(Anomaly::EndBack, format!("from {} to {}", pair[0], pair[1]));
            }
        }
    }
}

struct Judge<'a> {
    verdict: &'a mut Verdict,
    number: usize,
    /// What each offset holds, as it was first heard.
    holds: HashMap<u64, Record>,
}

impl Judge<'_> {
    fn found(&mut self, anomaly: Anomaly, what: String) {
        self.verdict.found(anomaly, format!("partition {}: {what}", self.number));
    }

    fn holds(&mut self, offset: u64, record: Record, said: &str) {
        let first = *self.holds.entry(offset).or_insert(record);
        if first != record {
            let what = format!("offset {offset} holds {first}, {record} {said}");
            self.found(Anomaly::Inconsistent, what);
        }
    }

    /// The end: offsets without a gap, each record once, in its producer's order, sent by somebody.
    fn kept(&mut self, partition: &Partition) {
        let (mut last, mut expected) = (HashMap::new(), 0);
        for &(offset, record) in &partition.kept {
            if offset != expected {
                self.found(Anomaly::Skipped, format!("{expected}..{offset} at the end"));
            }
            expected = offset + 1;
            self.holds(offset, record, "at the end");
            let next = last.entry(record.who).or_insert(0);
            if record.number < *next {
                let what = format!("{record} at {offset} is behind a later one");
                self.found(Anomaly::Reordered, what);
            }
            *next = record.number.max(*next);
        }
    }

    /// What each producer was told, against the end.
    fn fates(&mut self, partition: &Partition) {
        let mut places: HashMap<Record, u64> = HashMap::new();
        for &(offset, record) in &partition.kept {
            if let Some(first) = places.insert(record, offset) {
                self.found(Anomaly::Duplicated, format!("{record} at {first} and {offset}"));
            }
            self.seen(record, &format!("at {offset} at the end"), partition);
        }
        for (&who, fates) in &partition.sent {
            for (number, fate) in (0..).zip(fates) {
                let record = Record { who, number };
                let Fate::Stored(offset) = *fate else { continue };
                match (places.get(&record), offset) {
                    (None, _) => {
                        self.found(Anomaly::Lost, format!("{record}, acknowledged at {offset:?}"));
                    }
                    (Some(place), Some(told)) if *place != told => {
                        let what = format!("{record} acknowledged at {told} is at {place}");
                        self.found(Anomaly::Inconsistent, what);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What can be seen was sent, and not refused.
    fn seen(&mut self, record: Record, place: &str, partition: &Partition) {
        let fates = partition.sent.get(&record.who);
        match fates.and_then(|fates| fates.get(record.number as usize)) {
            None => self.found(Anomaly::Phantom, format!("{record} {place}")),
            Some(Fate::Refused) => self.found(Anomaly::Aborted, format!("{record} {place}")),
            Some(_) => {}
        }
    }

    fn polled(&mut self, consumer: usize, read: &Read, partition: &Partition) {
        let mut expected = 0;
        let end = partition.kept.last().map_or(0, |(offset, _)| offset + 1);
        for &(offset, record) in read {
            if offset < expected {
                let what = format!("consumer {consumer}: {offset}, expected {expected}");
                self.found(Anomaly::Backward, what);
            } else if offset > expected {
                let what = format!("consumer {consumer}: {expected}..{offset}");
                self.found(Anomaly::Skipped, what);
            }
            expected = expected.max(offset + 1);
            self.holds(offset, record, &format!("polled by consumer {consumer}"));
            if offset >= end {
                // What is there at the end was looked at already.
                self.seen(record, &format!("polled at {offset} by {consumer}"), partition);
                let what = format!("{record} at {offset}, which consumer {consumer} polled");
                self.found(Anomaly::Lost, what);
            }
        }
        if expected < end {
            self.found(Anomaly::Unseen, format!("consumer {consumer}: {expected}..{end}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32) -> Record {
        Record { who: 1, number }
    }

    /// Five records, all acknowledged and polled.
    fn good() -> Partition {
        let read: Read = (0..5).map(|number| (u64::from(number), record(number))).collect();
        Partition {
            sent: [(1, (0..5).map(|offset| Fate::Stored(Some(offset))).collect())].into(),
            polled: vec![read.clone()],
            kept: read,
            ends: vec![vec![0, 3, 3, 5]],
        }
    }

    /// The kinds that are found after something was done to it.
    fn found(spoil: impl FnOnce(&mut Partition)) -> Vec<Anomaly> {
        let mut partition = good();
        spoil(&mut partition);
        let mut verdict = Verdict::default();
        verdict.judge(0, &partition);
        assert_eq!(verdict.told.is_empty(), verdict.all() == 0);
        Anomaly::ALL.into_iter().filter(|anomaly| verdict.count(*anomaly) > 0).collect()
    }

    #[test]
    fn values_tell_their_records() {
        for number in [0, 1, 77, 123_456] {
            assert_eq!(Record::of(&record(number).value()), record(number));
        }
        let mut spoilt = record(77).value();
        *spoilt.last_mut().unwrap() ^= 1;
        assert_eq!([Record::of(&spoilt), Record::of(b""), Record::of(b"x/1:")], [GARBLED; 3]);
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(found(|_| {}), []);
        let unknown = |fate| move |p: &mut Partition| p.sent.get_mut(&1).unwrap()[4] = fate;
        assert_eq!(found(unknown(Fate::Unknown)), []);
        assert_eq!(found(unknown(Fate::Stored(None))), []);
        // What nobody was told about need not be there.
        assert_eq!(found(|p| p.sent.get_mut(&1).unwrap().push(Fate::Unknown)), []);
        assert_eq!(found(|p| p.sent.get_mut(&1).unwrap().push(Fate::Refused)), []);
    }

    #[test]
    fn what_is_lost_is_found() {
        let more = |p: &mut Partition| p.sent.get_mut(&1).unwrap().push(Fate::Stored(Some(5)));
        assert_eq!(found(more), [Anomaly::Lost]);
        // Nobody was told that it is stored, but it was read.
        let read_once = |p: &mut Partition| {
            p.sent.get_mut(&1).unwrap()[4] = Fate::Unknown;
            p.kept.pop();
        };
        assert_eq!(found(read_once), [Anomaly::Lost]);
    }

    #[test]
    fn what_is_there_twice_is_found() {
        let twice = |p: &mut Partition| {
            p.kept.push((5, record(4)));
            p.polled[0].push((5, record(4)));
        };
        assert_eq!(found(twice)[0], Anomaly::Duplicated);
    }

    #[test]
    fn an_offset_with_two_records_is_found() {
        let other = |p: &mut Partition| p.polled[0][2].1 = record(3);
        assert_eq!(found(other), [Anomaly::Inconsistent]);
        let elsewhere = |p: &mut Partition| p.sent.get_mut(&1).unwrap()[2] = Fate::Stored(Some(9));
        assert_eq!(found(elsewhere), [Anomaly::Inconsistent]);
    }

    #[test]
    fn what_was_refused_and_what_nobody_sent_is_found() {
        let refused = |p: &mut Partition| p.sent.get_mut(&1).unwrap()[2] = Fate::Refused;
        assert_eq!(found(refused), [Anomaly::Aborted]);
        let unsent = |p: &mut Partition| p.sent.get_mut(&1).unwrap().truncate(4);
        assert_eq!(found(unsent), [Anomaly::Phantom]);
    }

    #[test]
    fn another_order_is_found() {
        let swapped = |p: &mut Partition| {
            (p.kept[1].1, p.kept[2].1) = (record(2), record(1));
            p.polled[0] = p.kept.clone();
            let fates = p.sent.get_mut(&1).unwrap();
            (fates[1], fates[2]) = (Fate::Stored(Some(2)), Fate::Stored(Some(1)));
        };
        assert_eq!(found(swapped), [Anomaly::Reordered]);
    }

    #[test]
    fn what_consumers_miss_or_see_again_is_found() {
        assert_eq!(found(|p| p.polled[0].retain(|read| read.0 != 2)), [Anomaly::Skipped]);
        assert_eq!(found(|p| p.polled[0].insert(3, (2, record(2)))), [Anomaly::Backward]);
        assert_eq!(found(|p| p.polled[0].truncate(4)), [Anomaly::Unseen]);
        assert_eq!(found(|p| p.ends[0].push(4)), [Anomaly::EndBack]);
    }
}
