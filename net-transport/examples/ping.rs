//! A protocol of one's own over a link, with this crate alone: one node asks, the other answers.
//!
//! ```text
//! cargo run -p net-transport --example ping
//! cargo run -p net-transport --example ping -- listen        # prints a ticket: a secret
//! cargo run -p net-transport --example ping -- net1…         # on another machine
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use net_transport::crypto::Entropy;
use net_transport::{
    Acceptor, Endpoint, EndpointConfig, Event, Inbox, Mesh, MeshId, NodeKeys, OpenAdmission, Psk, Seed, Ticket,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The name of the protocol, which both ends must know.
const PING: &str = "example/ping/1";

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => {
            let (there, _inbox) = start(new_mesh()?).await?;
            let pinged = there.accept(PING)?;
            let answering = tokio::spawn(answer(pinged));
            ping(there.ticket()).await?;
            there.close().await;
            answering.await??;
        }
        Some("listen") => {
            let (endpoint, _inbox) = start(new_mesh()?).await?;
            println!("{}", endpoint.ticket());
            answer(endpoint.accept(PING)?).await?;
        }
        Some(ticket) => ping(ticket.parse()?).await?,
    }
    Ok(())
}

/// Joins the mesh of the ticket and pings the node that made it.
async fn ping(ticket: Ticket) -> Result<()> {
    let first = ticket.peers.first().ok_or("the ticket names no node")?.node();
    let (endpoint, mut inbox) = start(Mesh::new(ticket.mesh, ticket.generation, ticket.psk)).await?;
    ticket.peers.into_iter().for_each(|peer| endpoint.add_peer(peer));
    while !matches!(inbox.events.recv().await, Some(Event::LinkUp { node, .. }) if node == first) {}

    for n in 1..=5u32 {
        let began = Instant::now();
        let (mut send, mut recv) = endpoint.open_bi(&first, PING).await?;
        send.write_all(&n.to_le_bytes()).await?;
        send.finish()?;
        let answer = recv.read_to_end(4).await?;
        assert_eq!(answer, n.to_le_bytes());
        println!("ping {n} to {first:?}: {:?}", began.elapsed());
    }
    endpoint.close().await;
    Ok(())
}

/// Sends back what comes, until the endpoint closes.
async fn answer(mut pinged: Acceptor) -> std::result::Result<(), net_transport::StreamError> {
    while let Some(mut stream) = pinged.next().await {
        let ping = stream.recv.read_to_end(4).await?;
        stream.send.write_all(&ping).await?;
        stream.send.finish()?;
    }
    Ok(())
}

/// A node that forgets its keys when it ends.
async fn start(mesh: Mesh) -> Result<(Endpoint, Inbox)> {
    let keys = NodeKeys::from_seed(&Seed::new(random()?));
    Ok(Endpoint::bind(keys, mesh, Arc::new(OpenAdmission), EndpointConfig::default()).await?)
}

fn new_mesh() -> Result<Mesh> {
    Ok(Mesh::new(MeshId(random()?), 0, Psk::new(random()?)))
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    Entropy::system().fill(&mut bytes)?;
    Ok(bytes)
}
