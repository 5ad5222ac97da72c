//! What operations promise, and no more than that.

use super::*;

#[test]
fn bytes_of_a_plain_write_are_not_durable_before_a_sync() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 2);
    rig.write(A, 0, 5);
    assert_eq!(rig.live(A), Some(vec![5, 0]));
    assert_eq!(rig.durable(A), Some(vec![0, 0]));
    rig.sync(A);
    assert_eq!(rig.durable(A), Some(vec![5, 0]));
}

#[test]
fn a_durable_write_on_a_fua_device_does_not_flush_its_neighbour() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 2);
    rig.write(A, 0, 5);
    rig.write_durably(A, BLOCK, 6);
    assert_eq!(rig.durable(A), Some(vec![0, 6]));
}

#[test]
fn a_durable_write_on_a_flushing_device_takes_every_earlier_byte_along() {
    let mut rig = Rig::strict(DeviceCache::Flush);
    rig.extended(A, 2);
    rig.extended(B, 1);
    rig.write(A, 0, 5);
    rig.write(B, 0, 4);
    rig.write_durably(A, BLOCK, 6);
    assert_eq!(rig.durable(A), Some(vec![5, 6]));
    assert_eq!(rig.durable(B), Some(vec![4]));
}

#[test]
fn a_flush_of_the_cache_makes_no_other_length_durable() {
    let mut rig = Rig::strict(DeviceCache::Flush);
    rig.extended(A, 1);
    rig.extended(B, 1);
    rig.write(B, BLOCK, 4);
    rig.write_durably(A, 0, 6);
    assert_eq!(rig.durable(B), Some(vec![0]));
    rig.sync(B);
    assert_eq!(rig.durable(B), Some(vec![0, 4]));
}

#[test]
fn a_sync_does_not_cover_a_write_in_flight() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    let writing = rig.submit(write(A, 0, 5, false));
    let syncing = rig.submit(Op::Sync { file: A });
    rig.wait(syncing).expect("a sync");
    assert_eq!(rig.live(A), Some(vec![5]), "the write was the faster one");
    assert_eq!(rig.durable(A), Some(vec![0]));
    rig.sync(A);
    assert_eq!(rig.durable(A), Some(vec![5]));
    assert!(writing < syncing);
}

#[test]
fn an_eager_sync_may_take_a_landed_write_in_flight() {
    let mut options = DiskOptions::exhaustive(DeviceCache::Fua);
    options.eager_sync_per_million = 500_000;
    let mut rig = Rig::scripted(options, &[("eager sync", 1)]);
    rig.extended(A, 1);
    rig.submit(write(A, 0, 5, false));
    let syncing = rig.submit(Op::Sync { file: A });
    rig.wait(syncing).expect("a sync");
    assert_eq!(rig.durable(A), Some(vec![5]));
}

#[test]
fn a_durable_write_supersedes_older_unsynced_bytes_and_no_newer_ones() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 3);
    let old = Bytes::from(vec![1; 3 * BLOCK as usize]);
    let op = Op::Write { file: A, position: Position::ZERO, bytes: old, durable: false };
    rig.run(op).expect("a plain write");
    rig.write_durably(A, BLOCK, 2);
    rig.write(A, 2 * BLOCK, 3);
    rig.sync(A);
    assert_eq!(rig.durable(A), Some(vec![1, 2, 3]));
    assert_eq!(rig.disk.unsynced_bytes(), 0);
}

#[test]
fn an_extension_is_durable_as_one_and_its_name_is_not() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    let op = Op::Extend { file: A, from: Position::ZERO, to: Position::new(2 * BLOCK) };
    rig.run(op).expect("an extension");
    assert_eq!(rig.durable(A), None);
    assert_eq!(rig.disk.durable_bytes_of_live(7, A).map(|bytes| firsts(&bytes)), Some(vec![0, 0]));
    rig.sync_directory();
    assert_eq!(rig.durable(A), Some(vec![0, 0]));
}

#[test]
fn a_sync_of_a_directory_covers_what_completed_before_it_was_issued() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    let renaming = rig.submit(Op::Rename { from: A, to: B });
    let syncing = rig.submit(Op::SyncDirectory);
    rig.wait(syncing).expect("a directory sync");
    assert!(renaming < syncing);
    assert_eq!((rig.live(A), rig.live(B)), (None, Some(vec![0])));
    assert_eq!((rig.durable(A), rig.durable(B)), (Some(vec![0]), None));
    rig.sync_directory();
    assert_eq!((rig.durable(A), rig.durable(B)), (None, Some(vec![0])));
    assert!(rig.disk.names_are_durable(7));
}

#[test]
fn a_write_under_way_follows_its_file_to_a_new_name() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.submit(Op::Rename { from: A, to: B });
    let writing = rig.submit(write(A, 0, 5, true));
    rig.wait(writing).expect("a durable write");
    assert_eq!((rig.live(A), rig.live(B)), (None, Some(vec![5])));
}

#[test]
fn a_read_beyond_the_end_is_shorter() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 2);
    let mut read = |position: u64| {
        let position = Position::new(position);
        match rig.run(Op::Read { file: A, position, length: 2 * BLOCK as usize }) {
            Ok(Outcome::Read(bytes)) => bytes.len() as u64,
            other => panic!("not a read: {other:?}"),
        }
    };
    assert_eq!([read(0), read(BLOCK), read(8 * BLOCK)], [2 * BLOCK, BLOCK, 0]);
}

#[test]
fn missing_files_are_not_found() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    let (position, length) = (Position::ZERO, BLOCK as usize);
    for op in [
        Op::Claim { file: A },
        Op::Sync { file: A },
        Op::Read { file: A, position, length },
        Op::Rename { from: A, to: B },
        Op::Remove { file: A },
    ] {
        assert_eq!(rig.run(op).err(), Some(IoError::NotFound));
    }
}

#[test]
fn a_listing_tells_names_in_order_and_live_lengths() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.write(B, 0, 1);
    rig.extended(A, 3);
    let Ok(Outcome::Files(files)) = rig.run(Op::List) else { panic!("a listing") };
    assert_eq!(files, [(A, 3 * BLOCK), (B, BLOCK)]);
}

#[test]
fn a_directory_that_was_never_listed_is_not_there() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.disk.submit(rig.now_ns, 8, 1, OpId(0), write(A, 0, 1, true));
    let at_ns = rig.now_ns + 1_000_000;
    let (directory, _, done) = rig.disk.poll_done(at_ns).expect("a completion");
    assert_eq!((directory, done.result.err()), (8, Some(IoError::NotFound)));
}

#[test]
#[should_panic(expected = "unaligned")]
fn an_unaligned_write_is_a_programmers_error() {
    Rig::strict(DeviceCache::Fua).write(A, 512, 1);
}

#[test]
#[should_panic(expected = "which is there")]
fn a_rename_over_a_name_that_is_there_is_a_programmers_error() {
    let mut rig = Rig::strict(DeviceCache::Fua);
    rig.extended(A, 1);
    rig.extended(B, 1);
    let _ = rig.run(Op::Rename { from: A, to: B });
}
