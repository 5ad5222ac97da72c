//! Subscriptions: the server pushes batches as they are committed, as far as the credit goes.
//!
//! A subscription is named by its client, within a connection. Its credit is counted in payload
//! bytes; a push may overshoot it by one batch, after which nothing is pushed until it is positive
//! again. Pushes carry the correlation id of the subscribe request.

use std::borrow::Cow;

use catena_format::{Epoch, Offset, PartitionIndex, TopicId};

use crate::{codec::wire_struct, error::ErrorCode, redirect::HeadAddress};

wire_struct! {
    /// Be sent batches from an offset on.
    message SubscribeRequest {
        /// The client's name for it, not in use on this connection.
        subscription: u32,
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// Where to start; within a batch the whole batch is sent.
        offset: Offset,
        /// The first credit, in payload bytes.
        credit_bytes: u32,
    }
}

wire_struct! {
    /// Whether there is a subscription now. Pushes follow behind this response.
    message SubscribeResponse<'a> {
        /// Why there is none.
        error: ErrorCode,
        /// The client's name for it.
        subscription: u32,
        /// The first readable offset.
        log_start: Offset,
        /// The end of what is on the disk of every member.
        high_watermark: Offset,
        /// The epoch of the chain.
        epoch: Epoch,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
        2 =>
            /// Under [`ErrorCode::NotHead`] and [`ErrorCode::HeadMoved`], if it is known: where
            /// the head is.
            head: Option<HeadAddress<'a>>,
    }
}

impl<'a> SubscribeResponse<'a> {
    /// An answer without a subscription.
    #[must_use]
    pub fn refused(error: ErrorCode, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            error,
            subscription: 0,
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            epoch: Epoch::default(),
            message: message.into(),
            head: None,
        }
    }
}

wire_struct! {
    /// Take more bytes. It has no response; that of an ended subscription is ignored.
    message CreditRequest {
        /// Which.
        subscription: u32,
        /// Payload bytes to add.
        bytes: u32,
    }
}

wire_struct! {
    /// End a subscription. The answer is a [`crate::StatusResponse`], behind which no push follows.
    message UnsubscribeRequest {
        /// Which.
        subscription: u32,
    }
}

wire_struct! {
    /// Batches, bare and back to back, as the payload; or, with an error, the subscription's end.
    message Push<'a> {
        /// Why the subscription ended.
        error: ErrorCode,
        /// Which.
        subscription: u32,
        /// The offset behind the payload: where to go on after a lost connection. At an end, the
        /// next readable offset.
        next_offset: Offset,
        /// The first readable offset.
        log_start: Offset,
        /// The end of what is on the disk of every member.
        high_watermark: Offset,
        /// The epoch of the chain.
        epoch: Epoch,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
        2 =>
            /// Under [`ErrorCode::NotHead`] and [`ErrorCode::HeadMoved`], if it is known: where
            /// the head is.
            head: Option<HeadAddress<'a>>,
    }
}
