//! quinn alone, twice: the same socket and transport settings, another crypto.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use data_encoding::BASE64;
use net_transport::crypto::{self, ConnectionIds, Entropy, LinkIdentity};
use net_transport::{Aead, Mesh, MeshId, NodeKeys, OpenAdmission, Psk, Seed};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::CipherSuite;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::quic::Suite;
use rustls::{RootCertStore, version};

use crate::Kind;

// As an endpoint of net-transport has them.

/// Bytes that a stream may have in flight.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes that a connection may have in flight.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes that the sender keeps until they are acknowledged.
const SEND_WINDOW: u64 = 8 << 20;
/// Bytes of each socket buffer that are asked for.
const SOCKET_BUFFER: usize = 4 << 20;
/// The psk generation of the benchmark's mesh.
const GENERATION: u8 = 0;
/// Seeds of the two nodes: a benchmark has no secrets.
pub(crate) const RECEIVER: [u8; 32] = [1; 32];
pub(crate) const SENDER: [u8; 32] = [2; 32];
const NAME: &str = "receiver";

/// An endpoint that accepts, and what a sender needs to know of it in text.
pub(crate) fn receiver(kind: Kind, mtu: u16) -> Result<(Endpoint, String)> {
    let (mut server, mut endpoint, proof) = match kind {
        Kind::Bare => {
            let identity = identity(RECEIVER);
            let admission = Arc::new(OpenAdmission);
            let config = crypto::server_config(identity.clone(), admission, Entropy::system());
            let server = ServerConfig::new(config, crypto::token_key(identity.keys()));
            let proof = BASE64.encode(&identity.keys().binding().to_bytes());
            (server, bare_endpoint(RECEIVER), proof)
        }
        Kind::Ours => bail!("an endpoint of net-transport is made elsewhere"),
        Kind::Peer => {
            let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("make a certificate")?;
            let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
            let tls = rustls::ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())?;
            let crypto = QuicServerConfig::with_initial(Arc::new(tls), initial_suite()?)?;
            let server = ServerConfig::with_crypto(Arc::new(crypto));
            (server, EndpointConfig::default(), BASE64.encode(made.cert.der()))
        }
    };
    // Without this the other end would not be told that larger datagrams are welcome, and the MTU would stay small.
    endpoint.max_udp_payload_size(mtu)?;
    server.transport_config(transport(mtu));
    let endpoint = Endpoint::new(endpoint, Some(server), socket()?, Arc::new(TokioRuntime))?;
    Ok((endpoint, proof))
}

/// An endpoint that dials the receiver that `proof` speaks of, and the name to dial it by.
pub(crate) fn sender(kind: Kind, mtu: u16, proof: &str) -> Result<(Endpoint, &'static str)> {
    let proof = BASE64.decode(proof.as_bytes()).context("read the receiver's proof")?;
    let (mut client, mut config) = match kind {
        Kind::Bare => {
            let identity = identity(SENDER);
            let remote = net_transport::StaticBinding::parse(&proof)?;
            let mut client = ClientConfig::new(crypto::client_config(identity.clone(), remote, Entropy::system()));
            client.version(crypto::version(GENERATION));
            (client, bare_endpoint(SENDER))
        }
        Kind::Ours => bail!("an endpoint of net-transport is made elsewhere"),
        Kind::Peer => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(proof))?;
            let tls = rustls::ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&version::TLS13])?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let crypto = QuicClientConfig::with_initial(Arc::new(tls), initial_suite()?)?;
            (ClientConfig::new(Arc::new(crypto)), EndpointConfig::default())
        }
    };
    config.max_udp_payload_size(mtu)?;
    client.transport_config(transport(mtu));
    let mut endpoint = Endpoint::new(config, None, socket()?, Arc::new(TokioRuntime))?;
    endpoint.set_default_client_config(client);
    Ok((endpoint, NAME))
}

fn transport(mtu: u16) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(discovery))
        .max_idle_timeout(Some(VarInt::from_u32(10_000).into()))
        .keep_alive_interval(Some(Duration::from_secs(3)))
        .allow_spin(false);
    Arc::new(transport)
}

fn socket() -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // The kernel may give less; both sides get the same.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket.into())
}

pub(crate) fn mesh() -> Mesh {
    Mesh::new(MeshId([7; 32]), GENERATION, Psk::new([9; 32]))
}

fn identity(seed: [u8; 32]) -> Arc<LinkIdentity> {
    Arc::new(LinkIdentity::new(NodeKeys::from_seed(&Seed::new(seed)), mesh()))
}

fn bare_endpoint(seed: [u8; 32]) -> EndpointConfig {
    let keys = NodeKeys::from_seed(&Seed::new(seed));
    let mut config = EndpointConfig::new(crypto::reset_key(&keys));
    config.supported_versions(crypto::versions());
    config.cid_generator(move || Box::new(ConnectionIds::new(&keys, Entropy::system())));
    config
}

/// ring, with the one cipher that our links have here too.
fn provider() -> Arc<CryptoProvider> {
    let ours = match Aead::fastest_here() {
        Aead::ChaCha20Poly1305 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        Aead::Aes256Gcm => CipherSuite::TLS13_AES_256_GCM_SHA384,
    };
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == ours);
    Arc::new(provider)
}

/// QUIC's Initial packets are AES-128 by RFC 9001, whatever is negotiated.
fn initial_suite() -> Result<Suite> {
    ring::default_provider()
        .cipher_suites
        .iter()
        .find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
        .and_then(|suite| suite.tls13()?.quic_suite())
        .context("ring has the suite of Initial packets")
}
