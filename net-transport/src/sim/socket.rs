//! The sockets of a simulated network.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::SimNet;
use super::world::Received;

/// A UDP socket in a [`SimNet`]: for quinn as an [`AsyncUdpSocket`], for everything else by [`send_to`](Self::send_to)
/// and [`recv_from`](Self::recv_from).
///
/// Dropping it frees its address. When its node crashes, everything fails with [`io::ErrorKind::NetworkDown`].
pub struct SimSocket {
    net: SimNet,
    address: SocketAddr,
    id: u64,
}

impl SimSocket {
    pub(super) fn new(net: SimNet, address: SocketAddr, id: u64) -> Self {
        Self { net, address, id }
    }

    /// The address this socket is bound to; behind a NAT, the one inside.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one datagram, or loses it as the network sees fit.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] while the node is paused, [`io::ErrorKind::NetworkDown`] once it has crashed.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let transmit = Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip: None };
        self.try_send(&transmit)
    }

    /// Receives one datagram and the address it came from.
    ///
    /// # Errors
    /// [`io::ErrorKind::NetworkDown`] once the node has crashed.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait; of several, the last is woken.
    pub async fn recv_from(&self) -> io::Result<(Bytes, SocketAddr)> {
        let received = poll_fn(|cx| self.poll(cx, 1)).await?;
        let first = received.into_iter().next().expect("a poll that is ready gives at least one");
        Ok((first.bytes, first.from))
    }

    /// Up to `count` datagrams, at least one.
    fn poll(&self, cx: &Context<'_>, count: usize) -> Poll<io::Result<Vec<Received>>> {
        let mut world = self.net.world();
        let paused = world.is_paused(self.address.ip());
        let Some(mailbox) = world.sockets.get_mut(&self.address).filter(|mailbox| mailbox.id == self.id) else {
            return Poll::Ready(Err(down()));
        };
        if paused || mailbox.queue.is_empty() {
            let before = mailbox.reader.replace(cx.waker().clone());
            // A waker may own the task that owns a socket, whose drop takes the lock.
            drop(world);
            drop(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(mailbox.take(count)))
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let id = self.net.world().id();
        Box::pin(SimPoller { net: self.net.clone(), ip: self.address.ip(), id })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let len = transmit.contents.len();
        let segment = transmit.segment_size.unwrap_or(len).max(1);
        // An empty datagram is one segment too.
        for start in (0..len.max(1)).step_by(segment) {
            let bytes = &transmit.contents[start..len.min(start + segment)];
            self.net.send(self.address, self.id, transmit.destination, bytes, transmit.ecn)?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = bufs.len().min(meta.len());
        let received = match self.poll(cx, count) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        for ((received, buf), meta) in received.iter().zip(bufs).zip(meta) {
            // What does not fit is cut off, as a kernel does.
            let len = received.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&received.bytes[..len]);
            let dst_ip = Some(self.address.ip());
            *meta = RecvMeta { addr: received.from, len, stride: len, ecn: received.ecn, dst_ip };
        }
        Poll::Ready(Ok(received.len()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut world = self.net.world();
        let ours = world.sockets.get(&self.address).is_some_and(|mailbox| mailbox.id == self.id);
        let mailbox = if ours { world.sockets.remove(&self.address) } else { None };
        drop(world);
        drop(mailbox);
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Waits until a socket may send: always, except while its node is paused.
struct SimPoller {
    net: SimNet,
    ip: IpAddr,
    id: u64,
}

impl UdpPoller for SimPoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.net.hold(self.ip, self.id, cx.waker()) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for SimPoller {
    fn drop(&mut self) {
        self.net.release(self.ip, self.id);
    }
}

impl fmt::Debug for SimPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPoller").field("ip", &self.ip).finish_non_exhaustive()
    }
}

pub(super) fn down() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkDown, "the simulated node has crashed; bind again once it is restarted")
}
