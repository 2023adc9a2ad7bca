//! What is sent, and what is counted where it arrives.
//!
//! | off | len | field |
//! |---:|---:|---|
//! | 0 | 8 | number of the event, little endian |
//! | 8 | 8 | nanoseconds of the machine's monotonic clock when `publish` was called; 0 if nobody asks |
//! | 16 | | bytes that do not compress |

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spread::Spread;

/// The smallest event that can carry the fields.
pub(super) const EVENT_LEN_MIN: usize = 16;

/// One buffer that is written over for each event, as an application's encoder would.
#[derive(Debug)]
pub(super) struct Payload(Vec<u8>);

impl Payload {
    /// Events of so many bytes, at least [`EVENT_LEN_MIN`].
    pub(super) fn new(len: usize) -> Self {
        // xorshift: what fills an event must not compress, and need not be secret.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        Self(bytes.take(len.max(EVENT_LEN_MIN)).collect())
    }

    /// The event of this number.
    pub(super) fn event(&mut self, number: u64, sent_ns: u64) -> &[u8] {
        self.0[0..8].copy_from_slice(&number.to_le_bytes());
        self.0[8..16].copy_from_slice(&sent_ns.to_le_bytes());
        &self.0
    }
}

/// Number and time of an event of this length.
fn fields(payload: &[u8], len: usize) -> Option<(u64, u64)> {
    let (number, rest) = payload.split_first_chunk()?;
    let sent_ns = rest.first_chunk()?;
    (payload.len() == len).then(|| (u64::from_le_bytes(*number), u64::from_le_bytes(*sent_ns)))
}

/// The number of an event.
pub(super) fn number_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Counts what arrives: handed every event in the order of arrival, and the time.
#[derive(Debug)]
pub(super) struct Tally {
    len: usize,
    next: u64,
    /// Latencies count from this event on, if they are asked for.
    timed_from: Option<u64>,
    first_ns: u64,
    last_ns: u64,
    /// Events that had come when the clock was last read.
    clocked: u64,
    latencies: Spread,
    outcome: Outcome,
}

/// What a receiver counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Events that arrived.
    pub(super) received: u64,
    /// Numbers that were jumped over.
    pub(super) skipped: u64,
    /// Events that were not behind the one before: twice, or out of order.
    pub(super) backward: u64,
    /// Events of another size.
    pub(super) damaged: u64,
    /// Batches that were refused because their signature is not their origin's.
    pub(super) unverified: u64,
    /// The first thing that a subscription was told beside events: a gap, a restart.
    pub(super) told: Option<String>,
    /// From the first event to the last, nanoseconds.
    pub(super) took_ns: u64,
    /// One-way latencies, nanoseconds, if they were asked for.
    pub(super) latencies: Option<Spread>,
}

impl Tally {
    /// A tally of events of so many bytes; with the latencies of all from `timed_from` on.
    pub(super) fn new(len: usize, timed_from: Option<u64>) -> Self {
        Self {
            len,
            next: 0,
            timed_from,
            first_ns: 0,
            last_ns: 0,
            clocked: 0,
            latencies: Spread::default(),
            outcome: Outcome::default(),
        }
    }

    /// An event that has arrived. The clock is read where the time of this one event counts.
    pub(super) fn take(&mut self, payload: &[u8], now_ns: impl Fn() -> u64) {
        if self.outcome.received == 0 {
            self.first_ns = now_ns();
        }
        self.outcome.received += 1;
        let Some((number, sent_ns)) = fields(payload, self.len) else {
            self.outcome.damaged += 1;
            return;
        };
        if number >= self.next {
            self.outcome.skipped += number - self.next;
            self.next = number.saturating_add(1);
        } else {
            self.outcome.backward += 1;
        }
        if self.timed_from.is_some_and(|from| number >= from) {
            self.latencies.add(now_ns().saturating_sub(sent_ns));
        }
    }

    /// Something that is no event.
    pub(super) fn told(&mut self, what: impl std::fmt::Display) {
        self.outcome.told.get_or_insert_with(|| what.to_string());
    }

    /// Everything that had arrived until now has been handed over.
    pub(super) fn drained(&mut self, now_ns: u64) {
        if self.outcome.received > self.clocked {
            (self.clocked, self.last_ns) = (self.outcome.received, now_ns);
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.outcome.received
    }

    /// What was counted.
    pub(super) fn finish(self, unverified: u64) -> Outcome {
        Outcome {
            unverified,
            took_ns: self.last_ns.saturating_sub(self.first_ns),
            latencies: self.timed_from.map(|_| self.latencies),
            ..self.outcome
        }
    }
}

impl Outcome {
    /// Why these figures do not count, if they do not.
    pub(super) fn fault(&self, published: u64) -> Option<String> {
        let Self { received, skipped, backward, damaged, unverified, told, .. } = self;
        if *received == published && skipped + backward + damaged + unverified == 0 && told.is_none() {
            return None;
        }
        let mut fault = format!("{received} of {published} events arrived");
        for (n, what) in [
            (*skipped, "skipped"),
            (*backward, "twice or out of order"),
            (*damaged, "of another size"),
            (*unverified, "batches not signed by their origin"),
        ] {
            if n > 0 {
                fault.push_str(&format!(", {n} {what}"));
            }
        }
        if let Some(told) = told {
            fault.push_str(&format!("; the subscription was told: {told}"));
        }
        Some(fault)
    }

    /// Events a second.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(super) fn rate(&self) -> f64 {
        self.received as f64 / Duration::from_nanos(self.took_ns.max(1)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(numbers: &[u64]) -> Outcome {
        let (mut tally, mut payload) = (Tally::new(64, None), Payload::new(64));
        for number in numbers {
            tally.take(payload.event(*number, 0), || 0);
        }
        tally.finish(0)
    }

    #[test]
    fn events_that_come_once_and_in_order_count() {
        assert_eq!(counted(&[0, 1, 2]).fault(3), None);
    }

    #[test]
    fn what_is_missing_comes_twice_or_out_of_order_does_not_count() {
        for (numbers, says) in [
            (&[0, 1][..], "2 of 3 events arrived"),
            (&[0, 2], "2 of 3 events arrived, 1 skipped"),
            (&[0, 1, 1, 2], "4 of 3 events arrived, 1 twice or out of order"),
            // The count is right, and yet one is missing and one too many.
            (&[0, 0, 2], "3 of 3 events arrived, 1 skipped, 1 twice or out of order"),
            (&[1, 0, 2], "3 of 3 events arrived, 1 skipped, 1 twice or out of order"),
            (&[], "0 of 3 events arrived"),
        ] {
            assert_eq!(counted(numbers).fault(3).as_deref(), Some(says), "{numbers:?}");
        }
    }

    #[test]
    fn other_bytes_other_signers_and_gaps_do_not_count() {
        let mut tally = Tally::new(64, None);
        tally.take(Payload::new(63).event(0, 0), || 0);
        tally.take(b"short", || 0);
        assert_eq!(tally.finish(0).fault(2).as_deref(), Some("2 of 2 events arrived, 2 of another size"));
        let outcome = Outcome { received: 1, unverified: 1, ..Outcome::default() };
        assert!(outcome.fault(1).is_some_and(|fault| fault.contains("1 batches not signed")));
        let mut tally = Tally::new(64, None);
        tally.told("a gap");
        tally.told("another");
        assert_eq!(
            tally.finish(0).fault(0).as_deref(),
            Some("0 of 0 events arrived; the subscription was told: a gap")
        );
    }

    #[test]
    fn time_runs_from_the_first_event_to_the_last_and_not_to_the_end() {
        let (mut tally, mut payload) = (Tally::new(16, None), Payload::new(16));
        tally.take(payload.event(0, 0), || 1_000_000_000);
        tally.take(payload.event(1, 0), || unreachable!("the clock is not read for each event"));
        tally.drained(1_500_000_000);
        tally.drained(9_000_000_000);
        let outcome = tally.finish(0);
        assert_eq!(outcome.took_ns, 500_000_000);
        assert!((outcome.rate() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn latencies_are_of_the_events_behind_the_warm_up() {
        let (mut tally, mut payload) = (Tally::new(16, Some(1)), Payload::new(16));
        tally.take(payload.event(0, 0), || 999_999);
        tally.take(payload.event(1, 1_000), || 1_050);
        let latencies = tally.finish(0).latencies.expect("asked for");
        assert_eq!((latencies.count(), latencies.max()), (1, 50));
        assert_eq!(counted(&[0]).latencies, None);
    }
}
