//! Memory of a plan's buffers: those that are never alive at the same time share a slot.
//!
//! A buffer is alive from an op that writes it to the last op that reads what was written. A
//! plan is a straight line, so that one walk from its end finds which buffers meet; widest
//! first, each then takes the first slot in which it meets nobody.

use super::Plan;
use super::op::{BufId, Rows};

/// Memory that several buffers use in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Elements (f32) of a row: those of the widest buffer in it.
    pub width: usize,
    /// What a row belongs to; buffers of both kinds do not share.
    pub rows: Rows,
}

/// Where each buffer of a plan lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// All slots.
    pub slots: Vec<Slot>,
    slot_of: Vec<usize>,
}

impl Layout {
    /// Assigns a slot to each buffer of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let n = plan.buffers.len();
        let meets = meetings(plan);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&b| std::cmp::Reverse(plan.buffers[b].width));
        let mut slots: Vec<Slot> = Vec::new();
        let mut tenants: Vec<Vec<usize>> = Vec::new();
        let mut slot_of = vec![0; n];
        for b in order {
            let buffer = &plan.buffers[b];
            let free = |s: &usize| slots[*s].rows == buffer.rows && tenants[*s].iter().all(|&t| !meets[b][t]);
            let slot = (0..slots.len()).find(free).unwrap_or_else(|| {
                slots.push(Slot { width: buffer.width, rows: buffer.rows });
                tenants.push(Vec::new());
                slots.len() - 1
            });
            tenants[slot].push(b);
            slot_of[b] = slot;
        }
        Self { slots, slot_of }
    }

    /// The slot (index into [`Layout::slots`]) of a buffer.
    pub fn slot(&self, buffer: BufId) -> usize {
        self.slot_of[buffer.0 as usize]
    }

    /// Bytes of all slots for steps of up to `tokens` tokens and `outputs` outputs.
    pub fn bytes(&self, tokens: usize, outputs: usize) -> u64 {
        let elements = |s: &Slot| match s.rows {
            Rows::Tokens => s.width as u64 * tokens as u64,
            Rows::Outputs => s.width as u64 * outputs as u64,
        };
        self.slots.iter().map(elements).sum::<u64>() * size_of::<f32>() as u64
    }
}

/// Which buffers are alive at the same time as which (`[a][b]`, symmetric).
fn meetings(plan: &Plan) -> Vec<Vec<bool>> {
    let n = plan.buffers.len();
    let mut meets = vec![vec![false; n]; n];
    let mut alive = vec![false; n];
    alive[plan.output.0 as usize] = true;
    for op in plan.ops.iter().rev() {
        let (reads, writes) = (op.reads(), op.writes());
        // Inputs and outputs of an op meet: it may write before it has read everything.
        let mut now = alive.clone();
        for b in reads.iter().chain(&writes) {
            now[b.0 as usize] = true;
        }
        for b in reads.iter().chain(&writes) {
            let b = b.0 as usize;
            for other in (0..n).filter(|&o| o != b && now[o]) {
                meets[b][other] = true;
                meets[other][b] = true;
            }
        }
        for b in &writes {
            alive[b.0 as usize] = false;
        }
        for b in &reads {
            alive[b.0 as usize] = true;
        }
    }
    meets
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::tiny_plan;
    use super::*;

    #[test]
    fn buffers_that_are_alive_together_have_their_own_slots() {
        let plan = tiny_plan();
        let layout = Layout::new(&plan);
        // Replay the plan: whoever writes a slot owns it; whoever reads must still own it.
        let mut owner = vec![None; layout.slots.len()];
        for op in &plan.ops {
            let operands: Vec<BufId> = op.reads().into_iter().chain(op.writes()).collect();
            for (i, a) in operands.iter().enumerate() {
                let apart = |b: &BufId| a == b || layout.slot(*a) != layout.slot(*b);
                assert!(operands[..i].iter().all(apart), "{} writes over its input", op.name());
            }
            for b in op.reads() {
                assert_eq!(owner[layout.slot(b)], Some(b), "{} reads a buffer that was overwritten", op.name());
            }
            for b in op.writes() {
                owner[layout.slot(b)] = Some(b);
            }
        }
        assert_eq!(owner[layout.slot(plan.output)], Some(plan.output));
        for (i, buffer) in plan.buffers.iter().enumerate() {
            let slot = layout.slots[layout.slot(BufId(i as u32))];
            assert!(slot.width >= buffer.width);
            assert_eq!(slot.rows, buffer.rows);
        }
    }

    #[test]
    fn a_buffer_out_of_use_gives_its_place_away() {
        let plan = tiny_plan();
        let layout = Layout::new(&plan);
        assert!(layout.slots.len() < plan.buffers.len());
        let all: usize = plan.buffers.iter().map(|b| b.width).sum();
        assert!(layout.bytes(1, 1) < 4 * all as u64);
        assert_eq!(layout.bytes(3, 2) + layout.bytes(1, 1), layout.bytes(2, 1) + layout.bytes(2, 2));
    }
}
