//! A client's connection, and what each kind of client does on it.

use std::collections::{BTreeMap, VecDeque};

use catena_format::{NodeId, TopicId};
use catena_log::io::IoError;
use catena_wire::{
    Api, ApiRange, Class, ErrorCode, HandshakeRequest, Message, MetadataRequest, encode_message,
};

use super::{Plan, TOPIC};
use crate::sim::{deeds::Deed, oracle::Oracle, random::Random};

/// How long a client waits before it tries again, in nanoseconds.
const RETRY_NS: u64 = 3_000_000;

/// How far a client has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Away,
    Greeting,
    Creating,
    Locating,
    Identifying,
    Raising { id: i64, epoch: i16 },
    Running,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) api: Api,
    pub(super) sent_ns: u64,
}

/// A client but for its kind.
pub(super) struct Line {
    pub(super) number: u32,
    pub(super) random: Random,
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    /// What the topic's name led to.
    pub(super) topic: TopicId,
    /// The node that it is connected to, or was.
    pub(super) node: NodeId,
    /// The one that it would connect to.
    pub(super) wanted: Option<NodeId>,
    pub(super) wake_ns: u64,
    pub(super) paused_ns: u64,
    correlation: u32,
    pub(super) calls: BTreeMap<u32, Call>,
    pub(super) out: VecDeque<Vec<u8>>,
    pub(super) hung_up: bool,
    pub(super) finishing: bool,
    /// What it has just asked for is a good moment for a crash.
    pub(super) peril: bool,
}

impl Line {
    pub(super) fn new(number: u32, random: Random, plan: Plan) -> Self {
        Self {
            number,
            random,
            plan,
            stage: Stage::Away,
            topic: TopicId::default(),
            node: NodeId::default(),
            wanted: None,
            wake_ns: 0,
            paused_ns: 0,
            correlation: 0,
            calls: BTreeMap::new(),
            out: VecDeque::new(),
            hung_up: true,
            finishing: false,
            peril: false,
        }
    }

    pub(super) fn hang_up(&mut self, now_ns: u64) {
        self.stage = Stage::Away;
        self.calls.clear();
        self.out.clear();
        self.hung_up = true;
        self.wake_ns = (now_ns + RETRY_NS + self.random.below(RETRY_NS)).max(self.paused_ns);
    }

    pub(super) fn pause(&mut self, until_ns: u64) {
        self.paused_ns = self.paused_ns.max(until_ns);
        self.wake_ns = self.wake_ns.max(until_ns);
    }

    pub(super) fn greet(&mut self, node: NodeId, now_ns: u64) {
        (self.node, self.wanted) = (node, None);
        self.hung_up = false;
        self.stage = Stage::Greeting;
        let request = HandshakeRequest {
            client: "simulated".into(),
            client_version: "".into(),
            apis: ApiRange::spoken(&Api::ALL),
            features: 0,
            mechanism: "".into(),
            authentication: (&[][..]).into(),
        };
        self.call(Api::Handshake, &request, &[], now_ns);
    }

    pub(super) fn locate(&mut self, now_ns: u64) {
        self.stage = Stage::Locating;
        let names = vec![TOPIC.into()];
        self.call(Api::Metadata, &MetadataRequest { names }, &[], now_ns);
    }

    pub(super) fn call<'m, M: Message<'m>>(
        &mut self,
        api: Api,
        message: &M,
        payload: &[u8],
        now_ns: u64,
    ) -> u32 {
        self.correlation += 1;
        let mut bytes = Vec::new();
        encode_message(api, self.correlation, message, payload.len(), &mut bytes)
            .expect("requests are small");
        bytes.extend_from_slice(payload);
        self.calls.insert(self.correlation, Call { api, sent_ns: now_ns });
        self.out.push_back(bytes);
        self.correlation
    }

    /// An error of a request about a partition: the client hangs up and begins anew, unless nothing
    /// excuses it.
    ///
    /// # Errors
    /// When a definite error came without a reason.
    pub(super) fn refused(
        &mut self,
        partition: u32,
        error: ErrorCode,
        message: &str,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let excused = match error {
            ErrorCode::UnknownTopic => {
                let gone = oracle.topics.may_be_gone(self.topic);
                if gone {
                    oracle.did(Deed::MetDeleted);
                }
                gone
            }
            // It may not have been added yet.
            ErrorCode::UnknownPartition => partition >= self.plan.created,
            ErrorCode::PartitionFailed => true,
            // The files that a log names are there.
            ErrorCode::ReadFailed if message.ends_with(&IoError::NotFound.to_string()) => false,
            error => error.class() != Class::Definite,
        };
        if !excused {
            return Err(format!("{}: {message}", error.name()));
        }
        self.hang_up(oracle.now_ns);
        Ok(())
    }
}
