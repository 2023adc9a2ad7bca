//! What a publisher is told about its event, and when.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use net_identity::EntityId;

use crate::Dot;
use crate::bus::PublishError;
use crate::bus::producer::lock;

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ack {
    /// Sealed, signed, in the origin's cache, and in the queue of this many links; with 0, nobody has joined.
    Sent {
        /// Links, and this node itself if it subscribes.
        links: u32,
    },
    /// In the log of this node's channel, as its policy keeps it, and not synced: on a disk it outlives the process, not a
    /// power cut. On its way to the links.
    Buffered {
        /// The event's offset in the log.
        offset: u64,
    },
    /// On this node's disk: a sync has returned. On its way to the links.
    Durable {
        /// The event's offset in the log.
        offset: u64,
    },
    /// On the disks of so many other nodes.
    Replicated {
        /// Nodes, at least as many as were asked for.
        n: u32,
    },
}

impl Ack {
    /// That of the event at this place in its batch.
    fn of(self, index: u64) -> Self {
        match self {
            Self::Buffered { offset } => Self::Buffered { offset: offset + index },
            Self::Durable { offset } => Self::Durable { offset: offset + index },
            ack => ack,
        }
    }
}

/// The promise of an [`Ack`] for one published event.
///
/// Awaiting it is cancel-safe; dropping it costs nothing and changes nothing: the event goes its way.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub(crate) origin: EntityId,
    pub(crate) index: u64,
    pub(crate) batch: Arc<BatchAck>,
}

/// The ack that all events of one batch share.
#[derive(Debug, Default)]
pub(crate) struct BatchAck {
    done: OnceLock<Result<(u64, Ack), PublishError>>,
    waiting: Mutex<Wakers>,
}

/// The wakers of those who wait, each in a place that is its own until it gives up.
#[derive(Debug, Default)]
struct Wakers {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Wakers {
    fn add(&mut self, waker: Waker) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(waker);
        place
    }

    fn replace(&mut self, place: usize, waker: Waker) -> Option<Waker> {
        self.places.get_mut(place)?.replace(waker)
    }

    fn remove(&mut self, place: usize) -> Option<Waker> {
        let waker = self.places.get_mut(place)?.take();
        self.free.push(place);
        waker
    }
}

impl BatchAck {
    /// How many wait now.
    pub(crate) fn waiting(&self) -> usize {
        let waiting = lock(&self.waiting);
        waiting.places.len() - waiting.free.len()
    }

    /// Says how many were waiting.
    pub(crate) fn complete(&self, result: Result<(u64, Ack), PublishError>) -> usize {
        // A batch is completed once, by the task that owns it.
        let _ = self.done.set(result);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        let mut told = 0;
        for waker in waiting.places.into_iter().flatten() {
            told += 1;
            waker.wake();
        }
        told
    }
}

/// Waits for the ack of a batch: where the batch begins, and how far it has come. Cancel-safe.
#[derive(Debug)]
struct Waiting {
    batch: Arc<BatchAck>,
    /// The place of our waker.
    place: Option<usize>,
}

impl Waiting {
    fn for_batch(batch: Arc<BatchAck>) -> Self {
        Self { batch, place: None }
    }
}

impl Future for Waiting {
    type Output = Result<(u64, Ack), PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { batch, place } = &mut *self;
        if let Some(done) = batch.done.get() {
            return Poll::Ready(done.clone());
        }
        let waker = cx.waker().clone();
        let mut waiting = lock(&batch.waiting);
        // Set before the lock is taken to wake those in it: whoever does not see it now is woken.
        if let Some(done) = batch.done.get() {
            return Poll::Ready(done.clone());
        }
        let before = match *place {
            Some(place) => waiting.replace(place, waker),
            None => {
                *place = Some(waiting.add(waker));
                None
            }
        };
        // What a waker does when it is dropped is not ours: not under our lock.
        drop(waiting);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(place) = self.place.filter(|_| self.batch.done.get().is_none()) else { return };
        let waker = lock(&self.batch.waiting).remove(place);
        drop(waker);
    }
}

impl Receipt {
    /// The name of the event: its origin and the seq it was given when it was sealed. Cancel-safe.
    ///
    /// # Errors
    /// [`PublishError`] if the event was not sealed.
    pub async fn dot(&self) -> Result<Dot, PublishError> {
        let (first, _) = Waiting::for_batch(self.batch.clone()).await?;
        Ok(Dot { origin: self.origin, seq: first + self.index })
    }
}

impl IntoFuture for Receipt {
    type Output = Result<Ack, PublishError>;
    type IntoFuture = Acked;

    fn into_future(self) -> Acked {
        Acked { waiting: Waiting::for_batch(self.batch), index: self.index }
    }
}

/// Waits for the [`Ack`] of one event: what awaiting a [`Receipt`] is. It ends when the event's batch has come as far as its
/// channel promises (sent, in the log, on the disk, on other nodes' disks), for other nodes after ten seconds at the latest,
/// and gives a [`PublishError`] if the batch could not be sealed or stored, or the channel was closed before.
///
/// Cancel-safe: dropped, it loses nothing; clone the receipt before to ask again.
#[derive(Debug)]
pub struct Acked {
    waiting: Waiting,
    index: u64,
}

impl Future for Acked {
    type Output = Result<Ack, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.index;
        Pin::new(&mut self.waiting).poll(cx).map(|acked| acked.map(|(_, ack)| ack.of(index)))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn waiting(batch: &Arc<BatchAck>, woken: &Arc<Woken>) -> Waiting {
        let mut waiting = Waiting::for_batch(batch.clone());
        let waker = Waker::from(woken.clone());
        assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
        waiting
    }

    #[test]
    fn all_who_wait_are_woken_and_told_and_those_who_gave_up_are_not_counted() {
        let (batch, woken) = (Arc::new(BatchAck::default()), Arc::new(Woken::default()));
        let first = waiting(&batch, &woken);
        let second = waiting(&batch, &woken);
        let third = waiting(&batch, &woken);
        drop(second);
        assert_eq!(batch.complete(Ok((7, Ack::Sent { links: 1 }))), 2);
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 2);
        drop(third);
        let mut cx = Context::from_waker(Waker::noop());
        for mut waiting in [first, Waiting::for_batch(batch)] {
            let told = Pin::new(&mut waiting).poll(&mut cx);
            assert!(matches!(told, Poll::Ready(Ok((7, Ack::Sent { links: 1 })))), "{told:?}");
        }
    }

    #[test]
    fn waiting_again_and_again_takes_no_more_memory() {
        let (batch, woken) = (Arc::new(BatchAck::default()), Arc::new(Woken::default()));
        let mut other = waiting(&batch, &woken);
        for _ in 0..1_000 {
            // Each begins to wait before the one before gives up.
            other = waiting(&batch, &woken);
            let waker = Waker::from(woken.clone());
            assert!(Pin::new(&mut other).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(other);
        assert_eq!(batch.waiting(), 0);
        assert_eq!(lock(&batch.waiting).places.len(), 2);
    }

    #[test]
    fn a_waker_that_waits_itself_is_dropped_outside_the_lock() {
        /// The last owner of something that waits for the same batch.
        struct Owner {
            _waiting: Waiting,
        }
        impl Wake for Owner {
            fn wake(self: Arc<Self>) {}
        }
        let (batch, woken) = (Arc::new(BatchAck::default()), Arc::new(Woken::default()));
        let mut outer = Waiting::for_batch(batch.clone());
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(Owner { _waiting: waiting(&batch, &woken) }));
            assert!(Pin::new(&mut outer).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(outer);
        assert_eq!(batch.complete(Ok((1, Ack::Sent { links: 0 }))), 0);
    }
}
