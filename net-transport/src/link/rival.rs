//! Which of two connections with one node stays.
//!
//! Both ends must come to the same answer without another word. Each dial has a number of its end, and each hello says
//! how many dials its end had begun by then. So both ends know whether a dial was begun before or after the other
//! connection had been greeted: after, and it is newer and wins; if each was begun before, the dials have crossed, and
//! that of the smaller node id stays.

use super::control::Hello;
use crate::NodeId;

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    mine: bool,
    /// The number of the dial, by the end that has dialled.
    number: u64,
    /// How many dials each end had begun when it said hello.
    begun_by_me: u64,
    begun_by_them: u64,
}

/// What a new connection means for the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// It takes over.
    Newer,
    /// It takes over, and the other was made at the same time.
    CrossedWins,
    /// It is drained.
    Loses,
}

impl Dial {
    pub(crate) fn new(mine: bool, my_hello: &Hello, their_hello: &Hello) -> Self {
        let number = if mine { my_hello.dial } else { their_hello.dial };
        Self { mine, number, begun_by_me: my_hello.dials, begun_by_them: their_hello.dials }
    }

    /// Has this end dialled?
    pub(crate) fn mine(&self) -> bool {
        self.mine
    }

    /// What `self`, a new connection, means for `current`.
    pub(crate) fn against(&self, current: &Self, me: &NodeId, them: &NodeId) -> Rival {
        let newer = |yes| if yes { Rival::Newer } else { Rival::Loses };
        if self.mine == current.mine {
            return newer(self.number > current.number);
        }
        let (by_me, by_them) = if self.mine { (self, current) } else { (current, self) };
        // Did each end begin its dial before it greeted on the other's?
        let mine_before = by_me.number <= by_them.begun_by_me;
        let theirs_before = by_them.number <= by_me.begun_by_them;
        match (mine_before, theirs_before) {
            (true, true) if self.mine == (me < them) => Rival::CrossedWins,
            (true, true) => Rival::Loses,
            (true, false) => newer(!self.mine),
            (false, _) => newer(self.mine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: NodeId = NodeId::from_bytes([1; 32]);
    const LARGE: NodeId = NodeId::from_bytes([2; 32]);

    /// A connection dialled by SMALL or LARGE: its number, and how many dials each had begun when it greeted.
    #[derive(Clone, Copy)]
    struct Made {
        by_small: bool,
        number: u64,
        small: u64,
        large: u64,
    }

    impl Made {
        fn seen_by(self, small: bool) -> Dial {
            let (begun_by_me, begun_by_them) = if small { (self.small, self.large) } else { (self.large, self.small) };
            Dial { mine: self.by_small == small, number: self.number, begun_by_me, begun_by_them }
        }
    }

    /// Does the second stay? Asked at both ends and in both orders of arrival; all must agree.
    fn second_stays(first: Made, second: Made) -> bool {
        let at = |small: bool, new: Made, old: Made| {
            let (me, them) = if small { (SMALL, LARGE) } else { (LARGE, SMALL) };
            new.seen_by(small).against(&old.seen_by(small), &me, &them) != Rival::Loses
        };
        let answers =
            [at(true, second, first), at(false, second, first), !at(true, first, second), !at(false, first, second)];
        assert!(answers.iter().all(|answer| *answer == answers[0]), "both ends agree: {answers:?}");
        answers[0]
    }

    #[test]
    fn later_dial_of_one_end_wins() {
        let first = Made { by_small: true, number: 3, small: 3, large: 0 };
        assert!(second_stays(first, Made { number: 4, small: 4, ..first }));
        let first = Made { by_small: false, number: 3, small: 0, large: 5 };
        assert!(second_stays(first, Made { number: 9, large: 9, ..first }));
    }

    #[test]
    fn crossed_dials_leave_that_of_the_smaller_id() {
        let by_small = Made { by_small: true, number: 1, small: 1, large: 1 };
        let by_large = Made { by_small: false, number: 1, small: 1, large: 1 };
        assert!(!second_stays(by_small, by_large));
        assert!(second_stays(by_large, by_small));
    }

    #[test]
    fn dial_begun_after_the_other_was_greeted_is_newer() {
        // LARGE lost the first connection unnoticed by SMALL, and dials.
        let first = Made { by_small: true, number: 1, small: 1, large: 0 };
        assert!(second_stays(first, Made { by_small: false, number: 1, small: 1, large: 1 }));
        // And the other way round.
        let first = Made { by_small: false, number: 7, small: 2, large: 7 };
        assert!(second_stays(first, Made { by_small: true, number: 3, small: 3, large: 7 }));
    }
}
