//! Partitions that are added while a producer and a consumer run.

use super::*;

const MORE: u32 = 5;

fn add_partitions(world: &mut World) {
    world.server.logs.resize_with(MORE as usize, Default::default);
}

/// A consumer of all partitions, from offset 7 on where there were some.
fn reader(options: ConsumerOptions) -> Reader {
    let starts: Vec<_> =
        (0..PARTITIONS).map(|p| (PartitionIndex::new(p), Offset::new(7))).collect();
    Reader::new(
        (&topic(2, PARTITIONS), nodes()),
        options,
        hello(),
        Duration::from_secs(1000),
        &starts,
        1,
    )
}

#[test]
fn a_producer_that_runs_writes_to_partitions_that_are_added() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let options = ProducerOptions {
            batch_bytes: 200,
            refresh: Duration::from_millis(100),
            ..ProducerOptions::default()
        };
        let mut producer = producer(options);
        let mut number: u64 = 0;
        let written = |world: &World| world.server.logs.iter().all(|log| log.values.len() > 2);
        loop {
            if number == 100 {
                add_partitions(&mut world);
            }
            let value = number.to_string();
            let record = NewRecord::value(value.as_bytes());
            let keyed = seed % 2 == 0;
            let record = if keyed { record.with_key(value.as_bytes()) } else { record };
            if !world.server.calm && producer.append(&record, Millis::new(5), world.now).is_ok() {
                number += 1;
                assert!(number < 20_000, "seed {seed}: they are not noticed");
            }
            if number > 100 && written(&world) && !world.server.calm {
                world.server.calm = true;
                producer.finish();
            }
            let done = world.turn(&mut producer);
            while let Some((batch, result)) = producer.poll_settled() {
                result.unwrap_or_else(|error| panic!("seed {seed}: {batch:?}: {error}"));
            }
            if done {
                break;
            }
        }
        assert_eq!(producer.partitions(), MORE);
        let mut values: Vec<u64> = Vec::new();
        for log in &world.server.logs {
            values.extend(log.values.iter().map(|value| value.parse::<u64>().unwrap()));
        }
        values.sort_unstable();
        assert!(values.into_iter().eq(0..number), "seed {seed}: all once");
    }
}

#[test]
fn a_partition_that_somebody_names_is_asked_for_at_once() {
    let mut world = World::new(1);
    world.server.calm = true;
    let options = ProducerOptions { refresh: Duration::MAX, ..ProducerOptions::default() };
    let mut producer = producer(options);
    let record = NewRecord::value(b"1").with_partition(PartitionIndex::new(MORE - 1));
    let refused = producer.append(&record, Millis::new(0), world.now).unwrap_err();
    let unknown =
        matches!(refused, Refused::Error(Error::Server { code: ErrorCode::UnknownPartition, .. }));
    assert!(unknown, "{refused:?}");
    let began = world.now;
    // Nothing is under way, and nothing has ever been sent.
    add_partitions(&mut world);
    while producer.partitions() < MORE {
        world.turn(&mut producer);
        assert!(world.now < began + Duration::from_secs(1), "it is not asked for");
    }
    producer.append(&record, Millis::new(0), world.now).unwrap();
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
    assert_eq!(world.server.logs[MORE as usize - 1].values, ["1"]);
    // Who asks again and again is refused, and the server is asked now and then.
    let (began, asked) = (world.now, world.server.asked);
    let nowhere = record.with_partition(PartitionIndex::new(MORE));
    while world.now < began + Duration::from_secs(1) {
        assert!(producer.append(&nowhere, Millis::new(0), world.now).is_err());
        world.turn(&mut producer);
    }
    let asked = world.server.asked - asked;
    assert!((2..=20).contains(&asked), "asked {asked} times in a second");
}

#[test]
fn a_partition_that_somebody_names_is_asked_for_after_a_lost_connection_too() {
    // The connection of an idle producer is lost before a partition is named, or with the question.
    for asked in [false, true] {
        let mut world = World::new(1);
        world.server.calm = true;
        let options = ProducerOptions { refresh: Duration::MAX, ..ProducerOptions::default() };
        let mut producer = producer(options);
        producer.append(&NewRecord::value(b"1"), Millis::new(0), world.now).unwrap();
        while producer.poll_settled().is_none() {
            world.turn(&mut producer);
        }
        add_partitions(&mut world);
        let named = NewRecord::value(b"2").with_partition(PartitionIndex::new(MORE - 1));
        if asked {
            assert!(producer.append(&named, Millis::new(0), world.now).is_err());
            while world.server.asked == 0 {
                world.turn(&mut producer);
            }
        }
        for lane in std::mem::take(&mut world.wires).into_keys() {
            producer.on_lost(lane, broken(), world.now);
        }
        assert!(asked || producer.append(&named, Millis::new(0), world.now).is_err());
        let lost = world.now;
        while producer.partitions() < MORE {
            world.turn(&mut producer);
            assert!(world.now < lost + Duration::from_secs(10), "asked before: {asked}");
        }
    }
}

#[test]
fn a_consumer_that_runs_reads_partitions_that_are_added_from_their_beginning() {
    const BUFFER: usize = 3000;
    for seed in 0..100 {
        let mut world = World::new(seed);
        let (buffer_bytes, refresh) = (BUFFER, Duration::from_millis(100));
        let options = ConsumerOptions { buffer_bytes, refresh, ..ConsumerOptions::default() };
        let mut reader = reader(options);
        let mut read = vec![Vec::new(); MORE as usize];
        for round in 0..4 {
            if round == 1 {
                add_partitions(&mut world);
                // The first records of one are gone before anybody looks.
                world.server.logs[MORE as usize - 1].start = seed % 3;
            }
            for partition in 0..world.server.logs.len() as u32 {
                world.server.fill(partition, 50);
            }
            let most = take_all(seed, &mut world, &mut reader, &mut read);
            // After a while each has its smaller share.
            assert!(round == 1 || most <= BUFFER + MORE as usize * 100, "seed {seed}: {most} held");
        }
        for (partition, log) in (0..).zip(&world.server.logs) {
            let first = if partition < PARTITIONS { 7 } else { log.start };
            let all: Vec<u64> = (first..log.values.len() as u64).collect();
            assert_eq!(read[partition as usize], all, "seed {seed}, partition {partition}");
        }
    }
}

/// Takes what comes until nothing is left; the most bytes that waited.
fn take_all(seed: u64, world: &mut World, reader: &mut Reader, read: &mut [Vec<u64>]) -> usize {
    let behind = |world: &World, reader: &Reader| {
        (0..).zip(&world.server.logs).any(|(partition, log)| {
            let position = reader.position(PartitionIndex::new(partition));
            position.is_none_or(|at| at.get() < log.values.len() as u64)
        })
    };
    let (began, mut most) = (world.now, 0);
    while behind(world, reader) {
        world.turn(reader);
        assert!(world.now < began + Duration::from_secs(100), "seed {seed}: {reader:?}");
        most = most.max(reader.held());
        if world.random.one_in(10)
            && let Some(fetched) = reader.poll_fetched()
        {
            let batch = fetched.unwrap().read().unwrap();
            let offsets = batch.records().map(|record| record.unwrap().0.get());
            read[batch.partition().get() as usize].extend(offsets);
        }
    }
    most
}

#[test]
fn a_consumer_of_chosen_partitions_does_not_mind_others() {
    let mut world = World::new(1);
    world.server.calm = true;
    let partitions = Some((0..PARTITIONS).map(PartitionIndex::new).collect());
    let refresh = Duration::from_millis(100);
    let mut reader = reader(ConsumerOptions { partitions, refresh, ..ConsumerOptions::default() });
    (0..PARTITIONS).for_each(|partition| world.server.fill(partition, 20));
    let began = world.now;
    add_partitions(&mut world);
    while world.now < began + 100 * refresh {
        world.turn(&mut reader);
    }
    assert_eq!(world.server.asked, 0);
    // Asked for all the same, for another reason.
    for lane in std::mem::take(&mut world.wires).into_keys() {
        reader.on_lost(lane, broken(), world.now);
    }
    while world.server.asked == 0 || world.wires.values().any(|wire| !wire.to_client.is_empty()) {
        world.turn(&mut reader);
    }
    assert_eq!(reader.partitions().len(), PARTITIONS as usize);
}
