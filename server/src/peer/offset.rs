//! How far the clock of another node is ahead of ours: what is told in its time is never too late.

/// The owner's time minus ours, in ms: the greatest that was heard lately, as that was the least time on its way; it is never too late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offset {
    /// Of this window and the one before.
    ms: [Option<i64>; 2],
    since_ms: u64,
}

/// How long the greatest offset counts: clocks of two machines drift by some ms in that time, at worst.
const OFFSET_WINDOW_MS: u64 = 20_000;

impl Offset {
    pub(super) fn is_unknown(&self) -> bool {
        self.ms[0].is_none()
    }

    /// The owner's time, heard at `now_ms`.
    pub(super) fn hear(&mut self, owner_ms: u64, now_ms: u64) {
        // Both were cut to whole ms.
        let heard = owner_ms as i64 - now_ms as i64 - 1;
        if now_ms >= self.since_ms + OFFSET_WINDOW_MS {
            *self = Self { ms: [Some(heard), self.ms[0]], since_ms: now_ms };
        } else {
            self.ms[0] = self.ms[0].max(Some(heard));
        }
    }

    /// The owner's time at a time of ours, or a little earlier.
    pub(super) fn owners(&self, at_ms: u64) -> u64 {
        let offset = self.ms.iter().flatten().max().copied().unwrap_or(i64::MIN / 4);
        u64::try_from((at_ms as i64).saturating_add(offset)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_time_is_never_told_too_late() {
        let mut offset = Offset::default();
        assert!(offset.is_unknown());
        // The owner is 5,000 ms ahead; what it says takes 3, 20 and 1 ms.
        for (heard_ms, way_ms) in [(1_000, 3), (1_500, 20), (2_000, 1)] {
            offset.hear(heard_ms - way_ms + 5_000, heard_ms);
            assert!(offset.owners(10_000) <= 15_000);
        }
        assert_eq!(offset.owners(10_000), 14_998, "the quickest counts, less a ms for what was cut off");
        // Its clock falls behind: after two windows the old times count no more.
        for turn in 1..=5 {
            offset.hear(turn * OFFSET_WINDOW_MS + 4_900, turn * OFFSET_WINDOW_MS + 2_000);
        }
        assert_eq!(offset.owners(200_000), 202_899);
    }
}
