//! The log against a plain vector: random operations, restarts included, on a disk that obeys.

mod world;

use std::time::Duration;

use catena_format::{Millis, Offset};
use catena_log::{
    Event, LogConfig, OpenError, ReadAnswer, ReadError, ReadOutcome,
    io::{Done, FileName, Op},
};
use proptest::prelude::*;
use world::{World, open, small, tick};

#[derive(Clone, Debug)]
enum Action {
    Append(u32, usize, i64),
    Run,
    Tick(u64),
    Restart,
    Trim(u64),
    LoseIndexes,
    Check,
    Time(i64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        8 => (1..20u32, 0..9_000usize, 0..500i64).prop_map(|(c, f, t)| Action::Append(c, f, t)),
        1 => (1..20u32, 9_000..200_000usize, 0..500i64)
            .prop_map(|(c, f, t)| Action::Append(c, f, t)),
        4 => Just(Action::Run),
        3 => (1..3_000u64).prop_map(Action::Tick),
        1 => Just(Action::Restart),
        1 => (0..100u64).prop_map(Action::Trim),
        1 => Just(Action::LoseIndexes),
        1 => Just(Action::Check),
        1 => (0..600i64).prop_map(Action::Time),
    ];
    prop::collection::vec(action, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn a_log_is_a_vector(
        actions in actions(),
        index_stride in prop_oneof![Just(4 << 10), Just(32 << 10), Just(1 << 20)],
    ) {
        let mut world = World::new(LogConfig { index_stride, ..small() });
        for action in actions {
            match action {
                Action::Append(count, filler, time) => world.append(count, filler, time),
                Action::Run => { world.run(); }
                Action::Tick(milliseconds) => {
                    world.clock += milliseconds;
                    let now = world.now();
                    world.log.on_tick(now);
                }
                Action::Restart => world.restart(),
                Action::Trim(percent) => {
                    world.run();
                    let end = world.log.durable_end().get();
                    world.log.trim(Offset::new(end * percent / 100)).unwrap();
                }
                Action::LoseIndexes => {
                    world.lost = true;
                    world.disk.files.retain(|name, _| !matches!(name, FileName::Index(_)));
                }
                Action::Check => world.check(),
                Action::Time(time) => { world.run(); world.check_time(time); }
            }
        }
        world.check();
        world.restart();
        world.check();
    }
}

#[test]
fn retention_by_size_counts_what_is_durable() {
    let config = LogConfig { retention_bytes: Some(100 << 10), ..small() };
    let mut world = World::new(config);
    while world.log.segments() < 2 {
        world.append(1, 10_000, 0);
        world.run();
    }
    // As much as is to be kept, on its way to the disk.
    let mut waiting = Vec::new();
    for time in 0..12 {
        world.append(1, 10_000, time);
        if time == 11 {
            tick(&mut world);
        }
        while let Some((id, op)) = world.log.poll_op() {
            if matches!(op, Op::Write { file: FileName::Segment(_), .. }) {
                waiting.push((id, op));
            } else {
                let result = world.disk.perform(op);
                world.log.on_done(Done { id, result }, world.now());
            }
        }
    }
    assert!(world.log.bytes() > 180 << 10);
    assert_eq!(world.log.log_start(), Offset::ZERO);
    for (id, op) in waiting {
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, world.now());
    }
    tick(&mut world);
    world.run();
    assert!(world.log.log_start() > Offset::ZERO);
}

#[test]
fn retention_by_size_drops_whole_segments_from_the_front() {
    let config = LogConfig { retention_bytes: Some(300 << 10), ..small() };
    let mut world = World::new(config);
    for step in 0..200 {
        world.append(1, 8_000, step);
        world.clock += 100;
        world.run();
        let now = world.now();
        world.log.on_tick(now);
        world.run();
    }
    assert!(world.log.log_start() > Offset::ZERO);
    assert!(world.log.bytes() < 600 << 10, "{}", world.log.bytes());
    let segments = world.disk.files.keys().filter(|f| matches!(f, FileName::Segment(_))).count();
    // One is the next segment's, and one, dropped, is kept for the segment after that.
    assert!(segments <= world.log.segments() + 2, "{segments} files");
}

#[test]
fn the_index_has_an_entry_a_stride() {
    let index_bytes = |index_stride| {
        let segment_bytes = 4 << 20;
        let checkpoint_bytes = segment_bytes;
        let config = LogConfig { index_stride, segment_bytes, checkpoint_bytes, ..small() };
        let mut world = World::new(config);
        for step in 0..512 {
            world.append(1, 3_000, step);
            world.run();
        }
        // Both the index of a life and the one that recovery builds.
        world.restart();
        world.check();
        let files = world.disk.files.iter();
        let index = files.filter(|(name, _)| matches!(name, FileName::Index(_)));
        index.map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    let [often, seldom] = [4 << 10, 256 << 10].map(index_bytes);
    // Every frame, and one of 64; an entry has 24 bytes.
    assert!(often - seldom > 500 * 24, "{often}, {seldom}");
}

#[test]
fn an_idle_segment_is_sealed_by_age_and_then_expires() {
    let config = LogConfig {
        segment_age: Duration::from_secs(10),
        retention_age: Some(Duration::from_secs(60)),
        ..small()
    };
    let mut world = World::new(config);
    world.append(3, 100, 5);
    world.run();
    for _ in 0..90 {
        world.clock += 1_000;
        let now = world.now();
        world.log.on_tick(now);
        world.run();
    }
    assert_eq!(world.log.log_start(), Offset::new(3));
    assert_eq!(world.log.segments(), 0);
    let now = world.now();
    assert!(matches!(
        world.log.read(Offset::new(2), 1, Offset::new(3)),
        Err(ReadError::OutOfRange { .. })
    ));
    world.log.on_tick(now);
    world.restart();
    assert_eq!(world.log.log_end(), Offset::new(3));
}

#[test]
fn a_log_that_lost_both_manifests_is_not_an_empty_one() {
    let mut world = World::new(small());
    world.append(1, 100, 5);
    world.run();
    world.disk.files.retain(|name, _| !matches!(name, FileName::Manifest(_)));
    let opened = open(&mut world.disk, small(), false, 0);
    assert!(matches!(opened, Err(OpenError::Manifest(_))));
}

#[test]
fn one_rotten_manifest_is_replaced() {
    let mut world = World::new(small());
    for step in 0..100 {
        world.append(1, 5_000, step);
        world.run();
    }
    for slot in [catena_log::io::Slot::First, catena_log::io::Slot::Second] {
        world.disk.files.get_mut(&FileName::Manifest(slot)).unwrap()[40] ^= 1;
        world.restart();
        assert!(world.log.recovery().manifest_repaired);
        world.check();
    }
}

#[test]
fn a_time_is_found_behind_a_trim_that_overtakes_the_read() {
    let mut world = World::new(small());
    for offset in 0..60 {
        world.append(1, 5_000, if offset == 5 || offset == 59 { 1_000 } else { 0 });
        world.run();
    }
    let below = world.log.durable_end();
    let asked = world.log.offset_for_time(Millis::new(1_000), below);
    assert!(matches!(asked, ReadOutcome::Pending(_)));
    let (id, op) = world.log.poll_op().expect("it reads");
    world.log.trim(Offset::new(20)).unwrap();
    world.run();
    assert_eq!(world.log.log_start(), Offset::new(20));
    let result = world.disk.perform(op);
    world.log.on_done(Done { id, result }, world.now());
    let events = world.run();
    let Some(Event::Read(_, Ok(ReadAnswer::Offset(found)))) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(*found, Some(Offset::new(59)));
}
