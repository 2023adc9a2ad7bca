//! Bad weather on a real socket: what simulations do to datagrams, for tests of whole processes.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::metrics::Counters;
use crate::rng::SimRng;
use crate::sync::lock;
use crate::udp::take_turn;
use crate::{Admission, AdvertId, Header, Kind, NodeId, Refusal};

/// Faults that an endpoint adds to what it sends and receives: a facility of tests, for processes on real sockets.
///
/// The default is fine weather. Probabilities are from 0 to 1, and apply to each datagram by itself (segments are not
/// offloaded). What was done is counted in [`Metrics`](crate::Metrics). The seed decides the sequence of faults, not which
/// datagram meets which: that is up to the scheduler of a real machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Probability that a datagram is not sent. QUIC repairs it.
    pub loss: f64,
    /// Probability that a datagram is held back by up to [`Weather::HELD_BACK_MAX`], while others overtake it.
    pub reorder: f64,
    /// Probability that a datagram is sent a second time, up to [`Weather::HELD_BACK_MAX`] later.
    pub duplicate: f64,
    /// Probability that a batch which a link has brought is dropped before it is looked at, as forwarders without room
    /// do. QUIC knows nothing of it: repair is up to who subscribes.
    pub batches: f64,
    /// Seed of the choices.
    pub seed: u64,
}

impl Weather {
    /// How long a datagram is held back at most.
    pub const HELD_BACK_MAX: Duration = Duration::from_millis(5);

    /// Puts the weather over the sockets, and over what may pass them.
    pub(crate) fn over(
        &self,
        sockets: Vec<Arc<dyn AsyncUdpSocket>>,
        admission: Arc<dyn Admission>,
        runtime: &Arc<dyn quinn::Runtime>,
        counters: &Arc<Counters>,
    ) -> (Vec<Arc<dyn AsyncUdpSocket>>, Arc<dyn Admission>) {
        let mut seeds = SimRng::new(self.seed);
        let rng = Mutex::new(SimRng::new(seeds.next_u64()));
        let admission = BatchDrops { inner: admission, share: self.batches, rng, counters: counters.clone() };
        let over = |inner| {
            Arc::new(WeatherSocket {
                inner,
                weather: *self,
                rng: Mutex::new(SimRng::new(seeds.next_u64())),
                runtime: runtime.clone(),
                counters: counters.clone(),
                held: Arc::default(),
            }) as Arc<dyn AsyncUdpSocket>
        };
        (sockets.into_iter().map(over).collect(), Arc::new(admission))
    }
}

/// Datagrams that a socket holds back at most; beyond them they are sent in their turn.
const HELD_MAX: usize = 1024;

/// A socket whose datagrams meet the weather as they are sent.
#[derive(Debug)]
struct WeatherSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    weather: Weather,
    rng: Mutex<SimRng>,
    runtime: Arc<dyn quinn::Runtime>,
    counters: Arc<Counters>,
    held: Arc<AtomicUsize>,
}

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    /// Sent, at once or later, and perhaps once more.
    Sent {
        held: Option<Duration>,
        copy: Option<Duration>,
    },
}

/// A datagram that is sent later.
#[derive(Debug)]
struct Held {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
    src_ip: Option<IpAddr>,
}

impl Weather {
    fn fate(&self, rng: &mut SimRng) -> Fate {
        if rng.chance(self.loss) {
            return Fate::Lost;
        }
        let mut later = |probability| rng.chance(probability).then(|| rng.up_to(Self::HELD_BACK_MAX));
        Fate::Sent { held: later(self.reorder), copy: later(self.duplicate) }
    }
}

impl WeatherSocket {
    /// Sends a datagram later, unless too many wait: then says no.
    fn hold(&self, transmit: &Transmit<'_>, delay: Duration) -> bool {
        if self.held.fetch_add(1, Ordering::Relaxed) >= HELD_MAX {
            self.held.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let datagram = Held {
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents.to_vec(),
            src_ip: transmit.src_ip,
        };
        // Weak, so that what is held back does not keep a socket open that its endpoint has closed.
        let (socket, held) = (Arc::downgrade(&self.inner), self.held.clone());
        let mut timer = self.runtime.new_timer(self.runtime.now() + delay);
        self.runtime.spawn(Box::pin(async move {
            poll_fn(|cx| timer.as_mut().poll(cx)).await;
            datagram.send(&socket);
            held.fetch_sub(1, Ordering::Relaxed);
        }));
        true
    }
}

impl Held {
    fn send(&self, socket: &Weak<dyn AsyncUdpSocket>) {
        let Some(socket) = socket.upgrade() else { return };
        // If the system has no room it is lost, as datagrams are.
        take_turn();
        let _ = socket.try_send(&Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents: &self.contents,
            segment_size: None,
            src_ip: self.src_ip,
        });
    }
}

impl AsyncUdpSocket for WeatherSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let fate = self.weather.fate(&mut lock(&self.rng));
        let Fate::Sent { held, copy } = fate else {
            self.counters.weather_datagrams.one();
            self.counters.weather_lost.one();
            return Ok(());
        };
        let reordered = held.is_some_and(|delay| self.hold(transmit, delay));
        if !reordered {
            // If the system has no room now, the datagram comes again and is counted then.
            take_turn();
            self.inner.try_send(transmit)?;
        }
        let duplicated = copy.is_some_and(|delay| self.hold(transmit, delay));
        self.counters.weather_datagrams.one();
        self.counters.weather_reordered.add(reordered.into());
        self.counters.weather_duplicated.add(duplicated.into());
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// One, so that each datagram meets the weather by itself.
    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Refuses a share of the batches that would be admitted.
struct BatchDrops {
    inner: Arc<dyn Admission>,
    share: f64,
    rng: Mutex<SimRng>,
    counters: Arc<Counters>,
}

impl Admission for BatchDrops {
    fn member(&self, node: &NodeId, credential: &[u8]) -> Result<(), Refusal> {
        self.inner.member(node, credential)
    }

    fn check(&self, header: &Header, from: &NodeId) -> Result<(), Refusal> {
        self.inner.check(header, from)?;
        if header.kind() == Kind::Batch && lock(&self.rng).chance(self.share) {
            self.counters.weather_batches_dropped.one();
            return Err(Refusal("the weather"));
        }
        Ok(())
    }

    fn advert(&self, bytes: &[u8]) -> Result<AdvertId, Refusal> {
        self.inner.advert(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_come_as_often_as_asked_for_and_repeat_with_their_seed() {
        let weather = Weather { loss: 0.05, reorder: 0.02, duplicate: 0.01, ..Weather::default() };
        let fates = |seed| {
            let mut rng = SimRng::new(seed);
            (0..100_000).map(|_| weather.fate(&mut rng)).collect::<Vec<_>>()
        };
        let of_one = fates(1);
        let count = |of: fn(&Fate) -> bool| of_one.iter().filter(|fate| of(fate)).count();
        let lost = count(|fate| *fate == Fate::Lost);
        let held = count(|fate| matches!(fate, Fate::Sent { held: Some(_), .. }));
        let copied = count(|fate| matches!(fate, Fate::Sent { copy: Some(_), .. }));
        assert!((4_700..5_300).contains(&lost), "{lost}");
        assert!((1_700..2_100).contains(&held), "{held}");
        assert!((850..1_050).contains(&copied), "{copied}");
        assert_eq!(of_one, fates(1));
        assert_ne!(of_one, fates(2));
        let delays = of_one.iter().flat_map(|fate| match fate {
            Fate::Lost => [None, None],
            Fate::Sent { held, copy } => [*held, *copy],
        });
        assert!(delays.flatten().all(|delay| delay <= Weather::HELD_BACK_MAX));
    }

    /// Sockets that a packet may be refused by once expect that it comes again; what was held back does not.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn small_packets_that_were_held_back_are_sent_also_after_a_lone_one_came() {
        let other = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let ours = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        ours.set_nonblocking(true).expect("a socket of ours");
        let to = ours.local_addr().expect("bound");
        let socket = Arc::new(crate::udp::TokioSocket::new(ours).expect("in a runtime"));
        let runtime: Arc<dyn quinn::Runtime> = Arc::new(quinn::TokioRuntime);
        let weather = WeatherSocket {
            inner: socket,
            weather: Weather { reorder: 1.0, ..Weather::default() },
            rng: Mutex::new(SimRng::new(1)),
            runtime,
            counters: Arc::default(),
            held: Arc::default(),
        };
        let destination = other.local_addr().expect("bound");
        for _ in 0..10 {
            other.send_to(&[7; 300], to).await.expect("loopback");
            let (mut memory, mut meta) = (vec![0; 65_536], [RecvMeta::default()]);
            poll_fn(|cx| weather.poll_recv(cx, &mut [IoSliceMut::new(&mut memory)], &mut meta))
                .await
                .expect("it comes");
            let contents = [1; 40];
            let ecn = Some(EcnCodepoint::Ect0);
            weather
                .try_send(&Transmit { destination, ecn, contents: &contents, segment_size: None, src_ip: None })
                .expect("held back");
            let received = tokio::time::timeout(Duration::from_secs(10), other.recv(&mut [0; 64])).await;
            assert_eq!(received.expect("it is sent").expect("no error"), 40);
        }
    }

    #[test]
    fn fine_weather_touches_nothing() {
        let mut rng = SimRng::new(7);
        let sent = Fate::Sent { held: None, copy: None };
        assert!((0..1000).all(|_| Weather::default().fate(&mut rng) == sent));
    }
}
