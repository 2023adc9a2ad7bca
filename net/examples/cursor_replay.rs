//! A subscriber stops, and a later one goes on where it stood: a cursor names the place.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use net::{Cursor, From, Node};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let node = Node::builder().ephemeral().mdns(false).start().await?;
    let quakes = node.channel("quakes/ak").open().await?;
    for mag in [4.2, 5.0, 6.1] {
        quakes.publish(format!(r#"{{"mag": {mag}}}"#)).await?;
    }
    let mut first = node.subscribe("quakes/*").from(From::Earliest).await?;
    println!("first:  {}", first.next().await.expect("the node is open")?);
    let text = first.cursor().to_string();
    drop(first);

    let mut second = node.subscribe("quakes/*").from(From::Cursor(text.parse::<Cursor>()?)).await?;
    for _ in 0..2 {
        println!("second: {}", second.next().await.expect("the node is open")?);
    }
    node.close().await;
    Ok(())
}
