//! Conversions between f32 and the 16-bit formats, branch-free so that loops over lanes vectorize.

/// f16 bits to f32; exact, subnormals included.
#[inline(always)]
pub fn h2f(h: u16) -> f32 {
    let h = u32::from(h);
    let magnitude = (h & 0x7fff) << 13;
    // The exponent bias differs by 112; the product also normalizes f16 subnormals, exactly.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let bits = if h & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { scaled };
    f32::from_bits(bits | (h & 0x8000) << 16)
}

/// f32 to f16 bits, round to nearest even.
#[inline(always)]
pub fn f2h(f: f32) -> u16 {
    let b = f.to_bits();
    let a = b & 0x7fff_ffff;
    // Subnormal results: adding 0.5 puts the last kept bit at f32's last bit, so that the addition rounds.
    let small = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = a.wrapping_add(0xc800_0fff).wrapping_add(a >> 13 & 1) >> 13;
    let special = if a > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let m = if a >= 0x4780_0000 {
        special
    } else if a < 0x3880_0000 {
        small
    } else {
        normal
    };
    (m | (b >> 16 & 0x8000)) as u16
}

/// f32 to f16 bits, round toward zero (`v_cvt_pk_rtz_f16_f32`): overflow gives the largest finite value.
#[inline(always)]
pub fn f2h_rtz(f: f32) -> u16 {
    let b = f.to_bits();
    let a = b & 0x7fff_ffff;
    let m = if a > 0x7f80_0000 {
        0x7e00
    } else if a == 0x7f80_0000 {
        0x7c00
    } else if a >= 0x4780_0000 {
        0x7bff
    } else if a < 0x3880_0000 {
        (f32::from_bits(a) * 16_777_216.0) as u32
    } else {
        (a - 0x3800_0000) >> 13
    };
    (m | (b >> 16 & 0x8000)) as u16
}

/// bf16 bits to f32.
#[inline(always)]
pub fn b2f(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// Subnormals to zero of the same sign, as the transcendental unit reads and writes them.
#[inline(always)]
pub fn flush(f: f32) -> f32 {
    let b = f.to_bits();
    f32::from_bits(if b & 0x7f80_0000 == 0 { b & 0x8000_0000 } else { b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_survives_the_round_trip() {
        for h in 0..=u16::MAX {
            let f = h2f(h);
            if f.is_nan() {
                assert!(h & 0x7c00 == 0x7c00 && h & 0x3ff != 0);
                assert!(h2f(f2h(f)).is_nan());
            } else {
                assert_eq!(f2h(f), h, "{h:#x}");
                assert_eq!(f2h_rtz(f), h, "{h:#x}");
                let (e, m) = (i32::from(h >> 10 & 31), f64::from(h & 0x3ff));
                let want = if e == 31 {
                    f64::INFINITY
                } else if e == 0 {
                    m * 2f64.powi(-24)
                } else {
                    (1024.0 + m) * 2f64.powi(e - 25)
                };
                assert_eq!(f64::from(f.abs()), want);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_or_toward_zero() {
        for h in 0..0x7bffu16 {
            let (lo, hi) = (h2f(h), h2f(h + 1));
            let mid = (lo + hi) / 2.0;
            assert_eq!(f2h(mid), h + (h & 1), "{h:#x}");
            assert_eq!(f2h(f32::from_bits(mid.to_bits() + 1)), h + 1);
            assert_eq!(f2h(f32::from_bits(mid.to_bits() - 1)), h);
            assert_eq!(f2h_rtz(f32::from_bits(hi.to_bits() - 1)), h);
        }
        assert_eq!((f2h(65519.0), f2h(65520.0), f2h_rtz(1e9)), (0x7bff, 0x7c00, 0x7bff));
    }
}
