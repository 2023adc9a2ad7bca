//! What an application reads from.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::bus::Bus;
use crate::bus::producer::lock;
use crate::core::{Cursor, Delivery, From, Head, Item, Order, SeqRange, Source, SubId};
use crate::{Event, EventBatch, NameError, Pattern};

/// How a subscription is made. Made by [`Bus::subscribe`]; awaiting it makes the subscription.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct SubscribeBuilder {
    pub(crate) bus: Bus,
    pub(crate) pattern: Result<Pattern, NameError>,
    pub(crate) from: From,
    pub(crate) order: Order,
}

impl SubscribeBuilder {
    /// Where to begin; the default is [`From::Live`].
    pub fn from(mut self, from: From) -> Self {
        self.from = from;
        self
    }

    /// In which order; the default is [`Order::Causal`].
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }
}

impl IntoFuture for SubscribeBuilder {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let pattern = self.pattern?;
            self.bus.make_subscription(pattern, self.from, self.order).await
        })
    }
}

/// Why there is no subscription, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The pattern is not one.
    #[error(transparent)]
    Pattern(#[from] NameError),
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

/// A stream of [`Item`]s. Dropping it ends the subscription.
///
/// Each event is delivered once, in the order of its origin. What the application has not taken waits in a queue of
/// bounded size; when that is full, the producers are told.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) id: SubId,
    pub(crate) bus: Bus,
    pub(crate) queue: Arc<Queue>,
    pub(crate) taken: VecDeque<Delivery>,
    pub(crate) current: Option<Reading>,
    pub(crate) positions: Cursor,
}

/// The batch whose events are being handed out.
#[derive(Debug)]
pub(crate) struct Reading {
    source: Arc<Source>,
    batch: Arc<EventBatch>,
    index: u16,
    late: Vec<SeqRange>,
    /// Where it is noted as a cause of what this node publishes; events of realtime channels are nobody's causes.
    head: Option<Arc<Head>>,
    cost: usize,
}

/// Where the hub puts deliveries and the application takes them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    /// Cost of what the application took and the hub has not heard of.
    taken: AtomicUsize,
}

#[derive(Debug, Default)]
struct QueueState {
    deliveries: VecDeque<Delivery>,
    waker: Option<Waker>,
    closed: bool,
}

/// The hub hears of what was taken in steps of at least this many bytes, or when the queue is empty.
const REPORT_BYTES: usize = 256 << 10;

impl Queue {
    pub(crate) fn push(&self, delivery: Delivery) {
        let mut state = lock(&self.state);
        state.deliveries.push_back(delivery);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    pub(crate) fn take_taken(&self) -> usize {
        self.taken.swap(0, Ordering::Relaxed)
    }
}

impl Subscription {
    /// The next item, or nothing when the node has been closed.
    ///
    /// # Errors
    /// [`SubscribeError`] when the subscription cannot go on.
    ///
    /// # Cancel safety
    /// Cancel-safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<Item, SubscribeError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// The next item if one is here now.
    pub fn try_next(&mut self) -> Option<Item> {
        match self.poll_item(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(item))) => Some(item),
            _ => None,
        }
    }

    /// Where this subscription stands: behind the last item that it has handed out.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let mut cursor = self.positions.clone();
        if let Some(reading) = &self.current {
            cursor.set(reading.source.pair, reading.batch.open().seal().seq() + u64::from(reading.index));
        }
        cursor
    }

    /// How many events of each origin are known to exist and have not been handed to this subscription.
    pub async fn lag(&self) -> Vec<(Arc<Source>, u64)> {
        self.bus.lag(self.id).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, SubscribeError>>> {
        loop {
            if let Some(event) = self.next_of_batch() {
                return Poll::Ready(Some(Ok(Item::Event(event))));
            }
            if self.taken.is_empty() {
                self.report();
                let mut state = lock(&self.queue.state);
                if state.deliveries.is_empty() {
                    if state.closed {
                        return Poll::Ready(None);
                    }
                    if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                        state.waker = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
                std::mem::swap(&mut state.deliveries, &mut self.taken);
            }
            match self.taken.pop_front() {
                Some(Delivery::Batch { source, batch, skip, late, cost }) => {
                    let seal = batch.open().seal();
                    let head = (!seal.is_realtime()).then(|| self.bus.given().head(source.pair.channel, source.origin));
                    if let Some(head) = &head {
                        head.begin(seal, seal.seq() + u64::from(skip));
                    }
                    self.current = Some(Reading { source, batch, index: skip, late, head, cost });
                }
                Some(delivery @ Delivery::Item(_)) => {
                    self.queue.taken.fetch_add(delivery.cost(), Ordering::Relaxed);
                    let Delivery::Item(item) = delivery else { continue };
                    if let Some((pair, next)) = item.moves_to() {
                        self.positions.set(pair, next);
                    }
                    return Poll::Ready(Some(Ok(item)));
                }
                None => {}
            }
        }
    }

    fn next_of_batch(&mut self) -> Option<Event> {
        let reading = self.current.as_mut()?;
        if let Some(event) = reading.batch.event(reading.index) {
            reading.index += 1;
            if let Some(head) = &reading.head {
                head.advance(event.seq());
            }
            let late = reading.late.iter().any(|range| (range.from..range.to).contains(&event.seq()));
            return Some(event.with_late(late));
        }
        let Reading { source, batch, cost, .. } = self.current.take()?;
        let next = batch.open().seal().next_seq();
        // What comes late lies behind the position.
        if self.positions.next(&source.pair).is_none_or(|position| position < next) {
            self.positions.set(source.pair, next);
        }
        let taken = self.queue.taken.fetch_add(cost, Ordering::Relaxed) + cost;
        if taken >= REPORT_BYTES {
            self.report();
        }
        None
    }

    fn report(&self) {
        if self.queue.taken.load(Ordering::Relaxed) > 0 {
            self.bus.report_taken(self.id);
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Item, SubscribeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.close();
        self.bus.report_dropped(self.id);
    }
}
