//! The logs of a node's channels: one for each channel, whoever of the node writes to it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use net_transport::MeshId;
use zeroize::Zeroizing;

use crate::bus::producer::lock;
use crate::{ChannelName, OpenStore, Pattern, Store, StoreError, StorePlace};

/// Where a node keeps its logs, and those that are open.
#[derive(Default)]
pub(crate) struct Stores {
    dir: Option<PathBuf>,
    secret: Option<Zeroizing<[u8; 32]>>,
    open: tokio::sync::Mutex<HashMap<ChannelName, Arc<dyn Store>>>,
    /// What this node keeps of all producers, its own among them.
    keeps: Mutex<Vec<(Pattern, Arc<dyn OpenStore>)>>,
}

/// Why a channel has no log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// There is no directory to keep logs in.
    #[error("this node keeps nothing on disk, so it cannot keep a channel: start it in a directory")]
    NoDirectory,
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
        // Held while one is opened, so that two who want the same log share it.
        let mut open = self.open.lock().await;
        if let Some(store) = open.get(name).filter(|store| store.is_open()) {
            return Ok(store.clone());
        }
        let place = StorePlace::new(dir.join(StorePlace::dir_name(name)), mesh, name, self.secret.as_deref().copied());
        let before = open.remove(name);
        let opened = blocking(move || {
            if let Some(before) = before {
                // It has failed, and says so to whoever uses it.
                let _ = before.close();
            }
            config.open(&place)
        });
        let store = opened.await.map_err(|error| PersistError::Store { channel: name.clone(), error })?;
        open.insert(name.clone(), store.clone());
        Ok(store)
    }

    pub(crate) fn has_dir(&self) -> bool {
        self.dir.is_some()
    }

    /// Settings for channels that this node keeps whoever produces them.
    pub(crate) fn keep(&self, pattern: Pattern, config: Arc<dyn OpenStore>) {
        lock(&self.keeps).push((pattern, config));
    }

    /// Channels that match are not kept any more, those that are open aside.
    pub(crate) fn forget(&self, pattern: &Pattern) {
        lock(&self.keeps).retain(|(kept, _)| kept != pattern);
    }

    /// How this channel is to be kept, if it is.
    pub(crate) fn kept(&self, name: &ChannelName) -> Option<Arc<dyn OpenStore>> {
        let keeps = lock(&self.keeps);
        keeps.iter().find(|(pattern, _)| pattern.matches(name)).map(|(_, config)| config.clone())
    }

    /// Writes, syncs and lets go of all.
    pub(crate) async fn close(&self) {
        for (name, store) in self.open.lock().await.drain() {
            if let Err(error) = blocking(move || store.close()).await {
                tracing::error!(channel = %name, %error, "the end of a log did not reach the disk");
            }
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
