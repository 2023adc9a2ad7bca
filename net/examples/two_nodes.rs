//! Two nodes in one program: one publishes, the other subscribes.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use net::{From, Node};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let here = "127.0.0.1:0".parse()?;
    let alice = Node::builder().ephemeral().mdns(false).listen(here).start().await?;
    let bob = Node::builder().ephemeral().mdns(false).listen(here).ticket(alice.ticket()).start().await?;

    let mut events = bob.subscribe("quakes/*").from(From::Earliest).await?;
    alice.channel("quakes/ak").open().await?.publish(r#"{"mag": 4.2}"#).await?;
    if let Some(item) = events.next().await {
        println!("{}", item?);
    }
    alice.close().await;
    bob.close().await;
    Ok(())
}
