//! net-mesh: channels on its own UDP transport, the subscribers listen and the publisher connects to each.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use upstream::adapter::net::{
    ChannelId, ChannelName, ChannelPublisher, EntityKeypair, MeshNode, MeshNodeConfig, OnFailure, PublishConfig,
    Reliability,
};

use crate::drivers::{Driver, Guard, Publish};
use crate::load::Tally;
use crate::role::{Context, Spec};

const CHANNEL: &str = "bench/events";

/// How one node is found by another.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    node: u64,
    address: SocketAddr,
    key: [u8; 32],
}

async fn node() -> Result<Arc<MeshNode>> {
    let config = MeshNodeConfig::new("127.0.0.1:0".parse()?, [0x42; 32]);
    Ok(Arc::new(MeshNode::new(EntityKeypair::generate(), config).await?))
}

fn hello(node: &MeshNode) -> Result<serde_json::Value> {
    let hello = Hello { node: node.node_id(), address: node.local_addr(), key: *node.public_key() };
    Ok(serde_json::to_value(hello)?)
}

fn channel() -> Result<ChannelName> {
    ChannelName::new(CHANNEL).map_err(|error| anyhow!("{error:?}"))
}

pub(crate) struct Publisher {
    node: Arc<MeshNode>,
    publisher: ChannelPublisher,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let node = node().await?;
        let table = context.exchange(hello(&node)?).await?;
        for subscriber in table.subscribers {
            let Hello { node: id, address, key } = serde_json::from_value(subscriber)?;
            node.connect(address, &key, id).await?;
        }
        node.start();
        let publisher = node.channel_publisher(channel()?, config(&context.spec));
        Ok(Self { node, publisher })
    }
}

fn config(spec: &Spec) -> PublishConfig {
    let reliability = match spec.driver {
        Driver::NetMeshReliable => Reliability::Reliable,
        _ => Reliability::FireAndForget,
    };
    PublishConfig::new().with_reliability(reliability).with_on_failure(OnFailure::Collect)
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        let payload = Bytes::copy_from_slice(payload);
        loop {
            let report = self.node.publish(&self.publisher, payload.clone()).await?;
            // A refusal by its credit window is an error and not a wait: the caller has to come again. Where some
            // subscribers have had the event, it cannot be offered to the others alone, and is lost for them.
            if report.delivered > 0 || report.is_empty() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn settle(&mut self) -> Result<()> {
        // It has no flush for a channel.
        Ok(())
    }
}

pub(crate) async fn subscribe(context: &mut Context, tally: Tally) -> Result<Guard> {
    let node = node().await?;
    let table = context.exchange(hello(&node)?).await?;
    let publisher: Hello = serde_json::from_value(table.publisher)?;
    node.accept(publisher.node).await?;
    // The stream of a channel as its publishers derive it.
    let stream = 0x0001_0000_0000_0000 | ChannelId::new(channel()?).hash();
    let tally = Mutex::new(tally);
    let sink = move |event: upstream::adapter::net::StreamInboundEvent| {
        tally.lock().unwrap_or_else(PoisonError::into_inner).take(&event.payload);
    };
    node.register_stream_inbound(stream, Arc::new(sink)).context("the stream has a sink already")?;
    node.start();
    for _ in 0..50 {
        if node.subscribe_channel(publisher.node, channel()?).await.is_ok() {
            return Ok(Box::new(node));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the publisher does not accept the subscription")
}
