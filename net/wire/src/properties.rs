//! What holds for every message: it reads back, and no bytes make its decoder panic.

use std::fmt::Debug;

use proptest::{collection::vec, prelude::*};

use crate::{
    sample::{Sample, Source},
    *,
};

fn encoded<'m, M: Message<'m>>(message: &M) -> Vec<u8> {
    let mut head = Vec::new();
    message.encode(&mut head).expect("short texts can be sent");
    head
}

/// A message made from `seed` reads back; so it does behind tags of a newer peer.
fn reads_back<M>(seed: &[u8])
where
    M: Message<'static, Owned = M> + Sample + PartialEq + Debug,
{
    let message = M::sample(&mut Source(seed));
    let mut head = encoded(&message);
    assert_eq!(M::decode_owned(&head).as_ref(), Ok(&message));
    head.extend_from_slice(&[0x34, 0x12, 2, 0, 7, 7]);
    assert_eq!(M::decode_owned(&head).as_ref(), Ok(&message));
}

/// Any bytes are a message or an error; a message among them is written and read as itself.
fn any_bytes_will_do<M>(head: &[u8])
where
    M: Message<'static, Owned = M> + PartialEq + Debug,
{
    let Ok(message) = M::decode_owned(head) else { return };
    // What was read can hold texts that are too long for a sentence: those are cut.
    let again = M::decode_owned(&encoded(&message)).expect("what was written can be read");
    assert_eq!(encoded(&again), encoded(&message));
}

/// Bytes that are nearly a message get further into its decoder.
fn nearly_a_message<M>(seed: &[u8], at: usize, byte: u8, end: usize)
where
    M: Message<'static, Owned = M> + Sample + PartialEq + Debug,
{
    let mut head = encoded(&M::sample(&mut Source(seed)));
    if !head.is_empty() {
        let (at, end) = (at % head.len(), end % (head.len() + 1));
        head[at] = byte;
        any_bytes_will_do::<M>(&head);
        any_bytes_will_do::<M>(&head[..end]);
    }
}

macro_rules! messages {
    ($($name:ident: $message:ty,)*) => {$(
        mod $name {
            use super::*;

            proptest! {
                #[test]
                fn reads_back(seed in vec(any::<u8>(), 0..400)) {
                    super::reads_back::<$message>(&seed);
                }

                #[test]
                fn any_bytes_will_do(head in vec(any::<u8>(), 0..200)) {
                    super::any_bytes_will_do::<$message>(&head);
                }

                #[test]
                fn nearly_a_message(
                    seed in vec(any::<u8>(), 0..400),
                    at in any::<usize>(),
                    byte in any::<u8>(),
                    end in any::<usize>(),
                ) {
                    super::nearly_a_message::<$message>(&seed, at, byte, end);
                }
            }
        }
    )*};
}

messages! {
    accept_loss_request: AcceptLossRequest,
    alter_topic_request: AlterTopicRequest<'_>,
    create_topic_request: CreateTopicRequest<'_>,
    credit_request: CreditRequest,
    delete_topic_request: DeleteTopicRequest<'_>,
    describe_cluster_request: DescribeClusterRequest,
    describe_cluster_response: DescribeClusterResponse<'_>,
    describe_topic_request: DescribeTopicRequest<'_>,
    describe_topic_response: DescribeTopicResponse<'_>,
    drain_node_request: DrainNodeRequest,
    fetch_request: FetchRequest,
    fetch_response: FetchResponse<'_>,
    handshake_request: HandshakeRequest<'_>,
    handshake_response: HandshakeResponse<'_>,
    join_token_request: JoinTokenRequest,
    list_offsets_request: ListOffsetsRequest,
    list_offsets_response: ListOffsetsResponse<'_>,
    metadata_request: MetadataRequest<'_>,
    metadata_response: MetadataResponse<'_>,
    move_partition_request: MovePartitionRequest<'_>,
    ping_request: PingRequest,
    produce_request: ProduceRequest,
    produce_response: ProduceResponse<'_>,
    producer_id_request: ProducerIdRequest,
    producer_id_response: ProducerIdResponse<'_>,
    push: Push<'_>,
    refusal: Refusal<'_>,
    remove_node_request: RemoveNodeRequest,
    replicate_topic_request: ReplicateTopicRequest<'_>,
    status_response: StatusResponse<'_>,
    subscribe_request: SubscribeRequest,
    subscribe_response: SubscribeResponse<'_>,
    trim_request: TrimRequest,
    trim_response: TrimResponse<'_>,
    unsubscribe_request: UnsubscribeRequest,
}

proptest! {
    #[test]
    fn any_bytes_are_a_preface_or_not(bytes in any::<[u8; PREFACE_BYTES]>(), core: Option<u16>) {
        let _ = Preface::parse(&bytes);
        let core = core.filter(|core| *core != u16::MAX);
        prop_assert_eq!(Preface::parse(&Preface { core }.encode()), Ok(Preface { core }));
    }

    #[test]
    fn any_bytes_are_a_header_or_not(mut bytes in any::<[u8; FRAME_HEADER_BYTES]>(), ours: bool) {
        if ours {
            bytes[..2].copy_from_slice(&[0x7e, 0xca]);
        }
        if let Ok(header) = FrameHeader::parse(&bytes, FrameLimits::RESPONSE) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }
}
