//! What is kept for readers gives way to writes, and a fetch waits for as much as it asks for.

mod common;

use std::time::Duration;

use catena_format::{Offset, PartitionIndex, TopicId, records::Producer};
use catena_log::io::{FileName, Memory, Op};
use catena_node::Limits;
use catena_wire::{
    Api, CreditRequest, DeleteTopicRequest, ErrorCode, FRAME_HEADER_BYTES, FetchRequest,
    FrameHeader, Message, ProduceResponse, Push, SubscribeRequest, SubscribeResponse,
    UnsubscribeRequest, encode_message,
};
use common::{SESSION, Verdict, World, batch};

#[test]
fn tails_give_way_when_memory_is_short() {
    const PARTITIONS: u32 = 16;
    // Each partition may keep 4 MiB: eight times as much as there is.
    let mut world = World::new(Limits::default(), 8 << 20);
    let topic = world.topic("t", PARTITIONS);
    let batch = batch(Producer::NONE, &[7; 500 << 10]);
    for _ in 0..8 {
        for partition in 0..PARTITIONS {
            let produced = world.produce(topic, partition, &batch);
            assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
        }
    }
    assert!(world.node.stats().tails_dropped > 0);
    // Without further writes, too, some is left for manifests and images.
    world.pass(Duration::from_secs(1));
    assert!(world.memory.used() <= 6 << 20, "{} bytes are used", world.memory.used());
}

#[test]
fn a_manifest_has_memory_where_batches_have_taken_the_rest() {
    let mut world = World::new(Limits::default(), 1 << 20);
    let topic = world.topic("t", 1);
    // Enough for the header of a segment and a small group; both are kept until the manifest names
    // the segment, and so would be all that comes after them.
    let mut memory = world.memory.clone();
    let least = 8 << 10;
    let taken = std::iter::from_fn(|| memory.allocate(least).ok());
    let mut taken: Vec<_> = taken.collect();
    taken.pop();
    let produced = world.produce(topic, 0, &batch(Producer::NONE, &[7; 100]));
    assert_eq!(world.answer(produced).expect("it does not wait").error(), ErrorCode::None);
}

#[test]
fn a_fetch_waits_for_as_many_bytes_as_it_asks_for() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let topic = world.topic("t", 1);
    let batch = batch(Producer::NONE, &[7; 1000]);
    let bytes = batch.len() as u32;
    world.produce(topic, 0, &batch);
    let (three, ten) =
        (world.fetch(topic, 0, 3 * bytes, 5000), world.fetch(topic, 0, 10 * bytes, 5000));
    let at_once = world.fetch(topic, 0, bytes, 5000);
    assert_eq!(world.answer(at_once).unwrap().payload.len(), batch.len());
    let empty = world.fetch(topic, 1, 0, 5000);
    assert!(world.answer(empty).unwrap().payload.is_empty(), "no bytes are there at once");
    world.produce(topic, 0, &batch);
    assert!(world.answer(three).is_none());
    world.produce(topic, 0, &batch);
    assert_eq!(world.answer(three).unwrap().payload.len(), 3 * batch.len());
    assert!(world.answer(ten).is_none());
    world.pass(Duration::from_secs(5));
    assert_eq!(world.answer(ten).unwrap().payload.len(), 3 * batch.len(), "its time is up");
}

/// Subscribes from the beginning; the request's correlation id.
fn subscribe(
    world: &mut World,
    subscription: u32,
    (topic, partition): (TopicId, u32),
    credit_bytes: u32,
) -> u32 {
    let partition = PartitionIndex::new(partition);
    let offset = Offset::ZERO;
    let request = SubscribeRequest { subscription, topic, partition, offset, credit_bytes };
    world.send(Api::Subscribe, &request, &[])
}

/// Reads of segments hold still, and nothing else.
fn hold_reads(world: &mut World) {
    world.judge = Box::new(|_, op| match op {
        Op::Read { file: FileName::Segment(_), .. } => Verdict::Hold,
        _ => Verdict::Perform,
    });
}

fn credit(world: &mut World, bytes: u32) -> u32 {
    world.send(Api::Credit, &CreditRequest { subscription: 1, bytes }, &[])
}

#[test]
fn credit_counts_while_the_core_takes_no_more_bytes() {
    let limits = Limits { bytes_in_flight_core_max: 3000, ..Limits::default() };
    let mut world = World::new(limits, 1 << 30);
    let topic = world.topic("t", 1);
    let record = batch(Producer::NONE, &[7; 1000]);
    for _ in 0..2 {
        world.produce(topic, 0, &record);
    }
    let subscribed = subscribe(&mut world, 1, (topic, 0), 1);
    let answer = world.answer(subscribed).unwrap();
    assert_eq!(SubscribeResponse::decode(&answer.head).unwrap().error, ErrorCode::None);
    let pushed = world.answer(subscribed).expect("the first batch is pushed");
    assert_eq!(Push::decode(&pushed.head).unwrap().next_offset, Offset::new(1));
    // The disk is slow: what is under way is all that the core takes.
    world.judge = Box::new(|_, _| Verdict::Hold);
    for _ in 0..2 {
        world.produce(topic, 0, &record);
    }
    let refused = world.produce(topic, 0, &record);
    let refused = ProduceResponse::decode_owned(&world.answer(refused).unwrap().head).unwrap();
    assert_eq!(refused.error, ErrorCode::InFlightBudget);
    assert!(refused.retry_after_ms > 0);
    let silent = credit(&mut world, 4000);
    assert!(world.answer(silent).is_none(), "nothing answers credit");
    let pushed = world.answer(subscribed).expect("the second batch is pushed");
    assert_eq!(Push::decode(&pushed.head).unwrap().next_offset, Offset::new(2));
}

#[test]
fn a_client_that_reads_nothing_is_pushed_little_and_later_all_of_it_in_turn() {
    const SUBSCRIPTIONS: u32 = 5;
    const BATCHES: u64 = 12;
    let mut world = World::new(Limits::default(), 1 << 30);
    world.reads = false;
    let topic = world.topic("t", SUBSCRIPTIONS);
    let batch = batch(Producer::NONE, &[7; 1000 << 10]);
    for _ in 0..BATCHES {
        for partition in 0..SUBSCRIPTIONS {
            let produced = world.produce(topic, partition, &batch);
            assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
        }
    }
    for subscription in 0..SUBSCRIPTIONS {
        subscribe(&mut world, subscription, (topic, subscription), 1 << 30);
    }
    let (mut next, mut order) = ([0; SUBSCRIPTIONS as usize], Vec::new());
    loop {
        let (pushes, other): (Vec<_>, Vec<_>) = std::mem::take(&mut world.answers)
            .into_iter()
            .partition(|answer| answer.header.api == Api::Push as u8);
        assert!(other.iter().all(|answer| answer.error() == ErrorCode::None));
        for push in pushes {
            let push = Push::decode(&push.head).unwrap();
            let subscription = push.subscription as usize;
            assert_eq!(push.next_offset.get(), next[subscription] + 1);
            next[subscription] += 1;
            order.push(subscription);
        }
        assert!(world.unread.len() <= 5, "{} pushes are unread", world.unread.len());
        // The client reads one.
        if world.unread.is_empty() {
            break;
        }
        world.read();
        world.settle();
    }
    assert_eq!(next, [BATCHES; SUBSCRIPTIONS as usize]);
    // Nobody waits for another to come to its end.
    for subscription in 0..SUBSCRIPTIONS as usize {
        let first = order.iter().position(|pushed| *pushed == subscription).unwrap();
        assert!(first < 3 * SUBSCRIPTIONS as usize, "{order:?}");
    }
}

#[test]
fn fetches_of_a_session_read_so_much_at_a_time() {
    const BATCHES: u64 = 40;
    // Nothing is kept for readers: all is read from the disk.
    let limits = Limits { tail_cache_bytes: 0, ..Limits::default() };
    let mut world = World::new(limits, 1 << 30);
    let (topic, passing) = (world.topic("t", 1), world.topic("passing", 1));
    let batch = batch(Producer::NONE, &[7; 1000 << 10]);
    for topic in [topic, passing] {
        for _ in 0..BATCHES {
            let produced = world.produce(topic, 0, &batch);
            assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
        }
    }
    world.restart_with(limits, Box::new(|_, _| Verdict::Perform));
    hold_reads(&mut world);
    let asked: Vec<u32> = (0..BATCHES).map(|from| world.fetch(topic, from, 1, 0)).collect();
    assert_eq!(world.held(), 32, "of 1 MiB each");
    world.resume();
    for asked in asked {
        assert_eq!(world.answer(asked).unwrap().payload.len(), batch.len());
    }
    // Those that wait behind a topic that is deleted are answered, and so are the others.
    hold_reads(&mut world);
    let gone: Vec<u32> = (0..32).map(|from| world.fetch(passing, from, 1, 0)).collect();
    let asked: Vec<u32> = (0..BATCHES).map(|from| world.fetch(topic, from, 1, 0)).collect();
    let behind = world.fetch(passing, 0, 1, 0);
    assert_eq!(world.held(), 32);
    let delete = DeleteTopicRequest { name: "passing".into() };
    assert_eq!(world.ask(Api::DeleteTopic, &delete).unwrap().error(), ErrorCode::None);
    for gone in gone {
        assert_eq!(world.answer(gone).unwrap().error(), ErrorCode::UnknownTopic);
    }
    assert_eq!(world.held(), 64, "others have begun");
    world.resume();
    for asked in asked {
        assert_eq!(world.answer(asked).unwrap().payload.len(), batch.len());
    }
    assert_eq!(world.answer(behind).unwrap().error(), ErrorCode::UnknownTopic);
    // Answers that are not read count, too.
    world.reads = false;
    let asked: Vec<u32> = (0..BATCHES).map(|from| world.fetch(topic, from, 1, 0)).collect();
    let there = |world: &mut World| asked.iter().filter(|asked| world.has_answer(**asked)).count();
    assert_eq!(there(&mut world), 33, "of a little less than 1 MiB each");
    world.reads = true;
    world.settle();
    assert_eq!(there(&mut world), asked.len());
}

#[test]
fn a_session_that_is_gone_has_nothing_more_read_for_it() {
    let limits = Limits { tail_cache_bytes: 0, ..Limits::default() };
    let mut world = World::new(limits, 1 << 30);
    let topic = world.topic("t", 2);
    for partition in 0..2 {
        for _ in 0..40 {
            world.produce(topic, partition, &batch(Producer::NONE, &[7; 1000 << 10]));
        }
    }
    world.restart_with(limits, Box::new(|_, _| Verdict::Perform));
    hold_reads(&mut world);
    // One that will not get what it waits for, others of other sizes, and a subscription.
    let fetch = |world: &mut World, partition, max_bytes, min_bytes| {
        let request = FetchRequest {
            topic,
            partition: PartitionIndex::new(partition),
            offset: Offset::ZERO,
            max_bytes,
            min_bytes,
            max_wait_ms: 1,
        };
        world.send(Api::Fetch, &request, &[])
    };
    fetch(&mut world, 0, 16 << 20, 16 << 20);
    for at in 1..40 {
        fetch(&mut world, 1, at << 20, 1);
    }
    subscribe(&mut world, 1, (topic, 0), 1 << 30);
    world.node.on_disconnect(SESSION);
    world.resume();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.held(), 0);
    assert!(world.answers.iter().all(|answer| answer.payload.is_empty()));
}

#[test]
fn what_is_read_for_a_subscription_is_not_pushed_to_the_next_of_its_name() {
    let limits = Limits { tail_cache_bytes: 0, ..Limits::default() };
    let mut world = World::new(limits, 1 << 30);
    let topic = world.topic("t", 2);
    let batches = [1, 2].map(|value| batch(Producer::NONE, &[value; 1000]));
    for partition in 0..2 {
        world.produce(topic, partition, &batches[partition as usize]);
    }
    world.restart_with(limits, Box::new(|_, _| Verdict::Perform));
    hold_reads(&mut world);
    for partition in 0..2 {
        let subscribed = subscribe(&mut world, 1, (topic, partition), 1 << 20);
        assert_eq!(world.answer(subscribed).unwrap().error(), ErrorCode::None);
        if partition == 0 {
            let end = UnsubscribeRequest { subscription: 1 };
            assert_eq!(world.ask(Api::Unsubscribe, &end).unwrap().error(), ErrorCode::None);
        }
    }
    world.resume();
    let pushes = world.answers.iter().filter(|answer| answer.header.api == Api::Push as u8);
    let payloads: Vec<_> = pushes.map(|push| push.payload.clone()).collect();
    assert_eq!(payloads.len(), 1);
    assert!(payloads[0].ends_with(&batches[1][batches[1].len() - 1000..]));
}

#[test]
fn credit_that_cannot_be_read_ends_the_connection() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let mut bytes = Vec::new();
    let request = CreditRequest { subscription: 1, bytes: 1 };
    encode_message(Api::Credit, 9, &request, 0, &mut bytes).unwrap();
    let header = FrameHeader { head_bytes: 3, ..header(&bytes) };
    let now = world.now();
    let head = &bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 3];
    world.node.on_message(SESSION, &header, head, &[], now);
    let send = world.node.poll_send().expect("its client is told");
    assert!(send.last);
}

fn header(bytes: &[u8]) -> FrameHeader {
    let header = bytes.first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    FrameHeader::parse(header, catena_wire::FrameLimits::REQUEST).unwrap()
}
