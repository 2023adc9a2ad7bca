//! A queue that several fill and one empties, bounded in bytes: a pure value.
//!
//! Each has its turn when something is taken, and when there is too much, the oldest goes of the one who has most: so who
//! floods it loses its own.

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(crate) struct FairQueue<K, T> {
    queues: BTreeMap<K, Queue<T>>,
    /// Whose turn it is; each who has something is in it once.
    turns: VecDeque<K>,
    bytes: usize,
    limit_bytes: usize,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
}

impl<K: Ord + Copy, T> FairQueue<K, T> {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { queues: BTreeMap::new(), turns: VecDeque::new(), bytes: 0, limit_bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Appends; gives how many had to go. What was appended stays, if it is alone.
    pub(crate) fn push(&mut self, from: K, bytes: usize, item: T) -> usize {
        let queue = self.queues.entry(from).or_insert_with(|| {
            self.turns.push_back(from);
            Queue { items: VecDeque::new(), bytes: 0 }
        });
        queue.items.push_back((bytes, item));
        queue.bytes += bytes;
        self.bytes += bytes;
        let mut dropped = 0;
        while self.bytes > self.limit_bytes && self.queues.values().map(|queue| queue.items.len()).sum::<usize>() > 1 {
            let most = self.queues.iter().max_by_key(|(_, queue)| queue.bytes).map(|(from, _)| *from);
            let Some(most) = most else { break };
            self.take(most);
            if !self.queues.contains_key(&most) {
                self.turns.retain(|from| *from != most);
            }
            dropped += 1;
        }
        dropped
    }

    /// The oldest of the one whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let from = self.turns.pop_front()?;
        let item = self.take(from);
        if self.queues.contains_key(&from) {
            self.turns.push_back(from);
        }
        item
    }

    pub(crate) fn clear(&mut self) {
        self.queues.clear();
        self.turns.clear();
        self.bytes = 0;
    }

    fn take(&mut self, from: K) -> Option<T> {
        let queue = self.queues.get_mut(&from)?;
        let (bytes, item) = queue.items.pop_front()?;
        queue.bytes -= bytes;
        self.bytes -= bytes;
        if queue.items.is_empty() {
            self.queues.remove(&from);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_has_its_turn_and_keeps_its_order() {
        let mut queue = FairQueue::new(1000);
        for n in 0..4 {
            queue.push('a', 10, ('a', n));
        }
        queue.push('b', 10, ('b', 0));
        queue.push('b', 10, ('b', 1));
        let taken: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(taken, [('a', 0), ('b', 0), ('a', 1), ('b', 1), ('a', 2), ('a', 3)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn who_floods_loses_its_own_oldest() {
        let mut queue = FairQueue::new(100);
        queue.push('b', 30, ('b', 0));
        let dropped: usize = (0..50).map(|n| queue.push('a', 10, ('a', n))).sum();
        assert_eq!(dropped, 43);
        assert_eq!(queue.pop(), Some(('b', 0)));
        assert_eq!(queue.pop(), Some(('a', 43)));
    }

    #[test]
    fn one_that_is_larger_than_the_limit_is_kept_alone() {
        let mut queue = FairQueue::new(100);
        queue.push('a', 50, 0);
        assert_eq!(queue.push('b', 500, 1), 1, "the largest holder goes first, and that is not what came last");
        assert_eq!(queue.pop(), Some(0));
    }

    proptest! {
        #[test]
        fn bytes_are_bounded_and_nothing_is_counted_twice(pushes in proptest::collection::vec((0u8..4, 1usize..60), 1..200)) {
            let mut queue = FairQueue::new(200);
            let (mut dropped, mut taken) = (0, 0);
            for (n, (from, bytes)) in pushes.iter().enumerate() {
                dropped += queue.push(*from, *bytes, n);
                prop_assert!(queue.bytes <= 200);
                if n % 3 == 0 {
                    taken += usize::from(queue.pop().is_some());
                }
            }
            taken += std::iter::from_fn(|| queue.pop()).count();
            prop_assert_eq!(dropped + taken, pushes.len());
            prop_assert_eq!((queue.bytes, queue.turns.len()), (0, 0));
        }
    }
}
