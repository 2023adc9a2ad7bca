//! A subscription whose position is kept on disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::CursorFile;
use crate::bus::producer::lock;
use crate::bus::subscription::Queue;
use crate::core::Cursor;

/// How often a position that moves is saved.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What a subscription and the task that saves its position share.
#[derive(Debug)]
pub(crate) struct Resume {
    /// Nothing once the subscription has ended; then the name is free.
    file: Mutex<Option<CursorFile>>,
    /// The task wants to know the position.
    is_due: AtomicBool,
    position: Mutex<Option<Cursor>>,
}

impl Resume {
    pub(crate) fn new(file: CursorFile) -> Self {
        Self { file: Mutex::new(Some(file)), is_due: AtomicBool::new(false), position: Mutex::new(None) }
    }

    /// Called when the application comes back for more: then it is done with what it was given before.
    pub(crate) fn note(&self, position: impl FnOnce() -> Cursor) {
        if self.is_due.load(Ordering::Relaxed) && self.is_due.swap(false, Ordering::Relaxed) {
            *lock(&self.position) = Some(position());
        }
    }

    /// Saves the last position, if it is known that the application is done with it, and lets go of the name.
    pub(crate) fn end(&self, position: Option<Cursor>) {
        // Whoever saves at the moment has the lock until it is done.
        let Some(mut file) = lock(&self.file).take() else { return };
        if let Some(position) = position {
            save(&mut file, &position);
        }
    }

    fn save_noted(&self) {
        let Some(position) = lock(&self.position).take() else { return };
        if let Some(file) = &mut *lock(&self.file) {
            save(file, &position);
        }
    }
}

/// A position that cannot be saved is said and tried again: what lies behind the saved one is given again then.
fn save(file: &mut CursorFile, position: &Cursor) {
    if let Err(error) = file.save(position) {
        tracing::warn!(%error, "the position of a subscription is not saved");
    }
}

/// Saves the position now and then, until the subscription has ended.
pub(crate) async fn run(resume: Weak<Resume>, queue: Weak<Queue>) {
    loop {
        tokio::time::sleep_until(Instant::now() + SAVE_EVERY).await;
        let (Some(resume), Some(queue)) = (resume.upgrade(), queue.upgrade()) else { return };
        let saved = resume.clone();
        // It syncs. An error would be a panic of the saving, which has been printed.
        let _ = tokio::task::spawn_blocking(move || saved.save_noted()).await;
        resume.is_due.store(true, Ordering::Relaxed);
        // An application that waits is done with what it has.
        queue.wake();
    }
}
