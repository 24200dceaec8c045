//! Wrappers around vector instructions: DPP before, clamp and output multiplier after.

use super::{exec, f};
use crate::float::{f2h, h2f};
use crate::inst::{EXEC, Exec, Inst, TEMP_DPP};
use crate::wave::Wave;

/// Moves the first source across lanes into a row of its own, then runs the instruction, which reads that row, on
/// the lanes that have a source.
pub fn dpp() -> Exec {
    exec!(|w, i, c| {
        let Some(d) = &i.dpp else { return (i.after_dpp)(w, i, c) };
        let (exec, from) = (w.exec(), &w.v[usize::from(d.source)]);
        let (mut row, mut valid) = ([0u32; 32], 0u32);
        for l in 0..32 {
            let s = usize::from(d.from[l]);
            if s < 32 && (d.fetch_inactive || exec >> s & 1 != 0) {
                row[l] = from[s];
                valid |= 1 << l;
            }
        }
        w.v[usize::from(TEMP_DPP)] = row;
        let on = d.mask & if d.bound_zero { !0 } else { valid };
        w.s[usize::from(EXEC)] = exec & on;
        let step = (i.after_dpp)(w, i, c);
        w.s[usize::from(EXEC)] = exec;
        step
    })
}

/// What a result is, for clamp and multiplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// f32.
    F32,
    /// f16.
    F16,
    /// Two f16.
    PackedF16,
}

#[inline(always)]
fn shape(x: f32, omod: u8, clamp: bool) -> f32 {
    let x = x * [1.0, 2.0, 4.0, 0.5][usize::from(omod & 3)];
    // A NaN clamps to zero, as the mode register asks for in every compiled kernel.
    if !clamp {
        x
    } else if x > 0.0 {
        x.min(1.0)
    } else {
        0.0
    }
}

#[inline(always)]
fn after(w: &mut Wave, i: &Inst, each: impl Fn(u32) -> u32) {
    let row = w.v[usize::from(i.o[0].reg)].map(each);
    w.put(usize::from(i.o[0].reg), &row);
}

/// Runs the instruction, then shapes its result.
pub fn output(result: Result) -> Exec {
    match result {
        Result::F32 => exec!(|w, i, c| {
            let step = (i.plain)(w, i, c);
            after(w, i, |x| shape(f(x), i.omod, i.clamp).to_bits());
            step
        }),
        Result::F16 => exec!(|w, i, c| {
            let step = (i.plain)(w, i, c);
            let half = |x: u32| u32::from(f2h(shape(h2f(x as u16), i.omod, i.clamp)));
            match i.dst_high {
                true => after(w, i, |x| x & 0xffff | half(x >> 16) << 16),
                false => after(w, i, |x| x & 0xffff_0000 | half(x)),
            }
            step
        }),
        Result::PackedF16 => exec!(|w, i, c| {
            let step = (i.plain)(w, i, c);
            let half = |x: u32| u32::from(f2h(shape(h2f(x as u16), i.omod, i.clamp)));
            after(w, i, |x| half(x) | half(x >> 16) << 16);
            step
        }),
    }
}

/// Keeps the source that the first half of a dual instruction is about to overwrite.
pub fn keep_dual() -> Exec {
    exec!(|w, i, _c| {
        w.v[usize::from(i.o[0].reg)] = w.v[usize::from(i.o[1].reg)];
        crate::inst::Step::Next
    })
}
