//! The client commands: topics, produce, consume.

use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

use anyhow::{Context, bail};
use catena_client::{
    Client, Durability, Error, FetchOptions, NewRecord, OffsetQuery, Options, ProducerOptions,
};
use catena_format::{Millis, Offset, PartitionIndex, TopicId};

use crate::cli::Exit;

/// A client of `server`.
pub(crate) fn client(server: &str) -> Client {
    let request_timeout = Duration::from_secs(10);
    let server = server.to_owned();
    Client::new(Options { server, request_timeout, ..Options::default() })
}

pub(crate) fn list_topics(client: &mut Client) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{:<40} {:>10}  ID", "NAME", "PARTITIONS")?;
    for topic in client.topics()? {
        writeln!(
            out,
            "{:<40} {:>10}  {:032x}",
            topic.name,
            topic.partitions.len(),
            topic.id.get()
        )?;
    }
    Ok(())
}

pub(crate) fn describe_topic(client: &mut Client, name: &str) -> anyhow::Result<()> {
    let topic = client.describe_topic(name)?;
    let mut out = io::stdout().lock();
    writeln!(out, "topic {name}, id {:032x}", topic.id.get())?;
    for setting in &topic.config {
        writeln!(out, "  {} = {}", setting.key, setting.value)?;
    }
    let head = ("PARTITION", "EPOCH", "LOG START", "HIGH WATERMARK", "BYTES", "SEGMENTS", "STATE");
    let (a, b, c, d, e, f, g) = head;
    writeln!(out, "{a:>9} {b:>6} {c:>12} {d:>14} {e:>14} {f:>8}  {g}")?;
    for p in &topic.partitions {
        let damaged: u64 = p.damaged.iter().map(|range| range.end.since(range.start)).sum();
        let state = match (p.place.error, damaged) {
            (catena_client::ErrorCode::None, 0) => "open".to_owned(),
            (catena_client::ErrorCode::None, offsets) => format!("{offsets} offsets damaged"),
            (error, _) => error.to_string(),
        };
        writeln!(
            out,
            "{:>9} {:>6} {:>12} {:>14} {:>14} {:>8}  {state}",
            p.place.index, p.place.epoch, p.log_start, p.high_watermark, p.bytes, p.segments
        )?;
    }
    Ok(())
}

/// What `produce` was told.
pub(crate) struct ProduceOptions {
    pub(crate) topic: String,
    pub(crate) partition: Option<u32>,
    pub(crate) key_separator: Option<String>,
    pub(crate) batch_bytes: usize,
    pub(crate) durability: Durability,
    pub(crate) rate: Option<f64>,
}

/// Sends each line of `input` as a record; tells how many, once all are acknowledged.
pub(crate) fn produce(
    client: &mut Client,
    options: &ProduceOptions,
    input: &mut impl BufRead,
) -> anyhow::Result<u64> {
    let producer_options = ProducerOptions {
        batch_bytes: options.batch_bytes,
        durability: options.durability,
        ..ProducerOptions::default()
    };
    let producer = client.producer(&options.topic, producer_options)?;
    let partitions = producer.partitions();
    if let Some(partition) = options.partition.filter(|partition| *partition >= partitions) {
        bail!("topic `{}` has {partitions} partitions, there is no {partition}", options.topic);
    }
    let partition = options.partition.map(PartitionIndex::new);
    let (mut line, mut lines) = (Vec::new(), 0u64);
    let began = std::time::Instant::now();
    while input.read_until(b'\n', &mut line).context("cannot read the input")? > 0 {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let (key, value) = split_key(&line, options.key_separator.as_deref());
        let record = NewRecord { partition, key, value: Some(value), ..NewRecord::default() };
        // Whether it is stored, closing tells.
        drop(producer.append(&record)?);
        lines += 1;
        line.clear();
        if let Some(rate) = options.rate {
            let due = Duration::from_secs_f64(lines as f64 / rate);
            if let Some(wait) = due.checked_sub(began.elapsed()) {
                std::thread::sleep(wait);
            }
        }
    }
    producer.close()?;
    Ok(lines)
}

fn split_key<'a>(line: &'a [u8], separator: Option<&str>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator.map(str::as_bytes).filter(|s| !s.is_empty()) else {
        return (None, line);
    };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (Some(&line[..at]), &line[at + separator.len()..]),
        None => (None, line),
    }
}

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
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
        match text.split_once(':') {
            None if text == "beginning" => Ok(Self::Beginning),
            None if text == "end" => Ok(Self::End),
            None => text.parse().map(Offset::new).map(Self::Offset).map_err(|_| {
                format!("`{text}` is not beginning, end, an offset or time:MILLISECONDS")
            }),
            Some(("time", time)) => number(time).map(Millis::new).map(Self::Time),
            Some(_) => Err(format!("`{text}` is no place to begin")),
        }
    }
}

/// What `consume` was told.
pub(crate) struct ConsumeOptions {
    pub(crate) topic: String,
    pub(crate) partition: Option<u32>,
    pub(crate) from: From,
    pub(crate) until_end: bool,
    pub(crate) count: Option<u64>,
    pub(crate) format: Format,
}

/// A partition being read.
struct Cursor {
    partition: PartitionIndex,
    offset: Offset,
    end: Offset,
}

/// Prints records; tells how many.
pub(crate) fn consume(client: &mut Client, options: &ConsumeOptions) -> anyhow::Result<u64> {
    let topic = client.topic(&options.topic)?;
    let partitions = u32::try_from(topic.partitions.len())?;
    let chosen = match options.partition {
        Some(p) if p >= partitions => {
            bail!("topic `{}` has {partitions} partitions, there is no {p}", options.topic)
        }
        Some(p) => p..p + 1,
        None => 0..partitions,
    };
    let mut cursors = Vec::new();
    for partition in chosen.map(PartitionIndex::new) {
        cursors.push(begin(client, topic.id, partition, options)?);
    }
    let mut out = io::BufWriter::with_capacity(256 << 10, io::stdout().lock());
    let mut left = options.count.unwrap_or(u64::MAX);
    let wished = left;
    while left > 0 {
        if options.until_end {
            cursors.retain(|cursor| cursor.offset < cursor.end);
        }
        if cursors.is_empty() {
            break;
        }
        // With one partition the server waits; with several each is asked in turn.
        let wait = match (options.until_end, cursors.len()) {
            (true, _) => Duration::ZERO,
            (false, 1) => Duration::from_secs(5),
            (false, _) => Duration::from_millis(50),
        };
        for cursor in &mut cursors {
            step(client, topic.id, cursor, wait, options, &mut left, &mut out)?;
        }
        out.flush()?;
    }
    out.flush()?;
    Ok(wished - left)
}

fn begin(
    client: &mut Client,
    topic: TopicId,
    partition: PartitionIndex,
    options: &ConsumeOptions,
) -> anyhow::Result<Cursor> {
    let mut ask = |query| client.offset(topic, partition, query);
    let end = ask(OffsetQuery::Latest)?.unwrap_or_default();
    let offset = match options.from {
        From::Beginning => ask(OffsetQuery::Earliest)?.unwrap_or_default(),
        From::End => end,
        From::Offset(offset) => offset,
        From::Time(time) => ask(OffsetQuery::AtTime(time))?.unwrap_or(end),
    };
    Ok(Cursor { partition, offset, end })
}

fn step(
    client: &mut Client,
    topic: TopicId,
    cursor: &mut Cursor,
    max_wait: Duration,
    options: &ConsumeOptions,
    left: &mut u64,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let fetch = FetchOptions { max_bytes: 1 << 20, max_wait };
    let fetched = client.fetch(topic, cursor.partition, cursor.offset, fetch)?;
    let time = match options.from {
        From::Time(time) => time,
        _ => Millis::new(i64::MIN),
    };
    fetched.each_record::<anyhow::Error>(cursor.offset, |offset, record| {
        let wanted = *left > 0 && (!options.until_end || offset < cursor.end);
        if wanted && record.timestamp >= time {
            options.format.write(out, cursor.partition, offset, record)?;
            *left -= 1;
        }
        Ok(())
    })?;
    cursor.offset = fetched.next_offset.max(cursor.offset);
    Ok(())
}

/// How a record is printed: text with `%v` value, `%k` key, `%p` partition, `%o` offset, `%t`
/// timestamp, `%%`, `\n`, `\t`, `\\`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Format(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Value,
    Key,
    Partition,
    Offset,
    Timestamp,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let piece = match (letter, letter == '%' || letter == '\\') {
                (letter, false) => {
                    plain.push(letter);
                    continue;
                }
                (mark, true) => match (mark, letters.next()) {
                    ('%', Some('v')) => Piece::Value,
                    ('%', Some('k')) => Piece::Key,
                    ('%', Some('p')) => Piece::Partition,
                    ('%', Some('o')) => Piece::Offset,
                    ('%', Some('t')) => Piece::Timestamp,
                    ('%', Some('%')) => Piece::Text("%".to_owned()),
                    ('\\', Some('n')) => Piece::Text("\n".to_owned()),
                    ('\\', Some('t')) => Piece::Text("\t".to_owned()),
                    ('\\', Some('\\')) => Piece::Text("\\".to_owned()),
                    (mark, next) => {
                        let next = next.map(String::from).unwrap_or_default();
                        return Err(format!("`{mark}{next}` means nothing in a format"));
                    }
                },
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }
}

impl Format {
    fn write(
        &self,
        out: &mut impl Write,
        partition: PartitionIndex,
        offset: Offset,
        record: &catena_format::records::Record<'_>,
    ) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text.as_bytes())?,
                Piece::Value => out.write_all(record.value.unwrap_or_default())?,
                Piece::Key => out.write_all(record.key.unwrap_or_default())?,
                Piece::Partition => write!(out, "{partition}")?,
                Piece::Offset => write!(out, "{offset}")?,
                Piece::Timestamp => write!(out, "{}", record.timestamp)?,
            }
        }
        Ok(())
    }
}

/// What a failure means to a script.
pub(crate) fn exit(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Error>() {
        Some(Error::Connection { .. }) => Exit::Unreachable,
        Some(error) if error.class() == catena_client::Class::Indeterminate => Exit::Indeterminate,
        _ => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_parsed() {
        let format: Format = "%p/%o: %v\\n".parse().unwrap();
        assert_eq!(format.0.len(), 6);
        assert!("%x".parse::<Format>().is_err());
        assert!("\\".parse::<Format>().is_err());
    }

    #[test]
    fn places_to_begin_are_parsed() {
        assert_eq!("beginning".parse(), Ok(From::Beginning));
        assert_eq!("17".parse(), Ok(From::Offset(Offset::new(17))));
        assert_eq!("time:5".parse(), Ok(From::Time(Millis::new(5))));
        assert!("now".parse::<From>().is_err());
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(split_key(b"a=b=c", Some("=")), (Some(&b"a"[..]), &b"b=c"[..]));
        assert_eq!(split_key(b"abc", Some("=")), (None, &b"abc"[..]));
        assert_eq!(split_key(b"a=b", None), (None, &b"a=b"[..]));
    }
}
