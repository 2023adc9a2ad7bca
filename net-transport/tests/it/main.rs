//! Integration tests of net-transport, one module per theme.

#[cfg(feature = "link")]
mod handshake;
#[cfg(feature = "link")]
mod pair;
mod ticket;
