//! Where a request goes: to the owner of its key, to a stand-in, or nowhere.
//!
//! | the owner is | reads | writes, deletes | updates | leases |
//! |---|---|---|---|---|
//! | well | owner | owner | owner | owner |
//! | suspect | owner | owner, and removed at stand-ins | as writes | owner |
//! | out | stand-in | an errand (`errand.rs`) | refused | refused; a fill is lost |
//! | returning | owner, or a stand-in, by its share | owner, and removed at stand-ins | as writes | owner |
//!
//! A stand-in is asked because of errors only, never because of a miss. What it answers was read from the source after this node began to send deletes
//! there, too: older entries, which another node may have had it load, are too old. So of what was deleted through a node, the same node never
//! shows anything older, whoever answers. Through another node, a stand-in's value may be older than a delete that the owner has applied, or that did not
//! reach this stand-in, by `gutter_ttl_ms` at most: one node can reach them, and the other cannot. An owner's values are never older.

use crate::peers::{Peers, Posture, Standing};
use crate::ramp::Ramp;
use crate::rendezvous::{Ranks, key_hash};
use crate::rules::{Rule, StandIns, shorter};
use crate::slot::Slot;
use crate::topology::Place;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It changes nothing, or loads.
    Read,
    /// It stores a value, whatever was there.
    Write,
    /// It changes what is there, as INCR and APPEND do. A stand-in does not have that.
    Update,
    /// It removes one, or makes it stale.
    Delete,
    /// It asks for a lease, ends or fills one.
    Lease,
}

/// A request, as far as its route is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Of its key.
    pub slot: Slot,
    /// For stand-ins; nothing is computed of it while all is well.
    pub key: &'a [u8],
    /// See [`Kind`].
    pub kind: Kind,
    /// When.
    pub now_ms: u64,
    /// Any number.
    pub random: u64,
}

/// A node that is asked for a key of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// Which; it may be this node itself.
    pub place: Place,
    /// Only entries are answered that were born less than so long before the request came there, or that it loads for this request or a later one.
    pub age_max_ms: u64,
    /// What is stored for it lives for so long at most, from when it is stored, whatever it says, and whatever touches it.
    pub ttl_max_ms: u64,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The key is this node's.
    Here,
    /// The key is this node's, which is not proven: from memory, as stale, without a load.
    HereStale,
    /// To the owner, alone. If that fails: [`Peers::instead`], or [`crate::Errand::instead`] for what changes something.
    Owner(Place),
    /// By [`crate::Errand::new`]: a write, an update or a delete of a key whose owner is in trouble.
    Errand,
    /// To a stand-in. If that fails: [`Peers::instead`] with those that were tried.
    StandIn(StandIn),
    /// Nowhere.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node sees no majority of the main pool.
    Minority,
    /// The owner does not answer, and nobody stands in for others.
    OwnerAway,
    /// Neither owner nor a stand-in answers.
    NoStandIn,
    /// Stand-ins get as many requests as they may.
    TooManyFailovers,
    /// The owner does not answer, and nobody else can do this: a lease stays with it (a fill is lost), and an update needs what it has.
    NeedsOwner,
    /// A delete is not remembered by a majority in time; it may have come into effect.
    NoMajority,
}

/// Nodes, by their places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceSet(u128);

impl PlaceSet {
    /// Adds one; whether it was not there.
    pub fn insert(&mut self, place: Place) -> bool {
        let before = self.0;
        self.0 |= 1 << place.index();
        self.0 != before
    }

    /// Takes one out; whether it was there.
    pub fn remove(&mut self, place: Place) -> bool {
        let before = self.0;
        self.0 &= !(1 << place.index());
        self.0 != before
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains(self, place: Place) -> bool {
        self.0 >> place.index() & 1 == 1
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Peers {
    /// See the module. A load or two while all is well.
    #[must_use]
    pub fn route(&self, ask: &Ask) -> Route {
        let owner = self.topology.owner_place(ask.slot);
        let is_well = self.are_well();
        if !is_well {
            self.budget.deposit(&self.rules);
        }
        if owner == self.own {
            return match self.standing(ask.now_ms) {
                Standing::Proven => Route::Here,
                Standing::StaleOnly if ask.kind == Kind::Read => Route::HereStale,
                Standing::StaleOnly | Standing::Refused => Route::Refuse(Refusal::Minority),
            };
        }
        if is_well { Route::Owner(owner) } else { self.route_around(owner, ask) }
    }

    #[cold]
    fn route_around(&self, owner: Place, ask: &Ask) -> Route {
        let has_stand_ins = self.rules.stand_ins != StandIns::None;
        match (self.posture(owner), ask.kind) {
            (Posture::Well, _) => Route::Owner(owner),
            (_, Kind::Write | Kind::Update | Kind::Delete) if has_stand_ins => Route::Errand,
            (Posture::Suspect, _) | (Posture::Ramp, Kind::Write | Kind::Update | Kind::Delete | Kind::Lease) => {
                Route::Owner(owner)
            }
            (Posture::Out, _) => self.instead(ask, PlaceSet::default()),
            (Posture::Ramp, Kind::Read) if Ramp::takes(self.share(owner), ask.random) => Route::Owner(owner),
            (Posture::Ramp, Kind::Read) => match self.instead(ask, PlaceSet::default()) {
                // The owner is there: better a miss than nothing.
                Route::Refuse(_) => Route::Owner(owner),
                route => route,
            },
        }
    }

    /// Where a read goes whose owner has failed, or answered that it may not answer for its keys, and after that the stand-ins `tried`. The failure has
    /// been noted ([`Peers::failed`], [`Peers::turned_away`]).
    #[must_use]
    pub fn instead(&self, ask: &Ask, tried: PlaceSet) -> Route {
        if self.rules.stand_ins == StandIns::None {
            return Route::Refuse(Refusal::OwnerAway);
        }
        if self.standing(ask.now_ms) != Standing::Proven && self.rules.has(Rule::MajorityForFailover) {
            return Route::Refuse(Refusal::Minority);
        }
        if ask.kind == Kind::Update || ask.kind == Kind::Lease && self.rules.has(Rule::LeasesStay) {
            return Route::Refuse(Refusal::NeedsOwner);
        }
        let owner = self.topology.owner_place(ask.slot);
        let mut ranks = self.ranks(owner, ask.key).iter();
        let Some(place) = ranks.find(|place| !tried.contains(*place) && self.may_stand_in(*place)) else {
            return Route::Refuse(Refusal::NoStandIn);
        };
        if !self.take_failover() {
            return Route::Refuse(Refusal::TooManyFailovers);
        }
        Route::StandIn(self.stand_in(owner, place, ask.now_ms))
    }

    pub(crate) fn take_failover(&self) -> bool {
        self.budget.take() || !self.rules.has(Rule::Budget)
    }

    /// The stand-ins of a key, in order.
    pub(crate) fn ranks(&self, owner: Place, key: &[u8]) -> Ranks {
        Ranks::of(&self.topology, self.rules.stand_ins, owner, key_hash(key))
    }

    /// All who may hold entries of a node's keys.
    pub(crate) fn all_stand_ins(&self, owner: Place) -> impl Iterator<Item = Place> {
        let stands_in = move |place: &Place| match self.rules.stand_ins {
            StandIns::None => false,
            StandIns::Pool => !self.topology.is_main(*place),
            StandIns::Same => self.topology.is_main(*place) && *place != owner,
        };
        self.topology.places().filter(stands_in)
    }

    /// Whether it may be asked for keys of others.
    pub(crate) fn may_stand_in(&self, place: Place) -> bool {
        place == self.own
            || self.posture(place) != Posture::Out && !(self.is_owed(place) && self.rules.has(Rule::DeliverFirst))
    }

    pub(crate) fn stand_in(&self, owner: Place, place: Place, now_ms: u64) -> StandIn {
        let trouble_ms = match self.posture(owner) {
            // Deletes do not go to stand-ins, so what they have is too old.
            Posture::Well => 0,
            Posture::Suspect | Posture::Out | Posture::Ramp => {
                shorter(now_ms.saturating_sub(self.good_since_ms(owner)))
            }
        };
        let no_limit = u64::MAX / 2;
        let ttl_max_ms = if self.rules.has(Rule::GutterTtl) { self.rules.gutter_ttl_ms } else { no_limit };
        let age_max_ms = if self.rules.has(Rule::AgeAtStandIns) { trouble_ms } else { no_limit };
        // A load may take so long that what it stores is old when it comes.
        StandIn { place, age_max_ms: age_max_ms.min(ttl_max_ms), ttl_max_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Fault;
    use crate::rules::{Minority, Rules};
    use crate::testing::Cluster;

    const KINDS: [Kind; 5] = [Kind::Read, Kind::Write, Kind::Delete, Kind::Update, Kind::Lease];

    fn routes(cluster: &Cluster, node: usize, owner: usize) -> [Route; 5] {
        let key = cluster.key_of(owner);
        KINDS.map(|kind| cluster.nodes[node].route(&cluster.ask(&key, kind)))
    }

    fn kill(cluster: &Cluster, node: usize, other: usize) {
        cluster.nodes[node].failed(cluster.place(other), Fault::Refused, cluster.now_ms);
    }

    #[test]
    fn all_goes_to_the_owner_while_it_is_well() {
        let cluster = Cluster::new(3, 1, &Rules::default());
        assert!(cluster.nodes.iter().all(Peers::are_well));
        assert_eq!(routes(&cluster, 0, 0), [Route::Here; 5]);
        assert_eq!(routes(&cluster, 0, 2), [Route::Owner(cluster.place(2)); 5]);
        assert_eq!(routes(&cluster, 3, 2), [Route::Owner(cluster.place(2)); 5], "a spare node knows it, too");
    }

    #[test]
    fn one_failure_brings_stand_ins_in_but_asks_the_owner() {
        let cluster = Cluster::new(3, 1, &Rules::default());
        cluster.nodes[0].failed(cluster.place(2), Fault::Timeout, cluster.now_ms);
        let owner = Route::Owner(cluster.place(2));
        assert_eq!(routes(&cluster, 0, 2), [owner, Route::Errand, Route::Errand, Route::Errand, owner]);
        cluster.nodes[0].answered(cluster.place(2));
        assert!(cluster.nodes[0].are_well());
    }

    #[test]
    fn a_stand_in_answers_what_it_has_read_since_deletes_go_there() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        kill(&cluster, 0, 2);
        let stand_in = |age_max_ms| {
            Route::StandIn(StandIn { place: cluster.place(3), age_max_ms, ttl_max_ms: Rules::default().gutter_ttl_ms })
        };
        let lease = Route::Refuse(Refusal::NeedsOwner);
        assert_eq!(routes(&cluster, 0, 2), [stand_in(0), Route::Errand, Route::Errand, Route::Errand, lease]);
        cluster.go_on(1_000, &[2]);
        let Route::StandIn(StandIn { age_max_ms, .. }) = routes(&cluster, 0, 2)[0] else { panic!("it is out") };
        assert!((900..1_000).contains(&age_max_ms), "{age_max_ms}");
        let key = cluster.key_of(1);
        let ask = cluster.ask(&key, Kind::Read);
        let alone = cluster.nodes[0].instead(&ask, PlaceSet::default());
        assert!(
            matches!(alone, Route::StandIn(StandIn { age_max_ms: 0, .. })),
            "one failure of a node that is well: {alone:?}"
        );
    }

    #[test]
    fn what_a_stand_in_read_before_the_owner_answered_a_change_is_too_old() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        let two = cluster.place(2);
        cluster.nodes[0].changed(two, cluster.now_ms);
        kill(&cluster, 0, 2);
        cluster.go_on(1_000, &[2]);
        let age_max_ms = |cluster: &Cluster| match routes(cluster, 0, 2)[0] {
            Route::StandIn(StandIn { age_max_ms, .. }) => age_max_ms,
            route => panic!("{route:?}"),
        };
        assert!((900..1_000).contains(&age_max_ms(&cluster)), "while all is well nothing is noted");
        // Over a connection that another thread still has.
        cluster.nodes[0].changed(two, cluster.now_ms);
        assert_eq!(age_max_ms(&cluster), 0);
        cluster.go_on(500, &[2]);
        assert!((400..500).contains(&age_max_ms(&cluster)));
        cluster.nodes[0].changed(two, 0);
        assert!((400..500).contains(&age_max_ms(&cluster)), "an earlier change changes nothing");
    }

    #[test]
    fn requests_of_all_kinds_count_for_the_share_of_stand_ins() {
        let rules = Rules { failover_share: 500, failover_burst: 1, ..Rules::default() };
        let cluster = Cluster::new(3, 1, &rules);
        kill(&cluster, 0, 2);
        let key = cluster.key_of(2);
        let is_given =
            |cluster: &Cluster| matches!(cluster.nodes[0].route(&cluster.ask(&key, Kind::Read)), Route::StandIn(_));
        assert!(is_given(&cluster));
        assert!(!is_given(&cluster));
        cluster.nodes[0].count();
        assert!(is_given(&cluster));
    }

    #[test]
    fn each_stand_in_is_tried_once_and_those_that_are_out_never() {
        let cluster = Cluster::new(3, 2, &Rules::default());
        kill(&cluster, 0, 2);
        let key = cluster.key_of(2);
        let ask = cluster.ask(&key, Kind::Read);
        let mut tried = PlaceSet::default();
        let mut places = Vec::new();
        while let Route::StandIn(StandIn { place, .. }) = cluster.nodes[0].instead(&ask, tried) {
            places.push(place.index());
            tried.insert(place);
        }
        places.sort_unstable();
        assert_eq!(places, [3, 4]);
        assert_eq!(cluster.nodes[0].instead(&ask, tried), Route::Refuse(Refusal::NoStandIn));
        [3, 4].into_iter().for_each(|gutter| kill(&cluster, 0, gutter));
        assert_eq!(routes(&cluster, 0, 2)[0], Route::Refuse(Refusal::NoStandIn), "spare nodes may all be dead");
    }

    #[test]
    fn stand_ins_get_no_more_than_their_share() {
        let rules = Rules { failover_share: 100, failover_burst: 5, ..Rules::default() };
        let cluster = Cluster::new(3, 1, &rules);
        kill(&cluster, 0, 2);
        let key = cluster.key_of(2);
        let routes = (0..1_000).map(|_| cluster.nodes[0].route(&cluster.ask(&key, Kind::Read)));
        let (given, refused): (Vec<Route>, Vec<Route>) = routes.partition(|route| matches!(route, Route::StandIn(_)));
        assert!((100..=105).contains(&given.len()), "{}", given.len());
        assert!(refused.iter().all(|route| *route == Route::Refuse(Refusal::TooManyFailovers)));
        assert_eq!(cluster.nodes[0].route(&cluster.ask(&key, Kind::Delete)), Route::Errand, "deletes load nothing");
    }

    #[test]
    fn without_a_majority_nothing_is_answered() {
        let stale = Rules { minority: Minority::ServeStale, ..Rules::default() };
        for (rules, read) in [(Rules::default(), Route::Refuse(Refusal::Minority)), (stale, Route::HereStale)] {
            let mut cluster = Cluster::new(3, 1, &rules);
            cluster.go_on(3_000, &[0]);
            let refuse = Route::Refuse(Refusal::Minority);
            assert_eq!(routes(&cluster, 0, 0), [read, refuse, refuse, refuse, refuse]);
            let key = cluster.key_of(1);
            assert_eq!(cluster.nodes[0].instead(&cluster.ask(&key, Kind::Read), PlaceSet::default()), refuse);
            assert_eq!(routes(&cluster, 1, 1), [Route::Here; 5], "the others are a majority");
            cluster.go_on(500, &[]);
            assert_eq!(routes(&cluster, 0, 0), [Route::Here; 5]);
        }
    }

    #[test]
    fn without_stand_ins_the_owner_is_asked_or_nobody() {
        let rules = Rules { stand_ins: StandIns::None, ..Rules::default() };
        let mut cluster = Cluster::new(3, 0, &rules);
        kill(&cluster, 0, 2);
        assert_eq!(routes(&cluster, 0, 2), [Route::Refuse(Refusal::OwnerAway); 5]);
        cluster.go_on(3_000, &[0]);
        assert_eq!(routes(&cluster, 0, 0), [Route::Here; 5], "no delete is answered that it has not seen");
    }

    #[test]
    fn a_node_that_has_returned_gets_a_share_of_the_reads_and_all_writes() {
        let mut cluster = Cluster::new(3, 1, &Rules::default());
        kill(&cluster, 0, 2);
        cluster.go_on(200, &[]);
        let key = cluster.key_of(2);
        let reads = |cluster: &Cluster| {
            let route = |random| cluster.nodes[0].route(&Ask { random, ..cluster.ask(&key, Kind::Read) });
            (0..1_000).filter(|random| route(*random) == Route::Owner(cluster.place(2))).count()
        };
        assert_eq!(reads(&cluster), 100);
        assert_eq!(cluster.nodes[0].route(&cluster.ask(&key, Kind::Delete)), Route::Errand);
        let read = |is_hit| cluster.nodes[0].answered_read(cluster.place(2), is_hit, cluster.now_ms);
        (0..100).for_each(|number| read(number % 2 == 0));
        assert_eq!(reads(&cluster), 600);
        (0..100).for_each(|_| read(true));
        assert!(cluster.nodes[0].are_well());
    }

    #[test]
    fn main_nodes_stand_in_for_each_other() {
        let cluster = Cluster::new(3, 0, &Rules { stand_ins: StandIns::Same, ..Rules::default() });
        kill(&cluster, 0, 2);
        let key = cluster.key_of(2);
        let Route::StandIn(first) = cluster.nodes[0].route(&cluster.ask(&key, Kind::Read)) else { panic!("it is out") };
        kill(&cluster, 1, 2);
        let Route::StandIn(other) = cluster.nodes[1].route(&cluster.ask(&key, Kind::Read)) else { panic!("it is out") };
        assert_eq!(first.place, other.place, "all nodes ask the same one");
        assert_ne!(first.place, cluster.place(2));
    }

    #[test]
    fn a_set_of_places_holds_what_was_put_in() {
        let cluster = Cluster::new(3, 0, &Rules::default());
        let mut set = PlaceSet::default();
        assert!(set.is_empty() && set.insert(cluster.place(1)) && !set.insert(cluster.place(1)));
        assert!(set.contains(cluster.place(1)) && !set.contains(cluster.place(2)) && set.len() == 1);
        assert!(set.remove(cluster.place(1)) && !set.remove(cluster.place(1)) && set.is_empty());
    }
}
