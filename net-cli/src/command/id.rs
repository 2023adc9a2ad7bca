//! `net id`: who this node is.

use std::process::ExitCode;

use clap::Args;
use net::state::{StateDir, StateError};

use crate::cli::Global;
use crate::failure::Failure;

/// Print the id of this directory's node
///
/// It is the node's public key; it is made at first use and stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net id\n  net --dir /tmp/b id")]
pub(crate) struct Id {}

impl Id {
    #[expect(clippy::unused_self, reason = "all commands are run alike")]
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let dir = StateDir::open(global.dir()?)?;
        let keys = match dir.keys()? {
            Some(keys) => keys,
            None => match dir.lock() {
                Ok(lock) => lock.keys_or_new()?,
                // Whoever has the lock makes the keys before anything else.
                Err(StateError::Locked { .. }) => {
                    let message = "the node of this directory is just being made";
                    dir.keys()?.ok_or_else(|| Failure::new(message).next(format!("`{} id` again", global.net())))?
                }
                Err(error) => return Err(error.into()),
            },
        };
        if output.json() {
            output.record(&serde_json::json!({ "node": keys.id().to_string(), "dir": dir.path() }))?;
        } else {
            output.line(keys.id())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
