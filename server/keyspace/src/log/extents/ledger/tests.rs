//! The books against a model that knows every grain and every page.

use super::*;
use crate::log::GRAIN_BYTES;
use proptest::prelude::*;

const REGION: usize = 48 * PAGE_BYTES;

/// Where regions of the tests start: two of them touch, the third lies apart.
const STARTS: [usize; 3] = [1 << 20, (1 << 20) + REGION, 1 << 24];

#[derive(Clone, Debug)]
enum Step {
    Take { grains: usize },
    Free { which: usize },
    Lengthen { which: usize, grains: usize },
    KeptMax { pages: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let grains = || prop_oneof![3 => 1..5_usize, 4 => 5..200_usize, 1 => 1..REGION / GRAIN_BYTES];
    prop_oneof![
        8 => grains().prop_map(|grains| Step::Take { grains }),
        6 => any::<usize>().prop_map(|which| Step::Free { which }),
        3 => (any::<usize>(), grains()).prop_map(|(which, grains)| Step::Lengthen { which, grains }),
        1 => (0..40_usize).prop_map(|pages| Step::KeptMax { pages }),
    ]
}

#[derive(Default)]
struct Model {
    live: Vec<(usize, usize)>,
    /// By region, then grain: whether an extent has it.
    used: Vec<Vec<bool>>,
    /// By region, then page: whether it has memory.
    resident: Vec<Vec<bool>>,
    kept_bytes_max: usize,
}

impl Model {
    /// Marks bytes as used or free, none of which may be so already.
    fn mark(&mut self, at: usize, len: usize, used: bool) {
        let (region, offset) = place(at);
        for grain in &mut self.used[region][offset / GRAIN_BYTES..(offset + len) / GRAIN_BYTES] {
            assert_ne!(*grain, used, "{len} bytes at {at}");
            *grain = used;
        }
        if used {
            self.resident[region][offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES)].fill(true);
        }
    }

    fn is_free(&self, region: usize, page: usize) -> bool {
        let grains = PAGE_BYTES / GRAIN_BYTES;
        !self.used[region][page * grains..(page + 1) * grains].contains(&true)
    }

    /// Length of the longest free extent, in grains.
    fn longest(&self) -> usize {
        let runs = self.used.iter().flat_map(|region| region.split(|&used| used).map(<[bool]>::len));
        runs.max().unwrap_or(0)
    }

    fn live_bytes(&self) -> usize {
        self.live.iter().map(|&(_, len)| len).sum()
    }

    /// Bytes of pages with memory, and of those among them that no extent touches.
    fn resident_bytes(&self) -> (usize, usize) {
        let (mut resident, mut kept) = (0, 0);
        for (region, pages) in self.resident.iter().enumerate() {
            for page in (0..pages.len()).filter(|&page| pages[page]) {
                resident += PAGE_BYTES;
                kept += if self.is_free(region, page) { PAGE_BYTES } else { 0 };
            }
        }
        (resident, kept)
    }
}

fn place(at: usize) -> (usize, usize) {
    let region = STARTS.iter().rposition(|&start| start <= at).expect("an address in a region");
    (region, at - STARTS[region])
}

/// What its owner does after each change.
fn trim(ledger: &mut Ledger, model: &mut Model) {
    while let Some(discard) = ledger.take_excess() {
        let (region, offset) = place(discard.pages.start);
        for page in offset / PAGE_BYTES..(offset + discard.pages.len()) / PAGE_BYTES {
            assert!(model.is_free(region, page), "page {page} is in use");
            model.resident[region][page] = false;
        }
        ledger.put_back(&discard);
    }
}

fn run(steps: &[Step]) {
    let (mut ledger, mut model) = (Ledger::default(), Model::default());
    for step in steps {
        match *step {
            Step::Take { grains } => {
                let len = grains * GRAIN_BYTES;
                match ledger.take(len) {
                    Some(at) => {
                        model.mark(at, len, true);
                        model.live.push((at, len));
                    }
                    None => {
                        assert!(model.longest() < grains, "there was room for {grains} grains");
                        if let Some(&start) = STARTS.get(model.used.len()) {
                            ledger.add_region(start, REGION);
                            model.used.push(vec![false; REGION / GRAIN_BYTES]);
                            model.resident.push(vec![false; REGION / PAGE_BYTES]);
                        }
                    }
                }
            }
            Step::Free { which } if !model.live.is_empty() => {
                let (at, len) = model.live.swap_remove(which % model.live.len());
                ledger.free(at, len);
                model.mark(at, len, false);
            }
            Step::Lengthen { which, grains } if !model.live.is_empty() => {
                let which = which % model.live.len();
                let (at, len) = model.live[which];
                let (region, offset) = place(at);
                let behind = &model.used[region][(offset + len) / GRAIN_BYTES..];
                let free = behind.iter().position(|&used| used).unwrap_or(behind.len());
                let more = grains * GRAIN_BYTES;
                assert_eq!(ledger.try_lengthen(at, len, more), free >= grains);
                if free >= grains {
                    model.mark(at + len, more, true);
                    model.live[which].1 += more;
                }
            }
            Step::KeptMax { pages } => {
                model.kept_bytes_max = pages * PAGE_BYTES;
                ledger.set_kept_bytes_max(model.kept_bytes_max);
            }
            Step::Free { .. } | Step::Lengthen { .. } => {}
        }
        trim(&mut ledger, &mut model);
        ledger.check();
        let (live, (resident, kept)) = (model.live_bytes(), model.resident_bytes());
        assert_eq!((ledger.live_bytes(), ledger.resident_bytes()), (live, resident));
        assert!(kept <= model.kept_bytes_max);
        let overhead = resident - live - kept;
        assert!((overhead..=overhead + model.kept_bytes_max).contains(&ledger.overhead_bytes()));
        assert!(resident <= live + ledger.overhead_bytes(), "what counts is at least what is resident");
    }
    for (at, len) in std::mem::take(&mut model.live) {
        ledger.free(at, len);
        model.mark(at, len, false);
        trim(&mut ledger, &mut model);
    }
    ledger.check();
    assert_eq!((ledger.live_bytes(), ledger.resident_bytes(), ledger.overhead_bytes()), (0, 0, 0));
    let whole: Vec<usize> = ledger.free.keys().copied().collect();
    assert_eq!(whole, STARTS[..model.used.len()], "each region is one free extent again");
    assert!(ledger.free.values().all(|free| free.len == REGION));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn books_are_those_of_a_model_of_every_page(
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 40 } else { 400 }),
    ) {
        run(&steps);
    }

    #[test]
    fn sets_of_pages_count_as_a_vector_of_flags(
        ranges in prop::collection::vec((0..300_usize, 0..300_usize, any::<bool>()), 1..30),
    ) {
        let (mut pages, mut flags) = (Pages::bare(300), vec![false; 300]);
        for (a, b, sets) in ranges {
            let range = a.min(b)..a.max(b);
            let flagged = flags[range.clone()].iter().filter(|&&flag| flag).count();
            prop_assert_eq!(pages.count(range.clone()), flagged);
            let first = flags[range.clone()].iter().position(|&flag| flag).map(|at| range.start + at);
            let end = flags[range.clone()].iter().rposition(|&flag| flag).map(|at| range.start + at + 1);
            prop_assert_eq!(pages.span(range.clone()), first.zip(end).map(|(first, end)| first..end));
            match sets {
                true => prop_assert_eq!(pages.set(range.clone()), range.len() - flagged),
                false => pages.clear(range.clone()),
            }
            flags[range].fill(sets);
        }
    }
}

fn books(kept_pages: usize) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.set_kept_bytes_max(kept_pages * PAGE_BYTES);
    ledger.add_region(STARTS[0], REGION);
    ledger
}

fn trim_alone(ledger: &mut Ledger) {
    while let Some(discard) = ledger.take_excess() {
        ledger.put_back(&discard);
    }
}

#[test]
fn memory_that_was_kept_is_taken_before_untouched_memory() {
    let mut ledger = books(4);
    let (first, _wall) = (ledger.take(2 * PAGE_BYTES), ledger.take(PAGE_BYTES));
    ledger.free(first.expect("a free region"), 2 * PAGE_BYTES);
    assert!(ledger.take_excess().is_none(), "it may be kept");
    let resident = ledger.resident_bytes();
    assert_eq!(ledger.take(2 * PAGE_BYTES - GRAIN_BYTES), first);
    assert_eq!(ledger.resident_bytes(), resident);
}

#[test]
fn what_was_freed_last_is_taken_next_whatever_is_free_beside_it() {
    let mut ledger = books(20);
    let takes = [2, 1, 30, 1].map(|pages| (ledger.take(pages * PAGE_BYTES).expect("a free region"), pages));
    let free = |ledger: &mut Ledger, (at, pages): (usize, usize)| ledger.free(at, pages * PAGE_BYTES);
    ledger.set_kept_bytes_max(0);
    free(&mut ledger, takes[0]);
    trim_alone(&mut ledger);
    ledger.set_kept_bytes_max(20 * PAGE_BYTES);
    free(&mut ledger, takes[2]);
    trim_alone(&mut ledger);
    let end = takes[3].0;
    assert_eq!(ledger.take(5 * PAGE_BYTES), Some(end - 5 * PAGE_BYTES), "the low end is bare");
    assert_eq!(ledger.take(2 * PAGE_BYTES), Some(end - 7 * PAGE_BYTES), "though another fits best");
    ledger.set_kept_bytes_max(0);
    trim_alone(&mut ledger);
    assert_eq!(ledger.take(2 * PAGE_BYTES), Some(takes[0].0), "all are bare: what fits best");
}

#[test]
fn nobody_gets_what_is_being_given_back() {
    let mut ledger = books(0);
    let (first, second) = (ledger.take(40 * PAGE_BYTES), ledger.take(4 * PAGE_BYTES));
    ledger.free(first.expect("room"), 40 * PAGE_BYTES);
    let discard = ledger.take_excess().expect("nothing may be kept");
    assert_eq!(ledger.resident_bytes(), 4 * PAGE_BYTES, "it counts as given back");
    assert_eq!(ledger.take(8 * PAGE_BYTES), None);
    ledger.free(second.expect("room"), 4 * PAGE_BYTES);
    ledger.put_back(&discard);
    trim_alone(&mut ledger);
    ledger.check();
    assert_eq!(ledger.take(REGION), first, "all of it is one extent again");
}
