//! A second process of this program, from the outside: it plays a part, and speaks JSON lines with this one.

use std::process::Stdio;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::control::lines::{LineReader, LineWriter};
use crate::failure::Failure;

/// A process. It ends when its input does, however this one ends, and is killed when this is dropped.
pub(crate) struct Child {
    process: tokio::process::Child,
    orders: LineWriter<ChildStdin>,
    news: LineReader<ChildStdout>,
    /// What it is a part of, for people.
    of: &'static str,
}

impl Child {
    /// Starts this program with these arguments, and gives the process its first line.
    ///
    /// # Errors
    /// [`Failure`] if there can be no process, or it has ended already.
    pub(crate) async fn start(of: &'static str, args: &[&str], setup: &impl Serialize) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| Failure::new(format!("cannot start a process: {error}"));
        let mut process = Command::new(std::env::current_exe().map_err(cannot)?)
            .args(args)
            .env_remove("NET_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for this process, which ends the other.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { return Err(gone(of)) };
        let mut child = Self { process, orders: LineWriter::new(stdin), news: LineReader::new(stdout), of };
        child.order(setup).await?;
        Ok(child)
    }

    /// Sends it a line.
    ///
    /// # Errors
    /// [`Failure`] if it has ended.
    pub(crate) async fn order(&mut self, order: &impl Serialize) -> Result<(), Failure> {
        self.orders.send(order).await.map_err(|_| gone(self.of))
    }

    /// Its next line.
    ///
    /// # Errors
    /// [`Failure`] if it has ended, or says something else.
    ///
    /// # Cancel safety
    /// Cancel-safe: no line is lost.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        match self.news.next().await {
            Ok(Some(news)) => Ok(news),
            Ok(None) | Err(_) => Err(gone(self.of)),
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
        let processes: Vec<_> = children.map(|child| (child.process, child.of)).collect();
        for (mut process, of) in processes {
            let status = process.wait().await?;
            if !status.success() {
                return Err(Failure::new(format!("a process of {of} ended with {status}")));
            }
        }
        Ok(())
    }
}

fn gone(of: &str) -> Failure {
    Failure::new(format!("a process of {of} ended early")).next("NET_LOG=debug shows what happens")
}
