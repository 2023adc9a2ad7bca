//! quinn's runtime in virtual time, and the tasks that belong to a node.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TimeSource};
use tokio::task::JoinHandle;

use super::SimNet;

/// Timers and tasks of quinn on tokio's clock; with a node, its tasks stop and go with it.
#[derive(Debug)]
pub(super) struct SimRuntime {
    pub(super) net: SimNet,
    /// The node, and which of its lives.
    pub(super) node: Option<(IpAddr, u64)>,
}

impl Runtime for SimRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        quinn::TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        match self.node {
            None => drop(tokio::spawn(future)),
            Some((ip, life)) => drop(spawn_on(&self.net, ip, life, future)),
        }
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a simulated network has no sockets of the system; take one from SimNet::socket",
        ))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// Runs a future as long as its node lives, and not while that is paused.
pub(super) fn spawn_on<F>(net: &SimNet, ip: IpAddr, life: u64, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let id = net.world().id();
    let task = tokio::spawn(NodeTask { net: net.clone(), ip, id, future: Box::pin(future) });
    // A current-thread runtime has not polled it yet, so a crash cannot have come between.
    let mut world = net.world();
    let node = world.nodes.entry(ip).or_default();
    let lives = !node.crashed && node.life == life;
    if lives {
        node.tasks.insert(id, task.abort_handle());
    }
    drop(world);
    if !lives {
        task.abort();
    }
    task
}

struct NodeTask<F> {
    net: SimNet,
    ip: IpAddr,
    id: u64,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for NodeTask<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.net.hold(self.ip, self.id, cx.waker()) {
            return Poll::Pending;
        }
        self.future.as_mut().poll(cx)
    }
}

impl<F> Drop for NodeTask<F> {
    fn drop(&mut self) {
        self.net.release(self.ip, self.id);
    }
}

/// The calendar of a simulation: begins on a fixed day and runs with the virtual clock.
pub(super) struct SimCalendar(pub(super) SimNet);

impl TimeSource for SimCalendar {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + BEGINNING + self.0.elapsed()
    }
}

impl fmt::Debug for SimCalendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimCalendar")
    }
}

/// 2026-01-01T00:00:00Z: when every simulation begins.
const BEGINNING: Duration = Duration::from_secs(1_767_225_600);
