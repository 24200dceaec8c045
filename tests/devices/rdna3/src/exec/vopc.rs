//! Vector comparisons. `v_cmp` writes a mask, zero in inactive lanes; `v_cmpx` writes EXEC.

use super::exec;
use crate::float::h2f;
use crate::inst::{EXEC, Exec, Inst, Kind, Step};
use crate::wave::Wave;

/// Index of the first source: after the destination, where there is one.
#[inline(always)]
fn first(i: &Inst) -> usize {
    usize::from(i.n) - 2
}

/// Stores the mask of a comparison.
#[inline(always)]
fn finish(w: &mut Wave, i: &Inst, mask: u32) -> Step {
    let mask = mask & w.exec();
    if i.n == 3 && i.o[0].kind == Kind::S {
        w.set_s(&i.o[0], mask);
    } else {
        w.s[usize::from(EXEC)] = mask;
    }
    Step::Next
}

macro_rules! c32 {
    (|$a:ident, $b:ident| $e:expr) => {
        exec!(|w, i, _c| {
            let (mut ra, mut rb, mut mask) = (crate::wave::room(), crate::wave::room(), 0u32);
            let k = first(i);
            let (a, b) = (w.src(&i.o[k], 0, &mut ra), w.src(&i.o[k + 1], 0, &mut rb));
            for l in 0..32 {
                let ($a, $b) = (a[l], b[l]);
                mask |= u32::from($e) << l;
            }
            finish(w, i, mask)
        })
    };
}
macro_rules! c16 {
    (|$a:ident, $b:ident| $e:expr) => {
        exec!(|w, i, _c| {
            let (k, mut mask) = (first(i), 0u32);
            let (a, b) = (w.src16(&i.o[k]), w.src16(&i.o[k + 1]));
            for l in 0..32 {
                let ($a, $b) = (a[l] as u16, b[l] as u16);
                mask |= u32::from($e) << l;
            }
            finish(w, i, mask)
        })
    };
}
macro_rules! c64 {
    (|$a:ident, $b:ident| $e:expr) => {
        exec!(|w, i, _c| {
            let (k, mut mask) = (first(i), 0u32);
            let (a, b) = (w.src64(&i.o[k]), w.src64(&i.o[k + 1]));
            for l in 0..32 {
                let ($a, $b) = (a[l], b[l]);
                mask |= u32::from($e) << l;
            }
            finish(w, i, mask)
        })
    };
}
/// Six integer conditions of a type.
macro_rules! ints {
    ($cond:expr, $m:ident, $t:ty) => {
        match $cond {
            "eq" => $m!(|a, b| a == b),
            "ne" => $m!(|a, b| a != b),
            "lt" => $m!(|a, b| (a as $t) < (b as $t)),
            "le" => $m!(|a, b| (a as $t) <= (b as $t)),
            "gt" => $m!(|a, b| (a as $t) > (b as $t)),
            "ge" => $m!(|a, b| (a as $t) >= (b as $t)),
            _ => return None,
        }
    };
}
/// Fourteen floating-point conditions; those that begin with `n` are true for NaNs. They are negations of ordered
/// comparisons, not the opposite comparisons.
macro_rules! floats {
    ($cond:expr, $m:ident, $f:expr) => {
        match $cond {
            "lt" => $m!(|a, b| $f(a) < $f(b)),
            "eq" => $m!(|a, b| $f(a) == $f(b)),
            "le" => $m!(|a, b| $f(a) <= $f(b)),
            "gt" => $m!(|a, b| $f(a) > $f(b)),
            "lg" => $m!(|a, b| $f(a) < $f(b) || $f(a) > $f(b)),
            "ge" => $m!(|a, b| $f(a) >= $f(b)),
            "o" => $m!(|a, b| $f(a) == $f(a) && $f(b) == $f(b)),
            "u" => $m!(|a, b| $f(a) != $f(a) || $f(b) != $f(b)),
            "nge" => $m!(|a, b| !($f(a) >= $f(b))),
            "nlg" => $m!(|a, b| !($f(a) < $f(b) || $f(a) > $f(b))),
            "ngt" => $m!(|a, b| !($f(a) > $f(b))),
            "nle" => $m!(|a, b| !($f(a) <= $f(b))),
            "neq" => $m!(|a, b| $f(a) != $f(b)),
            "nlt" => $m!(|a, b| !($f(a) < $f(b))),
            _ => return None,
        }
    };
}

/// Bit of `v_cmp_class` that a number of `exponent` and `mantissa` bits falls in.
fn class(bits: u64, exponent: u32, mantissa: u32) -> u32 {
    let negative = bits >> (exponent + mantissa) & 1 != 0;
    let e = bits >> mantissa & ((1 << exponent) - 1);
    let m = bits & ((1 << mantissa) - 1);
    let bit = if e == (1 << exponent) - 1 {
        match m {
            0 => (2, 9),
            _ if m >> (mantissa - 1) & 1 != 0 => (1, 1),
            _ => (0, 0),
        }
    } else if e == 0 {
        if m == 0 { (5, 6) } else { (4, 7) }
    } else {
        (3, 8)
    };
    if negative { bit.0 } else { bit.1 }
}

/// See [`super::lookup`].
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op)]
pub fn lookup(name: &str) -> Option<Exec> {
    let rest = name.strip_prefix("v_cmpx_").or_else(|| name.strip_prefix("v_cmp_"))?;
    let (cond, ty) = rest.split_once('_')?;
    if cond == "class" {
        return Some(match ty {
            "f32" => c32!(|a, b| b >> class(u64::from(a), 8, 23) & 1 != 0),
            "f16" => c16!(|a, b| b >> class(u64::from(a), 5, 10) & 1 != 0),
            "f64" => exec!(|w, i, _c| {
                let (k, mut mask) = (first(i), 0u32);
                let (a, b) = (w.src64(&i.o[k]), w.raw(&i.o[k + 1], 0));
                for l in 0..32 {
                    mask |= (b[l] >> class(a[l], 11, 52) & 1) << l;
                }
                finish(w, i, mask)
            }),
            _ => return None,
        });
    }
    if cond == "t" || cond == "f" {
        return Some(match cond {
            "t" => exec!(|w, i, _c| finish(w, i, !0)),
            _ => exec!(|w, i, _c| finish(w, i, 0)),
        });
    }
    Some(match ty {
        "u32" => ints!(cond, c32, u32),
        "i32" => ints!(cond, c32, i32),
        "u16" => ints!(cond, c16, u16),
        "i16" => ints!(cond, c16, i16),
        "u64" => ints!(cond, c64, u64),
        "i64" => ints!(cond, c64, i64),
        "f32" => floats!(cond, c32, f32::from_bits),
        "f16" => floats!(cond, c16, h2f),
        "f64" => floats!(cond, c64, f64::from_bits),
        _ => return None,
    })
}
