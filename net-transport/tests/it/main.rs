//! Integration tests of net-transport, one module per theme.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "helpers of tests fail as tests do")]

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
#[cfg(feature = "link")]
mod talk;
mod ticket;
