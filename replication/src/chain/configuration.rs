//! Who is in a chain, and the changes that there are.

use catena_format::{Epoch, Incarnation, NodeId};

/// A node in one life of its process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberId {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

/// What a member is to its chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Head and tail at once.
    Solo,
    /// Gives offsets.
    Head,
    /// Passes on.
    Middle,
    /// Commits first.
    Tail,
    /// Copies behind the tail, to become it.
    Joiner,
    /// None of these.
    Outside,
}

/// The chain of a partition in one epoch. Its members in all hold whatever any epoch before has
/// committed or still can; that is what the changes below keep true.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Configuration {
    /// Raised by one with every change.
    pub epoch: Epoch,
    /// From head to tail; never empty.
    pub chain: Vec<MemberId>,
    /// Who copies, to become the tail.
    pub joining: Option<MemberId>,
    /// A shorter chain takes nothing and commits nothing.
    pub min_replicas: u8,
}

impl Configuration {
    /// Of somebody alone.
    #[must_use]
    pub fn alone(epoch: Epoch, member: MemberId) -> Self {
        Self { epoch, chain: vec![member], joining: None, min_replicas: 1 }
    }

    /// What somebody is to the chain. A node's earlier life is nobody.
    #[must_use]
    pub fn role(&self, member: MemberId) -> Role {
        match self.chain.iter().position(|other| *other == member) {
            Some(_) if self.chain.len() == 1 => Role::Solo,
            Some(0) => Role::Head,
            Some(at) if at + 1 == self.chain.len() => Role::Tail,
            Some(_) => Role::Middle,
            None if self.joining == Some(member) => Role::Joiner,
            None => Role::Outside,
        }
    }

    /// Whose log counts for a member: its neighbour toward the head, of a joiner the tail.
    #[must_use]
    pub fn predecessor(&self, node: NodeId) -> Option<MemberId> {
        match self.chain.iter().position(|other| other.node == node) {
            Some(at) => Some(self.chain[at.checked_sub(1)?]),
            None => self.chain.last().copied().filter(|_| self.joins(node)),
        }
    }

    /// The neighbour toward the tail.
    #[must_use]
    pub fn successor(&self, node: NodeId) -> Option<MemberId> {
        let at = self.chain.iter().position(|other| other.node == node)?;
        self.chain.get(at + 1).copied()
    }

    /// Whether the node is the tail, or alone.
    #[must_use]
    pub fn is_tail(&self, node: NodeId) -> bool {
        self.chain.last().is_some_and(|last| last.node == node)
    }

    /// Whether there are members enough to take and commit anything.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.chain.len() >= usize::from(self.min_replicas)
    }

    fn joins(&self, node: NodeId) -> bool {
        self.joining.is_some_and(|joining| joining.node == node)
    }

    fn next(&self, chain: Vec<MemberId>, joining: Option<MemberId>) -> Self {
        let epoch = self.epoch.plus(1);
        Self { epoch, chain, joining, min_replicas: self.min_replicas }
    }

    /// Without a node that is dead, slow or to go. `None`: it is not there, or the last of the
    /// chain, which only an operator gives up.
    #[must_use]
    pub fn without(&self, node: NodeId) -> Option<Self> {
        if self.joins(node) {
            return Some(self.next(self.chain.clone(), None));
        }
        let chain: Vec<_> = self.chain.iter().copied().filter(|m| m.node != node).collect();
        let changes = !chain.is_empty() && chain.len() < self.chain.len();
        changes.then(|| self.next(chain, self.joining))
    }

    /// With the new life of a node that was there in an earlier one. Its disk holds what it had
    /// claimed to hold; but as it may have lost what only memory held, it goes behind all others.
    #[must_use]
    pub fn restarted(&self, member: MemberId) -> Option<Self> {
        let node = member.node;
        if self.joins(node) {
            return Some(self.next(self.chain.clone(), Some(member)));
        }
        let mut chain: Vec<_> = self.chain.iter().copied().filter(|m| m.node != node).collect();
        if chain.len() == self.chain.len() || self.chain.contains(&member) {
            return None;
        }
        chain.push(member);
        Some(self.next(chain, self.joining))
    }

    /// The same in another epoch.
    #[must_use]
    pub fn restated(&self) -> Self {
        self.next(self.chain.clone(), self.joining)
    }

    /// With somebody who begins to copy. `None`: he is there already, or somebody else is copying.
    #[must_use]
    pub fn with_joining(&self, joiner: MemberId) -> Option<Self> {
        let there = self.chain.iter().any(|member| member.node == joiner.node);
        (!there && self.joining.is_none()).then(|| self.next(self.chain.clone(), Some(joiner)))
    }

    /// With the joiner as its tail, on the word of the present tail. `None`: the word was given in
    /// another epoch, or of another joiner.
    #[must_use]
    pub fn joined(&self, epoch: Epoch, joiner: MemberId) -> Option<Self> {
        let holds = self.epoch == epoch && self.joining == Some(joiner);
        let chain = self.chain.iter().copied().chain([joiner]).collect();
        holds.then(|| self.next(chain, None))
    }

    /// With the same members in another order. `None`: they are not the same, or in this order.
    #[must_use]
    pub fn reordered(&self, chain: Vec<MemberId>) -> Option<Self> {
        let sorted = |chain: &[MemberId]| {
            let mut chain = chain.to_vec();
            chain.sort_unstable();
            chain
        };
        let other = chain != self.chain && sorted(&chain) == sorted(&self.chain);
        other.then(|| self.next(chain, self.joining))
    }
}
