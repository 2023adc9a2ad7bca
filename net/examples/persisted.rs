//! A channel that is kept: acknowledged when it is on the disk, kept by another node too, and there again after a restart.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use net::redex::LogConfig;
use net::{From, Node};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let node = Node::builder().dir(here.path().join("node")).mdns(false).start().await?;
    let other = Node::builder().dir(there.path().join("node")).ticket(node.ticket()).mdns(false).start().await?;
    let _keeper = other.keep("quakes/*", LogConfig::default()).await?;

    let quakes = node.channel("quakes/ak").persist(LogConfig::default()).open().await?;
    println!("{:?}", quakes.publish(r#"{"mag": 4.2}"#).await?.await?); // Durable { offset: 0 }
    let copied = node.channel("quakes/nc").replicas(1).open().await?;
    println!("{:?}", copied.publish(r#"{"mag": 5.0}"#).await?.await?); // Replicated { n: 1 }
    node.close().await;

    let again = Node::builder().dir(here.path().join("node")).mdns(false).start().await?;
    again.channel("quakes/ak").persist(LogConfig::default()).open().await?;
    let mut events = again.subscribe("quakes/ak").from(From::Earliest).await?;
    println!("{}", events.next().await.expect("the node is open")?);
    again.close().await;
    other.close().await;
    Ok(())
}
