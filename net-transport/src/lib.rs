//! Encrypted bytes between the nodes of a mesh: QUIC whose handshake is Noise, and the 64-byte header.
//!
//! This crate knows node keys and headers. It does **not** know what a payload means, who may publish what (it asks
//! an [`Admission`]), and it keeps nothing on disk.

#![forbid(unsafe_code)]

#[cfg(feature = "link")]
mod addresses;
mod admission;
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
#[cfg(all(fuzzing, feature = "link"))]
pub mod fuzzing;
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
mod pair;
mod peer;
mod prf;
#[cfg(feature = "link")]
mod quic;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "link")]
mod socket;
#[cfg(feature = "link")]
mod sync;
mod ticket;

pub use admission::{Admission, AdvertId, OpenAdmission, Refusal};
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
    BINDING_LEN, BadSignature, KeyTextError, Mesh, MeshId, NodeId, NodeKeys, Psk, Seed, ShortId, StaticBinding,
    base32_decode, base32_encode,
};
#[cfg(feature = "link")]
pub use link::{RecvStream, SendStream, StreamError};
#[cfg(feature = "link")]
pub use metrics::Metrics;
pub use pair::Pair;
pub use peer::Peer;
pub use prf::prf;
pub use ticket::{TICKET_ADDRESSES_MAX, TICKET_PEERS_MAX, TICKET_TEXT_LEN_MAX, Ticket, TicketError};
