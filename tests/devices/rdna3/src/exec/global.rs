//! Device memory: global and flat loads and stores.

use super::{Cx, exec};
use crate::inst::{Exec, Inst, Kind, Lanes, Opd, Step};
use crate::wait::{Flight, mark_v};
use crate::wave::Wave;

/// Addresses of all lanes: a pair of vector registers, or an offset register on a scalar base.
#[inline(always)]
pub fn addresses(w: &Wave, i: &Inst, address: &Opd, base: &Opd) -> [u64; 32] {
    let (mut at, imm) = ([0u64; 32], i.imm as i64 as u64);
    if base.kind == Kind::S {
        let (from, low) = (w.s64(base).wrapping_add(imm), w.raw(address, 0));
        for l in 0..32 {
            at[l] = from.wrapping_add(u64::from(low[l]));
        }
    } else {
        let reg = usize::from(address.reg);
        let (low, high) = (&w.v[reg], &w.v[reg + 1]);
        for l in 0..32 {
            at[l] = (u64::from(low[l]) | u64::from(high[l]) << 32).wrapping_add(imm);
        }
    }
    at
}

/// Notes a load in flight.
#[inline(always)]
pub fn in_flight(w: &mut Wave, c: &Cx, reg: u16, n: u16, flat: bool) {
    if c.waits {
        let mut v = [0; 4];
        mark_v(&mut v, reg, n);
        let f = Flight { v, s: 0, at: w.pc - 1, store: false };
        w.waits.vector(f);
        if flat {
            w.waits.lds(f);
        }
    }
}

/// Counts an access.
#[inline(always)]
pub fn count(w: &Wave, c: &mut Cx, at: &[u64; 32], n: u64, write: bool) {
    let bytes = u64::from(w.exec().count_ones()) * n;
    if write {
        c.stats.stored += bytes;
    } else {
        c.stats.loaded += bytes;
    }
    if c.detailed {
        for l in (0..32).filter(|l| w.exec() >> l & 1 != 0) {
            c.stats.touch(at[l], n);
        }
    }
}

/// Loads `W` words a lane.
#[inline(always)]
fn load<const W: usize>(w: &mut Wave, i: &Inst, c: &mut Cx, flat: bool) -> Step {
    let at = addresses(w, i, &i.o[1], &i.o[2]);
    let exec = w.exec();
    if !c.check(w, i, &at, exec, 4 * W as u64, false) {
        return Step::Fault;
    }
    count(w, c, &at, 4 * W as u64, false);
    let mut rows = [[0u32; 32]; W];
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            // SAFETY: the range was checked above.
            let words = unsafe { (at[l] as *const [u32; W]).read_unaligned() };
            for k in 0..W {
                rows[k][l] = words[k];
            }
        }
    }
    for (k, row) in rows.iter().enumerate() {
        w.put(usize::from(i.o[0].reg) + k, row);
    }
    in_flight(w, c, i.o[0].reg, W as u16, flat);
    Step::Next
}

/// Loads one or two bytes a lane; `half` says which half of the register is written, if not all of it.
#[inline(always)]
fn narrow<T: Copy>(
    w: &mut Wave,
    i: &Inst,
    c: &mut Cx,
    flat: bool,
    half: Option<bool>,
    extend: impl Fn(T) -> u32,
) -> Step {
    let at = addresses(w, i, &i.o[1], &i.o[2]);
    let (exec, n) = (w.exec(), size_of::<T>() as u64);
    if !c.check(w, i, &at, exec, n, false) {
        return Step::Fault;
    }
    count(w, c, &at, n, false);
    let mut row: Lanes = [0; 32];
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            // SAFETY: the range was checked above.
            row[l] = extend(unsafe { (at[l] as *const T).read_unaligned() });
        }
    }
    match half {
        None => w.put(usize::from(i.o[0].reg), &row),
        Some(high) => w.put16(usize::from(i.o[0].reg), &row, high),
    }
    in_flight(w, c, i.o[0].reg, 1, flat);
    Step::Next
}

/// Stores what `data` gives for each active lane.
#[inline(always)]
fn store<T: Copy>(w: &mut Wave, i: &Inst, c: &mut Cx, data: impl Fn(&Wave, usize) -> T) -> Step {
    let at = addresses(w, i, &i.o[0], &i.o[2]);
    let (exec, n) = (w.exec(), size_of::<T>() as u64);
    if !c.check(w, i, &at, exec, n, true) {
        return Step::Fault;
    }
    count(w, c, &at, n, true);
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            // SAFETY: the range was checked above.
            unsafe { (at[l] as *mut T).write_unaligned(data(w, l)) };
        }
    }
    Step::Next
}

#[inline(always)]
fn words<const W: usize>(w: &mut Wave, i: &Inst, c: &mut Cx) -> Step {
    let reg = usize::from(i.o[1].reg);
    store::<[u32; W]>(w, i, c, |w, l| std::array::from_fn(|k| w.v[reg + k][l]))
}

macro_rules! spaces {
    ($flat:expr, |$w:ident, $i:ident, $c:ident, $f:ident| $e:expr) => {
        match $flat {
            false => exec!(|$w, $i, $c| {
                let $f = false;
                $e
            }),
            true => exec!(|$w, $i, $c| {
                let $f = true;
                $e
            }),
        }
    };
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    let (flat, op) = match name.strip_prefix("global_") {
        Some(op) => (false, op),
        None => (true, name.strip_prefix("flat_")?),
    };
    Some(match op {
        "load_b32" => spaces!(flat, |w, i, c, f| load::<1>(w, i, c, f)),
        "load_b64" => spaces!(flat, |w, i, c, f| load::<2>(w, i, c, f)),
        "load_b96" => spaces!(flat, |w, i, c, f| load::<3>(w, i, c, f)),
        "load_b128" => spaces!(flat, |w, i, c, f| load::<4>(w, i, c, f)),
        "load_u8" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, None, |x: u8| x.into())),
        "load_i8" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, None, |x: i8| x as i32 as u32)),
        "load_u16" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, None, |x: u16| x.into())),
        "load_i16" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, None, |x: i16| x as i32 as u32)),
        "load_d16_u8" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, Some(false), |x: u8| x.into())),
        "load_d16_i8" => {
            spaces!(flat, |w, i, c, f| narrow(w, i, c, f, Some(false), |x: i8| x as i16 as u16 as u32))
        }
        "load_d16_b16" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, Some(false), |x: u16| x.into())),
        "load_d16_hi_u8" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, Some(true), |x: u8| x.into())),
        "load_d16_hi_i8" => {
            spaces!(flat, |w, i, c, f| narrow(w, i, c, f, Some(true), |x: i8| x as i16 as u16 as u32))
        }
        "load_d16_hi_b16" => spaces!(flat, |w, i, c, f| narrow(w, i, c, f, Some(true), |x: u16| x.into())),
        "store_b32" => exec!(|w, i, c| words::<1>(w, i, c)),
        "store_b64" => exec!(|w, i, c| words::<2>(w, i, c)),
        "store_b96" => exec!(|w, i, c| words::<3>(w, i, c)),
        "store_b128" => exec!(|w, i, c| words::<4>(w, i, c)),
        "store_b8" => exec!(|w, i, c| store(w, i, c, |w, l| w.v[usize::from(i.o[1].reg)][l] as u8)),
        "store_b16" => exec!(|w, i, c| store(w, i, c, |w, l| w.v[usize::from(i.o[1].reg)][l] as u16)),
        "store_d16_hi_b8" => {
            exec!(|w, i, c| store(w, i, c, |w, l| (w.v[usize::from(i.o[1].reg)][l] >> 16) as u8))
        }
        "store_d16_hi_b16" => {
            exec!(|w, i, c| store(w, i, c, |w, l| (w.v[usize::from(i.o[1].reg)][l] >> 16) as u16))
        }
        _ => return None,
    })
}
