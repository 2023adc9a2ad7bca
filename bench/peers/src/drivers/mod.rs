//! The systems that are measured, each behind the same few calls.

mod device;
mod embedded;
mod jetstream;
mod nats;
mod net_mesh;
#[cfg(feature = "ours")]
mod ours;
mod redex;
mod redis;
mod zenoh;

use std::any::Any;

use anyhow::{Result, bail};
use futures_util::TryStreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use crate::load::Tally;
use crate::role::{self, Appended, Context, Spec};
use crate::servers::ServerKind;
use crate::suites::Suite;

/// One event at a time, as an application would.
pub(crate) trait Publish: Send {
    /// The driver's publish call for one event; waits as long as the driver's own back-pressure says.
    fn publish(&mut self, payload: &[u8]) -> impl Future<Output = Result<()>> + Send;

    /// What a user calls so that nothing stays behind in the process.
    fn settle(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Keeps `in_flight` appends unacknowledged until `more` says, of the next seq, that it is enough; then waits for all.
/// `append` hands one over and gives what waits for its acknowledgement. Says how many there were.
pub(crate) async fn append_while<F, A>(
    in_flight: usize,
    mut more: impl FnMut(u64) -> bool,
    mut append: impl FnMut(u64) -> F,
) -> Result<u64>
where
    F: Future<Output = Result<A>>,
    A: Future<Output = Result<()>>,
{
    let mut acks = FuturesUnordered::new();
    let (mut seq, mut acknowledged) = (0, 0);
    while more(seq) {
        if acks.len() >= in_flight {
            acks.try_next().await?;
            acknowledged += 1;
        }
        let ack = append(seq).await?;
        acks.push(ack);
        seq += 1;
    }
    while acks.try_next().await?.is_some() {
        acknowledged += 1;
    }
    Ok(acknowledged)
}

/// Keeps a subscription going for as long as it is held.
pub(crate) type Guard = Box<dyn Any + Send>;

/// A system in one of its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Driver {
    Ours,
    Redex,
    ZenohTls,
    ZenohTlsDeep,
    ZenohTcp,
    ZenohQuic,
    NatsTls,
    Nats,
    NetMesh,
    NetMeshReliable,
    Redis,
    RedisEverysec,
    RedisAlways,
    Jetstream,
    JetstreamAlways,
    Okaywal,
    Fjall,
    Redb,
    Device,
    DevicePreallocated,
}

impl Driver {
    /// The name on the command line and in results.
    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it is ours, so that others are compared with it.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Redex)
    }

    /// Which of ours it is compared with: the log alone with what is embedded, a node with everything else.
    pub(crate) fn opponent(self) -> Self {
        match self {
            Self::Redex | Self::Okaywal | Self::Fjall | Self::Redb | Self::Device | Self::DevicePreallocated => {
                Self::Redex
            }
            _ => Self::Ours,
        }
    }

    /// What it is and how it is set, in one line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Ours => {
                "net, defaults: sealed end to end, signed, verified before delivery; an append is acknowledged when it is on \
                 the disk of a keeper, another process, a replay comes out of the producer's log over the link"
            }
            Self::Redex => {
                "the log alone, no link: net-redex, embedded, defaults: sealed and signed, one sync for all that wait; verified when read: on disk"
            }
            Self::ZenohTls => {
                "zenoh, peer to peer, TLS 1.3 by rustls and ring; congestion Block, batching on, callback subscriber; \
                 express for latency"
            }
            Self::ZenohTlsDeep => {
                "zenoh-tls with a queue of 16 batches in place of 2 and a receive buffer of 1 MiB in place of 64 KiB"
            }
            Self::ZenohTcp => "zenoh-tls with plain TCP",
            Self::ZenohQuic => "zenoh-tls with QUIC",
            Self::NatsTls => {
                "nats-server, core subjects, TLS 1.3 by rustls and ring; the client's defaults, with room for 1 M messages"
            }
            Self::Nats => "nats-server, core subjects, plain TCP; the client's defaults",
            Self::NetMesh => "net-mesh, its defaults (fire and forget), a sink on the receive path, one event a call",
            Self::NetMeshReliable => "net-mesh with reliable streams, else as above",
            Self::Redis => {
                "Redis Streams, no persistence; queued events go as one pipeline of at most 512 XADDs, XREAD COUNT 1000"
            }
            Self::RedisEverysec => "Redis Streams, AOF, fsync every second: an ack means that at most 1 s is lost",
            Self::RedisAlways => "Redis Streams, AOF, fsync always: an ack means on disk",
            Self::Jetstream => "JetStream, file storage, its defaults: an ack means in the kernel's memory",
            Self::JetstreamAlways => "JetStream, file storage, sync_interval always: an ack means on disk",
            Self::Okaywal => "okaywal, embedded, one thread an append in flight, one sync for all that wait: on disk",
            Self::Fjall => "fjall, embedded, insert and persist(SyncData), one thread an append in flight: on disk",
            Self::Redb => "redb, embedded, one transaction an append, one thread an append in flight: on disk",
            Self::Device => "a file that grows, 256 B and fdatasync at a time: what the disk can do",
            Self::DevicePreallocated => "a file of written blocks, 256 B and fdatasync at a time: what the disk can do",
        }
    }

    /// Whether it takes part in a suite, and if it never can, why.
    pub(crate) fn takes_part(self, suite: Suite) -> bool {
        use Suite::{Durable, Fan, Latency, Pub, Replay};
        match self {
            Self::Ours => true,
            Self::ZenohTls | Self::ZenohTcp | Self::ZenohQuic | Self::NatsTls | Self::Nats => {
                matches!(suite, Pub | Fan | Latency)
            }
            Self::NetMesh | Self::NetMeshReliable => matches!(suite, Pub | Fan | Latency),
            Self::ZenohTlsDeep => matches!(suite, Pub | Fan),
            Self::Redis => matches!(suite, Pub | Fan | Latency | Replay),
            Self::RedisEverysec | Self::RedisAlways | Self::JetstreamAlways => matches!(suite, Durable),
            Self::Redex | Self::Jetstream | Self::Okaywal | Self::Fjall | Self::Redb => {
                matches!(suite, Durable | Replay)
            }
            Self::Device | Self::DevicePreallocated => matches!(suite, Durable),
        }
    }

    /// Why it cannot do one scenario of a suite that it takes part in.
    pub(crate) fn cannot(self, payload_len: usize, in_flight: Option<usize>) -> Option<&'static str> {
        match self {
            Self::NetMesh | Self::NetMeshReliable if payload_len > 8 << 10 => {
                Some("an event is at most 8 KiB in net-mesh")
            }
            Self::Device | Self::DevicePreallocated if in_flight.is_some_and(|n| n > 1) => {
                Some("the bare device is measured with one record a sync")
            }
            _ => None,
        }
    }

    /// The server that it needs.
    pub(crate) fn server(self) -> Option<ServerKind> {
        match self {
            Self::Nats => Some(ServerKind::Nats { tls: false }),
            Self::NatsTls => Some(ServerKind::Nats { tls: true }),
            Self::Jetstream => Some(ServerKind::Jetstream { sync_always: false }),
            Self::JetstreamAlways => Some(ServerKind::Jetstream { sync_always: true }),
            Self::Redis => Some(ServerKind::Redis { fsync: None }),
            Self::RedisEverysec => Some(ServerKind::Redis { fsync: Some("everysec") }),
            Self::RedisAlways => Some(ServerKind::Redis { fsync: Some("always") }),
            _ => None,
        }
    }

    /// The crate whose version says which client or library was measured.
    pub(crate) fn krate(self) -> Option<&'static str> {
        match self {
            Self::Ours => Some("net"),
            Self::Redex => Some("net-redex"),
            Self::ZenohTls | Self::ZenohTlsDeep | Self::ZenohTcp | Self::ZenohQuic => Some("zenoh"),
            Self::NatsTls | Self::Nats | Self::Jetstream | Self::JetstreamAlways => Some("async-nats"),
            Self::NetMesh | Self::NetMeshReliable => Some("net-mesh"),
            Self::Redis | Self::RedisEverysec | Self::RedisAlways => Some("redis"),
            Self::Okaywal => Some("okaywal"),
            Self::Fjall => Some("fjall"),
            Self::Redb => Some("redb"),
            Self::Device | Self::DevicePreallocated => None,
        }
    }
}

/// Connects the driver's publisher and lets it publish.
pub(crate) async fn publisher(mut context: Context) -> Result<()> {
    match context.spec.driver {
        Driver::Nats | Driver::NatsTls => {
            let publisher = nats::Publisher::connect(&mut context).await?;
            role::publish(context, publisher).await
        }
        Driver::ZenohTcp | Driver::ZenohTls | Driver::ZenohTlsDeep | Driver::ZenohQuic => {
            let publisher = zenoh::Publisher::connect(&mut context).await?;
            role::publish(context, publisher).await
        }
        Driver::Redis => {
            let publisher = redis::Publisher::connect(&mut context).await?;
            role::publish(context, publisher).await
        }
        Driver::NetMesh | Driver::NetMeshReliable => {
            let publisher = net_mesh::Publisher::connect(&mut context).await?;
            role::publish(context, publisher).await
        }
        #[cfg(feature = "ours")]
        Driver::Ours => {
            let publisher = ours::Publisher::connect(&mut context).await?;
            role::publish(context, publisher).await
        }
        driver => bail!("{} does not publish", driver.name()),
    }
}

/// Makes the driver's subscription, which hands every message to the tally.
pub(crate) async fn subscribe(context: &mut Context, tally: Tally) -> Result<Guard> {
    match context.spec.driver {
        Driver::Nats | Driver::NatsTls => nats::subscribe(context, tally).await,
        Driver::ZenohTcp | Driver::ZenohTls | Driver::ZenohTlsDeep | Driver::ZenohQuic => {
            zenoh::subscribe(context, tally).await
        }
        Driver::Redis => redis::subscribe(context, tally).await,
        Driver::NetMesh | Driver::NetMeshReliable => net_mesh::subscribe(context, tally).await,
        #[cfg(feature = "ours")]
        Driver::Ours => ours::subscribe(context, tally).await,
        driver => bail!("{} does not subscribe", driver.name()),
    }
}

/// Plays the node at the other end of the link.
pub(crate) async fn other_node(context: Context) -> Result<()> {
    match context.spec.driver {
        #[cfg(feature = "ours")]
        Driver::Ours => ours::other_node(context).await,
        driver => bail!("{} has no node", driver.name()),
    }
}

/// Appends for the time that the spec says, and counts what was acknowledged and what is there afterwards.
pub(crate) async fn append(spec: &Spec) -> Result<Appended> {
    match spec.driver {
        Driver::Jetstream | Driver::JetstreamAlways => jetstream::append(spec).await,
        Driver::RedisEverysec | Driver::RedisAlways => redis::append(spec).await,
        #[cfg(feature = "ours")]
        Driver::Ours => ours::append(spec).await,
        Driver::Redex => embedded::append::<redex::Redex>(spec),
        Driver::Okaywal => embedded::append::<embedded::Okaywal>(spec),
        Driver::Fjall => embedded::append::<embedded::Fjall>(spec),
        Driver::Redb => embedded::append::<embedded::Redb>(spec),
        Driver::Device => device::append(spec, false),
        Driver::DevicePreallocated => device::append(spec, true),
        driver => bail!("{} does not append", driver.name()),
    }
}

/// What the node at the other end of the link has kept, when its process has ended.
pub(crate) fn kept(spec: &Spec) -> Result<u64> {
    match spec.driver {
        #[cfg(feature = "ours")]
        Driver::Ours => ours::kept(spec),
        driver => bail!("{} has no node", driver.name()),
    }
}

/// Puts records there for replays to read.
pub(crate) async fn preload(spec: &Spec, records: u64) -> Result<()> {
    match spec.driver {
        Driver::Jetstream => jetstream::preload(spec, records).await,
        Driver::Redis => redis::preload(spec, records).await,
        #[cfg(feature = "ours")]
        Driver::Ours => ours::preload(spec, records).await,
        Driver::Redex => embedded::preload::<redex::Redex>(spec, records),
        Driver::Okaywal => embedded::preload::<embedded::Okaywal>(spec, records),
        Driver::Fjall => embedded::preload::<embedded::Fjall>(spec, records),
        Driver::Redb => embedded::preload::<embedded::Redb>(spec, records),
        driver => bail!("{} does not preload", driver.name()),
    }
}

/// Reads all records from the first on.
pub(crate) async fn replay(spec: &Spec, tally: Tally, records: u64) -> Result<()> {
    match spec.driver {
        Driver::Jetstream => jetstream::replay(spec, tally, records).await,
        Driver::Redis => redis::replay(spec, tally, records).await,
        #[cfg(feature = "ours")]
        Driver::Ours => ours::replay(spec, tally, records).await,
        Driver::Redex => embedded::replay::<redex::Redex>(spec, tally, records),
        Driver::Okaywal => embedded::replay::<embedded::Okaywal>(spec, tally, records),
        Driver::Fjall => embedded::replay::<embedded::Fjall>(spec, tally, records),
        Driver::Redb => embedded::replay::<embedded::Redb>(spec, tally, records),
        driver => bail!("{} does not replay", driver.name()),
    }
}
