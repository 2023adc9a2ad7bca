//! A channel opened for publishing.

use std::sync::Arc;
use std::time::Duration;

use net_transport::{NodeId, Priority, Visibility};

use crate::bus::producer::{Producer, Record, lock};
use crate::bus::receipt::Receipt;
use crate::bus::{Bus, OpenChannelError, PublishError};
use crate::{ChannelName, Class, OpenStore, Parent};

/// How a channel is opened for publishing. Made by [`Bus::channel`]; [`ChannelBuilder::open`] opens it.
#[derive(Debug)]
#[must_use = "a builder does nothing until `open` is awaited"]
pub struct ChannelBuilder {
    pub(crate) bus: Bus,
    pub(crate) name: String,
    pub(crate) options: ChannelOptions,
}

#[derive(Clone, Debug)]
pub(crate) struct ChannelOptions {
    pub(crate) class: Class,
    pub(crate) visibility: Visibility,
    pub(crate) priority: Priority,
    pub(crate) queue_bytes_max: usize,
    pub(crate) cache_bytes_max: usize,
    pub(crate) persist: Option<Arc<dyn OpenStore>>,
    pub(crate) replicas: usize,
    /// Opened to give what is in the log, until somebody opens the channel to publish.
    pub(crate) standing_in: bool,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            class: Class::Reliable,
            visibility: Visibility::Global,
            priority: Priority::Normal,
            queue_bytes_max: 4 << 20,
            cache_bytes_max: 16 << 20,
            persist: None,
            replicas: 0,
            standing_in: false,
        }
    }
}

impl ChannelBuilder {
    /// Newest wins: events are never held, repaired or given again, and are nobody's causes; what is lost is told as a
    /// gap when the next one comes, so the loss of the last one is not told. For positions and readings that the next one
    /// replaces. One origin's channel is this or reliable, the default.
    pub fn realtime(mut self) -> Self {
        self.options.class = Class::Realtime;
        self
    }

    /// How far events of this origin travel; the default is everywhere.
    pub fn visibility(mut self, visibility: Visibility) -> Self {
        self.options.visibility = visibility;
        self
    }

    /// Which of a link's queues events of this origin wait in.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Bytes of events that wait to be sealed before [`Channel::publish`] waits; the default is 4 MiB.
    pub fn queue_bytes(mut self, max: usize) -> Self {
        self.options.queue_bytes_max = max.max(1);
        self
    }

    /// Bytes of sealed batches kept for late subscribers; the default is 16 MiB.
    pub fn cache_bytes(mut self, max: usize) -> Self {
        self.options.cache_bytes_max = max;
        self
    }

    /// Keeps what this node publishes on the channel in a log in the node's directory: receipts are [`crate::Ack::Durable`]
    /// or [`crate::Ack::Buffered`], subscribers get history from it, and a producer that is opened again goes on where it
    /// ended. `net_redex::LogConfig` says how; a log that is open already is shared.
    pub fn persist(mut self, config: impl OpenStore + 'static) -> Self {
        self.options.persist = Some(Arc::new(config));
        self
    }

    /// Acknowledges an event when so many other nodes have it on their disks ([`crate::Ack::Replicated`]): those that keep the
    /// channel ([`Bus::keep`]). What is not there after ten seconds is acknowledged with what is true of it, which is no error.
    ///
    /// Few events that are published while many are awaited from other nodes are held for up to two milliseconds, so that they
    /// share a batch with those that follow: their acknowledgement is late by that, [`crate::Channel::publish`] is not.
    pub fn replicas(mut self, n: usize) -> Self {
        self.options.replicas = n;
        self
    }

    /// Opens the channel: from now on this node's origin is a producer of it, and says so to the mesh.
    ///
    /// A channel that is open already is shared: one origin has one live producer for each channel. The options of
    /// the first opening hold.
    ///
    /// # Errors
    /// [`OpenChannelError`] for a bad name, a key that cannot sign, or a state directory that cannot be written.
    pub async fn open(self) -> Result<Channel, OpenChannelError> {
        let producer = self.bus.open_producer(&self.name, self.options).await?;
        Ok(Channel { producer, bus: self.bus })
    }
}

/// A channel that this node publishes on. A cheap handle: clones share one producer.
#[derive(Clone, Debug)]
pub struct Channel {
    producer: Arc<Producer>,
    bus: Bus,
}

/// An event to publish, with what belongs to it.
#[derive(Clone, Debug, Default)]
pub struct Publish<'a> {
    payload: &'a [u8],
    key: Option<&'a [u8]>,
    headers: Vec<(&'a str, &'a [u8])>,
    after: Vec<Parent>,
}

impl<'a> Publish<'a> {
    /// An event with this payload; with key and headers at most 1 MiB.
    #[must_use]
    pub fn new(payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { payload: payload.as_ref(), ..Self::default() }
    }

    /// Its key, at most 1 KiB.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// One more header; all together at most 16 KiB.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name, value.as_ref()));
        self
    }

    /// Events of the same channel that caused this one ([`crate::Event::as_parent`]), beside those that the
    /// application has been given, which are its causes in any case.
    #[must_use]
    pub fn after(mut self, causes: impl IntoIterator<Item = Parent>) -> Self {
        self.after.extend(causes);
        self
    }

    fn record(&self) -> Record<'_> {
        Record { payload: self.payload, key: self.key, headers: &self.headers, after: &self.after }
    }
}

/// Who had what when waiting for delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Nodes that are subscribed.
    pub subscribers: usize,
    /// Of these, the nodes whose subscriptions have been handed every event published so far.
    pub complete: usize,
}

impl Channel {
    /// The channel's name.
    #[must_use]
    pub fn name(&self) -> &ChannelName {
        &self.producer.name
    }

    /// Queues an event. Waits while the queue is full: that is the back-pressure of slow subscribers.
    ///
    /// Events of one producer are delivered in the order in which `publish` was called. A loop of `publish` calls
    /// forms batches by itself.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`] and other refusals of this event; [`PublishError::Closed`] after [`Channel::close`].
    ///
    /// # Cancel safety
    /// Cancelled while it waits, the event is not queued.
    pub async fn publish(&self, payload: impl AsRef<[u8]>) -> Result<Receipt, PublishError> {
        self.producer.publish(Publish::new(&payload).record()).await
    }

    /// Queues an event or says at once that the queue is full.
    ///
    /// # Errors
    /// [`PublishError::QueueFull`] beside those of [`Channel::publish`].
    pub fn try_publish(&self, payload: impl AsRef<[u8]>) -> Result<Receipt, PublishError> {
        self.producer.try_publish(Publish::new(&payload).record())
    }

    /// [`Channel::publish`] of an event with a key, headers or explicit causes.
    ///
    /// # Errors
    /// As [`Channel::publish`].
    ///
    /// # Cancel safety
    /// As [`Channel::publish`].
    pub async fn publish_with(&self, publish: Publish<'_>) -> Result<Receipt, PublishError> {
        self.producer.publish(publish.record()).await
    }

    /// The nodes that are subscribed now, this one too if it subscribes.
    #[must_use]
    pub fn subscribers(&self) -> Vec<NodeId> {
        lock(&self.producer.publisher).subscribers().keys().copied().collect()
    }

    /// The nodes that keep the channel ([`Bus::keep`]) and have everything on their disks that was published since it was
    /// opened, this one too if it keeps it.
    #[must_use]
    pub fn keepers(&self) -> Vec<NodeId> {
        lock(&self.producer.publisher).keepers().copied().collect()
    }

    /// Waits until at least `n` nodes are subscribed, or the time is over; says whether they are.
    pub async fn wait_for_subscribers(&self, n: usize, timeout: Duration) -> bool {
        self.producer.wait(|publisher| publisher.subscribers().len() >= n, timeout).await
    }

    /// Waits until everything published before is sealed, in the queues of the links, and in the log if there is one.
    pub async fn flush(&self) {
        self.producer.flush().await;
    }

    /// Waits until every subscribed node has been handed everything published before, or the time is over.
    pub async fn wait_for_delivery(&self, timeout: Duration) -> Delivered {
        self.producer.flush().await;
        self.producer.wait(|p| p.received(p.next()) == p.subscribers().len(), timeout).await;
        let (complete, subscribers) = self.producer.received();
        Delivered { subscribers, complete }
    }

    /// Seals and sends what is queued and takes no more events. Other handles of the channel are closed too.
    pub async fn close(self) {
        self.bus.close_producer(&self.producer).await;
    }
}
