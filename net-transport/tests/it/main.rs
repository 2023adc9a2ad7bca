//! Integration tests of net-transport, one module per theme.

#[cfg(feature = "link")]
mod handshake;
#[cfg(feature = "link")]
mod link_frames;
#[cfg(feature = "link")]
mod link_hostile;
#[cfg(feature = "link")]
mod link_kit;
#[cfg(feature = "link")]
mod link_neighbours;
#[cfg(feature = "link")]
mod link_streams;
#[cfg(feature = "link")]
mod pair;
mod ticket;
