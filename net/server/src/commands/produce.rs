//! `catena produce`: each line of the input becomes a record.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use catena_client::{Client, Producer, ProducerOptions, partition_for_key};
use catena_format::{
    Millis,
    records::{BatchBuilder, Header},
};
use serde_json::json;

use super::{
    UsageError,
    input::{Input, Next},
    print_json,
    progress::Progress,
};
use crate::cli::{Output, ProduceArgs};

/// Input that pauses for so long is taken to have no more for now.
const PAUSE: Duration = Duration::from_millis(1);
/// Lengths, time and offset of a record, at most, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// Sends each line as a record; says how many, once all are acknowledged.
///
/// # Errors
/// When the input cannot be read to its end, or a batch is refused. Of an input that cannot be
/// read, the lines before are sent.
pub(crate) fn produce(
    client: &mut Client,
    args: &ProduceArgs,
    output: Output,
) -> anyhow::Result<()> {
    let mut sending = Sending::begin(client, args)?;
    let mut input = Input::open(&args.files, sending.line_bytes_max());
    let mut progress = Progress::new(&args.files, !args.no_progress);
    let ended = loop {
        match input.next(|| sending.idle_at()) {
            Ok(Next::End) => break Ok(()),
            Ok(Next::Nothing) => sending.idle()?,
            Ok(Next::Line) => sending.line(input.line())?,
            Err(error) => break Err(error),
        }
        progress.set(input.bytes(), sending.records);
    };
    sending.producer.flush()?;
    progress.finish();
    let (records, topic) = (sending.records, &args.topic);
    match output {
        Output::Json => print_json(&json!({ "topic": topic, "records": records }))?,
        Output::Table => eprintln!("catena: {records} records acknowledged"),
    }
    ended.context("the input ends early; what stands before is acknowledged")
}

/// What is gathered for a partition and not sent.
#[derive(Clone, Copy, Default)]
struct Gathered {
    bytes: usize,
    since: Option<Instant>,
}

/// Lines on their way.
struct Sending<'a> {
    args: &'a ProduceArgs,
    producer: Producer<'a>,
    partitions: u32,
    /// The largest batch that the topic takes.
    batch_bytes_max: usize,
    /// Bytes of a batch with one record without key and value.
    empty_batch_bytes: usize,
    headers: Vec<Header<'a>>,
    gathered: Vec<Gathered>,
    /// Since when the oldest of what was gathered waits.
    oldest: Option<Instant>,
    /// Where records without a key go until a batch is sent.
    sticky: u32,
    records: u64,
    began: Instant,
}

impl<'a> Sending<'a> {
    fn begin(client: &'a mut Client, args: &'a ProduceArgs) -> anyhow::Result<Self> {
        let batch_bytes_max = client.topic(&args.topic)?.batch_bytes_max as usize;
        let (name, wished) = (&args.topic, args.batch_bytes);
        if wished > batch_bytes_max {
            let text = format!("--batch-bytes: topic `{name}` takes {batch_bytes_max} at most");
            return Err(UsageError(text).into());
        }
        let options = ProducerOptions {
            batch_bytes: args.batch_bytes,
            durability: args.durability,
            ..ProducerOptions::default()
        };
        let producer = Producer::new(client, name, options, |_| {})?;
        let partitions = producer.partitions();
        if let Some(partition) = args.partition.filter(|partition| *partition >= partitions) {
            let text =
                format!("topic `{name}` has {partitions} partitions, there is no {partition}");
            return Err(UsageError(text).into());
        }
        let headers = headers(args);
        let mut empty = BatchBuilder::new();
        empty.push(Millis::new(0), None, None, &headers);
        Ok(Self {
            args,
            producer,
            partitions,
            batch_bytes_max,
            empty_batch_bytes: empty.bytes() + RECORD_OVERHEAD_BYTES,
            headers,
            gathered: vec![Gathered::default(); partitions as usize],
            oldest: None,
            sticky: 0,
            records: 0,
            began: Instant::now(),
        })
    }

    /// The longest line that a batch can hold.
    fn line_bytes_max(&self) -> usize {
        self.batch_bytes_max.saturating_sub(self.empty_batch_bytes)
    }

    fn line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        if line.is_empty() && self.args.skip_empty {
            return Ok(());
        }
        self.wait_for_turn()?;
        let (key, value) = split_key(line, self.args.key_separator.as_deref());
        let null = self.args.null_value.as_deref().map(str::as_bytes);
        let value = Some(value).filter(|value| null != Some(*value));
        let partition = match (self.args.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, self.partitions),
            (None, None) => self.sticky,
        };
        let bytes = self.empty_batch_bytes + line.len();
        if self.gathered[partition as usize].bytes + bytes > self.batch_bytes_max {
            self.send(partition)?;
        }
        let sent = self.producer.append(partition, now_ms(), key, value, &self.headers)?;
        self.records += 1;
        if sent {
            self.sent(partition);
            return Ok(());
        }
        let gathered = &mut self.gathered[partition as usize];
        gathered.bytes += bytes;
        let since = *gathered.since.get_or_insert_with(Instant::now);
        self.oldest.get_or_insert(since);
        self.send_overdue()
    }

    /// Ahead of its time a line waits; what was gathered goes out meanwhile, when it is due.
    fn wait_for_turn(&mut self) -> anyhow::Result<()> {
        let Some(rate) = self.args.rate else { return Ok(()) };
        let turn = self.began + Duration::from_secs_f64((self.records + 1) as f64 / rate);
        loop {
            let now = Instant::now();
            let idle = self.idle_at();
            if turn <= now + PAUSE {
                return Ok(());
            }
            let wake = idle.map_or(turn, |idle| idle.min(turn));
            thread::sleep(wake.saturating_duration_since(now));
            if idle.is_some_and(|idle| idle <= Instant::now()) {
                self.idle()?;
            }
        }
    }

    /// When what was gathered goes out, if nothing comes; never, when there is nothing.
    fn idle_at(&self) -> Option<Instant> {
        let oldest = self.oldest?;
        let linger = self.args.linger;
        Some(if linger.is_zero() { Instant::now() + PAUSE } else { oldest + linger })
    }

    /// Nothing came: what has waited long enough goes out, and is acknowledged before more is read.
    fn idle(&mut self) -> anyhow::Result<()> {
        if self.args.linger.is_zero() {
            for partition in 0..self.partitions {
                self.send(partition)?;
            }
        }
        self.send_overdue()?;
        if self.oldest.is_none() {
            self.producer.flush()?;
        }
        Ok(())
    }

    /// Sends what has waited for company as long as it may.
    fn send_overdue(&mut self) -> anyhow::Result<()> {
        let linger = self.args.linger;
        let is_overdue = |since: Option<Instant>| since.is_some_and(|s| s.elapsed() >= linger);
        if linger.is_zero() || !is_overdue(self.oldest) {
            return Ok(());
        }
        for partition in 0..self.partitions {
            if is_overdue(self.gathered[partition as usize].since) {
                self.send(partition)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, partition: u32) -> anyhow::Result<()> {
        if self.gathered[partition as usize].since.is_some() {
            self.producer.send(partition)?;
            self.sent(partition);
        }
        Ok(())
    }

    fn sent(&mut self, partition: u32) {
        self.gathered[partition as usize] = Gathered::default();
        self.oldest = self.gathered.iter().filter_map(|gathered| gathered.since).min();
        if partition == self.sticky {
            self.sticky = (self.sticky + 1) % self.partitions;
        }
    }
}

/// The headers that every record gets.
fn headers(args: &ProduceArgs) -> Vec<Header<'_>> {
    let pairs = args.header.iter();
    pairs
        .map(|(key, value)| Header { key: key.as_bytes(), value: Some(value.as_bytes()) })
        .collect()
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

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(split_key(b"a=b=c", Some("=")), (Some(&b"a"[..]), &b"b=c"[..]));
        assert_eq!(split_key(b"abc", Some("=")), (None, &b"abc"[..]));
        assert_eq!(split_key(b"a=b", None), (None, &b"a=b"[..]));
    }
}
