//! Who reads what an op wrote, and which buffers share memory.

use crate::plan::Plan;
use crate::plan::memory::Layout;
use crate::plan::op::BufId;

/// Reads and writes of a plan's ops.
pub struct Uses {
    /// (op, buffer): ops that read, in order.
    reads: Vec<Vec<BufId>>,
    writes: Vec<Vec<BufId>>,
    output: BufId,
    layout: Layout,
}

impl Uses {
    /// Those of `plan`.
    pub fn new(plan: &Plan) -> Self {
        Self {
            reads: plan.ops.iter().map(|op| op.reads().to_vec()).collect(),
            writes: plan.ops.iter().map(|op| op.writes().to_vec()).collect(),
            output: plan.output,
            layout: Layout::new(plan),
        }
    }

    /// Ops after `op` that read what is in `buffer` after it; the end of the plan counts as one
    /// for its output.
    pub fn readers(&self, op: usize, buffer: BufId) -> Vec<usize> {
        let mut readers = Vec::new();
        for i in op + 1..self.reads.len() {
            if self.reads[i].contains(&buffer) {
                readers.push(i);
            }
            if self.writes[i].contains(&buffer) {
                return readers;
            }
        }
        if buffer == self.output {
            readers.push(self.reads.len());
        }
        readers
    }

    /// Whether two buffers are the same memory.
    pub fn share(&self, a: BufId, b: BufId) -> bool {
        self.layout.slot(a) == self.layout.slot(b)
    }
}
