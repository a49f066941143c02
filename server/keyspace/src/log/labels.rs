//! Which list a segment is in, so that lists of any length are put together at once: segments have labels, and labels lists.
//!
//! ```text
//!     segments    s1   s2   s3      s4   s5
//!                  ╲   │   ╱          ╲  │
//!     labels        ►  a               ► b        of two lists, before and …
//!
//!                      a ◄────────────── b        … after the list of b was put into that of a
//!                      │
//!                    list 3
//! ```
//!
//! A forest of disjoint sets (Galler and Fischer 1964), linked by rank, so a path has at most as many steps as the number of
//! labels has bits. A label goes when nothing names it any more, so there are never many more labels than segments.

use super::{LISTS, ListNumber};

/// The label of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Label(u32);

#[derive(Clone, Copy, Debug)]
enum Node {
    /// The label of a list, by which new segments of it go.
    List {
        list: u8,
        rank: u8,
    },
    /// In the list of another label.
    Within(Label),
    Vacant,
}

/// The labels of a log.
#[derive(Debug)]
pub(super) struct Labels {
    nodes: Vec<Node>,
    /// Segments and labels that name each, by number.
    uses: Vec<u32>,
    vacant: Vec<u32>,
    of_lists: [Label; LISTS],
}

impl Label {
    #[inline]
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Default for Labels {
    fn default() -> Self {
        let list = |number: usize| Node::List { list: number as u8, rank: 0 };
        Self {
            nodes: (0..LISTS).map(list).collect(),
            uses: vec![0; LISTS],
            vacant: Vec::new(),
            of_lists: std::array::from_fn(|number| Label(number as u32)),
        }
    }
}

impl Labels {
    /// The label of a list, named by a segment from now on.
    pub(super) fn name(&mut self, list: ListNumber) -> Label {
        let label = self.of_lists[usize::from(list.0)];
        self.uses[label.index()] += 1;
        label
    }

    /// A segment does not name this label any more.
    pub(super) fn release(&mut self, mut label: Label) {
        loop {
            self.uses[label.index()] -= 1;
            let Node::Within(outer) = self.nodes[label.index()] else { return };
            if self.uses[label.index()] > 0 {
                return;
            }
            self.nodes[label.index()] = Node::Vacant;
            self.vacant.push(label.0);
            label = outer;
        }
    }

    /// The number of the list of a label.
    #[inline]
    pub(super) fn list(&self, mut label: Label) -> usize {
        loop {
            match self.nodes[label.index()] {
                Node::List { list, .. } => return list.into(),
                Node::Within(outer) => label = outer,
                Node::Vacant => unreachable!("a label that is named is in use"),
            }
        }
    }

    /// From now on the segments of one list are in another.
    pub(super) fn merge(&mut self, from: ListNumber, into: ListNumber) {
        let [one, other] = [from, into].map(|list| self.of_lists[usize::from(list.0)]);
        if from == into || self.uses[one.index()] == 0 {
            return;
        }
        if self.uses[other.index()] == 0 {
            return self.swap(from, into);
        }
        let (one_rank, other_rank) = (self.rank(one), self.rank(other));
        let (outer, inner) = if one_rank > other_rank { (one, other) } else { (other, one) };
        let rank = one_rank.max(other_rank) + u8::from(one_rank == other_rank);
        self.nodes[inner.index()] = Node::Within(outer);
        self.uses[outer.index()] += 1;
        self.give(into, outer, rank);
        let fresh = self.unused();
        self.give(from, fresh, 0);
    }

    /// Bytes of the labels.
    pub(super) fn bytes(&self) -> usize {
        self.nodes.capacity() * (size_of::<Node>() + size_of::<u32>()) + self.vacant.capacity() * size_of::<u32>()
    }

    fn swap(&mut self, one: ListNumber, other: ListNumber) {
        let [label, other_label] = [one, other].map(|list| self.of_lists[usize::from(list.0)]);
        let (rank, other_rank) = (self.rank(label), self.rank(other_label));
        self.give(other, label, rank);
        self.give(one, other_label, other_rank);
    }

    fn give(&mut self, list: ListNumber, label: Label, rank: u8) {
        self.of_lists[usize::from(list.0)] = label;
        self.nodes[label.index()] = Node::List { list: list.0, rank };
    }

    fn rank(&self, label: Label) -> u8 {
        match self.nodes[label.index()] {
            Node::List { rank, .. } => rank,
            Node::Within(_) | Node::Vacant => unreachable!("the label of a list is in no other"),
        }
    }

    fn unused(&mut self) -> Label {
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(Node::Vacant);
            self.uses.push(0);
            self.nodes.len() as u32 - 1
        });
        Label(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Open(u8),
        Free(usize),
        Merge(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let list = || 0..LISTS as u8;
        prop_oneof![
            4 => list().prop_map(Step::Open),
            3 => any::<usize>().prop_map(Step::Free),
            2 => (list(), list()).prop_map(|(from, into)| Step::Merge(from, into)),
        ]
    }

    proptest! {
        #[test]
        fn segments_are_where_a_relabelling_of_each_would_have_them(steps in prop::collection::vec(step(), 1..400)) {
            let mut labels = Labels::default();
            let mut segments: Vec<(Label, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Open(list) => segments.push((labels.name(ListNumber(list)), list)),
                    Step::Free(_) if segments.is_empty() => {}
                    Step::Free(choice) => {
                        let (label, _) = segments.swap_remove(choice % segments.len());
                        labels.release(label);
                    }
                    Step::Merge(from, into) => {
                        labels.merge(ListNumber(from), ListNumber(into));
                        segments.iter_mut().filter(|(_, list)| *list == from).for_each(|(_, list)| *list = into);
                    }
                }
                for &(label, list) in &segments {
                    prop_assert_eq!(labels.list(label), usize::from(list));
                }
                let in_use = labels.nodes.iter().filter(|node| !matches!(node, Node::Vacant)).count();
                prop_assert!(in_use <= LISTS + 2 * segments.len(), "{} labels for {} segments", in_use, segments.len());
            }
            segments.drain(..).for_each(|(label, _)| labels.release(label));
            prop_assert!(labels.uses.iter().all(|&uses| uses == 0), "nothing names a label");
            let in_use = labels.nodes.iter().filter(|node| !matches!(node, Node::Vacant)).count();
            prop_assert_eq!(in_use, LISTS);
        }
    }
}
