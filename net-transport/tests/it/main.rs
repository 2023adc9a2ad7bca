//! Integration tests of net-transport, one module per theme.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "helpers of tests fail as tests do")]

#[cfg(feature = "mdns")]
#[allow(clippy::print_stderr, reason = "what is left out is said aloud")]
#[path = "../../../xtask/testing/left_out.rs"]
mod left_out;

#[cfg(feature = "link")]
mod bad_messages;
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
mod link_realtime;
#[cfg(feature = "link")]
mod link_streams;
#[cfg(feature = "link")]
mod noise;
#[cfg(feature = "link")]
mod pair;
#[cfg(feature = "link")]
mod recorder;
#[cfg(feature = "sim")]
mod sim_links;
#[cfg(feature = "sim")]
mod sim_mesh;
#[cfg(feature = "sim")]
mod sim_nat;
#[cfg(feature = "sim")]
mod sim_nodes;
#[cfg(feature = "sim")]
mod sim_pace;
#[cfg(feature = "sim")]
mod sim_quinn;
#[cfg(feature = "sim")]
mod sim_realtime;
#[cfg(feature = "sim")]
mod sim_weather;
#[cfg(feature = "link")]
mod talk;
mod ticket;
#[cfg(feature = "weather")]
mod weather;
