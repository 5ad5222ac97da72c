//! What holds for every message between nodes: it reads back, one changed bit is refused, and no
//! bytes make the decoder panic.

use catena_format::{Epoch, Offset, PartitionUid, checksum::crc32};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    WireError,
    limits::{PEER_HEADER_BYTES, PEER_PROGRESS_MAX, PREFACE_BYTES},
    sample::{Sample, Source},
};

/// A message that can be sent, and its payload in slices.
#[derive(Debug)]
struct Parcel {
    message: PeerMessage<'static>,
    partition: PartitionUid,
    slices: Vec<Vec<u8>>,
}

impl Parcel {
    /// One made from `seed`; what would contradict itself is put right.
    fn sample(kind: PeerKind, seed: &[u8]) -> Self {
        let source = &mut Source(seed);
        let mut message = PeerMessage::sample(kind, source);
        let payload = match &mut message {
            PeerMessage::ChainHello(hello) => {
                hello.end = hello.end.max(hello.start);
                hello.epochs.sort_by_key(|at| at.epoch);
                hello.epochs.dedup_by_key(|at| at.epoch);
                let mut starts: Vec<_> = hello.epochs.iter().map(|at| at.start).collect();
                starts.sort_unstable();
                hello.epochs.iter_mut().zip(starts).for_each(|(at, start)| at.start = start);
                Vec::new()
            }
            PeerMessage::ChainWelcome(welcome) => {
                welcome.first = welcome.first.max(welcome.keep);
                let fold = bytes(source, 40);
                welcome.payload_crc = crc32(&fold);
                fold
            }
            PeerMessage::ChainAppend(append) => {
                let count = append.stamps.len() as u64;
                append.from = Offset::new(append.from.get() >> 1);
                append.to = Offset::new(append.from.get() + count);
                append.stamps.iter_mut().flat_map(|stamp| batch(source, stamp)).collect()
            }
            PeerMessage::RepairResponse(response) => {
                let count = response.stamps.len() as u64;
                response.from = Offset::new(response.from.get() >> 1);
                response.to = Offset::new(response.from.get() + count);
                response.stamps.iter_mut().flat_map(|stamp| batch(source, stamp)).collect()
            }
            PeerMessage::RepairRequest(wanted) => {
                wanted.from = Offset::new(wanted.from.get() >> 1);
                wanted.to = Offset::new(wanted.from.get() + 1 + wanted.to.get() % 1000);
                Vec::new()
            }
            _ => Vec::new(),
        };
        let about = u64::from(kind.is_about_partition());
        let partition = PartitionUid::new(about * u64::sample(source).max(1));
        let slice_bytes = usize::from(u8::sample(source)) + 1;
        let slices = payload.chunks(slice_bytes).map(<[u8]>::to_vec).collect();
        Self { message, partition, slices }
    }

    fn payload(&self) -> Vec<u8> {
        self.slices.concat()
    }

    /// Header and head.
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.message.encode(self.partition, &self.slices, &mut bytes).expect("it can be sent");
        bytes
    }
}

fn bytes(source: &mut Source<'_>, most: u8) -> Vec<u8> {
    let length = u8::sample(source) % (most + 1);
    (0..length).map(|_| u8::sample(source)).collect()
}

/// A batch of the length that its stamp is given.
fn batch(source: &mut Source<'_>, stamp: &mut BatchStamp) -> Vec<u8> {
    let mut bytes = bytes(source, 40);
    bytes.resize(bytes.len() + 61, 0x55);
    stamp.length = u32::try_from(bytes.len()).unwrap();
    bytes[8..12].copy_from_slice(&(stamp.length - 12).to_be_bytes());
    bytes
}

fn kinds() -> impl Strategy<Value = PeerKind> {
    proptest::sample::select(PeerKind::ALL)
}

fn decode<'a>(frame: &'a [u8], payload: &[u8]) -> Result<PeerMessage<'a>, PeerError> {
    let (header, head) = frame.split_first_chunk().expect("there is a header");
    PeerHeader::parse(header)?.decode(head, payload)
}

/// Makes the CRC of a frame right, where that can be done.
fn seal(frame: &mut [u8], payload: &[u8]) {
    let (header, head) = frame.split_first_chunk_mut::<PEER_HEADER_BYTES>().expect("a header");
    let Ok(mut parsed) = PeerHeader::parse(header) else { return };
    let Ok(message) = PeerMessage::read(parsed.kind, head) else { return };
    let Ok(crc) = parsed.crc_of(head, &message, &[payload]) else { return };
    parsed.crc = crc;
    *header = parsed.encode();
}

/// Any bytes are a message or an error; a message among them is written and read as itself.
fn any_frame_will_do(frame: &[u8], payload: &[u8]) {
    let Ok(message) = decode(frame, payload) else { return };
    let header = PeerHeader::parse(frame.first_chunk().unwrap()).expect("it was parsed");
    let mut again = Vec::new();
    message.encode(header.partition, &[payload], &mut again).expect("what was read can be sent");
    let read = decode(&again, payload).expect("what was written can be read");
    let mut once_more = Vec::new();
    read.encode(header.partition, &[payload], &mut once_more).expect("as before");
    assert_eq!(again, once_more);
}

proptest! {
    #[test]
    fn every_message_reads_back(kind in kinds(), seed in vec(any::<u8>(), 0..400)) {
        let parcel = Parcel::sample(kind, &seed);
        let (mut bytes, payload) = (parcel.encoded(), parcel.payload());
        prop_assert_eq!(&decode(&bytes, &payload).unwrap(), &parcel.message);
        let head_bytes = bytes.len();
        bytes.extend_from_slice(&payload);
        bytes.push(7);
        let frame = PeerFrame::split(&bytes).unwrap().expect("the frame is whole");
        prop_assert_eq!(frame.header.frame_bytes() as usize, head_bytes + payload.len());
        prop_assert_eq!(frame.header.partition, parcel.partition);
        prop_assert_eq!(frame.rest, [7]);
        let message = frame.message().unwrap().into_owned();
        prop_assert_eq!(message, parcel.message);
    }

    #[test]
    fn tags_of_a_newer_peer_are_skipped(kind in kinds(), seed in vec(any::<u8>(), 0..400)) {
        let parcel = Parcel::sample(kind, &seed);
        let (mut bytes, payload) = (parcel.encoded(), parcel.payload());
        bytes.extend_from_slice(&[0x34, 0x12, 2, 0, 7, 7]);
        let head_bytes = u32::try_from(bytes.len() - PEER_HEADER_BYTES).unwrap();
        bytes[4..8].copy_from_slice(&head_bytes.to_le_bytes());
        prop_assert_eq!(decode(&bytes, &payload), Err(PeerError::Checksum));
        seal(&mut bytes, &payload);
        prop_assert_eq!(&decode(&bytes, &payload).unwrap(), &parcel.message);
    }

    /// The rest of a batch is not looked at: its stamp's CRC goes over that.
    #[test]
    fn one_changed_bit_is_refused(kind in kinds(), seed in vec(any::<u8>(), 0..200)) {
        let parcel = Parcel::sample(kind, &seed);
        let (mut bytes, mut payload) = (parcel.encoded(), parcel.payload());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, &payload).is_err(), "bit {}", bit);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let (mut starts, mut at) = (Vec::new(), 0);
        for stamp in parcel.message.stamps() {
            starts.push(at..at + 16);
            at += stamp.length as usize;
        }
        let is_fold = kind == PeerKind::ChainWelcome;
        for bit in 0..payload.len() * 8 {
            let covered = is_fold || starts.iter().any(|start| start.contains(&(bit / 8)));
            payload[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&bytes, &payload).is_err(), covered, "bit {}", bit);
            payload[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn what_is_cut_off_asks_for_more(kind in kinds(), seed in vec(any::<u8>(), 0..200)) {
        let parcel = Parcel::sample(kind, &seed);
        let bytes = parcel.encoded();
        let payload = parcel.payload();
        let frame = [bytes.as_slice(), &payload].concat();
        for end in 0..frame.len() {
            prop_assert_eq!(PeerFrame::split(&frame[..end]), Ok(None));
        }
        for end in PEER_HEADER_BYTES..bytes.len() {
            prop_assert!(decode(&bytes[..end], &payload).is_err());
            // Nor does it help to announce less.
            let mut shorter = bytes[..end].to_vec();
            let head_bytes = u32::try_from(end - PEER_HEADER_BYTES).unwrap();
            shorter[4..8].copy_from_slice(&head_bytes.to_le_bytes());
            prop_assert!(decode(&shorter, &payload).is_err());
            seal(&mut shorter, &payload);
            any_frame_will_do(&shorter, &payload);
        }
        for end in 0..payload.len() {
            prop_assert!(decode(&bytes, &payload[..end]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_a_frame_or_not(
        mut bytes in vec(any::<u8>(), 0..300),
        kind: u8,
        head_bytes in 0..300u32,
        payload in vec(any::<u8>(), 0..100),
    ) {
        let _ = PeerFrame::split(&bytes).map(|frame| frame.map(|frame| frame.message()));
        if bytes.len() < PEER_HEADER_BYTES {
            return Ok(());
        }
        bytes[..4].copy_from_slice(&[0x9e, 0xca, kind % 10, 1]);
        bytes[4..8].copy_from_slice(&head_bytes.to_le_bytes());
        bytes[8..12].fill(0);
        let _ = PeerFrame::split(&bytes).map(|frame| frame.map(|frame| frame.message()));
        let head_bytes = u32::try_from(bytes.len() - PEER_HEADER_BYTES).unwrap();
        bytes[4..8].copy_from_slice(&head_bytes.to_le_bytes());
        for payload in [&[], payload.as_slice()] {
            let payload_bytes = u32::try_from(payload.len()).unwrap();
            bytes[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
            seal(&mut bytes, payload);
            any_frame_will_do(&bytes, payload);
        }
    }

    #[test]
    fn nearly_a_frame(
        kind in kinds(),
        seed in vec(any::<u8>(), 0..400),
        changes in vec(any::<(usize, u8)>(), 1..4),
        in_payload in any::<(usize, u8)>(),
    ) {
        let parcel = Parcel::sample(kind, &seed);
        let (mut bytes, mut payload) = (parcel.encoded(), parcel.payload());
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if !payload.is_empty() {
            let at = in_payload.0 % payload.len();
            payload[at] = in_payload.1;
        }
        any_frame_will_do(&bytes, &payload);
        seal(&mut bytes, &payload);
        any_frame_will_do(&bytes, &payload);
    }

    #[test]
    fn any_bytes_are_a_preface_or_not(mut bytes in any::<[u8; PREFACE_BYTES]>(), ours: bool) {
        if ours {
            bytes[..10].copy_from_slice(b"CTPEER\r\n\x01\0");
        }
        if let Ok(preface) = PeerPreface::parse(&bytes) {
            prop_assert_eq!(preface.encode(), bytes);
        }
    }
}

fn append() -> ChainAppend {
    let seed: Vec<u8> = (2..=255).collect();
    let parcel = Parcel::sample(PeerKind::ChainAppend, &seed);
    let PeerMessage::ChainAppend(append) = parcel.message else { panic!("it is one") };
    assert!(append.stamps.len() > 1, "{append:?}");
    append
}

fn refused(message: PeerMessage<'_>, partition: u64, payload: &[&[u8]]) -> PeerError {
    let mut out = vec![1, 2, 3];
    let refused = message.encode(PartitionUid::new(partition), payload, &mut out);
    assert_eq!(out, [1, 2, 3], "what cannot be sent leaves the buffer as it was");
    refused.expect_err("it cannot be sent")
}

#[test]
fn what_contradicts_itself_is_neither_sent_nor_taken() {
    let whole = append();
    let nothing = ChainAppend { stamps: Vec::new(), ..whole.clone() };
    let error = PeerError::Contradiction("batches without offsets, or offsets without batches");
    assert_eq!(refused(PeerMessage::ChainAppend(nothing.clone()), 7, &[]), error);
    let backward = ChainAppend { from: Offset::MAX, ..nothing.clone() };
    let error = PeerError::Contradiction("batches end before their first offset");
    assert_eq!(refused(PeerMessage::ChainAppend(backward), 7, &[]), error);
    // A peer that sends it all the same.
    let news = ChainAppend { from: nothing.to, ..nothing };
    let mut bytes = Vec::new();
    PeerMessage::ChainAppend(news).encode::<&[u8]>(PartitionUid::new(7), &[], &mut bytes).unwrap();
    bytes[PEER_HEADER_BYTES + 12] ^= 1;
    assert_eq!(decode(&bytes, &[]), Err(PeerError::Checksum));
    seal(&mut bytes, &[]);
    assert!(matches!(decode(&bytes, &[]), Err(PeerError::Contradiction(_))));
}

#[test]
fn a_history_that_cannot_be_is_neither_sent_nor_taken() {
    let at = |epoch, start| EpochStart { epoch: Epoch::new(epoch), start: Offset::new(start) };
    let history = |start, end, epochs: &[EpochStart]| {
        PeerMessage::ChainHello(ChainHello {
            epoch: Epoch::new(9),
            session: 1,
            start: Offset::new(start),
            end: Offset::new(end),
            durable: Offset::new(end),
            epochs: epochs.to_vec(),
        })
    };
    let sound = history(5, 5, &[at(1, 0), at(3, 0)]);
    assert_eq!(sound.encode::<&[u8]>(PartitionUid::new(7), &[], &mut Vec::new()), Ok(()));
    let error = PeerError::Contradiction("a log ends before its start");
    assert_eq!(refused(history(5, 4, &[]), 7, &[]), error);
    let error = PeerError::Contradiction("the epochs of a log are not in order");
    for epochs in [[at(3, 0), at(1, 1)], [at(1, 0), at(1, 1)], [at(1, 1), at(2, 0)]] {
        assert_eq!(refused(history(0, 5, &epochs), 7, &[]), error);
    }
    let welcome = PeerMessage::ChainWelcome(ChainWelcome {
        epoch: Epoch::new(9),
        session: 1,
        keep: Offset::new(2),
        first: Offset::new(1),
        high_watermark: Offset::ZERO,
        payload_crc: 0,
    });
    let error = PeerError::Contradiction("a log goes on before what it keeps ends");
    assert_eq!(refused(welcome, 7, &[]), error);
}

#[test]
fn a_header_that_announces_other_lengths_is_refused() {
    let mut bytes = Vec::new();
    let news = PeerMessage::ChainAppend(ChainAppend {
        to: Offset::ZERO,
        from: Offset::ZERO,
        stamps: Vec::new(),
        ..append()
    });
    news.encode::<&[u8]>(PartitionUid::new(7), &[], &mut bytes).unwrap();
    bytes[8] = 1;
    seal(&mut bytes, &[]);
    let error = PeerError::Length { part: "payload", announced: 1, given: 0 };
    assert_eq!(decode(&bytes, &[]), Err(error));
    let given = bytes.len() - PEER_HEADER_BYTES;
    (bytes[4], bytes[8]) = (bytes[4] - 1, 0);
    seal(&mut bytes, &[]);
    let announced = u32::try_from(given - 1).unwrap();
    let error = PeerError::Length { part: "head", announced, given };
    assert_eq!(decode(&bytes, &[]), Err(error));
}

#[test]
fn stamps_and_payload_are_of_the_same_batches() {
    let message = append();
    let stamped: u64 = message.stamps.iter().map(|stamp| u64::from(stamp.length)).sum();
    let zeros = vec![0; stamped as usize];
    let of = |message: &ChainAppend| PeerMessage::ChainAppend(message.clone());
    assert_eq!(refused(of(&message), 7, &[&zeros]), PeerError::Batch { number: 0 });
    let error = PeerError::Stamps { stamped, payload: 0 };
    assert_eq!(refused(of(&message), 7, &[]), error);
    let ping = PeerMessage::Ping(Ping { time: 1 });
    let error = PeerError::TooLarge { part: "payload", bytes: 1, limit: 0 };
    assert_eq!(refused(ping.clone(), 0, &[b"x"]), error);
    assert_eq!(refused(ping, 7, &[]), PeerError::Partition);
    assert_eq!(refused(of(&message), 0, &[]), PeerError::Partition);
}

#[test]
fn lists_and_lengths_have_limits() {
    let progress = MemberProgress { received: Offset::ZERO, durable: Offset::ZERO };
    let commit = |members| {
        PeerMessage::ChainCommit(ChainCommit {
            epoch: Epoch::MAX,
            session: 1,
            high_watermark: Offset::ZERO,
            answered: 0,
            progress: vec![progress.clone(); members],
        })
    };
    let (what, count, limit) = ("members", 33, PEER_PROGRESS_MAX);
    assert_eq!(refused(commit(33), 7, &[]), PeerError::TooMany { what, count, limit });
    let mut bytes = Vec::new();
    commit(32).encode::<&[u8]>(PartitionUid::new(7), &[], &mut bytes).unwrap();
    assert!(decode(&bytes, &[]).is_ok());
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let (bytes_max, limit) = (u32::MAX.into(), 4096);
    let error = PeerError::TooLarge { part: "head", bytes: bytes_max, limit };
    assert_eq!(decode(&bytes, &[]), Err(error));
    bytes[2] = 99;
    assert_eq!(decode(&bytes, &[]), Err(PeerError::Kind(99)));
    bytes[3] = 2;
    assert_eq!(decode(&bytes, &[]), Err(PeerError::Version(2)));
    bytes[0] = 0x7e;
    assert_eq!(decode(&bytes, &[]), Err(PeerError::Magic));
}

#[test]
fn the_longest_lists_fit_their_heads() {
    let at =
        |number: u32| EpochStart { epoch: Epoch::new(number), start: Offset::new(number.into()) };
    let hello = |epochs| ChainHello {
        epoch: Epoch::MAX,
        session: 1,
        start: Offset::ZERO,
        end: Offset::MAX,
        durable: Offset::ZERO,
        epochs: (0..epochs).map(at).collect(),
    };
    let mut bytes = Vec::new();
    let longest = PeerMessage::ChainHello(hello(20_000));
    longest.encode::<&[u8]>(PartitionUid::new(7), &[], &mut bytes).unwrap();
    assert_eq!(decode(&bytes, &[]), Ok(longest));
    let (what, count, limit) = ("epochs", 20_001, 20_000);
    let error = PeerError::TooMany { what, count, limit };
    assert_eq!(refused(PeerMessage::ChainHello(hello(20_001)), 7, &[]), error);
}

#[test]
fn a_version_is_agreed_on_or_not() {
    let hello = |version_min, version_max| {
        let PeerMessage::Hello(hello) = PeerMessage::sample(PeerKind::Hello, &mut Source(&[]))
        else {
            panic!("it is one")
        };
        PeerHello { version_min, version_max, ..hello }.common_version()
    };
    assert_eq!(hello(1, 9), Some(PEER_VERSION));
    assert_eq!(hello(2, 9), None);
    assert_eq!(hello(9, 1), None);
}

#[test]
fn a_text_that_is_too_long_is_not_sent() {
    let PeerMessage::Hello(hello) = PeerMessage::sample(PeerKind::Hello, &mut Source(&[])) else {
        panic!("it is one")
    };
    let named = |bytes: usize| {
        PeerMessage::Hello(PeerHello { software: "x".repeat(bytes).into(), ..hello.clone() })
    };
    let error = PeerError::Head(WireError::TextTooLong(65_536));
    assert_eq!(refused(named(65_536), 0, &[]), error);
    let error = PeerError::TooLarge { part: "head", bytes: 66 + 5000, limit: 4096 };
    assert_eq!(refused(named(5000), 0, &[]), error);
}
