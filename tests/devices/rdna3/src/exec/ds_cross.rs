//! Lane exchange through the local memory unit; no memory is touched.

use super::ds::in_flight;
use super::exec;
use crate::inst::{Exec, Step};

/// Source lane of `ds_swizzle_b32`: quads when bit 15 is set (0xe000 and above: FFT and rotate), else bit masks.
fn swizzled(lane: usize, pattern: u32) -> usize {
    let l = lane as u32;
    let from = if pattern >= 0xe000 {
        // Rotate: bits 9:5 count, bit 10 direction, bits 4:0 keep.
        let (n, keep) = (pattern >> 5 & 31, pattern & 31);
        let moved = if pattern >> 10 & 1 != 0 { l.wrapping_sub(n) } else { l + n };
        l & keep | moved & !keep & 31
    } else if pattern & 0x8000 != 0 {
        l & !3 | pattern >> (2 * (l & 3)) & 3
    } else {
        ((l & pattern & 31) | pattern >> 5 & 31) ^ (pattern >> 10 & 31)
    };
    (from & 31) as usize
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        // Pulls; an inactive source lane gives zero.
        "ds_bpermute_b32" => exec!(|w, i, c| {
            let (at, data, exec) = (w.raw(&i.o[1], 0), w.raw(&i.o[2], 0), w.exec());
            let mut out = [0; 32];
            for l in 0..32 {
                let from = (at[l].wrapping_add(i.imm as u32) >> 2 & 31) as usize;
                out[l] = if exec >> from & 1 != 0 { data[from] } else { 0 };
            }
            w.put(usize::from(i.o[0].reg), &out);
            in_flight(w, c, i.o[0].reg, 1, false);
            Step::Next
        }),
        // Pushes; of several lanes that push to one, the last wins.
        "ds_permute_b32" => exec!(|w, i, c| {
            let (at, data, exec) = (w.raw(&i.o[1], 0), w.raw(&i.o[2], 0), w.exec());
            let mut out = [0; 32];
            for l in 0..32 {
                if exec >> l & 1 != 0 {
                    out[(at[l].wrapping_add(i.imm as u32) >> 2 & 31) as usize] = data[l];
                }
            }
            w.put(usize::from(i.o[0].reg), &out);
            in_flight(w, c, i.o[0].reg, 1, false);
            Step::Next
        }),
        "ds_swizzle_b32" => exec!(|w, i, c| {
            let (data, exec) = (w.raw(&i.o[1], 0), w.exec());
            let out = std::array::from_fn(|l| {
                let from = swizzled(l, i.imm as u32 & 0xffff);
                if exec >> from & 1 != 0 { data[from] } else { 0 }
            });
            w.put(usize::from(i.o[0].reg), &out);
            in_flight(w, c, i.o[0].reg, 1, false);
            Step::Next
        }),
        _ => return None,
    })
}
