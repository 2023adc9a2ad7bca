//! One run: processes started, told, asked and ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::drivers::{self, Driver};
use crate::load::Outcome;
use crate::role::{Appended, Job, Role, Spec, Table};
use crate::servers::{Server, guarded, last_lines};
use crate::suites::{Metric, Scenario};
use crate::tls::TlsFiles;

/// How long anything but the measured time itself may take.
const STEP_MAX: Duration = Duration::from_secs(20);

/// How long the preparation of a replay may take.
const PRELOAD_MAX: Duration = Duration::from_secs(120);

/// What all runs share.
#[derive(Debug)]
pub(crate) struct Bench {
    /// On the disk that is measured; removed at the end.
    pub(crate) dir: TempDir,
    pub(crate) tls: TlsFiles,
    /// Seconds for which a publisher or appender works.
    pub(crate) secs: f64,
}

/// What a run yields.
pub(crate) type Figures = BTreeMap<Metric, f64>;

/// Records of a driver that replays read, and the server that holds them.
#[derive(Debug)]
pub(crate) struct Preloaded {
    dir: TempDir,
    server: Option<Server>,
}

impl Bench {
    /// A run of a scenario that is not a replay.
    pub(crate) async fn run(&self, driver: Driver, scenario: &Scenario) -> Result<Figures> {
        let dir = TempDir::new_in(self.dir.path())?;
        let server = self.server(driver, dir.path()).await?;
        match scenario.job {
            Job::Append { .. } => self.append(driver, scenario, dir.path(), server.as_ref()).await,
            _ => self.publish(driver, scenario, dir.path(), server.as_ref()).await,
        }
    }

    /// Puts the records of a replay there.
    pub(crate) async fn preload(&self, driver: Driver, scenario: &Scenario) -> Result<Preloaded> {
        let dir = TempDir::new_in(self.dir.path())?;
        let server = self.server(driver, dir.path()).await?;
        let mut preloader = self.start(self.spec(driver, scenario, Role::Preloader, dir.path(), server.as_ref()))?;
        preloader.meet().await?;
        preloader.expect("result", PRELOAD_MAX).await?;
        preloader.end().await;
        Ok(Preloaded { dir, server })
    }

    /// One replay of what was preloaded.
    pub(crate) async fn replay(&self, driver: Driver, scenario: &Scenario, preloaded: &Preloaded) -> Result<Figures> {
        let spec = self.spec(driver, scenario, Role::Replayer, preloaded.dir.path(), preloaded.server.as_ref());
        let (spec, node) = self.with_node(spec).await?;
        let mut replayer = self.start(spec)?;
        replayer.meet().await?;
        let outcome: Outcome = serde_json::from_value(replayer.expect("result", PRELOAD_MAX).await?)?;
        replayer.end().await;
        if let Some(node) = node {
            node.end().await;
        }
        figures(&[outcome])
    }

    async fn server(&self, driver: Driver, dir: &Path) -> Result<Option<Server>> {
        match driver.server() {
            Some(kind) => Ok(Some(Server::start(kind, dir, &self.tls).await?)),
            None => Ok(None),
        }
    }

    fn spec(&self, driver: Driver, scenario: &Scenario, role: Role, dir: &Path, server: Option<&Server>) -> Spec {
        Spec {
            driver,
            role,
            job: scenario.job,
            payload_len: scenario.payload_len,
            secs: self.secs,
            subscribers: scenario.subscribers,
            index: 0,
            dir: dir.to_owned(),
            server: server.map(|server| server.port),
            node: None,
            tls: self.tls.clone(),
        }
    }

    /// Starts the node at the other end of the link, for a driver that has one, and says how it is reached.
    async fn with_node(&self, spec: Spec) -> Result<(Spec, Option<Process>)> {
        if spec.driver != Driver::Ours {
            return Ok((spec, None));
        }
        let mut node = self.start(Spec { role: Role::Node, ..spec.clone() })?;
        let reached = serde_json::from_value(node.meet().await?)?;
        Ok((Spec { node: Some(reached), ..spec }, Some(node)))
    }

    async fn append(
        &self,
        driver: Driver,
        scenario: &Scenario,
        dir: &Path,
        server: Option<&Server>,
    ) -> Result<Figures> {
        let (spec, node) = self.with_node(self.spec(driver, scenario, Role::Appender, dir, server)).await?;
        let mut appender = self.start(spec.clone())?;
        appender.meet().await?;
        let result = appender.expect("result", STEP_MAX + self.work()).await?;
        let Appended { acknowledged, found, secs } = serde_json::from_value(result)?;
        appender.end().await;
        if let Some(mut node) = node {
            // What was acknowledged is there however the node ends.
            node.child.kill().await?;
        }
        let found = found.map_or_else(|| drivers::kept(&spec), Ok)?;
        ensure!(found == acknowledged && found > 0, "{acknowledged} records were acknowledged and {found} are there");
        Ok(Figures::from([(Metric::PerSec, per_sec(acknowledged, secs))]))
    }

    async fn publish(
        &self,
        driver: Driver,
        scenario: &Scenario,
        dir: &Path,
        server: Option<&Server>,
    ) -> Result<Figures> {
        let mut publisher = self.start(self.spec(driver, scenario, Role::Publisher, dir, server))?;
        let mut subscribers = Vec::new();
        for index in 0..scenario.subscribers {
            let spec = self.spec(driver, scenario, Role::Subscriber, dir, server);
            subscribers.push(self.start(Spec { index, ..spec })?);
        }
        let mut table = Table { publisher: publisher.expect("hello", STEP_MAX).await?, subscribers: Vec::new() };
        for subscriber in &mut subscribers {
            table.subscribers.push(subscriber.expect("hello", STEP_MAX).await?);
        }
        let table = serde_json::to_string(&table)?;
        publisher.tell(&table).await?;
        for subscriber in &mut subscribers {
            subscriber.tell(&table).await?;
        }
        for subscriber in &mut subscribers {
            // A publisher that fails meanwhile says why.
            tokio::select! {
                ready = subscriber.expect("ready", STEP_MAX) => ready.map(|_| ())?,
                failed = publisher.expect("ready", STEP_MAX) => bail!("the publisher: {:#}", failed.err().context("it is ready")?),
            }
        }
        publisher.tell("go").await?;
        publisher.expect("result", STEP_MAX + self.work()).await?;
        let mut outcomes = Vec::new();
        for subscriber in &mut subscribers {
            outcomes.push(serde_json::from_value(subscriber.result().await?)?);
        }
        publisher.end().await;
        for subscriber in subscribers {
            subscriber.end().await;
        }
        figures(&outcomes)
    }

    fn work(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }

    fn start(&self, spec: Spec) -> Result<Process> {
        let name = format!("{:?} {}", spec.role, spec.index);
        let log = spec.dir.join(format!("{name}.log"));
        let this = std::env::current_exe()?;
        let mut child = guarded(&this.display().to_string())
            .arg("role")
            .arg(serde_json::to_string(&spec)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
        Ok(Process { name, log, child, input, output })
    }
}

/// The figures of a run that counts.
fn figures(outcomes: &[Outcome]) -> Result<Figures> {
    for outcome in outcomes {
        if let Some(fault) = outcome.fault() {
            bail!("{fault}");
        }
    }
    let latencies: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.latency_us).collect();
    if !latencies.is_empty() {
        return Ok(Figures::from([
            (Metric::P50, mean(latencies.iter().map(|latency| latency.p50))),
            (Metric::P99, mean(latencies.iter().map(|latency| latency.p99))),
        ]));
    }
    Ok(Figures::from([(Metric::PerSec, mean(outcomes.iter().map(|o| per_sec(o.received, o.secs))))]))
}

fn per_sec(count: u64, secs: f64) -> f64 {
    count as f64 / secs.max(1e-9)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

/// A role's process, seen from the runner.
#[derive(Debug)]
struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Takes its hello, and answers that there is nobody else.
    async fn meet(&mut self) -> Result<Value> {
        let hello = self.expect("hello", STEP_MAX).await?;
        self.tell(&serde_json::to_string(&Table::default())?).await?;
        Ok(hello)
    }

    async fn tell(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.with_context(|| format!("{} is gone", self.name))
    }

    /// A subscriber's result: when its end does not come, what it has counted until then.
    async fn result(&mut self) -> Result<Value> {
        if let Some(line) = self.next_line(STEP_MAX).await? {
            return self.word("result", line).await;
        }
        self.tell("end").await?;
        self.expect("result", STEP_MAX).await
    }

    /// Its next word, which must be `what`.
    async fn expect(&mut self, what: &str, max: Duration) -> Result<Value> {
        let line = self.next_line(max).await?;
        let line = line.with_context(|| format!("{} said no {what} within {} s", self.name, max.as_secs_f64()))?;
        self.word(what, line).await
    }

    /// Its next line, `Some(None)` when there is no more, nothing when it says nothing for so long.
    async fn next_line(&mut self, max: Duration) -> Result<Option<Option<String>>> {
        Ok(tokio::time::timeout(max, self.output.next_line()).await.ok().transpose()?)
    }

    async fn word(&mut self, what: &str, line: Option<String>) -> Result<Value> {
        let Some(line) = line else {
            let status = self.child.wait().await?;
            bail!("{} ended without {what}, {status}: {}", self.name, last_lines(&self.log));
        };
        let mut said: BTreeMap<String, Value> = serde_json::from_str(&line)?;
        if let Some(error) = said.get("error") {
            bail!("{}: {}", self.name, error.as_str().unwrap_or_default());
        }
        said.remove(what).with_context(|| format!("{} said {line} instead of {what}", self.name))
    }

    /// Closes its input, which ends it, and sees to it that it has ended.
    async fn end(mut self) {
        drop(self.input);
        if tokio::time::timeout(Duration::from_millis(500), self.child.wait()).await.is_err() {
            // It has said what it had to say.
            let _ = self.child.kill().await;
        }
    }
}
