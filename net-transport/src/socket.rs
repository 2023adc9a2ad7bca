//! The socket under quinn: drops what is no packet of ours, and does not answer strangers.
//!
//! quinn answers packets of other QUIC versions, Initials with a short connection id, and packets of connections that it
//! no longer knows. A mesh node is silent to whoever cannot prove that it knows the psk, so the first two are dropped as
//! they come, and stateless resets go only to addresses that a link has used in the last ten minutes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::crypto::{CONNECTION_ID_LEN, generation_of};
use crate::link::OpenGuard;
use crate::metrics::Counters;
use crate::sync::{read, write};

/// How long an address that a link has used may be sent stateless resets.
pub(crate) const ADDRESS_REMEMBERED: Duration = Duration::from_secs(600);
/// Addresses remembered.
const ADDRESSES_MAX: usize = 4096;
/// Connection ids seen from known addresses that are remembered, to recognise a link that changes its address.
const CONNECTION_IDS_MAX: usize = 4096;
/// Buffers that GRO may fill with one datagram's worth of segments: 64 KiB at the largest packets we take.
const RECEIVE_SEGMENTS_MAX: usize = 11;
const LONG_HEADER: u8 = 0x80;

/// The addresses that links use or have used.
#[derive(Debug, Default)]
pub(crate) struct KnownAddresses(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    addresses: BTreeMap<SocketAddr, Use>,
    ids: BTreeSet<[u8; CONNECTION_ID_LEN]>,
    ids_in_order: VecDeque<[u8; CONNECTION_ID_LEN]>,
}

#[derive(Debug)]
struct Use {
    /// Handshakes and links that use it now.
    live: usize,
    until: Instant,
}

/// An address in use; it is remembered for a while after this is dropped.
#[derive(Debug)]
pub(crate) struct AddressInUse {
    known: Arc<KnownAddresses>,
    address: SocketAddr,
    runtime: Arc<dyn quinn::Runtime>,
}

impl KnownAddresses {
    pub(crate) fn in_use(self: &Arc<Self>, address: SocketAddr, runtime: &Arc<dyn quinn::Runtime>) -> AddressInUse {
        let address = canonical(address);
        write(&self.0).note(address, runtime.now() + ADDRESS_REMEMBERED).live += 1;
        AddressInUse { known: self.clone(), address, runtime: runtime.clone() }
    }

    fn allows(&self, address: SocketAddr, now: Instant) -> bool {
        read(&self.0).addresses.get(&canonical(address)).is_some_and(|entry| entry.live > 0 || entry.until > now)
    }

    /// A short-header packet came: remembers its connection id if the address is known, and remembers the address if
    /// the id is: a link has moved.
    fn saw(&self, address: SocketAddr, id: &[u8; CONNECTION_ID_LEN], now: Instant) {
        let address = canonical(address);
        let (known_address, known_id) = {
            let known = read(&self.0);
            (known.addresses.contains_key(&address), known.ids.contains(id))
        };
        match (known_address, known_id) {
            (true, false) => {
                let mut known = write(&self.0);
                if known.ids.insert(*id) {
                    known.ids_in_order.push_back(*id);
                }
                if known.ids_in_order.len() > CONNECTION_IDS_MAX
                    && let Some(oldest) = known.ids_in_order.pop_front()
                {
                    known.ids.remove(&oldest);
                }
            }
            (false, true) => drop(write(&self.0).note(address, now + ADDRESS_REMEMBERED)),
            (true, true) | (false, false) => {}
        }
    }
}

impl Known {
    fn note(&mut self, address: SocketAddr, until: Instant) -> &mut Use {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            let idle = self.addresses.iter().filter(|(_, entry)| entry.live == 0);
            if let Some(oldest) = idle.min_by_key(|(_, entry)| entry.until).map(|(address, _)| *address) {
                self.addresses.remove(&oldest);
            }
        }
        let entry = self.addresses.entry(address).or_insert(Use { live: 0, until });
        entry.until = entry.until.max(until);
        entry
    }
}

impl AddressInUse {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AddressInUse {
    fn drop(&mut self) {
        let until = self.runtime.now() + ADDRESS_REMEMBERED;
        write(&self.known.0).note(self.address, until).live -= 1;
    }
}

/// IPv4 addresses as such, not as IPv6 ones.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a datagram is at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Foreign,
    Long,
    Short([u8; CONNECTION_ID_LEN]),
}

fn sight(datagram: &[u8]) -> Sight {
    let Some(first) = datagram.first() else { return Sight::Foreign };
    if first & LONG_HEADER == 0 {
        return datagram.get(1..).and_then(<[u8]>::first_chunk).map_or(Sight::Foreign, |id| Sight::Short(*id));
    }
    let Some((version, [id_len, ..])) = datagram.get(1..).and_then(<[u8]>::split_first_chunk) else {
        return Sight::Foreign;
    };
    // Version Negotiation has version 0, so it falls here as well.
    let ours = generation_of(u32::from_be_bytes(*version)).is_some();
    let initial = first & 0x30 == 0;
    if !ours || (initial && *id_len < 8) { Sight::Foreign } else { Sight::Long }
}

/// Wraps the socket that quinn uses.
#[derive(Debug)]
pub(crate) struct GuardedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    known: Arc<KnownAddresses>,
    runtime: Arc<dyn quinn::Runtime>,
    counters: Arc<Counters>,
    _open: OpenGuard,
}

impl GuardedSocket {
    pub(crate) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        known: Arc<KnownAddresses>,
        runtime: Arc<dyn quinn::Runtime>,
        counters: Arc<Counters>,
        open: OpenGuard,
    ) -> Self {
        Self { inner, known, runtime, counters, _open: open }
    }

    /// Removes what is not for us from a received batch of equal segments.
    fn filter(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let mut kept = 0;
        let mut start = 0;
        while start < meta.len {
            let end = (start + stride).min(meta.len);
            match sight(&buffer[start..end]) {
                Sight::Foreign => self.counters.datagrams_dropped_foreign.one(),
                seen => {
                    if let Sight::Short(id) = seen
                        && kept == 0
                    {
                        // One of a batch is enough: they come from one address.
                        self.known.saw(meta.addr, &id, self.runtime.now());
                    }
                    if kept != start {
                        buffer.copy_within(start..end, kept);
                    }
                    kept += end - start;
                }
            }
            start = end;
        }
        meta.len = kept;
    }

    /// Could this be a stateless reset to somebody we do not know?
    ///
    /// A reset is a single datagram with a short header that carries no ECN mark. Packets of links go to known
    /// addresses, or are answers on the path of one that has moved and was recognised.
    fn suppressed(&self, transmit: &Transmit<'_>) -> bool {
        let single = transmit.segment_size.is_none_or(|size| size >= transmit.contents.len());
        let short = transmit.contents.first().is_some_and(|first| first & LONG_HEADER == 0);
        let negotiation = transmit.contents.get(1..5) == Some(&[0; 4]) && !short;
        let reset = short && single && transmit.ecn.is_none();
        negotiation || (reset && !self.known.allows(transmit.destination, self.runtime.now()))
    }
}

impl AsyncUdpSocket for GuardedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.suppressed(transmit) {
            self.counters.resets_suppressed.one();
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(received) {
            self.filter(buffer, meta);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments().min(RECEIVE_SEGMENTS_MAX)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::OpenCount;

    /// A socket that records what is sent.
    #[derive(Debug, Default)]
    struct Recorder(RwLock<Vec<SocketAddr>>);

    impl AsyncUdpSocket for Recorder {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("not polled in these tests")
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            write(&self.0).push(transmit.destination);
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(address(0))
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    struct World {
        socket: GuardedSocket,
        sent: Arc<Recorder>,
        known: Arc<KnownAddresses>,
        runtime: Arc<dyn quinn::Runtime>,
        counters: Arc<Counters>,
    }

    fn world() -> World {
        let (sent, known) = (Arc::new(Recorder::default()), Arc::new(KnownAddresses::default()));
        let runtime: Arc<dyn quinn::Runtime> = Arc::new(quinn::TokioRuntime);
        let counters = Arc::new(Counters::default());
        let open = Arc::new(OpenCount::default()).open();
        let socket = GuardedSocket::new(sent.clone(), known.clone(), runtime.clone(), counters.clone(), open);
        World { socket, sent, known, runtime, counters }
    }

    fn transmit(destination: SocketAddr, contents: &[u8]) -> Transmit<'_> {
        Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None }
    }

    fn long(version: u32, kind: u8, id_len: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xc0 | kind << 4];
        bytes.extend(version.to_be_bytes());
        bytes.push(id_len);
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn only_packets_of_our_versions_are_taken() {
        assert_eq!(sight(&long(0x4e45_5407, 0, 8, 1200)), Sight::Long);
        assert_eq!(sight(&long(0x4e45_5407, 0, 7, 1200)), Sight::Foreign);
        assert_eq!(sight(&long(0x4e45_5407, 2, 0, 1200)), Sight::Long, "only Initials need a long id");
        for version in [0, 1, 0x4e45_5300, 0x6b33_43cf] {
            assert_eq!(sight(&long(version, 0, 8, 1200)), Sight::Foreign, "{version:x}");
        }
        assert_eq!(sight(&[]), Sight::Foreign);
        assert_eq!(sight(&[0xc0, 0x4e, 0x45, 0x54, 0]), Sight::Foreign);
        assert_eq!(sight(&[0x40; 16]), Sight::Foreign);
        assert_eq!(sight(&[0x40; 17]), Sight::Short([0x40; 16]));
    }

    #[test]
    fn filter_keeps_the_right_segments_of_a_batch() {
        let w = world();
        let (good, bad, last) = (long(0x4e45_5400, 0, 8, 50), long(1, 0, 8, 50), vec![0x41; 30]);
        let mut buffer = [bad.clone(), good.clone(), bad, good.clone(), last.clone()].concat();
        let mut meta = RecvMeta { addr: address(1), len: buffer.len(), stride: 50, ecn: None, dst_ip: None };
        w.socket.filter(&mut buffer, &mut meta);
        assert_eq!(buffer[..meta.len], [good.clone(), good, last].concat());
        assert_eq!(w.counters.snapshot().datagrams_dropped_foreign, 2);
        meta.len = 0;
        w.socket.filter(&mut buffer, &mut meta);
        assert_eq!(meta.len, 0);
    }

    #[test]
    fn resets_go_to_known_addresses_only() {
        let w = world();
        let reset = [0x40; 100];
        w.socket.try_send(&transmit(address(1), &reset)).expect("swallowed");
        let in_use = w.known.in_use(address(1), &w.runtime);
        w.socket.try_send(&transmit(address(1), &reset)).expect("sent");
        drop(in_use);
        w.socket.try_send(&transmit(address(1), &reset)).expect("sent");
        w.socket.try_send(&transmit(address(2), &long(0x4e45_5400, 0, 8, 1200))).expect("sent");
        w.socket.try_send(&transmit(address(2), &long(0, 0, 8, 1200))).expect("swallowed");
        assert_eq!(*read(&w.sent.0), [address(1), address(1), address(2)]);
        assert_eq!(w.counters.snapshot().resets_suppressed, 2);
        let later = w.runtime.now() + ADDRESS_REMEMBERED * 2;
        assert!(!w.known.allows(address(1), later));
    }

    #[test]
    fn link_that_moves_is_recognised_by_its_connection_id() {
        let w = world();
        let now = w.runtime.now();
        let _in_use = w.known.in_use("[::ffff:127.0.0.1]:1".parse().expect("an address"), &w.runtime);
        w.known.saw(address(2), &[5; 16], now);
        assert!(!w.known.allows(address(2), now));
        w.known.saw(address(1), &[5; 16], now);
        w.known.saw(address(2), &[5; 16], now);
        assert!(w.known.allows(address(2), now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let w = world();
        let now = w.runtime.now();
        let _in_use = w.known.in_use(address(1), &w.runtime);
        for n in 0..u32::try_from(2 * CONNECTION_IDS_MAX).expect("small") {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_le_bytes());
            w.known.saw(address(1), &id, now);
            w.known.saw(SocketAddr::from((n.to_be_bytes(), 7)), &id, now);
        }
        let known = read(&w.known.0);
        assert_eq!((known.addresses.len(), known.ids.len()), (ADDRESSES_MAX, CONNECTION_IDS_MAX));
        assert!(known.addresses.contains_key(&address(1)));
    }
}
