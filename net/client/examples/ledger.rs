//! Books on an account that nobody may overdraw: `ledger catena://127.0.0.1:9200 account -30`.
//! What is booked rests on all that was booked before, whoever else books at the same time.

use catena_client::{
    Client, ConsumerOptions, Error, NewRecord, OffsetQuery, ProducerOptions, Receipt,
    format::{Offset, PartitionIndex},
};

/// An account is a topic of one partition, whose records are what was booked.
const ACCOUNT: PartitionIndex = PartitionIndex::new(0);

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "catena://127.0.0.1:9200".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "account".to_owned());
    let amount = arguments.next().and_then(|amount| amount.parse().ok()).unwrap_or(1);
    match book(&url, &topic, amount)? {
        Some(receipt) => println!("booked at {}", receipt.first_offset),
        None => println!("there is not so much"),
    }
    Ok(())
}

/// Books an amount unless the balance falls below zero: `None`.
pub(crate) fn book(url: &str, topic: &str, amount: i64) -> Result<Option<Receipt>, Error> {
    let mut client = Client::connect(url)?;
    let producer = client.producer(topic, ProducerOptions::default())?;
    let mut bookings = client.consumer(topic, ConsumerOptions::default())?;
    let id = client.topic(topic)?.id;
    let mut end = client.offset(id, ACCOUNT, OffsetQuery::Latest)?.unwrap_or_default();
    let (mut balance, mut next) = (0, Offset::ZERO);
    loop {
        while next < end
            && let Some(batch) = bookings.next().transpose()?
        {
            for record in batch.records() {
                let value = record?.1.value.map(String::from_utf8_lossy);
                balance += value.and_then(|v| v.parse::<i64>().ok()).unwrap_or(0);
            }
            next = batch.next_offset();
        }
        if balance + amount < 0 {
            return Ok(None);
        }
        let booking = amount.to_string();
        let records = [NewRecord::value(booking.as_bytes())];
        match producer.append_at(ACCOUNT, next, &records)?.wait() {
            Ok(receipt) => return Ok(Some(receipt)),
            // Somebody was faster: what he booked is read first.
            Err(Error::OffsetCondition { next: now, unclear: false, .. }) => end = now,
            Err(error) => return Err(error),
        }
    }
}
