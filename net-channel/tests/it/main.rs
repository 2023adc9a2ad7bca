//! Tests of net-channel.

#[cfg(feature = "node")]
mod bus;
#[cfg(feature = "node")]
mod crash;
mod sim_delivery;
mod world;
