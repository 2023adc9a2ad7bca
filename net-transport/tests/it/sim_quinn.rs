//! Links of this crate, through quinn, over a simulated network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net_transport::crypto::{
    ConnectionIds, Entropy, LinkIdentity, client_config, reset_key, server_config, token_key, version, versions,
};
use net_transport::sim::{self, Faults, LinkConfig, NatKind, SimNet, Subnet};
use net_transport::{NodeKeys, OpenAdmission, Seed, StaticBinding};
use quinn::{ClientConfig, Connection, ConnectionId, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};

use crate::pair::mesh;
use crate::sim_links::address;

const MS: Duration = Duration::from_millis(1);

/// A node whose links are decided by the seed alone.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Arc<LinkIdentity>,
    entropy: Entropy,
    transport: Arc<TransportConfig>,
}

impl Node {
    pub(crate) fn start(net: &SimNet, at: &str) -> Self {
        let at = address(at);
        let socket = net.socket(at).unwrap();
        let keys = keys(net, at);
        let identity = Arc::new(LinkIdentity::new(keys.clone(), mesh(1)));
        // Another life draws other bytes, or it would repeat its keys.
        let entropy = net.entropy(&format!("entropy {at} {:?}", net.elapsed()));
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(5_000 * MS)).max_idle_timeout(Some((30_000 * MS).try_into().unwrap()));
        let transport = Arc::new(transport);

        let mut config = EndpointConfig::new(reset_key(&keys));
        let ids = entropy.clone();
        let mut quinn_seed = [0; 32];
        entropy.fill(&mut quinn_seed).unwrap();
        config.supported_versions(versions()).rng_seed(Some(quinn_seed)).cid_generator({
            let keys = keys.clone();
            move || Box::new(ConnectionIds::new(&keys, ids.clone()))
        });
        let server = server_config(identity.clone(), Arc::new(OpenAdmission), entropy.clone());
        let mut server = ServerConfig::new(server, token_key(&keys));
        server.time_source(net.time_source()).transport_config(transport.clone());
        let runtime = net.runtime_of(at.ip());
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).unwrap();
        Self { endpoint, identity, entropy, transport }
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    async fn dial(&self, remote: &Self, at: SocketAddr) -> Result<Connection, quinn::ConnectionError> {
        self.dial_node(*remote.identity.keys().binding(), at).await
    }

    pub(crate) async fn dial_node(
        &self,
        remote: StaticBinding,
        at: SocketAddr,
    ) -> Result<Connection, quinn::ConnectionError> {
        let crypto = client_config(self.identity.clone(), remote, self.entropy.clone());
        let mut config = ClientConfig::new(crypto);
        let entropy = self.entropy.clone();
        config.version(version(1)).transport_config(self.transport.clone()).initial_dst_cid_provider(Arc::new(
            move || {
                let mut id = [0; 16];
                entropy.fill(&mut id).unwrap();
                ConnectionId::new(&id)
            },
        ));
        let connecting = self.endpoint.connect_with(config, at, "ignored");
        connecting.map_err(|_| quinn::ConnectionError::LocallyClosed)?.await
    }

    /// Both ends of a new link.
    async fn link(&self, remote: &Self, at: SocketAddr) -> (Connection, Connection) {
        let accepts = async {
            loop {
                // A corrupted first packet is somebody whom quinn reports and then refuses.
                if let Ok(accepted) = remote.endpoint.accept().await.unwrap().await {
                    return accepted;
                }
            }
        };
        let (dialled, accepted) = tokio::join!(self.dial(remote, at), accepts);
        (dialled.unwrap(), accepted)
    }
}

/// The keys of a node, in all its lives.
pub(crate) fn keys(net: &SimNet, at: SocketAddr) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new(net.derive(&format!("keys {at}"))))
}

async fn transfer(from: &Connection, to: &Connection, len: usize) {
    let bytes: Vec<_> = (0..len).map(|i| (i % 251) as u8).collect();
    let sends = async {
        let mut stream = from.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.finish().unwrap();
        stream.stopped().await.unwrap();
    };
    let receives = async { to.accept_uni().await.unwrap().read_to_end(len).await.unwrap() };
    let ((), received) = tokio::join!(sends, receives);
    assert!(received == bytes, "every byte arrives, in order");
}

/// What one run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    took: Duration,
    trace: u64,
    shape: u64,
    faults: Faults,
}

impl Run {
    fn of(net: &SimNet) -> Self {
        Self { took: net.elapsed(), trace: net.trace_hash(), shape: net.trace_shape_hash(), faults: net.faults() }
    }
}

/// 1 MiB over a network that does its worst.
fn through_a_storm(seed: u64) -> Run {
    sim::run(seed, |net| async move {
        net.set_default(LinkConfig {
            latency: 10 * MS,
            jitter: 5 * MS,
            loss: 0.2,
            reorder: 0.1,
            reorder_delay: 20 * MS,
            duplicate: 0.1,
            corrupt: 0.01,
            ..LinkConfig::default()
        });
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        transfer(&dialled, &accepted, 1 << 20).await;
        Run::of(&net)
    })
}

#[test]
fn sim_a_link_survives_loss_reordering_duplication_and_corruption() {
    let mut traces = std::collections::BTreeSet::new();
    let mut runs = 0;
    for seed in sim::seeds(3) {
        let (first, second) = (through_a_storm(seed), through_a_storm(seed));
        println!("seed {seed}: {:?} of virtual time, trace {:016x}, {}", first.took, first.trace, first.faults);
        assert_eq!(first, second, "NET_SIM_SEED={seed}");
        let faults = first.faults;
        assert!(
            [faults.dropped_loss, faults.reordered, faults.duplicated, faults.corrupted].iter().all(|count| *count > 0)
        );
        traces.insert(first.trace);
        runs += 1;
    }
    assert_eq!(traces.len(), runs, "each seed has a trace of its own");
}

#[test]
fn sim_entropy_of_the_system_shows_in_the_trace() {
    // The control of the test above: one source that the seed does not decide makes two runs differ.
    let run = || {
        sim::run(1, |net| async move {
            let (mut a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
            a.entropy = Entropy::system();
            a.link(&b, b.address()).await;
            net.trace_hash()
        })
    };
    assert_ne!(run(), run());
}

#[test]
fn a_retried_link_is_decided_by_the_seed_too() {
    // A Retry token carries the time of day.
    let run = || {
        sim::run(1, |net| async move {
            let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
            let accepts = async {
                b.endpoint.accept().await.unwrap().retry().unwrap();
                b.endpoint.accept().await.unwrap().await.unwrap()
            };
            let (dialled, accepted) = tokio::join!(a.dial(&b, b.address()), accepts);
            transfer(&dialled.unwrap(), &accepted, 10_000).await;
            Run::of(&net)
        })
    };
    assert_eq!(run(), run());
}

#[test]
fn a_link_outlasts_a_short_partition_and_dies_in_a_long_one() {
    sim::run(1, |net| async move {
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        net.partition(&[&[a.address().ip()]]);
        let heals = async {
            tokio::time::sleep(10_000 * MS).await;
            net.heal();
        };
        let began = net.elapsed();
        tokio::join!(heals, transfer(&dialled, &accepted, 100_000));
        assert!(net.elapsed() - began > 10_000 * MS);

        net.partition(&[&[a.address().ip()]]);
        assert_eq!(dialled.closed().await, quinn::ConnectionError::TimedOut);
        assert!(net.faults().dropped_partition > 0);
    });
}

#[test]
fn a_node_that_crashes_is_dialled_again_at_its_address() {
    sim::run(1, |net| async move {
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, _accepted) = a.link(&b, b.address()).await;
        let at = b.address();
        net.crash(at.ip());
        tokio::time::sleep(1_000 * MS).await;
        net.restart(at.ip());
        let b = Node::start(&net, &at.to_string());
        let began = net.elapsed();
        // Its reset key comes from its node key, so it can tell that it does not know the old link.
        assert_eq!(dialled.closed().await, quinn::ConnectionError::Reset);
        assert!(net.elapsed() - began <= 5_100 * MS, "at the next keep-alive");
        let (dialled, accepted) = a.link(&b, at).await;
        transfer(&dialled, &accepted, 100_000).await;
    });
}

#[test]
fn a_paused_node_is_slow_and_not_dead() {
    sim::run(1, |net| async move {
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        let ip = b.address().ip();
        net.pause(ip);
        let resumes = async {
            tokio::time::sleep(10_000 * MS).await;
            net.resume(ip);
        };
        let began = net.elapsed();
        tokio::join!(resumes, transfer(&dialled, &accepted, 100_000));
        assert!(net.elapsed() - began > 10_000 * MS);
    });
}

#[test]
fn a_link_goes_as_fast_as_its_wire_and_no_faster() {
    sim::run(1, |net| async move {
        let rate = 1_000_000;
        net.set_default(LinkConfig {
            latency: 20 * MS,
            bytes_per_second: Some(rate),
            queue_bytes: 64 * 1024,
            ..LinkConfig::default()
        });
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        let began = net.elapsed();
        transfer(&dialled, &accepted, 10_000_000).await;
        let took = (net.elapsed() - began).as_secs_f64();
        println!("10 MB at 1 MB/s: {took:.2} s, {}", net.faults());
        assert!((10.0..13.0).contains(&took), "{took}");
    });
}

#[test]
fn the_mtu_of_a_path_is_found_and_a_smaller_one_found_out() {
    sim::run(1, |net| async move {
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        net.set_default(LinkConfig { mtu: 1300, ..LinkConfig::default() });
        let (dialled, accepted) = a.link(&b, b.address()).await;
        transfer(&dialled, &accepted, 1_000_000).await;
        let mtu = dialled.stats().path.current_mtu;
        assert!((1280..=1300).contains(&mtu), "{mtu}");
        assert!(net.faults().dropped_mtu > 0);

        net.set_default(LinkConfig { mtu: 1200, ..LinkConfig::default() });
        transfer(&dialled, &accepted, 1_000_000).await;
        assert_eq!(dialled.stats().path.current_mtu, 1200);
    });
}

#[test]
fn a_link_moves_with_its_nat() {
    sim::run(1, |net| async move {
        let outside = [1, 0, 0, 1].into();
        net.nat(Subnet::new([192, 168, 0, 0], 24), outside, NatKind::PortRestricted);
        let (a, b) = (Node::start(&net, "192.168.0.2:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        let before = accepted.remote_address();
        assert_eq!(before.ip(), outside);
        net.rebind(outside);
        transfer(&dialled, &accepted, 100_000).await;
        assert_ne!(accepted.remote_address(), before);
        transfer(&accepted, &dialled, 100_000).await;
        dialled.close(VarInt::from_u32(7), b"done");
        assert!(matches!(accepted.closed().await, quinn::ConnectionError::ApplicationClosed(_)));
    });
}

#[test]
fn links_work_without_latency_and_over_ipv6() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig { latency: Duration::ZERO, ..LinkConfig::default() });
        let (a, b) = (Node::start(&net, "[fd00::1]:1"), Node::start(&net, "[fd00::2]:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        transfer(&dialled, &accepted, 10_000_000).await;
        assert!(net.elapsed() < 1_000 * MS, "{:?}", net.elapsed());
    });
}

#[test]
fn a_network_ends_with_its_last_handle() {
    sim::run(1, |net| async move {
        let (a, b) = (Node::start(&net, "10.0.0.1:1"), Node::start(&net, "10.0.0.2:1"));
        let (dialled, accepted) = a.link(&b, b.address()).await;
        let metrics = tokio::runtime::Handle::current().metrics();
        assert!(metrics.num_alive_tasks() >= 5, "the network, two endpoints, two connections");
        drop((a, b, dialled, accepted, net));
        // Connections linger for three timeouts after they were closed.
        tokio::time::sleep(60_000 * MS).await;
        assert_eq!(metrics.num_alive_tasks(), 0);
    });
}
