//! What predecessors are told: at once what somebody waits for, and the rest with it or later.

use std::time::Duration;

use catena_replication::{Durability, Event};

use super::world::World;

const TENTH: Duration = Duration::from_millis(100);

fn reports(world: &World) -> Vec<usize> {
    world.nodes.iter().map(|node| node.reports).collect()
}

fn replies(world: &World) -> usize {
    let told = world.nodes[0].told.iter();
    told.filter(|event| matches!(event, Event::Reply(reply) if reply.result.is_ok())).count()
}

#[test]
fn a_batch_on_all_disks_is_told_of_once_by_each() {
    let mut world = World::new(3, 3);
    world.pass(TENTH);
    let before = reports(&world);
    world.produce_at(Durability::ChainDisk);
    assert_eq!(replies(&world), 1);
    let told: Vec<_> =
        reports(&world).iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(told, [0, 1, 1]);
}

#[test]
fn what_is_in_the_memory_of_all_is_told_of_at_once_to_whom_waits_for_it() {
    let mut world = World::new(3, 3);
    world.pass(TENTH);
    world.nodes[2].stands = true;
    world.produce_at(Durability::ChainDisk);
    assert_eq!(replies(&world), 0);
    world.produce_at(Durability::ChainMemory);
    assert_eq!(replies(&world), 1, "its disk is not waited for");
    world.nodes[2].stands = false;
    world.settle();
    assert_eq!(replies(&world), 2);
}

#[test]
fn what_nobody_waits_for_is_told_late() {
    let mut world = World::new(3, 3);
    world.pass(TENTH);
    world.nodes[2].stands = true;
    let before = reports(&world);
    world.produce();
    assert_eq!(reports(&world), before);
    world.pass(TENTH);
    assert!(reports(&world) > before, "the head sees who holds the chain up");
    let before = reports(&world);
    world.pass(TENTH);
    assert_eq!(reports(&world), before, "nothing is news");
}
