//! Two nodes in one program: one publishes small events as fast as the other takes them.
//!
//! `cargo run --release -p net-channel --example throughput -- [EVENTS] [BYTES]`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_channel::{Bus, BusConfig, Item, OpenGate};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Peer, Psk, Seed};

async fn node(seed: u8, known: Vec<Peer>) -> Result<(Peer, Bus), Box<dyn Error>> {
    // Seeds and psk are random in a real mesh; `net::Node` takes care of them.
    let keys = NodeKeys::from_seed(&Seed::new([seed; 32]));
    let mesh = Mesh::new(MeshId([1; 32]), 0, Psk::new([2; 32]));
    let gate = Arc::new(OpenGate::new(mesh.id()));
    let mut config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    config.known = known;
    let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh, gate, config).await?;
    let peer = Peer { binding: *keys.binding(), addresses: endpoint.addresses() };
    let bus = Bus::start(endpoint, inbox, BusConfig::new(Arc::new(keys))).await?;
    Ok((peer, bus))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().map_or(Ok(2_000_000), |n| n.parse())?;
    let bytes: usize = args.next().map_or(Ok(64), |n| n.parse())?;

    let (peer, publisher) = node(1, vec![]).await?;
    let (_, subscriber) = node(2, vec![peer]).await?;
    let channel = publisher.channel("numbers").open().await?;
    let mut numbers = subscriber.subscribe("numbers").await?;
    channel.wait_for_subscribers(1, Duration::from_secs(10)).await;

    let began = Instant::now();
    let sending = tokio::spawn(async move {
        let mut payload = vec![0; bytes.max(8)];
        for i in 0..events {
            payload[..8].copy_from_slice(&i.to_le_bytes());
            channel.publish(&payload).await?;
        }
        channel.flush().await;
        Ok::<_, net_channel::PublishError>(())
    });
    let mut next = 0;
    while next < events {
        match numbers.next().await.ok_or("the node was closed")?? {
            Item::Event(event) => {
                assert_eq!(event.payload()[..8], next.to_le_bytes(), "each event once and in order");
                next += 1;
            }
            other => println!("{other}"),
        }
    }
    sending.await??;
    let seconds = began.elapsed().as_secs_f64();
    println!("{events} events of {bytes} bytes in {seconds:.2} s: {:.0} events/s", events as f64 / seconds);
    publisher.close().await;
    subscriber.close().await;
    Ok(())
}
