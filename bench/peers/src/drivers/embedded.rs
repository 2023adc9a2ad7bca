//! Logs and stores that live in the process: okaywal, fjall, redb.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use ::okaywal::{Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog};
use ::redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};
use anyhow::{Result, bail, ensure};

use crate::load::{Payload, Tally};
use crate::role::{Appended, Job, Spec};

/// A store that is opened in a directory.
pub(crate) trait Store: Sized + Send + Sync {
    fn open(dir: &Path) -> Result<Self>;

    /// Appends a record, which is on disk when this returns.
    fn append(&self, seq: u64, record: &[u8]) -> Result<()>;

    /// Appends records so that they are on disk at the end, as fast as it goes.
    fn load(&self, records: u64, payload: &mut Payload) -> Result<()>;

    /// Makes everything that is kept in the background visible to the next opening.
    fn close(self) -> Result<()>;

    /// Opens the store anew and hands out every record in order; says how many there are.
    fn read(dir: &Path, each: impl FnMut(&[u8]) + Send + Sync + 'static) -> Result<u64>;
}

fn dir(spec: &Spec) -> std::path::PathBuf {
    spec.dir.join("store")
}

pub(crate) fn append<S: Store>(spec: &Spec) -> Result<Appended> {
    let Job::Append { in_flight } = spec.job else { bail!("this is no append") };
    let store = S::open(&dir(spec))?;
    let seq = AtomicU64::new(0);
    let failed = Mutex::new(None);
    let begin = Instant::now();
    let end = begin + spec.duration();
    let acknowledged: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..in_flight)
            .map(|_| {
                scope.spawn(|| {
                    let mut payload = Payload::new(spec.payload_len);
                    let mut acknowledged = 0;
                    while Instant::now() < end {
                        let seq = seq.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = store.append(seq, payload.event(seq, 0)) {
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                            break;
                        }
                        acknowledged += 1;
                    }
                    acknowledged
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    let secs = begin.elapsed().as_secs_f64();
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    store.close()?;
    let found = S::read(&dir(spec), |_| ())?;
    Ok(Appended { acknowledged, found: Some(found), secs })
}

pub(crate) fn preload<S: Store>(spec: &Spec, records: u64) -> Result<()> {
    let store = S::open(&dir(spec))?;
    store.load(records, &mut Payload::new(spec.payload_len))?;
    store.close()
}

pub(crate) fn replay<S: Store>(spec: &Spec, tally: Tally, records: u64) -> Result<()> {
    let tally = Arc::new(Mutex::new(tally));
    let each = tally.clone();
    let found = S::read(&dir(spec), move |record| {
        // Nobody else holds it while it is read: the lock is free.
        each.lock().unwrap_or_else(PoisonError::into_inner).take(record);
    })?;
    ensure!(found == records, "the store has {found} of {records} records");
    tally.lock().unwrap_or_else(PoisonError::into_inner).end_at(records);
    Ok(())
}

pub(crate) struct Okaywal(WriteAheadLog);

/// Hands recovered entries out, and never checkpoints: the log is all there is.
struct Recover<F>(F);

impl<F> std::fmt::Debug for Recover<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recover(..)")
    }
}

impl<F: FnMut(&[u8]) + Send + Sync + 'static> LogManager for Recover<F> {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut record = Vec::new();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            record.clear();
            chunk.read_to_end(&mut record)?;
            (self.0)(&record);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl Okaywal {
    /// One segment that is preallocated and never checkpointed, so that nothing but the appends is measured.
    fn configuration(dir: &Path) -> Configuration {
        Configuration::default_for(dir).preallocate_bytes(256 << 20).checkpoint_after_bytes(u64::MAX)
    }
}

impl Store for Okaywal {
    fn open(dir: &Path) -> Result<Self> {
        Ok(Self(Self::configuration(dir).open(Recover(|_: &[u8]| ()))?))
    }

    fn append(&self, _: u64, record: &[u8]) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(record)?;
        entry.commit()?;
        Ok(())
    }

    fn load(&self, records: u64, payload: &mut Payload) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        for seq in 0..records {
            entry.write_chunk(payload.event(seq, 0))?;
        }
        entry.commit()?;
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.0.shutdown()?)
    }

    fn read(dir: &Path, mut each: impl FnMut(&[u8]) + Send + Sync + 'static) -> Result<u64> {
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let recover = Recover(move |record: &[u8]| {
            counted.fetch_add(1, Ordering::Relaxed);
            each(record);
        });
        Self::configuration(dir).open(recover)?.shutdown()?;
        Ok(count.load(Ordering::Relaxed))
    }
}

pub(crate) struct Fjall {
    database: Database,
    records: Keyspace,
}

impl Store for Fjall {
    fn open(dir: &Path) -> Result<Self> {
        let database = Database::builder(dir).open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Self { database, records })
    }

    fn append(&self, seq: u64, record: &[u8]) -> Result<()> {
        self.records.insert(seq.to_be_bytes(), record)?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn load(&self, records: u64, payload: &mut Payload) -> Result<()> {
        for seq in 0..records {
            self.records.insert(seq.to_be_bytes(), payload.event(seq, 0))?;
        }
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn close(self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn read(dir: &Path, mut each: impl FnMut(&[u8]) + Send + Sync + 'static) -> Result<u64> {
        let mut count = 0;
        for record in Self::open(dir)?.records.iter() {
            each(&record.value()?);
            count += 1;
        }
        Ok(count)
    }
}

pub(crate) struct Redb(::redb::Database);

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

impl Redb {
    fn path(dir: &Path) -> std::path::PathBuf {
        dir.join("records.redb")
    }
}

impl Store for Redb {
    fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self(::redb::Database::create(Self::path(dir))?))
    }

    fn append(&self, seq: u64, record: &[u8]) -> Result<()> {
        let write = self.0.begin_write()?;
        write.open_table(TABLE)?.insert(seq, record)?;
        Ok(write.commit()?)
    }

    fn load(&self, records: u64, payload: &mut Payload) -> Result<()> {
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for seq in 0..records {
                table.insert(seq, payload.event(seq, 0))?;
            }
        }
        Ok(write.commit()?)
    }

    fn close(self) -> Result<()> {
        Ok(())
    }

    fn read(dir: &Path, mut each: impl FnMut(&[u8]) + Send + Sync + 'static) -> Result<u64> {
        let database = ::redb::Database::open(Self::path(dir))?;
        let table = database.begin_read()?.open_table(TABLE)?;
        for record in table.iter()? {
            each(record?.1.value());
        }
        Ok(table.len()?)
    }
}
