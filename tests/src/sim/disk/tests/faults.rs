//! How faults show, and that each is counted and told.

use super::*;
use crate::sim::disk::{DamageKind, EIO, FileKinds, Tearing};

fn read(rig: &mut Rig) -> Answer {
    rig.run(Op::Read { file: A, position: Position::ZERO, length: BLOCK as usize })
}

fn damages(rig: &Rig) -> Vec<(u64, u64, DamageKind)> {
    let damages = rig.disk.damages();
    damages.iter().map(|damage| (damage.range.start, damage.range.end, damage.kind)).collect()
}

#[test]
fn a_failed_write_lands_in_part() {
    let mut options = DiskOptions::exhaustive(DeviceCache::Fua);
    options.tearing = Tearing::Halves;
    let mut rig = Rig::scripted(options, &[("failed write", 2)]);
    rig.extended(A, 1);
    rig.fault(&[FaultKind::WriteError]);
    assert_eq!(rig.run(write(A, 0, 5, true)).err(), Some(EIO));
    let live = rig.disk.live_bytes(7, A).expect("the file");
    assert_eq!((live[0], live[4095]), (0, 5));
    assert_eq!(rig.durable(A), Some(vec![0]));
    rig.write_durably(A, 0, 6);
    assert_eq!(rig.disk.counts()["write_error"], 1);
}

#[test]
fn a_failed_sync_loses_its_bytes_and_the_next_one_succeeds_without_them() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.write(A, 0, 5);
    rig.fault(&[FaultKind::SyncError]);
    assert_eq!(rig.run(Op::Sync { file: A }).err(), Some(EIO));
    rig.sync(A);
    assert_eq!((rig.live(A), rig.durable(A)), (Some(vec![5]), Some(vec![0])));
    assert_eq!(damages(&rig), [(0, BLOCK, DamageKind::SyncLost)]);
    rig.crash(Crash::ProcessKill);
    assert_eq!(rig.live(A), Some(vec![0]));
    rig.write_durably(A, 0, 6);
    assert_eq!(damages(&rig), [], "written anew");
}

#[test]
fn what_a_failed_sync_lost_may_read_as_the_old_bytes_at_once() {
    let script = [("what a failed sync covered reads as", 1)];
    let mut rig = Rig::scripted(DiskOptions::exhaustive(DeviceCache::Fua), &script);
    rig.extended(A, 1);
    rig.write(A, 0, 5);
    rig.fault(&[FaultKind::SyncError]);
    assert_eq!(rig.run(Op::Sync { file: A }).err(), Some(EIO));
    assert_eq!(rig.live(A), Some(vec![0]));
}

#[test]
fn a_failed_directory_sync_leaves_the_names_to_the_next_one() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.fault(&[FaultKind::DirectorySyncError]);
    rig.write(A, 0, 5);
    assert_eq!(rig.run(Op::SyncDirectory).err(), Some(EIO));
    assert!(!rig.disk.names_are_durable(7));
    rig.sync_directory();
    assert!(rig.disk.names_are_durable(7));
}

#[test]
fn a_failed_read_may_be_repeated() {
    let mut rig = Rig::faulty(&[FaultKind::ReadError]);
    rig.extended(A, 1);
    assert_eq!(read(&mut rig).err(), Some(EIO));
    assert!(read(&mut rig).is_ok());
}

#[test]
fn a_misread_file_is_read_right_the_next_time() {
    let mut rig = Rig::faulty(&[FaultKind::Misread]);
    rig.extended(A, 1);
    let zeros = |outcome: Outcome<bytes::Bytes>| outcome.into_read().iter().all(|byte| *byte == 0);
    assert!(!zeros(read(&mut rig).unwrap()));
    assert!(zeros(read(&mut rig).unwrap()));
}

#[test]
fn a_short_write_and_a_full_disk_say_so() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.fault(&[FaultKind::ShortWrite, FaultKind::NoSpace]);
    assert_eq!(rig.run(write(A, 0, 5, true)).err(), Some(IoError::NoSpace));
    assert_eq!(rig.run(write(A, 0, 5, true)).err(), Some(IoError::ShortWrite));
    rig.write_durably(A, 0, 5);
}

#[test]
fn a_file_that_is_there_needs_no_new_descriptor() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.fault(&[FaultKind::NoDescriptors]);
    rig.write_durably(A, 0, 5);
    assert_eq!(rig.run(write(B, 0, 5, true)).err(), Some(IoError::NoDescriptors));
    assert_eq!(rig.live(B), None);
    rig.write_durably(B, 0, 5);
}

#[test]
fn a_full_disk_refuses_growth_and_takes_overwrites_until_something_is_removed() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 2);
    rig.extended(B, 1);
    rig.disk.set_capacity(Some(3 * BLOCK));
    assert_eq!(rig.run(write(A, 2 * BLOCK, 5, true)).err(), Some(IoError::NoSpace));
    rig.write_durably(A, BLOCK, 5);
    rig.run(Op::Remove { file: B }).expect("a removal");
    rig.write_durably(A, 2 * BLOCK, 5);
    assert_eq!(rig.disk.counts()["capacity"], 1);
}

#[test]
fn a_read_only_file_system_reads_on() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.disk.set_read_only(true);
    assert_eq!(rig.run(write(A, 0, 5, true)).err(), Some(IoError::ReadOnly));
    assert_eq!(rig.run(Op::Remove { file: A }).err(), Some(IoError::ReadOnly));
    assert!(read(&mut rig).is_ok());
}

#[test]
fn a_turned_bit_shows_in_both_images_and_in_the_atlas() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.fault(&[FaultKind::BitFlip]);
    assert!(read(&mut rig).is_ok());
    assert_eq!((rig.live(A), rig.durable(A)), (Some(vec![1]), Some(vec![1])));
    assert_eq!(damages(&rig), [(0, 1, DamageKind::BitFlip)]);
    assert!(rig.disk.flip_bit(7, A, 1, 3));
    assert!(!rig.disk.flip_bit(7, A, BLOCK, 3), "beyond the end");
    assert_eq!(rig.disk.live_bytes(7, A).expect("the file")[1], 8);
    assert_eq!(rig.disk.counts()["bit_flip"], 2);
}

#[test]
fn a_lost_write_is_acknowledged_and_nowhere() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.fault(&[FaultKind::LostWrite]);
    rig.write_durably(A, 0, 5);
    assert_eq!((rig.live(A), rig.durable(A)), (Some(vec![0]), Some(vec![0])));
    assert_eq!(damages(&rig), [(0, BLOCK, DamageKind::LostWrite)]);
}

#[test]
fn a_misdirected_write_lands_elsewhere_in_its_file() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 3);
    rig.fault(&[FaultKind::MisdirectedWrite]);
    rig.write_durably(A, 0, 5);
    assert_eq!((rig.live(A), rig.durable(A)), (Some(vec![0, 5, 0]), Some(vec![0, 5, 0])));
    let (hit, missed) = (DamageKind::Overwritten, DamageKind::MisdirectedWrite);
    assert_eq!(damages(&rig), [(BLOCK, 2 * BLOCK, hit), (0, BLOCK, missed)]);
}

#[test]
fn silent_faults_keep_to_their_kinds_of_files() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    let index = FileName::Index(FileNumber::new(1));
    rig.extended(index, 1);
    let mut faults = FaultOptions::none().always(FaultKind::LostWrite, 1);
    faults.silent_in = FileKinds { segment: false, index: true, manifest: false };
    rig.disk.set_faults(faults);
    rig.write_durably(A, 0, 5);
    rig.write_durably(index, 0, 5);
    assert_eq!((rig.live(A), rig.live(index)), (Some(vec![5]), Some(vec![0])));
}

#[test]
fn a_slow_period_slows_everything() {
    let mut options = DiskOptions::exhaustive(DeviceCache::Fua);
    options.latency.slow_period_ns = 1_000_000;
    let mut rig = Rig::scripted(options, &[]);
    rig.extended(A, 1);
    let fast_ns = rig.now_ns;
    rig.fault(&[FaultKind::SlowPeriod]);
    rig.write_durably(A, 0, 5);
    rig.write_durably(A, 0, 6);
    assert_eq!(rig.now_ns - fast_ns, 2 * 100 * 1000);
}
