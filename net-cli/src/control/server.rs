//! The answering end of control connections.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use net::Node;
use net::channel::{KeepError, Pattern, PersistError, SubscribeBuilder, SubscribeError};
use net::redex::LogConfig;
use net::transport::{PeerInfo, PeerState, Ticket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::control::lines::{LineReader, LineWriter};
use crate::control::protocol::{
    ChannelRow, ItemRow, KeptRow, Opening, PATTERNS_MAX, PeerRow, Reply, Request, Status, Takers, VERSION,
};
use crate::control::publish;
use crate::control::standing::{Keep, Registry};
use crate::failure::{Failure, chain};

/// The node that is served, and what its commands want to know of it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) node: Node,
    pub(crate) started: Instant,
    pub(crate) mdns: bool,
    /// Whether the directory remembered peers when the node started.
    pub(crate) knew_peers: bool,
    /// What its commands subscribe to.
    pub(crate) subscribed: Registry<Pattern>,
    /// What they have it keep.
    pub(crate) keeps: Registry<Keep>,
}

impl Served {
    pub(crate) fn new(node: Node, mdns: bool, knew_peers: bool) -> Self {
        let (subscribed, keeps) = (Registry::default(), Registry::default());
        Self { node, started: Instant::now(), mdns, knew_peers, subscribed, keeps }
    }
}

const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the logs that are kept are asked whether they fail.
const KEEP_LOOK_EVERY: Duration = Duration::from_millis(250);

/// Serves one connection until it ends, its request is answered, or `cancel` says that the node stops.
pub(crate) async fn serve<S>(served: Arc<Served>, stream: S, cancel: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (read, write) = tokio::io::split(stream);
    let (mut reader, mut writer) = (LineReader::new(read), LineWriter::new(write));
    let opening = tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        opening = tokio::time::timeout(OPENING_TIMEOUT, reader.next::<Opening>()) => opening,
    };
    let request = match opening {
        Ok(Ok(Some(Opening { version: VERSION, request }))) => Ok(request),
        Ok(Ok(Some(Opening { version, .. }))) => Err(Failure::new(format!(
            "the node of this directory speaks version {VERSION} of the control protocol, this command speaks {version}"
        ))
        .next(format!("use the same program for both, or stop process {}", std::process::id()))),
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => Err(Failure::new(format!("not a request: {error}"))),
    };
    let result = match request {
        Ok(request) => answer(&served, request, &mut reader, &mut writer, &cancel).await,
        Err(failure) => Err(failure.into()),
    };
    if let Err(Stop::Refused(failure)) = result {
        // Whoever asked may have gone; then there is nobody to tell.
        let _ = writer.send(&Reply::refused(failure)).await;
    }
}

/// Why a request was not carried to its end.
pub(super) enum Stop {
    /// The other end is gone, or writes what is no line of the protocol.
    Gone,
    Refused(Failure),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

async fn answer<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    served: &Served,
    request: Request,
    reader: &mut LineReader<R>,
    writer: &mut LineWriter<W>,
    cancel: &CancellationToken,
) -> Result<(), Stop> {
    let node = &served.node;
    match request {
        Request::Status { stay } => {
            writer.send(&Reply::Status(status(served).await)).await?;
            if stay {
                ended(reader, cancel).await;
            }
        }
        Request::Ticket => writer.send(&Reply::Ticket(node.ticket().to_string())).await?,
        Request::Peers => writer.send(&Reply::Peers(peers(node))).await?,
        Request::Channels => {
            let (producers, keeps) = (channels(served).await, served.keeps.rows());
            writer.send(&Reply::Channels { producers, keeps }).await?;
        }
        Request::Metrics => writer.send(&Reply::Metrics(node.metrics().await.to_openmetrics())).await?,
        Request::Join { ticket } => {
            let peers = join(node, &ticket)?;
            writer.send(&Reply::Joined { peers }).await?;
        }
        Request::Subscribe { pattern, start, filter } => {
            let mut wanted = node.subscribe(&pattern).from(start.into_from());
            if let Some(filter) = filter {
                wanted = wanted.filter(&filter);
            }
            // What is no pattern is refused by the subscription.
            let pattern = Pattern::open(&pattern, &node.id()).ok();
            let _entry = pattern.map(|pattern| served.subscribed.enter(pattern));
            subscribe(wanted, reader, writer, cancel).await?;
        }
        Request::Publish => publish::serve(served, reader, writer, cancel).await?,
        Request::Keep { patterns } => keep(served, &patterns, reader, writer, cancel).await?,
    }
    Ok(())
}

/// Waits until the other end has gone or the node stops.
async fn ended<R: AsyncRead + Unpin>(reader: &mut LineReader<R>, cancel: &CancellationToken) {
    // Whatever else it says has no place here.
    cancel.run_until_cancelled(reader.next::<serde::de::IgnoredAny>()).await;
}

async fn channels(served: &Served) -> Vec<ChannelRow> {
    let node = &served.node;
    let mut rows: Vec<ChannelRow> = node.channels().await.into_iter().map(Into::into).collect();
    rows.sort_unstable();
    let (origin, producers) = (node.bus().origin().to_string(), node.metrics().await.channel.producers);
    for row in rows.iter_mut().filter(|row| row.origin == origin) {
        // They are in order of their name.
        let producer = producers.binary_search_by(|producer| producer.channel.as_str().cmp(&row.channel));
        row.takers = producer.ok().map(|at| {
            let producer = &producers[at];
            // What this node keeps is told apart from who is subscribed.
            let keeps = served.keeps.matches(&producer.channel) && !served.subscribed.matches(&producer.channel);
            let subscribers = producer.subscribers.saturating_sub(usize::from(keeps));
            Takers { subscribers, lag_max: producer.lag_max }
        });
    }
    rows
}

async fn status(served: &Served) -> Status {
    let node = &served.node;
    let endpoint = node.endpoint();
    let bus = node.bus();
    let mut counters: Vec<(String, u64)> =
        endpoint.metrics().iter().into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
    let metrics = bus.metrics().await;
    counters.extend(metrics.counters_by_name().into_iter().map(|(name, n)| (name.to_owned(), n)));
    counters.retain(|(_, n)| *n > 0);
    Status {
        node: node.id().to_string(),
        origin: bus.origin().to_string(),
        mesh: net::transport::base32_encode(&endpoint.mesh().hint()),
        pid: std::process::id(),
        addresses: endpoint.addresses(),
        links: linked(node),
        known_peers: endpoint.known_peers().len(),
        mdns: served.mdns,
        uptime_ms: u64::try_from(served.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        notes: node.notes().iter().map(ToString::to_string).collect(),
        counters,
        behind: metrics
            .subscriptions
            .iter()
            .map(|subscription| (subscription.pattern.clone(), subscription.lag_total()))
            .filter(|(_, lag)| *lag > 0)
            .collect(),
    }
}

/// How many links are up.
pub(crate) fn linked(node: &Node) -> usize {
    node.peers().iter().filter(|peer| matches!(peer.state, PeerState::Linked { .. })).count()
}

fn peers(node: &Node) -> Vec<PeerRow> {
    let known = node.endpoint().known_peers();
    let row = |peer: PeerInfo| match peer.state {
        PeerState::Linked { address, rtt, queued_bytes, frames_dropped, frames_skipped, .. } => PeerRow {
            node: peer.node.to_string(),
            address: Some(address),
            rtt_us: Some(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            linked: true,
            queued_bytes: queued_bytes as u64,
            frames_dropped,
            frames_skipped,
            says: None,
        },
        PeerState::Dialing { failures, last_error, .. } => PeerRow {
            node: peer.node.to_string(),
            address: known.iter().find(|k| k.node() == peer.node).and_then(|k| k.addresses.first().copied()),
            rtt_us: None,
            linked: false,
            queued_bytes: 0,
            frames_dropped: 0,
            frames_skipped: 0,
            says: last_error.map(|error| format!("{failures} dials failed, the last one: {error}")),
        },
        _ => PeerRow {
            node: peer.node.to_string(),
            address: None,
            rtt_us: None,
            linked: false,
            queued_bytes: 0,
            frames_dropped: 0,
            frames_skipped: 0,
            says: None,
        },
    };
    node.peers().into_iter().map(row).collect()
}

fn join(node: &Node, ticket: &str) -> Result<usize, Failure> {
    let ticket: Ticket = ticket.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    if ticket.mesh != node.endpoint().mesh() {
        let message = "the ticket is of another mesh than the node that runs in this directory";
        let next = format!(
            "stop process {}, then `net join --replace TICKET`; or `net --dir OTHER join TICKET`",
            std::process::id()
        );
        return Err(Failure::new(message).next(next));
    }
    let peers = ticket.peers.len();
    ticket.peers.into_iter().for_each(|peer| node.endpoint().add_peer(peer));
    Ok(peers)
}

async fn subscribe<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    wanted: SubscribeBuilder,
    reader: &mut LineReader<R>,
    writer: &mut LineWriter<W>,
    cancel: &CancellationToken,
) -> Result<(), Stop> {
    let mut subscription = wanted.await.map_err(|error| match error {
        SubscribeError::Filter(error) => error.into(),
        error => Failure::usage(chain(&error)),
    })?;
    writer.send(&Reply::Subscribed).await?;
    let deliver = async {
        while let Some(item) = subscription.next().await {
            let Ok(item) = item else { break };
            let mut row = ItemRow::of(&item);
            // Whatever is here already goes in one write.
            while let Some(item) = row {
                writer.put(&Reply::Item(item)).await?;
                row = subscription.try_next().as_ref().and_then(ItemRow::of);
            }
            writer.flush().await?;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        () = ended(reader, cancel) => {}
        result = deliver => result?,
    }
    Ok(())
}

/// Keeps channels until the connection or the node ends.
async fn keep<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    served: &Served,
    patterns: &[String],
    reader: &mut LineReader<R>,
    writer: &mut LineWriter<W>,
    cancel: &CancellationToken,
) -> Result<(), Stop> {
    if patterns.len() > PATTERNS_MAX {
        let message = format!("one command keeps {PATTERNS_MAX} patterns at most");
        return Err(Failure::usage(message).next("patterns with wildcards: `net up --keep 'quakes/**'`").into());
    }
    let mut entries = Vec::new();
    for text in patterns {
        let pattern = Pattern::open(text, &served.node.id()).map_err(|error| keep_failure(text, &error.into()))?;
        let keeper = served.node.keep(text, LogConfig::default()).await.map_err(|error| keep_failure(text, &error))?;
        entries.push(served.keeps.enter(Keep { pattern, keeper }));
    }
    writer.send(&Reply::Keeping).await?;
    let tell = async {
        let mut failures = BTreeMap::new();
        loop {
            for kept in entries.iter().flat_map(|entry| entry.row().channels) {
                if let Some(change) = changed(&mut failures, kept) {
                    writer.send(&Reply::Kept(change)).await?;
                }
            }
            tokio::time::sleep(KEEP_LOOK_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        () = ended(reader, cancel) => Ok(()),
        result = tell => result,
    }
}

/// A channel whose log has begun to fail, fails for another reason, or does so no more.
fn changed(failures: &mut BTreeMap<String, String>, kept: KeptRow) -> Option<KeptRow> {
    let before = match &kept.failure {
        Some(failure) => failures.insert(kept.channel.clone(), failure.clone()),
        None => failures.remove(&kept.channel),
    };
    (before != kept.failure).then_some(kept)
}

fn keep_failure(pattern: &str, error: &KeepError) -> Failure {
    match error {
        KeepError::Pattern(_) => Failure::usage(format!("`{pattern}` is no pattern: {}", chain(error)))
            .next("patterns look like 'quakes/*' or 'vehicles/**': `net up --keep 'quakes/*'`"),
        KeepError::Persist(PersistError::NoDirectory) => Failure::new(chain(error)),
        _ => Failure::new(chain(error)).next("the same command again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_log_is_told_once_for_each_change() {
        let row =
            |failure: Option<&str>| KeptRow { channel: "a".to_owned(), events: 0, failure: failure.map(str::to_owned) };
        let mut failures = BTreeMap::new();
        let seen = [None, Some("full"), Some("full"), Some("gone"), None, None, Some("full")];
        let told: Vec<bool> = seen.iter().map(|f| changed(&mut failures, row(*f)).is_some()).collect();
        assert_eq!(told, [false, true, false, true, true, false, true]);
    }
}
