//! What a crash leaves.

use std::collections::BTreeSet;

use super::*;
use crate::sim::{choose::every_history, disk::Tearing};

/// A disk that keeps whatever may survive.
fn generous(script: &[(&'static str, usize)]) -> Rig {
    let always = [("bytes survive", 1), ("name survives", 1)];
    Rig::scripted(DiskOptions::exhaustive(DeviceCache::Fua), &[&always, script].concat())
}

#[test]
fn a_power_loss_may_drop_what_is_unsynced_and_nothing_else() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 2);
    rig.write_durably(A, 0, 5);
    rig.write(A, BLOCK, 6);
    rig.write(B, 0, 7);
    rig.crash(Crash::PowerLoss);
    assert_eq!((rig.live(A), rig.live(B)), (Some(vec![5, 0]), None));
}

#[test]
fn a_power_loss_may_keep_what_is_unsynced_even_in_flight() {
    let mut rig = generous(&[("length", 9)]);
    rig.extended(A, 1);
    rig.write(A, BLOCK, 6);
    rig.submit(write(B, 0, 7, true));
    rig.crash(Crash::PowerLoss);
    assert_eq!((rig.live(A), rig.live(B)), (Some(vec![0, 6]), Some(vec![7])));
    assert_eq!(rig.disk.next_event(), None, "nothing is under way any more");
}

#[test]
fn a_length_may_survive_without_its_bytes() {
    let mut rig = Rig::scripted(DiskOptions::exhaustive(DeviceCache::Fua), &[("length", 1)]);
    rig.extended(A, 1);
    rig.write(A, BLOCK, 6);
    rig.crash(Crash::PowerLoss);
    assert_eq!(rig.live(A), Some(vec![0, 0]));
}

#[test]
fn blocks_of_removed_files_show_where_a_length_survived_without_its_bytes() {
    let mut options = DiskOptions::exhaustive(DeviceCache::Fua);
    options.stale_blocks = true;
    let mut rig = Rig::scripted(options, &[("length", 1), ("stale blocks", 1)]);
    rig.extended(B, 2);
    rig.write_durably(B, BLOCK, 9);
    rig.run(Op::Remove { file: B }).expect("a removal");
    rig.extended(A, 1);
    rig.write(A, BLOCK, 6);
    rig.crash(Crash::PowerLoss);
    assert_eq!(rig.live(A), Some(vec![0, 9]));
    assert_eq!(rig.disk.counts()["stale_blocks"], 1);
}

#[test]
fn a_block_may_be_torn_at_its_sectors() {
    let mut options = DiskOptions::random(DeviceCache::Fua);
    options.survival_per_million = vec![1];
    let mut rig = Rig::random(&Random::new(3), options);
    rig.extended(A, 64);
    for block in 0..64 {
        rig.write(A, block * BLOCK, 1);
    }
    rig.crash(Crash::PowerLoss);
    let live = rig.disk.live_bytes(7, A).expect("the file");
    let sectors: Vec<u8> = live.chunks(512).map(|sector| sector[0]).collect();
    let torn = sectors.chunks(8).filter(|block| block.contains(&0) && block.contains(&1)).count();
    assert!(torn > 5, "{torn} torn blocks");
    assert!(live.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
}

#[test]
fn an_unsynced_rename_may_be_undone_and_never_leaves_both_names_or_neither() {
    for survives in [0, 1] {
        let script = [("name survives", survives)];
        let mut rig = Rig::scripted(DiskOptions::exhaustive(DeviceCache::Fua), &script);
        rig.extended(A, 1);
        rig.run(Op::Rename { from: A, to: B }).expect("a rename");
        rig.write(A, 0, 3);
        rig.crash(Crash::PowerLoss);
        let names: Vec<FileName> = rig.disk.live_files(7).collect();
        assert_eq!(names, if survives == 0 { vec![A] } else { vec![A, B] });
    }
}

#[test]
fn a_removed_file_may_come_back_until_its_directory_is_synced() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.write_durably(A, 0, 5);
    rig.run(Op::Remove { file: A }).expect("a removal");
    rig.crash(Crash::PowerLoss);
    assert_eq!(rig.live(A), Some(vec![5]));
    rig.run(Op::Remove { file: A }).expect("a removal");
    rig.sync_directory();
    rig.crash(Crash::PowerLoss);
    assert_eq!(rig.live(A), None);
}

#[test]
fn a_killed_process_leaves_what_landed_and_power_may_still_take_it() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.write(A, 0, 5);
    rig.crash(Crash::ProcessKill);
    assert_eq!(rig.live(A), Some(vec![5]));
    rig.crash(Crash::PowerLoss);
    assert_eq!(rig.live(A), Some(vec![0]));
}

#[test]
fn a_sync_of_the_next_life_covers_what_a_dead_one_wrote() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.write(A, 0, 5);
    rig.crash(Crash::ProcessKill);
    rig.sync(A);
    assert_eq!(rig.durable(A), Some(vec![5]));
}

#[test]
fn late_writes_land_after_the_kill_and_a_claim_waits_for_them() {
    let mut rig = generous(&[("late write", 1), ("late write's moment", 1)]);
    rig.extended(A, 1);
    rig.extended(B, 1);
    rig.submit(write(A, 0, 5, true));
    rig.crash(Crash::ProcessKill);
    assert_eq!(rig.disk.late_writes(), 1);
    rig.write_durably(A, 0, 6);
    assert_eq!(rig.live(A), Some(vec![6]), "a write of the new life does not wait");
    rig.run(Op::Claim { file: B }).expect("a claim");
    assert_eq!(rig.disk.late_writes(), 1, "another file's claim does not wait");
    rig.run(Op::Claim { file: A }).expect("a claim");
    assert_eq!(rig.live(A), Some(vec![5]), "the dead process wrote over it");
    assert_eq!(rig.disk.late_writes(), 0);
}

#[test]
fn a_late_write_follows_its_file_to_a_new_name() {
    let mut rig = generous(&[("late write", 1), ("late write's moment", 1)]);
    rig.extended(A, 1);
    rig.submit(write(A, 0, 5, true));
    rig.crash(Crash::ProcessKill);
    rig.run(Op::Rename { from: A, to: B }).expect("a rename");
    rig.skip_to_end();
    assert_eq!(rig.live(B), Some(vec![5]));
}

#[test]
fn a_late_extension_wipes_what_the_next_life_wrote_without_a_claim() {
    let mut rig = generous(&[("late write", 1), ("late write's moment", 1)]);
    rig.extended(A, 1);
    let (from, to) = (Position::new(BLOCK), Position::new(2 * BLOCK));
    rig.submit(Op::Extend { file: A, from, to });
    rig.crash(Crash::ProcessKill);
    rig.write_durably(A, BLOCK, 6);
    rig.skip_to_end();
    assert_eq!((rig.live(A), rig.durable(A)), (Some(vec![0, 0]), Some(vec![0, 6])));
}

#[test]
fn an_extension_under_way_leaves_any_length_and_zeros_or_stale_blocks() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut rig = Rig::random(&Random::new(seed), DiskOptions::random(DeviceCache::Flush));
        for block in 0..4 {
            rig.write_durably(B, block * BLOCK, 9);
        }
        rig.run(Op::Remove { file: B }).expect("a removal");
        rig.extended(A, 1);
        let (from, to) = (Position::new(BLOCK), Position::new(3 * BLOCK));
        rig.submit(Op::Extend { file: A, from, to });
        rig.crash(Crash::PowerLoss);
        seen.insert(rig.live(A).expect("the file"));
    }
    let all = [
        vec![0],
        vec![0, 0],
        vec![0, 0, 0],
        vec![0, 0, 9],
        vec![0, 9],
        vec![0, 9, 0],
        vec![0, 9, 9],
    ];
    assert!(seen.iter().all(|image| all.contains(image)), "{seen:?}");
    assert!(seen.len() >= 5, "{seen:?}");
}

#[test]
fn a_name_that_was_given_again_survives_only_with_the_rename_that_freed_it() {
    for survival in [0, 100_000, 500_000] {
        for seed in 0..50 {
            let mut options = DiskOptions::random(DeviceCache::Fua);
            options.survival_per_million = vec![survival];
            let mut rig = Rig::random(&Random::new(seed), options);
            rig.extended(A, 1);
            rig.write_durably(A, 0, 5);
            rig.run(Op::Rename { from: A, to: B }).expect("a rename");
            rig.write_durably(A, 0, 6);
            rig.crash(Crash::PowerLoss);
            let found = (rig.live(A), rig.live(B));
            let (old, new) = (Some(vec![5]), Some(vec![6]));
            let right = [(old.clone(), None), (None, old.clone()), (new, old)];
            assert!(right.contains(&found), "{found:?}");
        }
    }
}

#[test]
fn a_late_write_may_be_dropped() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.submit(write(A, 0, 5, true));
    rig.crash(Crash::ProcessKill);
    rig.skip_to_end();
    assert_eq!((rig.disk.late_writes(), rig.live(A)), (0, Some(vec![0])));
}

#[test]
fn a_late_write_may_land_in_part() {
    let mut options = DiskOptions::exhaustive(DeviceCache::Fua);
    options.tearing = Tearing::Halves;
    let script = [("late write", 1), ("torn late write", 1), ("late pieces", 2)];
    let mut rig = Rig::scripted(options, &script);
    rig.extended(A, 1);
    rig.submit(write(A, 0, 5, true));
    rig.crash(Crash::ProcessKill);
    rig.skip_to_end();
    let live = rig.disk.live_bytes(7, A).expect("the file");
    assert_eq!((live[0], live[2047], live[2048]), (0, 0, 5));
}

#[test]
fn one_log_may_die_alone() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.disk.submit(rig.now_ns, 8, 1, OpId(1), Op::List);
    rig.submit(Op::List);
    rig.disk.kill_directory(rig.now_ns, 7);
    let at_ns = rig.disk.next_event().expect("the other log's listing");
    assert_eq!(rig.disk.poll_done(at_ns).map(|done| done.0), Some(8));
    assert_eq!(rig.disk.in_flight(), 0);
}

#[test]
fn every_order_of_survival_of_unsynced_names_is_sane() {
    let mut seen = BTreeSet::new();
    every_history(|chooser| {
        let mut rig = Rig::chosen(Box::new(chooser), DiskOptions::exhaustive(DeviceCache::Fua));
        rig.extended(A, 1);
        rig.run(Op::Rename { from: A, to: B }).expect("a rename");
        rig.write(A, 0, 3);
        rig.crash(Crash::PowerLoss);
        seen.insert(rig.disk.live_files(7).collect::<Vec<_>>());
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [vec![A], vec![A, B], vec![B]]);
}
