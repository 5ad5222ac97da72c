//! What a consumer is told, and how it keeps its connections.

use super::*;

const ONLY: PartitionIndex = PartitionIndex::new(0);
const WAIT: Duration = Duration::from_secs(1);

/// A world whose first partition holds so many batches, and a consumer of that.
fn world(batches: u64, buffer_bytes: usize) -> (World, Reader) {
    let mut world = World::new(1);
    (world.server.calm, world.server.cores) = (true, 1);
    world.server.fill(0, batches);
    let partitions = Some(vec![ONLY]);
    let options = ConsumerOptions { partitions, buffer_bytes, ..ConsumerOptions::default() };
    let starts = [(ONLY, Offset::ZERO)];
    (world, Reader::new((&topic(1, PARTITIONS), nodes()), options, hello(), WAIT, &starts, 1))
}

/// Goes on until something is there for the application.
fn take(world: &mut World, reader: &mut Reader) -> Result<Offset, Error> {
    let began = world.now;
    loop {
        world.turn(reader);
        assert!(world.now < began + 100 * WAIT, "nothing comes");
        if let Some(fetched) = reader.poll_fetched() {
            return Ok(fetched?.read()?.first_offset());
        }
    }
}

#[test]
fn a_partition_that_cannot_be_read_for_long_is_told_again_and_again_and_still_tried() {
    let (mut world, mut reader) = world(2, 1 << 20);
    world.server.unreadable = Some(ErrorCode::ReadFailed);
    let began = world.now;
    for times in 1..4 {
        let error = take(&mut world, &mut reader).unwrap_err();
        assert!(world.now >= began + WAIT * times, "once in the time of a request");
        assert!(error.is_retriable(), "{error}");
        let Error::Partition { partition, offset, source } = error else { panic!("{error}") };
        assert_eq!((partition, offset), (ONLY, Offset::ZERO));
        assert!(matches!(*source, Error::Server { code: ErrorCode::ReadFailed, .. }), "{source}");
    }
    world.server.unreadable = None;
    assert_eq!(take(&mut world, &mut reader).unwrap(), Offset::ZERO);
    // What was long ago is no part of what fails now.
    assert_eq!(take(&mut world, &mut reader).unwrap(), Offset::new(1));
    world.server.unreadable = Some(ErrorCode::ShuttingDown);
    world.now += 100 * WAIT;
    world.server.fill(0, 1);
    while world.wires.values().all(|wire| !wire.subscriptions.is_empty()) {
        world.turn(&mut reader);
    }
    world.server.unreadable = None;
    assert_eq!(take(&mut world, &mut reader).unwrap(), Offset::new(2));
}

#[test]
fn what_ends_a_partition_names_it_and_is_forgotten_by_a_seek() {
    let (mut world, mut reader) = world(2, 1 << 20);
    world.server.unreadable = Some(ErrorCode::SubscriptionBudget);
    let error = take(&mut world, &mut reader).unwrap_err();
    assert!(matches!(error, Error::Partition { partition: ONLY, .. }), "{error}");
    assert!(reader.is_over());
    reader.seek(ONLY, Offset::new(1)).unwrap();
    while !reader.has_fetched() {
        world.turn(&mut reader);
    }
    // The same again, and nobody has taken it.
    world.server.unreadable = None;
    reader.seek(ONLY, Offset::new(1)).unwrap();
    assert_eq!(take(&mut world, &mut reader).unwrap(), Offset::new(1));
}

#[test]
fn a_consumer_that_only_listens_gives_signs_of_life() {
    let (mut world, mut reader) = world(1, 1 << 20);
    take(&mut world, &mut reader).unwrap();
    let began = world.now;
    while world.now < began + 10 * WAIT {
        world.server.fill(0, 1);
        take(&mut world, &mut reader).unwrap();
    }
    assert!((5..20).contains(&world.server.pings), "{} pings", world.server.pings);
    assert_eq!(world.wires.len(), 1);
}

#[test]
fn a_buffer_beyond_the_credit_that_the_server_gives_is_read_to_the_end() {
    let (mut world, mut reader) = world(3 * u64::from(CREDIT_BYTES_MAX) / 61, 1 << 40);
    let end = world.server.logs[0].values.len() as u64;
    while reader.position(ONLY).unwrap().get() < end {
        take(&mut world, &mut reader).unwrap();
    }
}
