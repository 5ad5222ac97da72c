//! Reads a topic from its beginning to its end: `consume catena://127.0.0.1:9200 greetings`.

use std::time::Duration;

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
    let mut left: u64 = 0;
    for partition in client.describe_topic(topic)?.partitions {
        left += partition.high_watermark.since(partition.log_start);
    }
    let options = ConsumerOptions { start: Start::Beginning, ..ConsumerOptions::default() };
    let mut consumer = client.consumer(topic, options)?;
    while left > 0 {
        let Some(batch) = consumer.next_within(Duration::from_secs(30))? else { break };
        for record in batch.records() {
            let (_offset, record) = record?;
            left -= 1;
            record.value.into_iter().for_each(&mut each);
        }
    }
    Ok(())
}
