//! Filters: only the events that an application wants, and errors that show where a filter is wrong.
//!
//! `cargo run -p net-channel --example filter --features filter -- 'mag > 4'`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use net_channel::{Bus, BusConfig, From, Item, OpenGate, SubscribeError};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Psk, Seed};

const QUAKES: [&str; 5] = [
    r#"{"mag": 5.3, "place": "50km NNW of Sangiang, Indonesia"}"#,
    r#"{"mag": 0.3, "place": "37km NNE of Amboy, Washington"}"#,
    r#"{"mag": 4.6, "place": "135km SW of Kodiak, Alaska"}"#,
    r#"{"place": "somewhere"}"#,
    "the ground shook",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = std::env::args().nth(1).unwrap_or_else(|| "mag > 4 && place.contains('Alaska')".to_owned());
    let bus = bus().await?;
    let channel = bus.channel("quakes/world").open().await?;
    for quake in QUAKES {
        channel.publish(quake).await?;
    }
    let mut events = match bus.subscribe("quakes/*").from(From::Earliest).filter(&filter).await {
        Ok(events) => events,
        Err(SubscribeError::Filter(error)) => {
            println!("{error}\n{}", error.pointer());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    // It is done when every event has been handed out or passed over.
    let asked = |events: &net_channel::Subscription| {
        let f = events.filtered();
        f.matched + f.unmatched + f.missing + f.wrong_type + f.unreadable + f.too_costly
    };
    while asked(&events) < QUAKES.len() as u64 {
        match events.try_next() {
            Some(Item::Event(event)) => println!("{}", String::from_utf8_lossy(event.payload())),
            Some(other) => println!("{other}"),
            None => tokio::task::yield_now().await,
        }
    }
    println!("{:?}", events.filtered());
    bus.close().await;
    Ok(())
}

/// A node that is alone. `net::Node` does this for you.
async fn bus() -> Result<Bus, Box<dyn Error>> {
    let keys = NodeKeys::from_seed(&Seed::new([1; 32]));
    let mesh = Mesh::new(MeshId([1; 32]), 0, Psk::new([2; 32]));
    let gate = Arc::new(OpenGate::new(mesh.id()));
    let config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh, gate, config).await?;
    Ok(Bus::start(endpoint, inbox, BusConfig::new(Arc::new(keys))).await?)
}
