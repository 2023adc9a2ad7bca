//! How a log is kept.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net_channel::{ChannelHash, ChannelName};
use net_transport::{Aead, FRAME_LEN_MAX, MeshId};
use zeroize::Zeroizing;

use crate::OpenError;
use crate::disk::{Disk, RealDisk};
use crate::format::{RECORD_HEADER_LEN, SEGMENT_HEADER_LEN};

/// When what is appended is made to last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncPolicy {
    /// Each append has a sync of its own.
    Always,
    /// All that wait share one sync. No timer: while one sync runs, the next group gathers.
    #[default]
    Group,
    /// Acknowledged when written, synced this often: a power cut loses at most that much.
    Interval(Duration),
    /// Acknowledged when written, synced when the system likes, and on close.
    None,
    /// Kept in this process's memory and nowhere else; 256 MiB of it, if the retention does not say how much.
    Memory,
}

impl SyncPolicy {
    /// Whether an acknowledgement waits for a sync.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::Always | Self::Group)
    }
}

/// What may be forgotten. Enforced on whole segments, the oldest first; the one being written stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Segments whose youngest batch was stored longer ago than this go.
    pub age: Option<Duration>,
    /// The oldest segments go while what is stored has more bytes than this.
    pub bytes: Option<u64>,
    /// The oldest segments go while the others hold at least this many events.
    pub events: Option<u64>,
}

impl Retention {
    /// Everything is kept for ever: the default.
    pub const FOREVER: Self = Self { age: None, bytes: None, events: None };

    /// The same, and nothing much older than this is kept.
    #[must_use]
    pub fn age(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// The same, and no more than about this many bytes are kept.
    #[must_use]
    pub fn bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// The same, and no more than about this many events are kept.
    #[must_use]
    pub fn events(self, events: u64) -> Self {
        Self { events: Some(events), ..self }
    }
}

/// What seals a key ring. Not shown, and erased when it is dropped.
#[derive(Clone)]
pub struct RingSecret(pub(crate) Zeroizing<[u8; 32]>);

impl fmt::Debug for RingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingSecret(..)")
    }
}

/// How a log is kept. Starts from `default()`.
#[derive(Clone)]
#[non_exhaustive]
pub struct LogConfig {
    /// When what is appended is made to last. Default: `Group`.
    pub sync: SyncPolicy,
    /// Bytes of a segment, 64 KiB to 1 GiB. Default: 64 MiB. A batch must fit into one.
    pub segment_bytes: u64,
    /// What may be forgotten. Default: nothing.
    pub retention: Retention,
    /// The mesh and the channel whose batches this log takes. Default: what the log in the directory was made for;
    /// for a new one the channel `log` of no mesh.
    pub channel: Option<(MeshId, ChannelHash)>,
    /// What seals the key ring on the disk: the node derives it for this log from its seed. Default: none, and keys
    /// of writers are kept in memory only, so what they wrote cannot be opened after the process ends.
    pub ring_secret: Option<RingSecret>,
    /// What seals the batches that are appended here; both are read. By default what is fastest on this processor.
    pub aead: Aead,
    /// Within this time every sealed segment is read again from the disk and checked, so that rot is found while
    /// another copy may still be had. Default: a week. None: only [`Log::scrub`](crate::Log::scrub) does it.
    pub scrub: Option<Duration>,
    /// Whether threads of the log's own make room ahead, move the floor, and enforce retention. Without them, call
    /// `Log::tend` from time to time; and an append that is awaited, rather than waited for, blocks in its poll.
    /// Default: yes.
    pub background: bool,
    /// Nothing is written, cut or locked: for looking at a log, also on a disk that cannot be written.
    /// Default: no.
    pub read_only: bool,
    /// Where the files are. Default: the operating system's file system.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Clock,
    /// What names a new log.
    pub entropy: Entropy,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::default(),
            segment_bytes: 64 << 20,
            retention: Retention::FOREVER,
            channel: None,
            ring_secret: None,
            aead: Aead::fastest_here(),
            scrub: Some(Duration::from_secs(7 * 24 * 3600)),
            background: true,
            read_only: false,
            disk: Arc::new(RealDisk),
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }
}

impl fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogConfig")
            .field("sync", &self.sync)
            .field("segment_bytes", &self.segment_bytes)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

impl LogConfig {
    /// The smallest segment: 64 KiB.
    pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
    /// The largest segment: 1 GiB.
    pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

    /// The same, synced like this.
    #[must_use]
    pub fn sync(self, sync: SyncPolicy) -> Self {
        Self { sync, ..self }
    }

    /// The same, with segments of this many bytes.
    #[must_use]
    pub fn segment_bytes(self, segment_bytes: u64) -> Self {
        Self { segment_bytes, ..self }
    }

    /// The same, forgetting like this.
    #[must_use]
    pub fn retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// The same, for the batches of one channel of one mesh.
    #[must_use]
    pub fn channel(self, mesh: MeshId, channel: ChannelHash) -> Self {
        Self { channel: Some((mesh, channel)), ..self }
    }

    /// The same, with the key ring on the disk, sealed under this secret.
    #[must_use]
    pub fn ring_secret(self, secret: [u8; 32]) -> Self {
        Self { ring_secret: Some(RingSecret(Zeroizing::new(secret))), ..self }
    }

    /// The same, with the batches that are appended here sealed with this.
    #[must_use]
    pub fn aead(self, aead: Aead) -> Self {
        Self { aead, ..self }
    }

    /// The same, with every sealed segment read again within this time.
    #[must_use]
    pub fn scrub(self, within: Option<Duration>) -> Self {
        Self { scrub: within, ..self }
    }

    /// The same, without threads of its own.
    #[must_use]
    pub fn without_threads(self) -> Self {
        Self { background: false, ..self }
    }

    /// The same, for looking only.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// The same, named by these random bytes.
    #[must_use]
    pub fn entropy(self, entropy: Entropy) -> Self {
        Self { entropy, ..self }
    }

    /// The same, on this disk.
    #[must_use]
    pub fn disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    /// The same, with this clock.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if !(Self::SEGMENT_BYTES_MIN..=Self::SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(OpenError::Config("segment_bytes must be between 64 KiB and 1 GiB"));
        }
        if !self.segment_bytes.is_multiple_of(SEGMENT_HEADER_LEN as u64) {
            return Err(OpenError::Config("segment_bytes must be a multiple of 4096"));
        }
        Ok(())
    }

    /// What a new log is for.
    pub(crate) fn channel_or_default(&self) -> (MeshId, ChannelHash) {
        self.channel.unwrap_or_else(|| {
            let mesh = MeshId([0; 32]);
            (mesh, ChannelName::parse("log").expect("a name").hash(&mesh))
        })
    }

    /// Bytes of the largest batch that fits.
    pub(crate) fn batch_len_max(&self) -> u64 {
        let room = self.segment_bytes - SEGMENT_HEADER_LEN as u64;
        let header = RECORD_HEADER_LEN as u64;
        (room - header).min(FRAME_LEN_MAX as u64)
    }
}

/// Unix time in nanoseconds, as the log is told it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
    }

    /// A clock that asks this function for unix nanoseconds.
    #[must_use]
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Unix nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Random bytes, as the log is given them.
#[derive(Clone)]
pub struct Entropy(Arc<Fill>);

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

impl Entropy {
    /// The system's randomness.
    ///
    /// # Panics
    /// When it is asked and the system has none to give.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|bytes| {
            let flags = rustix::rand::GetRandomFlags::empty();
            let filled = rustix::rand::getrandom(&mut *bytes, flags);
            assert!(filled.is_ok_and(|n| n == bytes.len()), "the system gives randomness");
        })
    }

    /// Entropy from this function, which fills all of the bytes.
    #[must_use]
    pub fn new(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// So many random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
