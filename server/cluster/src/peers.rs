//! What a node knows of all others, and they of it: shared by all of its threads.
//!
//! While all is well a request costs a load or two of what hardly ever changes: the count of nodes in trouble and, if its key is this node's, the time up
//! to which this node is proven. What changes, changes under one lock, which is taken by pings, failures and whatever is in trouble.
//!
//! ```text
//!  tick ─► pings ─► (links) ─► answer ─► pong ─► (links) ─► removals applied ─► hear
//!                              │ drops what the asker has applied               │ health, proof, fence
//!                              └ vouches if nothing is left                     └ conditions published
//!  requests: route ─► answered | failed ─► instead        writes, deletes in trouble: errand.rs
//! ```
//!
//! Nothing here reads a clock or sends: times and random numbers come in, pings and answers go out. Times are those of one clock of this node that goes
//! on while the process is stopped. A request's time must be read after its bytes were: one that came while the process was stopped must not be answered
//! by the time before.

use crate::budget::Budget;
use crate::fence::{Fence, Word};
use crate::health::{Condition, Fault, Health};
use crate::partition::{Kept, majority};
use crate::ramp::{Ramp, WHOLE};
use crate::remembered::{Applied, Bounds, Delivery, Remembered, Removal};
use crate::rules::{Minority, Rule, Rules, StandIns, TURN_SLACK_MS};
use crate::topology::{Place, Topology};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Asks another node whether it is there, and for what it remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Comes back with the answer.
    pub number: u64,
    /// What the asker has applied of the other's log.
    pub applied: Option<Applied>,
}

/// The answer to a [`Ping`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Of the ping.
    pub number: u64,
    /// What the asker must forget.
    pub delivery: Delivery,
    /// See `fence.rs`.
    pub vouches: bool,
}

/// A node's condition is another one, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which node.
    pub place: Place,
    /// Before.
    pub from: Condition,
    /// By now.
    pub to: Condition,
}

/// What is due.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// To be sent.
    pub pings: Vec<(Place, Ping)>,
    /// Since the last tick.
    pub changes: Vec<Change>,
    /// This process stood still: what has had no answer in time by now says nothing about others, and is not to be given to [`Peers::failed`].
    pub was_stopped: bool,
}

/// Whether this node may answer for its own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Proven,
    /// Reads from memory, marked stale; no loads, writes or leases.
    StaleOnly,
    /// It may not.
    Refused,
}

/// What operators see of another node.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    /// See [`Condition`].
    pub condition: Condition,
    /// Whether it is out because it does not answer.
    pub is_dead: bool,
    /// In a row.
    pub failures: u32,
    /// Removals that wait for it.
    pub remembered: usize,
    /// The share of reads it gets, in thousandths.
    pub share: u32,
}

/// What a request reads of a node, without a lock.
#[derive(Debug)]
struct Published {
    /// See `POSTURES`. Stored last (release), loaded first (acquire): whoever sees it sees what goes with it.
    posture: AtomicU8,
    since_ms: AtomicU64,
    share: AtomicU32,
    /// When it last answered a request that may have changed something, as told by [`Peers::changed`].
    changed_ms: AtomicU64,
    /// Something is remembered for it.
    is_owed: AtomicBool,
}

/// [`Condition`] without its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posture {
    Well,
    Suspect,
    Out,
    Ramp,
}

const POSTURES: [Posture; 4] = [Posture::Well, Posture::Suspect, Posture::Out, Posture::Ramp];

/// What is changed under the lock.
#[derive(Debug)]
struct Books {
    fence: Fence,
    peers: Vec<Peer>,
    changes: Vec<Change>,
    last_tick_ms: u64,
}

#[derive(Debug)]
struct Peer {
    /// Only a node that owns slots has anything to ramp up.
    is_main: bool,
    health: Health,
    ramp: Ramp,
    /// What it must forget.
    log: Remembered,
    /// It may rely on this node's word up to here.
    held_until_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Peers {
    pub(crate) topology: Arc<Topology>,
    pub(crate) own: Place,
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    /// This node vouches for nobody before.
    silent_until_ms: u64,
    published: Vec<Published>,
    /// How many are not well.
    troubled: AtomicU32,
    proven_until_ms: AtomicU64,
    fence_ms: AtomicU64,
    books: Mutex<Books>,
}

impl Peers {
    /// Of a node that has started. `boot` tells this start from all others of all nodes; a random number does.
    #[must_use]
    pub fn new(topology: Arc<Topology>, own: Place, rules: Rules, boot: u64, now_ms: u64) -> Self {
        let nodes = topology.all().len();
        let is_alone = rules.stand_ins == StandIns::None;
        // Without stand-ins no delete is answered that the owner has not applied, so there is nothing to prove.
        let needed = if is_alone { 0 } else { majority(topology.nodes().len()) - usize::from(topology.is_main(own)) };
        let fence = Fence::new(nodes, needed);
        let silent_ms = if rules.has(Rule::BootSilence) { rules.boot_silence_ms() } else { 0 };
        let peer = |place: Place| Peer {
            is_main: topology.is_main(place),
            health: Health::new(boot, now_ms, &rules),
            ramp: Ramp::new(&rules),
            log: Remembered::new(boot),
            // The process before this one may have vouched just now.
            held_until_ms: now_ms + rules.vouch_held_ms(),
        };
        let published = || Published {
            posture: AtomicU8::new(Posture::Well as u8),
            since_ms: AtomicU64::new(0),
            share: AtomicU32::new(WHOLE),
            changed_ms: AtomicU64::new(0),
            is_owed: AtomicBool::new(false),
        };
        Self {
            own,
            budget: Budget::new(&rules),
            silent_until_ms: now_ms + silent_ms,
            published: (0..nodes).map(|_| published()).collect(),
            troubled: AtomicU32::new(0),
            proven_until_ms: AtomicU64::new(fence.proven_until_ms()),
            fence_ms: AtomicU64::new(0),
            books: Mutex::new(Books {
                fence,
                peers: topology.places().map(peer).collect(),
                changes: Vec::new(),
                last_tick_ms: now_ms,
            }),
            topology,
            rules,
        }
    }

    /// All nodes.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> Place {
        self.own
    }

    /// By which it goes.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether no node is in trouble.
    #[must_use]
    pub fn are_well(&self) -> bool {
        // Relaxed: whoever is told a moment late asks the node itself, and finds out.
        self.troubled.load(Ordering::Relaxed) == 0
    }

    /// Whether this node may answer for its own keys.
    #[must_use]
    pub fn standing(&self, now_ms: u64) -> Standing {
        // Acquire, with the release in `publish_fence`: who sees a proof sees the fence that came before it.
        if now_ms < self.proven_until_ms.load(Ordering::Acquire) || !self.rules.has(Rule::Proof) {
            Standing::Proven
        } else if self.rules.minority == Minority::Refuse {
            Standing::Refused
        } else if self.rules.has(Rule::MarkStale) {
            Standing::StaleOnly
        } else {
            Standing::Proven
        }
    }

    /// Entries and tokens of this node that were born up to here are stale; 0: none is. An entry is born when the token for its load was given, or when
    /// it was written. To be read after [`Peers::standing`].
    #[must_use]
    pub fn fence_ms(&self) -> u64 {
        // Relaxed: `standing` was an acquire.
        self.fence_ms.load(Ordering::Relaxed)
    }

    /// What an operator is shown of a node.
    #[must_use]
    pub fn view(&self, place: Place) -> PeerView {
        let books = self.lock();
        let peer = &books.peers[place.index()];
        PeerView {
            condition: peer.health.condition(),
            is_dead: peer.health.is_dead(),
            failures: peer.health.failures(),
            remembered: peer.log.len(),
            share: self.published[place.index()].share.load(Ordering::Relaxed),
        }
    }

    /// Notes that a request was answered. One load while the node is well.
    pub fn answered(&self, place: Place) {
        if self.posture(place) == Posture::Suspect {
            self.change(place, |peer| peer.health.answered());
        }
    }

    /// Notes that a node answered a read, with a value or without. One load while the node is well.
    pub fn answered_read(&self, place: Place, is_hit: bool, now_ms: u64) {
        match self.posture(place) {
            Posture::Well | Posture::Out => {}
            Posture::Suspect => self.answered(place),
            Posture::Ramp => self.change(place, |peer| {
                peer.ramp.note(is_hit, &self.rules);
                peer.end_ramp(now_ms, &self.rules);
            }),
        }
    }

    /// Counts a request for which [`Peers::route`] is not asked, as it goes to its owner: stand-ins get a share of all.
    pub fn count(&self) {
        self.budget.deposit(&self.rules);
    }

    /// Whether a node is out: it is not asked.
    #[must_use]
    pub fn is_out(&self, place: Place) -> bool {
        self.posture(place) == Posture::Out
    }

    /// Whether a node is well as far as this one knows: it has answered since it last failed.
    #[must_use]
    pub fn is_well(&self, place: Place) -> bool {
        self.posture(place) == Posture::Well
    }

    /// Notes that a node answered a request that may have changed entries, and stand-ins were not told. One load while no node is in trouble.
    pub fn changed(&self, place: Place, now_ms: u64) {
        if !self.are_well() {
            // Release, with the acquire in `route.rs`: who is answered after this finds nothing older.
            self.published[place.index()].changed_ms.fetch_max(now_ms + TURN_SLACK_MS, Ordering::Release);
        }
    }

    /// From when on what a stand-in has loaded of a node's keys is as new as what this one has seen of them. To be read after its posture.
    pub(crate) fn good_since_ms(&self, place: Place) -> u64 {
        let published = &self.published[place.index()];
        published.since_ms.load(Ordering::Relaxed).max(published.changed_ms.load(Ordering::Acquire))
    }

    /// Notes that a node answered that it may not answer for its keys now.
    pub fn turned_away(&self, place: Place, now_ms: u64) {
        self.change(place, |peer| peer.health.suspect(now_ms));
    }

    /// Notes that a request failed. One to this node itself, as its own stand-in, says nothing of others, and nobody would ever take that back.
    pub fn failed(&self, place: Place, fault: Fault, now_ms: u64) {
        if place == self.own {
            return;
        }
        let mut books = self.lock();
        self.fail(&mut books, place, fault, now_ms);
    }

    /// Remembers what a node must forget and could not be told, and says under which number. Until it has that it stands in for nobody; whether it may answer
    /// for its own keys is for its proof to say.
    pub fn remember(&self, place: Place, removal: Removal) -> u64 {
        let bounds = Bounds { removals_max: self.rules.remembered_max, bytes_max: self.rules.remembered_bytes_max };
        let mut number = 0;
        self.change(place, |peer| {
            number = peer.log.add(removal, bounds);
            if peer.log.is_broken() && !self.rules.has(Rule::Overflow) {
                peer.log.lose();
            }
        });
        number
    }

    /// What has become of something remembered for a node under this number.
    #[must_use]
    pub fn kept(&self, place: Place, number: u64, now_ms: u64) -> Kept {
        let books = self.lock();
        let peer = &books.peers[place.index()];
        if peer.log.has_applied(number) {
            Kept::Delivered
        } else if peer.held_until_ms <= now_ms || !self.rules.has(Rule::WitnessesWait) {
            Kept::Held
        } else {
            Kept::Waiting { until_ms: peer.held_until_ms }
        }
    }

    /// What is due. To be called several times in `ping_every_ms`, after what has come from other nodes was dealt with.
    pub fn tick(&self, now_ms: u64, random: u64) -> Tick {
        let mut books = self.lock();
        let was_stopped = now_ms.saturating_sub(books.last_tick_ms) > self.rules.peer_timeout_ms / 4;
        books.last_tick_ms = now_ms;
        books.fence.count(now_ms, &self.rules);
        let mut pings = Vec::new();
        for place in self.topology.places().filter(|place| *place != self.own) {
            if was_stopped {
                books.peers[place.index()].health.forget_pings(now_ms);
            } else if books.peers[place.index()].health.take_overdue(now_ms, &self.rules) {
                self.fail(&mut books, place, Fault::Silent, now_ms);
            }
            let before = books.peers[place.index()].health.condition();
            let applied = books.fence.applied(place.index());
            let peer = &mut books.peers[place.index()];
            peer.try_return(now_ms, &self.rules);
            let random = crate::hash::of_pair(random, place.index() as u64);
            if let Some(number) = peer.health.ping_due(now_ms, random, &self.rules) {
                pings.push((place, Ping { number, applied }));
            }
            self.publish(&mut books, place, before);
        }
        self.publish_fence(&books);
        Tick { pings, changes: std::mem::take(&mut books.changes), was_stopped }
    }

    /// The answer to a ping.
    pub fn answer(&self, from: Place, ping: &Ping, now_ms: u64) -> Pong {
        let mut books = self.lock();
        let peer = &mut books.peers[from.index()];
        let before = peer.health.condition();
        peer.health.heard_from(now_ms);
        if let Some(applied) = ping.applied {
            peer.log.applied(applied);
        }
        let delivery = peer.log.delivery(self.rules.delivery_max);
        let tells_all = delivery.is_whole || !self.rules.has(Rule::TellAll);
        let vouches = tells_all && self.silent_until_ms <= now_ms;
        if vouches {
            peer.held_until_ms = now_ms + self.rules.vouch_held_ms();
        }
        peer.try_return(now_ms, &self.rules);
        let pong = Pong { number: ping.number, delivery, vouches };
        self.publish(&mut books, from, before);
        pong
    }

    /// What is to be applied before [`Peers::hear`]: nothing of what has been.
    #[must_use]
    pub fn to_apply<'a>(&self, from: Place, pong: &'a Pong) -> &'a [Removal] {
        let applied = self.lock().fence.applied(from.index());
        let is_told = applied
            .is_some_and(|applied| applied.lineage == pong.delivery.lineage && applied.number >= pong.delivery.up_to);
        if is_told { &[] } else { &pong.delivery.removals }
    }

    /// Takes the answer to a ping; what it says must be forgotten has been.
    pub fn hear(&self, from: Place, pong: &Pong, now_ms: u64) {
        let mut books = self.lock();
        let peer = &mut books.peers[from.index()];
        let before = peer.health.condition();
        let Some(sent_ms) = peer.health.ponged(pong.number) else { return };
        if !pong.delivery.removals.is_empty() {
            // Says at once what has been applied, and asks for what is left.
            peer.health.hurry(now_ms);
        }
        peer.try_return(now_ms, &self.rules);
        let Delivery { lineage, is_broken, up_to, .. } = pong.delivery;
        let word = Word { lineage, up_to, is_broken, vouches: pong.vouches };
        books.fence.hear(from.index(), word, sent_ms, self.topology.is_main(from), now_ms, &self.rules);
        self.publish_fence(&books);
        self.publish(&mut books, from, before);
    }

    /// Whether the node at this place may be asked.
    pub(crate) fn posture(&self, place: Place) -> Posture {
        POSTURES[usize::from(self.published[place.index()].posture.load(Ordering::Acquire))]
    }

    /// Whether something is remembered for it.
    pub(crate) fn is_owed(&self, place: Place) -> bool {
        self.published[place.index()].is_owed.load(Ordering::Acquire)
    }

    /// Which share of reads it gets, in thousandths. To be read after its posture.
    pub(crate) fn share(&self, place: Place) -> u32 {
        self.published[place.index()].share.load(Ordering::Relaxed)
    }

    fn fail(&self, books: &mut Books, place: Place, fault: Fault, now_ms: u64) {
        let mains = self.topology.nodes().len();
        let others = mains - usize::from(self.topology.is_main(self.own));
        let is_dead = |other: &Place| {
            *other != place && self.topology.is_main(*other) && books.peers[other.index()].health.is_dead()
        };
        let dead = self.topology.places().filter(is_dead).count();
        let dead_max = (others * self.rules.out_share as usize / 1_000).max(1);
        let may_go = !self.topology.is_main(place) || dead < dead_max || !self.rules.has(Rule::Guard);
        let peer = &mut books.peers[place.index()];
        let before = peer.health.condition();
        // Nobody listens: it is known at once that the next one will fail, too.
        let times = if fault == Fault::Refused { self.rules.failures_max } else { 1 };
        (0..times).for_each(|_| peer.health.failed(now_ms, may_go, &self.rules));
        self.publish(books, place, before);
    }

    fn change(&self, place: Place, change: impl FnOnce(&mut Peer)) {
        let mut books = self.lock();
        let before = books.peers[place.index()].health.condition();
        change(&mut books.peers[place.index()]);
        self.publish(&mut books, place, before);
    }

    /// Shows threads what has become of a node.
    fn publish(&self, books: &mut Books, place: Place, before: Condition) {
        let peer = &mut books.peers[place.index()];
        let condition = peer.health.condition();
        let (posture, share) = match condition {
            Condition::Well => (Posture::Well, WHOLE),
            Condition::Suspect { .. } => (Posture::Suspect, WHOLE),
            Condition::Out { .. } => (Posture::Out, 0),
            Condition::Ramp { .. } => (Posture::Ramp, peer.ramp.share()),
        };
        let published = &self.published[place.index()];
        published.share.store(share, Ordering::Relaxed);
        // Release, with the acquire in `is_owed`.
        published.is_owed.store(!peer.log.is_delivered(), Ordering::Release);
        // It is left as it was when the node is well again: whoever still sees it in trouble must not take the time for an earlier one.
        if let Some(since_ms) = condition.since_ms() {
            published.since_ms.store(since_ms, Ordering::Relaxed);
        }
        // Release, with the acquire in `posture`.
        let last = published.posture.swap(posture as u8, Ordering::Release);
        match (last == Posture::Well as u8, posture == Posture::Well) {
            (true, false) => _ = self.troubled.fetch_add(1, Ordering::Relaxed),
            (false, true) => _ = self.troubled.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        if std::mem::discriminant(&before) != std::mem::discriminant(&condition) {
            books.changes.push(Change { place, from: before, to: condition });
        }
    }

    fn publish_fence(&self, books: &Books) {
        self.fence_ms.store(books.fence.fence_ms(), Ordering::Relaxed);
        // Release, with the acquire in `standing`.
        self.proven_until_ms.store(books.fence.proven_until_ms(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // What a thread that panicked has left is as good as any other state: each change is one of a whole value.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn try_return(&mut self, now_ms: u64, rules: &Rules) {
        if self.health.try_return(now_ms) {
            self.ramp = Ramp::new(rules);
        }
        self.end_ramp(now_ms, rules);
    }

    fn end_ramp(&mut self, now_ms: u64, rules: &Rules) {
        if let Condition::Ramp { returned_ms, .. } = self.health.condition()
            && (!self.is_main || self.ramp.is_over(now_ms.saturating_sub(returned_ms), rules))
        {
            self.health.is_warm();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remembered::{Target, Way};
    use crate::testing::Cluster;

    fn removal(key: &str) -> Removal {
        Removal { target: Target::Key(key.as_bytes().into()), way: Way::Hard }
    }

    fn conditions(cluster: &Cluster, node: usize) -> Vec<Condition> {
        let others = cluster.nodes[node].topology().places().filter(|place| place.index() != node);
        others.map(|place| cluster.nodes[node].view(place).condition).collect()
    }

    #[test]
    fn a_node_puts_others_out_and_never_itself() {
        let cluster = Cluster::new(3, 0, &Rules::default());
        let node = &cluster.nodes[0];
        node.failed(cluster.place(0), Fault::Refused, cluster.now_ms);
        assert!(node.are_well() && !node.is_out(cluster.place(0)));
        node.failed(cluster.place(1), Fault::Refused, cluster.now_ms);
        assert!(!node.are_well() && node.is_out(cluster.place(1)));
    }

    #[test]
    fn what_is_remembered_is_told_and_then_forgotten() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        let two = cluster.place(2);
        let number = cluster.nodes[0].remember(two, removal("a"));
        assert!(cluster.nodes[0].is_owed(two) && cluster.nodes[0].are_well(), "its own keys are its own matter");
        assert!(matches!(cluster.nodes[0].kept(two, number, cluster.now_ms), Kept::Waiting { .. }));
        let Tick { pings, .. } = cluster.nodes[2].tick(cluster.now_ms + 200, 0);
        let (_, ping) = pings.iter().find(|(to, _)| *to == cluster.place(0)).expect("all are pinged");
        let pong = cluster.nodes[0].answer(two, ping, cluster.now_ms + 200);
        assert_eq!(cluster.nodes[2].to_apply(cluster.place(0), &pong), [removal("a")]);
        cluster.nodes[2].hear(cluster.place(0), &pong, cluster.now_ms + 200);
        assert!(cluster.nodes[2].to_apply(cluster.place(0), &pong).is_empty(), "once");
        assert_eq!(cluster.nodes[0].view(two).remembered, 1, "it is not known that the answer came there");
        cluster.go_on(400, &[]);
        assert_eq!(cluster.nodes[0].kept(two, number, cluster.now_ms), Kept::Delivered);
        assert_eq!(cluster.nodes[0].view(two).remembered, 0);
        assert!(!cluster.nodes[0].is_owed(two));
    }

    #[test]
    fn an_old_word_is_over_before_a_delete_is_confirmed() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        let two = cluster.place(2);
        let number = cluster.nodes[0].remember(two, removal("a"));
        let Kept::Waiting { until_ms } = cluster.nodes[0].kept(two, number, cluster.now_ms) else {
            panic!("it vouched")
        };
        cluster.go_on(until_ms - cluster.now_ms, &[2]);
        assert_eq!(cluster.nodes[0].kept(two, number, cluster.now_ms), Kept::Held);
        assert_ne!(cluster.nodes[2].standing(cluster.now_ms), Standing::Proven, "nobody vouches for it any more");
    }

    #[test]
    fn a_node_that_has_started_confirms_and_vouches_for_nothing_at_first() {
        let cluster = Cluster::new(3, 1, &Rules::default());
        let new = Peers::new(cluster.nodes[0].topology.clone(), cluster.place(0), Rules::default(), 2, cluster.now_ms);
        let number = new.remember(cluster.place(2), removal("a"));
        assert!(
            matches!(new.kept(cluster.place(2), number, cluster.now_ms), Kept::Waiting { .. }),
            "the last process vouched"
        );
        let ping = Ping { number: 1, applied: None };
        let quiet_ms = Rules::default().boot_silence_ms();
        assert!(!new.answer(cluster.place(1), &ping, cluster.now_ms + quiet_ms - 1).vouches);
        assert!(new.answer(cluster.place(1), &ping, cluster.now_ms + quiet_ms).vouches);
        assert_eq!(new.standing(cluster.now_ms), Standing::Refused);
    }

    #[test]
    fn a_node_that_was_stopped_blames_nobody() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        cluster.now_ms += 60_000;
        let Tick { pings, changes, was_stopped } = cluster.nodes[0].tick(cluster.now_ms, 0);
        assert!(was_stopped);
        assert_eq!(pings.len(), 3, "all are asked at once");
        assert!(changes.is_empty() && conditions(&cluster, 0).iter().all(|condition| *condition == Condition::Well));
        assert_eq!(cluster.nodes[0].standing(cluster.now_ms), Standing::Refused);
    }

    #[test]
    fn one_that_sees_all_others_die_believes_it_of_half_of_them() {
        let mut cluster = Cluster::new(5, 1, &Rules::default());
        cluster.go_on(10_000, &[0]);
        let dead = |node: usize| {
            let places = cluster.nodes[node].topology().places();
            places.filter(|place| cluster.nodes[node].view(*place).is_dead).count()
        };
        assert_eq!(dead(0), 3, "two of the four others, and the spare node");
        assert_eq!(dead(1), 1);
        cluster.go_on(2_000, &[]);
        assert!((0..6).all(|node| conditions(&cluster, node).iter().all(|condition| !condition.is_out())));
    }

    #[test]
    fn a_spare_node_that_has_returned_needs_no_ramp() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        for place in [cluster.place(2), cluster.place(3)] {
            cluster.nodes[0].failed(place, Fault::Refused, cluster.now_ms);
        }
        cluster.go_on(200, &[]);
        let [_, main, spare] = conditions(&cluster, 0)[..] else { panic!("there are three others") };
        assert!(matches!(main, Condition::Ramp { .. }) && spare == Condition::Well);
    }

    #[test]
    fn changes_are_told_once() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        let one = cluster.place(1);
        cluster.nodes[0].failed(one, Fault::Refused, cluster.now_ms);
        cluster.nodes[0].failed(one, Fault::Refused, cluster.now_ms);
        let changes = cluster.nodes[0].tick(cluster.now_ms, 0).changes;
        assert_eq!(changes.len(), 1);
        assert!(changes[0].from == Condition::Well && changes[0].to.is_out() && changes[0].place == one);
        cluster.now_ms += 1;
        assert!(cluster.nodes[0].tick(cluster.now_ms, 0).changes.is_empty());
    }
}
