//! Appends records and says where they are stored: `produce catena://127.0.0.1:9200 greetings`.

use catena_client::{Client, Compression, Error, Header, NewRecord, ProducerOptions, Receipt};

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "catena://127.0.0.1:9200".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    for receipt in produce(&url, &topic, &["hello", "world"])? {
        println!("partition {}, offset {}", receipt.partition, receipt.first_offset);
    }
    Ok(())
}

/// Appends a record for each greeting, and waits until all are on the disk of every member.
pub(crate) fn produce(url: &str, topic: &str, greetings: &[&str]) -> Result<Vec<Receipt>, Error> {
    let mut client = Client::connect(url)?;
    let options = ProducerOptions { compression: Compression::Lz4, ..ProducerOptions::default() };
    let producer = client.producer(topic, options)?;
    let language = [Header { key: b"language", value: Some(b"en") }];
    let mut tickets = Vec::new();
    for greeting in greetings {
        // Nothing is awaited here, unless the buffer is full.
        let record = NewRecord::value(greeting.as_bytes()).with_headers(&language);
        tickets.push(producer.append(&record)?);
    }
    let receipts = tickets.into_iter().map(|ticket| ticket.wait()).collect();
    producer.close()?;
    receipts
}
