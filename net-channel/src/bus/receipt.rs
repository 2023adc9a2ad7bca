//! What a publisher is told about its event, and when.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use net_identity::EntityId;
use tokio::sync::Notify;

use crate::Dot;
use crate::bus::PublishError;

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
    notify: Notify,
}

impl BatchAck {
    pub(crate) fn complete(&self, result: Result<(u64, Ack), PublishError>) {
        // A batch is completed once, by the task that owns it.
        let _ = self.done.set(result);
        self.notify.notify_waiters();
    }

    async fn wait(&self) -> Result<(u64, Ack), PublishError> {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(done) = self.done.get() {
                return done.clone();
            }
            notified.await;
        }
    }
}

impl Receipt {
    /// The name of the event: its origin and the seq it was given when it was sealed.
    ///
    /// # Errors
    /// [`PublishError`] if the event was not sealed.
    pub async fn dot(&self) -> Result<Dot, PublishError> {
        let (first, _) = self.batch.wait().await?;
        Ok(Dot { origin: self.origin, seq: first + self.index })
    }
}

impl IntoFuture for Receipt {
    type Output = Result<Ack, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.batch.wait().await.map(|(_, ack)| ack.of(self.index)) })
    }
}
