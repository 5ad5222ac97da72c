//! Where the head of a chain is: what a node tells that is not the head, so that a client that came
//! to the wrong one needs no other answer to come to the right one.

use std::borrow::Cow;

use catena_format::{Epoch, NodeId};

use crate::{
    FetchResponse, ListOffsetsResponse, Message, ProduceResponse, Push, SubscribeResponse,
    TrimResponse,
    api::Api,
    codec::{Field, wire_struct},
    error::ErrorCode,
};

wire_struct! {
    /// Where the head of a partition's chain is, as far as the node knows that answers.
    part HeadAddress<'a> {
        /// The head.
        node: NodeId,
        /// The epoch of the chain that it is the head of.
        epoch: Epoch,
        /// The core that owns the partition there.
        core: u16,
        /// Host and port; empty: where the client knows the node to be.
        address: Cow<'a, str>,
    }
}

impl HeadAddress<'_> {
    /// Copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> HeadAddress<'static> {
        Field::owned(self)
    }
}

/// Where the head is, if the head of a response or push says that; `None` of one without an error.
#[must_use]
pub fn head_told(api: Api, head: &[u8]) -> Option<HeadAddress<'_>> {
    let error = u16::from_le_bytes(*head.first_chunk()?);
    if error == ErrorCode::None.number() {
        return None;
    }
    match api {
        Api::Produce => ProduceResponse::decode(head).ok()?.head,
        Api::Fetch => FetchResponse::decode(head).ok()?.head,
        Api::Subscribe => SubscribeResponse::decode(head).ok()?.head,
        Api::Push => Push::decode(head).ok()?.head,
        Api::ListOffsets => ListOffsetsResponse::decode(head).ok()?.head,
        Api::Trim => TrimResponse::decode(head).ok()?.head,
        _ => None,
    }
}
