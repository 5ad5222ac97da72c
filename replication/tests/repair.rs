//! What is damaged on one member of a chain is taken from another one.

mod world;

use std::time::Duration;

use catena_log::ReadError;
use world::{World, range};

const SECOND: Duration = Duration::from_secs(1);
/// Batches of a chain: several segments.
const BATCHES: u64 = 60;

#[test]
fn what_rots_on_any_member_is_taken_from_a_neighbour() {
    for at in 0..3 {
        let mut world = World::new(3, BATCHES);
        let whole = world.read(at, 5).unwrap();
        world.damage(at, 5..8);
        assert_eq!(world.damaged(at), []);
        assert_eq!(world.read(at, 5).unwrap(), whole);
    }
}

#[test]
fn damage_that_recovery_finds_is_asked_for_once_it_is_known_to_be_committed() {
    for linked in [true, false] {
        let mut world = World::new(2, BATCHES);
        // So near the end that recovery reads it, before the chain says anything.
        let rotten = BATCHES - 2;
        let whole = world.read(0, rotten).unwrap();
        world.rot(0, rotten);
        world.linked = linked;
        world.restart();
        if !linked {
            assert_eq!(world.damaged(0), [range(rotten..rotten + 1)]);
            assert_eq!(world.nodes[0].replica.high_watermark().get(), 0);
            world.linked = true;
            world.pass(3 * SECOND);
        }
        assert_eq!(world.nodes[0].replica.high_watermark().get(), BATCHES);
        assert_eq!(world.damaged(0), []);
        assert_eq!(world.read(0, rotten).unwrap(), whole);
    }
}

#[test]
fn damage_at_the_end_of_what_is_being_written_is_asked_for_once_something_follows() {
    let mut world = World::new(2, BATCHES);
    let last = BATCHES - 1;
    let whole = world.read(0, last).unwrap();
    world.damage(0, last..BATCHES);
    world.pass(SECOND);
    assert!(!world.may_mend(0, last));
    assert!(matches!(world.read(0, last), Err(ReadError::Damaged { .. })));
    world.produce();
    assert!(world.may_mend(0, last), "who wants to read there waits");
    world.pass(11 * SECOND);
    assert_eq!(world.damaged(0), []);
    assert_eq!(world.read(0, last).unwrap(), whole);
}
