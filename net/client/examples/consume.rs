//! Reads a topic from its beginning to its end: `consume catena://127.0.0.1:9200 greetings`.

use std::{collections::BTreeMap, time::Duration};

use catena_client::{Client, ConsumerOptions, Error, Start};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "catena://127.0.0.1:9200".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    consume(&url, &topic, |value| println!("{}", String::from_utf8_lossy(value)))
}

/// Hands on each value that is there by now; records without one are left out.
pub(crate) fn consume(url: &str, topic: &str, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
    let mut client = Client::connect(url)?;
    let mut ends = BTreeMap::new();
    for partition in client.describe_topic(topic)?.partitions {
        if partition.log_start < partition.high_watermark {
            ends.insert(partition.place.index, partition.high_watermark);
        }
    }
    let options = ConsumerOptions { start: Start::Beginning, ..ConsumerOptions::default() };
    let mut consumer = client.consumer(topic, options)?;
    while !ends.is_empty() {
        let Some(batch) = consumer.next_within(Duration::from_secs(30))? else { break };
        // What was appended since is left out.
        let Some(end) = ends.get(&batch.partition()).copied() else { continue };
        for record in batch.records() {
            let (offset, record) = record?;
            if offset < end {
                record.value.into_iter().for_each(&mut each);
            }
        }
        if batch.next_offset() >= end {
            ends.remove(&batch.partition());
        }
    }
    Ok(())
}
