//! Tests of net-channel.

mod sim_delivery;
mod world;
