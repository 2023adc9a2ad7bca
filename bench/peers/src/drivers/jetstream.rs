//! JetStream: a stream in a file, appended to with acknowledgements, read by an ordered push consumer.

use std::time::Instant;

use anyhow::{Result, ensure};
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::drivers::{append_while, nats};
use crate::load::{Payload, Tally};
use crate::role::{Appended, Job, Spec};

const STREAM: &str = "BENCH";
const SUBJECT: &str = "bench.records";

async fn open(spec: &Spec) -> Result<(jetstream::Context, stream::Stream)> {
    let client = nats::connect(spec).await?;
    let context = ContextBuilder::new().build(client);
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        storage: stream::StorageType::File,
        ..stream::Config::default()
    };
    let stream = context.get_or_create_stream(config).await?;
    Ok((context, stream))
}

async fn publish(
    context: &jetstream::Context,
    payload_len: usize,
    in_flight: usize,
    more: impl FnMut(u64) -> bool,
) -> Result<u64> {
    let mut payload = Payload::new(payload_len);
    let append = |seq| {
        let record = Bytes::copy_from_slice(payload.event(seq, 0));
        async move {
            let ack = context.publish(SUBJECT, record).await?;
            Ok(async move { ack.await.map(drop).map_err(Into::into) })
        }
    };
    append_while(in_flight, more, append).await
}

pub(crate) async fn append(spec: &Spec) -> Result<Appended> {
    let Job::Append { in_flight } = spec.job else { anyhow::bail!("this is no append") };
    let (context, mut stream) = open(spec).await?;
    let begin = Instant::now();
    let end = begin + spec.duration();
    let acknowledged = publish(&context, spec.payload_len, in_flight, |_| Instant::now() < end).await?;
    let secs = begin.elapsed().as_secs_f64();
    let found = stream.info().await?.state.messages;
    Ok(Appended { acknowledged, found: Some(found), secs })
}

pub(crate) async fn preload(spec: &Spec, records: u64) -> Result<()> {
    let (context, mut stream) = open(spec).await?;
    publish(&context, spec.payload_len, 1_024, |seq| seq < records).await?;
    ensure!(stream.info().await?.state.messages == records, "the stream has not all records");
    Ok(())
}

pub(crate) async fn replay(spec: &Spec, mut tally: Tally, records: u64) -> Result<()> {
    let (_, stream) = open(spec).await?;
    let client = nats::connect(spec).await?;
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        deliver_policy: DeliverPolicy::All,
        ..push::OrderedConfig::default()
    };
    tally.begin();
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    for _ in 0..records {
        let Some(message) = messages.next().await else { break };
        tally.take(&message?.payload);
    }
    tally.end_at(records);
    Ok(())
}
