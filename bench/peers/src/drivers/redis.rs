//! Redis Streams: XADD on a multiplexed connection, XREAD in a loop.

use std::time::Instant;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};
use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::{mpsc, watch};

use crate::drivers::{Guard, Publish, append_while};
use crate::load::{Payload, Tally};
use crate::role::{Appended, Context, Job, Spec};

const STREAM: &str = "bench";
const FIELD: &str = "e";

/// XADDs that wait, and that one pipeline holds at most.
const IN_FLIGHT: usize = 512;

/// A stream is cut to about this many bytes of payload, so that a run does not fill the memory.
const STREAM_BYTES_MAX: usize = 1 << 30;

/// The most entries one XREAD answers with.
const READ_COUNT: usize = 1_000;

async fn connect(spec: &Spec) -> Result<MultiplexedConnection> {
    let port = spec.server.context("this driver needs a server")?;
    let client = Client::open(format!("redis://127.0.0.1:{port}/"))?;
    // A blocking read may take longer than the default of half a second.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

fn add(entries_max: Option<usize>, payload: &[u8]) -> Cmd {
    let mut command = ::redis::cmd("XADD");
    command.arg(STREAM);
    if let Some(max) = entries_max {
        command.arg("MAXLEN").arg("~").arg(max);
    }
    command.arg("*").arg(FIELD).arg(payload);
    command
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    command.query_async(connection).await
}

/// Publishes in order: what is queued goes as one pipeline, and the next one when that is answered.
///
/// Commands that are in flight beside each other on one connection may overtake each other on their way into it.
#[derive(Debug)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Vec<u8>>,
    published: u64,
    answered: watch::Receiver<u64>,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let connection = connect(&context.spec).await?;
        context.exchange(serde_json::Value::Null).await?;
        let entries_max = Some(STREAM_BYTES_MAX / context.spec.payload_len);
        Ok(Self::start(connection, entries_max))
    }

    fn start(connection: MultiplexedConnection, entries_max: Option<usize>) -> Self {
        let (queue, waiting) = mpsc::channel(IN_FLIGHT);
        let (answers, answered) = watch::channel(0);
        tokio::spawn(pipeline(connection, entries_max, waiting, answers));
        Self { queue, published: 0, answered }
    }
}

/// Ends, and with it `answers`, when the connection fails or nobody publishes any more.
async fn pipeline(
    mut connection: MultiplexedConnection,
    entries_max: Option<usize>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    answers: watch::Sender<u64>,
) {
    let mut payloads = Vec::with_capacity(IN_FLIGHT);
    while queue.recv_many(&mut payloads, IN_FLIGHT).await > 0 {
        let count = payloads.len() as u64;
        let mut pipe = ::redis::pipe();
        for payload in payloads.drain(..) {
            pipe.add_command(add(entries_max, &payload)).ignore();
        }
        if let Err(error) = pipe.query_async::<()>(&mut connection).await {
            eprintln!("{error}");
            return;
        }
        answers.send_modify(|answered| *answered += count);
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        self.published += 1;
        self.queue.send(payload.to_vec()).await.context("the connection to redis failed")
    }

    async fn settle(&mut self) -> Result<()> {
        self.answered.wait_for(|answered| *answered >= self.published).await?;
        Ok(())
    }
}

pub(crate) async fn subscribe(context: &mut Context, mut tally: Tally) -> Result<Guard> {
    let mut connection = connect(&context.spec).await?;
    context.exchange(serde_json::Value::Null).await?;
    tokio::spawn(async move {
        let progress = tally.progress();
        let mut last = "0".to_owned();
        loop {
            if let Err(error) = read(&mut connection, &mut last, &mut tally).await {
                progress.fail(format!("{error:#}"));
                return;
            }
        }
    });
    Ok(Box::new(()))
}

/// One XREAD that waits for entries; `last` becomes the id of the last one.
async fn read(connection: &mut MultiplexedConnection, last: &mut String, tally: &mut Tally) -> Result<usize> {
    let mut command = ::redis::cmd("XREAD");
    command.arg("COUNT").arg(READ_COUNT).arg("BLOCK").arg(1_000).arg("STREAMS").arg(STREAM).arg(last.as_str());
    match send(connection, &command).await? {
        Value::Nil => Ok(0),
        Value::Array(streams) => {
            let Some(Value::Array(stream)) = streams.into_iter().next() else { bail!("an odd answer to XREAD") };
            let Some(Value::Array(entries)) = stream.into_iter().nth(1) else { bail!("an odd answer to XREAD") };
            take(&entries, last, tally)
        }
        odd => bail!("an odd answer to XREAD: {odd:?}"),
    }
}

fn take(entries: &[Value], last: &mut String, tally: &mut Tally) -> Result<usize> {
    for entry in entries {
        let Value::Array(entry) = entry else { bail!("an odd entry") };
        let [Value::BulkString(id), Value::Array(fields)] = entry.as_slice() else { bail!("an odd entry") };
        let [_, Value::BulkString(payload)] = fields.as_slice() else { bail!("an odd entry") };
        tally.take(payload);
        last.clear();
        last.push_str(std::str::from_utf8(id)?);
    }
    Ok(entries.len())
}

pub(crate) async fn append(spec: &Spec) -> Result<Appended> {
    let Job::Append { in_flight } = spec.job else { bail!("this is no append") };
    let mut connection = connect(spec).await?;
    let mut payload = Payload::new(spec.payload_len);
    let begin = Instant::now();
    let end = begin + spec.duration();
    let append = |seq| {
        let (mut connection, command) = (connection.clone(), add(None, payload.event(seq, 0)));
        let sent = async move { send(&mut connection, &command).await.map(drop).map_err(Into::into) };
        std::future::ready(Ok(sent))
    };
    let acknowledged = append_while(in_flight, |_| Instant::now() < end, append).await?;
    let secs = begin.elapsed().as_secs_f64();
    let found = ::redis::cmd("XLEN").arg(STREAM).query_async(&mut connection).await?;
    Ok(Appended { acknowledged, found: Some(found), secs })
}

pub(crate) async fn preload(spec: &Spec, records: u64) -> Result<()> {
    let mut connection = connect(spec).await?;
    let mut publisher = Publisher::start(connection.clone(), None);
    let mut payload = Payload::new(spec.payload_len);
    for seq in 0..records {
        publisher.publish(payload.event(seq, 0)).await?;
    }
    publisher.settle().await?;
    let found: u64 = ::redis::cmd("XLEN").arg(STREAM).query_async(&mut connection).await?;
    ensure!(found == records, "the stream has {found} of {records} records");
    Ok(())
}

pub(crate) async fn replay(spec: &Spec, mut tally: Tally, records: u64) -> Result<()> {
    let mut connection = connect(spec).await?;
    let mut last = "0".to_owned();
    let mut had = 0;
    tally.begin();
    while had < records {
        let read = read(&mut connection, &mut last, &mut tally).await?;
        ensure!(read > 0, "the stream ended after {had} records");
        had += read as u64;
    }
    tally.end_at(records);
    Ok(())
}
