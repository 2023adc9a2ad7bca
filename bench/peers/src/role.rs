//! One process of a run: a publisher, a subscriber, an appender, a preloader or a replayer of one driver, or the node at
//! the other end of the link.
//!
//! It speaks JSON lines with the runner, one object a line: `hello` (how others reach it) and then, when the runner has
//! sent the table of all hellos, `ready`, `result` or `error`. The end of its input ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::time::MissedTickBehavior;

use crate::drivers::{self, Driver, Publish};
use crate::load::{Payload, Progress, Tally, now_ns};
use crate::tls::TlsFiles;

/// Which part of a run a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    Publisher,
    Subscriber,
    Appender,
    Preloader,
    Replayer,
    /// The other end of an append or a replay that goes over a link and has no server.
    Node,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// As many events as go through.
    Throughput,
    /// One-way latency at this many events a second.
    Latency { per_sec: u32 },
    /// Appends that are acknowledged, this many of them unacknowledged at a time.
    Append { in_flight: usize },
    /// Reading this many records from the first on.
    Replay { records: u64 },
}

/// All that a role is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) driver: Driver,
    pub(crate) role: Role,
    pub(crate) job: Job,
    /// Bytes of a payload.
    pub(crate) payload_len: usize,
    /// For how long the publisher or appender works.
    pub(crate) secs: f64,
    /// Subscribers in this run.
    pub(crate) subscribers: usize,
    /// Which of them this is; 0 for other roles.
    pub(crate) index: usize,
    /// The run's own directory, on the disk that is measured.
    pub(crate) dir: PathBuf,
    /// The server's port on loopback, for drivers that have one.
    pub(crate) server: Option<u16>,
    /// How the node at the other end of the link is reached, for drivers that have one.
    pub(crate) node: Option<String>,
    pub(crate) tls: TlsFiles,
}

impl Spec {
    /// How long the role works.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }
}

/// Everybody's hello.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) publisher: Value,
    pub(crate) subscribers: Vec<Value>,
}

/// The role's side of the talk with the runner.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) spec: Spec,
    input: Lines<BufReader<Stdin>>,
}

impl Context {
    /// Says how others reach this process and waits until all have said so.
    pub(crate) async fn exchange(&mut self, hello: Value) -> Result<Table> {
        say("hello", &hello);
        let line = self.input.next_line().await?.context("the runner went away")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Waits until the runner ends this role.
    pub(crate) async fn ended(&mut self) {
        while self.told().await {}
    }

    /// Waits for the runner's next word; `false` when there will be none.
    ///
    /// Cancel-safe.
    async fn told(&mut self) -> bool {
        matches!(self.input.next_line().await, Ok(Some(_)))
    }
}

/// Plays the role; returns when the runner ends it.
pub(crate) async fn play(spec: Spec) -> Result<()> {
    let mut context = Context { spec, input: BufReader::new(tokio::io::stdin()).lines() };
    match context.spec.role {
        // In a task of the runtime, as servers publish; the thread that blocks on it is none of its workers.
        Role::Publisher => tokio::spawn(drivers::publisher(context)).await?,
        Role::Subscriber => subscriber(context).await,
        Role::Node => drivers::other_node(context).await,
        Role::Appender => {
            context.exchange(Value::Null).await?;
            let spec = context.spec.clone();
            let appended = tokio::spawn(async move { drivers::append(&spec).await }).await??;
            say("result", &serde_json::to_value(appended)?);
            Ok(())
        }
        Role::Preloader => {
            context.exchange(Value::Null).await?;
            let Job::Replay { records } = context.spec.job else { bail!("there is nothing to preload") };
            drivers::preload(&context.spec, records).await?;
            say("result", &json!({ "records": records }));
            Ok(())
        }
        Role::Replayer => {
            context.exchange(Value::Null).await?;
            let Job::Replay { records } = context.spec.job else { bail!("there is nothing to replay") };
            let progress = Arc::new(Progress::default());
            let tally = Tally::new(progress.clone(), context.spec.payload_len);
            let replay = drivers::replay(&context.spec, tally, records);
            let outcome = tokio::select! {
                biased;
                outcome = progress.ended() => outcome,
                failed = replay => match failed {
                    Ok(()) => progress.ended().await,
                    Err(error) => Err(format!("{error:#}")),
                },
            };
            say("result", &serde_json::to_value(outcome.map_err(anyhow::Error::msg)?)?);
            Ok(())
        }
    }
}

/// What an appender reports.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Appended {
    pub(crate) acknowledged: u64,
    /// Records that a reader finds afterwards; nothing where another node has them.
    pub(crate) found: Option<u64>,
    pub(crate) secs: f64,
}

/// The publisher's part, the same for every driver.
pub(crate) async fn publish<P: Publish>(mut context: Context, mut publisher: P) -> Result<()> {
    let spec = context.spec.clone();
    let mut payload = Payload::new(spec.payload_len);
    // Probes until every subscriber has had one.
    loop {
        tokio::select! {
            biased;
            told = context.told() => if told { break } else { return Ok(()) },
            () = tokio::time::sleep(Duration::from_millis(5)) => publisher.publish(payload.probe()).await?,
        }
    }
    publisher.settle().await?;
    let begin = Instant::now();
    let published = match spec.job {
        Job::Throughput => flood(&spec, &mut publisher, &mut payload).await?,
        Job::Latency { per_sec } => pace(&spec, &mut publisher, &mut payload, per_sec).await?,
        Job::Append { .. } | Job::Replay { .. } => bail!("a publisher does not do that"),
    };
    publisher.publish(payload.end(published)).await?;
    publisher.settle().await?;
    say("result", &json!({ "published": published, "secs": begin.elapsed().as_secs_f64() }));
    // An end mark may be lost by a peer that loses messages.
    loop {
        tokio::select! {
            biased;
            told = context.told() => if !told { return Ok(()) },
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                publisher.publish(payload.end(published)).await?;
                publisher.settle().await?;
            }
        }
    }
}

/// One publish call after the other until the time is over.
async fn flood<P: Publish>(spec: &Spec, publisher: &mut P, payload: &mut Payload) -> Result<u64> {
    let end = Instant::now() + spec.duration();
    // The clock is read once in a while, so that reading it is not what is measured.
    let stride = (16_384 / spec.payload_len.max(1)).clamp(1, 64);
    let mut seq = 0;
    while Instant::now() < end {
        for _ in 0..stride {
            publisher.publish(payload.event(seq, 0)).await?;
            seq += 1;
        }
    }
    Ok(seq)
}

/// `per_sec` events a second, evenly, each with the time at which `publish` was called.
async fn pace<P: Publish>(spec: &Spec, publisher: &mut P, payload: &mut Payload, per_sec: u32) -> Result<u64> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_sec);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + spec.duration();
    let mut seq = 0;
    while Instant::now() < end {
        ticks.tick().await;
        publisher.publish(payload.event(seq, now_ns())).await?;
        seq += 1;
    }
    Ok(seq)
}

async fn subscriber(mut context: Context) -> Result<()> {
    let progress = Arc::new(Progress::default());
    let tally = Tally::new(progress.clone(), context.spec.payload_len);
    let tally = match context.spec.job {
        Job::Latency { per_sec } => tally.with_latencies(u64::from(per_sec / 4)),
        _ => tally,
    };
    let _subscription = drivers::subscribe(&mut context, tally).await?;
    tokio::select! {
        biased;
        failed = progress.ended() => bail!("it ended before it began: {failed:?}"),
        () = progress.probed() => say("ready", &Value::Null),
        told = context.told() => if !told { return Ok(()) },
    }
    tokio::select! {
        biased;
        outcome = progress.ended() => say("result", &serde_json::to_value(outcome.map_err(anyhow::Error::msg)?)?),
        _ = context.told() => {
            say("result", &serde_json::to_value(progress.so_far())?);
            return Ok(());
        }
    }
    context.told().await;
    Ok(())
}

/// One line to the runner.
pub(crate) fn say(what: &str, value: &Value) {
    println!("{}", json!({ what: value }));
}
