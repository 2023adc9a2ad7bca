//! A UDP socket of the operating system, as quinn takes it: quinn's own, except that a receive which leaves room in its buffers
//! is not followed by another that finds nothing.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Whether the system gives all that is there and fits, so that fewer mean that the socket is empty.
const FEWER_MEAN_EMPTY: bool = cfg!(any(target_os = "linux", target_os = "android", target_os = "freebsd"));

/// The socket, registered with the runtime it was made in.
#[derive(Debug)]
pub(crate) struct TokioSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl TokioSocket {
    /// Of a socket that does not block.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self { state: UdpSocketState::new((&socket).into())?, io: UdpSocket::from_std(socket)? })
    }

    /// Receives by this call, which says how many came and whether the socket is empty now; nothing if nothing is there.
    fn try_recv(&self, receive: impl FnOnce() -> io::Result<(usize, bool)>) -> Option<usize> {
        let mut received = None;
        let _ = self.io.try_io(Interest::READABLE, || {
            let (count, empty) = receive()?;
            received = Some(count);
            // That ends the readiness seen before the call, and none that comes during it.
            if empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        received
    }
}

impl AsyncUdpSocket for TokioSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.try_recv(|| {
                let count = self.state.recv((&self.io).into(), bufs, meta)?;
                Ok((count, FEWER_MEAN_EMPTY && count < bufs.len().min(BATCH_SIZE)))
            });
            if let Some(count) = received {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// One connection's wait for room in the socket. Each has its own, since tokio's socket keeps but one waker by itself.
struct Writable {
    socket: Arc<TokioSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    fn pair() -> (TokioSocket, std::net::UdpSocket) {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let (ours, other) = (bind(), bind());
        ours.set_nonblocking(true).expect("a socket of ours");
        other.connect(ours.local_addr().expect("bound")).expect("a socket of ours");
        (TokioSocket::new(ours).expect("in a runtime"), other)
    }

    async fn receive(socket: &TokioSocket, room: usize) -> usize {
        let mut memory = vec![vec![0; 65_536]; room];
        let mut bufs: Vec<IoSliceMut<'_>> = memory.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let mut meta = vec![RecvMeta::default(); room];
        let received = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta));
        tokio::time::timeout(Duration::from_secs(10), received).await.expect("what was sent comes").expect("no error")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_comes_while_a_receive_finds_the_socket_empty_is_not_slept_over() {
        let (socket, other) = pair();
        other.send(&[7]).expect("loopback");
        poll_fn(|cx| socket.io.poll_recv_ready(cx)).await.expect("it comes");
        let received = socket.try_recv(|| {
            assert_eq!(socket.io.try_recv(&mut [0]).expect("it is there"), 1);
            other.send(&[8]).expect("loopback");
            // Another thread of the runtime sees that it came; this one has found the socket empty before.
            std::thread::sleep(Duration::from_millis(100));
            Ok((1, true))
        });
        assert_eq!(received, Some(1));
        assert_eq!(receive(&socket, 4).await, 1);
    }

    #[tokio::test]
    async fn batches_as_large_as_the_room_are_followed_by_the_rest() {
        let (socket, other) = pair();
        for _ in 0..10 {
            other.send(&[7; 100]).expect("loopback");
        }
        let mut count = 0;
        while count < 10 {
            count += receive(&socket, 1).await;
        }
        assert_eq!(count, 10);
    }
}
