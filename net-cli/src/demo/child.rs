//! A process of the demo, from the outside.

use std::process::Stdio;

use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::control::lines::{LineReader, LineWriter};
use crate::demo::messages::{News, Order, Seen, Setup};
use crate::demo::weather::Storm;
use crate::failure::Failure;

/// A process of the demo. It ends when its input does, and is killed when this is dropped.
pub(crate) struct Child {
    process: tokio::process::Child,
    orders: LineWriter<ChildStdin>,
    news: LineReader<ChildStdout>,
}

impl Child {
    pub(crate) async fn start(setup: &Setup) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| Failure::new(format!("cannot start a process: {error}"));
        let mut process = Command::new(std::env::current_exe().map_err(cannot)?)
            .arg("demo-role")
            .env_remove("NET_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { return Err(gone()) };
        let mut child = Self { process, orders: LineWriter::new(stdin), news: LineReader::new(stdout) };
        child.orders.send(setup).await.map_err(|_| gone())?;
        Ok(child)
    }

    pub(crate) async fn order(&mut self, order: &Order) -> Result<(), Failure> {
        self.orders.send(order).await.map_err(|_| gone())
    }

    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        match self.news.next().await {
            Ok(Some(News::Failed { message })) => Err(Failure::new(format!("a process of the demo failed: {message}"))
                .next("`net doctor` looks at the network")),
            Ok(Some(news)) => Ok(news),
            Ok(None) | Err(_) => Err(gone()),
        }
    }

    /// Waits until it is linked; its origin and its ticket.
    pub(crate) async fn ready(&mut self) -> Result<(String, String), Failure> {
        match self.next().await? {
            News::Ready { origin, ticket } => Ok((origin, ticket)),
            other => Err(unexpected(&other)),
        }
    }

    /// What it has seen.
    pub(crate) async fn seen(&mut self) -> Result<Seen, Failure> {
        match self.next().await? {
            News::Seen(seen) => Ok(seen),
            other => Err(unexpected(&other)),
        }
    }

    /// What the weather was on it.
    pub(crate) async fn storm(&mut self) -> Result<Storm, Failure> {
        self.order(&Order::Tell).await?;
        match self.next().await? {
            News::Storm(storm) => Ok(storm),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends it as `kill -9` does: it has no time to write anything.
    pub(crate) async fn kill(mut self) -> Result<(), Failure> {
        self.process.kill().await?;
        Ok(())
    }

    /// Ends them and waits until they have drained.
    pub(crate) async fn stop_all(children: impl Iterator<Item = Self>) -> Result<(), Failure> {
        // All are told before the first is waited for.
        let processes: Vec<_> = children.map(|child| child.process).collect();
        for mut process in processes {
            let status = process.wait().await?;
            if !status.success() {
                return Err(Failure::new(format!("a process of the demo ended with {status}")));
            }
        }
        Ok(())
    }
}

fn gone() -> Failure {
    Failure::new("a process of the demo ended early").next("NET_LOG=debug shows what happens")
}

pub(crate) fn unexpected(news: &News) -> Failure {
    Failure::new(format!("a process of the demo is out of step: {news:?}"))
}
