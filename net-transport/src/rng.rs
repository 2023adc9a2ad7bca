//! The randomness of a simulation: small, fast, the same on every machine. Never for keys.

use std::time::Duration;

/// A stream of random numbers that its seed decides (SplitMix64, Steele, Lea and Flood 2014).
///
/// For the choices of a scenario; nothing secret may come from it.
#[derive(Clone, Debug)]
pub struct SimRng(u64);

impl SimRng {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply and take the high half (Lemire 2019); the bias of at most bound / 2^64 does not matter here.
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of 128 bits has 64")
    }

    /// True with this probability: never at 0 and below, always at 1 and above.
    pub fn chance(&mut self, probability: f64) -> bool {
        let unit = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }

    /// A time from zero to `most`, both included.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for seed 1234567 of the reference implementation.
    #[test]
    fn splitmix_gives_the_reference_output() {
        let mut rng = SimRng::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([(); 3].map(|()| rng.next_u64()), expected);
    }

    #[test]
    fn choices_keep_their_bounds() {
        let mut rng = SimRng::new(1);
        for _ in 0..1_000 {
            assert!(rng.below(7) < 7);
            assert_eq!((rng.below(0), rng.below(1)), (0, 0));
            assert!(rng.up_to(Duration::from_nanos(3)) <= Duration::from_nanos(3));
            assert_eq!(rng.up_to(Duration::ZERO), Duration::ZERO);
            rng.up_to(Duration::MAX);
            assert!(rng.chance(1.0) && !rng.chance(0.0) && !rng.chance(f64::NAN));
        }
        let times = (0..10_000).filter(|_| rng.chance(0.3)).count();
        assert!((2_700..=3_300).contains(&times), "{times}");
    }
}
