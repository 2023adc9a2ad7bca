//! How quinn is set up: windows, timers, keys, and the socket under it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, MtuDiscoveryConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::EndpointConfig;
use crate::crypto::{self, ConnectionIds, Entropy, LinkIdentity};
use crate::outbox::LANES;
use crate::{Admission, StaticBinding};

/// Bytes that one stream may have in flight to us.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
/// Bytes that one connection may have in flight to us; grown by a stream window for each lane that is stalled.
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes that we keep for a neighbour to acknowledge.
const SEND_WINDOW: u64 = 8 << 20;
/// quinn sends batches of ten packets, and the kernel refuses batches over 64 KiB.
const MTU_MAX: u16 = 6_500;
/// Packets that a neighbour acknowledges together (draft-ietf-quic-ack-frequency), or those of its delay of 25 ms: a link that
/// may have fewer in flight waits so long, so they are few.
const PACKETS_PER_ACK: u32 = 4;
/// Silence after which a packet is sent to keep a link.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Silence after which a link is given up, in milliseconds.
const IDLE_TIMEOUT_MS: u32 = 10_000;
/// Bidirectional streams that a neighbour may have open.
pub(crate) const BIDI_STREAMS_MAX: u32 = 256;
/// Unidirectional streams that a neighbour may have open: its lanes, realtime frames, and a few that are ending.
const UNI_STREAMS_MAX: u32 = 56;
const _: () = assert!(UNI_STREAMS_MAX as usize >= LANES + 24);
/// Bytes of datagrams that wait in quinn; more wait in queues of ours, which drop the oldest and count.
const DATAGRAM_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Handshakes of others that wait to be looked at.
const INCOMING_MAX: usize = 1024;
/// Bytes kept for each of them.
const INCOMING_BYTES: u64 = 64 << 10;
/// Bytes of the operating system's buffers of a socket.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What all connections of an endpoint are made from.
pub(crate) struct Quic {
    identity: Arc<LinkIdentity>,
    transport: Arc<quinn::TransportConfig>,
    entropy: Entropy,
}

impl Quic {
    pub(crate) fn new(identity: Arc<LinkIdentity>, entropy: Entropy) -> Self {
        Self { identity, transport: Arc::new(transport()), entropy }
    }

    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.entropy.fill(&mut bytes).expect("a seeded source does not fail");
        bytes
    }

    pub(crate) fn endpoint_config(&self, config: &EndpointConfig) -> quinn::EndpointConfig {
        let keys = self.identity.keys().clone();
        let mut endpoint = quinn::EndpointConfig::new(crypto::reset_key(&keys));
        let entropy = self.entropy.clone();
        endpoint
            .cid_generator(move || Box::new(ConnectionIds::new(&keys, entropy.clone())))
            .supported_versions(crypto::versions())
            .rng_seed(config.seed.is_some().then(|| self.random()))
            .max_udp_payload_size(MTU_MAX)
            .expect("between 1200 and 65527");
        endpoint
    }

    pub(crate) fn server_config(&self, admission: Arc<dyn Admission>, config: &EndpointConfig) -> quinn::ServerConfig {
        let session = crypto::server_config(self.identity.clone(), admission, self.entropy.clone());
        let mut server = quinn::ServerConfig::new(session, crypto::token_key(self.identity.keys()));
        server
            .transport_config(self.transport.clone())
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES * INCOMING_MAX as u64);
        if let Some(clock) = &config.clock {
            server.time_source(clock.clone());
        }
        server
    }

    pub(crate) fn client_config(&self, remote: StaticBinding) -> quinn::ClientConfig {
        let generation = self.identity.mesh().current().0;
        let session = crypto::client_config(self.identity.clone(), remote, self.entropy.clone());
        let mut client = quinn::ClientConfig::new(session);
        let entropy = self.entropy.clone();
        client.transport_config(self.transport.clone()).version(crypto::version(generation)).initial_dst_cid_provider(
            Arc::new(move || {
                let mut id = [0; 20];
                entropy.fill(&mut id).expect("the operating system gives random bytes");
                quinn::ConnectionId::new(&id)
            }),
        );
        client
    }
}

fn transport() -> quinn::TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK - 1));
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(BIDI_STREAMS_MAX.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER_BYTES)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        // Tells an observer the round-trip time, and nobody else anything.
        .allow_spin(false);
    transport
}

/// The operating system's sockets for these addresses; none given: one dual-stack socket on a free port, or an IPv4
/// socket where there is no IPv6.
pub(crate) fn bind(listen: &[SocketAddr]) -> io::Result<Vec<std::net::UdpSocket>> {
    if listen.is_empty() {
        let any6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
        let any4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
        return bind_one(any6, true).or_else(|_| bind_one(any4, false)).map(|socket| vec![socket]);
    }
    // A wildcard IPv6 address takes IPv4 as well, unless that is listed on its own.
    let dual = !listen.iter().any(SocketAddr::is_ipv4);
    listen.iter().map(|address| bind_one(*address, dual)).collect()
}

fn bind_one(address: SocketAddr, dual_stack: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!(dual_stack && address.ip().is_unspecified()))?;
    }
    // What the system grants is enough to work; its limits are no reason not to start.
    if let Err(error) = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer keeps its size");
    }
    if let Err(error) = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES) {
        tracing::debug!(%error, "the send buffer keeps its size");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
