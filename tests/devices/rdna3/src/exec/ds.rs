//! Local memory: loads and stores.

use super::{Cx, exec};
use crate::fault::Cause;
use crate::inst::{Exec, Inst, Lanes, Opd, Step};
use crate::lds::conflicts;
use crate::wait::{Flight, mark_v};
use crate::wave::Wave;

/// Byte addresses of all lanes.
#[inline(always)]
pub fn addresses(w: &Wave, o: &Opd, offset: i32) -> Lanes {
    let mut at = w.raw(o, 0);
    for a in &mut at {
        *a = a.wrapping_add(offset as u32);
    }
    at
}

/// Checks an access of `n` bytes and counts it.
#[inline(always)]
pub fn check(w: &Wave, i: &Inst, c: &mut Cx, at: &Lanes, n: u32, verb: &str) -> Option<Step> {
    let exec = w.exec();
    let size = c.lds.size() as u64;
    let mut bad = 0u32;
    for l in 0..32 {
        bad |= u32::from(u64::from(at[l]) + u64::from(n) > size) << l;
    }
    if bad & exec != 0 {
        let lane = (bad & exec).trailing_zeros();
        let a = at[lane as usize];
        let what = format!("{verb} {n} bytes at LDS byte {a}, outside of the group's {size} bytes");
        return Some(c.fail(w, i, Cause::LdsBounds, Some(lane), what));
    }
    if c.detailed {
        c.stats.conflicts += u64::from(conflicts(at, exec, n));
        c.stats.lds += u64::from(exec.count_ones() * n);
    }
    None
}

/// Notes an operation in flight that writes `n` vector registers from `reg`.
#[inline(always)]
pub fn in_flight(w: &mut Wave, c: &Cx, reg: u16, n: u16, store: bool) {
    if c.waits {
        let mut v = [0; 4];
        mark_v(&mut v, reg, n);
        w.waits.lds(Flight { v, s: 0, at: w.pc - 1, store });
    }
}

/// Reads `N` bytes into each active lane's bytes.
#[inline(always)]
pub fn read<const N: usize>(w: &Wave, i: &Inst, c: &mut Cx, at: &Lanes) -> Result<[[u8; N]; 32], Step> {
    if let Some(step) = check(w, i, c, at, N as u32, "reads") {
        return Err(step);
    }
    let (exec, mut out) = (w.exec(), [[0u8; N]; 32]);
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            match c.lds.load::<N>(at[l], w.id) {
                Ok(b) => out[l] = b,
                Err(race) => return Err(c.race(w, i, l as u32, at[l], race, false)),
            }
        }
    }
    Ok(out)
}

/// Writes each active lane's `N` bytes.
#[inline(always)]
pub fn write<const N: usize>(
    w: &Wave,
    i: &Inst,
    c: &mut Cx,
    at: &Lanes,
    data: impl Fn(usize) -> [u8; N],
) -> Option<Step> {
    if let Some(step) = check(w, i, c, at, N as u32, "writes") {
        return Some(step);
    }
    let exec = w.exec();
    for l in 0..32 {
        if exec >> l & 1 != 0
            && let Err(race) = c.lds.store::<N>(at[l], w.id, data(l))
        {
            return Some(c.race(w, i, l as u32, at[l], race, true));
        }
    }
    None
}

/// Word `k` of `N` bytes.
#[inline(always)]
pub fn word<const N: usize>(b: &[u8; N], k: usize) -> u32 {
    u32::from_le_bytes([b[4 * k], b[4 * k + 1], b[4 * k + 2], b[4 * k + 3]])
}

#[inline(always)]
fn put_words<const N: usize>(w: &mut Wave, reg: u16, data: &[[u8; N]; 32]) {
    for k in 0..N / 4 {
        let row = std::array::from_fn(|l| word(&data[l], k));
        w.put(usize::from(reg) + k, &row);
    }
}

/// The bytes of `N / 4` registers from an operand.
#[inline(always)]
pub fn bytes_of<const N: usize>(w: &Wave, o: &Opd, l: usize) -> [u8; N] {
    let mut b = [0; N];
    for k in 0..N / 4 {
        b[4 * k..4 * k + 4].copy_from_slice(&w.v[usize::from(o.reg) + k][l].to_le_bytes());
    }
    b
}

macro_rules! load {
    ($n:literal) => {
        exec!(|w, i, c| {
            let at = addresses(w, &i.o[1], i.imm);
            match read::<$n>(w, i, c, &at) {
                Err(step) => step,
                Ok(data) => {
                    put_words(w, i.o[0].reg, &data);
                    in_flight(w, c, i.o[0].reg, $n / 4, false);
                    Step::Next
                }
            }
        })
    };
}
/// Narrow loads: `$f` extends, `$half` says which half is written, if not all.
macro_rules! narrow {
    ($n:literal, $f:expr, $half:expr) => {
        exec!(|w, i, c| {
            let (at, f, half) = (addresses(w, &i.o[1], i.imm), $f, $half);
            match read::<$n>(w, i, c, &at) {
                Err(step) => step,
                Ok(data) => {
                    let row: Lanes = data.map(f);
                    let half: Option<bool> = half;
                    match half {
                        None => w.put(usize::from(i.o[0].reg), &row),
                        Some(high) => w.put16(usize::from(i.o[0].reg), &row, high),
                    }
                    in_flight(w, c, i.o[0].reg, 1, false);
                    Step::Next
                }
            }
        })
    };
}
macro_rules! store {
    ($n:literal) => {
        exec!(|w, i, c| {
            let at = addresses(w, &i.o[0], i.imm);
            if let Some(step) = write::<$n>(w, i, c, &at, |l| bytes_of::<$n>(w, &i.o[1], l)) {
                return step;
            }
            in_flight(w, c, 0, 0, true);
            Step::Next
        })
    };
}
macro_rules! store_narrow {
    ($n:literal, $shift:literal) => {
        exec!(|w, i, c| {
            let at = addresses(w, &i.o[0], i.imm);
            let from = &w.v[usize::from(i.o[1].reg)];
            let data = |l: usize| {
                let mut b = [0; $n];
                b.copy_from_slice(&(from[l] >> $shift).to_le_bytes()[..$n]);
                b
            };
            if let Some(step) = write::<$n>(w, i, c, &at, data) {
                return step;
            }
            in_flight(w, c, 0, 0, true);
            Step::Next
        })
    };
}
/// Two elements of `$n` bytes; offsets count in `$unit` bytes.
macro_rules! load2 {
    ($n:literal, $unit:literal) => {
        exec!(|w, i, c| {
            let first = addresses(w, &i.o[1], i.imm * $unit);
            let second = addresses(w, &i.o[1], i.imm1 * $unit);
            let a = match read::<$n>(w, i, c, &first) {
                Ok(a) => a,
                Err(step) => return step,
            };
            let b = match read::<$n>(w, i, c, &second) {
                Ok(b) => b,
                Err(step) => return step,
            };
            put_words(w, i.o[0].reg, &a);
            put_words(w, i.o[0].reg + $n / 4, &b);
            in_flight(w, c, i.o[0].reg, $n / 2, false);
            Step::Next
        })
    };
}
macro_rules! store2 {
    ($n:literal, $unit:literal) => {
        exec!(|w, i, c| {
            for (o, offset) in [(&i.o[1], i.imm), (&i.o[2], i.imm1)] {
                let at = addresses(w, &i.o[0], offset * $unit);
                if let Some(step) = write::<$n>(w, i, c, &at, |l| bytes_of::<$n>(w, o, l)) {
                    return step;
                }
            }
            in_flight(w, c, 0, 0, true);
            Step::Next
        })
    };
}

fn u8_of(b: [u8; 1]) -> u32 {
    u32::from(b[0])
}

fn i8_of(b: [u8; 1]) -> u32 {
    b[0] as i8 as i32 as u32
}

fn u16_of(b: [u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(b))
}

fn i16_of(b: [u8; 2]) -> u32 {
    i16::from_le_bytes(b) as i32 as u32
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "ds_load_b32" => load!(4),
        "ds_load_b64" => load!(8),
        "ds_load_b96" => load!(12),
        "ds_load_b128" => load!(16),
        "ds_load_u8" => narrow!(1, u8_of, None),
        "ds_load_i8" => narrow!(1, i8_of, None),
        "ds_load_u16" => narrow!(2, u16_of, None),
        "ds_load_i16" => narrow!(2, i16_of, None),
        "ds_load_u8_d16" => narrow!(1, u8_of, Some(false)),
        "ds_load_u8_d16_hi" => narrow!(1, u8_of, Some(true)),
        "ds_load_i8_d16" => narrow!(1, i8_of, Some(false)),
        "ds_load_i8_d16_hi" => narrow!(1, i8_of, Some(true)),
        "ds_load_u16_d16" => narrow!(2, u16_of, Some(false)),
        "ds_load_u16_d16_hi" => narrow!(2, u16_of, Some(true)),
        "ds_load_2addr_b32" => load2!(4, 4),
        "ds_load_2addr_b64" => load2!(8, 8),
        "ds_load_2addr_stride64_b32" => load2!(4, 256),
        "ds_load_2addr_stride64_b64" => load2!(8, 512),
        "ds_store_b32" => store!(4),
        "ds_store_b64" => store!(8),
        "ds_store_b96" => store!(12),
        "ds_store_b128" => store!(16),
        "ds_store_b8" => store_narrow!(1, 0),
        "ds_store_b16" => store_narrow!(2, 0),
        "ds_store_b8_d16_hi" => store_narrow!(1, 16),
        "ds_store_b16_d16_hi" => store_narrow!(2, 16),
        "ds_store_2addr_b32" => store2!(4, 4),
        "ds_store_2addr_b64" => store2!(8, 8),
        "ds_store_2addr_stride64_b32" => store2!(4, 256),
        "ds_store_2addr_stride64_b64" => store2!(8, 512),
        _ => return None,
    })
}
