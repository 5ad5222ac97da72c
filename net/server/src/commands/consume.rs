//! `catena consume`: records, printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context;
use catena_client::{Batch, Client, Consumer, ConsumerOptions, OffsetQuery, Start, TopicMetadata};
use catena_format::{Millis, Offset, PartitionIndex};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use super::{Format, UsageError, format::write_json};
use crate::cli::{ConsumeArgs, Output};

/// How often somebody who says stop is listened to.
const LISTEN: Duration = Duration::from_millis(100);

/// Where `consume` begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    Beginning,
    End,
    Offset(Offset),
    Time(Millis),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "beginning" => Ok(Self::Beginning),
            None if text == "end" => Ok(Self::End),
            None => offset(text).map(Self::Offset),
            Some(("offset", number)) => offset(number).map(Self::Offset),
            Some(("timestamp" | "time", time)) => self::time(time).map(Self::Time),
            Some(_) => Err(format!("`{text}` is no place to begin")),
        }
    }
}

/// Where `consume` stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// At what was the end of each partition at the start.
    End,
    /// Before an offset.
    Offset(Offset),
    /// When so many records were printed as `--count` says.
    Count,
}

impl std::str::FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "end" => Ok(Self::End),
            None if text == "count" => Ok(Self::Count),
            Some(("offset", number)) => offset(number).map(Self::Offset),
            _ => Err(format!("`{text}` is not end, offset:N or count")),
        }
    }
}

fn offset(text: &str) -> Result<Offset, String> {
    let number = text.parse().ok().filter(|number| *number <= Offset::MAX.get());
    number.map(Offset::new).ok_or_else(|| format!("`{text}` is no offset"))
}

/// Milliseconds, or a date.
fn time(text: &str) -> Result<Millis, String> {
    if let Ok(milliseconds) = text.parse() {
        return Ok(Millis::new(milliseconds));
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|error| format!("`{text}`: {error}"))?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(Millis::new(i64::try_from(since).unwrap_or(i64::MAX)))
}

/// Partitions read at once where reading ends: more a connection may not take.
const PARTITIONS_AT_ONCE: usize = 512;

/// What is read, and how it is printed.
struct Reading<'a> {
    args: &'a ConsumeArgs,
    form: Form,
    /// Where reading stops, in partitions that have such a place and are not there yet.
    ends: BTreeMap<PartitionIndex, Offset>,
    /// Further records are waited for: reading goes on when no such place is left.
    endless: bool,
    /// Partitions in which a record of the time to begin at was there.
    begun: BTreeSet<PartitionIndex>,
    /// Records still wanted.
    left: u64,
}

enum Form {
    Text(Format),
    Json,
}

/// Prints records, until there are no more or enough, or somebody says stop.
///
/// # Errors
/// When a partition cannot be read, or the output cannot be written.
pub(crate) fn consume(
    client: &mut Client,
    args: &ConsumeArgs,
    output: Output,
) -> anyhow::Result<()> {
    let form = match (output, &args.format) {
        (Output::Table, Some(format)) => Form::Text(format.clone()),
        (Output::Table, None) => Form::Text("%v\\n".parse().expect("the format is a constant")),
        (Output::Json, None) => Form::Json,
        (Output::Json, Some(_)) => {
            return Err(
                UsageError("--format and --output json contradict each other".into()).into()
            );
        }
    };
    let topic = client.topic(&args.topic)?;
    let partitions: Vec<PartitionIndex> =
        chosen(args, u32::try_from(topic.partitions.len())?)?.map(PartitionIndex::new).collect();
    let waits = match args.until {
        Some(Until::End) => false,
        Some(Until::Offset(_) | Until::Count) => true,
        None => args.follow || args.count.is_some() || args.from == From::End,
    };
    let endless = waits && !matches!(args.until, Some(Until::Offset(_)));
    let mut all = if endless { BTreeMap::new() } else { ends(client, &topic, args, &partitions)? };
    let left = args.count.unwrap_or(u64::MAX);
    let (ends, begun) = (BTreeMap::new(), BTreeSet::new());
    let mut reading = Reading { args, form, ends, endless, begun, left };
    let stop = if waits { stop_flag()? } else { Arc::default() };
    let start = match args.from {
        From::Beginning => Start::Beginning,
        From::End => Start::End,
        From::Offset(offset) => Start::Offset(offset),
        From::Time(time) => Start::Time(time),
    };
    // What waits for further records listens everywhere at once.
    let at_once = if endless { partitions.len() } else { PARTITIONS_AT_ONCE };
    for some in partitions.chunks(at_once) {
        let end = |partition: &PartitionIndex| Some((*partition, all.remove(partition)?));
        reading.ends = some.iter().filter_map(end).collect();
        let partitions = Some(some.to_vec());
        let options = ConsumerOptions { partitions, start, ..ConsumerOptions::default() };
        reading.run(client.consumer(&args.topic, options)?, &stop)?;
    }
    Ok(())
}

/// Where reading stops in each partition.
fn ends(
    client: &mut Client,
    topic: &TopicMetadata<'_>,
    args: &ConsumeArgs,
    partitions: &[PartitionIndex],
) -> anyhow::Result<BTreeMap<PartitionIndex, Offset>> {
    let mut ends = BTreeMap::new();
    for partition in partitions {
        let end = match args.until {
            Some(Until::Offset(end)) => end,
            _ => client.offset(topic.id, *partition, OffsetQuery::Latest)?.unwrap_or_default(),
        };
        ends.insert(*partition, end);
    }
    Ok(ends)
}

fn chosen(args: &ConsumeArgs, partitions: u32) -> anyhow::Result<std::ops::Range<u32>> {
    match args.partition {
        Some(p) if p >= partitions => {
            let name = &args.topic;
            let text = format!("topic `{name}` has {partitions} partitions, there is no {p}");
            Err(UsageError(text).into())
        }
        Some(p) => Ok(p..p + 1),
        None => Ok(0..partitions),
    }
}

/// Raised by the first SIGINT or SIGTERM; the second ends the process.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .context("cannot wait for signals")?;
    }
    Ok(stop)
}

impl Reading<'_> {
    fn run(&mut self, mut consumer: Consumer, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut out = io::BufWriter::with_capacity(256 << 10, io::stdout().lock());
        for partition in consumer.partitions() {
            self.arrived(partition, consumer.position(partition));
        }
        while self.goes_on() && !stop.load(Ordering::Relaxed) {
            let batch = match consumer.next_within(Duration::ZERO)? {
                Some(batch) => batch,
                // What is printed is seen before anything is waited for.
                None => {
                    out.flush()?;
                    let Some(batch) = consumer.next_within(LISTEN)? else { continue };
                    batch
                }
            };
            self.print(&batch, &mut out)?;
            self.arrived(batch.partition(), consumer.position(batch.partition()));
        }
        Ok(out.flush()?)
    }

    fn goes_on(&self) -> bool {
        self.left > 0 && (self.endless || !self.ends.is_empty())
    }

    /// Reading has come so far in a partition.
    fn arrived(&mut self, partition: PartitionIndex, at: Option<Offset>) {
        let end = self.ends.get(&partition).copied();
        if at.zip(end).is_some_and(|(at, end)| at >= end) {
            self.ends.remove(&partition);
        }
    }

    fn print(&mut self, batch: &Batch, out: &mut impl Write) -> anyhow::Result<()> {
        let partition = batch.partition();
        let end = match self.ends.get(&partition) {
            Some(end) => *end,
            None if self.endless => Offset::MAX,
            // It has been there.
            None => return Ok(()),
        };
        for record in batch.records() {
            let (offset, record) = record?;
            // Behind the first record of the time asked for, others may be of an earlier one.
            if !self.begun.contains(&partition) {
                if matches!(self.args.from, From::Time(since) if record.timestamp < since) {
                    continue;
                }
                self.begun.insert(partition);
            }
            if self.left > 0 && offset < end {
                match &self.form {
                    Form::Text(format) => format.write(out, partition, offset, &record)?,
                    Form::Json => write_json(out, partition, offset, &record)?,
                }
                self.left -= 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_begin_are_parsed() {
        assert_eq!("beginning".parse(), Ok(From::Beginning));
        assert_eq!("17".parse(), Ok(From::Offset(Offset::new(17))));
        assert_eq!("offset:17".parse(), Ok(From::Offset(Offset::new(17))));
        assert_eq!("time:5".parse(), Ok(From::Time(Millis::new(5))));
        assert_eq!("timestamp:5".parse(), Ok(From::Time(Millis::new(5))));
        let date = "timestamp:1970-01-01T00:00:01Z".parse();
        assert_eq!(date, Ok(From::Time(Millis::new(1000))));
        for wrong in ["now", "offset:", "offset:-1", "timestamp:soon", "18446744073709551615"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_to_stop_are_parsed() {
        assert_eq!("end".parse(), Ok(Until::End));
        assert_eq!("count".parse(), Ok(Until::Count));
        assert_eq!("offset:9".parse(), Ok(Until::Offset(Offset::new(9))));
        for wrong in ["9", "beginning", "offset:", "time:5"] {
            assert!(wrong.parse::<Until>().is_err(), "{wrong}");
        }
    }
}
