//! State of one wave, and how operands are read and results written.

use crate::inst::{ABS, EXEC, HIGH, Kind, Lanes, NEG, NULL, Opd, ROWS};
use crate::wait::Waits;
use std::mem::MaybeUninit;

/// What registers hold before the kernel writes them: a NaN in every format.
pub const POISON: u32 = 0xffff_ffff;

/// A wave of 32 lanes.
pub struct Wave {
    /// Vector registers, then the interpreter's own rows.
    pub v: Box<[Lanes; ROWS]>,
    /// Scalar registers by their encoding: VCC at 106, M0 at 125, EXEC at 126.
    pub s: [u32; 128],
    /// Scalar condition bit.
    pub scc: bool,
    /// Index of the next instruction.
    pub pc: u32,
    /// Instructions executed.
    pub count: u64,
    /// Instructions it may execute before the scheduler takes over.
    pub until: u64,
    /// Number within its block.
    pub id: u32,
    /// Lanes that exist: EXEC at the start.
    pub full: u32,
    /// Loads in flight.
    pub waits: Waits,
    /// Private memory, a run of `private` bytes per lane.
    pub scratch: Vec<u8>,
    /// Bytes of private memory a lane has.
    pub private: usize,
}

impl Default for Wave {
    fn default() -> Wave {
        Wave {
            v: Box::new([[POISON; 32]; ROWS]),
            s: [POISON; 128],
            scc: false,
            pc: 0,
            count: 0,
            until: 0,
            id: 0,
            full: 0,
            waits: Waits::default(),
            scratch: Vec::new(),
            private: 0,
        }
    }
}

/// Room for an operand that is no plain vector register.
pub type Room = MaybeUninit<Lanes>;

/// See [`Room`].
#[inline(always)]
pub fn room() -> Room {
    MaybeUninit::uninit()
}

impl Wave {
    /// Fresh state for a wave of `lanes` lanes that starts at `pc`; `rows` vector registers are poisoned.
    pub fn reset(&mut self, id: u32, pc: u32, lanes: u32, rows: usize, private: usize) {
        for row in self.v[..rows.min(ROWS)].iter_mut() {
            *row = [POISON; 32];
        }
        self.s = [POISON; 128];
        self.full = if lanes >= 32 { !0 } else { (1 << lanes) - 1 };
        self.s[EXEC as usize] = self.full;
        self.s[EXEC as usize + 1] = 0;
        self.s[NULL as usize] = 0;
        (self.id, self.pc, self.scc, self.count) = (id, pc, false, 0);
        self.waits.clear();
        self.private = private;
        self.scratch.clear();
        self.scratch.resize(private * 32, 0xff);
    }

    /// Active lanes.
    #[inline(always)]
    pub fn exec(&self) -> u32 {
        self.s[EXEC as usize]
    }

    /// Scalar value of an operand; of a vector register, its first active lane (what `v_readfirstlane` reads).
    #[inline(always)]
    pub fn s32(&self, o: &Opd) -> u32 {
        match o.kind {
            Kind::S => self.s[usize::from(o.reg) & 127],
            Kind::Lit => o.lit as u32,
            Kind::Scc => u32::from(self.scc),
            Kind::V => {
                let lane = self.exec().trailing_zeros() & 31;
                self.v[usize::from(o.reg)][lane as usize]
            }
            Kind::None => 0,
        }
    }

    /// 64-bit scalar value.
    #[inline(always)]
    pub fn s64(&self, o: &Opd) -> u64 {
        match o.kind {
            // One register where two are asked for: `null`, which is zero throughout.
            Kind::S if o.reg == NULL => 0,
            Kind::S => {
                let r = usize::from(o.reg);
                u64::from(self.s[r & 127]) | u64::from(self.s[(r + 1) & 127]) << 32
            }
            Kind::Lit => o.lit,
            _ => u64::from(self.s32(o)),
        }
    }

    /// Writes a scalar register.
    #[inline(always)]
    pub fn set_s(&mut self, o: &Opd, value: u32) {
        if o.kind == Kind::S && o.reg != NULL {
            self.s[usize::from(o.reg) & 127] = value;
        }
    }

    /// Writes a pair of scalar registers.
    #[inline(always)]
    pub fn set_s64(&mut self, o: &Opd, value: u64) {
        if o.kind == Kind::S && o.reg != NULL {
            self.s[usize::from(o.reg) & 127] = value as u32;
            self.s[(usize::from(o.reg) + 1) & 127] = (value >> 32) as u32;
        }
    }

    /// Lanes of a 32-bit source, `k` registers after its first.
    #[inline(always)]
    pub fn src<'a>(&'a self, o: &Opd, k: usize, room: &'a mut Room) -> &'a Lanes {
        if o.kind == Kind::V && o.mods == 0 {
            // SAFETY: the decoder rejects registers beyond the file.
            return unsafe { self.v.get_unchecked(usize::from(o.reg) + k) };
        }
        self.fill(o, k, room)
    }

    #[inline(never)]
    fn fill<'a>(&self, o: &Opd, k: usize, room: &'a mut Room) -> &'a Lanes {
        let mut row = self.raw(o, k);
        if o.mods & ABS != 0 {
            for x in &mut row {
                *x &= 0x7fff_ffff;
            }
        }
        if o.mods & NEG != 0 {
            for x in &mut row {
                *x ^= 0x8000_0000;
            }
        }
        room.write(row)
    }

    /// Lanes of a source without its modifiers.
    #[inline(always)]
    pub fn raw(&self, o: &Opd, k: usize) -> Lanes {
        match o.kind {
            Kind::V => self.v[usize::from(o.reg) + k],
            Kind::S if o.reg != NULL && o.n > 1 => [self.s[(usize::from(o.reg) + k) & 127]; 32],
            Kind::Lit => [(o.lit >> (32 * k)) as u32; 32],
            _ if k > 0 => [0; 32],
            _ => [self.s32(o); 32],
        }
    }

    /// Lanes of an f32 source.
    #[inline(always)]
    pub fn floats(&self, o: &Opd) -> [f32; 32] {
        let mut room = room();
        self.src(o, 0, &mut room).map(f32::from_bits)
    }

    /// Lanes of a 16-bit source, in the low halves; modifiers act on bit 15.
    #[inline(always)]
    pub fn src16(&self, o: &Opd) -> Lanes {
        let mut row = self.raw(o, 0);
        let shift = if o.mods & HIGH != 0 { 16 } else { 0 };
        let and = if o.mods & ABS != 0 { 0x7fff } else { 0xffff };
        let xor = if o.mods & NEG != 0 { 0x8000 } else { 0 };
        for x in &mut row {
            *x = (*x >> shift & and) ^ xor;
        }
        row
    }

    /// Lanes of a 64-bit source; modifiers act on the sign of a double.
    #[inline(always)]
    pub fn src64(&self, o: &Opd) -> [u64; 32] {
        let (lo, hi) = (self.raw(o, 0), self.raw(o, 1));
        let and = if o.mods & ABS != 0 { !(1 << 63) } else { !0 };
        let xor = if o.mods & NEG != 0 { 1 << 63 } else { 0 };
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = ((u64::from(lo[l]) | u64::from(hi[l]) << 32) & and) ^ xor;
        }
        out
    }

    /// Writes the active lanes of a vector register.
    #[inline(always)]
    pub fn put(&mut self, reg: usize, row: &Lanes) {
        let exec = self.exec();
        // SAFETY: the decoder rejects registers beyond the file.
        let to = unsafe { self.v.get_unchecked_mut(reg) };
        if exec == !0 {
            *to = *row;
        } else {
            for l in 0..32 {
                to[l] = if exec >> l & 1 != 0 { row[l] } else { to[l] };
            }
        }
    }

    /// Writes one half of the active lanes of a vector register; the other half stays.
    #[inline(always)]
    pub fn put16(&mut self, reg: usize, row: &Lanes, high: bool) {
        let mut new = self.v[reg];
        let (keep, shift) = if high { (0xffff, 16) } else { (0xffff_0000, 0) };
        for l in 0..32 {
            new[l] = new[l] & keep | (row[l] & 0xffff) << shift;
        }
        self.put(reg, &new);
    }

    /// Writes the active lanes of a pair of vector registers.
    #[inline(always)]
    pub fn put64(&mut self, reg: usize, row: &[u64; 32]) {
        let (mut low, mut high) = ([0; 32], [0; 32]);
        for l in 0..32 {
            low[l] = row[l] as u32;
            high[l] = (row[l] >> 32) as u32;
        }
        self.put(reg, &low);
        self.put(reg + 1, &high);
    }
}
