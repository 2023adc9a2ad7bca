//! Core NATS: one server, plain or with TLS.

use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::drivers::{Driver, Guard, Publish};
use crate::load::Tally;
use crate::role::{Context, Spec};

const SUBJECT: Subject = Subject::from_static("bench.events");

/// Messages that wait for a subscriber. With the client's default of 65,536 it drops some of the small ones.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// The client's defaults, but for what waits for a subscriber; with TLS, the server is verified.
pub(crate) async fn connect(spec: &Spec) -> Result<Client> {
    let port = spec.server.context("this driver needs a server")?;
    let mut options = ConnectOptions::new().subscription_capacity(SUBSCRIPTION_CAPACITY);
    if spec.driver == Driver::NatsTls {
        options = options.add_root_certificates(spec.tls.ca.clone()).require_tls(true);
    }
    Ok(options.connect(format!("nats://127.0.0.1:{port}")).await?)
}

#[derive(Debug)]
pub(crate) struct Publisher {
    client: Client,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let client = connect(&context.spec).await?;
        context.exchange(serde_json::Value::Null).await?;
        Ok(Self { client })
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        Ok(self.client.publish(SUBJECT, Bytes::copy_from_slice(payload)).await?)
    }

    async fn settle(&mut self) -> Result<()> {
        Ok(self.client.flush().await?)
    }
}

pub(crate) async fn subscribe(context: &mut Context, mut tally: Tally) -> Result<Guard> {
    let client = connect(&context.spec).await?;
    let mut subscription = client.subscribe(SUBJECT).await?;
    client.flush().await?;
    context.exchange(serde_json::Value::Null).await?;
    tokio::spawn(async move {
        while let Some(message) = subscription.next().await {
            tally.take(&message.payload);
        }
        tally.progress().fail("the subscription ended");
    });
    Ok(Box::new(client))
}
