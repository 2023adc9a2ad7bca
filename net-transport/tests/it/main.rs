//! Integration tests of net-transport, one module per theme.

#[cfg(feature = "link")]
mod bad_messages;
#[cfg(feature = "link")]
mod handshake;
#[cfg(feature = "link")]
mod noise;
#[cfg(feature = "link")]
mod pair;
#[cfg(feature = "link")]
mod recorder;
#[cfg(feature = "sim")]
mod sim_links;
#[cfg(feature = "sim")]
mod sim_nat;
#[cfg(feature = "sim")]
mod sim_nodes;
#[cfg(feature = "sim")]
mod sim_quinn;
#[cfg(feature = "link")]
mod talk;
mod ticket;
