//! What entries do, and what snapshots are believed.

use catena_format::{
    Millis,
    records::{BatchBuilder, Producer},
};
use catena_log::Fold;

use super::{entry::ENTRY_VERSION, *};

mod cluster;

fn create(id: u128, name: &str, partitions: u32) -> Entry {
    Entry::CreateTopic { id, name: name.to_owned(), partitions, config: Vec::new(), node: 1 }
}

#[test]
fn uids_are_never_reused() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 3)).unwrap();
    catalog.apply(&Entry::DeleteTopic { id: 1 }).unwrap();
    catalog.apply(&create(2, "a", 1)).unwrap();
    let uid = catalog.topic_named("a").unwrap().partitions[0].uid;
    assert_eq!(uid, PartitionUid::new(4));
}

#[test]
fn a_start_raises_incarnation_and_epochs() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 2)).unwrap();
    catalog.apply(&Entry::NodeStarted { node: 1 }).unwrap();
    catalog.apply(&Entry::NodeStarted { node: 9 }).unwrap();
    let topic = catalog.topic(TopicId::new(1)).unwrap();
    assert!(topic.partitions.iter().all(|p| p.configuration.epoch == Epoch::new(2)));
    assert_eq!(catalog.incarnation(NodeId::new(1)), Incarnation::new(1));
}

#[test]
fn bad_entries_are_named_and_change_nothing() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 1)).unwrap();
    for name in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
        let error = catalog.apply(&create(2, name, 1)).unwrap_err();
        assert_eq!(error, CatalogError::TopicName(name.to_owned()));
    }
    assert_eq!(catalog.apply(&create(2, "b", 0)), Err(CatalogError::Partitions(0)));
    let exists = CatalogError::TopicExists("a".to_owned());
    assert_eq!(catalog.apply(&create(2, "a", 1)), Err(exists));
    let unknown = catalog.apply(&Entry::DeleteTopic { id: 7 });
    assert_eq!(unknown, Err(CatalogError::UnknownTopic));
    let set = vec![("retention.ms".to_owned(), "soon".to_owned())];
    let alter = Entry::AlterTopic { id: 1, set, remove: Vec::new() };
    assert!(matches!(catalog.apply(&alter), Err(CatalogError::Config(_))));
    assert!(catalog.topic_named("a").unwrap().config.is_empty());
}

fn change(id: u128, partitions: u32, name: &str) -> Entry {
    let (set, remove, name) = (Vec::new(), Vec::new(), name.to_owned());
    Entry::ChangeTopic { id, set, remove, partitions, name }
}

#[test]
fn partitions_are_added_once_those_before_exist_and_never_taken_away() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 2)).unwrap();
    catalog.apply(&create(2, "b", 1)).unwrap();
    assert_eq!(catalog.apply(&change(1, 3, "")), Err(CatalogError::Creating));
    catalog.apply(&Entry::TopicReady { id: 1 }).unwrap();
    catalog.apply(&change(1, 4, "")).unwrap();
    let topic = catalog.topic(TopicId::new(1)).unwrap();
    let uids: Vec<u64> = topic.partitions.iter().map(|p| p.uid.get()).collect();
    let indexes: Vec<u32> = topic.partitions.iter().map(|p| p.index.get()).collect();
    assert_eq!((topic.ready, uids, indexes), (2, vec![1, 2, 4, 5], vec![0, 1, 2, 3]));
    assert!(topic.partitions.iter().all(|p| p.homes == [NodeId::new(1)]));
    assert_eq!(catalog.apply(&change(1, 5, "")), Err(CatalogError::Creating));
    let fewer = CatalogError::FewerPartitions { wished: 3, there: 4 };
    assert_eq!(catalog.apply(&change(1, 3, "")), Err(fewer));
    catalog.apply(&change(1, 4, "")).unwrap();
    catalog.apply(&Entry::TopicReady { id: 1 }).unwrap();
    let most = PARTITIONS_PER_TOPIC_MAX + 1;
    assert_eq!(catalog.apply(&change(1, most, "")), Err(CatalogError::Partitions(most)));
    assert_eq!(catalog.topic(TopicId::new(1)).unwrap().ready, 4);
    assert_eq!(catalog.partitions, 5);
}

#[test]
fn a_raised_producer_fences_itself_and_ends_with_a_fresh_id() {
    let mut catalog = Catalog::default();
    let raise = |id, epoch| Entry::RaiseProducer { id, epoch };
    assert_eq!(catalog.apply(&raise(0, 0)), Err(CatalogError::UnknownProducer(0)));
    catalog.apply(&Entry::ProducerIds { count: 2 }).unwrap();
    assert_eq!(catalog.apply(&raise(1, 0)), Ok(Applied::Producer(1, 1)));
    assert_eq!(catalog.apply(&raise(1, 0)), Err(CatalogError::ProducerFenced(1)));
    assert_eq!(catalog.apply(&raise(1, 7)), Ok(Applied::Producer(1, 8)));
    assert_eq!(catalog.apply(&raise(1, i16::MAX)), Ok(Applied::Producer(2, 0)));
    assert_eq!(catalog.apply(&raise(-1, 0)), Err(CatalogError::UnknownProducer(-1)));
    assert_eq!(catalog.apply(&Entry::ProducerIds { count: 1 }), Ok(Applied::ProducerIds(3)));
    let raised: Vec<_> = catalog.raised_producers().collect();
    assert_eq!(raised, [(ProducerId::new(1), ProducerEpoch::new(i16::MAX))]);
    let mut copy = Catalog::default();
    assert!(copy.restore(&catalog.snapshot()));
    assert_eq!(copy.producers, catalog.producers);
}

#[test]
fn a_change_is_done_whole_or_not_at_all() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 1)).unwrap();
    catalog.apply(&create(2, "b", 1)).unwrap();
    catalog.apply(&Entry::TopicReady { id: 1 }).unwrap();
    let before = catalog.topics.clone();
    let set = vec![("retention.ms".to_owned(), "1000".to_owned())];
    let changed = |partitions, name: &str, remove: &[&str]| Entry::ChangeTopic {
        id: 1,
        set: set.clone(),
        remove: remove.iter().map(|&key| key.to_owned()).collect(),
        partitions,
        name: name.to_owned(),
    };
    let refused = [
        changed(2, "b", &[]),
        changed(2, "a b", &[]),
        changed(0, "c", &["segment.ms"]),
        changed(PARTITIONS_PER_TOPIC_MAX + 1, "c", &[]),
    ];
    for entry in refused {
        assert!(catalog.check(&entry).is_err() && catalog.apply(&entry).is_err());
        assert_eq!(catalog.topics, before, "{entry:?}");
    }
    assert!(catalog.topic_named("c").is_none());
    catalog.apply(&changed(2, "c", &[])).unwrap();
    assert!(catalog.topic_named("a").is_none());
    let topic = catalog.topic_named("c").unwrap();
    assert_eq!((topic.partitions.len(), topic.config.len()), (2, 1));
    catalog.apply(&change(1, 0, "c")).unwrap();
    catalog.apply(&create(3, "a", 1)).unwrap();
    let mut copy = Catalog::default();
    assert!(copy.restore(&catalog.snapshot()));
    copy.last.clone_from(&catalog.last);
    assert_eq!(copy, catalog);
}

#[test]
fn a_snapshot_that_no_catalog_makes_is_refused() {
    let refused = |spoil: fn(&mut Catalog)| {
        let mut catalog = Catalog::default();
        for (id, name) in [(1, "a"), (2, "b")] {
            catalog.apply(&create(id, name, 2)).unwrap();
        }
        spoil(&mut catalog);
        !Catalog::default().restore(&catalog.snapshot())
    };
    assert!(!refused(|_| {}));
    assert!(refused(|c| c.next_uid = 4));
    assert!(refused(|c| c.next_uid = u64::MAX));
    assert!(refused(|c| c.version = u64::MAX));
    assert!(refused(|c| c.next_producer_id = -1));
    assert!(refused(|c| c.producers = [(0, 1)].into()));
    assert!(refused(|c| c.topics.get_mut(&1).unwrap().ready = 3));
    assert!(refused(|c| c.topics.get_mut(&1).unwrap().name = "b".to_owned()));
    assert!(refused(|c| c.topics.get_mut(&1).unwrap().name = "a b".to_owned()));
    assert!(refused(|c| {
        c.topics.get_mut(&1).unwrap().partitions[0].configuration.epoch = EPOCH_MAX.plus(1);
    }));
    assert!(refused(|c| {
        c.topics.get_mut(&1).unwrap().partitions[0].uid = PartitionUid::new(4);
    }));
}

#[test]
fn a_snapshot_is_the_catalog() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 2)).unwrap();
    catalog.apply(&Entry::TopicReady { id: 1 }).unwrap();
    catalog.apply(&Entry::ProducerIds { count: 100 }).unwrap();
    let mut copy = Catalog::default();
    assert!(copy.restore(&catalog.snapshot()));
    assert_eq!(copy, catalog);
    assert!(!copy.restore(b"nonsense"));
}

fn batch(value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(0), None, Some(value), &[]);
    builder.build(Producer::NONE).unwrap()
}

fn frame(base: u64, append_time: i64) -> FrameHeader {
    FrameHeader {
        mark: false,
        payload_length: 0,
        epoch: Epoch::new(1),
        base_offset: Offset::new(base),
        last_offset_delta: 0,
        count: 1,
        max_timestamp: Millis::new(0),
        append_time: Millis::new(append_time),
        durable_end: Offset::ZERO,
        payload_crc: 0,
    }
}

/// A life begins at a time, and gives some producer ids: the first of them.
fn life(catalog: &mut Catalog, time: i64) -> i64 {
    let started = batch(&encode(&Entry::NodeStarted { node: 1 }));
    Fold::apply(catalog, &frame(catalog.version(), time), &started);
    match catalog.apply(&Entry::ProducerIds { count: 1000 }) {
        Ok(Applied::ProducerIds(first)) => first,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_older_catalog_gives_no_producer_id_that_was_given_since() {
    let mut catalog = Catalog::default();
    life(&mut catalog, 1_700_000_000_000);
    let mut older = Catalog::default();
    assert!(older.restore(&catalog.snapshot()));
    let given = life(&mut catalog, 1_700_000_000_010) + 1000;
    assert!(life(&mut older, 1_700_000_000_020) >= given);
    // A clock that goes back, or far ahead, costs nothing but that.
    let given = life(&mut catalog, 1_700_000_000_030) + 1000;
    assert_eq!(life(&mut catalog, 1_600_000_000_000), given);
    for _ in 0..3 {
        life(&mut catalog, i64::MAX);
    }
    assert!(older.restore(&catalog.snapshot()));
}

/// A life begins whose entry is written under an epoch: incarnation and a partition's epoch then.
fn life_of(catalog: &mut Catalog, epoch: u32) -> (u64, u32) {
    let started = batch(&encode(&Entry::NodeStarted { node: 1 }));
    let frame = FrameHeader { epoch: Epoch::new(epoch), ..frame(catalog.version(), 0) };
    Fold::apply(catalog, &frame, &started);
    let epoch = catalog.topic(TopicId::new(1)).unwrap().partitions[0].configuration.epoch;
    (catalog.incarnation(NodeId::new(1)).get(), epoch.get())
}

#[test]
fn a_start_whose_entry_was_lost_counts_once_another_is_written_above_it() {
    let mut catalog = Catalog::default();
    catalog.apply(&create(1, "a", 1)).unwrap();
    assert_eq!(life_of(&mut catalog, 1), (1, 2));
    assert_eq!(life_of(&mut catalog, 2), (2, 3));
    assert_eq!(life_of(&mut catalog, 5), (5, 6));
    // As catalogs were written at first.
    assert_eq!(life_of(&mut catalog, 1), (6, 7));
    // A catalog that nobody wrote raises nothing beyond what a snapshot is believed.
    life_of(&mut catalog, u32::MAX);
    life_of(&mut catalog, u32::MAX);
    assert!(Catalog::default().restore(&catalog.snapshot()));
}

#[test]
fn an_entry_of_an_unknown_version_stops_the_catalog() {
    let mut value = encode(&Entry::NodeStarted { node: 1 });
    let frame = |base: u64| frame(base, 0);
    let mut catalog = Catalog::default();
    Fold::apply(&mut catalog, &frame(0), &batch(&value));
    assert_eq!((catalog.version(), catalog.unreadable()), (1, None));
    value[0] = ENTRY_VERSION + 1;
    Fold::apply(&mut catalog, &frame(1), &batch(&value));
    Fold::apply(&mut catalog, &frame(2), &batch(&encode(&Entry::NodeStarted { node: 1 })));
    assert_eq!((catalog.version(), catalog.unreadable()), (1, Some(Offset::new(1))));
    assert!(!Catalog::default().restore(&catalog.snapshot()));
}

/// As a build wrote it that knew no clusters: a node that has started, two topics' worth of ids.
const SNAPSHOT_ALONE: &str = concat!(
    "0200000000000000000000000000000001000000000000000100000000000000",
    "0100000000000000010000000000000001000000000000000100000000000000",
    "02000000dcffffff0100000000000000020000000000000002000000ccffffff",
    "0100000000000000030000000000000001000000bcffffff0100000000000000",
    "0100000000000000000000000000000062ffffffffffffff0200000084ffffff",
    "0000000094ffffff030000000000000007000000000000000300000000000000",
    "060000000000000048ffffff0100000004000000000000006400000000000000",
    "a0ffffff01000000c8ffffff01000000",
);

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[test]
fn a_snapshot_of_a_node_alone_from_before_clusters_is_read() {
    let mut made = Catalog::default();
    made.apply(&create(1, "a", 2)).unwrap();
    made.apply(&Entry::TopicReady { id: 1 }).unwrap();
    made.apply(&Entry::NodeStarted { node: 1 }).unwrap();
    made.apply(&change(1, 3, "b")).unwrap();
    made.apply(&Entry::ProducerIds { count: 100 }).unwrap();
    made.apply(&Entry::RaiseProducer { id: 7, epoch: 2 }).unwrap();
    let mut read = Catalog::default();
    assert!(read.restore(&unhex(SNAPSHOT_ALONE)));
    assert_eq!(read, made);
}

#[test]
fn an_entry_from_before_clusters_is_read() {
    let hex = "01000000000000000000000000000000060000000000000000000000000000000700000000000000\
               0000000000000000e0ffffff00000000d8ffffff00000000030000006e616d65ffffffff00000000";
    assert_eq!(decode(&unhex(hex)), Some(change(7, 3, "name")));
    assert_eq!(encode(&change(7, 3, "name")), unhex(hex));
}
