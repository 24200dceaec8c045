//! Random numbers of the sampler: xoshiro256++ (Blackman & Vigna 2019), seeded by SplitMix64
//! (Steele et al. 2014) as its authors advise.
//!
//! Each sequence has its own generator and draws once for each token, so that a text depends on
//! its seed and not on who else is in the batch.

/// A generator.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        let mut s = seed;
        let state = std::array::from_fn(|_| {
            s = s.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (s ^ (s >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in [0, 1), with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // First outputs of the reference xoshiro256plusplus.c for the state {1, 2, 3, 4}.
        let mut r = Random { state: [1, 2, 3, 4] };
        let got: Vec<u64> = (0..4).map(|_| r.bits()).collect();
        assert_eq!(got, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
        // First outputs of the reference splitmix64.c for seed 1234567.
        let r = Random::new(1_234_567);
        assert_eq!(r.state[..2], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn units_fill_the_interval() {
        let mut r = Random::new(7);
        let mut tenths = [0u32; 10];
        for _ in 0..100_000 {
            tenths[(r.unit() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|&n| (9_600..10_400).contains(&n)), "{tenths:?}");
    }
}
