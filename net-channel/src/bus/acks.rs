//! What publishers are told of their batches, at once or when enough other nodes have stored them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::bus::producer::lock;
use crate::bus::receipt::{Ack, BatchAck};
use crate::core::SeqRange;

/// How long an event waits to be stored on other nodes before it is acknowledged with what is true of it.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(10);
/// The most batches that wait to be stored on other nodes; the oldest are acknowledged with what is true of them.
const BATCHES_MAX: usize = 65_536;
/// Batches that are looked at to see how many wait for other nodes.
const LATEST: usize = 16;

/// The acknowledgements of one producer. Locked after its publisher, never before it.
#[derive(Default)]
pub(super) struct Acks {
    /// Batches that are sent, and stored here if they are to be, and wait for other nodes; the oldest first.
    batches: Mutex<VecDeque<Unreplicated>>,
    /// Woken when there is a first one.
    begun: Notify,
    /// Woken when some are stored elsewhere.
    settled: Notify,
    /// Nobody is waited for any more.
    ended: AtomicBool,
    /// Those who waited and were told how their events fared, since it was last asked.
    told: AtomicUsize,
}

/// A batch that other nodes have yet to store.
struct Unreplicated {
    range: SeqRange,
    ack: Arc<BatchAck>,
    /// What is true of it now.
    reached: Ack,
    until: Instant,
}

impl Acks {
    /// Tells whoever waits for a batch how far it has come.
    pub(super) fn tell(&self, batch: &BatchAck, range: SeqRange, reached: Ack) {
        let told = batch.complete(Ok((range.from, reached)));
        self.told.fetch_add(told, Ordering::Relaxed);
    }

    /// How many were told since the last call.
    pub(super) fn take_told(&self) -> usize {
        self.told.swap(0, Ordering::Relaxed)
    }

    /// From now on the batch waits for other nodes.
    pub(super) fn wait_for_others(&self, range: SeqRange, ack: Arc<BatchAck>, reached: Ack) {
        let mut batches = lock(&self.batches);
        if self.ended.load(Ordering::Acquire) {
            return self.tell(&ack, range, reached);
        }
        let until = Instant::now() + REPLICAS_TIMEOUT;
        let at = batches.partition_point(|other| other.range.from < range.from);
        batches.insert(at, Unreplicated { range, ack, reached, until });
        if batches.len() > BATCHES_MAX
            && let Some(oldest) = batches.pop_front()
        {
            self.tell(&oldest.ack, oldest.range, oldest.reached);
        }
        self.begun.notify_one();
    }

    /// Acknowledges the batches of these seqs that `needed` other nodes have stored.
    pub(super) fn settle(&self, range: SeqRange, needed: usize, stored_by: impl Fn(SeqRange) -> usize) {
        let mut batches = lock(&self.batches);
        let mut at = batches.partition_point(|batch| batch.range.to <= range.from);
        while let Some(batch) = batches.get(at).filter(|batch| batch.range.from < range.to) {
            let n = stored_by(batch.range);
            if n < needed {
                at += 1;
                continue;
            }
            self.tell(&batch.ack, batch.range, Ack::Replicated { n: u32::try_from(n).unwrap_or(u32::MAX) });
            batches.remove(at);
        }
        drop(batches);
        self.settled.notify_waiters();
    }

    /// Ends when batches are settled after it was enabled.
    pub(super) fn settled(&self) -> Notified<'_> {
        self.settled.notified()
    }

    /// How many wait for the latest batches to be stored elsewhere.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.batches).iter().rev().take(LATEST).map(|batch| batch.ack.waiting()).sum()
    }

    /// Whether no event waits to be stored on other nodes.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.batches).is_empty()
    }

    /// Acknowledges with what is true of them the batches that have waited long enough, without end.
    pub(super) async fn give_up_in_time(&self) {
        loop {
            let begun = self.begun.notified();
            let until = lock(&self.batches).front().map(|batch| batch.until);
            match until {
                None => begun.await,
                Some(until) => {
                    tokio::time::sleep_until(until).await;
                    self.give_up(|batch| batch.until <= until);
                }
            }
        }
    }

    /// Acknowledges all batches with what is true of them; nobody is waited for any more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.give_up(|_| true);
    }

    fn give_up(&self, when: impl Fn(&Unreplicated) -> bool) {
        let mut batches = lock(&self.batches);
        while let Some(batch) = batches.front().filter(|batch| when(batch)) {
            self.tell(&batch.ack, batch.range, batch.reached);
            batches.pop_front();
        }
    }
}
