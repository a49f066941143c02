//! A write, an update or a delete of a key whose owner is in trouble: who is told, and when the client may be answered.
//!
//! ```text
//!   new ─► the owner is asked ──────────────► it answers ─────────────────────────► stand-ins have removed it ─► Done
//!          stand-ins remove it                it fails                              (or it is remembered for them)
//!                                               │
//!   instead, or the owner is out ◄──────────────┘
//!      ├─ it is remembered for the owner, here and by all others of the main pool
//!      ├─ stand-ins remove it; of a write, the first takes the value, with its TTL cut
//!      └─ a majority has it and vouches no more, or the owner has it (`Witnesses`) ─► Done
//!                                                                no majority in time ─► Refused
//! ```
//!
//! A write that a stand-in takes is a delete for the owner: what the owner has is older. One that is refused because no majority has it in time may have
//! come into effect, and is remembered all the same. An update is asked of the owner or refused.

use crate::partition::{Kept, Witnesses};
use crate::peers::{Peers, Posture, Standing};
use crate::remembered::{Removal, Target};
use crate::route::{Kind, PlaceSet, Refusal, StandIn};
use crate::rules::{Rule, StandIns};
use crate::topology::Place;

/// What is to be sent, or done here if the place is this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The request, to the owner.
    Ask(Place),
    /// A write, to a stand-in.
    Store(StandIn),
    /// The removal, to a stand-in.
    Remove(Place),
    /// The removal, to be remembered for the owner ([`Peers::remember`]); the answer is what [`Peers::kept`] says there, once it is not
    /// [`Kept::Waiting`].
    Keep(Place),
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Open,
    /// It is done.
    Done,
    /// It is not.
    Refused(Refusal),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Errand {
    owner: Place,
    kind: Kind,
    removal: Removal,
    /// The owner has answered.
    is_applied: bool,
    /// Stand-ins that are to answer.
    removing: PlaceSet,
    /// Stand-ins that have been told, or for which it is remembered.
    told: PlaceSet,
    storing: Option<Place>,
    is_stored: bool,
    keeping: Option<Keeping>,
    refusal: Option<Refusal>,
}

#[derive(Clone, Debug)]
struct Keeping {
    /// In this node's log.
    number: u64,
    witnesses: Witnesses,
    until_ms: u64,
}

impl Errand {
    /// Of a request whose route is [`crate::Route::Errand`], or of the part of one node in what is removed everywhere: of a tag, a prefix, or everything. The
    /// removal is what forgets what the request changes.
    #[must_use]
    pub fn new(peers: &Peers, owner: Place, kind: Kind, removal: Removal, now_ms: u64) -> (Self, Vec<Call>) {
        let mut errand = Self::empty(owner, kind, removal);
        let posture = if owner == peers.own { Posture::Well } else { peers.posture(owner) };
        let calls = match posture {
            Posture::Out => errand.go_round(peers, now_ms),
            Posture::Well => vec![Call::Ask(owner)],
            Posture::Suspect | Posture::Ramp => {
                let mut calls = vec![Call::Ask(owner)];
                errand.remove_at_stand_ins(peers, &mut calls);
                calls
            }
        };
        (errand, calls)
    }

    /// Of a request that was sent to the owner alone, and failed; that has been noted ([`Peers::failed`], [`Peers::turned_away`]).
    #[must_use]
    pub fn instead(peers: &Peers, owner: Place, kind: Kind, removal: Removal, now_ms: u64) -> (Self, Vec<Call>) {
        let mut errand = Self::empty(owner, kind, removal);
        let calls = errand.go_round(peers, now_ms);
        (errand, calls)
    }

    fn empty(owner: Place, kind: Kind, removal: Removal) -> Self {
        Self {
            owner,
            kind,
            removal,
            is_applied: false,
            removing: PlaceSet::default(),
            told: PlaceSet::default(),
            storing: None,
            is_stored: false,
            keeping: None,
            refusal: None,
        }
    }

    /// The owner has done it.
    pub fn owner_answered(&mut self) {
        self.is_applied = true;
    }

    /// The owner has failed, or may not answer for its keys; that has been noted ([`Peers::failed`], [`Peers::turned_away`]).
    #[must_use]
    pub fn owner_failed(&mut self, peers: &Peers, now_ms: u64) -> Vec<Call> {
        self.go_round(peers, now_ms)
    }

    /// A stand-in has removed it, or stored it.
    pub fn stand_in_answered(&mut self, place: Place) {
        self.removing.remove(place);
        if self.storing == Some(place) {
            self.storing = None;
            self.is_stored = true;
        }
    }

    /// A stand-in has failed; that has been noted.
    pub fn stand_in_failed(&mut self, peers: &Peers, place: Place) {
        // It may have done it, or do so yet; but whoever reads there next must not find out.
        self.remember_for(peers, place);
        self.removing.remove(place);
        if self.storing == Some(place) {
            self.storing = None;
            self.refusal = Some(Refusal::NoStandIn);
        }
    }

    /// A node of the main pool has answered to [`Call::Keep`].
    pub fn kept(&mut self, place: Place, kept: Kept) {
        if let Some(keeping) = &mut self.keeping {
            keeping.witnesses.note(place, kept);
        }
    }

    /// What the client may be told now. To be asked after each answer, and again from time to time: this node itself is a witness that may have to wait.
    #[must_use]
    pub fn verdict(&mut self, peers: &Peers, now_ms: u64) -> Verdict {
        if let Some(refusal) = self.refusal {
            return Verdict::Refused(refusal);
        }
        if !self.removing.is_empty() || self.storing.is_some() {
            return Verdict::Open;
        }
        if self.is_applied {
            return Verdict::Done;
        }
        let Some(keeping) = &mut self.keeping else { return Verdict::Open };
        if peers.topology.is_main(peers.own) {
            keeping.witnesses.note(peers.own, peers.kept(self.owner, keeping.number, now_ms));
        }
        let is_kept = keeping.witnesses.suffice() || !peers.rules.has(Rule::Witnesses);
        if now_ms >= keeping.until_ms {
            // Who has started since may vouch again without knowing of it.
            Verdict::Refused(Refusal::NoMajority)
        } else if is_kept && (self.kind != Kind::Write || self.is_stored) {
            Verdict::Done
        } else {
            Verdict::Open
        }
    }

    /// Does without the owner.
    fn go_round(&mut self, peers: &Peers, now_ms: u64) -> Vec<Call> {
        if let Some(refusal) = self.refused(peers, now_ms) {
            self.refusal = Some(refusal);
            return Vec::new();
        }
        let is_remembered = match self.kind {
            Kind::Write => peers.rules.has(Rule::RememberWrites),
            _ => peers.rules.has(Rule::RememberDeletes),
        };
        let number = if is_remembered { peers.remember(self.owner, self.removal.clone()) } else { 0 };
        let mut calls = Vec::new();
        if self.kind == Kind::Write {
            self.store(peers, now_ms, &mut calls);
        }
        self.remove_at_stand_ins(peers, &mut calls);
        if is_remembered {
            let is_witness =
                |place: &Place| peers.topology.is_main(*place) && *place != peers.own && *place != self.owner;
            calls.extend(peers.topology.places().filter(is_witness).map(Call::Keep));
        }
        let witnesses = Witnesses::new(peers.topology.nodes().len());
        self.keeping = Some(Keeping { number, witnesses, until_ms: now_ms + peers.rules.peer_timeout_ms });
        calls
    }

    fn refused(&self, peers: &Peers, now_ms: u64) -> Option<Refusal> {
        if peers.rules.stand_ins == StandIns::None {
            return Some(Refusal::OwnerAway);
        }
        if peers.standing(now_ms) != Standing::Proven && peers.rules.has(Rule::MajorityForFailover) {
            return Some(Refusal::Minority);
        }
        if self.kind == Kind::Update {
            return Some(Refusal::NeedsOwner);
        }
        (self.kind == Kind::Write && !peers.take_failover()).then_some(Refusal::TooManyFailovers)
    }

    fn store(&mut self, peers: &Peers, now_ms: u64, calls: &mut Vec<Call>) {
        // One that removes it already might do so after it has stored it.
        let is_free = |place: &Place| peers.may_stand_in(*place) && !self.removing.contains(*place);
        match self.stand_ins(peers).into_iter().find(is_free) {
            Some(place) => {
                self.storing = Some(place);
                self.told.insert(place);
                calls.push(Call::Store(peers.stand_in(self.owner, place, now_ms)));
            }
            None => self.refusal = Some(Refusal::NoStandIn),
        }
    }

    fn remove_at_stand_ins(&mut self, peers: &Peers, calls: &mut Vec<Call>) {
        if !peers.rules.has(Rule::DeleteAtStandIns) {
            return;
        }
        for place in self.stand_ins(peers) {
            if !self.told.insert(place) {
                continue;
            }
            if peers.may_stand_in(place) {
                self.removing.insert(place);
                calls.push(Call::Remove(place));
            } else {
                self.remember_for(peers, place);
            }
        }
    }

    /// All who may hold what is removed, in order.
    fn stand_ins(&self, peers: &Peers) -> Vec<Place> {
        match &self.removal.target {
            Target::Key(key) => peers.ranks(self.owner, key).iter().collect(),
            Target::Tag(_) | Target::Prefix(_) | Target::Everything => peers.all_stand_ins(self.owner).collect(),
        }
    }

    fn remember_for(&self, peers: &Peers, stand_in: Place) {
        if stand_in != peers.own {
            peers.remember(stand_in, self.removal.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Fault;
    use crate::remembered::Way;
    use crate::rules::Rules;
    use crate::testing::Cluster;

    fn removal(key: &[u8]) -> Removal {
        Removal { target: Target::Key(key.into()), way: Way::Hard }
    }

    /// At node 0, of a key of node 2, which nobody reaches.
    fn begun(kind: Kind) -> (Cluster, Errand, Vec<Call>) {
        let mut cluster = Cluster::new(3, 2, &Rules::default());
        cluster.nodes[0].failed(cluster.place(2), Fault::Refused, cluster.now_ms);
        cluster.go_on(2_000, &[2]);
        let key = cluster.key_of(2);
        let (errand, calls) = Errand::new(&cluster.nodes[0], cluster.place(2), kind, removal(&key), cluster.now_ms);
        (cluster, errand, calls)
    }

    fn verdict(cluster: &Cluster, errand: &mut Errand) -> Verdict {
        errand.verdict(&cluster.nodes[0], cluster.now_ms)
    }

    #[test]
    fn a_delete_is_done_once_a_majority_has_it_and_stand_ins_have_heard() {
        let (cluster, mut errand, calls) = begun(Kind::Delete);
        let [one, gutter, other] = [1, 3, 4].map(|number| cluster.place(number));
        let expected = [Call::Remove(gutter), Call::Remove(other), Call::Keep(one)];
        assert!(calls.iter().all(|call| expected.contains(call)) && calls.len() == 3, "{calls:?}");
        assert_eq!(cluster.nodes[0].view(cluster.place(2)).remembered, 1);
        errand.stand_in_answered(gutter);
        errand.kept(one, Kept::Held);
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Open);
        errand.stand_in_failed(&cluster.nodes[0], other);
        assert_eq!(cluster.nodes[0].view(other).remembered, 1, "it is remembered for a stand-in, too");
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Done);
    }

    #[test]
    fn who_vouches_still_is_no_witness_yet() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        let key = cluster.key_of(2);
        cluster.nodes[0].failed(cluster.place(2), Fault::Timeout, cluster.now_ms);
        let (mut errand, calls) =
            Errand::instead(&cluster.nodes[0], cluster.place(2), Kind::Delete, removal(&key), cluster.now_ms);
        assert_eq!(calls.len(), 2);
        errand.stand_in_answered(cluster.place(3));
        errand.kept(cluster.place(1), Kept::Held);
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Open, "the owner may rely on this node");
        cluster.go_on(Rules::default().vouch_held_ms() + 50, &[2]);
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Done);
    }

    #[test]
    fn the_owner_may_hear_of_it_otherwise() {
        let (cluster, mut errand, _) = begun(Kind::Delete);
        [3, 4].into_iter().for_each(|number| errand.stand_in_answered(cluster.place(number)));
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Open);
        errand.kept(cluster.place(1), Kept::Delivered);
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Done);
    }

    #[test]
    fn without_a_majority_in_time_it_is_refused_and_remembered() {
        let (mut cluster, mut errand, _) = begun(Kind::Delete);
        [3, 4].into_iter().for_each(|number| errand.stand_in_answered(cluster.place(number)));
        cluster.go_on(Rules::default().peer_timeout_ms, &[2]);
        errand.kept(cluster.place(1), Kept::Held);
        assert_eq!(
            verdict(&cluster, &mut errand),
            Verdict::Refused(Refusal::NoMajority),
            "who has started since may vouch again"
        );
        assert_eq!(cluster.nodes[0].view(cluster.place(2)).remembered, 1);
    }

    #[test]
    fn a_write_is_taken_by_the_first_stand_in_with_its_ttl_cut() {
        let (cluster, mut errand, calls) = begun(Kind::Write);
        let stores: Vec<StandIn> = calls
            .iter()
            .filter_map(|call| if let Call::Store(stand_in) = call { Some(*stand_in) } else { None })
            .collect();
        assert_eq!(stores.len(), 1, "{calls:?}");
        assert_eq!(stores[0].ttl_max_ms, Rules::default().gutter_ttl_ms);
        assert!(!calls.contains(&Call::Remove(stores[0].place)));
        assert_eq!(cluster.nodes[0].view(cluster.place(2)).remembered, 1, "what the owner has is older");
        errand.kept(cluster.place(1), Kept::Held);
        let other = if stores[0].place == cluster.place(3) { 4 } else { 3 };
        errand.stand_in_answered(cluster.place(other));
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Open);
        let mut failing = errand.clone();
        errand.stand_in_answered(stores[0].place);
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Done);
        failing.stand_in_failed(&cluster.nodes[0], stores[0].place);
        assert_eq!(verdict(&cluster, &mut failing), Verdict::Refused(Refusal::NoStandIn));
        assert_eq!(cluster.nodes[0].view(stores[0].place).remembered, 1, "it may have been stored");
    }

    #[test]
    fn a_suspect_owner_is_asked_beside_its_stand_ins() {
        let cluster = Cluster::new(3, 1, &Rules::default());
        cluster.nodes[0].failed(cluster.place(2), Fault::Timeout, cluster.now_ms);
        let key = cluster.key_of(2);
        let (mut errand, calls) =
            Errand::new(&cluster.nodes[0], cluster.place(2), Kind::Write, removal(&key), cluster.now_ms);
        assert_eq!(calls, [Call::Ask(cluster.place(2)), Call::Remove(cluster.place(3))]);
        errand.owner_answered();
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Open);
        errand.stand_in_answered(cluster.place(3));
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Done);
        let (mut errand, _) =
            Errand::new(&cluster.nodes[0], cluster.place(2), Kind::Delete, removal(&key), cluster.now_ms);
        let calls = errand.owner_failed(&cluster.nodes[0], cluster.now_ms);
        assert_eq!(calls, [Call::Keep(cluster.place(1))], "stand-ins are told once");
    }

    #[test]
    fn what_is_of_no_key_is_told_to_all_stand_ins() {
        let (cluster, ..) = begun(Kind::Delete);
        let tag = Removal { target: Target::Tag(b"org:7"[..].into()), way: Way::Soft };
        let (_, calls) = Errand::new(&cluster.nodes[0], cluster.place(2), Kind::Delete, tag.clone(), cluster.now_ms);
        assert_eq!(
            calls,
            [Call::Remove(cluster.place(3)), Call::Remove(cluster.place(4)), Call::Keep(cluster.place(1))]
        );
        let (_, calls) = Errand::new(&cluster.nodes[0], cluster.place(1), Kind::Delete, tag, cluster.now_ms);
        assert_eq!(calls, [Call::Ask(cluster.place(1))]);
    }

    #[test]
    fn an_update_needs_its_owner() {
        let (cluster, mut errand, calls) = begun(Kind::Update);
        assert!(calls.is_empty());
        assert_eq!(verdict(&cluster, &mut errand), Verdict::Refused(Refusal::NeedsOwner));
    }
}
