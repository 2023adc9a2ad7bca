//! What is sent, and what is checked where it arrives.
//!
//! | off | len | field |
//! |---:|---:|---|
//! | 0 | 8 | seq, little endian; in an end mark the number of events published |
//! | 8 | 8 | nanoseconds of the machine's monotonic clock when `publish` was called; 0 if not asked for |
//! | 16 | 1 | kind: probe, event, end |
//! | 17 | | random bytes that do not compress |

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// The smallest payload that can carry the fields.
pub(crate) const PAYLOAD_LEN_MIN: usize = 17;

const PROBE: u8 = 0;
const EVENT: u8 = 1;
const END: u8 = 2;

/// An end mark is repeated; after so many of them nothing that is missing can still be on its way.
const END_MARKS: u32 = 20;

/// Nanoseconds of the clock that all processes of this machine share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// One buffer that is written over for each event, as an application's encoder would.
#[derive(Debug)]
pub(crate) struct Payload {
    bytes: Vec<u8>,
}

impl Payload {
    /// A payload of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        // xorshift: what fills a payload must not compress, and need not be secret.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        Self { bytes: bytes.take(len.max(PAYLOAD_LEN_MIN)).collect() }
    }

    /// A message that shows the way is open and counts for nothing.
    pub(crate) fn probe(&mut self) -> &[u8] {
        self.set(0, 0, PROBE)
    }

    /// The event of this seq.
    pub(crate) fn event(&mut self, seq: u64, sent_ns: u64) -> &[u8] {
        self.set(seq, sent_ns, EVENT)
    }

    /// The message that says how many events there were.
    pub(crate) fn end(&mut self, published: u64) -> &[u8] {
        self.set(published, 0, END)
    }

    fn set(&mut self, seq: u64, sent_ns: u64, kind: u8) -> &[u8] {
        self.bytes[0..8].copy_from_slice(&seq.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&sent_ns.to_le_bytes());
        self.bytes[16] = kind;
        &self.bytes
    }
}

/// What a receiver counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Events that arrived.
    pub(crate) received: u64,
    /// Events published, if an end mark came.
    pub(crate) published: Option<u64>,
    /// Seqs jumped over.
    pub(crate) skipped: u64,
    /// Events that were not after the one before: late or a second time.
    pub(crate) backward: u64,
    /// Messages of another size than was sent.
    pub(crate) damaged: u64,
    /// From the first event, or the request for it, to the end mark behind the last, seconds.
    pub(crate) secs: f64,
    /// One-way latencies, microseconds, if they were asked for.
    pub(crate) latency_us: Option<Latency>,
}

/// Quantiles of one run, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    pub(crate) samples: usize,
}

impl Outcome {
    /// Why the run does not count, if it does not.
    pub(crate) fn fault(&self) -> Option<String> {
        let Some(published) = self.published else {
            return Some(format!("no end mark came ({} events had)", self.received));
        };
        if self.received == published && self.skipped == 0 && self.backward == 0 && self.damaged == 0 {
            return None;
        }
        Some(format!(
            "{} of {published} events arrived; {} skipped, {} late or twice, {} damaged",
            self.received, self.skipped, self.backward, self.damaged
        ))
    }
}

/// What a receiver's counting shares with the rest of its process.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    received: AtomicU64,
    probed: AtomicBool,
    ended: Mutex<Option<Outcome>>,
    failed: Mutex<Option<String>>,
    /// One for each condition: each wakes one waiter.
    first_probe: Notify,
    end: Notify,
}

impl Progress {
    /// Waits until the way is open.
    pub(crate) async fn probed(&self) {
        while !self.probed.load(Ordering::Acquire) {
            self.first_probe.notified().await;
        }
    }

    /// Waits until all has arrived, or the driver has failed.
    pub(crate) async fn ended(&self) -> Result<Outcome, String> {
        loop {
            if let Some(why) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return Err(why);
            }
            if let Some(outcome) = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return Ok(outcome);
            }
            self.end.notified().await;
        }
    }

    /// What has been counted although the end has not come.
    pub(crate) fn so_far(&self) -> Outcome {
        Outcome { received: self.received.load(Ordering::Relaxed), ..Outcome::default() }
    }

    /// The driver cannot go on.
    pub(crate) fn fail(&self, why: impl std::fmt::Display) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
        self.end.notify_one();
    }
}

/// Counts what arrives. It is handed every message in the order of arrival.
#[derive(Debug)]
pub(crate) struct Tally {
    progress: Arc<Progress>,
    payload_len: usize,
    next: u64,
    outcome: Outcome,
    first_ns: u64,
    warmup: u64,
    latencies_ns: Option<Vec<u64>>,
    end_marks: u32,
}

impl Tally {
    /// A tally of events of `payload_len` bytes.
    pub(crate) fn new(progress: Arc<Progress>, payload_len: usize) -> Self {
        Self {
            progress,
            payload_len: payload_len.max(PAYLOAD_LEN_MIN),
            next: 0,
            outcome: Outcome::default(),
            first_ns: 0,
            warmup: 0,
            latencies_ns: None,
            end_marks: 0,
        }
    }

    /// Also measures latencies, of all events but the first `warmup`.
    pub(crate) fn with_latencies(mut self, warmup: u64) -> Self {
        self.warmup = warmup;
        self.latencies_ns = Some(Vec::with_capacity(1 << 14));
        self
    }

    /// The clock starts now, not with the first event: what was asked for counts from the request on.
    pub(crate) fn begin(&mut self) {
        self.first_ns = now_ns();
    }

    /// How many events there were, if they were all from the first on, each once and in order.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn counted(&self) -> Result<u64> {
        let received = self.outcome.received;
        let fault = Outcome { published: Some(received), ..self.outcome.clone() }.fault();
        fault.map_or(Ok(received), |fault| bail!("{fault}"))
    }

    /// The driver's failure goes this way.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// One message.
    pub(crate) fn take(&mut self, payload: &[u8]) {
        let (Some(seq), Some(sent_ns), Some(kind)) =
            (payload.first_chunk(), payload.get(8..16).and_then(|b| b.first_chunk()), payload.get(16))
        else {
            self.outcome.damaged += 1;
            return;
        };
        let seq = u64::from_le_bytes(*seq);
        match *kind {
            EVENT => self.event(seq, u64::from_le_bytes(*sent_ns), payload.len()),
            PROBE => {
                if !self.progress.probed.swap(true, Ordering::AcqRel) {
                    self.progress.first_probe.notify_one();
                }
            }
            END => self.end(seq),
            _ => self.outcome.damaged += 1,
        }
    }

    fn event(&mut self, seq: u64, sent_ns: u64, len: usize) {
        if self.first_ns == 0 {
            self.first_ns = now_ns();
        }
        self.outcome.received += 1;
        self.progress.received.store(self.outcome.received, Ordering::Relaxed);
        if len != self.payload_len {
            self.outcome.damaged += 1;
        }
        if seq >= self.next {
            self.outcome.skipped += seq - self.next;
            self.next = seq + 1;
        } else {
            self.outcome.backward += 1;
        }
        if let Some(latencies) = &mut self.latencies_ns
            && seq >= self.warmup
        {
            latencies.push(now_ns().saturating_sub(sent_ns));
        }
    }

    /// Ends the count at an end mark: at once if nothing is missing, else when it has been repeated often enough.
    fn end(&mut self, published: u64) {
        if self.end_marks == 0 {
            let secs = std::time::Duration::from_nanos(now_ns().saturating_sub(self.first_ns)).as_secs_f64();
            self.outcome.secs = if self.outcome.received == 0 { 0.0 } else { secs };
        }
        self.end_marks += 1;
        if self.outcome.received < published && self.end_marks < END_MARKS {
            return;
        }
        self.finish(published);
    }

    /// Ends a count whose number is known beforehand.
    pub(crate) fn end_at(&mut self, published: u64) {
        if self.outcome.received >= published && self.end_marks == 0 {
            self.end(published);
        }
    }

    fn finish(&mut self, published: u64) {
        let mut outcome = self.outcome.clone();
        outcome.published = Some(published);
        outcome.latency_us = self.latencies_ns.as_mut().map(|latencies| quantiles(latencies));
        let mut ended = self.progress.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            *ended = Some(outcome);
            self.progress.end.notify_one();
        }
    }
}

fn quantiles(latencies_ns: &mut [u64]) -> Latency {
    latencies_ns.sort_unstable();
    let at = |percent: usize| {
        let index = (latencies_ns.len() * percent / 100).min(latencies_ns.len().saturating_sub(1));
        latencies_ns.get(index).map_or(0.0, |ns| std::time::Duration::from_nanos(*ns).as_secs_f64() * 1e6)
    };
    Latency { p50: at(50), p90: at(90), p99: at(99), max: at(100), samples: latencies_ns.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(messages: &[(u64, u8)]) -> Option<Outcome> {
        let progress = Arc::new(Progress::default());
        let mut tally = Tally::new(progress.clone(), 64);
        let mut payload = Payload::new(64);
        for (seq, kind) in messages {
            tally.take(payload.set(*seq, 0, *kind));
        }
        let ended = progress.ended.lock().expect("nobody panicked");
        ended.clone()
    }

    #[test]
    fn events_in_order_are_a_valid_run() {
        let outcome = counted(&[(0, PROBE), (0, EVENT), (1, EVENT), (2, END)]).expect("it ended");
        assert_eq!((outcome.received, outcome.fault()), (2, None));
    }

    #[test]
    fn a_gap_makes_a_run_invalid_but_is_waited_for() {
        let gap = [(0, EVENT), (2, EVENT), (3, END)];
        assert!(counted(&gap).is_none());
        let repeated: Vec<_> = gap.into_iter().chain([(3, END); END_MARKS as usize]).collect();
        let outcome = counted(&repeated).expect("it ended");
        assert_eq!(outcome.skipped, 1);
        assert!(outcome.fault().is_some());
    }

    #[test]
    fn a_duplicate_makes_a_run_invalid() {
        let outcome = counted(&[(0, EVENT), (0, EVENT), (1, END)]).expect("it ended");
        assert_eq!(outcome.backward, 1);
        assert!(outcome.fault().is_some());
    }

    #[test]
    fn a_late_event_fills_the_count_and_still_shows() {
        let outcome = counted(&[(1, EVENT), (0, EVENT), (2, END)]).expect("it ended");
        assert_eq!((outcome.received, outcome.backward), (2, 1));
        assert!(outcome.fault().is_some());
    }

    #[test]
    fn what_is_counted_without_an_end_is_in_order_or_an_error() {
        let counted = |seqs: &[u64]| {
            let mut tally = Tally::new(Arc::default(), 64);
            let mut payload = Payload::new(64);
            tally.take(payload.probe());
            seqs.iter().for_each(|seq| tally.take(payload.event(*seq, 0)));
            tally.counted()
        };
        assert_eq!(counted(&[0, 1, 2]).expect("they are in order"), 3);
        assert!(counted(&[0, 2]).is_err());
        assert!(counted(&[0, 1, 1]).is_err());
    }

    #[test]
    fn quantiles_are_of_the_sorted_samples() {
        let mut samples: Vec<u64> = (0..100).rev().map(|i| i * 1_000).collect();
        let latency = quantiles(&mut samples);
        assert!((latency.p50 - 50.0).abs() < 1e-9 && (latency.p99 - 99.0).abs() < 1e-9);
    }
}
