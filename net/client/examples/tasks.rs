//! Appends and reads at the same time, in tasks: `tasks catena://127.0.0.1:9200 greetings`.

use catena_client::{
    ConsumerOptions, Error, NewRecord, ProducerOptions, Start,
    tokio::{Client, Consumer, Producer},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "catena://127.0.0.1:9200".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    let read = round_trip(&url, &topic, 1000).await?;
    println!("{read} records came back");
    Ok(())
}

/// Appends so many records, and reads until all came back; tells how many did.
pub(crate) async fn round_trip(url: &str, topic: &str, records: u64) -> Result<u64, Error> {
    let mut client = Client::connect(url).await?;
    let options = ConsumerOptions { start: Start::End, ..ConsumerOptions::default() };
    let consumer = client.consumer(topic, options).await?;
    let producer = client.producer(topic, ProducerOptions::default()).await?;
    // What is not appended is not waited for either.
    let ((), read) = tokio::try_join!(append(producer, records), read(consumer, records))?;
    Ok(read)
}

async fn append(producer: Producer, records: u64) -> Result<(), Error> {
    for number in 0..records {
        let value = number.to_string();
        // The ticket can be awaited by itself; closing awaits all of them together.
        drop(producer.append(&NewRecord::value(value.as_bytes())).await?);
    }
    producer.close().await
}

async fn read(mut consumer: Consumer, records: u64) -> Result<u64, Error> {
    let mut read = 0;
    while read < records
        && let Some(batch) = consumer.next().await
    {
        read += batch?.records().count() as u64;
    }
    Ok(read)
}
