//! The logs of a process that was killed, looked at without it: verified with public keys only, and made to rot.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use net::logs;
use net::redex::{Found, Log, LogConfig, Start};
use net::state::StateDir;
use serde::Serialize;

use crate::failure::{Failure, chain};

/// What the logs of a directory hold.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verified {
    pub(crate) logs: u64,
    pub(crate) batches: u64,
    /// Events whose checksum, chain and signature hold.
    pub(crate) events: u64,
    pub(crate) faults: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_fault: Option<String>,
}

/// Verifies every log of a directory, of which this origin is to have written everything. No secret is read: the logs are
/// opened without the one of their key rings.
pub(crate) fn verify(dir: &Path, origin: &str) -> Result<Verified, Failure> {
    let dir = StateDir::open(dir)?;
    let mut verified = Verified::default();
    for channel in logs::list(&dir)? {
        let log = open(&logs::path(&dir, &channel))?;
        let report = log.verify(&[], &[]).map_err(|error| Failure::new(chain(&error)))?;
        let strangers = report.heads.iter().filter(|head| head.origin.to_string() != origin);
        let faults = report.faults.iter().map(|fault| format!("{channel} {fault}"));
        let mut faults = faults.chain(strangers.map(|head| format!("{channel} has batches of {}", head.origin)));
        verified.logs += 1;
        verified.batches += report.batches;
        verified.events += report.events;
        let first = faults.next();
        verified.faults += u64::from(first.is_some()) + faults.count() as u64 + report.more_faults;
        verified.first_fault = verified.first_fault.or(first);
    }
    Ok(verified)
}

/// Flips a byte in the middle of a batch of this channel, as a disk that rots does.
pub(crate) fn rot(dir: &Path, channel: &str) -> Result<(), Failure> {
    let name = channel.parse().map_err(|_| Failure::new(format!("`{channel}` is no channel")))?;
    let path = logs::path(&StateDir::open(dir)?, &name);
    let mut batches = Vec::new();
    for found in open(&path)?.read(Start::Earliest).map_err(|error| Failure::new(chain(&error)))? {
        match found.map_err(|error| Failure::new(chain(&error)))? {
            Found::Batch(batch) => batches.push(batch.frame().to_vec()),
            other => return Err(Failure::new(format!("the log of {channel} has a fault already: {other:?}"))),
        }
    }
    let frame =
        batches.get(batches.len() / 2).ok_or_else(|| Failure::new(format!("nothing of {channel} is stored")))?;
    for entry in fs::read_dir(&path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") && flip(&path, frame)? {
            return Ok(());
        }
    }
    Err(Failure::new(format!("no segment of {channel} has the batch that its log has")))
}

/// Flips a byte of this batch in a file, if it is there.
fn flip(path: &Path, frame: &[u8]) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    let Some(at) = bytes.windows(frame.len()).position(|window| window == frame) else { return Ok(false) };
    let at = at + frame.len() / 2;
    fs::File::options().write(true).open(path)?.write_all_at(&[!bytes[at]], at as u64)?;
    Ok(true)
}

fn open(path: &Path) -> Result<Log, Failure> {
    Log::open(path, LogConfig::default().read_only()).map_err(|error| Failure::new(chain(&error)))
}
