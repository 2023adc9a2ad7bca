//! What happens on a node, as a stream.

use net_transport::{NodeId, Pair, UnjoinReason};
use tokio::sync::broadcast;

use crate::bus::Bus;
use crate::core::{Fork, Gap, Item, Restart, Trimmed};
use crate::{ChannelName, Class};

/// Something that happened on a node, for whoever wants to watch it. What a subscription must know, its items tell it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A node has become a neighbour.
    PeerUp {
        /// The neighbour.
        node: NodeId,
    },
    /// A neighbour is gone.
    PeerDown {
        /// The node.
        node: NodeId,
    },
    /// A producer has said that it is there.
    ProducerUp {
        /// Its channel.
        channel: ChannelName,
        /// Channel and origin.
        pair: Pair,
        /// Where it runs.
        node: NodeId,
        /// Reliable or realtime.
        class: Class,
    },
    /// A producer has closed, or its node is gone.
    ProducerDown {
        /// Channel and origin.
        pair: Pair,
    },
    /// Live events of a producer flow to this node's subscriptions from now on.
    Joined {
        /// Channel and origin.
        pair: Pair,
        /// From where.
        node: NodeId,
    },
    /// They do not flow, or not any more; it is tried again.
    Unjoined {
        /// Channel and origin.
        pair: Pair,
        /// From where.
        node: NodeId,
        /// Why.
        reason: UnjoinReason,
    },
    /// A subscriber kept the others waiting for too long: nobody waits for it until it has caught up. What it misses it is
    /// told of, and asks for.
    SlowSubscriber {
        /// Channel and origin.
        pair: Pair,
        /// Which node.
        node: NodeId,
    },
    /// A subscription was told of events that are not waited for any longer.
    Gap(Gap),
    /// A subscription was told that a producer was started again.
    Restart(Restart),
    /// A subscription was told that its position is older than what is kept.
    Trimmed(Trimmed),
    /// A subscription was told that an origin signed two histories.
    Equivocation(Fork),
    /// A node has as many streams open here as it may; another was refused.
    StreamRefused {
        /// The node.
        node: NodeId,
    },
    /// A node has as many subscriptions here as it may; another was refused.
    SubscriptionRefused {
        /// The node.
        node: NodeId,
    },
    /// A channel is not kept, though it matches: the keeper has as many as it may.
    KeepRefused {
        /// Which.
        channel: ChannelName,
    },
    /// So many events came faster than they were read, and are left out here.
    Missed {
        /// How many.
        events: u64,
    },
}

/// Events that wait for one reader; of a reader that is slower, the oldest are dropped.
pub(crate) const EVENTS_MAX: usize = 1_024;

/// What happens on a node from the moment on at which this was made.
#[derive(Debug)]
pub struct NodeEvents {
    receiver: broadcast::Receiver<NodeEvent>,
}

impl NodeEvents {
    /// The next event, or nothing when the node has been closed. A reader that is slower than what happens gets a
    /// [`NodeEvent::Missed`] in the place of what it missed.
    ///
    /// # Cancel safety
    /// Cancel-safe: no event is lost.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(events)) => Some(NodeEvent::Missed { events }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Where events come from. Without a reader they cost a look.
#[derive(Debug)]
pub(crate) struct EventSource(std::sync::Mutex<Option<broadcast::Sender<NodeEvent>>>);

impl Default for EventSource {
    fn default() -> Self {
        Self(std::sync::Mutex::new(Some(broadcast::Sender::new(EVENTS_MAX))))
    }
}

impl EventSource {
    pub(crate) fn send(&self, event: NodeEvent) {
        if let Some(sender) = &*super::producer::lock(&self.0) {
            // Nobody watches most of the time.
            let _ = sender.send(event);
        }
    }

    /// Tells what a subscription is told.
    pub(crate) fn send_item(&self, item: &Item) {
        self.send(match item {
            Item::Gap(gap) => NodeEvent::Gap(gap.clone()),
            Item::Restart(restart) => NodeEvent::Restart(restart.clone()),
            Item::Trimmed(trimmed) => NodeEvent::Trimmed(trimmed.clone()),
            Item::Equivocation(fork) => NodeEvent::Equivocation(fork.clone()),
            Item::Event(_) | Item::Sealed(_) => return,
        });
    }

    /// The node is closed: nothing happens any more.
    pub(crate) fn close(&self) {
        *super::producer::lock(&self.0) = None;
    }

    fn subscribe(&self) -> NodeEvents {
        let receiver = match &*super::producer::lock(&self.0) {
            Some(sender) => sender.subscribe(),
            None => broadcast::Sender::new(1).subscribe(),
        };
        NodeEvents { receiver }
    }
}

impl Bus {
    /// What happens on this node from now on.
    #[must_use]
    pub fn events(&self) -> NodeEvents {
        self.inner.events.subscribe()
    }
}
