//! `catena produce`: each line of the input becomes a record.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use catena_client::{Class, Client, Error, Header, NewRecord, Producer, ProducerOptions, Ticket};
use catena_format::PartitionIndex;
use serde_json::json;

use super::{
    UsageError,
    input::{Input, Place},
    print_json,
    progress::Progress,
};
use crate::cli::{Output, ProduceArgs};

/// Lines under way at most: of each it is known where it stands until it is stored.
const PENDING_MAX: usize = 1 << 20;

/// Sends each line as a record; says how many, once all are acknowledged.
///
/// # Errors
/// When the input cannot be read to its end, or a line is not stored: no further ones are sent
/// then. Of an input that cannot be read, the lines before are sent.
pub(crate) fn produce(
    client: &mut Client,
    args: &ProduceArgs,
    output: Output,
) -> anyhow::Result<()> {
    let topic = client.topic(&args.topic)?;
    let (name, batch_bytes_max) = (&args.topic, topic.batch_bytes_max as usize);
    if args.batch_bytes > batch_bytes_max {
        let text = format!("--batch-bytes: topic `{name}` takes {batch_bytes_max} at most");
        return Err(UsageError(text).into());
    }
    let partitions = topic.partitions.len();
    if let Some(partition) = args.partition.filter(|partition| *partition as usize >= partitions) {
        let text = format!("topic `{name}` has {partitions} partitions, there is no {partition}");
        return Err(UsageError(text).into());
    }
    let options = ProducerOptions {
        batch_bytes: args.batch_bytes,
        linger: args.linger,
        durability: args.durability,
        compression: args.compression,
        ..ProducerOptions::default()
    };
    let producer = client.producer(name, options)?;
    let mut input = Input::new(&args.files, batch_bytes_max);
    let mut progress = Progress::new(&args.files, !args.no_progress);
    let mut pending = Pending::default();
    let ended = send_lines(&producer, args, &mut input, &mut progress, &mut pending);
    // Whether what was appended is stored goes before what the input has. What waits behind a line
    // that failed is left with the process: sent now, it would be stored behind a hole.
    let stored = producer.failure().map_or_else(|| producer.close(), Err);
    progress.finish();
    if let Err(error) = stored {
        return Err(pending.failure().map_or_else(|| error.into(), Into::into));
    }
    let records = pending.sent;
    match output {
        Output::Json => print_json(&json!({ "topic": name, "records": records }))?,
        Output::Table => eprintln!("catena: {records} records acknowledged"),
    }
    ended.context("the input ends early; what stands before is acknowledged")
}

/// A line is not stored, and nothing behind it was read any more.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {error} ({acknowledged} of {sent} records acknowledged)")]
pub(crate) struct NotStored {
    place: Place,
    error: Error,
    acknowledged: u64,
    sent: u64,
    /// Whether it, or a line that was sent behind it, may be stored all the same.
    pub(crate) unclear: bool,
}

/// Lines that were appended, in order, from the first on of which nothing is known yet.
#[derive(Default)]
struct Pending {
    lines: VecDeque<(Place, Ticket)>,
    acknowledged: u64,
    sent: u64,
}

impl Pending {
    fn push(&mut self, place: Place, ticket: Ticket) {
        self.sent += 1;
        self.lines.push_back((place, ticket));
        while let Some((_, ticket)) = self.lines.front()
            && matches!(ticket.outcome(), Some(Ok(_)))
        {
            self.lines.pop_front();
            self.acknowledged += 1;
        }
    }

    /// Waits for the first line, when there are too many.
    fn limit(&mut self) {
        if self.lines.len() >= PENDING_MAX
            && let Some((_, ticket)) = self.lines.front_mut()
        {
            // What it came to is looked at with the next.
            let _ = futures_lite::future::block_on(ticket);
        }
    }

    /// The first line that is not stored, as far as is known by now.
    fn failure(self) -> Option<NotStored> {
        let outcomes = self.lines.into_iter().map(|(place, ticket)| {
            (place, ticket.outcome().map(|outcome| outcome.map(|_receipt| ())))
        });
        not_stored(outcomes, self.acknowledged, self.sent)
    }
}

/// The first of these lines of which it is known that it failed.
fn not_stored(
    outcomes: impl Iterator<Item = (Place, Option<Result<(), Error>>)>,
    mut acknowledged: u64,
    sent: u64,
) -> Option<NotStored> {
    let (mut first, mut unclear) = (None, false);
    for (place, outcome) in outcomes {
        match outcome {
            Some(Ok(())) => {
                acknowledged += 1;
                unclear |= first.is_some();
            }
            Some(Err(error)) => {
                unclear |= error.class() == Class::Indeterminate;
                first.get_or_insert((place, error));
            }
            None => unclear = true,
        }
    }
    let (place, error) = first?;
    Some(NotStored { place, error, acknowledged, sent, unclear })
}

/// Appends all lines, until one is not stored. Whether the last ones are, closing the producer
/// tells.
fn send_lines(
    producer: &Producer,
    args: &ProduceArgs,
    input: &mut Input,
    progress: &mut Progress,
    pending: &mut Pending,
) -> anyhow::Result<()> {
    let headers: Vec<Header<'_>> = args
        .header
        .iter()
        .map(|(key, value)| Header { key: key.as_bytes(), value: Some(value.as_bytes()) })
        .collect();
    let began = Instant::now();
    while producer.failure().is_none() && input.next_line()? {
        if input.line().is_empty() && args.skip_empty {
            continue;
        }
        if let Some(rate) = args.rate {
            thread::sleep(due(pending.sent, rate).saturating_sub(began.elapsed()));
        }
        let appended = producer.append(&record(input.line(), args, &headers));
        pending.push(input.place().clone(), appended.with_context(|| input.place().clone())?);
        pending.limit();
        progress.set(input.bytes(), pending.sent);
    }
    Ok(())
}

/// When the line behind so many is due, at so many a second.
fn due(lines: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(lines as f64 / rate).unwrap_or(Duration::MAX)
}

fn record<'a>(line: &'a [u8], args: &ProduceArgs, headers: &'a [Header<'a>]) -> NewRecord<'a> {
    let (key, value) = split_key(line, args.key_separator.as_deref());
    let null = args.null_value.as_deref().map(str::as_bytes);
    NewRecord {
        partition: args.partition.map(PartitionIndex::new),
        timestamp: None,
        key,
        value: Some(value).filter(|value| null != Some(*value)),
        headers,
    }
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

#[cfg(test)]
mod tests {
    use catena_wire::ErrorCode;

    use super::*;

    #[test]
    fn lines_are_due_however_slow_the_rate() {
        assert_eq!(due(3, 2.0), Duration::from_millis(1500));
        assert_eq!(due(0, 1e-30), Duration::ZERO);
        assert_eq!(due(1, 1e-30), Duration::MAX);
    }

    #[test]
    fn what_is_stored_behind_a_line_that_is_not_leaves_a_hole() {
        let place = Input::new(&[], 1).place().clone();
        let refused = || {
            let code = ErrorCode::BadBatch;
            Some(Err(Error::Server { code, message: String::new() }))
        };
        let told = |outcomes: Vec<_>| {
            let sent = 2 + outcomes.len() as u64;
            let outcomes = outcomes.into_iter().map(|outcome| (place.clone(), outcome));
            let told = not_stored(outcomes, 2, sent);
            told.map(|told| (told.acknowledged, told.sent, told.unclear))
        };
        let stored = || Some(Ok(()));
        assert_eq!(told(vec![stored(), refused(), refused()]), Some((3, 5, false)));
        assert_eq!(told(vec![stored(), refused(), stored(), refused()]), Some((4, 6, true)));
        assert_eq!(told(vec![refused(), None]), Some((2, 4, true)));
        let unclear = Some(Err(Error::Closed { unclear: true }));
        assert_eq!(told(vec![unclear]), Some((2, 3, true)));
        assert_eq!(told(vec![stored(), None]), None);
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(split_key(b"a=b=c", Some("=")), (Some(&b"a"[..]), &b"b=c"[..]));
        assert_eq!(split_key(b"abc", Some("=")), (None, &b"abc"[..]));
        assert_eq!(split_key(b"a=b", None), (None, &b"a=b"[..]));
    }
}
