//! The logs of a node's channels: one for each channel, whoever of the node writes to it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net_transport::MeshId;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::bus::producer::lock;
use crate::{ChannelName, OpenStore, Pattern, Store, StoreError, StorePlace};

/// Where a node keeps its logs, and those that are open.
#[derive(Default)]
pub(crate) struct Stores {
    dir: Option<PathBuf>,
    secret: Option<Zeroizing<[u8; 32]>>,
    open: Mutex<HashMap<ChannelName, Arc<Place>>>,
    /// What this node keeps of all producers, its own among them.
    keeps: Mutex<Vec<Keep>>,
    closed: AtomicBool,
}

/// What one keeper keeps, and how.
struct Keep {
    number: u64,
    pattern: Pattern,
    config: Arc<dyn OpenStore>,
}

/// One channel's log, while it is opened, open, or closed.
type Place = tokio::sync::Mutex<Option<Arc<dyn Store>>>;

/// How long closing waits for a disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a channel has no log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// There is no directory to keep logs in.
    #[error("this node keeps nothing on disk, so it cannot keep a channel: start it in a directory")]
    NoDirectory,
    /// The producer of before still stores what was published on it.
    #[error("what was published on {0} before it was closed is still being stored: open it again later")]
    Closing(ChannelName),
    /// The log cannot be opened.
    #[error("the log of {channel} cannot be opened: {error}")]
    Store {
        /// Of which channel.
        channel: ChannelName,
        /// Why.
        error: StoreError,
    },
}

impl Stores {
    pub(crate) fn new(dir: Option<PathBuf>, secret: Option<Zeroizing<[u8; 32]>>) -> Self {
        Self { dir, secret, ..Self::default() }
    }

    /// The log of a channel, opened if it is not. What is open already is shared, and the first settings hold.
    pub(crate) async fn open(
        &self,
        mesh: MeshId,
        name: &ChannelName,
        config: Arc<dyn OpenStore>,
    ) -> Result<Arc<dyn Store>, PersistError> {
        let dir = self.dir.as_ref().ok_or(PersistError::NoDirectory)?;
        let at = StorePlace::new(dir.join(StorePlace::dir_name(name)), mesh, name, self.secret.as_deref().copied());
        let place = lock(&self.open).entry(name.clone()).or_default().clone();
        // A task of its own: whoever stops waiting must not leave a log behind that is open and that nobody knows.
        let opening = tokio::spawn(async move {
            let mut place = place.lock_owned().await;
            if let Some(store) = place.as_ref().filter(|store| store.is_open()) {
                return Ok(store.clone());
            }
            let before = place.take();
            let store = blocking(move || {
                if let Some(before) = before {
                    // It has failed, and says so to whoever uses it.
                    let _ = before.close();
                }
                config.open(&at)
            });
            let store = store.await?;
            *place = Some(store.clone());
            Ok(store)
        });
        let opened = opening.await.unwrap_or_else(|error| Err(StoreError::new(error)));
        let store = opened.map_err(|error| PersistError::Store { channel: name.clone(), error })?;
        if self.closed.load(Ordering::Acquire) {
            self.close().await;
        }
        Ok(store)
    }

    /// The channels of which there is a log.
    pub(crate) async fn logged(&self) -> Result<Vec<ChannelName>, StoreError> {
        let Some(dir) = self.dir.clone() else { return Ok(vec![]) };
        blocking(move || {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
                Err(error) => return Err(StoreError::new(error)),
            };
            let names = entries.filter_map(|entry| StorePlace::channel_of(entry.ok()?.file_name().to_str()?));
            Ok(names.collect())
        })
        .await
    }

    pub(crate) fn has_dir(&self) -> bool {
        self.dir.is_some()
    }

    /// Settings for channels that this node keeps whoever produces them.
    pub(crate) fn keep(&self, number: u64, pattern: Pattern, config: Arc<dyn OpenStore>) {
        lock(&self.keeps).push(Keep { number, pattern, config });
    }

    /// Whoever has this number keeps nothing any more; what is open stays open.
    pub(crate) fn forget(&self, number: u64) {
        lock(&self.keeps).retain(|keep| keep.number != number);
    }

    /// How this channel is to be kept, if it is.
    pub(crate) fn kept(&self, name: &ChannelName) -> Option<Arc<dyn OpenStore>> {
        let keeps = lock(&self.keeps);
        keeps.iter().find(|keep| keep.pattern.matches(name)).map(|keep| keep.config.clone())
    }

    /// Writes, syncs and lets go of all, at once and as far as the disk does it in time.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut closing = JoinSet::new();
        for (name, place) in lock(&self.open).drain() {
            closing.spawn(async move {
                let Some(store) = place.lock().await.take() else { return };
                if let Err(error) = blocking(move || store.close()).await {
                    tracing::error!(channel = %name, %error, "the end of a log did not reach the disk");
                }
            });
        }
        let all = async { while closing.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::error!("logs are left to a disk that does not answer");
        }
    }
}

/// Does what may wait for a disk, on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::new(error)),
    }
}
