//! The endpoint of net-transport, as a user has it: a ticket, a link, a stream of a protocol of one's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use net_transport::{Endpoint, EndpointConfig, Event, Inbox, NodeKeys, OpenAdmission, Seed, Ticket};

use crate::ends::{RECEIVER, SENDER, mesh};
use crate::{Args, Count, chunks, say};

const PROTOCOL: &str = "net-bench/bulk/1";

/// Accepts one stream, counts what comes, and says so to both.
pub(crate) async fn receive() -> Result<()> {
    let (endpoint, _inbox) = bind(RECEIVER, Vec::new()).await?;
    let mut streams = endpoint.accept(PROTOCOL)?;
    say(&endpoint.ticket().to_string())?;
    let mut stream = streams.next().await.context("the endpoint is open")?;
    let mut count = Count::default();
    while let Some(bytes) = stream.recv.read_chunk(usize::MAX).await? {
        count.add(bytes.len());
    }
    count.say()?;
    stream.send.write_all(b"counted").await?;
    stream.send.finish()?;
    // The sender leaves when it knows; until then what it is told must be delivered.
    stream.send.stopped().await?;
    endpoint.close().await;
    Ok(())
}

/// Joins by the ticket, and sends.
pub(crate) async fn send(ticket: &str, args: &Args) -> Result<()> {
    let ticket: Ticket = ticket.parse().context("read the ticket")?;
    let receiver = ticket.peers.first().context("a ticket names the node that made it")?.node();
    let (endpoint, mut inbox) = bind(SENDER, ticket.peers).await?;
    loop {
        match inbox.events.recv().await {
            Some(Event::LinkUp { node, .. }) if node == receiver => break,
            Some(_) => {}
            None => bail!("the endpoint closed before there was a link"),
        }
    }
    let (mut send, mut recv) = endpoint.open_bi(&receiver, PROTOCOL).await?;
    for chunk in chunks(args) {
        send.write_chunk(chunk).await?;
    }
    send.finish()?;
    let answer = recv.read_to_end(16).await?;
    ensure!(answer == b"counted", "the receiver says something else");
    endpoint.close().await;
    Ok(())
}

async fn bind(seed: [u8; 32], known: Vec<net_transport::Peer>) -> Result<(Endpoint, Inbox)> {
    let mut config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    config.known = known;
    let keys = NodeKeys::from_seed(&Seed::new(seed));
    Ok(Endpoint::bind(keys, mesh(), Arc::new(OpenAdmission), config).await?)
}
