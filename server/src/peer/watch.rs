//! The other nodes as this one judges them (`leasehold_cluster::Peers`), and the story of each for operators: since when it is as it is, and why.
//!
//! Shared by all threads. What threads tell of failures takes a lock, what they tell of answers does not while a node is well.

use leasehold_cluster::{Change, Condition, Fault, Member, PeerView, Peers, Place, Rules, Tick};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) peers: Peers,
    /// By the place of the node.
    stories: Mutex<Vec<Story>>,
}

/// How a node came to be as it is.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    /// Server time.
    pub(crate) since_ms: u64,
    /// The last failure; empty: there was none since it was well.
    pub(crate) reason: String,
}

/// Why a node is in trouble that answers no pings.
const SILENT: &str = "has not answered in time";

impl Watch {
    /// Of a node that has started; `boot` is a random number.
    pub(crate) fn new(member: &Member, rules: Rules, boot: u64, now_ms: u64) -> Self {
        let topology = Arc::new(member.topology().clone());
        let story = Story { since_ms: now_ms, reason: String::new() };
        let stories = Mutex::new(vec![story; topology.all().len()]);
        Self { peers: Peers::new(topology, member.place(), rules, boot, now_ms), stories }
    }

    /// A request to a node, or a connection to it, has failed.
    pub(crate) fn failed(&self, place: Place, fault: Fault, reason: &str, now_ms: u64) {
        reason.clone_into(&mut self.stories()[place.index()].reason);
        self.peers.failed(place, fault, now_ms);
    }

    /// What is due; each change of a node's condition is told in the log.
    pub(crate) fn tick(&self, now_ms: u64, random: u64) -> Tick {
        let tick = self.peers.tick(now_ms, random);
        for change in &tick.changes {
            self.tell(change, now_ms);
        }
        tick
    }

    /// What operators are shown of a node.
    pub(crate) fn view(&self, place: Place) -> (PeerView, Story) {
        let (view, mut story) = (self.peers.view(place), self.stories()[place.index()].clone());
        if matches!(view.condition, Condition::Well) {
            story.reason.clear();
        }
        (view, story)
    }

    fn tell(&self, change: &Change, now_ms: u64) {
        let mut stories = self.stories();
        let story = &mut stories[change.place.index()];
        let before_ms = now_ms.saturating_sub(std::mem::replace(&mut story.since_ms, now_ms));
        match change.to {
            Condition::Well => story.reason.clear(),
            // No request has told: it was asked by pings alone.
            _ if story.reason.is_empty() => SILENT.clone_into(&mut story.reason),
            _ => {}
        }
        let node = self.peers.topology().all()[change.place.index()].name();
        let (is, was, reason) = (name_of(change.to), name_of(change.from), &story.reason);
        match change.to {
            Condition::Out { .. } => tracing::warn!(node, is, was, before_ms, reason, "another node is out"),
            Condition::Suspect { .. } => tracing::info!(node, is, was, before_ms, reason, "another node has failed"),
            Condition::Ramp { .. } => tracing::info!(node, is, was, before_ms, "another node has returned"),
            Condition::Well => tracing::info!(node, is, was, before_ms, "another node is well again"),
        }
    }

    fn stories(&self) -> MutexGuard<'_, Vec<Story>> {
        // What a thread that panicked has left is as good as any other text.
        self.stories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word for a condition.
pub(crate) fn name_of(condition: Condition) -> &'static str {
    match condition {
        Condition::Well => "well",
        Condition::Suspect { .. } => "suspect",
        Condition::Out { .. } => "out",
        Condition::Ramp { .. } => "ramp",
    }
}
