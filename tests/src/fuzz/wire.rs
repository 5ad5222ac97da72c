//! What a peer sends.

use std::{fs, path::Path};

use catena_wire::*;

/// A preface, or a frame as a server and as a client take it.
pub(super) fn frame(bytes: &[u8]) {
    if let Some(preface) = bytes.first_chunk().and_then(|b| Preface::parse(b).ok()) {
        assert_eq!(Preface::parse(&preface.encode()), Ok(preface));
    }
    let Some((header, head)) = bytes.split_first_chunk() else { return };
    for limits in [FrameLimits::HANDSHAKE, FrameLimits::REQUEST, FrameLimits::RESPONSE] {
        let Ok(header) = FrameHeader::parse(header, limits) else { continue };
        assert!(header.head_bytes <= limits.head_bytes_max);
        assert!(header.payload_bytes <= limits.payload_bytes_max);
        assert_eq!(FrameHeader::parse(&header.encode(), limits), Ok(header));
    }
    // Whatever the header says of lengths: what stands behind it is the head.
    let _ = Api::of_request(header[2], header[3]);
    reads_back::<Refusal<'static>>(head);
    if let Some(api) = Api::from_number(header[2]) {
        request(api, head);
        response(api, head);
    }
}

fn request(api: Api, head: &[u8]) {
    match api {
        Api::Handshake => reads_back::<HandshakeRequest<'static>>(head),
        Api::Produce => reads_back::<ProduceRequest>(head),
        Api::Fetch => reads_back::<FetchRequest>(head),
        Api::Subscribe => reads_back::<SubscribeRequest>(head),
        Api::Credit => reads_back::<CreditRequest>(head),
        Api::Unsubscribe => reads_back::<UnsubscribeRequest>(head),
        Api::ListOffsets => reads_back::<ListOffsetsRequest>(head),
        Api::Metadata => reads_back::<MetadataRequest<'static>>(head),
        Api::CreateTopic => reads_back::<CreateTopicRequest<'static>>(head),
        Api::AlterTopic => reads_back::<AlterTopicRequest<'static>>(head),
        Api::DeleteTopic => reads_back::<DeleteTopicRequest<'static>>(head),
        Api::DescribeTopic => reads_back::<DescribeTopicRequest<'static>>(head),
        Api::Trim => reads_back::<TrimRequest>(head),
        Api::ProducerId => reads_back::<ProducerIdRequest>(head),
        Api::Ping => reads_back::<PingRequest>(head),
        Api::JoinToken => reads_back::<JoinTokenRequest>(head),
        Api::DescribeCluster => reads_back::<DescribeClusterRequest>(head),
        Api::RemoveNode => reads_back::<RemoveNodeRequest>(head),
        Api::DrainNode => reads_back::<DrainNodeRequest>(head),
        Api::ReplicateTopic => reads_back::<ReplicateTopicRequest<'static>>(head),
        Api::MovePartition => reads_back::<MovePartitionRequest<'static>>(head),
        Api::AcceptLoss => reads_back::<AcceptLossRequest>(head),
        Api::Push => {}
    }
}

fn response(api: Api, head: &[u8]) {
    match api {
        Api::Handshake => reads_back::<HandshakeResponse<'static>>(head),
        Api::Produce => reads_back::<ProduceResponse<'static>>(head),
        Api::Fetch => reads_back::<FetchResponse<'static>>(head),
        Api::Subscribe => reads_back::<SubscribeResponse<'static>>(head),
        Api::ListOffsets => reads_back::<ListOffsetsResponse<'static>>(head),
        Api::Metadata => reads_back::<MetadataResponse<'static>>(head),
        Api::DescribeTopic => reads_back::<DescribeTopicResponse<'static>>(head),
        Api::DescribeCluster => reads_back::<DescribeClusterResponse<'static>>(head),
        Api::Trim => reads_back::<TrimResponse<'static>>(head),
        Api::ProducerId => reads_back::<ProducerIdResponse<'static>>(head),
        Api::Push => reads_back::<Push<'static>>(head),
        Api::Unsubscribe
        | Api::CreateTopic
        | Api::AlterTopic
        | Api::DeleteTopic
        | Api::Ping
        | Api::JoinToken
        | Api::RemoveNode
        | Api::DrainNode
        | Api::ReplicateTopic
        | Api::MovePartition
        | Api::AcceptLoss => reads_back::<StatusResponse<'static>>(head),
        Api::Credit => {}
    }
}

/// Bytes that are a message are written and read as the same one.
fn reads_back<M: Message<'static, Owned = M>>(head: &[u8]) {
    let Ok(message) = M::decode_owned(head) else { return };
    let (mut once, mut again) = (Vec::new(), Vec::new());
    // Texts of a list can be too long for one of ours.
    if message.encode(&mut once).is_ok() {
        let read = M::decode_owned(&once).expect("what was written can be read");
        read.encode(&mut again).expect("what was written once can be written again");
        assert_eq!(once, again);
    }
}

/// The golden vectors of the wire.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    vectors("../net/wire/golden")
}

/// The golden vectors in a folder.
pub(super) fn vectors(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("the golden vectors of the wire are there");
    let files = entries.map(|entry| entry.expect("a folder can be read").path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|e| e == "hex")).collect();
    files.sort();
    let bytes = |file: &Path| {
        let text = fs::read_to_string(file).expect("a golden vector can be read");
        let byte = |hex| u8::from_str_radix(hex, 16).expect("it holds bytes");
        text.split_ascii_whitespace().map(byte).collect()
    };
    files.iter().map(|file| bytes(file)).collect()
}
