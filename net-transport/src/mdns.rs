//! Nodes of the mesh on the local network.

use std::sync::Arc;

use crate::endpoint::Shared;

pub(crate) async fn run(shared: Arc<Shared>) {
    shared.closing.cancelled().await;
}
