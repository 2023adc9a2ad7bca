//! How full a queue is, and how long others wait for it: pure values.
//!
//! Of several who take the frames of a pair, one may be full while another has room. The others wait for it a tenth of a
//! second at most; after that it is *slow*, and nobody waits for it until half its queue has drained. One that keeps
//! up only by making the others wait again and again is slow as well: what they have waited in vain, while another had
//! hardly anything left to send, is forgotten at one part in a hundred of the time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long others wait for one that is full.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);
/// What was waited is forgotten at this part of the time.
const FORGETTING: u32 = 100;

/// How many bytes a bounded queue holds. The last quarter is for what is on its way when those who ask are told that
/// there is no room.
#[derive(Debug)]
pub(crate) struct Gauge {
    used: AtomicUsize,
    limit: usize,
    /// It has been full for so long that nobody waits for it.
    slow: AtomicBool,
}

/// What a queue does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Taken,
    Full,
    /// Nothing is taken until half has drained, so that what is left out is one piece.
    Slow,
}

impl Gauge {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit: limit.max(4), slow: AtomicBool::new(false) }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Would a frame be taken? While less than the limit is queued it is; the last one may reach over it.
    pub(crate) fn check(&self) -> Fill {
        let used = self.used();
        if used >= self.limit {
            Fill::Full
        } else if self.is_slow(used) {
            Fill::Slow
        } else {
            Fill::Taken
        }
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives bytes back; true if it is worth for those who wait for room to look again.
    #[must_use]
    pub(crate) fn sub(&self, bytes: usize) -> bool {
        let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
        let after = before - bytes;
        let crossed = |mark: usize| before >= mark && after < mark;
        crossed(self.limit / 4 * 3) || crossed(self.limit / 2 + 1)
    }

    pub(crate) fn standing(&self) -> Standing {
        let used = self.used();
        if self.is_slow(used) {
            Standing::Slow
        } else if used >= self.limit / 4 * 3 {
            Standing::Full
        } else if used >= self.limit / 4 {
            Standing::Room
        } else {
            Standing::Plenty
        }
    }

    /// Nobody waits for it from now on, until half has drained.
    pub(crate) fn set_slow(&self) {
        self.slow.store(true, Ordering::Release);
    }

    fn is_slow(&self, used: usize) -> bool {
        if used <= self.limit / 2 && self.slow.load(Ordering::Acquire) {
            self.slow.store(false, Ordering::Release);
        }
        self.slow.load(Ordering::Acquire)
    }
}

/// How one of those who take the frames of a pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// More than three quarters of it are empty.
    Plenty,
    Room,
    Full,
    /// Full for so long that nobody waits for it.
    Slow,
}

/// How long others have waited for one taker of a pair.
#[derive(Debug)]
pub(crate) struct Pace {
    /// They wait for it since then, in one go.
    since: Option<Instant>,
    /// Another has hardly anything left to send meanwhile.
    in_vain: bool,
    /// What they have waited in vain, up to `counted`.
    waited: Duration,
    counted: Option<Instant>,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { since: None, in_vain: false, waited: Duration::ZERO, counted: None }
    }

    /// It is full and another has room, perhaps `plenty`: until when others wait for it, or nothing if they have waited
    /// long enough.
    pub(crate) fn wait(&mut self, now: Instant, plenty: bool) -> Option<Instant> {
        self.count(now);
        self.in_vain = plenty;
        let in_one_go = *self.since.get_or_insert(now) + PATIENCE;
        let until = if plenty { in_one_go.min(now + (PATIENCE - self.waited)) } else { in_one_go };
        (until > now).then_some(until)
    }

    /// Nobody waits for it.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.count(now);
        (self.since, self.in_vain) = (None, false);
    }

    fn count(&mut self, now: Instant) {
        let lap = now.saturating_duration_since(self.counted.unwrap_or(now));
        self.counted = Some(now);
        self.waited =
            if self.in_vain { (self.waited + lap).min(PATIENCE) } else { self.waited.saturating_sub(lap / FORGETTING) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn gauge_leaves_a_quarter_for_what_is_on_its_way() {
        let gauge = Gauge::new(1000);
        let standing = |used: usize| {
            gauge.add(used);
            let standing = (gauge.standing(), gauge.check());
            let _ = gauge.sub(used);
            standing
        };
        assert_eq!(standing(249), (Standing::Plenty, Fill::Taken));
        assert_eq!(standing(250), (Standing::Room, Fill::Taken));
        assert_eq!(standing(749), (Standing::Room, Fill::Taken));
        assert_eq!(standing(750), (Standing::Full, Fill::Taken));
        assert_eq!(standing(999), (Standing::Full, Fill::Taken));
        assert_eq!(standing(1000), (Standing::Full, Fill::Full));
    }

    #[test]
    fn slow_queue_takes_nothing_until_half_has_drained() {
        let gauge = Gauge::new(1000);
        gauge.add(800);
        gauge.set_slow();
        assert_eq!((gauge.standing(), gauge.check()), (Standing::Slow, Fill::Slow));
        assert!(gauge.sub(100), "three quarters were crossed");
        assert!(!gauge.sub(199));
        assert_eq!((gauge.standing(), gauge.check()), (Standing::Slow, Fill::Slow));
        assert!(gauge.sub(1), "half was crossed");
        assert_eq!((gauge.standing(), gauge.check()), (Standing::Room, Fill::Taken));
    }

    #[test]
    fn others_wait_a_tenth_of_a_second_in_one_go() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        assert_eq!(pace.wait(now, false), Some(now + PATIENCE));
        assert_eq!(pace.wait(now + 60 * MS, false), Some(now + PATIENCE));
        assert_eq!(pace.wait(now + PATIENCE, false), None);
        // Next time it is waited for anew: nobody has waited in vain.
        pace.rest(now + PATIENCE);
        assert_eq!(pace.wait(now + PATIENCE, false), Some(now + 2 * PATIENCE));
    }

    #[test]
    fn waits_in_vain_add_up_and_are_forgotten_slowly() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        let mut waited = Duration::ZERO;
        // Full for 20 ms, then room for 5 ms, again and again.
        for _ in 0..400 {
            match pace.wait(now, true) {
                Some(until) => {
                    let lap = (until - now).min(20 * MS);
                    now += lap;
                    waited += lap;
                }
                None => now += 20 * MS,
            }
            pace.rest(now);
            now += 5 * MS;
        }
        // 100 ms, and one part in a hundred of ten seconds.
        assert!(waited >= PATIENCE && waited <= 2 * PATIENCE + 5 * MS, "{waited:?}");
        let later = now + 10 * PATIENCE * FORGETTING;
        pace.rest(later);
        assert_eq!(pace.wait(later, true), Some(later + PATIENCE));
    }

    #[test]
    fn wait_that_was_given_up_counts_no_more_than_once() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        pace.wait(now, true);
        let later = now + 3600 * 1000 * MS;
        assert_eq!(pace.wait(later, true), None);
        pace.rest(later);
        let again = later + PATIENCE * FORGETTING;
        pace.rest(again);
        assert_eq!(pace.wait(again, true), Some(again + PATIENCE));
    }
}
