//! `net id`: who this node is.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use net::state::{StateDir, StateError};
use tokio::time::Instant;

use crate::cli::Global;
use crate::failure::Failure;

/// Print the id of this directory's node
///
/// It is the node's public key; it is made at first use and stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net id\n  net --dir /tmp/b id")]
pub(crate) struct Id {}

/// How long another command of the directory may take to make the keys.
const KEYS_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

impl Id {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let dir = StateDir::open(global.dir()?)?;
        let deadline = Instant::now() + KEYS_TIMEOUT;
        let keys = loop {
            if let Some(keys) = dir.keys()? {
                break keys;
            }
            match dir.lock() {
                Ok(lock) => break lock.keys_or_new()?,
                // Whoever has the lock makes the keys before anything else.
                Err(StateError::Locked { .. }) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Err(error) => return Err(error.into()),
            }
        };
        if output.json() {
            output.record(&serde_json::json!({ "node": keys.id().to_string(), "dir": dir.path() }))?;
        } else {
            output.line(keys.id())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
