//! Frames of one channel from a producer to a subscriber over a link, as fast as they go.
//!
//! ```text
//! cargo run --release -p net-transport --example frames -- [payload bytes] [frames]
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use net_transport::{
    Endpoint, EndpointConfig, Event, Header, Inbox, Kind, Mesh, MeshId, NodeKeys, OpenAdmission, Pair, Psk, Seed,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Names a channel and its origin. Real ones are a hash and a public key; here any bytes do.
const PAIR: Pair = Pair { channel: [1; 32], origin: [2; 32] };

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let len: u32 = args.next().map_or(Ok(8192), |arg| arg.parse())?;
    let frames: u64 = args.next().map_or(Ok(100_000), |arg| arg.parse())?;
    let (told, producer_is) = std::sync::mpsc::channel();
    let producing = std::thread::spawn(move || runtime()?.block_on(produce(len, frames, told)));
    let peer = producer_is.recv()?;
    runtime()?.block_on(subscribe(peer, frames))?;
    producing.join().map_err(|_| "the producer has panicked")?
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn produce(len: u32, frames: u64, told: std::sync::mpsc::Sender<net_transport::Peer>) -> Result<()> {
    let (endpoint, mut inbox) = start(1).await?;
    endpoint.serve(PAIR);
    told.send(endpoint.ticket().peers.swap_remove(0))?;
    while !matches!(inbox.events.recv().await, Some(Event::Joiners { takers: 1, .. })) {}
    let (channel, origin) = PAIR.prefix();
    let mut header = Header::new(Kind::Batch);
    header.set_channel(channel);
    header.set_origin(origin);
    header.set_payload_len(len);
    let mut frame = header.as_bytes().to_vec();
    frame.resize(frame.len() + usize::try_from(len)?, 0);
    for seq in 0..frames {
        header.set_seq(seq);
        frame[..64].copy_from_slice(header.as_bytes());
        endpoint.room(&PAIR).await;
        let fanout = endpoint.publish(&PAIR, frame.clone().into());
        assert_eq!(fanout.links, 1, "there was room, or nobody waits here");
        if seq % 64 == 0 {
            // The links of this node live on the same thread.
            tokio::task::yield_now().await;
        }
    }
    endpoint.close().await;
    Ok(())
}

async fn subscribe(producer: net_transport::Peer, frames: u64) -> Result<()> {
    let (endpoint, Inbox { frames: mut incoming, .. }) = start(2).await?;
    endpoint.join(PAIR, producer.node());
    endpoint.add_peer(producer);
    let mut batch = Vec::new();
    let (mut count, mut bytes, mut began) = (0, 0, Instant::now());
    while count < frames {
        incoming.recv_many(&mut batch, 1024).await;
        if count == 0 {
            began = Instant::now();
        }
        for frame in batch.drain(..) {
            assert_eq!(frame.header().seq(), count, "they come in order and all");
            count += 1;
            bytes += frame.bytes.len();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{count} frames, {:.0} frames/s, {:.0} MB/s", count as f64 / seconds, bytes as f64 / seconds / 1e6);
    endpoint.close().await;
    Ok(())
}

async fn start(n: u8) -> Result<(Endpoint, Inbox)> {
    let keys = NodeKeys::from_seed(&Seed::new([n; 32]));
    // Known to everybody who reads this: a real psk is random and secret.
    let mesh = Mesh::new(MeshId([7; 32]), 0, Psk::new([8; 32]));
    let config = EndpointConfig::listen_on(SocketAddr::from(([127, 0, 0, 1], 0)));
    Ok(Endpoint::bind(keys, mesh, Arc::new(OpenAdmission), config).await?)
}
