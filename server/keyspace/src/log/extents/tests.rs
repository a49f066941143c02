//! Extents hold what was written into them, whatever comes and goes beside them, and the system has what they do not.

use super::*;

/// Bytes of resident memory in the regions, as the system tells.
#[cfg(all(target_os = "linux", not(miri)))]
fn resident_bytes(extents: &Extents) -> usize {
    use super::super::PAGE_BYTES;
    use std::io::{Read, Seek, SeekFrom};

    // One word for each page; these bits say that it is in memory, or swapped out.
    const HAS_MEMORY: u64 = 0b11 << 62;
    let mut pages = std::fs::File::open("/proc/self/pagemap").expect("Linux shows a process its own pages");
    let state = extents.lock();
    let mut resident = 0;
    for &at in state.regions.keys() {
        let mut words = vec![0; REGION_BYTES / PAGE_BYTES * size_of::<u64>()];
        pages.seek(SeekFrom::Start((at / PAGE_BYTES * size_of::<u64>()) as u64)).expect("a file that can be sought");
        pages.read_exact(&mut words).expect("a mapping has a word for each page");
        let (words, _) = words.as_chunks();
        resident += words.iter().filter(|&&word| u64::from_ne_bytes(word) & HAS_MEMORY != 0).count() * PAGE_BYTES;
    }
    resident
}

/// Numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % bound
    }

    /// Every order of magnitude from 64 bytes to 256 KiB is as likely.
    fn len(&mut self) -> usize {
        let least = 64 << self.below(if cfg!(miri) { 8 } else { 12 });
        least + self.below(least)
    }
}

#[derive(Debug)]
struct Held {
    extent: Extent,
    mark: u8,
}

impl Held {
    fn new(extents: &Arc<Extents>, len: usize, mark: u8) -> Self {
        let mut extent = extents.take(len);
        assert!((len..len + GRAIN_BYTES).contains(&extent.len()));
        extent.bytes_mut().fill(mark);
        Self { extent, mark }
    }

    fn lengthen(&mut self, len: usize) {
        let before = self.extent.len();
        if self.extent.try_lengthen(len) {
            assert!(self.extent.len() >= len);
            self.extent.bytes_mut()[before..].fill(self.mark);
        }
    }

    fn check(&self) {
        assert!(self.extent.bytes().iter().all(|&byte| byte == self.mark), "another wrote there");
    }
}

/// Checks the books, and that extents have this many bytes.
fn check(extents: &Extents, live_bytes: usize) {
    extents.check(live_bytes);
    assert_eq!(extents.lock().ledger.live_bytes(), live_bytes);
}

/// Takes, frees and lengthens for a while.
fn churn(extents: &Arc<Extents>, seed: u64, steps: usize, held_max: usize) {
    let mut random = Random(seed);
    let mut held: Vec<Held> = Vec::new();
    for step in 0..steps {
        match random.below(8) {
            0..4 => {
                let len = random.len();
                held.push(Held::new(extents, len, step as u8));
            }
            4 if !held.is_empty() => {
                let which = random.below(held.len());
                held[which].lengthen(random.len());
            }
            _ if !held.is_empty() => held.swap_remove(random.below(held.len())).check(),
            _ => {}
        }
        if held.len() > held_max {
            held.drain(..held_max / 2).for_each(|held| held.check());
        }
    }
    held.iter().for_each(Held::check);
}

#[test]
fn what_is_written_stays_and_what_is_resident_is_known() {
    let extents = Extents::new();
    extents.set_kept_bytes_max(1 << 18);
    for seed in 0..if cfg!(miri) { 1 } else { 6 } {
        let kept = Held::new(&extents, 100_000, 0xee);
        churn(&extents, seed, if cfg!(miri) { 60 } else { 4_000 }, 300);
        #[cfg(all(target_os = "linux", not(miri)))]
        {
            let resident = resident_bytes(&extents);
            assert_eq!(resident, extents.lock().ledger.resident_bytes());
            assert!(resident <= kept.extent.len() + (1 << 18) + (8 << 10), "{resident} bytes for one extent");
        }
        check(&extents, kept.extent.len());
        kept.check();
    }
    check(&extents, 0);
    assert_eq!((extents.gap_bytes(), extents.overhead_bytes()), (0, 0));
}

#[test]
fn threads_have_extents_apart_and_leave_nothing() {
    let extents = Extents::new();
    extents.set_kept_bytes_max(1 << 16);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let extents = &extents;
            scope.spawn(move || churn(extents, seed * 77 + 1, if cfg!(miri) { 30 } else { 4_000 }, 60));
        }
    });
    check(&extents, 0);
    assert_eq!((extents.gap_bytes(), extents.overhead_bytes()), (0, 0));
    #[cfg(all(target_os = "linux", not(miri)))]
    assert_eq!(resident_bytes(&extents), 0);
}

#[test]
fn an_extent_larger_than_a_region_goes_with_its_mapping() {
    let extents = Extents::new();
    let small = Held::new(&extents, 5_000, 1);
    let mut large = Held::new(&extents, REGION_BYTES + 1, 2);
    let len = large.extent.len();
    assert!(!large.extent.try_lengthen(len + 1), "its mapping ends there");
    assert_eq!(extents.lock().regions.len(), 1, "it lies in none of those for many");
    check(&extents, small.extent.len() + len);
    drop(large);
    check(&extents, small.extent.len());
    small.check();
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn a_large_extent_gives_its_memory_back_and_a_small_one_leaves_it() {
    let extents = Extents::new();
    extents.set_kept_bytes_max(1 << 20);
    let wall = Held::new(&extents, 5_000, 1);
    let large = Held::new(&extents, 50 << 20, 2);
    assert!(resident_bytes(&extents) > 50 << 20);
    drop(large);
    assert!(resident_bytes(&extents) < 48 << 10, "beside one small extent little is kept");
    for _ in 0..3 {
        drop(Held::new(&extents, 20_000, 3));
        assert!((20_000..48 << 10).contains(&resident_bytes(&extents)), "kept for the next");
    }
    extents.set_kept_bytes_max(0);
    assert!(resident_bytes(&extents) < 16 << 10);
    wall.check();
}
