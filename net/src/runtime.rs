//! The runtime of a process that is a node.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Runtime};

/// A tokio runtime for a process that is a node and little else, as the `net` command has it: one worker thread less than
/// there are cores, and at least one.
///
/// A node works in any tokio runtime, also in that of a larger application. With as many workers as cores, workers that find
/// little to do wake each other: on a 2-core VM each such wake-up costs some 10 µs, and a keeper stored some 5 % fewer events.
///
/// To be called in `main` and not inside of async code. `block_on` runs its future on the thread that calls it, which is none of
/// the workers; whoever publishes much does so in a task.
///
/// ```no_run
/// # async fn app() {}
/// net::runtime()?.block_on(async { tokio::spawn(app()).await })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If the system gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads((cores - 1).max(1)).enable_all().build()
}
