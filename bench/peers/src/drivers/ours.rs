//! Ours: the public API of `net` with its defaults, the publisher's node joined by the subscribers' nodes.

use std::time::Duration;

use ::net::{Channel, Item, Node};
use anyhow::{Result, ensure};

use crate::drivers::{Guard, Publish};
use crate::load::Tally;
use crate::role::Context;

const CHANNEL: &str = "bench/events";

/// How long a publisher waits at the end until every subscriber has had everything.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Publisher {
    channel: Channel,
    _node: Node,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let node = Node::builder().ephemeral().mdns(false).listen("127.0.0.1:0".parse()?).start().await?;
        let channel = node.channel(CHANNEL).open().await?;
        let ticket = node.ticket().to_string();
        context.exchange(serde_json::Value::String(ticket)).await?;
        let here = channel.wait_for_subscribers(context.spec.subscribers, DELIVERY_MAX).await;
        ensure!(here, "not every subscriber came");
        Ok(Self { channel, _node: node })
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        self.channel.publish(payload).await?;
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        self.channel.flush().await;
        Ok(())
    }
}

pub(crate) async fn subscribe(context: &mut Context, mut tally: Tally) -> Result<Guard> {
    let table = context.exchange(serde_json::Value::Null).await?;
    let ticket = serde_json::from_value::<String>(table.publisher)?.parse()?;
    let node = Node::builder().ephemeral().mdns(false).listen("127.0.0.1:0".parse()?).ticket(ticket).start().await?;
    let mut subscription = node.subscribe(CHANNEL).await?;
    tokio::spawn(async move {
        let progress = tally.progress();
        while let Some(item) = subscription.next().await {
            match item {
                Ok(Item::Event(event)) => tally.take(event.payload()),
                // A gap, a break in the chain, an equivocation: a run with any of them does not count.
                Ok(item) => return progress.fail(format!("{item:?}")),
                Err(error) => return progress.fail(error),
            }
        }
        progress.fail("the node was closed");
    });
    Ok(Box::new(node))
}
