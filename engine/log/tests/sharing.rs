//! Several readers of the same part of a segment share one read.

mod world;

use bytes::Bytes;
use catena_format::Offset;
use catena_log::{
    Event, LogConfig, ReadAnswer, ReadOutcome,
    io::{Done, FileName, Op, OpId},
};
use world::{World, small};

/// Begins a read from the disk.
fn begin(world: &mut World, from: u64) {
    let below = world.log.durable_end();
    let read = world.log.read(Offset::new(from), 20_000, below).unwrap();
    assert!(matches!(read, ReadOutcome::Pending(_)));
}

/// The reads of segments that the log asks for; all else is done.
fn asked(world: &mut World) -> Vec<(OpId, Op<Bytes>)> {
    let mut reads = Vec::new();
    while let Some((id, op)) = world.log.poll_op() {
        if matches!(op, Op::Read { file: FileName::Segment(_), .. }) {
            reads.push((id, op));
            continue;
        }
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, world.now());
    }
    reads
}

fn finish(world: &mut World, reads: Vec<(OpId, Op<Bytes>)>) -> Vec<(Vec<Bytes>, Offset)> {
    for (id, op) in reads {
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, world.now());
    }
    let mut found = Vec::new();
    for event in world.run() {
        match event {
            Event::Read(_, Ok(ReadAnswer::Batches(batches))) => {
                found.push((batches.shares, batches.next));
            }
            other => panic!("{other:?}"),
        }
    }
    found
}

#[test]
fn readers_of_one_part_share_one_read() {
    let mut world = World::new(LogConfig { tail_cache_bytes: 0, ..small() });
    for time in 0..60 {
        world.append(1, 5_000, time);
        world.run();
    }
    for _ in 0..3 {
        begin(&mut world, 0);
    }
    begin(&mut world, 30);
    let reads = asked(&mut world);
    assert_eq!(reads.len(), 2);
    let found = finish(&mut world, reads);
    assert_eq!(found.len(), 4);
    let of_first: Vec<_> = found.iter().filter(|(_, next)| *next == found[0].1).collect();
    assert_eq!(of_first.len(), 3);
    assert!(of_first.iter().all(|(shares, _)| *shares == of_first[0].0 && !shares.is_empty()));
    // Once it is done, it is read anew.
    begin(&mut world, 0);
    assert_eq!(asked(&mut world).len(), 1);
}

#[test]
fn what_was_asked_for_before_an_append_does_not_serve_who_comes_after_it() {
    let mut world = World::new(LogConfig { tail_cache_bytes: 0, ..small() });
    world.append(1, 1_000, 0);
    world.run();
    world.append(1, 1_000, 1);
    let (write, op) = world.log.poll_op().unwrap();
    assert!(matches!(op, Op::Write { .. }));
    begin(&mut world, 0);
    let mut early = asked(&mut world);
    let (read, early) = early.pop().unwrap();
    // It finds what stands there before the write.
    let before = world.disk.perform(early.clone());
    let result = world.disk.perform(op);
    world.log.on_done(Done { id: write, result }, world.now());
    begin(&mut world, 0);
    let late = asked(&mut world);
    let same = |op: &Op<Bytes>| match op {
        Op::Read { file, position, length } => (*file, *position, *length),
        other => panic!("{other:?}"),
    };
    assert_eq!(late.iter().map(|(_, op)| same(op)).collect::<Vec<_>>(), [same(&early)]);
    world.log.on_done(Done { id: read, result: before }, world.now());
    let found = finish(&mut world, late);
    assert_eq!(found.iter().map(|(_, next)| next.get()).collect::<Vec<_>>(), [1, 2]);
}
