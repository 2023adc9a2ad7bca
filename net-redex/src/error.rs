//! What can go wrong, one enum for each family of operations.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::format::LogId;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another `Log` of this one, has it open.
    #[error("the log is open in process {pid}: close it there, a log has one writer")]
    Locked {
        /// Its process id; zero if it did not say.
        pid: u32,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Config(&'static str),
    /// The directory holds a log of another channel or mesh.
    #[error("the log in {0} belongs to another channel or mesh: open it with the names it was made with")]
    OtherChannel(PathBuf),
    /// The log was written by a later version of this crate. Nothing was touched.
    #[error("{path} has format version {found}, this program knows 1: open it with the program that wrote it")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A file in the directory is missing or damaged in a way that leaves no log to open.
    #[error("{path}: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: &'static str,
    },
    /// There is no room for the first segment.
    #[error("no room on the disk for {needed} bytes: free some and open again")]
    Full {
        /// Bytes that were asked for.
        needed: u64,
    },
    /// The operating system refused.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Why a batch was not appended. In every case but [`AppendError::Poisoned`] the log is as it was before.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The bytes are no batch.
    #[error("the bytes are no batch that a log can store")]
    NotABatch(#[source] net_channel::BatchError),
    /// The batch is of another channel.
    #[error("the batch belongs to another channel")]
    OtherChannel,
    /// A dot of the batch is in the log.
    #[error("the log has event {seq} of this origin")]
    Duplicate {
        /// The first seq of the batch that is there.
        seq: u64,
    },
    /// The log is not where the caller thought.
    #[error("the origin's next seq here is {next}, not the expected one: read it and try again")]
    Conflict {
        /// Where the origin stands in this log.
        next: u64,
    },
    /// The batch does not fit into a segment.
    #[error("the batch does not fit into a segment of this log: at most {limit} bytes")]
    TooLarge {
        /// The most bytes a batch may have here.
        limit: u64,
    },
    /// There is no room on the disk. Nothing was written; what was acknowledged is safe.
    #[error("no room on the disk for {needed} bytes: free some, or shorten the retention, and append again")]
    Full {
        /// Bytes that were asked for.
        needed: u64,
    },
    /// A sync failed, so what the disk holds is not known. Nothing more is written through this handle.
    #[error("the log is read-only since a sync failed: open it again, which checks what the disk holds")]
    Poisoned,
    /// The log was opened read-only.
    #[error("the log was opened read-only")]
    ReadOnly,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The operating system refused. What the batch had written was taken back.
    #[error("writing failed")]
    Io(#[source] Arc<io::Error>),
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A cursor that names another log's offsets and nothing else.
    #[error("the position is one of log {found}, this is {here}: use a cursor of seqs")]
    OtherLog {
        /// This log.
        here: LogId,
        /// The one the position was taken from.
        found: LogId,
    },
    /// There are more than four million different keys.
    #[error("more than four million different keys: read all events instead")]
    TooManyKeys,
    /// The operating system refused.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Attaches the path to what the operating system said.
pub(crate) trait At<T> {
    fn opening(self, path: &std::path::Path) -> Result<T, OpenError>;
    fn reading(self, path: &std::path::Path) -> Result<T, ReadError>;
}

impl<T> At<T> for io::Result<T> {
    fn opening(self, path: &std::path::Path) -> Result<T, OpenError> {
        self.map_err(|source| OpenError::Io { path: path.to_owned(), source })
    }

    fn reading(self, path: &std::path::Path) -> Result<T, ReadError> {
        self.map_err(|source| ReadError::Io { path: path.to_owned(), source })
    }
}
