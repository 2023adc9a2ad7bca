//! A UDP socket of the operating system, as quinn takes it: quinn's own, except that a receive which leaves room in its buffers
//! is not followed by another that finds nothing, and that an acknowledgement lets other tasks have a turn first.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Whether the system gives all that is there and fits, so that fewer mean that the socket is empty.
const FEWER_MEAN_EMPTY: bool = cfg!(any(target_os = "linux", target_os = "android", target_os = "freebsd"));

/// Bytes of a packet that is too small for an event.
const ACK_MAX: usize = 80;

/// Between [`TokioSocket::try_send`] and the poller of the same connection, which a connection's driver calls in turn on one thread.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Turn {
    Unasked,
    /// A packet is to give way to other tasks.
    Refused,
    /// It has.
    Granted,
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::Unasked) };
}

/// The next packet of this thread is sent at once: its sender does not ask again.
#[cfg(feature = "weather")]
pub(crate) fn take_turn() {
    TURN.set(Turn::Granted);
}

/// The socket, registered with the runtime it was made in.
#[derive(Debug)]
pub(crate) struct TokioSocket {
    io: UdpSocket,
    state: UdpSocketState,
    /// What was last received was one packet, and nothing has given way since. When many come, acknowledgements are sent at once.
    lone: AtomicBool,
}

impl TokioSocket {
    /// Of a socket that does not block.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { state, io: UdpSocket::from_std(socket)?, lone: AtomicBool::new(false) })
    }

    /// An acknowledgement of a lone packet: quinn would send it before the packet's reader runs, which waits for nothing else. It
    /// waits until the thread has nothing else to do, or has done much, or until the connection's driver is woken anyhow.
    /// What an endpoint sends by itself carries no ECN mark, and would not be sent again.
    fn gives_way(&self, transmit: &Transmit<'_>) -> bool {
        let small = transmit.segment_size.is_none() && transmit.contents.len() <= ACK_MAX;
        small && transmit.ecn.is_some() && self.lone.swap(false, Ordering::Relaxed)
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
        if TURN.replace(Turn::Unasked) != Turn::Granted && self.gives_way(transmit) {
            TURN.set(Turn::Refused);
            return Err(io::ErrorKind::WouldBlock.into());
        }
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
                self.lone.store(count == 1 && meta[0].len <= meta[0].stride, Ordering::Relaxed);
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

/// One connection's wait for room in the socket, or for other tasks to have their turn. Each has its own, since tokio's socket keeps
/// but one waker by itself.
struct Writable {
    socket: Arc<TokioSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let refused = TURN.replace(Turn::Unasked) == Turn::Refused;
        let socket = self.socket.clone();
        let waiting = self.waiting.get_or_insert_with(|| {
            Box::pin(async move {
                if refused {
                    tokio::task::yield_now().await;
                    TURN.set(Turn::Granted);
                    return Ok(());
                }
                socket.io.writable().await
            })
        });
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

    use quinn::udp::EcnCodepoint;

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

    fn transmit(destination: SocketAddr, contents: &[u8], ecn: Option<EcnCodepoint>) -> Transmit<'_> {
        Transmit { destination, ecn, contents, segment_size: None, src_ip: None }
    }

    #[tokio::test]
    async fn acknowledgement_of_a_lone_packet_gives_way_once() {
        let (socket, other) = pair();
        let socket = Arc::new(socket);
        let to = other.local_addr().expect("bound");
        let (ack, data) = ([1; ACK_MAX], [2; ACK_MAX + 1]);
        let small = transmit(to, &ack, Some(EcnCodepoint::Ect0));
        socket.io.writable().await.expect("there is room");
        socket.try_send(&small).expect("nothing came: there is nothing to give way to");

        other.send(&[7; 300]).expect("loopback");
        assert_eq!(receive(&socket, 4).await, 1);
        socket.try_send(&transmit(to, &data, Some(EcnCodepoint::Ect0))).expect("it may carry events");
        socket.try_send(&transmit(to, &ack, None)).expect("an endpoint's own");
        let mut poller = socket.clone().create_io_poller();
        assert_eq!(socket.try_send(&small).expect_err("first the others").kind(), io::ErrorKind::WouldBlock);
        let turns = Cell::new(0);
        let other_task = async {
            turns.set(1);
        };
        let granted = async {
            poll_fn(|cx| {
                let polled = poller.as_mut().poll_writable(cx);
                assert!(polled.is_pending() || turns.get() == 1, "another task had its turn");
                polled
            })
            .await
            .expect("no error");
            socket.try_send(&small).expect("it has given way");
        };
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(granted, other_task) })
            .await
            .expect("a turn");
        socket.try_send(&small).expect("one gives way for one that came");
        other.send(&[7; 300]).expect("loopback");
        assert_eq!(receive(&socket, 4).await, 1);
        assert!(socket.try_send(&small).is_err(), "no turn is left over");

        // As on Linux, where two packets of one size come as one receive; elsewhere in two, of which the second is lone.
        if FEWER_MEAN_EMPTY {
            for _ in 0..2 {
                other.send(&[7; 300]).expect("loopback");
            }
            assert_eq!(receive(&socket, 4).await, 2);
            socket.try_send(&small).expect("there is much to do");
        }
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
