//! Hybrid logical clocks: shown, used to break ties, never to decide cause.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far ahead of the wall a clock may be before it is no longer followed and its events are marked, in milliseconds.
pub const CLOCK_AHEAD_MS_MAX: u64 = 60_000;

const COUNTER_BITS: u32 = 16;
const UNIX_MS_MAX: u64 = (1 << 48) - 1;

/// A hybrid logical time: unix milliseconds (48 bits) and a counter (16 bits) for what happens within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The time of these parts. Milliseconds beyond 48 bits (the year 10,889) become the last that fits.
    #[must_use]
    pub const fn new(unix_ms: u64, counter: u16) -> Self {
        let unix_ms = if unix_ms > UNIX_MS_MAX { UNIX_MS_MAX } else { unix_ms };
        Self(unix_ms << COUNTER_BITS | counter as u64)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// Which one it is of those within the millisecond.
    #[must_use]
    pub const fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Is this more than [`CLOCK_AHEAD_MS_MAX`] past the wall clock?
    #[must_use]
    pub const fn is_suspect(self, unix_ms: u64) -> bool {
        self.unix_ms() > unix_ms.saturating_add(CLOCK_AHEAD_MS_MAX)
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.unix_ms(), self.counter())
    }
}

/// The clock of one node. Each time it gives is greater than all before, and than those it followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A clock that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: Hlc(0) }
    }

    /// The last time that was given or followed.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// The time of an event that happens now, when the wall clock shows `unix_ms`.
    pub fn tick(&mut self, unix_ms: u64) -> Hlc {
        // Past the last counter of a millisecond comes the first of the next: one addition does both.
        self.last = Hlc::new(unix_ms, 0).max(Hlc(self.last.0.saturating_add(1)));
        self.last
    }

    /// Follows a time from elsewhere, unless it is more than [`CLOCK_AHEAD_MS_MAX`] past the wall. Says whether it is
    /// followed; an event whose time is not is marked `time_suspect`.
    pub fn observe(&mut self, time: Hlc, unix_ms: u64) -> bool {
        if time.is_suspect(unix_ms) {
            return false;
        }
        self.last = self.last.max(time);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_even_when_the_wall_stands_or_falls_back() {
        let mut clock = HlcClock::new();
        let mut last = clock.tick(1_000);
        assert_eq!((last.unix_ms(), last.counter()), (1_000, 0));
        for wall in [1_000, 1_000, 999, 0, 1_001, 5] {
            let next = clock.tick(wall);
            assert!(next > last);
            last = next;
        }
        assert_eq!((last.unix_ms(), last.counter()), (1_001, 1));
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let mut clock = HlcClock::new();
        assert!(clock.observe(Hlc::new(1_000, u16::MAX), 1_000));
        assert_eq!(clock.tick(1_000), Hlc::new(1_001, 0));
    }

    #[test]
    fn a_clock_is_followed_up_to_60_s_past_the_wall() {
        let mut clock = HlcClock::new();
        assert!(clock.observe(Hlc::new(61_000, 7), 1_000));
        assert_eq!(clock.tick(1_000), Hlc::new(61_000, 8));
        assert!(!clock.observe(Hlc::new(61_001, 0), 1_000));
        assert!(!clock.observe(Hlc(u64::MAX), 1_000));
        assert_eq!(clock.tick(1_000), Hlc::new(61_000, 9));
        assert!(clock.observe(Hlc::new(5, 0), 1_000), "an old time is harmless");
        assert_eq!(clock.last(), Hlc::new(61_000, 9));
    }

    #[test]
    fn times_at_the_end_of_the_range_do_not_wrap() {
        assert_eq!(Hlc::new(u64::MAX, 3), Hlc(!0xffff | 3));
        let mut clock = HlcClock { last: Hlc(u64::MAX) };
        assert_eq!(clock.tick(0), Hlc(u64::MAX));
        assert!(!Hlc(u64::MAX).is_suspect(u64::MAX));
    }
}
