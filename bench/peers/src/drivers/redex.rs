//! Ours without a mesh: the log of `net-redex` with its defaults, events sealed, signed, and verified when they are read.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use net_identity::EntityKey;
use net_redex::{EventItem, Log, LogConfig, Start, Writer};

use super::embedded::Store;
use crate::load::Payload;

/// Events that are handed over at once where nobody waits for each.
const LOAD_EVENTS: u64 = 4096;

pub(crate) struct Redex {
    log: Log,
    writer: Writer,
}

fn log(dir: &Path) -> Result<Log> {
    Ok(Log::open(dir, LogConfig::default().ring_secret([7; 32]))?)
}

impl Store for Redex {
    fn open(dir: &Path) -> Result<Self> {
        let log = log(dir)?;
        let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32])))?;
        Ok(Self { log, writer })
    }

    fn append(&self, _: u64, record: &[u8]) -> Result<()> {
        ensure!(self.writer.append(record)?.is_durable(), "it is not on disk");
        Ok(())
    }

    fn load(&self, records: u64, payload: &mut Payload) -> Result<()> {
        let mut seq = 0;
        while seq < records {
            let end = records.min(seq + LOAD_EVENTS);
            let events: Vec<_> = (seq..end).map(|seq| payload.event(seq, 0).to_vec()).collect();
            self.writer.append_all(&events)?;
            seq = end;
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        drop(self.writer);
        Ok(self.log.close()?)
    }

    fn read(dir: &Path, mut each: impl FnMut(&[u8]) + Send + Sync + 'static) -> Result<u64> {
        let mut count = 0;
        for item in log(dir)?.events(Start::Earliest)? {
            let EventItem::Event(event) = item? else { bail!("event {count} is not there") };
            each(event.payload());
            count += 1;
        }
        Ok(count)
    }
}
