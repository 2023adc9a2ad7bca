//! The handle of a simulated network.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use quinn::udp::EcnCodepoint;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::nat::{NatConfig, Subnet};
use super::runtime::{SimCalendar, SimRuntime, spawn_on};
use super::socket::{SimSocket, down};
use super::trace::{Faults, TraceRecord};
use super::world::{Mailbox, World};
use super::{LinkConfig, SimRng};
use crate::crypto::Entropy;

/// A network in virtual time. Clones are handles to the same one.
///
/// Links, partitions, crashes and pauses concern *nodes*, which are IP addresses; for a node behind a NAT box that is
/// the address inside. Everything may be changed at any time; datagrams on their way keep the delay they were given.
#[derive(Clone)]
pub struct SimNet(Arc<Inner>);

struct Inner {
    world: Mutex<World>,
    /// Something arrives earlier than the driver expects.
    earlier: Arc<Notify>,
    began: Instant,
}

impl SimNet {
    /// A network of perfect wires of 1 ms. All its randomness comes from `seed`.
    ///
    /// # Panics
    /// Outside a tokio runtime. The clock of that has to be paused from the start, or nothing is virtual and nothing can
    /// be repeated: [`run`](super::run) sees to it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let earlier = Arc::new(Notify::new());
        let inner = Inner { world: Mutex::new(World::new(seed)), earlier: earlier.clone(), began: Instant::now() };
        let net = Self(Arc::new(inner));
        tokio::spawn(drive(Arc::downgrade(&net.0), earlier));
        net
    }

    // What a stack needs.

    /// Binds a socket. Its node comes into being with it; port 0 takes one that is free.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`]; [`io::ErrorKind::AddrNotAvailable`] for an unspecified address and for the outside
    /// address of a NAT box; [`io::ErrorKind::NetworkDown`] if the node has crashed.
    pub fn socket(&self, address: SocketAddr) -> io::Result<Arc<SimSocket>> {
        let mut world = self.world();
        if address.ip().is_unspecified() || world.is_nat(address.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if world.nodes.entry(address.ip()).or_default().crashed {
            return Err(down());
        }
        let free = |address: &SocketAddr| !world.sockets.contains_key(address);
        let address = if address.port() == 0 {
            let mut candidates = (EPHEMERAL_PORT_FIRST..=u16::MAX).map(|port| SocketAddr::new(address.ip(), port));
            candidates.find(free).ok_or(io::ErrorKind::AddrInUse)?
        } else {
            Some(address).filter(free).ok_or(io::ErrorKind::AddrInUse)?
        };
        let id = world.id();
        world.sockets.insert(address, Mailbox::new(id));
        drop(world);
        Ok(Arc::new(SimSocket::new(self.clone(), address, id)))
    }

    /// quinn's runtime on the virtual clock; its tasks belong to no node.
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn quinn::Runtime> {
        Arc::new(SimRuntime { net: self.clone(), node: None })
    }

    /// quinn's runtime on the virtual clock, for a node: when that crashes its tasks are dropped, while it is paused
    /// they are not polled. After a restart another one is needed.
    #[must_use]
    pub fn runtime_of(&self, ip: IpAddr) -> Arc<dyn quinn::Runtime> {
        let life = self.life(ip);
        Arc::new(SimRuntime { net: self.clone(), node: Some((ip, life)) })
    }

    /// Spawns a task on a node: dropped when that crashes, not polled while it is paused. On a node that is down it is
    /// dropped at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_on<F>(&self, ip: IpAddr, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let life = self.life(ip);
        spawn_on(self, ip, life, future)
    }

    /// The time of day: a fixed one in the beginning, then as virtual time passes.
    #[must_use]
    pub fn time_source(&self) -> Arc<dyn quinn::TimeSource> {
        Arc::new(SimCalendar(self.clone()))
    }

    /// 32 bytes that only the seed and `label` decide, for seeds of all sorts.
    #[must_use]
    pub fn derive(&self, label: &str) -> [u8; 32] {
        self.world().derive(label)
    }

    /// Entropy for the keys of a node that only the seed and `label` decide. A node that was restarted takes another
    /// label: the same one gives the same bytes again, and with them its old ephemeral keys.
    #[must_use]
    pub fn entropy(&self, label: &str) -> Entropy {
        Entropy::seeded(self.derive(label))
    }

    /// Randomness for the choices of a scenario that only the seed and `label` decide.
    #[must_use]
    pub fn rng(&self, label: &str) -> SimRng {
        self.world().rng("sim scenario", label)
    }

    // What the network does to datagrams.

    /// How links behave that were not set by themselves.
    pub fn set_default(&self, config: LinkConfig) {
        self.world().default_link = config;
    }

    /// How datagrams from node `from` to node `to` fare; the other direction stays as it is.
    pub fn set_link(&self, from: IpAddr, to: IpAddr, config: LinkConfig) {
        self.world().link_configs.insert((from, to), config);
    }

    /// How datagrams between two nodes fare, both ways.
    pub fn set_link_both(&self, a: IpAddr, b: IpAddr, config: LinkConfig) {
        self.set_link(a, b, config);
        self.set_link(b, a, config);
    }

    /// Bytes that wait in a socket at most, each datagram counted with 64 more; what does not fit is dropped. 4 MiB
    /// unless set.
    pub fn set_receive_buffer(&self, bytes: usize) {
        self.world().receive_buffer_bytes = bytes;
    }

    /// Bytes on their way in the whole network at most; what comes on top is dropped as if a queue were full. 256 MiB
    /// unless set.
    pub fn set_in_flight_max(&self, bytes: usize) {
        self.world().in_flight_bytes_max = bytes;
    }

    /// Cuts the network: nodes reach each other only if they are on the same side. Those not named are one more side. It
    /// takes the place of the partition before; datagrams on their way across are lost unless it heals before they
    /// arrive.
    pub fn partition(&self, sides: &[&[IpAddr]]) {
        self.world().partition(sides);
    }

    /// Ends the partition.
    pub fn heal(&self) {
        self.world().heal();
    }

    /// Puts a NAT box between the nodes in `inside`, which reach each other without it, and all others. These see the
    /// address `outside` and ports that the box chooses. It does not send back what comes from inside to its own outside
    /// address. Boxes may stand behind boxes, up to 4. Setting one again forgets its mappings.
    ///
    /// # Panics
    /// If `outside` is in `inside`, of another family, or bound by a socket, or if the insides of two boxes overlap.
    pub fn nat(&self, inside: Subnet, outside: IpAddr, config: impl Into<NatConfig>) {
        self.world().add_nat(inside, outside, config.into());
    }

    /// A NAT box forgets all its mappings, as after a restart: the next datagram from inside gets another port. Tells
    /// whether there is such a box.
    pub fn rebind(&self, outside: IpAddr) -> bool {
        self.world().rebind(outside)
    }

    // What becomes of nodes.

    /// A node is gone from one moment to the next: its tasks are dropped, its sockets fail, what is on its way to it is
    /// lost. Nothing if it is down already.
    pub fn crash(&self, ip: IpAddr) {
        let now = self.now();
        let (wakers, tasks) = self.world().crash(now, ip);
        tasks.iter().for_each(tokio::task::AbortHandle::abort);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A node that crashed may bind sockets and spawn tasks again.
    pub fn restart(&self, ip: IpAddr) {
        self.world().restart(ip);
    }

    /// A node stops as by SIGSTOP: its tasks are not polled, its sockets take datagrams until they are full but give
    /// none out.
    pub fn pause(&self, ip: IpAddr) {
        self.world().pause(ip);
    }

    /// A node goes on where it was paused.
    pub fn resume(&self, ip: IpAddr) {
        let held = self.world().resume(ip);
        held.into_iter().for_each(Waker::wake);
    }

    // What has happened.

    /// Virtual time since the network began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// What has been done to datagrams and nodes so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.world().faults
    }

    /// 64 bits over every datagram so far whose fate is sealed: when, from where, where to, how long, what it held, what
    /// became of it. The same for the same seed, unless something under test is not decided by it.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world().trace.hash()
    }

    /// As [`trace_hash`](Self::trace_hash), but not over what datagrams held: for stacks whose keys are random.
    #[must_use]
    pub fn trace_shape_hash(&self) -> u64 {
        self.world().trace.shape_hash()
    }

    /// Keeps the last `count` records of the trace from now on; none unless called.
    pub fn keep_trace(&self, count: usize) {
        self.world().trace.keep(count);
    }

    /// The records that were kept, oldest first.
    #[must_use]
    pub fn trace(&self) -> Vec<TraceRecord> {
        self.world().trace.kept()
    }

    // For sockets and tasks.

    /// Never held over anything that wakes or drops what others made.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn life(&self, ip: IpAddr) -> u64 {
        self.world().nodes.entry(ip).or_default().life
    }

    pub(super) fn send(
        &self,
        from: SocketAddr,
        socket: u64,
        to: SocketAddr,
        bytes: &[u8],
        ecn: Option<EcnCodepoint>,
    ) -> io::Result<()> {
        let now = self.now();
        let mut world = self.world();
        if world.sockets.get(&from).is_none_or(|mailbox| mailbox.id != socket) {
            return Err(down());
        }
        if world.is_paused(from.ip()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let is_earlier = world.send(now, from, to, bytes, ecn);
        drop(world);
        if is_earlier {
            self.0.earlier.notify_one();
        }
        Ok(())
    }

    /// Delivers what has arrived; gives the readers to wake and when the next datagram arrives.
    fn deliver(&self) -> (Vec<Waker>, Option<Instant>) {
        let now = self.now();
        let mut world = self.world();
        let wakers = world.deliver(now);
        let next = world.next_arrival();
        (wakers, next.and_then(|at| self.0.began.checked_add(Duration::from_nanos(at))))
    }

    /// Whether a node is paused; then `waker` is woken when it is not any more.
    pub(super) fn hold(&self, ip: IpAddr, id: u64, waker: &Waker) -> bool {
        let mut world = self.world();
        let Some(node) = world.nodes.get_mut(&ip).filter(|node| node.paused) else {
            return false;
        };
        let before = node.held.insert(id, waker.clone());
        drop(world);
        drop(before);
        true
    }

    /// A task or poller is gone.
    pub(super) fn release(&self, ip: IpAddr, id: u64) {
        let mut world = self.world();
        let Some(node) = world.nodes.get_mut(&ip) else {
            return;
        };
        let gone = (node.held.remove(&id), node.tasks.remove(&id));
        drop(world);
        drop(gone);
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet")
            .field("elapsed", &self.elapsed())
            .field("faults", &self.faults())
            .finish_non_exhaustive()
    }
}

/// Delivers what arrives, as long as there is a handle to the network.
async fn drive(net: Weak<Inner>, earlier: Arc<Notify>) {
    loop {
        let Some(handle) = net.upgrade().map(SimNet) else {
            return;
        };
        let (wakers, next) = handle.deliver();
        drop(handle);
        wakers.into_iter().for_each(Waker::wake);
        match next {
            None => earlier.notified().await,
            Some(at) => tokio::select! {
                biased;
                () = earlier.notified() => {}
                () = sleep_until(at) => {}
            },
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The driver sees that nobody is left.
        self.earlier.notify_one();
    }
}

/// The first port that is given to a socket which asks for any.
const EPHEMERAL_PORT_FIRST: u16 = 49152;
