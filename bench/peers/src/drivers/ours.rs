//! Ours: the public API of `net` with its defaults, each role a node of its own, joined by a link.
//!
//! Appends are acknowledged when they are on the disk of the publisher and on that of a keeper, which is a node in
//! another process. Replays come out of a producer's log over the link.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::net::channel::{Ack, ChannelName, Receipt};
use ::net::logs::open_read_only;
use ::net::redex::{EventItem, LogConfig, Start};
use ::net::state::StateDir;
use ::net::transport::PeerState;
use ::net::{Builder, Channel, Item, Node, NodeEvent, Subscription};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;

use crate::drivers::{Guard, Publish, append_while};
use crate::load::{Payload, Tally};
use crate::role::{Appended, Context, Job, Spec};

const CHANNEL: &str = "bench/events";

/// How long nodes may take to find each other.
const MEET_MAX: Duration = Duration::from_secs(10);

fn builder() -> Builder {
    Node::builder().mdns(false).listen(([127, 0, 0, 1], 0).into())
}

pub(crate) struct Publisher {
    channel: Channel,
    _node: Node,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let node = builder().ephemeral().start().await?;
        let channel = node.channel(CHANNEL).open().await?;
        let ticket = node.ticket().to_string();
        context.exchange(serde_json::Value::String(ticket)).await?;
        let here = channel.wait_for_subscribers(context.spec.subscribers, MEET_MAX).await;
        ensure!(here, "not every subscriber came");
        Ok(Self { channel, _node: node })
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        self.channel.publish(payload).await?;
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        self.channel.flush().await;
        Ok(())
    }
}

pub(crate) async fn subscribe(context: &mut Context, mut tally: Tally) -> Result<Guard> {
    let table = context.exchange(serde_json::Value::Null).await?;
    let ticket = serde_json::from_value::<String>(table.publisher)?.parse()?;
    let node = builder().ephemeral().ticket(ticket).start().await?;
    let mut subscription = node.subscribe(CHANNEL).await?;
    tokio::spawn(async move {
        let progress = tally.progress();
        loop {
            if let Err(error) = take(&mut subscription, &mut tally).await {
                return progress.fail(format!("{error:#}"));
            }
        }
    });
    Ok(Box::new(node))
}

/// The next event; anything else than an event makes a run one that does not count.
async fn take(subscription: &mut Subscription, tally: &mut Tally) -> Result<()> {
    match subscription.next().await.context("the node was closed")?? {
        Item::Event(event) => tally.take(event.payload()),
        // A gap, a break in the chain, an equivocation.
        item => bail!("{item}"),
    }
    Ok(())
}

fn keeper_dir(spec: &Spec) -> PathBuf {
    spec.dir.join("keeper")
}

fn producer_dir(spec: &Spec) -> PathBuf {
    spec.dir.join("producer")
}

/// The node at the other end of the link: the keeper of what is appended, the producer of what is replayed.
pub(crate) async fn other_node(mut context: Context) -> Result<()> {
    let (node, _keeper, _channel);
    match context.spec.job {
        Job::Append { .. } => {
            node = builder().dir(keeper_dir(&context.spec)).start().await?;
            _keeper = node.keep(CHANNEL, LogConfig::default()).await?;
        }
        Job::Replay { .. } => {
            node = builder().dir(producer_dir(&context.spec)).start().await?;
            _channel = node.channel(CHANNEL).persist(LogConfig::default()).open().await?;
        }
        Job::Throughput | Job::Latency { .. } => bail!("nothing is kept"),
    }
    context.exchange(serde_json::Value::String(node.ticket().to_string())).await?;
    context.ended().await;
    node.close().await;
    Ok(())
}

pub(crate) async fn append(spec: &Spec) -> Result<Appended> {
    let Job::Append { in_flight } = spec.job else { bail!("this is no append") };
    let ticket = spec.node.as_deref().context("a keeper is needed")?.parse()?;
    let node = builder().ephemeral().ticket(ticket).start().await?;
    let channel = node.channel(CHANNEL).replicas(1).open().await?;
    ensure!(channel.wait_for_subscribers(1, MEET_MAX).await, "the keeper did not come");
    let mut payload = Payload::new(spec.payload_len);
    replicated(channel.publish(payload.probe()).await?).await?;
    let begin = Instant::now();
    let end = begin + spec.duration();
    let channel = &channel;
    let append = |seq| {
        let record = Bytes::copy_from_slice(payload.event(seq, 0));
        async move { Ok(replicated(channel.publish(record).await?)) }
    };
    let acknowledged = append_while(in_flight, |_| Instant::now() < end, append).await?;
    let secs = begin.elapsed().as_secs_f64();
    node.close().await;
    Ok(Appended { acknowledged, found: None, secs })
}

async fn replicated(receipt: Receipt) -> Result<()> {
    match receipt.await? {
        Ack::Replicated { n: 1.. } => Ok(()),
        ack => bail!("it is not on the keeper's disk: {ack:?}"),
    }
}

/// The events in the log of the keeper, whose process has ended.
pub(crate) fn kept(spec: &Spec) -> Result<u64> {
    let log = open_read_only(&StateDir::open(keeper_dir(spec))?, &ChannelName::parse(CHANNEL)?)?;
    let mut tally = Tally::new(Arc::default(), spec.payload_len);
    for item in log.events(Start::Earliest)? {
        let EventItem::Event(event) = item? else { bail!("the keeper's log has a hole") };
        tally.take(event.payload());
    }
    tally.counted()
}

pub(crate) async fn preload(spec: &Spec, records: u64) -> Result<()> {
    let node = builder().dir(producer_dir(spec)).start().await?;
    let channel = node.channel(CHANNEL).persist(LogConfig::default()).open().await?;
    let mut payload = Payload::new(spec.payload_len);
    let mut last = None;
    for seq in 0..records {
        last = Some(channel.publish(payload.event(seq, 0)).await?);
    }
    let ack = last.context("there is nothing to preload")?.await?;
    ensure!(matches!(ack, Ack::Durable { .. }), "it is not on disk: {ack:?}");
    node.close().await;
    Ok(())
}

pub(crate) async fn replay(spec: &Spec, mut tally: Tally, records: u64) -> Result<()> {
    let ticket = spec.node.as_deref().context("a producer is needed")?.parse()?;
    let node = builder().ephemeral().ticket(ticket).start().await?;
    tokio::time::timeout(MEET_MAX, linked(&node)).await.context("the producer did not come")?;
    tally.begin();
    let mut subscription = node.subscribe(CHANNEL).from(::net::From::Earliest).await?;
    for _ in 0..records {
        take(&mut subscription, &mut tally).await?;
    }
    tally.end_at(records);
    Ok(())
}

/// Waits for the first link.
async fn linked(node: &Node) {
    let mut events = node.events();
    let is_up = || node.peers().iter().any(|peer| matches!(peer.state, PeerState::Linked { .. }));
    while !is_up() && !matches!(events.next().await, Some(NodeEvent::PeerUp { .. }) | None) {}
}
