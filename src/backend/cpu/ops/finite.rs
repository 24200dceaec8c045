//! Whether numbers are numbers.

use super::tiered;

tiered!(
    /// Whether `x` holds neither NaN nor infinity.
    pub fn all_finite(x: &[f32]) -> bool = all_finite_body
);

#[inline(always)]
fn all_finite_body<const FUSED: bool>(x: &[f32]) -> bool {
    // No early end: the compiler can vectorize it so, and nearly always all are looked at.
    x.iter().fold(true, |all, x| all & (x.to_bits() & 0x7f80_0000 != 0x7f80_0000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Tier;

    #[test]
    fn one_bad_number_is_found_anywhere() {
        for tier in Tier::available() {
            let mut x = vec![f32::MAX; 101];
            assert!(all_finite(tier, &x));
            for i in [0, 50, 100] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let before = std::mem::replace(&mut x[i], bad);
                    assert!(!all_finite(tier, &x));
                    x[i] = before;
                }
            }
        }
    }
}
