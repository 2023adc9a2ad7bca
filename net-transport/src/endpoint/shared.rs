//! What all tasks of an endpoint share, and how neighbours come and go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use quinn::TimeSource as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protocols::Protocols;
use crate::config::EndpointConfig;
use crate::crypto::{Entropy, LinkIdentity};
use crate::dialer::Dialer;
use crate::directory::record::UnverifiedRecord;
use crate::directory::{self, AdvertError, Directory};
use crate::inbox::{Events, FrameQueue};
use crate::joins::{Joins, Output};
use crate::link::{CloseCode, Link, OpenCount, Rival};
use crate::metrics::Counters;
use crate::neighbour::Neighbour;
use crate::outbox::RoomSignal;
use crate::quic::Quic;
use crate::socket::{AddressInUse, KnownAddresses};
use crate::sync::{lock, write};
use crate::{Admission, Event, MeshId, NodeId, Peer};

/// One endpoint. Locks are taken in this order: `state`, `joins`, then those inside a neighbour or a queue; none is held
/// over an await.
pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(super) mesh: MeshId,
    pub(crate) boot: [u8; 8],
    pub(super) identity: Arc<LinkIdentity>,
    pub(super) quic: Quic,
    pub(crate) admission: Arc<dyn Admission>,
    pub(super) runtime: Arc<dyn quinn::Runtime>,
    /// One for each socket; none after closing.
    pub(super) endpoints: Mutex<Vec<quinn::Endpoint>>,
    /// Sockets that are not closed.
    pub(super) sockets_open: Arc<OpenCount>,
    /// What the sockets are bound to.
    pub(super) bound: Vec<SocketAddr>,
    pub(super) known_addresses: Arc<KnownAddresses>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Mutex<State>,
    pub(crate) joins: RwLock<Joins<Arc<Neighbour>>>,
    pub(crate) room: Arc<RoomSignal>,
    pub(crate) frames: Arc<FrameQueue>,
    pub(crate) events: Events,
    pub(super) protocols: Mutex<Protocols>,
    /// Nothing new is begun.
    pub(crate) closing: CancellationToken,
    /// Everything ends.
    pub(super) closed: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Something may be due earlier than it was.
    pub(super) timer: Notify,
    /// A neighbour sees this node elsewhere than before.
    pub(super) addresses_changed: Notify,
    pub(super) entropy: Entropy,
    pub(super) link_ids: AtomicU64,
    /// Handshakes of others that are not complete.
    pub(super) handshakes: Arc<AtomicUsize>,
    pub(crate) config: EndpointConfig,
}

/// What is changed together.
pub(crate) struct State {
    pub(crate) dialer: Dialer,
    pub(crate) directory: Directory,
    pub(crate) neighbours: BTreeMap<NodeId, Arc<Neighbour>>,
    /// Where neighbours see this node.
    pub(super) observed: BTreeMap<NodeId, SocketAddr>,
}

/// Milliseconds since 1970 by the configured clock.
pub(super) fn unix_ms(config: &EndpointConfig) -> u64 {
    let now = config.clock.as_ref().map_or_else(|| quinn::StdSystemTime.now(), |clock| clock.now());
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(super) fn start(self: &Arc<Self>, events: mpsc::Sender<Event>) {
        for endpoint in lock(&self.endpoints).iter() {
            self.tasks.spawn(self.clone().accept(endpoint.clone()));
        }
        self.update_addresses(Instant::now());
        for peer in self.config.known.clone() {
            self.keep(peer);
        }
        self.tasks.spawn(self.clone().drive());
        self.tasks.spawn(self.clone().pump(events));
        #[cfg(feature = "mdns")]
        if self.config.mdns && self.config.sockets.is_none() {
            self.tasks.spawn(crate::mdns::run(self.clone()));
        }
    }

    pub(crate) fn next_link_id(&self) -> u64 {
        self.link_ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // Only jitter comes from here.
        let _ = self.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn address_in_use(&self, address: SocketAddr) -> AddressInUse {
        self.known_addresses.in_use(address, &self.runtime)
    }

    /// Something may be due earlier than it was.
    #[cfg(feature = "mdns")]
    pub(crate) fn timer_changed(&self) {
        self.timer.notify_one();
    }

    /// The port to announce on the local network, unless only this machine can reach it.
    #[cfg(feature = "mdns")]
    pub(crate) fn discoverable_port(&self) -> Option<u16> {
        self.bound.iter().find(|bound| !bound.ip().is_loopback()).map(SocketAddr::port)
    }

    #[cfg(feature = "mdns")]
    pub(crate) fn mesh_hint(&self) -> [u8; 16] {
        self.mesh.hint()
    }

    #[cfg(feature = "mdns")]
    pub(crate) fn binding(&self) -> crate::StaticBinding {
        *self.identity.keys().binding()
    }

    pub(crate) fn neighbours(&self) -> Vec<Arc<Neighbour>> {
        lock(&self.state).neighbours.values().cloned().collect()
    }

    pub(crate) fn neighbour(&self, node: &NodeId) -> Option<Arc<Neighbour>> {
        lock(&self.state).neighbours.get(node).cloned()
    }

    // Changes, and what follows from them.

    /// Changes the joins and does what follows, before anyone else changes them.
    pub(crate) fn with_joins(
        &self,
        change: impl FnOnce(&mut Joins<Arc<Neighbour>>, &Counters, &mut Vec<Output<Arc<Neighbour>>>),
    ) {
        let mut out = Vec::new();
        let mut room = false;
        let mut joins = write(&self.joins);
        change(&mut joins, &self.counters, &mut out);
        for output in out {
            match output {
                Output::Send(neighbour, message) => neighbour.current().control.push(message),
                Output::Event(event) => self.events.push(event),
                Output::RoomChanged => room = true,
            }
        }
        drop(joins);
        if room {
            self.room.changed();
        }
    }

    /// The same for what is said on a connection, if that speaks for its node.
    pub(crate) fn with_joins_of(
        &self,
        neighbour: &Neighbour,
        link: &Link,
        change: impl FnOnce(&mut Joins<Arc<Neighbour>>, &Counters, &mut Vec<Output<Arc<Neighbour>>>),
    ) {
        self.with_joins(|joins, counters, out| {
            if neighbour.is_current(link) {
                change(joins, counters, out);
            }
        });
    }

    /// Changes the directory and does what follows.
    pub(super) fn with_directory<T>(
        &self,
        state: &mut State,
        change: impl FnOnce(&mut Directory, &mut Vec<directory::Output>) -> T,
    ) -> T {
        let mut out = Vec::new();
        let result = change(&mut state.directory, &mut out);
        let mut wake = false;
        for output in out {
            match output {
                directory::Output::Event(event) => self.events.push(event),
                directory::Output::Introduced(peer) => {
                    state.dialer.introduce(Instant::now(), peer);
                    self.timer.notify_one();
                }
                directory::Output::Gone(node) => state.dialer.gone(&node),
                directory::Output::Wake => wake = true,
            }
        }
        if wake {
            state.neighbours.values().for_each(|neighbour| neighbour.current().control.ready.notify_one());
        }
        result
    }

    /// The state, if this connection speaks for its node: it does as long as the lock is held.
    fn speaking(&self, neighbour: &Neighbour, link: &Link) -> Option<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        neighbour.is_current(link).then_some(state)
    }

    /// The next thing to say on a connection.
    pub(crate) fn poll_send(&self, neighbour: &Neighbour, link: &Link) -> Option<directory::Item> {
        self.speaking(neighbour, link)?.directory.poll_send(&link.node, Instant::now())
    }

    pub(crate) fn handle_record(&self, neighbour: &Neighbour, link: &Link, age_ms: u32, record: &[u8]) {
        let (counters, from) = (&self.counters, &link.node);
        let Ok(unverified) = UnverifiedRecord::parse(record) else { return counters.records_dropped_invalid.one() };
        let Some(mut state) = self.speaking(neighbour, link) else { return };
        let news = state.directory.is_news(from, age_ms, &unverified, counters);
        drop(state);
        let Some(news) = news else { return };
        // Signatures are checked without a lock.
        let Ok(verified) = unverified.verify(&self.mesh, news.known.as_ref()) else {
            return counters.records_dropped_invalid.one();
        };
        let (now, verified) = (Instant::now(), (verified, Bytes::copy_from_slice(record)));
        let Some(mut state) = self.speaking(neighbour, link) else { return };
        self.with_directory(&mut state, |directory, out| {
            directory.handle_record(now, from, age_ms, verified, counters, out);
        });
    }

    pub(crate) fn handle_advert(&self, neighbour: &Neighbour, link: &Link, bytes: &[u8]) {
        if lock(&self.state).directory.holds_advert(bytes) {
            return self.counters.adverts_dropped_stale.one();
        }
        // Signatures are checked without a lock.
        let Ok(id) = self.admission.advert(bytes) else { return self.counters.adverts_dropped_invalid.one() };
        let Some(mut state) = self.speaking(neighbour, link) else { return };
        self.with_directory(&mut state, |directory, out| {
            directory.handle_advert(&link.node, &id, bytes, &self.counters, out);
        });
    }

    pub(super) fn advertise(&self, key: [u8; 32], bytes: Bytes) -> Result<(), AdvertError> {
        let mut state = lock(&self.state);
        self.with_directory(&mut state, |directory, out| directory.advertise(key, bytes, out))
    }

    pub(crate) fn keep(&self, peer: Peer) {
        let node = peer.node();
        if lock(&self.state).dialer.keep(Instant::now(), peer) {
            self.timer.notify_one();
        } else {
            tracing::warn!(%node, "too many peers are kept already, this one is not");
        }
    }

    // Neighbours.

    /// Finds a place for a new connection: the link of a new neighbour, or one beside or instead of another.
    pub(crate) fn register(
        self: &Arc<Self>,
        link: &Arc<Link>,
        observed: Option<SocketAddr>,
    ) -> Result<Arc<Neighbour>, CloseCode> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if self.closing.is_cancelled() {
            return Err(CloseCode::CLOSED);
        }
        if let Some(neighbour) = state.neighbours.get(&link.node).cloned() {
            if neighbour.boot == link.boot {
                self.rival(state, &neighbour, link);
                return Ok(neighbour);
            }
            // It was restarted: what it was before is no more.
            for old in neighbour.links() {
                CloseCode::REPLACED.close(&old.connection);
            }
            self.link_down(state, &neighbour, "the node was restarted".to_owned());
            self.with_directory(state, |directory, out| directory.handle_restart(link.node, out));
        }
        if state.neighbours.len() >= self.config.links_max {
            self.counters.links_refused_full.one();
            return Err(CloseCode::LINKS_MAX);
        }
        let neighbour = Arc::new(Neighbour::new(link.clone(), self.config.limits.queue_bytes, self.frames.part()));
        state.neighbours.insert(link.node, neighbour.clone());
        // Where an accepted connection comes from need not be where its node can be dialled.
        let at = link.dial.mine().then(|| crate::socket::canonical(link.connection.remote_address()));
        state.dialer.linked(Instant::now(), link.binding, at);
        if let Some(observed) = observed
            && state.observed.insert(link.node, observed) != Some(observed)
        {
            self.addresses_changed.notify_one();
        }
        self.counters.links_up.one();
        tracing::debug!(node = %link.node, "link up");
        self.events.push(Event::LinkUp { node: link.node, boot: link.boot });
        self.tell_all(state, &neighbour);
        self.timer.notify_one();
        Ok(neighbour)
    }

    /// A second connection with a neighbour: one of the two is drained.
    fn rival(&self, state: &mut State, neighbour: &Arc<Neighbour>, link: &Arc<Link>) {
        let rival = link.dial.against(&neighbour.current().dial, &self.me, &link.node);
        tracing::debug!(node = %link.node, ?rival, "a second connection with a neighbour");
        if rival == Rival::Loses {
            self.cut(neighbour.add_draining(link.clone()));
            link.drain.cancel();
            return;
        }
        let (old, too_many) = neighbour.switch(link.clone());
        self.cut(too_many);
        if rival == Rival::Newer && !link.peer_linked {
            // The other end has lost the old one already.
            CloseCode::DRAINED.close(&old.connection);
        }
        old.drain.cancel();
        self.counters.links_switched.one();
        self.tell_all(state, neighbour);
    }

    /// A connection that is drained has to go for another.
    fn cut(&self, link: Option<Arc<Link>>) {
        if let Some(link) = link {
            self.counters.drains_cut.one();
            CloseCode::DRAIN_CUT.close(&link.connection);
        }
    }

    /// Says everything on the current connection of a neighbour (again).
    fn tell_all(&self, state: &mut State, neighbour: &Arc<Neighbour>) {
        self.with_directory(state, |directory, out| directory.handle_link_up(neighbour.node, out));
        self.with_joins(|joins, _, out| joins.handle_link_up(neighbour.node, neighbour.clone(), out));
        neighbour.outbox.wants_writer.notify_one();
    }

    /// A connection is gone.
    pub(crate) fn unregister(&self, neighbour: &Arc<Neighbour>, link: &Link, error: &quinn::ConnectionError) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if neighbour.remove_draining(link) {
            return;
        }
        let current = state.neighbours.get(&link.node).is_some_and(|known| Arc::ptr_eq(known, neighbour));
        if !current {
            return;
        }
        for draining in neighbour.links() {
            CloseCode::DRAINED.close(&draining.connection);
        }
        self.link_down(state, neighbour, CloseCode::explain(error));
        if link.has_left() {
            self.with_directory(state, |directory, out| directory.handle_left(&link.node, link.boot, out));
        }
        self.timer.notify_one();
    }

    fn link_down(&self, state: &mut State, neighbour: &Arc<Neighbour>, why: String) {
        let node = neighbour.node;
        tracing::debug!(%node, why, "link down");
        state.neighbours.remove(&node);
        neighbour.end();
        state.observed.remove(&node);
        state.directory.handle_link_down(&node);
        state.dialer.unlinked(Instant::now(), &node, why, self.random());
        self.with_joins(|joins, _, out| joins.handle_link_down(&node, out));
        let queued = neighbour.outbox.close() + neighbour.realtime.close();
        self.counters.frames_dropped_link_down.add(queued as u64);
        self.counters.links_down.one();
        self.events.push(Event::LinkDown { node });
        self.room.changed();
    }
}
