//! Tests of net-channel: its formats driven from outside, delivery in a simulated mesh, the bus on real sockets.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "modules of one test program share their helpers; numbers of tests are small"
)]

mod advert;
mod batch;
mod bits;
mod buffer;
#[cfg(feature = "node")]
mod bus;
mod by_hand;
mod codec;
mod contexts;
#[cfg(feature = "node")]
mod crash;
mod cursor_file;
mod equivocation;
mod event;
#[cfg(all(feature = "node", target_os = "linux"))]
mod faults;
#[cfg(feature = "filter")]
mod filter;
mod fixture;
mod golden;
mod grant;
mod incarnation;
mod malformed;
mod oracle;
mod sim_bus;
mod sim_causal;
mod sim_delivery;
#[cfg(feature = "node")]
mod stored;
mod tick;
mod world;
