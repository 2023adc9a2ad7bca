//! Those that wait for one sync together.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// One group of appends: all are done at once, or fail at once.
#[derive(Debug)]
pub(crate) struct Group<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<R> {
    result: Option<R>,
    wakers: Vec<Waker>,
    /// Threads in [`Group::wait`].
    blocked: usize,
    /// A leader left while this group waited; whoever takes this becomes the next one.
    lead_offered: bool,
}

/// The place of one waiter's waker in a group.
#[derive(Debug, Default)]
pub(crate) struct WakerSlot(Option<usize>);

/// Why waiting for a group ended.
pub(crate) enum Waited<R> {
    Done(R),
    /// The caller is the leader now, and must lead.
    Lead,
}

impl<R> Default for Group<R> {
    fn default() -> Self {
        let state = State { result: None, wakers: Vec::new(), blocked: 0, lead_offered: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<R: Clone> Group<R> {
    /// Wakes all who wait.
    pub(crate) fn complete(&self, result: R) {
        let mut state = self.lock();
        state.result = Some(result);
        let wakers = std::mem::take(&mut state.wakers);
        let blocked = state.blocked > 0;
        drop(state);
        // It costs a call of the system whether anybody waits or not.
        if blocked {
            self.changed.notify_all();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes one of the threads that wait, or will, the leader.
    pub(crate) fn offer_lead(&self) {
        self.lock().lead_offered = true;
        self.changed.notify_one();
    }

    /// Blocks until the group is done or the caller is to lead.
    pub(crate) fn wait(&self) -> Waited<R> {
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.lead_offered) {
                return Waited::Lead;
            }
            if let Some(result) = &state.result {
                return Waited::Done(result.clone());
            }
            state.blocked += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
    }

    /// Whether the group is done; if not, the waker is woken when it is. `slot` is this waiter's, the same each time.
    pub(crate) fn poll(&self, context: &Context<'_>, slot: &mut WakerSlot) -> Poll<R> {
        let mut state = self.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        match slot.0.and_then(|slot| state.wakers.get_mut(slot)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                slot.0 = Some(state.wakers.len());
                state.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readers that have reached the end and wait for more.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    state: Mutex<News>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct News {
    version: u64,
    wakers: Vec<Waker>,
    /// Threads in [`Watch::wait`].
    blocked: usize,
}

impl Watch {
    /// Something new can be read.
    pub(crate) fn notify(&self) {
        let mut news = self.lock();
        news.version += 1;
        let wakers = std::mem::take(&mut news.wakers);
        let blocked = news.blocked > 0;
        drop(news);
        if blocked {
            self.changed.notify_all();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How often there was news. Taken before looking, so that news in between is not missed.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Blocks until there is news after `version`, or the time is over; says whether there is.
    pub(crate) fn wait(&self, version: u64, timeout: Duration) -> bool {
        let mut news = self.lock();
        news.blocked += 1;
        let waited = self.changed.wait_timeout_while(news, timeout, |news| news.version == version);
        let mut news = waited.unwrap_or_else(PoisonError::into_inner).0;
        news.blocked -= 1;
        news.version != version
    }

    /// Whether there is news after `version`; if not, the waker is woken when there is.
    pub(crate) fn poll(&self, version: u64, context: &Context<'_>) -> Poll<()> {
        let mut news = self.lock();
        if news.version != version {
            return Poll::Ready(());
        }
        if !news.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            news.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets those who were just woken queue again before the next group is taken: one group of all then shares a sync,
/// instead of two halves that take turns at it.
///
/// `expected` are those of the last group and those who had queued when it was done: all who write. It gives the processor
/// away and looks, at most a quarter of the time that the last group took, and ends when all are there, or none has
/// come for a sixteenth of that time. With one writer it is not called.
pub(crate) fn let_gather(expected: usize, last_took: Duration, queued: impl Fn() -> usize) {
    let start = Instant::now();
    let (mut before, mut last_news) = (0, start);
    loop {
        let (count, now) = (queued(), Instant::now());
        if count > before {
            last_news = now;
        }
        if count >= expected || now - last_news > last_took / 16 || now - start > last_took / 4 {
            return;
        }
        before = count;
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_waiter_gets_the_result_and_one_of_them_the_lead() {
        for round in 0..200 {
            let group: Arc<Group<u32>> = Arc::default();
            let leads = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        loop {
                            match group.wait() {
                                Waited::Done(result) => break assert_eq!(result, round),
                                Waited::Lead => {
                                    leads.fetch_add(1, Ordering::Relaxed);
                                    group.complete(round);
                                }
                            }
                        }
                    });
                }
                // Before, while or after they begin to wait.
                group.offer_lead();
            });
            assert_eq!(leads.into_inner(), 1);
        }
    }
}
