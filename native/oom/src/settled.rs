//! The processes placed by earlier walks over all processes, and skipped by the next walk.
//!
//! A walk of 100,000 processes with the set as lists of Erlang took 10 to 18 MB of heap for 50 ms.
//! The watcher read the heap as growth, and growth hurries the next walk. Here the set is two
//! vectors, kept from walk to walk. A process is one word, its pid.

/// The set; each walk reads and replaces the set.
#[derive(Debug, Default)]
pub struct Settled {
    /// Ascending.
    known: Vec<u64>,
    /// All processes of the walk under way, ascending.
    seen: Vec<u64>,
}

impl Settled {
    /// Begins a walk over `all` processes and returns those not settled, ascending. The set changes
    /// with [`Settled::settle`] only: processes of a walk that fails are returned again.
    pub fn begin(&mut self, all: impl Iterator<Item = u64>) -> Vec<u64> {
        self.seen.clear();
        self.seen.extend(all);
        self.seen.sort_unstable();
        let mut known = self.known.iter().peekable();
        self.seen
            .iter()
            .filter(|process| {
                while known.next_if(|other| other < process).is_some() {}
                known.peek() != Some(process)
            })
            .copied()
            .collect()
    }

    /// Ends the walk: all its processes are settled but `outside`. Ended processes leave the set.
    pub fn settle(&mut self, mut outside: Vec<u64>) {
        outside.sort_unstable();
        self.seen
            .retain(|process| outside.binary_search(process).is_err());
        std::mem::swap(&mut self.known, &mut self.seen);
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_walk_returns_what_no_walk_has_settled() {
        let mut settled = Settled::default();
        assert_eq!(settled.begin([3, 1, 2].into_iter()), [1, 2, 3]);
        settled.settle(vec![2]);
        assert_eq!(settled.begin([4, 1, 2, 3].into_iter()), [2, 4]);
        settled.settle(vec![]);
        assert_eq!(settled.begin([4, 1, 2, 3].into_iter()), [] as [u64; 0]);
    }

    #[test]
    fn a_walk_without_an_end_settles_nobody() {
        let mut settled = Settled::default();
        assert_eq!(settled.begin([1].into_iter()), [1]);
        assert_eq!(settled.begin([1, 2].into_iter()), [1, 2]);
    }

    #[test]
    fn an_ended_process_is_forgotten() {
        let mut settled = Settled::default();
        settled.begin([1, 2].into_iter());
        settled.settle(vec![]);
        settled.begin([2].into_iter());
        settled.settle(vec![]);
        // Another process has the number now.
        assert_eq!(settled.begin([1, 2].into_iter()), [1]);
    }

    proptest! {
        #[test]
        fn like_sets(walks in prop::collection::vec(
            (prop::collection::btree_set(0u64..50, 0..40), prop::collection::vec(0u64..50, 0..10)),
            1..8,
        )) {
            let mut settled = Settled::default();
            let mut known = BTreeSet::new();
            for (all, outside) in walks {
                let fresh: Vec<u64> = all.difference(&known).copied().collect();
                prop_assert_eq!(settled.begin(all.iter().rev().copied()), fresh);
                known = all.iter().filter(|it| !outside.contains(it)).copied().collect();
                settled.settle(outside);
            }
        }
    }
}
