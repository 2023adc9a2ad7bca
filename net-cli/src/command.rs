//! The commands, one a file.

pub(crate) mod bench;
pub(crate) mod channels;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod id;
pub(crate) mod input;
pub(crate) mod join;
pub(crate) mod log;
pub(crate) mod peers;
pub(crate) mod position;
pub(crate) mod publish;
pub(crate) mod subscribe;
pub(crate) mod ticket;
pub(crate) mod up;

use std::time::Duration;

use tokio::time::Instant;

use crate::access::Access;
use crate::control::server::linked;
use crate::failure::Failure;

/// An answer that belongs to another question; only a broken node gives one.
pub(crate) fn unexpected() -> Failure {
    Failure::new("the node of this directory answers something else than was asked")
        .next("stop that process, so that one of this version takes its place")
}

/// How long a node that was just started for one question looks for its peers.
const LOOK_AROUND: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// How long what the first peer knows takes to arrive.
const SETTLE: Duration = Duration::from_millis(300);

/// If this command has just started the node, gives it a moment to find its peers.
pub(crate) async fn look_around(access: &Access) {
    let Access::Host(host) = access else { return };
    let until = Instant::now() + LOOK_AROUND;
    while linked(host.node()) == 0 && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
    if linked(host.node()) > 0 {
        tokio::time::sleep(SETTLE).await;
    }
}
