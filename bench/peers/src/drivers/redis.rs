//! Redis Streams: XADD on a multiplexed connection, XREAD in a loop.

use std::time::Instant;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};
use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use crate::drivers::{Guard, Publish};
use crate::load::{Payload, Tally};
use crate::role::{Appended, Context, Job, Spec};

const STREAM: &str = "bench";
const FIELD: &str = "e";

/// XADDs on their way at a time when publishing.
const IN_FLIGHT: usize = 512;

/// Commands that the connection's queue holds: more than are ever on their way.
const QUEUE_LEN: usize = 2_048;

/// XADDs on their way at a time when records are put there for a replay.
const PRELOAD_IN_FLIGHT: usize = 1_024;

/// A stream is cut to about this many bytes of payload, so that a run does not fill the memory.
const STREAM_BYTES_MAX: usize = 1 << 30;

/// The most entries one XREAD answers with.
const READ_COUNT: usize = 1_000;

async fn connect(spec: &Spec) -> Result<MultiplexedConnection> {
    let port = spec.server.context("this driver needs a server")?;
    let client = Client::open(format!("redis://127.0.0.1:{port}/"))?;
    // A blocking read may take longer than the default of half a second. A command that finds the connection's queue
    // full waits beside others and may come behind them, so the queue holds all that are on their way.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE_LEN);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

type Adds = FuturesUnordered<BoxFuture<'static, Result<Value, RedisError>>>;

fn add(connection: &MultiplexedConnection, entries_max: Option<usize>, payload: &[u8]) -> Adding {
    let mut command = ::redis::cmd("XADD");
    command.arg(STREAM);
    if let Some(max) = entries_max {
        command.arg("MAXLEN").arg("~").arg(max);
    }
    command.arg("*").arg(FIELD).arg(payload);
    let mut connection = connection.clone();
    async move { send(&mut connection, &command).await }.boxed()
}

type Adding = BoxFuture<'static, Result<Value, RedisError>>;

async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    command.query_async(connection).await
}

pub(crate) struct Publisher {
    connection: MultiplexedConnection,
    adds: Adds,
}

impl Publisher {
    pub(crate) async fn connect(context: &mut Context) -> Result<Self> {
        let connection = connect(&context.spec).await?;
        context.exchange(serde_json::Value::Null).await?;
        Ok(Self { connection, adds: Adds::new() })
    }
}

impl Publish for Publisher {
    async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        while self.adds.len() >= IN_FLIGHT {
            self.adds.try_next().await?;
        }
        self.adds.push(add(&self.connection, Some(STREAM_BYTES_MAX / payload.len()), payload));
        // A first poll hands the command to the connection; answers that are there are taken along.
        while let Some(Some(answer)) = self.adds.next().now_or_never() {
            answer?;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        while self.adds.try_next().await?.is_some() {}
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

/// Keeps `in_flight` XADDs unacknowledged until `more` says that it is enough.
async fn append_while(
    connection: &MultiplexedConnection,
    payload_len: usize,
    in_flight: usize,
    mut more: impl FnMut(u64) -> bool,
) -> Result<u64> {
    let mut payload = Payload::new(payload_len);
    let mut adds = Adds::new();
    let (mut seq, mut acknowledged) = (0, 0);
    while more(seq) {
        if adds.len() >= in_flight {
            adds.try_next().await?;
            acknowledged += 1;
        }
        adds.push(add(connection, None, payload.event(seq, 0)));
        seq += 1;
    }
    while adds.try_next().await?.is_some() {
        acknowledged += 1;
    }
    Ok(acknowledged)
}

pub(crate) async fn append(spec: &Spec) -> Result<Appended> {
    let Job::Append { in_flight } = spec.job else { bail!("this is no append") };
    let mut connection = connect(spec).await?;
    let begin = Instant::now();
    let end = begin + spec.duration();
    let acknowledged = append_while(&connection, spec.payload_len, in_flight, |_| Instant::now() < end).await?;
    let secs = begin.elapsed().as_secs_f64();
    let found = ::redis::cmd("XLEN").arg(STREAM).query_async(&mut connection).await?;
    Ok(Appended { acknowledged, found, secs })
}

pub(crate) async fn preload(spec: &Spec, records: u64) -> Result<()> {
    let mut connection = connect(spec).await?;
    append_while(&connection, spec.payload_len, PRELOAD_IN_FLIGHT, |seq| seq < records).await?;
    let found: u64 = ::redis::cmd("XLEN").arg(STREAM).query_async(&mut connection).await?;
    ensure!(found == records, "the stream has {found} of {records} records");
    Ok(())
}

pub(crate) async fn replay(spec: &Spec, mut tally: Tally, records: u64) -> Result<()> {
    let mut connection = connect(spec).await?;
    let mut last = "0".to_owned();
    let mut had = 0;
    while had < records {
        let read = read(&mut connection, &mut last, &mut tally).await?;
        ensure!(read > 0, "the stream ended after {had} records");
        had += read as u64;
    }
    tally.end_at(records);
    Ok(())
}
