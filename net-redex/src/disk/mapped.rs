//! Files in memory: the one place where this crate says `unsafe`.
//!
//! A [`Published`] owns a file, its mapping and the position up to which it is final. Bytes below that position are
//! handed out as slices and never written again; bytes above it are written and never handed out. The position only
//! grows. Both sides of that rule are methods of this one type, which owns the file, so it can be checked by reading
//! this page.

#![allow(unsafe_code, reason = "a slice of a mapped file cannot be had without; see the proof at the block")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::{DiskFile, write_all};
use crate::mutants::mutant;

/// A file mapped for reading. Nothing can be read from it but through a `Published`.
pub struct Mapping(MmapRaw);

impl Mapping {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of(file: impl memmap2::MmapAsRawDesc, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        MmapOptions::new().len(len).map_raw_read_only(file).map(Self)
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mapping").field(&self.0.len()).finish()
    }
}

/// A file whose first bytes are final and readable, and whose rest is being written.
#[derive(Debug)]
pub(crate) struct Published {
    file: Arc<dyn DiskFile>,
    map: Mapping,
    /// Bytes below this are never written again.
    end: AtomicU64,
    /// Held while a sync runs; whether one has failed.
    failed: Mutex<bool>,
}

impl Published {
    /// Maps `capacity` bytes of a file of which nothing is final yet.
    pub(crate) fn new(file: Arc<dyn DiskFile>, capacity: u64) -> io::Result<Self> {
        let map = file.map(capacity)?;
        Ok(Self { file, map, end: AtomicU64::new(0), failed: Mutex::new(false) })
    }

    /// Bytes that are final.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Declares everything below `end` final. Never goes back.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file or the mapping is shorter: a read there would be a fault, not an error.
    pub(crate) fn publish(&self, end: u64) -> io::Result<()> {
        if end > self.map.0.len() as u64 || end > self.file.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Like [`Published::publish`], where the caller has just written up to `end`, so the file is that long.
    pub(crate) fn publish_written(&self, end: u64) {
        assert!(end <= self.map.0.len() as u64, "a segment is never written beyond its capacity");
        self.end.fetch_max(end, Ordering::AcqRel);
    }

    /// Writes all of `bytes` at `at`.
    ///
    /// # Panics
    /// If `at` is below the published end: that would change bytes that are lent out.
    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        assert!(at >= self.end(), "what is published is never written again");
        write_all(&*self.file, bytes, at)
    }

    /// See [`DiskFile::fdatasync`]. Once it has failed it fails for ever.
    ///
    /// The system tells one caller of a write that failed, and forgets it. So syncs of one file take turns, and each
    /// learns of what those before it were told.
    pub(crate) fn fdatasync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed && !mutant!("retry_fsync") {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        self.file.fdatasync().inspect_err(|_| *failed = true)
    }

    /// See [`DiskFile::allocate`].
    pub(crate) fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    /// Published bytes, borrowed; nothing if some of them are not published.
    pub(crate) fn slice(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.end() {
            return None;
        }
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        // SAFETY: the pointer and length lie in one live mapping: start <= end <= self.end, which `publish` and
        // `publish_written` keep within the mapping's length and the file's, and the mapping lives as long as
        // `self`, which the slice borrows. The memory is initialised: it is a file's. It does not change while the
        // slice lives: the only writer is `Published::write`, which asserts that it begins at or above `end`, `end`
        // never goes back, and the log holds the directory's lock, so that no other process of ours has the file
        // open for writing; files are removed or replaced by renaming, never shortened. A program that ignores the
        // lock and writes into the directory is outside of what can be proved here, as it is for every mapped file.
        // The Acquire load of `end` pairs with the release in `publish*`, which come after the write call returned.
        Some(unsafe { std::slice::from_raw_parts(self.map.0.as_ptr().add(start), end - start) })
    }

    /// Tells the system that the bytes will be read in order, soon.
    pub(crate) fn will_read_in_order(&self) {
        // Advice only: where it is refused, reading is merely slower.
        let _ = self.map.0.advise(Advice::Sequential);
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::disk::{Disk, MemoryDisk, OpenMode};

    #[test]
    fn only_published_bytes_can_be_borrowed() -> io::Result<()> {
        let file = MemoryDisk::new().open("a".as_ref(), OpenMode::Create)?;
        file.allocate(8192)?;
        let published = Published::new(file, 8192)?;
        published.write(b"hello", 0)?;
        assert_eq!(published.slice(0..5), None);
        published.publish(5)?;
        assert_eq!(published.slice(0..5), Some(&b"hello"[..]));
        assert_eq!(published.slice(3..6), None);
        #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
        let reversed = published.slice(4..3);
        assert_eq!(reversed, None);
        assert!(published.publish(8193).is_err());
        assert_eq!(published.end(), 5);
        Ok(())
    }

    #[test]
    fn file_whose_sync_failed_once_never_syncs_again() -> io::Result<()> {
        let disk = crate::disk::SimDisk::new(1);
        let file = disk.open("a".as_ref(), OpenMode::Create)?;
        file.allocate(8192)?;
        let published = Published::new(file, 8192)?;
        published.write(b"hello", 0)?;
        disk.inject(crate::disk::Fault::Sync(0));
        assert!(published.fdatasync().is_err());
        // The disk would say yes now, having forgotten what it lost.
        assert!(published.fdatasync().is_err());
        assert_eq!(disk.syncs(), 1);
        Ok(())
    }

    #[test]
    #[should_panic(expected = "never written again")]
    fn published_bytes_are_never_written_again() {
        let file = MemoryDisk::new().open("a".as_ref(), OpenMode::Create).expect("memory");
        file.allocate(8192).expect("memory");
        let published = Published::new(file, 8192).expect("memory");
        published.publish(64).expect("it is that long");
        let _ = published.write(b"x", 63);
    }
}
