//! What a node must forget and could not be told: deletes and invalidations, kept by those who could not reach it until it has them.
//!
//! One log for each other node, of this boot of this node. A log is bounded: one that runs over is emptied, and *broken*: its owner then has to
//! take all of its entries for stale. The owner asks for what is in the log with each ping, and the same ping says up to which number it has
//! applied what it was told before; only then is it dropped. So what is lost on the way is told again, and numbers show what is told twice.

use std::collections::{BTreeMap, VecDeque};

/// Names the unbroken history of one node's log for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// The start of the process that keeps the log; no two have one number.
    pub boot: u64,
    /// How often the log ran over.
    pub breaks: u32,
}

/// What is removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The entry of a key, and its leases.
    Key(Box<[u8]>),
    /// All entries with a tag.
    Tag(Box<[u8]>),
    /// All entries whose keys begin so.
    Prefix(Box<[u8]>),
    /// All entries.
    Everything,
}

impl Target {
    fn bytes(&self) -> usize {
        match self {
            Self::Key(bytes) | Self::Tag(bytes) | Self::Prefix(bytes) => bytes.len(),
            Self::Everything => 0,
        }
    }
}

/// How it is removed. A stronger way covers a weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Entries become stale.
    Soft,
    /// Entries are gone.
    Hard,
}

/// Something to be removed. To do so twice does no harm beyond a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// What.
    pub target: Target,
    /// How.
    pub way: Way,
}

/// What a node has applied of another one's log for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of which history.
    pub lineage: Lineage,
    /// All up to this number.
    pub number: u64,
}

/// What a log tells its owner, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Of the log.
    pub lineage: Lineage,
    /// The log ran over and its owner has not answered to that: everything it has is stale.
    pub is_broken: bool,
    /// At most so many as one delivery takes.
    pub removals: Vec<Removal>,
    /// There is no more.
    pub is_whole: bool,
    /// Whoever has heeded `is_broken` and applied the removals has applied all up to this number.
    pub up_to: u64,
}

/// Bounds of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Most removals.
    pub removals_max: usize,
    /// Most bytes of their keys, tags and prefixes.
    pub bytes_max: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    lineage: Lineage,
    /// In order of their numbers; `None`: a later one of the same target has taken its place.
    removals: VecDeque<(u64, Option<Removal>)>,
    numbers: BTreeMap<Target, u64>,
    bytes: usize,
    /// The last number given.
    last: u64,
    /// All up to this number have been applied by the owner.
    applied: u64,
    /// As [`Delivery::is_broken`].
    is_broken: bool,
}

impl Remembered {
    /// An empty log of a process that has started.
    #[must_use]
    pub(crate) fn new(boot: u64) -> Self {
        Self {
            lineage: Lineage { boot, breaks: 0 },
            removals: VecDeque::new(),
            numbers: BTreeMap::new(),
            bytes: 0,
            last: 0,
            applied: 0,
            is_broken: false,
        }
    }

    /// Whether its owner has all.
    #[must_use]
    pub(crate) fn is_delivered(&self) -> bool {
        self.numbers.is_empty() && !self.is_broken
    }

    /// Whether the owner has this one.
    #[must_use]
    pub(crate) fn has_applied(&self, number: u64) -> bool {
        number <= self.applied
    }

    /// Whether it ran over and its owner has not answered to that.
    #[must_use]
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// How many removals wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Adds one and says its number. If there is no room the log runs over.
    pub(crate) fn add(&mut self, removal: Removal, bounds: Bounds) -> u64 {
        self.last += 1;
        let removal = self.take_earlier(removal);
        self.bytes += removal.target.bytes();
        self.numbers.insert(removal.target.clone(), self.last);
        self.removals.push_back((self.last, Some(removal)));
        if self.numbers.len() > bounds.removals_max || self.bytes > bounds.bytes_max {
            self.run_over();
        }
        self.last
    }

    /// Takes the earlier removal of the same target out, and makes this one as strong.
    fn take_earlier(&mut self, removal: Removal) -> Removal {
        let Some(number) = self.numbers.remove(&removal.target) else { return removal };
        let place = self.removals.partition_point(|(other, _)| *other < number);
        let earlier = self.removals.get_mut(place).and_then(|(_, earlier)| earlier.take());
        self.bytes -= removal.target.bytes();
        self.drop_gaps();
        Removal { way: earlier.map_or(removal.way, |earlier| earlier.way.max(removal.way)), ..removal }
    }

    /// Keeps what was taken out from piling up: at most as many gaps as removals, and some.
    fn drop_gaps(&mut self) {
        const GAPS_MIN: usize = 64;
        if self.removals.len() > 2 * self.numbers.len() + GAPS_MIN {
            self.removals.retain(|(_, removal)| removal.is_some());
        }
    }

    fn run_over(&mut self) {
        self.removals.clear();
        self.numbers.clear();
        self.bytes = 0;
        self.lineage.breaks += 1;
        self.is_broken = true;
    }

    /// Empties it as though nothing had been in it. A known-bad variant.
    pub(crate) fn lose(&mut self) {
        self.run_over();
        self.is_broken = false;
        self.applied = self.last;
    }

    /// Drops what the owner says it has applied, and says whether all is delivered.
    pub(crate) fn applied(&mut self, applied: Applied) -> bool {
        if applied.lineage != self.lineage || applied.number > self.last {
            return self.is_delivered();
        }
        self.is_broken = false;
        self.applied = self.applied.max(applied.number);
        while self.removals.front().is_some_and(|(number, removal)| *number <= applied.number || removal.is_none()) {
            if let Some((_, Some(removal))) = self.removals.pop_front() {
                self.bytes -= removal.target.bytes();
                self.numbers.remove(&removal.target);
            }
        }
        self.is_delivered()
    }

    /// What to tell the owner: the first `removals_max` of all.
    #[must_use]
    pub(crate) fn delivery(&self, removals_max: usize) -> Delivery {
        let (lineage, is_broken) = (self.lineage, self.is_broken);
        if self.numbers.is_empty() {
            return Delivery { lineage, is_broken, removals: Vec::new(), is_whole: true, up_to: self.last };
        }
        let all = self.removals.iter().filter_map(|(number, removal)| Some((*number, removal.as_ref()?)));
        let (numbers, removals): (Vec<u64>, Vec<Removal>) =
            all.take(removals_max.max(1)).map(|(number, removal)| (number, removal.clone())).unzip();
        let is_whole = removals.len() == self.numbers.len();
        let told = numbers.last().copied().unwrap_or(0);
        Delivery { lineage, is_broken, removals, is_whole, up_to: if is_whole { self.last } else { told } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { removals_max: 1_000, bytes_max: 100_000 };

    const PART: usize = 50;

    fn key(name: &str, way: Way) -> Removal {
        Removal { target: Target::Key(name.as_bytes().into()), way }
    }

    fn told(log: &Remembered) -> Vec<String> {
        let name = |removal: &Removal| match &removal.target {
            Target::Key(key) => String::from_utf8_lossy(key).into_owned(),
            other => format!("{other:?}"),
        };
        log.delivery(PART).removals.iter().map(name).collect()
    }

    fn apply(log: &mut Remembered, delivery: &Delivery) -> bool {
        log.applied(Applied { lineage: delivery.lineage, number: delivery.up_to })
    }

    #[test]
    fn it_is_told_until_the_owner_has_applied_it() {
        let mut log = Remembered::new(7);
        assert!(log.is_delivered());
        let first = log.add(key("a", Way::Hard), BOUNDS);
        let delivery = log.delivery(PART);
        let second = log.add(key("b", Way::Hard), BOUNDS);
        assert_eq!(log.delivery(PART).removals.len(), 2, "the first delivery may be lost");
        assert!(!apply(&mut log, &delivery));
        assert!(log.has_applied(first) && !log.has_applied(second));
        assert_eq!(told(&log), ["b"]);
        assert!(!apply(&mut log, &delivery), "an answer that comes twice drops nothing more");
        let rest = log.delivery(PART);
        assert!(apply(&mut log, &rest));
        assert!(log.is_delivered() && told(&log).is_empty());
    }

    #[test]
    fn a_later_removal_of_a_target_takes_the_place_of_an_earlier_one() {
        let mut log = Remembered::new(7);
        log.add(key("a", Way::Hard), BOUNDS);
        let early = log.delivery(PART);
        log.add(key("b", Way::Hard), BOUNDS);
        let late = log.add(key("a", Way::Soft), BOUNDS);
        assert_eq!(told(&log), ["b", "a"]);
        assert_eq!(log.delivery(PART).removals[1].way, Way::Hard, "the stronger way stays");
        assert!(!apply(&mut log, &early));
        assert!(!log.has_applied(late), "what the owner applied before came before the later one");
        for number in 0..10_000 {
            log.add(key(["a", "b"][number % 2], Way::Hard), BOUNDS);
        }
        assert!(log.len() == 2 && log.removals.len() < 200 && log.bytes == 2, "it does not grow");
    }

    #[test]
    fn one_that_runs_over_asks_for_everything() {
        let mut log = Remembered::new(7);
        let bounds = Bounds { removals_max: 2, ..BOUNDS };
        let before = log.delivery(PART);
        let numbers: Vec<u64> = ["a", "b", "c"].map(|name| log.add(key(name, Way::Hard), bounds)).into();
        let broken = log.delivery(PART);
        assert!(broken.is_broken && told(&log).is_empty() && broken.lineage != before.lineage);
        let behind = log.add(key("d", Way::Hard), bounds);
        assert!(!apply(&mut log, &before), "an answer to an older history is none");
        assert!(!apply(&mut log, &broken));
        assert!(numbers.iter().all(|number| log.has_applied(*number)) && !log.has_applied(behind));
        assert!(!log.delivery(PART).is_broken && told(&log) == ["d"]);
        let long = key(&"x".repeat(100), Way::Hard);
        log.add(long, Bounds { bytes_max: 50, ..BOUNDS });
        assert!(log.delivery(PART).is_broken, "bytes are bounded, too");
    }

    #[test]
    fn a_long_log_is_told_in_parts() {
        let mut log = Remembered::new(7);
        let count = PART + 10;
        (0..count).for_each(|number| _ = log.add(key(&number.to_string(), Way::Hard), BOUNDS));
        let part = log.delivery(PART);
        assert_eq!(part.removals.len(), PART);
        assert!(!apply(&mut log, &part));
        assert_eq!(log.delivery(PART).removals.len(), 10);
        let rest = log.delivery(PART);
        assert!(apply(&mut log, &rest) && log.has_applied(count as u64));
    }

    #[test]
    fn an_answer_of_another_boot_is_none() {
        let mut log = Remembered::new(7);
        log.add(key("a", Way::Hard), BOUNDS);
        assert!(!log.applied(Applied { lineage: Lineage { boot: 8, breaks: 0 }, number: 1 }));
        assert!(!log.applied(Applied { lineage: log.lineage, number: 2 }), "no such number was given");
        assert!(!log.is_delivered());
    }
}
