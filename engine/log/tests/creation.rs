//! A log is created where there is none, and nowhere else: who asks for it may have forgotten.

mod world;

use catena_format::{Offset, PartitionUid};
use catena_log::{
    LogIdentity, OpenError,
    io::{FileName, Slot},
};
use world::{Disk, TestLog, World, identity, open, open_as, small};

fn create(world: &mut World) -> Result<TestLog, OpenError> {
    open(&mut world.disk, world.config, true, world.clock)
}

const MANIFESTS: [FileName; 2] =
    [FileName::Manifest(Slot::First), FileName::Manifest(Slot::Second)];

#[test]
fn what_is_there_is_kept() {
    let mut world = World::new(small());
    for time in 0..60 {
        world.append(1, 5_000, time);
        world.run();
    }
    world.log = create(&mut world).unwrap();
    world.check();
    // One copy of the manifest tells it, too.
    for lost in MANIFESTS {
        world.disk.files.remove(&lost);
        world.log = create(&mut world).unwrap();
        world.check();
    }
    for file in MANIFESTS {
        world.disk.files.insert(file, vec![7; 4096]);
    }
    let files = world.disk.files.clone();
    assert!(matches!(create(&mut world).map(drop), Err(OpenError::Manifest(_))));
    for file in MANIFESTS {
        world.disk.files.remove(&file);
    }
    assert!(matches!(create(&mut world).map(drop), Err(OpenError::Manifest(_))));
    let segments = |files: &std::collections::BTreeMap<FileName, Vec<u8>>| {
        let mut files = files.clone();
        files.retain(|file, _| !MANIFESTS.contains(file));
        files
    };
    assert_eq!(segments(&world.disk.files), segments(&files), "nothing was removed");
}

#[test]
fn what_an_interrupted_creation_left_is_made_whole() {
    let mut world = World::new(small());
    let whole = world.disk.files.clone();
    let other = LogIdentity { uid: PartitionUid::new(99), ..identity() };
    let mut disk = Disk::default();
    drop(open_as(other, &mut disk, small(), true, 0).unwrap());
    let foreign = &disk.files[&MANIFESTS[0]];
    for (first, second) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (3, 3)] {
        world.disk.files.clear();
        // Absent, torn, whole, or what the blocks held before.
        for (file, state) in MANIFESTS.into_iter().zip([first, second]) {
            match state {
                0 => {}
                1 => drop(world.disk.files.insert(file, vec![0; 4096])),
                3 => drop(world.disk.files.insert(file, foreign.clone())),
                _ => drop(world.disk.files.insert(file, whole[&file].clone())),
            }
        }
        let log = create(&mut world).unwrap();
        assert_eq!((log.log_start(), log.log_end()), (Offset::ZERO, Offset::ZERO));
        let there = MANIFESTS.iter().all(|file| world.disk.files[file].len() == 4096);
        assert!(there, "{first} {second}");
    }
}
