//! The activations of a plan: one piece of memory for each slot of its layout.

use std::mem;

use crate::plan::Plan;
use crate::plan::memory::Layout;
use crate::plan::op::{BufId, Rows};

/// All activations, made at load for the largest step.
pub struct Buffers {
    slots: Vec<Vec<f32>>,
    /// Slot, width and kind of rows of each buffer.
    places: Vec<(usize, usize, Rows)>,
    n_tokens: usize,
    n_outputs: usize,
}

/// A buffer that an op writes: taken out while it is written, so that others can be read.
pub struct Lent {
    data: Vec<f32>,
    slot: usize,
    len: usize,
    width: usize,
}

impl Buffers {
    /// Memory for steps of `plan` of up to `max_tokens` tokens and `max_outputs` outputs.
    pub fn new(plan: &Plan, max_tokens: usize, max_outputs: usize) -> Self {
        let layout = Layout::new(plan);
        let rows = |rows| if rows == Rows::Tokens { max_tokens } else { max_outputs };
        Self {
            slots: layout.slots.iter().map(|s| vec![0.0; s.width * rows(s.rows)]).collect(),
            places: (0..plan.buffers.len())
                .map(|i| (layout.slot(BufId(i as u32)), plan.buffers[i].width, plan.buffers[i].rows))
                .collect(),
            n_tokens: 0,
            n_outputs: 0,
        }
    }

    /// Says how many rows the next step has.
    pub fn start(&mut self, n_tokens: usize, n_outputs: usize) {
        (self.n_tokens, self.n_outputs) = (n_tokens, n_outputs);
    }

    /// Elements of a row of `id`.
    pub fn width(&self, id: BufId) -> usize {
        self.places[id.0 as usize].1
    }

    /// Rows of `id` in this step.
    pub fn rows(&self, id: BufId) -> usize {
        match self.places[id.0 as usize].2 {
            Rows::Tokens => self.n_tokens,
            Rows::Outputs => self.n_outputs,
        }
    }

    /// The rows of `id`.
    ///
    /// # Panics
    /// If it is lent.
    pub fn get(&self, id: BufId) -> &[f32] {
        &self.slots[self.places[id.0 as usize].0][..self.rows(id) * self.width(id)]
    }

    /// Takes `id` out for writing, until [`Buffers::put`]. Buffers of one op have slots of their
    /// own.
    pub fn lend(&mut self, id: BufId) -> Lent {
        let (slot, width, _) = self.places[id.0 as usize];
        Lent { len: self.rows(id) * width, data: mem::take(&mut self.slots[slot]), slot, width }
    }

    /// Puts a buffer back.
    pub fn put(&mut self, lent: Lent) {
        self.slots[lent.slot] = lent.data;
    }
}

impl Lent {
    /// Its rows.
    pub fn rows(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }
}
