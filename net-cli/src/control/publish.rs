//! Publishing for a command: events in, counts of what is on its way out, and at the end who has it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::channel::{Ack, OpenChannelError, PublishError, Receipt};
use net::{Channel, NodeId, Publish};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::control::lines::{LineReader, LineWriter};
use crate::control::protocol::{Delivered, Feed, Publication, Reply};
use crate::control::server::{Served, Stop, linked};
use crate::failure::{Failure, chain};

/// The most channels that one command publishes on.
const CHANNELS_MAX: usize = 10_000;
/// How many events may be on their way before what is sealed is told.
const RECEIPTS_MAX: usize = 256;
/// For so long after its start a node may still be looking for its peers.
const YOUNG: Duration = Duration::from_secs(5);
/// How long the subscribers of a fresh link have to say that they subscribe.
const SUBSCRIBING: Duration = Duration::from_millis(1000);
/// How long nodes on the local network have to be found.
const FINDING: Duration = Duration::from_millis(1500);
/// How long all who may subscribe have, from the start of the command on.
const SETTLING: Duration = Duration::from_millis(300);
/// How long nodes that have been handed everything have to say that it is on their disks, if they keep it.
const STORING: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(10);

struct Session<'a> {
    served: &'a Served,
    channels: HashMap<Arc<str>, Opened>,
    receipts: VecDeque<(Arc<str>, Receipt)>,
    events: u64,
    /// Of these, the events that are in a log of the node.
    stored: u64,
    began: Instant,
    /// Nodes that were seen to be subscribed.
    seen: Mutex<HashSet<NodeId>>,
}

/// A channel that the command publishes on.
struct Opened {
    channel: Channel,
    /// Events that its producer has not stored: it was opened before the channel was kept.
    unstored: u64,
}

pub(super) async fn serve<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    served: &Served,
    reader: &mut LineReader<R>,
    writer: &mut LineWriter<W>,
    cancel: &CancellationToken,
) -> Result<(), Stop> {
    let mut session = Session {
        served,
        channels: HashMap::new(),
        receipts: VecDeque::new(),
        events: 0,
        stored: 0,
        began: Instant::now(),
        seen: Mutex::default(),
    };
    loop {
        let feed = match cancel.run_until_cancelled(reader.next::<Feed>()).await {
            Some(feed) => feed?,
            None => None,
        };
        match feed {
            Some(Feed::Event(publication)) => {
                let published = session.publish(publication).await;
                if session.receipts.len() >= RECEIPTS_MAX || !reader.has_more() || published.is_err() {
                    session.settle().await?;
                    writer.send(&session.taken()).await?;
                }
                published?;
            }
            Some(Feed::Finish { linger_ms, patient }) => {
                session.settle().await?;
                let wait = session.wait_for_delivery(Duration::from_millis(linger_ms), patient);
                if let Some(delivered) = cancel.run_until_cancelled(wait).await {
                    writer.send(&Reply::Delivered(delivered)).await?;
                }
                return Ok(());
            }
            // The command has gone or the node stops: what was taken is sent all the same.
            None => {
                session.settle().await?;
                writer.send(&session.taken()).await?;
                return Ok(());
            }
        }
    }
}

impl Session<'_> {
    async fn publish(&mut self, publication: Publication) -> Result<(), Failure> {
        let Publication { channel: name, payload, key } = publication;
        let (payload, key) = (payload.into_bytes()?, key.map(super::protocol::Blob::into_bytes).transpose()?);
        let name: Arc<str> = name.into();
        if !self.channels.contains_key(&name) {
            if self.channels.len() >= CHANNELS_MAX {
                let message = format!("one command publishes on {CHANNELS_MAX} channels at most");
                return Err(Failure::new(message).next("choose another `--channel-field`, or divide the input"));
            }
            let channel = self.served.node.channel(&name).open().await.map_err(|error| open_failure(&name, &error))?;
            self.channels.insert(name.clone(), Opened { channel, unstored: 0 });
        }
        let mut publish = Publish::new(&payload);
        if let Some(key) = &key {
            publish = publish.key(key);
        }
        let channel = &self.channels[&name].channel;
        let receipt = channel.publish_with(publish).await.map_err(|error| publish_failure(&error))?;
        self.receipts.push_back((name, receipt));
        Ok(())
    }

    /// Waits until everything is sealed and on its way.
    async fn settle(&mut self) -> Result<(), Failure> {
        while let Some((name, receipt)) = self.receipts.pop_front() {
            let ack = receipt.await.map_err(|error| publish_failure(&error))?;
            self.events += 1;
            match ack {
                Ack::Durable { .. } | Ack::Buffered { .. } => self.stored += 1,
                _ => self.channels.get_mut(&name).into_iter().for_each(|opened| opened.unstored += 1),
            }
        }
        Ok(())
    }

    fn taken(&self) -> Reply {
        Reply::Taken { events: self.events, stored: self.stored }
    }

    async fn wait_for_delivery(&self, linger: Duration, patient: bool) -> Delivered {
        let deadline = Instant::now() + linger;
        self.wait_for_subscribers(deadline, patient).await;
        let (mut nodes, mut behind) = (HashSet::new(), 0);
        for Opened { channel, .. } in self.channels.values() {
            let delivered = channel.wait_for_delivery(deadline.saturating_duration_since(Instant::now())).await;
            behind = behind.max(delivered.subscribers - delivered.complete.min(delivered.subscribers));
            nodes.extend(self.subscribers_of(channel));
        }
        let (stored, keepers) = self.wait_for_keepers(deadline).await;
        let kept = self.channels.values().any(|opened| self.served.keeps.matches(opened.channel.name()));
        let (subscribers, left) = (nodes.len(), lock(&self.seen).difference(&nodes).count());
        let (events, complete) = (self.events, subscribers.saturating_sub(behind));
        Delivered { events, stored, kept, keepers, subscribers, complete, left }
    }

    /// How many events are in logs of this node, and how many other nodes have all of them on their disks. Of those, who
    /// keeps a channel is not told apart from other subscribers before it has stored something: all have a moment.
    async fn wait_for_keepers(&self, deadline: Instant) -> (u64, usize) {
        let (me, others_until) = (self.served.node.id(), deadline.min(Instant::now() + STORING));
        let others_lack = |Opened { channel, .. }: &Opened| {
            let keepers = channel.keepers();
            channel.subscribers().into_iter().any(|node| node != me && !keepers.contains(&node))
        };
        let i_lack = |Opened { channel, unstored }: &Opened| {
            *unstored > 0 && self.served.keeps.matches(channel.name()) && !channel.keepers().contains(&me)
        };
        let mut now = Instant::now();
        while now < others_until && self.channels.values().any(others_lack)
            || now < deadline && self.channels.values().any(i_lack)
        {
            tokio::time::sleep(POLL).await;
            now = Instant::now();
        }
        let (mut stored, mut keepers) = (self.stored, None::<HashSet<NodeId>>);
        for Opened { channel, unstored } in self.channels.values() {
            let mut keeping: HashSet<NodeId> = channel.keepers().into_iter().collect();
            stored += if keeping.remove(&me) { *unstored } else { 0 };
            keepers = Some(keepers.map_or_else(|| keeping.clone(), |all| &all & &keeping));
        }
        (stored, keepers.map_or(0, |all| all.len()))
    }

    /// Who is subscribed to a channel: this node for its commands, not for what it keeps.
    fn subscribers_of(&self, channel: &Channel) -> impl Iterator<Item = NodeId> {
        let me = self.served.node.id();
        let subscribed = self.served.subscribed.matches(channel.name());
        channel.subscribers().into_iter().filter(move |node| subscribed || *node != me)
    }

    /// Whoever subscribes hears of a channel a moment after it was opened, and of a node that has just started a moment
    /// after it was found. They get that moment; a late subscriber is served from what is kept.
    async fn wait_for_subscribers(&self, deadline: Instant, patient: bool) {
        let node = &self.served.node;
        let now = Instant::now();
        let young = self.served.started.elapsed() <= YOUNG;
        let find_until = if patient || young && self.served.knew_peers {
            deadline
        } else if young && self.served.mdns || !node.endpoint().known_peers().is_empty() {
            now + FINDING
        } else {
            now
        };
        self.wait_until(find_until.min(deadline), || linked(node) > 0).await;
        let subscribe_until = if linked(node) > 0 { Instant::now() + SUBSCRIBING } else { self.began + SETTLING };
        self.wait_until(subscribe_until.min(deadline), || false).await;
        // The first is not the last: the other neighbours have a moment too.
        let others_until = (self.began + SETTLING).min(deadline);
        while self.subscribers().len() < linked(node) && Instant::now() < others_until {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until this holds, or somebody is subscribed, or the time has come.
    async fn wait_until(&self, until: Instant, holds: impl Fn() -> bool) {
        while self.subscribers().is_empty() && !holds() && Instant::now() < until {
            tokio::time::sleep(POLL).await;
        }
    }

    fn subscribers(&self) -> HashSet<NodeId> {
        let nodes: HashSet<NodeId> =
            self.channels.values().flat_map(|opened| self.subscribers_of(&opened.channel)).collect();
        lock(&self.seen).extend(&nodes);
        nodes
    }
}

fn open_failure(name: &str, error: &OpenChannelError) -> Failure {
    match error {
        OpenChannelError::Name(_) => Failure::usage(format!("`{name}` is no channel: {}", chain(error)))
            .next("names look like `vehicles/fleet-7/telemetry`: `net pub quakes/ak 'hello'`"),
        OpenChannelError::Persist(_) => Failure::new(chain(error)).next(format!(
            "`net log stat {name}` looks at the log: who may write there, and is there room? Or stop `net up --keep`"
        )),
        _ => Failure::new(chain(error)).next("`net doctor` looks at the directory and the network"),
    }
}

fn publish_failure(error: &PublishError) -> Failure {
    match error {
        PublishError::TooLarge { .. } => {
            Failure::new(chain(error)).next("divide it: `@FILE` and `-` publish one event for each line")
        }
        _ => Failure::new(chain(error)).next("`net doctor` looks at the directory and the network"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
