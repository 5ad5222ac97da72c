//! Nodes that know less than others, that say nothing, and that end what they are asked on.

use super::{
    cluster::{WAIT, cluster, lose, producer, reader},
    *,
};

/// A producer of a cluster where nothing fails, with a connection to each node.
fn connected(options: ProducerOptions) -> (World, Producer) {
    let mut world = cluster(1);
    world.server.calm = true;
    let mut producer = producer(&mut world, options);
    for partition in 0..PARTITIONS {
        store(&mut world, &mut producer, partition);
    }
    assert_eq!(world.wires.len(), PARTITIONS as usize);
    (world.server.asked, world.server.strayed) = (0, 0);
    (world, producer)
}

/// Appends a record; how long it takes until it is stored.
fn store(world: &mut World, producer: &mut Producer, partition: u32) -> Duration {
    append_to(producer, partition, world.now);
    let began = world.now;
    loop {
        world.turn(producer);
        assert!(world.now < began + WAIT, "{producer:?}");
        if let Some((_, outcome)) = producer.poll_settled() {
            outcome.unwrap();
            return world.now - began;
        }
    }
}

/// Another node becomes the head of a partition's chain.
fn move_head(world: &mut World, partition: usize, node: u64) {
    world.server.before = world.server.heads.clone();
    let head = &mut world.server.heads[partition];
    *head = (node, head.1 + 1);
}

#[test]
fn a_node_that_knows_less_is_asked_once_and_then_the_others() {
    for (head, heir, stale) in [(1, 3, 2), (1, 2, 3), (2, 3, 1)] {
        let (mut world, mut producer) = connected(ProducerOptions::default());
        move_head(&mut world, head as usize - 1, heir);
        (world.dead, world.server.stale) = (Some(head), [stale].into());
        lose(&mut world, &mut producer, head);
        let late = store(&mut world, &mut producer, head as u32 - 1);
        assert!(late < Duration::from_millis(300), "{late:?}: {head} is dead, {stale} stale");
        assert!(world.server.asked <= 4, "asked {} times", world.server.asked);
    }
}

#[test]
fn who_was_found_to_know_less_is_left_for_another() {
    let mut world = cluster(1);
    world.server.calm = true;
    let mut producer = producer(&mut world, ProducerOptions::default());
    store(&mut world, &mut producer, 0);
    let before = world.server.asked;
    // No connection is left, and who is asked first knows nothing better.
    move_head(&mut world, 0, 3);
    (world.dead, world.server.stale) = (Some(1), [2].into());
    lose(&mut world, &mut producer, 1);
    let late = store(&mut world, &mut producer, 0);
    assert!(late < Duration::from_millis(300), "{late:?}");
    assert!(world.server.asked <= before + 3, "asked {} times", world.server.asked - before);
}

#[test]
fn who_refuses_is_asked_first_for_it_knows_why() {
    let (mut world, mut producer) = connected(ProducerOptions::default());
    move_head(&mut world, 2, 1);
    world.server.stale = [1, 2].into();
    let late = store(&mut world, &mut producer, 2);
    assert!(late < Duration::from_millis(300), "{late:?}");
    assert_eq!(world.server.asked, 1);
}

#[test]
fn while_nobody_knows_better_all_are_asked_less_and_less_often() {
    let (mut world, mut producer) = connected(ProducerOptions::default());
    move_head(&mut world, 0, 2);
    world.server.stale = [1, 2, 3].into();
    append_to(&mut producer, 0, world.now);
    let began = world.now;
    while world.now < began + WAIT {
        world.turn(&mut producer);
    }
    // In rounds of three, which come to be a second apart.
    let (asked, strayed) = (world.server.asked, world.server.strayed);
    assert!((20..100).contains(&asked), "asked {asked} times");
    assert!((10..40).contains(&strayed), "refused {strayed} times");
    world.server.stale.clear();
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
        assert!(world.now < began + WAIT + Duration::from_secs(3));
    }
}

#[test]
fn two_silent_nodes_do_not_hide_a_third() {
    let (mut world, mut producer) = connected(ProducerOptions::default());
    (0..2).for_each(|partition| move_head(&mut world, partition, 3));
    world.server.stopped = [1, 2].into();
    let late = store(&mut world, &mut producer, 0);
    assert!(late < Duration::from_secs(2), "{late:?}");
    // They are left alone, and asked again when they may have come back.
    world.server.stopped.clear();
    (0..2).for_each(|node| lose(&mut world, &mut producer, node + 1));
    move_head(&mut world, 2, 2);
    let late = store(&mut world, &mut producer, 2);
    assert!(late < Duration::from_secs(2), "{late:?}");
}

#[test]
fn a_silent_node_does_not_hold_up_the_end_of_an_epoch() {
    let delivery_timeout = Duration::from_secs(1);
    let (mut world, mut producer) =
        connected(ProducerOptions { delivery_timeout, ..ProducerOptions::default() });
    // A batch is given up of which nobody knows whether it is stored, and one behind it is too.
    world.server.stopped = [3].into();
    append_to(&mut producer, 2, world.now);
    let began = world.now;
    let mut second = false;
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
        if !second && world.now > began + delivery_timeout * 9 / 10 {
            append_to(&mut producer, 2, world.now);
            second = true;
        }
    }
    // One node is silent, though it has an open connection, and the others are well.
    move_head(&mut world, 2, 2);
    world.server.stopped = [1].into();
    (world.dead, world.server.raises) = (Some(3), 0);
    lose(&mut world, &mut producer, 3);
    let began = world.now;
    while world.server.raises == 0 {
        world.turn(&mut producer);
        assert!(world.now < began + Duration::from_millis(800), "{producer:?}");
    }
}

#[test]
fn what_ends_a_connection_is_not_sent_again_and_again() {
    let (mut world, mut producer) = connected(ProducerOptions::default());
    world.server.cuts = true;
    append_to(&mut producer, 0, world.now);
    let began = world.now;
    while world.now < began + WAIT {
        world.turn(&mut producer);
    }
    assert!((10..40).contains(&world.server.cut), "{} connections", world.server.cut);
    world.server.cuts = false;
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
        assert!(world.now < began + WAIT + Duration::from_secs(2));
    }
    assert_eq!(world.server.logs[0].values.len(), 2);
}

#[test]
fn a_subscription_that_ends_its_connection_is_not_made_again_and_again() {
    let mut world = cluster(1);
    world.server.calm = true;
    let mut reader = reader(&mut world);
    world.server.cuts = true;
    let began = world.now;
    while world.now < began + WAIT {
        world.turn(&mut reader);
    }
    let each = world.server.cut / u64::from(PARTITIONS);
    assert!((10..40).contains(&each), "{each} connections for each partition");
}
