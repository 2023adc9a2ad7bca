//! A network in virtual time, for tests of everything above UDP.
//!
//! [`run`] builds a tokio runtime of one thread whose clock stands still while there is work and jumps to the next timer
//! when there is none, and gives the scenario a [`SimNet`]. Sockets of that network delay, lose, reorder, duplicate and
//! corrupt datagrams as told; nodes crash, pause, sit behind NAT boxes. An hour of virtual time takes as long as its
//! work does. One seed decides everything, so a failing run can be looked at again: the panic says
//! `NET_SIM_SEED=<seed>`.
//!
//! ```
//! use std::time::Duration;
//!
//! use net_transport::sim::{self, LinkConfig};
//!
//! for seed in sim::seeds(3) {
//!     let faults = sim::run(seed, |net| async move {
//!         net.set_default(LinkConfig { loss: 0.5, ..LinkConfig::default() });
//!         let a = net.socket("10.0.0.1:1".parse().unwrap()).unwrap();
//!         let b = net.socket("10.0.0.2:1".parse().unwrap()).unwrap();
//!         let to = b.address();
//!         net.spawn_on(a.address().ip(), async move {
//!             loop {
//!                 a.send_to(b"are you there", to).unwrap();
//!                 tokio::time::sleep(Duration::from_secs(1)).await;
//!             }
//!         });
//!         b.recv_from().await.unwrap();
//!         net.faults()
//!     });
//!     println!("seed {seed}: {faults}");
//! }
//! ```
//!
//! # What is simulated
//!
//! Everything that takes its time from tokio and its datagrams from [`SimNet::socket`]. A *node* is an IP address;
//! [`SimNet::runtime_of`] and [`SimNet::spawn_on`] bind tasks to it, which are dropped when it crashes and not polled
//! while it is paused. Tasks that these start by `tokio::spawn` are not bound: they see their sockets fail or fall
//! silent, and that is all. A stack that shall crash and pause as a whole spawns by its `quinn::Runtime`.
//!
//! An [`Endpoint`](crate::Endpoint) takes three fields in its configuration: `sockets` with [`SimNet::socket`] and
//! [`SimNet::runtime_of`], `seed` from [`SimNet::derive`] with another label for each life, and `clock` from
//! [`SimNet::time_source`]. Its own tasks are not bound to the node: after a crash drop it, and while it is paused its
//! links stand still but its timers run.
//!
//! # What the same seed needs to give the same run
//!
//! | source of chance | what to do about it |
//! |---|---|
//! | ephemeral keys, connection ids | [`SimNet::entropy`], another label for each life of a node |
//! | first connection id of a dial | `quinn::ClientConfig::initial_dst_cid_provider`, from the same |
//! | quinn's own randomness | `quinn::EndpointConfig::rng_seed`, from [`SimNet::derive`] |
//! | keys of resets and tokens | [`reset_key`](crate::crypto::reset_key), [`token_key`](crate::crypto::token_key), not quinn's defaults |
//! | time of day in address tokens | `quinn::ServerConfig::time_source`, from [`SimNet::time_source`] |
//! | other clocks | none: no `std::time::Instant::now`, no `SystemTime::now` |
//! | `tokio::select!` | always `biased` |
//! | `tokio::sync::watch` | one waiting receiver for each; several are woken in random order |
//! | `tokio_stream::StreamMap` | not used: it begins anywhere |
//! | order of a `HashMap` or `HashSet` | never looked at |
//! | threads, `spawn_blocking` | none; while one runs the clock stands still |
//!
//! [`SimNet::trace_hash`] tells two runs apart, [`SimNet::trace_shape_hash`] leaves contents out, and with
//! [`SimNet::keep_trace`] the first datagram that differs can be found.

mod link;
mod nat;
mod net;
mod runtime;
mod socket;
mod trace;
mod world;

use std::env;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use link::LinkConfig;
pub use nat::{NatConfig, NatKind, Subnet};
pub use net::SimNet;
pub use socket::SimSocket;
pub use trace::{Faults, Outcome, TraceRecord};

pub use crate::rng::SimRng;

/// Runs a scenario in a network of its own, in virtual time, to its end; at most [`VIRTUAL_TIME_MAX`].
///
/// All tasks that it leaves behind are dropped.
///
/// # Panics
/// If the scenario does, or takes longer; the message contains `NET_SIM_SEED=<seed>`. Within another tokio runtime.
pub fn run<F, R>(seed: u64, scenario: F) -> R::Output
where
    F: FnOnce(SimNet) -> R,
    R: Future,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    let whole = async { tokio::time::timeout(VIRTUAL_TIME_MAX, scenario(SimNet::new(seed))).await };
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(whole)));
    match ended {
        Ok(Ok(output)) => output,
        Ok(Err(_)) => panic!("the simulation did not end in {VIRTUAL_TIME_MAX:?} of its time; NET_SIM_SEED={seed}"),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the scenario panicked");
            panic!("{said}; NET_SIM_SEED={seed}");
        }
    }
}

/// The seeds to run a scenario with: that of `NET_SIM_SEED` alone if it is set, else as many as `NET_SIM_SEEDS` says,
/// else `count`; from 0 on.
///
/// # Panics
/// If one of these is set to something that is no number.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number = |name| {
        let value = env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
    };
    match number("NET_SIM_SEED") {
        Some(seed) => seed..seed.saturating_add(1),
        None => 0..number("NET_SIM_SEEDS").unwrap_or(count),
    }
}

/// Virtual time that a scenario of [`run`] takes at most, so that one which waits for nothing ends: 24 hours.
pub const VIRTUAL_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
