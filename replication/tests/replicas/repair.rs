//! What is damaged on one member of a chain is taken from another one.

use std::time::Duration;

use catena_log::ReadError;
use catena_replication::Event;

use super::world::{World, range};

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

#[test]
fn who_gives_what_cannot_be_written_back_counts_as_one_who_does_not_have_it() {
    for at in 0..3 {
        let mut world = World::new(3, BATCHES);
        let whole = world.read(at, 5).unwrap();
        world.nodes[at].spoils = true;
        world.damage(at, 5..6);
        // All neighbours were asked, one after the other.
        let told = &world.nodes[at].told;
        let failed = told.iter().filter(|event| matches!(event, Event::RepairFailed(..))).count();
        assert_eq!(failed, if at == 1 { 2 } else { 1 });
        assert_eq!(world.lost(at), [range(5..6)]);
        assert!(!world.may_mend(at, 5), "nobody waits for it");
        world.nodes[at].spoils = false;
        world.pass(11 * SECOND);
        assert_eq!(world.damaged(at), [], "it is asked for once more");
        assert_eq!(world.read(at, 5).unwrap(), whole);
    }
}

#[test]
fn what_nobody_has_is_told_once() {
    for nodes in 2..6 {
        let mut world = World::new(nodes, BATCHES);
        (0..nodes).for_each(|at| world.rot(at, 5));
        (0..nodes).for_each(|at| assert!(world.read(at, 5).is_err()));
        world.pass(60 * SECOND);
        for at in 0..nodes {
            assert!(!world.may_mend(at, 5));
            assert_eq!(world.lost(at), [range(5..6)], "{at} of {nodes}");
            assert_eq!(world.damaged(at), [range(5..6)]);
        }
    }
}

#[test]
fn an_answer_says_nothing_of_what_was_not_asked_for() {
    for denied in [false, true] {
        let mut world = World::new(2, BATCHES);
        world.hears = false;
        world.damage(0, 6..7);
        assert_eq!(world.on_its_way(), [(0, 1, 6, None)]);
        // What lies before is found before the answer has come.
        world.damage(0, 5..6);
        assert_eq!(world.damaged(0), [range(5..7)]);
        if denied {
            world.said.clear();
            world.deny(1, 0, 6);
        } else {
            world.hear(0);
            assert_eq!(world.on_its_way(), [(1, 0, 6, Some(1))]);
            world.hear(0);
        }
        assert!(world.may_mend(0, 5) && world.may_mend(0, 6));
        assert_eq!(world.on_its_way(), [(0, 1, 5, None)], "it is asked for all of it");
        world.hears = true;
        world.settle();
        assert_eq!((world.damaged(0), world.lost(0)), (vec![], vec![]));
    }
}

#[test]
fn who_is_asked_for_what_has_rotted_there_too_asks_behind_him() {
    let mut world = World::new(4, BATCHES);
    let whole = world.read(0, 5).unwrap();
    // Nobody has read it there.
    world.rot(1, 5);
    world.rot(2, 5);
    world.damage(0, 5..6);
    for at in 0..3 {
        assert_eq!((world.damaged(at), world.lost(at)), (vec![], vec![]), "at {at}");
        assert_eq!(world.read(at, 5).unwrap(), whole);
    }
}

#[test]
fn an_answer_that_comes_late_is_taken() {
    for nodes in [2, 3] {
        let mut world = World::new(nodes, BATCHES);
        let whole = world.read(1, 5).unwrap();
        world.hears = false;
        world.damage(1, 5..6);
        world.hear(0);
        // Nobody waits for it any more, or another one was asked.
        world.pass(3 * SECOND);
        assert_eq!(world.on_its_way()[0], (0, 1, 5, Some(1)));
        world.hear(0);
        assert_eq!(world.damaged(1), []);
        assert_eq!(world.read(1, 5).unwrap(), whole);
        // What comes of others later is of no use.
        world.hears = true;
        world.pass(20 * SECOND);
        assert_eq!((world.damaged(1), world.lost(1)), (vec![], vec![]));
    }
}

#[test]
fn who_does_not_answer_is_given_more_and_more_time() {
    let mut world = World::new(2, BATCHES);
    world.hears = false;
    world.damage(0, 5..6);
    world.pass(600 * SECOND);
    let asked = world.on_its_way().len();
    assert!((8..20).contains(&asked), "{asked} times");
    world.said.clear();
    world.hears = true;
    world.pass(71 * SECOND);
    assert_eq!(world.damaged(0), []);
}

#[test]
fn of_what_one_asks_for_only_the_last_waits() {
    let mut world = World::new(3, BATCHES);
    (world.hears, world.speaks) = (false, false);
    for batch in 0..30 {
        world.ask(0, 1, batch..batch + 1);
        world.ask(2, 1, 5..6);
        world.settle();
    }
    // Nobody takes what it has to say, and so it reads no more.
    world.speaks = true;
    world.settle();
    let said = world.on_its_way();
    assert_eq!(said, [(1, 0, 0, Some(1)), (1, 2, 5, Some(1)), (1, 0, 29, Some(1))]);
    world.said.clear();
    // It is answered once, however often it was asked for.
    (0..30).for_each(|_| world.ask(0, 1, 7..9));
    world.settle();
    assert_eq!(world.on_its_way(), [(1, 0, 7, Some(2))]);
}
