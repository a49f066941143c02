//! Which transactions a reader sees now.
//!
//! The log has a commit before readers see it: a transaction is decoded as soon as its commit is on disk, and is visible only when it
//! has left the list of those under way, with synchronous replication much later. An entry that is invalidated in between is loaded
//! anew as it was before, and stays so. Hence a transaction is told of only when a snapshot shows it.
//!
//! ```text
//! 100:104:101,103     what is below 100, and 102, has ended; 101 and 103 are under way, 104 and later have not ended
//! ```

/// A `pg_snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The first that has not ended, nor any after it.
    end: u64,
    /// Those before it that are under way, ascending.
    open: Vec<u64>,
}

impl Snapshot {
    /// From its text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let _first = parts.next()?.parse::<u64>().ok()?;
        let end = parts.next()?.parse().ok()?;
        let open = parts.next()?.split(',').filter(|number| !number.is_empty());
        let mut open = open.map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
        open.sort_unstable();
        Some(Self { end, open })
    }

    /// Whether the transaction has ended, so that readers see it or never will. The log names it by the lower half of its number; no two
    /// that matter are 2^31 apart.
    pub(super) fn has_ended(&self, transaction: u32) -> bool {
        let distance = transaction.wrapping_sub(self.end as u32).cast_signed();
        let whole = self.end.wrapping_add_signed(i64::from(distance));
        whole < self.end && self.open.binary_search(&whole).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_has_not_ended() {
        let snapshot = Snapshot::parse("100:104:103,101").expect("a snapshot");
        let ended: Vec<u32> = (98..107).filter(|number| snapshot.has_ended(*number)).collect();
        assert_eq!(ended, [98, 99, 100, 102]);
        assert!(Snapshot::parse("5:5:").expect("nothing is open").has_ended(4));
    }

    #[test]
    fn numbers_of_32_bits_are_those_next_to_the_end() {
        let wrap = 7u64 << 32;
        let snapshot = Snapshot::parse(&format!("{}:{}:{}", wrap - 2, wrap + 3, wrap - 1)).expect("a snapshot");
        for (number, has_ended) in
            [(u32::MAX - 1, true), (u32::MAX, false), (0, true), (2, true), (3, false), (4, false)]
        {
            assert_eq!(snapshot.has_ended(number), has_ended, "{number}");
        }
    }

    #[test]
    fn other_texts_are_no_snapshots() {
        for text in ["", "1", "1:2", "1:2:x", "a:2:", "1:-2:"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }
}
