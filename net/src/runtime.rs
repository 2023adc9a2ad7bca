//! The runtime of a process that is a node.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Runtime};

/// A tokio runtime for a process that is a node and little else, as the `net` command has it: one worker thread less than
/// there are cores, and at least one.
///
/// A node works in any tokio runtime, also in that of a larger application. With as many workers as cores, workers that find
/// little to do wake each other: on a 2-core VM each such wake-up costs some 10 µs, and a keeper stored a tenth fewer events.
///
/// # Errors
/// If the system gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads((cores - 1).max(1)).enable_all().build()
}
