//! A producer and a consumer of a cluster, whose heads die, fall silent and change.

use super::{
    server::{NODES, at},
    *,
};

const SERVERS: [u64; 2] = [1, 2];
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// A cluster, of which the options name two of three nodes, each the head of one partition.
pub(super) fn cluster(seed: u64) -> World {
    let mut world = World::new(seed);
    let heads: Vec<_> = (0..u64::from(PARTITIONS)).map(|p| (p % NODES + 1, 1)).collect();
    (world.server.heads, world.server.before) = (heads.clone(), heads);
    world.server.tells = seed.is_multiple_of(2);
    world
}

pub(super) fn servers() -> Nodes {
    Nodes::new(SERVERS.map(at).into())
}

pub(super) fn producer(world: &mut World, options: ProducerOptions) -> Producer {
    let topic = world.server.topic(0, &mut Random(1));
    let id = (ProducerId::new(1), ProducerEpoch::new(0));
    let target = Target::of(&topic, servers(), id, options.refresh, 1).unwrap();
    Producer::new(target, options, hello(), WAIT, 3)
}

pub(super) fn reader(world: &mut World) -> Reader {
    let topic = world.server.topic(0, &mut Random(1));
    let starts: Vec<_> = (0..PARTITIONS).map(|p| (PartitionIndex::new(p), Offset::ZERO)).collect();
    Reader::new((&topic, servers()), ConsumerOptions::default(), hello(), WAIT, &starts, 1)
}

/// What becomes of a node that is the head no longer.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Dead,
    Silent,
    Well,
}

const ALL: [Then; 3] = [Then::Dead, Then::Silent, Then::Well];

/// Others become the heads of a node's chains.
fn replace(world: &mut World, client: &mut impl Client, node: u64, then: Then) {
    world.server.before = world.server.heads.clone();
    for head in world.server.heads.iter_mut().filter(|head| head.0 == node) {
        *head = (node % NODES + 1, head.1 + 1);
    }
    world.dead = None;
    world.server.stopped.clear();
    match then {
        Then::Dead => world.dead = Some(node),
        Then::Silent => world.server.stopped = [node].into(),
        Then::Well => {}
    }
    if then != Then::Dead {
        return;
    }
    lose(world, client, node);
}

/// All connections to a node end.
pub(super) fn lose(world: &mut World, client: &mut impl Client, node: u64) {
    let its = |wire: &Wire| wire.node == node;
    let lost: Vec<Lane> = world.wires.iter().filter(|(_, w)| its(w)).map(|(l, _)| *l).collect();
    for lane in lost {
        world.wires.remove(&lane);
        client.lost(lane, world.now);
    }
}

#[test]
fn what_is_acknowledged_is_stored_once_and_in_order_however_heads_change() {
    let mut strayed = 0;
    for seed in 0..200 {
        let mut world = cluster(seed);
        let options = ProducerOptions { batch_bytes: 200, in_flight: 5, ..Default::default() };
        let mut producer = producer(&mut world, options);
        let (mut appended, mut outcomes) = (Vec::new(), Outcomes::new());
        for number in 0..300 {
            if number % 50 == 49 {
                let node = world.random.below(NODES) + 1;
                let then = ALL[world.random.below(3) as usize];
                replace(&mut world, &mut producer, node, then);
            }
            let (value, key) = (number.to_string(), u64::to_be_bytes(number));
            let record = NewRecord::value(value.as_bytes()).with_key(&key);
            let there = producer.append(&record, Millis::new(5), world.now).unwrap();
            appended.push((value, there.batch, there.index));
            for _ in 0..world.random.below(20) {
                world.turn(&mut producer);
                outcomes.extend(std::iter::from_fn(|| producer.poll_settled()));
            }
        }
        world.server.calm = true;
        producer.finish();
        let calm = world.now;
        while !world.turn(&mut producer) {
            assert!(world.now < calm + 2 * WAIT, "seed {seed}: {producer:?}");
        }
        outcomes.extend(std::iter::from_fn(|| producer.poll_settled()));
        check(seed, &world.server, &appended, &outcomes);
        assert!(outcomes.values().all(Result::is_ok), "seed {seed}");
        strayed += world.server.strayed;
    }
    assert!(strayed > 100, "{strayed} requests came to one that is not the head");
}

#[test]
fn a_producer_finds_the_next_head_at_once_and_one_that_fell_silent_does_not_hold_it() {
    for then in ALL {
        let mut world = cluster(1);
        world.server.calm = true;
        let mut producer = producer(&mut world, ProducerOptions::default());
        let mut store = |world: &mut World, fails: bool| {
            append_to(&mut producer, 0, world.now);
            if fails {
                while producer.in_flight() == 0 {
                    assert!(!matches!(producer.step(world.now), Step::Done));
                }
            }
            if fails {
                replace(world, &mut producer, 1, then);
            }
            let began = world.now;
            loop {
                world.turn(&mut producer);
                if let Some((_, outcome)) = producer.poll_settled() {
                    outcome.unwrap();
                    break world.now - began;
                }
            }
        };
        store(&mut world, false);
        let late = store(&mut world, true);
        let most = if then == Then::Dead { 500 } else { 2000 };
        assert!(late < Duration::from_millis(most), "{late:?}: {then:?}");
        assert_eq!(world.server.logs[0].values.len(), 2);
    }
}

#[test]
fn a_consumer_goes_on_at_the_next_head() {
    for seed in 0..60 {
        let mut world = cluster(seed);
        let mut reader = reader(&mut world);
        let mut read = vec![0; PARTITIONS as usize];
        for round in 0..6 {
            if round > 0 {
                let then = ALL[seed as usize % 3];
                replace(&mut world, &mut reader, round % NODES + 1, then);
            }
            (0..PARTITIONS).for_each(|partition| world.server.fill(partition, 20));
            let began = world.now;
            while read.iter().any(|read| *read < 20 * (round + 1)) {
                world.turn(&mut reader);
                assert!(world.now < began + 5 * WAIT, "seed {seed}: {reader:?}");
                let Some(fetched) = reader.poll_fetched() else { continue };
                let batch = match fetched {
                    // So many connections break here that it may be told; it goes on.
                    Err(error) if error.is_unreachable() => continue,
                    fetched => fetched.unwrap().read().unwrap(),
                };
                for record in batch.records() {
                    let next = &mut read[batch.partition().get() as usize];
                    assert_eq!(record.unwrap().0.get(), *next, "seed {seed}");
                    *next += 1;
                }
            }
        }
    }
}

#[test]
fn where_all_but_one_are_dead_that_one_is_found() {
    let mut world = cluster(1);
    world.server.calm = true;
    let mut producer = producer(&mut world, ProducerOptions::default());
    // Nothing was ever asked, and only of two it is known where they are.
    replace(&mut world, &mut producer, 1, Then::Dead);
    append_to(&mut producer, 0, world.now);
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
    assert!(world.refused > 0);
    assert!(world.wires.keys().all(|lane| *lane != Lane::SCOUT), "a scout goes home");
}

#[test]
fn a_consumer_that_is_ahead_of_a_replica_waits_for_it() {
    let mut world = cluster(1);
    world.server.calm = true;
    let mut reader = reader(&mut world);
    (0..PARTITIONS).for_each(|partition| world.server.fill(partition, 20));
    let behind = |reader: &Reader| {
        (0..PARTITIONS).any(|p| reader.position(PartitionIndex::new(p)).unwrap().get() < 20)
    };
    while behind(&reader) {
        world.turn(&mut reader);
        reader.poll_fetched().map(Result::unwrap);
    }
    // What another has of it is less for a while.
    let ahead = world.server.logs[0].values.split_off(10);
    replace(&mut world, &mut reader, 1, Then::Dead);
    let began = world.now;
    while world.now < began + WAIT / 2 {
        world.turn(&mut reader);
        assert!(!reader.has_fetched());
    }
    world.server.logs[0].values.extend(ahead);
    world.server.fill(0, 1);
    while !reader.has_fetched() {
        world.turn(&mut reader);
        assert!(world.now < began + 2 * WAIT);
    }
    let batch = reader.poll_fetched().unwrap().unwrap().read().unwrap();
    assert_eq!(batch.first_offset(), Offset::new(20));
}
