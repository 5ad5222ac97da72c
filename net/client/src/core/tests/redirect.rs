//! A node that is not the head tells which one is: nobody else is asked.

use super::{
    cluster::{WAIT, cluster, producer, servers},
    *,
};

/// Partitions of whose heads it is known from the beginning where they are; of the next head of one
/// it is not.
const KNOWN: u32 = 2;

/// A calm cluster whose nodes tell where heads are, of which the client knows the first epoch.
fn telling() -> World {
    let mut world = cluster(1);
    (world.server.calm, world.server.tells) = (true, true);
    world
}

/// Every head is another one, in a newer epoch.
fn move_heads(world: &mut World) {
    for head in &mut world.server.heads {
        *head = (head.0 % server::NODES + 1, head.1 + 1);
    }
}

#[test]
fn a_producer_goes_to_the_next_head_without_asking_for_metadata() {
    let mut world = telling();
    let mut producer = producer(&mut world, ProducerOptions::default());
    move_heads(&mut world);
    for partition in 0..KNOWN {
        append_to(&mut producer, partition, world.now);
    }
    for _ in 0..KNOWN {
        let outcome = loop {
            world.turn(&mut producer);
            if let Some((_, outcome)) = producer.poll_settled() {
                break outcome;
            }
        };
        outcome.unwrap();
    }
    assert_eq!((world.server.strayed, world.server.asked), (u64::from(KNOWN), 0));
}

#[test]
fn a_consumer_goes_to_the_next_head_without_asking_for_metadata() {
    let mut world = telling();
    let topic = world.server.topic(0, &mut Random(1));
    let partitions: Vec<_> = (0..KNOWN).map(PartitionIndex::new).collect();
    let starts: Vec<_> = partitions.iter().map(|index| (*index, Offset::ZERO)).collect();
    let options = ConsumerOptions { partitions: Some(partitions), ..Default::default() };
    let mut reader = Reader::new((&topic, servers()), options, hello(), WAIT, &starts, 1);
    move_heads(&mut world);
    (0..KNOWN).for_each(|partition| world.server.fill(partition, 1));
    for _ in 0..KNOWN {
        while !reader.has_fetched() {
            world.turn(&mut reader);
        }
        reader.poll_fetched().unwrap().unwrap();
    }
    assert_eq!((world.server.strayed, world.server.asked), (u64::from(KNOWN), 0));
}

#[test]
fn who_tells_of_what_is_older_is_not_believed() {
    let mut world = telling();
    let mut producer = producer(&mut world, ProducerOptions::default());
    // What the client was told is not so any more, and nobody has told it of another epoch.
    for head in &mut world.server.heads {
        head.0 = head.0 % server::NODES + 1;
    }
    append_to(&mut producer, 0, world.now);
    while world.server.asked == 0 {
        world.turn(&mut producer);
        assert!(producer.poll_settled().is_none());
    }
    move_heads(&mut world);
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
}
