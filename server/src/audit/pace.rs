//! How much the auditor does: so many keys a second, and changes of so many keys that it can follow.

use leasehold_keyspace::HashWindow;

/// Changes of one tick that are followed without effort; more halve the window.
const CHANGES_PER_TICK_MAX: usize = 256;

/// With fewer than so many, for so many ticks in a row, the window doubles.
const CHANGES_PER_TICK_LOW: usize = CHANGES_PER_TICK_MAX / 4;
const TICKS_TO_WIDEN: u32 = 40;

/// A window that is not all moves on after so many ticks, so that each key has its turn: a minute.
const TICKS_TO_MOVE: u32 = 1_200;

/// The smallest window: one key in 2^24.
const WIDTH_MIN: u64 = 1 << 40;

/// How many keys may be compared at a time: so many a second, and what was not taken in half a second is forgone.
#[derive(Debug)]
pub(super) struct Budget {
    /// Keys a second, which are thousandths a millisecond.
    rate: u64,
    thousandths: u64,
    at_ms: u64,
}

impl Budget {
    pub(super) fn new(rate: u32, now_ms: u64) -> Self {
        Self { rate: u64::from(rate), thousandths: 0, at_ms: now_ms }
    }

    /// How many there are now.
    pub(super) fn keys(&mut self, now_ms: u64) -> usize {
        let earned = now_ms.saturating_sub(self.at_ms).saturating_mul(self.rate);
        self.at_ms = now_ms;
        let most = (self.rate * 500).max(1_000);
        self.thousandths = self.thousandths.saturating_add(earned).min(most);
        (self.thousandths / 1_000) as usize
    }

    /// Takes of what [`Budget::keys`] has told.
    pub(super) fn take(&mut self, keys: usize) {
        self.thousandths = self.thousandths.saturating_sub(keys as u64 * 1_000);
    }

    /// Gives back what was taken for keys that nobody was asked for.
    pub(super) fn give_back(&mut self, keys: usize) {
        self.thousandths += keys as u64 * 1_000;
    }
}

/// Whose changes are told: all, or as large a part as can be followed.
#[derive(Debug)]
pub(super) struct Window {
    window: HashWindow,
    quiet_ticks: u32,
    ticks: u32,
}

impl Window {
    /// All keys.
    pub(super) fn new() -> Self {
        Self { window: HashWindow { start: 0, width: u64::MAX }, quiet_ticks: 0, ticks: 0 }
    }

    pub(super) fn get(&self) -> HashWindow {
        self.window
    }

    /// A tick has brought so many changes, and others were dropped. The new window, if it is another from now on.
    pub(super) fn tick(&mut self, changes: usize, dropped: u64, random: u64) -> Option<HashWindow> {
        let before = self.window;
        self.ticks += 1;
        self.quiet_ticks = if changes < CHANGES_PER_TICK_LOW && dropped == 0 { self.quiet_ticks + 1 } else { 0 };
        if dropped > 0 || changes > CHANGES_PER_TICK_MAX {
            let width = (before.width / 2).max(WIDTH_MIN);
            self.window = HashWindow { start: random, width };
            self.ticks = 0;
        } else if self.quiet_ticks >= TICKS_TO_WIDEN {
            // The same start: what is followed stays so.
            self.window.width = before.width.saturating_mul(2);
            self.quiet_ticks = 0;
        } else if self.ticks >= TICKS_TO_MOVE {
            self.ticks = 0;
            if before.width < u64::MAX {
                self.window.start = random;
            }
        }
        (self.window != before).then_some(self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_so_many_a_second_and_does_not_pile_up() {
        let mut budget = Budget::new(10, 0);
        let mut taken = 0;
        for now_ms in (0..=60_000).step_by(50) {
            let keys = budget.keys(now_ms);
            budget.take(keys);
            taken += keys;
        }
        assert_eq!(taken, 600);
        assert_eq!(budget.keys(3_600_000), 5, "an hour of waiting is no reason for a burst");
        budget.take(3);
        budget.give_back(1);
        assert_eq!(budget.keys(3_600_000), 3);
        let mut slow = Budget::new(1, 0);
        assert_eq!((slow.keys(999), slow.keys(1_000), slow.keys(5_000)), (0, 1, 1));
    }

    #[test]
    fn the_window_follows_what_can_be_followed() {
        let mut window = Window::new();
        assert_eq!(window.tick(CHANGES_PER_TICK_MAX, 0, 5), None);
        let half = window.tick(CHANGES_PER_TICK_MAX + 1, 0, 5).expect("too many");
        assert_eq!((half.start, half.width), (5, u64::MAX / 2));
        let quarter = window.tick(0, 1, 6).expect("some were dropped");
        assert_eq!((quarter.start, quarter.width), (6, u64::MAX / 4));
        for _ in 1..TICKS_TO_WIDEN {
            assert_eq!(window.tick(0, 0, 7), None);
        }
        let half = window.tick(0, 0, 7).expect("it was quiet");
        assert_eq!((half.start, half.width), (6, u64::MAX / 4 * 2));
        for _ in 0..100 {
            window.tick(0, 1, 8);
        }
        assert_eq!(window.get().width, WIDTH_MIN);
        let moved = (0..TICKS_TO_MOVE).find_map(|_| window.tick(CHANGES_PER_TICK_LOW, 0, 9));
        assert_eq!(moved, Some(HashWindow { start: 9, width: WIDTH_MIN }), "each key has its turn");
    }

    #[test]
    fn a_window_on_all_keys_stays() {
        let mut window = Window::new();
        assert!((0..TICKS_TO_MOVE * 2).all(|tick| window.tick(0, 0, tick.into()).is_none()));
    }
}
