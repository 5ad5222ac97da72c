//! Which topics are there: one name, and one incarnation after the other.

use std::collections::BTreeMap;

use catena_format::TopicId;

/// How long a deletion may need to get from the core that decides it to the others: it is told to
/// them when it is told to the client, and a client may be quicker.
const SPREAD_NS: u64 = 100_000;

/// One incarnation.
#[derive(Clone, Copy, Debug, Default)]
struct Topic {
    asked_to_go: bool,
    gone_ns: Option<u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Topics {
    known: BTreeMap<TopicId, Topic>,
    current: Option<TopicId>,
    /// Since when the name is known to lead to a topic; nobody has asked for its deletion.
    there_ns: Option<u64>,
}

impl Topics {
    /// A topic is created.
    pub fn created(&mut self, now_ns: u64) {
        self.there_ns.get_or_insert(now_ns);
    }

    /// The name led nowhere, as was asked at `asked_ns`.
    ///
    /// # Errors
    /// When a topic was there that nobody wanted to delete.
    pub fn missed(&self, asked_ns: u64) -> Result<(), String> {
        match self.there_ns.filter(|there| asked_ns > *there) {
            Some(there) => Err(format!("a topic that was there at {there} ns was forgotten")),
            None => Ok(()),
        }
    }

    /// The name led to this one, as was asked at `asked_ns`.
    ///
    /// # Errors
    /// When that was deleted, or another one was there.
    pub fn located(&mut self, id: TopicId, asked_ns: u64, now_ns: u64) -> Result<(), String> {
        self.served(id, asked_ns)?;
        let topic = self.known.entry(id).or_default();
        if topic.gone_ns.is_some() {
            return Ok(());
        }
        if let Some(current) = self.current.filter(|current| *current != id) {
            return Err(format!("topic {current:?} was there, and without a word {id:?} is"));
        }
        self.current = Some(id);
        if !topic.asked_to_go {
            self.there_ns.get_or_insert(now_ns);
        }
        Ok(())
    }

    /// Somebody asks for the deletion of what the name leads to.
    pub fn deletes(&mut self) {
        self.there_ns = None;
        let topic = self.current.and_then(|current| self.known.get_mut(&current));
        topic.into_iter().for_each(|topic| topic.asked_to_go = true);
    }

    /// It is done.
    pub fn deleted(&mut self, now_ns: u64) {
        let topic = self.current.take().and_then(|current| self.known.get_mut(&current));
        topic.into_iter().for_each(|topic| topic.gone_ns = Some(now_ns));
    }

    /// Whether a topic may be unknown.
    #[must_use]
    pub fn may_be_gone(&self, id: TopicId) -> bool {
        self.known.get(&id).is_some_and(|topic| topic.asked_to_go)
    }

    /// A topic served what was asked at `asked_ns`.
    ///
    /// # Errors
    /// When it was deleted by then.
    pub fn served(&self, id: TopicId, asked_ns: u64) -> Result<(), String> {
        let gone = self.known.get(&id).and_then(|topic| topic.gone_ns);
        match gone {
            Some(gone) if asked_ns > gone + SPREAD_NS => Err(format!(
                "topic {id:?}, deleted at {gone} ns, served what was asked at {asked_ns} ns"
            )),
            _ => Ok(()),
        }
    }
}
