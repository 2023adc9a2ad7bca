//! Encrypted bytes between the nodes of a mesh: QUIC whose handshake is Noise, and the 64-byte header.
//!
//! This crate knows node keys and headers. It does **not** know what a payload means, who may publish what (it asks
//! an [`Admission`]), it keeps nothing on disk, and it forwards nothing: neighbours talk to each other.
//!
//! An `Endpoint` is one node of a mesh. It dials the peers it knows, is introduced to others by them, and keeps its links;
//! its `Inbox` tells what happens. Two things travel on a link: *streams* of protocols, opened and accepted by name, and
//! *frames*, a [`Header`] and a payload each, of `Pair`s that a node serves and its neighbours join. Frames wait in bounded
//! queues, and `room` tells a producer when the next one is welcome.
//!
//! ```
//! # #[cfg(feature = "link")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use net_transport::{Endpoint, EndpointConfig, Event, Mesh, MeshId, NodeKeys, OpenAdmission, Psk, Seed};
//!
//! // Seeds and psks are random and secret; these are not.
//! let mesh = || Mesh::new(MeshId([1; 32]), 0, Psk::new([2; 32]));
//! let config = || EndpointConfig::listen_on(([127, 0, 0, 1], 0).into());
//! let keys = |n| NodeKeys::from_seed(&Seed::new([n; 32]));
//! let (a, _inbox) = Endpoint::bind(keys(1), mesh(), Arc::new(OpenAdmission), config()).await?;
//! let (b, mut inbox) = Endpoint::bind(keys(2), mesh(), Arc::new(OpenAdmission), config()).await?;
//!
//! let mut greetings = a.accept("greet/1")?;
//! b.add_peer(a.ticket().peers.remove(0));
//! while !matches!(inbox.events.recv().await, Some(Event::LinkUp { node, .. }) if node == a.id()) {}
//!
//! let (mut send, _recv) = b.open_bi(&a.id(), "greet/1").await?;
//! send.write_all(b"hello").await?;
//! send.finish()?;
//! let mut greeting = greetings.next().await.ok_or("closed")?;
//! assert_eq!((greeting.node, greeting.recv.read_to_end(100).await?), (b.id(), b"hello".to_vec()));
//! # Ok(())
//! # }
//! # #[cfg(feature = "link")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
//! ```
//!
//! | feature | default | |
//! |---|---|---|
//! | `link` | yes | links and the endpoint: quinn, tokio, Noise |
//! | `mdns` | yes | discovery on the local network |
//! | `sim` | no | a network in virtual time, for tests |
//! | `weather` | no | sockets that lose, hold back and repeat datagrams, for tests of real processes |
//!
//! Without any of them the crate is formats: header, keys, bindings, tickets.

#![forbid(unsafe_code)]

#[cfg(feature = "link")]
mod addresses;
mod admission;
mod aead;
pub mod buffers;
#[cfg(feature = "link")]
mod config;
mod context;
#[cfg(feature = "link")]
pub mod crypto;
#[cfg(feature = "link")]
mod dialer;
#[cfg(feature = "link")]
mod directory;
#[cfg(feature = "link")]
mod endpoint;
#[cfg(feature = "link")]
mod fair;
#[cfg(all(fuzzing, feature = "link"))]
pub mod fuzzing;
#[cfg(feature = "link")]
mod group;
mod header;
#[cfg(feature = "link")]
mod inbox;
#[cfg(feature = "link")]
mod joins;
mod keys;
#[cfg(feature = "link")]
mod link;
#[cfg(feature = "mdns")]
mod mdns;
#[cfg(feature = "link")]
mod metrics;
#[cfg(feature = "link")]
mod neighbour;
#[cfg(feature = "link")]
mod outbox;
#[cfg(feature = "link")]
mod pace;
mod pair;
mod peer;
mod prf;
#[cfg(feature = "link")]
mod quic;
#[cfg(feature = "link")]
mod realtime;
#[cfg(any(feature = "sim", feature = "weather"))]
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "public by way of `sim`"))]
mod rng;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "link")]
mod socket;
#[cfg(feature = "link")]
mod sync;
mod ticket;
#[cfg(feature = "link")]
mod udp;
#[cfg(feature = "weather")]
mod weather;

pub use admission::{Admission, AdvertId, OpenAdmission, Refusal};
pub use aead::Aead;
#[cfg(feature = "link")]
pub use config::{EndpointConfig, Limits, Sockets};
pub use context::CONTEXTS;
#[cfg(feature = "link")]
pub use directory::{ADVERT_LEN_MAX, AdvertError};
#[cfg(feature = "link")]
pub use endpoint::{
    Acceptor, BindError, DatagramError, Endpoint, Fanout, IncomingStream, OpenError, PeerInfo, PeerState, ProtocolTaken,
};
pub use header::{
    FRAME_LEN_MAX, HEADER_LEN, Header, HeaderError, Kind, PAYLOAD_LEN_MAX, Priority, TTL_DEFAULT, Visibility,
};
#[cfg(feature = "link")]
pub use inbox::{Event, Frame, FrameReceiver, Inbox, UnjoinReason};
pub use keys::{
    BINDING_LEN, BadSignature, KeyTextError, Mesh, MeshId, NodeId, NodeKeys, Psk, Seed, ShortId, SigningKey,
    StaticBinding, base32_decode, base32_encode,
};
#[cfg(feature = "link")]
pub use link::{RecvStream, SendStream, StreamError};
#[cfg(feature = "link")]
pub use metrics::Metrics;
pub use pair::Pair;
pub use peer::Peer;
pub use prf::prf;
pub use ticket::{TICKET_ADDRESSES_MAX, TICKET_PEERS_MAX, TICKET_TEXT_LEN_MAX, Ticket, TicketError};
#[cfg(feature = "weather")]
pub use weather::Weather;
