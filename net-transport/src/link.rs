//! One connection with a neighbour: its control stream, its lanes, its streams, its end.
//!
//! A connection is one task that looks after it, and one for quinn's driver and the readers of lanes and realtime streams.
//! Lanes with much to read, writers and streams have tasks of their own. It does not know what a join or an advert means; it
//! carries them between the neighbour and the [`Shared`] state of the endpoint.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::crypto::PeerIdentity;
use crate::endpoint::Shared;
use crate::group::Group;
use crate::neighbour::Neighbour;
use crate::quic::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::socket::{AddressInUse, canonical};
use crate::sync::lock;
use crate::{NodeId, StaticBinding};

mod assembler;
mod codes;
pub(crate) mod control;
mod lanes;
mod realtime;
mod rival;
mod speak;
mod stream;
mod streams;

pub(crate) use codes::CloseCode;
pub(crate) use rival::{Dial, Rival};
pub(crate) use speak::hello;
pub(crate) use stream::{OpenCount, OpenGuard};
pub use stream::{RecvStream, SendStream, StreamError};
pub(crate) use streams::{PROTOCOL_LEN_MAX, open as open_stream};

/// Within this time both hellos and the prelude of a stream must come.
pub(crate) const PRELUDE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that was replaced may take to become empty.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often packet keys are changed.
const KEY_UPDATE: Duration = Duration::from_secs(600);
/// How often a connection looks after itself.
const MAINTENANCE: Duration = Duration::from_secs(5);

/// First byte of a stream: what it is for.
const STREAM_CONTROL: u8 = 0;
const STREAM_PROTOCOL: u8 = 1;
const STREAM_LANE: u8 = 2;
const STREAM_REALTIME: u8 = 3;

/// An authenticated connection on which both have said hello.
pub(crate) struct Link {
    /// Different for each connection of this endpoint.
    pub(crate) id: u64,
    pub(crate) node: NodeId,
    pub(crate) binding: StaticBinding,
    pub(crate) boot: [u8; 8],
    pub(crate) connection: quinn::Connection,
    /// Where its unidirectional streams are read, beside quinn's driver.
    group: Group,
    pub(crate) dial: Dial,
    /// The other end had another connection with us when it said hello.
    pub(crate) peer_linked: bool,
    pub(crate) since: Instant,
    pub(crate) control: control::ControlOut,
    /// Another connection takes over: no new streams.
    pub(crate) drain: CancellationToken,
    /// Streams in both directions.
    pub(crate) open: Arc<OpenCount>,
    /// Lanes of ours that are written or not yet acknowledged.
    pub(crate) lanes_out: Arc<OpenCount>,
    /// The other end has said all on this connection.
    remote_done: CancellationToken,
    /// Lanes that wait for room in the inbox.
    stalled: Mutex<u32>,
    /// Lanes that the other end has opened on this connection, a bit each.
    lanes_in: AtomicU32,
    /// Streams of realtime frames that may be read at a time.
    realtime_in: Semaphore,
    /// The other end has closed because its owner wanted so.
    left: AtomicBool,
    in_use: Mutex<AddressInUse>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EstablishError {
    #[error("{0}")]
    Connection(String),
    #[error("{0:?}")]
    Refused(CloseCode),
}

/// Makes a link of a connection whose handshake is complete: hellos, a place among the neighbours, a task of its own.
///
/// `dial` is the number of the dial if this end has dialled.
pub(crate) async fn establish(
    shared: &Arc<Shared>,
    connection: quinn::Connection,
    group: Group,
    dial: Option<u64>,
    in_use: AddressInUse,
) -> Result<(), EstablishError> {
    let refuse = |code: CloseCode| {
        code.close(&connection);
        EstablishError::Refused(code)
    };
    let identity = connection.peer_identity().and_then(|identity| identity.downcast::<PeerIdentity>().ok());
    let identity = identity.ok_or_else(|| refuse(CloseCode::PROTOCOL))?;
    if identity.node == shared.me {
        return Err(refuse(CloseCode::MYSELF));
    }
    let greeted = timeout(PRELUDE_TIMEOUT, hello(shared, &connection, &identity.node, dial)).await;
    let (send, recv, mine, theirs) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(None)) | Err(_) => return Err(refuse(CloseCode::HELLO)),
        Ok(Err(Some(error))) => return Err(EstablishError::Connection(CloseCode::explain(&error))),
    };
    // Back-pressure: while events are not taken nobody becomes a neighbour.
    shared.events.room().await;
    let link = Arc::new(Link {
        id: shared.next_link_id(),
        node: identity.node,
        binding: identity.binding,
        boot: theirs.boot,
        dial: Dial::new(dial.is_some(), &mine, &theirs),
        peer_linked: theirs.linked,
        since: Instant::now(),
        control: control::ControlOut::default(),
        drain: CancellationToken::new(),
        open: Arc::default(),
        lanes_out: Arc::default(),
        remote_done: CancellationToken::new(),
        stalled: Mutex::new(0),
        lanes_in: AtomicU32::new(0),
        realtime_in: Semaphore::new(realtime::READ_MAX),
        left: AtomicBool::new(false),
        in_use: Mutex::new(in_use),
        connection,
        group,
    });
    let neighbour = shared.register(&link, theirs.observed.dialable()).map_err(|code| {
        code.close(&link.connection);
        EstablishError::Refused(code)
    })?;
    shared.tasks.spawn(run(shared.clone(), neighbour, link, send, recv));
    Ok(())
}

/// Looks after a connection until it is gone.
async fn run(
    shared: Arc<Shared>,
    neighbour: Arc<Neighbour>,
    link: Arc<Link>,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
) {
    // That the connection is gone comes last: what has arrived before is taken before.
    let code = tokio::select! {
        biased;
        code = speak::listen(&shared, &neighbour, &link, recv) => Some(code),
        code = speak::speak(&shared, &neighbour, &link, send) => Some(code),
        () = streams::accept(&shared, &link) => None,
        code = lanes::accept(&shared, &neighbour, &link) => code,
        () = lanes::datagrams(&shared, &neighbour, &link) => None,
        never = lanes::write(&shared, &neighbour, &link) => match never {},
        never = realtime::write(&shared, &neighbour, &link) => match never {},
        never = maintain(&shared, &neighbour, &link) => match never {},
        _ = link.connection.closed() => None,
    };
    if let Some(code) = code {
        if link.connection.close_reason().is_none() && code.is_violation() {
            shared.counters.protocol_violations.one();
            tracing::warn!(node = %link.node, ?code, "a neighbour has broken the protocol of links");
        }
        code.close(&link.connection);
    }
    let error = link.connection.closed().await;
    if CloseCode::of(&error) == Some(CloseCode::CLOSED) {
        link.left.store(true, Ordering::Relaxed);
    }
    shared.unregister(&neighbour, &link, &error);
}

/// Key updates, renewal, and the address of the other end.
async fn maintain(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>) -> std::convert::Infallible {
    let limits = &shared.config.limits;
    let mut key_update = link.since + KEY_UPDATE;
    loop {
        tokio::time::sleep(MAINTENANCE.min(limits.renew_after)).await;
        let now = Instant::now();
        if now >= key_update {
            link.connection.force_key_update();
            key_update = now + KEY_UPDATE;
        }
        let address = canonical(link.connection.remote_address());
        if lock(&link.in_use).address() != address {
            *lock(&link.in_use) = shared.address_in_use(address);
        }
        let stats = link.connection.stats();
        let old = now.duration_since(link.since) >= limits.renew_after
            || stats.udp_tx.bytes.saturating_add(stats.udp_rx.bytes) >= limits.renew_bytes;
        // The end that has dialled renews, since it knows an address that works.
        // One after the other: the next waits until the one before is drained.
        let free = neighbour.is_current(link) && !link.drain.is_cancelled() && !neighbour.is_draining();
        if old && link.dial.mine() && free {
            shared.renew(&link.node, address);
        }
    }
}

impl Link {
    /// Has the other end closed this connection because its owner wanted so?
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Notes that the other end opens a lane here; false if it has done so before.
    fn claim_lane(&self, lane: crate::outbox::Lane) -> bool {
        let bit = 1 << lane.number();
        self.lanes_in.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// A lane stops reading for lack of room, or goes on.
    ///
    /// What lies unread in a stalled lane counts against the connection's window, so that is grown by as much: the
    /// control stream and all others go on as before.
    fn set_stalled(&self, stalls: bool) {
        let mut stalled = lock(&self.stalled);
        *stalled = if stalls { *stalled + 1 } else { *stalled - 1 };
        self.connection.set_receive_window((CONNECTION_WINDOW + *stalled * STREAM_WINDOW).into());
    }
}
