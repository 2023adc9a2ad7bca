//! Encrypted bytes between the nodes of a mesh: QUIC whose handshake is Noise, and the 64-byte header.
//!
//! This crate knows node keys and headers. It does **not** know what a payload means, who may publish what (it asks
//! an [`Admission`]), and it keeps nothing on disk.

#![forbid(unsafe_code)]

mod admission;
mod context;
#[cfg(feature = "link")]
pub mod crypto;
mod header;
mod keys;
mod pair;
mod peer;
mod prf;
mod ticket;

pub use admission::{Admission, AdvertId, OpenAdmission, Refusal};
pub use context::CONTEXTS;
pub use header::{
    FRAME_LEN_MAX, HEADER_LEN, Header, HeaderError, Kind, PAYLOAD_LEN_MAX, Priority, TTL_DEFAULT, Visibility,
};
pub use keys::{
    BINDING_LEN, BadSignature, KeyTextError, Mesh, MeshId, NodeId, NodeKeys, Psk, Seed, ShortId, StaticBinding,
    base32_decode, base32_encode,
};
pub use pair::Pair;
pub use peer::Peer;
pub use prf::prf;
pub use ticket::{TICKET_ADDRESSES_MAX, TICKET_PEERS_MAX, TICKET_TEXT_LEN_MAX, Ticket, TicketError};
