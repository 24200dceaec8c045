//! Elementary functions in f32 that the compiler can vectorize: no branches, no calls.

/// `a * b + c`, in one rounding where the tier has it.
#[inline(always)]
pub fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `e^x` within 1.5 ulp; 0 below -104, infinite above 88.73; NaN stays NaN.
#[inline(always)]
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Comparisons, not min and max: those would turn NaN into a number.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts (Cody & Waite 1980).
    let t = fma::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let i = t.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = fma::<FUSED>(n, -0.693_359_4, x);
    let r = fma::<FUSED>(n, 2.121_944_4e-4, r);
    // The polynomial of Cephes' expf (Moshier 1992).
    let p = 1.987_569_1e-4;
    let p = fma::<FUSED>(p, r, 1.398_2e-3);
    let p = fma::<FUSED>(p, r, 8.333_452e-3);
    let p = fma::<FUSED>(p, r, 4.166_579_6e-2);
    let p = fma::<FUSED>(p, r, 1.666_666_5e-1);
    let p = fma::<FUSED>(p, r, 0.5);
    let p = fma::<FUSED>(p, r * r, r) + 1.0;
    // 2^n in two factors, each a normal number even where the product overflows or is denormal.
    let half = i >> 1;
    p * power_of_two(half) * power_of_two(i.wrapping_sub(half))
}

/// `2^i` for -126..=127.
#[inline(always)]
fn power_of_two(i: i32) -> f32 {
    f32::from_bits((i.wrapping_add(127) as u32) << 23)
}

/// `tanh x` within a few ulp.
#[inline(always)]
pub fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let a = x.abs();
    let large = 1.0 - 2.0 / (exp::<FUSED>(2.0 * a) + 1.0);
    let large = large.copysign(x);
    // Near zero 1 - 2/(e+1) would cancel: the polynomial of Cephes' tanhf.
    let z = x * x;
    let p = -5.704_988_7e-3;
    let p = fma::<FUSED>(p, z, 2.063_909e-2);
    let p = fma::<FUSED>(p, z, -5.373_971_5e-2);
    let p = fma::<FUSED>(p, z, 1.333_144_2e-1);
    let p = fma::<FUSED>(p, z, -3.333_328e-1);
    let small = fma::<FUSED>(p * z, x, x);
    if a < 0.625 { small } else { large }
}

/// Sum of 16 lanes, always in the same order.
#[inline(always)]
pub fn sum16(mut lanes: [f32; 16]) -> f32 {
    let mut n = 8;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::super::tiered;
    use super::*;
    use crate::simd::Tier;

    tiered!(fn exps(x: &mut [f32]) = exps_body);
    #[inline(always)]
    fn exps_body<const FUSED: bool>(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = exp::<FUSED>(*x));
    }

    tiered!(fn tanhs(x: &mut [f32]) = tanhs_body);
    #[inline(always)]
    fn tanhs_body<const FUSED: bool>(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = tanh::<FUSED>(*x));
    }

    /// Distance in units of the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = (want as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_exact_to_two_units() {
        for tier in Tier::available() {
            let x: Vec<f32> = (0..400_000).map(|i| -87.3 + i as f32 * (175.9 / 400_000.0)).collect();
            let mut y = x.clone();
            exps(tier, &mut y);
            let worst = x.iter().zip(&y).map(|(&x, &y)| ulps(y, f64::from(x).exp())).fold(0.0, f64::max);
            assert!(worst <= 2.0, "{}: {worst} ulp", tier.name());
        }
    }

    #[test]
    fn exp_at_its_ends() {
        for tier in Tier::available() {
            let mut y = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1000.0, -1000.0, -95.0];
            exps(tier, &mut y);
            assert!(y[0].is_nan());
            assert_eq!(y[1..7], [f32::INFINITY, 0.0, 1.0, 1.0, f32::INFINITY, 0.0]);
            assert!(y[7] > 0.0 && y[7] < 1e-38, "denormal {}", y[7]);
        }
    }

    #[test]
    fn tanh_is_exact_to_a_few_units() {
        for tier in Tier::available() {
            let x: Vec<f32> = (0..200_000).map(|i| -20.0 + i as f32 * 2e-4).chain([1e-20, -1e-6, 0.0]).collect();
            let mut y = x.clone();
            tanhs(tier, &mut y);
            let worst = x.iter().zip(&y).map(|(&x, &y)| ulps(y, f64::from(x).tanh())).fold(0.0, f64::max);
            assert!(worst <= 4.0, "{}: {worst} ulp", tier.name());
            let mut ends = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            tanhs(tier, &mut ends);
            assert!(ends[0].is_nan() && ends[1] == 1.0 && ends[2] == -1.0);
        }
    }

    #[test]
    fn lanes_are_all_summed() {
        assert_eq!(sum16(std::array::from_fn(|i| (1 << i) as f32)), 65535.0);
    }
}
