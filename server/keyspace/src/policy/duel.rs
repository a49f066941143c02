//! Who stays: the control byte of an entry, and the duel of a candidate against a victim.
//!
//! ```text
//!     control byte:   ├ frequency, 4 bits ┤├ epoch, 3 bits ┤├ visited, 1 bit ┤
//! ```
//!
//! A hit is one store to this byte: frequency up by one, epoch to the present one, visited. A shard's epoch advances once in
//! so many requests, and a frequency counts half as much for each epoch since it was written, so nothing has to be walked to
//! forget old use. Epochs are counted modulo 8: who walks past an entry should write its byte anew ([`Control::refreshed`]),
//! else a byte that is 8 epochs old would count in full again.

use super::sketch::FREQUENCY_MAX;

/// Epochs that a control byte tells apart.
pub const EPOCHS: u8 = 8;

const VISITED: u8 = 1;
const EPOCH_SHIFT: u8 = 1;
const FREQUENCY_SHIFT: u8 = 4;

/// Frequencies are weighed as this many parts of one, and every entry has one part for being there: so that among entries
/// never used again the smaller one still wins. 20 is the optimum of a flat curve from 10 to 50.
const PARTS: u64 = 20;

/// The control byte of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control(pub u8);

/// The present epoch of a shard, below [`EPOCHS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u8);

/// What is to be kept most of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// Hits: small entries are worth more per byte.
    #[default]
    Objects,
    /// Bytes of hits: sizes do not count in a duel.
    Bytes,
}

/// What of an entry counts in a duel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rated {
    /// Up to [`FREQUENCY_MAX`].
    pub frequency: u8,
    /// All that the entry costs.
    pub bytes: u32,
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1) % EPOCHS)
    }

    /// So many epochs earlier.
    #[inline]
    #[must_use]
    pub fn before(self, epochs: u8) -> Self {
        Self(self.0.wrapping_sub(epochs) & (EPOCHS - 1))
    }

    /// Epochs from `earlier` to this one, below [`EPOCHS`].
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Self) -> u8 {
        self.0.wrapping_sub(earlier.0) & (EPOCHS - 1)
    }

    /// Its number, below [`EPOCHS`].
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl Control {
    /// Of an entry that is stored now: as frequent as its key was (see [`super::sketch::Sketch::estimate`]) and one use more.
    #[inline]
    #[must_use]
    pub fn stored(frequency_before: u8, epoch: Epoch) -> Self {
        Self::new((frequency_before + 1).min(FREQUENCY_MAX), epoch, 0)
    }

    /// How often the entry was used, as it counts at this epoch.
    #[inline]
    #[must_use]
    pub fn frequency(self, epoch: Epoch) -> u8 {
        self.0 >> FREQUENCY_SHIFT >> epoch.since(self.epoch())
    }

    /// The epoch it was written at.
    #[inline]
    #[must_use]
    pub fn epoch(self) -> Epoch {
        Epoch(self.0 >> EPOCH_SHIFT & (EPOCHS - 1))
    }

    /// After one use more.
    #[inline]
    #[must_use]
    pub fn touched(self, epoch: Epoch) -> Self {
        Self::new((self.frequency(epoch) + 1).min(FREQUENCY_MAX), epoch, VISITED)
    }

    /// Whether it was used since [`Control::unvisited`].
    #[inline]
    #[must_use]
    pub fn is_visited(self) -> bool {
        self.0 & VISITED != 0
    }

    /// The same, not visited, and written anew at this epoch.
    #[inline]
    #[must_use]
    pub fn unvisited(self, epoch: Epoch) -> Self {
        Self::new(self.frequency(epoch), epoch, 0)
    }

    /// The same, written anew at this epoch.
    #[inline]
    #[must_use]
    pub fn refreshed(self, epoch: Epoch) -> Self {
        Self::new(self.frequency(epoch), epoch, self.0 & VISITED)
    }

    #[inline]
    fn new(frequency: u8, epoch: Epoch, visited: u8) -> Self {
        Self(frequency << FREQUENCY_SHIFT | epoch.0 << EPOCH_SHIFT | visited)
    }
}

/// Whether a candidate for the main part takes the place of a victim: if its frequency per byte is larger.
///
/// A `margin` of one takes one use off the candidate. When keys come again in a circle that does not fit, every candidate is
/// ahead of every victim by its latest use; with the margin a part of the circle stays.
#[inline]
#[must_use]
pub fn candidate_wins(candidate: Rated, victim: Rated, margin: u8, objective: Objective) -> bool {
    let worth = |frequency: u8| PARTS * u64::from(frequency) + 1;
    let candidate_worth = worth(candidate.frequency.saturating_sub(margin));
    let victim_worth = worth(victim.frequency);
    match objective {
        // Per byte: worth / bytes against worth / bytes. Below 2^9 × 2^32.
        Objective::Objects => candidate_worth * u64::from(victim.bytes) > victim_worth * u64::from(candidate.bytes),
        Objective::Bytes => candidate_worth > victim_worth,
    }
}

/// Of candidates that are used often, one in so many is not asked for more: a power of two.
const LUCKY_ONE_IN: u64 = 1 << 7;

/// Below that a candidate has no luck: so few uses prove nothing.
const LUCKY_FREQUENCY_MIN: u8 = 6;

/// Whether a candidate goes to the main part however its duels end. Without luck, who can make the sketch think highly of some
/// victims could keep all others out for ever.
#[inline]
#[must_use]
pub fn is_lucky(candidate: Rated, random: u64) -> bool {
    candidate.frequency >= LUCKY_FREQUENCY_MIN && random & (LUCKY_ONE_IN - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rated() -> impl Strategy<Value = Rated> {
        (0..=FREQUENCY_MAX, 1..=u32::MAX).prop_map(|(frequency, bytes)| Rated { frequency, bytes })
    }

    fn objective() -> impl Strategy<Value = Objective> {
        prop_oneof![Just(Objective::Objects), Just(Objective::Bytes)]
    }

    fn epoch_after(epochs: u8) -> Epoch {
        (0..epochs).fold(Epoch::default(), |epoch, _| epoch.next())
    }

    proptest! {
        #[test]
        fn who_wins_wins_with_more_use_and_fewer_bytes(
            candidate in rated(), victim in rated(), objective in objective(), margin in 0..2_u8,
            use_more in 0..=FREQUENCY_MAX, bytes_less in 0..u32::MAX,
        ) {
            let better = |rated: Rated| Rated {
                frequency: rated.frequency.saturating_add(use_more).min(FREQUENCY_MAX),
                bytes: rated.bytes.saturating_sub(bytes_less).max(1),
            };
            if candidate_wins(candidate, victim, margin, objective) {
                prop_assert!(candidate_wins(better(candidate), victim, margin, objective));
                prop_assert!(candidate_wins(candidate, victim, 0, objective));
            } else {
                prop_assert!(!candidate_wins(candidate, better(victim), margin, objective));
                prop_assert!(!candidate_wins(candidate, victim, margin + 1, objective));
            }
        }

        #[test]
        fn luck_is_for_few_and_only_for_those_used_often(candidate in rated(), random in any::<u64>()) {
            let lucky = (0..LUCKY_ONE_IN).filter(|&more| is_lucky(candidate, random.wrapping_add(more))).count();
            prop_assert_eq!(lucky, usize::from(candidate.frequency >= LUCKY_FREQUENCY_MIN));
        }

        #[test]
        fn two_entries_never_both_win(one in rated(), other in rated(), objective in objective(), margin in 0..2_u8) {
            prop_assert!(
                !(candidate_wins(one, other, margin, objective) && candidate_wins(other, one, margin, objective))
            );
        }

        #[test]
        fn sizes_count_for_objects_only(one in rated(), other in rated(), bytes in 1..=u32::MAX) {
            let resized = Rated { bytes, ..one };
            prop_assert_eq!(
                candidate_wins(one, other, 0, Objective::Bytes),
                candidate_wins(resized, other, 0, Objective::Bytes)
            );
        }

        #[test]
        fn a_frequency_halves_with_each_epoch_and_a_touch_adds_one(
            before in 0..=FREQUENCY_MAX, touches in 0..20_u8, start in 0..EPOCHS, age in 0..EPOCHS,
        ) {
            let mut control = Control::stored(before, epoch_after(start));
            for _ in 0..touches {
                control = control.touched(epoch_after(start));
            }
            let frequency = before.saturating_add(1).saturating_add(touches).min(FREQUENCY_MAX);
            prop_assert_eq!(control.frequency(epoch_after(start)), frequency);
            let later = epoch_after(start + age);
            prop_assert_eq!(control.frequency(later), frequency >> age);
            prop_assert_eq!(control.is_visited(), touches > 0);
            for anew in [control.unvisited(later), control.refreshed(later)] {
                prop_assert_eq!(anew.frequency(later), frequency >> age);
                prop_assert_eq!(anew.frequency(later.next()), frequency >> age >> 1);
            }
            prop_assert!(!control.unvisited(later).is_visited());
            prop_assert_eq!(control.refreshed(later).is_visited(), control.is_visited());
        }
    }

    #[test]
    fn among_equals_the_resident_stays_and_the_smaller_wins() {
        let small = Rated { frequency: 0, bytes: 100 };
        let large = Rated { frequency: 0, bytes: 101 };
        assert!(!candidate_wins(small, small, 0, Objective::Objects));
        assert!(candidate_wins(small, large, 0, Objective::Objects));
        assert!(!candidate_wins(large, small, 0, Objective::Objects));
        assert!(!candidate_wins(small, large, 0, Objective::Bytes));
    }
}
