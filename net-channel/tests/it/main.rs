//! Tests of net-channel.

#[cfg(feature = "node")]
mod bus;
mod sim_delivery;
mod world;
