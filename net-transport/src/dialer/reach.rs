//! How often strangers' hosts are dialled: a pure value.
//!
//! Where a node can be dialled is what somebody says, and may be the address of a victim. So each host that does not
//! answer is tried a few times at once and then rarely, whoever and however many name it. What answers costs nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Dials of one host that may be without an answer at once.
pub(crate) const BURST: u32 = 16;
/// How often one more may be.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// Hosts that are remembered.
const HOSTS_MAX: usize = 4096;

/// For each host, when all its dials are allowed again (the generic cell rate algorithm).
#[derive(Debug, Default)]
pub(super) struct Reach {
    hosts: BTreeMap<IpAddr, Instant>,
}

impl Reach {
    /// May this host be dialled now? If so, it counts until it has answered.
    pub(super) fn may_dial(&mut self, now: Instant, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            // Nobody but this machine.
            return true;
        }
        let host = host(ip);
        let until = self.hosts.get(&host).copied().unwrap_or(now).max(now);
        if until + EVERY > now + EVERY * BURST {
            return false;
        }
        self.hosts.insert(host, until + EVERY);
        if self.hosts.len() > HOSTS_MAX {
            self.tidy(now);
        }
        true
    }

    pub(super) fn answered(&mut self, ip: IpAddr) {
        if let Some(until) = self.hosts.get_mut(&host(ip)) {
            *until = until.checked_sub(EVERY).unwrap_or(*until);
        }
    }

    fn tidy(&mut self, now: Instant) {
        self.hosts.retain(|_, until| *until > now);
        if self.hosts.len() > HOSTS_MAX
            && let Some(least) = self.hosts.iter().min_by_key(|(_, until)| **until).map(|(host, _)| *host)
        {
            self.hosts.remove(&least);
        }
    }
}

/// Of IPv6 a whole network of 64 bits counts as one host: whoever has one address there has all.
fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn host_that_does_not_answer_is_dialled_a_few_times_and_then_rarely() {
        let (mut reach, mut now) = (Reach::default(), Instant::now());
        let victim = ip("192.0.2.1");
        let mut dials = 0;
        for _ in 0..100_000 {
            dials += u32::from(reach.may_dial(now, victim));
        }
        assert_eq!(dials, BURST);
        for _ in 0..1000 {
            now += EVERY / 10;
            dials += u32::from(reach.may_dial(now, victim));
        }
        assert_eq!(dials, BURST + 100);
        assert!(reach.may_dial(now, ip("192.0.2.2")), "others are not concerned");
    }

    #[test]
    fn host_that_answers_is_dialled_as_often_as_need_be() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        for _ in 0..1000 {
            assert!(reach.may_dial(now, ip("192.0.2.1")));
            reach.answered(ip("192.0.2.1"));
        }
    }

    #[test]
    fn network_of_64_bits_is_one_host_and_this_machine_is_none() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        let dials = (0..1000).filter(|n| reach.may_dial(now, ip(&format!("2001:db8::{n:x}")))).count();
        assert_eq!(dials, BURST as usize);
        assert!(!reach.may_dial(now, ip("2001:db8::5:6:7:8")));
        assert!((0..1000).all(|_| reach.may_dial(now, ip("127.0.0.1")) && reach.may_dial(now, ip("::1"))));
    }

    #[test]
    fn hosts_that_are_remembered_are_bounded_and_the_busiest_stay() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        let victim = ip("198.51.100.1");
        while reach.may_dial(now, victim) {}
        for n in 0..10_000u32 {
            reach.may_dial(now, IpAddr::from((n + 0x0a00_0000).to_be_bytes()));
        }
        assert_eq!(reach.hosts.len(), HOSTS_MAX);
        assert!(!reach.may_dial(now, victim));
    }
}
