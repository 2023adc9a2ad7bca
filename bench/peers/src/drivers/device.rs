//! What the disk can do: a file, a record and a sync at a time.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::Instant;

use anyhow::Result;

use crate::load::Payload;
use crate::role::{Appended, Spec};

/// Far more than a run writes.
const PREALLOCATED_BYTES: usize = 64 << 20;

pub(crate) fn append(spec: &Spec, preallocated: bool) -> Result<Appended> {
    let path = spec.dir.join("device");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    if preallocated {
        // Written, not only reserved: a reserved block changes its state, and with it the journal, when it is written.
        file.write_all(&vec![0; PREALLOCATED_BYTES])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
    }
    let mut payload = Payload::new(spec.payload_len);
    let begin = Instant::now();
    let end = begin + spec.duration();
    let mut acknowledged = 0;
    while Instant::now() < end {
        file.write_all(payload.event(acknowledged, 0))?;
        file.sync_data()?;
        acknowledged += 1;
    }
    let secs = begin.elapsed().as_secs_f64();
    let found = file.stream_position()? / spec.payload_len as u64;
    Ok(Appended { acknowledged, found: Some(found), secs })
}
