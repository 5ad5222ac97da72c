//! Appends with a condition among others, while somebody else writes to the same partitions.

use super::*;

/// What somebody else appended.
const THEIRS: &str = "theirs";

/// A batch with a condition, by what was appended.
struct Attempt {
    partition: usize,
    expected: u64,
    values: Vec<String>,
    batch: BatchId,
}

#[derive(Default)]
struct History {
    /// Value and partition of records without a condition.
    plain: Vec<(String, usize, BatchId, u32)>,
    attempts: Vec<Attempt>,
    outcomes: Outcomes,
}

impl History {
    /// Records of a partition of which nothing is known yet.
    fn pending(&self, partition: usize) -> u64 {
        let plain = self
            .plain
            .iter()
            .filter(|(_, to, batch, _)| *to == partition && !self.outcomes.contains_key(batch));
        let attempts = self.attempts.iter().filter(|attempt| {
            attempt.partition == partition && !self.outcomes.contains_key(&attempt.batch)
        });
        (plain.count() + attempts.map(|attempt| attempt.values.len()).sum::<usize>()) as u64
    }
}

/// Appends with and without conditions until `records` were appended, then finishes.
fn run(world: &mut World, producer: &mut Producer, records: u64) -> History {
    let mut history = History::default();
    let mut number = 0;
    for turn in 0.. {
        assert!(turn < 2_000_000, "it does not come to an end");
        let partition = world.random.below(2) as usize;
        if world.random.one_in(40) {
            world.server.logs[partition].values.push(THEIRS.to_owned());
        }
        if number < records && world.random.one_in(4) && history.pending(partition) < 6 {
            append(world, producer, partition, &mut number, &mut history);
            if number >= records {
                world.server.calm = true;
                producer.finish();
            }
        }
        let done = world.turn(producer);
        while let Some((batch, result)) = producer.poll_settled() {
            assert!(history.outcomes.insert(batch, result).is_none(), "{batch:?} is settled twice");
        }
        if done {
            return history;
        }
    }
    unreachable!("a loop without an end")
}

fn append(
    world: &mut World,
    producer: &mut Producer,
    partition: usize,
    number: &mut u64,
    history: &mut History,
) {
    let index = PartitionIndex::new(partition as u32);
    if world.random.one_in(2) {
        let value = number.to_string();
        let record = NewRecord::value(value.as_bytes()).with_partition(index);
        let there = producer.append(&record, Millis::new(5), world.now).unwrap();
        history.plain.push((value, partition, there.batch, there.index));
        *number += 1;
        return;
    }
    // Often right, sometimes behind, sometimes ahead.
    let end = world.server.logs[partition].values.len() as u64 + history.pending(partition);
    let expected = (end + world.random.below(4)).saturating_sub(1);
    let count = world.random.below(3) + 1;
    let values: Vec<String> = (*number..*number + count).map(|n| n.to_string()).collect();
    *number += count;
    let records: Vec<_> = values.iter().map(|value| NewRecord::value(value.as_bytes())).collect();
    let (there, now) = (Offset::new(expected), world.now);
    let there = producer.append_at(index, there, &records, Millis::new(5), now).unwrap();
    assert_eq!(there.index, 0);
    history.attempts.push(Attempt { partition, expected, values, batch: there.batch });
}

/// What was promised of each batch holds of the logs.
fn check(seed: u64, server: &Server, history: &History) {
    for log in &server.logs {
        let ours = log.values.iter().filter(|value| *value != THEIRS);
        let numbers: Vec<u64> = ours.map(|value| value.parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}: twice, or out of order");
    }
    for (value, partition, batch, index) in &history.plain {
        let receipt = history.outcomes[batch].as_ref().unwrap();
        let offset = receipt.first_offset.get() as usize + *index as usize;
        assert_eq!(server.logs[*partition].values[offset], *value, "seed {seed}");
    }
    for attempt in &history.attempts {
        let values = &server.logs[attempt.partition].values;
        let at = attempt.expected as usize;
        let stored = attempt.values.iter().any(|value| values.contains(value));
        match &history.outcomes[&attempt.batch] {
            Ok(receipt) => {
                assert_eq!(receipt.first_offset.get(), attempt.expected, "seed {seed}");
                assert_eq!(values[at..at + attempt.values.len()], attempt.values, "seed {seed}");
            }
            Err(Error::OffsetCondition { expected, next, unclear: false, .. }) => {
                assert_eq!(expected.get(), attempt.expected);
                assert_ne!(next.get(), attempt.expected, "seed {seed}");
                assert!(!stored, "seed {seed}: {:?} are stored", attempt.values);
            }
            Err(error) => assert_eq!(error.class(), Class::Indeterminate, "seed {seed}: {error}"),
        }
    }
}

/// How many attempts came to an outcome.
fn count(history: &History, kind: impl Fn(&Result<Receipt, Error>) -> bool) -> usize {
    history.attempts.iter().filter(|attempt| kind(&history.outcomes[&attempt.batch])).count()
}

fn options(seed: u64) -> ProducerOptions {
    let linger = Duration::from_millis(seed % 3 * 10);
    ProducerOptions { batch_bytes: 200, linger, ..ProducerOptions::default() }
}

#[test]
fn a_condition_that_holds_is_stored_there_and_one_that_does_not_nowhere() {
    let (mut stored, mut refused, mut unclear, mut retries) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        world.late = (seed % 2 == 0).then(Vec::new);
        let mut producer = producer(options(seed));
        let history = run(&mut world, &mut producer, 300);
        check(seed, &world.server, &history);
        stored += count(&history, Result::is_ok);
        let kind = |unclear| {
            move |outcome: &Result<_, _>| match outcome {
                Err(Error::OffsetCondition { unclear: told, .. }) => *told == unclear,
                _ => false,
            }
        };
        refused += count(&history, kind(false));
        unclear += count(&history, kind(true));
        retries += producer.retries();
    }
    assert!(stored > 1000 && refused > 1000, "{stored} stored, {refused} refused");
    assert!(unclear > 1000 && unclear < refused, "{unclear} unclear, {refused} refused");
    assert!(retries > 5000, "{retries} retries: the server hardly fails");
}

#[test]
fn a_condition_that_does_not_hold_leaves_no_gap() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.server.calm = true;
        let mut producer = producer(options(seed));
        let history = run(&mut world, &mut producer, 300);
        check(seed, &world.server, &history);
        let refused = count(&history, Result::is_err);
        assert!(refused > 10, "seed {seed}: {refused} refused");
        assert_eq!(producer.retries(), 0, "seed {seed}: nothing behind was out of order");
        // An epoch for each would use them up.
        assert!(world.server.logs.iter().all(|log| log.epoch == 0), "seed {seed}");
    }
}

#[test]
fn what_cannot_be_one_batch_is_not_taken() {
    let now = Instant::now();
    let mut producer = producer(ProducerOptions::default());
    let mut refused = |partition: u32, records: &[NewRecord<'_>]| {
        let partition = PartitionIndex::new(partition);
        let taken = producer.append_at(partition, Offset::ZERO, records, Millis::new(0), now);
        match taken.unwrap_err() {
            Refused::Error(error) => error,
            Refused::Full => panic!("there is room"),
        }
    };
    let one = NewRecord::value(b"x");
    assert!(matches!(refused(0, &[]), Error::Option(_)));
    assert!(matches!(refused(0, &[one.with_partition(PartitionIndex::new(1))]), Error::Option(_)));
    assert!(matches!(refused(0, &[NewRecord::value(&[0; 1000]); 4]), Error::Record(_)));
    let unknown = refused(PARTITIONS, &[one]);
    assert!(matches!(unknown, Error::Server { code: ErrorCode::UnknownPartition, .. }));
}
