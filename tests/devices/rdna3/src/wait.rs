//! Loads in flight: which registers may still be overwritten, and what an `s_waitcnt` proves.
//!
//! The values are there at once; what is tracked is the right to use them. Vector memory loads return in order, LDS
//! operations too, scalar loads in any order; stores to global memory have a counter of their own (`vscnt`) that
//! guards no register.

/// An operation in flight.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Vector registers it will write.
    pub v: [u64; 4],
    /// Scalar registers it will write.
    pub s: u128,
    /// Index of the instruction.
    pub at: u32,
    /// It writes LDS.
    pub store: bool,
}

/// A wave's operations in flight.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    vm: Vec<Flight>,
    lds: Vec<Flight>,
    scalar: Vec<Flight>,
    /// Union over all in flight.
    v: [u64; 4],
    s: u128,
    any: bool,
}

/// Adds `n` registers from `first` to a mask of vector registers.
pub fn mark_v(mask: &mut [u64; 4], first: u16, n: u16) {
    for r in first..(first + n).min(256) {
        mask[usize::from(r / 64)] |= 1 << (r % 64);
    }
}

impl Waits {
    /// Nothing in flight.
    pub fn clear(&mut self) {
        self.vm.clear();
        self.lds.clear();
        self.scalar.clear();
        self.rebuild();
    }

    fn rebuild(&mut self) {
        (self.v, self.s) = ([0; 4], 0);
        for f in self.vm.iter().chain(&self.lds).chain(&self.scalar) {
            for k in 0..4 {
                self.v[k] |= f.v[k];
            }
            self.s |= f.s;
        }
        self.any = self.v != [0; 4] || self.s != 0;
    }

    fn note(&mut self, f: &Flight) {
        for k in 0..4 {
            self.v[k] |= f.v[k];
        }
        self.s |= f.s;
        self.any |= f.v != [0; 4] || f.s != 0;
    }

    /// A load counted by `vmcnt`.
    pub fn vector(&mut self, f: Flight) {
        self.note(&f);
        self.vm.push(f);
    }

    /// An LDS operation, counted by `lgkmcnt`.
    pub fn lds(&mut self, f: Flight) {
        self.note(&f);
        self.lds.push(f);
    }

    /// A scalar load, counted by `lgkmcnt`.
    pub fn scalar(&mut self, f: Flight) {
        self.note(&f);
        self.scalar.push(f);
    }

    /// At most these many may still be in flight.
    pub fn wait(&mut self, vm: usize, lgkm: usize) {
        let before = self.vm.len() + self.lds.len() + self.scalar.len();
        let drop = self.vm.len().saturating_sub(vm);
        self.vm.drain(..drop);
        // Those left may be any scalar loads, but only the last LDS operations.
        let drop = self.lds.len().saturating_sub(lgkm);
        self.lds.drain(..drop);
        if lgkm == 0 {
            self.scalar.clear();
        }
        if before != self.vm.len() + self.lds.len() + self.scalar.len() {
            self.rebuild();
        }
    }

    /// Whether these registers overlap the target of something in flight.
    #[inline(always)]
    pub fn blocks(&self, v: &[u64; 4], s: u128) -> bool {
        self.any && (self.v[0] & v[0] | self.v[1] & v[1] | self.v[2] & v[2] | self.v[3] & v[3] != 0 || self.s & s != 0)
    }

    /// The oldest operation in flight that writes one of these registers.
    pub fn culprit(&self, v: &[u64; 4], s: u128) -> Option<Flight> {
        let hits = |f: &&Flight| (0..4).any(|k| f.v[k] & v[k] != 0) || f.s & s != 0;
        self.vm.iter().chain(&self.lds).chain(&self.scalar).find(hits).copied()
    }

    /// An LDS write in flight.
    pub fn lds_store(&self) -> Option<Flight> {
        self.lds.iter().find(|f| f.store).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(first: u16) -> Flight {
        let mut mask = [0; 4];
        mark_v(&mut mask, first, 1);
        Flight { v: mask, s: 0, at: 0, store: false }
    }

    #[test]
    fn vector_loads_return_in_order_and_scalar_loads_do_not() {
        let mut w = Waits::default();
        w.vector(v(1));
        w.vector(v(70));
        w.wait(1, 63);
        assert!(!w.blocks(&v(1).v, 0) && w.blocks(&v(70).v, 0));
        w.wait(0, 63);
        assert!(!w.blocks(&v(70).v, 0));
        w.scalar(Flight { s: 1 << 4, ..v(300) });
        w.lds(v(2));
        w.wait(0, 1);
        assert!(w.blocks(&[0; 4], 1 << 4), "one may be left, and it may be the scalar load");
        assert!(w.blocks(&v(2).v, 0));
        w.wait(63, 0);
        assert!(!w.blocks(&v(2).v, 1 << 4));
    }
}
