//! `catena produce`: each line of the input becomes a record.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use catena_client::{Client, Header, NewRecord, Producer, ProducerOptions};
use catena_format::PartitionIndex;
use serde_json::json;

use super::{UsageError, input::Input, print_json, progress::Progress};
use crate::cli::{Output, ProduceArgs};

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
    let (records, ended) = send_lines(&producer, args, &mut input, &mut progress);
    // Whether what was appended is stored, closing tells: that goes before what the input has.
    producer.close()?;
    progress.finish();
    match output {
        Output::Json => print_json(&json!({ "topic": name, "records": records }))?,
        Output::Table => eprintln!("catena: {records} records acknowledged"),
    }
    ended.context("the input ends early; what stands before is acknowledged")
}

/// How many lines were appended, and whether those are all.
fn send_lines(
    producer: &Producer,
    args: &ProduceArgs,
    input: &mut Input,
    progress: &mut Progress,
) -> (u64, anyhow::Result<()>) {
    let headers: Vec<Header<'_>> = args
        .header
        .iter()
        .map(|(key, value)| Header { key: key.as_bytes(), value: Some(value.as_bytes()) })
        .collect();
    let began = Instant::now();
    let mut records = 0;
    loop {
        match input.next_line() {
            Ok(true) => {}
            Ok(false) => return (records, Ok(())),
            Err(error) => return (records, Err(error.into())),
        }
        if input.line().is_empty() && args.skip_empty {
            continue;
        }
        if let Some(rate) = args.rate {
            let due = Duration::from_secs_f64(records as f64 / rate);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
        // Whether it is stored, closing the producer tells.
        if let Err(error) = producer.append(&record(input.line(), args, &headers)) {
            return (records, Err(error).with_context(|| input.place()));
        }
        records += 1;
        progress.set(input.bytes(), records);
    }
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
    use super::*;

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(split_key(b"a=b=c", Some("=")), (Some(&b"a"[..]), &b"b=c"[..]));
        assert_eq!(split_key(b"abc", Some("=")), (None, &b"abc"[..]));
        assert_eq!(split_key(b"a=b", None), (None, &b"a=b"[..]));
    }
}
