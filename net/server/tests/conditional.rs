//! Appends with a condition against the real binary, also when the answer is lost on its way.

mod common;

#[path = "../../client/examples/ledger.rs"]
#[allow(dead_code)]
mod ledger_example;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use catena_client::{
    Class, Client, ConsumerOptions, Error, NewRecord, Options, Producer, ProducerOptions, Receipt,
    format::{Offset, PartitionIndex},
    tokio as tasks,
};
use common::Server;
use tempfile::TempDir;

const ONLY: PartitionIndex = PartitionIndex::new(0);

/// A server with a topic `t` of one partition.
struct World {
    server: Server,
    _directory: TempDir,
}

impl World {
    fn new() -> Self {
        let (directory, server) = common::server(&["--cores", "1"]);
        let world = Self { server, _directory: directory };
        world.client().create_topic("t", 1, Vec::new()).unwrap();
        world
    }

    fn client(&self) -> Client {
        Client::new(Options::new(&self.server.address))
    }

    fn values(&self, records: usize) -> Vec<String> {
        let mut values = Vec::new();
        let mut consumer = self.client().consumer("t", ConsumerOptions::default()).unwrap();
        while values.len() < records {
            for record in consumer.next().unwrap().unwrap().records() {
                let value = record.unwrap().1.value.unwrap().to_vec();
                values.push(String::from_utf8(value).unwrap());
            }
        }
        values
    }
}

/// Hands bytes on in both directions, and loses an answer when it is told to.
struct Network {
    address: String,
    losing: Arc<AtomicBool>,
}

impl Network {
    fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let losing = Arc::new(AtomicBool::new(false));
        let (server, lose) = (server.to_owned(), losing.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&server).unwrap());
                let (back, forth) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let lose = lose.clone();
                thread::spawn(move || carry(forth, far, &AtomicBool::new(false)));
                thread::spawn(move || carry(back, near, &lose));
            }
        });
        Self { address, losing }
    }

    /// The next bytes of the server do not come, and their connection is cut.
    fn lose_an_answer(&self) {
        self.losing.store(true, Ordering::Release);
    }

    fn has_lost_it(&self) -> bool {
        !self.losing.load(Ordering::Acquire)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, losing: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
        && !losing.swap(false, Ordering::AcqRel)
        && to.write_all(&buffer[..count]).is_ok()
    {}
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn append(producer: &Producer, value: &str) -> Receipt {
    producer.append(&NewRecord::value(value.as_bytes())).unwrap().wait().unwrap()
}

fn append_at(producer: &Producer, expected: u64, values: &[&str]) -> Result<Receipt, Error> {
    let records: Vec<_> = values.iter().map(|value| NewRecord::value(value.as_bytes())).collect();
    producer.append_at(ONLY, Offset::new(expected), &records).unwrap().wait()
}

/// The next offset that a failed condition tells.
fn next(result: Result<Receipt, Error>) -> u64 {
    match result.unwrap_err() {
        error @ Error::OffsetCondition { next, unclear: false, .. } => {
            assert_eq!(error.class(), Class::Definite);
            next.get()
        }
        error => panic!("{error}"),
    }
}

#[test]
fn records_are_stored_where_they_were_to_be_or_not_at_all() {
    let world = World::new();
    let options = ProducerOptions::default();
    let producer = world.client().producer("t", options).unwrap();
    let other = world.client().producer("t", options).unwrap();
    assert_eq!(append_at(&producer, 0, &["0", "1"]).unwrap().next_offset, Offset::new(2));
    append(&other, "2");
    assert_eq!(next(append_at(&producer, 2, &["lost"])), 3);
    assert_eq!(next(append_at(&producer, 4, &["lost", "too"])), 3);
    assert_eq!(append_at(&producer, 3, &["3"]).unwrap().first_offset, Offset::new(3));
    // All at once: each waits for those before it, and what is behind a failure follows.
    let record = |value: &'static str| NewRecord::value(value.as_bytes());
    let tickets = [
        producer.append(&record("4")).unwrap(),
        producer.append_at(ONLY, Offset::new(5), &[record("5")]).unwrap(),
        producer.append_at(ONLY, Offset::new(5), &[record("lost")]).unwrap(),
        producer.append(&record("6")).unwrap(),
        producer.append_at(ONLY, Offset::new(7), &[record("7")]).unwrap(),
    ];
    let outcomes = tickets.map(|ticket| ticket.wait().map(|receipt| receipt.first_offset.get()));
    assert!(matches!(outcomes[2], Err(Error::OffsetCondition { unclear: false, .. })));
    let stored: Vec<u64> = outcomes.into_iter().filter_map(Result::ok).collect();
    assert_eq!(stored, [4, 5, 6, 7]);
    assert_eq!(producer.retries(), 0, "a failed condition leaves no gap");
    let failed = producer.close().unwrap_err();
    assert!(matches!(failed, Error::OffsetCondition { .. }), "{failed}");
    assert_eq!(world.values(8), ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn an_answer_that_was_lost_is_told_all_the_same() {
    let world = World::new();
    let network = Network::to(&world.server.address);
    let mut client = Client::new(Options::new(&network.address));
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    append(&producer, "0");
    network.lose_an_answer();
    let records = [NewRecord::value(b"1"), NewRecord::value(b"2")];
    let ticket = producer.append_at(ONLY, Offset::new(1), &records).unwrap();
    let behind = producer.append(&NewRecord::value(b"3")).unwrap();
    // It is stored, so that its condition does not hold any more; but it was the first.
    assert_eq!(ticket.wait().unwrap().first_offset, Offset::new(1));
    assert_eq!(behind.wait().unwrap().first_offset, Offset::new(3));
    assert!(network.has_lost_it());
    assert_eq!(producer.retries(), 1);

    network.lose_an_answer();
    assert_eq!(next(append_at(&producer, 2, &["lost"])), 4);
    assert!(network.has_lost_it());
    assert_eq!(append(&producer, "4").first_offset, Offset::new(4));

    // The log has not come so far: of the copy on the lost connection nobody knows.
    network.lose_an_answer();
    match append_at(&producer, 7, &["lost"]).unwrap_err() {
        error @ Error::OffsetCondition { unclear: true, .. } => {
            assert_eq!(error.class(), Class::Indeterminate);
        }
        error => panic!("{error}"),
    }
    assert!(network.has_lost_it());
    assert_eq!(append(&producer, "5").first_offset, Offset::new(5));
    assert_eq!(world.values(6), ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn of_two_tasks_that_want_an_offset_one_gets_it() {
    const EACH: usize = 50;
    async fn work(producer: tasks::Producer, name: &str) -> Vec<u64> {
        let (mut got, mut next) = (Vec::new(), Offset::ZERO);
        while got.len() < EACH {
            let value = format!("{name}{}", got.len());
            let records = [NewRecord::value(value.as_bytes())];
            match producer.append_at(ONLY, next, &records).await.unwrap().await {
                Ok(receipt) => {
                    assert_eq!(receipt.first_offset, next);
                    got.push(next.get());
                    next = receipt.next_offset;
                }
                Err(Error::OffsetCondition { next: end, unclear: false, .. }) => next = end,
                Err(error) => panic!("{error}"),
            }
            // The other one's turn.
            tokio::task::yield_now().await;
        }
        got
    }
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (one, other) = runtime.block_on(async {
        let mut client = tasks::Client::new(Options::new(&world.server.address));
        let one = client.producer("t", ProducerOptions::default()).await.unwrap();
        let other = client.producer("t", ProducerOptions::default()).await.unwrap();
        tokio::join!(work(one, "a"), work(other, "b"))
    });
    let values = world.values(2 * EACH);
    for (name, offsets) in [("a", one), ("b", other)] {
        for (number, offset) in offsets.iter().enumerate() {
            assert_eq!(values[*offset as usize], format!("{name}{number}"));
        }
    }
}

#[test]
fn an_account_is_not_overdrawn() {
    let world = World::new();
    let url = format!("catena://{}", world.server.address);
    let book = |amount| ledger_example::book(&url, "t", amount).unwrap();
    assert!(book(-1).is_none());
    assert_eq!(book(100).unwrap().first_offset, Offset::ZERO);
    thread::scope(|scope| {
        let booked: Vec<_> = (0..4).map(|_| scope.spawn(|| book(-30))).collect();
        let booked = booked.into_iter().filter_map(|booking| booking.join().unwrap());
        assert_eq!(booked.count(), 3);
    });
    assert_eq!(world.values(4), ["100", "-30", "-30", "-30"]);
}
