//! How fast a copy is made.

mod common;
mod world;

use std::time::Duration;

use catena_format::Offset;
use catena_node::Limits;
use catena_wire::{Api, ErrorCode, Message, ReplicateTopicRequest, StatusResponse};
use world::World;

const MIB: u64 = 1 << 20;
/// Of half a MiB each.
const BATCHES: u64 = 48;

/// How long it takes until a node has a copy of what was appended while it was away.
fn time_to_copy(rate: u64) -> Duration {
    let mut world = World::new(2);
    assert_eq!(world.create(0, "events", 1, 2), ErrorCode::None);
    let alone = ReplicateTopicRequest { name: "events".into(), replicas: 2, min_replicas: 1 };
    let (head, _) = world.ask(0, Api::ReplicateTopic, &alone, &[]);
    assert_eq!(StatusResponse::decode(&head).unwrap().error, ErrorCode::None);
    let (topic, partitions) = world.partitions(0, "events");
    let uid = partitions[0].uid;
    world.kill(1);
    world.until("one is alone", |w| w.chain(0, "events", 0) == [0]);
    for core in &mut world.machines[0].cores {
        core.limits_mut().catch_up_rate = rate;
    }
    for sequence in 0..BATCHES as i32 {
        world.offer(0, topic, sequence, MIB as usize / 2);
        world.pass(Duration::from_millis(5));
    }
    world.start(1);
    let begin = world.clock;
    world.until("the other one has all", |w| {
        let ends = w.machines[1].cores.iter().filter_map(|core| core.high_watermark(uid));
        let has_all = ends.max() >= Some(Offset::new(BATCHES));
        has_all && w.chain(0, "events", 0).len() == 2
    });
    world.clock - begin
}

#[test]
fn it_is_made_as_fast_as_is_allowed_and_not_faster() {
    // The rest is in memory.
    let from_disk = BATCHES * MIB / 2 - Limits::default().tail_cache_bytes as u64;
    let slow = time_to_copy(4 * MIB);
    let least = Duration::from_secs_f64((from_disk - MIB) as f64 / (4 * MIB) as f64);
    assert!((least..2 * least).contains(&slow), "{slow:?}, at least {least:?}");
    let fast = time_to_copy(400 * MIB);
    assert!(4 * fast < slow, "{fast:?} and {slow:?}");
}
