//! What an application reads from.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use net_transport::Pair;

use crate::bus::Bus;
use crate::bus::producer::lock;
use crate::bus::resume::{self, Resume};
use crate::bus::selection::{FilterCounters, Selection};
use crate::core::{Cursor, Delivery, From, Head, Item, Order, SeqRange, Source, SubId};
use crate::{CursorFile, CursorFileError, Event, EventBatch, NameError, Pattern};
#[cfg(feature = "filter")]
use crate::{Filter, FilterError};

/// How a subscription is made. Made by [`Bus::subscribe`]; awaiting it makes the subscription.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct SubscribeBuilder {
    pub(crate) bus: Bus,
    pub(crate) pattern: Result<Pattern, NameError>,
    pub(crate) from: From,
    pub(crate) order: Order,
    #[cfg(feature = "filter")]
    pub(crate) filter: Option<Result<Filter, FilterError>>,
    pub(crate) resume: Option<String>,
}

impl SubscribeBuilder {
    pub(crate) fn new(bus: Bus, pattern: Result<Pattern, NameError>) -> Self {
        Self {
            bus,
            pattern,
            from: From::Live,
            order: Order::Causal,
            #[cfg(feature = "filter")]
            filter: None,
            resume: None,
        }
    }

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

    /// Hands out only the events that match this text in CEL ([`Filter`]), for example `mag > 4`; everything that is not
    /// an event comes in any case.
    ///
    /// Events that are passed over count as handed out for the cursor and for the producer, and not as causes of what
    /// this node publishes.
    #[cfg(feature = "filter")]
    pub fn filter(mut self, text: &str) -> Self {
        self.filter = Some(Filter::parse(text));
        self
    }

    /// Keeps the position in the node's directory under this name, and goes on there when the name is used again: then
    /// [`SubscribeBuilder::from`] does not count. One subscription at a time has a name: 1 to 64 of a-z A-Z 0-9 . _ -.
    ///
    /// An event is done with when the application asks for the next item or drops the subscription. The position is
    /// saved each second and when the subscription is dropped, except by a panic. So each event is given at least once:
    /// after a crash, those of the last two seconds may come again. Origins that the position does not name are read
    /// from their earliest event.
    pub fn resume(mut self, name: impl Into<String>) -> Self {
        self.resume = Some(name.into());
        self
    }

    async fn subscribe(self) -> Result<Subscription, SubscribeError> {
        let Self { bus, pattern, mut from, order, resume, .. } = self;
        let pattern = pattern?;
        #[cfg(feature = "filter")]
        let selection = Selection::new(self.filter.transpose()?);
        #[cfg(not(feature = "filter"))]
        let selection = Selection::default();
        let file = match resume {
            Some(name) => Some(bus.cursor_file(&name)?),
            None => None,
        };
        if let Some(saved) = file.as_ref().and_then(CursorFile::saved) {
            from = From::Cursor(saved.clone());
        }
        let positions = if let From::Cursor(cursor) = &from { cursor.clone() } else { Cursor::default() };
        let queue = Arc::new(Queue::new(pattern.to_string(), selection));
        let id = bus.make_subscription(pattern, from, order, queue.clone()).await?;
        let resume = file.map(|file| Arc::new(Resume::new(file)));
        if let Some(resume) = &resume {
            bus.spawn(resume::run(Arc::downgrade(resume), Arc::downgrade(&queue)));
        }
        Ok(Subscription { id, bus, queue, taken: VecDeque::new(), current: None, positions, resume })
    }
}

impl std::convert::From<CursorFileError> for SubscribeError {
    fn from(error: CursorFileError) -> Self {
        Self::Resume(Arc::new(error))
    }
}

impl IntoFuture for SubscribeBuilder {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.subscribe())
    }
}

/// Why there is no subscription, or no more of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The pattern is not one.
    #[error(transparent)]
    Pattern(#[from] NameError),
    /// The filter is not one; the error points into its text.
    #[cfg(feature = "filter")]
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The position cannot be kept under the name.
    #[error(transparent)]
    Resume(Arc<CursorFileError>),
    /// There is no directory to keep a position in.
    #[error("this node keeps nothing on disk, so it cannot keep a position")]
    NoDirectory,
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
    pub(crate) resume: Option<Arc<Resume>>,
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
    /// Whether an event of it has been handed out.
    is_begun: bool,
    cost: usize,
}

/// Where the hub puts deliveries and the application takes them.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) pattern: String,
    pub(crate) selection: Selection,
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
/// Events that a filter passes over before other tasks get their turn.
const PASSED_OVER_MAX: usize = 256;

impl Queue {
    pub(crate) fn new(pattern: String, selection: Selection) -> Self {
        Self { pattern, selection, state: Mutex::default(), taken: AtomicUsize::new(0) }
    }

    pub(crate) fn push(&self, delivery: Delivery) {
        self.wake_after(|state| state.deliveries.push_back(delivery));
    }

    pub(crate) fn close(&self) {
        self.wake_after(|state| state.closed = true);
    }

    /// Has the application look again.
    pub(crate) fn wake(&self) {
        self.wake_after(|_| {});
    }

    fn wake_after(&self, change: impl FnOnce(&mut QueueState)) {
        let mut state = lock(&self.state);
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Everything that is here, as soon as there is something; nothing once the queue is closed.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<VecDeque<Delivery>>> {
        let mut state = lock(&self.state);
        if !state.deliveries.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut state.deliveries)));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn add_taken(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
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
        poll_fn(|cx| self.poll_item(cx, PASSED_OVER_MAX)).await
    }

    /// The next item if one is here now.
    pub fn try_next(&mut self) -> Option<Item> {
        match self.poll_item(&mut Context::from_waker(Waker::noop()), usize::MAX) {
            Poll::Ready(Some(Ok(item))) => Some(item),
            _ => None,
        }
    }

    /// Where this subscription stands: behind the last item that it has handed out.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let mut cursor = self.positions.clone();
        if let Some(reading) = &self.current {
            let next = reading.batch.open().seal().seq() + u64::from(reading.index);
            move_to(&mut cursor, reading.source.pair, next);
        }
        cursor
    }

    /// What became of the events that this subscription's filter was asked about.
    #[must_use]
    pub fn filtered(&self) -> FilterCounters {
        self.queue.selection.counters()
    }

    /// How many events of each origin are known to exist and have not been handed to this subscription.
    pub async fn lag(&self) -> Vec<(Arc<Source>, u64)> {
        self.bus.lag(self.id).await
    }

    /// Passes over at most so many events that are not wanted, then has itself polled again.
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        mut passed_over_max: usize,
    ) -> Poll<Option<Result<Item, SubscribeError>>> {
        if let Some(resume) = &self.resume {
            resume.note(|| self.cursor());
        }
        loop {
            if let Some(event) = self.next_of_batch(&mut passed_over_max) {
                return Poll::Ready(Some(Ok(Item::Event(event))));
            }
            if passed_over_max == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
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
                    self.current = Some(Reading { source, batch, index: skip, late, head, is_begun: false, cost });
                }
                Some(delivery) => {
                    self.queue.add_taken(delivery.cost());
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

    /// The next event of the batch that is wanted. Nothing when the batch has ended or enough has been passed over.
    fn next_of_batch(&mut self, passed_over_max: &mut usize) -> Option<Event> {
        let reading = self.current.as_mut()?;
        while let Some(event) = reading.batch.event(reading.index) {
            if *passed_over_max == 0 {
                return None;
            }
            reading.index += 1;
            if !self.queue.selection.wants(&event) {
                *passed_over_max -= 1;
                continue;
            }
            if let Some(head) = &reading.head {
                if reading.is_begun {
                    head.advance(event.seq());
                } else {
                    head.begin(reading.batch.open().seal(), event.seq());
                }
                reading.is_begun = true;
            }
            let late = reading.late.iter().any(|range| (range.from..range.to).contains(&event.seq()));
            return Some(event.with_late(late));
        }
        let Reading { source, batch, cost, .. } = self.current.take()?;
        move_to(&mut self.positions, source.pair, batch.open().seal().next_seq());
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
        self.poll_item(cx, PASSED_OVER_MAX)
    }
}

/// Moves a position forward: what comes late lies behind it.
fn move_to(cursor: &mut Cursor, pair: Pair, next: u64) {
    if cursor.next(&pair).is_none_or(|position| position < next) {
        cursor.set(pair, next);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(resume) = &self.resume {
            // An application that panics may not be done with the last event.
            resume.end((!std::thread::panicking()).then(|| self.cursor()));
        }
        self.queue.close();
        self.bus.report_dropped(self.id);
    }
}
