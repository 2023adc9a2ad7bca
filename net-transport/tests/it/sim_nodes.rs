//! Nodes of a simulated network: cut off, crashed, paused.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use net_transport::sim::{self, LinkConfig, SimNet, SimSocket};
use tokio::time::{sleep, timeout};

use crate::sim_links::{address, assert_all_accounted_for};

const MS: Duration = Duration::from_millis(1);

fn nodes(net: &SimNet, count: usize) -> Vec<Arc<SimSocket>> {
    (1..=count).map(|i| net.socket(address(&format!("10.0.0.{i}:1"))).unwrap()).collect()
}

fn ip(i: u8) -> IpAddr {
    [10, 0, 0, i].into()
}

/// Whether a datagram sent now gets there.
async fn reaches(from: &SimSocket, to: &SimSocket) -> bool {
    from.send_to(b"hello", to.address()).unwrap();
    timeout(Duration::from_secs(1), to.recv_from()).await.is_ok_and(|received| received.is_ok())
}

/// Who reaches whom, a row for each sender.
async fn matrix(sockets: &[Arc<SimSocket>]) -> Vec<String> {
    let mut rows = Vec::new();
    for from in sockets {
        let mut row = String::new();
        for to in sockets {
            row.push(if reaches(from, to).await { 'x' } else { '.' });
        }
        rows.push(row);
    }
    rows
}

#[test]
fn a_partition_cuts_between_its_sides_and_heals() {
    sim::run(1, |net| async move {
        let sockets = nodes(&net, 5);
        let whole = vec!["xxxxx"; 5];
        assert_eq!(matrix(&sockets).await, whole);
        net.partition(&[&[ip(1), ip(2)], &[ip(3)]]);
        assert_eq!(matrix(&sockets).await, ["xx...", "xx...", "..x..", "...xx", "...xx"]);
        net.partition(&[&[ip(5)]]);
        assert_eq!(matrix(&sockets).await, ["xxxx.", "xxxx.", "xxxx.", "xxxx.", "....x"]);
        net.heal();
        assert_eq!(matrix(&sockets).await, whole);
        assert_eq!((net.faults().dropped_partition, net.faults().partitions), (16 + 8, 2));
        assert_all_accounted_for(net.faults());
    });
}

#[test]
fn a_partition_takes_what_is_on_its_way_unless_it_heals_first() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig { latency: 50 * MS, ..LinkConfig::default() });
        let sockets = nodes(&net, 2);
        for heals_in_time in [false, true] {
            net.heal();
            sockets[0].send_to(b"hello", sockets[1].address()).unwrap();
            net.partition(&[&[ip(1)]]);
            if heals_in_time {
                sleep(10 * MS).await;
                net.heal();
            }
            assert_eq!(timeout(Duration::from_secs(1), sockets[1].recv_from()).await.is_ok(), heals_in_time);
        }
    });
}

#[test]
fn a_crash_takes_sockets_tasks_and_what_is_on_its_way() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig { latency: 50 * MS, ..LinkConfig::default() });
        let sockets = nodes(&net, 2);
        let [a, b] = &sockets[..] else { unreachable!() };
        let ticks = Arc::new(AtomicU64::new(0));
        let count = ticks.clone();
        let task = net.spawn_on(ip(2), async move {
            loop {
                sleep(MS).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        a.send_to(b"in flight", b.address()).unwrap();
        sleep(10 * MS).await;
        let waiting = tokio::spawn({
            let b = b.clone();
            async move { b.recv_from().await.map(|_| ()).map_err(|error| error.kind()) }
        });
        tokio::task::yield_now().await;
        let before = ticks.load(Ordering::Relaxed);
        assert!(before >= 9);

        net.crash(ip(2));
        net.crash(ip(2));
        assert_eq!(waiting.await.unwrap(), Err(ErrorKind::NetworkDown));
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(b.send_to(b"", a.address()).unwrap_err().kind(), ErrorKind::NetworkDown);
        assert_eq!(net.socket(b.address()).unwrap_err().kind(), ErrorKind::NetworkDown);
        assert!(net.spawn_on(ip(2), async {}).await.unwrap_err().is_cancelled());
        a.send_to(b"to the dead", b.address()).unwrap();
        sleep(100 * MS).await;
        assert_eq!(ticks.load(Ordering::Relaxed), before);
        let faults = net.faults();
        assert_eq!((faults.crashes, faults.dropped_crash, faults.delivered), (1, 2, 0));

        net.restart(ip(2));
        let again = net.socket(b.address()).expect("a restarted node gets its address back");
        assert!(reaches(a, &again).await && reaches(&again, a).await);
        assert_eq!(
            b.send_to(b"", a.address()).unwrap_err().kind(),
            ErrorKind::NetworkDown,
            "the old socket stays dead"
        );
        net.spawn_on(ip(2), async {}).await.expect("it runs tasks again");
        assert_eq!(net.faults().restarts, 1);
        assert_all_accounted_for(net.faults());
    });
}

#[test]
fn a_runtime_of_a_crashed_life_runs_nothing() {
    sim::run(1, |net| async move {
        let old = net.runtime_of(ip(1));
        net.crash(ip(1));
        net.restart(ip(1));
        let (ran, runs) = (Arc::new(AtomicU64::new(0)), net.runtime_of(ip(1)));
        for (runtime, add) in [(old, 100), (runs, 1)] {
            let ran = ran.clone();
            runtime.spawn(Box::pin(async move {
                ran.fetch_add(add, Ordering::Relaxed);
            }));
        }
        sleep(MS).await;
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_paused_node_stands_still_and_goes_on() {
    sim::run(1, |net| async move {
        net.set_receive_buffer(20 * (1 + 64));
        let sockets = nodes(&net, 2);
        let [a, b] = &sockets[..] else { unreachable!() };
        let ticks = Arc::new(AtomicU64::new(0));
        let count = ticks.clone();
        net.spawn_on(ip(2), async move {
            loop {
                sleep(MS).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let reader = tokio::spawn({
            let b = b.clone();
            async move {
                let mut got = Vec::new();
                while let Ok(Ok((bytes, _))) = timeout(Duration::from_secs(5), b.recv_from()).await {
                    got.push(bytes[0]);
                }
                got
            }
        });
        sleep(10 * MS).await;
        net.pause(ip(2));
        let before = ticks.load(Ordering::Relaxed);
        for i in 0..30 {
            a.send_to(&[i], b.address()).unwrap();
        }
        assert_eq!(b.send_to(b"", a.address()).unwrap_err().kind(), ErrorKind::WouldBlock);
        sleep(1000 * MS).await;
        assert_eq!(ticks.load(Ordering::Relaxed), before, "its tasks are not polled");
        assert_eq!(net.faults().dropped_buffer, 10, "its socket takes what it has room for");

        net.resume(ip(2));
        b.send_to(b"", a.address()).unwrap();
        assert_eq!(reader.await.unwrap(), (0..20).collect::<Vec<_>>());
        assert!(ticks.load(Ordering::Relaxed) > before);
    });
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_socket_of_a_paused_node_neither_wakes_nor_gives() {
    sim::run(1, |net| async move {
        let sockets = nodes(&net, 2);
        let [a, b] = &sockets[..] else { unreachable!() };
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut receives = pin!(b.recv_from());
        let mut poll = || receives.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll().is_pending());
        net.pause(ip(2));
        a.send_to(b"hello", b.address()).unwrap();
        sleep(10 * MS).await;
        assert_eq!((net.faults().delivered, wakes.0.load(Ordering::Relaxed)), (1, 0));
        assert!(poll().is_pending());
        net.resume(ip(2));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(poll().is_ready());
    });
}

#[test]
fn a_paused_node_can_crash() {
    sim::run(1, |net| async move {
        let sockets = nodes(&net, 2);
        let task = net.spawn_on(ip(2), std::future::pending::<()>());
        net.pause(ip(2));
        sleep(MS).await;
        net.crash(ip(2));
        assert!(task.await.unwrap_err().is_cancelled());
        net.restart(ip(2));
        let again = net.socket(sockets[1].address()).unwrap();
        assert!(reaches(&sockets[0], &again).await, "a restarted node is not paused");
    });
}
