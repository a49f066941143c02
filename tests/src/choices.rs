//! Decisions of a test that makes up its commands: a list that proptest draws and shrinks.

/// Source of decisions; choice 0 when the list is used up, so a generator lets 0 stand for its plainest answer.
#[derive(Debug)]
pub struct Choices<'a> {
    left: &'a [u16],
}

impl<'a> Choices<'a> {
    /// Decisions from a list.
    #[must_use]
    pub fn new(list: &'a [u16]) -> Self {
        Self { left: list }
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        match self.left.split_first() {
            Some((first, rest)) => {
                self.left = rest;
                usize::from(*first) % count
            }
            None => 0,
        }
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'p>(&mut self, from: &[&'p str]) -> &'p str {
        from[self.below(from.len())]
    }

    /// True about once in `count` times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }
}
