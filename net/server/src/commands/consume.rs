//! `catena consume`: records, printed.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context;
use catena_client::{Client, FetchOptions, Fetched, OffsetQuery};
use catena_format::{Millis, Offset, PartitionIndex, TopicId};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use super::{Format, UsageError, format::write_json};
use crate::cli::{ConsumeArgs, Output};

/// How long the server holds a fetch when one partition is read, and when several are in turn.
const WAIT_ALONE: Duration = Duration::from_millis(250);
const WAIT_IN_TURN: Duration = Duration::from_millis(20);
const FETCH_BYTES: u32 = 1 << 20;

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

/// A partition being read.
struct Cursor {
    partition: PartitionIndex,
    offset: Offset,
    /// Where reading stops, if anywhere.
    end: Option<Offset>,
}

/// What is read, and how it is printed.
struct Reading<'a> {
    topic: TopicId,
    args: &'a ConsumeArgs,
    form: Form,
    /// Further records are waited for.
    waits: bool,
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
    let partitions = chosen(args, u32::try_from(topic.partitions.len())?)?;
    let waits = match args.until {
        Some(Until::End) => false,
        Some(Until::Offset(_) | Until::Count) => true,
        None => args.follow || args.count.is_some() || args.from == From::End,
    };
    let left = args.count.unwrap_or(u64::MAX);
    let mut reading = Reading { topic: topic.id, args, form, waits, left };
    let mut cursors = Vec::new();
    for partition in partitions.map(PartitionIndex::new) {
        cursors.push(reading.begin(client, partition)?);
    }
    let stop = if waits { stop_flag()? } else { Arc::default() };
    reading.run(client, cursors, &stop)
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
    fn begin(&self, client: &mut Client, partition: PartitionIndex) -> anyhow::Result<Cursor> {
        let mut ask = |query| client.offset(self.topic, partition, query);
        let latest = ask(OffsetQuery::Latest)?.unwrap_or_default();
        let offset = match self.args.from {
            From::Beginning => ask(OffsetQuery::Earliest)?.unwrap_or_default(),
            From::End => latest,
            From::Offset(offset) => offset,
            From::Time(time) => ask(OffsetQuery::AtTime(time))?.unwrap_or(latest),
        };
        let end = match self.args.until {
            Some(Until::Offset(end)) => Some(end),
            _ => (!self.waits).then_some(latest),
        };
        Ok(Cursor { partition, offset, end })
    }

    fn run(
        &mut self,
        client: &mut Client,
        mut cursors: Vec<Cursor>,
        stop: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut out = io::BufWriter::with_capacity(256 << 10, io::stdout().lock());
        while self.left > 0 && !stop.load(Ordering::Relaxed) {
            cursors.retain(|cursor| cursor.end.is_none_or(|end| cursor.offset < end));
            // With one partition the server waits; with several each is asked in turn.
            let max_wait = match (self.waits, cursors.len()) {
                (_, 0) => break,
                (false, _) => Duration::ZERO,
                (true, 1) => WAIT_ALONE,
                (true, _) => WAIT_IN_TURN,
            };
            for cursor in &mut cursors {
                let options = FetchOptions { max_bytes: FETCH_BYTES, max_wait };
                let fetched = client.fetch(self.topic, cursor.partition, cursor.offset, options)?;
                self.print(cursor, &fetched, &mut out)?;
                cursor.offset = fetched.next_offset.max(cursor.offset);
            }
            out.flush()?;
        }
        Ok(out.flush()?)
    }

    fn print(
        &mut self,
        cursor: &Cursor,
        fetched: &Fetched,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let since = match self.args.from {
            From::Time(time) => time,
            _ => Millis::new(i64::MIN),
        };
        fetched.each_record::<anyhow::Error>(cursor.offset, |offset, record| {
            let is_within = cursor.end.is_none_or(|end| offset < end);
            if self.left > 0 && is_within && record.timestamp >= since {
                match &self.form {
                    Form::Text(format) => format.write(out, cursor.partition, offset, record)?,
                    Form::Json => write_json(out, cursor.partition, offset, record)?,
                }
                self.left -= 1;
            }
            Ok(())
        })
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
