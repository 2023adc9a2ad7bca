//! `net log compact`: gives up bodies of superseded events.

use std::process::ExitCode;

use clap::Args;
use net::redex::{CompactError, Compaction};

use super::printed;
use super::target::{Located, Target};
use crate::cli::Global;
use crate::failure::{Failure, chain};
use crate::output::Output;
use crate::text::{count, size};

/// Give up what later events of the same key have superseded
///
/// A batch goes if every event in it has a key and a later event of that key follows. Its signed head stays, so that the
/// log still verifies. Batches in the segment that is being written stay. Keys stand in what is sealed, so the log's key
/// ring must open: run it with the directory of the node that keeps the log.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log compact sensors/state\n  net --dir /tmp/b log compact sensors/state --json"
)]
pub(super) struct Compact {
    #[command(flatten)]
    target: Target,
}

impl Compact {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let located = self.target.locate(global)?;
        let log = located.open_to_change(&output)?;
        let done = log.compact().map_err(|error| failure(&located, &error))?;
        log.close().map_err(|error| Failure::new(chain(&error)).next("the same command again"))?;
        printed(report(&output, &done), ExitCode::SUCCESS)
    }
}

fn report(output: &Output, done: &Compaction) -> std::io::Result<()> {
    let Compaction { batches, events, segments, bytes, .. } = *done;
    if output.json() {
        return output.record(&serde_json::json!({
            "batches": batches, "events": events, "segments": segments, "bytes": bytes,
        }));
    }
    if batches == 0 {
        return output.line(
            "nothing to compact: no batch of a full segment has only events that later ones of their keys supersede",
        );
    }
    output.line(format!(
        "compacted {} in {}, {} rewritten: {} freed",
        count(events, "superseded event"),
        count(batches, "batch"),
        count(segments, "segment"),
        size(bytes)
    ))
}

fn failure(located: &Located, error: &CompactError) -> Failure {
    let said = Failure::new(format!("not compacted: {}", chain(error)));
    match error {
        CompactError::Unreadable { .. } => said.next(format!(
            "the directory of the node that keeps the log: `net --dir DIRECTORY log compact …`; `{} log verify {}` \
             looks for damage",
            located.net,
            located.path.display()
        )),
        _ => said.next("the same command again, with room for a second copy of a segment on the disk"),
    }
}
